//! The admin listener, as operators and scrapers use it.

use wsluice::net::listener::Address;

use crate::harness::{Conn, Echo, Frame, Handshake, Proxy, yaml};
use crate::plain::{at_home, get, head};

async fn start(bind: &str) -> (Echo, Proxy) {
    let echo = Echo::start().await;
    let proxy =
        Proxy::start(&(yaml(&[&echo.url()], &[]) + &format!("admin: {{ bind: {bind:?} }}\ndrain: {{ time: 1s }}\n")));
    (echo, proxy)
}

async fn ask(admin: &Address, request: &str) -> (crate::harness::Head, String) {
    let mut conn = Conn::connect(admin).await;
    conn.send(request).await;
    let answer = conn.head().await;
    let body = conn.body(&answer).await;
    (answer, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn metrics_are_in_the_format_that_prometheus_reads() {
    let (_echo, proxy) = start("127.0.0.1:0").await;
    let admin = proxy.app.admin().unwrap().clone();
    let mut client = proxy.client().await;
    client.open(&Handshake::new()).await;
    client.put(&Frame::text("hello")).await;
    client.expect(&Frame::text("hello")).await;
    let (answer, body) = ask(&admin, &at_home("/metrics")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.get("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let value = |series: &str| -> f64 {
        let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{body}")).parse().unwrap()
    };
    assert_eq!(value(r#"wsluice_sessions_active{listener="plain",route="all",upstream="app"}"#), 1.0);
    assert_eq!(value(r#"wsluice_messages_total{direction="in",opcode="text",route="all"}"#), 1.0);
    assert_eq!(value(r#"wsluice_messages_total{direction="out",opcode="text",route="all"}"#), 1.0);
    assert_eq!(value(r#"wsluice_handshakes_total{code="101",http="1.1",listener="plain",route="all"}"#), 1.0);
    // Every refusal and every end has a zero before it happens.
    assert_eq!(value(r#"wsluice_rejections_total{listener="plain",reason="origin",route="all"}"#), 0.0);
    assert_eq!(value(r#"wsluice_rejections_total{listener="plain",reason="upstream_switched",route="all"}"#), 0.0);
    let closes = r#"wsluice_session_closes_total{code="1012",initiator="proxy",reason="drain",route="all"}"#;
    assert_eq!((value(closes), value("wsluice_draining")), (0.0, 0.0));
    for series in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"]
    {
        assert!(value(series) > 0.0, "{series}");
    }
    assert!(value("process_start_time_seconds") > 1.7e9);
    // No label is chosen by a stranger.
    assert!(!body.contains("example.com") && !body.contains("client=\""));
    // Each family has one description before its series.
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let types = |family: &str| body.matches(&format!("# TYPE {family} ")).count();
        assert!(types(family) == 1 || types(name) == 1, "{name}");
    }
}

#[tokio::test]
async fn health_is_told_and_nothing_else_is_served() {
    let (_echo, proxy) = start("127.0.0.1:0").await;
    let admin = proxy.app.admin().unwrap().clone();
    for path in ["/livez", "/readyz"] {
        let (answer, body) = ask(&admin, &get(path)).await;
        assert_eq!((answer.status(), body.as_str(), answer.get("cache-control")), (200, "ok\n", Some("no-store")));
    }
    assert_eq!(ask(&admin, &get("/")).await.0.status(), 200);
    assert_eq!(ask(&admin, &get("/debug")).await.0.status(), 404);
    let (answer, _) = ask(&admin, &head(&["POST /metrics HTTP/1.1", "Host: a", "Content-Length: 0"])).await;
    assert_eq!((answer.status(), answer.get("allow")), (405, Some("GET, HEAD")));
    // The public listener does not serve the operator's paths.
    let mut client = proxy.client().await;
    client.send(get("/metrics")).await;
    assert_ne!(client.head().await.status(), 200);
}

/// Opens this number of connections to the admin listener; each sends this, then nothing, and reads nothing.
async fn crowd(admin: &Address, count: usize, sent: &str) -> Vec<Conn> {
    let mut crowd = vec![];
    for _ in 0..count {
        let mut conn = Conn::connect(admin).await;
        // A connection that was already dropped takes nothing more.
        let _ = conn.try_send(sent).await;
        crowd.push(conn);
    }
    crowd
}

#[tokio::test]
async fn the_door_is_not_shut_by_those_who_say_nothing_or_do_not_read() {
    let (_echo, proxy) = start("127.0.0.1:0").await;
    let admin = proxy.app.admin().unwrap().clone();
    let scrape = at_home("/metrics");
    for (count, sent) in
        [(64, ""), (400, "GET /metrics HTTP/1.1\r\nHo"), (64, scrape.repeat(20).as_str()), (200, &scrape)]
    {
        let crowd = crowd(&admin, count, sent).await;
        for path in ["/livez", "/readyz"] {
            assert_eq!(ask(&admin, &get(path)).await.0.status(), 200, "{path} beside {count} of {sent:?}");
        }
        drop(crowd);
    }
}

#[tokio::test]
async fn a_name_that_may_be_a_pages_reads_no_metrics() {
    let (_echo, proxy) = start("127.0.0.1:0").await;
    let admin = proxy.app.admin().unwrap().clone();
    let of = |path: &str, host: &str| head(&[&format!("GET {path} HTTP/1.1"), &format!("Host: {host}")]);
    for host in ["evil.example.com", "evil.example.com:9902", "127.0.0.1.nip.io", "localhost.evil.example.com"] {
        let (answer, body) = ask(&admin, &of("/metrics", host)).await;
        assert!(answer.status() == 403 && body.contains("`admin.hosts`"), "{host}: {body}");
        // A probe may use any name.
        assert_eq!(ask(&admin, &of("/livez", host)).await.0.status(), 200);
    }
    for host in ["127.0.0.1", "localhost:9902", "[::1]:9902", "10.1.2.3:9902"] {
        assert_eq!(ask(&admin, &of("/metrics", host)).await.0.status(), 200, "{host}");
    }
}

#[tokio::test]
async fn scrapers_ask_by_the_name_that_they_know() {
    let echo = Echo::start().await;
    let of = |host: &str| head(&["GET /metrics HTTP/1.1", &format!("Host: {host}")]);
    for (admin, by_service, by_another) in [
        ("bind: \"0.0.0.0:0\", token: 0123456789abcdef", 200, 200),
        ("bind: \"0.0.0.0:0\", token: 0123456789abcdef, hosts: [\"*.svc\"]", 200, 403),
        ("bind: \"127.0.0.1:0\", hosts: [\"*.svc\"]", 200, 403),
    ] {
        let proxy =
            Proxy::start(&(yaml(&[&echo.url()], &[]) + &format!("admin: {{ {admin} }}\ndrain: {{ time: 1s }}\n")));
        let port = proxy.app.admin().unwrap().tcp().unwrap().port();
        let admin: Address = format!("127.0.0.1:{port}").parse().unwrap();
        for (host, status) in
            [("wsluice.default.svc:9902", by_service), ("proxy.example.com", by_another), ("10.1.2.3", 200)]
        {
            assert_eq!(ask(&admin, &of(host)).await.0.status(), status, "{host}");
        }
    }
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let (_echo, proxy) = start(&format!("unix:{}", dir.path().join("admin.sock").display())).await;
    let admin = proxy.app.admin().unwrap().clone();
    assert_eq!(ask(&admin, &get("/readyz")).await.0.status(), 200);
}

#[tokio::test]
async fn a_drain_is_not_ready_but_alive_and_goes_on_counting() {
    let (_echo, mut proxy) = start("127.0.0.1:0").await;
    let admin = proxy.app.admin().unwrap().clone();
    let mut client = proxy.client().await;
    client.open(&Handshake::new()).await;
    let asking = async {
        let reason = client.expect_close().await;
        assert_eq!(reason, (Some(1012), "service restart".to_owned()));
        let (answer, body) = ask(&admin, &get("/readyz")).await;
        assert_eq!((answer.status(), body.as_str()), (503, "draining\n"));
        assert_eq!(ask(&admin, &get("/livez")).await.0.status(), 200);
        let (_, metrics) = ask(&admin, &at_home("/metrics")).await;
        assert!(metrics.contains("\nwsluice_draining 1\n"), "{metrics}");
        client.put(&Frame::close(1012, "")).await;
        client.expect_end().await;
        client.finish().await;
    };
    let (drained, ()) = tokio::join!(proxy.drain(), asking);
    assert_eq!(drained.left, 0);
}
