//! What `defaults` says is in every route and upstream that does not say otherwise, and its mistakes are told once.

use super::broken::said;
use super::{FRAME, load};
use crate::config::*;

/// Routes `a` and `b` with these keys beside name and upstream, and these defaults.
fn routes(defaults: &str, a: &str, b: &str) -> String {
    format!(
        "defaults: {{ route: {defaults} }}\nroutes:\n- {{ name: a, upstream: u, match: {{ path: {{ exact: /a }} }}{a} }}\n\
         - {{ name: b, upstream: u{b} }}\nupstreams: {{ u: {{ endpoints: ['ws://a:1'] }} }}\n"
    )
}

/// Upstreams `a` and `b` with these keys, and these defaults.
fn upstreams(defaults: &str, a: &str, b: &str) -> String {
    format!(
        "defaults: {{ upstream: {defaults} }}\nroutes:\n- {{ name: a, upstream: a, match: {{ path: {{ exact: /a }} }} }}\n\
         - {{ name: b, upstream: b }}\nupstreams:\n  a: {{ {a} }}\n  b: {{ {b} }}\n"
    )
}

fn same(one: &str, other: &str) {
    let [one, other] = [one, other].map(|text| load(text).unwrap_or_else(|errors| panic!("{errors}\n{text}")));
    assert!(one.file == other.file, "{:#?}\n{:#?}", one.shown(), other.shown());
    assert_eq!((one.hash(), one.shown()), (other.hash(), other.shown()));
    assert!(one.warnings.is_empty(), "{}", one.warnings[0]);
}

const E: &str = "endpoints: ['wss://a:1']";

#[test]
fn maps_are_filled_up_and_everything_else_is_replaced() {
    for (defaults, own, means) in [
        ("{ keepalive: { ping: 25s } }", "", ", keepalive: { ping: 25s }"),
        ("{ keepalive: { ping: 25s } }", ", keepalive: { pong: 5s }", ", keepalive: { ping: 25s, pong: 5s }"),
        ("{ keepalive: { ping: 25s } }", ", keepalive: { ping: 40s }", ", keepalive: { ping: 40s }"),
        (
            "{ origins: { allow: ['https://a'] } }",
            ", origins: { missing: deny }",
            ", origins: { allow: ['https://a'], missing: deny }",
        ),
        (
            "{ origins: { allow: ['https://a'] } }",
            ", origins: { allow: ['https://b'] }",
            ", origins: { allow: ['https://b'] }",
        ),
        ("{ limits: { message: 1MiB, connections: 5 } }", ", limits: { message: off }", ", limits: { connections: 5 }"),
        ("{ on_upstream_lost: { close: 1012 } }", ", on_upstream_lost: cut", ""),
        ("{ on_upstream_lost: cut }", ", on_upstream_lost: { close: 1012 }", ", on_upstream_lost: { close: 1012 }"),
        ("{ rewrite: { strip_prefix: /a } }", ", rewrite: { add_prefix: /b }", ", rewrite: { add_prefix: /b }"),
        // Names of headers are the same in any case.
        (
            "{ headers: { request: { set: { X-A: d, X-B: d } } } }",
            ", headers: { request: { set: { x-a: o } } }",
            ", headers: { request: { set: { X-A: o, X-B: d } } }",
        ),
        // A blind route has no pings and no Close of ours, whatever others have.
        (
            "{ keepalive: { ping: 25s, pong: 5s }, on_upstream_lost: { close: 1012 } }",
            ", validate: off",
            ", validate: off, keepalive: { pong: 5s }, on_upstream_lost: { close: 1012 }",
        ),
    ] {
        if own.contains("validate") {
            let file = load(&routes(defaults, own, "")).unwrap_or_else(|errors| panic!("{errors}")).file;
            assert_eq!(file.routes[0].keepalive.ping, OrOff::Off, "{means}");
            continue;
        }
        let other = load(&routes(defaults, "", "")).unwrap().file.routes.swap_remove(1);
        let written = load(&routes(defaults, own, "")).unwrap_or_else(|errors| panic!("{errors}")).file;
        assert_eq!(written.routes[0], load(&routes("{}", means, "")).unwrap().file.routes[0], "{defaults} {own}");
        assert_eq!(written.routes[1], other);
    }
    same(&routes("{ upstream: u }", "", "").replace(", upstream: u }", " }"), &routes("{}", "", ""));
}

