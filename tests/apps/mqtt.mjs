// MQTT over WebSocket: Debian's mosquitto, with paho-mqtt for Python (the current one, and 1.3.0 as devices still have it) and npm's mqtt as clients.
// Both paho do what the standard forbids and lets nobody in: they answer Pings unmasked, and 1.3.0 writes lengths in eight bytes that fit into two.
//
//   node mqtt.mjs BINARY
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import mqtt from "mqtt";
import { Program, Proxy, check, finish, free_ports, here, run, scratch, until } from "./rig.mjs";

const [port] = await free_ports(1);
const settings = join(scratch, "mosquitto.conf");
// It does not start with listeners for WebSocket alone, so there is another, on a Unix socket.
writeFileSync(settings, `listener 0 ${join(scratch, "mosquitto.sock")}
listener ${port} 127.0.0.1
socket_domain ipv4
protocol websockets
allow_anonymous true
persistence false
user root
`);
const broker = await new Program(port, "mosquitto", ["-c", settings]).start();
const proxy = await Proxy.start(process.argv[2], {
  app: "mqtt",
  servers: [port],
  // So that some Pings pass during the run, as they do in a minute of a real session.
  route: "\n    keepalive: { ping: 4s, pong: 3900ms }",
});
// In all three forms of a length; not larger, as mosquitto takes large frames at some 40 kB a second, also with nothing between.
const SIZES = [1, 100, 126, 20_000, 40_000, 70_000];

/** paho-mqtt in a Python of its own. `path` is where its package lies, where it is not the installed one. */
function paho(scheme, name, path) {
  const child = spawn(join(here, ".venv/bin/python"), [join(here, "mqtt_client.py"), scheme, String(proxy.port(scheme)), name], {
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1", ...(path && { PYTHONPATH: path }) }, stdio: ["pipe", "pipe", "inherit"],
  });
  process.once("exit", () => child.kill("SIGKILL"));
  child.stdin.on("error", () => {});
  const one = { connects: 0, lost: 0, sizes: [] };
  createInterface({ input: child.stdout }).on("line", (line) => {
    const { event, size, paho: version } = JSON.parse(line);
    if (version) one.version = version;
    if (event === "connect") one.connects += 1;
    if (event === "disconnect") one.lost += 1;
    if (event === "message") one.sizes.push(size);
  });
  one.publish = (size) => child.stdin.write(`publish ${size}\n`);
  one.end = () => child.kill("SIGKILL");
  return one;
}

function mqtt_js(scheme, name) {
  const client = mqtt.connect(`${proxy.base(scheme)}/mqtt`, { clientId: name, keepalive: 10, reconnectPeriod: 500 });
  const one = { connects: 0, lost: 0, sizes: [], version: "npm" };
  client.on("connect", () => client.subscribe(`wsluice/${name}`, { qos: 1 }, () => { one.connects += 1; }));
  client.on("close", () => { one.lost += 1; });
  client.on("error", () => {});
  client.on("message", (_, payload) => one.sizes.push(payload.length));
  one.publish = (size) => client.publish(`wsluice/${name}`, Buffer.alloc(size, "x"), { qos: 1 });
  one.end = () => client.end(true);
  return one;
}

const clients = {
  "paho-mqtt": (scheme) => paho(scheme, `new-${scheme}`),
  "paho-mqtt 1.3.0": (scheme) => paho(scheme, `old-${scheme}`, join(here, ".venv/paho-1.3.0")),
  "npm mqtt": (scheme) => mqtt_js(scheme, `js-${scheme}`),
};
for (const scheme of ["ws", "wss"]) {
  const all = Object.entries(clients).map(([name, start]) => [name, start(scheme)]);

  /** Publishes to itself and waits for all of it. */
  async function works(one, sizes = SIZES) {
    const before = one.sizes.length;
    sizes.forEach(one.publish);
    await until(() => `what was published arrives; arrived: ${one.sizes.slice(before)}; disconnected ${one.lost} times`, () => one.sizes.length >= before + sizes.length, 20_000);
    check(one.sizes.slice(before).join() === sizes.join(), `arrived: ${one.sizes.slice(before)}`);
  }

  for (const [name, one] of all) {
    await run(`${name} over ${scheme}: publishes and receives, small and large`, async () => {
      await until("it is connected", () => one.connects > 0);
      await works(one);
      check(one.lost === 0, `disconnected ${one.lost} times`);
    });
  }
  await run(`MQTT over ${scheme}: the keepalive's Pings end no session`, async () => {
    const answered = () => proxy.metric("wsluice_ping_rtt_seconds_count", { peer: "client" });
    const before = await answered();
    const lost = () => all.some(([, one]) => one.lost > 0);
    await until("each client has answered Pings", async () => lost() || await answered() >= before + 2 * all.length, 30_000);
    for (const [name, one] of all) check(one.lost === 0, `${name} was disconnected ${one.lost} times`);
  });
  await run(`MQTT over ${scheme}: a reload disturbs nobody`, async () => {
    const before = all.map(([, one]) => one.lost);
    await proxy.reload();
    for (const [, one] of all) await works(one, [10, 40_000]);
    check(all.every(([, one], at) => one.lost === before[at]), "somebody was disconnected");
  });
  await run(`MQTT over ${scheme}: clients come back to a broker that was lost`, async () => {
    const before = all.map(([, one]) => one.connects);
    await broker.restart();
    await until(() => `all are connected again: ${all.map(([name, one]) => `${name} ${one.connects}`)}`, () => all.every(([, one], at) => one.connects > before[at]));
    for (const [, one] of all) await works(one, [10, 40_000]);
  }, 120_000);
  for (const [, one] of all) one.end();
}
await proxy.stop();
await broker.kill();
finish();
