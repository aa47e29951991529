//! Tokens that nobody could have, keys of another kind, and what else is told of `auth`.

use super::broken::{in_route, said};
use super::load;

/// What is said of these keys below `jwt`.
fn of(jwt: &str) -> Vec<String> {
    said(&in_route(&format!("auth: {{ jwt: {{ {jwt} }} }}")))
}

const SECRET: &str = "keys: { secret: 0123456789abcdef0123456789abcdef }";

#[test]
fn a_key_of_one_kind_is_never_used_as_another() {
    for (jwt, words) in [
        ("keys: { file: k.pem }, algorithms: [HS256]", "`HS256` needs a secret, and the keys here are public"),
        (
            "keys: { url: \"https://a/\" }, audience: a, algorithms: [ES256, HS512]",
            "`HS512` needs a secret, and the keys here are public",
        ),
        (&format!("{SECRET}, algorithms: [ES256]"), "`ES256` needs public keys, and `keys` has a secret"),
        (&format!("{SECRET}, algorithms: [HS256, EdDSA]"), "`EdDSA` needs public keys, and `keys` has a secret"),
        (&format!("{SECRET}, algorithms: [none]"), "none"),
        (&format!("{SECRET}, algorithms: []"), "the list is empty, so that no token is valid"),
        (&format!("{SECRET}, algorithms: [HS512]"), "a secret for these algorithms has at least 64 bytes"),
        (SECRET, "algorithms"),
        ("algorithms: [ES256]", "keys"),
        ("keys: {}, algorithms: [ES256]", "there are no keys"),
        ("keys: { secret: short }, algorithms: [HS256]", "a secret has at least 32 characters"),
        (
            "keys: { file: a, url: \"https://a/\" }, audience: a, algorithms: [ES256]",
            "keys come from one place, and `url` is there already",
        ),
        ("keys: { file: a, tls: { verify: on } }, algorithms: [ES256]", "there is no `url` to reach by TLS"),
        ("keys: { url: \"a.example\" }, audience: a, algorithms: [ES256]", "is no https:// or http:// URL"),
    ] {
        let said = of(jwt);
        assert!(said.iter().any(|line| line.contains(words)), "{jwt}: {said:#?}");
    }
    for jwt in [
        "keys: { file: k.pem }, algorithms: [ES256, RS256, EdDSA]",
        "keys: { url: \"https://a/\" }, audience: a, algorithms: [ES256]",
        "keys: { url: \"http://127.0.0.1:8080/certs\" }, audience: [a, b], algorithms: [PS384]",
        &format!(
            "{SECRET}, algorithms: [HS256], require: {{ admin: true, level: 3, tenant: [a, b] }}, on_expiry: keep"
        ),
    ] {
        assert_eq!(of(jwt), [""; 0], "{jwt}");
    }
}

#[test]
fn what_lets_in_others_or_nobody_is_told() {
    for (jwt, words) in [
        ("keys: { url: \"https://a/\" }, algorithms: [ES256]", "`audience` is missing"),
        (
            "keys: { url: \"http://a.example/\" }, audience: a, algorithms: [ES256]",
            "keys that come without TLS can be replaced",
        ),
        (&format!("{SECRET}, algorithms: [HS256], from: []"), "the list is empty, so that no token is found"),
        (
            &format!("{SECRET}, algorithms: [HS256], from: [authorization, authorization]"),
            "this is here for the second time",
        ),
        (
            &format!("{SECRET}, algorithms: [HS256], from: [{{ cookie: \"a b\" }}]"),
            "`a b` cannot be the name of a cookie",
        ),
        (&format!("{SECRET}, algorithms: [HS256], from: [{{ query: \"\" }}]"), "cannot be the name of a query"),
        (
            &format!("{SECRET}, algorithms: [HS256], from: [{{ subprotocol: \"a,b\" }}]"),
            "cannot be the name of a subprotocol",
        ),
        (&format!("{SECRET}, algorithms: [HS256], audience: []"), "nothing can be equal to this"),
        (&format!("{SECRET}, algorithms: [HS256], require: {{ scope: \"\" }}"), "nothing can be equal to this"),
        (&format!("{SECRET}, algorithms: [HS256], leeway: 2h"), "a leeway is at most an hour"),
        (&format!("{SECRET}, algorithms: [HS256], on_expiry: {{ close: 1006 }}"), "1006"),
        (&format!("{SECRET}, algorithms: [HS256], forwards: true"), "forwards"),
    ] {
        let said = of(jwt);
        assert!(said.iter().any(|line| line.contains(words)), "{jwt}: {said:#?}");
    }
}

