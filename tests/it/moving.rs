//! Sessions that go on in the next process (`on_upgrade: move`), whatever they were doing. Uses real processes.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wsluice::net::listener::Address;

use crate::harness::traffic::{Client, Peers, Talk, To, UNANSWERED_MAX};
use crate::harness::{Authority, Conn, Frame, Handshake, Issuer, RawServer, eventually, series, unix, within};
use crate::plain::with_listener;
use crate::process::wsluice;
use crate::upgrade::{ProcessChain, configuration, is_there, metrics, shows};

/// Both ends of a session.
struct Ends {
    client: Conn,
    server: Conn,
}

impl Ends {
    async fn open(address: &Address, upstream: &mut RawServer) -> Ends {
        Ends::open_with(address, upstream, &Handshake::to("/ws"), &[]).await
    }

    async fn open_with(
        address: &Address,
        upstream: &mut RawServer,
        handshake: &Handshake,
        answer: &[(&str, &str)],
    ) -> Ends {
        let mut client = Conn::connect(address).await;
        client.send(handshake.bytes()).await;
        let mut server = upstream.accept().await;
        server.switch(answer).await;
        assert_eq!(client.head().await.status(), 101);
        Ends { client, server }
    }

    /// A message each way.
    async fn talk(&mut self) {
        self.client.put(&Frame::text("there")).await;
        self.server.expect(&Frame::text("there")).await;
        self.server.put(&Frame::text("and back")).await;
        self.client.expect(&Frame::text("and back")).await;
    }

    async fn close(mut self) {
        self.client.put(&Frame::close(1000, "done")).await;
        assert_eq!(self.server.expect_close().await.0, Some(1000));
        self.server.put(&Frame::close(1000, "done")).await;
        self.server.finish().await;
        assert_eq!(self.client.expect_close().await.0, Some(1000));
        self.client.expect_end().await;
    }
}

/// Upgrades, and waits for the end of the old process.
async fn replaced(chain: &mut ProcessChain) {
    let old = chain.upgrade().await;
    assert_eq!(chain.end(old).await, Some(0));
}

#[tokio::test]
async fn a_session_that_has_moved_keeps_the_place_of_its_client() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    for key in ["address", "{ header: X-Client }"] {
        let path = "    match: { path: { prefix: /ws } }\n";
        let limits = format!("{path}    limits: {{ per_client: {{ sessions: 1, key: {key} }} }}\n");
        let text = with_listener(&configuration(&[upstream.url()], ""), &["trusted_proxies: [127.0.0.1]"]);
        let text = text.replace(path, &limits);
        let mut chain = ProcessChain::start(dir.path(), &text);
        let address = chain.process.listening().await;
        let handshake = Handshake::to("/ws").with("X-Client", "one");
        let mut session = Ends::open_with(&address, &mut upstream, &handshake, &[]).await;
        for _ in 0..2 {
            replaced(&mut chain).await;
            session.talk().await;
            let mut second = Conn::connect(&address).await;
            assert_eq!(second.ask(&handshake).await.status(), 429, "{key}");
        }
        session.close().await;
        chain.finish().await;
    }
}

#[tokio::test]
async fn a_service_is_asked_about_a_session_after_the_move_as_before() {
    let (mut upstream, mut service) = (RawServer::start().await, RawServer::start().await);
    let dir = tempfile::tempdir().unwrap();
    let asked = service.url().replace("ws://", "http://");
    let auth = format!("upstream: app\n    auth: {{ forward: {{ url: \"{asked}/auth\", recheck: 1s }} }}");
    let text = configuration(&[upstream.url()], "").replacen("upstream: app", &auth, 1);
    let mut chain = ProcessChain::start(dir.path(), &text);
    let address = chain.process.listening().await;
    let mut client = Conn::connect(&address).await;
    client.send(Handshake::to("/ws").with("Cookie", "session=1").bytes()).await;
    let answer = |status: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let mut asking = service.accept().await;
    let question = asking.head().await;
    asking.send(answer("200 OK")).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    for status in ["200 OK", "200 OK", "403 Forbidden"] {
        replaced(&mut chain).await;
        let mut asking = service.accept().await;
        let again = asking.head().await;
        assert_eq!((&again.line, &again.headers), (&question.line, &question.headers));
        asking.send(answer(status)).await;
    }
    assert_eq!(client.expect_close().await.0, Some(4401));
    assert_eq!(server.expect_close().await.0, Some(1001));
    chain.finish().await;
}

