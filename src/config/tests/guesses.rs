//! A table of wrong guesses: what people write who know another proxy, and the help that they get.

use super::broken::{ROUTES, UPSTREAMS, at_top, in_route, in_upstream};
use super::load;

/// Returns the help of each error.
fn helps(text: &str) -> Vec<String> {
    let errors = load(text).map(|_| text).expect_err("this is wrong");
    errors.findings().iter().map(|finding| finding.help.clone().unwrap_or_default()).collect()
}

#[test]
fn keys_and_values_of_other_proxies_say_what_to_write_here() {
    let mut wrong = vec![];
    let mut expect = |text: String, expected: &[&str]| {
        if helps(&text) != expected {
            wrong.push((text.clone(), helps(&text)));
        }
    };
    let route = in_route;
    let upstream = |keys: &str| in_upstream(&format!("{keys}\nendpoints: ['ws://a:1']"));
    for (keys, help) in [
        ("origins: ['*']", "write `origins: { allow: [\"*\"] }`"),
        ("origins: '*'", "write `origins: { allow: [\"*\"] }`"),
        ("match: /ws", "write `match: { path: { prefix: /ws } }`"),
        ("match: chat.example.com", "write `match: { hosts: [chat.example.com] }`"),
        ("match: { host: chat.example.com }", "write `hosts: [chat.example.com]`"),
        ("match: { hosts: chat.example.com }", "make it a list: `[chat.example.com]`"),
        ("match: { prefix: /ws }", "write `path: { prefix: /ws }`"),
        ("match: { regex: '/ws/.*' }", "write `path: { regex: \"/ws/.*\" }`"),
        ("match: { method: GET }", "write `methods: [GET]`"),
        ("match: { listener: public }", "write `listeners: [public]`"),
        ("match: { client_cert: '*.a.b' }", "write `client_cert: { san: \"*.a.b\" }`, or `client_cert: {}` for any"),
        (
            "match: { mtls: true }",
            "write `client_cert: { san: \"*.devices.example.com\" }`, or `client_cert: {}` for any",
        ),
        ("match: { client_cert: { dns: a.b } }", "write `san: a.b`"),
        ("match: { client_cert: { cn: a } }", "write `subject: \"CN=device-1,O=Example\"`"),
        ("path: /ws", "write `match: { path: { prefix: /ws } }`"),
        ("location: /ws", "write `match: { path: { prefix: /ws } }`"),
        ("host: chat.example.com", "write `match: { hosts: [chat.example.com] }`"),
        ("hosts: [a.b, c.d]", "write `match: { hosts: [a.b, c.d] }`"),
        ("methods: [GET]", "write `match: { methods: [GET] }`"),
        ("rule: 'Host(`a.b`)'", "write `match: { hosts: [chat.example.com], path: { prefix: /ws } }`"),
        (
            "proxy_pass: 'http://10.0.0.1:80'",
            "write `upstream: NAME`, and `upstreams: { NAME: { endpoints: [\"http://10.0.0.1:80\"] } }` at the top",
        ),
        (
            "timeout: 30s",
            "write `timeouts: { idle: 30s }` for silent sessions, or `{ response: 30s, body: 30s }` for plain HTTP",
        ),
        ("timeouts: 30s", "write `timeouts: { idle: 30s }` for silent sessions, or `{ response: 30s }` for plain HTTP"),
        ("rewrite: /x", "write `rewrite: { path: /x }` (the whole path), or `rewrite: { strip_prefix: /x }`"),
        ("strip_prefix: /x", "write `rewrite: { strip_prefix: /x }`"),
        ("keepalive: 25s", "write `keepalive: { ping: 25s }`, or `keepalive: off`"),
        ("keepalive: { interval: 25s }", "write `ping: 25s`"),
        ("ping: 25s", "write `keepalive: { ping: 25s }`"),
        ("limits: 1MiB", "write `limits: { message: 1MiB }`"),
        ("limit_req: zone=one", "write `limits: { rate: { messages: 50/s } }`"),
        ("rate_limit: 10r/s", "write `limits: { rate: { messages: 50/s } }`"),
        ("limits: { rate: 10r/s }", "write `rate: { messages: 10/s }`, or `{ bytes: 1MiB/s }`"),
        ("limits: { rate: 10 }", "write `rate: { messages: 10/s }`, or `{ bytes: 1MiB/s }`"),
        ("limits: { rate: { messages: 10r/s } }", "write `10/s`"),
        ("limits: { rate: { messages: 10 } }", "write `10/s`"),
        ("limits: { rate: { messages: 600r/m } }", "write `10/s`"),
        ("limits: { rate: { bytes: 1MB/s } }", "write `1MiB/s` (units of 1024)"),
        ("limits: { rate: { bytes: 1MiB } }", "write `1MiB/s`"),
        ("limits: { rate: { average: 10 } }", "write `messages: 50/s`"),
        ("limits: { rate: { messages: 10/s, nodelay: true } }", "write `then: delay`, or `then: close`"),
        (
            "limits: { rate: { messages: 10/s, then: drop } }",
            "write `delay` or `close`: to drop single messages would break what client and server agree on",
        ),
        ("limits: { limit_rate: 1m }", "write `server_rate: { bytes: 1MiB/s }`"),
        ("limits: { control: 10r/s }", "write `10/s`, or `off`"),
        ("limits: { rate: { bytes: 20000 } }", "write `20000/s`, in bytes, or such as `1MiB/s`"),
        ("limits: { control: 10 }", "write `10/s`"),
        ("client_max_body_size: 1m", "write `limits: { body: 10MiB }`"),
        ("websocket: true", "remove it: every route takes WebSockets, and nothing is held back"),
        ("cors: ['https://a']", "write `origins: { allow: [\"https://a\"] }`"),
        ("proxy_set_header: 'X-A b'", "write `headers: { request: { set: { NAME: value } } }`"),
        ("headers: { X-A: b }", "write `request: { set: { X-A: … } }`"),
        ("headers: { request: { X-A: b } }", "write `set: { X-A: … }`"),
        ("headers: { set: { X-A: b } }", "write `request: { set: … }` or `response: { set: … }`"),
        ("health: { tcp: {} }", "it is an upstream's: write it under `upstreams`"),
        ("tls: {}", "it is a listener's; `match: { listeners: [NAME] }` binds a route to one"),
    ] {
        expect(route(keys), &[help]);
    }
    for (keys, help) in [
        ("health: /healthz", "write `health: { http: { path: /healthz } }`"),
        ("health: { http: /up }", "write `http: { path: /up }`"),
        ("health: { websocket: true }", "write `websocket: { path: /healthz }`"),
        ("health: { path: /healthz, every: 5s }", "write `health: { http: { path: /healthz } }`"),
        ("health: tcp", "write `health: { tcp: {} }`, or `health: { http: { path: /healthz } }`"),
        ("health: { tcp: }", "write `tcp: {}`"),
        ("health: { tcp: {}, http: { path: / } }", "keep one of them"),
        ("health_check: { path: /healthz }", "write `health: { http: { path: /healthz } }`"),
        ("balance: least_conn", "write `least_connections`"),
        ("balance: ip_hash", "write `{ hash: { on: client_address } }`"),
        ("lb_policy: first", "write `balance: least_connections`, `round_robin`, `random_two` or `{ hash: … }`"),
        ("max_fails: 3", "write `ejection: { failures: 1, time: 10s }`"),
        ("weight: 3", "it is an endpoint's: write `endpoints: [{ url: \"ws://10.0.0.11:9000\", weight: 2 }]`"),
        ("sticky: true", "write `sticky: { cookie: srv, secrets: [\"${STICKY_SECRET}\"] }`"),
        (
            "keepalive: 32",
            "pings are a route's (`keepalive: { ping: 30s }`), and connections to servers are kept by themselves",
        ),
        ("timeout: 30s", "it is a route's: write `timeouts: { response: 30s }` there"),
        ("origins: {}", "it is a route's: write it in the routes that lead here"),
        ("tls: { insecure_skip_verify: true }", "write `verify: off`"),
        ("tls: true", "write `tls: { ca: ca.crt }`, or remove it"),
    ] {
        expect(upstream(keys), &[help]);
    }
    for (keys, help) in [
        ("endpoints: 'ws://a:1'", "write `endpoints: [\"ws://a:1\"]`"),
        ("endpoints: ['10.0.0.1:9000']", "write `ws://10.0.0.1:9000`"),
        ("endpoints: [{ host: a, port: 1 }]", "write `url: \"ws://10.0.0.11:9000\"`"),
    ] {
        expect(in_upstream(keys), &[help]);
    }
    let missing = "add `endpoints:` with a list of URLs, or `discover:` with their source";
    expect(
        in_upstream("servers: ['10.0.0.1:9000', 'ws://b']"),
        &["write `endpoints: [\"ws://10.0.0.1:9000\", \"ws://b\"]`", missing][..1],
    );
    for (upstreams, help) in [
        (
            "[{ name: chat, endpoints: ['ws://a'] }]",
            "write each under its name: `upstreams: { NAME: { endpoints: [\"ws://10.0.0.11:9000\"] } }`",
        ),
        ("{ chat: 'ws://a:1' }", "write `{ endpoints: [\"ws://a:1\"] }`"),
        ("{ chat: ['ws://a:1', 'b:2'] }", "write `{ endpoints: [\"ws://a:1\", \"ws://b:2\"] }`"),
    ] {
        expect(format!("{ROUTES}upstreams: {upstreams}\n"), &[help]);
    }
    for (routes, help) in [
        ("{ chat: { upstream: chat } }", "make it a list: `- name: chat`, and its other keys below"),
        (
            "[{ name: chat, upstream: 'ws://a:1' }]",
            "there is an upstream with the name of this route: name that one, or give the route another name",
        ),
        (
            "[{ name: chat, backend: chat }]",
            "write `upstream: NAME`, and `upstreams: { NAME: { endpoints: [\"ws://10.0.0.11:9000\"] } }` at the top",
        ),
    ] {
        expect(format!("routes: {routes}\n{UPSTREAMS}"), &[help]);
    }
    for (top, help) in [
        ("listeners: { public: { bind: '0.0.0.0:80' } }", "make it a list: `- name: public`, and its other keys below"),
        ("listeners: ['0.0.0.0:80']", "write `{ name: public, bind: \"0.0.0.0:80\" }`"),
        ("listeners: [{ name: a, bind: 8080 }]", "write `bind: \"0.0.0.0:8080\"`"),
        ("listeners: [{ name: a, listen: 8080 }]", "write `bind: \"0.0.0.0:8080\"`"),
        ("listeners: [{ name: a, port: 8080 }]", "write `bind: \"0.0.0.0:8080\"`"),
        (
            "listeners: [{ name: a, bind: '0.0.0.0:1', tls: { cert: a.crt, key: a.key } }]",
            "write `certificates: [{ cert: a.crt, key: a.key }]`",
        ),
        (
            "listeners: [{ name: a, bind: '0.0.0.0:1', tls: true }]",
            "write `tls: { certificates: [{ cert: server.crt, key: server.key }] }`, or remove it",
        ),
        (
            "listeners: [{ name: a, bind: '0.0.0.0:1', ssl_certificate: a.crt }]",
            "write `tls: { certificates: [{ cert: server.crt, key: server.key }] }`",
        ),
        (
            "listeners: [{ name: a, bind: '0.0.0.0:1', server_name: a.b }]",
            "write `match: { hosts: [a.b] }` in the routes that are for it",
        ),
        ("listeners: [{ name: a, bind: '0.0.0.0:1', redirect: 443 }]", "write `redirect: { https: 443 }`"),
        ("listen: 8080", "write `listeners: [{ name: public, bind: \"0.0.0.0:8080\" }]`"),
        ("server: {}", "write `upstreams: { app: { endpoints: [\"ws://127.0.0.1:9000\"] } }`"),
        ("location: {}", "write `routes: [{ name: app, match: { path: { prefix: /ws } }, upstream: app }]`"),
        ("ssl: {}", "write `tls: { certificates: [{ cert: server.crt, key: server.key }] }` in a listener"),
        ("http: {}", "remove it: `listeners`, `routes` and `upstreams` stand at the top"),
        ("timeouts: {}", "it is a route's; for all routes write `defaults: { route: { timeouts: … } }`"),
        ("health: {}", "it is an upstream's; for all of them write `defaults: { upstream: { health: … } }`"),
        (
            "defaults: { route: { timeout: 5s } }",
            "write `timeouts: { idle: 5s }` for silent sessions, or `{ response: 5s, body: 5s }` for plain HTTP",
        ),
        ("log: debug", "write `log: { level: debug }`"),
        ("admin: '127.0.0.1:9902'", "write `admin: { bind: \"127.0.0.1:9902\" }`"),
        ("drain: 30s", "write `drain: { time: 30s }`"),
        ("import: a.yaml", "write `include: [conf.d/*.yaml]`"),
    ] {
        expect(at_top(top), &[help]);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let off = load(&in_route("keepalive: off")).unwrap().file;
    assert!(off == load(&in_route("keepalive: { ping: off }")).unwrap().file);
}
