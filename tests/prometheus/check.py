"""Runs wsluice between peers of its own, lets Prometheus scrape it each second, and asks what grafana/ asks.

usage: check.py WSLUICE SCRATCH (a directory with tls.crt and tls.key)

Succeeds when /metrics passes promtool, every rule evaluates, and every panel of every dashboard shows something: a
number other than 0, save for those in QUIET. Waits for these, at most DEADLINE seconds, and never a fixed time.
"""

import glob
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import peers

DEADLINE = 90
# Panels in which nothing happens while all is well.
QUIET = {"Log lines dropped", "Changes and errors", "Transitions, ejections, retries denied", "Sessions sent elsewhere", "Panics",
         "Upgrades", "Sessions that moved", "Processes before this one", "Refused by their token", "Sessions that ended with their token",
         "Refused by address and by limits of one client", "Connections and streams of HTTP/2", "Resets, GOAWAYs and stalls of HTTP/2"}
# Panels without a series while there is no older process, no key to fetch, no service to ask, no store, and no server of
# HTTP/2.
ABSENT = {"Sessions of older processes", "Keys", "Questions to auth services", "Time that auth services take", "Shared store",
          "Time that the shared store takes", "Connections and streams to servers", "GOAWAYs and stalls of servers"}
# Panels in which something happens when the process ends.
LAST = {"Draining"}

CONFIG = """\
version: 1
listeners:
  - name: plain
    bind: "127.0.0.1:{plain}"
  - name: secure
    bind: "127.0.0.1:{secure}"
    tls:
      certificates:
        - {{ cert: tls.crt, key: tls.key }}
routes:
  - name: chat
    match: {{ path: {{ prefix: /ws }} }}
    upstream: chat
    keepalive: {{ ping: 1s, pong: 900ms }}
  - name: broken
    match: {{ path: {{ prefix: /broken }} }}
    upstream: broken
  - name: found
    match: {{ path: {{ prefix: /found }} }}
    upstream: found
  - name: line
    match: {{ path: {{ prefix: /line }} }}
    upstream: line
  - name: changing
    match: {{ path: {{ prefix: /changing }} }}
    upstream: chat
    limits: {{ message: {message} }}
    on_change: drain 3s
  - name: drained
    match: {{ path: {{ prefix: /drained }} }}
    upstream: chat
upstreams:
  found:
    discover: {{ file: {{ path: endpoints.json }} }}
    health: {{ tcp: {{ every: 500ms, timeout: 400ms }} }}
  line:
    endpoints: [{{ url: "ws://127.0.0.1:{server}", max_connections: 1 }}]
    queue: {{ length: 10, wait: 5s }}
    admission: {{ rate: 1000/s }}
    sticky: {{ cookie: at, secrets: ["0123456789abcdef0123456789abcdef"] }}
  chat:
    endpoints: ["ws://127.0.0.1:{server}", "ws://127.0.0.1:{nobody}"]
  broken:
    endpoints: ["ws://127.0.0.1:{nobody}"]
admin: {{ bind: "127.0.0.1:{admin}" }}
log: {{ level: info, format: json, access: true }}
drain: {{ time: 20s }}
"""

PROMETHEUS = """\
global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: wsluice
    static_configs: [{{ targets: ["127.0.0.1:{admin}"] }}]
"""


