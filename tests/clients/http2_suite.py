"""Python's h2 and wsproto as client: WebSockets on streams of HTTP/2 (RFC 8441), over TLS (ALPN) and with prior knowledge.

    python http2_suite.py BINARY    with WSLUICE_CERT and WSLUICE_KEY naming a PEM pair for localhost

The servers behind are Python's websockets and hypercorn, which see nothing of HTTP/2. What no client should do is in
http2_hostile.py.
"""

import asyncio
import http
import os
import secrets
import signal
import ssl
import sys

from websockets.asyncio.client import connect
from wsproto.events import BytesMessage, Ping
from wsproto.extensions import PerMessageDeflate

from asgi import Hypercorn
from http2_client import Connection, GOAWAY, Refused, frame, trusting
from http2_hostile import hostile
from peer import MIB, Backend, ended
from proxy import Proxy, fetch
from report import Report, digest, same


class Cases:
    """Each method is a case, on a connection of its own to `port`; `tls` is the client's."""

    def __init__(self, proxy, backend, port, tls):
        self.proxy, self.backend, self.port, self.tls = proxy, backend, port, tls

    def connection(self, **options):
        return Connection.open(self.port, self.tls, **options)

    async def text_binary_and_empty_messages_go_both_ways(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection)
            messages = ["grüße ☂", "", "x" * 125, "x" * 126, "x" * 65_536, b"", bytes([0, 255]), bytes(70_000)]
            for message in messages:
                await client.send(message)
                same(await server.recv(), message, "at the server")
                await server.send(message)
                same(await client.receive(), message, "at the client")
            same(await client.close(), (1000, "", "end"), "close")

    async def the_answer_is_a_200_without_what_http_1_adds(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection)
            same(client.headers[":status"], "200", "status")
            for name in ("connection", "upgrade", "sec-websocket-accept", "content-length", "transfer-encoding"):
                assert name not in client.headers, name
            same(server.request.headers["Upgrade"].lower(), "websocket", "what the server was asked for")
            same(await client.close(), (1000, "", "end"), "close")

    async def fragments_keep_their_borders_with_pings_between(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection)
            parts = ["one", "", "three", "x" * 70_000, "five"]

            async def source():
                for index, part in enumerate(parts):
                    yield part
                    await server.ping(f"after {index}")

            sending = asyncio.create_task(server.send(source()))
            same([part for part in await client.fragments() if part], [part for part in parts if part], "to the client")
            await sending
            # Pings are answered by whoever waits for the next message.
            receiving = asyncio.create_task(client.receive())
            await (await server.ping(b"last"))
            same(client.controls, [("ping", f"after {index}".encode()) for index in range(5)] + [("ping", b"last")], "pings")
            await server.send("go on")
            same(await receiving, "go on", "message")
            for index, part in enumerate(parts):
                await client.send(part, last=index == len(parts) - 1)
                await client.put(Ping(payload=b"between"))
            got = [part async for part in server.recv_streaming()]
            same([part for part in got if part], [part for part in parts if part], "to the server")
            same(await client.ping(b"at last"), b"between", "the first of the Pongs")
            same(await client.close(), (1000, "", "end"), "close")

    async def messages_arrive_however_the_stream_is_cut(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection)
            message = secrets.token_bytes(300)
            data = client.socket.send(BytesMessage(data=message))
            for index in range(len(data)):
                await client.stream.write(data[index : index + 1])
            same(await server.recv(), message, "byte by byte")
            same(await client.close(), (1000, "", "end"), "close")

    async def sixteen_mebibytes_go_there_and_back(self):
        async with await self.connection() as connection:
            client, _ = await pair(self.backend, connection, query="echo=")
            message = secrets.token_bytes(16 * MIB)
            receiving = asyncio.create_task(client.receive())
            await client.send(message)
            same(digest(await receiving), digest(message), "hash")
            same(await client.close(), (1000, "", "end"), "close")

    async def a_subprotocol_is_negotiated_or_left_out(self):
        async with await self.connection() as connection:
            for offer, chosen in (("mqtt, chat", "chat"), ("mqtt", None)):
                client, server = await pair(self.backend, connection, ("sec-websocket-protocol", offer))
                same((client.headers.get("sec-websocket-protocol"), server.subprotocol), (chosen, chosen), "subprotocol")
                same(await client.close(), (1000, "", "end"), "close")

    async def permessage_deflate_is_passed_through(self):
        async with await self.connection() as connection:
            deflate = PerMessageDeflate(server_max_window_bits=12, client_max_window_bits=13)
            client, server = await pair(self.backend, connection, extensions=[deflate])
            assert deflate.enabled(), client.headers
            same(client.headers["sec-websocket-extensions"], server.response.headers["Sec-WebSocket-Extensions"], "agreed")
            noise = secrets.token_hex(1_000)
            for message in ("the same words again and again " * 100_000, noise, noise):
                await asyncio.gather(client.send(message), receives(server.recv(), message))
                await asyncio.gather(server.send(message), receives(client.receive(), message))
            same(await client.close(), (1000, "", "end"), "close")

    async def close_codes_and_reasons_arrive_from_either_side(self):
        async with await self.connection() as connection:
            for code, reason in ((1000, ""), (1001, "leaving"), (1011, ""), (3000, "grüße"), (4999, "z" * 123)):
                client, server = await pair(self.backend, connection)
                waiting = asyncio.create_task(ended(server))
                same(await client.close(code, reason), (code, reason, "end"), "the client's, echoed")
                same(await waiting, (code, reason), "at the server")
                client, server = await pair(self.backend, connection)
                waiting = asyncio.create_task(client.closed())
                await server.close(code, reason)
                same(await waiting, (code, reason, "end"), "the server's")
                same((server.close_code, server.close_reason), (code, reason), "echo of it")
            same(connection.resets, [], "streams that were reset")

    async def pings_go_both_ways_with_their_payloads(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection, query="echo=")
            payloads = [b"", b"up", bytes(range(125))]
            for payload in payloads:
                same(await client.ping(payload), payload, "Pong")
            listening = asyncio.create_task(client.receive())
            for payload in payloads:
                await (await server.ping(payload))
            same([data for kind, data in client.controls if kind == "ping"], payloads, "at the client")
            same([data for kind, data in server.controls if kind == "ping"], payloads, "at the server")
            await client.send("done")
            same(await listening, "done", "message")
            same(await client.close(), (1000, "", "end"), "close")

    async def a_client_that_ends_its_direction_gets_what_was_on_its_way(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection)
            client.stream.is_taken = False
            message = secrets.token_bytes(MIB)
            sending = asyncio.create_task(server.send(message))
            await client.send("question")
            same(await server.recv(), "question", "question")
            await client.stream.write(b"", end=True)
            await client.stream.take()
            same(digest(await client.receive()), digest(message), "answer")
            await sending
            same((await ended(server))[0], 1001, "close at the server")
            code, _, how = await client.closed(may_answer=False)
            same((code, how), (1001, "end"), "close at the client")

    async def a_stream_that_nobody_reads_holds_up_no_other(self):
        async with await self.connection() as connection:
            stuck, stuck_server = await pair(self.backend, connection)
            stuck.stream.is_taken = False
            message = secrets.token_bytes(20 * MIB)
            before = self.proxy.resident()
            sending = asyncio.create_task(stuck_server.send(message))

            async def talk():
                client, _ = await pair(self.backend, connection, query="echo=")
                for size in (10, 1_000, 100_000):
                    message = secrets.token_bytes(size)
                    receiving = asyncio.create_task(client.receive())
                    await client.send(message)
                    same(digest(await receiving), digest(message), "echo")
                same(await client.close(), (1000, "", "end"), "close")

            await asyncio.gather(*(talk() for _ in range(25)))
            same((await connection.get("/page"))[0], 200, "page")
            assert not sending.done(), "20 MiB were taken from the server for a client that takes nothing"
            held = self.proxy.resident() - before
            assert held < 40 * MIB, f"{held} bytes more while it was stuck"
            await stuck.stream.take()
            same(digest(await stuck.receive()), digest(message), "all that was held back")
            await sending
            same(await stuck.close(), (1000, "", "end"), "close")

    async def a_hundred_sessions_share_a_connection_and_more_are_refused(self):
        async with await self.connection() as connection:
            limit = connection.h2.remote_settings.max_concurrent_streams
            same(limit, 100, "streams that may be open")
            pairs = await asyncio.gather(*(pair(self.backend, connection, query="echo=") for _ in range(limit)))
            # h2 keeps to the limit; so this one goes by hand.
            block = connection.h2.encoder.encode(connection.head("GET", "/page"))
            ident = connection.h2.get_next_available_stream_id()
            connection.h2.highest_outbound_stream_id = ident
            connection.writer.write(frame(1, 5, ident, block))
            while True:
                got = await asyncio.wait_for(connection.ping(), 30)
                assert got == b"12345678"
                if connection.refused:
                    break
            same(connection.refused, [(ident, 7)], "REFUSED_STREAM")
            for index, (client, _) in enumerate(pairs):
                await client.send(f"message {index}")
                same(await client.receive(), f"message {index}", "echo")
            for client, _ in pairs:
                same(await client.close(), (1000, "", "end"), "close")
            same((await connection.get("/page"))[0], 200, "page")

    async def a_reset_by_the_client_ends_its_session_alone(self):
        async with await self.connection() as connection:
            for code in (8, 0, 2):  # CANCEL, NO_ERROR, INTERNAL_ERROR
                one, one_server = await pair(self.backend, connection)
                other, _ = await pair(self.backend, connection, query="echo=")
                await one.send("last words")
                same(await one_server.recv(), "last words", "message")
                await one.stream.reset(code)
                same((await ended(one_server))[0], 1001, "close at the server")
                await other.send("still here")
                same(await other.receive(), "still here", "echo")
                same(await other.close(), (1000, "", "end"), "close")

    async def a_client_that_vanishes_takes_its_sessions_with_it(self):
        async with await self.connection() as connection:
            servers = [(await pair(self.backend, connection))[1] for _ in range(5)]
        for server in servers:
            same((await ended(server))[0], 1001, "close at the server")

    async def sessions_outlive_a_goaway_of_the_client(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection)
            connection.writer.write(frame(GOAWAY, payload=bytes(8)))
            for _ in range(3):
                await client.send("still here")
                same(await server.recv(), "still here", "message")
                await server.send("and here")
                same(await client.receive(), "and here", "message")
                await connection.ping()
            same(await client.close(4001, "now"), (4001, "now", "end"), "close")
            await connection.closed()
            same([code for _, code in connection.goaways if code], [], "GOAWAYs with errors")

    async def a_server_that_vanishes_is_told_by_a_close_or_a_reset(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection)
            other, _ = await pair(self.backend, connection, query="echo=")
            server.transport.abort()
            code, _, how = await client.closed()
            assert (code, how) in ((None, "reset 8"), (1014, "end"), (None, "end")), (code, how)
            await other.send("still here")
            same(await other.receive(), "still here", "echo")

    async def a_message_over_the_limit_is_a_1009_and_the_stream_ends_in_order(self):
        async with await self.connection() as connection:
            other, _ = await pair(self.backend, connection, query="echo=")
            for size in (64 * 1024 + 1, 8 * MIB):
                client, server = await pair(self.backend, connection, path="/limited")
                waiting = asyncio.create_task(ended(server))
                sending = asyncio.create_task(client.send(secrets.token_bytes(size)))
                code, _, how = await client.closed()
                await asyncio.wait([sending])  # it may have failed, as the stream has ended
                sending.exception()
                same((code, how in ("end", "reset 0", "reset 8")), (1009, True), f"close, and the stream's end {how}")
                same((await waiting)[0], 1001, "close at the server")
            await other.send("still here")
            same(await other.receive(), "still here", "echo")

    async def silence_ends_a_session_with_1001(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection, path="/idle")
            to_client, to_server = await asyncio.gather(client.closed(), ended(server))
            same((to_client, to_server[0]), ((1001, "idle timeout", "end"), 1001), "closes")

    async def a_refusal_by_the_server_keeps_its_status_and_body(self):
        async with await self.connection() as connection:
            try:
                await connection.websocket("/?refuse=")
            except Refused as refused:
                same(refused.args, (401, b"no way\n"), "answer")
            else:
                raise AssertionError("the session was opened")
            same(await connection.get("/page"), (200, b"plain\n"), "page")

    async def a_foreign_origin_is_refused_with_403(self):
        async with await self.connection() as connection:
            try:
                await connection.websocket("/", ("origin", "https://evil.example"))
            except Refused as refused:
                same(refused.status, 403, "status")
            else:
                raise AssertionError("the session was opened")
            origin = f"{connection.scheme}://{connection.host}"
            client, _ = await pair(self.backend, connection, ("origin", origin))
            same(await client.close(), (1000, "", "end"), "close")

    async def an_open_session_lives_through_ten_reloads(self):
        async with await self.connection() as connection:
            client, server = await pair(self.backend, connection)
            for count in range(10):
                await self.proxy.reload()
                await client.send(f"number {count}")
                same(await server.recv(), f"number {count}", "message")
                await server.send(f"answer {count}")
                same(await client.receive(), f"answer {count}", "message")
                same((await connection.get("/page"))[0], 200, "a page on the same connection")
            same((connection.goaways, connection.resets), ([], []), "what the connection was told")
            same(await client.close(), (1000, "", "end"), "close")


