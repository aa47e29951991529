// Tokens that others have made: Node's jose, Python's PyJWT and Authlib; and Chromium, which can offer one and nothing else.
//
//   node tokens.mjs BINARY      after run.sh has installed the packages
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { exportJWK, exportPKCS8, generateKeyPair, SignJWT } from "jose";
import { WebSocket, WebSocketServer } from "./peer.mjs";
import { free_ports, start } from "./proxy.mjs";
import { check, finish, run } from "./report.mjs";

const { chromium } = createRequire(import.meta.url)("playwright-core");
const binary = process.argv[2];
const SECRET = "0123456789abcdef".repeat(4);
const PUBLIC = ["RS256", "PS256", "ES256", "ES384", "EdDSA"];
const ISSUER = "https://id.example.com/realms/chat";

// A server that tells each client who it is, and chooses a subprotocol only if `chat` is offered.
const server = new WebSocketServer({
  port: 0, host: "127.0.0.1", handleProtocols: (offered) => (offered.has("chat") ? "chat" : false),
});
await once(server, "listening");
server.on("connection", (socket, request) => {
  const { "x-user": user, authorization, "sec-websocket-protocol": offer } = request.headers;
  socket.on("error", () => {});
  socket.send(JSON.stringify({ user, authorization, offer, url: request.url }));
});

const keys = Object.fromEntries(await Promise.all(PUBLIC.map(async (alg) => [alg, await generateKeyPair(alg, { extractable: true })])));
const set = await Promise.all(PUBLIC.map(async (alg) => ({ ...await exportJWK(keys[alg].publicKey), kid: `key-${alg}`, use: "sig", alg })));
const provider = createServer((_, response) => {
  response.setHeader("Content-Type", "application/json").end(JSON.stringify({ keys: set }));
}).listen(0, "127.0.0.1");
await once(provider, "listening");

const [port, admin] = await free_ports(2);
const rules = `issuer: "${ISSUER}", audience: [chat, account], from: [authorization, { query: access_token }, { subprotocol: bearer }]`;
const proxy = await start(binary, `version: 1
listeners: [{ name: plain, bind: "127.0.0.1:${port}" }]
defaults: { route: { upstream: app, headers: { request: { set: { X-User: "{claims.preferred_username}" } } } } }
routes:
  - name: secret
    match: { path: { prefix: /secret } }
    auth: { jwt: { keys: { secret: ${SECRET} }, algorithms: [HS256, HS384, HS512], ${rules} } }
  - name: public
    origins: { allow: ["*"] }
    auth:
      jwt: { keys: { url: "http://127.0.0.1:${provider.address().port}/certs" }, algorithms: [${PUBLIC}], ${rules},
             require: { scope: openid, realm_access.roles: chat-user } }
upstreams: { app: { endpoints: ["ws://127.0.0.1:${server.address().port}"] } }
admin: { bind: "127.0.0.1:${admin}" }
`, admin);

const now = () => Math.floor(Date.now() / 1000);
/** What Keycloak says of a user. */
const claims = (more) => ({
  exp: now() + 300, iat: now(), jti: "onrtac:7c0f", iss: ISSUER, aud: ["account", "broker"], sub: "f2b1c9e0-ann", typ: "Bearer",
  azp: "web", sid: "1a2b", acr: "1", "allowed-origins": ["https://chat.example.com"], scope: "openid profile email",
  realm_access: { roles: ["offline_access", "chat-user"] }, preferred_username: "ann", email_verified: true, ...more,
});

/** Opens a session; resolves to what the server saw, or to the status of the refusal. */
const enter = (path, { token, protocols = [], headers = {} }) => new Promise((resolve, reject) => {
  if (token) headers = { ...headers, Authorization: `Bearer ${token}` };
  const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, protocols, { headers });
  socket.once("unexpected-response", (_, response) => resolve({ status: response.statusCode, challenge: response.headers["www-authenticate"] }));
  socket.once("message", (text) => { resolve({ status: 101, socket, chosen: socket.protocol, ...JSON.parse(text) }); });
  socket.once("error", reject);
});
const is_ann = (seen, what) => check(seen.status === 101 && seen.user === "ann", `${what}: ${seen.status} ${seen.user} ${seen.challenge}`);

