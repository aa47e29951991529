"""Clients of HTTP/2: Python's h2 with wsproto on its streams (RFC 8441), and one that sends whatever it is told to."""

import asyncio
import contextlib
import ssl
import struct

import hpack
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes
from wsproto.connection import Connection as WebSocket, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CONNECTION_WINDOW = 1 << 26


def trusting(file):
    """The TLS of a client that offers HTTP/2 alone."""
    context = ssl.create_default_context(cafile=file)
    context.set_alpn_protocols(["h2"])
    return context


async def dial(port, tls=None):
    reader, writer = await asyncio.open_connection("localhost" if tls else "127.0.0.1", port, ssl=tls)
    if tls:
        agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert agreed == "h2", f"ALPN agreed on {agreed}"
    return reader, writer


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


async def read_frame(reader):
    """The next frame as kind, flags, stream and payload, and as it came; None at the end of the connection."""
    try:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3]))
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        return None
    return head[3], head[4], int.from_bytes(head[5:]) & 0x7FFF_FFFF, payload, head + payload


# --- one that keeps to the rules


class Stream:
    """What came on a stream, and how it ended: "end", "reset CODE" or "lost"."""

    def __init__(self, connection, ident):
        self.connection, self.id = connection, ident
        self.headers = asyncio.get_running_loop().create_future()
        self.arrived = asyncio.Queue()  # pieces of the body, and None behind the last one
        self.ended = asyncio.get_running_loop().create_future()
        self.trailers = None
        self.is_sent = False  # whether our direction has ended
        self.is_taken = True  # where it is not, what comes is not given back to the window
        self.owed = 0

    def finish(self, how):
        if not self.ended.done():
            self.ended.set_result(how)
            self.arrived.put_nowait(None)
        if not self.headers.done():
            self.headers.set_exception(ConnectionError(f"no answer: {how}"))
            self.headers.exception()  # whoever waits for it gets it; nobody has to

    async def write(self, data, end=False):
        """Sends within the windows."""
        connection, offset = self.connection, 0
        while offset < len(data):
            if self.is_sent or self.ended.done():
                raise ConnectionError("the stream has ended")
            room = min(connection.h2.local_flow_control_window(self.id), connection.h2.max_outbound_frame_size)
            if room <= 0:
                await connection.window_opens()
                continue
            part = data[offset : offset + room]
            offset += len(part)
            self.is_sent = end and offset == len(data)
            connection.h2.send_data(self.id, part, end_stream=self.is_sent)
            await connection.flush()
        if end and not data:
            connection.h2.end_stream(self.id)
            self.is_sent = True
            await connection.flush()

    async def reset(self, code=8):
        self.connection.h2.reset_stream(self.id, code)
        await self.connection.flush()

    async def take(self):
        """Gives back all that was left in the window, and goes on."""
        self.is_taken = True
        if self.owed:
            self.connection.h2.increment_flow_control_window(self.owed, self.id)
            self.owed = 0
            await self.connection.flush()

    async def body(self):
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self):
        while (piece := await self.arrived.get()) is not None:
            yield piece