#[test]
fn what_is_of_another_kind_is_replaced_as_a_whole() {
    let http = "health: { http: { path: /up, every: 9s } }";
    for (defaults, own, means) in [
        (http, "", http),
        (http, "health: { http: { path: /b } }", "health: { http: { path: /b, every: 9s } }"),
        (http, "health: { tcp: {} }", "health: { tcp: {} }"),
        (http, "health: off", ""),
        ("balance: round_robin", "balance: { hash: { on: path } }", "balance: { hash: { on: path } }"),
        ("balance: { hash: { on: path } }", "balance: random_two", "balance: random_two"),
        (
            "balance: { hash: { on: path, load_max: 125% } }",
            "balance: { hash: { on: client_address } }",
            "balance: { hash: { on: client_address, load_max: 125% } }",
        ),
        ("ejection: { time: 20s }", "ejection: off", "ejection: off"),
        ("ejection: off", "ejection: { time: 20s }", "ejection: { time: 20s }"),
        ("sticky: { cookie: c, secrets_file: s }", "sticky: off", ""),
        (
            "sticky: { cookie: c, secrets_file: s }",
            "sticky: { secrets: [0123456789abcdef0123456789abcdef] }",
            "sticky: { cookie: c, secrets: [0123456789abcdef0123456789abcdef] }",
        ),
        // What has no effect here is none of this upstream's making.
        ("queue: {}, when_all_down: refuse, on_down: close", "queue: off", "when_all_down: refuse, on_down: close"),
        ("discover: { file: { path: a.yaml } }", "", ""),
    ] {
        let with = |keys: &str| if keys.is_empty() { E.to_owned() } else { format!("{E}, {keys}") };
        let written = load(&upstreams(&format!("{{ {defaults} }}"), &with(own), E));
        let written = written.unwrap_or_else(|errors| panic!("{errors}"));
        assert!(written.warnings.is_empty(), "{}", written.warnings[0]);
        let means = if means.contains("on_down") {
            upstreams("{ when_all_down: refuse, on_down: close }", E, E)
        } else {
            upstreams("{}", &with(means), E)
        };
        assert_eq!(written.file.upstreams["a"], load(&means).unwrap().file.upstreams["a"], "{defaults} {own}");
    }
    let discovered = |defaults: &str, own: &str| load(&upstreams(defaults, own, E)).unwrap().file.upstreams.remove("a");
    let dns = "{ discover: { dns: { name: a.b, port: 1, server: '10.0.0.2' }, allow: [10.0.0.0/8] } }";
    assert_eq!(
        discovered(dns, "discover: { dns: { name: c.d } }"),
        discovered("{}", "discover: { dns: { name: c.d, port: 1, server: '10.0.0.2' }, allow: [10.0.0.0/8] }")
    );
    assert_eq!(
        discovered(dns, "discover: { file: { path: a } }"),
        discovered("{}", "discover: { file: { path: a }, allow: [10.0.0.0/8] }")
    );
}

