// npm's ws as the peer of Autobahn's fuzzer: it passes every case when nothing stands between.
//
//   node peers.mjs echo                    a server that sends back what comes; prints its port
//   node peers.mjs client BASE HOST AGENT CASES   runs the cases (`1.1.1,5.20`, or `all`) of the fuzzing server at BASE
//   node peers.mjs report BASE HOST        has that server write its report
//
// HOST is what the fuzzing server is called: it refuses a Host with another port than its own, as a client of a proxy sends it.
import { createRequire } from "node:module";

const { WebSocket, WebSocketServer } = createRequire(new URL("../clients/", import.meta.url))("ws");
const MESSAGE_BYTES_MAX = 64 << 20;
const CASE_MS_MAX = 60_000;

function echo(socket) {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
  socket.on("error", () => {}); // a broken frame, which is what the fuzzer is for
}

const [mode, base, host, agent, cases] = process.argv.slice(2);

/** Opens a connection and ends when it has closed; gives the first message. */
function visit(url, on_open = () => {}) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, { perMessageDeflate: true, maxPayload: MESSAGE_BYTES_MAX, headers: { host } });
    const late = setTimeout(() => socket.terminate(), CASE_MS_MAX);
    let said;
    let opened = false;
    socket.on("open", () => { opened = true; on_open(socket); });
    socket.on("message", (data) => { said ??= data.toString(); });
    socket.on("error", (error) => { if (!opened) reject(error); });
    socket.on("close", () => { clearTimeout(late); resolve(said); });
  });
}

if (mode === "echo") {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: true, maxPayload: MESSAGE_BYTES_MAX });
  server.on("connection", echo);
  server.on("listening", () => console.log(server.address().port));
} else if (mode === "report") {
  await visit(`${base}/updateReports?agent=report`);
} else {
  const count = Number(await visit(`${base}/getCaseCount`));
  const wanted = cases === "all"
    ? Array.from({ length: count }, (_, at) => `case=${at + 1}`)
    : cases.split(",").map((id) => `casetuple=${id}`);
  for (const which of wanted) await visit(`${base}/runCase?${which}&agent=${agent}`, echo);
  console.log(`${wanted.length} of ${count} cases`);
}
