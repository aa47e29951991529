// Upgrades under live sessions: npm's ws on both ends, openssl's s_client and Chromium, each through one process after another.
//
//   node upgrades.mjs BINARY      with WSLUICE_CERT and WSLUICE_KEY naming a PEM pair for localhost
//   SESSIONS=1000 UPGRADES=20 node upgrades.mjs BINARY      that many over ws, and as many over wss
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { createRequire } from "node:module";
import { WebSocket, WebSocketServer } from "./peer.mjs";
import { config, free_ports, start } from "./proxy.mjs";
import { check, finish, run } from "./report.mjs";

const { chromium } = createRequire(import.meta.url)("playwright-core");
const binary = process.argv[2];
const sessions = Number(process.env.SESSIONS ?? 150);
const upgrades = Number(process.env.UPGRADES ?? 10);
const pair = { cert: process.env.WSLUICE_CERT, key: process.env.WSLUICE_KEY };
const ca = readFileSync(pair.cert);

/** A message with a number, a checksum and some bytes. */
function numbered(number) {
  const bytes = randomBytes([0, 20, 300, 4000][number % 4]);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(number);
  return Buffer.concat([head, createHash("md5").update(head).update(bytes).digest(), bytes]);
}

/** Checks that messages come in order, once each, and whole. */
class Order {
  next = 0;
  wrong = [];

  take(message) {
    const number = message.readUInt32BE(0);
    const sum = createHash("md5").update(message.subarray(0, 4)).update(message.subarray(20)).digest();
    if (number !== this.next) this.wrong.push(`${number} in place of ${this.next}`);
    if (!sum.equals(message.subarray(4, 20))) this.wrong.push(`${number} is damaged`);
    this.next = number + 1;
  }
}

/** Answers each message with a numbered one of its own. */
const orders = new Map();
const server = new WebSocketServer({ port: 0, host: "127.0.0.1", perMessageDeflate: true, maxPayload: 1 << 20 });
await once(server, "listening");
server.on("connection", (socket, request) => {
  const id = new URL(request.url, "http://localhost").searchParams.get("id");
  socket.on("error", () => {});
  if (id === null) {
    socket.on("message", (data, binary) => socket.send(data, { binary }));
    return;
  }
  const order = new Order();
  orders.set(id, order);
  let answers = 0;
  socket.on("message", (message) => {
    order.take(message);
    socket.send(numbered(answers++));
  });
});

class Client {
  sent = 0;
  order = new Order();
  closed = null;
  #timer;

  constructor(url, id) {
    this.id = String(id);
    this.socket = new WebSocket(`${url}/?id=${id}`, { ca, perMessageDeflate: id % 3 === 0 });
    this.socket.on("message", (message) => this.order.take(message));
    this.socket.on("close", (code, reason) => { this.closed = `${code} ${reason}`; });
    this.socket.on("error", (error) => { this.closed = String(error); });
    this.opened = once(this.socket, "open");
  }

  talk() {
    if (this.closed === null) {
      this.socket.send(numbered(this.sent++));
      // Some 1,500 messages a second in all: both ends run on this one thread.
      this.#timer = setTimeout(() => this.talk(), sessions * (0.3 + Math.random() * 2));
    }
  }

  async finish() {
    clearTimeout(this.#timer);
    const until = Date.now() + 20_000;
    while (this.order.next < this.sent && this.closed === null && Date.now() < until) await pause(20);
    check(this.closed === null, `session ${this.id} was closed: ${this.closed}`);
    const wrong = [...this.order.wrong, ...orders.get(this.id).wrong];
    check(wrong.length === 0, `session ${this.id}: ${wrong.slice(0, 5)}`);
    check(this.order.next === this.sent, `session ${this.id}: ${this.order.next} answers to ${this.sent} messages`);
    this.socket.close(1000);
  }
}

const [plain, tls, admin] = await free_ports(3);
const proxy = await start(binary, config({ plain, tls, admin, backend: server.address().port, ...pair }), admin);
let last_pid = null;
process.once("exit", () => { if (last_pid !== null) try { process.kill(last_pid, "SIGKILL"); } catch { /* it has ended */ } });

/** Upgrades by the API. */
function upgrade() {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: "127.0.0.1", port: admin, path: "/api/v1/upgrade", method: "POST", agent: false });
    request.on("error", reject);
    request.on("response", async (response) => {
      let text = "";
      for await (const part of response.setEncoding("utf8")) text += part;
      if (response.statusCode !== 200) return reject(new Error(`${response.statusCode} ${text}`));
      const answer = JSON.parse(text);
      last_pid = answer.pid;
      resolve(answer);
    });
    request.end();
  });
}

const memory = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) / 1024;

async function ended(pid) {
  for (const since = Date.now(); Date.now() - since < 20_000; await pause(20)) {
    try {
      process.kill(pid, 0);
      if (/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) return true;
    } catch {
      return true;
    }
  }
  return false;
}

