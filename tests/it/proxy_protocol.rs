//! The client's address from a PROXY protocol header.

use std::sync::Arc;

use crate::harness::{Authority, Conn, Frame, Handshake, Proxy, RawServer, yaml};
use crate::plain::{Site, get, ok, with_listener};

const V1: &str = "PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n";

/// Version 2, command PROXY, with this family and these addresses and TLVs.
fn v2(family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    bytes.push(family);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn v2_tcp4() -> Vec<u8> {
    v2(0x11, &[203, 0, 113, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xBB])
}

fn v2_tcp6(tlvs: &[u8]) -> Vec<u8> {
    let mut body = vec![];
    body.extend("2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    body.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    body.extend([0x12, 0x67, 0x01, 0xBB]);
    body.extend(tlvs);
    v2(0x21, &body)
}

async fn site(mode: &str) -> Site {
    Site::with_listener(&[&format!("proxy_protocol: {mode}"), "timeouts: { tls: 300ms }"]).await
}

/// Sends `announcement` and a request; returns the X-Forwarded-For that the server reads.
async fn announced(site: &mut Site, announcement: &[u8]) -> String {
    let mut client = site.proxy.client().await;
    client.send([announcement, get("/").as_bytes()].concat()).await;
    let mut server = site.upstream.accept().await;
    let request = server.head().await;
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
    // The next request needs a new connection.
    server.finish().await;
    request.get("x-forwarded-for").unwrap().to_owned()
}

#[tokio::test]
async fn the_client_announced_is_the_client() {
    for mode in ["optional", "require"] {
        let mut site = site(mode).await;
        assert_eq!(announced(&mut site, V1.as_bytes()).await, "203.0.113.7");
        assert_eq!(announced(&mut site, &v2_tcp4()).await, "203.0.113.7");
        assert_eq!(announced(&mut site, &v2_tcp6(b"\x01\x00\x02h2")).await, "2001:db8::7");
        assert_eq!(announced(&mut site, b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n").await, "2001:db8::7");
        let log = site.proxy.log_lines(4).await;
        assert_eq!((log[0]["client"].as_str(), log[0]["client_port"].as_u64()), (Some("203.0.113.7"), Some(4711)));
        assert_eq!(log[2]["client"], "2001:db8::7");
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let mut site = site("require").await;
    assert_eq!(announced(&mut site, b"PROXY UNKNOWN\r\n").await, "127.0.0.1");
    // LOCAL: a health check.
    assert_eq!(announced(&mut site, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await, "127.0.0.1");
}

#[tokio::test]
async fn a_header_in_pieces_is_put_together() {
    let mut site = site("require").await;
    let mut client = site.proxy.client().await;
    for byte in V1.bytes() {
        client.send([byte]).await;
    }
    client.send(Handshake::new().bytes()).await;
    let mut server = site.upstream.accept().await;
    assert_eq!(server.switch(&[]).await.get("x-forwarded-for"), Some("203.0.113.7"));
    assert_eq!(client.head().await.status(), 101);
    client.put(&Frame::text("hello")).await;
    server.expect(&Frame::text("hello")).await;
}

#[tokio::test]
async fn where_it_is_optional_clients_may_come_without() {
    let mut site = site("optional").await;
    assert_eq!(announced(&mut site, b"").await, "127.0.0.1");
    // A request that begins as a header does.
    let mut client = site.proxy.client().await;
    client.send("PRO").await;
    client.send("PFIND / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut server = site.upstream.accept().await;
    assert_eq!(server.head().await.line, "PROPFIND / HTTP/1.1");
}

#[tokio::test]
async fn where_it_is_required_nobody_comes_without() {
    let mut site = site("require").await;
    let too_long = v2(0x11, &vec![0; 60_000]);
    let mut number = 0.0;
    for bytes in [
        get("/").as_bytes(),
        b"PROXY TCP4 203.0.113.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 203.0.113.700 198.51.100.1 4711 443\r\n",
        b"PROXY TCP4 2001:db8::7 198.51.100.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02..",
        &too_long,
        b"\x16\x03\x01",
    ] {
        let mut client = site.proxy.client().await;
        let _ = client.try_send(bytes).await;
        // Not an RFC, but §2.2 of the specification: no answer, the connection just ends.
        assert_eq!(client.read_to_end().await, b"", "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
        number += 1.0;
        let labels = [("listener", "plain"), ("reason", "proxy_protocol")];
        site.proxy.metric_becomes("wsluice_connection_errors_total", &labels, number).await;
    }
    assert_eq!(site.upstream.connections().await, 0);
}

#[tokio::test]
async fn a_malformed_header_is_refused_where_it_is_optional_too() {
    let mut site = site("optional").await;
    for bytes in
        [&b"PROXY TCP4 nobody 198.51.100.1 4711 443\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............"]
    {
        let mut client = site.proxy.client().await;
        client.send([bytes, get("/").as_bytes()].concat()).await;
        assert_eq!(client.read_to_end().await, b"");
    }
    assert_eq!(site.upstream.connections().await, 0);
}

#[tokio::test]
async fn where_it_is_off_it_is_no_http() {
    let mut site = site("off").await;
    let mut client = site.proxy.client().await;
    client.send(V1.to_owned() + &get("/")).await;
    assert_eq!(client.head().await.status(), 400);
    assert_eq!(site.upstream.connections().await, 0);
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let site = Site::with_listener(&["proxy_protocol: require", "timeouts: { tls: 200ms }"]).await;
    let mut client = site.proxy.client().await;
    client.send("PROXY TCP4 203.").await;
    assert_eq!(client.read_to_end().await, b"");
    let labels = [("listener", "plain"), ("reason", "proxy_protocol")];
    site.proxy.metric_becomes("wsluice_connection_errors_total", &labels, 1.0).await;
}

#[tokio::test]
async fn it_comes_before_tls() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("own", &["chat.test"]);
    let mut upstream = RawServer::start().await;
    let tls = format!("tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}] }}");
    let text = with_listener(&yaml(&[upstream.url()], &[]), &["proxy_protocol: require", &tls]);
    let proxy = Proxy::start(&text);
    let wsluice::net::listener::Address::Tcp(address) = proxy.address() else { panic!("TCP") };
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &v2_tcp4()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&authority.client()));
    let stream = connector.connect("chat.test".try_into().unwrap(), stream).await.unwrap();
    let mut client = Conn::client(crate::harness::Io::TlsClient(Box::new(stream)));
    client.send(Handshake::new().bytes()).await;
    let mut server = upstream.accept().await;
    let request = server.switch(&[]).await;
    assert_eq!(request.get("x-forwarded-for"), Some("203.0.113.7"));
    assert_eq!(request.get("x-forwarded-proto"), Some("https"));
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn whether_a_proxy_is_trusted_is_asked_of_the_client_announced() {
    let trusted = "trusted_proxies: [203.0.113.0/24]";
    let mut site = Site::with_listener(&["proxy_protocol: require", trusted]).await;
    for (announcement, expected) in
        [(V1, "192.0.2.9, 203.0.113.7"), ("PROXY TCP4 198.18.0.1 198.51.100.1 4711 443\r\n", "198.18.0.1")]
    {
        let more = "X-Forwarded-For: 192.0.2.9\r\n\r\n";
        let request = get("/").replace("\r\n\r\n", &format!("\r\n{more}"));
        let mut client = site.proxy.client().await;
        client.send(announcement.to_owned() + &request).await;
        let mut server = site.upstream.accept().await;
        assert_eq!(server.head().await.get("x-forwarded-for"), Some(expected));
        server.send(ok("")).await;
        assert_eq!(client.head().await.status(), 200);
        server.finish().await;
    }
}
