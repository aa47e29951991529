"""Runs Autobahn's fuzzer against real peers, directly and with wsluice between, and compares the verdicts case by case.

    python3 compare.py BINARY SCRATCH    with AUTOBAHN_PYTHON and AUTOBAHN_SITE (see run.sh), and a key pair for localhost in SCRATCH

Two sides are looked at:
* `server`: the fuzzer is the client, npm's ws the server; through wsluice over ws and over wss.
* `client`: the fuzzer is the server, npm's ws the client; what the client does about broken servers, through wsluice over ws.

A verdict through wsluice may be better than the direct one, never worse, but for what `differences.txt` allows with a reason. What is
worse once is asked again by itself, as some verdicts depend on who is first on a busy machine: only what is worse every time has failed.
The direct run must pass everything, or the rig itself is wrong.
"""

import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
BINARY, SCRATCH = sys.argv[1], Path(sys.argv[2])
READY_S = 30
RUN_S = 240  # for one run over all cases; far more than any takes
ATTEMPTS = 3
DOUBTFUL_MAX = 20  # more than a busy machine explains; they are not asked again
# Every category, but of compression, where one case sends 1000 messages, four sizes of each of the five ways to make frames and each of the seven
# parameter sets: small, one window, large, and large in fragments. The many others differ in nothing that a proxy sees.
FAST = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
LARGE = ["9.1.*", "9.2.*", "9.3.4", "9.4.4", "9.5.4", "9.6.4", "9.7.4", "9.8.4"]
COMPRESSED = ["12.1.1", "12.2.6", "12.3.10", "12.4.12", "12.5.8"] + ["13.%d.1" % n for n in range(1, 8)] + ["13.3.8", "13.7.12"]
# From best to worst.
RANKS = ["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "UNCLEAN", "WRONG CODE", "FAILED BY CLIENT", "FAILED"]

STARTED = time.monotonic()
processes = []


def spawn(*command, log, env=None):
    with open(SCRATCH / log, "ab") as output:
        child = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
    processes.append(child)
    return child


def stop(child):
    if child.poll() is None:
        child.kill()
    child.wait()
    processes.remove(child)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(what, holds, child, log):
    deadline = time.monotonic() + READY_S
    while not holds():
        if child.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{what} is not ready:\n{(SCRATCH / log).read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)


def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def wstest(mode, spec, name, *more):
    file = SCRATCH / f"{name}.json"
    file.write_text(json.dumps(spec))
    return spawn(
        os.environ["AUTOBAHN_PYTHON"], HERE / "wstest.py", "-m", mode, "-s", file, *more, log=f"{name}.log",
        env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""},
    )


def finish(child, name):
    try:
        code = child.wait(timeout=RUN_S)
    except subprocess.TimeoutExpired:
        code = "a timeout"
    if code != 0:
        raise SystemExit(f"{name} ended with {code}:\n{(SCRATCH / f'{name}.log').read_text(errors='replace')[-3000:]}")
    processes.remove(child)


def report(outdir):
    """Agent -> case -> verdicts."""
    return json.loads((outdir / "index.json").read_text())


