"""Requests that are no good, frames that break the rules, and floods: each gets its answer by RFC 8441 or RFC 9113.

Never a tunnel, never silence, never more memory than there may be; and whoever comes next is served.
"""

import asyncio
import contextlib
import secrets
import struct

from wsproto.events import TextMessage

from asgi import MIB, Hypercorn
from http2_client import (
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, Connection, Raw, frame, read_frame,
)
from proxy import Proxy
from report import same

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 8, 9, 11
INITIAL_WINDOW_SIZE, ENABLE_CONNECT_PROTOCOL, HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_FRAME_SIZE = 4, 8, 1, 2, 5
WINDOW_MAX = (1 << 31) - 1


def status(code):
    return {("status", code)}


def stream_error(*codes):
    """RFC 9113 §5.4.2: it may be taken as one of the connection, but no session on it should pay for that."""
    return {("reset", code) for code in codes}


def connection_error(*codes):
    return {("goaway", code) for code in codes}


#: RFC 9113 §8.1.1: a stream error of this type, or an answer before it.
MALFORMED = stream_error(PROTOCOL_ERROR) | status(400)
#: The same, where the crate beneath cannot tell it from a head that it cannot read (RFC 9113 §5.4.1: that is allowed).
UNREADABLE = MALFORMED | connection_error(PROTOCOL_ERROR)
#: What is not as it should be yet, and what comes instead. A row that has become right has to go from here.
FAULTS = {
    "a pseudo-header among trailers": ("status", 200),
}


def judge(name, outcome, wanted):
    if name in FAULTS:
        same(outcome, FAULTS[name], "a known fault has changed")
    else:
        assert outcome in wanted, f"{outcome}, wanted one of {sorted(wanted)}"


# --- requests


def extended(**changes):
    """An extended CONNECT for a WebSocket; `None` leaves a pseudo-header out, a list repeats it. `more` stand behind."""

    def fields(raw):
        pseudo = {"method": "CONNECT", "protocol": "websocket", "scheme": raw.scheme, "path": "/", "authority": raw.host}
        more = changes.get("more", ())
        pseudo.update({name: value for name, value in changes.items() if name in pseudo})
        for name, values in pseudo.items():
            for value in values if isinstance(values, list) else [values]:
                if value is not None:
                    yield f":{name}".encode(), value if isinstance(value, bytes) else value.encode()
        if changes.get("version", "13"):
            yield b"sec-websocket-version", changes.get("version", "13").encode()
        for name, value in more:
            yield name.encode(), value if isinstance(value, bytes) else value.encode()

    return fields


def more(*fields):
    return extended(more=fields)


def page(*fields, **changes):
    return extended(**{"method": "GET", "protocol": None, "version": None, "more": fields, **changes})


def behind(*fields):
    """Pseudo-headers that come too late."""

    def made(raw):
        return [*extended(path=None)(raw), (b"x-own", b"1"), *fields]

    return made


