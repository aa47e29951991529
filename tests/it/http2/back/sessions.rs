//! What a WebSocket has to do, by either version in front and as a stream behind.

use h2::Reason;
use h2::server::Builder;

use super::super::super::harness::{Authority, Frame, H2Server, eventually};
use super::{APP, Entrance, FRONTS, Front, Site, config};

#[tokio::test]
async fn it_opens_by_an_extended_connect_without_key_and_accept() {
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let headers = [
            ("sec-websocket-protocol", "a, b"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
            ("cookie", "x=1; y=2"),
            ("x-own", "z"),
        ];
        let (mut client, (mut server, _conn)) = tokio::join!(site.entrance.open("/chat?room=1", &headers), async {
            let mut conn = site.server.accept().await;
            let stream = conn.stream().await;
            assert_eq!(stream.request.method(), "CONNECT");
            assert_eq!(stream.request.uri(), "http://example.com/chat?room=1");
            for (name, value) in [
                ("sec-websocket-version", "13"),
                ("sec-websocket-protocol", "a, b"),
                ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
                ("cookie", "x=1; y=2"),
                ("x-own", "z"),
                ("x-forwarded-for", "127.0.0.1"),
            ] {
                assert_eq!(stream.all(name), [value], "{name}");
            }
            for name in ["host", "upgrade", "connection", "sec-websocket-key", "content-length", "transfer-encoding"] {
                assert_eq!(stream.all(name), [""; 0], "{name}");
            }
            let answer = [
                ("sec-websocket-protocol", "b"),
                ("sec-websocket-extensions", "permessage-deflate"),
                ("x-server", "1"),
            ];
            (stream.open(&answer), conn)
        });
        assert_eq!(client.header("sec-websocket-protocol"), Some("b"));
        assert_eq!(client.header("sec-websocket-extensions"), Some("permessage-deflate"));
        assert_eq!(client.header("x-server"), Some("1"));
        (client.conn.input.extensions, server.conn.input.extensions) = (true, true);
        let compressed = Frame::new(1, [0xca, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]).with_rsv(4);
        client.conn.put(&compressed).await;
        server.conn.expect(&compressed).await;
        server.conn.put(&compressed).await;
        client.conn.expect(&compressed).await;
        let endpoint = [("upstream", "app"), ("endpoint", site.server.url())];
        assert_eq!(site.proxy().metric("wsluice_endpoint_sessions_active", &endpoint), 1.0);
        for name in ["wsluice_upstream_http2_connections_active", "wsluice_upstream_http2_streams_active"] {
            assert_eq!(site.proxy().metric(name, &APP), 1.0, "{name}");
        }
        client.conn.put(&Frame::close(1000, "bye")).await;
        server.conn.expect(&Frame::close(1000, "bye")).await;
        server.conn.put(&Frame::close(1000, "bye")).await;
        client.conn.expect(&Frame::close(1000, "bye")).await;
        client.conn.expect_end().await;
        server.conn.expect_end().await;
        assert_eq!(server.ended(), None, "it ends in order");
        drop((client, server));
        let line = &site.proxy().log_lines(1).await[0];
        assert_eq!((line["message"].as_str(), line["close_reason"].as_str()), (Some("session"), Some("bye")), "{line}");
        site.proxy().metric_becomes("wsluice_upstream_http2_streams_active", &APP, 0.0).await;
        assert_eq!(site.proxy().metric("wsluice_endpoint_sessions_active", &endpoint), 0.0);
    }
}

#[tokio::test]
async fn messages_of_any_size_and_cut_arrive_as_they_were_sent() {
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let (mut client, mut server, _conn) = site.open().await;
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
            let (reader, writer) = (&mut server.conn, &mut client.conn);
            tokio::join!(writer.put(&frame), async { assert!(reader.frame().await == frame) });
            let (reader, writer) = (&mut client.conn, &mut server.conn);
            tokio::join!(writer.put(&frame), async { assert!(reader.frame().await == frame) });
        }
    }
}

