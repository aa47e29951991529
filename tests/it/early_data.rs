//! Early data: nothing is lost that came with a handshake, and nothing of it is sent before the 101 is verified.

use super::harness::{Conn, Event, Frame, Handshake, Pair, Proxy, RawServer, switching, yaml};

fn frames() -> [Frame; 3] {
    [Frame::text("first"), Frame::ping("p"), Frame::binary(vec![0xA5; 300])]
}

async fn expect_all(conn: &mut Conn) {
    for frame in frames() {
        conn.expect(&frame).await;
    }
}

#[tokio::test]
async fn frames_in_the_same_segment_as_the_handshake_wait_for_the_101() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let mut client = proxy.client().await;
    let frames: Vec<u8> = frames().iter().flat_map(Frame::masked).collect();
    client.send([Handshake::new().bytes(), frames].concat()).await;
    let mut upstream = server.accept().await;
    let request = upstream.head().await;
    // Everything that the proxy may send before the 101 was sent; a frame would have come with the head or right after.
    // A second session on the same worker, opened and used in the meantime, gives it time for the mistake.
    let mut other = proxy.client().await;
    other.send(Handshake::new().bytes()).await;
    let mut other_upstream = server.accept().await;
    other_upstream.switch(&[]).await;
    other.head().await;
    other.put(&Frame::text("x")).await;
    other_upstream.expect(&Frame::text("x")).await;
    let mut byte = [0];
    let early = upstream.io.tcp().unwrap().try_read(&mut byte);
    assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{byte:?} came before the 101");
    assert!(upstream.input.rest().is_empty());

    upstream.send(switching(&request, &[])).await;
    expect_all(&mut upstream).await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn frames_of_a_client_whose_handshake_fails_reach_nobody() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    for answer in ["HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n"] {
        let mut client = proxy.client().await;
        client.send([Handshake::new().bytes(), Frame::text("early").masked()].concat()).await;
        let mut upstream = server.accept().await;
        upstream.head().await;
        upstream.send(answer).await;
        assert_eq!(upstream.read_to_end().await, b"");
        let status = client.head().await.status();
        assert!(status == 403 || status == 502, "{status}");
    }
}

#[tokio::test]
async fn a_101_and_its_first_frames_in_one_segment_arrive_in_order() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    let request = upstream.head().await;
    let frames: Vec<u8> = frames().iter().flat_map(Frame::plain).collect();
    upstream.send([switching(&request, &[]), frames].concat()).await;
    assert_eq!(client.head().await.status(), 101);
    expect_all(&mut client).await;
}

#[tokio::test]
async fn a_clients_handshake_and_frames_may_be_cut_anywhere() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let frames: Vec<u8> = [Frame::text("first"), Frame::ping("p")].iter().flat_map(Frame::masked).collect();
    let bytes = [Handshake::new().bytes(), frames].concat();
    for cut in 0..=bytes.len() {
        let mut client = proxy.client().await;
        client.send(&bytes[..cut]).await;
        tokio::task::yield_now().await;
        client.send(&bytes[cut..]).await;
        let mut upstream = server.accept().await;
        upstream.switch(&[]).await;
        upstream.expect(&Frame::text("first")).await;
        upstream.expect(&Frame::ping("p")).await;
        assert_eq!(client.head().await.status(), 101, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_servers_101_and_frames_may_be_cut_anywhere() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let frames: Vec<u8> = [Frame::text("first"), Frame::ping("p")].iter().flat_map(Frame::plain).collect();
    for cut in 0.. {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        let bytes = [switching(&upstream.head().await, &[]), frames.clone()].concat();
        if cut > bytes.len() {
            break;
        }
        upstream.send(&bytes[..cut]).await;
        tokio::task::yield_now().await;
        upstream.send(&bytes[cut..]).await;
        assert_eq!(client.head().await.status(), 101, "cut at {cut}");
        client.expect(&Frame::text("first")).await;
        client.expect(&Frame::ping("p")).await;
    }
}

#[tokio::test]
async fn more_early_data_than_fits_a_buffer_is_not_lost() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    let large = Frame::binary((0..500_000u32).map(|i| i as u8).collect::<Vec<_>>());
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let (mut reader, mut writer) = client.split();
    let sent = large.clone();
    let sending = tokio::spawn(async move { writer.put(&sent).await.map(|()| writer) });
    let mut upstream = server.accept().await;
    let request = upstream.head().await;
    upstream.send([switching(&request, &[]), large.plain()].concat()).await;
    upstream.expect(&large).await;
    let _writer = sending.await.unwrap().unwrap();
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        if reader.input.rest().is_empty() {
            assert!(reader.input.fill(&mut reader.io).await.unwrap() > 0);
        }
        head.extend(reader.input.take(1));
    }
    assert_eq!(reader.event().await, Event::Frame(large));
}

#[tokio::test]
async fn a_close_right_behind_each_handshake_is_a_session_all_the_same() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    // The client's, with the handshake.
    let mut client = proxy.client().await;
    client.send([Handshake::new().bytes(), Frame::close(1000, "at once").masked()].concat()).await;
    let mut upstream = server.accept().await;
    upstream.switch(&[]).await;
    assert_eq!(upstream.expect_closed_with(1000).await, "at once");
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.expect_close().await.0, Some(1000));
    client.expect_end().await;
    // The server's, with the 101, and then the end of its stream.
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    let request = upstream.head().await;
    upstream.send([switching(&request, &[]), Frame::close(4000, "no").plain()].concat()).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.expect_closed_with(4000).await, "no");
    assert_eq!(upstream.expect_close().await.0, Some(4000));
    upstream.finish().await;
    upstream.expect_end().await;
    proxy.idle().await;
    let closes = |who, code| {
        let labels = [("route", "all"), ("initiator", who), ("code", code), ("reason", "closed")];
        proxy.metric("wsluice_session_closes_total", &labels)
    };
    assert_eq!((closes("client", "1000"), closes("server", "4xxx")), (1.0, 1.0));
}

#[tokio::test]
async fn frames_cut_anywhere_pass_whole_in_both_directions() {
    let mut pair = Pair::open(&[]).await;
    let frames = [
        Frame::text("a").unfinished(),
        Frame::ping("between"),
        Frame { fin: true, rsv: 0, opcode: 0, payload: b"b".to_vec() },
        Frame::binary(vec![1; 126]),
        Frame::binary(vec![]),
        Frame::pong(vec![2; 125]),
    ];
    let (up, down): (Vec<u8>, Vec<u8>) =
        (frames.iter().flat_map(Frame::masked).collect(), frames.iter().flat_map(Frame::plain).collect());
    for cut in 0..=up.len() {
        pair.client.send(&up[..cut]).await;
        tokio::task::yield_now().await;
        pair.client.send(&up[cut..]).await;
        for frame in &frames {
            pair.server.expect(frame).await;
        }
    }
    for cut in 0..=down.len() {
        pair.server.send(&down[..cut]).await;
        tokio::task::yield_now().await;
        pair.server.send(&down[cut..]).await;
        for frame in &frames {
            pair.client.expect(frame).await;
        }
    }
}