REQUESTS = [
    # Pseudo-headers (RFC 9113 §8.3, RFC 8441 §4)
    ("no :method", extended(method=None), MALFORMED),
    ("no :scheme", extended(scheme=None), MALFORMED),
    ("no :path", extended(path=None), MALFORMED),
    ("no :authority", extended(authority=None), MALFORMED),
    (":method twice", extended(method=["CONNECT", "CONNECT"]), MALFORMED),
    (":path twice", extended(path=["/", "/"]), MALFORMED),
    (":scheme twice", extended(scheme=["https", "https"]), MALFORMED),
    (":protocol twice", extended(protocol=["websocket", "websocket"]), MALFORMED),
    (":authority twice", extended(authority=["localhost", "localhost"]), MALFORMED),
    ("an unknown pseudo-header", more((":own", "1")), UNREADABLE),
    (":status in a request", more((":status", "200")), MALFORMED),
    ("a pseudo-header behind a field", behind((b":path", b"/")), MALFORMED),
    (":protocol on GET", extended(method="GET"), MALFORMED),
    (":protocol on POST", extended(method="POST"), MALFORMED),
    ("an empty :method", extended(method=""), UNREADABLE),
    ("a :method with a space", extended(method="CON NECT"), UNREADABLE),
    ("an unknown :scheme", extended(scheme="ftp"), MALFORMED),
    ("an empty :scheme", extended(scheme=""), MALFORMED),
    # CONNECT
    ("an unknown :protocol", extended(protocol="connect-udp"), status(501)),
    (":protocol in upper case", extended(protocol="WebSocket"), status(501)),
    ("an empty :protocol", extended(protocol=""), status(501) | MALFORMED),
    ("a plain CONNECT", extended(protocol=None, scheme=None, path=None), status(405) | status(501)),
    ("a plain CONNECT with :scheme and :path", extended(protocol=None), MALFORMED),
    # Fields of connections (RFC 9113 §8.2.2)
    ("Upgrade", more(("upgrade", "websocket")), MALFORMED),
    ("Connection", more(("connection", "upgrade")), MALFORMED),
    ("Transfer-Encoding", more(("transfer-encoding", "chunked")), MALFORMED),
    ("Keep-Alive", more(("keep-alive", "timeout=5")), MALFORMED),
    ("Proxy-Connection", more(("proxy-connection", "keep-alive")), MALFORMED),
    ("TE other than trailers", more(("te", "gzip")), MALFORMED),
    ("Transfer-Encoding on a page", page(("transfer-encoding", "chunked")), MALFORMED),
    # Fields (RFC 9113 §8.2.1)
    ("a name in upper case", more(("X-Own", "1")), UNREADABLE),
    ("a name with a space", more(("x own", "1")), UNREADABLE),
    ("a name with a colon", more(("x:own", "1")), UNREADABLE),
    ("an empty name", more(("", "1")), UNREADABLE),
    ("a value with CR LF", more(("x-own", "1\r\nx-smuggled: 1")), UNREADABLE),
    ("a value with NUL", more(("x-own", "1\0")), UNREADABLE),
    # What a request for a WebSocket must and must not say
    ("a Host that differs", more(("host", "other.example")), MALFORMED),
    ("a Host twice", more(("host", "other.example"), ("host", "other.example")), MALFORMED),
    ("a Content-Length", more(("content-length", "3")), MALFORMED),
    ("a Content-Length that is no number", more(("content-length", "x")), MALFORMED),
    ("no version", extended(version=None), status(400) | status(426)),
    ("another version", extended(version="8"), status(400) | status(426)),
    ("the version twice", more(("sec-websocket-version", "13")), status(400)),
    ("a subprotocol twice", more(("sec-websocket-protocol", "a, a")), status(400)),
    ("extensions that cannot be read", more(("sec-websocket-extensions", "; =")), status(400)),
    # :path and :authority
    ("an empty :path", extended(path=""), MALFORMED),
    ("a :path without a slash", extended(path="chat"), MALFORMED),
    ("a :path that is a star", extended(path="*"), MALFORMED),
    ("a :path with a space", extended(path="/a b"), MALFORMED),
    ("a :path with CR LF", extended(path="/ HTTP/1.1\r\nx-smuggled: 1\r\n\r\n"), MALFORMED),
    ("a :path with NUL", extended(path="/\0"), MALFORMED),
    ("a :path that is a URL", extended(path="http://other.example/"), MALFORMED),
    ("an empty :authority", extended(authority=""), MALFORMED),
    ("an :authority with a user", extended(authority="user@localhost"), MALFORMED),
    ("an :authority with a path", extended(authority="localhost/x"), MALFORMED),
    ("an :authority with a space", extended(authority="local host"), MALFORMED),
    ("an :authority with a port that is none", extended(authority="localhost:99999"), MALFORMED),
    # Sizes
    ("a hundred and one fields and more", more(*((f"x-{index}", "1") for index in range(200))), status(431)),
    ("a field of 20 KiB", more(("x-long", "v" * 20_000)), status(431)),
    ("a head of 20 KiB", more(*((f"x-{index}", "v" * 600) for index in range(40))), status(431)),
    # RFC 9113 §10.5.1: one that is not even read on cannot be answered, as what follows could not be read either.
    ("a head of 60 KiB", more(*((f"x-{index}", "v" * 600) for index in range(100))),
     status(431) | connection_error(COMPRESSION_ERROR, ENHANCE_YOUR_CALM)),
    ("a :path of 60 KiB", extended(path="/" + "v" * 60_000), status(414) | status(431)),
]


def in_pieces(stream, block, flags):
    """HEADERS and as many CONTINUATIONs as are needed."""
    pieces = [block[start : start + 16_384] for start in range(0, len(block), 16_384)] or [b""]
    for index, piece in enumerate(pieces):
        ends = END_HEADERS if index == len(pieces) - 1 else 0
        yield frame(HEADERS, flags | ends, stream, piece) if index == 0 else frame(CONTINUATION, ends, stream, piece)


