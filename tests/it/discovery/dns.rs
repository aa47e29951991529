//! dnsmasq with changing answers, which stops and comes back.

use std::net::SocketAddr;
use std::time::Duration;

use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;
use wsluice::config::{IpFamily, Scheme};
use wsluice::discovery::{DiscoveryErrorKind, dns::Dns};
use wsluice::net::names::{HostLookup, LookupError, NameResolver};
use wsluice::upstream::connect::{ConnectTarget, Connector};

use super::Discovery;
use super::servers::{Dnsmasq, is_here};
use crate::harness::{DEADLINE, value, within};

fn dns(server: SocketAddr, name: &str, port: Option<u16>) -> Dns {
    let every = Duration::from_secs(1);
    Dns { name: name.into(), port, scheme: Scheme::Ws, family: IpFamily::Any, server: Some(server), every }
}

#[tokio::test]
async fn addresses_are_followed_and_kept_while_the_server_is_down() {
    if !is_here("dnsmasq") {
        return;
    }
    let mut server = Dnsmasq::start("10.0.0.1 chat.test\n", &[]).await;
    let dns = dns(server.address(), "chat.test", Some(9000));
    let discovery = Discovery::start(|outlet| dns.run(outlet));
    discovery.becomes(&["ws://10.0.0.1:9000 1"]).await;
    server.hosts("10.0.0.2 chat.test\n10.0.0.1 chat.test\nfd00::1 chat.test\n");
    // A host with both kinds of addresses is one endpoint.
    discovery.becomes(&["ws://10.0.0.1:9000 1", "ws://10.0.0.2:9000 1"]).await;
    server.kill();
    eventually_fails(&discovery, &[DiscoveryErrorKind::Unreachable, DiscoveryErrorKind::Timeout]).await;
    assert_eq!(discovery.lists().len(), 2);
    server.restart().await;
    discovery.answers().await;
    // The name is removed: the server answers, but the answer is not used.
    server.hosts("");
    eventually_fails(&discovery, &[DiscoveryErrorKind::NotFound, DiscoveryErrorKind::Empty]).await;
    server.hosts("fd00::1 chat.test\n");
    discovery.becomes(&["ws://[fd00::1]:9000 1"]).await;
    assert_eq!(discovery.lists().len(), 3);
}

async fn eventually_fails(discovery: &Discovery, reasons: &[DiscoveryErrorKind]) {
    let what = format!("one of {reasons:?}");
    crate::harness::eventually(&what, || reasons.iter().any(|reason| discovery.errors(*reason) > 0.0).then_some(()))
        .await;
}

#[tokio::test]
async fn srv_records_tell_ports_and_weights() {
    if !is_here("dnsmasq") {
        return;
    }
    let hosts = "10.0.0.1 a.test\n10.0.0.2 b.test\n";
    let a = "--srv-host=_ws._tcp.chat.test,a.test,9000,0,5";
    let mut server = Dnsmasq::start(hosts, &[a, "--srv-host=_ws._tcp.chat.test,b.test,9001,10,0"]).await;
    let dns = dns(server.address(), "_ws._tcp.chat.test", None);
    let discovery = Discovery::start(|outlet| dns.run(outlet));
    discovery.becomes(&["ws://10.0.0.1:9000 5", "ws://10.0.0.2:9001 1 backup"]).await;
    server.options = vec![
        "--srv-host=_ws._tcp.chat.test,a.test,9000,0,7".into(),
        "--srv-host=_ws._tcp.chat.test,gone.test,9000,0,7".into(),
    ];
    server.restart().await;
    discovery.becomes(&["ws://10.0.0.1:9000 7"]).await;
}

#[tokio::test]
async fn a_server_that_refuses_is_named_so() {
    if !is_here("dnsmasq") {
        return;
    }
    // dnsmasq knows nothing outside `test.` and has no server to ask.
    let server = Dnsmasq::start("", &[]).await;
    let dns = dns(server.address(), "chat.example.", Some(1));
    let discovery = Discovery::start(|outlet| dns.run(outlet));
    discovery.fails(DiscoveryErrorKind::Denied).await;
    assert!(discovery.lists().is_empty());
}

/// Returns the target of a name, the best address first.
async fn leads_to(name: &HostLookup) -> Result<Vec<String>, LookupError> {
    let (found, _) = within("addresses", name.addresses(Instant::now() + DEADLINE)).await.unwrap()?;
    Ok(found.in_turn(0).map(|address| address.ip().to_string()).collect())
}

async fn becomes(name: &HostLookup, wanted: impl Fn(&Result<Vec<String>, LookupError>) -> bool) {
    within("the name leads elsewhere", async {
        while !wanted(&leads_to(name).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_name_of_an_endpoint_is_followed_by_its_ttl_and_kept_while_the_server_is_down() {
    if !is_here("dnsmasq") {
        return;
    }
    let mut server = Dnsmasq::start("127.0.0.2 chat_app.test\n", &["--local-ttl=1"]).await;
    let registry = Registry::new();
    let names = NameResolver::with_dns_server(Some(server.address()), &registry).unwrap();
    let name = names.of("chat_app.test");
    let is = |wanted: &'static str| {
        move |found: &Result<Vec<String>, LookupError>| found.as_deref() == Ok(&[wanted.to_owned()])
    };
    becomes(&name, is("127.0.0.2")).await;
    server.hosts("127.0.0.1 chat_app.test\n");
    becomes(&name, is("127.0.0.1")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = ConnectTarget::new("chat_app.test", listener.local_addr().unwrap().port(), &names);
    let connector = Connector::new(target, None);
    let connects = async || {
        let connected = connector.connect(Instant::now() + DEADLINE);
        let (connected, accepted) = tokio::join!(connected, listener.accept());
        connected.unwrap();
        accepted.unwrap();
    };
    connects().await;
    server.kill();
    let failures = || {
        let text = wsluice::telemetry::exposition::encode(&registry).unwrap();
        ["failed", "timeout"]
            .iter()
            .map(|result| value(&text, "wsluice_name_lookups_total", &[("result", result)]))
            .sum::<f64>()
    };
    while failures() == 0.0 {
        connects().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    connects().await;
    server.restart().await;
    server.hosts("127.0.0.3 chat_app.test\nfd00::7 chat_app.test\n");
    let both = |found: &Result<Vec<String>, LookupError>| {
        found.as_deref() == Ok(&["127.0.0.3".to_owned(), "fd00::7".to_owned()])
    };
    becomes(&name, both).await;
    server.hosts("");
    becomes(&name, |found| matches!(found, Err(LookupError::NotFound(_)))).await;
}