class Servers:
    """The echo server, a fuzzing server, and wsluice before both."""

    def __init__(self, cases):
        self.echo = spawn("node", HERE / "peers.mjs", "echo", log="echo.log")
        wait_for("the echo server", lambda: (SCRATCH / "echo.log").read_text().strip(), self.echo, "echo.log")
        self.echo_port = int((SCRATCH / "echo.log").read_text())
        self.fuzz_port = free_port()
        self.fuzz_host = f"127.0.0.1:{self.fuzz_port}"
        self.outdir = SCRATCH / "client"
        self.fuzzer = wstest(
            "fuzzingserver",
            {"url": f"ws://127.0.0.1:{self.fuzz_port}", "outdir": str(self.outdir), "cases": cases, "exclude-cases": [],
             "exclude-agent-cases": {}},
            "fuzzingserver", "-u", "0",
        )
        wait_for("the fuzzing server", lambda: listens(self.fuzz_port), self.fuzzer, "fuzzingserver.log")
        self.plain, self.tls, admin = free_port(), free_port(), free_port()
        config = SCRATCH / "wsluice.yaml"
        config.write_text(f"""version: 1
listeners:
  - {{ name: plain, bind: "127.0.0.1:{self.plain}" }}
  - name: tls
    bind: "127.0.0.1:{self.tls}"
    tls: {{ certificates: [{{ cert: "{SCRATCH}/localhost.crt", key: "{SCRATCH}/localhost.key" }}] }}
routes:
  - {{ name: echo, match: {{ path: {{ prefix: /echo }} }}, upstream: echo, limits: {{ message: 64MiB }} }}
  - {{ name: fuzzer, match: {{ path: {{ prefix: / }} }}, upstream: fuzzer, limits: {{ message: 64MiB }} }}
upstreams:
  echo: {{ endpoints: ["ws://127.0.0.1:{self.echo_port}"] }}
  fuzzer: {{ endpoints: ["ws://127.0.0.1:{self.fuzz_port}"] }}
admin: {{ bind: "127.0.0.1:{admin}" }}
log: {{ level: info, format: json }}
""")
        self.proxy = spawn(BINARY, "run", "--config", config, log="wsluice.log")
        wait_for("wsluice", lambda: ready(admin), self.proxy, "wsluice.log")

    def urls(self):
        """Of the echo server: agent -> URL."""
        return {
            "direct": f"ws://127.0.0.1:{self.echo_port}",
            "ws": f"ws://127.0.0.1:{self.plain}/echo",
            "wss": f"wss://127.0.0.1:{self.tls}/echo",
        }

    def bases(self):
        """Of the fuzzing server: agent -> URL."""
        return {"direct": f"ws://127.0.0.1:{self.fuzz_port}", "ws": f"ws://127.0.0.1:{self.plain}"}


def fuzz_server(servers, wanted, name):
    """The fuzzer as the client. `wanted`: agent -> cases. Gives agent -> case -> verdicts."""
    running = []
    for agent, cases in wanted.items():
        outdir = SCRATCH / f"{name}-{agent}"
        spec = {"outdir": str(outdir), "servers": [{"agent": agent, "url": servers.urls()[agent]}], "cases": cases, "exclude-cases": [],
                "exclude-agent-cases": {}}
        running.append((agent, outdir, wstest("fuzzingclient", spec, f"{name}-{agent}")))
    verdicts = {}
    for agent, outdir, child in running:
        finish(child, f"{name}-{agent}")
        verdicts[agent] = report(outdir)[agent]
    return verdicts


def fuzz_client(servers, wanted, name):
    """The fuzzer as the server. `wanted`: agent -> cases, or None for all. Gives agent -> case -> verdicts."""
    running = []
    for agent, cases in wanted.items():
        log = f"{name}-{agent}"
        child = spawn("node", HERE / "peers.mjs", "client", servers.bases()[agent], servers.fuzz_host, log, ",".join(cases or ["all"]), log=f"{log}.log")
        running.append((child, log))
    for child, log in running:
        finish(child, log)
    finish(spawn("node", HERE / "peers.mjs", "report", servers.bases()["direct"], servers.fuzz_host, log=f"{name}-report.log"), f"{name}-report")
    seen = report(servers.outdir)
    return {agent: seen[f"{name}-{agent}"] for agent in wanted}


def rank(verdict):
    return RANKS.index(verdict) if verdict in RANKS else len(RANKS)


def worse(direct, through):
    """What of a case's verdicts is worse, such as `behaviorClose OK -> FAILED`."""
    return {
        f"{key} {direct[key]} -> {through[key]}" for key in ("behavior", "behaviorClose") if rank(through[key]) > rank(direct[key])
    }


