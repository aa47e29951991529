// Starts the wsluice binary on a configuration of its own and ends exactly the process it started.
import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const READY_MS = 15_000;

/** Spawns the binary, and sees to it that it does not outlive this process. */
function spawn_bound(binary, parameters, stdio) {
  const child = spawn(binary, parameters, { stdio });
  process.once("exit", () => child.kill("SIGKILL"));
  child.once("error", (error) => console.error(String(error)));
  return child;
}
process.once("SIGTERM", () => process.exit(1)); // so that a timeout from outside runs the handlers above

/** Ports nobody listens on at this moment, all different. */
export async function free_ports(count) {
  const servers = await Promise.all(Array.from({ length: count }, () => new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(server));
  })));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Status of a GET, or null where nothing listens. */
export const status_of = (port, path) => new Promise((resolve) => {
  get({ host: "127.0.0.1", port, path, agent: false }, (response) => {
    response.resume();
    resolve(response.statusCode);
  }).on("error", () => resolve(null));
});

/** Status, header fields and text of a request to the admin listener. */
export const ask_admin = (port, path, method = "GET") => new Promise((resolve, reject) => {
  request({ host: "127.0.0.1", port, path, method, agent: false }, async (response) => {
    let text = "";
    for await (const piece of response.setEncoding("utf8")) text += piece;
    resolve({ status: response.statusCode, headers: response.headers, text });
  }).on("error", reject).end();
});

/** The sum of the series of this name that have all of these labels, each as in `result="done"`. */
export async function metric(admin, name, ...labels) {
  const { text } = await ask_admin(admin, "/metrics");
  const lines = text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  const wanted = lines.filter((line) => labels.every((label) => line.includes(label)));
  return wanted.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/**
 * The suites' configuration: two listeners, one more for HTTP/2 by prior knowledge where a port is given, and a route for each
 * thing that is configured and not negotiated.
 */
export function config({ plain, prior, tls, admin, backend, cert, key, drain = "5s" }) {
  return `version: 1
listeners:
  - { name: plain, bind: "127.0.0.1:${plain}" }
${prior ? `  - { name: prior, bind: "127.0.0.1:${prior}", protocols: [h2, http/1.1] }\n` : ""}  - name: tls
    bind: "127.0.0.1:${tls}"
    tls: { certificates: [{ cert: ${JSON.stringify(cert)}, key: ${JSON.stringify(key)} }] }
routes:
  - name: limited
    match: { path: { prefix: /limited } }
    upstream: backend
    limits: { message: 64KiB }
  - name: idle
    match: { path: { prefix: /idle } }
    upstream: backend
    timeouts: { idle: 1s }
  - name: kept
    match: { path: { prefix: /kept } }
    upstream: backend
    keepalive: { ping: 1s, pong: 500ms }
  - name: rest
    match: { path: { prefix: / } }
    upstream: backend
upstreams:
  backend: { endpoints: ["ws://127.0.0.1:${backend}"] }
admin: { bind: "127.0.0.1:${admin}" }
log: { level: info, format: json }
drain: { time: ${drain} }
`;
}

/** Runs the binary until it is ready; what it says goes into a file that `log()` reads. */
export async function start(binary, text, admin) {
  const directory = mkdtempSync(join(tmpdir(), "wsluice-clients-"));
  const file = join(directory, "wsluice.yaml");
  writeFileSync(file, text);
  const output = openSync(join(directory, "log"), "w");
  const child = spawn_bound(binary, ["run", "--config", file], ["ignore", output, output]);
  const log = () => readFileSync(join(directory, "log"), "utf8");
  const exited = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  let gone = false;
  exited.then(() => { gone = true; });
  const proxy = {
    exited, log,
    signal: (name) => child.kill(name),
    /** Puts a changed configuration in force, by HUP: one more route that nothing takes. */
    async reload() {
      const done = () => metric(admin, "wsluice_config_reloads_total", 'result="done"');
      const before = await done();
      const more = `routes:\n  - { name: more-${before}, match: { hosts: [more.test] }, upstream: backend }`;
      writeFileSync(file, readFileSync(file, "utf8").replace(/routes:(\n  - \{ name: more-.*)?/, more));
      child.kill("SIGHUP");
      // The file is watched as well: whichever is first.
      while (await done() === before) {
        if (gone) throw new Error(`wsluice has ended:\n${log()}`);
        await pause(20);
      }
    },
    async stop() {
      if (!gone) child.kill("SIGKILL");
      await exited;
      rmSync(directory, { recursive: true });
    },
  };
  for (const since = Date.now(); await status_of(admin, "/readyz") !== 200; await pause(20)) {
    if (gone || Date.now() - since > READY_MS || child.pid === undefined) {
      throw new Error(`wsluice is not ready:\n${log()}`);
    }
  }
  return proxy;
}

/** Runs the embedded demo until it has printed the address of its page. */
export async function start_demo(binary) {
  const child = spawn_bound(binary, [], ["ignore", "pipe", "inherit"]);
  const exited = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  let said = "";
  const page_url = await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`the demo printed no address:\n${said}`)), READY_MS);
    exited.then(({ code }) => reject(new Error(`the demo ended with ${code}:\n${said}`)));
    child.stdout.setEncoding("utf8").on("data", (text) => {
      said += text;
      const found = /https:\/\/[^\s/]+\//.exec(said);
      if (!found) return;
      clearTimeout(late);
      resolve(found[0]);
    });
  });
  return { page_url, exited, signal: (name) => child.kill(name) };
}
