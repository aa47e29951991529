// Yjs by Hocuspocus: two people in one document, which are of one mind again after their server was lost, whatever each wrote in the meantime.
//
//   node yjs.mjs BINARY
import { Proxy, check, finish, free_ports, own_server, run, until } from "./rig.mjs";
import { WebSocket } from "ws";

if (process.argv[2] === "serve") {
  const { Server } = await import("@hocuspocus/server");
  await new Server({ address: "127.0.0.1", port: Number(process.argv[3]), quiet: true, stopOnSignals: false }).listen();
} else {
  const { HocuspocusProvider, HocuspocusProviderWebsocket } = await import("@hocuspocus/provider");
  const Y = await import("yjs");
  const [port] = await free_ports(1);
  const server = await own_server(import.meta.url, port);
  const proxy = await Proxy.start(process.argv[2], { servers: [port] });

  function person(scheme) {
    const document = new Y.Doc();
    const websocketProvider = new HocuspocusProviderWebsocket({
      url: `${proxy.base(scheme)}/`, WebSocketPolyfill: WebSocket, delay: 200, minDelay: 200, maxDelay: 1000,
    });
    const provider = new HocuspocusProvider({ websocketProvider, name: `document-${scheme}`, document });
    provider.attach();
    const one = { text: document.getText("text"), closed: 0, provider, websocketProvider };
    websocketProvider.on("close", () => { one.closed += 1; });
    return one;
  }

  for (const scheme of ["ws", "wss"]) {
    const people = [person(scheme), person(scheme)];
    const agree = (what) => until(
      () => `both have ${what}: ${people.map(({ text }) => text.toString().slice(0, 80))}`,
      () => people.every(({ text }) => text.toString().includes(what)) && people[0].text.toString() === people[1].text.toString(),
    );
    await run(`Yjs over ${scheme}: what one writes the other sees`, async () => {
      people[0].text.insert(0, "from the first. ");
      people[1].text.insert(0, "from the second. ");
      await agree("from the first");
      await agree("from the second");
      people[0].text.insert(0, "long ".repeat(60_000));
      await agree("long long");
    });
    await run(`Yjs over ${scheme}: a reload disturbs nobody`, async () => {
      await proxy.reload();
      people[0].text.insert(0, "after the reload. ");
      await agree("after the reload");
      check(people.every(({ closed }) => closed === 0), "somebody was disconnected");
    });
    await run(`Yjs over ${scheme}: both come back to a server that was lost`, async () => {
      await server.kill();
      await until("both have noticed", () => people.every(({ closed }) => closed > 0));
      people[0].text.insert(0, "meanwhile the first. ");
      people[1].text.insert(0, "meanwhile the second. ");
      await server.start();
      await agree("meanwhile the first");
      await agree("meanwhile the second");
    });
    for (const { provider, websocketProvider } of people) {
      provider.destroy();
      websocketProvider.destroy();
    }
  }
  await proxy.stop();
  await server.kill();
  finish();
}
