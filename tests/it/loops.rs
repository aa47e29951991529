//! Endpoints that are this proxy itself, or lead where others may not send us.

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use wsluice::net::listener::Address;

use crate::discovery::put_in_place;
use crate::harness::{Conn, Echo, Frame, Handshake, Proxy, RawServer, yaml};
use crate::plain::get;

/// A proxy at a socket in `dir`, whose only endpoint is `endpoint`.
fn at_socket(dir: &TempDir, endpoint: &str) -> Proxy {
    let socket = format!("unix:{}", dir.path().join("s").display());
    Proxy::start(&yaml(&[endpoint], &[]).replace("127.0.0.1:0", &socket))
}

/// Asks for a WebSocket and for a page, which are both cut; each time the second time it comes along.
async fn goes_in_circles(proxy: &Proxy) {
    let loops = [("listener", "plain"), ("reason", "loop"), ("route", "all")];
    let before = proxy.metric("wsluice_rejections_total", &loops);
    for request in [Handshake::new().bytes(), get("/").into_bytes()] {
        let mut client = proxy.client().await;
        client.send(&request).await;
        let head = client.head().await;
        let body = client.body(&head).await;
        assert!(head.status() == 508 && body.starts_with(b"loop: "), "{head:?} {body:?}");
    }
    assert_eq!(proxy.metric("wsluice_rejections_total", &loops), before + 2.0);
}

#[tokio::test]
async fn a_proxy_that_is_its_own_endpoint_is_passed_once() {
    let dir = TempDir::new().unwrap();
    let own = format!("unix:{}", dir.path().join("s").display());
    goes_in_circles(&at_socket(&dir, &own)).await;
}

#[tokio::test]
async fn a_loop_is_seen_behind_something_else_too() {
    let dir = TempDir::new().unwrap();
    let (listener, socket) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), dir.path().join("s"));
    let url = format!("ws://{}", listener.local_addr().unwrap());
    // A load balancer that knows bytes only.
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut to = UnixStream::connect(socket).await.unwrap();
                let _ = copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    goes_in_circles(&at_socket(&dir, &url)).await;
}

#[tokio::test]
async fn a_way_through_two_routes_of_one_proxy_is_no_loop() {
    let (echo, dir) = (Echo::start().await, TempDir::new().unwrap());
    let socket = format!("unix:{}", dir.path().join("s").display());
    let text = format!(
        r#"
version: 1
listeners: [{{ name: outer, bind: "127.0.0.1:0" }}, {{ name: inner, bind: {socket:?} }}]
routes:
  - {{ name: outer, match: {{ path: {{ prefix: /outer }} }}, upstream: inner, rewrite: {{ strip_prefix: /outer }} }}
  - {{ name: inner, upstream: echo }}
upstreams:
  inner: {{ endpoints: [{socket:?}] }}
  echo: {{ endpoints: ["{}"] }}
"#,
        echo.url()
    );
    let proxy = Proxy::start(&text);
    let mut client = proxy.client().await;
    client.open(&Handshake::to("/outer/room")).await;
    client.put(&Frame::text("through both")).await;
    client.expect(&Frame::text("through both")).await;
}

#[tokio::test]
async fn what_was_said_of_other_hops_goes_on_and_ours_says_nothing_of_us() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&yaml(&[server.url()], &[]));
    for request in [Handshake::new().bytes(), get("/").into_bytes()] {
        let mut client = proxy.client().await;
        let request = String::from_utf8(request).unwrap();
        // Not even who nominates it gets rid of it.
        let request = request.replacen("\r\n", "\r\nCDN-Loop: edge; loops=1\r\n", 1);
        client.send(request).await;
        let mut conn = server.accept().await;
        let head = conn.head().await;
        let hops: Vec<String> = head.all("cdn-loop").iter().map(|line| line.to_string()).collect();
        assert!(hops.len() == 2 && hops[0] == "edge; loops=1" && hops[1].len() == 16, "{head:?}");
        assert!(hops[1].bytes().all(|byte| byte.is_ascii_hexdigit()), "{hops:?}");
        drop(conn);
    }
    let many = ["CDN-Loop: a, b, c, d, e, f, g, h, i\r\n"; 2].concat();
    let mut client = proxy.client().await;
    client.send(get("/").replacen("\r\n", &format!("\r\n{many}"), 1)).await;
    assert_eq!(client.head().await.status(), 508);
}

