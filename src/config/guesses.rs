//! What people write who know another proxy, or guess, and what to write here instead.
//!
//! Each thing has one spelling. A wrong guess is an error; this finds the words that say it here, with the value that was
//! written where that is possible. Typing slips are left to `read::suggest`.

use crate::config::read::decode::{Fault, MistakeKind};
use crate::config::read::key::KeyStep;
use crate::config::read::tree::YamlNode;

/// Longer values are not repeated.
const SHOWN_CHARS_MAX: usize = 60;

/// Longer lists are not repeated.
const SHOWN_ELEMENTS_MAX: usize = 4;

/// Where the wrong keys stand, which they are, and what to write. `{value}` is the value, `{list}` the same as a list.
type Guesses = &'static [(&'static str, &'static [&'static str], &'static str)];

const KEYS: Guesses = &[
    (
        "",
        &["server", "servers", "backend", "backends", "cluster", "clusters", "service", "services", "endpoints"],
        "write `upstreams: { app: { endpoints: [\"ws://127.0.0.1:9000\"] } }`",
    ),
    (
        "",
        &["listen", "bind", "port", "ports", "address", "entrypoints", "entryPoints", "frontend", "frontends"],
        "write `listeners: [{ name: public, bind: {bind} }]`",
    ),
    (
        "",
        &["location", "locations", "path", "routers", "rules", "sites", "virtual_hosts", "proxy_pass", "reverse_proxy"],
        "write `routes: [{ name: app, match: { path: { prefix: /ws } }, upstream: app }]`",
    ),
    (
        "",
        &["ssl", "tls", "cert", "certificates", "ssl_certificate", "ssl_certificate_key"],
        "write `tls: { certificates: [{ cert: server.crt, key: server.key }] }` in a listener",
    ),
    (
        "",
        &["http", "https", "events", "stream", "static_resources", "global"],
        "remove it: `listeners`, `routes` and `upstreams` stand at the top",
    ),
    ("", &["worker_processes", "worker_connections", "threads"], "write `workers: auto`, or a number of threads"),
    (
        "",
        &["log_level", "loglevel", "logging", "access_log", "error_log"],
        "write `log: { level: info, access: true }`",
    ),
    ("", &["metrics", "prometheus", "stats", "api", "dashboard"], "write `admin: { bind: \"127.0.0.1:9902\" }`"),
    ("", &["import", "imports"], "write `include: [conf.d/*.yaml]`"),
    ("", ROUTE_KEYS, "it is a route's; for all routes write `defaults: { route: { {key}: … } }`"),
    ("", UPSTREAM_KEYS, "it is an upstream's; for all of them write `defaults: { upstream: { {key}: … } }`"),
    ("listeners[]", &["listen", "port", "ports", "address", "addr"], "write `bind: {bind}`"),
    (
        "listeners[]",
        &["ssl", "cert", "key", "certificate", "certificates", "ssl_certificate", "ssl_certificate_key"],
        "write `tls: { certificates: [{ cert: server.crt, key: server.key }] }`",
    ),
    (
        "listeners[]",
        &["host", "hosts", "server_name", "domain", "domains"],
        "write `match: { hosts: {list} }` in the routes that are for it",
    ),
    (
        "listeners[]",
        &["route", "routes", "location", "upstream"],
        "routes stand at the top; `match: { listeners: [NAME] }` in one binds it to this listener",
    ),
    (
        "listeners[].tls",
        &["cert", "key", "certificate", "cert_file", "key_file", "private_key"],
        "write `certificates: [{ cert: {cert}, key: {private_key} }]`",
    ),
    (
        "routes[]",
        &["path", "prefix", "path_prefix", "location", "uri", "url", "pattern"],
        "write `match: { path: { prefix: {value} } }`",
    ),
    ("routes[]", &["host", "hosts", "domain", "domains", "server_name"], "write `match: { hosts: {list} }`"),
    ("routes[]", &["method", "methods"], "write `match: { methods: {list} }`"),
    ("routes[]", &["listener", "listeners", "entrypoints", "entryPoints"], "write `match: { listeners: {list} }`"),
    ("routes[]", &["query", "subprotocols"], "write `match: { {key}: … }`"),
    ("routes[]", &["rule", "matcher"], "write `match: { hosts: [chat.example.com], path: { prefix: /ws } }`"),
    (
        "routes[]",
        &[
            "backend",
            "backends",
            "server",
            "servers",
            "service",
            "services",
            "proxy_pass",
            "reverse_proxy",
            "pass",
            "to",
            "target",
            "cluster",
            "endpoint",
            "endpoints",
        ],
        "write `upstream: NAME`, and `upstreams: { NAME: { endpoints: {urls} } }` at the top",
    ),
    (
        "routes[]",
        &["timeout", "idle_timeout", "read_timeout", "send_timeout", "proxy_read_timeout", "proxy_send_timeout"],
        "write `timeouts: { idle: {value} }` for silent sessions, or `{ response: {value}, body: {value} }` for plain HTTP",
    ),
    ("routes[]", &["strip_prefix", "stripPrefix", "strip_path"], "write `rewrite: { strip_prefix: {value} }`"),
    ("routes[]", &["add_prefix", "addPrefix"], "write `rewrite: { add_prefix: {value} }`"),
    (
        "routes[]",
        &["cors", "origin", "allow_origin", "allow_origins", "allowed_origins"],
        "write `origins: { allow: {list} }`",
    ),
    (
        "routes[]",
        &["websocket", "websockets", "ws", "upgrade", "proxy_http_version", "proxy_buffering"],
        "remove it: every route takes WebSockets, and nothing is held back",
    ),
    (
        "routes[]",
        &["proxy_set_header", "set_header", "set_headers", "request_headers", "header_up"],
        "write `headers: { request: { set: { NAME: value } } }`",
    ),
    (
        "routes[]",
        &["add_header", "add_headers", "response_headers", "header_down"],
        "write `headers: { response: { set: { NAME: value } } }`",
    ),
    ("routes[]", &["ping", "ping_interval", "heartbeat"], "write `keepalive: { ping: {value} }`"),
    (
        "routes[]",
        &["max_message_size", "max_payload", "max_connections", "connections"],
        "write `limits: { message: 1MiB, connections: 1000 }`",
    ),
    ("routes[]", &["client_max_body_size", "max_body_size", "body_limit"], "write `limits: { body: 10MiB }`"),
    (
        "routes[]",
        &["rate", "rate_limit", "ratelimit", "rateLimit", "limit_req", "throttle", "message_rate"],
        "write `limits: { rate: { messages: 50/s } }`",
    ),
    ("routes[]", &["limit_rate", "bandwidth"], "write `limits: { server_rate: { bytes: 1MiB/s } }`"),
    (
        "routes[].limits",
        &["rate_limit", "ratelimit", "rateLimit", "limit_req", "throttle", "message_rate", "messages", "client_rate"],
        "write `rate: { messages: 50/s }`",
    ),
    ("routes[].limits", &["limit_rate", "bandwidth", "bytes"], "write `server_rate: { bytes: 1MiB/s }`"),
    ("routes[].limits", &["pings", "control_frames", "ping_rate"], "write `control: 100/s`"),
    ("routes[].limits", &["max_fragments", "fragment"], "write `fragments: {value}`"),
    ("routes[].limits.rate", RATES, "write `messages: 50/s`"),
    ("routes[].limits.server_rate", RATES, "write `messages: 50/s`"),
    ("routes[].limits.rate", ACTIONS, "write `then: delay`, or `then: close`"),
    ("routes[].limits.server_rate", ACTIONS, "write `then: delay`, or `then: close`"),
    ("routes[].limits", &["client_max_body_size", "max_body_size", "body_size"], "write `body: 10MiB`"),
    (
        "routes[]",
        &["tls", "ssl", "bind", "listen"],
        "it is a listener's; `match: { listeners: [NAME] }` binds a route to one",
    ),
    ("routes[]", UPSTREAM_KEYS, "it is an upstream's: write it under `upstreams`"),
    (
        "routes[].match",
        &["prefix", "path_prefix", "pathPrefix", "location", "uri", "url"],
        "write `path: { prefix: {value} }`",
    ),
    ("routes[].match", &["exact", "regex"], "write `path: { {key}: {value} }`"),
    ("routes[].match", &["host", "domain", "domains", "server_name"], "write `hosts: {list}`"),
    ("routes[].match", &["method"], "write `methods: {list}`"),
    ("routes[].match", &["listener", "entrypoints", "entryPoints"], "write `listeners: {list}`"),
    (
        "routes[].match",
        &["client_certificate", "client_certs", "cert", "certificate", "mtls", "tls", "ssl_client_s_dn"],
        "write `client_cert: { san: \"*.devices.example.com\" }`, or `client_cert: {}` for any",
    ),
    ("routes[].match.client_cert", &["sans", "dns", "uri", "names", "name", "host"], "write `san: {value}`"),
    ("routes[].match.client_cert", &["dn", "s_dn", "cn", "common_name"], "write `subject: \"CN=device-1,O=Example\"`"),
    (
        "routes[].match.client_cert",
        &["sha256", "hash", "fingerprints", "thumbprint", "verify_certificate_hash"],
        "write `fingerprint: {value}`",
    ),
    ("routes[].match", &["subprotocol", "protocol", "protocols"], "write `subprotocols: {list}`"),
    ("routes[].headers", &["set", "remove", "add"], "write `request: { set: … }` or `response: { set: … }`"),
    ("routes[].keepalive", &["interval", "every"], "write `ping: {value}`"),
    ("routes[].keepalive", &["timeout"], "write `pong: {value}`"),
    ("routes[].origins", &["allowed", "hosts", "origins"], "write `allow: {list}`"),
    (
        "upstreams.*",
        &[
            "url",
            "urls",
            "server",
            "servers",
            "address",
            "addresses",
            "addr",
            "host",
            "hosts",
            "target",
            "targets",
            "nodes",
            "backend",
            "backends",
            "endpoint",
            "to",
        ],
        "write `endpoints: {urls}`",
    ),
    (
        "upstreams.*",
        &["lb", "lb_policy", "policy", "algorithm", "strategy", "load_balancing", "load_balance", "method"],
        "write `balance: least_connections`, `round_robin`, `random_two` or `{ hash: … }`",
    ),
    (
        "upstreams.*",
        &["health_check", "health_checks", "healthcheck", "healthCheck", "check"],
        "write `health: { http: { path: /healthz } }`",
    ),
    ("upstreams.*", &["max_fails", "fail_timeout"], "write `ejection: { failures: 1, time: 10s }`"),
    (
        "upstreams.*",
        &["weight", "max_conns", "max_connections", "backup", "priority"],
        "it is an endpoint's: write `endpoints: [{ url: \"ws://10.0.0.11:9000\", weight: 2 }]`",
    ),
    (
        "upstreams.*",
        &["ssl", "insecure_skip_verify", "skip_verify", "verify"],
        "write `tls: { ca: ca.crt }` for an authority of your own, or `tls: { verify: off }`",
    ),
    (
        "upstreams.*",
        &["ip_hash", "sticky_sessions", "stickiness", "affinity", "session_affinity"],
        "write `balance: { hash: { on: client_address } }`, or `sticky:` for a cookie",
    ),
    (
        "upstreams.*",
        &["keepalive"],
        "pings are a route's (`keepalive: { ping: 30s }`), and connections to servers are kept by themselves",
    ),
    ("upstreams.*", &["timeout"], "it is a route's: write `timeouts: { response: {value} }` there"),
    ("upstreams.*", ROUTE_KEYS, "it is a route's: write it in the routes that lead here"),
    (
        "upstreams.*.endpoints[]",
        &["address", "addr", "host", "hostname", "ip", "port", "server", "target", "uri"],
        "write `url: \"ws://10.0.0.11:9000\"`",
    ),
    ("upstreams.*.endpoints[]", &["max_conns"], "write `max_connections: {value}`"),
    ("upstreams.*.endpoints[]", &["backup"], "write `priority: 1`"),
    ("upstreams.*.endpoints[]", &["down", "disabled"], "write `weight: 0`"),
    (
        "upstreams.*.health",
        &["path", "url", "uri", "interval", "every", "timeout"],
        "write `health: { http: { path: /healthz } }`",
    ),
    ("upstreams.*.tls", &["insecure", "insecure_skip_verify", "skip_verify"], "write `verify: off`"),
    ("upstreams.*.tls", &["sni", "servername", "server"], "write `server_name: {value}`"),
    ("admin", &["listen", "port", "address"], "write `bind: \"127.0.0.1:9902\"`"),
];

