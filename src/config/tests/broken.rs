//! A table of broken files: what is wrong, its position, the message, and the help.

use super::load;
use crate::config::*;

/// Returns `line:column path: message | help` of each error, or else of each warning.
pub(super) fn said(text: &str) -> Vec<String> {
    let findings = match load(text) {
        Ok(loaded) => {
            assert!(loaded.warnings.iter().all(|finding| finding.severity == Severity::Warning));
            loaded.warnings
        }
        Err(errors) => errors.findings().to_vec(),
    };
    let say = |finding: &Finding| {
        let at = finding.line.zip(finding.col).map(|(line, col)| format!("{line}:{col} ")).unwrap_or_default();
        let path = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
        let help = finding.help.as_ref().map(|help| format!(" | {help}")).unwrap_or_default();
        format!("{at}{path}{}{help}", finding.message)
    };
    findings.iter().map(say).collect()
}

pub(super) const ROUTES: &str = "routes: [{ name: chat, upstream: chat }]\n";
pub(super) const UPSTREAMS: &str = "upstreams: { chat: { endpoints: ['ws://a:1'] } }\n";

fn indented(keys: &str) -> String {
    keys.lines().map(|line| format!("    {line}\n")).collect()
}

/// The keys stand from line 4, column 5 on.
pub(super) fn in_route(keys: &str) -> String {
    format!("routes:\n  - name: chat\n    upstream: chat\n{}{UPSTREAMS}", indented(keys))
}

/// The keys stand from line 3, column 5 on, in a route without an upstream.
fn alone(keys: &str) -> String {
    format!("routes:\n  - name: chat\n{}upstreams: {{}}\n", indented(keys))
}

/// The keys stand from line 4, column 5 on.
pub(super) fn in_upstream(keys: &str) -> String {
    format!("{ROUTES}upstreams:\n  chat:\n{}", indented(keys))
}

/// The keys stand from line 6, column 5 on.
pub(super) fn in_listener(keys: &str) -> String {
    let start = "listeners:\n  - name: public\n    bind: \"127.0.0.1:8443\"\n";
    format!("{ROUTES}{UPSTREAMS}{start}{}", indented(keys))
}

/// The keys stand from line 3 on.
pub(super) fn at_top(keys: &str) -> String {
    format!("{ROUTES}{UPSTREAMS}{keys}\n")
}

fn check(table: &[(String, &[&str])]) {
    for (text, expected) in table {
        assert_eq!(said(text), *expected, "\n{text}");
    }
}

#[test]
fn what_is_not_yaml_is_told_with_the_usual_cause() {
    check(&[
        (
            "a: [1, 2\nb: 3\n".to_owned(),
            &[
                "2:2 this is not YAML: did not find expected ',' or ']', while parsing a flow sequence at line 1 column 4",
            ],
        ),
        (
            "routes:\n\t- a\n".to_owned(),
            &[
                "2:1 this is not YAML: found character that cannot start any token, while scanning for the next token | YAML is indented with spaces, not tabs",
            ],
        ),
        (
            "routes: [{ match: { hosts: [*.example.com] } }]\n".to_owned(),
            &[
                r#"1:30 this is not YAML: did not find expected alphabetic or numeric character, while scanning an alias at line 1 column 29 | put a value that begins with `*` in quotes: "*.example.com""#,
            ],
        ),
        ("a: 1\n---\nb: 2\n".to_owned(), &["the file has more than one YAML document | remove the lines `---`"]),
        ("# nothing\n".to_owned(), &["the file is empty | it needs at least `routes`; see config/minimal.yaml"]),
        (
            "- routes\n".to_owned(),
            &["1:1 the file is a list, not a map of keys | it needs at least `routes`; see config/minimal.yaml"],
        ),
        (
            "just words\n".to_owned(),
            &[
                r#"1:1 the file is the string "just words", not a map of keys | it needs at least `routes`; see config/minimal.yaml"#,
            ],
        ),
        (
            "upstream: a: b\n".to_owned(),
            &[
                "1:12 this is not YAML: mapping values are not allowed in this context | is the line indented as the one above, and a value that contains `: ` in quotes?",
            ],
        ),
        (
            "log: { level: ${LEVEL} }\n".to_owned(),
            &[
                "1:16 this is not YAML: did not find expected ',' or '}', while parsing a flow mapping at line 1 column 6 | put a value with `${NAME}` in quotes: inside `[ ]` and `{ }` a brace has a meaning in YAML",
            ],
        ),
        (
            "routes: !include routes.yaml\n".to_owned(),
            &["1:9 a YAML tag (`!name`) has no meaning here | remove it, or quote a value that begins with `!`"],
        ),
        (
            "routes: {{ routes }}\n".to_owned(),
            &["1:10 a key must be a word | put a value that begins with `{` or `[` in quotes"],
        ),
    ]);
}

