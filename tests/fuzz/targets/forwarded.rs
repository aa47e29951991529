//! Forwarded and the X-Forwarded fields: who the client is, and what the next hop makes of what we write.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;
use wsluice::header::forwarded::{DirectPeer, ForwardedRequest, apply, client_addr, is_replaced, is_trusted};

use super::{Target, choices, fields};

pub const TARGET: Target = Target {
    name: "forwarded",
    run,
    seeds: &[
        b"\x00X-Forwarded-For: 203.0.113.7, 10.0.0.2\n",
        b"\x01Forwarded: for=203.0.113.7;proto=https;host=a, for=\"[2001:db8::1]:4711\"\n",
        b"\x03Forwarded: for=unknown, for=_hidden\nX-Forwarded-For: 10.0.0.1\nX-Forwarded-Host: a:443\nX-Forwarded-Proto: wss\nX-Forwarded-Port: 443\n",
        b"\x02X-Forwarded-For: ::ffff:203.0.113.7, [2001:db8::1]:80, 1.2.3.4:_x\nX-Real-IP: 1.1.1.1\nX_Forwarded_For: 2.2.2.2\n",
        b"\x01Forwarded: for=203.0.113.7\nX-Forwarded-For: 203.0.113.8\n",
        b"\x05Forwarded: for=\"203.0.113.7\" ; By=x ,, For=10.0.0.9\nForwarded: for=10.0.0.1\n",
    ],
    tokens: &[
        b"Forwarded: ", b"X-Forwarded-For: ", b"X-Forwarded-Host: ", b"X-Forwarded-Proto: ", b"X-Forwarded-Port: ", b"X-Real-IP: ", b"for=", b"host=", b"proto=", b"by=",
        b", ", b",", b";", b"; ", b"=", b"\"", b"\\", b"\\\"", b"[", b"]", b":", b":80", b"unknown", b"_x", b"10.0.0.1", b"10.0.0.2", b"203.0.113.7", b"2001:db8::1",
        b"\"[2001:db8::1]\"", b"::ffff:10.0.0.1", b"https", b"http", b"wss", b"ws", b"a.example", b"\n", b" ", b"\t", b"\xff", b"0x7f.1", b"%eth0",
    ],
};

fn run(data: &[u8]) {
    let Some(([kind], text)) = choices(data) else { return };
    let headers = fields(text);
    let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network")).to_vec();
    let addr: Option<IpAddr> =
        ["10.9.9.9", "198.51.100.1", "fd00::9", "::ffff:10.9.9.9"][usize::from(kind >> 1) % 4].parse().ok();
    let addr = if kind & 32 == 0 { addr } else { None };
    let is_trusted_peer = addr.is_none_or(|addr| is_trusted(addr, &trusted)) && kind & 1 != 0;
    let peer = DirectPeer { addr, tls: kind & 16 != 0, trusted: is_trusted_peer };

    let client = client_addr(&peer, &headers, &trusted);
    let told = ForwardedRequest::by(&peer, &headers, &trusted);
    if !peer.trusted {
        assert_eq!(client, addr.map(|addr| addr.to_canonical()), "a stranger's word counts");
        assert_eq!((&told.host, told.port, told.https), (&None, None, None), "a stranger's word counts");
    }
    assert!(client.is_none_or(|client| client == client.to_canonical()));

    // Two lists that name different clients name nobody.
    if peer.trusted {
        let without = |name: &str| {
            let mut some = headers.clone();
            some.remove(name);
            some
        };
        let has = |name: &str| headers.get_all(name).iter().any(|line| !line.as_bytes().trim_ascii().is_empty());
        let standard = client_addr(&peer, &without("x-forwarded-for"), &trusted);
        let legacy = client_addr(&peer, &without("forwarded"), &trusted);
        let is_named = |found: Option<IpAddr>| found.is_some_and(|addr| !is_trusted(addr, &trusted));
        if has("forwarded") && has("x-forwarded-for") && is_named(standard) && is_named(legacy) && standard != legacy {
            assert_eq!(client, None, "{standard:?} and {legacy:?}");
        }
        assert!(client.is_none() || client == standard || client == legacy, "somebody else: {client:?}");
    }

    let mut sent = headers.clone();
    apply(&mut sent, &peer, &told, "asked.example:8080");
    // One line each, so that nobody reads another.
    for name in ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"] {
        assert!(sent.get_all(name).iter().count() <= 1, "{name}: {sent:?}");
    }
    let count = |headers: &HeaderMap| headers.keys().filter(|name| !is_replaced(name.as_str(), peer.trusted)).count();
    assert_eq!(count(&sent), count(&headers), "nothing else is taken out");
    let last = sent.get("forwarded").expect("it is always written").to_str().ok().map(str::to_owned);
    // A server that trusts us and whom we trust finds the client that we found, and nobody in particular where we did not.
    let next = DirectPeer { addr: Some([10, 0, 0, 10].into()), tls: false, trusted: true };
    let found = client_addr(&next, &sent, &trusted);
    match addr {
        // By a Unix socket there is no address to go on from.
        None => assert!(found.is_none() || found == client || peer.trusted, "{found:?}, {client:?}: {sent:?}"),
        Some(addr) if !is_trusted(addr, &trusted) => assert_eq!(found, Some(addr.to_canonical()), "{last:?}"),
        Some(addr) if !peer.trusted => assert_eq!(found, Some(addr.to_canonical()), "{last:?}"),
        Some(_) => assert_eq!(found, client, "{headers:?} goes on as {sent:?}"),
    }
    if !peer.trusted {
        let told = ForwardedRequest::by(&next, &sent, &trusted);
        assert_eq!(told.https, Some(peer.tls));
        assert_eq!(told.host.map(|host| host.to_string()).as_deref(), Some("asked.example:8080"));
    }
    assert_eq!(simple(&headers, &peer, &trusted).unwrap_or(client), client);
}

/// The client where there is one list only, and only of plain addresses: the first from the right that is not trusted.
fn simple(headers: &HeaderMap, peer: &DirectPeer, trusted: &[IpNet]) -> Option<Option<IpAddr>> {
    if !peer.trusted || headers.contains_key("forwarded") {
        return None;
    }
    let lines: Option<Vec<&str>> = headers.get_all("x-forwarded-for").iter().map(|line| line.to_str().ok()).collect();
    let items: Vec<&str> =
        lines.as_ref()?.iter().flat_map(|line| line.split(',')).map(|item| item.trim_matches([' ', '\t'])).collect();
    let entries: Option<Vec<IpAddr>> = items.iter().map(|item| item.parse().ok()).collect();
    let entries = entries.filter(|entries| !entries.is_empty() && entries.len() <= 100)?;
    let found = entries.iter().rev().find(|addr| !is_trusted(**addr, trusted)).or(entries.first());
    Some(found.map(IpAddr::to_canonical))
}