/// A number per second, elsewhere.
const RATES: &[&str] = &["rate", "requests", "average", "rps", "limit", "count", "events", "tokens_per_fill"];

/// What happens to what is too fast, elsewhere.
const ACTIONS: &[&str] = &["nodelay", "delay", "action", "mode", "on_exceeded", "close"];

/// Keys of routes that stand nowhere else.
const ROUTE_KEYS: &[&str] = &[
    "match",
    "origins",
    "rewrite",
    "headers",
    "timeouts",
    "limits",
    "validate",
    "on_upstream_lost",
    "on_change",
    "paths",
];

/// Keys of upstreams that stand nowhere else.
const UPSTREAM_KEYS: &[&str] = &[
    "balance",
    "health",
    "sticky",
    "queue",
    "admission",
    "ejection",
    "retry_budget",
    "slow_start",
    "discover",
    "on_down",
];

/// Words in the place of others.
const WORDS: Guesses = &[
    ("upstreams.*.balance", &["least_conn", "leastconn", "least_request"], "write `least_connections`"),
    ("upstreams.*.balance", &["ip_hash", "source", "client_ip"], "write `{ hash: { on: client_address } }`"),
    ("upstreams.*.balance", &["random", "p2c"], "write `random_two`"),
    ("routes[].limits.rate.then", NOT_DROPPED, DELAY_OR_CLOSE),
    ("routes[].limits.server_rate.then", NOT_DROPPED, DELAY_OR_CLOSE),
];

