// noVNC in Headless Chromium, by websockify, to a VNC server of our own that shows one colour and changes it with each key.
//
//   node novnc.mjs BINARY
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { WebSocket } from "ws";
import { browse } from "./browser.mjs";
import { Program, Proxy, check, finish, free_ports, here, run, scratch, until } from "./rig.mjs";

const SIDE = 400; // 640 KB a picture, which is one frame of WebSocket or many, as websockify likes

/** RFB 3.8 (RFC 6143), no login: a screen of one colour, the code of the last key. */
function vnc_server(port) {
  const server = createServer((socket) => {
    let input = Buffer.alloc(0);
    let color = 0;
    let asked = false; // for the next picture
    let changed = false;
    let wake;
    const take = async (count) => {
      while (input.length < count) await new Promise((resolve) => { wake = resolve; });
      const taken = input.subarray(0, count);
      input = input.subarray(count);
      return taken;
    };
    socket.on("data", (data) => { input = Buffer.concat([input, data]); wake?.(); }).on("error", () => {});
    const show = () => {
      asked = changed = false;
      const head = Buffer.alloc(16); // FramebufferUpdate of one rectangle, raw
      head.writeUInt16BE(1, 2);
      head.writeUInt16BE(SIDE, 8);
      head.writeUInt16BE(SIDE, 10);
      socket.write(Buffer.concat([head, Buffer.alloc(SIDE * SIDE * 4, Buffer.from([color, color, color, 255]))]));
    };
    (async () => {
      socket.write("RFB 003.008\n");
      await take(12);
      socket.write(Buffer.from([1, 1])); // security: none
      await take(1);
      socket.write(Buffer.alloc(4));
      await take(1);
      const hello = Buffer.alloc(24);
      hello.writeUInt16BE(SIDE, 0);
      hello.writeUInt16BE(SIDE, 2);
      hello.set([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16], 4);
      socket.write(hello);
      for (;;) {
        const kind = (await take(1))[0];
        if (kind === 0) await take(19);
        else if (kind === 2) await take(4 * (await take(3)).readUInt16BE(1));
        else if (kind === 3) {
          asked = true;
          if ((await take(9))[0] === 0 || changed) show();
        } else if (kind === 4) {
          const key = await take(7);
          color = key[6];
          changed = true;
          if (asked) show();
        } else if (kind === 5) await take(5);
        else socket.destroy();
      }
    })();
  });
  return new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve(server)));
}

/** websockify has a process for each session, and all of them go when it is lost. */
class Websockify extends Program {
  async kill() {
    process.kill(-this.child.pid, "SIGKILL");
    await this.exited;
  }
}

// The page, beside noVNC itself. It comes back as the page of noVNC does with `reconnect=true`.
const web = join(scratch, "web");
mkdirSync(web);
for (const folder of ["core", "vendor"]) symlinkSync(join(here, "node_modules/@novnc/novnc", folder), join(web, folder));
writeFileSync(join(web, "index.html"), `<!doctype html><div id="screen" style="width: ${SIDE}px; height: ${SIDE}px"></div><script type="module">
import RFB from "./core/rfb.js";
window.connects = 0;
window.connect = () => {
  const rfb = new RFB(document.querySelector("#screen"), location.origin.replace("http", "ws") + "/websockify");
  rfb.addEventListener("connect", () => { window.connects += 1; });
  rfb.addEventListener("disconnect", () => setTimeout(window.connect, 300));
  window.rfb = rfb;
};
window.shown = () => document.querySelector("canvas")?.getContext("2d").getImageData(${SIDE - 1}, ${SIDE - 1}, 1, 1).data[0];
window.connect();
</script>`);

const [port, screen] = await free_ports(2);
const vnc = await vnc_server(screen);
const server = await new Websockify(port, join(here, ".venv/bin/python"), [
  "-m", "websockify", "--web", web, `127.0.0.1:${port}`, `127.0.0.1:${screen}`,
], { detached: true, env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" } }).start();
const proxy = await Proxy.start(process.argv[2], { app: "novnc", servers: [port] });
const browser = await browse();

for (const scheme of ["ws", "wss"]) {
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  const connects = () => page.evaluate(() => window.connects ?? 0);

  /** Presses keys, and waits until the screen has the colour of each. */
  async function works(what) {
    for (const key of [0x31, 0x7a, 0x41]) {
      await page.evaluate((code) => window.rfb.sendKey(code, null, true), key);
      await until(() => `the screen shows ${key} ${what}\n${server.said()}`, () => page.evaluate((code) => window.shown() === code, key));
    }
  }

  await run(`noVNC over ${scheme}: the screen shows what is typed`, async () => {
    await page.goto(`${proxy.base(scheme).replace("ws", "http")}/index.html`);
    await until(() => `it is connected\n${server.said()}`, async () => await connects() === 1);
    await works("at first");
  });
  await run(`noVNC over ${scheme}: \`binary\` as older versions offer it is chosen; without an Origin there is no session`, async () => {
    const open = (headers) => new Promise((resolve, reject) => {
      const socket = new WebSocket(`${proxy.base(scheme)}/websockify`, "binary", { headers });
      socket.once("unexpected-response", (_, answer) => resolve(answer.statusCode)).once("error", reject);
      socket.once("message", (data) => { socket.close(); resolve(`${socket.protocol} ${data}`); });
    });
    const answer = await open({ Origin: proxy.base(scheme).replace("ws", "http") });
    check(answer === "binary RFB 003.008\n", answer);
    check(await open({}) === 403, "a client without an Origin was let in");
  });
  await run(`noVNC over ${scheme}: a reload disturbs nobody`, async () => {
    await proxy.reload();
    await works("after the reload");
    check(await connects() === 1, "it has connected again");
  });
  await run(`noVNC over ${scheme}: it comes back when websockify was lost`, async () => {
    await server.restart();
    await until("it connects again", async () => await connects() > 1);
    await works("after the loss");
  });
  await page.close();
}
await browser.close();
await proxy.stop();
await server.kill();
vnc.close();
finish();
