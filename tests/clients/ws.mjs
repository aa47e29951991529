// npm's ws as client and as server, with wsluice between them, over ws and wss.
//
//   node ws.mjs BINARY      with WSLUICE_CERT and WSLUICE_KEY naming a PEM pair for localhost
//   WITHOUT_PROXY=1 node ws.mjs      client to server directly: shows that the cases themselves are right
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { connect as connect_tcp } from "node:net";
import { addressed, Backend, connect, refused } from "./peer.mjs";
import { config, free_ports, start, status_of } from "./proxy.mjs";
import { check, finish, run } from "./report.mjs";

const MIB = 1 << 20;
const direct = Boolean(process.env.WITHOUT_PROXY);
const binary = process.argv[2];
const backend = await Backend.start();
const pair = { cert: process.env.WSLUICE_CERT, key: process.env.WSLUICE_KEY };
const ca = direct ? undefined : readFileSync(pair.cert);

const same = (got, wanted, what) => {
  const [left, right] = [got, wanted].map((value) => JSON.stringify(value));
  check(left === right, `${what}: ${left?.slice(0, 200)}, wanted ${right.slice(0, 200)}`);
};
const digest = (data) => createHash("sha256").update(data).digest("hex");
const both_closed = ({ client, server }) => Promise.all([client.closed(), server.closed()]);

async function proxied(drain) {
  const [plain, tls, admin] = await free_ports(3);
  const proxy = await start(binary, config({ plain, tls, admin, backend: backend.port, drain, ...pair }), admin);
  return { proxy, plain, tls, admin };
}

const main = direct ? { plain: backend.port } : await proxied();
const bases = direct ? { ws: `ws://127.0.0.1:${main.plain}` } :
  { ws: `ws://127.0.0.1:${main.plain}`, wss: `wss://localhost:${main.tls}` };

// --- what two peers may do, over each scheme