const NOT_DROPPED: &[&str] = &["drop", "reject", "deny", "discard", "throttle", "nodelay", "kick", "disconnect"];
const DELAY_OR_CLOSE: &str =
    "write `delay` or `close`: to drop single messages would break what client and server agree on";

/// Values of another kind than the one that is expected: what to write in place of a text, a number or a boolean. Of
/// those that begin with `/` the first that does counts.
const SCALARS: &[(&str, &str, &str)] = &[
    ("listeners[]", "", "write `{ name: public, bind: {bind} }`"),
    ("listeners[].bind", "", "write `bind: {bind}`"),
    ("listeners[].tls", "", "write `tls: { certificates: [{ cert: server.crt, key: server.key }] }`, or remove it"),
    ("listeners[].redirect", "", "write `redirect: { https: 443 }`"),
    ("routes[].match", "/", "write `match: { path: { prefix: {value} } }`"),
    ("routes[].match", "", "write `match: { hosts: {list} }`"),
    ("routes[].match.client_cert", "", "write `client_cert: { san: {value} }`, or `client_cert: {}` for any"),
    ("routes[].origins", "", "write `origins: { allow: {list} }`"),
    ("routes[].keepalive", "", "write `keepalive: { ping: {value} }`, or `keepalive: off`"),
    (
        "routes[].timeouts",
        "",
        "write `timeouts: { idle: {value} }` for silent sessions, or `{ response: {value} }` for plain HTTP",
    ),
    ("routes[].limits", "", "write `limits: { message: {value} }`"),
    ("routes[].limits.rate", "", "write `rate: { messages: 10/s }`, or `{ bytes: 1MiB/s }`"),
    ("routes[].limits.rate.messages", "", "write `{value}/s`"),
    ("routes[].limits.rate.bytes", "", "write `{value}/s`, in bytes, or such as `1MiB/s`"),
    ("routes[].limits.server_rate.messages", "", "write `{value}/s`"),
    ("routes[].limits.server_rate.bytes", "", "write `{value}/s`, in bytes, or such as `1MiB/s`"),
    ("routes[].limits.control", "", "write `{value}/s`"),
    ("routes[].limits.server_rate", "", "write `server_rate: { messages: 10/s }`, or `{ bytes: 1MiB/s }`"),
    (
        "routes[].rewrite",
        "",
        "write `rewrite: { path: {value} }` (the whole path), or `rewrite: { strip_prefix: {value} }`",
    ),
    ("upstreams.*", "", "write `{ endpoints: {urls} }`"),
    ("upstreams.*.endpoints", "", "write `endpoints: {urls}`"),
    ("upstreams.*.health", "/", "write `health: { http: { path: {value} } }`"),
    ("upstreams.*.health", "", "write `health: { tcp: {} }`, or `health: { http: { path: /healthz } }`"),
    ("upstreams.*.health.tcp", "", "write `tcp: {}`"),
    ("upstreams.*.health.http", "", "write `http: { path: {path} }`"),
    ("upstreams.*.health.websocket", "", "write `websocket: { path: {path} }`"),
    ("upstreams.*.sticky", "", "write `sticky: { cookie: srv, secrets: [\"${STICKY_SECRET}\"] }`"),
    ("upstreams.*.tls", "", "write `tls: { ca: ca.crt }`, or remove it"),
    ("admin", "", "write `admin: { bind: {bind} }`"),
    ("log", "", "write `log: { level: {value} }`"),
    ("drain", "", "write `drain: { time: {value} }`"),
];

