//! Limits of single clients: who is over his own disturbs nobody else, whatever he says he is.

use wsluice::net::listener::Address;

use crate::auth::{SECRET, of};
use crate::harness::{Conn, Echo, Frame, Handshake, Head, Proxy, RawServer, within, yaml};
use crate::plain::{get, with_listener};

const ACTIVE: [(&str, &str); 3] = [("listener", "plain"), ("route", "all"), ("upstream", "app")];

/// A proxy before an echo server whose listener believes `X-Forwarded-For`, with these limits of each client.
fn start(echo: &Echo, limits: &str, route: &str) -> Proxy {
    let limits = format!("limits: {{ per_client: {{ {limits} }} }}");
    let text = yaml(&[&echo.url()], &[&limits, route]);
    Proxy::start(&with_listener(&text, &["trusted_proxies: [127.0.0.1]"]))
}

/// A handshake with this field on a connection of its own.
async fn ask(proxy: &Proxy, name: &str, value: &str) -> (Conn, Head) {
    let mut client = proxy.client().await;
    let head = client.ask(&Handshake::new().with(name, value)).await;
    (client, head)
}

async fn from(proxy: &Proxy, address: &str) -> (Conn, Head) {
    ask(proxy, "X-Forwarded-For", address).await
}

/// Opens a session as soon as its client has a place: one comes back a moment after the metrics say that its session is over.
async fn admitted(proxy: &Proxy, address: &str) -> Conn {
    let asking = async {
        loop {
            let (client, head) = from(proxy, address).await;
            if head.status() == 101 {
                return client;
            }
        }
    };
    within("a place", asking).await
}

fn rejections(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric("wsluice_rejections_total", &[("listener", "plain"), ("route", "all"), ("reason", reason)])
}

#[tokio::test]
async fn a_client_over_its_sessions_gets_a_429_and_others_notice_nothing() {
    let echo = Echo::start().await;
    let proxy = start(&echo, "sessions: 2", "");
    let (mut one, two) = (from(&proxy, "192.0.2.1").await.0, from(&proxy, "192.0.2.1").await.0);
    for _ in 0..20 {
        let (mut client, head) = from(&proxy, "192.0.2.1").await;
        assert_eq!((head.status(), head.get("retry-after")), (429, Some("10")));
        assert!(String::from_utf8(client.body(&head).await).unwrap().starts_with("client_sessions: "));
    }
    assert_eq!(rejections(&proxy, "client_sessions"), 20.0);
    let (mut other, head) = from(&proxy, "192.0.2.2").await;
    assert_eq!(head.status(), 101);
    for client in [&mut one, &mut other] {
        client.put(&Frame::text("a")).await;
        client.expect(&Frame::text("a")).await;
    }
    // A place comes back with the end of its session.
    two.reset();
    proxy.metric_becomes("wsluice_sessions_active", &ACTIVE, 2.0).await;
    let three = admitted(&proxy, "192.0.2.1").await;
    assert_eq!(from(&proxy, "192.0.2.1").await.1.status(), 429);
    drop((one, three, other));
    proxy.metric_becomes("wsluice_sessions_active", &ACTIVE, 0.0).await;
}

