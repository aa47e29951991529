// webpack-dev-server with Headless Chromium: an edited file shows in the page without a reload, and the page comes back when the server was lost.
//
//   node webpack.mjs BINARY
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { browse } from "./browser.mjs";
import { Proxy, check, finish, free_ports, own_server, run, scratch, until } from "./rig.mjs";

if (process.argv[2] === "serve") {
  const { default: webpack } = await import("webpack");
  const { default: WebpackDevServer } = await import("webpack-dev-server");
  const [port, root] = process.argv.slice(3);
  const compiler = webpack({ mode: "development", context: root, entry: "./main.js", output: { path: join(root, "dist") }, infrastructureLogging: { level: "error" } });
  // Without the URL, which means "where the page is", it tells its client to go to its own host and port, past the proxy.
  const client = { webSocketURL: "auto://0.0.0.0:0/ws" };
  await new WebpackDevServer({ host: "127.0.0.1", port: Number(port), static: { directory: root, watch: false }, client }, compiler).start();
} else {
  const root = join(scratch, "webpack");
  mkdirSync(root);
  writeFileSync(join(root, "index.html"), `<!doctype html><p id="text"></p><script src="/main.js"></script>`);
  writeFileSync(join(root, "main.js"), `import text from "./text.js";
const show = () => { document.querySelector("#text").textContent = text; };
show();
if (import.meta.webpackHot) import.meta.webpackHot.accept("./text.js", show);
`);
  const say = (text) => writeFileSync(join(root, "text.js"), `export default ${JSON.stringify(text)};\n`);
  say("first");
  const [port] = await free_ports(1);
  const server = await own_server(import.meta.url, port, root);
  const proxy = await Proxy.start(process.argv[2], { app: "vite", servers: [port] });
  const browser = await browse();

  for (const scheme of ["ws", "wss"]) {
    const page = await browser.newPage({ ignoreHTTPSErrors: true });
    const sockets = [];
    const said = [];
    page.on("websocket", (socket) => sockets.push(socket.url()));
    page.on("console", (message) => said.push(message.text()));
    const shows = (text) => until(
      () => `the page shows ${JSON.stringify(text)}; the console said: ${said.slice(-6).join(" | ")}`,
      () => page.locator("#text").textContent({ timeout: 1000 }).then((seen) => seen === text, () => false), 30_000,
    );
    const kept = () => page.evaluate(() => window.mark === "kept").catch(() => false);

    await run(`webpack-dev-server over ${scheme}: an edited file shows without a reload`, async () => {
      say(`${scheme} at first`);
      await page.goto(`${proxy.base(scheme).replace("ws", "http")}/index.html`);
      await shows(`${scheme} at first`);
      await until("the client has its WebSocket", () => sockets.length > 0);
      await page.evaluate(() => { window.mark = "kept"; });
      say(`${scheme} edited`);
      await shows(`${scheme} edited`);
      check(await kept(), "the page was loaded again");
      check(sockets.length === 1 && sockets[0] === `${proxy.base(scheme)}/ws`, `WebSockets: ${sockets}`);
    });
    await run(`webpack-dev-server over ${scheme}: a reload of wsluice disturbs nobody`, async () => {
      await proxy.reload();
      say(`${scheme} after the reload`);
      await shows(`${scheme} after the reload`);
      check(await kept() && sockets.length === 1, `loaded again; WebSockets: ${sockets}`);
    });
    await run(`webpack-dev-server over ${scheme}: the page comes back when the server was lost`, async () => {
      await server.restart();
      await until("the client has a WebSocket again", () => sockets.length > 1);
      say(`${scheme} after the loss`);
      await shows(`${scheme} after the loss`);
    });
    await page.close();
  }
  await browser.close();
  await proxy.stop();
  await server.kill();
  finish();
}
