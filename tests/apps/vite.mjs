// Vite's development server, old and new, with Headless Chromium: an edited file shows in the page without a reload, and the page comes back when the
// server was lost. Both through wsluice: the client could also go to the server directly, and must not.
//
//   node vite.mjs BINARY
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { browse } from "./browser.mjs";
import { Program, Proxy, check, finish, free_ports, here, run, scratch, until } from "./rig.mjs";

const browser = await browse();

/** A project of one page that shows what `text.js` says, and takes a new one without a reload. */
function project(name) {
  const root = join(scratch, name);
  mkdirSync(root);
  writeFileSync(join(root, "index.html"), `<!doctype html><p id="text"></p><script type="module" src="/main.js"></script>`);
  writeFileSync(join(root, "main.js"), `import text from "./text.js";
const show = (what) => { document.querySelector("#text").textContent = what; };
show(text);
if (import.meta.hot) import.meta.hot.accept("./text.js", (fresh) => show(fresh.default));
`);
  const say = (text) => writeFileSync(join(root, "text.js"), `export default ${JSON.stringify(text)};\n`);
  say("first");
  return { root, say };
}

for (const version of ["vite5", "vite8"]) {
  const { root, say } = project(version);
  const ports = await free_ports(2);
  const servers = ports.map((port) => new Program(port, process.execPath, [
    join(here, "node_modules", version, "bin/vite.js"), root, "--host", "127.0.0.1", "--port", String(port), "--strictPort",
  ], { cwd: root, env: { ...process.env, NO_COLOR: "1" } }));
  // Vite 5 asks with a GET whether its server is back, and any answer will do, also the 502 of a proxy: the page that it then loads is that 502. It
  // needs a second server that takes over, as in a rolling restart. Vite 8 asks with a WebSocket and waits for its only server.
  const two = version === "vite5";
  for (const server of two ? servers : servers.slice(0, 1)) await server.start();
  const proxy = await Proxy.start(process.argv[2], {
    app: "vite",
    servers: two ? ports.map((port, at) => ({ url: `ws://127.0.0.1:${port}`, priority: at })) : ports.slice(0, 1),
    upstream: two ? "\n    ejection: off" : "",
  });

  for (const scheme of ["ws", "wss"]) {
    const page = await browser.newPage({ ignoreHTTPSErrors: true });
    const sockets = [];
    const said = [];
    page.on("websocket", (socket) => sockets.push(socket.url()));
    page.on("console", (message) => said.push(message.text()));
    const shows = (text) => until(
      () => `the page shows ${JSON.stringify(text)}`,
      () => page.locator("#text").textContent({ timeout: 1000 }).then((seen) => seen === text, () => false), 30_000,
    ).catch((error) => { throw new Error(`${error.message}\n        the console said: ${said.slice(-6).join(" | ")}`); });
    const mark = () => page.evaluate(() => { window.mark = "kept"; });
    const kept = () => page.evaluate(() => window.mark === "kept").catch(() => false);

    await run(`${version} over ${scheme}: an edited file shows without a reload`, async () => {
      say(`${scheme} at first`);
      await page.goto(`${proxy.base(scheme).replace("ws", "http")}/`);
      await shows(`${scheme} at first`);
      await until("the client says that it is connected", () => said.some((line) => /connected\./.test(line)));
      await mark();
      say(`${scheme} edited`);
      await shows(`${scheme} edited`);
      check(await kept(), "the page was loaded again");
      check(sockets.length === 1 && sockets[0].startsWith(proxy.base(scheme)), `WebSockets: ${sockets}`);
    });
    await run(`${version} over ${scheme}: a reload of wsluice disturbs nobody`, async () => {
      await proxy.reload();
      say(`${scheme} after the reload`);
      await shows(`${scheme} after the reload`);
      check(await kept() && sockets.length === 1, `loaded again; WebSockets: ${sockets}`);
    });
    await run(`${version} over ${scheme}: the page comes back when the server was lost`, async () => {
      said.length = 0;
      if (two) await servers[0].kill();
      else await servers[0].restart();
      await until(() => `the page is loaded again; the console said: ${said.slice(-6).join(" | ")}`, async () => !await kept(), 30_000);
      await until(() => `the client is connected again; the console said: ${said.slice(-6).join(" | ")}`, () => said.some((line) => /connected\./.test(line)), 30_000);
      say(`${scheme} after the loss`);
      await shows(`${scheme} after the loss`);
      check(sockets.length > 1 && sockets.every((url) => url.startsWith(proxy.base(scheme))), `WebSockets: ${sockets}`);
      if (two) await servers[0].start();
    }, 120_000);
    await page.close();
  }
  await proxy.stop();
  for (const server of two ? servers : servers.slice(0, 1)) await server.kill();
}
await browser.close();
finish();
