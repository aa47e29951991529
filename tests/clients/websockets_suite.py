"""Python's websockets as client and as server, with wsluice between them, over ws and wss.

    python websockets_suite.py BINARY    with WSLUICE_CERT and WSLUICE_KEY naming a PEM pair for localhost
    WITHOUT_PROXY=1 python websockets_suite.py    client to server directly: shows that the cases themselves are right

What ws.mjs cannot see is looked at here: where the fragments of a message begin and end, and each control frame.
"""

import asyncio
import http.cookies
import json
import os
import secrets
import signal
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import CloseCode

from peer import MIB, Backend, ended
from proxy import Proxy, fetch
from report import Report, digest, same

DIRECT = bool(os.environ.get("WITHOUT_PROXY"))


# --- cases


class Cases:
    """Each method is a case; `base` says over which scheme, `options` are those of the client's TLS."""

    def __init__(self, backend, base, options):
        self.backend, self.base, self.options = backend, base, options

    def open(self, path="/", query="", **options):
        return self.backend.pair(self.base, path, query, **self.options, **options)

    async def text_binary_and_empty_messages_go_both_ways(self):
        client, server = await self.open()
        messages = ["grüße ☂", "", "x" * 125, "x" * 126, "x" * 65_536, b"", bytes([0, 255, 128]), secrets.token_bytes(70_000)]
        for source, sink in ((client, server), (server, client)):
            for message in messages:
                await source.send(message)
                same(await sink.recv(), message, "message")
        await client.close()

    async def fragments_keep_their_borders_with_a_ping_between(self):
        client, server = await self.open()
        parts = ["one", "", "three", "x" * 70_000, "five"]

        async def source_parts(source):
            for index, part in enumerate(parts):
                yield part
                await source.ping(f"after {index}")

        for source, sink in ((client, server), (server, client)):
            sending = asyncio.create_task(source.send(source_parts(source)))
            got = [part async for part in sink.recv_streaming()]
            await sending
            same([part for part in got if part], [part for part in parts if part], "fragments")
            await (await source.ping(b"last"))
            pings = [data for name, data in sink.controls if name == "ping"]
            same(pings, [f"after {index}".encode() for index in range(len(parts))] + [b"last"], "pings between")
        await client.close()

    async def sixteen_mebibytes_go_there_and_back(self):
        client, _ = await self.open(query="echo=")
        message = secrets.token_bytes(16 * MIB)
        await client.send(message)
        same(digest(await client.recv()), digest(message), "hash")
        await client.close()

    async def permessage_deflate_is_agreed_and_keeps_its_context(self):
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=13)
        client, server = await self.open(extensions=[factory])
        offer = server.request.headers["Sec-WebSocket-Extensions"]
        same(offer, "permessage-deflate; server_max_window_bits=12; client_max_window_bits=13", "offer")
        agreed = client.response.headers["Sec-WebSocket-Extensions"]
        same(agreed, server.response.headers["Sec-WebSocket-Extensions"], "agreed")
        assert agreed.startswith("permessage-deflate"), agreed
        for source, sink in ((client, server), (server, client)):
            noise = secrets.token_hex(1_000)
            for message in ("the same words again and again " * 100_000, noise, noise, noise):
                await source.send(message)
                assert await sink.recv() == message, "message differs"
            await source.send([noise[:900], noise[900:]])
            assert await sink.recv() == noise, "compressed fragments differ"
        await client.close()
        client, server = await self.open()
        same(client.response.headers.get("Sec-WebSocket-Extensions"), None, "extension nobody offered")
        await client.close()

    async def a_subprotocol_is_negotiated_or_left_out(self):
        client, server = await self.open(subprotocols=["mqtt", "chat"])
        same((client.subprotocol, server.subprotocol), ("chat", "chat"), "subprotocol")
        await client.close()
        client, server = await self.open(subprotocols=["mqtt"])
        same((client.subprotocol, server.subprotocol), (None, None), "subprotocol")
        await client.close()

    async def close_codes_and_reasons_arrive_from_either_side(self):
        for code, reason in ((1000, ""), (1000, "bye"), (1001, "leaving"), (3000, "grüße"), (4999, "z" * 123)):
            for client_first in (True, False):
                client, server = await self.open()
                first, second = (client, server) if client_first else (server, client)
                waiting = asyncio.create_task(ended(second))
                await first.close(code, reason)
                same(await waiting, (code, reason), "close as received")
                same((first.close_code, first.close_reason), (code, reason), "echo of it")

    async def pings_go_both_ways_with_their_payloads(self):
        client, server = await self.open()
        payloads = [b"", b"up", bytes(range(125))]
        for source, sink in ((client, server), (server, client)):
            for payload in payloads:
                await (await source.ping(payload))
        for end in (client, server):
            for name in ("ping", "pong"):
                same([data for kind, data in end.controls if kind == name], payloads, name)
        await client.close()

    async def a_refusal_by_the_server_keeps_its_status_and_body(self):
        try:
            await self.open(query="refuse=")
        except InvalidStatus as refused:
            same((refused.response.status_code, bytes(refused.response.body)), (401, b"no way\n"), "answer")
        else:
            raise AssertionError("the connection was opened")

    async def plain_http_takes_the_same_route(self):
        url = self.base.replace("ws", "http", 1) + "/page"
        same(await asyncio.to_thread(fetch, url, self.options.get("ssl")), (200, b"plain\n"), "answer")

    async def five_hundred_sessions_at_once(self):
        pairs = await asyncio.gather(*(self.open(query="echo=") for _ in range(500)))

        async def talk(index, client):
            await client.send(f"message {index}")
            same(await client.recv(), f"message {index}", "echo")
            await client.close()
            same(client.close_code, 1000, "close")

        await asyncio.gather(*(talk(index, client) for index, (client, _) in enumerate(pairs)))