#[tokio::test]
async fn either_side_may_close_with_any_code() {
    for front in FRONTS {
        for (code, reason) in [(1000, ""), (1001, "away"), (1011, "failed"), (4000, "own")] {
            let mut site = Site::new(front, &[]).await;
            let (mut client, mut server, mut conn) = site.open().await;
            server.conn.put(&Frame::close(code, reason)).await;
            client.conn.expect(&Frame::close(code, reason)).await;
            client.conn.put(&Frame::close(code, reason)).await;
            server.conn.expect(&Frame::close(code, reason)).await;
            server.conn.expect_end().await;
            client.conn.expect_end().await;
            let (mut client, mut server) = site.open_on(&mut conn).await;
            client.conn.put(&Frame::close(code, reason)).await;
            server.conn.expect(&Frame::close(code, reason)).await;
            server.conn.put(&Frame::close(code, reason)).await;
            client.conn.expect(&Frame::close(code, reason)).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_ends_its_direction_without_a_close_is_lost_and_what_it_sent_arrives() {
    for front in FRONTS {
        let mut site = Site::new(front, &["on_upstream_lost: { close: 1012 }"]).await;
        let (mut client, mut server, _conn) = site.open().await;
        server.conn.put(&Frame::text("last")).await;
        server.conn.finish().await;
        client.conn.expect(&Frame::text("last")).await;
        assert_eq!(client.conn.expect_closed_with(1012).await, "upstream lost");
    }
}

#[tokio::test]
async fn a_client_that_ends_its_direction_still_gets_what_the_server_has_to_say() {
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let (mut client, mut server, _conn) = site.open().await;
        client.conn.put(&Frame::text("question")).await;
        client.conn.finish().await;
        server.conn.expect(&Frame::text("question")).await;
        server.conn.put(&Frame::text("answer")).await;
        assert_eq!(server.conn.expect_close().await.0, Some(1001));
        client.conn.expect(&Frame::text("answer")).await;
        server.conn.put(&Frame::close(1001, "")).await;
        server.conn.finish().await;
        assert_eq!(client.conn.expect_close().await.0, Some(1001));
        client.conn.expect_end().await;
    }
}

#[tokio::test]
async fn a_reset_ends_one_session_and_a_lost_connection_each_of_its_own() {
    for front in FRONTS {
        let mut site = Site::new(front, &["on_upstream_lost: { close: 1012 }"]).await;
        let (mut one, mut one_server, mut conn) = site.open().await;
        let (mut two, mut two_server) = site.open_on(&mut conn).await;
        let (mut three, mut three_server) = site.open_on(&mut conn).await;
        // What was sent before the reset, h2 drops with the stream.
        one_server.reset(Reason::INTERNAL_ERROR);
        assert_eq!(one.conn.expect_closed_with(1012).await, "upstream lost");
        two.conn.put(&Frame::text("still")).await;
        two_server.conn.expect(&Frame::text("still")).await;
        conn.lose();
        for client in [&mut two, &mut three] {
            assert_eq!(client.conn.expect_closed_with(1012).await, "upstream lost");
        }
        three_server.conn.expect_gone().await;
        let lines = site.proxy().log_lines(3).await;
        assert!(lines.iter().all(|line| line["reason"] == "upstream_lost"), "{lines:?}");
        site.proxy().metric_becomes("wsluice_upstream_http2_connections_active", &APP, 0.0).await;
    }
}

#[tokio::test]
async fn a_client_that_is_lost_is_told_to_the_server_by_a_close() {
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let (mut client, mut server, mut conn) = site.open().await;
        client.conn.put(&Frame::text("x")).await;
        server.conn.expect(&Frame::text("x")).await;
        match client.session.take() {
            Some(mut session) => session.reset(Reason::CANCEL),
            None => client.conn.reset(),
        }
        assert_eq!(server.conn.expect_close().await.0, Some(1001));
        let (mut other, mut other_server) = site.open_on(&mut conn).await;
        other.conn.put(&Frame::text("y")).await;
        other_server.conn.expect(&Frame::text("y")).await;
    }
}

#[tokio::test]
async fn an_answer_that_opens_nothing_goes_to_the_client_as_it_is() {
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let mut conn = None;
        for (status, body) in [(403, "no"), (302, "there"), (500, "")] {
            let (refused, served) = tokio::join!(site.entrance.try_open("/", &[]), async {
                let mut served = match conn.take() {
                    Some(conn) => conn,
                    None => site.server.accept().await,
                };
                served.stream().await.respond(status, &[("x-why", "1")], body);
                served
            });
            assert_eq!(refused.err(), Some((status, body.to_owned())), "{front:?}");
            conn = Some(served);
        }
        site.proxy().metric_becomes("wsluice_upstream_http2_streams_active", &APP, 0.0).await;
        assert_eq!(site.server.accepted(), 1);
    }
}

