// Node's http2, curl and h2load as clients: pages over HTTP/2, and WebSockets by npm's ws on streams of the same connection.
//
//   node http2.mjs BINARY      with WSLUICE_CERT and WSLUICE_KEY naming a PEM pair for localhost
//
// The server behind is node's http, which sees nothing of HTTP/2.
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { connect, constants } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import { WebSocket, WebSocketServer } from "./peer.mjs";
import { config, free_ports, metric, start } from "./proxy.mjs";
import { check, finish, run } from "./report.mjs";

const MIB = 1 << 20;
const DEADLINE_MS = 120_000;
const { Receiver, Sender } = WebSocket;
const execute = promisify(execFile);
const binary = process.argv[2];
const pair = { cert: process.env.WSLUICE_CERT, key: process.env.WSLUICE_KEY };
const ca = readFileSync(pair.cert);
const digest = (data) => createHash("sha256").update(data).digest("hex");
const same = (got, wanted, what) => {
  const [left, right] = [got, wanted].map((value) => JSON.stringify(value));
  check(left === right, `${what}: ${left?.slice(0, 200)}, wanted ${right.slice(0, 200)}`);
};

// --- the server

/** Requests that wait until a case says more, by path. */
const held = new Map();
const waiting = new Map();
const holds = (path) => held.has(path) ? Promise.resolve(held.get(path)) : new Promise((done) => waiting.set(path, done));
const large = randomBytes(16 * MIB);

const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://server");
  if (pathname === "/empty") return void response.writeHead(204).end();
  if (pathname === "/unchanged") return void response.writeHead(304, { etag: '"1"' }).end();
  if (pathname === "/large") return void response.writeHead(200, { "content-length": large.length }).end(large);
  if (pathname === "/trailers") {
    response.writeHead(200, { trailer: "x-sum, x-more", "transfer-encoding": "chunked" });
    response.write("first ");
    response.addTrailers({ "x-sum": "abc", "x-more": "1" });
    return void response.end("last");
  }
  if (pathname.startsWith("/held/")) {
    if (pathname.endsWith("/events")) response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
    if (pathname.endsWith("/half")) response.writeHead(200).write("half");
    const gone = new Promise((done) => response.once("close", done));
    const what = { request, response, gone };
    held.set(pathname, what);
    waiting.get(pathname)?.(what);
    return undefined;
  }
  response.writeHead(200, { "content-type": "application/octet-stream", "x-method": request.method });
  if (request.method === "HEAD") return void response.end();
  try {
    for await (const chunk of request) if (!response.write(chunk)) await once(response, "drain");
  } catch {
    return undefined; // the client has gone
  }
  return void response.end(request.method === "GET" ? `page ${request.url}` : undefined);
});
server.on("checkContinue", (request, response) => {
  response.writeContinue();
  server.emit("request", request, response);
});
const sockets = new WebSocketServer({ server, maxPayload: 64 * MIB, perMessageDeflate: false });
sockets.on("connection", (socket) => socket.on("message", (data, binary) => socket.send(data, { binary })));
server.listen(0, "127.0.0.1");
await once(server, "listening");

// --- the client

const [plain, prior, tls, admin] = await free_ports(4);
const proxy = await start(binary, config({ plain, prior, tls, admin, backend: server.address().port, ...pair }), admin);
const bases = { h2c: `http://127.0.0.1:${prior}`, h2: `https://localhost:${tls}` };

/** Does the work on a connection of its own, which has to have had no error at the end. */
async function connected(base, work) {
  // A window of the connection that is no bottleneck: it is the client's to give.
  // And memory: beyond 10 MB, node itself refuses its own streams (ENHANCE_YOUR_CALM).
  const session = connect(base, { ca, settings: { initialWindowSize: MIB }, maxSessionMemory: 200 });
  const errors = [];
  session.on("error", (error) => errors.push(error)).on("goaway", (code) => code && errors.push(new Error(`GOAWAY ${code}`)));
  await once(session, "remoteSettings");
  session.setLocalWindowSize(64 * MIB);
  try {
    await work(session);
    check(errors.length === 0, errors.map(String).join());
  } finally {
    session.destroy();
  }
}

/** The answer to a request, whole. */
async function asked(session, path, { method = "GET", body, ...fields } = {}) {
  const stream = session.request({ ":method": method, ":path": path, ...fields }, { endStream: body === undefined });
  let trailers = null;
  stream.on("trailers", (found) => { trailers = found; });
  const answered = once(stream, "response");
  if (body !== undefined) stream.end(body);
  const pieces = [];
  const read = (async () => { for await (const piece of stream) pieces.push(piece); })();
  const [[headers]] = await Promise.all([answered, read]);
  return { status: headers[":status"], headers, trailers, body: Buffer.concat(pieces) };
}

