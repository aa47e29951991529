//! Answers that the proxy compresses, from a server's bytes to a client's.

use std::io::Read;

use crate::harness::{Conn, Head};
use crate::plain::{Site, chunk, chunked, head};

fn get(accept: &str) -> String {
    head(&["GET / HTTP/1.1", "Host: a", &format!("Accept-Encoding: {accept}")])
}

fn html(fields: &[&str], body: &str) -> String {
    let length = format!("Content-Length: {}", body.len());
    head(&[&["HTTP/1.1 200 OK", "Content-Type: text/html", &length], fields].concat()) + body
}

fn page() -> String {
    "<p>All work and no play makes Jack a dull boy.</p>\n".repeat(10_000)
}

fn gunzipped(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

async fn answered(site: &mut Site, request: &str, answer: &str) -> (Head, Conn) {
    let (mut client, mut server, _) = site.ask(request).await;
    server.send(answer).await;
    let head = client.head().await;
    (head, client)
}

#[tokio::test]
async fn a_page_is_compressed_as_the_client_likes_it_and_the_log_says_so() {
    let mut site = Site::start(&["http_compression: on"]).await;
    let (head, mut client) =
        answered(&mut site, &get("br;q=0.5, gzip"), &html(&["ETag: \"a\"", "Accept-Ranges: bytes"], &page())).await;
    for (name, value) in [
        ("content-encoding", Some("gzip")),
        ("vary", Some("Accept-Encoding")),
        ("etag", Some("W/\"a\"")),
        ("transfer-encoding", Some("chunked")),
        ("content-length", None),
        ("accept-ranges", None),
    ] {
        assert_eq!(head.get(name), value, "{name}");
    }
    let (body, _) = chunked(&mut client).await;
    assert!(body.len() < page().len() / 20, "{}", body.len());
    assert_eq!(gunzipped(&body), page());
    let line = &site.proxy.log_lines(1).await[0];
    assert_eq!((&line["compression"], &line["bytes_out"]), (&"gzip".into(), &body.len().into()), "{line}");
    for coding in ["br", "zstd"] {
        let (head, mut client) = answered(&mut site, &get(coding), &html(&[], &page())).await;
        assert_eq!(head.get("content-encoding"), Some(coding));
        assert!(chunked(&mut client).await.0.len() < page().len() / 20);
    }
}

#[tokio::test]
async fn what_is_not_to_be_compressed_passes_byte_by_byte() {
    let mut site = Site::start(&["http_compression: { min_bytes: 100B }"]).await;
    let text = "x".repeat(200);
    for (request, answer, varies) in [
        (head(&["GET / HTTP/1.1", "Host: a"]), html(&["ETag: \"a\""], &text), true),
        (get("identity"), html(&["ETag: \"a\""], &text), true),
        (get("gzip;q=0"), html(&["ETag: \"a\""], &text), true),
        (get("gzip"), html(&["ETag: \"a\"", "Content-Encoding: br"], &text), false),
        (get("gzip"), html(&["ETag: \"a\"", "Cache-Control: no-transform"], &text), false),
    ] {
        let (head, mut client) = answered(&mut site, &request, &answer).await;
        assert_eq!((head.get("etag"), head.get("content-length")), (Some("\"a\""), Some("200")), "{answer}");
        assert_eq!(head.get("vary"), varies.then_some("Accept-Encoding"), "{answer}");
        assert_eq!(client.body(&head).await, text.as_bytes());
    }
    let (head, mut client) = answered(&mut site, &get("gzip"), &html(&[], &"x".repeat(99))).await;
    assert_eq!((head.get("content-encoding"), client.body(&head).await.len()), (None, 99));
    assert!(site.proxy.log_lines(1).await[0].get("compression").is_none());
    // HEAD says the length of what a GET without compression has.
    let (head, _) = answered(&mut site, &get("gzip").replace("GET", "HEAD"), &html(&[], "")).await;
    assert_eq!((head.get("content-encoding"), head.get("content-length")), (None, Some("0")));
    // By default nothing is.
    let mut site = Site::start(&[]).await;
    let (head, _) = answered(&mut site, &get("gzip"), &html(&[], &page())).await;
    assert_eq!((head.get("content-encoding"), head.get("vary")), (None, None));
}

#[tokio::test]
async fn an_event_arrives_when_it_is_sent_and_so_does_a_part_of_a_stream() {
    let mut site = Site::start(&["http_compression: on"]).await;
    let (mut client, mut server, _) = site.ask(&get("gzip")).await;
    let stream =
        |kind: &str| head(&["HTTP/1.1 200 OK", &format!("Content-Type: {kind}"), "Transfer-Encoding: chunked"]);
    server.send(stream("text/event-stream")).await;
    let found = client.head().await;
    assert_eq!((found.get("content-encoding"), found.get("vary")), (None, None));
    server.send("9\r\ndata: 1\n\n\r\n").await;
    assert_eq!(chunk(&mut client).await, b"data: 1\n\n");
    let (mut client, mut server, _) = site.ask(&get("gzip")).await;
    server.send(stream("application/json")).await;
    assert_eq!(client.head().await.get("content-encoding"), Some("gzip"));
    let mut came = vec![];
    let mut whole = String::new();
    for part in ["{\"a\":1}\n", "{\"b\":2}\n"] {
        server.send(format!("{:x}\r\n{part}\r\n", part.len())).await;
        whole += part;
        // The server waits for nothing, and the client can read it.
        loop {
            came.extend(chunk(&mut client).await);
            let mut text = vec![];
            let _ = flate2::read::GzDecoder::new(&came[..]).read_to_end(&mut text);
            if text == whole.as_bytes() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_made_whole() {
    let mut site = Site::start(&["http_compression: on"]).await;
    let (mut client, mut server, _) = site.ask(&get("gzip")).await;
    server
        .send(head(&["HTTP/1.1 200 OK", "Content-Type: text/html", "Content-Length: 100000"]) + &"x".repeat(50_000))
        .await;
    assert_eq!(client.head().await.status(), 200);
    drop(server);
    let rest = client.read_to_end().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "its last chunk would make it whole");
    assert_eq!(site.proxy.log_lines(1).await[0]["reason"], "upstream_cut");
}