async def pair(backend, connection, *more, path="/", query="", **options):
    """Both ends of a fresh session."""
    ident = str(next(backend.ids))
    backend.sides[ident] = asyncio.get_running_loop().create_future()
    client = await connection.websocket(f"{path}?id={ident}&{query}", *more, **options)
    return client, await backend.sides.pop(ident)


async def receives(receiving, message):
    assert await receiving == message, "message differs"


async def draining(binary, backend, trust):
    """TERM: each session gets its 1012 at its own moment, no stream is reset, and the connections end in order."""
    async with Proxy(binary, backend.port) as proxy:
        connections = [await Connection.open(proxy.prior), await Connection.open(proxy.tls, trust)]
        pairs = [await pair(backend, connection) for connection in connections for _ in range(25)]
        waiting = [asyncio.create_task(client.closed()) for client, _ in pairs]
        at_servers = [asyncio.create_task(ended(server)) for _, server in pairs]
        proxy.process.send_signal(signal.SIGTERM)
        for client, server in zip(waiting, at_servers):
            code, _, how = await client
            same((code, how, (await server)[0]), (1012, "end", 1001), "close codes, and the stream's end")
        for connection in connections:
            await connection.closed()
            assert connection.goaways, "no GOAWAY"
            same({code for _, code in connection.goaways}, {0}, "codes of GOAWAY")
            same(connection.resets, [], "streams that were reset")
        same(await proxy.process.wait(), 0, "exit status")


