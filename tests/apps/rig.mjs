// What all the applications share: wsluice on their file of config/apps/ with a certificate of this run, a server of theirs that can be killed and started
// again, and the three things that are asked of each: it works, a reload disturbs nobody, a lost server is come back to.
import { spawn } from "node:child_process";
import { createWriteStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { free_ports, status_of } from "../clients/proxy.mjs";

export { check, finish, run } from "../clients/report.mjs";
export { free_ports, pause };

export const here = new URL(".", import.meta.url).pathname;
export const certificate = process.env.WSLUICE_CERT;
export const scratch = mkdtempSync(join(tmpdir(), "wsluice-apps-"));
const READY_MS = 60_000;

const children = new Set();
process.once("exit", () => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(scratch, { recursive: true, force: true });
});
process.once("SIGTERM", () => process.exit(1)); // so that a timeout from outside runs the handler above

/** Waits until `holds` gives something true, and gives it; `what` is told where it never does. */
export async function until(what, holds, ms = READY_MS) {
  for (const since = Date.now(); ; await pause(50)) {
    const value = await holds();
    if (value) return value;
    if (Date.now() - since > ms) throw new Error(`not within ${ms} ms: ${typeof what === "function" ? what() : what}`);
  }
}

const listens = (port) => new Promise((resolve) => {
  const socket = connect({ host: "127.0.0.1", port }, () => { socket.destroy(); resolve(true); });
  socket.once("error", () => resolve(false));
});

let programs = 0;

/** A process that listens on a port, and can be ended without a word and started again. */
export class Program {
  constructor(port, command, args, options = {}) {
    Object.assign(this, { port, command, args, options, log: join(scratch, `program-${programs += 1}.log`) });
  }

  async start() {
    const output = createWriteStream(this.log, { flags: "a" });
    await new Promise((resolve) => output.once("open", resolve));
    const child = spawn(this.command, this.args, { stdio: ["ignore", output, output], ...this.options });
    let gone = false;
    this.exited = new Promise((resolve) => {
      child.once("error", (error) => { output.write(String(error)); gone = true; resolve(); });
      child.once("exit", () => { gone = true; children.delete(child); resolve(); });
    });
    children.add(child);
    this.child = child;
    await until(() => `${this.command} listens on ${this.port}:\n${this.said()}`, () => {
      if (gone) throw new Error(`${this.command} has ended:\n${this.said()}`);
      return listens(this.port);
    });
    return this;
  }

  said() { return readFileSync(this.log, "utf8").slice(-4000); }

  /** As a crash or a lost machine does it: no Close, no goodbye. */
  async kill() {
    this.child.kill("SIGKILL");
    await this.exited;
  }

  /** Lost, not there for a moment, and there again. */
  async restart() {
    await this.kill();
    await pause(1000);
    await this.start();
  }
}

/** A program in JavaScript: `node FILE serve PORT …`, which is how the applications' files start their own servers. */
export const own_server = (url, port, ...args) =>
  new Program(port, process.execPath, [new URL(url).pathname, "serve", String(port), ...args.map(String)]).start();

/** What stands in for a file of config/apps/ where there is none. */
const PLAIN = `routes:
  - name: app
    upstream: app
upstreams:
  app:
    endpoints: []
`;
process.env.STICKY_SECRET = "0123456789abcdef".repeat(4);

/** wsluice with a file of config/apps/, as it is but for its addresses: a plain and a TLS listener of this run, and these servers. */
export class Proxy {
  /**
   * `app` is the file's name; `servers` are ports, or endpoints as the file has them. Lines of `route` are added to each of its routes, those of
   * `upstream` to its upstream. With `listener` the file's own one is kept, on the plain port; `edit` changes the text.
   */
  static async start(binary, { app, servers, route = "", upstream = "", listener = false, edit = (text) => text }) {
    const proxy = new Proxy();
    const [plain, tls, admin] = await free_ports(3);
    const text = edit(app ? readFileSync(join(here, "../../config/apps", `${app}.yaml`), "utf8") : PLAIN);
    const endpoints = servers.map((server) => (typeof server === "number" ? `ws://127.0.0.1:${server}` : server));
    const start = text.search(/^routes:$/m);
    const listeners = listener ? text.slice(0, start).replace(/^( +bind:) .*$/m, `$1 "127.0.0.1:${plain}"`) : `listeners:
  - { name: plain, bind: "127.0.0.1:${plain}" }
  - name: tls
    bind: "127.0.0.1:${tls}"
    tls: { certificates: [{ cert: ${JSON.stringify(certificate)}, key: ${JSON.stringify(process.env.WSLUICE_KEY)} }] }
`;
    const routes = text.slice(start).replace(/^ +endpoints: .*$/m, `    endpoints: ${JSON.stringify(endpoints)}${upstream}`);
    Object.assign(proxy, { plain, tls, admin, listeners, routes, route, revision: 0, file: join(scratch, `wsluice-${admin}.yaml`) });
    proxy.write();
    proxy.program = new Program(admin, binary, ["run", "--config", proxy.file]);
    await proxy.program.start();
    await until(() => `wsluice is ready:\n${proxy.program.said()}`, async () => await status_of(admin, "/readyz") === 200);
    return proxy;
  }

  /** Each revision changes the routes themselves, adds another and takes away that of the revision before. */
  write() {
    const [, upstream] = this.routes.match(/^upstreams:\n {2}(\S+):$/m);
    const changed = `headers: { response: { set: { X-Revision: "${this.revision}" } } }`;
    const routes = this.routes
      .replace(/^( {2}- name: .*)$/gm, `$1\n    ${changed}${this.route}`)
      .replace("routes:\n", `routes:\n  - { name: other-${this.revision}, match: { path: { prefix: /other-${this.revision} } }, upstream: ${upstream} }\n`);
    writeFileSync(this.file, `version: 1
${this.listeners}
admin: { bind: "127.0.0.1:${this.admin}" }
log: { level: info, format: json }
watch: false
drain: { time: 2s }
${routes}`);
  }

  base(scheme) {
    const secure = scheme === "wss" || scheme === "https";
    return `${scheme}://localhost:${secure ? this.tls : this.plain}`;
  }

  port(scheme) { return scheme === "wss" ? this.tls : this.plain; }

  /** The value of a series, such as `wsluice_sessions_active{route="app"}`: all that have these labels, added up. */
  async metric(name, labels = {}) {
    const text = await new Promise((resolve, reject) => {
      get({ host: "127.0.0.1", port: this.admin, path: "/metrics", agent: false }, (response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (part) => { body += part; }).once("end", () => resolve(body));
      }).once("error", reject);
    });
    return text.split("\n")
      .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
      .filter((line) => Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
  }

  /** Changes the file, sends HUP, and waits until the new file is in force. */
  async reload() {
    const done = () => this.metric("wsluice_config_reloads_total", { result: "done" });
    const before = await done();
    this.revision += 1;
    this.write();
    this.program.child.kill("SIGHUP");
    await until(() => `the reload:\n${this.program.said()}`, async () => await done() > before);
  }

  async stop() { await this.program.kill(); }
}
