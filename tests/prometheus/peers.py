"""A WebSocket server and client of a few lines each: just enough of RFC 6455 to make every metric move."""

import base64
import hashlib
import os
import socket
import ssl
import struct
import threading

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode, payload, masked):
    """One whole frame (RFC 6455 §5.2)."""
    length = len(payload)
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", 0x80 | opcode, mask_bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, mask_bit | 126, length)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, mask_bit | 127, length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def read_frame(stream):
    """The next frame's opcode and payload; None at the end."""
    head = stream.read(2)
    if len(head) < 2:
        return None
    length = head[1] & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", stream.read(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", stream.read(8))
    mask = stream.read(4) if head[1] & 0x80 else b"\0\0\0\0"
    payload = stream.read(length)
    return head[0] & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def read_head(stream):
    """First line and headers (names in lower case) of a request or an answer; None at the end."""
    first = stream.readline().decode("latin-1").strip()
    if not first:
        return None
    headers = {}
    while line := stream.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return first, headers


class Server:
    """Echoes messages, closes with 4000 when told `close`, and greets plain HTTP."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._quietly, args=(connection,), daemon=True).start()

    def _quietly(self, connection):
        try:
            with connection:
                self._serve(connection, connection.makefile("rb"))
        except OSError:
            pass  # the proxy left; its metrics tell

    @staticmethod
    def _serve(connection, stream):
        while head := read_head(stream):
            _, headers = head
            if headers.get("upgrade", "").lower() != "websocket":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
                continue
            digest = hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode())
            accept = base64.b64encode(digest.digest()).decode()
            connection.sendall(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            while received := read_frame(stream):
                opcode, payload = received
                if opcode == PING:
                    connection.sendall(frame(PONG, payload, masked=False))
                elif opcode == CLOSE:
                    connection.sendall(frame(CLOSE, payload, masked=False))
                    return
                elif payload == b"close":
                    connection.sendall(frame(CLOSE, struct.pack("!H", 4000) + b"as told", masked=False))
                elif opcode in (TEXT, BINARY):
                    connection.sendall(frame(opcode, payload, masked=False))
            return


class Client:
    """One connection to the proxy."""

    def __init__(self, port, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.stream = self.socket.makefile("rb")

    def request(self, path, *headers):
        """Sends a GET and gives back the status of its answer, and its body if it has one."""
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        first, answer = read_head(self.stream)
        body = self.stream.read(int(answer.get("content-length", 0)))
        return int(first.split()[1]), body

    def upgrade(self, path, *headers):
        """Asks for a WebSocket and gives back the status."""
        key = base64.b64encode(os.urandom(16)).decode()
        wanted = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        return self.request(path, *wanted, *headers)[0]

    def send(self, opcode, payload):
        self.socket.sendall(frame(opcode, payload, masked=True))

    def receive(self):
        """The next frame that is no Ping; Pings are answered. None at the end."""
        while received := read_frame(self.stream):
            if received[0] != PING:
                return received
            self.send(PONG, received[1])
        return None

    def close(self):
        self.stream.close()
        self.socket.close()


def trusting(certificate):
    """A TLS context that trusts `certificate` and nothing else."""
    return ssl.create_default_context(cafile=certificate)