for (const [scheme, base] of Object.entries(bases)) {
  const tls = scheme === "wss" ? { ca } : {};
  const opened = (path, options) => connect(backend, base, path, { ...tls, ...options });
  const story = (name, work) => run(`${scheme}: ${name}`, work);

  await story("text, binary and empty messages go both ways", async () => {
    const { client, server } = await opened("/");
    for (const [from, to] of [[client, server], [server, client]]) {
      for (const message of ["grüße ☂", "", "x".repeat(125), "x".repeat(126), "x".repeat(65_535), "x".repeat(65_536)]) {
        from.socket.send(message);
        same(await to.message(), message, "text");
      }
      for (const message of [Buffer.from([0, 255, 128]), Buffer.alloc(0), randomBytes(70_000)]) {
        from.socket.send(message);
        const got = await to.message();
        check(Buffer.isBuffer(got) && got.equals(message), "binary differs");
      }
    }
    client.socket.close(1000);
    await server.closed();
  });

  await story("fragments arrive as one message, with a Ping between them", async () => {
    const { client, server } = await opened("/");
    for (const [from, to] of [[client, server], [server, client]]) {
      from.socket.send("one ", { fin: false });
      from.socket.ping("between");
      from.socket.send("", { fin: false });
      from.socket.send("two", { fin: true });
      same(await to.ping(), "between", "ping");
      same(await to.message(), "one two", "message");
      same(await from.pong(), "between", "pong");
    }
    client.socket.terminate();
  });

  await story("16 MiB go there and back", async () => {
    const { client } = await opened("/", { query: "echo", maxPayload: 32 * MIB });
    const message = randomBytes(16 * MIB);
    client.socket.send(message);
    same(digest(await client.message()), digest(message), "hash");
    client.socket.send(message, { fin: false });
    client.socket.send(message.subarray(0, 5), { fin: true });
    const got = await client.message();
    same([got.length, digest(got.subarray(0, message.length))], [message.length + 5, digest(message)], "fragmented");
    client.socket.close(1000);
    same((await client.closed()).code, 1000, "close");
  });

  await story("permessage-deflate is negotiated end to end, with context takeover", async () => {
    const { client, server } = await opened("/", { perMessageDeflate: { threshold: 0 } });
    same(server.request.headers["sec-websocket-extensions"], "permessage-deflate; client_max_window_bits", "offer");
    same([client.socket.extensions, server.socket.extensions], ["permessage-deflate", "permessage-deflate"], "agreed");
    const read = () => server.socket._socket.bytesRead;
    const cost = async (message) => {
      const before = read();
      client.socket.send(message);
      const got = await server.message();
      check(got === message, "message differs");
      return read() - before;
    };
    const compressible = await cost("the same words again and again ".repeat(40_000));
    check(compressible < 20_000, `1.2 MB of repetition took ${compressible} bytes`);
    const noise = randomBytes(8_000).toString("hex");
    const [first, second] = [await cost(noise), await cost(noise)];
    check(second < first / 10, `context was not kept: ${first}, then ${second} bytes`);
    server.socket.send(noise);
    check(await client.message() === noise, "answer differs");
    client.socket.send(noise.slice(0, 9_000), { fin: false });
    client.socket.send(noise.slice(9_000), { fin: true });
    check(await server.message() === noise, "compressed fragments differ");
    client.socket.close(1000);
    await both_closed({ client, server });
  });

  await story("deflate parameters and window bits survive; without an offer there is none", async () => {
    const deflate = { threshold: 0, clientNoContextTakeover: true, serverMaxWindowBits: 10 };
    const { client, server } = await opened("/", { perMessageDeflate: deflate });
    const agreed = client.response.headers["sec-websocket-extensions"];
    for (const parameter of [/server_max_window_bits=10/, /client_no_context_takeover/]) {
      check(parameter.test(server.request.headers["sec-websocket-extensions"]), "the offer lost a parameter");
      check(parameter.test(agreed), agreed);
    }
    const noise = randomBytes(20_000);
    server.socket.send(noise);
    check((await client.message()).equals(noise), "message differs");
    client.socket.close(1000);
    await server.closed();
    const bare = await opened("/");
    same([bare.client.socket.extensions, bare.server.request.headers["sec-websocket-extensions"] ?? null], ["", null], "none");
    bare.client.socket.close(1000);
    await bare.server.closed();
  });

  await story("a subprotocol is negotiated; its refusal is the client's to see", async () => {
    const { client, server } = await opened("/", { protocols: ["mqtt", "chat"] });
    same([client.socket.protocol, server.socket.protocol], ["chat", "chat"], "subprotocol");
    same(server.request.headers["sec-websocket-protocol"], "mqtt,chat", "offer");
    client.socket.close(1000);
    await server.closed();
    same(await refused(base, "/", { ...tls, protocols: ["mqtt"] }), { error: "Server sent no subprotocol" }, "refusal");
  });

  const endings = [
    [1000, ""], [1000, "bye"], [1001, "leaving"], [1011, "failed"], [3000, "three"], [4000, "grüße"], [4999, "z".repeat(123)],
  ];
  for (const [name, first] of [["client", (ends) => ends.client], ["server", (ends) => ends.server]]) {
    await story(`the ${name}'s close codes and reasons arrive untouched, and so does their absence`, async () => {
      for (const [code, reason] of endings) {
        const ends = await opened("/");
        first(ends).socket.close(code, reason);
        for (const seen of await both_closed(ends)) same(seen, { code, reason }, "close");
      }
      const ends = await opened("/");
      first(ends).socket.close();
      for (const seen of await both_closed(ends)) same(seen, { code: 1005, reason: "" }, "close without a code");
    });
  }

  await story("what was sent before a Close arrives before it", async () => {
    const ends = await opened("/");
    const message = randomBytes(4 * MIB);
    ends.server.socket.send(message);
    ends.server.socket.close(4002, "after");
    same(digest(await ends.client.message()), digest(message), "hash");
    same((await ends.client.closed()).code, 4002, "close");
  });

  await story("pings go both ways with their payloads, and nothing else does", async () => {
    const { client, server } = await opened("/");
    for (const [from, to, name] of [[client, server, "up"], [server, client, "down"]]) {
      for (const payload of ["", name, "p".repeat(125)]) {
        from.socket.ping(payload);
        same(await to.ping(), payload, "ping");
        same(await from.pong(), payload, "pong");
      }
    }
    client.socket.pong("unasked");
    same(await server.pong(), "unasked", "unsolicited pong");
    client.socket.close(1000);
    await both_closed({ client, server });
    same(client.controls, ["pong ", "pong up", `pong ${"p".repeat(125)}`, "ping ", "ping down", `ping ${"p".repeat(125)}`], "client");
    same(server.controls.length, 7, "control frames at the server");
  });

  await story("a server that speaks first is heard", async () => {
    const { client } = await opened("/", { query: "greet=welcome" });
    same(await client.message(), "welcome", "greeting");
    client.socket.close(1000);
  });

  await story("a handshake that the server refuses is answered with its own status", async () => {
    const { status, headers } = await refused(base, "/", { ...tls, query: "refuse=401" });
    same([status, headers["x-why"]], [401, "no"], "answer");
  });

  await story("500 sessions at once", async () => {
    const all = await Promise.all(Array.from({ length: 500 }, () => opened("/", { query: "echo" })));
    await Promise.all(all.map(async ({ client }, index) => {
      client.socket.send(`message ${index}`);
      same(await client.message(), `message ${index}`, "echo");
    }));
    for (const { client } of all) client.socket.close(1000);
    for (const ends of all) for (const { code } of await both_closed(ends)) same(code, 1000, "close");
  });

  await story("plain HTTP takes the same route, bodies and all", async () => {
    const client = scheme === "wss" ? https : http;
    const body = randomBytes(MIB);
    const got = await new Promise((resolve, reject) => {
      const request = client.request(base.replace("ws", "http") + "/upload", { method: "POST", ...tls }, async (response) => {
        const chunks = [];
        for await (const chunk of response) chunks.push(chunk);
        resolve({ status: response.statusCode, method: response.headers["x-method"], body: Buffer.concat(chunks) });
      }).on("error", reject);
      request.end(body);
    });
    same([got.status, got.method], [200, "POST"], "answer");
    check(got.body.equals(Buffer.concat([body, Buffer.from("plain\n")])), "body differs");
  });

  await story("server-sent events are not held back", async () => {
    const client = scheme === "wss" ? https : http;
    const response = await new Promise((resolve, reject) => {
      client.get(base.replace("ws", "http") + "/events", { agent: false, ...tls }, resolve).on("error", reject);
    });
    const events = response.setEncoding("utf8")[Symbol.asyncIterator]();
    same((await events.next()).value, "data: 1\n\n", "first event"); // the server sends the second only now
    const sending = backend.events.pop();
    sending.write("data: 2\n\n");
    same((await events.next()).value, "data: 2\n\n", "second event");
    const ended = new Promise((resolve) => sending.once("close", resolve));
    response.destroy();
    await ended; // the proxy tells the server that nobody listens any more
  });

  if (direct) continue;

  // --- what the proxy itself does

  await story("a server that vanishes is a lost connection to the client", async () => {
    const { client, server } = await opened("/");
    server.socket.send("last words");
    same(await client.message(), "last words", "message");
    server.socket.terminate();
    same((await client.closed()).code, 1006, "close");
  });

  await story("a client that vanishes is a 1001 to the server", async () => {
    const { client, server } = await opened("/");
    client.socket.send("last words");
    same(await server.message(), "last words", "message");
    client.socket.terminate();
    same((await server.closed()).code, 1001, "close");
  });

  await story("a message over the limit is a 1009, from either side, also in fragments", async () => {
    const over = [
      ({ client }) => client.socket.send("x".repeat(64 * 1024 + 1)),
      ({ client }) => client.socket.send(randomBytes(16 * MIB)),
      ({ client }) => {
        client.socket.send("x".repeat(40_000), { fin: false });
        client.socket.send("x".repeat(40_000), { fin: true });
      },
      ({ server }) => server.socket.send("x".repeat(64 * 1024 + 1)),
    ];
    for (const [index, send] of over.entries()) {
      const ends = await opened("/limited");
      ends.client.socket.send("x".repeat(64 * 1024)); // at the limit
      same((await ends.server.message()).length, 64 * 1024, "length");
      send(ends);
      const [client, server] = await both_closed(ends);
      same([client.code, server.code], [1009, 1001], `close codes of case ${index}`);
      same([ends.client.unread, ends.server.unread], [0, 0], "messages that slipped through");
    }
  });

  await story("silence ends a session with 1001, pings or not", async () => {
    const ends = await opened("/idle");
    const pinging = setInterval(() => ends.client.socket.ping("still here"), 200);
    const [client, server] = await both_closed(ends);
    clearInterval(pinging);
    same(client, { code: 1001, reason: "idle timeout" }, "client");
    same(server.code, 1001, "server");
  });

  await story("the proxy's own pings stay between it and each peer", async () => {
    const { client, server } = await opened("/kept");
    await Promise.all([client.ping(), client.ping().then(() => client.ping())]);
    client.socket.ping("mine");
    same(await client.pong(), "mine", "pong");
    server.socket.ping("yours");
    same(await server.pong(), "yours", "pong");
    client.socket.send("done");
    same(await server.message(), "done", "message");
    const pongs = (peer) => peer.controls.filter((control) => control.startsWith("pong"));
    same([pongs(client), pongs(server)], [["pong mine"], ["pong yours"]], "pongs that were asked for");
    for (const peer of [client, server]) { // a Ping of the proxy's that went through as well would come twice
      const pings = peer.controls.filter((control) => control.startsWith("ping"));
      same(new Set(pings).size, pings.length, "different pings");
    }
    client.socket.close(1000);
    same((await server.closed()).code, 1000, "close");
  });

  await story("a client that answers no Ping is given up, and the server told", async () => {
    const { server } = await opened("/kept", { autoPong: false });
    same((await server.closed()).code, 1001, "close");
  });

  await story("a foreign origin is refused with 403, the same origin is not", async () => {
    same((await refused(base, "/", { ...tls, origin: "https://evil.example" })).status, 403, "status");
    const own = await opened("/", { origin: base.replace("ws", "http") });
    own.client.socket.close(1000);
    await own.server.closed();
  });

  await story("another version is answered with 426 and the one that is spoken", async () => {
    const { status, headers } = await refused(base, "/", { ...tls, protocolVersion: 8 });
    same([status, headers["sec-websocket-version"]], [426, "13"], "answer");
  });

  await story("a server that picks what was not offered never opens a tunnel", async () => {
    same((await refused(base, "/", { ...tls, protocols: ["mqtt"], query: "choose=smtp" })).status, 502, "status");
  });
}

