"""Python's websockets as the server behind the proxy: hands out its side of each connection, writes down what it sees."""

import asyncio
import http
import itertools
import urllib.parse

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

MIB = 1 << 20
CONTROLS = {Opcode.PING: "ping", Opcode.PONG: "pong"}


class Recording:
    """Writes down every Ping and Pong that arrives, also those the library answers by itself."""

    def process_event(self, event):
        if not hasattr(self, "controls"):
            self.controls = []
        if name := CONTROLS.get(getattr(event, "opcode", None)):
            self.controls.append((name, bytes(event.data)))
        super().process_event(event)


class Client(Recording, ClientConnection):
    pass


class Server(Recording, ServerConnection):
    pass


class Backend:
    """Hands out its side of each connection, by the id in the query."""

    def __init__(self):
        self.ids = itertools.count(1)
        self.sides = {}

    async def start(self):
        self.server = await serve(
            self.accept, "127.0.0.1", 0, create_connection=Server, process_request=self.plain,
            subprotocols=["chat"], select_subprotocol=self.choose, max_size=64 * MIB, ping_interval=None,
            compression="deflate",
        )
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def accept(self, side):
        query = parsed(side.request.path)
        waiting = self.sides.get(query.get("id"))
        if waiting is not None:
            waiting.set_result(side)
        if "echo" in query:
            async for message in side:
                await side.send(message)
        else:
            await side.wait_closed()

    @staticmethod
    def choose(_connection, offered):
        return "chat" if "chat" in offered else None

    @staticmethod
    def plain(connection, request):
        if "Upgrade" not in request.headers:
            return connection.respond(http.HTTPStatus.OK, "plain\n")
        if "refuse" in parsed(request.path):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "no way\n")
        return None

    async def pair(self, base, path="/", query="", **options):
        """Both ends of a fresh connection."""
        ident = str(next(self.ids))
        self.sides[ident] = asyncio.get_running_loop().create_future()
        options = {"compression": None, "ping_interval": None, "max_size": 64 * MIB, "proxy": None, **options}
        client = await connect(f"{base}{path}?id={ident}&{query}", create_connection=Client, **options)
        return client, await self.sides.pop(ident)


def parsed(path):
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query, keep_blank_values=True))


async def ended(connection):
    """The code and reason that came from the other end; (1006, "") where no Close came."""
    try:
        while True:
            await connection.recv()
    except ConnectionClosed as closed:
        received = closed.rcvd
    return (received.code, received.reason) if received else (1006, "")
