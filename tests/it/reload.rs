//! Reloads while sessions run: which sessions notice.

use std::time::Duration;

use wsluice::control::{ControlRequest, DrainTarget, ReloadError};
use wsluice::net::listener::Address;

use crate::harness::{Conn, Echo, Event, Frame, Handshake, Proxy, RawServer, eventually, switching};
use crate::plain::get;

/// Two listeners, two routes by path, two upstreams.
fn two(one: &str, two: &str, changes: &[(&str, &str)]) -> String {
    let mut text = format!(
        r#"
version: 1
workers: 1
listeners:
  - {{ name: first, bind: "127.0.0.1:0" }}
  - {{ name: second, bind: "127.0.0.1:0" }}
routes:
  - {{ name: one, match: {{ path: {{ prefix: /one }} }}, upstream: one }}
  - {{ name: two, match: {{ path: {{ prefix: /two }} }}, upstream: two }}
upstreams:
  one: {{ endpoints: ["{one}"] }}
  two: {{ endpoints: ["{two}"] }}
"#
    );
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}

async fn open(proxy: &Proxy, listener: &str, path: &str) -> Conn {
    let mut client = Conn::connect(proxy.listener(listener)).await;
    client.open(&Handshake::to(path)).await;
    client
}

async fn echoes(client: &mut Conn, text: &str) {
    client.put(&Frame::text(text)).await;
    client.expect(&Frame::text(text)).await;
}

#[tokio::test]
async fn an_equal_file_changes_nothing_however_it_is_written() {
    let (one, echo) = (Echo::start().await, Echo::start().await);
    let text = two(&one.url(), &echo.url(), &[]);
    let mut proxy = Proxy::start(&text);
    let mut client = open(&proxy, "first", "/one").await;
    let changes = proxy.reload(&format!("# a comment\n{text}\n# and another")).await.unwrap();
    assert!(changes.is_empty(), "{changes:?}");
    let turned = text.replace("version: 1\nworkers: 1\n", "") + "workers: 1\nversion: 1\n";
    assert!(proxy.reload(&turned).await.unwrap().is_empty());
    echoes(&mut client, "still here").await;
}