// --- raw bytes

const handshake = (path) =>
  `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const path_of = ({ url }, base) => url.slice(base.length);

/** A client that only knows bytes: `until` waits for some. */
function raw(port) {
  const socket = connect_tcp(port, "127.0.0.1");
  let got = Buffer.alloc(0);
  let look = () => {};
  socket.on("data", (chunk) => { got = Buffer.concat([got, chunk]); look(); }).on("error", () => {});
  const until = (wanted) => new Promise((resolve) => {
    look = () => got.includes(wanted) && resolve(got);
    look();
  });
  return { socket, until };
}

await run("a frame in the same segment as the handshake is answered", async () => {
  const { socket, until } = raw(main.plain);
  // A masked text frame "early" under the mask 0, so that it reads as it is.
  const frame = Buffer.concat([Buffer.from([0x81, 0x85, 0, 0, 0, 0]), Buffer.from("early")]);
  const address = addressed(bases.ws, "/", "echo");
  socket.write(Buffer.concat([Buffer.from(handshake(path_of(address, bases.ws))), frame]));
  const got = await until(Buffer.concat([Buffer.from([0x81, 5]), Buffer.from("early")]));
  check(got.toString("latin1").startsWith("HTTP/1.1 101 "), "no 101");
  check(got.includes("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "accept value of RFC 6455 §1.3");
  socket.destroy();
});

// --- the end

if (!direct) {
  await run("TERM drains: readyz says so, each session gets 1012, the process ends with 0", async () => {
    const { proxy, plain, tls, admin } = await proxied("3s");
    try {
      const all = await Promise.all(Array.from({ length: 40 }, (_, index) => (index % 2 === 0
        ? connect(backend, `ws://127.0.0.1:${plain}`)
        : connect(backend, `wss://localhost:${tls}`, "/", { ca }))));
      proxy.signal("SIGTERM");
      same((await Promise.race(all.map(({ client }) => client.closed()))).code, 1012, "first close");
      const ready = await status_of(admin, "/readyz");
      check(ready === 503 || ready === null, `readyz said ${ready} while draining`);
      for (const ends of all) same((await both_closed(ends)).map(({ code }) => code), [1012, 1001], "close codes");
      same(await proxy.exited, { code: 0, signal: null }, "exit");
    } finally {
      await proxy.stop();
    }
  });

  await run("a second TERM ends at once", async () => {
    const { proxy, plain } = await proxied("60s");
    try {
      const deaf = raw(plain); // never answers a Close, and so holds the drain up
      deaf.socket.write(handshake(path_of(addressed(bases.ws, "/"), bases.ws)));
      await deaf.until("HTTP/1.1 101 ");
      const others = await Promise.all(Array.from({ length: 30 }, () => connect(backend, `ws://127.0.0.1:${plain}`)));
      proxy.signal("SIGTERM");
      await Promise.race(others.map(({ client }) => client.closed()));
      const since = Date.now();
      proxy.signal("SIGTERM");
      await proxy.exited;
      check(Date.now() - since < 1_500, `took ${Date.now() - since} ms`);
    } finally {
      await proxy.stop();
    }
  });

  await run("the proxy lived through all of it", async () => {
    same(await status_of(main.admin, "/readyz"), 200, "readyz");
    check(!/panicked/.test(main.proxy.log()), "a panic in the log");
  });
  await main.proxy.stop();
}
finish();