/// What to write in place of something that is wrong.
pub(super) struct Advice {
    /// The same for all keys that say it, whatever their values.
    pub(super) known: &'static str,
    pub(super) text: String,
}

/// Returns what to write in place of something that is wrong.
pub(super) fn advice(fault: &Fault) -> Option<Advice> {
    let path = fault.path();
    let node = fault.sketch.as_ref().and_then(|sketch| sketch.node.as_ref());
    let around = || fault.sketch.as_ref().and_then(|sketch| sketch.around.as_ref());
    let place = place(path.steps());
    let parent = || path.steps().split_last().map(|(_, above)| self::place(above));
    let (known, key, around) = match &fault.kind {
        MistakeKind::UnknownKey { key, .. } => {
            let above = parent()?;
            (find(KEYS, &above, key).or_else(|| header(&above, key))?, key.as_str(), around())
        }
        // The kind of a check is a word to serde.
        MistakeKind::UnknownWord { word, .. } if fault.at_key => (find(KEYS, &parent()?, word)?, word.as_str(), None),
        MistakeKind::UnknownWord { word, .. } => (find(WORDS, &place, word)?, word.as_str(), None),
        MistakeKind::WrongType { expected, .. } => (of_another_kind(&place, node?, expected)?, "", None),
        MistakeKind::NoValue if place == "upstreams.*.health.tcp" => ("write `tcp: {}`", "", None),
        _ => return None,
    };
    Some(Advice { known, text: filled(known, key, node, around) })
}

