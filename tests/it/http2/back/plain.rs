//! Pages by the connections that sessions use.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue};

use super::super::super::harness::{Authority, Conn, H2Server, Head, Io, eventually, within};
use super::{APP, Entrance, FRONTS, Front, Site, config};

/// Sends a request by HTTP/1.1 and returns the answer.
async fn ask(client: &mut Conn, request: &str) -> (Head, Vec<u8>) {
    client.send(request).await;
    let head = client.head().await;
    let body = client.body(&head).await;
    (head, body)
}

#[tokio::test]
async fn pages_and_sessions_share_a_connection() {
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let (_client, _session, mut conn) = site.open().await;
        let serving = async {
            let mut stream = conn.stream().await;
            assert_eq!(stream.request.method(), "GET");
            assert_eq!(stream.request.uri(), "http://example.com/page?a=1");
            assert!(stream.protocol().is_none() && stream.request.body().is_end_stream());
            for name in ["host", "connection", "transfer-encoding", "content-length"] {
                assert_eq!(stream.all(name), [""; 0], "{name}");
            }
            stream.respond(200, &[("x-server", "1"), ("content-length", "4")], "page");
        };
        if front == Front::H1 {
            let mut client = site.proxy().client().await;
            let ((head, body), ()) =
                tokio::join!(ask(&mut client, "GET /page?a=1 HTTP/1.1\r\nHost: example.com\r\n\r\n"), serving);
            assert_eq!((head.status(), &body[..], head.get("x-server")), (200, &b"page"[..], Some("1")));
        } else {
            let (answer, ()) = tokio::join!(site.entrance.client.get("/page?a=1", &[]), serving);
            assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"page"[..]));
        }
        assert_eq!(site.server.accepted(), 1);
    }
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let mut site = Site::new(Front::H1, &[]).await;
    let mut client = site.proxy().client().await;
    let serving = async {
        let mut conn = site.server.accept().await;
        let mut head = conn.stream().await;
        assert_eq!(head.request.method(), "HEAD");
        head.answer(200, &[("content-length", "1234")], true);
        conn.stream().await.answer(204, &[], true);
        conn.stream().await.answer(304, &[("etag", "\"1\"")], true);
        conn
    };
    let asking = async {
        client.send("HEAD / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!((head.status(), head.get("content-length")), (200, Some("1234")));
        for status in [204, 304] {
            client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
            assert_eq!(client.head().await.status(), status);
        }
    };
    tokio::join!(asking, serving);
    site.proxy().metric_becomes("wsluice_upstream_http2_streams_active", &APP, 0.0).await;
}