#[tokio::test]
async fn a_handshake_that_fails_gives_its_place_back() {
    let mut server = RawServer::start().await;
    let text = yaml(&[server.url()], &["limits: { per_client: { sessions: 1 } }"]);
    let proxy = Proxy::start(&text);
    for _ in 0..3 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        upstream.head().await;
        // While it is under way, it counts.
        let mut second = proxy.client().await;
        assert_eq!(second.ask(&Handshake::new()).await.status(), 429);
        upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 403);
    }
    let mut gone = proxy.client().await;
    gone.send(Handshake::new().bytes()).await;
    let mut upstream = server.accept().await;
    upstream.head().await;
    gone.reset();
    upstream.expect_end().await;
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    server.accept().await.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn addresses_of_one_64_are_one_client_and_the_next_is_another() {
    let echo = Echo::start().await;
    let proxy = start(&echo, "sessions: 1", "");
    let (_held, head) = from(&proxy, "2001:db8::1").await;
    assert_eq!(head.status(), 101);
    for (address, status) in [
        ("2001:db8::2", 429),
        ("2001:db8::ffff:ffff:ffff:ffff", 429),
        ("2001:db8:0:1::1", 101),
        ("192.0.2.1", 101),
        ("::ffff:192.0.2.1", 101),
    ] {
        if status == 101 {
            admitted(&proxy, address).await.reset();
            proxy.metric_becomes("wsluice_sessions_active", &ACTIVE, 1.0).await;
        } else {
            assert_eq!(from(&proxy, address).await.1.status(), status, "{address}");
        }
    }
    // A mapped address is the IPv4 one.
    let _mapped = admitted(&proxy, "192.0.2.1").await;
    assert_eq!(from(&proxy, "::ffff:192.0.2.1").await.1.status(), 429);
}

#[tokio::test]
async fn what_an_untrusted_peer_says_of_itself_changes_nothing() {
    let echo = Echo::start().await;
    for key in ["address", "{ header: X-User }"] {
        let limits = format!("limits: {{ per_client: {{ sessions: 1, key: {key} }} }}");
        let text = with_listener(&yaml(&[&echo.url()], &[&limits]), &["trusted_proxies: [192.0.2.1]"]);
        let proxy = Proxy::start(&text);
        let (_held, head) = from(&proxy, "192.0.2.7").await;
        assert_eq!(head.status(), 101, "{key}");
        for number in 0..5 {
            let handshake = Handshake::new()
                .with("X-Forwarded-For", &format!("198.51.100.{number}"))
                .with("Forwarded", &format!("for=198.51.100.{number}"))
                .with("X-User", &number.to_string());
            let mut client = proxy.client().await;
            assert_eq!(client.ask(&handshake).await.status(), 429, "{key}");
        }
    }
}

#[tokio::test]
async fn a_client_is_its_subject_or_what_a_trusted_proxy_calls_it() {
    let echo = Echo::start().await;
    let auth = format!("auth: {{ jwt: {{ keys: {{ secret: {SECRET} }}, algorithms: [HS256] }} }}");
    let proxy = start(&echo, "sessions: 1, handshakes: 1/s, burst: 3, key: subject", &auth);
    let ask_as = async |subject: &str| ask(&proxy, "Authorization", &format!("Bearer {}", of(subject))).await;
    let (_ann, head) = ask_as("ann").await;
    assert_eq!(head.status(), 101);
    assert_eq!(ask_as("ann").await.1.status(), 429);
    // A bad token is no client's: it takes nothing from anybody.
    for _ in 0..10 {
        assert_eq!(ask(&proxy, "Authorization", "Bearer a.b.c").await.1.status(), 401);
    }
    assert_eq!(ask_as("bob").await.1.status(), 101);

    let proxy = start(&echo, "sessions: 1, key: { header: X-User }", "");
    let (_ann, head) = ask(&proxy, "X-User", "ann").await;
    assert_eq!(head.status(), 101);
    for (user, status) in [("ann", 429), ("bob", 101)] {
        assert_eq!(ask(&proxy, "X-User", user).await.1.status(), status, "{user}");
    }
}