fn logging(text: &str) -> String {
    text.replace("access: false", "access: true")
}

#[tokio::test]
async fn a_session_goes_on_in_the_middle_of_whatever_it_is_doing() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let text = configuration(&[upstream.url()], "");
    let mut chain = ProcessChain::start(dir.path(), &logging(&text));
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);

    let mut quiet = Ends::open(&address, &mut upstream).await;
    quiet.talk().await;

    // Half a frame header: a length of 16 bits, of which one byte has come.
    let mut half_header = Ends::open(&address, &mut upstream).await;
    let whole = Frame::binary(vec![7; 1000]).masked();
    half_header.client.send(&whole[..3]).await;

    // Half a large message.
    let mut half_message = Ends::open(&address, &mut upstream).await;
    let large = Frame::binary(vec![8; 3 << 20]).plain();
    half_message.server.send(&large[..2 << 20]).await;
    let first = half_message.client.read_exact(2 << 20).await;
    assert!(first == large[..2 << 20]);

    // A message in fragments, with a Ping between them.
    let mut fragments = Ends::open(&address, &mut upstream).await;
    fragments.client.put(&Frame::text("one ").unfinished()).await;
    fragments.server.expect(&Frame::text("one ").unfinished()).await;

    // Compressed messages, of which one has begun.
    let deflate = ("Sec-WebSocket-Extensions", "permessage-deflate");
    let offer = Handshake::to("/ws").with(deflate.0, deflate.1);
    let mut compressed = Ends::open_with(&address, &mut upstream, &offer, &[deflate]).await;
    let begun = Frame::text("c").with_rsv(4).unfinished();
    compressed.client.put(&begun).await;
    assert_eq!(compressed.server.read_exact(begun.masked().len()).await[0], begun.plain()[0]);

    // A client that does not read: its socket and the proxy are full.
    let mut stalled = Ends::open(&address, &mut upstream).await;
    let flood = Frame::binary(vec![9; 100_000]).plain();
    let mut floods = 0;
    while tokio::time::timeout(Duration::from_millis(300), stalled.server.send(&flood)).await.is_ok() {
        floods += 1;
    }

    for _ in 0..3 {
        replaced(&mut chain).await;
        shows(&admin, "wsluice_sessions_active{listener=\"plain\",route=\"all\",upstream=\"app\"} 6").await;
        quiet.talk().await;
    }
    half_header.client.send(&whole[3..]).await;
    half_header.server.expect(&Frame::binary(vec![7; 1000])).await;
    half_message.server.send(&large[2 << 20..]).await;
    assert!(half_message.client.read_exact(large.len() - (2 << 20)).await == large[2 << 20..]);
    fragments.client.put(&Frame::ping("p")).await;
    fragments.server.expect(&Frame::ping("p")).await;
    fragments.client.put(&Frame::new(0, "two")).await;
    fragments.server.expect(&Frame::new(0, "two")).await;
    // A bit that was not agreed on is still refused, and one that was is still allowed.
    for next in [Frame::new(0, "d"), Frame::text("e").with_rsv(4)] {
        compressed.client.put(&next).await;
        assert_eq!(compressed.server.read_exact(next.masked().len()).await[0], next.plain()[0]);
    }
    compressed.client.put(&Frame::text("f").with_rsv(2)).await;
    assert_eq!(compressed.client.expect_close().await.0, Some(1002));
    // What has waited comes in order and whole; the send that did not end was cut somewhere.
    for _ in 0..floods {
        stalled.client.expect(&Frame::binary(vec![9; 100_000])).await;
    }
    drop(stalled);
    for session in [quiet, half_header, half_message, fragments] {
        session.close().await;
    }
    shows(&admin, "wsluice_sessions_active{listener=\"plain\",route=\"all\",upstream=\"app\"} 0").await;
    shows(&admin, "wsluice_moved_sessions_total{result=\"arrived\"} 6").await;
    shows(&admin, "wsluice_predecessors 0").await;

    // One line for each session, and it has all that passed in all processes.
    let mut lines = vec![];
    within("the lines of all sessions", async {
        while lines.len() < 6 {
            lines = chain.process.access();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let closed: Vec<&Value> = lines.iter().filter(|line| line["reason"] == "closed").collect();
    assert_eq!(closed.len(), 4, "{lines:#?}");
    let talks = closed.iter().find(|line| line["text_in"] == 4).expect("the quiet one");
    assert_eq!((&talks["text_out"], &talks["path"]), (&Value::from(4), &Value::from("/ws")));
    chain.finish().await;
}

#[tokio::test]
async fn a_ping_in_flight_and_a_timer_go_on_as_without_the_move() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let text = configuration(&[upstream.url()], "");
    let route = "upstream: app\n    timeouts: { idle: 4s }\n    keepalive: { ping: 2s, pong: 1s }";
    let mut chain = ProcessChain::start(dir.path(), &text.replacen("upstream: app", route, 1));
    let address = chain.process.listening().await;
    let Ends { mut client, mut server } = Ends::open(&address, &mut upstream).await;
    client.put(&Frame::text("the last")).await;
    let last = Instant::now();
    server.expect(&Frame::text("the last")).await;
    let ping = client.frame().await;
    assert_eq!(ping.opcode, 9);
    replaced(&mut chain).await;
    // Its Pong is known in the new process, and swallowed there.
    client.put(&Frame::pong(ping.payload)).await;
    let answers = async {
        loop {
            let frame = server.frame().await;
            match frame.opcode {
                9 => server.put(&Frame::pong(frame.payload)).await,
                8 => std::future::pending().await,
                _ => panic!("only Pings of ours: {frame:?}"),
            }
        }
    };
    let closed = async {
        loop {
            let frame = client.frame().await;
            match frame.opcode {
                9 => client.put(&Frame::pong(frame.payload)).await,
                _ => return frame.close_body(),
            }
        }
    };
    let (code, reason) = tokio::select! {
        closed = closed => closed,
        () = answers => unreachable!(),
    };
    assert_eq!((code, reason.as_str()), (Some(1001), "idle timeout"));
    assert!(last.elapsed() >= Duration::from_millis(3900), "{:?}", last.elapsed());
    chain.finish().await;
}

#[tokio::test]
async fn sockets_of_all_kinds_go_over() {
    let dir = tempfile::tempdir().unwrap();
    let (front, back) = (dir.path().join("front.sock"), dir.path().join("back.sock"));
    let mut upstream = RawServer::start_unix(&back);
    let listener = format!("bind: \"unix:{}\"", front.display());
    let text = configuration(&[upstream.url()], "").replacen("bind: \"127.0.0.1:0\"", &listener, 1);
    let mut chain = ProcessChain::start(dir.path(), &text);
    chain.process.admin().await;
    let mut session = Ends::open(&Address::Unix(front), &mut upstream).await;
    session.talk().await;
    replaced(&mut chain).await;
    session.talk().await;
    session.close().await;
    chain.finish().await;
}

#[tokio::test]
async fn a_blind_pipe_goes_over_with_one_half_closed() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let text = configuration(&[upstream.url()], "").replacen("upstream: app", "upstream: app\n    validate: off", 1);
    let mut chain = ProcessChain::start(dir.path(), &text);
    let address = chain.process.listening().await;
    let mut session = Ends::open(&address, &mut upstream).await;
    session.client.send("this is no frame").await;
    session.client.finish().await;
    assert_eq!(session.server.read_to_end().await, b"this is no frame");
    session.server.send("one ").await;
    assert_eq!(session.client.read_exact(4).await, b"one ");
    replaced(&mut chain).await;
    session.server.send("two").await;
    session.server.finish().await;
    assert_eq!(session.client.read_to_end().await, b"two");
    chain.finish().await;
}

