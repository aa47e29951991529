//! Peers that vanish silently on connections without Pings: the kernel detects them, as configured.

use super::harness::{Event, Frame, Handshake, Proxy, RawServer, eventually, yaml};
use super::plain::{get, ok, with_listener};

/// Returns the keep-alive timer of the one connection of this process from `local` to `remote` (a port, 0 for any), in
/// seconds; `None` if it has no such timer.
#[cfg(target_os = "linux")]
fn keepalive_timer(local: u16, remote: u16) -> Option<u64> {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE: &str = "02";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|row| row[3] == ESTABLISHED && row.len() > 5);
    let mut ours = ours.filter(|row| (local == 0 || port(row[1]) == local) && (remote == 0 || port(row[2]) == remote));
    let row = ours.next().unwrap_or_else(|| panic!("a connection from {local} to {remote}"));
    assert!(ours.next().is_none(), "one connection from {local} to {remote}");
    let (timer, when) = row[5].split_once(':').unwrap();
    // In hundredths of a second, whatever unit the kernel uses.
    (timer == KEEPALIVE).then(|| u64::from_str_radix(when, 16).unwrap() / 100)
}

/// Returns the configuration with `tcp: { .. }` at its upstream.
fn with_upstream_tcp(yaml: &str, tcp: &str) -> String {
    let (before, after) = yaml.split_once("app: { ").unwrap();
    format!("{before}app: {{ tcp: {{ {tcp} }}, {after}")
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn both_sides_of_a_session_are_asked_for_by_the_kernel_as_the_configuration_says() {
    let mut server = RawServer::start().await;
    let blind = ["validate: off"];
    let text_of = |route: &[&str], listener: &str, upstream: &str| {
        let listener = format!("tcp: {{ {listener} }}");
        with_upstream_tcp(&with_listener(&yaml(&[server.url()], route), &[&listener]), upstream)
    };
    let text = |listener: &str, upstream: &str| text_of(&blind, listener, upstream);
    // A server that is pinged more often is not asked by the kernel.
    let pinged = ["keepalive: { ping: 5m }"];
    let texts = [
        (yaml(&[server.url()], &blind), Some(120), Some(120)),
        (text("keepalive: 1h", "keepalive: 2h"), Some(3600), Some(7200)),
        (text("keepalive: off", "keepalive: off, user_timeout: 1h"), None, None),
        (text("", ""), Some(120), Some(120)),
        (text_of(&pinged, "keepalive: 10m", "keepalive: 10m"), Some(600), None),
        (text_of(&pinged, "keepalive: 5m", "keepalive: 5m"), Some(300), Some(300)),
    ];
    let mut proxy = Proxy::start(&texts[0].0);
    let listening = proxy.address().tcp().unwrap().port();
    let at = server.address().port();
    for (text, client_side, server_side) in texts {
        // The listening sockets stay, and pass the new options on.
        proxy.reload(&text).await.unwrap();
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut socket = server.accept().await;
        socket.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        // While data is in flight there is another timer.
        let sides = [(listening, 0, client_side), (0, at, server_side)];
        for (local, remote, expected) in sides {
            let is_right = |seconds: Option<u64>| match (seconds, expected) {
                (Some(seconds), Some(expected)) => (expected - 60..=expected).contains(&seconds),
                (seconds, expected) => seconds == expected,
            };
            eventually(&format!("{expected:?} from {local} to {remote} with\n{text}"), || {
                is_right(keepalive_timer(local, remote)).then_some(())
            })
            .await;
        }
        drop((client, socket));
        proxy.idle().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_of_plain_http_are_asked_for_too() {
    let mut server = RawServer::start().await;
    let proxy = Proxy::start(&with_upstream_tcp(&yaml(&[server.url()], &[]), "keepalive: 1h"));
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    let mut socket = server.accept().await;
    socket.head().await;
    socket.send(ok("here")).await;
    let head = client.head().await;
    client.body(&head).await;
    // It now waits in the pool.
    let at = server.address().port();
    eventually("a timer of an hour", || keepalive_timer(0, at).filter(|seconds| (3540..=3600).contains(seconds))).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_that_takes_nothing_is_given_up_after_the_user_timeout() {
    let mut server = RawServer::start().await;
    let text = yaml(&[server.url()], &["validate: off"]);
    let proxy = Proxy::start(&with_upstream_tcp(&text, "keepalive: off, user_timeout: 1s"));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut socket = server.accept().await;
    socket.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    let (mut reader, mut writer) = client.split();
    // More than all buffers on the way hold; the rest fails when the session has ended.
    let sending = tokio::spawn(async move {
        let frame = Frame::binary(vec![0; 1 << 20]);
        while writer.put(&frame).await.is_ok() {}
    });
    let ended = reader.event().await;
    assert!(!matches!(ended, Event::Frame(_)), "{ended:?}");
    sending.abort();
    drop(reader);
    let line = &proxy.log_lines(1).await[0];
    assert_eq!(line["close_initiator"], "server", "{line}");
    drop(socket);
}