#[tokio::test]
async fn handshakes_are_paced_and_the_answer_says_when_the_next_may_come() {
    let echo = Echo::start().await;
    let proxy = start(&echo, "handshakes: 1/s, burst: 3", "");
    let mut statuses = vec![];
    for _ in 0..6 {
        let (_, head) = from(&proxy, "192.0.2.1").await;
        if head.status() == 429 {
            assert_eq!(head.get("retry-after"), Some("1"));
        }
        statuses.push(head.status());
    }
    assert_eq!(statuses[..3], [101; 3]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(rejections(&proxy, "client_rate") >= 1.0);
    assert_eq!(from(&proxy, "192.0.2.2").await.1.status(), 101);
    let log = proxy.log_lines(7).await;
    assert!(log.iter().any(|line| line["reason"] == "client_rate" && line["status"] == 429), "{log:#?}");
    // Who comes too early loses nothing by it, and is let in when his next slot is there.
    admitted(&proxy, "192.0.2.1").await;
}

#[tokio::test]
async fn a_reload_keeps_the_count_of_those_who_are_there() {
    let echo = Echo::start().await;
    let mut proxy = start(&echo, "sessions: 2", "");
    let (_one, _two) = (from(&proxy, "192.0.2.1").await, from(&proxy, "192.0.2.1").await);
    let text = proxy.yaml();
    proxy.reload(&text.replace("sessions: 2", "sessions: 3")).await.unwrap();
    let (_three, head) = from(&proxy, "192.0.2.1").await;
    assert_eq!((head.status(), from(&proxy, "192.0.2.1").await.1.status()), (101, 429));
}

#[tokio::test]
async fn ten_thousand_addresses_take_nothing_from_one_more() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let socket = dir.path().join("in.sock");
    let limits = "limits: { per_client: { sessions: 1, handshakes: 1/s, burst: 1 } }";
    // Nobody reads the Pings of the session that is held meanwhile.
    let text = with_listener(&yaml(&[&echo.url()], &[limits, "keepalive: off"]), &["proxy_protocol: require"]);
    let _proxy = Proxy::start(&text.replace("127.0.0.1:0", &format!("unix:{}", socket.display())));
    let ask = async |client: &str| {
        let mut conn = Conn::connect(&Address::Unix(socket.clone())).await;
        conn.send(format!("PROXY TCP4 {client} 198.51.100.1 4711 443\r\n")).await;
        let head = conn.ask(&Handshake::new()).await;
        (conn, head.status())
    };
    let (mut held, status) = ask("192.0.2.1").await;
    assert_eq!(status, 101);
    let mut let_in = 0;
    for number in 0..10_000_u32 {
        let (_, status) = ask(&format!("10.0.{}.{}", number >> 8, number & 255)).await;
        let_in += usize::from(status == 101);
    }
    assert_eq!(let_in, 10_000);
    held.put(&Frame::text("still")).await;
    held.expect(&Frame::text("still")).await;
    assert_eq!(ask("192.0.2.1").await.1, 429, "it has its session still");
}

// ---- connections on which nobody was let in

const NEWCOMERS: &str = "limits: { per_client: { unauthenticated: 2 } }";

fn shut_out(proxy: &Proxy) -> f64 {
    proxy.metric("wsluice_connection_errors_total", &[("listener", "plain"), ("reason", "unauthenticated")])
}

/// Connects, and waits until the connection is closed without a word.
async fn is_shut_out(proxy: &Proxy) {
    let before = shut_out(proxy);
    assert_eq!(proxy.client().await.read_to_end().await, b"");
    assert_eq!(shut_out(proxy), before + 1.0);
}

/// Sends a handshake on connections of its own until one is served.
async fn let_in(proxy: &Proxy, handshake: &Handshake) -> Conn {
    let asking = async {
        loop {
            let mut client = proxy.client().await;
            let sent = client.try_send(handshake.bytes()).await;
            if sent.is_ok()
                && let Some(head) = client.try_head().await
            {
                assert_eq!(head.status(), 101);
                return client;
            }
        }
    };
    within("a place", asking).await
}