async def still_serves(raw, stream=101):
    """A request on the same connection is answered."""
    raw.send(raw.headers(stream, list(page()(raw))))
    same(await raw.outcome(stream), ("status", 200), "the next request of the same connection")


async def request(site, name, fields, wanted, flags=0):
    accepted = site.backend.accepted
    for port, tls in site.ports:
        async with await Raw.open(port, tls) as raw:
            raw.send(*in_pieces(1, raw.encoder.encode(list(fields(raw))), flags))
            outcome = await raw.outcome()
            judge(name, outcome, wanted)
            assert name in FAULTS or site.backend.accepted == accepted, "a session at the server"
            if outcome[0] != "goaway":
                await still_serves(raw)


# --- frames


def good(raw, stream=1, flags=END_HEADERS, fields=None):
    return raw.headers(stream, list((fields or page(method="POST"))(raw)), flags)


def open_and(*frames):
    return lambda raw: [good(raw), *frames]


def closed_and(*frames):
    return lambda raw: [good(raw, flags=END_HEADERS | END_STREAM, fields=page()), *frames]


def u32(*numbers):
    return struct.pack(f"!{len(numbers)}I", *numbers)


def setting(ident, value):
    return struct.pack("!HI", ident, value)


#: RFC 9113 has codes of their own for these; the crate beneath says PROTOCOL_ERROR of all that it cannot read.
WRONG_SIZE = connection_error(FRAME_SIZE_ERROR, PROTOCOL_ERROR)
WRONG_HPACK = connection_error(COMPRESSION_ERROR, PROTOCOL_ERROR)