#[test]
fn claims_stand_only_where_a_token_was_verified() {
    let set = "headers: { request: { set: { X-User: \"{claims.sub}\" } } }";
    let lines = said(&in_route(set));
    assert!(lines[0].contains("`{claims.sub}`: this route has no `auth.jwt`, so no claim is known"), "{lines:#?}");
    let auth = format!("auth: {{ jwt: {{ {SECRET}, algorithms: [HS256] }} }}");
    assert_eq!(said(&in_route(&format!("{auth}\n{set}"))), [""; 0]);
    let routes = |route: &str| format!("routes: [{{ name: a, {route} }}]\n");
    for (route, words) in [
        ("redirect: \"https://a.example/{claims.sub}\"", "a redirect knows no claims"),
        ("respond: { body: \"{claims.sub}\" }", "a route without an upstream verifies no token"),
        (&format!("respond: {{ body: x }}, {auth}"), "everybody gets that answer"),
    ] {
        let errors = load(&routes(route)).unwrap_err().to_string();
        assert!(errors.contains(words), "{route}: {errors}");
    }
}

#[test]
fn a_route_may_be_open_where_all_others_are_not() {
    let text = format!(
        "defaults: {{ route: {{ upstream: a, auth: {{ jwt: {{ {SECRET}, algorithms: [HS256] }} }} }} }}\n\
         routes: [{{ name: open, match: {{ path: {{ exact: /open }} }}, auth: off }}, {{ name: rest }}]\n\
         upstreams: {{ a: {{ endpoints: [\"ws://a:1\"] }} }}\n"
    );
    let file = load(&text).unwrap().file;
    assert_eq!(file.routes.iter().map(|route| route.auth.is_some()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn what_a_service_could_not_do_is_told() {
    let url = "url: \"http://127.0.0.1:9000/auth\"";
    for (forward, words) in [
        ("headers: [X-User]".to_owned(), "url"),
        ("url: \"ws://a/\"".to_owned(), "`ws://a/` is no https:// or http:// URL"),
        ("url: \"http://auth.example/\"".to_owned(), "an answer that comes without TLS can be replaced"),
        (format!("{url}, tls: {{ ca: a.crt }}"), "the URL uses no TLS"),
        (format!("{url}, timeout: 0s"), "the service has no time to answer"),
        (format!("{url}, timeout: 2m"), "no client waits for longer than a minute"),
        (format!("{url}, headers: [X User]"), "`X User` is not the name of a header"),
        (format!("{url}, headers: [X-User, x-user]"), "this is here for the second time"),
        (format!("{url}, headers: [Connection]"), "`connection` cannot be changed"),
        (format!("{url}, headers: [Sec-WebSocket-Key]"), "the handshake depends on it"),
        (format!("{url}, cache: {{ time: 10s }}"), "by"),
        (format!("{url}, cache: {{ time: 10s, by: [] }}"), "whoever comes from one address is one user"),
        (format!("{url}, cache: {{ time: 2h, by: [Cookie] }}"), "an answer is remembered for 1s to 1h"),
        (format!("{url}, recheck: 500ms"), "an open session is asked about every 1s to 1d"),
        (format!("{url}, recheck: 48h"), "an open session is asked about every 1s to 1d"),
        (
            format!("{url}, request_headers: [Cookie], cache: {{ time: 2s, by: [Cookie, Authorization] }}"),
            "the service does not get `authorization`",
        ),
        (format!("{url}, on_failure: maybe"), "refuse"),
    ] {
        let lines = said(&in_route(&format!("auth: {{ forward: {{ {forward} }} }}")));
        assert!(lines.len() == 1 && lines[0].contains(words), "{forward}: {lines:#?}");
    }
    let good = format!("auth: {{ forward: {{ {url}, headers: [X-User] }} }}");
    assert_eq!(said(&in_route(&good)), [""; 0]);
    let lines = said(&in_route(&format!("{good}\nheaders: {{ request: {{ set: {{ X-User: a }} }} }}")));
    assert!(lines[0].contains("`x-user` is also set by `headers` of the route"), "{lines:#?}");
    assert!(said(&in_route("auth: {}"))[0].contains("this asks nobody for anything"));
    let lines = said(&in_route(&format!("{good}\nlimits: {{ per_client: {{ sessions: 1, key: subject }} }}")));
    assert!(lines[0].contains("no client has a subject"), "{lines:#?}");
    let named = good.replace("[X-User]", "[X-User], subject: X-User");
    assert_eq!(
        said(&in_route(&format!("{named}\nlimits: {{ per_client: {{ sessions: 1, key: subject }} }}"))),
        [""; 0]
    );
}

#[test]
fn what_nobody_could_log_in_with_is_told() {
    let long = "a".repeat(129);
    for (basic, words) in [
        ("basic: { file: \"\" }", "the name of a file"),
        ("basic: { file: a, realm: \"\" }", "the realm is empty"),
        ("basic: { file: a, realm: Café }", "a realm is printable ASCII"),
        ("basic: { file: a, realm: \"a\\nb\" }", "a realm is printable ASCII"),
        (&format!("basic: {{ file: a, realm: {long} }}"), "a realm has at most 128 characters"),
        ("basic: {}", "file"),
        ("basic: { file: a, users: b }", "users"),
        (&format!("jwt: {{ {SECRET}, algorithms: [HS256] }}, basic: {{ file: a }}"), "both read `Authorization`"),
    ] {
        let lines = said(&in_route(&format!("auth: {{ {basic} }}")));
        assert!(lines.len() == 1 && lines[0].contains(words), "{basic}: {lines:#?}");
    }
}

#[test]
fn passwords_that_come_in_the_clear_are_warned_of() {
    const TLS: &str = "tls: { certificates: [{ cert: a.crt, key: a.key }] }";
    for (listener, others, is_clear) in [
        ("bind: \"0.0.0.0:1\"", "", true),
        ("bind: \"0.0.0.0:1\"", "match: { listeners: [b] }", false),
        ("bind: \"0.0.0.0:1\"", "match: { listeners: [a, b] }", true),
        ("bind: \"127.0.0.1:1\"", "", false),
        ("bind: \"unix:/run/a.sock\"", "", false),
        (&format!("bind: \"0.0.0.0:1\", {TLS}"), "", false),
        ("bind: \"0.0.0.0:1\", trusted_proxies: [192.0.2.1]", "", false),
        ("bind: \"0.0.0.0:1\", proxy_protocol: require", "", false),
        ("bind: \"0.0.0.0:1\", redirect: { https: 443 }", "", false),
    ] {
        let more = if others.is_empty() { String::new() } else { format!(", {others}") };
        let text = format!(
            "listeners:\n  - {{ name: a, {listener} }}\n  - {{ name: b, bind: \"127.0.0.1:2\", {TLS} }}\n\
             routes:\n  - {{ name: r, upstream: \"ws://127.0.0.1:9\", auth: {{ basic: {{ file: a }} }}{more} }}\n"
        );
        let lines = said(&text);
        let is_told = lines.iter().any(|line| line.contains("`a` has no TLS"));
        assert_eq!(is_told, is_clear, "{listener} {others}: {lines:#?}");
    }
}
