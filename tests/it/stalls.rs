//! Stalled plain HTTP: a peer that does not read, send or answer is disconnected, and a running request counts as load.

use crate::harness::{Conn, Frame, Handshake, Proxy, RawServer, eventually, within, yaml};
use crate::plain::{Site, get, head, ok, with_listener};

const BYTES: usize = 64 << 20;

/// More than the sockets and buffers on the way hold.
fn endless() -> String {
    head(&["HTTP/1.1 200 OK", &format!("Content-Length: {BYTES}")])
}

/// Sends as much as the other side accepts, and reports when the connection is gone.
async fn pour(server: &mut Conn) {
    let block = vec![b'x'; 64 << 10];
    within("the end of the connection", async { while server.try_send(&block).await.is_ok() {} }).await;
}

/// A site with these lines in its route and in its listener, whose endpoint has `max_connections: 1`.
async fn site(route: &[&str], listener: &[&str]) -> Site {
    let upstream = RawServer::start().await;
    let yaml = yaml(&[upstream.url()], route);
    let url = upstream.url().to_owned();
    let one = format!("{{ url: \"{url}\", max_connections: 1 }}");
    let quoted = [format!("\"{url}\""), format!("'{url}'"), url].into_iter().find(|it| yaml.contains(it)).unwrap();
    let yaml = with_listener(&yaml.replacen(&quoted, &one, 1), listener);
    Site { proxy: Proxy::start(&yaml), upstream }
}

fn requests(site: &Site) -> f64 {
    let labels = [("upstream", "app"), ("endpoint", site.upstream.url())];
    site.proxy.series("wsluice_endpoint_requests_active", &labels).unwrap()
}

async fn is_free(site: &Site) {
    eventually("a free endpoint", || (requests(site) == 0.0).then_some(())).await;
}

async fn cut(site: &Site, reason: &str) {
    site.proxy.metric_becomes("wsluice_http_responses_cut_total", &[("route", "all"), ("reason", reason)], 1.0).await;
    assert_eq!(site.proxy.log_lines(1).await[0]["reason"], *reason);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_let_go_and_so_is_its_endpoint() {
    let mut site = site(&[], &["timeouts: { send: 300ms }"]).await;
    let (client, mut server, _) = site.ask(&get("/")).await;
    server.send(endless()).await;
    pour(&mut server).await;
    cut(&site, "client_gone").await;
    site.proxy
        .metric_becomes("wsluice_connection_errors_total", &[("listener", "plain"), ("reason", "send_timeout")], 1.0)
        .await;
    is_free(&site).await;
    drop(client);
}

#[tokio::test]
async fn a_client_that_leaves_without_reading_frees_its_endpoint_at_once() {
    let mut site = site(&[], &[]).await;
    let (client, mut server, _) = site.ask(&get("/")).await;
    server.send(endless()).await;
    let leaving = async {
        eventually("an exchange", || (requests(&site) == 1.0).then_some(())).await;
        client.reset();
    };
    tokio::join!(pour(&mut server), leaving);
    cut(&site, "client_gone").await;
    is_free(&site).await;
}

#[tokio::test]
async fn a_request_whose_body_never_comes_is_a_408_and_frees_its_endpoint() {
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut site = site(&["timeouts: { body: 300ms }"], &[]).await;
        let (mut client, mut server, _) = site.ask(&head(&["POST / HTTP/1.1", "Host: a", framing])).await;
        let answer = client.head().await;
        assert_eq!((answer.status(), answer.get("connection")), (408, Some("close")), "{framing}");
        let text = String::from_utf8(client.body(&answer).await).unwrap();
        assert!(text.starts_with("request_timeout: "), "{text}");
        client.expect_end().await;
        server.expect_end().await;
        is_free(&site).await;
    }
}