FRAMES = [
    ("DATA on an idle stream", lambda raw: [frame(DATA, 0, 1, b"x")], connection_error(PROTOCOL_ERROR)),
    ("DATA on stream 0", lambda raw: [frame(DATA, 0, 0, b"x")], connection_error(PROTOCOL_ERROR)),
    ("DATA with more padding than there is", open_and(frame(DATA, PADDED, 1, b"\xff")), connection_error(PROTOCOL_ERROR)),
    ("DATA behind END_STREAM", closed_and(frame(DATA, 0, 1, b"x")),
     stream_error(STREAM_CLOSED, PROTOCOL_ERROR) | connection_error(STREAM_CLOSED, PROTOCOL_ERROR) | status(200)),
    ("DATA longer than Content-Length", lambda raw: [
        good(raw, fields=page(("content-length", "3"), method="POST")), frame(DATA, END_STREAM, 1, b"four")], MALFORMED),
    ("DATA shorter than Content-Length", lambda raw: [
        good(raw, fields=page(("content-length", "5"), method="POST")), frame(DATA, END_STREAM, 1, b"four")],
     MALFORMED | status(502)),
    ("two lengths that disagree", lambda raw: [
        good(raw, fields=page(("content-length", "4"), ("content-length", "5"), method="POST")),
        frame(DATA, END_STREAM, 1, b"four")], MALFORMED),
    ("HEADERS on stream 0", lambda raw: [good(raw, stream=0)], connection_error(PROTOCOL_ERROR)),
    ("HEADERS on an even stream", lambda raw: [good(raw, stream=2)], connection_error(PROTOCOL_ERROR)),
    ("HEADERS on a stream that was passed over", lambda raw: [good(raw, stream=5), good(raw, stream=3)],
     connection_error(PROTOCOL_ERROR, STREAM_CLOSED)),
    ("trailers without END_STREAM", open_and(frame(HEADERS, END_HEADERS, 1, b"")),
     stream_error(PROTOCOL_ERROR) | connection_error(PROTOCOL_ERROR) | status(400)),
    ("a pseudo-header among trailers", lambda raw: [
        good(raw), frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.encoder.encode([(b":path", b"/")]))], MALFORMED),
    ("another frame in the midst of a head", lambda raw: [good(raw, flags=0), frame(PING, 0, 0, bytes(8))],
     connection_error(PROTOCOL_ERROR)),
    ("CONTINUATION of another stream", lambda raw: [good(raw, flags=0), frame(CONTINUATION, END_HEADERS, 3)],
     connection_error(PROTOCOL_ERROR)),
    ("CONTINUATION of nothing", lambda raw: [frame(CONTINUATION, END_HEADERS, 1)], connection_error(PROTOCOL_ERROR)),
    ("PRIORITY of 4 bytes", lambda raw: [frame(PRIORITY, 0, 1, bytes(4))],
     stream_error(FRAME_SIZE_ERROR) | WRONG_SIZE),
    ("RST_STREAM of an idle stream", lambda raw: [frame(RST_STREAM, 0, 1, u32(8))], connection_error(PROTOCOL_ERROR)),
    ("RST_STREAM of 3 bytes", open_and(frame(RST_STREAM, 0, 1, bytes(3))), WRONG_SIZE),
    ("SETTINGS on a stream", lambda raw: [frame(SETTINGS, 0, 1)], connection_error(PROTOCOL_ERROR)),
    ("SETTINGS of 5 bytes", lambda raw: [frame(SETTINGS, 0, 0, bytes(5))], WRONG_SIZE),
    ("an acknowledgement with a payload", lambda raw: [frame(SETTINGS, 1, 0, setting(1, 1))],
     WRONG_SIZE),
    ("a window over 2^31-1", lambda raw: [frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 1 << 31))],
     connection_error(FLOW_CONTROL_ERROR, PROTOCOL_ERROR)),
    ("frames of less than 16 KiB", lambda raw: [frame(SETTINGS, 0, 0, setting(MAX_FRAME_SIZE, 100))],
     connection_error(PROTOCOL_ERROR)),
    ("ENABLE_PUSH of 2", lambda raw: [frame(SETTINGS, 0, 0, setting(ENABLE_PUSH, 2))], connection_error(PROTOCOL_ERROR)),
    ("ENABLE_CONNECT_PROTOCOL of 2", lambda raw: [frame(SETTINGS, 0, 0, setting(ENABLE_CONNECT_PROTOCOL, 2))],
     connection_error(PROTOCOL_ERROR)),
    ("PUSH_PROMISE", open_and(frame(PUSH_PROMISE, END_HEADERS, 1, u32(2))), connection_error(PROTOCOL_ERROR)),
    ("PING of 7 bytes", lambda raw: [frame(PING, 0, 0, bytes(7))], WRONG_SIZE),
    ("PING on a stream", lambda raw: [frame(PING, 0, 1, bytes(8))], connection_error(PROTOCOL_ERROR)),
    ("GOAWAY on a stream", lambda raw: [frame(GOAWAY, 0, 1, bytes(8))], connection_error(PROTOCOL_ERROR)),
    ("WINDOW_UPDATE of 0", lambda raw: [frame(WINDOW_UPDATE, 0, 0, u32(0))], connection_error(PROTOCOL_ERROR)),
    ("WINDOW_UPDATE of 0 on a stream", open_and(frame(WINDOW_UPDATE, 0, 1, u32(0))),
     stream_error(PROTOCOL_ERROR) | connection_error(PROTOCOL_ERROR)),
    ("WINDOW_UPDATE of an idle stream", lambda raw: [frame(WINDOW_UPDATE, 0, 1, u32(1))], connection_error(PROTOCOL_ERROR)),
    ("WINDOW_UPDATE of 3 bytes", lambda raw: [frame(WINDOW_UPDATE, 0, 0, bytes(3))], WRONG_SIZE),
    ("a window of the connection over 2^31-1", lambda raw: [frame(WINDOW_UPDATE, 0, 0, u32(WINDOW_MAX))],
     connection_error(FLOW_CONTROL_ERROR)),
    ("a window of a stream over 2^31-1", open_and(frame(WINDOW_UPDATE, 0, 1, u32(WINDOW_MAX))),
     stream_error(FLOW_CONTROL_ERROR)),
    ("a frame of more than 16 KiB", open_and(frame(DATA, 0, 1, bytes(16_385))),
     WRONG_SIZE | stream_error(FRAME_SIZE_ERROR)),
    ("a head that HPACK cannot read", lambda raw: [frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff")],
     WRONG_HPACK),
    ("an index beyond the table", lambda raw: [frame(HEADERS, END_HEADERS, 1, b"\xfe")], WRONG_HPACK),
    ("the index 0", lambda raw: [frame(HEADERS, END_HEADERS, 1, b"\x80")], WRONG_HPACK),
    ("a table larger than it may be", lambda raw: [frame(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\x03")],
     WRONG_HPACK),
    ("a string that ends too soon", lambda raw: [frame(HEADERS, END_HEADERS, 1, b"\x00\x7f\x7f")],
     WRONG_HPACK),
    ("Huffman codes that end wrongly", lambda raw: [frame(HEADERS, END_HEADERS, 1, b"\x00\x81\x00\x81\x00")],
     WRONG_HPACK),
]


async def frames(site, name, made, wanted):
    for port, tls in site.ports:
        async with await Raw.open(port, tls) as raw:
            raw.send(*made(raw))
            outcome = await raw.outcome()
            judge(name, outcome, wanted)
            if outcome[0] != "goaway":
                await still_serves(raw)
            else:
                await raw.end()


# --- floods


class Site:
    def __init__(self, proxy, backend, trust):
        self.proxy, self.backend = proxy, backend
        self.ports = [(proxy.prior, None), (proxy.tls, trust)]

    async def serves(self):
        """A normal client is served, a page and a session."""
        self.proxy.must_run()
        for port, tls in self.ports:
            async with await Connection.open(port, tls) as connection:
                same((await connection.get("/page"))[0], 200, "page")
                client = await connection.websocket("/")
                await client.send("hello")
                same(await client.receive(), "hello", "echo")
                same(await client.close(), (1000, "", "end"), "close")


def opening(raw, stream, fields=None):
    return raw.headers(stream, list((fields or page())(raw)), END_HEADERS | END_STREAM)


def opened_and_cancelled(raw, round_):
    stream = 2 * round_ + 1
    return opening(raw, stream) + frame(RST_STREAM, 0, stream, u32(CANCEL))


def opened_and_spoiled(raw, round_):
    """The proxy itself has to reset each of them."""
    stream = 2 * round_ + 1
    return opening(raw, stream) + frame(WINDOW_UPDATE, 0, stream, u32(WINDOW_MAX))


def sessions_opened_and_cancelled(raw, round_):
    stream = 2 * round_ + 1
    return raw.headers(stream, list(extended()(raw)), END_HEADERS) + frame(RST_STREAM, 0, stream, u32(CANCEL))


def endless_head(raw, round_):
    if round_ == 0:
        return raw.headers(1, list(page()(raw)), 0)
    return frame(CONTINUATION, 0, 1, raw.encoder.encode([(f"x-{round_}".encode(), b"v" * 16_000)], huffman=False))


FLOODS = [
    ("SETTINGS", lambda raw, _: frame(SETTINGS)),
    ("SETTINGS that change a table", lambda raw, round_: frame(SETTINGS, payload=setting(HEADER_TABLE_SIZE, round_ % 4096))),
    ("SETTINGS that change windows", lambda raw, round_: frame(SETTINGS, payload=setting(INITIAL_WINDOW_SIZE, round_ % 9))),
    ("PING", lambda raw, _: frame(PING, payload=bytes(8))),
    ("PRIORITY", lambda raw, round_: frame(PRIORITY, 0, 2 * round_ + 1, bytes(5))),
    ("WINDOW_UPDATE", lambda raw, _: frame(WINDOW_UPDATE, payload=u32(1))),
    ("frames of unknown kinds", lambda raw, _: frame(0xEE)),
    ("empty DATA", lambda raw, round_: frame(DATA, 0, 1) if round_ else good(raw)),
    ("padding without DATA", lambda raw, round_: frame(DATA, PADDED, 1, b"\xff" + bytes(255)) if round_ else good(raw)),
    ("empty CONTINUATION", lambda raw, round_: frame(CONTINUATION, 0, 1) if round_ else raw.headers(1, list(page()(raw)), 0)),
    ("a head without an end", endless_head),
    ("requests opened and cancelled", opened_and_cancelled),
    ("WebSockets opened and cancelled", sessions_opened_and_cancelled),
    ("requests that have to be reset", opened_and_spoiled),
    ("heads that are no good", lambda raw, round_: opening(raw, 2 * round_ + 1, page(path=""))),
]


async def flood(site, make):
    before = site.proxy.resident()
    for port, tls in site.ports:
        async with await Raw.open(port, tls) as raw:
            code = await raw.flood(lambda round_: make(raw, round_))
            # None: it was still sending, so that a TCP reset has overtaken the GOAWAY.
            assert code in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR, None), f"GOAWAY {code}"
    grown = site.proxy.resident() - before
    assert grown < 32 * MIB, f"{grown} bytes more than before"
    await site.serves()


async def packed_heads(site):
    """One entry of the table, and then heads that name it thousands of times: a few KiB that stand for 60 MiB each."""
    before = site.proxy.resident()

    async def attack(port, tls):
        async with await Raw.open(port, tls) as raw:
            block = raw.encoder.encode([*page()(raw), (b"x-bomb", b"v" * 3_900)])
            raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
            for stream in range(3, 203, 2):
                raw.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, raw.encoder.encode(page()(raw)) + b"\xbe" * 16_000))
            outcome = await raw.outcome(201)
            assert outcome in status(431) | connection_error(ENHANCE_YOUR_CALM) | {("end", None)}, outcome

    await asyncio.gather(*(attack(port, tls) for port, tls in site.ports for _ in range(10)))
    grown = site.proxy.resident() - before
    assert grown < 48 * MIB, f"{grown} bytes more than before"
    await site.serves()