#[test]
fn mistakes_in_defaults_are_told_once_and_where_they_are() {
    let mut wrong = vec![];
    for (text, expected) in [
        (
            routes("{ timeouts: { idle: 5min }, orgins: {}, keepalive: { ping: 25s } }", "", ""),
            &[
                "1:40 defaults.route.timeouts.idle: `5min` has an unknown unit `min` | write a duration such as `250ms`, `30s`, `5m`, `1h30m` or `7d`, or `off`",
                "1:48 defaults.route.orgins: unknown key | did you mean `origins`?",
            ][..],
        ),
        (
            routes("{ name: a, match: {} }", "", ""),
            &[
                "1:22 defaults.route.name: no default can stand here: each route needs a name of its own | write it in the routes",
                "1:31 defaults.route.match: no default can stand here: the first route would get what the others are for | write it in the routes, or an alias (`*name`)",
            ],
        ),
        (
            upstreams("{ endpoints: ['ws://a'] }", E, E),
            &[
                "1:25 defaults.upstream.endpoints: no default can stand here: upstreams differ by their servers | write them in the upstreams",
            ],
        ),
        // Two rules of the same value, in all routes.
        (
            routes("{ keepalive: { ping: 5s } }", "", ""),
            &[
                "1:41 defaults.route.keepalive.ping: the wait for a pong (10s) must be shorter than the time between pings (5s) (for routes[0]) | by default pings go out after `30s`, and a pong has `10s`",
            ],
        ),
        // A default and what one route says.
        (
            routes("{ limits: { message: 1MiB } }", "", ", validate: off"),
            &[
                "1:32 defaults.route.limits.message: this has no effect with `validate: off`, where no frames are read (for routes[1]) | write `off` for it where `validate` is off",
            ],
        ),
        // What is incomplete is completed by the upstreams, or not.
        (
            upstreams("{ sticky: { secrets_file: s, max_age: soon } }", &format!("{E}, sticky: {{ cookie: c }}"), E),
            &[
                "1:25 defaults.upstream.sticky: `cookie` is missing (for upstreams.b) | add `cookie:`, which is required",
                "1:61 defaults.upstream.sticky.max_age: `soon` is not a duration | write a duration such as `250ms`, `30s`, `5m`, `1h30m` or `7d`",
            ],
        ),
        (
            upstreams("{ rebalance: { rate: 5/s } }", &format!("{E}, balance: random_two"), E),
            &[
                "1:36 defaults.upstream.rebalance: sessions that are moved would not come back where there are few (for upstreams.a) | write `balance: least_connections`, or `rebalance: off`",
            ],
        ),
        (
            format!("defaults: {{ routes: {{}}, listener: {{}} }}\n{FRAME}"),
            &[
                "1:13 defaults.routes: unknown key | did you mean `route`?",
                "1:25 defaults.listener: unknown key | known here: `route`, `upstream`",
            ],
        ),
        (
            format!("defaults: {{ route: 5s }}\n{FRAME}"),
            &[r#"1:20 defaults.route: expected a map of keys, found the string "5s""#],
        ),
        (
            format!("defaults: {{ route: {{ timeouts: {{ idle: '${{NONE}}' }} }} }}\n{FRAME}"),
            &[
                "1:40 defaults.route.timeouts.idle: the environment variable `NONE` is not set | set it, or give a default: `${NONE:-default}`",
            ],
        ),
    ] {
        if said(&text) != expected {
            wrong.push((text.clone(), said(&text)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn defaults_from_the_environment_are_shown_as_they_are_written() {
    let text = routes("{ headers: { request: { set: { X-A: '${A}' } } } }", "", "");
    let loaded = load_str("a.yaml", &text, &|_| Some("hidden".to_owned())).unwrap();
    let shown = loaded.shown().to_string();
    assert!(shown.matches("${A}").count() == 2 && !shown.contains("hidden"), "{shown}");
}

#[test]
fn many_routes_with_many_defaults_are_refused() {
    let route = |number: usize| format!("- {{ name: r{number}, upstream: u }}\n");
    let routes: String = (0..5000).map(route).collect();
    let sets: String = (0..50).map(|number| format!("X-{number}: a, ")).collect();
    let text = format!(
        "upstreams: {{ u: {{ endpoints: [ws://a] }} }}\nroutes:\n{routes}defaults: {{ route: {{ headers: {{ request: {{ set: {{ {sets} }} }} }} }} }}\n"
    );
    assert_eq!(
        said(&text),
        [
            "5003:1 defaults: the routes and upstreams have too many values with these filled in | keep those that most of them need"
        ]
    );
}