class Connection:
    """A connection by h2. What the peer says of its end is kept: GOAWAYs, resets, streams it refused."""

    @classmethod
    async def open(cls, port, tls=None, window=None):
        """With `window`, streams begin with one of this size."""
        self = cls()
        self.host = f"{'localhost' if tls else '127.0.0.1'}:{port}"
        self.scheme = "https" if tls else "http"
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.streams, self.goaways, self.resets, self.refused = {}, [], [], []
        self.settled = asyncio.Event()
        self.opened = asyncio.Event()
        self.pongs = asyncio.Queue()
        self.reader, self.writer = await dial(port, tls)
        if window is not None:
            self.h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
        self.h2.initiate_connection()
        # So that a stream that is not taken holds up no other: that is for each stream's own window.
        self.h2.increment_flow_control_window(CONNECTION_WINDOW)
        await self.flush()
        self.reading = asyncio.create_task(self.read())
        await self.settled.wait()
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.reading.cancel()
        self.writer.transport.abort()

    async def flush(self):
        if data := self.h2.data_to_send():
            self.writer.write(data)
        await self.writer.drain()

    async def window_opens(self):
        if self.reading.done():
            raise ConnectionError("the connection has ended")
        self.opened.clear()
        await self.opened.wait()

    async def read(self):
        try:
            await self.read_frames()
        except ConnectionError:
            pass  # seen while an answer was written
        finally:
            for stream in self.streams.values():
                stream.finish("lost")
            self.opened.set()
            self.settled.set()

    async def read_frames(self):
        while (got := await read_frame(self.reader)) is not None:
            kind, _, stream, payload, whole = got
            if kind == GOAWAY:
                # Not given to h2, which takes nothing behind it. RFC 9113 §6.8: open streams go on.
                self.goaways.append(struct.unpack("!II", payload[:8]))
                continue
            if kind == RST_STREAM and stream not in self.streams:
                self.refused.append((stream, int.from_bytes(payload)))
                continue
            for event in self.h2.receive_data(whole):
                self.handle(event)
            await self.flush()

    def handle(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        match event:
            case events.RemoteSettingsChanged():
                self.settled.set()
                self.opened.set()
            case events.WindowUpdated():
                self.opened.set()
            case events.PingAckReceived():
                self.pongs.put_nowait(event.ping_data)
            case events.ResponseReceived():
                stream.headers.set_result(dict(event.headers))
            case events.TrailersReceived():
                stream.trailers = dict(event.headers)
            case events.DataReceived():
                stream.arrived.put_nowait(event.data)
                if stream.is_taken and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                else:
                    stream.owed += event.flow_controlled_length
            case events.StreamReset():
                self.resets.append((event.stream_id, int(event.error_code)))
                stream.finish(f"reset {int(event.error_code)}")
                self.opened.set()
            case events.StreamEnded():
                stream.finish("end")

    async def request(self, headers, end=True, flush=True):
        ident = self.h2.get_next_available_stream_id()
        stream = self.streams[ident] = Stream(self, ident)
        self.h2.send_headers(ident, headers, end_stream=end)
        if flush:
            await self.flush()
        return stream

    def head(self, method, path, *more):
        return [
            (":method", method), (":scheme", self.scheme), (":authority", self.host), (":path", path), *more,
        ]

    async def get(self, path, *more):
        """Status and body of a page."""
        stream = await self.request(self.head("GET", path, *more))
        headers = await stream.headers
        return int(headers[":status"]), await stream.body()

    async def ping(self, payload=b"12345678"):
        self.h2.ping(payload)
        await self.flush()
        return await self.pongs.get()

    async def closed(self):
        """Waits until the peer has closed the connection."""
        await self.reading

    async def websocket(self, path, *more, extensions=()):
        """Opens a WebSocket by an extended CONNECT."""
        assert self.h2.remote_settings.enable_connect_protocol == 1, "SETTINGS_ENABLE_CONNECT_PROTOCOL is not sent"
        extended = [(":protocol", "websocket"), ("sec-websocket-version", "13"), *more]
        if offers := [f"{each.name}; {each.offer()}".rstrip("; ") for each in extensions]:
            extended.append(("sec-websocket-extensions", ", ".join(offers)))
        stream = await self.request(self.head("CONNECT", path, *extended), end=False)
        headers = await stream.headers
        if headers[":status"] != "200":
            raise Refused(int(headers[":status"]), await stream.body())
        return Session(stream, headers, extensions)


class Refused(Exception):
    @property
    def status(self):
        return self.args[0]


class Session:
    """A WebSocket by wsproto on a stream."""

    def __init__(self, stream, headers, extensions):
        self.stream, self.headers = stream, headers
        for each in extensions:
            if each.name in headers.get("sec-websocket-extensions", ""):
                each.finalize(headers["sec-websocket-extensions"])
        self.socket = WebSocket(ConnectionType.CLIENT, list(extensions))
        self.pending = self.events()
        self.controls = []

    async def events(self):
        """What comes; Pings are answered at once."""
        async for piece in self.stream.pieces():
            self.socket.receive_data(piece)
            for event in self.socket.events():
                if isinstance(event, Ping):
                    self.controls.append(("ping", bytes(event.payload)))
                    await self.put(event.response())
                elif isinstance(event, Pong):
                    self.controls.append(("pong", bytes(event.payload)))
                    yield event
                else:
                    yield event

    async def put(self, event):
        await self.stream.write(self.socket.send(event))

    async def send(self, message, last=True):
        kind = TextMessage if isinstance(message, str) else BytesMessage
        await self.put(kind(data=message, message_finished=last))

    async def fragments(self):
        """The next message as the frames that it came in."""
        parts, part = [], None
        async for event in self.pending:
            if isinstance(event, Pong):
                continue
            if isinstance(event, CloseConnection):
                raise AssertionError(f"closed: {event}")
            part = event.data if part is None else part + event.data
            if event.frame_finished:
                parts.append(bytes(part) if isinstance(event, BytesMessage) else part)
                part = None
            if event.message_finished:
                return parts
        raise ConnectionError(f"the stream has ended: {await self.stream.ended}")

    async def receive(self):
        parts = await self.fragments()
        return ("" if isinstance(parts[0], str) else b"").join(parts)

    async def ping(self, payload):
        """Waits for the Pong."""
        await self.put(Ping(payload=payload))
        async for event in self.pending:
            if isinstance(event, Pong):
                return bytes(event.payload)
        raise ConnectionError("no Pong")

    async def close(self, code=1000, reason=None):
        """Closes first; the code that came back, and how the stream ended."""
        await self.put(CloseConnection(code=code, reason=reason))
        async for event in self.pending:
            if isinstance(event, CloseConnection):
                await self.stream.write(b"", end=True)
                return event.code, event.reason or "", await self.stream.ended
        return None, "", await self.stream.ended

    async def closed(self, may_answer=True):
        """Waits for the peer's Close and answers it, if it may: its code and reason, and how the stream ended."""
        async for event in self.pending:
            if isinstance(event, CloseConnection):
                if may_answer:
                    with contextlib.suppress(StreamClosedError, ConnectionError):  # it may have been reset meanwhile
                        await self.stream.write(self.socket.send(event.response()), end=True)
                return event.code, event.reason or "", await self.stream.ended
        return None, "", await self.stream.ended


# --- one that does not


class Raw:
    """A connection whose frames the caller makes, and what comes back on it."""

    @classmethod
    async def open(cls, port, tls=None, settings=b"", preface=PREFACE):
        self = cls()
        self.host = f"{'localhost' if tls else '127.0.0.1'}:{port}"
        self.scheme = "https" if tls else "http"
        self.reader, self.writer = await dial(port, tls)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.writer.write(preface + frame(SETTINGS, payload=settings))
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()

    def headers(self, stream, fields, flags=END_HEADERS | END_STREAM, huffman=True):
        return frame(HEADERS, flags, stream, self.encoder.encode(fields, huffman=huffman))

    def send(self, *frames):
        self.writer.write(b"".join(frames))

    async def outcome(self, stream=1):
        """What became of a stream: ("status", code), ("reset", code), ("goaway", code), or ("end", None) for neither."""
        while (got := await read_frame(self.reader)) is not None:
            kind, flags, ident, payload, _ = got
            if kind == SETTINGS and not flags & ACK:
                self.writer.write(frame(SETTINGS, ACK))
            elif kind == GOAWAY:
                return "goaway", struct.unpack("!I", payload[4:8])[0]
            elif kind == RST_STREAM and ident == stream:
                return "reset", struct.unpack("!I", payload)[0]
            elif kind == HEADERS:
                fields = dict(self.decoder.decode(payload))
                if ident == stream and not fields[":status"].startswith("1"):
                    return "status", int(fields[":status"])
        return "end", None

    async def end(self):
        """Waits for the end of the connection: the code of its last GOAWAY, or None where a TCP reset overtook it."""
        code = None
        while (got := await read_frame(self.reader)) is not None:
            if got[0] == GOAWAY:
                code = struct.unpack("!I", got[3][4:8])[0]
        return code

    async def flood(self, make, rounds=40_000):
        """Sends `make(round)` again and again until the peer ends the connection; its code as `end` has it."""
        ending = asyncio.create_task(self.end())
        try:
            for round_ in range(rounds):
                if ending.done() or self.writer.is_closing():
                    break
                self.writer.write(make(round_))
                if round_ % 32 == 0:
                    await self.writer.drain()
                    await asyncio.sleep(0)  # else a stream that takes all at once lets nothing else run
        except (ConnectionError, ssl.SSLError):
            pass
        return await ending