await run(`${upgrades} upgrades under ${sessions} sessions over ws and ${sessions} over wss`, async () => {
  const clients = [];
  for (let id = 0; id < 2 * sessions; id += 1) {
    clients.push(new Client(id % 2 === 0 ? `ws://127.0.0.1:${plain}` : `wss://localhost:${tls}`, id));
    if (id % 50 === 49) await Promise.all(clients.slice(-50).map((client) => client.opened));
  }
  await Promise.all(clients.map((client) => client.opened));
  clients.forEach((client) => client.talk());
  // Newcomers, all the time.
  let visits = 0;
  let visiting = true;
  const visitors = (async () => {
    while (visiting) {
      const visitor = new WebSocket(`ws://127.0.0.1:${plain}/`);
      await once(visitor, "open");
      visitor.send("hello");
      await once(visitor, "message");
      visitor.close(1000);
      visits += 1;
    }
  })();
  await pause(1000);
  let before = null;
  let longest = 0;
  for (let count = 0; count < upgrades; count += 1) {
    const old = last_pid;
    const answer = await upgrade();
    longest = Math.max(longest, answer.move_seconds);
    check(old === null || await ended(old), `process ${old} is still there`);
    // A visitor may be on the way out.
    const stayed = Object.entries(answer.stayed).filter(([why]) => why !== "closing");
    check(stayed.length === 0, `stayed: ${JSON.stringify(answer.stayed)}`);
    before ??= memory(answer.pid);
    // The next visitor but one has come after it, however slow the machine is.
    const seen = visits;
    for (const since = Date.now(); visits < seen + 2; await pause(20)) {
      check(Date.now() - since < 20_000, `no newcomer after upgrade ${count}`);
    }
    await pause(300);
  }
  visiting = false;
  await visitors;
  for (const client of clients) await client.finish();
  const after = memory(last_pid);
  check(visits >= 2 * upgrades, `only ${visits} visitors`);
  check(after < 2 * before + 20, `${after.toFixed()} MiB, after the first upgrade ${before.toFixed()}`);
  const messages = clients.reduce((sum, client) => sum + client.sent, 0);
  console.log(`        ${messages} messages each way, ${visits} newcomers, the longest move ${longest} s, ` +
    `${before.toFixed()} MiB after the first upgrade and ${after.toFixed()} at the end`);
}, 300_000);

await run("openssl changes its keys after the session has moved", async () => {
  const client = spawn("openssl", ["s_client", "-connect", `localhost:${tls}`, "-tls1_3", "-CAfile", pair.cert]);
  process.once("exit", () => client.kill("SIGKILL"));
  let heard = Buffer.alloc(0);
  // It says on its standard error that it changes its keys.
  for (const output of [client.stdout, client.stderr]) {
    output.on("data", (data) => { heard = Buffer.concat([heard, data]); });
  }
  const hears = async (what) => {
    for (const since = Date.now(); !heard.includes(what); await pause(20)) {
      check(Date.now() - since < 10_000, `nothing of ${JSON.stringify(what)}: ${heard.toString("latin1").slice(-300)}`);
    }
    heard = Buffer.alloc(0);
  };
  const frame = (text) => Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)]);
  await hears("Verify return code");
  client.stdin.write("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
  await hears("101 Switching Protocols");
  client.stdin.write(frame("before"));
  await hears("before");
  await upgrade();
  for (const command of ["K", "k", "K"]) {
    client.stdin.write(`${command}\n`);
    await hears("KEYUPDATE");
    client.stdin.write(frame(`after ${command}`));
    await hears(`after ${command}`);
    await upgrade();
  }
  client.stdin.write(frame("at last"));
  await hears("at last");
  client.kill();
});

await run("a page in Chromium keeps its session through ten upgrades", async () => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
      "--ignore-certificate-errors",
    ],
  });
  try {
    const page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage();
    // Any page of the same origin; the server answers plain requests with 426.
    await page.goto(`https://localhost:${tls}/`);
    await page.evaluate((url) => new Promise((resolve, reject) => {
      globalThis.heard = [];
      globalThis.ended = null;
      globalThis.socket = new WebSocket(url);
      socket.onopen = () => resolve();
      socket.onerror = () => reject(new Error("no session"));
      socket.onclose = (event) => { globalThis.ended = `${event.code} ${event.reason}`; };
      socket.onmessage = (event) => heard.push(event.data);
    }), `wss://localhost:${tls}/`);
    for (let count = 0; count < 10; count += 1) {
      await page.evaluate((text) => socket.send(text), `number ${count}`);
      await page.waitForFunction((wanted) => heard.length === wanted || ended !== null, count + 1);
      await upgrade();
    }
    const [heard, ended] = await page.evaluate(() => [heard, ended]);
    check(ended === null, `closed: ${ended}`);
    check(heard.join() === Array.from({ length: 10 }, (_, count) => `number ${count}`).join(), heard.join());
  } finally {
    await browser.close();
  }
}, 120_000);

if (last_pid !== null) process.kill(last_pid, "SIGTERM");
await proxy.exited;
finish();