#[test]
fn keys_that_are_wrong_missing_or_twice_are_told() {
    check(&[
        ("version: 1\n".to_owned(), &["`routes` is missing | add `routes:`, which is required"]),
        (at_top("verison: 1"), &["3:1 verison: unknown key | did you mean `version`?"]),
        (at_top("listener: []"), &["3:1 listener: unknown key | did you mean `listeners`?"]),
        (
            at_top("version: 2"),
            &["3:10 version: this version of wsluice reads configurations of version 1 only | write `version: 1`"],
        ),
        (at_top("log:"), &["3:1 log: there is no value | write one, or remove the key to keep the default"]),
        (
            at_top("log: { level: debug, level: info }"),
            &["3:22 log.level: the key is here for the second time | keep one of the two"],
        ),
        (
            at_top("drain: { <<: x }"),
            &[
                r#"3:10 drain."<<": only maps can be merged (`<<`) | write `<<: *name`, or `<<: [*name, *other]`, with maps at these anchors"#,
            ],
        ),
        (
            at_top("drain: { <<: { time: 5s }, <<: { delay: 5s } }"),
            &[r#"3:28 drain."<<": the key is here for the second time | write one with a list: `<<: [*name, *other]`"#],
        ),
        (at_top("admin: ~"), &["3:1 admin: there is no value | write one, or remove the key to keep the default"]),
        (in_route("orgins: { allow: ['*'] }"), &["4:5 routes[0].orgins: unknown key | did you mean `origins`?"]),
        (
            in_route("match: { path: { prefx: /ws } }"),
            &["4:22 routes[0].match.path.prefx: unknown key | did you mean `prefix`?"],
        ),
        (
            format!("{}{UPSTREAMS}", "routes:\n  - nme: chat\n    upstream: chat\n"),
            &["2:5 routes[0].nme: unknown key | did you mean `name`?"],
        ),
        (
            format!("{}{UPSTREAMS}", "routes:\n  - name: chat\n"),
            &[
                "2:5 routes[0]: the route does nothing: it needs `upstream`, `redirect` or `respond` | add `upstream:` with the name of one of `upstreams`",
            ],
        ),
        (
            in_upstream("on_down: close\nendpoints: ['ws://a:1']"),
            &["4:14 upstreams.chat.on_down: no check tells that an endpoint is down | add `health:`, or remove it"],
        ),
        (
            in_upstream("balance: random_two\nrebalance: { rate: 10 }\nendpoints: ['ws://a:1']"),
            &["5:24 upstreams.chat.rebalance.rate: expected a rate such as `500/s`, found the number 10"],
        ),
        (
            in_upstream("rebalance: { rate: 10/s }\nbalance: round_robin\nendpoints: ['ws://a:1']"),
            &[
                "4:16 upstreams.chat.rebalance: sessions that are moved would not come back where there are few | write `balance: least_connections`, or remove it",
            ],
        ),
        (
            in_upstream("health: { websocket: {} }\nendpoints: ['ws://a:1']"),
            &["4:15 upstreams.chat.health.websocket: `path` is missing | add `path:`, which is required"],
        ),
        (
            in_upstream("balance: random_two"),
            &[
                "3:3 upstreams.chat: `endpoints` is missing | add `endpoints:` with a list of URLs, or `discover:` with their source",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a:1']\ndiscover: { file: { path: a.yaml } }"),
            &[
                "5:5 upstreams.chat.discover: endpoints are written or discovered, not both | remove `endpoints:` or `discover:`",
            ],
        ),
        (
            in_upstream("discover: { consul: {} }"),
            &["4:17 upstreams.chat.discover.consul: unknown key | known here: `file`, `dns`, `etcd`, `allow`"],
        ),
        (
            in_upstream("discover: { allow: [10.0.0.0/8] }"),
            &["4:5 upstreams.chat.discover: no source of the endpoints is named | add `file:`, `dns:` or `etcd:`"],
        ),
        (
            in_upstream("discover: { file: { path: a.yaml }, dns: { name: a, port: 1 }, allow: [] }"),
            &[
                "4:41 upstreams.chat.discover.dns: endpoints have one source, and `file` is there already | keep one of the two",
                "4:75 upstreams.chat.discover.allow: no endpoint may be anywhere | name a network such as `10.0.0.0/8`, or remove it",
            ],
        ),
        (
            in_upstream("discover: { file: { path: a.yaml }, allow: [10.0.0.0/33] }"),
            &[
                "4:49 upstreams.chat.discover.allow[0]: `10.0.0.0/33` is neither a network such as `10.0.0.0/8` nor `unix`, nor `unix:` with the path of a directory",
            ],
        ),
        (
            in_upstream("discover: { dns: { name: chat.internal } }"),
            &[
                "4:30 upstreams.chat.discover.dns.name: a name of hosts needs a port | add `port:`, or name a service such as `_ws._tcp.chat.internal`",
            ],
        ),
        (
            in_upstream("discover: { dns: { name: 10.0.0.1, port: 0, every: 1h, server: here } }"),
            &[
                "4:30 upstreams.chat.discover.dns.name: `10.0.0.1` is an address | write it under `endpoints:`, with its port",
                "4:46 upstreams.chat.discover.dns.port: `0` is not a port | a port is a number from 1 to 65535",
                "4:56 upstreams.chat.discover.dns.every: nobody waits longer than 5m for an answer to be asked for again | write `5m` or less",
                "4:68 upstreams.chat.discover.dns.server: `here` is not an IP address | write an address such as `127.0.0.1:8600` or `10.0.0.2`",
            ],
        ),
        (
            in_upstream("discover: { etcd: { servers: [], prefix: '', user: me } }"),
            &[
                "4:34 upstreams.chat.discover.etcd.servers: there is no server | add a URL such as `http://10.0.0.5:2379`",
                "4:46 upstreams.chat.discover.etcd.prefix: every key of the etcd would be an endpoint | write a prefix such as `/wsluice/chat/`",
                "4:50 upstreams.chat.discover.etcd.user: `user` needs `password` beside it | add `password:`",
            ],
        ),
        (
            in_upstream("endpoints: [{ url: 'ws://a:1', weight: -1 }]"),
            &["4:44 upstreams.chat.endpoints[0].weight: expected a number from 0 to 65535, found the number -1"],
        ),
        (
            in_upstream("endpoints: [{ url: 'ws://a:1', max_connections: 0 }]"),
            &[
                "4:53 upstreams.chat.endpoints[0].max_connections: no session would ever fit | leave it out for no limit, or write `weight: 0` for no new sessions",
            ],
        ),
        (
            in_upstream("balance: hash\nendpoints: ['ws://a:1']"),
            &["4:14 upstreams.chat.balance: `hash` needs settings | write `hash: { … }`"],
        ),
        (
            in_upstream("balance: { random_two: { among: 3 } }\nendpoints: ['ws://a:1']"),
            &["4:14 upstreams.chat.balance: `random_two` has no settings | write `random_two` alone"],
        ),
        (
            in_upstream("balance: { hash: { on: cookies, load_max: 90% } }\nendpoints: ['ws://a:1']"),
            &[
                "4:28 upstreams.chat.balance.hash.on: `cookies` is no part of a request: write client_address, path, header:NAME, cookie:NAME or query:NAME",
                "4:47 upstreams.chat.balance.hash.load_max: `90%` is not a percentage above 100 | write one from 101% to 1000%, such as `125%`, or `off`",
            ],
        ),
        (
            in_upstream("balance: roundrobin\nendpoints: ['ws://a:1']"),
            &[
                "4:14 upstreams.chat.balance: `roundrobin` is not `least_connections`, `round_robin`, `random_two` or `hash` | did you mean `round_robin`?",
            ],
        ),
    ]);
}

#[test]
fn values_that_cannot_be_read_say_what_would_be_right() {
    check(&[
        (at_top("workers: 0"), &["3:10 workers: expected `auto` or a number of threads, found the number 0"]),
        (
            at_top("drain: 30s"),
            &[
                r#"3:8 drain: expected a map with `delay`, `time`, found the string "30s" | write `drain: { time: 30s }`"#,
            ],
        ),
        (
            at_top("drain: { time: 30 }"),
            &[
                "3:16 drain.time: expected a duration such as `30s`, `5m` or `1h30m`, found the number 30 | give it a unit: `30s` or `30ms`",
            ],
        ),
        (
            at_top("drain: { time: 1.5s }"),
            &[
                "3:16 drain.time: `1.5s` is not a duration of whole numbers | write a duration such as `250ms`, `30s`, `5m`, `1h30m` or `7d`",
            ],
        ),
        (
            at_top("log: { access: yes }"),
            &[r#"3:16 log.access: expected `true` or `false`, found the string "yes" | write `true`"#],
        ),
        (
            at_top("log: { format: jsn }"),
            &["3:16 log.format: `jsn` is not `auto`, `json` or `human` | did you mean `json`?"],
        ),
        (
            at_top("log: { level: 3 }"),
            &["3:15 log.level: expected a level such as `info`, or `info,wsluice::tls=debug`, found the number 3"],
        ),
        (
            in_route("timeouts: { idle: 5min }"),
            &[
                "4:23 routes[0].timeouts.idle: `5min` has an unknown unit `min` | write a duration such as `250ms`, `30s`, `5m`, `1h30m` or `7d`, or `off`",
            ],
        ),
        (
            in_route("timeouts: { idle: false }"),
            &[
                "4:23 routes[0].timeouts.idle: expected a duration such as `30s`, `5m` or `1h30m`, or `off`, found `false` | write `off`",
            ],
        ),
        (
            in_route("limits: { message: 1MB }"),
            &["4:24 routes[0].limits.message: `1MB` has an unknown unit `MB` | write `1MiB` (units of 1024), or `off`"],
        ),
        (
            in_route("limits: { connections: -1 }"),
            &["4:28 routes[0].limits.connections: expected a number from 0 to 4294967295, found the number -1"],
        ),
        (
            in_route("limits: { connections: '10' }"),
            &[
                r#"4:28 routes[0].limits.connections: expected a number from 0 to 4294967295, found the string "10" | write digits, without quotes"#,
            ],
        ),
        (
            in_route("on_change: { drain: 60s }"),
            &[
                "4:16 routes[0].on_change: expected `keep`, `close`, or `drain` and a time such as `drain 60s`, found a map",
            ],
        ),
        (at_top("on_upgrade: drain"), &["3:13 on_upgrade: `drain` needs a time | write one after it: `drain 60s`"]),
        (in_route("http: no"), &["4:11 routes[0].http: `no` is not `proxy` or `reject`"]),
        (
            in_route("validate: false"),
            &["4:15 routes[0].validate: `false` is not `lenient`, `strict` or `off` | write `off`"],
        ),
        (
            in_route("match: { path: /ws }"),
            &[
                "4:20 routes[0].match.path: a path is one of exact, prefix or regex: write `{ prefix: /ws }` or `{ exact: /ws }`",
            ],
        ),
        (
            in_route("match: { hosts: [] , path: { regex: 'a(' } }"),
            &["4:41 routes[0].match.path.regex: `a(` is not a valid regex: unclosed group"],
        ),
        (
            in_route("match: { hosts: 'https://a' }"),
            &[
                r#"4:21 routes[0].match.hosts: expected a list, found the string "https://a" | make it a list: `["https://a"]`"#,
            ],
        ),
        (
            in_route("match: { hosts: ['https://a'] }"),
            &["4:22 routes[0].match.hosts[0]: `https://a` is a URL: write its host alone, such as `chat.example.com`"],
        ),
        (
            in_route("origins: { allow: ['file://*', { exact: 'a ' }, { exact: a, host: b }, 7], insecure: yes }"),
            &[
                "4:24 routes[0].origins.allow[0]: `file://*` never matches, because the origin of each page in a file is the same: write `file://`, or `\"null\"`",
                "4:36 routes[0].origins.allow[1]: `a ` never matches, because the value of a field is read without the spaces around it",
                "4:65 routes[0].origins.allow[2].host: unknown key | known here: `exact`",
                "4:76 routes[0].origins.allow[3]: expected a string such as same-origin or https://*.example.com, or `{ exact: ... }`, found the number 7",
                "4:90 routes[0].origins.insecure: `yes` is not `deny` or `allow`",
            ],
        ),
        (
            in_route("origins: { allow: [example.com] }"),
            &["4:24 routes[0].origins.allow[0]: `example.com` has no scheme: write `https://example.com`"],
        ),
        (
            in_route("headers: { request: { set: { 'X Y': a } } }"),
            &[
                r#"4:34 routes[0].headers.request.set."X Y": `X Y` is not the name of a header | write a name of letters, digits and `-`, such as `X-Tenant`, without a colon"#,
            ],
        ),
        (
            in_route("headers: { request: { set: { X-Y: 1 } } }"),
            &["4:39 routes[0].headers.request.set.X-Y: expected a string, found the number 1 | put it in quotes"],
        ),
        (
            in_route(r#"headers: { request: { set: { X-Y: "a\nb" } } }"#),
            &[
                "4:39 routes[0].headers.request.set.X-Y: this cannot be the value of a header | write one line without control characters or space around it",
            ],
        ),
        (
            in_route("headers: { request: { set: { X-Y: a, x-y: b } } }"),
            &[
                "4:32 routes[0].headers.request.set: the header `x-y` is set twice | keep one; upper and lower case do not matter in the name of a header",
            ],
        ),
        (
            in_listener("trusted_proxies: [10.0.0.0/33]"),
            &[
                "6:23 listeners[0].trusted_proxies[0]: `10.0.0.0/33` is not a network | write a network such as `10.0.0.0/8` or `fd00::/8`, or an address",
            ],
        ),
        (
            in_listener("tls: { certificates: [{ cert: a.crt }] }"),
            &["6:27 listeners[0].tls.certificates[0]: `key` is missing | add `key:`, which is required"],
        ),
        (
            in_listener("tls: { certificates: [], min_version: 1.1 }"),
            &[
                "6:26 listeners[0].tls.certificates: TLS needs at least one certificate | add `{ cert: certs/server.crt, key: certs/server.key }`",
                "6:43 listeners[0].tls.min_version: `1.1` is not `1.2` or `1.3` | did you mean `1.2`?",
            ],
        ),
        (
            in_listener("proxy_protocol: on"),
            &["6:21 listeners[0].proxy_protocol: `on` is not `off`, `optional` or `require`"],
        ),
        (
            in_listener("redirect: { https: 70000 }"),
            &["6:24 listeners[0].redirect.https: expected a number from 0 to 65535, found the number 70000"],
        ),
        (
            in_upstream("endpoints: ws://a:1"),
            &[
                r#"4:16 upstreams.chat.endpoints: expected a list, found the string "ws://a:1" | write `endpoints: ["ws://a:1"]`"#,
            ],
        ),
        (
            in_upstream("endpoints: ['a:1']"),
            &["4:17 upstreams.chat.endpoints[0]: `a:1` has no scheme | write `ws://a:1`"],
        ),
        (
            in_upstream("endpoints: [{ url: 'ws://a:1/ws' }]"),
            &[
                "4:24 upstreams.chat.endpoints[0].url: an endpoint has no path or query, but `/ws` follows its host | end it after the port; the request's own path is sent, and `rewrite.add_prefix` puts one before it",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a:1', 7]"),
            &[
                "4:29 upstreams.chat.endpoints[1]: expected a URL such as `ws://10.0.0.11:9000`, `wss://chat.internal` or `unix:/run/chat.sock`, or a map with `url`, found the number 7",
            ],
        ),
    ]);
}

#[test]
fn values_that_contradict_each_other_are_told() {
    check(&[
        (
            format!("{}{UPSTREAMS}", "routes: []\n"),
            &["1:9 routes: there is no route | a route names an `upstream` and says in `match` what goes there"],
        ),
        (
            format!("{}{UPSTREAMS}", "routes:\n  - name: chat\n    upstream: chta\n"),
            &["3:15 routes[0].upstream: there is no upstream `chta` | did you mean `chat`?"],
        ),
        (
            format!("{}{UPSTREAMS}", "routes: [{ name: a b, upstream: chat }]\n"),
            &[
                "1:18 routes[0].name: `a b` is not a name | use letters, digits, `_`, `.` and `-`: it labels metrics and log lines",
            ],
        ),
        (
            format!(
                "{}{UPSTREAMS}",
                "routes:\n  - { name: a, upstream: chat, match: { hosts: [a] } }\n  - { name: a, upstream: chat }\n"
            ),
            &["3:13 routes[1].name: `a` is already the name of routes[0] | give each its own name"],
        ),
        (
            in_route("match: { path: { prefix: '/a;b' } }"),
            &[
                "4:30 routes[0].match.path.prefix: `/a;b` never matches, because `//`, `%2F` and `;` are read as borders first | write `/a`, or `paths: { parameters: keep }` in this route",
            ],
        ),
        (
            in_route("match: { path: { exact: '//a%2Fb' } }\npaths: { slashes: keep }"),
            &[
                "4:29 routes[0].match.path.exact: `//a%2Fb` never matches, because `//`, `%2F` and `;` are read as borders first | write `//a/b`, or `paths: { encoded_slash: keep }` in this route",
            ],
        ),
        (
            in_route("http_compression: gzip"),
            &["4:23 routes[0].http_compression: expected `on`, a map, or `off`, found the string \"gzip\""],
        ),
        (
            in_route("http_compression: { encodings: [deflate] }"),
            &["4:37 routes[0].http_compression.encodings[0]: `deflate` is not `zstd`, `br` or `gzip`"],
        ),
        (
            in_route("http_compression: { types: [html] }"),
            &[
                "4:33 routes[0].http_compression.types[0]: `html` is not a media type | write one such as `text/html`, `text/*` or `application/*+json`",
            ],
        ),
        (
            in_route("http_compression: { types: [] }"),
            &[
                "4:32 routes[0].http_compression.types: the list is empty | write `http_compression: off`, or leave it out",
            ],
        ),
        (
            in_route("gzip: on"),
            &[
                "4:5 routes[0].gzip: unknown key | write `http_compression: on` to compress plain HTTP answers; for WebSockets, client and server agree on permessage-deflate by themselves",
            ],
        ),
        (
            in_route("http: reject\nhttp_compression: on"),
            &[
                "5:5 routes[0].http_compression: this has no effect with `http: reject`, where no plain HTTP is answered by a server | remove it; WebSockets compress by themselves (permessage-deflate)",
            ],
        ),
        (
            in_route("paths: { slashes: merged }"),
            &["4:23 routes[0].paths.slashes: `merged` is not `merge` or `keep` | did you mean `merge`?"],
        ),
        (
            in_route("rewrite: { strip_prefix: ws }"),
            &["4:30 routes[0].rewrite.strip_prefix: `ws` does not start with `/` | write `/ws`"],
        ),
        (
            in_route("rewrite: { add_prefix: '/a/../b' }"),
            &[
                "4:28 routes[0].rewrite.add_prefix: `/a/../b` is not a path in normal form | write a path without query, `..`, and escapes that are not needed",
            ],
        ),
        (
            in_route("redirect: /new"),
            &["4:5 routes[0].redirect: a route does one thing, and `upstream` is there already | keep one of the two"],
        ),
        (
            alone("redirect: '{request.target}'"),
            &[
                "3:15 routes[0].redirect: this leads to where the request came from, without end | write a host or a path before it",
            ],
        ),
        (
            alone("redirect: { to: new.example.com, status: 200 }"),
            &[
                "3:21 routes[0].redirect.to: a redirect leads to a URL or a path | write `https://new.example.com{request.target}`, or a path such as `/new{request.path}`",
                "3:46 routes[0].redirect.status: expected 301, 302, 303, 307 or 308, found the number 200",
            ],
        ),
        (
            alone("redirect: 'https://{client.ip}/'"),
            &[
                "3:15 routes[0].redirect: `{client.ip}` cannot stand in the host: whoever sends a request would choose where it leads | put `/` behind the host, or name it with `{request.host}`",
            ],
        ),
        (
            alone("redirect: 'https://$host$request_uri'"),
            &[
                "3:15 routes[0].redirect: `$host` is sent as it is: it is a variable of another program | write `{request.host}`",
            ],
        ),
        (
            alone("redirect: 'https://a.b{request.uri}'"),
            &["3:15 routes[0].redirect: there is no variable `{request.uri}` | write `{request.target}`"],
        ),
        (
            alone(
                "redirect: /new\norigins: { allow: ['*'] }\nheaders: { request: { remove: [X-A] } }\nrewrite: { path: /b }",
            ),
            &[
                "6:5 routes[0].rewrite: `rewrite` has no effect here, because the redirect does not lead to what it leaves | write `{rewrite.target}` (path and query) or `{rewrite.path}` in `redirect`, or remove it",
            ],
        ),
        (
            alone("respond: { body: '{\"a\":1}' }"),
            &[
                r#"3:22 routes[0].respond.body: `{` begins a variable such as `{client.ip}` | write a brace that is one twice: `{{"a":1}`"#,
            ],
        ),
        (
            alone(
                "respond: { status: 204, body: ok, file: '' }\nhttp: reject\nlimits: { connections: 3 }\nrewrite: { path: /a }",
            ),
            &[
                "3:29 routes[0].respond.body: an answer with status 204 has no body (RFC 9110) | remove it, or write `status: 200`",
                "3:39 routes[0].respond.file: the body is written here and in a file | keep one of the two",
                "3:45 routes[0].respond.file: the name of a file is missing | write its path",
            ],
        ),
        (
            alone("respond: { status: 302 }"),
            &["3:24 routes[0].respond.status: expected a status such as `200` or `503`, found the number 302"],
        ),
        (
            in_route("error_pages: { 404: a.html, 201: b.html, 5yy: c.html, 502: '' }"),
            &[
                "4:20 routes[0].error_pages.404: wsluice answers no request on a route with `404` | it is the answer where no route matches: write a last route with `respond: { status: 404, file: … }` and without `match`",
                "4:33 routes[0].error_pages.201: wsluice answers no request on a route with `201` | write one of 400, 401, 403, 408, 413, 426, 500, 502, 503, 504, 508, `4xx` or `5xx`; a server's own answers stay",
                "4:46 routes[0].error_pages.5yy: `5yy` is no status | write one such as `502`, or `5xx`",
                "4:64 routes[0].error_pages.502: the name of a file is missing | write its path",
            ],
        ),
        (
            in_route("rewrite: { path: ws }"),
            &["4:22 routes[0].rewrite.path: `ws` does not start with `/` | write `/ws`"],
        ),
        (
            in_route("rewrite: { path: /ws, strip_prefix: /a, with: /$1 }"),
            &[
                "4:27 routes[0].rewrite.strip_prefix: `strip_prefix` has no effect beside `path`, which says what the whole path becomes | keep one of the two",
                "4:45 routes[0].rewrite.with: `with` has no effect beside `path`, which says what the whole path becomes | keep one of the two",
            ],
        ),
        (
            in_route("rewrite: { regex: '/a/(.*)' }"),
            &[
                r#"4:16 routes[0].rewrite.regex: `with` is missing: what does the path become? | write `{ regex: "^/a/(.*)$", with: "/b/$1" }`"#,
            ],
        ),
        (
            in_route("rewrite: { with: /ws }"),
            &[
                "4:16 routes[0].rewrite.with: `with` has no effect without `regex` | write `{ path: /ws }` for one path, or add `regex:`",
            ],
        ),
        (
            in_route("rewrite: { regex: '/a/(.*)', with: '/b/$2' }"),
            &["4:40 routes[0].rewrite.with: the regex has no group `$2` | its only group is `$1`"],
        ),
        (
            in_route("rewrite: { regex: '/a/(.*)', with: 'b/$1' }"),
            &["4:40 routes[0].rewrite.with: `b/$1` is not a path: it starts with `/`, or with a group such as `$1`"],
        ),
        (
            in_route("match: { path: { exact: /b } }\nrewrite: { regex: '/a/(.*)', with: '/b/$1' }"),
            &[
                "5:23 routes[0].rewrite.regex: no path that this route matches is matched by this | compare it with routes[0].match.path",
            ],
        ),
        (
            in_route(
                "headers: { request: { set: { X-A: '{\"a\":1}', X-B: '{client.addr}', X-C: '{client.pi}', X-D: '{foo}' } } }",
            ),
            &[
                r#"4:39 routes[0].headers.request.set.X-A: `{` begins a variable such as `{client.ip}` | write a brace that is one twice: `{{"a":1}`"#,
                "4:55 routes[0].headers.request.set.X-B: there is no variable `{client.addr}` | write `{client.ip}`",
                "4:77 routes[0].headers.request.set.X-C: there is no variable `{client.pi}` | did you mean `{client.ip}`?",
                "4:97 routes[0].headers.request.set.X-D: there is no variable `{foo}` | known are `{client.ip}`, `{client.port}`, `{request.id}`, `{request.method}`, `{request.scheme}`, `{request.host}`, `{request.port}`, `{request.authority}`, `{request.path}`, `{request.query}`, `{request.target}`, `{rewrite.path}`, `{rewrite.target}`, `{rewrite.prefix}`, `{listener.name}`, `{listener.port}`, `{route.name}`, `{upstream.name}`, `{tls.version}`, `{tls.client.subject}`, `{tls.client.common_name}`, `{tls.client.issuer}`, `{tls.client.serial}`, `{tls.client.fingerprint}`, `{tls.client.san}`, `{tls.client.dns}`, `{tls.client.uri}`; write a brace that is one twice: `{{foo}`",
            ],
        ),
        (
            in_route(
                "headers: { request: { set: { X-A: $remote_addr, X-B: '%[src]', X-C: '$proxy_add_x_forwarded_for', X-D: $5 } } }",
            ),
            &[
                "4:39 routes[0].headers.request.set.X-A: `$remote_addr` is sent as it is: it is a variable of another program | write `{client.ip}`",
                "4:58 routes[0].headers.request.set.X-B: `%[src]` is sent as it is: it is a variable of another program | write `{client.ip}`",
                "4:73 routes[0].headers.request.set.X-C: `$proxy_add_x_forwarded_for` is sent as it is: it is a variable of another program | remove it: servers get X-Forwarded-For anyway",
            ],
        ),
        (
            in_route("headers: { request: { set: { X-A: '${client.ip}', X-B: '${request_id}' } } }"),
            &[
                "4:39 routes[0].headers.request.set.X-A: `${client.ip}` does not name a variable | write `{client.ip}`, without `$`, for what a request says",
                "4:60 routes[0].headers.request.set.X-B: the environment variable `request_id` is not set | set it, or write `{request.id}` for what a request says",
            ],
        ),
        (
            in_route(
                "headers: { send: [x-real-ip, X-Real-IP, X-Forwarded-For, x-request-id], request: { set: { X-Request-ID: a } } }",
            ),
            &[
                "4:34 routes[0].headers.send[1]: `X-Real-IP` is here for the second time | keep one of the two",
                "4:45 routes[0].headers.send[2]: `X-Forwarded-For` is no header that can be sent by its name | remove it: servers get it anyway",
                "4:62 routes[0].headers.send[3]: `X-Request-Id` is also changed by routes[0].headers.request.set | keep one of the two",
            ],
        ),
        (
            in_route("headers: { request: { set: { Upgrade: x } } }"),
            &[
                "4:34 routes[0].headers.request.set.Upgrade: `upgrade` cannot be changed: it belongs to one connection, and the proxy answers for it | remove it here",
            ],
        ),
        (
            in_route("headers: { request: { remove: [Host] } }"),
            &[
                "4:36 routes[0].headers.request.remove[0]: `host` cannot be changed: every request has one (RFC 9112 §3.2) | remove it here",
            ],
        ),
        (
            in_route("headers: { response: { remove: [Sec-WebSocket-Accept] } }"),
            &[
                "4:37 routes[0].headers.response.remove[0]: `sec-websocket-accept` cannot be changed: the handshake depends on it | remove it here",
            ],
        ),
        (
            in_route("timeouts: { connect: 0s }"),
            &[
                "4:26 routes[0].timeouts.connect: zero would mean that no endpoint has the time to accept | write a duration such as `10s`",
            ],
        ),
        (
            in_route("timeouts: { idle: 0s }"),
            &[
                "4:23 routes[0].timeouts.idle: zero would mean that each session ends at once | write a duration such as `5m`, or `off`",
            ],
        ),
        (
            in_route("keepalive: { ping: 5s }"),
            &[
                "4:24 routes[0].keepalive.ping: the wait for a pong (10s) must be shorter than the time between pings (5s) | by default pings go out after `30s`, and a pong has `10s`",
            ],
        ),
        (
            in_route("keepalive: { ping: 5s, pong: 5s }"),
            &[
                "4:34 routes[0].keepalive.pong: the wait for a pong (5s) must be shorter than the time between pings (5s) | by default pings go out after `30s`, and a pong has `10s`",
            ],
        ),
        (
            in_route("limits: { frame: 2MiB, message: 1MiB }"),
            &[
                "4:22 routes[0].limits.frame: a frame (2MiB) cannot be larger than the message it is part of (1MiB) | make it at most as large as `message`",
            ],
        ),
        (
            in_route("limits: { message: 0 }"),
            &[
                "4:24 routes[0].limits.message: zero would refuse every message that is not empty | write a size such as `1MiB`, or `off`",
            ],
        ),
        (
            in_route("validate: off\nkeepalive: { ping: 30s }\nlimits: { message: 1MiB }"),
            &[
                "5:18 routes[0].keepalive.ping: this has no effect with `validate: off`, where no frames are read | remove it, or `validate: off`; `timeouts`, `limits.connections` and rates of bytes still work",
                "6:15 routes[0].limits.message: this has no effect with `validate: off`, where no frames are read | remove it, or `validate: off`; `timeouts`, `limits.connections` and rates of bytes still work",
            ],
        ),
        (
            in_listener("tls: { certificates: [] }"),
            &[
                "6:26 listeners[0].tls.certificates: TLS needs at least one certificate | add `{ cert: certs/server.crt, key: certs/server.key }`",
            ],
        ),
        (
            in_listener("tls: { certificates: [{ cert: a, key: b }] }\nredirect: { https: 443 }"),
            &[
                "7:5 listeners[0].redirect: a listener with `tls` serves https itself and has nowhere to redirect to | remove `redirect`, or move it to a listener without `tls`",
            ],
        ),
        (
            in_listener("limits: { header_bytes: 512, connections: 0 }"),
            &[
                "6:29 listeners[0].limits.header_bytes: the head of a request may be given 1KiB to 1MiB | the default is `16KiB`",
                "6:47 listeners[0].limits.connections: zero would refuse every connection | remove the key for no limit",
            ],
        ),
        (
            at_top("listeners:\n  - { name: a, bind: '0.0.0.0:80' }\n  - { name: b, bind: '127.0.0.1:80' }"),
            &[
                "5:22 listeners[1].bind: `127.0.0.1:80` cannot be bound: listeners[0].bind takes it already | use another port or address",
            ],
        ),
        (
            at_top("listeners: []"),
            &["3:12 listeners: there is no listener | remove the key for a plain one on 127.0.0.1:8080"],
        ),
        (
            at_top("admin: { bind: '0.0.0.0:9902' }"),
            &[
                "3:16 admin.bind: without a token admin is only served on loopback or a Unix socket | write `127.0.0.1:9902`, or add `token_file:`",
            ],
        ),
        (
            at_top("admin: { bind: '127.0.0.1:9', token: '0123456789abcdef', token_file: t }"),
            &["3:58 admin.token_file: the token is written here and in a file | keep one of the two"],
        ),
        (
            at_top("admin: { bind: '[::]:9902', token: hunter2 }"),
            &[
                "3:36 admin.token: a token has at least 16 characters | write `${NAME}`, with what `openssl rand -hex 32` gives in the environment",
            ],
        ),
        (
            at_top("admin: { bind: '127.0.0.1:8080' }"),
            &[
                "3:16 admin.bind: `127.0.0.1:8080` cannot be bound: listeners[0].bind takes it already | use another port or address",
            ],
        ),
        (
            in_upstream("endpoints: []"),
            &["4:16 upstreams.chat.endpoints: there is no endpoint | add a URL such as `ws://10.0.0.11:9000`"],
        ),
        (
            in_upstream("endpoints: ['ws://a', 'http://a:80']"),
            &[
                "4:27 upstreams.chat.endpoints[1]: `ws://a:80` is the same endpoint as upstreams.chat.endpoints[0] | name each endpoint once",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a']\nsource_addresses: ['10.0.0.5:0', '0.0.0.0', '10.0.0.5']"),
            &[
                "5:24 upstreams.chat.source_addresses[0]: `10.0.0.5:0` is not an IP address | write an address such as `10.0.0.5` or `fd00::5`, without a port",
                "5:38 upstreams.chat.source_addresses[1]: `0.0.0.0` is not an address to connect from | name an address of this machine",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a', 'ws://[::1]:1']\nsource_addresses: [10.0.0.5]"),
            &[
                "4:27 upstreams.chat.endpoints[1]: no source address is IPv6, as this endpoint is | add an IPv6 address to `source_addresses`",
            ],
        ),
        (
            in_upstream("endpoints: ['wss://a']\ntls: { cert: a.crt }"),
            &["5:12 upstreams.chat.tls.cert: `cert` needs `key` beside it | add `key:`"],
        ),
        (
            in_upstream("endpoints: ['wss://a']\ntls: { server_name: 'a b' }"),
            &["5:25 upstreams.chat.tls.server_name: `a b` is not a server name | write a DNS name or an IP address"],
        ),
        (
            format!("{ROUTES}{}", "upstreams: { 'c d': { endpoints: ['ws://a'] }, chat: { endpoints: ['ws://a'] } }\n"),
            &[
                r#"2:14 upstreams."c d": `c d` is not a name | use letters, digits, `_`, `.` and `-`: it labels metrics and log lines"#,
            ],
        ),
    ]);
}

#[test]
fn a_certificate_is_asked_for_where_a_listener_asks() {
    let tls = |auth: &str| format!("tls: {{ certificates: [{{ cert: a, key: b }}]{auth} }}");
    let (asking, silent) = (tls(", client_auth: { ca: c }"), tls(""));
    let listeners = format!(
        "listeners: [{{ name: devices, bind: '127.0.0.1:1', {asking} }}, {{ name: public, bind: '127.0.0.1:2', {silent} }}]\n"
    );
    let with = |keys: &str| format!("{}{listeners}", in_route(keys));
    let subject = "headers: { request: { set: { x-s: '{tls.client.subject}' } } }";
    check(&[
        (with(&format!("match: {{ client_cert: {{}} }}\n{subject}")), &[]),
        (with("match: { listeners: [devices, public], client_cert: { subject: CN=a } }"), &[]),
        (
            with("match: { listeners: [public], client_cert: {} }"),
            &[
                "4:35 routes[0].match.client_cert: no request ever comes to this route: none of its listeners asks clients for a certificate | add `client_auth: { ca: clients.crt }` to the `tls` of a listener, with `mode: optional` if clients may come without one",
            ],
        ),
        (
            in_route("match: { client_cert: { san: '*', subject: device-1, fingerprint: [] } }"),
            &[
                "4:34 routes[0].match.client_cert.san: `*` is no name in a certificate: for any certificate write `client_cert: {}`",
                "4:48 routes[0].match.client_cert.subject: `device-1` is not a subject: write all of it, such as `CN=device-1,O=Example`, as `openssl x509 -noout -subject -nameopt RFC2253 -in FILE` shows it",
                "4:71 routes[0].match.client_cert.fingerprint: the list is empty: leave the key out for any",
            ],
        ),
        (
            in_route(subject),
            &[
                "4:39 routes[0].headers.request.set.x-s: `{tls.client.subject}` is always empty here: no listener asks clients for a certificate | add `client_auth: { ca: clients.crt }` to the `tls` of a listener, or remove it",
            ],
        ),
    ]);
}

#[test]
fn listeners_and_methods_of_a_route_are_compared_with_what_there_is() {
    let with = |keys: &str, listeners: &str| format!("{}listeners: [{listeners}]\n", in_route(keys));
    let (public, tls) =
        ("{ name: public, bind: '127.0.0.1:1' }", "{ name: plain, bind: '127.0.0.1:2', redirect: { https: 1 } }");
    let both = format!("{public}, {tls}");
    check(&[
        (with("match: { listeners: [public], methods: [GET, HEAD, PROPFIND] }", &both), &[]),
        (
            with("match: { listeners: [publik, nowhere, public, public] }", &both),
            &[
                "4:26 routes[0].match.listeners[0]: there is no listener `publik` | did you mean `public`?",
                "4:34 routes[0].match.listeners[1]: there is no listener `nowhere` | there are `public`, `plain`",
                "4:51 routes[0].match.listeners[3]: `public` is named twice | name each listener once",
            ],
        ),
        (
            with("match: { listeners: [plain] }", &both),
            &[
                "4:25 routes[0].match.listeners: no request ever comes to this route: its listeners redirect all requests to https | name the listener with `tls`",
            ],
        ),
        (
            with("match: { listeners: [default] }", public),
            &["4:26 routes[0].match.listeners[0]: there is no listener `default` | there are `public`"],
        ),
        (
            in_route("match: { methods: [get, 'G T', TRACE] }"),
            &[
                "4:24 routes[0].match.methods[0]: `get` never matches, because the case of methods counts: write `GET`",
                "4:29 routes[0].match.methods[1]: `G T` is not a method: it is one word such as `GET`",
                "4:36 routes[0].match.methods[2]: `TRACE` never matches, because CONNECT and TRACE are refused before routes are looked at",
            ],
        ),
        (
            in_route("match: { methods: [GET, POST, GET] }"),
            &["4:35 routes[0].match.methods[2]: `GET` is named twice | name each method once"],
        ),
        (
            in_route("match: { methods: [POST] }\nhttp: reject"),
            &[
                "4:23 routes[0].match.methods: a WebSocket's handshake is a GET, and `http: reject` lets in nothing else | write `methods: [GET]`, or remove it",
            ],
        ),
        (
            format!(
                "routes:\n  - {{ name: get, upstream: chat, match: {{ methods: [GET, POST] }} }}\n  - {{ name: one, upstream: chat, \
                 match: {{ methods: [GET], listeners: [default] }} }}\n  - {{ name: put, upstream: chat, match: {{ methods: [PUT] }} }}\n{UPSTREAMS}"
            ),
            &[
                "3:5 routes[1]: no request ever comes to this route, since routes[0] takes all that it matches | put the narrower route first, or remove this one",
            ],
        ),
        (
            // The route that would get the other spelling is on another listener.
            format!(
                "routes:\n  - name: admin\n    upstream: chat\n    match: {{ path: {{ prefix: /admin }}, listeners: [public] }}\n    \
                 paths: {{ slashes: keep }}\n  - {{ name: b, upstream: chat, match: {{ listeners: [plain] }}, origins: {{ allow: ['*'] }} }}\n\
                 {UPSTREAMS}listeners: [{public}, {{ name: plain, bind: '127.0.0.1:2' }}]\n"
            ),
            &[],
        ),
    ]);
}

#[test]
fn health_checks_that_could_not_be_made_are_told() {
    let endpoints = "endpoints: ['ws://a:1']";
    let with = |keys: &str| in_upstream(&format!("{keys}\n{endpoints}"));
    check(&[
        (
            with("health: { http: { path: healthz } }"),
            &[
                "4:29 upstreams.chat.health.http.path: `healthz` does not begin with `/` | write a path such as `/healthz`",
            ],
        ),
        (
            with("health: { tcp: { every: 1s } }"),
            &[
                "4:29 upstreams.chat.health.tcp.every: a check may take 2s, and the next one begins after 1s | make `timeout` at most as long as `every`",
            ],
        ),
        (
            with("health: { tcp: { rise: 0 } }"),
            &["4:28 upstreams.chat.health.tcp.rise: no check at all cannot tell anything | write 1 or more"],
        ),
        (
            with("health: { websocket: { path: /, headers: { Host: a } } }"),
            &[
                "4:46 upstreams.chat.health.websocket.headers: the check itself says what `host` is | write `host:` beside `headers`",
            ],
        ),
        (
            with("ejection: { failures: 0 }"),
            &[
                "4:27 upstreams.chat.ejection.failures: zero failures would eject every endpoint | write 1 or more, or `ejection: off`",
            ],
        ),
        (
            with("ejection: { time: 10m }"),
            &[
                "4:23 upstreams.chat.ejection.time: `time_max` is 5m, and the first ejection is longer | make `time_max` at least as long as `time`",
            ],
        ),
        (
            with("ejection: false"),
            &["4:15 upstreams.chat.ejection: expected a map, or `off`, found `false` | write `off`"],
        ),
        (
            with("retry_budget: { ratio: 120% }"),
            &[
                "4:28 upstreams.chat.retry_budget.ratio: `120%` is not a percentage | write one from 0% to 100%, such as `20%`",
            ],
        ),
    ]);
}

#[test]
fn what_is_only_doubtful_is_a_warning() {
    check(&[
        (
            in_upstream("when_all_down: refuse\nendpoints: ['ws://a:1']"),
            &[
                "4:20 upstreams.chat.when_all_down: without `health` no endpoint is ever found to be down | add a `health:`, or remove it",
            ],
        ),
        (
            format!(
                "{}{UPSTREAMS}",
                "routes:\n  - { name: all, upstream: chat }\n  - { name: ws, upstream: chat, match: { path: { prefix: /ws } } }\n"
            ),
            &[
                "3:5 routes[1]: no request ever comes to this route, since routes[0] takes all that it matches | put the narrower route first, or remove this one",
            ],
        ),
        (
            format!("{ROUTES}{}", "upstreams: { chat: { endpoints: ['ws://a'] }, spare: { endpoints: ['ws://b'] } }\n"),
            &["2:47 upstreams.spare: no route leads to this upstream | remove it, or name it in a route"],
        ),
        (
            in_listener("trusted_proxies: [0.0.0.0/0]"),
            &[
                "6:23 listeners[0].trusted_proxies[0]: this lets every client claim any address | name the networks that your proxies are in, such as `10.0.0.0/8`",
            ],
        ),
        (
            in_route("origins: { allow: ['https://a'], insecure: allow }"),
            &[
                "4:38 routes[0].origins.insecure: this is about `same-origin`, which is not allowed here | remove it, or add `same-origin` to routes[0].origins.allow",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a:1']\ntcp: { user_timeout: 2m }"),
            &[
                "5:26 upstreams.chat.tcp.user_timeout: a silent peer is given up at the first probe that it does not answer | make it longer than `keepalive` (2m), or `off`",
            ],
        ),
        (
            in_upstream("endpoints: ['wss://a:1']\ntls: { ca: a.crt, verify: off }"),
            &[
                "5:12 upstreams.chat.tls.ca: nothing is verified by it with `verify: off` | remove `verify: off`: a server's own certificate may stand in this file",
            ],
        ),
        (
            in_route("match: { path: { regex: '/git/[^/]+%2f[^/]+' } }"),
            &[
                "4:29 routes[0].match.path.regex: `%2F` matches nothing here, because it is read as `/` first | write `/`, or `paths: { encoded_slash: keep }` in this route",
            ],
        ),
        (
            format!(
                "routes:\n  - name: admin\n    upstream: chat\n    match: {{ path: {{ prefix: /admin }} }}\n    paths: {{ encoded_slash: keep, \
                 parameters: keep }}\n  - name: same\n    upstream: chat\n    match: {{ path: {{ prefix: /other }} }}\n    paths: {{ slashes: keep }}\n  \
                 - {{ name: rest, upstream: chat, origins: {{ allow: ['*'] }} }}\n{UPSTREAMS}"
            ),
            &[
                "5:14 routes[0].paths.encoded_slash: a request for `/admin%2F` goes to routes[2], which lets in others than this route: if a server reads it as this route's path, it is let in by the wrong rules | leave out `encoded_slash: keep`, or give both routes the same `origins` and `http`",
                "5:35 routes[0].paths.parameters: a request for `/admin;x` goes to routes[2], which lets in others than this route: if a server reads it as this route's path, it is let in by the wrong rules | leave out `parameters: keep`, or give both routes the same `origins` and `http`",
                "9:14 routes[1].paths.slashes: a request for `//other` goes to routes[2], which lets in others than this route: if a server reads it as this route's path, it is let in by the wrong rules | leave out `slashes: keep`, or give both routes the same `origins` and `http`",
            ],
        ),
        (
            // The same rules, another host, and what is not this route's path in any reading.
            format!(
                "routes:\n  - name: admin\n    upstream: chat\n    match: {{ path: {{ prefix: /admin }}, hosts: [a.example] }}\n    paths: {{ slashes: keep \
                 }}\n  - {{ name: more, upstream: chat, match: {{ path: {{ prefix: /more }} }}, http: reject }}\n  - {{ name: b, upstream: chat, \
                 match: {{ hosts: [b.example] }}, origins: {{ allow: ['*'] }} }}\n  - {{ name: rest, upstream: chat }}\n{UPSTREAMS}"
            ),
            &[],
        ),
        (
            in_route("match: { path: { prefix: /ws } }\nrewrite: { strip_prefix: /api }"),
            &[
                "5:30 routes[0].rewrite.strip_prefix: no path that this route matches begins with this | compare it with routes[0].match.path",
            ],
        ),
        (
            // Not those that are elsewhere.
            format!(
                "{ROUTES}upstreams:\n  chat:\n    endpoints:\n      - ws://127.0.0.1:80\n      - ws://localhost\n      - ws://10.0.0.1:80\n      \
                 - ws://127.0.0.1:81\n      - ws://[::1]:80\n      - ws://0.0.0.0:9902\nlisteners: [{{ name: all, bind: '0.0.0.0:80' }}]\n\
                 admin: {{ bind: '127.0.0.1:9902' }}\n"
            ),
            &[
                "5:9 upstreams.chat.endpoints[0]: this is the listener `all` of this proxy | a request that comes back to the route it was sent on by is answered with 508",
                "6:9 upstreams.chat.endpoints[1]: this is the listener `all` of this proxy | a request that comes back to the route it was sent on by is answered with 508",
                "10:9 upstreams.chat.endpoints[5]: this is the admin listener: clients would come to it as if from this machine | name a server that is meant for clients",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a']\ntls: {}"),
            &[
                "5:5 upstreams.chat.tls: no endpoint of this upstream uses TLS | write `wss://` in the URLs of the endpoints, or remove it",
            ],
        ),
        (
            in_upstream("endpoints: ['unix:/run/a.sock']\nsource_addresses: [10.0.0.5]"),
            &[
                "5:5 upstreams.chat.source_addresses: no endpoint of this upstream is reached by IP | remove it: a Unix socket is not connected to from an address",
            ],
        ),
        (
            in_route("headers: { request: { set: { X-A: b }, remove: [x-a] } }"),
            &[
                "4:34 routes[0].headers.request.set.X-A: `x-a` is also removed by routes[0].headers.request.remove[0] | `set` alone replaces what was there",
            ],
        ),
    ]);
}

#[test]
fn the_way_to_an_upstream_is_told_where_it_leads_nowhere() {
    check(&[
        (
            in_upstream("endpoints: [{ url: 'ws://a:1', max_connections: 9 }]\nqueue: { length: 0, wait: 0s }"),
            &[
                "5:22 upstreams.chat.queue.length: no client could wait | remove `queue` for no waiting",
                "5:31 upstreams.chat.queue.wait: zero would mean that nobody waits | write a duration such as `10s`",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a:1']\nqueue: {}"),
            &[
                "5:5 upstreams.chat.queue: no endpoint has `max_connections`, so nobody ever waits for one | add it to the endpoints, or remove this",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a:1']\nadmission: { rate: 5/s, burst: 0, wait: 10s }"),
            &["5:36 upstreams.chat.admission.burst: no handshake would pass | write at least 1"],
        ),
        (
            in_upstream("endpoints: ['ws://a:1']\nadmission: { rate: 5/s, wait: 10s }"),
            &[
                "5:35 upstreams.chat.admission.wait: a handshake that waits so long has no time left: the route's `timeouts.handshake` counts the wait | write less than 10s",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a:1']\nadmission: { rate: 300/m }"),
            &["5:24 upstreams.chat.admission.rate: `300/m` is not a rate | write `5/s`"],
        ),
        (
            in_upstream("endpoints: ['ws://a:1']\nsticky: { cookie: 'a b' }"),
            &[
                "5:5 upstreams.chat.sticky: there is no secret to sign the cookie with | add `secrets: [\"${NAME}\"]`, with what `openssl rand -hex 32` gives in the environment",
                "5:23 upstreams.chat.sticky.cookie: `a b` is not the name of a cookie | use letters, digits, `_` and `-`",
            ],
        ),
        (
            in_upstream(
                "endpoints: ['ws://a:1']\nsticky:\n  cookie: __Host-a\n  secrets: [0123456789abcdef0123456789abcdef]\n  \
                 secrets_file: s\n  path: /x\n  same_site: none\n  max_age: 10ms",
            ),
            &[
                "5:5 upstreams.chat.sticky: browsers refuse `same_site: none` without `secure: always` | write `secure: always`",
                "5:5 upstreams.chat.sticky: browsers refuse a cookie `__Host-…` without `secure: always` | write `secure: always`",
                "8:7 upstreams.chat.sticky.secrets_file: the secrets are written here and in a file | keep one of the two",
                "9:13 upstreams.chat.sticky.path: browsers refuse a cookie `__Host-…` with another path than `/` | remove it",
                "11:16 upstreams.chat.sticky.max_age: browsers would drop the cookie at once | write a duration of at least `1s`, or remove it",
            ],
        ),
        (
            in_upstream("endpoints: ['ws://a:1']\nsticky: { cookie: a, secrets: [short], path: 'x;' }"),
            &[
                "5:36 upstreams.chat.sticky.secrets[0]: a secret has at least 32 characters | write `${NAME}`, with what `openssl rand -hex 32` gives in the environment",
                "5:50 upstreams.chat.sticky.path: `x;` is not the path of a cookie | write `/`, or `/` and a path",
            ],
        ),
    ]);
}

#[test]
fn all_errors_are_told_at_once_and_none_for_what_another_caused() {
    let text = "\
version: 2
routes:
  - name: chat
    upstream: chat
    timeouts: { idle: 5min }
    keepalive: { ping: soon, pong: 1h }
  - upstream: caht
    name: b
  - name: c
    upstream: ${UPSTREAM}
upstreams:
  chat:
    endpoints: ['a:1']
  b: 7
admin: { bind: '0.0.0.0:1' }
";
    let expected = [
        "1:10 version: this version of wsluice reads configurations of version 1 only | write `version: 1`",
        "5:23 routes[0].timeouts.idle: `5min` has an unknown unit `min`",
        "6:24 routes[0].keepalive.ping: `soon` is not a duration",
        "7:15 routes[1].upstream: there is no upstream `caht` | did you mean `chat`?",
        "10:15 routes[2].upstream: the environment variable `UPSTREAM` is not set",
        "13:17 upstreams.chat.endpoints[0]: `a:1` has no scheme | write `ws://a:1`",
        "14:6 upstreams.b: expected a map with `balance`, `endpoints`, ",
        "15:16 admin.bind: without a token admin is only served on loopback or a Unix socket",
    ];
    let said = said(text);
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn positions_are_those_of_the_file_after_an_element_was_taken_out() {
    let text = "\
routes:
  - 7
  - { name: b, upstream: nowhere }
upstreams: { chat: { endpoints: [x, 'ws://a', 'ws://a'] } }
";
    let said = said(text);
    assert!(said[1].starts_with("3:26 routes[1].upstream: there is no upstream `nowhere`"), "{said:#?}");
    let twice = "4:47 upstreams.chat.endpoints[2]: `ws://a:80` is the same endpoint as upstreams.chat.endpoints[1]";
    assert!(said[3].starts_with(twice), "{said:#?}");
}

#[test]
fn after_fifty_errors_nobody_reads_on() {
    let text: String = (0..200).map(|index| format!("key{index}: 1\n")).collect();
    assert_eq!(load(&text).unwrap_err().findings().len(), 50);
}

#[test]
fn a_route_of_some_listeners_whose_requests_go_elsewhere_on_the_others_is_warned_of() {
    let routes = |admin: &str, rest: &str| {
        format!(
            "listeners:\n- {{ name: outside, bind: '127.0.0.1:1' }}\n- {{ name: inside, bind: '127.0.0.1:2' }}\nroutes:\n\
             - {{ name: admin, match: {{ path: {{ prefix: /admin }}, listeners: {admin} }}, upstream: 'ws://a:1' }}\n{rest}\n"
        )
    };
    let rest = "- { name: rest, upstream: 'ws://b:1' }";
    let warning = "5:64 routes[0].match.listeners: on other listeners the route `rest` takes these requests | put a route with the same \
                   `match` but for `listeners`, and `respond: { status: 404 }`, behind it; or give `rest` its `listeners`";
    let hidden = "- { name: hidden, match: { path: { prefix: /admin } }, respond: { status: 404 } }\n";
    for (admin, rest, warnings) in [
        ("[inside]", rest.to_owned(), &[warning][..]),
        ("[inside, outside]", rest.to_owned(), &[]),
        ("[inside]", "- { name: rest, match: { listeners: [outside] }, upstream: 'ws://b:1' }".to_owned(), &[]),
        ("[inside]", "- { name: rest, match: { path: { prefix: /b } }, upstream: 'ws://b:1' }".to_owned(), &[]),
        ("[inside]", format!("{hidden}{rest}"), &[]),
    ] {
        assert_eq!(said(&routes(admin, &rest)), *warnings, "{admin} {rest}");
    }
}
