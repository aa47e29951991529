// Node-RED: its editor in Headless Chromium, which shows what a flow says over /comms, and a WebSocket of a flow of its own.
//
//   node node-red.mjs BINARY
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { WebSocket } from "ws";
import { browse } from "./browser.mjs";
import { Program, Proxy, check, finish, free_ports, here, run, scratch, until } from "./rig.mjs";

const home = join(scratch, "node-red");
mkdirSync(home);
const [port] = await free_ports(1);
writeFileSync(join(home, "settings.js"), `module.exports = {
  uiHost: "127.0.0.1", uiPort: ${port}, flowFile: "flows.json", credentialSecret: false,
  telemetry: { enabled: false, updateNotification: false }, editorTheme: { tours: false },
};
`);
// One flow says "tick" to the debug sidebar, twice a second; one sends back what comes on its WebSocket.
writeFileSync(join(home, "flows.json"), JSON.stringify([
  { id: "flow", type: "tab", label: "flow" },
  { id: "tick", type: "inject", z: "flow", name: "", props: [{ p: "payload" }], repeat: "0.5", once: true, onceDelay: 0.1, payload: "tick", payloadType: "str", x: 100, y: 100, wires: [["debug"]] },
  { id: "debug", type: "debug", z: "flow", name: "", active: true, tosidebar: true, complete: "payload", targetType: "msg", x: 300, y: 100, wires: [] },
  { id: "listener", type: "websocket-listener", path: "/ws/echo", wholemsg: "false" },
  { id: "in", type: "websocket in", z: "flow", name: "", server: "listener", client: "", x: 100, y: 200, wires: [["out"]] },
  { id: "out", type: "websocket out", z: "flow", name: "", server: "listener", client: "", x: 300, y: 200, wires: [] },
]));
const server = await new Program(port, process.execPath, [
  join(here, "node_modules/node-red/red.js"), "--userDir", home, "--settings", join(home, "settings.js"),
], { cwd: home, env: { ...process.env } }).start();
const proxy = await Proxy.start(process.argv[2], { app: "node-red", servers: [port] });
const browser = await browse();

for (const scheme of ["ws", "wss"]) {
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  const seen = { sockets: [], ticks: 0 };
  page.on("websocket", (socket) => {
    seen.sockets.push(socket.url());
    socket.on("framereceived", ({ payload }) => { if (String(payload).includes('"tick"')) seen.ticks += 1; });
  });
  const ticks = async (what) => {
    const before = seen.ticks;
    await until(() => `the editor hears the flow ${what}; WebSockets: ${seen.sockets}\n${server.said()}`, () => seen.ticks > before + 2);
  };

  /** A client of the flow that gives what comes back. */
  async function echo(messages) {
    const socket = new WebSocket(`${proxy.base(scheme)}/ws/echo`);
    const back = [];
    socket.on("message", (data) => back.push(data.toString()));
    await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
    for (const message of messages) socket.send(message);
    await until("the flow sends all of it back", () => back.length === messages.length);
    check(back.every((message, at) => message === messages[at]), "the echo is another");
    socket.close();
  }

  await run(`Node-RED over ${scheme}: the editor hears the flow, and a flow's WebSocket answers`, async () => {
    await page.goto(`${proxy.base(scheme).replace("ws", "http")}/`);
    await ticks("at first");
    check(seen.sockets.length === 1 && seen.sockets[0] === `${proxy.base(scheme)}/comms`, `WebSockets: ${seen.sockets}`);
    await echo(["a", "b".repeat(126), "c".repeat(70_000), "d".repeat(1 << 20)]);
  });
  await run(`Node-RED over ${scheme}: a reload disturbs nobody`, async () => {
    await proxy.reload();
    await ticks("after the reload");
    check(seen.sockets.length === 1, `WebSockets: ${seen.sockets}`);
  });
  await run(`Node-RED over ${scheme}: the editor comes back when the server was lost`, async () => {
    await server.restart();
    await until("the editor connects again", () => seen.sockets.length > 1);
    await ticks("after the loss");
    await echo(["again"]);
  });
  await page.close();
}
await browser.close();
await proxy.stop();
await server.kill();
finish();
