//! Plain HTTP on the routes of WebSockets: streamed bodies, both ways, and all kinds of failure.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Event, Handshake, Proxy, RawServer, in_turn, within, yaml};
use crate::plain::{Site, chunk, chunked, get, head, ok};

// ---- bodies

#[tokio::test]
async fn a_body_of_any_framing_arrives_whole() {
    let mut site = Site::start(&[]).await;

    let (mut client, mut server, request) = site.ask(&get("/")).await;
    assert_eq!((request.line.as_str(), request.get("content-length")), ("GET / HTTP/1.1", None));
    assert_eq!(request.get("transfer-encoding"), None);
    server.send(ok("answer")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), client.body(&answer).await), (200, b"answer".to_vec()));

    client.send(head(&["POST /a HTTP/1.1", "Host: a", "Content-Length: 5"]) + "hello").await;
    let request = server.head().await;
    assert_eq!((request.line.as_str(), request.get("content-length")), ("POST /a HTTP/1.1", Some("5")));
    assert_eq!(server.read_exact(5).await, b"hello");
    server
        .send(head(&["HTTP/1.1 201 Created", "Transfer-Encoding: chunked"]) + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        .await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.get("transfer-encoding")), (201, Some("chunked")));
    assert_eq!(chunked(&mut client).await, (b"abcde".to_vec(), vec![]));

    client.send(head(&["PUT /b HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"]) + "3\r\nabc\r\n").await;
    let request = server.head().await;
    assert_eq!((request.get("transfer-encoding"), request.get("content-length")), (Some("chunked"), None));
    assert_eq!(chunk(&mut server).await, b"abc");
    client.send("2\r\nde\r\n0\r\n\r\n").await;
    assert_eq!(chunked(&mut server).await, (b"de".to_vec(), vec![]));
    server.send(ok("")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.get("content-length")), (200, Some("0")));

    client.send(head(&["POST /c HTTP/1.1", "Host: a", "Content-Length: 0"])).await;
    let request = server.head().await;
    assert_eq!((request.target(), request.get("content-length")), ("/c", Some("0")));
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    drop((client, server));
    assert_eq!(site.upstream.connections().await, 1, "one connection for all of them");
}

#[tokio::test]
async fn a_large_body_streams_both_ways_at_once() {
    const BYTES: usize = 64 << 20;
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    let mut site = Site::start(&[]).await;
    let length = format!("Content-Length: {BYTES}");
    let (mut client, mut server, _) = site.ask(&head(&["PUT / HTTP/1.1", "Host: a", &length])).await;
    // The server echoes bytes as they arrive; the client reads while it writes.
    server.send(head(&["HTTP/1.1 200 OK", &length])).await;
    assert_eq!(client.head().await.status(), 200);
    let echo = tokio::spawn(async move {
        assert_eq!(server.input.rest(), b"");
        let mut buffer = vec![0; 256 << 10];
        let mut left = BYTES;
        while left > 0 {
            let read = server.io.read(&mut buffer).await.unwrap();
            assert!(read > 0, "{left} bytes are missing");
            server.io.write_all(&buffer[..read]).await.unwrap();
            left -= read;
        }
        server
    });
    assert_eq!(client.input.rest(), b"");
    let (mut reader, mut writer) = tokio::io::split(client.io);
    let sent = block.clone();
    let writing = tokio::spawn(async move {
        for _ in 0..BYTES / sent.len() {
            writer.write_all(&sent).await.unwrap();
        }
        writer
    });
    within("64 MiB there and back", async {
        let mut buffer = vec![0; block.len()];
        for _ in 0..BYTES / block.len() {
            reader.read_exact(&mut buffer).await.unwrap();
            assert!(buffer == block, "bytes were changed");
        }
    })
    .await;
    let _open = (writing.await.unwrap(), echo.await.unwrap());
    let log = site.proxy.log_lines(1).await;
    assert_eq!((log[0]["bytes_in"].as_u64(), log[0]["bytes_out"].as_u64()), (Some(BYTES as u64), Some(BYTES as u64)));
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let mut site = Site::start(&[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 10"]) + "first";
    let (mut client, mut server, _) = site.ask(&request).await;
    assert_eq!(server.read_exact(5).await, b"first");
    server.send(ok("early")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), client.body(&answer).await), (200, b"early".to_vec()));
    client.send("-last").await;
    assert_eq!(server.read_exact(5).await, b"-last");
    // The connection can still be used.
    client.send(get("/again")).await;
    let (mut server, request) = match server.try_head().await {
        Some(request) => (server, request),
        None => {
            let mut other = site.upstream.accept().await;
            let request = other.head().await;
            (other, request)
        }
    };
    assert_eq!(request.target(), "/again");
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn an_upload_that_is_refused_halfway_gets_its_answer() {
    let mut site = Site::start(&[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 100000000"]);
    let (client, mut server, _) = site.ask(&request).await;
    let (mut reader, mut writer) = tokio::io::split(client.io);
    let uploading = tokio::spawn(async move {
        let block = vec![b'x'; 64 << 10];
        let mut sent = 0;
        while writer.write_all(&block).await.is_ok() {
            sent += block.len();
        }
        sent
    });
    // The server reads some of it, refuses it, and reads no more.
    server.read_exact(100_000).await;
    server.send(head(&["HTTP/1.1 413 Content Too Large", "Connection: close", "Content-Length: 3"]) + "no!").await;
    server.finish().await;
    let mut answer = vec![];
    within("the answer", async {
        while !answer.ends_with(b"no!") {
            let read = reader.read_buf(&mut answer).await.unwrap();
            assert!(read > 0, "no answer but {:?}", String::from_utf8_lossy(&answer));
        }
    })
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 413 "), "{:?}", String::from_utf8_lossy(&answer));
    drop(server);
    drop(reader);
    let sent = within("the end of the upload", uploading).await.unwrap();
    assert!(sent < 100_000_000);
}

#[tokio::test]
async fn events_of_a_stream_arrive_one_by_one() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/events")).await;
    server.send(head(&["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"])).await;
    let answer = client.head().await;
    assert_eq!(answer.get("content-type"), Some("text/event-stream"));
    for number in 0..5 {
        // The next event is made only when this one has arrived.
        let event = format!("data: {number}\n\n");
        server.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
        assert_eq!(chunk(&mut client).await, event.as_bytes());
    }
    drop(client);
    // A reader that leaves ends the stream at its source.
    assert!(matches!(server.event().await, Event::End | Event::Reset));
    let log = site.proxy.log_lines(1).await;
    assert_eq!((log[0]["status"].as_u64(), log[0]["reason"].as_str()), (Some(200), Some("ok")));
}

#[tokio::test]
async fn an_answer_without_length_ends_with_its_connection() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/")).await;
    server.send(head(&["HTTP/1.0 200 OK", "Content-Type: text/plain"]) + "to the end").await;
    server.finish().await;
    let answer = client.head().await;
    assert_eq!((answer.line.as_str(), answer.get("transfer-encoding")), ("HTTP/1.1 200 OK", Some("chunked")));
    assert_eq!(chunked(&mut client).await.0, b"to the end");
}

#[tokio::test]
async fn answers_that_have_no_body_leave_the_connection_in_order() {
    let mut site = Site::start(&[]).await;
    let request = head(&["HEAD / HTTP/1.1", "Host: a"]);
    let (mut client, mut server, request) = site.ask(&request).await;
    assert_eq!(request.line, "HEAD / HTTP/1.1");
    server.send(head(&["HTTP/1.1 200 OK", "Content-Length: 42"])).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.get("content-length")), (200, Some("42")));
    for (status, line) in [(204, "HTTP/1.1 204 No Content"), (304, "HTTP/1.1 304 Not Modified")] {
        client.send(get("/")).await;
        server.head().await;
        server.send(head(&[line, "ETag: \"a\""])).await;
        let answer = client.head().await;
        assert_eq!((answer.status(), answer.get("etag")), (status, Some("\"a\"")));
        assert_eq!(answer.get("transfer-encoding"), None);
    }
    client.send(get("/")).await;
    server.head().await;
    server.send(ok("body")).await;
    let answer = client.head().await;
    assert_eq!(client.body(&answer).await, b"body");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let mut site = Site::start(&[]).await;
    let request = head(&[
        "POST / HTTP/1.1",
        "Host: a",
        "TE: trailers",
        "Connection: TE",
        "Trailer: X-Sum",
        "Transfer-Encoding: chunked",
    ]) + "3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n";
    let (mut client, mut server, request) = site.ask(&request).await;
    assert_eq!((request.get("te"), request.get("trailer")), (Some("trailers"), Some("X-Sum")));
    // RFC 9110 §10.1.4: a sender of TE nominates it.
    assert!(request.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("te")), "{request:#?}");
    let (body, trailer) = chunked(&mut server).await;
    assert_eq!((body.as_slice(), trailer[0].to_ascii_lowercase().as_str()), (&b"abc"[..], "x-sum: 6"));
    let answer = head(&["HTTP/1.1 200 OK", "Trailer: X-Sum", "Transfer-Encoding: chunked"]);
    server.send(answer + "2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n").await;
    let answer = client.head().await;
    assert_eq!(answer.get("trailer"), Some("X-Sum"));
    let (body, trailer) = chunked(&mut client).await;
    assert_eq!((body.as_slice(), trailer[0].to_ascii_lowercase().as_str()), (&b"ok"[..], "x-sum: 2"));
}