/// Waits until this number of sessions has begun on an upstream: a client sees its 101 a moment earlier.
async fn sessions(proxy: &Proxy, upstream: &str, count: f64) {
    let all = || {
        let text = proxy.metrics();
        let of = |line: &&str| line.starts_with("wsluice_sessions_active{") && line.contains(&format!("{upstream:?}"));
        text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    eventually("sessions", || (all() == count).then_some(())).await;
}

fn on(proxy: &Proxy, upstream: &str, url: &str) -> f64 {
    proxy.metric("wsluice_endpoint_sessions_active", &[("upstream", upstream), ("endpoint", url)])
}

#[tokio::test]
async fn an_upstream_that_changes_takes_new_sessions_elsewhere_and_keeps_those_it_has() {
    let (first, other) = (Echo::start().await, Echo::start().await);
    let mut proxy = Proxy::start(&two(&first.url(), &first.url(), &[]));
    let mut old = open(&proxy, "first", "/one").await;
    let changes = proxy.reload(&two(&other.url(), &first.url(), &[])).await.unwrap();
    assert_eq!((changes.upstreams.changed, changes.routes.changed.len()), (vec!["one".to_owned()], 0));
    let mut new = open(&proxy, "first", "/one").await;
    assert_eq!((on(&proxy, "one", &first.url()), on(&proxy, "one", &other.url())), (1.0, 1.0));
    echoes(&mut old, "by the first").await;
    echoes(&mut new, "by the other").await;
    drop(old);
    // The first upstream has no sessions any more, and its series are gone.
    let labels =
        [("upstream", "one"), ("endpoint", first.url().as_str())].map(|(name, value)| (name, value.to_owned()));
    let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
    eventually("the end of its series", || {
        proxy.series("wsluice_endpoint_sessions_active", &labels).is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_route_that_changes_does_with_its_sessions_what_it_says_and_the_others_never_notice() {
    let echo = Echo::start().await;
    let text = |policy: &str| {
        let to = format!("upstream: one, limits: {{ message: 1KiB }}{policy} }}\n");
        two(&echo.url(), &echo.url(), &[("upstream: one }\n", &to)])
    };
    for (policy, closed) in [("", false), (", on_change: close", true), (", on_change: drain 1s", true)] {
        let mut proxy = Proxy::start(&two(&echo.url(), &echo.url(), &[]));
        let mut other = open(&proxy, "first", "/two").await;
        let mut before = [open(&proxy, "first", "/one").await, open(&proxy, "second", "/one").await];
        sessions(&proxy, "one", 2.0).await;
        let changes = proxy.reload(&text(policy)).await.unwrap();
        assert_eq!(changes.routes.changed, ["one"]);
        assert_eq!(changes.sessions_closing, if closed { 2 } else { 0 });
        // New limits apply to new sessions.
        let mut new = open(&proxy, "first", "/one").await;
        new.put(&Frame::text(&"x".repeat(2000))).await;
        new.expect_closed_with(1009).await;
        for client in &mut before {
            if closed {
                assert_eq!(client.expect_closed_with(1012).await, "the service has changed, please reconnect");
            } else {
                echoes(client, &"x".repeat(2000)).await;
            }
        }
        echoes(&mut other, "undisturbed").await;
        let labels = [("route", "one"), ("initiator", "proxy"), ("code", "1012"), ("reason", "reload")];
        proxy.metric_becomes("wsluice_session_closes_total", &labels, if closed { 2.0 } else { 0.0 }).await;
    }
}

#[tokio::test]
async fn a_change_of_the_defaults_is_one_of_each_route_and_upstream_that_has_them() {
    let (one, other) = (Echo::start().await, Echo::start().await);
    let defaults = |ping: &str, weight: &str| {
        let text = two(&one.url(), &other.url(), &[("prefix: /two } }", "prefix: /two } }, keepalive: { ping: 40s }")]);
        format!(
            "{text}defaults:\n  route: {{ keepalive: {{ ping: {ping} }}, on_change: close }}\n  upstream: {{ slow_start: {weight} }}\n"
        )
    };
    let mut proxy = Proxy::start(&defaults("30s", "5s"));
    let mut first = open(&proxy, "first", "/one").await;
    let mut second = open(&proxy, "first", "/two").await;
    echoes(&mut first, "there").await;
    let changes = proxy.reload(&defaults("20s", "5s")).await.unwrap();
    assert_eq!((changes.routes.changed.as_slice(), changes.sessions_closing), (&["one".to_owned()][..], 1));
    first.expect_closed_with(1012).await;
    echoes(&mut second, "still here").await;
    let changes = proxy.reload(&defaults("20s", "6s")).await.unwrap();
    assert_eq!((changes.routes.changed.len(), changes.upstreams.changed.len()), (0, 2));
}

#[tokio::test]
async fn who_comes_late_goes_with_a_route_that_changed_and_who_comes_later_stays() {
    let (mut slow, echo) = (RawServer::start().await, Echo::start().await);
    let text = |endpoint: &str, more: &str| {
        two(endpoint, &echo.url(), &[("upstream: one }\n", &format!("upstream: one{more} }}\n"))])
    };
    let mut proxy = Proxy::start(&text(slow.url(), ""));
    // Two handshakes are in progress when the route changes.
    let mut late = vec![];
    for _ in 0..2 {
        let mut client = Conn::connect(proxy.listener("first")).await;
        client.send(Handshake::to("/one").bytes()).await;
        let mut server = slow.accept().await;
        let request = server.head().await;
        late.push((client, server, request));
    }
    let changed = ", on_change: close, limits: { message: 1KiB }";
    assert_eq!(proxy.reload(&text(slow.url(), changed)).await.unwrap().routes.changed, ["one"]);
    // The next configuration has the same route, before another server.
    assert!(proxy.reload(&text(&echo.url(), changed)).await.unwrap().routes.changed.is_empty());
    let mut later = open(&proxy, "first", "/one").await;
    echoes(&mut later, "here").await;
    // Each is found by another sweep for late sessions; at the second, the first one's find is gone.
    for (mut client, mut server, request) in late {
        server.send(switching(&request, &[])).await;
        assert_eq!(client.head().await.status(), 101);
        tokio::join!(client.expect_closed_with(1012), server.expect_closed_with(1001));
    }
    echoes(&mut later, "still here").await;
}

#[tokio::test]
async fn what_becomes_of_sessions_on_a_change_is_no_change_for_them_and_counts_from_then_on() {
    let echo = Echo::start().await;
    let text =
        |more: &str| two(&echo.url(), &echo.url(), &[("upstream: one }\n", &format!("upstream: one{more} }}\n"))]);
    let mut proxy = Proxy::start(&text(""));
    let mut client = open(&proxy, "first", "/one").await;
    sessions(&proxy, "one", 1.0).await;
    let changes = proxy.reload(&text(", on_change: close")).await.unwrap();
    assert_eq!((changes.routes.changed, changes.sessions_closing), (vec!["one".to_owned()], 0));
    echoes(&mut client, "nothing has changed").await;
    let listener = "  - { name: second, bind: \"127.0.0.1:0\" }\n";
    let more = format!("{listener}  - {{ name: third, bind: \"127.0.0.1:0\" }}\n");
    let changes = proxy.reload(&text(", on_change: close").replace(listener, &more)).await.unwrap();
    assert_eq!((changes.listeners.added.len(), changes.sessions_closing), (1, 0));
    echoes(&mut client, "nor now").await;
    // It began before all of that, and ends by the present rule.
    let limited = text(", on_change: close, limits: { message: 1KiB }").replace(listener, &more);
    assert_eq!(proxy.reload(&limited).await.unwrap().sessions_closing, 1);
    assert_eq!(client.expect_closed_with(1012).await, "the service has changed, please reconnect");
}

#[tokio::test]
async fn who_comes_late_goes_however_short_a_handshake_may_be() {
    let (mut slow, echo) = (RawServer::start().await, Echo::start().await);
    let text = |more: &str| {
        let to = format!("upstream: one, timeouts: {{ handshake: 900ms }}{more} }}\n");
        two(slow.url(), &echo.url(), &[("upstream: one }\n", &to)])
    };
    let (before, after) = (text(", on_change: close"), text(", on_change: close, limits: { message: 1KiB }"));
    let mut proxy = Proxy::start(&before);
    let mut client = Conn::connect(proxy.listener("first")).await;
    client.send(Handshake::to("/one").bytes()).await;
    let mut server = slow.accept().await;
    let request = server.head().await;
    assert_eq!(proxy.reload(&after).await.unwrap().sessions_closing, 0);
    server.send(switching(&request, &[])).await;
    assert_eq!(client.head().await.status(), 101);
    tokio::join!(client.expect_closed_with(1012), server.expect_closed_with(1001));
}

#[tokio::test]
async fn a_route_that_is_taken_out_keeps_its_sessions_unless_it_said_otherwise() {
    let echo = Echo::start().await;
    let line = "  - { name: one, match: { path: { prefix: /one } }, upstream: one }\n";
    for (policy, closed) in [("", false), (", on_change: close", true)] {
        let with = two(&echo.url(), &echo.url(), &[("upstream: one }\n", &format!("upstream: one{policy} }}\n"))]);
        let without = two(&echo.url(), &echo.url(), &[(line, "")]);
        let mut proxy = Proxy::start(&with);
        let mut client = open(&proxy, "first", "/one").await;
        sessions(&proxy, "one", 1.0).await;
        let changes = proxy.reload(&without).await.unwrap();
        assert_eq!((changes.routes.removed, changes.sessions_closing), (vec!["one".to_owned()], usize::from(closed)));
        let mut late = Conn::connect(proxy.listener("first")).await;
        assert_eq!(late.ask(&Handshake::to("/one")).await.status(), 404);
        match closed {
            true => drop(client.expect_closed_with(1012).await),
            false => echoes(&mut client, "still here").await,
        }
    }
}

#[tokio::test]
async fn listeners_come_go_and_move_without_touching_the_others() {
    let echo = Echo::start().await;
    let text = |changes: &[(&str, &str)]| two(&echo.url(), &echo.url(), changes);
    let mut proxy = Proxy::start(&text(&[]));
    let first = proxy.listener("first").clone();
    let mut clients = [open(&proxy, "first", "/one").await, open(&proxy, "second", "/one").await];
    let second = "  - { name: second, bind: \"127.0.0.1:0\" }\n";
    let third = "  - { name: third, bind: \"127.0.0.1:0\" }\n";
    let gone = proxy.listener("second").clone();
    let changes = proxy.reload(&text(&[(second, third)])).await.unwrap();
    assert_eq!(changes.listeners.added, ["third"]);
    assert_eq!(changes.listeners.removed, ["second"]);
    assert_eq!(*proxy.listener("first"), first);
    assert!(std::net::TcpStream::connect(gone.tcp().unwrap()).is_err(), "nobody listens there");
    let mut new = open(&proxy, "third", "/two").await;
    for client in clients.iter_mut().chain([&mut new]) {
        echoes(client, "still here").await;
    }
    // Moves to another address, without ending sessions from the old one.
    let place = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", place.path().join("third.sock").display());
    let moved = third.replace("127.0.0.1:0", &path);
    let changes = proxy.reload(&text(&[(second, &moved)])).await.unwrap();
    assert_eq!(changes.listeners.changed, ["third"]);
    let mut by_socket = open(&proxy, "third", "/one").await;
    echoes(&mut by_socket, "here").await;
    echoes(&mut new, "still here").await;
}

#[tokio::test]
async fn a_configuration_that_cannot_be_put_in_force_changes_nothing_at_all() {
    let echo = Echo::start().await;
    let mut proxy = Proxy::start(&two(&echo.url(), &echo.url(), &[]));
    let mut client = open(&proxy, "first", "/one").await;
    let error = proxy.reload("version: 1\nroutes: 7\n").await.unwrap_err();
    assert!(matches!(error, ReloadError::Config(_)), "{error}");
    // Its port is taken, so the rest of the file is not applied either.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let third = format!("  - {{ name: third, bind: \"{}\" }}\nroutes:\n", taken.local_addr().unwrap());
    let bad = two(&echo.url(), &echo.url(), &[("routes:\n", &third), ("prefix: /two", "prefix: /else")]);
    let error = proxy.reload(&bad).await.unwrap_err();
    assert!(error.to_string().starts_with("listener third: "), "{error}");
    let mut other = open(&proxy, "first", "/two").await;
    echoes(&mut client, "still here").await;
    echoes(&mut other, "as before").await;
}

#[tokio::test]
async fn what_is_counted_on_a_route_counts_on_over_a_reload() {
    let echo = Echo::start().await;
    let text = |limit: u32| {
        let to = format!("upstream: one, limits: {{ connections: {limit} }} }}\n");
        two(&echo.url(), &echo.url(), &[("upstream: one }\n", &to)])
    };
    let mut proxy = Proxy::start(&text(2));
    let _clients = [open(&proxy, "first", "/one").await, open(&proxy, "second", "/one").await];
    proxy.reload(&text(3)).await.unwrap();
    let _third = open(&proxy, "first", "/one").await;
    let mut fourth = Conn::connect(proxy.listener("first")).await;
    assert_eq!(fourth.ask(&Handshake::to("/one")).await.status(), 503);
    proxy.metric_becomes("wsluice_sessions_total", &[("route", "one"), ("upstream", "one")], 3.0).await;
}

#[tokio::test]
async fn a_request_on_a_connection_from_before_finds_the_new_routes() {
    let echo = Echo::start().await;
    let mut proxy = Proxy::start(&two(&echo.url(), &echo.url(), &[]));
    let mut client = Conn::connect(proxy.listener("first")).await;
    client.send(get("/three")).await;
    let head = client.head().await;
    assert_eq!(head.status(), 404);
    client.body(&head).await;
    proxy.reload(&two(&echo.url(), &echo.url(), &[("prefix: /two", "prefix: /three")])).await.unwrap();
    client.open(&Handshake::to("/three")).await;
    echoes(&mut client, "found").await;
}

#[tokio::test]
async fn a_listener_moves_between_an_address_and_the_wildcard_around_it() {
    let echo = Echo::start().await;
    let text = |bind: &str, more: &[(&str, &str)]| {
        let to = format!("first, bind: {bind:?}");
        let mut changes = vec![("first, bind: \"127.0.0.1:0\"", to.as_str())];
        changes.extend(more);
        two(&echo.url(), &echo.url(), &changes)
    };
    let mut proxy = Proxy::start(&text("0.0.0.0:0", &[]));
    let port = proxy.listener("first").tcp().unwrap().port();
    let at = |host: &str| Address::Tcp(format!("{host}:{port}").parse().unwrap());
    let mut clients = vec![];
    for (host, bind) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "0.0.0.0"), ("127.0.0.2", "127.0.0.2")] {
        let mut before = Conn::connect(&at(if bind == "0.0.0.0" { "127.0.0.1" } else { host })).await;
        // A reload that cannot succeed as a whole changes nothing.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let second = format!("second, bind: \"{}\"", taken.local_addr().unwrap());
        let bad = text(&at(bind).to_string(), &[("second, bind: \"127.0.0.1:0\"", &second)]);
        assert!(proxy.reload(&bad).await.unwrap_err().to_string().starts_with("listener second: "));
        before.open(&Handshake::to("/one")).await;
        let changes = proxy.reload(&text(&at(bind).to_string(), &[])).await.unwrap();
        assert_eq!((changes.listeners.changed, proxy.listener("first")), (vec!["first".to_owned()], &at(bind)));
        let mut after = Conn::connect(&at(host)).await;
        after.open(&Handshake::to("/one")).await;
        let is_there = |host: &str| std::net::TcpStream::connect(at(host).tcp().unwrap()).is_ok();
        assert_eq!((is_there("127.0.0.1"), is_there("127.0.0.2")), (bind != "127.0.0.2", bind != "127.0.0.1"));
        clients.extend([before, after]);
        for client in &mut clients {
            echoes(client, bind).await;
        }
    }
}

#[tokio::test]
async fn the_admin_listener_stays_where_it_is_when_its_token_changes() {
    let echo = Echo::start().await;
    let text = |token: &str, bind: &str| {
        two(&echo.url(), &echo.url(), &[]) + &format!("admin: {{ bind: {bind:?}, token: {token:?} }}\n")
    };
    let mut proxy = Proxy::start(&text("0123456789abcdef", "127.0.0.1:0"));
    let address = proxy.app.admin().unwrap();
    let changes = proxy.reload(&text("fedcba9876543210", "127.0.0.1:0")).await.unwrap();
    assert_eq!((changes.others, proxy.app.admin().unwrap()), (vec!["admin"], address.clone()));
    let wide = format!("0.0.0.0:{}", address.tcp().unwrap().port());
    proxy.reload(&text("fedcba9876543210", &wide)).await.unwrap();
    assert_eq!(proxy.app.admin().unwrap().to_string(), wide);
    let mut scrape = Conn::connect(&address).await;
    scrape.send(get("/livez")).await;
    assert_eq!(scrape.head().await.status(), 200);
}

#[tokio::test]
async fn connections_of_a_listener_that_is_taken_out_do_not_serve_its_routes_for_ever() {
    let echo = Echo::start().await;
    let mut proxy = Proxy::start(&two(&echo.url(), &echo.url(), &[]));
    let mut kept = Conn::connect(proxy.listener("second")).await;
    kept.send(get("/nowhere")).await;
    let head = kept.head().await;
    assert_eq!(head.status(), 404);
    kept.body(&head).await;
    let second = "  - { name: second, bind: \"127.0.0.1:0\" }\n";
    proxy.reload(&two(&echo.url(), &echo.url(), &[(second, "")])).await.unwrap();
    kept.expect_end().await;
}

#[tokio::test]
async fn a_listener_that_is_drained_is_so_although_it_is_taken_out_and_comes_back() {
    let echo = Echo::start().await;
    let text = |changes: &[(&str, &str)]| two(&echo.url(), &echo.url(), changes);
    let mut proxy = Proxy::start(&text(&[]));
    let target = DrainTarget::Listener { name: "second".to_owned() };
    let (span, drained) = (Duration::from_secs(1), target.clone());
    let count =
        proxy.app.control().request(|done| ControlRequest::Drain { target: drained, span, done }).await.unwrap();
    assert_eq!(count, Some(0));
    let second = "  - { name: second, bind: \"127.0.0.1:0\" }\n";
    proxy.reload(&text(&[(second, "")])).await.unwrap();
    proxy.reload(&text(&[])).await.unwrap();
    assert_eq!(proxy.app.listeners().len(), 1, "it is not open");
    let ended = proxy.app.control().request(|done| ControlRequest::EndDrain { target, done }).await.unwrap();
    assert!(ended.unwrap());
    let open = proxy.app.listeners();
    let (_, address) = open.iter().find(|(name, _)| &**name == "second").unwrap();
    let mut client = Conn::connect(address).await;
    client.open(&Handshake::to("/one")).await;
    echoes(&mut client, "open again").await;
}

#[tokio::test]
async fn an_endpoint_that_is_being_emptied_is_so_over_further_reloads() {
    let [left, stays] = [Echo::start().await, Echo::start().await];
    let both = format!("{}\", \"{}", left.url(), stays.url());
    let text = |endpoints: &str, more: &str| {
        let upstream = format!("one: {{ balance: round_robin, drain_removed: 2s{more}, endpoints:");
        two(endpoints, &stays.url(), &[("one: { endpoints:", &upstream)])
    };
    let mut proxy = Proxy::start(&text(&both, ""));
    let mut clients = [open(&proxy, "first", "/one").await, open(&proxy, "first", "/one").await];
    sessions(&proxy, "one", 2.0).await;
    proxy.reload(&text(&stays.url(), "")).await.unwrap();
    // Another part of the same upstream changes while it is emptied.
    proxy.reload(&text(&stays.url(), ", slow_start: 1s")).await.unwrap();
    sessions(&proxy, "one", 1.0).await;
    assert_eq!(on(&proxy, "one", &stays.url()), 1.0);
    let labels = [("route", "one"), ("initiator", "proxy"), ("code", "1012"), ("reason", "endpoint_drain")];
    proxy.metric_becomes("wsluice_session_closes_total", &labels, 1.0).await;
    let mut alive = 0;
    for client in &mut clients {
        client.put(&Frame::text("who is there")).await;
        alive +=
            usize::from(matches!(client.event().await, Event::Frame(frame) if frame == Frame::text("who is there")));
    }
    assert_eq!(alive, 1);
}
