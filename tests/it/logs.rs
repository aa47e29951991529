//! The access log: what a line contains about a session or a request, and what it never contains.

use wsluice::telemetry::logging::Format;

use crate::harness::{Echo, Frame, Handshake, Pair, Proxy, RawServer, yaml};
use crate::plain::{Site, get, head, ok};

#[tokio::test]
async fn the_line_of_a_session_tells_its_whole_story() {
    let handshake = Handshake::to("/room/7?user=anna&access_token=s3cret&page=2")
        .set("Host", "Chat.Example.com:8080")
        .with("Sec-WebSocket-Protocol", "chat.v2, chat.v1")
        .with("User-Agent", "test \"agent\"/1")
        .with("X-Request-Id", "req-1");
    let answer = [("Sec-WebSocket-Protocol", "chat.v1")];
    let Pair { mut client, mut server, upstream, proxy, .. } = Pair::open_with(&[], &handshake, &answer).await;
    assert!(proxy.log().is_empty(), "the line comes at the end");
    for frame in [Frame::text("one"), Frame::text("two"), Frame::binary([0; 300]), Frame::ping("p")] {
        client.put(&frame).await;
        server.expect(&frame).await;
    }
    for frame in [Frame::pong("p"), Frame::text("three")] {
        server.put(&frame).await;
        client.expect(&frame).await;
    }
    client.put(&Frame::close(4001, "bye")).await;
    server.expect(&Frame::close(4001, "bye")).await;
    server.put(&Frame::close(4001, "bye")).await;
    client.expect(&Frame::close(4001, "bye")).await;
    server.finish().await;
    client.expect_end().await;
    let port = client.io.tcp().and_then(|tcp| tcp.local_addr().ok()).unwrap().port();
    client.finish().await;
    let log = proxy.log_lines(1).await;
    assert_eq!(log.len(), 1);
    let line = &log[0];
    for (key, value) in [
        ("level", "info"),
        ("target", "access"),
        ("message", "session"),
        ("client", "127.0.0.1"),
        ("listener", "plain"),
        ("route", "all"),
        ("upstream", "app"),
        ("endpoint", upstream.url()),
        ("method", "GET"),
        ("path", "/room/7?user=anna&access_token=***&page=2"),
        ("subprotocol", "chat.v1"),
        ("request_id", "req-1"),
        ("close_initiator", "client"),
        ("close_reason", "bye"),
        ("reason", "closed"),
    ] {
        assert_eq!(line[key].as_str(), Some(value), "{key} in {line}");
    }
    for (key, value) in [
        ("status", 101),
        ("text_in", 2),
        ("binary_in", 1),
        ("pings_in", 1),
        ("pongs_in", 0),
        ("text_out", 1),
        ("binary_out", 0),
        ("pings_out", 0),
        ("pongs_out", 1),
        ("close_code", 4001),
        ("attempts", 1),
    ] {
        assert_eq!(line[key].as_u64(), Some(value), "{key} in {line}");
    }
    // Frames with their headers: two texts of 3, a binary of 300, a Ping of 1, a Close of 5; masked ones have 4 more.
    assert_eq!(line["bytes_in"].as_u64(), Some(2 * 9 + 308 + 7 + 11));
    assert_eq!(line["bytes_out"].as_u64(), Some(3 + 7 + 7));
    assert_eq!(line["client_port"].as_u64(), Some(u64::from(port)));
    assert!(line["host"].as_str().unwrap().eq_ignore_ascii_case("chat.example.com:8080"));
    let (whole, handshake) = (line["duration_ms"].as_f64().unwrap(), line["handshake_ms"].as_f64().unwrap());
    assert!(0.0 < handshake && handshake <= whole, "{line}");
    assert!(line["start"].as_str().unwrap() <= line["ts"].as_str().unwrap());
    assert!(!line.to_string().contains("s3cret"));
    assert_eq!(line.get("detail"), None);
}