#[tokio::test]
async fn a_body_that_stalls_halfway_after_the_answer_has_begun_ends_both() {
    let mut site = site(&["timeouts: { body: 300ms }"], &[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 10"]) + "first";
    let (mut client, mut server, _) = site.ask(&request).await;
    assert_eq!(server.read_exact(5).await, b"first");
    server.send(head(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"])).await;
    assert_eq!(client.head().await.status(), 200);
    // The answer makes progress, which does not help.
    let (dripping, ()) = tokio::join!(
        async {
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                if server.try_send("1\r\nx\r\n").await.is_err() {
                    break;
                }
            }
        },
        async {
            within("the end", client.read_to_end()).await;
        }
    );
    let () = dripping;
    cut(&site, "client_timeout").await;
    is_free(&site).await;
}

#[tokio::test]
async fn a_server_that_takes_nothing_of_a_body_is_a_504() {
    let mut site = site(&["timeouts: { body: 300ms, response: 300ms }"], &[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", &format!("Content-Length: {BYTES}")]);
    let (client, server, _) = site.ask(&request).await;
    let (reader, mut writer) = tokio::io::split(client.io);
    let uploading = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let block = vec![b'x'; 64 << 10];
        while writer.write_all(&block).await.is_ok() {}
    });
    let line = site.proxy.log_lines(1).await.remove(0);
    assert_eq!((&line["status"], &line["reason"]), (&504.into(), &"upstream_timeout".into()), "{line}");
    within("the end of the upload", uploading).await.unwrap();
    is_free(&site).await;
    drop((reader, server));
}

#[tokio::test]
async fn a_server_that_falls_silent_in_its_answer_is_let_go() {
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut site = site(&["timeouts: { body: 300ms }"], &[]).await;
        let (mut client, mut server, _) = site.ask(&get("/")).await;
        server.send(head(&["HTTP/1.1 200 OK", framing])).await;
        assert_eq!(client.head().await.status(), 200);
        client.expect_end().await;
        server.expect_end().await;
        cut(&site, "upstream_timeout").await;
        is_free(&site).await;
    }
}

#[tokio::test]
async fn an_event_stream_may_be_silent_and_any_other_answer_may_not() {
    let mut site = Site::start(&["timeouts: { body: 300ms }"]).await;
    let fields = ["HTTP/1.1 200 OK", "Content-Type: Text/Event-Stream ; charset=utf-8", "Transfer-Encoding: chunked"];
    let (mut events, mut source, _) = site.ask(&get("/events")).await;
    source.send(head(&fields)).await;
    assert_eq!(events.head().await.status(), 200);
    let (mut other, mut server, _) = site.ask(&get("/other")).await;
    server.send(head(&["HTTP/1.1 200 OK", "Content-Type: text/plain", "Transfer-Encoding: chunked"])).await;
    assert_eq!(other.head().await.status(), 200);
    // It began later and has ended.
    other.expect_end().await;
    source.send("7\r\ndata: 1\r\n0\r\n\r\n").await;
    let (body, _) = crate::plain::chunked(&mut events).await;
    assert_eq!(body, b"data: 1");
}

#[tokio::test]
async fn an_event_stream_has_a_limit_of_its_own() {
    let mut site = site(&["timeouts: { body: off, event_stream: 300ms }"], &[]).await;
    let (mut events, mut source, _) = site.ask(&get("/events")).await;
    source.send(head(&["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"])).await;
    assert_eq!(events.head().await.status(), 200);
    events.expect_end().await;
    source.expect_end().await;
    is_free(&site).await;
}

#[tokio::test]
async fn what_is_left_of_a_body_when_the_answer_is_whole_may_come_and_is_not_waited_for() {
    let mut site = site(&[], &[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 10"]) + "first";
    let (mut client, mut server, _) = site.ask(&request).await;
    assert_eq!(server.read_exact(5).await, b"first");
    server.send(ok("early")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), client.body(&answer).await), (200, b"early".to_vec()));
    // Long before any time limit of a body.
    server.expect_end().await;
    client.expect_end().await;
    is_free(&site).await;
}

#[tokio::test]
async fn a_late_end_of_a_body_costs_the_next_request_on_its_connection_nothing() {
    let mut site = Site::start(&[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"]) + "5\r\nfirst\r\n";
    let (mut client, mut server, _) = site.ask(&request).await;
    assert_eq!(crate::plain::chunk(&mut server).await, b"first");
    server.send(ok("early")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), client.body(&answer).await), (200, b"early".to_vec()));
    client.send("0\r\n\r\n").await;
    assert_eq!(crate::plain::chunk(&mut server).await, b"");
    assert_eq!(crate::plain::line(&mut server).await, "");
    let mut next = site.proxy.client().await;
    let asking = async {
        next.send(get("/next")).await;
        let answer = next.head().await;
        (answer.status(), next.body(&answer).await)
    };
    let answering = async {
        assert_eq!(server.head().await.target(), "/next", "on the same connection");
        // Longer than a body may stall once its answer is complete.
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        server.send(ok("next")).await;
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer, (200, b"next".to_vec()));
}

#[tokio::test]
async fn an_answer_counts_against_limits_until_it_is_whole_and_so_do_sessions() {
    let mut site = Site::start(&["limits: { connections: 2 }"]).await;
    let (mut first, mut server, _) = site.ask(&get("/1")).await;
    server.send(head(&["HTTP/1.1 200 OK", "Content-Length: 4"]) + "ab").await;
    let answer = first.head().await;
    assert_eq!(answer.status(), 200);
    let mut session = site.proxy.client().await;
    let opening = async {
        session.open(&Handshake::to("/ws")).await;
        session
    };
    let accepting = async {
        let mut server = site.upstream.accept().await;
        server.switch(&[]).await;
        server
    };
    let (mut session, mut ws) = tokio::join!(opening, accepting);
    for request in [get("/2"), String::from_utf8(Handshake::to("/ws").bytes()).unwrap()] {
        let (refused, body) = site.refused(&request).await;
        assert_eq!((refused.status(), body.starts_with("route_full: ")), (503, true), "{body}");
    }
    server.send("cd").await;
    assert_eq!(first.body(&answer).await, b"abcd");
    is_free(&site).await;
    first.send(get("/3")).await;
    assert_eq!(server.head().await.target(), "/3");
    server.send(ok("")).await;
    assert_eq!(first.head().await.status(), 200);
    session.put(&Frame::text("still here")).await;
    ws.expect(&Frame::text("still here")).await;
}

#[tokio::test]
async fn an_endpoint_with_one_place_gives_it_to_one_exchange_at_a_time() {
    let mut site = site(&[], &[]).await;
    let (mut first, mut server, _) = site.ask(&get("/1")).await;
    let (refused, body) = site.refused(&get("/2")).await;
    assert_eq!((refused.status(), body.starts_with("endpoints_full: ")), (503, true), "{body}");
    server.send(head(&["HTTP/1.1 200 OK", "Content-Length: 4"]) + "ab").await;
    let answer = first.head().await;
    let (refused, _) = site.refused(&String::from_utf8(Handshake::to("/ws").bytes()).unwrap()).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(requests(&site), 1.0);
    server.send("cd").await;
    assert_eq!(first.body(&answer).await, b"abcd");
    is_free(&site).await;
    first.send(get("/3")).await;
    assert_eq!(server.head().await.target(), "/3");
}

#[tokio::test]
async fn a_refusal_of_a_handshake_is_an_answer_like_any_other() {
    let mut site = site(&["timeouts: { body: 300ms }"], &[]).await;
    let (mut client, mut server, _) = site.ask(&String::from_utf8(Handshake::to("/ws").bytes()).unwrap()).await;
    server.send(head(&["HTTP/1.1 403 Forbidden", "Content-Length: 10"]) + "never").await;
    assert_eq!(client.head().await.status(), 403);
    assert_eq!(requests(&site), 1.0);
    within("the end", client.read_to_end()).await;
    server.expect_end().await;
    is_free(&site).await;
}

// ---- bodies that are too large

fn rejected(site: &Site) -> f64 {
    let labels = [("listener", "plain"), ("route", "all"), ("reason", "body_limit")];
    site.proxy.metric("wsluice_rejections_total", &labels)
}

#[tokio::test]
async fn a_body_that_is_too_large_by_its_own_account_is_refused_before_it_is_read() {
    let mut site = site(&["limits: { body: 10B }"], &[]).await;
    for expects in ["", "Expect: 100-continue"] {
        let fields = ["POST / HTTP/1.1", "Host: a", "Content-Length: 11", expects];
        let fields: Vec<&str> = fields.into_iter().filter(|field| !field.is_empty()).collect();
        let mut client = site.proxy.client().await;
        client.send(head(&fields)).await;
        let answer = client.head().await;
        assert_eq!((answer.status(), answer.get("connection")), (413, Some("close")), "{expects}");
        let text = String::from_utf8(client.body(&answer).await).unwrap();
        assert_eq!(text, "body_limit: the request's body is too large\n");
        client.expect_end().await;
    }
    assert_eq!((rejected(&site), site.upstream.connections().await), (2.0, 0));
    let line = &site.proxy.log_lines(2).await[0];
    assert_eq!((&line["status"], &line["reason"]), (&413.into(), &"body_limit".into()), "{line}");
    assert!(line["detail"].as_str().unwrap().contains("limits.body (10 bytes)"), "{line}");
    // A byte less passes.
    let request = head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 10"]) + "0123456789";
    let (mut client, mut server, _) = site.ask(&request).await;
    assert_eq!(server.read_exact(10).await, b"0123456789");
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_chunked_body_is_cut_where_it_becomes_too_large() {
    let mut site = site(&["limits: { body: 10B }"], &[]).await;
    let chunked = head(&["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"]);
    let (mut client, mut server, _) = site.ask(&(chunked.clone() + "a\r\n0123456789\r\n")).await;
    client.send("1\r\nx\r\n").await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.get("connection")), (413, Some("close")));
    let body = String::from_utf8(server.read_to_end().await).unwrap();
    assert!(!body.contains('x') && !body.contains("\r\n0\r\n"), "the server cannot take it for whole: {body:?}");
    assert_eq!(rejected(&site), 1.0);
    is_free(&site).await;
    // No endpoint has failed.
    let labels = [("upstream", "app"), ("endpoint", site.upstream.url()), ("reason", "response_lost")];
    assert_eq!(site.proxy.series("wsluice_upstream_errors_total", &labels), Some(0.0));
    // One whose answer has begun breaks off with it.
    let (mut client, mut server, _) = site.ask(&(chunked + "a\r\n0123456789\r\n")).await;
    server.send(head(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]) + "1\r\ny\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    client.send("1\r\nx\r\n").await;
    within("the end", client.read_to_end()).await;
    let line = &site.proxy.log_lines(2).await[1];
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"body_limit".into()), "{line}");
    is_free(&site).await;
}