await run("tokens of jose, by each algorithm", async () => {
  for (const alg of PUBLIC) {
    const sign = (more) => new SignJWT(claims(more)).setProtectedHeader({ alg, kid: `key-${alg}`, typ: "JWT" }).sign(keys[alg].privateKey);
    is_ann(await enter("/", { token: await sign() }), alg);
    for (const [more, status] of [[{ exp: now() - 60 }, 401], [{ iss: "x" }, 401], [{ aud: "x" }, 401], [{ scope: "x" }, 403], [{ realm_access: {} }, 403]]) {
      const { status: is } = await enter("/", { token: await sign(more) });
      check(is === status, `${alg} ${JSON.stringify(more)}: ${is}`);
    }
  }
  for (const alg of ["HS256", "HS384", "HS512"]) {
    const token = await new SignJWT(claims()).setProtectedHeader({ alg }).sign(Buffer.from(SECRET));
    is_ann(await enter("/secret", { token }), alg);
    check((await enter("/", { token })).status === 401, `${alg} is not for public keys`);
  }
});

await run("tokens of PyJWT and Authlib, by each algorithm", async () => {
  const pem = await Promise.all(PUBLIC.map(async (alg) => [alg, await exportPKCS8(keys[alg].privateKey)]));
  const input = JSON.stringify({
    keys: { ...Object.fromEntries(pem), HS256: SECRET, HS512: SECRET }, claims: claims(), kid: Object.fromEntries(PUBLIC.map((alg) => [alg, `key-${alg}`])),
  });
  const made = spawnSync(".venv/bin/python", ["tokens.py"], { input, encoding: "utf8" });
  check(made.status === 0, made.stderr);
  const tokens = Object.entries(JSON.parse(made.stdout));
  check(tokens.length === 14, `${tokens.length} tokens`);
  for (const [name, token] of tokens) is_ann(await enter(/HS/.test(name) ? "/secret" : "/", { token }), name);
});

const token = await new SignJWT(claims()).setProtectedHeader({ alg: "ES256", kid: "key-ES256" }).sign(keys.ES256.privateKey);

await run("a token in the query and in the offer, which the server does not see", async () => {
  for (const [path, protocols, chosen] of [
    [`/a?access_token=${token}&b=1`, [], ""], ["/a?b=1", ["chat", "bearer", token], "chat"], ["/a?b=1", ["bearer", token], "bearer"],
    ["/a?b=1", [`bearer.${token}`], `bearer.${token}`],
  ]) {
    const seen = await enter(path, { protocols });
    is_ann(seen, protocols.join());
    check(seen.chosen === chosen && seen.url === "/a?b=1" && !JSON.stringify([seen.url, seen.offer, seen.authorization]).includes(token), JSON.stringify({ ...seen, socket: 0 }));
  }
});

await run("a page in Chromium offers a token and nothing else, and sees its session end with the token", async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${provider.address().port}/`);
    const short = await new SignJWT(claims({ exp: now() - 28 })).setProtectedHeader({ alg: "ES256", kid: "key-ES256" }).sign(keys.ES256.privateKey);
    const seen = await page.evaluate(([url, token]) => new Promise((resolve) => {
      const socket = new WebSocket(url, ["bearer", token]);
      let said;
      socket.onmessage = ({ data }) => { said = { user: JSON.parse(data).user, protocol: socket.protocol }; };
      socket.onclose = ({ code, wasClean }) => resolve({ ...said, code, wasClean });
    }), [`ws://127.0.0.1:${port}/open`, short]);
    check(JSON.stringify(seen) === JSON.stringify({ user: "ann", protocol: "bearer", code: 4401, wasClean: true }), JSON.stringify(seen));
  } finally {
    await browser.close();
  }
});

await run("no token is in the log", async () => {
  check(!proxy.log().includes(token.slice(0, 60)), "there is one");
  check(proxy.log().includes('"subject":"f2b1c9e0-ann"'), "and no subject");
});

await proxy.stop();
finish();
