//! Pages in place of the proxy's own words: for whom, for which answers, and what stays of them.

use std::fs;

use tempfile::TempDir;

use crate::harness::{Handshake, Head, Proxy, RawServer, yaml};
use crate::plain::{get, head};

/// A directory with two pages, and the line of a route that names them.
fn pages(more: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("502.html", "<p>down</p>"), ("5xx.html", "<p>oops</p>"), ("4xx.json", r#"{"error":true}"#)] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let line = "error_pages: { 502: DIR/502.html, 5xx: DIR/5xx.html, 4xx: DIR/4xx.json }"
        .replace("DIR", dir.path().to_str().unwrap());
    (dir, format!("{line}\n    {more}"))
}

async fn ask(proxy: &Proxy, request: &str) -> (Head, String) {
    let mut client = proxy.client().await;
    client.send(request).await;
    let head = client.head().await;
    let body = client.body(&head).await;
    (head, String::from_utf8(body).unwrap())
}

fn browsing(target: &str) -> String {
    head(&[&format!("GET {target} HTTP/1.1"), "Host: example.com", "Accept: text/html,application/xhtml+xml,*/*;q=0.8"])
}

/// The URL of a server that is gone.
async fn nobody() -> String {
    RawServer::start().await.url().to_owned()
}

#[tokio::test]
async fn a_page_goes_to_browsers_and_the_line_of_text_to_programs() {
    let (_dir, line) = pages("");
    let proxy = Proxy::start(&yaml(&[&nobody().await], &[&line]));
    let (answer, body) = ask(&proxy, &browsing("/")).await;
    assert_eq!((answer.status(), answer.get("content-type")), (502, Some("text/html; charset=utf-8")));
    assert_eq!((body.as_str(), answer.get("cache-control")), ("<p>down</p>", Some("no-store")));
    let (answer, body) = ask(&proxy, &get("/")).await;
    assert_eq!((answer.status(), answer.get("content-type")), (502, Some("text/plain; charset=utf-8")));
    assert!(body.starts_with("connect: "), "{body}");
    let mut client = proxy.client().await;
    client.send(browsing("/").replace("GET", "HEAD")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.get("content-length")), (502, Some("11")));
    let (answer, body) = ask(&proxy, &String::from_utf8(Handshake::new().bytes()).unwrap()).await;
    assert_eq!((answer.status(), answer.get("connection")), (502, Some("close")));
    assert!(body.starts_with("connect: "), "{body}");
    let log = proxy.log_lines(4).await;
    assert!(log.iter().all(|line| line["reason"] == "connect"), "{log:#?}");
}

#[tokio::test]
async fn what_a_client_needs_stays_in_the_head() {
    let (_dir, line) = pages("limits: { connections: 1 }\n    http: proxy");
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[&line]));
    let mut first = proxy.client().await;
    first.send(Handshake::new().bytes()).await;
    server.accept().await.switch(&[]).await;
    assert_eq!(first.head().await.status(), 101);
    let (answer, body) = ask(&proxy, &browsing("/")).await;
    assert_eq!((answer.status(), body.as_str()), (503, "<p>oops</p>"));
    assert!(answer.get("retry-after").is_some());

    let (_dir, line) = pages("http: reject");
    let proxy = Proxy::start(&yaml(&[server.url()], &[&line]));
    let (answer, body) = ask(&proxy, &get("/")).await;
    assert_eq!(
        (answer.status(), answer.get("content-type"), body.as_str()),
        (426, Some("application/json"), r#"{"error":true}"#)
    );
    assert_eq!((answer.get("upgrade"), answer.get("connection")), (Some("websocket"), Some("upgrade")));
}

#[tokio::test]
async fn a_servers_own_answers_stay_and_so_do_those_without_a_route() {
    let (_dir, line) = pages("match: { path: { prefix: /app } }");
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[&line]));
    let mut client = proxy.client().await;
    client.send(browsing("/app")).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    upstream.send(head(&["HTTP/1.1 502 Bad Gateway", "Content-Length: 4"]) + "mine").await;
    let answer = client.head().await;
    assert_eq!((answer.status(), client.body(&answer).await), (502, b"mine".to_vec()));
    let (answer, body) = ask(&proxy, &browsing("/other")).await;
    assert!(answer.status() == 404 && body.starts_with("no_route: "), "{body}");
}

#[tokio::test]
async fn a_page_that_changes_is_sent_anew_and_closes_no_session() {
    let (dir, line) = pages("on_change: close");
    let mut server = RawServer::start().await;
    let mut proxy = Proxy::start(&yaml(&[server.url()], &[&line]));
    let mut session = proxy.client().await;
    session.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    upstream.switch(&[]).await;
    assert_eq!(session.head().await.status(), 101);
    drop(server);
    fs::write(dir.path().join("502.html"), "<p>still down</p>").unwrap();
    let changes = proxy.reload(&proxy.yaml()).await.unwrap();
    assert_eq!((changes.routes.changed.as_slice(), changes.sessions_closing), (&["all".to_owned()][..], 0));
    let (_, body) = ask(&proxy, &browsing("/")).await;
    assert_eq!(body, "<p>still down</p>");
    upstream.put(&crate::harness::Frame::text("still here")).await;
    session.expect(&crate::harness::Frame::text("still here")).await;
}
