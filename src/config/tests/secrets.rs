//! What came from the environment is in no message, wherever it stands and however wrong it is there.

use super::super::*;

/// Every scalar of this file is put into the environment in turn.
const FULL: &str = "\
version: 1
workers: auto
listeners:
  - name: public
    bind: \"127.0.0.1:8443\"
    tls:
      certificates: [{ cert: a.crt, key: a.key }]
      min_version: \"1.2\"
      client_auth: { ca: c.crt, mode: require }
    proxy_protocol: off
    timeouts: { tls: 10s, headers: 10s, keep_alive: 60s }
    trusted_proxies: [10.0.0.0/8]
    limits: { headers: 100, header_bytes: 16KiB, connections: 10 }
  - { name: plain, bind: \"127.0.0.1:8080\", redirect: { https: 443 } }
routes:
  - name: chat
    match:
      hosts: [chat.example.com]
      path: { prefix: /ws }
      headers: { X-A: b }
      query: { c: { regex: d } }
      subprotocols: [mqtt]
    upstream: chat
    origins: { allow: [\"https://a.example.com\"], missing: deny }
    rewrite: { strip_prefix: /ws, add_prefix: /v }
    headers: { request: { set: { X-B: y }, remove: [X-C] } }
    timeouts: { connect: 5s, handshake: 5s, response: 5s, idle: 5m, lifetime: 1h }
    keepalive: { ping: 30s, pong: 10s }
    limits: { message: 1MiB, frame: 1MiB, connections: 10 }
    http: proxy
    validate: strict
  - { name: filed, match: { path: { exact: /filed } }, upstream: filed }
  - { name: named, match: { path: { exact: /named } }, upstream: named }
  - { name: kept, match: { path: { exact: /kept } }, upstream: kept }
upstreams:
  chat:
    balance: round_robin
    endpoints: [\"wss://a:1\", { url: \"ws://b:2\", max_connections: 9 }]
    sticky:
      cookie: srv
      secrets: [0123456789abcdef0123456789abcdef]
      max_age: 1h
      path: /ws
      secure: always
      http_only: true
      same_site: none
    queue: { length: 10, wait: 1s }
    admission: { rate: 5/s, burst: 5, wait: 1s }
    tls: { ca: d.crt, cert: e.crt, key: e.key, server_name: chat.example.com }
  filed: { discover: { file: { path: a.yaml, scheme: ws, allow_empty: true } } }
  named: { discover: { dns: { name: a.b, port: 1, scheme: ws, family: ipv4, server: \"127.0.0.1:53\", every: 10s } } }
  kept:
    discover:
      etcd: { servers: [\"https://a:1\"], prefix: /a/, user: me, password: me, tls: { ca: d.crt, server_name: a.b } }
admin: { bind: \"127.0.0.1:9902\" }
log: { level: info, format: json, access: true }
drain: { time: 30s }
";

/// The file with scalar number `nth` as `${SECRET}`, or nothing if there are not so many.
fn with_secret(nth: usize) -> Option<String> {
    let mut tree = tree::parse(FULL).unwrap().tree;
    let mut count = 0;
    tree::tests::for_each_scalar(&mut tree, &mut |node| {
        if count == nth {
            *node = tree::Node::Text { text: "${SECRET}".to_owned(), raw: None };
        }
        count += 1;
    });
    (nth < count).then(|| tree::tests::to_yaml(&tree))
}

#[test]
fn the_whole_file_is_right_before_anything_is_put_into_it() {
    let loaded = load_str("full.yaml", FULL, &|_| None).unwrap();
    assert!(loaded.warnings.is_empty());
}

#[test]
fn no_message_contains_what_the_environment_says() {
    for secret in [
        "hunter2-&?[x",
        "s3cr3tpassword",
        "/sekrit",
        "987654321987",
        "chatt",
        "ws://sekrit:1/x",
        "0.0.0.0:31337",
        "transfer-encoding",
    ] {
        let mut refused = 0;
        for nth in 0.. {
            let Some(text) = with_secret(nth) else { break };
            let env = |name: &str| (name == "SECRET").then(|| secret.to_owned());
            let said = match load_str("secret.yaml", &text, &env) {
                Ok(loaded) => loaded.warnings.iter().map(Finding::to_string).collect::<String>(),
                Err(errors) => {
                    refused += 1;
                    format!("{errors} {errors:?}")
                }
            };
            assert!(!said.contains(secret), "{secret} is told:\n{said}");
            for part in secret.split([':', '/', '-', '?']).filter(|part| part.len() > 3 && *part != "0.0.0.0") {
                assert!(!said.contains(part), "{part} of {secret} is told:\n{said}");
            }
        }
        assert!(refused > 20, "{secret} is refused in {refused} places only");
    }
}

#[test]
fn a_value_from_outside_is_told_by_its_name_and_what_it_should_be() {
    let text = with_secret(2).unwrap();
    assert!(text.contains("\"name\": \"${SECRET}\""), "{text}");
    let text = FULL.replace("idle: 5m", "idle: '${IDLE}'");
    let errors = load_str("a.yaml", &text, &|_| Some("soon".to_owned())).unwrap_err();
    let finding = &errors.findings()[0];
    assert_eq!(finding.message, "what the environment makes of `${IDLE}` cannot be used here");
    assert_eq!(finding.help.as_deref(), Some("it should be a duration such as `30s`, `5m` or `1h30m`, or `off`"));
}