async def closed_windows(site):
    """Pages of 4 MiB and sessions that have much to say, to clients that take nothing and go."""
    before = site.proxy.resident()
    raws = [await Raw.open(port, tls, setting(INITIAL_WINDOW_SIZE, 0)) for port, tls in site.ports for _ in range(3)]
    for raw in raws:
        raw.send(*(raw.headers(stream, list(page(path="/?large=")(raw))) for stream in range(1, 101, 2)))
        for stream in range(101, 201, 2):
            raw.send(raw.headers(stream, list(extended(path="/?greet=")(raw)), END_HEADERS))
    for raw in raws:
        answered = set()
        while len(answered) < 100:
            kind, _, stream, payload, _ = await read_frame(raw.reader)
            assert kind != DATA or not payload, "DATA without a window"
            if kind == HEADERS:
                answered.add(stream)
    grown = site.proxy.resident() - before
    for raw in raws:
        raw.writer.transport.abort()
    # 64 KiB that wait on each stream, and about as much that was read from its server.
    assert grown < 600 * 256 * 1024, f"{grown} bytes more than before"
    await site.proxy.becomes(0, "wsluice_http2_streams_active")
    await site.serves()


async def more_than_the_window(site):
    """A client that does not care how much it may send: a session's stream, whose server takes nothing."""
    for port, tls in site.ports:
        async with await Connection.open(port, tls) as connection:
            stuck = await connection.websocket("/?stuck=")
            message = stuck.socket.send(TextMessage(data="x" * 16_000))
            before = site.proxy.resident()
            for _ in range(4_000):
                if connection.writer.is_closing() or stuck.stream.ended.done():
                    break
                connection.writer.write(frame(DATA, 0, stuck.stream.id, message))
                with contextlib.suppress(ConnectionError):
                    await connection.writer.drain()
                await asyncio.sleep(0)
            how = await stuck.stream.ended
            codes = {code for _, code in connection.goaways}
            assert how in ("reset 3", "lost") and codes <= {FLOW_CONTROL_ERROR}, f"{how}, GOAWAY {codes}"
            grown = site.proxy.resident() - before
            assert grown < 24 * MIB, f"{grown} bytes more than before"
    await site.serves()