/// A proxy that reads its endpoints from the file `e` in `dir`, with `allow` beside that.
fn told_by_file(dir: &TempDir, allow: &str) -> Proxy {
    let path = dir.path().join("e");
    let discover = format!("{{ discover: {{ file: {{ path: {path:?} }}{allow} }} }}");
    Proxy::start(&(yaml(&[], &[]).replace("{ endpoints: [] }", &discover) + "admin: { bind: \"127.0.0.1:0\" }\n"))
}

const TOLD: [(&str, &str); 2] = [("upstream", "app"), ("provider", "file")];

#[tokio::test]
async fn endpoints_that_are_told_are_neither_we_nor_sockets_of_this_machine() {
    let (echo, dir) = (Echo::start().await, TempDir::new().unwrap());
    let proxy = told_by_file(&dir, "");
    let port = |address: &Address| address.tcp().unwrap().port();
    let (own, admin) = (port(proxy.address()), port(proxy.app.admin().as_ref().unwrap()));
    let told = format!(
        "- {}\n- ws://127.0.0.1:{own}\n- ws://0.0.0.0:{own}\n- ws://127.0.0.1:{admin}\n- 'ws://[::ffff:127.0.0.1]:{admin}'\n\
         - ws://169.254.169.254:80\n- unix:/var/run/docker.sock\n",
        echo.url()
    );
    put_in_place(&dir.path().join("e"), &told);
    proxy.metric_becomes("wsluice_discovery_endpoints", &TOLD, 1.0).await;
    let refused = [TOLD[0], TOLD[1], ("reason", "unusable")];
    assert_eq!(proxy.metric("wsluice_discovery_errors_total", &refused), 6.0);
    for _ in 0..3 {
        let mut client: Conn = proxy.client().await;
        client.open(&Handshake::new()).await;
    }
    // A list of nothing else changes nothing.
    put_in_place(&dir.path().join("e"), &format!("- ws://127.0.0.1:{admin}\n"));
    proxy.metric_becomes("wsluice_discovery_errors_total", &refused, 7.0).await;
    assert_eq!(proxy.metric("wsluice_discovery_endpoints", &TOLD), 1.0);
}

#[tokio::test]
async fn a_name_counts_by_what_it_leads_to() {
    let dir = TempDir::new().unwrap();
    let proxy = told_by_file(&dir, "");
    let admin = proxy.app.admin().unwrap().tcp().unwrap().port();
    put_in_place(&dir.path().join("e"), &format!("- ws://localhost:{admin}\n"));
    proxy.metric_becomes("wsluice_discovery_endpoints", &TOLD, 1.0).await;
    for request in [Handshake::new().bytes(), get("/metrics").into_bytes()] {
        let mut client = proxy.client().await;
        client.send(&request).await;
        assert_eq!(client.head().await.status(), 502);
    }
    let endpoint = format!("ws://localhost:{admin}");
    let labels = [("upstream", "app"), ("endpoint", endpoint.as_str()), ("reason", "out_of_reach")];
    assert!(proxy.metric("wsluice_upstream_errors_total", &labels) >= 1.0);
}

#[tokio::test]
async fn what_is_allowed_is_all_there_is() {
    let (echo, dir) = (Echo::start().await, TempDir::new().unwrap());
    let socket = dir.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let proxy = told_by_file(&dir, &format!(", allow: [\"unix:{}\"]", dir.path().display()));
    put_in_place(
        &dir.path().join("e"),
        &format!("- {}\n- unix:{}\n- unix:/run/x.sock\n", echo.url(), socket.display()),
    );
    proxy.metric_becomes("wsluice_discovery_endpoints", &TOLD, 1.0).await;
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    crate::harness::within("the request", listener.accept()).await.unwrap();
}
