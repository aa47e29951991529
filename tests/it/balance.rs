//! Which endpoint a session goes to, and the counts when sessions come and go.

use super::harness::{Conn, Frame, Handshake, Proxy, RawServer, eventually, yaml};

/// A configuration with more lines in its upstream.
fn with(upstream: &str, endpoints: &[&str]) -> String {
    yaml(&[], &[]).replace("{ endpoints: [] }", &format!("{{ {upstream} endpoints: [{}] }}", endpoints.join(", ")))
}

async fn servers<const N: usize>() -> [RawServer; N] {
    let mut servers = vec![];
    for _ in 0..N {
        servers.push(RawServer::start().await);
    }
    servers.try_into().unwrap()
}

/// Opens a session and returns which of two servers got it.
async fn open(proxy: &Proxy, [a, b]: &mut [RawServer; 2], handshake: &Handshake) -> (usize, Conn, Conn) {
    let mut client = proxy.client().await;
    client.send(handshake.bytes()).await;
    let (index, mut server) = tokio::select! {
        conn = a.accept() => (0, conn),
        conn = b.accept() => (1, conn),
    };
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    (index, client, server)
}

fn active(proxy: &Proxy, server: &RawServer) -> f64 {
    proxy.metric("wsluice_endpoint_sessions_active", &[("upstream", "app"), ("endpoint", server.url())])
}

async fn close((_, mut client, mut server): (usize, Conn, Conn)) {
    client.put(&Frame::close(1000, "")).await;
    server.expect(&Frame::close(1000, "")).await;
    server.put(&Frame::close(1000, "")).await;
    client.expect_close().await;
    client.expect_end().await;
}

#[tokio::test]
async fn an_endpoint_whose_sessions_have_gone_is_filled_up_again_and_not_by_turns() {
    let mut servers = servers::<2>().await;
    let urls = [servers[0].url().to_owned(), servers[1].url().to_owned()];
    let proxy = Proxy::start(&yaml(&[&urls[0], &urls[1]], &[]));
    let mut sessions = vec![];
    for _ in 0..8 {
        sessions.push(open(&proxy, &mut servers, &Handshake::new()).await);
    }
    assert_eq!((active(&proxy, &servers[0]), active(&proxy, &servers[1])), (4.0, 4.0));
    // All of the first server's clients leave; as many new ones come.
    let (gone, stay): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|session| session.0 == 0);
    for session in gone {
        close(session).await;
    }
    eventually("the first server is empty", || (active(&proxy, &servers[0]) == 0.0).then_some(())).await;
    let mut came = vec![];
    for _ in 0..4 {
        came.push(open(&proxy, &mut servers, &Handshake::new()).await);
    }
    assert!(came.iter().all(|session| session.0 == 0));
    drop((came, stay));
}

#[tokio::test]
async fn weights_share_out_sessions_and_zero_takes_none() {
    let mut servers = servers::<2>().await;
    let mut idle = RawServer::start().await;
    let endpoints = [
        format!("{{ url: {:?}, weight: 3 }}", servers[0].url()),
        format!("{:?}", servers[1].url()),
        format!("{{ url: {:?}, weight: 0 }}", idle.url()),
    ];
    let endpoints = [&*endpoints[0], &*endpoints[1], &*endpoints[2]];
    for balance in ["least_connections", "round_robin"] {
        let proxy = Proxy::start(&with(&format!("balance: {balance},"), &endpoints));
        let mut sessions = vec![];
        for _ in 0..12 {
            sessions.push(open(&proxy, &mut servers, &Handshake::new()).await);
        }
        let first = sessions.iter().filter(|session| session.0 == 0).count();
        assert_eq!(first, 9, "{balance}");
    }
    assert_eq!(idle.connections().await, 0);
}