#[tokio::test]
async fn the_line_of_a_request_tells_what_was_answered() {
    let mut site = Site::start(&[]).await;
    let request = head(&["PUT /file?api_key=s3cret HTTP/1.1", "Host: a", "User-Agent: curl/8", "Content-Length: 3"]);
    let (mut client, mut server, _) = site.ask(&(request + "abc")).await;
    server.read_exact(3).await;
    server.send(ok("done")).await;
    let answer = client.head().await;
    client.body(&answer).await;
    let log = site.proxy.log_lines(1).await;
    let line = &log[0];
    for (key, value) in [
        ("message", "request"),
        ("method", "PUT"),
        ("path", "/file?api_key=***"),
        ("host", "a"),
        ("user_agent", "curl/8"),
        ("route", "all"),
        ("reason", "ok"),
    ] {
        assert_eq!(line[key].as_str(), Some(value), "{key} in {line}");
    }
    assert_eq!(
        (line["status"].as_u64(), line["bytes_in"].as_u64(), line["bytes_out"].as_u64()),
        (Some(200), Some(3), Some(4))
    );
    for absent in ["close_code", "text_in", "handshake_ms", "tls", "subprotocol", "detail"] {
        assert_eq!(line.get(absent), None, "{line}");
    }
}

#[tokio::test]
async fn a_refused_handshake_is_a_request_with_a_reason() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&yaml(&[&echo.url()], &[r#"origins: { allow: ["https://*.example.org"] }"#]));
    let mut client = proxy.client().await;
    assert_eq!(client.ask(&Handshake::new().with("Origin", "https://evil.example")).await.status(), 403);
    let log = proxy.log_lines(1).await;
    let line = &log[0];
    assert_eq!((line["message"].as_str(), line["reason"].as_str()), (Some("request"), Some("origin")));
    assert_eq!((line["status"].as_u64(), line["attempts"].as_u64()), (Some(403), Some(0)));
    assert_eq!((line.get("upstream"), line.get("endpoint")), (None, None));
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("https://evil.example") && detail.contains("https://*.example.org"), "{detail}");
    let labels = [("listener", "plain"), ("route", "all"), ("reason", "origin")];
    proxy.metric_becomes("wsluice_rejections_total", &labels, 1.0).await;
    let labels = [("listener", "plain"), ("route", "all"), ("http", "1.1"), ("code", "403")];
    proxy.metric_becomes("wsluice_handshakes_total", &labels, 1.0).await;
}

#[tokio::test]
async fn what_a_stranger_sends_stays_inside_its_field() {
    let mut site = Site::start(&[]).await;
    let nasty = "a\\\",\"status\":1,\"x\":\"\u{1b}[31m\u{2028}\u{9b}";
    let request =
        format!("GET /a?q=%0a%22&x=y HTTP/1.1\r\nHost: a\r\nUser-Agent: {}\r\n\r\n", nasty.replace('\u{1b}', "\t"));
    let (mut client, mut server, _) = site.ask(&request).await;
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    let text = site.proxy.log_lines(1).await;
    assert_eq!((text.len(), text[0]["status"].as_u64()), (1, Some(200)));
    let raw = &site.proxy.log_text()[0];
    assert!(!raw.chars().any(char::is_control), "{raw:?}");
}

#[tokio::test]
async fn for_people_a_line_is_words() {
    let echo = Echo::start().await;
    let proxy = Proxy::start_as(&yaml(&[&echo.url()], &[]), Format::Human);
    let mut client = proxy.client().await;
    client.open(&Handshake::to("/ws?token=s3cret")).await;
    client.put(&Frame::text("hello")).await;
    client.expect(&Frame::text("hello")).await;
    client.put(&Frame::close(1000, "bye now")).await;
    client.expect_close().await;
    client.expect_end().await;
    client.finish().await;
    proxy.idle().await;
    let log = proxy.log_text();
    assert_eq!(log.len(), 1);
    for word in [
        " session 127.0.0.1:",
        " GET example.com/ws?token=*** 101 closed ",
        " route=all ",
        " in=1msg/",
        " close=client:1000 ",
        "bye now",
    ] {
        assert!(log[0].contains(word), "{word:?} is missing in {}", log[0]);
    }
}

#[tokio::test]
async fn the_log_can_be_off() {
    let mut upstream = RawServer::start().await;
    let proxy = Proxy::start(&(yaml(&[upstream.url()], &[]) + "log: { access: false }\n"));
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    drop(client);
    proxy.idle().await;
    assert_eq!(proxy.log_text(), [""; 0]);
}
