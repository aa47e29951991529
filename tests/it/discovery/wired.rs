//! The proxy with each of the providers.

use tempfile::TempDir;

use super::servers::{Dnsmasq, EtcdServer, is_here, put_in_place};
use crate::harness::{Conn, Frame, Handshake, Proxy, RawServer, eventually, yaml};

/// Starts a proxy whose upstream discovers its endpoints.
fn start(discover: &str) -> Proxy {
    Proxy::start(&yaml(&[], &[]).replace("{ endpoints: [] }", &format!("{{ discover: {{ {discover} }} }}")))
}

/// Opens a session that this server gets.
async fn open(proxy: &Proxy, server: &mut RawServer) -> (Conn, Conn) {
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut conn = server.accept().await;
    conn.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    (client, conn)
}

async fn endpoints(proxy: &Proxy, provider: &str, count: f64) {
    let labels = [("upstream", "app"), ("provider", provider)];
    proxy.metric_becomes("wsluice_discovery_endpoints", &labels, count).await;
}

#[tokio::test]
async fn new_sessions_follow_the_file_and_old_ones_stay_where_they_are() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.yaml");
    let (mut one, mut two) = (RawServer::start().await, RawServer::start().await);
    put_in_place(&path, &format!("- {}\n", one.url()));
    let proxy = start(&format!("file: {{ path: {path:?} }}"));
    endpoints(&proxy, "file", 1.0).await;
    let (mut client, mut server) = open(&proxy, &mut one).await;
    put_in_place(&path, &format!("- {}\n- {{ url: {:?}, weight: 0 }}\n", two.url(), one.url()));
    endpoints(&proxy, "file", 2.0).await;
    let _second = open(&proxy, &mut two).await;
    put_in_place(&path, &format!("- {}\n", two.url()));
    endpoints(&proxy, "file", 1.0).await;
    // Its endpoint is no longer listed.
    client.put(&Frame::text("still here")).await;
    server.expect(&Frame::text("still here")).await;
    let labels = [("upstream", "app"), ("endpoint", one.url())];
    assert_eq!(proxy.metric("wsluice_endpoint_sessions_active", &labels), 1.0);
    drop((client, server));
    eventually("its series goes with it", || {
        proxy.series("wsluice_endpoint_sessions_active", &labels).is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_was_told_nothing_says_503_until_it_is() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.yaml");
    let proxy = start(&format!("file: {{ path: {path:?} }}"));
    let mut client = proxy.client().await;
    let head = client.ask(&Handshake::new()).await;
    assert_eq!(head.status(), 503);
    assert!(client.body(&head).await.starts_with(b"no_endpoint: "));
    let mut server = RawServer::start().await;
    put_in_place(&path, &format!("- {}\n", server.url()));
    endpoints(&proxy, "file", 1.0).await;
    open(&proxy, &mut server).await;
}

#[cfg(feature = "dns")]
#[tokio::test]
async fn sessions_go_where_dns_says() {
    if !is_here("dnsmasq") {
        return;
    }
    let mut server = RawServer::start().await;
    let dns = Dnsmasq::start("127.0.0.1 app.test\n", &[]).await;
    let port = server.address().port();
    let proxy = start(&format!("dns: {{ name: app.test, port: {port}, server: \"{}\" }}", dns.address()));
    open(&proxy, &mut server).await;
    // The last good answer outlives the server that gave it.
    drop(dns);
    open(&proxy, &mut server).await;
}

#[tokio::test]
async fn three_proxies_follow_one_etcd() {
    if !is_here("etcd") {
        return;
    }
    let etcd = EtcdServer::start().await;
    let (mut one, mut two) = (RawServer::start().await, RawServer::start().await);
    etcd.put("/app/1", one.url()).await;
    let discover = format!("etcd: {{ servers: [{:?}], prefix: /app/ }}", etcd.url());
    let proxies = [start(&discover), start(&discover), start(&discover)];
    let mut sessions = vec![];
    for proxy in &proxies {
        sessions.push(open(proxy, &mut one).await);
    }
    etcd.put("/app/2", two.url()).await;
    for proxy in &proxies {
        endpoints(proxy, "etcd", 2.0).await;
        // The endpoint with fewer sessions.
        sessions.push(open(proxy, &mut two).await);
    }
    etcd.delete("/app/1").await;
    for proxy in &proxies {
        endpoints(proxy, "etcd", 1.0).await;
        sessions.push(open(proxy, &mut two).await);
    }
}
