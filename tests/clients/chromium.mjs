// Headless Chromium on the demo page, as a person would use it: open, send, receive, close, read the close code.
//
//   node chromium.mjs BINARY [SCREENSHOT]      starts the embedded demo, and at the end drains it under an open page
//   node chromium.mjs https://127.0.0.1:8443/ [SCREENSHOT]      visits one that runs
//
// The browser keeps to loopback: its own background traffic is switched off.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { start_demo } from "./proxy.mjs";
import { check, finish, run } from "./report.mjs";

const { chromium } = createRequire(import.meta.url)("playwright-core");
const [target, screenshot] = process.argv.slice(2);
if (!target) {
  console.error("usage: node chromium.mjs BINARY|URL [SCREENSHOT]");
  process.exit(2);
}
const demo = /^https?:/.test(target) ? { page_url: target } : await start_demo(target);
const { page_url } = demo;
const DEADLINE_MS = 20_000;

const scratch = mkdtempSync(join(tmpdir(), "wsluice-chromium-"));
const net_log = join(scratch, "net-log.json");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
    `--log-net-log=${net_log}`, "--net-log-capture-mode=IncludeSensitive",
  ],
});
const page = await browser.newPage({ ignoreHTTPSErrors: true, viewport: { width: 1240, height: 1000 } });
page.setDefaultTimeout(DEADLINE_MS);
const complaints = [];
page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
// Also where the content security policy blocks something.
page.on("console", (message) => message.type() === "error" && complaints.push(`console: ${message.text()}`));
const secure = page_url.startsWith("https:");

const shows = (selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor();
const text_of = (selector) => page.locator(selector).textContent();

async function open(server, subprotocol = "") {
  await page.locator("#server").selectOption(server);
  await page.locator("#subprotocol").fill(subprotocol);
  await page.locator("#open").click();
  await shows("#state", /^open$/);
}

async function closed_with(code, reason, clean = "true") {
  await shows("#closed-code", new RegExp(`^${code}$`));
  check((await text_of("#closed-reason")) === reason, `reason is ${JSON.stringify(await text_of("#closed-reason"))}`);
  check((await text_of("#closed-clean")) === clean, `wasClean is ${await text_of("#closed-clean")}`);
  await shows("#state", /^closed$/);
}

await run("the page loads without a complaint of the browser", async () => {
  const response = await page.goto(page_url);
  check(response.status() === 200, `status ${response.status()}`);
  check((await text_of("#scheme")) === (secure ? "wss" : "ws"), "scheme shown");
  await shows("#state", /^closed$/);
  check(complaints.length === 0, complaints.join("; "));
});

await run("counters arrive as server-sent events", async () => {
  await shows("#counters-state", /^live/);
  await shows("#sessions-active", /^\d/);
});

await run("text and binary messages come back", async () => {
  await open("/echo");
  await page.locator("#text").fill("grüße ☂ <b>not markup</b>");
  await page.locator("#send").click();
  await shows("#log .received", "grüße ☂ <b>not markup</b>");
  await page.locator("#binary").fill("00 01 fe ff");
  await page.locator("#send-binary").click();
  await shows("#log .received.binary", "00 01 fe ff");
});

await run("binary that is no hex is refused on the page", async () => {
  await page.locator("#binary").fill("0g");
  await page.locator("#send-binary").click();
  await shows("#binary-error", "hex");
});

await run("the client closes with a code of its own and sees it echoed", async () => {
  await page.locator("#code").fill("3001");
  await page.locator("#reason").fill("seen enough");
  await page.locator("#close").click();
  await closed_with(3001, "seen enough");
});

await run("the server closes with its code and reason", async () => {
  await open("/echo");
  await page.locator("#text").fill("close 4001 some reason");
  await page.locator("#send").click();
  await closed_with(4001, "some reason");
});

await run("a press of Reconnect opens the same path again", async () => {
  await page.locator("#server").selectOption("/clock");
  await page.locator("#reconnect").click();
  await shows("#state", /^open$/);
  check((await page.locator("#server").inputValue()) === "/echo", "the path of the session before");
  await page.locator("#send").click();
  await shows("#closed-code", /^4001$/);
});

await run("on a phone the messages are in sight and nothing is wider than the screen", async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.evaluate(() => scrollTo(0, 0));
  await open("/echo");
  await page.locator("#text").fill("in sight");
  await page.locator("#send").click();
  await shows("#log .received", "in sight");
  await page.evaluate(() => scrollTo(0, 0));
  const { y, height } = await page.locator("#log .received").first().boundingBox();
  check(y >= 0 && y + height <= 844, `the message is at ${y}`);
  const send = await page.locator("#send").boundingBox();
  check(send.y + send.height <= 844, `the button Send is at ${send.y}`);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  check(width <= 390, `the page is ${width} wide`);
  if (screenshot) await page.screenshot({ path: screenshot.replace(/(\.\w+)?$/, "-phone$1") });
  await page.locator("#close").click();
  await shows("#state", /^closed$/);
  await page.setViewportSize({ width: 1240, height: 1000 });
});

