//! Whose certificate a client has shown: routes that ask for it, and servers that are told.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, SanType};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};

use crate::harness::{Authority, Conn, Frame, Handshake, Head, Proxy, RawServer, yaml};
use crate::plain::{head, ok, with_listener};
use crate::process::{run, text};
use crate::tls::{BOTH, client, listener, tls};
use crate::upgrade::{ProcessChain, configuration};

type Files = (PathBuf, PathBuf);

const SET: &str = r#"headers: { request: { set: { X-Subject: "{tls.client.subject}", X-Cn: "{tls.client.common_name}", X-Issuer: "{tls.client.issuer}",
  X-Serial: "{tls.client.serial}", X-Fingerprint: "{tls.client.fingerprint}", X-San: "{tls.client.san}", X-Dns: "{tls.client.dns}",
  X-Uri: "{tls.client.uri}" } }, response: { set: { X-Subject: "{tls.client.subject}" } } }"#;

/// The names of the headers that `SET` sets.
const NAMES: [&str; 8] = ["x-subject", "x-cn", "x-issuer", "x-serial", "x-fingerprint", "x-san", "x-dns", "x-uri"];

/// A proxy that asks for certificates, and clients who have some.
struct Rig {
    authority: Authority,
    upstream: RawServer,
    proxy: Proxy,
}

fn device(params: &mut CertificateParams) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example, Inc");
    params.distinguished_name.push(DnType::CommonName, "device 1");
    params.serial_number = Some(vec![0x01, 0xab].into());
    params.subject_alt_names.push(SanType::URI("spiffe://example.com/a,b".try_into().unwrap()));
}

fn asking(authority: &Authority, mode: &str) -> String {
    let own = authority.issue("own", &["chat.test"]);
    listener(&[&own], &format!(", client_auth: {{ ca: {:?}, mode: {mode} }}", authority.ca()))
}

impl Rig {
    async fn start(mode: &str, route: &[&str]) -> Rig {
        let (authority, upstream) = (Authority::new(), RawServer::start().await);
        let text = with_listener(&yaml(&[upstream.url()], route), &[&asking(&authority, mode)]);
        Rig { proxy: Proxy::start(&text), authority, upstream }
    }

    async fn connect(&self, config: &Arc<ClientConfig>) -> Conn {
        Conn::connect_tls(self.proxy.address(), "chat.test", Arc::clone(config)).await.unwrap()
    }