def allowed():
    """Of differences.txt: (side, case) -> what may be worse."""
    told = {}
    for line in (HERE / "differences.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            side, case, difference = line.split(maxsplit=2)
            told.setdefault((side, case), set()).add(difference.strip())
    return told


def number(case):
    return [int(part) for part in case.split(".")]


def wanted_cases(known, patterns):
    """Those of the known cases that the patterns (`5.*`, or None for all) ask for."""
    return {case for case in known if patterns is None or any(fnmatch.fnmatchcase(case, pattern) for pattern in patterns)}


def examine(side, fuzz, servers, first):
    """All cases once, those that look worse again. Gives (cases seen, failures, differences that are allowed and were seen)."""
    verdicts = fuzz(servers, first, f"{side}-1")
    direct = verdicts.pop("direct")
    failures, excused = [], set()
    wrong = [case for case in sorted(direct, key=number)
             if any(rank(direct[case][key]) > rank("INFORMATIONAL") for key in ("behavior", "behaviorClose"))]
    # On a busy machine the suite itself can be too late for its own limits.
    if wrong and len(wrong) <= DOUBTFUL_MAX:
        direct.update(fuzz(servers, {"direct": wrong}, f"{side}-direct")["direct"])
    for case in wrong:
        for key in ("behavior", "behaviorClose"):
            if rank(direct[case][key]) > rank("INFORMATIONAL"):
                failures.append(f"{side} {case}: {key} {direct[case][key]} without wsluice: the rig is wrong")
    excuses = allowed()
    for agent, through in sorted(verdicts.items()):
        def unexcused(case, direct, through):
            told, may = worse(direct[case], through[case]), excuses.get((side, case), set())
            excused.update((side, case) for _ in told & may)
            return told - may

        if missing := wanted_cases(direct, first[agent]) - set(through):
            failures.append(f"{side} over {agent}: no verdict for {', '.join(sorted(missing, key=number))}")
        doubtful = {case: told for case in sorted(through, key=number) if (told := unexcused(case, direct, through))}
        for attempt in range(2, ATTEMPTS + 1 if len(doubtful) <= DOUBTFUL_MAX else 2):
            if doubtful:
                again = fuzz(servers, {"direct": list(doubtful), agent: list(doubtful)}, f"{side}-{attempt}-{agent}")
                doubtful = {case: told for case in doubtful if (told := unexcused(case, again["direct"], again[agent]))}
        for case, told in doubtful.items():
            codes = f"close code {through[case]['remoteCloseCode']}, directly {direct[case]['remoteCloseCode']}"
            failures.append(f"{side} {case} over {agent}: {'; '.join(sorted(told))} ({codes})")
        print(f"{'FAILED ' if doubtful or missing else 'ok     '} fuzzed {side}, over {agent}: {len(through)} cases, "
              f"{len(doubtful)} worse than directly, after {time.monotonic() - STARTED:.0f} s", flush=True)
    return len(direct), failures, excused


def main():
    everything = FAST + LARGE + COMPRESSED
    servers = Servers(everything)
    try:
        seen_server, failures, excused = examine(
            "server", fuzz_server, servers, {"direct": everything, "ws": everything, "wss": FAST + LARGE[:2]},
        )
        seen_client, more, also = examine("client", fuzz_client, servers, {"direct": None, "ws": None})
    finally:
        for child in list(processes):
            stop(child)
    failures += more
    for stale in sorted(set(allowed()) - excused - also):
        print(f"note    differences.txt allows {stale[0]} {stale[1]}, which was not seen this time")
    for line in failures:
        print(f"FAILED  {line}")
    print(f"{seen_server + seen_client} cases compared, {len(failures)} failed, in {time.monotonic() - STARTED:.0f} s")
    return 1 if failures else 0


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
try:
    code = main()
finally:
    for child in list(processes):
        stop(child)
sys.exit(code)
