// A Jupyter server behind a path prefix, with JupyterLab's own client: a kernel runs code, a reload does not disturb it, and the client goes on when the server was lost.
//
//   node jupyter.mjs BINARY
import { join } from "node:path";
import { KernelManager, ServerConnection } from "@jupyterlab/services";
import { WebSocket } from "ws";
import { Program, Proxy, check, finish, free_ports, here, run, scratch, until } from "./rig.mjs";

// The client tells at length how it fares while its server is away.
for (const level of ["debug", "info", "warn", "error"]) console[level] = () => {};

const TOKEN = "0123456789abcdef";
const [port] = await free_ports(1);
const server = await new Program(port, join(here, ".venv/bin/python"), [
  "-m", "jupyter_server", "--no-browser", "--allow-root", "--ip=127.0.0.1", `--port=${port}`, "--ServerApp.port_retries=0",
  `--IdentityProvider.token=${TOKEN}`, "--ServerApp.base_url=/jupyter/", "--ServerApp.allow_remote_access=True",
  "--ServerApp.trust_xheaders=True", `--ServerApp.root_dir=${scratch}`,
], { env: { ...process.env, HOME: scratch, JUPYTER_RUNTIME_DIR: join(scratch, "runtime"), PYTHONDONTWRITEBYTECODE: "1" } }).start();
const proxy = await Proxy.start(process.argv[2], { app: "jupyter", servers: [port] });

for (const scheme of ["ws", "wss"]) {
  const settings = ServerConnection.makeSettings({
    baseUrl: `${proxy.base(scheme).replace("ws", "http")}/jupyter/`, wsUrl: `${proxy.base(scheme)}/jupyter/`, token: TOKEN, WebSocket, fetch, appendToken: true,
  });
  const manager = new KernelManager({ serverSettings: settings });
  let kernel;
  const connections = [];

  async function start() {
    kernel = await manager.startNew({ name: "python3" });
    kernel.connectionStatusChanged.connect((_, status) => connections.push(status));
    await until(() => `the kernel is connected: ${connections}`, () => kernel.connectionStatus === "connected");
  }

  /** Runs code, and gives what it prints. */
  async function execute(code) {
    let printed = "";
    const future = kernel.requestExecute({ code });
    future.onIOPub = (message) => { if (message.header.msg_type === "stream") printed += message.content.text; };
    const { content } = await future.done;
    check(content.status === "ok", `${code}: ${content.status}`);
    return printed.trim();
  }

  await run(`Jupyter over ${scheme}: a kernel runs code, with little and much to say`, async () => {
    await start();
    check(await execute("x = 6 * 7; print(x)") === "42", "6 * 7");
    check((await execute("print('y' * 900_000)")).length === 900_000, "a long line");
  });
  await run(`Jupyter over ${scheme}: a reload disturbs nobody`, async () => {
    connections.length = 0;
    await proxy.reload();
    check(await execute("print(x + 1)") === "43", "the kernel has forgotten");
    check(connections.length === 0, `the connection was ${connections}`);
  });
  await run(`Jupyter over ${scheme}: the client tries to come back to a lost server, and works with the one that follows`, async () => {
    connections.length = 0;
    await server.restart();
    // Its kernels have ended with it: the client has to learn that by trying to come back.
    await until(() => `the client connects again: ${connections}`, () => connections.includes("connecting"));
    kernel.dispose();
    await until("the server answers", () => fetch(`${settings.baseUrl}api?token=${TOKEN}`).then((answer) => answer.ok, () => false));
    await start();
    check(await execute("print('again')") === "again", "the new kernel");
    await kernel.shutdown();
  }, 120_000);
  manager.dispose();
}
await proxy.stop();
await server.kill();
finish();