#[tokio::test]
async fn a_false_200_and_a_stream_that_is_reset_are_failures_of_the_server() {
    for front in FRONTS {
        let mut site = Site::new(front, &[]).await;
        let endpoint = |reason| [("upstream", "app"), ("endpoint", ""), ("reason", reason)];
        let mut conn = None;
        for (reason, answer) in [
            ("false_101", Some(("sec-websocket-protocol", "other"))),
            ("false_101", Some(("sec-websocket-extensions", "x-other"))),
            ("stream_reset", None),
        ] {
            let (refused, served) = tokio::join!(site.entrance.try_open("/", &[]), async {
                let mut served = match conn.take() {
                    Some(conn) => conn,
                    None => site.server.accept().await,
                };
                let mut stream = served.stream().await;
                match answer {
                    Some(field) => drop(stream.answer(200, &[field], false)),
                    None => stream.respond.send_reset(Reason::INTERNAL_ERROR),
                }
                served
            });
            assert_eq!(refused.err().map(|(status, _)| status), Some(502), "{reason}");
            let mut labels = endpoint(reason);
            labels[1].1 = site.server.url();
            assert!(site.proxy().metric("wsluice_upstream_errors_total", &labels) >= 1.0, "{reason}");
            conn = Some(served);
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_read_one_stream_holds_up_no_other() {
    for front in FRONTS {
        // The window of its connection has room for both.
        let mut settings = Builder::new();
        settings.enable_connect_protocol().initial_connection_window_size(1 << 20);
        let server = H2Server::with(settings, None).await;
        let mut site = Site::of(front, server, &["limits: { message: 64MiB }"]).await;
        let (stuck, stuck_server, mut conn) = site.open().await;
        let (mut other, mut other_server) = site.open_on(&mut conn).await;
        let (_, mut writer) = stuck.conn.split();
        let sending = tokio::spawn(async move {
            for _ in 0..64 {
                if writer.put(&Frame::binary(vec![1; 1 << 20])).await.is_err() {
                    return;
                }
            }
        });
        for _ in 0..100 {
            other.conn.put(&Frame::binary(vec![2; 1000])).await;
            other_server.conn.expect(&Frame::binary(vec![2; 1000])).await;
        }
        assert!(!sending.is_finished());
        sending.abort();
        drop((stuck_server, stuck.session));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_no_other_stream_of_the_server() {
    for front in FRONTS {
        let mut site = Site::new(front, &["limits: { message: 64MiB }"]).await;
        let (stuck, stuck_server, mut conn) = site.open().await;
        let (mut other, mut other_server) = site.open_on(&mut conn).await;
        let (_, mut writer) = stuck_server.conn.split();
        let sending = tokio::spawn(async move {
            for _ in 0..64 {
                if writer.put(&Frame::binary(vec![1; 1 << 20])).await.is_err() {
                    return;
                }
            }
        });
        for _ in 0..100 {
            other_server.conn.put(&Frame::binary(vec![2; 10_000])).await;
            other.conn.expect(&Frame::binary(vec![2; 10_000])).await;
        }
        assert!(!sending.is_finished());
        sending.abort();
        drop(stuck);
    }
}

#[tokio::test]
async fn a_wait_for_a_window_is_counted() {
    let mut settings = Builder::new();
    settings.enable_connect_protocol().initial_window_size(1000);
    let mut site = Site::of(Front::H1, H2Server::with(settings, None).await, &[]).await;
    let (mut client, mut server, _conn) = site.open().await;
    let frame = Frame::binary(vec![5; 100_000]);
    tokio::join!(client.conn.put(&frame), async { assert!(server.conn.frame().await == frame) });
    let stalls = || (site.proxy().metric("wsluice_upstream_http2_stalls_total", &APP) > 0.0).then_some(());
    eventually("a stall", stalls).await;
}

#[tokio::test]
async fn a_server_by_tls_is_asked_by_what_tls_agrees_on() {
    let authority = Authority::new();
    let mut settings = Builder::new();
    settings.enable_connect_protocol();
    let mut tls = rustls::ServerConfig::clone(&authority.server(&["127.0.0.1"]));
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    for front in FRONTS {
        let mut server = H2Server::with(settings.clone(), Some(tls.clone().into())).await;
        let yaml = config("auto", &[server.url()], &[]);
        let yaml = yaml.replace("{ protocol: auto,", &format!("{{ tls: {{ ca: {:?} }},", authority.ca()));
        let mut entrance = Entrance::new(front, &yaml).await;
        let (mut client, (mut session, _conn)) = tokio::join!(entrance.open("/", &[]), async {
            let mut conn = server.accept().await;
            let stream = conn.stream().await;
            assert_eq!(stream.request.uri().scheme_str(), Some("https"));
            (stream.open(&[]), conn)
        });
        client.conn.put(&Frame::text("x")).await;
        session.conn.expect(&Frame::text("x")).await;
    }
}