/// What the client of a PROXY header is called stays the same.
#[tokio::test]
async fn what_was_known_of_a_client_is_known_after_the_move() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let text = configuration(&[upstream.url()], "");
    let text = text.replacen("bind: \"127.0.0.1:0\"", "bind: \"127.0.0.1:0\", proxy_protocol: require", 1);
    let mut chain = ProcessChain::start(dir.path(), &logging(&text));
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let mut client = Conn::connect(&address).await;
    client.send("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n").await;
    client.send(Handshake::to("/ws?room=1").with("User-Agent", "phone").bytes()).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    replaced(&mut chain).await;
    let (status, sessions) = crate::process::ask(&admin, "/api/v1/sessions?client=192.0.2.7").await;
    let sessions: Value = serde_json::from_str(&sessions).unwrap();
    assert_eq!((status, &sessions["sessions"][0]["client"]), (200, &Value::from("192.0.2.7")), "{sessions}");
    Ends { client, server }.close().await;
    let line = eventually("its line", || chain.process.access().pop()).await;
    for (key, value) in [
        ("client", Value::from("192.0.2.7")),
        ("client_port", Value::from(4711)),
        ("path", Value::from("/ws?room=1")),
        ("user_agent", Value::from("phone")),
        ("status", Value::from(101)),
        ("close_code", Value::from(1000)),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    chain.finish().await;
}

