//! A file with every key, for tests that go through all of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::load;
use crate::config::*;

pub(super) const FULL: &str = "\
version: 1
workers: auto
zone: here
watch: true
on_upgrade: move 20m
listeners:
  - name: public
    bind: \"127.0.0.1:8443\"
    tls:
      certificates: [{ cert: a.crt, key: a.key }]
      min_version: \"1.2\"
      client_auth: { ca: c.crt, mode: require }
    protocols: [http/1.1]
    extended_connect: on
    proxy_protocol: off
    timeouts: { tls: 10s, headers: 10s, keep_alive: 60s, send: 30s }
    trusted_proxies: [10.0.0.0/8]
    addresses: { allow: [10.0.0.0/8], deny: [10.9.0.7] }
    limits: { headers: 100, header_bytes: 16KiB, connections: 10, streams: 50, per_client: { unauthenticated: 7 } }
    tcp: { keepalive: 1m, user_timeout: 5m }
  - { name: plain, bind: \"127.0.0.1:8080\", redirect: { https: 443 } }
routes:
  - name: chat
    match:
      listeners: [public]
      methods: [GET, POST]
      hosts: [chat.example.com]
      path: { prefix: /ws }
      headers: { X-A: b, Authorization: c }
      query: { c: { regex: d }, e: { present: true } }
      subprotocols: [mqtt]
      client_cert:
        san: [\"*.devices.example.com\", \"spiffe://example.com/a\"]
        subject: CN=device-1
        fingerprint: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    upstream: chat
    origins: { allow: [same-origin, \"https://a.example.com\", { exact: x }], missing: deny, insecure: allow }
    auth:
      jwt:
        keys: { url: \"https://id.example.com/jwks.json\", tls: { ca: d.crt } }
        algorithms: [ES256]
        issuer: https://id.example.com/
        audience: [chat, talk]
        leeway: 10s
        from: [authorization, { query: access_token }, { cookie: session }, { subprotocol: bearer }]
        require: { scope: chat:write, tenant: [acme, globex] }
        forward: true
        on_expiry: { close: 4401 }
      basic: { file: users.htpasswd, realm: The tool, forward: true }
      forward:
        url: \"https://id.example.com/auth\"
        tls: { ca: d.crt }
        request_headers: [Cookie, Authorization]
        headers: [X-User]
        subject: X-User
        timeout: 2s
        recheck: 60s
        on_failure: refuse
    addresses: { allow: [192.0.2.0/24, \"2001:db8::/32\"], deny: [192.0.2.7] }
    paths: { slashes: keep, encoded_slash: refuse, parameters: keep }
    rewrite: { strip_prefix: /ws, add_prefix: /v }
    headers:
      send: [X-Real-IP, X-Request-Id]
      request: { set: { X-B: y, Authorization: Bearer z }, remove: [X-C] }
      response: { set: { X-D: y }, remove: [X-E] }
      lookalikes: keep
    timeouts: { connect: 5s, handshake: 5s, response: 5s, body: 30s, event_stream: 1h, idle: 5m, lifetime: 1h }
    keepalive: { ping: 30s, pong: 10s }
    limits:
      message: 1MiB
      frame: 1MiB
      body: 10MiB
      connections: 10
      per_client: { sessions: 20, handshakes: 5/s, burst: 20, key: { header: X-User } }
      rate: { messages: 50/s, burst: 100, bytes: 1MiB/s, burst_bytes: 2MiB, then: delay }
      server_rate: { bytes: 10MiB/s, then: close }
      control: 100/s
      fragments: 1000
    http: proxy
    error_pages: { 502: down.html, 5xx: oops.html }
    on_upstream_lost: { close: 1012 }
    on_change: drain 60s
  - { name: filed, match: { path: { exact: /filed } }, upstream: filed, validate: strict, auth: { jwt: { keys: { file: k.pem }, algorithms: [RS256] } } }
  - name: named
    match: { path: { regex: /named } }
    upstream: named
    rewrite: { path: /ws }
    auth: { jwt: { keys: { secret: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef }, algorithms: [HS256] } }
    http_compression: { encodings: [br, gzip], min_bytes: 2KiB, types: [\"text/*\"] }
  - { name: kept, match: { path: { exact: /kept } }, upstream: kept, rewrite: { regex: /k(.*), with: /$1 }, auth: { forward: { url: \"http://127.0.0.1:1/\", cache: { time: 10s, by: [Cookie] } } } }
  - { name: gone, match: { path: { exact: /gone } }, redirect: { to: \"/ws?was={request.path}\", status: 307 } }
  - { name: well, match: { path: { exact: /well } }, respond: { status: 200, body: ok } }
  - { name: page, match: { path: { exact: /page } }, respond: { file: page.html } }
  - { name: moved, match: { path: { exact: /moved } }, upstream: moved, auth: { jwt: { keys: { secret_file: s.txt }, algorithms: [HS256] } } }
upstreams:
  chat:
    balance: round_robin
    endpoints:
      - \"wss://a:1\"
      - { url: \"ws://b:2\", weight: 2, max_connections: 9, priority: 1, zone: there, drain: 10s }
    protocol: h1
    slow_start: 30s
    on_down: keep
    drain_removed: 5m
    source_addresses: [10.0.0.5]
    tcp: { keepalive: 1m, user_timeout: 5m }
    sticky:
      cookie: srv
      secrets: [0123456789abcdef0123456789abcdef]
      max_age: 1h
      path: /ws
      secure: always
      http_only: true
      same_site: lax
    queue: { length: 10, wait: 1s }
    admission: { rate: 5/s, burst: 5, wait: 1s }
    tls: { ca: d.crt, cert: e.crt, key: e.key, server_name: chat.example.com, verify: on }
    health:
      websocket:
        path: /ws?token=s
        host: chat.example.com
        headers: { X-A: b, Cookie: c }
        subprotocol: mqtt
        send: ping
        expect: { contains: pong }
        every: 5s
        timeout: 2s
        rise: 2
        fall: 3
    when_all_down: try
    ejection: { failures: 1, early_end: 1s, time: 10s, time_max: 5m, share_max: 50% }
    retry_budget: { ratio: 20%, min_per_second: 10 }
  filed:
    balance: { hash: { on: path, load_max: 125% } }
    discover: { file: { path: a.yaml, scheme: ws, allow_empty: true }, allow: [10.0.0.0/8, \"unix:/run\"] }
    sticky: { cookie: srv, secrets_file: secrets.txt }
    health: { http: { path: /healthz, headers: { X-Api-Key: k }, status: 200, body: { matches: ok }, every: 5s } }
  named: { discover: { dns: { name: a.b, port: 1, scheme: ws, family: ipv4, server: \"127.0.0.1:53\", every: 10s } } }
  kept:
    discover:
      etcd: { servers: [\"https://a:1\"], prefix: /a/, user: me, password: me, tls: { ca: d.crt, server_name: a.b } }
    health: { tcp: { every: 5s, timeout: 2s, rise: 2, fall: 3 } }
  moved: { endpoints: [\"ws://c:1\"], rebalance: { rate: 10/s, tolerance: 10%, settle: 10s } }
shared:
  redis:
    url: \"rediss://me:hush@r.example.com:6380/2\"
    tls: { ca: d.crt }
    prefix: \"here:\"
    timeout: 100ms
    on_failure: local
    instances: 3
admin: { bind: \"127.0.0.1:9902\", hosts: [\"*.svc\"], token: 0123456789abcdefg }
log: { level: info, format: json, access: true }
drain: { delay: 1s, time: 30s }
defaults: { route: { limits: { connections: 5 } }, upstream: { slow_start: 1s } }
include: []
";

#[test]
fn the_full_file_is_right() {
    let loaded = load(FULL).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
}

#[test]
fn every_key_stands_in_the_full_file() {
    fn keys(value: &Value, all: &mut BTreeSet<String>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| keys(value, all)),
            Value::Object(entries) => entries.iter().for_each(|(key, value)| {
                all.insert(key.clone());
                keys(value, all);
            }),
            _ => {}
        }
    }
    fn properties(schema: &Value, all: &mut BTreeSet<String>) {
        all.extend(schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone()));
        let inner = schema["oneOf"].as_array().into_iter().chain(schema["anyOf"].as_array()).flatten();
        inner.for_each(|schema| properties(schema, all));
    }
    let (mut written, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys(&serde_yaml::from_str(FULL).unwrap(), &mut written);
    let schema = schema();
    properties(&schema, &mut known);
    schema["definitions"].as_object().unwrap().values().for_each(|schema| properties(schema, &mut known));
    // In place of `token`, beside which it cannot stand.
    known.remove("token_file");
    let missing: Vec<&String> = known.difference(&written).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
