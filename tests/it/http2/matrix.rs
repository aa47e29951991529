//! What a WebSocket has to do, whatever carries it.

use h2::Reason;
use tokio::net::TcpStream;
use wsluice::net::listener::Address;

use super::super::harness::{Authority, CLOSE, Frame, H2Client, Proxy, RawServer, eventually, within};
use super::{PLAIN, Site, by_tls};

#[tokio::test]
async fn it_opens_by_a_real_handshake_on_either_leg() {
    let mut site = Site::new(&[]).await;
    let headers = [("sec-websocket-protocol", "a, b"), ("cookie", "x=1"), ("cookie", "y=2"), ("x-own", "z")];
    let (client, mut server) = tokio::join!(site.client.open("/chat?room=1", &headers), async {
        let mut server = site.server.accept().await;
        let head = server.head().await;
        assert_eq!(head.target(), "/chat?room=1");
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("host", "example.com"),
            ("cookie", "x=1; y=2"),
            ("x-own", "z"),
        ] {
            assert_eq!(head.all(name), [value], "{name}");
        }
        let answer = super::super::harness::switching(&head, &[("Sec-WebSocket-Protocol", "b"), ("X-Server", "1")]);
        server.send(answer).await;
        server
    });
    let header = |name: &str| client.head.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((header("sec-websocket-protocol"), header("x-server")), (Some("b"), Some("1")));
    for name in ["upgrade", "connection", "sec-websocket-accept", "content-length", "transfer-encoding"] {
        assert_eq!(header(name), None, "{name}");
    }
    let mut client = client;
    client.conn.put(&Frame::text("hello")).await;
    server.expect(&Frame::text("hello")).await;
    server.put(&Frame::text("and back")).await;
    client.conn.expect(&Frame::text("and back")).await;
    client.conn.put(&Frame::close(1000, "bye")).await;
    server.expect(&Frame::close(1000, "bye")).await;
    server.put(&Frame::close(1000, "bye")).await;
    server.expect_end().await;
    client.conn.expect(&Frame::close(1000, "bye")).await;
    client.conn.expect_end().await;
    assert_eq!(client.ended(), None, "it ends in order");
    drop(client);
    let line = &site.proxy.log_lines(1).await[0];
    for (field, value) in [("message", "session"), ("method", "GET"), ("path", "/chat?room=1"), ("close_reason", "bye")]
    {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(line["http"], "2", "{line}");
    site.proxy.metric_becomes("wsluice_http2_streams_active", &PLAIN, 0.0).await;
    assert_eq!(site.proxy.metric("wsluice_http2_connections_active", &PLAIN), 1.0);
}

#[tokio::test]
async fn messages_of_any_size_and_cut_arrive_as_they_were_sent() {
    let authority = Authority::new();
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&by_tls(&authority, &[server.url()], &[]));
    let mut client = H2Client::connect_tls(proxy.address(), "localhost", &authority.client()).await;
    let (mut session, mut server) = tokio::join!(client.open("/", &[]), async {
        let mut server = server.accept().await;
        server.switch(&[]).await;
        server
    });
    let large = Frame::binary((0..16 << 20).map(|i: u32| (i % 251) as u8).collect::<Vec<_>>());
    for frame in [
        Frame::text(""),
        Frame::text("a").unfinished(),
        Frame::ping("between"),
        Frame::new(0, "b").unfinished(),
        Frame::new(0, "c"),
        Frame::binary(vec![7; 65_536]),
        large,
    ] {
        let (reader, writer) = (&mut server, &mut session.conn);
        let expected = frame.clone();
        tokio::join!(writer.put(&frame), async { assert!(reader.frame().await == expected) });
        let (reader, writer) = (&mut session.conn, &mut server);
        tokio::join!(writer.put(&frame), async { assert!(reader.frame().await == expected) });
    }
}

#[tokio::test]
async fn the_server_may_close_with_any_code() {
    for (code, reason) in [(1000, ""), (1001, "away"), (1011, "failed"), (4000, "own")] {
        let mut site = Site::new(&[]).await;
        let (mut client, mut server) = site.open().await;
        server.put(&Frame::close(code, reason)).await;
        client.conn.expect(&Frame::close(code, reason)).await;
        client.conn.put(&Frame::close(code, reason)).await;
        server.expect(&Frame::close(code, reason)).await;
        server.expect_end().await;
        client.conn.expect_end().await;
    }
}