#[tokio::test]
async fn a_session_keeps_its_subject_and_ends_with_its_token_after_the_move() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let issuer = Issuer::new("a");
    std::fs::write(dir.path().join("keys.json"), issuer.jwks()).unwrap();
    let file = dir.path().join("keys.json");
    let auth = format!("auth: {{ jwt: {{ keys: {{ file: {} }}, algorithms: [ES256], leeway: 0s }} }}", file.display());
    let path = "match: { path: { prefix: /ws } }";
    let text = configuration(&[upstream.url()], "").replacen(path, &format!("{path}\n    {auth}"), 1);
    let mut chain = ProcessChain::start(dir.path(), &logging(&text));
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let token = |more| issuer.sign(&serde_json::json!({ "sub": "ann", "exp": unix(more) }));
    let enter = |token: String| Handshake::to("/ws").with("Authorization", &format!("Bearer {token}"));
    let mut short = Ends::open_with(&address, &mut upstream, &enter(token(8)), &[]).await;
    let mut long = Ends::open_with(&address, &mut upstream, &enter(token(600)), &[]).await;
    replaced(&mut chain).await;
    long.talk().await;
    let (status, sessions) = crate::process::ask(&admin, "/api/v1/sessions?subject=ann").await;
    let sessions: Value = serde_json::from_str(&sessions).unwrap();
    assert_eq!((status, sessions["sessions"].as_array().unwrap().len()), (200, 2), "{sessions}");
    assert!(sessions["sessions"].as_array().unwrap().iter().all(|it| it["expires_at"].is_string()), "{sessions}");
    assert_eq!(within("the Close", short.client.frame()).await.close_body().0, Some(4401));
    assert_eq!(within("the Close", short.server.frame()).await.close_body().0, Some(1001));
    drop(short);
    let line = eventually("its line", || chain.process.access().pop()).await;
    assert_eq!(
        (&line["subject"], &line["reason"]),
        (&Value::from("ann"), &Value::from("credential_expired")),
        "{line}"
    );
    long.talk().await;
    long.close().await;
    chain.finish().await;
}