#[tokio::test]
async fn bodies_go_both_ways_with_their_trailers_and_no_faster_than_they_are_taken() {
    const SIZE: usize = 4 << 20;
    let mut site = Site::new(Front::H2, &["limits: { body: 64MiB }"]).await;
    let request = site.entrance.client.request(
        "POST",
        "/up",
        &[("te", "trailers"), ("trailer", "x-request"), ("content-length", &SIZE.to_string())],
    );
    let (answer, mut send) = site.entrance.client.ask(request, false).await;
    let mut conn = site.server.accept().await;
    let mut stream = conn.stream().await;
    assert_eq!((stream.all("te"), stream.all("content-length")), (vec!["trailers"], vec![&*SIZE.to_string()]));
    let uploading = tokio::spawn(async move {
        let mut left = Bytes::from(vec![3; SIZE]);
        while !left.is_empty() {
            send.reserve_capacity(left.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            let part = left.split_to(room.min(left.len()));
            send.send_data(part, false).unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-request", "2".parse().unwrap());
        trailers.insert("x-other", "2".parse().unwrap());
        send.send_trailers(trailers).unwrap();
    });
    // The server takes nothing yet, so the client is held up.
    eventually("a stall", || (site.proxy().metric("wsluice_upstream_http2_stalls_total", &APP) > 0.0).then_some(()))
        .await;
    assert!(!uploading.is_finished());
    let (body, trailers) = stream.body().await;
    let trailers = trailers.unwrap();
    assert_eq!(
        (trailers.len(), &trailers["x-request"]),
        (1, &HeaderValue::from_static("2")),
        "those that are announced"
    );
    assert!(body.len() == SIZE && body.iter().all(|byte| *byte == 3));
    within("the upload", uploading).await.unwrap();
    let mut back = stream.answer(200, &[("trailer", "x-sum")], false);
    back.send_data(Bytes::from_static(b"done"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "4".parse().unwrap());
    back.send_trailers(trailers).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    let (_, mut recv) = answer.into_parts();
    let mut body = vec![];
    while let Some(data) = within("the body", recv.data()).await {
        body.extend_from_slice(&data.unwrap());
    }
    assert_eq!(body, b"done");
    let trailers = within("trailers", recv.trailers()).await.unwrap();
    assert_eq!(trailers.map(|trailers| trailers["x-sum"].clone()), Some("4".parse().unwrap()));
}

#[tokio::test]
async fn an_answer_before_the_body_is_whole_goes_to_the_client_and_what_is_cut_is_cut_there() {
    let mut site = Site::new(Front::H1, &[]).await;
    let mut client = site.proxy().client().await;
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10\r\n\r\nhalf-").await;
    let mut conn = site.server.accept().await;
    let mut stream = conn.stream().await;
    stream.respond(413, &[], "too much");
    let head = client.head().await;
    assert_eq!((head.status(), client.body(&head).await), (413, b"too much".to_vec()));

    let mut client = site.proxy().client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    let mut stream = conn.stream().await;
    let mut send = stream.answer(200, &[("content-length", "10")], false);
    send.send_data(Bytes::from_static(b"half-"), false).unwrap();
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.read_exact(5).await, b"half-");
    send.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(client.read_to_end().await, b"");
    let lines = site.proxy().log_lines(2).await;
    assert!(lines.iter().any(|line| line["reason"] == "upstream_cut"), "{lines:?}");
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_stream_alone() {
    let mut site = Site::new(Front::H1, &[]).await;
    let mut client = site.proxy().client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    let mut conn = site.server.accept().await;
    let mut stream = conn.stream().await;
    let mut send = stream.answer(200, &[], false);
    send.send_data(Bytes::from_static(b"x"), false).unwrap();
    client.head().await;
    drop(client);
    let reset = within("a reset", std::future::poll_fn(|cx| send.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, Reason::CANCEL);
    let mut client = site.proxy().client().await;
    let ((head, body), ()) = tokio::join!(ask(&mut client, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), async {
        conn.stream().await.respond(200, &[], "next");
    });
    assert_eq!((head.status(), &body[..]), (200, &b"next"[..]));
}

#[tokio::test]
async fn what_the_server_did_not_look_at_is_sent_again_and_what_it_may_have_read_is_not() {
    let post = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n";
    let get = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
    let mut site = Site::new(Front::H1, &[]).await;
    let mut client = site.proxy().client().await;
    let (head, mut conn) = tokio::join!(ask(&mut client, post), async {
        let mut conn = site.server.accept().await;
        conn.stream().await.respond.send_reset(Reason::REFUSED_STREAM);
        conn.stream().await.respond(200, &[], "");
        conn
    });
    assert_eq!(head.0.status(), 200);
    let mut next = None;
    for (request, is_sent_again) in [(post, false), (get, true)] {
        if !is_sent_again {
            let ((head, _), ()) = tokio::join!(ask(&mut client, request), async {
                conn.stream().await;
                conn.lose();
            });
            assert_eq!(head.status(), 502);
            let ((head, _), served) = tokio::join!(ask(&mut client, get), async {
                let mut served = site.server.accept().await;
                served.stream().await.respond(200, &[], "");
                served
            });
            assert_eq!(head.status(), 200);
            next = Some(served);
            continue;
        }
        let mut used = next.take().unwrap();
        let ((head, _), _served) = tokio::join!(ask(&mut client, request), async {
            used.stream().await;
            used.lose();
            let mut served = site.server.accept().await;
            served.stream().await.respond(200, &[], "");
            served
        });
        assert_eq!(head.status(), 200);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_in_time_and_one_that_takes_no_body_are_given_up() {
    let mut site = Site::new(Front::H1, &["timeouts: { response: 300ms, body: 300ms }"]).await;
    let mut client = site.proxy().client().await;
    let (answer, mut conn) = tokio::join!(ask(&mut client, "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), async {
        let mut conn = site.server.accept().await;
        let mut stream = conn.stream().await;
        let reset = within("a reset", std::future::poll_fn(|cx| stream.respond.poll_reset(cx))).await.unwrap();
        assert_eq!(reset, Reason::CANCEL);
        conn
    });
    assert_eq!(answer.0.status(), 504);
    let mut client = site.proxy().client().await;
    let length = 8 << 20;
    client.send(format!("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: {length}\r\n\r\n")).await;
    let (mut reader, mut writer) = client.split();
    let sending = tokio::spawn(async move { writer.send(&vec![0; length]).await });
    let mut stream = conn.stream().await;
    let reset = within("a reset", std::future::poll_fn(|cx| stream.respond.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, Reason::CANCEL);
    let _ = &mut reader;
    let lines = site.proxy().log_lines(2).await;
    assert_eq!(lines[1]["status"], 504, "{lines:?}");
    sending.abort();
}

#[tokio::test]
async fn by_default_tls_decides_for_pages_too() {
    let authority = Authority::new();
    let get = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
    for (alpn, is_http2) in [(&[&b"h2"[..], b"http/1.1"][..], true), (&[b"http/1.1"], false)] {
        let mut tls = rustls::ServerConfig::clone(&authority.server(&["127.0.0.1"]));
        tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let mut server = H2Server::with(h2::server::Builder::new(), Some(tls.into())).await;
        let yaml = config("auto", &[server.url()], &[]);
        let yaml = yaml.replace("{ protocol: auto,", &format!("{{ tls: {{ ca: {:?} }},", authority.ca()));
        let entrance = Entrance::new(Front::H1, &yaml).await;
        let mut client = entrance.proxy.client().await;
        let ((head, body), ()) = tokio::join!(ask(&mut client, get), async {
            let stream = server.accept_tls().await;
            if is_http2 {
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                let mut conn = server.begin(stream).await;
                conn.stream().await.respond(200, &[], "ok");
                // Until it is sent.
                conn.ended().await;
            } else {
                // The connection that was to show it is used.
                let mut conn = Conn::server(Io::TlsServer(Box::new(stream)));
                conn.head().await;
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        });
        assert_eq!((head.status(), &body[..]), (200, &b"ok"[..]));
        assert_eq!(server.accepted(), 1);
    }
}