#[tokio::test]
async fn a_full_endpoint_is_passed_over_and_all_full_is_503_until_somebody_goes() {
    let mut servers = servers::<2>().await;
    let endpoints = [
        format!("{{ url: {:?}, max_connections: 1 }}", servers[0].url()),
        format!("{{ url: {:?}, max_connections: 2 }}", servers[1].url()),
    ];
    let proxy = Proxy::start(&with("", &[&endpoints[0], &endpoints[1]]));
    let mut sessions = vec![];
    for _ in 0..3 {
        sessions.push(open(&proxy, &mut servers, &Handshake::new()).await);
    }
    assert_eq!(sessions.iter().filter(|session| session.0 == 0).count(), 1);
    let mut client = proxy.client().await;
    let head = client.ask(&Handshake::new()).await;
    assert_eq!(head.status(), 503);
    assert!(head.get("retry-after").is_some());
    assert!(client.body(&head).await.starts_with(b"endpoints_full: "));
    let full = [("listener", "plain"), ("route", "all"), ("reason", "endpoints_full")];
    assert_eq!(proxy.metric("wsluice_rejections_total", &full), 1.0);
    // The permit of a failed handshake is returned, and so is that of an ended session.
    let gone = sessions.pop().unwrap();
    let server = gone.0;
    close(gone).await;
    proxy
        .metric_becomes("wsluice_sessions_active", &[("listener", "plain"), ("route", "all"), ("upstream", "app")], 2.0)
        .await;
    let mut refused = proxy.client().await;
    refused.send(Handshake::new().bytes()).await;
    let mut upstream = servers[server].accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(refused.head().await.status(), 403);
    let again = open(&proxy, &mut servers, &Handshake::new()).await;
    assert_eq!(again.0, server);
}

#[tokio::test]
async fn no_endpoint_with_a_weight_is_503() {
    let server = RawServer::start().await;
    let proxy = Proxy::start(&with("", &[&format!("{{ url: {:?}, weight: 0 }}", server.url())]));
    let mut client = proxy.client().await;
    let head = client.ask(&Handshake::new()).await;
    assert_eq!(head.status(), 503);
    assert!(client.body(&head).await.starts_with(b"no_endpoint: "));
}

#[tokio::test]
async fn the_same_key_meets_at_the_same_endpoint_through_any_instance() {
    let mut servers = servers::<2>().await;
    let urls = [format!("{:?}", servers[0].url()), format!("{:?}", servers[1].url())];
    // The file of another instance has another order.
    let one = Proxy::start(&with("balance: { hash: { on: 'query:room' } },", &[&urls[0], &urls[1]]));
    let other = Proxy::start(&with("balance: { hash: { on: 'query:room' } },", &[&urls[1], &urls[0]]));
    let mut used = [0, 0];
    for room in 0..24 {
        let handshake = Handshake::to(&format!("/chat?room={room}"));
        let first = open(&one, &mut servers, &handshake).await;
        let second = open(&other, &mut servers, &handshake).await;
        assert_eq!(first.0, second.0, "room {room}");
        used[first.0] += 1;
    }
    assert!(used.iter().all(|&rooms| rooms > 0), "{used:?}");
}

#[tokio::test]
async fn the_key_goes_elsewhere_while_its_endpoint_is_down_and_comes_back() {
    let mut servers = servers::<2>().await;
    let urls = [format!("{:?}", servers[0].url()), format!("{:?}", servers[1].url())];
    let proxy = Proxy::start(&with("balance: { hash: { on: 'header:x-user' } },", &[&urls[0], &urls[1]]));
    let handshake = Handshake::new().with("X-User", "ann");
    let (home, ..) = open(&proxy, &mut servers, &handshake).await;
    // Its server ends this handshake: the other one takes it.
    let mut client = proxy.client().await;
    client.send(handshake.bytes()).await;
    drop(servers[home].accept().await);
    let mut elsewhere = servers[1 - home].accept().await;
    elsewhere.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn a_backup_takes_over_when_the_first_choice_is_full_and_the_own_zone_comes_first() {
    let mut servers = servers::<2>().await;
    for (first, second) in [("zone: east, max_connections: 2", "zone: west"), ("max_connections: 2", "priority: 1")] {
        let endpoints = [
            format!("{{ url: {:?}, {second} }}", servers[1].url()),
            format!("{{ url: {:?}, {first} }}", servers[0].url()),
        ];
        let text = with("", &[&endpoints[0], &endpoints[1]]);
        let proxy = Proxy::start(&format!("zone: east\n{text}"));
        let mut used = vec![];
        let mut sessions = vec![];
        for _ in 0..4 {
            let session = open(&proxy, &mut servers, &Handshake::new()).await;
            used.push(session.0);
            sessions.push(session);
        }
        assert_eq!(used, [0, 0, 1, 1], "{first}, {second}");
    }
}
