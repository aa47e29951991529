"""Starts the wsluice binary on a configuration of its own and ends exactly the process it started."""

import asyncio
import json
import os
import re
import signal
import socket
import tempfile
import urllib.request
from pathlib import Path


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def config(plain, prior, tls, admin, ports, more):
    cert, key = (json.dumps(os.environ[name]) for name in ("WSLUICE_CERT", "WSLUICE_KEY"))
    return f"""version: 1
listeners:
  - {{ name: plain, bind: "127.0.0.1:{plain}" }}
  - {{ name: prior, bind: "127.0.0.1:{prior}", protocols: [h2, http/1.1] }}
  - name: tls
    bind: "127.0.0.1:{tls}"
    tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }}
routes:
  - name: limited
    match: {{ path: {{ prefix: /limited }} }}
    upstream: backend
    limits: {{ message: 64KiB }}
  - name: idle
    match: {{ path: {{ prefix: /idle }} }}
    upstream: backend
    timeouts: {{ idle: 1s }}
  - name: kept
    match: {{ path: {{ prefix: /kept }} }}
    upstream: backend
    keepalive: {{ ping: 1s, pong: 500ms }}
  - name: rest
    match: {{ path: {{ prefix: / }} }}
    upstream: backend
upstreams:
  backend: {{ {more}endpoints: {json.dumps([f"ws://127.0.0.1:{port}" for port in ports])} }}
admin: {{ bind: "127.0.0.1:{admin}" }}
log: {{ level: info, format: json }}
drain: {{ time: 3s }}
watch: false # so that a reload is one by HUP
"""


def fetch(url, context=None):
    """Status and body of a GET, or None where nobody answers."""
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read()
    except OSError:
        return None


class Proxy:
    def __init__(self, binary, *ports, more=""):
        self.binary = binary
        self.plain, self.prior, self.tls, self.admin = free_ports(4)
        self.directory = tempfile.TemporaryDirectory(prefix="wsluice-clients-")
        self.log = Path(self.directory.name, "log")
        self.config = Path(self.directory.name, "wsluice.yaml")
        self.config.write_text(config(self.plain, self.prior, self.tls, self.admin, ports, more))

    async def __aenter__(self):
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                self.binary, "run", "--config", str(self.config), stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(15):
                while (await asyncio.to_thread(fetch, f"http://127.0.0.1:{self.admin}/readyz") or [0])[0] != 200:
                    if self.process.returncode is not None:
                        raise RuntimeError("wsluice ended at once")
                    await asyncio.sleep(0.02)
        except (TimeoutError, RuntimeError) as error:
            await self.__aexit__()
            raise RuntimeError(f"wsluice is not ready: {self.text}") from error
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.text = self.log.read_text(errors="replace")
        self.directory.cleanup()

    async def metric(self, name, **labels):
        """The sum of the series of this name that have these labels."""
        _, text = await asyncio.to_thread(fetch, f"http://127.0.0.1:{self.admin}/metrics")
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = (line for line in text.decode().splitlines() if re.match(rf"{name}[{{ ]", line))
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(each in line for each in wanted))

    async def becomes(self, wanted, name, **labels):
        """Waits until a metric has this value."""
        while (value := await self.metric(name, **labels)) != wanted:
            self.must_run()
            try:
                await asyncio.sleep(0.02)  # a metric tells nobody that it changes
            except asyncio.CancelledError as error:
                raise TimeoutError(f"{name} {labels} is still {value} and not {wanted}") from error

    def must_run(self):
        if self.process.returncode is not None:
            raise RuntimeError(f"wsluice has ended with {self.process.returncode}: {self.log.read_text(errors='replace')}")

    async def reload(self):
        """Puts a changed configuration in force: one more route that nothing takes."""
        count = await self.metric("wsluice_config_reloads_total", result="done")
        route = f"routes:\n  - {{ name: more-{count:.0f}, match: {{ hosts: [more.test] }}, upstream: backend }}"
        text = re.sub(r"routes:(\n  - \{ name: more.*)?", route, self.config.read_text(), count=1)
        self.config.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        await self.becomes(count + 1, "wsluice_config_reloads_total", result="done")

    def resident(self):
        """The bytes of memory that the process has (VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024
