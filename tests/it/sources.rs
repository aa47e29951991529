//! Connections to endpoints from configured source addresses.

use std::net::IpAddr;

use super::harness::{Conn, Handshake, Proxy, RawServer, yaml};
use super::plain;

fn with_sources(endpoint: &str, sources: &str, route: &[&str]) -> String {
    yaml(&[endpoint], route).replace("app: {", &format!("app: {{ source_addresses: {sources},"))
}

fn source(upstream: &Conn) -> IpAddr {
    upstream.io.tcp().unwrap().peer_addr().unwrap().ip()
}

#[tokio::test]
async fn sessions_take_turns_among_the_source_addresses() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&with_sources(server.url(), r#"["127.0.0.2", "::1", "127.0.0.3"]"#, &[]));
    let mut open = vec![];
    for turn in 0..4 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        assert_eq!(source(&upstream), IpAddr::from([127, 0, 0, 2 + turn % 2]));
        open.push((client, upstream));
    }
}

#[tokio::test]
async fn plain_http_takes_them_too() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&with_sources(server.url(), r#"["127.0.0.3"]"#, &[]));
    let mut client = proxy.client().await;
    client.send(plain::get("/")).await;
    let mut upstream = server.accept().await;
    assert_eq!(source(&upstream), IpAddr::from([127, 0, 0, 3]));
    upstream.head().await;
    upstream.send(plain::ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn an_address_that_is_not_ours_is_a_502_and_the_log_names_it() {
    let server = RawServer::start().await;
    // TEST-NET-1 (RFC 5737).
    let proxy = Proxy::start(&with_sources(server.url(), r#"["192.0.2.1"]"#, &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    assert_eq!(client.head().await.status(), 502);
    drop(client);
    let lines = proxy.log_lines(1).await;
    let detail = lines[0]["detail"].as_str().unwrap();
    assert!(detail.contains("cannot connect from 192.0.2.1"), "{detail}");
}