async def too_many_streams(site):
    """A hundred streams that stay, and thousands of requests beyond them: each is refused, and nothing else happens."""
    before = site.proxy.resident()
    for port, tls in site.ports:
        async with await Raw.open(port, tls, setting(INITIAL_WINDOW_SIZE, 0)) as raw:
            raw.send(*(raw.headers(stream, list(extended(path="/")(raw)), END_HEADERS) for stream in range(1, 201, 2)))
            code = await raw.flood(lambda round_: opening(raw, 201 + 2 * round_), rounds=20_000)
            assert code in (ENHANCE_YOUR_CALM, None), f"GOAWAY {code}"
    grown = site.proxy.resident() - before
    assert grown < 32 * MIB, f"{grown} bytes more than before"
    await site.serves()


async def cancelled_together(site):
    """A page asks for a lot and is left at once, as a browser may: a session on the same connection lives on."""
    for port, tls in site.ports:
        async with await Connection.open(port, tls) as connection:
            session = await connection.websocket("/")
            streams = [await connection.request(connection.head("GET", "/?large="), flush=False) for _ in range(60)]
            for stream in streams:
                connection.h2.reset_stream(stream.id, CANCEL)
            await connection.flush()
            await session.send("still here")
            same(await session.receive(), "still here", "echo")
            same(connection.goaways, [], "GOAWAYs")


