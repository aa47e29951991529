//! The opening handshake, strict both ways (RFC 6455 §4): an invalid request never reaches the server, and an invalid
//! 101 never reaches the client.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use base64::Engine as _;

use super::harness::{
    BINARY, Conn, Frame, Handshake, Head, KEY, Pair, Proxy, RawServer, accept_for, switching, within, yaml,
};

const REJECTIONS: &str = "wsluice_rejections_total";
const CONNECTION_ERRORS: &str = "wsluice_connection_errors_total";
const UPSTREAM_ERRORS: &str = "wsluice_upstream_errors_total";

#[tokio::test]
async fn a_message_goes_there_and_back() {
    let mut pair = Pair::open(&[]).await;
    pair.client.put(&Frame::text("hello")).await;
    pair.server.expect(&Frame::text("hello")).await;
    pair.server.put(&Frame::text("world")).await;
    pair.client.expect(&Frame::text("world")).await;
}

/// Where a refusal is counted: by the proxy, before or after a route is found, or as bytes that are no request.
#[derive(Clone, Copy, Debug)]
enum By {
    Route(&'static str),
    NoRoute(&'static str),
    /// By the HTTP library, and by the listener too.
    Listener(&'static str),
}

impl By {
    fn count(self, proxy: &Proxy) -> f64 {
        match self {
            By::Route(reason) => {
                proxy.metric(REJECTIONS, &[("listener", "plain"), ("route", "all"), ("reason", reason)])
            }
            By::NoRoute(reason) | By::Listener(reason) => {
                proxy.metric(REJECTIONS, &[("listener", "plain"), ("route", ""), ("reason", reason)])
            }
        }
    }

    fn reason(self) -> &'static str {
        match self {
            By::Route(reason) | By::NoRoute(reason) | By::Listener(reason) => reason,
        }
    }
}

/// Sends `bytes` on a new connection: they must be answered with `status`, counted as `by`, and end the connection.
async fn refused(proxy: &Proxy, what: &str, bytes: &[u8], status: u16, by: By) {
    let before = by.count(proxy);
    let bad_requests = || proxy.metric(CONNECTION_ERRORS, &[("listener", "plain"), ("reason", "bad_request")]);
    let (bad_before, lines_before) = (bad_requests(), proxy.log().len());
    let mut client = proxy.client().await;
    client.send(bytes).await;
    let head = client.head().await;
    assert_eq!(head.status(), status, "{what}: {head:#?}");
    let reason = by.reason();
    if !bytes.starts_with(b"HEAD") {
        let body = String::from_utf8(client.body(&head).await).unwrap();
        assert!(body.starts_with(&format!("{reason}: ")) && body.ends_with('\n'), "{what}: {body:?}");
    }
    if status == 426 {
        // RFC 6455 §4.4 and RFC 9110 §15.5.22.
        assert_eq!(head.get("sec-websocket-version"), Some("13"), "{what}");
        assert_eq!(head.get("upgrade"), Some("websocket"), "{what}");
    }
    assert!(head.get("sec-websocket-accept").is_none(), "{what}");
    // Later bytes could be frames, and are not read as a request.
    let _ = client.try_send(Handshake::new().bytes()).await;
    let rest = client.read_to_end().await;
    assert!(rest.is_empty(), "{what}: {:?}", String::from_utf8_lossy(&rest));
    drop(client);
    proxy.idle().await;
    assert_eq!(by.count(proxy), before + 1.0, "{what}: counted as {by:?}");
    let is_bad = matches!(by, By::Listener(_));
    assert_eq!(bad_requests() - bad_before, f64::from(u8::from(is_bad)), "{what}");
    let line = &proxy.log_lines(lines_before + 1).await[lines_before];
    assert_eq!(
        (line["status"].as_u64(), line["reason"].as_str()),
        (Some(status.into()), Some(reason)),
        "{what}: {line}"
    );
    assert!(line["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {line}");
}

#[tokio::test]
async fn a_client_that_breaks_a_rule_never_reaches_the_server() {
    use By::{NoRoute, Route};
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let good = Handshake::new;
    let line = |line: &str| good().line(line);
    let many = |prefix: &str| (0..65).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ");
    let handshake = Route("handshake");
    let (malformed, too_large) = (By::Listener("malformed"), By::Listener("head_too_large"));
    let (host, path, version) = (NoRoute("host"), NoRoute("path"), Route("websocket_version"));
    #[rustfmt::skip]
    let table: Vec<(&str, Handshake, u16, By)> = vec![
        ("POST", line("POST / HTTP/1.1"), 400, handshake),
        ("PUT", line("PUT / HTTP/1.1"), 400, handshake),
        ("DELETE", line("DELETE / HTTP/1.1"), 400, handshake),
        ("HEAD", line("HEAD / HTTP/1.1"), 400, handshake),
        ("OPTIONS", line("OPTIONS / HTTP/1.1"), 400, handshake),
        ("OPTIONS *", line("OPTIONS * HTTP/1.1"), 400, handshake),
        ("a method is case-sensitive", line("get / HTTP/1.1"), 400, handshake),
        ("TRACE", line("TRACE / HTTP/1.1"), 405, NoRoute("method")),
        ("CONNECT", line("CONNECT example.com:80 HTTP/1.1"), 405, NoRoute("method")),
        ("HTTP/1.0", line("GET / HTTP/1.0"), 400, handshake),
        ("HTTP/2.0", line("GET / HTTP/2.0"), 400, malformed),
        ("HTTP/0.9", line("GET /"), 400, malformed),
        ("no version", line("GET / HTTP"), 400, malformed),
        ("GET *", line("GET * HTTP/1.1"), 400, path),

        ("no Connection", good().without("Connection"), 400, handshake),
        ("Connection without Upgrade", good().set("Connection", "keep-alive"), 400, handshake),
        ("Connection: close", good().set("Connection", "close"), 400, handshake),
        ("a longer token", good().set("Connection", "Upgrades"), 400, handshake),
        ("Upgrade as a part of a token", good().set("Connection", "not-upgrade"), 400, handshake),

        ("no version of WebSocket", good().without("Sec-WebSocket-Version"), 426, version),
        ("version 8", good().set("Sec-WebSocket-Version", "8"), 426, version),
        ("version 14", good().set("Sec-WebSocket-Version", "14"), 426, version),
        ("version 013", good().set("Sec-WebSocket-Version", "013"), 426, version),
        ("a list of versions", good().set("Sec-WebSocket-Version", "13, 8"), 426, version),
        ("an empty version", good().set("Sec-WebSocket-Version", ""), 426, version),
        ("two versions", good().with("Sec-WebSocket-Version", "13"), 426, version),

        ("no key", good().without("Sec-WebSocket-Key"), 400, handshake),
        ("an empty key", good().set("Sec-WebSocket-Key", ""), 400, handshake),
        ("a key of 15 bytes", good().set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j"), 400, handshake),
        ("a key of 17 bytes", good().set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSE="), 400, handshake),
        ("a key of no base64", good().set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j*g=="), 400, handshake),
        ("a key without padding", good().set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ"), 400, handshake),
        ("a key with a space", good().set("Sec-WebSocket-Key", "dGhlIHNhbXBs ZSBub25jZQ=="), 400, handshake),
        ("two keys", good().with("Sec-WebSocket-Key", KEY), 400, handshake),

        ("Content-Length", good().with("Content-Length", "5"), 400, handshake),
        ("two lengths", good().with("Content-Length", "0").with("Content-Length", "5"), 400, malformed),
        ("a length with a sign", good().with("Content-Length", "+5"), 400, malformed),
        ("chunked", good().with("Transfer-Encoding", "chunked"), 400, handshake),
        ("chunked and a length", good().with("Transfer-Encoding", "chunked").with("Content-Length", "0"), 400, handshake),
        ("an unknown coding", good().with("Transfer-Encoding", "x"), 400, malformed),

        ("a subprotocol twice", good().with("Sec-WebSocket-Protocol", "a, b, a"), 400, handshake),
        ("a subprotocol twice over lines",
            good().with("Sec-WebSocket-Protocol", "a").with("Sec-WebSocket-Protocol", "a"), 400, handshake),
        ("a subprotocol with a space", good().with("Sec-WebSocket-Protocol", "a b"), 400, handshake),
        ("a subprotocol with a slash", good().with("Sec-WebSocket-Protocol", "a/b"), 400, handshake),
        ("a subprotocol that is not ASCII", good().with("Sec-WebSocket-Protocol", "é"), 400, handshake),
        ("65 subprotocols", good().with("Sec-WebSocket-Protocol", &many("p")), 400, handshake),

        ("an extension without a name", good().with("Sec-WebSocket-Extensions", "; a=1"), 400, handshake),
        ("an extension with a space", good().with("Sec-WebSocket-Extensions", "a b"), 400, handshake),
        ("a parameter without a name", good().with("Sec-WebSocket-Extensions", "a; =1"), 400, handshake),
        ("a parameter without a value", good().with("Sec-WebSocket-Extensions", "a; b="), 400, handshake),
        ("a value with a space", good().with("Sec-WebSocket-Extensions", "a; b=c d"), 400, handshake),
        ("an open quote", good().with("Sec-WebSocket-Extensions", "a; b=\"c"), 400, handshake),
        ("65 extensions", good().with("Sec-WebSocket-Extensions", &many("x")), 400, handshake),

        ("no Host", good().without("Host"), 400, host),
        ("two Hosts", good().with("Host", "example.com"), 400, host),
        ("an empty Host", good().set("Host", ""), 400, host),
        ("a Host with a user", good().set("Host", "me@example.com"), 400, host),
        ("a Host with a space", good().set("Host", "exam ple.com"), 400, host),
        ("a Host with a path", good().set("Host", "example.com/x"), 400, host),
        ("two names in a Host", good().set("Host", "a.com, b.com"), 400, host),
        ("a port that is none", good().set("Host", "example.com:99999"), 400, host),
        ("half an IPv6 address", good().set("Host", "[::1"), 400, host),

        ("a way out above the root", line("GET /../x HTTP/1.1"), 400, path),
        ("the same in escapes", line("GET /a/%2e%2e/%2E./x HTTP/1.1"), 400, path),
        ("half an escape", line("GET /%4 HTTP/1.1"), 400, path),
        ("an escaped NUL", line("GET /%00 HTTP/1.1"), 400, path),
        ("an escaped line end", line("GET /a%0d%0aX:%20y HTTP/1.1"), 400, path),
        ("no path", line("GET x HTTP/1.1"), 400, path),
        ("a space in the path", line("GET /a b HTTP/1.1"), 400, malformed),

        ("a space before the colon", good().with("X ", "y"), 400, malformed),
        ("a header without a name", good().with("", "y"), 400, malformed),
        ("a folded line", good().with("X", "y\r\n z"), 400, malformed),
        ("a bare LF", good().with("X", "y\nA: b"), 400, malformed),
        ("a bare CR", good().with("X", "y\rA: b"), 400, malformed),
        ("a NUL", good().with("X", "y\0"), 400, malformed),
        ("HEAD, and a header without a name", line("HEAD / HTTP/1.1").with("", "y"), 400, malformed),
        ("a target over 64 KiB", line(&format!("GET /{} HTTP/1.1", "y".repeat(70 << 10))), 431, too_large),
        ("a long head", good().with("X", &"y".repeat(17 << 10)), 431, too_large),
        ("101 headers", (0..101).fold(good(), |h, i| h.with(&format!("X-{i}"), "y")), 431, too_large),
    ];
    assert!(table.len() >= 60, "{}", table.len());
    for (what, handshake, status, by) in &table {
        refused(&proxy, what, &handshake.bytes(), *status, *by).await;
    }
    assert_eq!(server.connections().await, 0);
    assert_eq!(proxy.metric("wsluice_endpoint_picks_total", &[("upstream", "app"), ("endpoint", server.url())]), 0.0);
    assert_eq!(proxy.metric("wsluice_sessions_total", &[("route", "all"), ("upstream", "app")]), 0.0);
}

#[tokio::test]
async fn an_unusual_handshake_that_keeps_the_rules_is_accepted() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let good = Handshake::new;
    #[rustfmt::skip]
    let table: Vec<(&str, Handshake)> = vec![
        ("as Firefox says it", good().set("Connection", "keep-alive, Upgrade")),
        ("in any case", good().set("Connection", "uPGRADE").set("Upgrade", "WebSocket")),
        ("over two lines", good().set("Connection", "keep-alive").with("Connection", "upgrade")),
        ("with empty items", good().set("Connection", ", upgrade,, ")),
        ("one of two protocols", good().set("Upgrade", "websocket, h2c")),
        ("an empty body", good().with("Content-Length", "0")),
        ("a key with bits of padding, as RFC 6455 has one", good().set("Sec-WebSocket-Key", "AQIDBAUGBwgJCgsMDQ4PEC==")),
        ("absolute form", Handshake::to("http://example.com/")),
        ("a Host with a port", good().set("Host", "example.com:8080")),
        ("an IPv6 Host", good().set("Host", "[::1]:8080")),
        ("an empty list of subprotocols", good().with("Sec-WebSocket-Protocol", " , ")),
        ("names in lower case", Handshake {
            headers: good().headers.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect(),
            ..good()
        }),
    ];
    for (what, handshake) in &table {
        let mut client = proxy.client().await;
        client.send(handshake.bytes()).await;
        let mut upstream = server.accept().await;
        let request = upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101, "{what}");
        assert_eq!(request.line, "GET / HTTP/1.1", "{what}");
        assert_eq!(request.get("upgrade"), Some("websocket"), "{what}");
        assert_eq!(request.get("connection"), Some("Upgrade"), "{what}");
    }
    // RFC 9112 §2.2: an empty line before the request is skipped.
    let mut client = proxy.client().await;
    client.send([b"\r\n", &good().bytes()[..]].concat()).await;
    server.accept().await.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
}

type Answer = fn(&Head) -> Vec<u8>;

/// Returns a 101 to `request` with one line replaced by `line`, or removed.
fn changed(request: &Head, name: &str, line: Option<&str>) -> Vec<u8> {
    let text = String::from_utf8(switching(request, &[])).unwrap();
    let mut out = String::new();
    for old in text.split_inclusive("\r\n") {
        match old.starts_with(&format!("{name}: ")) {
            true => out.extend(line.map(|line| format!("{line}\r\n"))),
            false => out.push_str(old),
        }
    }
    out.into_bytes()
}

#[tokio::test]
async fn a_false_101_never_reaches_the_client() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let url = server.url().to_owned();
    #[rustfmt::skip]
    let table: &[(&str, Answer, &str)] = &[
        ("no accept value", |r| changed(r, "Sec-WebSocket-Accept", None), "false_101"),
        ("a foreign accept value",
            |r| changed(r, "Sec-WebSocket-Accept", Some("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")), "false_101"),
        ("the accept value of the client's key",
            |r| changed(r, "Sec-WebSocket-Accept", Some(&format!("Sec-WebSocket-Accept: {}", accept_for(KEY)))), "false_101"),
        ("the accept value in another case",
            |r| {
                let accept = accept_for(r.get("sec-websocket-key").unwrap()).to_ascii_uppercase();
                changed(r, "Sec-WebSocket-Accept", Some(&format!("Sec-WebSocket-Accept: {accept}x")))
            }, "false_101"),
        ("the accept value twice",
            |r| switching(r, &[("Sec-WebSocket-Accept", &accept_for(r.get("sec-websocket-key").unwrap()))]), "false_101"),
        ("no Upgrade", |r| changed(r, "Upgrade", None), "false_101"),
        ("Upgrade to something else", |r| changed(r, "Upgrade", Some("Upgrade: h2c")), "false_101"),
        ("Upgrade twice", |r| switching(r, &[("Upgrade", "h2c")]), "false_101"),
        ("no Connection", |r| changed(r, "Connection", None), "false_101"),
        ("Connection without Upgrade", |r| changed(r, "Connection", Some("Connection: close")), "false_101"),
        ("a subprotocol nobody asked for", |r| switching(r, &[("Sec-WebSocket-Protocol", "foreign")]), "false_101"),
        ("a subprotocol in another case", |r| switching(r, &[("Sec-WebSocket-Protocol", "CHAT")]), "false_101"),
        ("two subprotocols", |r| switching(r, &[("Sec-WebSocket-Protocol", "chat, superchat")]), "false_101"),
        ("two subprotocols on two lines",
            |r| switching(r, &[("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Protocol", "superchat")]), "false_101"),
        ("an extension nobody asked for", |r| switching(r, &[("Sec-WebSocket-Extensions", "x-foreign")]), "false_101"),
        ("an extension twice",
            |r| switching(r, &[("Sec-WebSocket-Extensions", "permessage-deflate, permessage-deflate")]), "false_101"),
        ("a window that the client cannot limit",
            |r| switching(r, &[("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits=9")]), "false_101"),
        ("a window that does not exist",
            |r| switching(r, &[("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=7")]), "false_101"),
        ("an extension that cannot be read", |r| switching(r, &[("Sec-WebSocket-Extensions", "=")]), "false_101"),
        ("a second protocol", |r| changed(r, "Upgrade", Some("Upgrade: websocket, h2c")), "false_101"),
        ("a window beyond the one offered",
            |r| switching(r, &[("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=12")]), "false_101"),
        ("no bound where one was offered",
            |r| switching(r, &[("Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover")]), "false_101"),
        ("HTTP/1.0",
            |r| String::from_utf8(switching(r, &[])).unwrap().replacen("1.1", "1.0", 1).into_bytes(), "bad_response"),
        ("HTTP/2.0",
            |r| String::from_utf8(switching(r, &[])).unwrap().replacen("1.1", "2.0", 1).into_bytes(), "bad_response"),
        ("garbage", |_| b"\x16\x03\x01\x02\x00\x01 this is no HTTP at all\r\n\r\n".to_vec(), "bad_response"),
        ("a frame", |_| Frame::text("hello").plain(), "bad_response"),
        ("a NUL in a header", |r| switching(r, &[("X", "a\0b")]), "bad_response"),
        ("a line without a colon", |r| changed(r, "Upgrade", Some("Upgrade websocket")), "bad_response"),
        ("nothing", |_| vec![], "handshake_lost"),
        ("half a head", |r| { let mut all = switching(r, &[]); all.truncate(60); all }, "handshake_lost"),
        ("a head without its end", |r| { let mut all = switching(r, &[]); all.truncate(all.len() - 2); all }, "handshake_lost"),
        ("a head over 64 KiB", |r| switching(r, &[("X", &"y".repeat(70 << 10))]), "bad_response"),
        ("101 header lines", |r| {
            let names: Vec<_> = (0..101).map(|i| format!("X-{i}")).collect();
            switching(r, &names.iter().map(|name| (&**name, "y")).collect::<Vec<_>>())
        }, "bad_response"),
        ("interim answers without end", |_| b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20), "bad_response"),
        ("interim answers only", |_| b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3), "handshake_lost"),
    ];
    let offer = Handshake::new()
        .with("Sec-WebSocket-Protocol", "chat, superchat")
        .with("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=10");
    for (what, answer, label) in table {
        let labels = [("upstream", "app"), ("endpoint", &*url), ("reason", *label)];
        let before = proxy.metric(UPSTREAM_ERRORS, &labels);
        let mut client = proxy.client().await;
        client.send(offer.bytes()).await;
        let mut upstream = server.accept().await;
        let request = upstream.head().await;
        // The frame after it must not reach the client either.
        let mut bytes = answer(&request);
        bytes.extend(Frame::text("early").plain());
        if *label == "handshake_lost" {
            bytes.truncate(bytes.len() - Frame::text("early").plain().len());
        }
        let _ = upstream.try_send(&bytes).await;
        if *label == "handshake_lost" {
            upstream.finish().await;
        }
        let head = client.head().await;
        assert_eq!(head.status(), 502, "{what}: {head:#?}");
        let body = String::from_utf8(client.body(&head).await).unwrap();
        assert!(body.starts_with("upstream_handshake: "), "{what}: {body}");
        assert!(client.read_to_end().await.is_empty(), "{what}");
        // The connection ends there, and carried nothing else.
        assert_eq!(upstream.read_to_end().await, b"", "{what}");
        assert_eq!(proxy.metric(UPSTREAM_ERRORS, &labels), before + 1.0, "{what}: counted as {label}");
    }
    assert_eq!(proxy.metric("wsluice_sessions_total", &[("route", "all"), ("upstream", "app")]), 0.0);
    let refused = [("listener", "plain"), ("route", "all"), ("reason", "upstream_handshake")];
    assert_eq!(proxy.metric(REJECTIONS, &refused), table.len() as f64);
}

#[tokio::test]
async fn a_101_that_is_odd_but_clear_opens_the_session() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    #[rustfmt::skip]
    let table: &[(&str, Answer, Option<&str>)] = &[
        ("a body in chunks", |r| switching(r, &[("Transfer-Encoding", "chunked")]), None),
        ("a body by length", |r| switching(r, &[("Content-Length", "5")]), None),
        ("both", |r| switching(r, &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")]), None),
        ("an empty subprotocol", |r| switching(r, &[("Sec-WebSocket-Protocol", "")]), None),
        ("empty extensions", |r| switching(r, &[("Sec-WebSocket-Extensions", "")]), None),
        ("the subprotocol on two lines",
            |r| switching(r, &[("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Protocol", "chat")]), Some("chat")),
        ("the subprotocol twice on one line", |r| switching(r, &[("Sec-WebSocket-Protocol", "chat, chat")]), Some("chat")),
        ("a subprotocol and an empty line",
            |r| switching(r, &[("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Protocol", "")]), Some("chat")),
        ("Upgrade twice", |r| switching(r, &[("Upgrade", "WebSocket")]), None),
        ("Connection twice", |r| switching(r, &[("Connection", "upgrade, keep-alive")]), None),
        ("interim answers that say they have a body", |r| {
            let interim = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
            [&interim[..], &switching(r, &[])].concat()
        }, None),
    ];
    let offer = Handshake::new().with("Sec-WebSocket-Protocol", "chat, superchat");
    for (what, answer, subprotocol) in table {
        let mut client = proxy.client().await;
        client.send(offer.bytes()).await;
        let mut upstream = server.accept().await;
        let request = upstream.head().await;
        upstream.send([answer(&request), Frame::text("first").plain()].concat()).await;
        let head = client.head().await;
        assert_eq!(head.status(), 101, "{what}: {head:#?}");
        let subprotocols: Vec<&str> = subprotocol.iter().copied().collect();
        assert_eq!(head.all("sec-websocket-protocol"), subprotocols, "{what}");
        for (name, values) in [("upgrade", vec!["websocket"]), ("connection", vec!["Upgrade"])] {
            assert_eq!(head.all(name), values, "{what}");
        }
        for gone in ["content-length", "transfer-encoding", "sec-websocket-extensions"] {
            assert_eq!(head.all(gone), [""; 0], "{what}: {gone}");
        }
        client.expect(&Frame::text("first")).await;
        client.put(&Frame::text("back")).await;
        upstream.expect(&Frame::text("back")).await;
    }
}

#[tokio::test]
async fn parameters_of_an_extension_that_we_do_not_know_pass_as_they_came() {
    let offered = r#"bbf-usp-protocol; eid="os::012345-ABC""#;
    let agreed = r#"bbf-usp-protocol; eid="proto::a, b; \"c\"""#;
    let offer = Handshake::new().with("Sec-WebSocket-Extensions", offered);
    let pair = Pair::open_with(&[], &offer, &[("Sec-WebSocket-Extensions", agreed)]).await;
    assert_eq!(pair.request.all("sec-websocket-extensions"), [offered]);
    assert_eq!(pair.response.all("sec-websocket-extensions"), [agreed]);
}

#[tokio::test]
async fn what_a_server_answers_instead_of_101_goes_to_the_client_as_it_is() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let large = "x".repeat(300_000);
    // Status line, headers, body on the wire, decoded body; `true`: the body ends with the stream.
    type Row<'a> = (&'a str, Vec<(&'a str, &'a str)>, String, &'a str, bool);
    #[rustfmt::skip]
    let table: Vec<Row> = vec![
        ("200 OK", vec![("Content-Length", "5")], "hello".into(), "hello", false),
        ("200 OK", vec![], "until the end".into(), "until the end", true),
        ("200 OK", vec![("Content-Length", "300000")], large.clone(), &large, false),
        ("401 Unauthorized", vec![("WWW-Authenticate", "Bearer"), ("Content-Length", "0")], "".into(), "", false),
        ("403 Forbidden", vec![("Transfer-Encoding", "chunked")], "3\r\nfor\r\n6\r\nbidden\r\n0\r\n\r\n".into(), "forbidden", false),
        ("302 Found", vec![("Location", "/login"), ("Content-Length", "0")], "".into(), "", false),
        ("429 Too Many Requests", vec![("Retry-After", "7"), ("Content-Length", "4")], "slow".into(), "slow", false),
        ("500 Internal Server Error", vec![("Content-Length", "4")], "oops".into(), "oops", false),
        ("204 No Content", vec![], "".into(), "", false),
    ];
    for (status, headers, wire, body, until_close) in &table {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        upstream.head().await;
        let mut text = format!("HTTP/1.1 {status}\r\nX-Custom: kept\r\nConnection: X-Hop\r\nX-Hop: gone\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        upstream.send(text + wire).await;
        if *until_close {
            upstream.finish().await;
        }
        let head = client.head().await;
        assert_eq!(head.line, format!("HTTP/1.1 {status}"));
        assert_eq!(head.get("x-custom"), Some("kept"), "{status}");
        assert_eq!(head.get("x-hop"), None, "{status}");
        assert_eq!(head.get("connection"), Some("close"), "{status}");
        for (name, value) in headers {
            assert_eq!(head.get(name), Some(*value), "{status}");
        }
        let found = if *status == "204 No Content" { vec![] } else { client.body(&head).await };
        assert_eq!(found.len(), body.len(), "{status}");
        assert!(found == body.as_bytes(), "{status}");
        assert!(client.read_to_end().await.is_empty(), "{status}");
    }
    let code = |code| {
        proxy.metric(
            "wsluice_handshakes_total",
            &[("listener", "plain"), ("route", "all"), ("http", "1.1"), ("code", code)],
        )
    };
    proxy.idle().await;
    assert_eq!((code("200"), code("403"), code("101")), (3.0, 1.0, 0.0));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_passed_off_as_whole() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nonly this").await;
    upstream.finish().await;
    let head = client.head().await;
    assert_eq!((head.status(), head.get("content-length")), (403, Some("100")));
    assert_eq!(client.read_to_end().await, b"only this");
}

#[tokio::test]
async fn interim_answers_before_the_101_are_skipped() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    let request = upstream.head().await;
    upstream.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
    upstream.send([switching(&request, &[]), Frame::text("first").plain()].concat()).await;
    assert_eq!(client.head().await.status(), 101);
    client.expect(&Frame::text("first")).await;
}

#[tokio::test]
async fn a_subprotocol_is_negotiated_end_to_end() {
    let offer =
        Handshake::new().with("Sec-WebSocket-Protocol", "chat").with("Sec-WebSocket-Protocol", "superchat, v2.x");
    let mut pair = Pair::open_with(&[], &offer, &[("Sec-WebSocket-Protocol", "superchat")]).await;
    let offered: Vec<_> =
        pair.request.all("sec-websocket-protocol").join(", ").split(", ").map(str::to_owned).collect();
    assert_eq!(offered, ["chat", "superchat", "v2.x"]);
    assert_eq!(pair.response.get("sec-websocket-protocol"), Some("superchat"));
    pair.client.put(&Frame::close(1000, "")).await;
    pair.server.expect_closed_with(1000).await;
    assert_eq!(pair.client.expect_close().await, (Some(1000), String::new()));
    assert_eq!(pair.proxy.log_lines(1).await[0]["subprotocol"], "superchat");
}

#[tokio::test]
async fn a_server_may_decline_all_subprotocols_and_extensions() {
    let offer =
        Handshake::new().with("Sec-WebSocket-Protocol", "chat").with("Sec-WebSocket-Extensions", "permessage-deflate");
    let pair = Pair::open_with(&[], &offer, &[]).await;
    assert_eq!(pair.response.get("sec-websocket-protocol"), None);
    assert_eq!(pair.response.get("sec-websocket-extensions"), None);
}

#[tokio::test]
async fn compressed_messages_pass_untouched_where_both_ends_agreed() {
    let offer =
        Handshake::new().with("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, x-other");
    let agreed = "permessage-deflate; server_no_context_takeover; client_max_window_bits=12";
    let mut pair = Pair::open_with(&[], &offer, &[("Sec-WebSocket-Extensions", agreed)]).await;
    assert_eq!(
        pair.request.get("sec-websocket-extensions"),
        Some("permessage-deflate; client_max_window_bits, x-other")
    );
    assert_eq!(pair.response.get("sec-websocket-extensions"), Some(agreed));
    let text = "to be or not to be ".repeat(500);
    let mut deflate = flate2::write::DeflateEncoder::new(vec![], flate2::Compression::best());
    deflate.write_all(text.as_bytes()).unwrap();
    let packed = deflate.finish().unwrap();
    let frame = Frame::new(BINARY, packed).with_rsv(4);
    (pair.client.input.extensions, pair.server.input.extensions) = (true, true);
    pair.client.put(&frame).await;
    let found = pair.server.frame().await;
    assert_eq!(found, frame);
    let mut unpacked = String::new();
    flate2::read::DeflateDecoder::new(&found.payload[..]).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, text);
    pair.server.put(&frame).await;
    pair.client.expect(&frame).await;
    let proxy = pair.proxy;
    drop((pair.client, pair.server));
    let lines = proxy.log_lines(1).await;
    assert_eq!(lines[0]["compression"], "permessage-deflate", "{lines:?}");
}

#[tokio::test]
async fn a_session_without_compression_is_logged_without() {
    let Pair { proxy, client, server, .. } = Pair::open(&[]).await;
    drop((client, server));
    let lines = proxy.log_lines(1).await;
    assert!(lines[0].get("compression").is_none(), "{lines:?}");
}

#[tokio::test]
async fn each_attempt_has_a_key_of_its_own() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let mut keys = BTreeSet::from([KEY.to_owned()]);
    for _ in 0..50 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        let request = upstream.switch(&[]).await;
        let key = request.get("sec-websocket-key").unwrap();
        assert_eq!(base64::engine::general_purpose::STANDARD.decode(key).unwrap().len(), 16);
        assert!(keys.insert(key.to_owned()), "{key} again");
        let head = client.head().await;
        assert_eq!(head.get("sec-websocket-accept"), Some(&*accept_for(KEY)));
    }
}

