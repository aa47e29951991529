//! How connections of HTTP/2 end: no session is cut by a GOAWAY.

use std::time::Duration;

use super::super::harness::{Conn, Frame, H2Client, H2Session, Proxy, RawServer, within};
use super::{Site, both};

#[tokio::test]
async fn sessions_go_on_through_reloads_and_drains_of_other_routes() {
    let mut site = Site::new(&[]).await;
    let (mut client, mut server) = site.open().await;
    for round in 0..10 {
        let yaml = site.proxy.yaml().replace(
            "routes:",
            &format!("routes:\n  - {{ name: r{round}, match: {{ hosts: [r{round}.test] }}, upstream: app }}"),
        );
        site.proxy.reload(&yaml).await.unwrap();
        client.conn.put(&Frame::text("still here")).await;
        server.expect(&Frame::text("still here")).await;
        // The connection takes new streams, by the new configuration.
        assert_eq!(site.client.get("/", &[("host", "nobody.test")]).await.status(), 400);
    }
}

#[tokio::test]
async fn a_drain_gives_each_session_its_close_and_then_ends_the_connection() {
    let server = RawServer::start().await;
    let proxy = Proxy::start(&format!("{}drain: {{ time: 1s }}\n", both(&[server.url()], &[])));
    let client = H2Client::connect(proxy.address()).await;
    let mut site = Site { client, server, proxy };
    let (mut one, mut one_server) = site.open().await;
    let (mut two, mut two_server) = site.open().await;
    let draining = async { site.proxy.drain().await };
    let ending = async {
        let closed = async |client: &mut H2Session, server: &mut Conn| {
            assert_eq!(client.conn.expect_close().await.0, Some(1012));
            client.conn.put(&Frame::close(1012, "")).await;
            assert_eq!(server.expect_close().await.0, Some(1001));
            server.put(&Frame::close(1001, "")).await;
            server.finish().await;
            client.conn.expect_end().await;
            client.conn.finish().await;
            assert_eq!(client.ended(), None, "no session is reset");
        };
        tokio::join!(closed(&mut one, &mut one_server), closed(&mut two, &mut two_server));
    };
    let ((), drained) = tokio::join!(ending, draining);
    assert_eq!(drained.left, 0, "{drained:?}");
    // NO_ERROR.
    site.client.ended().await.unwrap();
}

#[tokio::test]
async fn a_connection_without_streams_ends_after_the_keep_alive_time_and_one_without_requests_sooner() {
    let server = RawServer::start().await;
    let times = "timeouts: { keep_alive: 300ms, headers: 100ms }, protocols:";
    let proxy = Proxy::start(&both(&[server.url()], &["match: { hosts: [other.test] }"]).replace("protocols:", times));
    let mut client = H2Client::connect(proxy.address()).await;
    client.ends().await.unwrap();
    proxy
        .metric_becomes("wsluice_connection_errors_total", &[("listener", "plain"), ("reason", "header_timeout")], 1.0)
        .await;
    let mut client = H2Client::connect(proxy.address()).await;
    assert_eq!(client.get("/", &[]).await.status(), 404);
    client.ends().await.unwrap();
    assert_eq!(
        proxy.metric("wsluice_connection_errors_total", &[("listener", "plain"), ("reason", "header_timeout")]),
        1.0
    );
}

#[tokio::test]
async fn a_session_keeps_its_connection_past_the_keep_alive_time() {
    let mut server = RawServer::start().await;
    let proxy =
        Proxy::start(&both(&[server.url()], &[]).replace("protocols:", "timeouts: { keep_alive: 50ms }, protocols:"));
    let mut client = H2Client::connect(proxy.address()).await;
    let (mut session, mut server) = tokio::join!(client.open("/", &[]), async {
        let mut server = server.accept().await;
        server.switch(&[]).await;
        server
    });
    // Several times as long as a connection without streams may last: nothing can be waited for but time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    session.conn.put(&Frame::text("still")).await;
    server.expect(&Frame::text("still")).await;
    session.conn.put(&Frame::close(1000, "")).await;
    server.expect(&Frame::close(1000, "")).await;
    server.put(&Frame::close(1000, "")).await;
    session.conn.expect(&Frame::close(1000, "")).await;
    session.conn.expect_end().await;
    drop(session);
    within("the end", client.ended()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_takes_its_sessions_with_it() {
    let mut site = Site::new(&[]).await;
    let (one, mut one_server) = site.open().await;
    let (two, mut two_server) = site.open().await;
    drop((one, two));
    let Site { client, proxy, .. } = site;
    client.abort();
    assert_eq!(one_server.expect_close().await.0, Some(1001));
    assert_eq!(two_server.expect_close().await.0, Some(1001));
    drop((one_server, two_server));
    proxy.idle().await;
}