async def small_messages(site):
    """Sessions whose servers read nothing, and clients that send small messages within the windows: no other session is hurt."""
    for port, tls in site.ports:
        async with await Connection.open(port, tls) as connection:
            session = await connection.websocket("/")
            before = site.proxy.resident()
            stuck = [await connection.websocket("/?stuck=") for _ in range(4)]
            await asyncio.gather(*(fill(connection, each.stream.id) for each in stuck))
            for each in stuck:
                message = b"\x82\x81\0\0\0\0x"  # of one byte
                count = connection.h2.local_flow_control_window(each.stream.id) // len(message)
                connection.writer.write(frame(DATA, 0, each.stream.id, message) * count)
                await connection.writer.drain()
            await session.send("still here")
            same(await session.receive(), "still here", "echo")
            same(connection.goaways, [], "GOAWAYs")
            grown = site.proxy.resident() - before
            assert grown < 96 * MIB, f"{grown} bytes more than before"


async def fill(connection, stream, left=100_000):
    """Sends until the server takes nothing, and leaves some of the window."""
    while True:
        while connection.h2.local_flow_control_window(stream) > left:
            connection.h2.send_data(stream, struct.pack("!BBH", 0x82, 0xFE, 16_000) + bytes(4 + 16_000))
            await connection.flush()
        for _ in range(20):  # what the server takes is given back, in parts; that it takes nothing is told by nothing
            await connection.ping()
            if connection.h2.local_flow_control_window(stream) > left:
                break
            await asyncio.sleep(0.02)
        else:
            return


async def garbage(site):
    """What is no HTTP/2 behind the preface, and prefaces that are none."""
    for port, tls in site.ports:
        for bytes_ in (PREFACE + secrets.token_bytes(100), PREFACE[:-2] + b"xx" + bytes(100), PREFACE + bytes(64)):
            async with await Raw.open(port, tls, preface=bytes_) as raw:
                assert await raw.outcome() in connection_error(PROTOCOL_ERROR, FRAME_SIZE_ERROR) | status(400) | {("end", None)}
                await raw.end()
    await site.serves()


def told(what, name):
    return f"{what} {name}{' (a known fault)' if name in FAULTS else ''}"


async def hostile(report, binary, trust):
    async with Hypercorn(buffer=64 * 1024) as backend, Proxy(binary, backend.port) as proxy:
        site = Site(proxy, backend, trust)
        await report.run("before the attack: a page and a session", site.serves)
        at_first = proxy.resident()
        for name, fields, wanted in REQUESTS:
            await report.run(told("a request with", name), lambda: request(site, name, fields, wanted))
        name = "a CONNECT that ends its stream"
        await report.run(told("a request with", name), lambda: request(site, name, extended(), status(400), END_STREAM))
        for name, made, wanted in FRAMES:
            await report.run(told("a frame that is no good:", name), lambda: frames(site, name, made, wanted))
        await report.run("what is no HTTP/2", lambda: garbage(site))
        for name, make in FLOODS:
            await report.run(f"a flood: {name}", lambda: flood(site, make))
        await report.run("a flood: streams beyond the limit", lambda: too_many_streams(site))
        await report.run("heads that unpack to gigabytes", lambda: packed_heads(site))
        await report.run("windows that stay closed", lambda: closed_windows(site))
        await report.run("more than the window", lambda: more_than_the_window(site))
        await report.run("requests cancelled together hurt no session", lambda: cancelled_together(site))
        await report.run("small messages that nobody takes hurt no other session", lambda: small_messages(site))

        async def nothing_is_left():
            backend.release()
            await site.serves()
            await proxy.becomes(0, "wsluice_http2_streams_active")
            await proxy.becomes(0, "wsluice_http2_connections_active")
            await proxy.becomes(0, "wsluice_sessions_active")
            same(await proxy.metric("wsluice_panics_total"), 0, "panics")
            grown = proxy.resident() - at_first
            assert grown < 96 * MIB, f"{grown} bytes more than before all of it"
            print(f"        {grown >> 20} MiB more than before all of it", flush=True)

        await report.run("after the attack: nothing is left of it, and clients are served", nothing_is_left)
