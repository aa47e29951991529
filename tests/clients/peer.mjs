// npm's ws on both ends: a server that hands out its side of each connection, and peers that write down what they see.
import { createServer } from "node:http";
import { once } from "node:events";
import { createRequire } from "node:module";

export const { WebSocket, WebSocketServer } = createRequire(import.meta.url)("ws");

/** A socket with everything it received, in order, to be awaited without losing what came early. */
export class Peer {
  #arrived = { message: [], ping: [], pong: [] };
  #waiting = { message: [], ping: [], pong: [] };
  #closed;
  /** Every Ping and Pong that ever came, as text: `ping hello`. */
  controls = [];

  constructor(socket, request) {
    this.socket = socket;
    this.request = request;
    socket.on("message", (data, binary) => this.#take("message", binary ? data : data.toString()));
    for (const kind of ["ping", "pong"]) {
      socket.on(kind, (payload) => {
        this.controls.push(`${kind} ${payload}`);
        this.#take(kind, payload.toString());
      });
    }
    socket.once("upgrade", (response) => { this.response = response; });
    this.#closed = new Promise((resolve) => {
      socket.once("close", (code, reason) => resolve({ code, reason: reason.toString() }));
    });
    socket.on("error", (error) => { this.error = error; });
  }

  #take(kind, what) {
    const waiter = this.#waiting[kind].shift();
    if (waiter) waiter(what);
    else this.#arrived[kind].push(what);
  }

  #next(kind) {
    if (this.#arrived[kind].length > 0) return Promise.resolve(this.#arrived[kind].shift());
    return new Promise((resolve) => this.#waiting[kind].push(resolve));
  }

  message() { return this.#next("message"); }
  ping() { return this.#next("ping"); }
  pong() { return this.#next("pong"); }
  /** Code and reason, once the connection has ended; may be asked more than once. */
  closed() { return this.#closed; }
  /** Messages that came and were not asked for. */
  get unread() { return this.#arrived.message.length; }
}

/** The server behind the proxy. What it does with a connection or request is said by the query. */
export class Backend {
  #sides = new Map();
  #claims = new Map();
  #requests = 0;
  /** Responses to `/events`, so that a test says when the next event is sent. */
  events = [];

  static async start() {
    const backend = new Backend();
    backend.http = createServer((request, response) => backend.#plain(request, response));
    backend.http.keepAliveTimeout = 60_000;
    const sockets = new WebSocketServer({
      noServer: true,
      perMessageDeflate: { threshold: 0 },
      maxPayload: 64 << 20,
      handleProtocols: (offered, request) => {
        const { searchParams } = new URL(request.url, "http://backend");
        if (searchParams.has("choose")) return searchParams.get("choose");
        return offered.has("chat") ? "chat" : false;
      },
    });
    backend.http.on("upgrade", (request, socket, head) => {
      const { searchParams } = new URL(request.url, "http://backend");
      if (searchParams.has("refuse")) {
        socket.end(`HTTP/1.1 ${searchParams.get("refuse")} No\r\nContent-Length: 6\r\nX-Why: no\r\n\r\nno way`);
        return;
      }
      sockets.handleUpgrade(request, socket, head, (accepted) => {
        if (searchParams.has("greet")) accepted.send(searchParams.get("greet"));
        if (searchParams.has("echo")) accepted.on("message", (data, binary) => accepted.send(data, { binary }));
        backend.#arrive(searchParams.get("id"), new Peer(accepted, request));
      });
    });
    backend.http.listen(0, "127.0.0.1");
    await once(backend.http, "listening");
    backend.port = backend.http.address().port;
    return backend;
  }

  #arrive(id, peer) {
    const claim = this.#claims.get(id);
    if (claim) claim(peer);
    else this.#sides.set(id, peer);
  }

  /** The server's side of the connection whose query has this id. */
  side(id) {
    const peer = this.#sides.get(id);
    this.#sides.delete(id);
    return peer ? Promise.resolve(peer) : new Promise((resolve) => this.#claims.set(id, resolve));
  }

  async #plain(request, response) {
    this.#requests += 1;
    if (request.url.startsWith("/events")) {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: 1\n\n");
      this.events.push(response);
      return;
    }
    response.writeHead(200, { "content-type": "text/plain", "x-method": request.method });
    for await (const chunk of request) response.write(chunk);
    response.end("plain\n");
  }

  get requests() { return this.#requests; }
}

let ids = 0;
/** A fresh id and the URL that carries it. */
export function addressed(base, path, query = "") {
  const id = String(ids += 1);
  return { id, url: `${base}${path}?id=${id}${query && `&${query}`}` };
}

/** Opens a connection and gives both its ends. */
export async function connect(backend, base, path = "/", { query, protocols, ...options } = {}) {
  const { id, url } = addressed(base, path, query);
  const socket = new WebSocket(url, protocols ?? [], { perMessageDeflate: false, ...options });
  const client = new Peer(socket);
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  return { client, server: await backend.side(id) };
}

/** The answer to a handshake that is expected not to succeed. */
export function refused(base, path, { query, protocols, ...options } = {}) {
  const { url } = addressed(base, path, query);
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, protocols ?? [], { perMessageDeflate: false, ...options });
    socket.once("open", () => reject(new Error("the connection was opened")));
    socket.once("error", (error) => resolve({ error: error.message }));
    socket.once("unexpected-response", (request, response) => {
      response.resume();
      resolve({ status: response.statusCode, headers: response.headers });
      request.destroy();
    });
  });
}
