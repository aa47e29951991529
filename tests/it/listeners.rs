//! Where clients come in: addresses of every family, several at once, bounds, and the one that sends all to https.

use tokio::net::TcpListener;
use wsluice::app::{App, StartError};
use wsluice::config::load_str;
use wsluice::control::ReloadError;
use wsluice::control::context::LogOutput;
use wsluice::net::listener::Address;
use wsluice::telemetry::sink::LogSink;

use crate::harness::{Conn, Echo, Event, Frame, Handshake, Proxy, RawServer, yaml};
use crate::plain::{Site, get, head, ok, with_listener};

/// One message to an echo server and back.
async fn echoes(proxy: &Proxy, listener: &str) {
    let mut client = Conn::connect(proxy.listener(listener)).await;
    client.open(&Handshake::new()).await;
    client.put(&Frame::text("hello")).await;
    client.expect(&Frame::text("hello")).await;
}

#[tokio::test]
async fn clients_come_in_by_ipv4_ipv6_and_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("public.sock");
    let echo = Echo::start().await;
    let four = r#"- { name: plain, bind: "127.0.0.1:0" }"#;
    let more = format!(
        "{four}\n  - {{ name: six, bind: \"[::1]:0\" }}\n  - {{ name: unix, bind: \"unix:{}\" }}",
        path.display()
    );
    let text = yaml(&[&echo.url()], &[]).replace(four, &more);
    {
        let proxy = Proxy::start(&text);
        for listener in ["plain", "six", "unix"] {
            echoes(&proxy, listener).await;
            assert_eq!(proxy.metric("wsluice_connections_total", &[("listener", listener)]), 1.0);
        }
        let log = proxy.log_lines(3).await;
        let clients: Vec<_> = log.iter().map(|line| (line["listener"].as_str(), line["client"].as_str())).collect();
        for client in [(Some("plain"), Some("127.0.0.1")), (Some("six"), Some("::1")), (Some("unix"), None)] {
            assert!(clients.contains(&client), "{clients:?}");
        }
        assert!(path.exists());
    }
    assert!(!path.exists(), "the socket's file goes with it");
    // So the next one can take its place.
    echoes(&Proxy::start(&text), "unix").await;
}

#[tokio::test]
async fn a_client_on_a_unix_socket_has_no_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut upstream = RawServer::start().await;
    let bind = format!("unix:{}", dir.path().join("public.sock").display());
    let proxy = Proxy::start(&yaml(&[upstream.url()], &[]).replace("127.0.0.1:0", &bind));
    let mut client = proxy.client().await;
    let request = head(&["GET / HTTP/1.1", "Host: a", "X-Forwarded-For: 203.0.113.7"]);
    client.send(request).await;
    let request = upstream.accept().await.head().await;
    assert_eq!(request.get("forwarded"), Some("for=unknown;host=a;proto=http"));
    assert_eq!(request.get("x-forwarded-for"), None);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let mut site = Site::with_listener(&["limits: { connections: 2 }"]).await;
    let (first, mut server, _) = site.ask(&get("/1")).await;
    let (mut second, mut other, _) = site.ask(&get("/2")).await;
    let mut third = site.proxy.client().await;
    let _ = third.try_send(get("/3")).await;
    assert_eq!(third.read_to_end().await, b"");
    let labels = [("listener", "plain"), ("reason", "limit")];
    site.proxy.metric_becomes("wsluice_connection_errors_total", &labels, 1.0).await;
    // Those inside are served as before, and who leaves makes room.
    other.send(ok("")).await;
    assert_eq!(second.head().await.status(), 200);
    drop(first);
    assert!(matches!(server.event().await, Event::End | Event::Reset));
    site.proxy.metric_becomes("wsluice_connections_active", &[("listener", "plain")], 1.0).await;
    let mut fourth = site.proxy.client().await;
    fourth.send(get("/4")).await;
    assert_eq!(other.head().await.target(), "/4");
}