/// Returns what to write in place of a value of another kind.
fn of_another_kind(place: &str, node: &YamlNode, expected: &str) -> Option<&'static str> {
    match (node, place) {
        (YamlNode::Map(_), "routes" | "listeners") => {
            Some("make it a list: `- name: {first}`, and its other keys below")
        }
        (YamlNode::List(_), "upstreams") => {
            Some("write each under its name: `upstreams: { NAME: { endpoints: [\"ws://10.0.0.11:9000\"] } }`")
        }
        (YamlNode::List(_), "routes[].origins") => Some("write `origins: { allow: {list} }`"),
        (YamlNode::List(_), "upstreams.*") => Some("write `{ endpoints: {urls} }`"),
        (YamlNode::Map(_) | YamlNode::List(_), _) => None,
        (scalar, place) => {
            let begins = |start: &str| matches!(scalar, YamlNode::Text { text, .. } if text.starts_with(start));
            let fits = |(at, start, _): &&(&str, &str, &str)| *at == place && (start.is_empty() || begins(start));
            let known = SCALARS.iter().find(fits).map(|(.., known)| *known);
            known.or((expected == "a list").then_some("make it a list: `{list}`"))
        }
    }
}

fn find(guesses: Guesses, place: &str, word: &str) -> Option<&'static str> {
    guesses.iter().find(|(at, words, _)| *at == place && words.contains(&word)).map(|(.., known)| *known)
}

/// The name of a header where the direction belongs.
fn header(place: &str, key: &str) -> Option<&'static str> {
    let is_name = key.contains('-') || key.starts_with(|c: char| c.is_ascii_uppercase());
    match place {
        "routes[].headers" if is_name => Some("write `request: { set: { {key}: … } }`"),
        "routes[].headers.request" | "routes[].headers.response" if is_name => Some("write `set: { {key}: … }`"),
        _ => None,
    }
}

/// Returns where a path leads, whichever element it is: `routes[].match`, `upstreams.*.health`. Defaults are as what
/// they are for.
fn place(steps: &[KeyStep]) -> String {
    let key = |step: &KeyStep| match step {
        KeyStep::Key(key) => key.clone(),
        KeyStep::Index(_) => String::new(),
    };
    let (mut place, rest) = match steps {
        [KeyStep::Key(top), KeyStep::Key(kind), rest @ ..] if top == "defaults" && kind == "route" => {
            ("routes[]".to_owned(), rest)
        }
        [KeyStep::Key(top), KeyStep::Key(kind), rest @ ..] if top == "defaults" && kind == "upstream" => {
            ("upstreams.*".to_owned(), rest)
        }
        [KeyStep::Key(top), KeyStep::Key(_), rest @ ..] if top == "upstreams" => ("upstreams.*".to_owned(), rest),
        [top, rest @ ..] => (key(top), rest),
        [] => return String::new(),
    };
    for step in rest {
        match step {
            KeyStep::Key(key) => {
                place.push('.');
                place.push_str(key);
            }
            KeyStep::Index(_) => place.push_str("[]"),
        }
    }
    place
}