await run("a subprotocol is negotiated, one that the server lacks is refused", async () => {
  await open("/echo", "nothing, chat");
  await shows("#log .note", "subprotocol chat");
  await page.locator("#close").click();
  await shows("#state", /^closed$/);
  await page.locator("#try-subprotocol").click();
  await shows("#closed-code", /^1006$/);
  complaints.length = 0; // the browser rightly complains of this one
});

await run("clock and heartbeat speak", async () => {
  await open("/heartbeat");
  await shows("#log .received", "round_trip_ms");
  await page.locator("#close").click();
  await shows("#state", /^closed$/);
  await open("/clock");
  await shows("#log .received", '"tick":2');
  await page.locator("#code").fill("1000");
  await page.locator("#close").click();
  await closed_with(1000, "seen enough");
});

if (!process.env.WITHOUT_PROXY) {
  await run("a message over the route's limit is answered with 1009", async () => {
    await page.locator("#try-large").click();
    await shows("#closed-code", /^1009$/);
  });
  await run("a silent session on /nap is ended with 1001", async () => {
    await page.locator("#try-nap").click();
    await shows("#closed-code", /^1001$/);
    await shows("#closed-reason", "idle timeout");
  });
  await run("the counters have counted what happened here", async () => {
    await shows("#closes", /1000\s×.*1001\s×.*1009\s×.*3xxx\s×.*4xxx\s×/);
    await shows("#sessions", /^[5-9]|\d\d/);
  });
}

await run("nothing else was complained of", async () => check(complaints.length === 0, complaints.join("; ")));

if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });

if (demo.signal) {
  await run("Ctrl-C drains: the page sees 1012 and the demo ends with 0", async () => {
    await open("/echo");
    demo.signal("SIGINT");
    await shows("#closed-code", /^1012$/);
    await shows("#closed-clean", /^true$/);
    const { code } = await demo.exited;
    check(code === 0, `exit status ${code}`);
  });
}
await browser.close();

if (secure && !process.env.WITHOUT_PROXY) {
  await run("Chromium's own log: page, events and WebSockets went over one connection of HTTP/2", () => {
    const { constants, events } = JSON.parse(readFileSync(net_log, "utf8"));
    const { host } = new URL(page_url);
    const sent = events.filter(({ type }) => type === constants.logEventTypes.HTTP2_SESSION_SEND_HEADERS);
    const requests = sent.map(({ source, params }) => ({ connection: source.id, headers: params.headers }));
    const here = requests.filter(({ headers }) => headers.includes(`:authority: ${host}`));
    const sockets = here.filter(({ headers }) => headers.includes(":protocol: websocket"));
    const [first] = here.filter(({ headers }) => headers.includes(":method: GET") && headers.includes(":path: /"));
    check(sockets.length >= 8, `${sockets.length} WebSockets by extended CONNECT`);
    check(sockets.every(({ headers }) => headers.includes(":method: CONNECT")), "they are CONNECT");
    const connections = new Set(here.map(({ connection }) => connection));
    check(first && connections.size === 1, `${connections.size} connections for ${here.length} requests`);
    const old = events.filter(({ type }) => type === constants.logEventTypes.HTTP_TRANSACTION_SEND_REQUEST_HEADERS);
    check(!old.some(({ params }) => params?.headers.includes(`Host: ${host}`)), "a request went over HTTP/1.1");
    console.log(`        ${here.length} requests, ${sockets.length} of them WebSockets`);
  });
}
rmSync(scratch, { recursive: true, force: true });
finish();
