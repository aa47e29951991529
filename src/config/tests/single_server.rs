//! Routes that name their server by URL.

use super::load;
use crate::config::load_str;

fn route(upstream: &str) -> String {
    format!("routes:\n  - name: chat\n    upstream: {upstream}\n")
}

#[test]
fn a_server_becomes_an_upstream_with_the_name_of_the_route() {
    for (written, url) in [
        ("http://127.0.0.1:3000", "ws://127.0.0.1:3000"),
        ("\"wss://chat.internal\"", "wss://chat.internal:443"),
        ("unix:/run/chat.sock", "unix:/run/chat.sock"),
    ] {
        let loaded = load(&route(written)).unwrap();
        assert_eq!(loaded.file.routes[0].upstream.as_deref(), Some("chat"));
        let upstream = &loaded.file.upstreams["chat"];
        assert_eq!(upstream.endpoints.iter().map(|one| one.url.to_string()).collect::<Vec<_>>(), [url]);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let whole = load(&format!(
            "routes: [{{ name: chat, upstream: chat }}]\nupstreams: {{ chat: {{ endpoints: [{written}] }} }}\n"
        ));
        assert_eq!(whole.unwrap().hash(), loaded.hash(), "both say the same");
    }
}

#[test]
fn it_has_the_defaults_and_its_url_may_come_from_the_environment() {
    let text = format!("{}defaults: {{ upstream: {{ slow_start: 5s }} }}\n", route("ws://${HOST}:1"));
    let loaded =
        load_str("wsluice.yaml", &text, &|name| (name == "HOST").then(|| "s3cret.internal".to_owned())).unwrap();
    let upstream = &loaded.file.upstreams["chat"];
    assert_eq!((upstream.slow_start.to_string(), upstream.endpoints.len()), ("5s".to_owned(), 1));
    let shown = loaded.shown().to_string();
    assert!(shown.contains("${HOST}") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn what_is_wrong_with_it_is_reported_at_the_route() {
    for (text, line, part) in [
        (route("ftp://127.0.0.1:3000"), 3, "is not a scheme that can be proxied"),
        (route("http://127.0.0.1:3000/ws"), 3, "an endpoint has no path or query"),
        (
            format!("{}upstreams: {{ chat: {{ endpoints: [\"ws://a:1\"] }} }}\n", route("http://b:1")),
            3,
            "there is an upstream with the name of this route",
        ),
        (
            format!("{}  - {{ name: chat, upstream: \"ws://b:1\" }}\n", route("http://b:1")),
            4,
            "already the name of routes[0]",
        ),
    ] {
        let errors = load(&text).unwrap_err();
        let is_it = |finding: &crate::config::Finding| finding.line == Some(line) && finding.to_string().contains(part);
        assert!(errors.findings().iter().any(is_it), "{part}: {errors}");
    }
    // A warning about the upstream stands where the route names the server.
    let text = "routes:\n  - name: chat\n    upstream: \"wss://10.0.0.1:1\"\ndefaults:\n  upstream: { tls: { verify: off } }\n";
    let loaded = load(text).unwrap();
    assert!(loaded.warnings.iter().all(|warning| warning.line.is_some()), "{:?}", loaded.warnings);
}