#[tokio::test]
async fn a_session_keeps_its_place_on_the_listener() {
    let mut upstream = RawServer::start().await;
    let proxy = Proxy::start(&with_listener(&yaml(&[upstream.url()], &[]), &["limits: { connections: 1 }"]));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    let mut second = proxy.client().await;
    assert_eq!(second.read_to_end().await, b"");
    drop((client, server));
    proxy.idle().await;
    let mut third = proxy.client().await;
    third.send(Handshake::new().bytes()).await;
    upstream.accept().await.switch(&[]).await;
    assert_eq!(third.head().await.status(), 101);
}

#[tokio::test]
async fn a_listener_can_send_everything_to_https() {
    for (port, authority) in [(443, "example.com"), (8443, "example.com:8443")] {
        let mut site = Site::with_listener(&[&format!("redirect: {{ https: {port} }}")]).await;
        for (target, location) in [("/a/../b?q=%2F&x", "/b?q=%2F&x"), ("/", "/")] {
            for request in [
                get(target),
                get(target).replace("GET", "POST"),
                String::from_utf8(Handshake::to(target).bytes()).unwrap(),
            ] {
                let request = request.replace("Host: example.com", "Host: Example.com:8080");
                let (answer, body) = site.refused(&request).await;
                assert_eq!((answer.status(), body.as_str()), (308, ""), "{request}");
                assert_eq!(answer.get("location"), Some(&*format!("https://{authority}{location}")));
            }
        }
        let (answer, _) = site.refused(&head(&["GET / HTTP/1.1", "Host: [::1]:8080"])).await;
        assert!(answer.get("location").unwrap().starts_with("https://[::1]"));
        // Nobody to send to.
        let mut client = site.proxy.client().await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        assert!(client.read_to_end().await.starts_with(b"HTTP/1.0 404 "));
        assert_eq!(site.upstream.connections().await, 0);
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it_and_nothing_is_left_open() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, first) = (taken.local_addr().unwrap(), free.local_addr().unwrap());
    drop(free);
    let plain = r#"- { name: plain, bind: "127.0.0.1:0" }"#;
    let text = yaml(&["ws://127.0.0.1:9"], &[])
        .replace(plain, &format!("- {{ name: plain, bind: \"{first}\" }}\n  - {{ name: late, bind: \"{address}\" }}"));
    let loaded = load_str("test.yaml", &text, &|_| None).unwrap();
    let sink = LogSink::new(std::io::sink()).unwrap();
    let error =
        App::start(loaded, None, prometheus::Registry::new(), LogOutput { sink, terminal: false, switch: None })
            .unwrap_err();
    assert!(matches!(&error, StartError::Refused(ReloadError::Bind { listener, .. }) if listener == "late"), "{error}");
    assert!(
        error.to_string().starts_with(&format!("listener late: {address} is in use by another process")),
        "{error}"
    );
    TcpListener::bind(first).await.unwrap();
}

#[tokio::test]
async fn the_workers_share_a_listener() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&yaml(&[&echo.url()], &[]).replace("workers: 1", "workers: 3"));
    let mut clients = vec![];
    for _ in 0..24 {
        let mut client = proxy.client().await;
        client.open(&Handshake::new()).await;
        clients.push(client);
    }
    for client in &mut clients {
        client.put(&Frame::text("hello")).await;
        client.expect(&Frame::text("hello")).await;
    }
    let labels = [("listener", "plain"), ("route", "all"), ("upstream", "app")];
    assert_eq!(proxy.metric("wsluice_sessions_active", &labels), 24.0);
    drop(clients);
    proxy.metric_becomes("wsluice_sessions_active", &labels, 0.0).await;
    assert!(matches!(proxy.address(), Address::Tcp(address) if address.port() != 0));
}

#[tokio::test]
async fn a_burst_of_connections_is_served() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&yaml(&[&echo.url()], &[]).replace("workers: 1", "workers: 2"));
    // More at once than the 128 that a socket's queue holds by default.
    let clients = (0..300).map(|_| {
        let address = proxy.address().clone();
        tokio::spawn(async move {
            let mut client = Conn::connect(&address).await;
            client.open(&Handshake::new()).await;
            client
        })
    });
    let mut open = vec![];
    for client in clients.collect::<Vec<_>>() {
        open.push(client.await.unwrap());
    }
    let labels = [("route", "all"), ("upstream", "app")];
    proxy.metric_becomes("wsluice_sessions_total", &labels, 300.0).await;
}
