// wsluice behind a real nginx, with the lines that config/apps/README.md has for it: origins, the client's address, quiet sessions, event streams.
//
//   node nginx.mjs BINARY
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, get as get_plain } from "node:http";
import { get as get_tls } from "node:https";
import { join } from "node:path";
import { WebSocket, WebSocketServer } from "ws";
import { Program, Proxy, certificate, check, finish, free_ports, here, own_server, pause, run, scratch, until } from "./rig.mjs";

if (process.argv[2] === "serve") {
  const http = createServer((_, answer) => answer.writeHead(200, { "Content-Type": "text/event-stream" }).write("data: first\n\n"));
  new WebSocketServer({ server: http }).on("connection", (socket, { headers }) => {
    socket.send(JSON.stringify(headers));
    socket.on("message", (data, binary) => socket.send(data, { binary }));
  });
  http.listen(Number(process.argv[3]), "127.0.0.1");
} else {
  const [backend, plain, tls] = await free_ports(3);
  const server = await own_server(import.meta.url, backend);
  // Its Pings come before the end of nginx's patience, both in seconds here.
  const edit = (text) => text.replace("{ ping: 30s }", "{ ping: 1s, pong: 900ms }");
  const proxy = await Proxy.start(process.argv[2], { app: "behind-nginx", servers: [backend], listener: true, edit });

  const page = readFileSync(join(here, "../../config/apps/README.md"), "utf8");
  const lines = page.match(/```nginx\n(.*?)```/s)[1].replace("127.0.0.1:8080", `127.0.0.1:${proxy.plain}`).replace("# listen, server_name, certificates", `
    listen 127.0.0.1:${plain};
    listen 127.0.0.1:${tls} ssl;
    ssl_certificate ${certificate};
    ssl_certificate_key ${process.env.WSLUICE_KEY};`);
  const home = join(scratch, "nginx");
  mkdirSync(home);
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${home}/${name};`).join(" ");
  writeFileSync(join(home, "nginx.conf"), `daemon off; master_process off; pid ${home}/pid; error_log stderr;
events {}
http { access_log off; proxy_read_timeout 3s; ${temporary} ${lines} }
`);
  const nginx = await new Program(plain, "nginx", ["-p", home, "-c", join(home, "nginx.conf"), "-e", "stderr"]).start();

  for (const scheme of ["ws", "wss"]) {
    const host = `localhost:${scheme === "ws" ? plain : tls}`;
    const origin = `${scheme.replace("ws", "http")}://${host}`;
    const open = (headers) => new Promise((resolve, reject) => {
      const socket = new WebSocket(`${scheme}://${host}/ws`, { headers, localAddress: "127.0.0.2" });
      socket.once("unexpected-response", (_, answer) => resolve(answer.statusCode)).once("error", reject);
      socket.once("message", (hello) => resolve({ socket, headers: JSON.parse(hello) }));
    });

    await run(`behind nginx over ${scheme}: pages of the same origin come in, others do not, and the server knows whom it serves`, async () => {
      const { socket, headers } = await open({ Origin: origin });
      check(headers.host === host && headers["x-forwarded-host"] === host, JSON.stringify(headers));
      check(headers["x-forwarded-proto"] === scheme.replace("ws", "http"), JSON.stringify(headers));
      check(headers["x-forwarded-for"].startsWith("127.0.0.2"), JSON.stringify(headers));
      check(await open({ Origin: "https://evil.example" }) === 403, "a foreign page came in");
      socket.close();
      await until("the log has the client's address", () => /"message":"session".*"client":"127.0.0.2"/.test(proxy.program.said()));
    });
    await run(`behind nginx over ${scheme}: a quiet session outlives nginx's proxy_read_timeout`, async () => {
      const { socket } = await open({ Origin: origin });
      await pause(5000);
      const back = new Promise((resolve) => socket.once("message", (data) => resolve(String(data))));
      socket.send("still here");
      check(await back === "still here", "the echo is another");
      socket.close();
    });
    await run(`behind nginx over ${scheme}: an event comes at once`, () => new Promise((resolve, reject) => {
      (scheme === "ws" ? get_plain : get_tls)(`${origin}/events`, (answer) => {
        answer.once("data", (data) => { answer.destroy(); String(data).includes("first") ? resolve() : reject(new Error(String(data))); });
      }).once("error", reject);
    }));
  }
  await nginx.kill();
  await proxy.stop();
  await server.kill();
  finish();
}