/// Fills what was written into what is to be written. `around` is the map that has it.
fn filled(known: &str, key: &str, node: Option<&YamlNode>, around: Option<&YamlNode>) -> String {
    let one = node.and_then(shown).unwrap_or_else(|| "…".to_owned());
    let all = match node {
        Some(YamlNode::List(_)) => one.clone(),
        _ => format!("[{one}]"),
    };
    let beside = |keys: &[&str], usual: &str| {
        let Some(YamlNode::Map(entries)) = around else { return usual.to_owned() };
        let found = entries.iter().find(|(key, _)| keys.contains(&key.as_str()));
        found.and_then(|(_, node)| shown(node)).unwrap_or_else(|| usual.to_owned())
    };
    let path = match node {
        Some(YamlNode::Text { text, .. }) if text.starts_with('/') => one.clone(),
        _ => "/healthz".to_owned(),
    };
    let first = match node {
        Some(YamlNode::Map(entries)) => entries.first().map_or_else(|| "NAME".to_owned(), |(key, _)| scalar(key)),
        _ => "NAME".to_owned(),
    };
    known
        .replace("{bind}", &bind(node))
        .replace("{urls}", &urls(node))
        .replace("{cert}", &beside(&["cert", "certificate", "cert_file"], "server.crt"))
        .replace("{private_key}", &beside(&["key", "private_key", "key_file"], "server.key"))
        .replace("{path}", &path)
        .replace("{first}", &first)
        .replace("{key}", &scalar(key))
        .replace("{list}", &all)
        .replace("{value}", &one)
}

/// Returns an address to bind, with the port that was written.
fn bind(node: Option<&YamlNode>) -> String {
    match node {
        Some(YamlNode::Unsigned(port)) => format!("\"0.0.0.0:{port}\""),
        Some(YamlNode::Text { raw: None, text }) if text.contains(':') && !text.starts_with(':') => scalar(text),
        Some(YamlNode::Text { raw: None, text }) if text.trim_start_matches(':').parse::<u16>().is_ok() => {
            format!("\"0.0.0.0:{}\"", text.trim_start_matches(':'))
        }
        _ => "\"0.0.0.0:8080\"".to_owned(),
    }
}

/// Returns a list of URLs, as they were written if they are some.
fn urls(node: Option<&YamlNode>) -> String {
    let url = |node: &YamlNode| match node {
        YamlNode::Text { text, raw: None } if text.contains("://") || text.starts_with("unix:") => Some(scalar(text)),
        YamlNode::Text { text, raw: None } if text.contains(':') => Some(scalar(&format!("ws://{text}"))),
        YamlNode::Text { raw: Some(raw), .. } => Some(scalar(raw)),
        _ => None,
    };
    let all: Option<Vec<String>> = match node {
        Some(YamlNode::List(nodes)) if nodes.len() <= SHOWN_ELEMENTS_MAX => nodes.iter().map(url).collect(),
        Some(node) => url(node).map(|url| vec![url]),
        None => None,
    };
    let all = all.filter(|all| !all.is_empty());
    all.map_or_else(|| "[\"ws://10.0.0.11:9000\"]".to_owned(), |all| format!("[{}]", all.join(", ")))
}

/// Returns a short value as one would write it. What came from the environment is shown as the file has it.
fn shown(node: &YamlNode) -> Option<String> {
    let text = match node {
        YamlNode::Bool(value) => value.to_string(),
        YamlNode::Unsigned(value) => value.to_string(),
        YamlNode::Signed(value) => value.to_string(),
        YamlNode::Float(value) => value.to_string(),
        YamlNode::Text { raw: Some(text), .. } | YamlNode::Text { text, raw: None } => scalar(text),
        YamlNode::List(nodes) if nodes.len() <= SHOWN_ELEMENTS_MAX => {
            let all: Option<Vec<String>> = nodes.iter().map(shown).collect();
            format!("[{}]", all?.join(", "))
        }
        _ => return None,
    };
    Some(text)
}

/// Returns a text as a YAML scalar, in quotes where it needs them.
pub(super) fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    match text.chars().count() > SHOWN_CHARS_MAX {
        true => "…".to_owned(),
        false if begins && text.chars().all(is_plain) => text.to_owned(),
        false => format!("{text:?}"),
    }
}