#[tokio::test]
async fn trailers_carry_nothing_that_is_judged_or_written_in_a_head() {
    const FORBIDDEN: [&str; 20] = [
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X-Forwarded-Proto",
        "Forwarded",
        "X-Real-IP",
        "X_Real_IP",
        "Cookie",
        "Set-Cookie",
        "Authorization",
        "Host",
        "Content-Length",
        "Content-Type",
        "Transfer-Encoding",
        "Connection",
        "CDN-Loop",
        "Origin",
        "X-Set",
        "X_Set",
        "X-Removed",
        "X-Nominated",
    ];
    let edits = "{ set: { X-Set: ours }, remove: [x-removed] }";
    let mut site = Site::start(&[&format!("headers: {{ request: {edits}, response: {edits} }}")]).await;
    let announced = format!("Trailer: {}, Grpc-Status, X-Sum", FORBIDDEN.join(", "));
    let fields: String = FORBIDDEN.iter().map(|name| format!("{name}: 203.0.113.7\r\n")).collect();
    let fields = format!("3\r\nabc\r\n0\r\n{fields}Grpc-Status: 0\r\nX-Unsaid: 1\r\nX-Sum: 6\r\n\r\n");
    let lines = [announced.as_str(), "Transfer-Encoding: chunked"];
    let request =
        head(&[&["POST / HTTP/1.1", "Host: a", "TE: trailers", "Connection: TE, X-Nominated"], &lines[..]].concat());
    let (mut client, mut server, request) = site.ask(&(request + &fields)).await;
    assert_eq!(request.all("trailer"), ["Grpc-Status, X-Sum"]);
    let sorted = |(body, mut trailer): (Vec<u8>, Vec<String>)| {
        assert_eq!(body, b"abc");
        trailer.iter_mut().for_each(|line| line.make_ascii_lowercase());
        trailer.sort();
        trailer
    };
    assert_eq!(sorted(chunked(&mut server).await), ["grpc-status: 0", "x-sum: 6"]);
    let answer = head(&[&["HTTP/1.1 200 OK", "Connection: X-Nominated"], &lines[..]].concat());
    server.send(answer + &fields).await;
    let answer = client.head().await;
    assert_eq!((answer.get("trailer"), answer.get("x-set")), (Some("Grpc-Status, X-Sum"), Some("ours")));
    assert_eq!(sorted(chunked(&mut client).await), ["grpc-status: 0", "x-sum: 6"]);
    // Without an allowed field there is no trailer.
    let mut site = Site::start(&[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Trailer: Cookie", "Transfer-Encoding: chunked"]);
    let (_client, mut server, request) = site.ask(&(request + "1\r\na\r\n0\r\nCookie: a=b\r\n\r\n")).await;
    assert_eq!(request.get("trailer"), None);
    assert_eq!(chunked(&mut server).await, (b"a".to_vec(), vec![]));
}

#[tokio::test]
async fn no_field_that_a_server_takes_for_one_of_ours_passes_and_connection_takes_none_out() {
    let edits = "request: { set: { X-User: ours, X_Role: ours }, remove: [X-Secret] }";
    let names = |list: &[&'static str]| list.to_vec();
    let client_names = names(&["X_Forwarded_For", "X.Forwarded.Proto", "X_Real_IP", "x-real.ip"]);
    let ours = names(&[
        "Transfer_Encoding",
        "Content_Length",
        "Content.Length",
        "Proxy_Authorization",
        "Sec_WebSocket_Key",
        "Keep~Alive",
        "X_User",
        "X.User",
        "X-Role",
        "X_Secret",
    ]);
    let others = names(&["api_key", "X_Request_ID", "grpc.timeout", "X_Users"]);
    let lines: Vec<String> =
        [&client_names, &ours, &others].into_iter().flatten().map(|name| format!("{name}: evil")).collect();
    for lookalikes in ["drop", "keep"] {
        let mut site = Site::start(&[&format!("headers: {{ {edits}, lookalikes: {lookalikes} }}")]).await;
        let fields = format!("{}\r\n", lines.join("\r\n"));
        let plain = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let handshake = Handshake::new().bytes();
        let handshake = [&handshake[..handshake.len() - 2], fields.as_bytes(), b"\r\n"].concat();
        for request in [plain.into_bytes(), handshake] {
            let mut client = site.proxy.client().await;
            client.send(request).await;
            let request = site.upstream.accept().await.head().await;
            let has = |name: &str| request.all(name).contains(&"evil");
            assert!(!client_names.iter().any(|name| has(name)), "{lookalikes}: {request:#?}");
            for name in &ours {
                assert_eq!(has(name), lookalikes == "keep", "{lookalikes} {name}: {request:#?}");
            }
            assert!(others.iter().all(|name| has(name)), "{lookalikes}: {request:#?}");
            assert_eq!((request.get("x-user"), request.get("x_role")), (Some("ours"), Some("ours")));
        }
    }
}

#[tokio::test]
async fn connection_takes_out_nothing_that_says_who_the_client_is_or_that_a_route_sets() {
    let yaml = |server: &str| {
        format!(
            "workers: 1\nlisteners:\n  - {{ name: plain, bind: \"127.0.0.1:0\", trusted_proxies: [127.0.0.0/8] }}\n\
             routes:\n  - {{ name: all, upstream: all, headers: {{ request: {{ set: {{ X-User: ours }} }} }} }}\n\
             upstreams:\n  all: {{ endpoints: [{server:?}] }}\n"
        )
    };
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(server.url()));
    let fields = "X-Real-IP: 203.0.113.7\r\nX-Forwarded-For: 203.0.113.7\r\nX-Other: 1\r\n";
    let nominated = "X-Real-IP, X-Forwarded-For, Forwarded, X-User, CDN-Loop, X-Other";
    let plain = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {nominated}\r\n{fields}\r\n");
    let handshake = Handshake::new().set("Connection", &format!("Upgrade, {nominated}")).bytes();
    let handshake = [&handshake[..handshake.len() - 2], fields.as_bytes(), b"\r\n"].concat();
    for request in [plain.into_bytes(), handshake] {
        let mut client = proxy.client().await;
        client.send(request).await;
        let request = server.accept().await.head().await;
        assert_eq!(request.get("x-real-ip"), Some("203.0.113.7"));
        assert_eq!(request.get("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
        assert_eq!((request.get("x-user"), request.get("x-other")), (Some("ours"), None));
        assert!(request.get("forwarded").is_some() && request.get("cdn-loop").is_some());
    }
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on() {
    let mut site = Site::start(&[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 4", "Expect: 100-continue"]);
    let (mut client, mut server, _) = site.ask(&request).await;
    assert_eq!(client.head().await.status(), 100);
    client.send("body").await;
    assert_eq!(server.read_exact(4).await, b"body");
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    server.send(ok("done")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), client.body(&answer).await), (200, b"done".to_vec()));
}

#[tokio::test]
async fn a_client_that_expects_100_may_be_refused_before_it_sends_a_body() {
    let site = Site::start(&["http: reject"]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 4000000", "Expect: 100-continue"]);
    let (answer, _) = site.refused(&request).await;
    assert_eq!(answer.status(), 426);
}

/// hyper's client cannot pass on a 103 as it arrives, so Early Hints end here: this costs speed, but loses no meaning.
#[tokio::test]
async fn interim_answers_of_the_server_are_passed_over() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/")).await;
    server.send("HTTP/1.1 102 Processing\r\n\r\n").await;
    server.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n").await;
    server.send(ok("final")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.get("link")), (200, None));
    assert_eq!(client.body(&answer).await, b"final");
}

// ---- connections

#[tokio::test]
async fn connections_are_used_again_on_both_sides() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/0")).await;
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    for number in 1..6 {
        client.send(get(&format!("/{number}"))).await;
        let request = server.head().await;
        assert_eq!(request.target(), format!("/{number}"));
        server.send(ok("")).await;
        assert_eq!(client.head().await.status(), 200);
    }
    // Another client: still the same connection to the server.
    let mut other = site.proxy.client().await;
    other.send(get("/other")).await;
    assert_eq!(server.head().await.target(), "/other");
    server.send(ok("")).await;
    assert_eq!(other.head().await.status(), 200);
    assert_eq!(site.upstream.connections().await, 1);
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_not_used_again() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/first")).await;
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    drop(server);
    client.send(head(&["POST /second HTTP/1.1", "Host: a", "Content-Length: 4"]) + "body").await;
    let mut server = site.upstream.accept().await;
    assert_eq!(server.head().await.target(), "/second");
    assert_eq!(server.read_exact(4).await, b"body");
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    let log = site.proxy.log_lines(2).await;
    assert_eq!((log[1]["status"].as_u64(), log[1]["attempts"].as_u64()), (Some(200), Some(1)));
}

#[tokio::test]
async fn a_request_that_may_have_been_read_is_never_sent_twice() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/first")).await;
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    client.send(head(&["POST /pay HTTP/1.1", "Host: a", "Content-Length: 0"])).await;
    assert_eq!(server.head().await.target(), "/pay");
    drop(server);
    let answer = client.head().await;
    assert_eq!(answer.status(), 502);
    assert_eq!(site.upstream.connections().await, 1);
    let labels = [("upstream", "app"), ("endpoint", site.upstream.url()), ("reason", "response_lost")];
    assert_eq!(site.proxy.metric("wsluice_upstream_errors_total", &labels), 1.0);
}

/// A server that answers the first request of each connection, and closes it at the second without an answer.
async fn answers_once(mut upstream: RawServer) {
    let mut number = 0;
    while let Some(mut conn) = upstream.next().await {
        number += 1;
        let resets = number % 2 == 0;
        tokio::spawn(async move {
            if conn.try_head().await.is_some() && conn.try_send(ok("once")).await.is_ok() {
                conn.try_head().await;
            }
            if resets {
                conn.reset();
            }
        });
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closes_when_it_is_used_again_costs_no_request() {
    let Site { proxy, upstream } = Site::start(&[]).await;
    let server = tokio::spawn(answers_once(upstream));
    let clients = (0..6).map(async |n| {
        let mut client = proxy.client().await;
        for (i, method) in (0..30).zip(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"].into_iter().cycle()) {
            client.send(head(&[&format!("{method} /{n}/{i} HTTP/1.1"), "Host: a"])).await;
            let answer = client.head().await;
            assert_eq!(answer.status(), 200, "{method} /{n}/{i}");
            if method != "HEAD" {
                assert_eq!(client.body(&answer).await, b"once");
            }
        }
    });
    futures_util::future::join_all(clients).await;
    assert!(proxy.metric("wsluice_upstream_stale_connections_total", &[("upstream", "app")]) > 0.0);
    server.abort();
}

#[tokio::test]
async fn only_what_may_be_done_twice_is_sent_twice_and_only_once_more() {
    let body = ["Content-Length: 4", "\r\nbody"];
    for (lines, connections) in [
        (vec!["POST / HTTP/1.1", "Host: a", "Content-Length: 0"], 1),
        (vec!["PATCH / HTTP/1.1", "Host: a", "Content-Length: 0"], 1),
        (vec!["GET / HTTP/1.1", "Host: a", body[0]], 1),
        (vec!["GET / HTTP/1.1", "Host: a"], 2),
    ] {
        let mut site = Site::start(&[]).await;
        let (mut client, mut server, _) = site.ask(&get("/first")).await;
        server.send(ok("")).await;
        assert_eq!(client.head().await.status(), 200);
        let body = if lines.contains(&body[0]) { "body" } else { "" };
        client.send(head(&lines) + body).await;
        server.head().await;
        server.read_exact(body.len()).await;
        drop(server);
        if connections == 2 {
            let mut again = site.upstream.accept().await;
            assert_eq!(again.head().await.target(), "/");
        }
        let answer = client.head().await;
        assert_eq!(answer.status(), 502, "{lines:?}");
        client.body(&answer).await;
        assert_eq!(site.upstream.connections().await, connections, "{lines:?}");
        // On a new connection, nothing shows that it was closed as unused.
        client.send(get("/new")).await;
        site.upstream.accept().await.head().await;
        assert_eq!(client.head().await.status(), 502, "{lines:?}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, request) = site.ask(&(get("/1") + &get("/2") + &get("/3"))).await;
    assert_eq!(request.target(), "/1");
    server.send(ok("one")).await;
    for (target, body) in [("/2", "two"), ("/3", "three")] {
        assert_eq!(server.head().await.target(), target);
        server.send(ok(body)).await;
    }
    for body in ["one", "two", "three"] {
        let answer = client.head().await;
        assert_eq!(client.body(&answer).await, body.as_bytes());
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, request) = site.ask("GET /old HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!(request.line, "GET /old HTTP/1.1");
    server.send(head(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]) + "3\r\nabc\r\n0\r\n\r\n").await;
    // It does not know chunks: the end of the connection ends the body.
    let text = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\nabc"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("transfer-encoding"), "{text}");

    // RFC 9112 §3.2: it may leave out the Host.
    let mut client = site.proxy.client().await;
    client.send("GET /older HTTP/1.0\r\n\r\n").await;
    let request = server.head().await;
    assert_eq!((request.target(), request.get("host")), ("/older", Some("")));
    server.send(ok("abc")).await;
    let text = String::from_utf8(client.read_to_end().await).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\nabc"), "{text}");
}

#[tokio::test]
async fn a_connection_ends_where_its_client_says_so() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, request) = site.ask(&head(&["GET / HTTP/1.1", "Host: a", "Connection: close"])).await;
    // Between client and proxy, that is.
    assert_ne!(request.get("connection"), Some("close"));
    server.send(ok("last")).await;
    let answer = client.head().await;
    assert_eq!((answer.get("connection"), client.body(&answer).await), (Some("close"), b"last".to_vec()));
    client.expect_end().await;
}

// ---- heads

#[tokio::test]
async fn what_is_for_one_hop_ends_at_it() {
    let mut site = Site::start(&[]).await;
    let request = head(&[
        "GET / HTTP/1.1",
        "Host: a",
        "Connection: keep-alive, X-Hop",
        "Connection: Authorization",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "X-Hop: 1",
        "Authorization: Basic eDp5",
        "TE: gzip",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "X-End: 1",
    ]);
    let answer = head(&[
        "HTTP/1.1 200 OK",
        "Connection: keep-alive, X-Back",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "Upgrade: h2c",
        "X-Back: 1",
        "X-End: 2",
        "Content-Length: 0",
    ]);
    let (request, answer) = site.exchange(&request, &answer).await;
    for gone in ["connection", "keep-alive", "proxy-connection", "x-hop", "authorization", "te", "upgrade"] {
        assert_eq!(request.all(gone), [""; 0], "{gone}");
    }
    for gone in ["proxy-authorization", "http2-settings"] {
        assert_eq!(request.all(gone), [""; 0], "{gone}");
    }
    assert_eq!(request.get("x-end"), Some("1"));
    for gone in ["connection", "keep-alive", "proxy-authenticate", "upgrade", "x-back"] {
        assert_eq!(answer.all(gone), [""; 0], "{gone}");
    }
    assert_eq!(answer.get("x-end"), Some("2"));
}

#[tokio::test]
async fn a_message_with_two_lengths_is_passed_on_with_one() {
    let mut site = Site::start(&[]).await;
    for lengths in
        [["Content-Length: 3", "Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", "Content-Length: 3"]]
    {
        let lines = ["POST / HTTP/1.1", "Host: a", lengths[0], lengths[1]];
        let mut client = site.proxy.client().await;
        client.send(head(&lines) + "5\r\nabcde\r\n0\r\n\r\n").await;
        let mut server = site.upstream.accept().await;
        let request = server.head().await;
        assert_eq!((request.get("content-length"), request.get("transfer-encoding")), (None, Some("chunked")));
        assert_eq!(chunked(&mut server).await.0, b"abcde");
        server.send(head(&["HTTP/1.1 200 OK", lengths[0], lengths[1]]) + "5\r\nvwxyz\r\n0\r\n\r\n").await;
        let answer = client.head().await;
        assert_eq!((answer.get("content-length"), answer.get("transfer-encoding")), (None, Some("chunked")));
        assert_eq!(chunked(&mut client).await.0, b"vwxyz");
        // Neither connection carries another request: a peer might have read the lengths differently.
        server.finish().await;
    }
}

#[tokio::test]
async fn a_length_that_a_server_says_twice_is_said_once_and_two_lengths_are_a_502() {
    let mut site = Site::start(&[]).await;
    for method in ["GET", "HEAD"] {
        for (lines, status) in [
            (&["Content-Length: 5, 5"][..], 200),
            (&["Content-Length: 5", "Content-Length: 5"], 200),
            (&["Content-Length: 5,5", "Content-Length: 5"], 200),
            (&["Content-Length: 5, 6"], 502),
            (&["Content-Length: 5", "Content-Length: 6"], 502),
            (&["Content-Length: +5"], 502),
            (&["Content-Length: "], 502),
        ] {
            let (mut client, mut server, _) =
                site.ask(&head(&[&format!("{method} / HTTP/1.1"), "Host: a", "Connection: close"])).await;
            let body = if method == "GET" { "hello" } else { "" };
            server.send(head(&[&["HTTP/1.1 200 OK"], lines].concat()) + body).await;
            let answer = client.head().await;
            assert_eq!(answer.status(), status, "{method} {lines:?}");
            if status == 200 {
                assert_eq!(answer.all("content-length"), ["5"], "{method} {lines:?}");
                assert_eq!(client.read_to_end().await, body.as_bytes(), "{method} {lines:?}");
            }
            // The next one is on a new connection.
            server.finish().await;
        }
    }
}

#[tokio::test]
async fn a_length_that_a_client_says_twice_is_passed_on_once() {
    let mut site = Site::start(&[]).await;
    let lines = ["POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Content-Length: 5"];
    let (_client, mut server, request) = site.ask(&(head(&lines) + "hello")).await;
    assert_eq!(request.all("content-length"), ["5"]);
    assert_eq!(server.read_exact(5).await, b"hello");
}

#[tokio::test]
async fn a_server_may_say_that_it_wants_an_upgrade() {
    let mut site = Site::start(&[]).await;
    for (status, upgrade, passed) in [
        ("426 Upgrade Required", "websocket", Some("websocket")),
        ("426 Upgrade Required", "TLS/1.2, HTTP/1.1", Some("TLS/1.2, HTTP/1.1")),
        ("400 Bad Request", "WebSocket", Some("WebSocket")),
        ("200 OK", "websocket", Some("websocket")),
        ("200 OK", "h2, h2c", None),
        ("404 Not Found", "h2c, websocket", None),
    ] {
        let lines = [&format!("HTTP/1.1 {status}"), "Connection: Upgrade", &format!("Upgrade: {upgrade}")];
        let answer = head(&[&lines[..], &["Sec-WebSocket-Version: 13", "Content-Length: 0"]].concat());
        for plain in [true, false] {
            let request = match plain {
                true => get("/"),
                false => String::from_utf8(Handshake::new().bytes()).unwrap(),
            };
            let (mut client, mut server, _) = site.ask(&request).await;
            server.send(&answer).await;
            server.finish().await;
            let head = client.head().await;
            assert_eq!(head.line, format!("HTTP/1.1 {status}"));
            assert_eq!(head.get("upgrade"), passed, "{status} {upgrade}");
            assert_eq!(head.get("sec-websocket-version"), Some("13"), "{status} {upgrade}");
            let nominated = head.all("connection").join(", ").contains("upgrade");
            assert_eq!(nominated, passed.is_some(), "{status} {upgrade}");
            // It opens nothing: a request follows, or the end.
            if plain {
                client.send(get("/again")).await;
                let mut server = site.upstream.accept().await;
                assert_eq!(server.head().await.target(), "/again");
            } else {
                assert_eq!(client.read_to_end().await, b"");
            }
        }
    }
}

#[tokio::test]
async fn what_a_target_may_not_have_is_escaped_and_all_else_goes_as_it_came() {
    let mut site = Site::start(&[]).await;
    for (target, sent) in [
        ("/a?q=\"x\"", "/a?q=%22x%22"),
        ("/a?q=<b>", "/a?q=%3Cb%3E"),
        ("/<a>`\"", "/%3Ca%3E%60%22"),
        ("/{a}|^?{b}|^`\\", "/%7Ba%7D%7C%5E?{b}|^`\\"),
        ("/\u{e9}?\u{20ac}", "/%C3%A9?%E2%82%AC"),
        ("/%7Ea/%e2%82%ac%2f?%7e", "/%7Ea/%e2%82%ac%2f?%7e"),
        ("/a/./%7Eb", "/a/~b"),
        ("//a//", "//a//"),
    ] {
        let (mut client, mut server, request) = site.ask(&get(target)).await;
        assert_eq!(request.target(), sent, "{target}");
        server.send(ok("")).await;
        assert_eq!(client.head().await.status(), 200, "{target}");
        server.finish().await;
        let mut client = site.proxy.client().await;
        client.send(Handshake::to(target).bytes()).await;
        assert_eq!(site.upstream.accept().await.switch(&[]).await.target(), sent, "{target}");
        assert_eq!(client.head().await.status(), 101, "{target}");
    }
    // Latin-1, as clients without UTF-8 send it.
    let mut client = site.proxy.client().await;
    client.send(b"GET /\xe9?\xe9 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(site.upstream.accept().await.head().await.target(), "/%E9?%E9");
}

#[tokio::test]
async fn what_is_no_http_is_told_so_counted_and_logged() {
    let site = Site::start(&[]).await;
    let mut lines = 0;
    for (request, status, said) in [
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed: no valid HTTP request: the target has a space"),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, "malformed: no valid HTTP request: a line"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "malformed: no valid HTTP request: "),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, "malformed: no valid HTTP request: "),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed: no valid HTTP request: "),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400, "malformed: no valid HTTP request: "),
    ] {
        let (head, body) = site.refused(request).await;
        assert_eq!(head.status(), status, "{request:?}");
        assert!(body.starts_with(said) && body.ends_with('\n'), "{request:?}: {body:?}");
        assert_eq!((head.get("connection"), head.all("content-length").len()), (Some("close"), 1), "{request:?}");
        assert_eq!(head.get("content-type"), Some("text/plain; charset=utf-8"), "{request:?}");
        lines += 1;
        let line = &site.proxy.log_lines(lines).await[lines - 1];
        assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(400), Some("malformed")), "{line}");
        assert_eq!((line["client"].as_str(), line["listener"].as_str()), (Some("127.0.0.1"), Some("plain")), "{line}");
    }
    let labels = [("listener", "plain"), ("route", ""), ("reason", "malformed")];
    assert_eq!(site.proxy.metric("wsluice_rejections_total", &labels), lines as f64);
}

#[tokio::test]
async fn a_bad_request_behind_a_good_one_is_told_so_after_the_good_ones_answer() {
    let mut site = Site::start(&[]).await;
    // A server's answer stays the server's, even in hyper's very words.
    let like_hypers = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let (mut client, mut server, _) = site.ask(&(get("/good") + "GET /bad one HTTP/1.1\r\n\r\n")).await;
    server.send(ok(like_hypers)).await;
    let answer = client.head().await;
    assert_eq!(client.body(&answer).await, like_hypers.as_bytes());
    let answer = client.head().await;
    assert_eq!(answer.status(), 400);
    let body = String::from_utf8(client.body(&answer).await).unwrap();
    assert!(body.starts_with("malformed: ") && body.contains("space"), "{body}");
    assert_eq!(client.read_to_end().await, b"");
}

#[tokio::test]
async fn requests_whose_length_is_not_clear_are_refused() {
    let mut site = Site::start(&[]).await;
    for lines in [
        &["Content-Length: 3", "Content-Length: 4"][..],
        &["Content-Length: 3, 4"],
        &["Content-Length: 3, 3"],
        &["Content-Length: +3"],
        &["Transfer-Encoding: gzip"],
        &["Transfer-Encoding: chunked, gzip"],
        &["Transfer-Encoding : chunked"],
        &["Content-Length: 3", " folded: 1"],
    ] {
        let lines = [&["POST / HTTP/1.1", "Host: a"], lines].concat();
        let (answer, _) = site.refused(&(head(&lines) + "abc")).await;
        assert_eq!(answer.status(), 400, "{lines:?}");
    }
    assert_eq!(site.upstream.connections().await, 0);
}

#[tokio::test]
async fn a_stranger_cannot_say_whom_he_speaks_for() {
    let mut site = Site::start(&[]).await;
    let request = head(&[
        "GET / HTTP/1.1",
        "Host: example.com:8080",
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Port: 1",
        "X-Real-IP: 203.0.113.7",
        "Forwarded: for=203.0.113.7",
    ]);
    let (request, _) = site.exchange(&request, &ok("")).await;
    assert_eq!(request.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.get("x-forwarded-proto"), Some("http"));
    assert_eq!(request.get("x-forwarded-host"), Some("example.com:8080"));
    assert_eq!(request.get("forwarded"), Some(r#"for=127.0.0.1;host="example.com:8080";proto=http"#));
    assert_eq!((request.get("x-forwarded-port"), request.get("x-real-ip")), (None, None));
    assert_eq!(site.proxy.log_lines(1).await[0]["client"], "127.0.0.1");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let mut site = Site::with_listener(&["trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]"]).await;
    let request = head(&[
        "GET / HTTP/1.1",
        "Host: example.com",
        "X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: chat.example.com",
    ]);
    let (request, _) = site.exchange(&request, &ok("")).await;
    assert_eq!(request.get("x-forwarded-for"), Some("198.51.100.1, 203.0.113.7, 10.0.0.1, 127.0.0.1"));
    assert_eq!(request.get("x-forwarded-proto"), Some("https"));
    assert_eq!(request.get("x-forwarded-host"), Some("chat.example.com"));
    let line = &site.proxy.log_lines(1).await[0];
    assert_eq!((line["client"].as_str(), line.get("client_port")), (Some("203.0.113.7"), None));
}

#[tokio::test]
async fn host_query_and_headers_reach_the_server_as_the_route_says() {
    let mut site = Site::start(&[
        "rewrite: { strip_prefix: /app, add_prefix: /v2 }",
        "headers: { request: { set: { X-Tenant: acme }, remove: [X-Debug] }, response: { set: { X-Via: wsluice }, remove: [Server] } }",
    ])
    .await;
    let request =
        head(&["GET /app/%7ea/../b?q=1&a=%2F HTTP/1.1", "Host: Example.com:81", "X-Debug: 1", "X-Tenant: evil"]);
    let answer = head(&["HTTP/1.1 200 OK", "Server: secret/1.0", "X-Via: none", "Content-Length: 0"]);
    let (request, answer) = site.exchange(&request, &answer).await;
    assert_eq!(request.target(), "/v2/b?q=1&a=%2F");
    assert_eq!(request.get("host"), Some("example.com:81"));
    assert_eq!((request.get("x-tenant"), request.get("x-debug")), (Some("acme"), None));
    assert_eq!((answer.get("x-via"), answer.get("server")), (Some("wsluice"), None));
}

#[tokio::test]
async fn the_host_of_an_absolute_target_counts() {
    let mut site = Site::start(&[]).await;
    let request = head(&["GET http://Chat.example.com:80/a?b HTTP/1.1", "Host: other.example.com"]);
    let (request, _) = site.exchange(&request, &ok("")).await;
    assert_eq!((request.target(), request.get("host")), ("/a?b", Some("chat.example.com:80")));
}

#[tokio::test]
async fn options_for_the_server_as_a_whole_stay_that() {
    let mut site = Site::start(&[]).await;
    let (request, _) = site.exchange(&head(&["OPTIONS * HTTP/1.1", "Host: a"]), &ok("")).await;
    assert_eq!(request.line, "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn fields_that_stand_twice_and_what_the_server_says_of_itself_pass() {
    let mut site = Site::start(&[]).await;
    let request = head(&["GET / HTTP/1.1", "Host: a", "Cookie: a=1", "X-Two: 1", "Cookie: b=2", "X-Two: 2"]);
    let answer = head(&[
        "HTTP/1.1 299 Quite Fine",
        "Date: Tue, 15 Nov 1994 08:12:31 GMT",
        "Server: app/1",
        "Set-Cookie: a=1; Path=/",
        "Set-Cookie: b=2; Path=/",
        "Content-Length: 0",
    ]);
    let (request, answer) = site.exchange(&request, &answer).await;
    assert_eq!((request.all("cookie"), request.all("x-two")), (vec!["a=1", "b=2"], vec!["1", "2"]));
    assert_eq!(answer.line, "HTTP/1.1 299 Quite Fine");
    assert_eq!(answer.get("date"), Some("Tue, 15 Nov 1994 08:12:31 GMT"));
    assert_eq!((answer.get("server"), answer.all("set-cookie").len()), (Some("app/1"), 2));
}

#[tokio::test]
async fn values_that_are_not_ascii_pass_untouched() {
    let mut site = Site::start(&[]).await;
    let mut client = site.proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Name: caf\xe9\r\n\r\n").await;
    let mut server = site.upstream.accept().await;
    let request = server.head().await;
    assert!(request.raw.windows(4).any(|four| four == b"caf\xe9"));
    server.send(b"HTTP/1.1 200 OK\r\nX-Name: caf\xe9\r\nContent-Length: 0\r\n\r\n").await;
    assert!(client.head().await.raw.windows(4).any(|four| four == b"caf\xe9"));
}

// ---- refusals

#[tokio::test]
async fn a_route_for_websockets_alone_answers_426() {
    let mut site = Site::start(&["http: reject"]).await;
    let (answer, body) = site.refused(&get("/")).await;
    assert_eq!((answer.status(), answer.get("upgrade")), (426, Some("websocket")));
    assert!(answer.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")), "{answer:#?}");
    assert!(body.starts_with("not_websocket: "), "{body}");
    assert_eq!(site.upstream.connections().await, 0);
    let labels = [("listener", "plain"), ("route", "all"), ("reason", "not_websocket")];
    assert_eq!(site.proxy.metric("wsluice_rejections_total", &labels), 1.0);
}

#[tokio::test]
async fn what_no_route_matches_is_not_found() {
    let mut site = Site::start(&["match: { path: { prefix: /app } }"]).await;
    let (answer, body) = site.refused(&get("/elsewhere")).await;
    assert_eq!(answer.status(), 404);
    assert!(body.starts_with("no_route: "), "{body}");
    // An ordinary answer: the connection stays open.
    let mut client = site.proxy.client().await;
    client.send(get("/elsewhere")).await;
    let answer = client.head().await;
    client.body(&answer).await;
    client.send(get("/app")).await;
    assert_eq!(site.upstream.accept().await.head().await.target(), "/app");
}

#[tokio::test]
async fn methods_that_are_not_for_a_reverse_proxy_are_refused() {
    let mut site = Site::start(&[]).await;
    for line in ["CONNECT example.com:443 HTTP/1.1", "TRACE / HTTP/1.1"] {
        let (answer, body) = site.refused(&head(&[line, "Host: example.com"])).await;
        assert_eq!(answer.status(), 405, "{line}");
        assert_eq!(answer.get("allow"), Some("GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"), "{line}");
        assert!(body.starts_with("method: "), "{body}");
    }
    assert_eq!(site.upstream.connections().await, 0);
}

#[tokio::test]
async fn a_head_with_too_many_or_too_large_fields_is_refused() {
    let mut site = Site::with_listener(&["limits: { headers: 20, header_bytes: 4KiB }"]).await;
    let many: Vec<String> = (0..20).map(|n| format!("X-{n}: 1")).collect();
    let large = format!("X-Large: {}", "x".repeat(5000));
    let target = format!("GET /{} HTTP/1.1", "x".repeat(5000));
    let many: Vec<&str> = ["GET / HTTP/1.1", "Host: a"].into_iter().chain(many.iter().map(String::as_str)).collect();
    for (lines, allowed) in [
        (&many[..], &[431][..]),
        (&["GET / HTTP/1.1", "Host: a", &large], &[431]),
        (&[&target, "Host: a"], &[414, 431]),
    ] {
        let (answer, body) = site.refused(&head(lines)).await;
        assert!(allowed.contains(&answer.status()), "{}", answer.line);
        assert!(body.starts_with("head_too_large: ") || body.starts_with("target_too_long: "), "{body}");
        assert_eq!(answer.get("connection"), Some("close"));
    }
    // Heads within the bounds pass.
    let (request, _) = site.exchange(&head(&many[..18]), &ok("")).await;
    assert_eq!(request.get("x-15"), Some("1"));
    let labels = [("listener", "plain"), ("reason", "bad_request")];
    site.proxy.metric_becomes("wsluice_connection_errors_total", &labels, 3.0).await;
}

// ---- servers that fail

/// Returns an address without a listener; the listener is dropped once the address is known.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("ws://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over() {
    let (dead, mut upstream) = (nobody().await, RawServer::start().await);
    let proxy = Proxy::start(&in_turn(&[&dead, upstream.url()], &[]));
    let mut client = proxy.client().await;
    client.send(get("/0")).await;
    let mut server = upstream.accept().await;
    for number in 0..4 {
        assert_eq!(server.head().await.target(), format!("/{number}"));
        server.send(ok("")).await;
        assert_eq!(client.head().await.status(), 200);
        if number < 3 {
            client.send(get(&format!("/{}", number + 1))).await;
        }
    }
    // The living one answered every request; the one that began with the dead one is counted as retried.
    let picks = |url: &str| proxy.metric("wsluice_endpoint_picks_total", &[("upstream", "app"), ("endpoint", url)]);
    assert_eq!(picks(upstream.url()), 4.0);
    let labels = [("upstream", "app"), ("endpoint", dead.as_str()), ("reason", "connect")];
    let errors = proxy.metric("wsluice_upstream_errors_total", &labels);
    assert_eq!(errors, 1.0, "who has just failed comes after the others for a while");
    assert_eq!(
        (picks(&dead), proxy.metric("wsluice_upstream_retries_total", &[("upstream", "app")])),
        (errors, errors)
    );
}

#[tokio::test]
async fn a_request_with_a_body_is_passed_over_to_the_next_server_too() {
    let (dead, mut upstream) = (nobody().await, RawServer::start().await);
    let proxy = Proxy::start(&in_turn(&[&dead, upstream.url()], &[]));
    for _ in 0..2 {
        let mut client = proxy.client().await;
        client.send(head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 4"]) + "body").await;
        let mut server = upstream.accept().await;
        server.head().await;
        assert_eq!(server.read_exact(4).await, b"body");
        server.send(head(&["HTTP/1.1 200 OK", "Content-Length: 0", "Connection: close"])).await;
        assert_eq!(client.head().await.status(), 200);
    }
}

#[tokio::test]
async fn when_all_servers_are_dead_the_answer_is_502() {
    let dead = [nobody().await, nobody().await];
    let proxy = Proxy::start(&yaml(&[&dead[0], &dead[1]], &[]));
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    let answer = client.head().await;
    let body = String::from_utf8(client.body(&answer).await).unwrap();
    assert_eq!(answer.status(), 502);
    // The client learns nothing about the inside.
    assert!(body.starts_with("connect: ") && !body.contains("127.0.0.1"), "{body}");
    let line = &proxy.log_lines(1).await[0];
    assert_eq!((line["reason"].as_str(), line["attempts"].as_u64()), (Some("connect"), Some(2)));
    assert!(line["detail"].as_str().unwrap().contains("refused"), "{line}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_in_time_is_a_504() {
    let mut site = Site::start(&["timeouts: { response: 200ms }"]).await;
    let (mut client, mut server, _) = site.ask(&get("/")).await;
    let answer = client.head().await;
    assert_eq!(answer.status(), 504);
    let body = client.body(&answer).await;
    assert!(body.starts_with(b"upstream_timeout: "));
    // Nobody waits for that answer any more.
    assert!(matches!(server.event().await, Event::End | Event::Reset));
}

#[tokio::test]
async fn the_time_for_an_answer_begins_with_the_end_of_the_request() {
    let mut site = Site::start(&["timeouts: { response: 300ms }"]).await;
    let (mut client, mut server, _) = site.ask(&head(&["POST / HTTP/1.1", "Host: a", "Content-Length: 6"])).await;
    for _ in 0..6 {
        // Twice the time in all, but never as much at once.
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send("x").await;
        server.read_exact(1).await;
    }
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn an_answer_cut_short_never_looks_whole() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/")).await;
    server.send(head(&["HTTP/1.1 200 OK", "Content-Length: 10"]) + "half-").await;
    drop(server);
    let answer = client.head().await;
    assert_eq!(answer.get("content-length"), Some("10"));
    assert_eq!(client.read_to_end().await, b"half-");

    let (mut client, mut server, _) = site.ask(&get("/")).await;
    server.send(head(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]) + "5\r\nhalf-\r\n").await;
    drop(server);
    let answer = client.head().await;
    assert_eq!(answer.get("transfer-encoding"), Some("chunked"));
    assert_eq!(chunk(&mut client).await, b"half-");
    assert_eq!(client.read_to_end().await, b"", "no last chunk");
    let log = site.proxy.log_lines(2).await;
    for line in &log {
        assert_eq!((line["reason"].as_str(), line["bytes_out"].as_u64()), (Some("upstream_cut"), Some(5)), "{line}");
    }
}

#[tokio::test]
async fn a_request_cut_short_never_looks_whole() {
    let mut site = Site::start(&[]).await;
    let request = head(&["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"]) + "5\r\nhalf-\r\n";
    let (client, mut server, _) = site.ask(&request).await;
    assert_eq!(chunk(&mut server).await, b"half-");
    drop(client);
    assert_eq!(server.read_to_end().await, b"", "no last chunk");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_502() {
    let mut site = Site::start(&[]).await;
    for nonsense in
        ["SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
    {
        let (mut client, mut server, _) = site.ask(&get("/")).await;
        server.send(nonsense).await;
        let answer = client.head().await;
        assert_eq!(answer.status(), 502, "{nonsense}");
        assert!(client.body(&answer).await.starts_with(b"upstream: "));
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/")).await;
    server
        .send(head(&["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]) + "frames")
        .await;
    let answer = client.head().await;
    assert_eq!(answer.status(), 502);
    assert!(client.body(&answer).await.starts_with(b"upstream_switched: "));
    assert!(matches!(server.event().await, Event::End | Event::Reset));
    // Nothing of it is used again.
    client.send(get("/again")).await;
    let mut server = site.upstream.accept().await;
    assert_eq!(server.head().await.target(), "/again");
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

// ---- clients that fail

#[tokio::test]
async fn a_client_that_goes_before_its_answer_is_logged_as_499() {
    let mut site = Site::start(&[]).await;
    let (client, mut server, _) = site.ask(&get("/slow?token=secret")).await;
    drop(client);
    let line = &site.proxy.log_lines(1).await[0];
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(499), Some("client_gone")));
    // The server stops working for it.
    assert!(matches!(server.event().await, Event::End | Event::Reset));
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_the_connection() {
    let site = Site::with_listener(&["timeouts: { headers: 200ms }"]).await;
    let mut client = site.proxy.client().await;
    client.send("GET / HT").await;
    client.read_to_end().await;
    let labels = [("listener", "plain"), ("reason", "header_timeout")];
    site.proxy.metric_becomes("wsluice_connection_errors_total", &labels, 1.0).await;
    // Sending nothing at all is no better.
    let mut client = site.proxy.client().await;
    client.read_to_end().await;
    site.proxy.metric_becomes("wsluice_connection_errors_total", &labels, 2.0).await;
}

#[tokio::test]
async fn a_connection_that_is_not_used_again_ends() {
    let mut site = Site::with_listener(&["timeouts: { headers: 200ms, keep_alive: 200ms }"]).await;
    let (mut client, mut server, _) = site.ask(&get("/")).await;
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.read_to_end().await, b"");
    let labels = [("listener", "plain"), ("reason", "header_timeout")];
    assert_eq!(site.proxy.metric("wsluice_connection_errors_total", &labels), 0.0, "an end in order");
}

#[tokio::test]
async fn a_slow_answer_is_not_cut_by_the_time_for_heads() {
    let mut site = Site::with_listener(&["timeouts: { headers: 100ms, keep_alive: 100ms }"]).await;
    let (mut client, mut server, _) = site.ask(&get("/")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.send(ok("late")).await;
    let answer = client.head().await;
    assert_eq!(client.body(&answer).await, b"late");
}

#[tokio::test]
async fn a_host_that_is_missing_doubled_or_malformed_is_refused() {
    let mut site = Site::start(&[]).await;
    for lines in [
        &["GET / HTTP/1.1"][..],
        &["GET / HTTP/1.1", "Host: a", "Host: b"],
        &["GET / HTTP/1.1", "Host: a b"],
        &["GET / HTTP/1.1", "Host: user@a"],
        &["GET / HTTP/1.1", "Host: a:port"],
    ] {
        let (answer, body) = site.refused(&head(lines)).await;
        assert_eq!((answer.status(), body.starts_with("host: ")), (400, true), "{lines:?} {body}");
    }
    for target in ["/../x", "/%2e%2e/x", "/a%00", "/a%zz", "/a\\b"] {
        let (answer, body) = site.refused(&get(target)).await;
        assert_eq!(answer.status(), 400, "{target} {body}");
    }
    assert_eq!(site.upstream.connections().await, 0);
}

#[tokio::test]
async fn bytes_after_a_pooled_answer_are_nobodys_answer() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/first")).await;
    // A server that sends more than its Content-Length: the rest must not answer the next request.
    server.send(ok("one") + &ok("stolen")).await;
    let answer = client.head().await;
    assert_eq!(client.body(&answer).await, b"one");
    client.send(get("/second")).await;
    let mut server = site.upstream.accept().await;
    assert_eq!(server.head().await.target(), "/second");
    server.send(ok("two")).await;
    let answer = client.head().await;
    assert_eq!(client.body(&answer).await, b"two");
}

#[tokio::test]
async fn a_request_is_logged_once_and_counted_once() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) =
        site.ask(&(head(&["POST /a?x=1 HTTP/1.1", "Host: a", "Content-Length: 3"]) + "abc")).await;
    server.read_exact(3).await;
    server.send(ok("four")).await;
    let answer = client.head().await;
    client.body(&answer).await;
    let log = site.proxy.log_lines(1).await;
    let line = &log[0];
    assert_eq!((log.len(), line["message"].as_str(), line["method"].as_str()), (1, Some("request"), Some("POST")));
    assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(3), Some(4)));
    let labels = [("route", "all"), ("method", "POST"), ("http", "1.1"), ("code", "2xx")];
    site.proxy.metric_becomes("wsluice_http_requests_total", &labels, 1.0).await;
    site.proxy.metric_becomes("wsluice_http_request_duration_seconds_count", &[("route", "all")], 1.0).await;
}

#[tokio::test]
async fn a_line_of_our_own_is_one_line() {
    let site = Site::start(&["http: reject"]).await;
    let mut client = site.proxy.client().await;
    client.send(get("/")).await;
    let answer = client.head().await;
    let length: usize = answer.get("content-length").unwrap().parse().unwrap();
    let body = client.read_exact(length).await;
    assert_eq!(body.iter().filter(|&&byte| byte == b'\n').count(), 1);
    assert_eq!(
        (answer.get("content-type"), answer.get("cache-control")),
        (Some("text/plain; charset=utf-8"), Some("no-store"))
    );
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_the_server_back() {
    let mut site = Site::start(&[]).await;
    let (mut client, mut server, _) = site.ask(&get("/large")).await;
    let total = 256 << 20;
    server.send(head(&["HTTP/1.1 200 OK", &format!("Content-Length: {total}")])).await;
    client.head().await;
    let block = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // Until nothing more is accepted: what the sockets and one buffer hold, not the whole answer.
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), server.io.write(&block)).await {
        sent += written.unwrap();
        assert!(sent < total / 2, "{sent} bytes were taken for a client that reads nothing");
    }
    drop(client);
    assert!(matches!(server.event().await, Event::End | Event::Reset));
}

#[tokio::test]
async fn a_server_that_reads_slowly_holds_the_client_back() {
    let mut site = Site::start(&[]).await;
    let total = 256 << 20;
    let request = head(&["POST /large HTTP/1.1", "Host: a", &format!("Content-Length: {total}")]);
    let (mut client, server, _) = site.ask(&request).await;
    let block = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), client.io.write(&block)).await {
        sent += written.unwrap();
        assert!(sent < total / 2, "{sent} bytes were taken for a server that reads nothing");
    }
    drop(server);
    // The request was not read to its end and no answer came: a 502, if it can still be read.
    let answer = client.head().await;
    assert_eq!(answer.status(), 502);
}

#[tokio::test]
async fn handshakes_and_requests_share_a_connection_one_after_the_other() {
    let mut site = Site::start(&["origins: { allow: [same-origin] }"]).await;
    let (mut client, mut server, _) = site.ask(&get("/page")).await;
    server.send(ok("page")).await;
    let answer = client.head().await;
    client.body(&answer).await;
    client.send(crate::harness::Handshake::to("/ws").bytes()).await;
    // Never over a pooled connection.
    let mut socket = site.upstream.accept().await;
    assert_eq!(socket.switch(&[]).await.target(), "/ws");
    assert_eq!(client.head().await.status(), 101);
    let frame = crate::harness::Frame::text("hello");
    client.put(&frame).await;
    socket.expect(&frame).await;
}

#[tokio::test]
async fn each_worker_has_connections_of_its_own_and_all_are_served() {
    let mut upstream = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[upstream.url()], &[]).replace("workers: 1", "workers: 2"));
    let serve = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let mut server = upstream.accept().await;
            tasks.spawn(async move {
                while let Some(request) = server.try_head().await {
                    server.send(ok(request.target())).await;
                }
            });
        }
    });
    let clients = (0..20).map(|client: usize| {
        let address = proxy.address().clone();
        tokio::spawn(async move {
            let mut conn = crate::harness::Conn::connect(&address).await;
            for number in 0..10 {
                let target = format!("/{client}/{number}");
                conn.send(get(&target)).await;
                let answer = conn.head().await;
                assert_eq!(conn.body(&answer).await, target.as_bytes());
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    serve.abort();
    let labels = [("route", "all"), ("method", "GET"), ("http", "1.1"), ("code", "2xx")];
    proxy.metric_becomes("wsluice_http_requests_total", &labels, 200.0).await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_the_clients_fault() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    for chunks in ["5\nzzz", "5\r\naaaaa\r\nzz\r\n", "10000000000000005\r\na"] {
        let mut client = proxy.client().await;
        client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")).await;
        let head = client.head().await;
        assert_eq!(head.status(), 400, "{chunks:?}");
        let body = client.body(&head).await;
        assert!(body.starts_with(b"malformed: "), "{}", String::from_utf8_lossy(&body));
        client.expect_end().await;
    }
    assert_eq!(
        proxy.metric("wsluice_rejections_total", &[("listener", "plain"), ("reason", "malformed"), ("route", "all")]),
        3.0
    );
    drop(server.next());
}