#[tokio::test]
async fn a_client_has_a_few_connections_on_which_nobody_was_let_in() {
    let echo = Echo::start().await;
    let auth = format!("auth: {{ jwt: {{ keys: {{ secret: {SECRET} }}, algorithms: [HS256] }} }}");
    let mut proxy = Proxy::start(&with_listener(&yaml(&[&echo.url()], &[&auth]), &[NEWCOMERS]));
    let token = Handshake::new().with("Authorization", &format!("Bearer {}", of("ann")));
    // Sessions do not count, however many there are.
    let mut sessions = vec![];
    for _ in 0..5 {
        sessions.push(let_in(&proxy, &token).await);
    }
    // Those that say nothing do, and those that are refused as long as they are there.
    let silent = proxy.client().await;
    let mut refused = proxy.client().await;
    // A connection ends with a handshake that is refused, and not with a request that is.
    refused.send(get("/")).await;
    let head = refused.head().await;
    assert_eq!(head.status(), 401);
    refused.body(&head).await;
    for _ in 0..3 {
        is_shut_out(&proxy).await;
    }
    // Who is let in at last makes room for another.
    assert_eq!(refused.ask(&token).await.status(), 101);
    let other = let_in(&proxy, &token).await;
    let third = proxy.client().await;
    proxy.metric_becomes("wsluice_connections_active", &[("listener", "plain")], 9.0).await;
    is_shut_out(&proxy).await;
    drop(silent);
    sessions.push(let_in(&proxy, &token).await);
    // Trusted proxies speak for many.
    drop((third, other));
    proxy
        .reload(&with_listener(&yaml(&[&echo.url()], &[&auth]), &[NEWCOMERS, "trusted_proxies: [127.0.0.1]"]))
        .await
        .unwrap();
    let count = shut_out(&proxy);
    let mut many = vec![];
    for _ in 0..5 {
        let mut client = proxy.client().await;
        assert_eq!(client.ask(&Handshake::new()).await.status(), 401);
        many.push(client);
    }
    assert_eq!(shut_out(&proxy), count);
    for session in &mut sessions {
        session.put(&Frame::text("still")).await;
        session.expect(&Frame::text("still")).await;
    }
}

#[tokio::test]
async fn with_a_proxy_header_the_announced_client_is_counted() {
    let echo = Echo::start().await;
    let listener = ["proxy_protocol: require", NEWCOMERS];
    let proxy = Proxy::start(&with_listener(&yaml(&[&echo.url()], &[]), &listener));
    let announced = async |client: &str, more: &[u8]| {
        let mut conn = proxy.client().await;
        let header = format!("PROXY TCP6 {client} 2001:db8::1 4711 443\r\n");
        let _ = conn.try_send([header.as_bytes(), more].concat()).await;
        conn
    };
    // Two of one /64, that wait.
    let _waiting = [announced("2001:db8:1::1", b"G").await, announced("2001:db8:1::2", b"G").await];
    proxy.metric_becomes("wsluice_connections_active", &[("listener", "plain")], 2.0).await;
    let handshake = Handshake::new().bytes();
    let shut = async {
        loop {
            let mut third = announced("2001:db8:1::3", &handshake).await;
            match third.try_head().await {
                None => return,
                // The two may not have been read yet.
                Some(head) => assert_eq!(head.status(), 101),
            }
        }
    };
    within("the third one's end", shut).await;
    assert!(shut_out(&proxy) >= 1.0);
    assert_eq!(announced("2001:db8:2::1", &handshake).await.head().await.status(), 101);
}

#[tokio::test]
async fn what_the_route_answers_itself_lets_nobody_in() {
    let text = "listeners:\n  - { name: plain, bind: \"127.0.0.1:0\", limits: { per_client: { unauthenticated: 2 } } }\n\
                routes:\n  - { name: all, respond: { status: 403 } }\n";
    let proxy = Proxy::start(text);
    let mut waiting = vec![];
    for _ in 0..2 {
        let mut client = proxy.client().await;
        client.send(get("/")).await;
        let head = client.head().await;
        assert_eq!(head.status(), 403);
        client.body(&head).await;
        waiting.push(client);
    }
    is_shut_out(&proxy).await;
}