#[tokio::test]
async fn the_new_configuration_decides_and_what_cannot_go_ends_in_the_old_process() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let routes = |changed: &str, last: &str| {
        let route = |name: &str, more: &str| {
            format!("  - {{ name: {name}, match: {{ path: {{ prefix: /{name} }} }}, upstream: app{more} }}\n")
        };
        let routes =
            [route("kept", ""), route("changed", changed), route("closed", &format!("{changed}, on_change: close"))]
                .concat()
                + last;
        format!(
            "version: 1\nlisteners: [{{ name: plain, bind: \"127.0.0.1:0\" }}]\nroutes:\n{routes}\
             upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n\
             admin: {{ bind: \"127.0.0.1:0\" }}\nlog: {{ format: json, access: false }}\nwatch: false\n\
             on_upgrade: move 1s\n",
            upstream.url()
        )
    };
    let gone = "  - { name: gone, match: { path: { prefix: /gone } }, upstream: app }\n";
    let (before, after) = (routes("", gone), routes(", timeouts: { idle: 7m }", ""));
    let mut chain = ProcessChain::start(dir.path(), &before);
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let mut sessions = vec![];
    for route in ["kept", "changed", "closed", "gone"] {
        let handshake = Handshake::to(&format!("/{route}"));
        sessions.push(Ends::open_with(&address, &mut upstream, &handshake, &[]).await);
    }
    let [mut kept, mut changed, mut closed, mut gone] = <[Ends; 4]>::try_from(sessions).ok().unwrap();
    // One whose closing handshake has begun stays, and ends where it is.
    let mut closing = Ends::open_with(&address, &mut upstream, &Handshake::to("/kept"), &[]).await;
    closing.client.put(&Frame::close(1000, "")).await;
    assert_eq!(closing.server.expect_close().await.0, Some(1000));
    std::fs::write(dir.path().join("wsluice.yaml"), after).unwrap();
    let old = chain.upgrade().await;
    assert_eq!(closed.client.expect_close().await.0, Some(1012));
    let report = chain.process.message("the sessions have moved").await;
    assert_eq!(report["moved"], 3, "{report}");
    assert_eq!(report["stayed"].as_str(), Some(r#"{"closing": 1, "refused": 1}"#), "{report}");
    kept.talk().await;
    changed.talk().await;
    closing.server.put(&Frame::close(1000, "")).await;
    closing.server.finish().await;
    assert_eq!(closing.client.expect_close().await.0, Some(1000));
    // The route that is gone: its session ends in the old process, in the time that `move` gives.
    assert_eq!(gone.client.expect_close().await, (Some(1012), "the service is upgraded, please reconnect".to_owned()));
    gone.client.put(&Frame::close(1012, "")).await;
    assert_eq!(chain.end(old).await, Some(0));
    shows(&admin, "wsluice_moved_sessions_total{result=\"refused\"} 1").await;
    shows(&admin, "wsluice_predecessors 0").await;
    kept.close().await;
    changed.close().await;
    chain.finish().await;
}

#[tokio::test]
async fn through_ten_upgrades_no_message_is_lost_doubled_or_out_of_order() {
    const UPGRADES: usize = 10;
    const SESSIONS: usize = 60;
    let (peers, dir) = (Peers::start().await, tempfile::tempdir().unwrap());
    let text = configuration(&[peers.url()], "").replace("workers: 1", "workers: 2");
    let mut chain = ProcessChain::start(dir.path(), &text);
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let to = To::plain(&address);
    let mut clients = vec![];
    for number in 0..SESSIONS {
        let talk = Talk::to("/ws").pause(1, 30);
        let talk = if number % 2 == 0 { talk } else { talk.push() };
        let talk = if number % 10 == 0 { talk } else { talk.bytes_max(3000) };
        clients.push(Client::open(&to, &talk).await);
    }
    for _ in 0..UPGRADES {
        for client in &clients {
            client.hears(1).await;
        }
        replaced(&mut chain).await;
    }
    for client in &clients {
        client.hears(1).await;
    }
    shows(
        &admin,
        &format!("wsluice_endpoint_sessions_active{{endpoint=\"{}\",upstream=\"app\"}} {SESSIONS}", peers.url()),
    )
    .await;
    shows(&admin, "wsluice_predecessors 0").await;
    assert_eq!(series(&metrics(&admin).await, "wsluice_predecessor_sessions", &[]), None);
    for client in clients {
        let id = client.id;
        let (client, server) = (client.finish().await, peers.report(id).await);
        assert_eq!((client.sent, client.received), (server.received, server.sent));
    }
    peers.check();
    chain.finish().await;
}

#[tokio::test]
async fn sessions_over_tls_go_over_on_both_sides_and_in_both_versions() {
    const NAME: &str = "chat.test";
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let peers = Peers::start_tls(authority.server(&["localhost"])).await;
    let certificate = authority.issue("own", &[NAME]);
    let url = peers.url().replace("127.0.0.1", "localhost");
    let tls = format!(
        "bind: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: {:?}, key: {:?} }}] }}",
        certificate.0, certificate.1
    );
    let text = configuration(&[&url], "")
        .replacen("bind: \"127.0.0.1:0\"", &tls, 1)
        .replace("workers: 1", "workers: 2")
        .replace("app: { endpoints:", &format!("app: {{ tls: {{ ca: {:?} }}, endpoints:", authority.ca()));
    let mut chain = ProcessChain::start(dir.path(), &text);
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let new = authority.client();
    let old = authority.client_of(&[&rustls::version::TLS12]);
    let mut clients = vec![];
    for number in 0..20 {
        let to = To::tls(&address, NAME, if number % 2 == 0 { &new } else { &old });
        let talk = Talk::to("/ws").pause(1, 30);
        let talk = if number % 4 < 2 { talk } else { talk.push() };
        clients.push(Client::open(&to, &if number % 5 == 0 { talk } else { talk.bytes_max(3000) }).await);
    }
    for _ in 0..6 {
        for client in &clients {
            client.hears(1).await;
        }
        replaced(&mut chain).await;
    }
    shows(&admin, "wsluice_moved_sessions_total{result=\"arrived\"} 20").await;
    // A client that comes back resumes with a ticket of an earlier process.
    let returning = Client::open(&To::tls(&address, NAME, &new), &Talk::to("/ws")).await;
    let handshakes = "wsluice_tls_handshakes_total{listener=\"plain\",resumed=\"true\",version=\"1.3\"} 1";
    shows(&admin, handshakes).await;
    clients.push(returning);
    for client in &clients {
        client.hears(1).await;
    }
    for client in clients {
        let id = client.id;
        let (client, server) = (client.finish().await, peers.report(id).await);
        assert_eq!((client.sent, client.received), (server.received, server.sent));
    }
    peers.check();
    chain.finish().await;
}

#[tokio::test]
async fn a_drain_goes_on_in_the_new_process() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let text = configuration(&[upstream.url()], "");
    let mut chain = ProcessChain::start(dir.path(), &text);
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let mut drain = Conn::connect(&admin).await;
    drain.send("PUT /api/v1/drains/route/all?time=1h HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(drain.head().await.status(), 200);
    replaced(&mut chain).await;
    let mut refused = Conn::connect(&address).await;
    assert_eq!(refused.ask(&Handshake::to("/ws")).await.status(), 503);
    let mut end = Conn::connect(&admin).await;
    end.send("DELETE /api/v1/drains/route/all HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(end.head().await.status(), 200);
    Ends::open(&address, &mut upstream).await.close().await;
    chain.finish().await;
}

#[tokio::test]
async fn a_denied_subject_stays_denied_in_the_new_process_also_without_a_store() {
    let (upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let secret = crate::auth::SECRET;
    let auth = format!("upstream: app\n    auth: {{ jwt: {{ keys: {{ secret: {secret} }}, algorithms: [HS256] }} }}");
    let text = configuration(&[upstream.url()], "").replacen("upstream: app", &auth, 1);
    let mut chain = ProcessChain::start(dir.path(), &text);
    let (address, admin) = (chain.process.listening().await, chain.process.admin().await);
    let denied = crate::api::send(&admin, "PUT denied/ann?reason=spam", "").await;
    assert_eq!(denied.status, 200);
    replaced(&mut chain).await;
    let mut refused = Conn::connect(&address).await;
    let token = format!("Bearer {}", crate::auth::of("ann"));
    assert_eq!(refused.ask(&Handshake::to("/ws").with("Authorization", &token)).await.status(), 403);
    let after = crate::api::send(&admin, "GET denied/ann", "").await;
    assert_eq!(after.body, denied.body);
    chain.finish().await;
}

/// Ends one of the two processes, somewhere in an upgrade. The sessions are in the other one, or have ended with the one that
/// had them; none is in both.
#[tokio::test]
async fn whichever_process_is_killed_a_session_is_in_one_or_in_none() {
    let rounds = std::env::var("WSLUICE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(8);
    let (mut survived, mut lost) = (0, 0);
    for round in 0..rounds {
        let (peers, dir) = (Peers::start().await, tempfile::tempdir().unwrap());
        let text = configuration(&[peers.url()], "").replace("workers: 1", "workers: 2");
        let mut chain = ProcessChain::start(dir.path(), &text);
        let address = chain.process.listening().await;
        chain.process.admin().await;
        let to = To::plain(&address);
        let mut clients = vec![];
        for _ in 0..40 {
            clients.push(Client::open(&to, &Talk::to("/ws").pause(1, 10).bytes_max(3000)).await);
        }
        let old = chain.youngest();
        let new = chain.begin().await;
        // Before, in, or after the move.
        chain.process.message("no longer listening").await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..60_000))).await;
        let (victim, other) = if round % 2 == 0 { (new, old) } else { (old, new) };
        let _ = kill_process(victim, Signal::KILL);
        eventually("the end of the victim", || is_dead(victim).then_some(())).await;
        let other_lives = is_there(other);
        let mut ended = 0;
        for client in clients {
            let (id, before) = (client.id, client.received());
            // It goes on, which takes more messages than may be on their way, or has ended; the checks of `Client` and `Peers` see what is doubled, lost or out of order.
            let goes_on = eventually("it goes on or has ended", || {
                (!client.is_open())
                    .then_some(false)
                    .or_else(|| (client.received() > before + UNANSWERED_MAX + 3).then_some(true))
            });
            if goes_on.await {
                let Ok(report) = tokio::spawn(client.finish()).await else {
                    chain.process.access();
                    panic!("round {round}, {id} of {victim:?}: {:#?}", chain.process.seen);
                };
                assert_eq!(report.received, peers.report(id).await.sent);
            } else {
                ended += 1;
                client.closed().await;
            }
        }
        assert!(ended == 0 || !other_lives || ended <= 40);
        peers.check();
        survived += 40 - ended;
        lost += ended;
        if is_there(other) && victim != other {
            let _ = kill_process(other, Signal::KILL);
        }
        reap(&mut chain, new).await;
    }
    println!("{survived} sessions went on, {lost} ended with their process");
}

/// Returns true if a process has ended, whether somebody has waited for it or not.
fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The state follows the name, which is in parentheses.
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

async fn reap(chain: &mut ProcessChain, new: Pid) {
    let _ = kill_process(chain.pids[0], Signal::KILL);
    let _ = kill_process(new, Signal::KILL);
    eventually("the end of the first", || chain.process.exited()).await;
}

#[tokio::test]
async fn the_api_and_the_command_tell_what_became_of_the_sessions() {
    let (mut upstream, dir) = (RawServer::start().await, tempfile::tempdir().unwrap());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = configuration(&[upstream.url()], "").replace(
        "admin: { bind: \"127.0.0.1:0\" }",
        &format!("admin: {{ bind: \"127.0.0.1:{port}\", token: sixteen-and-more-letters }}"),
    );
    let mut chain = ProcessChain::start(dir.path(), &text);
    let address = chain.process.listening().await;
    chain.process.admin().await;
    let mut session = Ends::open(&address, &mut upstream).await;
    let file = dir.path().join("wsluice.yaml");
    let told = upgrade(&file).await;
    assert!(told.starts_with("process ") && told.contains("1 sessions moved in "), "{told}");
    let next = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).unwrap();
    chain.pids.push(crate::upgrade::pid(next));
    assert_eq!(chain.end(chain.pids[0]).await, Some(0));
    session.talk().await;
    let mut admin = Conn::connect(&format!("127.0.0.1:{port}").parse().unwrap()).await;
    admin
        .send(
            "POST /api/v1/upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\
             Authorization: Bearer sixteen-and-more-letters\r\n\r\n",
        )
        .await;
    let head = admin.head().await;
    let answer: Value = serde_json::from_slice(&admin.body(&head).await).unwrap();
    assert_eq!((head.status(), &answer["moved"], &answer["stayed"]), (200, &Value::from(1), &serde_json::json!({})));
    chain.pids.push(crate::upgrade::pid(answer["pid"].as_u64().unwrap() as u32));
    session.talk().await;
    session.close().await;
    chain.finish().await;
    // Nobody is there any more.
    assert!(upgrade(&file).await.contains("nobody listens on 127.0.0.1:"));
}

/// Runs `wsluice upgrade`. Returns what it says.
async fn upgrade(file: &Path) -> String {
    let mut command: Command = wsluice(&["upgrade", "--config", file.to_str().unwrap()]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (stdout, stderr) = crate::process::text(&output);
    stdout + &stderr
}