#[tokio::test]
async fn the_server_gets_these_headers_and_no_others() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(
        &[server.url()],
        &["headers: { request: { set: { X-Tenant: acme }, remove: [X-Debug] } }", "origins: { allow: [\"*\"] }"],
    ));
    let mut client = proxy.client().await;
    let handshake = Handshake::to("/chat/./room?a=1&b=%20")
        .set("Host", "Example.COM:8080")
        .set("Connection", "keep-alive, Upgrade, X-Nominated")
        .with("Keep-Alive", "timeout=5")
        .with("Proxy-Connection", "keep-alive")
        .with("Proxy-Authorization", "Basic c2VjcmV0")
        .with("TE", "trailers")
        .with("HTTP2-Settings", "AAMAAABkAAQAAP__")
        .with("X-Nominated", "gone")
        .with("X-Forwarded-For", "6.6.6.6")
        .with("X-Forwarded-Proto", "https")
        .with("X-Real-IP", "6.6.6.6")
        .with("Forwarded", "for=6.6.6.6")
        .with("X-Debug", "1")
        .with("X-Tenant", "evil")
        .with("Origin", "https://app.example.com")
        .with("Cookie", "a=b; c=d")
        .with("Authorization", "Bearer t")
        .with("User-Agent", "test")
        .with("Sec-WebSocket-Protocol", "chat")
        .with("X-Twice", "one")
        .with("X-Twice", "two");
    client.send(handshake.bytes()).await;
    let mut upstream = server.accept().await;
    let request = upstream.switch(&[("Set-Cookie", "s=1"), ("Keep-Alive", "timeout=5"), ("Server", "raw")]).await;
    assert_eq!(request.line, "GET /chat/room?a=1&b=%20 HTTP/1.1");
    let key = request.get("sec-websocket-key").unwrap().to_owned();
    let hop = request.get("cdn-loop").unwrap().to_owned();
    let mut found = request.headers.clone();
    assert_eq!(found[0].0, "host", "RFC 9110 §7.2: Host comes first");
    found.sort();
    let mut expected: Vec<(String, String)> = [
        ("authorization", "Bearer t"),
        ("cdn-loop", &hop),
        ("connection", "Upgrade"),
        ("cookie", "a=b; c=d"),
        ("forwarded", "for=127.0.0.1;host=\"example.com:8080\";proto=http"),
        ("host", "example.com:8080"),
        ("origin", "https://app.example.com"),
        ("sec-websocket-key", &key),
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-version", "13"),
        ("upgrade", "websocket"),
        ("user-agent", "test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "example.com:8080"),
        ("x-forwarded-proto", "http"),
        ("x-tenant", "acme"),
        ("x-twice", "one"),
        ("x-twice", "two"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    expected.sort();
    assert_eq!(found, expected);

    let response = client.head().await;
    assert_eq!(response.get("set-cookie"), Some("s=1"));
    assert_eq!(response.get("server"), Some("raw"));
    assert_eq!(response.get("keep-alive"), None);
    assert_eq!(response.get("content-length"), None);
    assert_eq!(response.get("transfer-encoding"), None);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_on_both_sides_is_read() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let mut client = proxy.client().await;
    for byte in Handshake::new().bytes() {
        client.send([byte]).await;
    }
    let mut upstream = server.accept().await;
    let request = upstream.head().await;
    for byte in switching(&request, &[]) {
        upstream.send([byte]).await;
    }
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn a_client_that_leaves_during_the_handshake_leaves_nothing_behind() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    client.reset();
    assert_eq!(upstream.read_to_end().await, b"");
    proxy.idle().await;
    assert_eq!(proxy.log_lines(1).await[0]["reason"], "client_gone");
}

#[tokio::test]
async fn tungstenite_opens_talks_and_closes_through_the_proxy() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
    let echo = super::harness::Echo::start().await;
    let proxy = Proxy::start(&yaml(&[&echo.url()], &[]));
    let wsluice::net::listener::Address::Tcp(address) = proxy.address().clone() else { panic!("no TCP") };
    let stream = within("connect", tokio::net::TcpStream::connect(address)).await.unwrap();
    let url = format!("ws://{address}/");
    let (mut socket, _) = within("open", tokio_tungstenite::client_async(url, stream)).await.unwrap();
    for message in [Message::text("héllo"), Message::binary(vec![7; 100_000]), Message::text("")] {
        within("send", socket.send(message.clone())).await.unwrap();
        assert_eq!(within("echo", socket.next()).await.unwrap().unwrap(), message);
    }
    let frame = CloseFrame { code: CloseCode::Library(4321), reason: "bye".into() };
    within("close", socket.close(Some(frame.clone()))).await.unwrap();
    let Some(Ok(Message::Close(Some(answer)))) = within("close", socket.next()).await else { panic!("no Close") };
    assert_eq!(answer.code, frame.code);
    assert!(within("end", socket.next()).await.is_none());
    proxy.idle().await;
    let closed = [("route", "all"), ("initiator", "client"), ("code", "4xxx"), ("reason", "closed")];
    assert_eq!(proxy.metric("wsluice_session_closes_total", &closed), 1.0);
}

#[tokio::test]
async fn a_session_goes_over_unix_sockets_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = RawServer::start_unix(&dir.path().join("app.sock"));
    let listen = dir.path().join("proxy.sock");
    let yaml = yaml(&[server.url()], &[]).replace("127.0.0.1:0", &format!("unix:{}", listen.display()));
    let proxy = Proxy::start(&yaml);
    let mut client: Conn = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    let request = upstream.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(request.get("x-forwarded-for"), None, "a Unix socket has no address");
    client.put(&Frame::text("over a file")).await;
    upstream.expect(&Frame::text("over a file")).await;
}