class ProxyCases(Cases):
    """What the proxy itself does; senseless without it."""

    async def a_server_that_vanishes_is_a_lost_connection_to_the_client(self):
        client, server = await self.open()
        server.transport.abort()
        same((await ended(client))[0], CloseCode.ABNORMAL_CLOSURE, "close")

    async def a_client_that_vanishes_is_a_1001_to_the_server(self):
        client, server = await self.open()
        await client.send("last words")
        same(await server.recv(), "last words", "message")
        client.transport.abort()
        same((await ended(server))[0], CloseCode.GOING_AWAY, "close")

    async def a_message_over_the_limit_is_a_1009(self):
        for message in ("x" * (64 * 1024 + 1), ["x" * 40_000, "x" * 40_000], b"x" * (8 * MIB)):
            client, server = await self.open("/limited")
            waiting = asyncio.create_task(ended(server))
            try:
                await client.send(message)
            except ConnectionClosed:
                pass  # the Close was quicker than the rest of the message
            same((await ended(client))[0], CloseCode.MESSAGE_TOO_BIG, "client")
            same((await waiting)[0], CloseCode.GOING_AWAY, "server")

    async def silence_ends_a_session_with_1001(self):
        client, server = await self.open("/idle")
        to_client, to_server = await asyncio.gather(ended(client), ended(server))
        same((to_client, to_server[0]), ((1001, "idle timeout"), 1001), "closes")

    async def the_proxys_own_pings_stay_between_it_and_each_peer(self):
        client, server = await self.open("/kept")
        while not (getattr(client, "controls", None) and getattr(server, "controls", None)):
            await asyncio.sleep(0.05)  # there is no event for a Ping that the library answers by itself
        await (await client.ping(b"mine"))
        await (await server.ping(b"yours"))
        for end, mine in ((client, b"mine"), (server, b"yours")):
            same([data for name, data in end.controls if name == "pong"], [mine], "pongs that were asked for")
        for end in (client, server):  # a Ping of the proxy's that went through as well would come twice
            pings = [data for name, data in end.controls if name == "ping"]
            same(len(set(pings)), len(pings), "different pings")
        await client.close()

    async def a_foreign_origin_is_refused_with_403(self):
        try:
            await self.open(origin="https://evil.example")
        except InvalidStatus as refused:
            same(refused.response.status_code, 403, "status")
        else:
            raise AssertionError("the connection was opened")
        client, _ = await self.open(origin=self.base.replace("ws", "http", 1))
        await client.close()


