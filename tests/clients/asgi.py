"""Python's hypercorn as the server behind the proxy, with an application that does what the query says."""

import asyncio
import logging
import socket
import urllib.parse

import hypercorn.asyncio
import hypercorn.config

MIB = 1 << 20
# It goes on writing to clients that are gone, and asyncio tells of each write.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


class Hypercorn:
    """Pages, and WebSockets that echo."""

    def __init__(self, buffer=None):
        """With `buffer`, the kernel holds about so many bytes of each connection that were not read yet."""
        self.accepted, self.buffer = 0, buffer
        self.end, self.go_on = asyncio.Event(), asyncio.Event()

    async def __aenter__(self):
        listening = socket.create_server(("127.0.0.1", 0))
        if self.buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer)  # its connections inherit it
        self.port = listening.getsockname()[1]
        config = hypercorn.config.Config()
        # It takes the socket and closes it.
        config.bind, config.loglevel, config.graceful_timeout = [f"fd://{listening.detach()}"], "CRITICAL", 1
        self.serving = asyncio.create_task(hypercorn.asyncio.serve(self.answer, config, shutdown_trigger=self.end.wait))
        return self

    async def __aexit__(self, *_):
        self.release()
        self.end.set()
        await asyncio.wait([self.serving])

    def release(self):
        """Has the sessions that are stuck read on: a lost client's waits until its server has taken what came."""
        self.go_on.set()
        self.go_on = asyncio.Event()

    async def answer(self, scope, receive, send):
        query = dict(urllib.parse.parse_qsl(scope.get("query_string", b"").decode(), keep_blank_values=True))
        if scope["type"] == "http":
            await self.page(query, receive, send)
        elif scope["type"] == "websocket":
            await self.session(query, scope, receive, send)

    async def page(self, query, receive, send):
        body = b""
        while (event := await receive())["type"] == "http.request":
            body += event["body"]
            if not event["more_body"]:
                break
        else:
            return  # the client is gone
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": bytes(4 * MIB) if "large" in query else body + b"plain\n"})

    async def session(self, query, scope, receive, send):
        await receive()
        if "refuse" in query:
            await send({"type": "websocket.close"})
            return
        self.accepted += 1
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        if "greet" in query:
            await send({"type": "websocket.send", "bytes": bytes(4 * MIB)})
        if "stuck" in query:
            await self.go_on.wait()
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
