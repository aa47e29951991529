// Socket.IO on two servers behind a sticky cookie, and then by hash: polling first, then the upgrade; clients of a lost server go to the other.
//
//   node socketio.mjs BINARY
import { createServer } from "node:http";
import { Proxy, check, finish, free_ports, own_server, run, until } from "./rig.mjs";

if (process.argv[2] === "serve") {
  const { Server } = await import("socket.io");
  const [port, name] = process.argv.slice(3);
  const http = createServer();
  new Server(http).on("connection", (socket) => {
    socket.on("echo", (data, answer) => answer({ data, server: name }));
  });
  http.listen(Number(port), "127.0.0.1");
} else {
  const { io } = await import("socket.io-client");
  const ports = await free_ports(2);
  const servers = [await own_server(import.meta.url, ports[0], "one"), await own_server(import.meta.url, ports[1], "two")];
  const proxy = await Proxy.start(process.argv[2], {
    app: "socketio",
    servers: ports,
    upstream: "\n    balance: round_robin\n    ejection: { time: 1s, time_max: 1s }", // so that a server that is back has clients soon
  });
  const CLIENTS = 6;

  /** A client that counts how often it was disconnected. */
  function client(base, options) {
    const socket = io(base, { forceNew: true, withCredentials: true, reconnectionDelay: 200, reconnectionDelayMax: 1000, ...options });
    const one = { socket, lost: 0 };
    socket.on("disconnect", () => { one.lost += 1; });
    one.echo = async (data) => {
      const answer = await socket.timeout(20_000).emitWithAck("echo", data);
      check(Buffer.isBuffer(data) ? data.equals(answer.data) : answer.data === data, "the echo is another");
      one.server = answer.server;
      return answer.server;
    };
    return one;
  }
  const transport = ({ socket }) => socket.io.engine?.transport?.name;

  for (const scheme of ["ws", "wss"]) {
    const base = proxy.base(scheme).replace("ws", "http");
    const polling = client(base, { transports: ["polling"] });
    const clients = [...Array.from({ length: CLIENTS }, () => client(base)), polling];

    await run(`Socket.IO over ${scheme}: polling, then the upgrade, on both servers`, async () => {
      await until("all are connected", () => clients.every(({ socket }) => socket.connected));
      await until("all that may have upgraded", () => clients.every((one) => one === polling || transport(one) === "websocket"));
      for (const one of clients) await one.echo("grüße ☂");
      check(new Set(clients.map((one) => one.server)).size === 2, "all are on one server");
    });

    await run(`Socket.IO over ${scheme}: text and binary, small and large`, async () => {
      for (const one of clients) for (const size of [0, 1, 125, 126, 65_536, 400_000]) await one.echo(Buffer.alloc(size, 7));
    });

    await run(`Socket.IO over ${scheme}: a reload disturbs nobody`, async () => {
      const before = clients.map((one) => one.server);
      await proxy.reload();
      for (const one of clients) await one.echo("after the reload");
      check(clients.every((one) => one.lost === 0), `${clients.filter((one) => one.lost > 0).length} were disconnected`);
      check(clients.every((one, at) => one.server === before[at]), "somebody's server is another");
    });

    await run(`Socket.IO over ${scheme}: clients of a lost server come back, the others notice nothing`, async () => {
      const lost = clients.filter((one) => one.server === "one");
      const others = clients.filter((one) => one.server === "two");
      await servers[0].kill();
      await until("all of the lost server have noticed", () => lost.every((one) => one.lost > 0));
      await until("all are connected again", () => clients.every(({ socket }) => socket.connected));
      for (const one of clients) check(await one.echo("after the loss") === "two", "a server that is gone has answered");
      check(others.every((one) => one.lost === 0), "clients of the other server were disconnected");
      await servers[0].start();
    });

    await run(`Socket.IO over ${scheme}: works on when the server is back`, async () => {
      // It is tried one session a second after its ejection, so that some clients may have to come before it has one.
      await until("a new client is on the server that is back", async () => {
        const late = client(base);
        await until("the upgrade", () => transport(late) === "websocket");
        const server = await late.echo("late");
        late.socket.close();
        return server === "one";
      });
      for (const one of clients) await one.echo("at the end");
    });
    for (const { socket } of clients) socket.close();
  }
  await proxy.stop();

  const hashing = await Proxy.start(process.argv[2], { app: "socketio-hash", servers: ports });
  await run("Socket.IO without a cookie: polling and the upgrade go to the server of the client's address", async () => {
    const clients = Array.from({ length: CLIENTS }, () => client(hashing.base("http"), { withCredentials: false }));
    await until("all have upgraded", () => clients.every((one) => transport(one) === "websocket"));
    for (const one of clients) await one.echo("hashed");
    check(new Set(clients.map((one) => one.server)).size === 1, "one address is on two servers");
    for (const { socket } of clients) socket.close();
  });
  await hashing.stop();
  for (const server of servers) await server.kill();
  finish();
}