async def draining(binary, backend):
    async with Proxy(binary, backend.port) as proxy:
        pairs = await asyncio.gather(*(backend.pair(f"ws://127.0.0.1:{proxy.plain}") for _ in range(50)))
        waiting = [(asyncio.create_task(ended(client)), asyncio.create_task(ended(server))) for client, server in pairs]
        proxy.process.send_signal(signal.SIGTERM)
        for client, server in waiting:
            same(((await client)[0], (await server)[0]), (1012, 1001), "close codes")
        same(await proxy.process.wait(), 0, "exit status")


async def returning(binary):
    """Python reads the cookie of the 101 and sends it back, through two proxies that have only the secret in common."""

    async def start(name):
        async def accept(side):
            await side.send(json.dumps([name, side.request.headers.get("Cookie")]))
            await side.wait_closed()

        return await serve(accept, "127.0.0.1", 0, ping_interval=None)

    servers = [await start(name) for name in range(3)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    sticky = f"sticky: {{ cookie: srv, secrets: [{'s3cret' * 6}], max_age: 1h }}, "

    async def visit(proxy, jar, scheme="ws", **more):
        """The server it came to, and whether a cookie was set; what `jar` has is sent, what is set goes into it."""
        port, host = (proxy.tls, "localhost") if scheme == "wss" else (proxy.plain, "127.0.0.1")
        cookie = jar.output(attrs=[], header="", sep=";").strip()
        headers = {"Cookie": f"theme=dark;{cookie}"} if cookie else {}
        async with connect(f"{scheme}://{host}:{port}/", additional_headers=headers, ping_interval=None, **more) as client:
            name, cookies = json.loads(await client.recv())
            same(cookies, "theme=dark" if cookie else None, "cookies at the server")
            fields = client.response.headers.get_all("Set-Cookie")
            for field in fields:
                jar.load(field)
            return name, len(fields)

    async with Proxy(binary, *ports, more=sticky) as one, Proxy(binary, *reversed(ports), more=sticky) as two:
        jar = http.cookies.SimpleCookie()
        home, cookies = await visit(one, jar)
        same(cookies, 1, "cookies set")
        attributes = {name: value for name, value in jar["srv"].items() if value}
        same(attributes, {"path": "/", "max-age": "3600", "httponly": True, "samesite": "Lax"}, "attributes")
        for proxy in [one, two] * 6:
            same(await visit(proxy, jar), (home, 0), "the way back")
        same({(await visit(one, http.cookies.SimpleCookie()))[0] for _ in range(30)} > {home}, True, "others go elsewhere")
        # Its server goes: another one, a new cookie, and the same again.
        servers[home].close()
        await servers[home].wait_closed()
        elsewhere, cookies = await visit(two, jar)
        same((elsewhere != home, cookies), (True, 1), "after the server has gone")
        same(await visit(one, jar), (elsewhere, 0), "the way back to the new one")
        # By TLS the cookie is for TLS only.
        jar = http.cookies.SimpleCookie()
        await visit(one, jar, "wss", ssl=ssl.create_default_context(cafile=os.environ["WSLUICE_CERT"]))
        same(jar["srv"]["secure"], True, "Secure")


async def main():
    # A timeout from outside ends the proxy as well.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    report, backend = Report(), await Backend().start()
    if DIRECT:
        await report.run_all("ws", Cases(backend, f"ws://127.0.0.1:{backend.port}", {}))
    else:
        binary = sys.argv[1]
        trust = ssl.create_default_context(cafile=os.environ["WSLUICE_CERT"])
        async with Proxy(binary, backend.port) as proxy:
            await report.run_all("ws", ProxyCases(backend, f"ws://127.0.0.1:{proxy.plain}", {}))
            await report.run_all("wss", ProxyCases(backend, f"wss://localhost:{proxy.tls}", {"ssl": trust}))
        await report.run("TERM drains: each session gets 1012, the process ends with 0", lambda: draining(binary, backend))
        await report.run("a cookie leads back to the same server", lambda: returning(binary))
    report.finish()


asyncio.run(main())
