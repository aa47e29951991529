// graphql-ws: a subscription that goes on by itself when its server is lost, whatever end wsluice gives it (some codes are fatal to this client).
//
//   node graphql.mjs BINARY
import { Proxy, check, finish, free_ports, own_server, run, until } from "./rig.mjs";
import { WebSocket, WebSocketServer } from "ws";

if (process.argv[2] === "serve") {
  const { useServer } = await import("graphql-ws/use/ws");
  const { GraphQLInt, GraphQLNonNull, GraphQLObjectType, GraphQLSchema, GraphQLString } = await import("graphql");
  const born = String(process.pid);
  const ticks = async function* ticks() {
    for (let n = 0; ; n += 1) {
      yield { tick: `${born} ${n}` };
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  const schema = new GraphQLSchema({
    query: new GraphQLObjectType({
      name: "Query",
      fields: { length: { type: GraphQLInt, args: { of: { type: new GraphQLNonNull(GraphQLString) } }, resolve: (_, { of }) => of.length } },
    }),
    subscription: new GraphQLObjectType({ name: "Subscription", fields: { tick: { type: GraphQLString, subscribe: ticks } } }),
  });
  useServer({ schema }, new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[3]), path: "/graphql", maxPayload: 8 << 20 }), 1000);
} else {
  const { createClient } = await import("graphql-ws");
  const [port] = await free_ports(1);
  const server = await own_server(import.meta.url, port);
  const proxy = await Proxy.start(process.argv[2], { app: "graphql", servers: [port] });

  for (const scheme of ["ws", "wss"]) {
    const seen = { closed: [], ticks: [], failed: undefined };
    const client = createClient({
      url: `${proxy.base(scheme)}/graphql`, webSocketImpl: WebSocket, keepAlive: 1000, retryAttempts: 60, shouldRetry: () => true, // also where the handshake fails, while the server is away
      retryWait: () => new Promise((resolve) => setTimeout(resolve, 300)),
    });
    client.on("closed", (event) => seen.closed.push(event.code));
    client.subscribe({ query: "subscription { tick }" }, {
      next: ({ data }) => seen.ticks.push(data.tick),
      error: (error) => { seen.failed = error; },
      complete: () => { seen.failed ??= "it is complete"; },
    });
    const alive = async (what) => {
      const before = seen.ticks.length;
      await until(() => `ticks ${what}; failed: ${seen.failed?.code ?? seen.failed}, closed: ${seen.closed}`, () => seen.failed || seen.ticks.length > before + 3);
      check(!seen.failed, `the subscription has ended ${what}: ${seen.failed?.code ?? seen.failed}`);
    };
    const server_seen = () => seen.ticks.at(-1).split(" ")[0];
    const query = (of) => new Promise((resolve, reject) => {
      let result;
      client.subscribe({ query: "query ($of: String!) { length(of: $of) }", variables: { of } }, {
        next: (value) => { result = value.data.length; }, error: reject, complete: () => resolve(result),
      });
    });

    await run(`graphql-ws over ${scheme}: a subscription and queries`, async () => {
      await alive("at first");
      for (const size of [1, 126, 70_000, 1 << 20]) check(await query("x".repeat(size)) === size, `length of ${size}`);
    });
    await run(`graphql-ws over ${scheme}: a reload disturbs nobody`, async () => {
      await proxy.reload();
      await alive("after the reload");
      check(seen.closed.length === 0, `closed with ${seen.closed}`);
    });
    await run(`graphql-ws over ${scheme}: the subscription goes on when the server was lost`, async () => {
      const before = server_seen();
      await server.restart();
      await until(() => `ticks of the new server; failed: ${seen.failed?.code ?? seen.failed}, closed: ${seen.closed}`, () => seen.failed || server_seen() !== before);
      await alive("after the restart");
      check(await query("again") === 5, "a query after the restart");
      check(seen.closed.length > 0, "the loss was not noticed");
    });
    await client.dispose();
  }
  await proxy.stop();
  await server.kill();
  finish();
}