/** A WebSocket on a stream, by ws's two halves: its WebSocket itself wants a socket. */
async function socket_on(session, path) {
  const stream = session.request({
    ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13",
  }, { endStream: false });
  const [headers] = await once(stream, "response");
  same(headers[":status"], 200, "status");
  const receiver = stream.pipe(new Receiver({ isServer: false, maxPayload: 64 * MIB }));
  const sender = new Sender(stream);
  const ended = new Promise((done) => stream.once("close", () => done(stream.rstCode)));
  return {
    stream,
    send: (data) => sender.send(data, { binary: typeof data !== "string", fin: true, mask: true, compress: false }),
    async message() {
      const [data, binary] = await once(receiver, "message");
      return binary ? data : data.toString();
    },
    async ping(payload) {
      sender.ping(payload, true);
      return (await once(receiver, "pong"))[0].toString();
    },
    /** Code and reason that came back, and what the stream ended with. */
    async close(code, reason) {
      sender.close(code, reason, true);
      const [[back, why]] = await Promise.all([once(receiver, "conclude"), once(stream, "end")]);
      stream.end();
      return [back, why.toString(), await ended];
    },
  };
}

for (const [scheme, base] of Object.entries(bases)) {
  const story = (name, work) => run(`${scheme}: ${name}`, () => connected(base, work), DEADLINE_MS);

  await story("GET, HEAD and answers without a body", async (session) => {
    const page = await asked(session, "/page?x=1");
    same([page.status, page.body.toString()], [200, "page /page?x=1"], "page");
    for (const name of ["connection", "keep-alive", "transfer-encoding"]) check(!(name in page.headers), name);
    const head = await asked(session, "/large", { method: "HEAD" });
    same([head.status, head.headers["content-length"], head.body.length], [200, String(large.length), 0], "HEAD");
    const empty = await asked(session, "/empty");
    same([empty.status, empty.headers["content-length"], empty.body.length], [204, undefined, 0], "204");
    const unchanged = await asked(session, "/unchanged", { "if-none-match": '"1"' });
    same([unchanged.status, unchanged.headers.etag, unchanged.body.length], [304, '"1"', 0], "304");
  });

  await story("POST with bodies up to 16 MiB, both ways at once", async (session) => {
    for (const length of [0, 1, 16_384, 65_536, MIB, 16 * MIB]) {
      const body = large.subarray(0, length);
      for (const fields of [{}, { "content-length": length }]) {
        const answer = await asked(session, "/", { method: "POST", body, ...fields });
        same([answer.status, answer.body.length, digest(answer.body)], [200, length, digest(body)], `${length} bytes`);
      }
    }
    const answer = await asked(session, "/large");
    same(digest(answer.body), digest(large), "16 MiB");
  });

  await story("trailers of the server", async (session) => {
    const answer = await asked(session, "/trailers", { te: "trailers" });
    same(answer.body.toString(), "first last", "body");
    same([answer.trailers?.["x-sum"], answer.trailers?.["x-more"]], ["abc", "1"], "trailers");
  });

  await story("an event stream that stays open, beside others", async (session) => {
    const path = `/held/${scheme}/events`;
    const stream = session.request({ ":path": path });
    const [headers] = await once(stream, "response");
    same([headers[":status"], headers["content-type"]], [200, "text/event-stream"], "head");
    stream.setEncoding("utf8");
    const { response, gone } = await holds(path);
    for (let count = 0; count < 5; count += 1) {
      response.write(`data: ${count}\n\n`);
      same((await once(stream, "data"))[0], `data: ${count}\n\n`, "event");
      same((await asked(session, "/page")).status, 200, "page meanwhile");
    }
    stream.close(constants.NGHTTP2_CANCEL);
    await gone;
  });

  await story("a hundred requests at once", async (session) => {
    const paths = Array.from({ length: 100 }, (_, index) => `/page?number=${index}`);
    const pages = await Promise.all(paths.map((path) => asked(session, path)));
    same(pages.map(({ body }) => body.toString()), paths.map((path) => `page ${path}`), "pages");
  });

  await story("three hundred at once: those over the limit of streams wait", async (session) => {
    const pages = await Promise.all(Array.from({ length: 300 }, () => asked(session, "/page")));
    check(pages.every(({ status }) => status === 200), "all are answered");
  });

  await story("a request that is cancelled reaches the server, and no other request", async (session) => {
    for (const kind of ["silent", "half", "body"]) {
      const path = `/held/${scheme}/cancelled/${kind}`;
      const stream = session.request({ ":path": path, ":method": kind === "body" ? "POST" : "GET" });
      stream.on("error", () => {});
      if (kind === "body") stream.write("a part");
      const { gone } = await holds(path);
      stream.close(constants.NGHTTP2_CANCEL);
      await gone;
      same((await asked(session, "/page")).status, 200, "page");
    }
  });

  await story("a page that is cancelled in the middle, a hundred times", async (session) => {
    for (let count = 0; count < 100; count += 1) {
      const stream = session.request({ ":path": "/large" });
      stream.on("error", () => {});
      await once(stream, "data");
      stream.close(constants.NGHTTP2_CANCEL);
      await once(stream, "close");
    }
    same((await asked(session, "/page")).status, 200, "page");
  });

  await story("a server that dies in the middle resets the stream", async (session) => {
    const path = `/held/${scheme}/half`;
    const stream = session.request({ ":path": path });
    const failed = once(stream, "close").catch(() => {});
    stream.on("error", () => {}).resume();
    await once(stream, "response");
    const { response } = await holds(path);
    response.destroy();
    await failed;
    check(stream.rstCode !== 0, `the stream ended with ${stream.rstCode}: half a page is taken for a whole one`);
    same((await asked(session, "/page")).status, 200, "page");
  });

  await story("WebSockets beside pages", async (session) => {
    check(session.remoteSettings.enableConnectProtocol, "ENABLE_CONNECT_PROTOCOL is not sent");
    const all = await Promise.all(Array.from({ length: 20 }, () => socket_on(session, "/socket")));
    await Promise.all(all.map(async (socket, index) => {
      for (const message of [`grüße ${index}`, "", "x".repeat(70_000)]) {
        socket.send(message);
        same(await socket.message(), message, "echo");
      }
      same((await asked(session, "/page")).status, 200, "page");
    }));
    all[0].send(large);
    same(digest(await all[0].message()), digest(large), "16 MiB");
    same(await all[0].ping("hello"), "hello", "Pong");
    const closes = await Promise.all(all.map((socket, index) => socket.close(4000 + index, "bye")));
    same(closes, all.map((_, index) => [4000 + index, "bye", 0]), "closes");
  });

  await story("a WebSocket whose stream is cancelled is given up, and no other", async (session) => {
    const [one, other] = await Promise.all([socket_on(session, "/socket"), socket_on(session, "/socket")]);
    const before = sockets.clients.size;
    one.stream.on("error", () => {});
    one.stream.close(constants.NGHTTP2_CANCEL);
    while (sockets.clients.size >= before) await Promise.race([...sockets.clients].map((each) => once(each, "close")));
    other.send("still here");
    same(await other.message(), "still here", "echo");
  });
}

