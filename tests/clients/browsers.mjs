// Headless Chromium and Firefox with a page and a WebSocket on one connection of HTTP/2, through reloads and drains.
//
//   node browsers.mjs BINARY      with WSLUICE_CERT and WSLUICE_KEY naming a PEM pair for localhost
import { once } from "node:events";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";
import { Firefox } from "./firefox.mjs";
import { WebSocketServer } from "./peer.mjs";
import { ask_admin, free_ports, metric, start } from "./proxy.mjs";
import { check, finish, run } from "./report.mjs";

const { chromium } = createRequire(import.meta.url)("playwright-core");
const DEADLINE_MS = 180_000;
const binary = process.argv[2];
const [cert, key] = [process.env.WSLUICE_CERT, process.env.WSLUICE_KEY].map((file) => JSON.stringify(file));
const same = (got, wanted, what) => {
  const [left, right] = [got, wanted].map((value) => JSON.stringify(value));
  check(left === right, `${what}: ${left}, wanted ${right}`);
};

// --- the server: a page, and an echo

const server = createServer((request, response) => {
  response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>page</title><p>here");
});
const sockets = new WebSocketServer({ server });
sockets.on("connection", (socket) => socket.on("message", (data, binary) => socket.send(data, { binary })));
server.listen(0, "127.0.0.1");
await once(server, "listening");

const config = ({ tls, admin }) => `version: 1
listeners:
  - { name: tls, bind: "127.0.0.1:${tls}", tls: { certificates: [{ cert: ${cert}, key: ${key} }] } }
routes:
  - { name: other, match: { path: { prefix: /other } }, upstream: backend }
  - { name: rest, match: { path: { prefix: / } }, upstream: backend }
upstreams:
  backend: { endpoints: ["ws://127.0.0.1:${server.address().port}"] }
admin: { bind: "127.0.0.1:${admin}" }
log: { level: info, format: json }
drain: { time: 2s }
`;

// --- the browsers

class Chromium {
  static async start() {
    const self = new Chromium();
    self.browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
      ],
    });
    self.page = await self.browser.newPage({ ignoreHTTPSErrors: true });
    return self;
  }

  goto(url) { return this.page.goto(url); }
  evaluate(expression) { return this.page.evaluate(expression); }
  close() { return this.browser.close(); }
}

/** Opens a WebSocket that the page knows by this name, and remembers what came on it. */
const opening = (name, path) => `new Promise((resolve, reject) => {
  const socket = new WebSocket("wss://" + location.host + "${path}");
  globalThis.${name} = { socket, heard: [], closed: [] };
  socket.onopen = () => resolve(true);
  socket.onerror = () => reject(new Error("no session"));
  socket.onclose = (event) => ${name}.closed.push([event.code, event.reason, event.wasClean]);
  socket.onmessage = (event) => { ${name}.heard.push(event.data); socket.onheard?.(); };
})`;
const echoed = (name, text) => `new Promise((resolve, reject) => {
  const { socket, heard, closed } = ${name};
  socket.onheard = () => resolve(heard.at(-1));
  if (closed.length > 0) reject(new Error("closed"));
  socket.addEventListener("close", () => reject(new Error("closed")));
  socket.send(${JSON.stringify(text)});
})`;
const closing = (name) => `new Promise((resolve) => {
  const { socket, closed } = ${name};
  if (closed.length > 0) resolve(closed);
  socket.addEventListener("close", () => resolve(closed));
})`;

for (const [name, Browser] of Object.entries({ Chromium, Firefox })) {
  const [tls, admin] = await free_ports(2);
  const proxy = await start(binary, config({ tls, admin }), admin);
  let browser;
  const story = (what, work) => run(`${name}: ${what}`, work, DEADLINE_MS);
  const logged = () => proxy.log().split("\n").filter((line) => line.includes('"target":"access"')).map((line) => JSON.parse(line));
  const sessions = () => logged().filter(({ message }) => message === "session");

  await story("page and WebSockets go over one connection of HTTP/2", async () => {
    browser = await Browser.start();
    await browser.goto(`https://localhost:${tls}/`);
    same(await browser.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol"), "h2", "protocol of the page");
    await browser.evaluate(opening("kept", "/kept"));
    await browser.evaluate(opening("brief", "/brief"));
    await browser.evaluate(opening("other", "/other"));
    same(await browser.evaluate(echoed("kept", "grüße ☂")), "grüße ☂", "echo");
    same(await browser.evaluate(echoed("brief", "x".repeat(100_000))), "x".repeat(100_000), "echo");
    same(await metric(admin, "wsluice_http2_connections_active"), 1, "connections of HTTP/2");
    same(await metric(admin, "wsluice_sessions_active"), 3, "sessions");
    await browser.evaluate(`brief.socket.close(4001, "bye")`);
    same(await browser.evaluate(closing("brief")), [[4001, "bye", true]], "close");
    while (sessions().length === 0) await pause(20); // the line is written a moment later
    const [{ http, close_code, client_port }] = sessions();
    same([http, close_code], ["2", 4001], "the log's line of it");
    same(client_port, logged().find(({ message, path }) => message === "request" && path === "/").client_port, "connection");
  });

  await story("ten reloads close nothing", async () => {
    for (let count = 0; count < 10; count += 1) {
      await proxy.reload();
      same(await browser.evaluate(echoed("kept", `number ${count}`)), `number ${count}`, "echo");
      same(await browser.evaluate(`fetch("/again").then(({ status }) => status)`), 200, "page");
    }
    same(await browser.evaluate("[kept.closed, other.closed]"), [[], []], "closes");
    same(await metric(admin, "wsluice_http2_connections_active"), 1, "connections of HTTP/2");
    same(await metric(admin, "wsluice_http2_goaways_total", 'direction="out"'), 0, "GOAWAYs");
  });

  await story("a drain of another route closes nothing here", async () => {
    const { status, text } = await ask_admin(admin, "/api/v1/drains/route/other?time=1s", "PUT");
    check(status === 200 || status === 201, `${status}: ${text}`);
    const [[code]] = await browser.evaluate(closing("other"));
    same(code, 1012, "close of the drained one");
    same(await browser.evaluate(echoed("kept", "still here")), "still here", "echo");
    same(await browser.evaluate(`fetch("/again").then(({ status }) => status)`), 200, "page");
    same(await browser.evaluate(`fetch("/other").then(({ status }) => status)`), 503, "page of the drained route");
    same(await browser.evaluate("kept.closed"), [], "closes");
    same(await metric(admin, "wsluice_http2_connections_active"), 1, "connections of HTTP/2");
  });

  await story("TERM gives the session its 1012, and the process ends with 0", async () => {
    proxy.signal("SIGTERM");
    same(await browser.evaluate(closing("kept")), [[1012, "service restart", true]], "close");
    same(await proxy.exited, { code: 0, signal: null }, "end");
    const kept = sessions().find(({ path }) => path === "/kept");
    same([kept.http, kept.close_code, kept.reason], ["2", 1012, "drain"], "the log's line of it");
  });

  await browser?.close();
  await proxy.stop();
}
finish();