async def behind_is_hypercorn(binary, trust):
    """An ASGI server: a page, an echo with a subprotocol, and a refusal."""
    async with (
        Hypercorn() as server, Proxy(binary, server.port) as proxy,
        await Connection.open(proxy.tls, trust) as connection,
    ):
        same(await connection.get("/"), (200, b"plain\n"), "page")
        client = await connection.websocket("/", ("sec-websocket-protocol", "chat"))
        same(client.headers["sec-websocket-protocol"], "chat", "subprotocol")
        for message in ("hello", secrets.token_bytes(MIB)):
            receiving = asyncio.create_task(client.receive())
            await client.send(message)
            same(await receiving, message, "echo")
        same(await client.close(4000, "bye"), (4000, "bye", "end"), "close")
        try:
            await connection.websocket("/?refuse=")
        except Refused as refused:
            same(refused.status, 403, "status")
        else:
            raise AssertionError("the session was opened")


async def http_1_beside_it(proxy, trust):
    """Whoever does not offer h2, or knows nothing of it, is served as ever, on the same listeners."""
    old = ssl.create_default_context(cafile=os.environ["WSLUICE_CERT"])
    for url, context in ((f"https://localhost:{proxy.tls}/page", old), (f"http://127.0.0.1:{proxy.prior}/page", None)):
        same(await asyncio.to_thread(fetch, url, context), (int(http.HTTPStatus.OK), b"plain\n"), url)
    for url, options in ((f"wss://localhost:{proxy.tls}/?echo=", {"ssl": old}), (f"ws://127.0.0.1:{proxy.prior}/?echo=", {})):
        async with connect(url, proxy=None, **options) as client:
            await client.send("hello")
            same(await client.recv(), "hello", "echo")


async def main():
    # A timeout from outside ends the proxy as well.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    report, backend = Report(), await Backend().start()
    binary, trust = sys.argv[1], trusting(os.environ["WSLUICE_CERT"])
    async with Proxy(binary, backend.port) as proxy:
        await report.run_all("h2c", Cases(proxy, backend, proxy.prior, None))
        await report.run_all("h2", Cases(proxy, backend, proxy.tls, trust))
        await report.run("clients of HTTP/1.1 are served beside it", lambda: http_1_beside_it(proxy, trust))
        await report.run("nothing is left of it", lambda: proxy.becomes(0, "wsluice_http2_streams_active"))
    await hostile(report, binary, trust)
    await report.run("TERM drains: each session gets its 1012, no stream is reset", lambda: draining(binary, backend, trust))
    await report.run("hypercorn behind: pages, echo, a refusal", lambda: behind_is_hypercorn(binary, trust))
    report.finish()


asyncio.run(main())