#[tokio::test]
async fn a_server_that_is_lost_is_told_by_a_close() {
    let mut site = Site::new(&["on_upstream_lost: { close: 1012 }"]).await;
    let (mut client, mut server) = site.open().await;
    server.put(&Frame::text("last")).await;
    server.reset();
    client.conn.expect(&Frame::text("last")).await;
    assert_eq!(client.conn.expect_closed_with(1012).await, "upstream lost");
}

#[tokio::test]
async fn a_client_that_resets_its_stream_is_lost_and_no_other_stream_is() {
    let mut site = Site::new(&[]).await;
    let (mut one, mut one_server) = site.open().await;
    let (mut other, mut other_server) = site.open().await;
    one.conn.put(&Frame::text("x")).await;
    one_server.expect(&Frame::text("x")).await;
    one.reset(Reason::CANCEL);
    assert_eq!(one_server.expect_close().await.0, Some(1001));
    other.conn.put(&Frame::text("still")).await;
    other_server.expect(&Frame::text("still")).await;
    let line = &site.proxy.log_lines(1).await[0];
    assert_eq!(line["reason"], "client_lost", "{line}");
}

#[tokio::test]
async fn a_client_that_ends_its_direction_still_gets_what_the_server_has_to_say() {
    let mut site = Site::new(&[]).await;
    let (mut client, mut server) = site.open().await;
    client.conn.put(&Frame::text("question")).await;
    client.conn.finish().await;
    server.expect(&Frame::text("question")).await;
    server.put(&Frame::text("answer")).await;
    assert_eq!(server.expect_close().await.0, Some(1001));
    client.conn.expect(&Frame::text("answer")).await;
    server.put(&Frame::close(1001, "")).await;
    server.finish().await;
    assert_eq!(client.conn.expect_close().await.0, Some(1001));
    client.conn.expect_end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_no_other_stream() {
    let mut site = Site::new(&["limits: { message: 64MiB }"]).await;
    // Otherwise the client itself would have but one window for both.
    let mut settings = h2::client::Builder::new();
    settings.initial_connection_window_size(1 << 20);
    let Address::Tcp(address) = site.proxy.address() else { panic!("TCP") };
    let stream = TcpStream::connect(address).await.unwrap();
    site.client = H2Client::with(&mut settings, stream, "http").await;
    let (stuck, stuck_server) = site.open().await;
    let (mut other, mut other_server) = site.open().await;
    let (_, mut writer) = stuck_server.split();
    // The client takes nothing: its windows, the proxy and the sockets fill up.
    let sending = tokio::spawn(async move {
        for _ in 0..64 {
            if writer.put(&Frame::binary(vec![1; 1 << 20])).await.is_err() {
                return;
            }
        }
    });
    eventually("a stall", || (site.proxy.metric("wsluice_http2_stalls_total", &PLAIN) > 0.0).then_some(())).await;
    for _ in 0..20 {
        other_server.put(&Frame::text("past it")).await;
        other.conn.expect(&Frame::text("past it")).await;
    }
    sending.abort();
    drop(stuck);
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_up_no_other_stream() {
    let mut site = Site::new(&["limits: { message: 64MiB }"]).await;
    let (stuck, stuck_server) = site.open().await;
    let (mut other, mut other_server) = site.open().await;
    let (_, mut writer) = stuck.conn.split();
    let sending = tokio::spawn(async move {
        for _ in 0..64 {
            if writer.put(&Frame::binary(vec![1; 1 << 20])).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..200 {
        other.conn.put(&Frame::binary(vec![2; 10_000])).await;
        other_server.expect(&Frame::binary(vec![2; 10_000])).await;
    }
    assert!(!sending.is_finished());
    sending.abort();
    drop(stuck_server);
}

#[tokio::test]
async fn compressed_messages_pass_where_they_were_agreed_on() {
    let mut site = Site::new(&[]).await;
    let offer = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
    let (mut client, mut server) = tokio::join!(site.client.open("/", &offer), async {
        let mut server = site.server.accept().await;
        let head = server.head().await;
        let answer = [("Sec-WebSocket-Extensions", "permessage-deflate")];
        server.send(super::super::harness::switching(&head, &answer)).await;
        server
    });
    assert_eq!(client.head.headers["sec-websocket-extensions"], "permessage-deflate");
    (client.conn.input.extensions, server.input.extensions) = (true, true);
    let compressed = Frame::new(1, [0xca, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]).with_rsv(4);
    client.conn.put(&compressed).await;
    server.expect(&compressed).await;
    server.put(&compressed).await;
    client.conn.expect(&compressed).await;
}

#[tokio::test]
async fn a_false_or_other_answer_of_the_server_never_becomes_a_tunnel() {
    let mut site = Site::new(&[]).await;
    for (answer, status, body) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Why: 1\r\n\r\nno", 403, "no"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            502,
            "upstream_handshake: the server could not be reached or did not answer properly\n",
        ),
    ] {
        let asked = async {
            let request = site.client.connect_request("websocket", "/", &[("sec-websocket-version", "13")]);
            let (answer, _send) = site.client.ask(request, false).await;
            super::super::harness::whole(super::super::harness::within("the answer", answer).await.unwrap()).await
        };
        let (refused, _server) = tokio::join!(asked, async {
            let mut server = site.server.accept().await;
            server.head().await;
            server.send(answer).await;
            server
        });
        // To an extended CONNECT, a 200 would open a tunnel.
        let status = if status == 200 { 502 } else { status };
        assert_eq!(refused.status(), status, "{answer}");
        if status == 403 {
            assert_eq!(refused.body(), body);
        }
    }
    assert!(site.proxy.log_lines(3).await.iter().all(|line| line["message"] == "request"));
}

#[tokio::test]
async fn a_close_of_the_proxy_reaches_both_and_ends_the_stream_in_order() {
    let mut site = Site::new(&["limits: { message: 10 }"]).await;
    let (mut client, mut server) = site.open().await;
    client.conn.put(&Frame::text("too long for this route")).await;
    assert_eq!(client.conn.frame().await.code(), Some(1009));
    client.conn.put(&Frame::close(1009, "")).await;
    client.conn.expect_end().await;
    assert_eq!(client.ended(), None);
    let event = server.frame().await;
    assert_eq!((event.opcode, event.code()), (CLOSE, Some(1001)));
}

#[tokio::test]
async fn frames_pass_wherever_they_are_cut_and_those_that_come_early_wait_for_the_handshake() {
    let mut site = Site::new(&[]).await;
    let frames = [
        Frame::text("a"),
        Frame::ping("b"),
        Frame::binary(vec![3; 126]),
        Frame::text("c").unfinished(),
        Frame::new(0, vec![4; 70_000]),
        Frame::close(1000, "done"),
    ];
    let request = site.client.connect_request("websocket", "/", &[("sec-websocket-version", "13")]);
    let (answer, mut send) = site.client.ask(request, false).await;
    let bytes: Vec<u8> = frames.iter().flat_map(Frame::masked).collect();
    let (mut rest, mut sizes) = (&bytes[..], (1..=11).chain([500, 9000]).cycle());
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(rest.len().min(sizes.next().unwrap()));
        send.send_data(piece.to_vec().into(), false).unwrap();
        rest = left;
    }
    let mut server = site.server.accept().await;
    let head = server.head().await;
    let mut byte = [0];
    let early = server.io.tcp().unwrap().try_read(&mut byte);
    assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{byte:?} came before the 101");
    server.send(super::super::harness::switching(&head, &[])).await;
    for frame in &frames {
        assert!(server.frame().await == *frame);
    }
    // And back, in pieces that the server makes.
    let back: Vec<u8> =
        [Frame::binary(vec![5; 3000]), Frame::close(1000, "done")].iter().flat_map(Frame::plain).collect();
    for piece in back.chunks(701) {
        server.send(piece).await;
    }
    server.finish().await;
    let mut answer = within("the answer", answer).await.unwrap();
    let mut received = vec![];
    while received.len() < back.len() {
        let data = within("data", answer.body_mut().data()).await.unwrap().unwrap();
        answer.body_mut().flow_control().release_capacity(data.len()).unwrap();
        received.extend_from_slice(&data);
    }
    assert!(received == back);
}