// --- others

const scratch = mkdtempSync(join(tmpdir(), "wsluice-http2-"));
const file = join(scratch, "body");
writeFileSync(file, large);
const ways = { h2c: ["--http2-prior-knowledge", bases.h2c], h2: ["--http2", bases.h2] };
for (const [scheme, [option, base]] of Object.entries(ways)) {
  const curl = async (path, ...more) => {
    const parameters = ["--silent", "--show-error", "--noproxy", "*", "--cacert", pair.cert, option, "--max-time", "60"];
    const { stdout } = await execute("curl", [
      ...parameters, "--write-out", "\n%{http_version} %{http_code} %{size_download}", ...more, `${base}${path}`,
    ], { encoding: "buffer", maxBuffer: 64 * MIB });
    const end = stdout.lastIndexOf("\n");
    return { body: stdout.subarray(0, end), said: stdout.subarray(end + 1).toString() };
  };
  await run(`${scheme}: curl takes pages`, async () => {
    const page = await curl("/page");
    same([page.body.toString(), page.said], ["page /page", "2 200 10"], "GET");
    const head = await curl("/large", "--head");
    check(head.said.startsWith("2 200 ") && head.body.includes(`content-length: ${large.length}`), `${head.body}`);
    const all = await curl("/large");
    same([digest(all.body), all.said], [digest(large), `2 200 ${large.length}`], "16 MiB");
  });
  await run(`${scheme}: curl posts, and waits for 100 Continue`, async () => {
    for (const expect of ["Expect: 100-continue", "Expect:"]) {
      const answer = await curl("/", "--data-binary", `@${file}`, "--header", expect, "--expect100-timeout", "50");
      same([digest(answer.body), answer.said], [digest(large), `2 200 ${large.length}`], expect);
    }
  });
  await run(`${scheme}: h2load, 2,000 requests over 10 connections of 10 streams`, async () => {
    const { stdout } = await execute("h2load", ["-n", "2000", "-c", "10", "-m", "10", `${base}/page`]);
    const told = /requests: .*/.exec(stdout)?.[0];
    same(told, "requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout", "h2load");
  });
}
rmSync(scratch, { recursive: true });

await run("nothing is left of it", async () => {
  for (const name of ["wsluice_http2_streams_active", "wsluice_sessions_active"]) {
    while (await metric(admin, name) > 0) await pause(20);
  }
  same(await metric(admin, "wsluice_panics_total"), 0, "panics");
});
await proxy.stop();
finish();
