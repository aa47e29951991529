//! `wsluice ping`: what it shows of a server, and what it reports about each fault.

use std::process::Stdio;

use crate::harness::{Authority, Conn, Echo, Frame, Handshake, Proxy, RawServer, switching, within, yaml};
use crate::plain::with_listener;
use crate::process::wsluice;

/// Runs it while `server` answers. Returns its exit code, its output, and its errors.
async fn ping(arguments: &[&str], server: impl Future<Output = ()>) -> (i32, String, String) {
    let mut command = wsluice(&["ping"]);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    let (output, ()) = within("the end of a ping", async { tokio::join!(ended, server) }).await;
    let output = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Returns the names of the steps, in order.
fn steps(out: &str) -> Vec<&str> {
    let steps = out.lines().skip(1).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    steps.filter_map(|line| line.split_whitespace().next()).collect()
}

#[tokio::test]
async fn each_step_to_an_open_websocket_is_shown_through_tls_and_the_proxy() {
    let (authority, echo) = (Authority::new(), Echo::start().await);
    let (cert, key) = authority.issue("a", &["localhost"]);
    let tls = format!("tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}] }}");
    let proxy = Proxy::start(&with_listener(&yaml(&[&echo.url()], &[]), &[&tls]));
    let port = proxy.address().to_string().rsplit_once(':').unwrap().1.to_owned();
    let (url, ca) = (format!("wss://localhost:{port}/ws?x=1"), authority.ca());
    let connect = format!("127.0.0.1:{port}");
    let trusting = ["--ca", ca.to_str().unwrap(), "--connect", &connect];
    let (code, out, err) = ping(&[&[url.as_str(), "--count", "2"], &trusting[..]].concat(), async {}).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(steps(&out), ["TCP", "TLS", "101", "Pong", "Pong", "Close"], "{out}");
    for part in [url.as_str(), "TLS 1.3", "certificate for localhost", "days more", "min/avg/max", "  1000"] {
        assert!(out.contains(part), "{part}: {out}");
    }

    // Not trusted: the certificate is still shown.
    let (code, out, err) = ping(&[&url, "--connect", &connect], async {}).await;
    assert_eq!(code, 1);
    assert!(out.contains("certificate for localhost"), "{out}");
    assert!(err.contains("UnknownIssuer") && err.contains("try: ") && err.contains("--ca FILE"), "{err}");
    assert!(!err.contains("upstream"), "{err}");
    let (code, out, err) = ping(&[&url, "--connect", &connect, "--insecure"], async {}).await;
    assert!(code == 0 && out.contains("not verified"), "{out}{err}");

    // The certificate is for another name.
    let other = format!("wss://b.example:{port}/");
    let (code, out, err) = ping(&[&[other.as_str()], &trusting[..]].concat(), async {}).await;
    assert!(code == 1 && out.contains("certificate for localhost"), "{out}");
    assert!(err.contains("for other names"), "{err}");

    // The wrong scheme, in both directions.
    let (code, _, err) = ping(&[&format!("ws://localhost:{port}/"), "--connect", &connect], async {}).await;
    assert!(code == 1 && err.contains(&format!("wss://localhost:{port}/")), "{err}");
    let proxy = Proxy::start(&yaml(&[&echo.url()], &[]));
    for (plain, reason) in [(format!("ws://{}", proxy.address()), "does not speak TLS"), (echo.url(), "closed")] {
        let (code, _, err) = ping(&[&plain.replace("ws:", "wss:")], async {}).await;
        assert!(code == 1 && err.contains(reason) && err.contains(&format!("try {plain}/")), "{err}");
    }
}

/// Reads one request and sends the answer that `answer` makes of its head.
async fn answer(server: &mut RawServer, answer: impl FnOnce(&crate::harness::Head) -> Vec<u8>) -> Conn {
    let mut conn = server.accept().await;
    let head = conn.head().await;
    conn.send(answer(&head)).await;
    conn
}

#[tokio::test]
async fn what_is_asked_for_is_sent_as_a_browser_would() {
    let mut server = RawServer::start().await;
    let url = format!("{}/a%20b?c", server.url());
    let arguments = [
        url.as_str(),
        "--origin",
        "https://app.example.com",
        "--subprotocol",
        "v2.chat",
        "--subprotocol",
        "v1.chat",
        "--header",
        "Authorization: Bearer abc",
        "-H",
        "Host: chat.example.com",
        "-H",
        "Sec-WebSocket-Key: mine",
    ];
    let (code, out, err) = ping(&arguments, async {
        let mut conn = answer(&mut server, |head| {
            assert_eq!(head.target(), "/a%20b?c");
            for (name, value) in [
                ("host", "chat.example.com"),
                ("origin", "https://app.example.com"),
                ("sec-websocket-protocol", "v2.chat, v1.chat"),
                ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
                ("authorization", "Bearer abc"),
            ] {
                assert_eq!(head.all(name), [value], "{name}");
            }
            assert_eq!(head.all("sec-websocket-key").len(), 1);
            let chosen = [("Sec-WebSocket-Protocol", "v1.chat"), ("Sec-WebSocket-Extensions", "permessage-deflate")];
            switching(head, &[&chosen[..], &[("X-Served-By", "node-1")]].concat())
        })
        .await;
        // A compressed message and a Ping of the server come before the Pong.
        let ping = conn.frame().await;
        assert_eq!(ping.opcode, 9);
        conn.send(Frame::text("hello").with_rsv(4).plain()).await;
        conn.send(Frame::ping("you?").plain()).await;
        conn.expect(&Frame::pong("you?")).await;
        conn.send(Frame::pong(ping.payload).plain()).await;
        conn.expect(&Frame::close(1000, "")).await;
        conn.send(Frame::close(1000, "").plain()).await;
    })
    .await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for part in ["subprotocol: v1.chat; extensions: permessage-deflate", "1 message came before it"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(out.contains("x-served-by: node-1\n"), "{out}");
}

#[tokio::test]
async fn each_refusal_says_what_to_try() {
    let mut server = RawServer::start().await;
    let url = format!("{}/ws", server.url());
    let refused =
        |status: &str, more: &str| format!("HTTP/1.1 {status}\r\n{more}Content-Length: 5\r\n\r\nno!\r\n").into_bytes();
    for (status, more, arguments, advice) in [
        ("200 OK", "", &[][..], "is the path right?"),
        ("302 Found", "Location: https://b.example/ws\r\n", &[], "https://b.example/ws"),
        ("400 Bad Request", "", &[], "`Upgrade`"),
        ("401 Unauthorized", "", &[], "--header 'Authorization"),
        ("403 Forbidden", "", &[], "--origin http"),
        ("403 Forbidden", "", &["--origin", "https://c.example"], "may not allow the origin https://c.example"),
        ("404 Not Found", "", &[], "check --config FILE --request"),
        ("426 Upgrade Required", "", &[], "does not want a WebSocket"),
        ("503 Service Unavailable", "Retry-After: 7\r\n", &[], "in 7 s"),
        ("502 Bad Gateway", "", &[], "cannot reach its own server"),
        ("500 Internal Server Error", "", &[], "the server's log"),
        ("418 I'm a teapot", "", &[], "what the answer says"),
    ] {
        let arguments = [&[url.as_str()], arguments].concat();
        let (code, out, err) =
            ping(&arguments, async { drop(answer(&mut server, |_| refused(status, more)).await) }).await;
        assert_eq!(code, 1, "{status}");
        assert_eq!(steps(&out), ["TCP", &status[..3]], "{out}");
        assert!(out.contains("| no!\n"), "{out}");
        assert!(err.contains("try: ") && err.contains(advice), "{status}: {err}");
    }
}

#[tokio::test]
async fn each_way_to_fail_after_the_connection_is_named() {
    let mut server = RawServer::start().await;
    let url = format!("{}/ws", server.url());
    let short = [url.as_str(), "--timeout", "300ms"];
    // Nothing comes. The connection stays open until the client gives up.
    let (code, _, err) = ping(&short, async { server.accept().await.read_to_end().await.clear() }).await;
    assert!(code == 1 && err.contains("did not answer the WebSocket handshake in time"), "{err}");
    let (code, _, err) = ping(&short, async {
        let mut conn = answer(&mut server, |head| switching(head, &[])).await;
        conn.read_to_end().await;
    })
    .await;
    assert!(code == 1 && err.contains("no Pong came in time"), "{err}");
    let (code, _, err) = ping(&[&url], async { drop(server.accept().await.head().await) }).await;
    assert!(code == 1 && err.contains("try: ") && err.contains("wss://"), "{err}");
    let (code, _, err) = ping(&[&url], async {
        let mut conn = answer(&mut server, |head| switching(head, &[])).await;
        conn.send(Frame::close(4401, "token\u{7}?").plain()).await;
        conn.read_to_end().await;
    })
    .await;
    assert!(code == 1 && err.contains("4401 \"token.?\"") && err.contains("--subprotocol"), "{err}");
    let (code, _, err) = ping(&[&url], async {
        drop(answer(&mut server, |_| Handshake::new().bytes()).await.read_to_end().await);
    })
    .await;
    assert!(code == 1 && err.contains("try: "), "{err}");
    let (code, _, err) = ping(&[&url], async {
        let wrong = |_: &crate::harness::Head| {
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n".to_vec()
        };
        drop(answer(&mut server, wrong).await);
    })
    .await;
    assert!(code == 1 && err.contains("no WebSocket server answers 101"), "{err}");

    // No server listens there.
    let port = server.address().port();
    drop(server);
    let (code, out, err) = ping(&[&url], async {}).await;
    assert!(code == 1 && out.contains("refused") && err.contains(&format!("nothing listens on port {port}")), "{err}");
    let (code, out, err) = ping(&["ws://no-such-host.invalid/"], async {}).await;
    assert!(code == 1 && steps(&out) == ["DNS"] && err.contains("getent hosts"), "{out}{err}");
}

#[test]
fn wrong_arguments_exit_with_2() {
    for arguments in [
        &[][..],
        &["chat.example.com"],
        &["ftp://chat.example.com/"],
        &["ws://a/#b"],
        &["ws://a/", "--connect", "b"],
        &["ws://a/", "--header", "no colon"],
        &["ws://a/", "--header", "A: b\nc: d"],
        &["ws://a/", "--subprotocol", "a b"],
        &["ws://a/", "--timeout", "soon"],
    ] {
        let output = wsluice(&["ping"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