    /// Sends a request with headers of these names by the client itself; returns what the server gets, and the answer.
    async fn ask(&mut self, conn: &mut Conn, is_handshake: bool) -> (Head, Head) {
        let mut handshake = Handshake::to("/ws");
        let mut lines = vec!["GET /ws HTTP/1.1".to_owned(), "Host: chat.test".to_owned()];
        for name in NAMES {
            handshake = handshake.with(name, "CN=admin");
            lines.push(format!("{name}: CN=admin"));
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        match is_handshake {
            true => conn.send(handshake.bytes()).await,
            false => conn.send(head(&lines)).await,
        }
        let mut server = self.upstream.accept().await;
        let seen = match is_handshake {
            true => server.switch(&[]).await,
            false => server.head().await,
        };
        if !is_handshake {
            let answer = ok("").replacen("\r\n", "\r\nConnection: close\r\nX-Subject: CN=server\r\n", 1);
            server.send(answer).await;
        }
        (seen, conn.head().await)
    }
}

fn hex(certificate: &Files) -> String {
    let der = crate::tls::certificate(&certificate.0);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_server_is_told_whose_certificate_it_is_and_no_client_can_say_it_by_itself() {
    let mut rig = Rig::start("optional", &[SET]).await;
    let shown = rig.authority.issue_with("device", &["device-1.example.com", "10.0.0.7"], device);
    let fingerprint = hex(&shown);
    let expected = [
        ("x-subject", r"CN=device%201,O=Example%5C,%20Inc"),
        ("x-cn", "device%201"),
        ("x-issuer", "CN=rcgen%20self%20signed%20cert"),
        ("x-serial", "01AB"),
        ("x-fingerprint", &fingerprint),
        ("x-san", "DNS:device-1.example.com,IP:10.0.0.7,URI:spiffe://example.com/a%2Cb"),
        ("x-dns", "device-1.example.com"),
        ("x-uri", "spiffe://example.com/a%2Cb"),
    ];
    for version in [&TLS12, &TLS13] {
        for (shown, is_known) in [(Some(&shown), true), (None, false)] {
            let config = Arc::new(client(&rig.authority, &[version], shown));
            // The second connection resumes the session of the first one.
            for number in 0..2 {
                let mut conn = rig.connect(&config).await;
                // All requests on a connection have its certificate.
                for is_handshake in [false, false, true] {
                    let (seen, answer) = rig.ask(&mut conn, is_handshake).await;
                    for (name, value) in expected {
                        assert_eq!(seen.get(name), is_known.then_some(value), "{name} {version:?}");
                    }
                    assert_eq!(answer.get("x-subject"), is_known.then_some(expected[0].1));
                }
                let kind = tls(&conn).handshake_kind();
                assert_eq!(kind == Some(HandshakeKind::Resumed), number == 1, "{kind:?} {version:?}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_in_a_certificate_breaks_out_of_a_header() {
    let mut rig = Rig::start("require", &[SET]).await;
    let shown = rig.authority.issue_with("odd", &["a.example"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "a\r\nX-Admin: 1\0%0D é\"<b>");
        params.subject_alt_names.push(SanType::URI("a:b,DNS:admin.example".try_into().unwrap()));
    });
    let config = Arc::new(client(&rig.authority, BOTH, Some(&shown)));
    for is_handshake in [false, true] {
        let mut conn = rig.connect(&config).await;
        let (seen, _) = rig.ask(&mut conn, is_handshake).await;
        assert_eq!(seen.get("x-admin"), None);
        assert_eq!(seen.get("x-cn"), Some("a%0D%0AX-Admin:%201%00%250D%20%C3%A9%22%3Cb%3E"));
        assert_eq!(seen.get("x-subject"), Some("CN=a%5C0D%5C0AX-Admin:%201%5C00%250D%20%C3%A9%5C%22%5C%3Cb%5C%3E"));
        assert_eq!(seen.get("x-san"), Some("DNS:a.example,URI:a:b%2CDNS:admin.example"));
    }
}

#[tokio::test]
async fn a_route_is_for_those_who_have_the_certificate_and_the_next_one_for_others() {
    let (authority, upstream) = (Authority::new(), RawServer::start().await);
    let wild = authority.issue_with("wild", &["a.devices.example.com"], device);
    let deep = authority.issue("deep", &["a.b.devices.example.com"]);
    let star = authority.issue("star", &["*.devices.example.com"]);
    let named = authority.issue_with("named", &["x.example"], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "gateway");
    });
    let (one, other) = (authority.issue("one", &["one.example"]), authority.issue("other", &["one.example"]));
    let colons: Vec<String> = hex(&one).as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into()).collect();
    let route = |name: &str, asked: &str| {
        format!("  - {{ name: {name}, match: {{ client_cert: {asked} }}, respond: {{ body: {name} }} }}\n")
    };
    let routes = [
        route("san", r#"{ san: "*.devices.example.com" }"#),
        route("subject", r#"{ subject: ["CN=other", "CN=gateway"] }"#),
        route("fingerprint", &format!("{{ fingerprint: {:?} }}", colons.join(":").to_uppercase())),
        route("any", "{}"),
    ];
    let text = with_listener(
        &yaml(&[upstream.url()], &["match: { path: { exact: /open } }"]),
        &[&asking(&authority, "optional")],
    );
    let proxy = Proxy::start(&text.replace("routes:\n", &format!("routes:\n{}", routes.concat())));
    for (shown, path, status, body) in [
        (Some(&wild), "/", 200, "san"),
        (Some(&deep), "/", 200, "any"),
        (Some(&star), "/", 200, "any"),
        (Some(&named), "/", 200, "subject"),
        (Some(&one), "/", 200, "fingerprint"),
        (Some(&other), "/", 200, "any"),
        (None, "/", 404, ""),
        // The route behind them all.
        (Some(&other), "/open", 200, "any"),
    ] {
        for version in [&TLS12, &TLS13] {
            let config = Arc::new(client(&authority, &[version], shown));
            for _ in 0..2 {
                let mut conn = Conn::connect_tls(proxy.address(), "chat.test", Arc::clone(&config)).await.unwrap();
                conn.send(crate::plain::get(path)).await;
                let answer = conn.head().await;
                assert_eq!(answer.status(), status, "{shown:?}");
                let said = String::from_utf8(conn.body(&answer).await).unwrap();
                assert!(status != 200 || said == body, "{shown:?}: {said}, not {body}");
            }
        }
    }
    let mut upstream = upstream;
    let config = Arc::new(client(&authority, BOTH, None));
    let mut conn = Conn::connect_tls(proxy.address(), "chat.test", config).await.unwrap();
    conn.send(crate::plain::get("/open")).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(ok("")).await;
    assert_eq!(conn.head().await.status(), 200);
}

#[tokio::test]
async fn a_session_of_a_client_with_a_certificate_goes_on_in_the_next_process() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let mut upstream = RawServer::start().await;
    let device = authority.issue("device", &["a.devices.example.com"]);
    let text = with_listener(&configuration(&[upstream.url()], ""), &[&asking(&authority, "require")]);
    let asked = r#"match: { client_cert: { san: "*.devices.example.com" }, path: { prefix: /ws } }"#;
    assert!(text.contains("match: { path: { prefix: /ws } }"));
    let mut chain = ProcessChain::start(dir.path(), &text.replace("match: { path: { prefix: /ws } }", asked));
    let address = chain.process.listening().await;
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(client(&authority, &[version], Some(&device)));
        let open = async || Conn::connect_tls(&address, "chat.test", Arc::clone(&config)).await.unwrap();
        let mut session = open().await;
        session.send(Handshake::to("/ws").bytes()).await;
        let mut server = upstream.accept().await;
        server.switch(&[]).await;
        assert_eq!(session.head().await.status(), 101);
        session.put(&Frame::text("there")).await;
        server.expect(&Frame::text("there")).await;
        let old = chain.upgrade().await;
        assert_eq!(chain.end(old).await, Some(0));
        server.put(&Frame::text("and back")).await;
        session.expect(&Frame::text("and back")).await;
        session.put(&Frame::text("again")).await;
        server.expect(&Frame::text("again")).await;
        // A ticket of the old process is good in the new one, with the certificate.
        let mut next = open().await;
        next.send(Handshake::to("/ws").bytes()).await;
        upstream.accept().await.switch(&[]).await;
        assert_eq!(next.head().await.status(), 101);
        assert_eq!(tls(&next).handshake_kind(), Some(HandshakeKind::Resumed));
    }
    chain.finish().await;
}

#[tokio::test]
async fn check_tells_what_becomes_of_a_request_with_a_certificate() {
    let authority = Authority::new();
    let shown = authority.issue_with("device", &["device-1.devices.example.com"], device);
    let file = authority.dir.path().join("wsluice.yaml");
    let tls = asking(&authority, "require");
    let text_of = |tls: &str| {
        format!(
            "listeners: [{{ name: public, bind: '127.0.0.1:8443', {tls} }}]\nroutes:\n\
             - {{ name: devices, match: {{ client_cert: {{ san: '*.devices.example.com' }} }}, upstream: 'ws://127.0.0.1:9',\n\
             \x20   headers: {{ request: {{ set: {{ X-Cn: '{{tls.client.common_name}}' }} }} }} }}\n"
        )
    };
    std::fs::write(&file, text_of(&tls)).unwrap();
    let check = |more: &[&str]| {
        let arguments = ["check", "--config", file.to_str().unwrap()];
        let output = run(&[&arguments[..], more].concat());
        (output.status.code(), text(&output))
    };
    let request = ["--request", "wss://chat.test:8443/"];
    let certificate = shown.0.to_str().unwrap();
    let (code, (out, err)) = check(&[&request[..], &["--client-cert", certificate]].concat());
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let fingerprint = hex(&shown);
    for words in [
        "must have signed",
        r"subject CN=device 1,O=Example\, Inc",
        "san DNS:device-1.devices.example.com",
        &fingerprint,
        "devices: matches",
        "x-cn: device%201",
    ] {
        assert!(out.contains(words), "no {words} in\n{out}");
    }
    let (_, (out, _)) = check(&request);
    assert!(out.contains("no connection gets here without a certificate"), "{out}");
    assert!(out.contains("devices: no, the client has shown no certificate"), "{out}");
    assert!(out.contains("404 Not Found"), "{out}");
    let stranger = authority.issue("stranger", &["a.example"]);
    let (_, (out, _)) = check(&[&request[..], &["--client-cert", stranger.0.to_str().unwrap()]].concat());
    assert!(out.contains("its certificate has DNS:a.example, not *.devices.example.com"), "{out}");
    // A key is none, nor is a file that is not there.
    for wrong in [shown.1.to_str().unwrap(), "/nowhere.crt"] {
        let (code, (_, err)) = check(&[&request[..], &["--client-cert", wrong]].concat());
        assert!(code == Some(1) && err.contains(wrong), "{err}");
    }
    assert_eq!(check(&["--client-cert", certificate]).0, Some(2));
    // Where nobody is asked for one, the route is a mistake.
    let own = authority.issue("own", &["chat.test"]);
    std::fs::write(&file, text_of(&listener(&[&own], ""))).unwrap();
    let (code, (_, err)) = check(&[]);
    assert!(code == Some(1) && err.contains("no listener asks clients for a certificate"), "{err}");
}