def free_ports(count):
    """Ports that were free a moment ago; taken all at once, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def fetch(url):
    """Status and text of an answer, (0, "") if there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_for(what, condition, alive):
    """Asks `condition` until it answers with something true; fails when the time is over or a process is."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := condition()):
        for process in alive:
            if process.poll() is not None:
                raise SystemExit(f"{process.args[0]} ended with {process.returncode} while waiting for {what}")
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {DEADLINE} s in vain for {what}")
        time.sleep(0.1)
    return answer


class Changes(threading.Thread):
    """Puts another configuration in force, then a file that is refused, then a bad certificate, again and again.

    Before that it begins a drain of a route, which has a session then, and it asks the API now and then.
    """

    def __init__(self, process, scratch, text, api):
        super().__init__(daemon=True)
        self.process, self.scratch, self.text, self.api = process, scratch, text, api
        self.stop, self.failure, self.rounds = threading.Event(), None, 0

    def run(self):
        try:
            self.ask("PUT", "drains/route/drained?time=10m")
            self.change()
        except Exception as failure:  # whatever it is, the main thread reports it
            self.failure = failure

    def ask(self, method, path):
        request = urllib.request.Request(f"{self.api}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            json.load(answer)

    def change(self):
        with open(f"{self.scratch}/tls.crt", encoding="utf-8") as file:
            certificate = file.read()
        while True:
            message = f"{self.rounds % 2 + 1}MiB"
            for name, text in [
                ("wsluice.yaml", self.text(message)),
                ("wsluice.yaml", self.text("as large as you like")),
                ("wsluice.yaml", self.text(message)),
                ("tls.crt", "no certificate"),
                ("tls.crt", certificate),
            ]:
                with open(f"{self.scratch}/new", "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(f"{self.scratch}/new", f"{self.scratch}/{name}")
                self.process.send_signal(signal.SIGHUP)
                self.ask("GET", "drains")
                # Long enough to be seen by some scrape.
                if self.stop.wait(2.5):
                    return
            self.rounds += 1


class Traffic(threading.Thread):
    """One of everything, again and again; a failure ends the check."""

    def __init__(self, plain, secure, tls):
        super().__init__(daemon=True)
        self.plain, self.secure, self.tls = plain, secure, tls
        self.stop, self.failure, self.rounds = threading.Event(), None, 0

    def run(self):
        try:
            for port, tls in [(self.plain, None), (self.secure, self.tls)]:
                threading.Thread(target=self.stay, args=(self.open(port, tls),), daemon=True).start()
            drained = self.open(self.plain, None, path="/drained")
            threading.Thread(target=self.stay, args=(drained,), daemon=True).start()
            threading.Thread(target=self.come_back, daemon=True).start()
            while not self.stop.wait(0.1):
                self.round()
                self.rounds += 1
        except Exception as failure:  # whatever it is, the main thread reports it
            self.failure = failure

    @staticmethod
    def stay(client):
        """Keeps a session and answers its Pings."""
        client.socket.settimeout(None)
        try:
            while client.receive():
                pass
        except OSError:
            pass  # the end of the check

    def come_back(self):
        """Keeps a session on the route that changes, and opens another whenever it is told to."""
        while not self.stop.is_set():
            client = self.open(self.plain, None, path="/changing")
            client.socket.settimeout(None)
            try:
                while received := client.receive():
                    if received[0] == peers.CLOSE:
                        client.send(peers.CLOSE, received[1][:2])
            except OSError:
                pass  # a process that ends
            client.close()

    @staticmethod
    def open(port, tls, *headers, path="/ws/room?token=secret"):
        client = peers.Client(port, tls)
        status = client.upgrade(path, *headers)
        assert status == 101, f"handshake answered with {status}"
        return client

    def round(self):
        for port, tls in [(self.plain, None), (self.secure, self.tls)]:
            client = self.open(port, tls)
            for opcode, payload in [(peers.TEXT, b"hello"), (peers.BINARY, b"\x07" * 3000), (peers.PING, b"?")]:
                client.send(opcode, payload)
                opcode = peers.PONG if opcode == peers.PING else opcode
                assert client.receive() == (opcode, payload), "the echo is not what was sent"
            client.send(peers.CLOSE, struct.pack("!H", 1000) + b"bye")
            assert client.receive()[0] == peers.CLOSE
            client.close()

        client = self.open(self.plain, None)
        client.send(peers.TEXT, b"close")
        assert client.receive() == (peers.CLOSE, struct.pack("!H", 4000) + b"as told")
        client.send(peers.CLOSE, struct.pack("!H", 4000))
        client.close()

        for path, headers, expected in [
            ("/ws/room", ["Origin: https://evil.example"], 403),
            ("/nowhere", [], 404),
            ("/broken", [], 502),
        ]:
            client = peers.Client(self.plain)
            status = client.upgrade(path, *headers)
            assert status == expected, f"{path} answered with {status}, not {expected}"
            client.close()

        first, second = peers.Client(self.plain), peers.Client(self.plain)
        assert first.upgrade("/line") == 101
        waiting = threading.Thread(target=second.upgrade, args=("/line",))
        waiting.start()
        time.sleep(0.3)  # long enough to be in the line at some scrape
        first.close()
        waiting.join()
        second.close()

        client = peers.Client(self.plain)
        assert client.request("/ws/page") == (200, b"hello\n")
        client.close()

        client = peers.Client(self.plain)
        client.socket.sendall(b"this is not HTTP\r\n\r\n")
        client.stream.read()
        client.close()


def queries():
    """(title, query) of each panel and annotation, with variables as Grafana would put them for 'All'."""
    for path in sorted(glob.glob("grafana/dashboards/*.json")):
        with open(path, encoding="utf-8") as file:
            dashboard = json.load(file)
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield panel["title"], substitute(target["expr"])
        for annotation in dashboard["annotations"]["list"]:
            if "expr" in annotation:
                yield None, substitute(annotation["expr"])


def substitute(query):
    for name, value in {"$__rate_interval": "15s", "$job": "wsluice", "$instance": ".*", "$route": ".*"}.items():
        query = query.replace(name, value)
    assert "$" not in query, f"a variable is not known here: {query}"
    return query


def variables():
    """(metric selector, label) of each variable that Grafana fills from Prometheus."""
    for path in sorted(glob.glob("grafana/dashboards/*.json")):
        with open(path, encoding="utf-8") as file:
            for variable in json.load(file)["templating"]["list"]:
                if variable["type"] == "query":
                    found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
                    yield substitute(found[1]), found[2]


class Prometheus:
    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"

    def get(self, path, **parameters):
        """The data of an API call; an error that is Prometheus's own verdict fails the check."""
        status, text = fetch(f"{self.base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        if status == 0:
            return None
        answer = json.loads(text)
        if answer["status"] != "success":
            raise SystemExit(f"Prometheus refuses {parameters}: {answer['error']}")
        return answer["data"]

    def samples(self, query):
        data = self.get("query", query=query)
        return [float(each["value"][1]) for each in data["result"]] if data else []


def shows(prometheus, title, query):
    samples = [sample for sample in prometheus.samples(query) if not math.isnan(sample)]
    return bool(samples) if title in QUIET else any(sample != 0 for sample in samples)


def main(binary, scratch):
    server = peers.Server()
    nobody = socket.socket()  # bound, never listening: a connection to it is refused for as long as we run
    nobody.bind(("127.0.0.1", 0))
    plain, secure, admin, scraper = free_ports(4)
    ports = {"plain": plain, "secure": secure, "admin": admin, "server": server.port, "nobody": nobody.getsockname()[1]}
    with open(f"{scratch}/wsluice.yaml", "w", encoding="utf-8") as file:
        file.write(CONFIG.format(**ports, message="1MiB"))
    with open(f"{scratch}/endpoints.json", "w", encoding="utf-8") as file:
        json.dump([{"targets": [f"127.0.0.1:{ports['server']}", f"127.0.0.1:{ports['nobody']}"]}], file)
    with open(f"{scratch}/prometheus.yaml", "w", encoding="utf-8") as file:
        rules = os.path.abspath("grafana/alerts/*.rules.yaml")
        file.write(PROMETHEUS.format(rules=rules, admin=admin))

    running = []
    log = open(f"{scratch}/log", "w", encoding="utf-8")
    traffic = Traffic(plain, secure, peers.trusting(f"{scratch}/tls.crt"))
    changes = None
    try:
        running.append(
            subprocess.Popen([binary, "run", "--config", "wsluice.yaml"], cwd=scratch, stdout=log, stderr=log)
        )
        wait_for("/readyz", lambda: fetch(f"http://127.0.0.1:{admin}/readyz")[0] == 200, running)
        running.append(
            subprocess.Popen(
                ["prometheus", f"--config.file={scratch}/prometheus.yaml", f"--storage.tsdb.path={scratch}/tsdb",
                 f"--web.listen-address=127.0.0.1:{scraper}", "--log.level=warn"],
                stdout=log, stderr=log,
            )
        )
        traffic.start()
        prometheus = Prometheus(scraper)

        def check(what, condition):
            def or_failed():
                if failure := traffic.failure or (changes and changes.failure):
                    raise SystemExit(f"the traffic failed: {failure!r}")
                return condition()

            wait_for(what, or_failed, running)

        check("three rounds of traffic", lambda: traffic.rounds >= 3)
        api = f"http://127.0.0.1:{admin}/api/v1"
        changes = Changes(running[0], scratch, lambda message: CONFIG.format(**ports, message=message), api)
        changes.start()
        _, metrics = fetch(f"http://127.0.0.1:{admin}/metrics")
        subprocess.run(["promtool", "check", "metrics"], input=metrics, text=True, check=True)
        assert "secret" not in metrics and "evil" not in metrics, "a client's words became a label"

        check("Prometheus", lambda: fetch(f"{prometheus.base}/-/ready")[0] == 200)
        check("a scrape", lambda: prometheus.samples('up{job="wsluice"} == 1'))
        panels = list(queries())
        for title, query in panels:
            if title is None or title in ABSENT:
                prometheus.samples(query)
            elif title not in LAST:
                check(f"panel {title!r} to show something: {query}", lambda: shows(prometheus, title, query))
        for selector, label in variables():
            check(f"values of {label}", lambda: prometheus.get(f"label/{label}/values", **{"match[]": selector}))

        def rules():
            groups = (prometheus.get("rules") or {"groups": []})["groups"]
            found = [rule for group in groups for rule in group["rules"]]
            for rule in found:
                if rule["health"] == "err":
                    raise SystemExit(f"rule {rule['name']}: {rule['lastError']}")
            return found if found and all(rule["health"] == "ok" for rule in found) else None

        check("all rules to be evaluated", rules)
        found = rules()
        for rule in found:
            prometheus.samples(rule["query"])
        traffic.stop.set()
        changes.stop.set()
        traffic.join()
        changes.join()
        # The sessions that stay are told to go over the drain's time.
        running[0].send_signal(signal.SIGTERM)
        for title, query in panels:
            if title in LAST:
                check(f"panel {title!r} to show something: {query}", lambda: shows(prometheus, title, query))
        print(f"{len(panels)} queries of dashboards and {len(found)} rules answered, {traffic.rounds} rounds of traffic")
    except BaseException:
        log.flush()
        with open(f"{scratch}/log", encoding="utf-8") as file:
            print("".join(file.readlines()[-40:]), file=sys.stderr)
        raise
    finally:
        traffic.stop.set()
        if changes:
            changes.stop.set()
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
