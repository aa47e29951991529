//! TLS towards clients and servers, with certificates of the test's own authority.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::harness::{Authority, Conn, Frame, Handshake, Io, Proxy, RawServer, yaml};
use crate::plain::{get, ok};

pub const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(ca: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    roots
}

pub fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

/// A client that speaks these versions and shows this certificate.
pub fn client(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    shown: Option<&(std::path::PathBuf, std::path::PathBuf)>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots(&authority.ca()));
    match shown {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(vec![certificate(cert)], key).unwrap()
        }
    }
}

pub fn tls(conn: &Conn) -> &rustls::ClientConnection {
    match &conn.io {
        Io::TlsClient(stream) => stream.get_ref().1,
        other => panic!("no TLS: {other:?}"),
    }
}

/// Returns the listener's `tls:` with these certificates and more lines.
pub fn listener(certificates: &[&(std::path::PathBuf, std::path::PathBuf)], more: &str) -> String {
    let certificates: Vec<String> =
        certificates.iter().map(|(cert, key)| format!("{{ cert: {cert:?}, key: {key:?} }}")).collect();
    format!("tls: {{ certificates: [{}]{more} }}", certificates.join(", "))
}

fn start(upstream: &str, listener: &[&str]) -> Proxy {
    Proxy::start(&crate::plain::with_listener(&yaml(&[upstream], &[]), listener))
}

/// Opens a session over TLS and sends a message both ways: then every ticket has arrived.
async fn converse(proxy: &Proxy, upstream: &mut RawServer, name: &str, config: &Arc<ClientConfig>) -> Conn {
    let mut client = Conn::connect_tls(proxy.address(), name, Arc::clone(config)).await.unwrap();
    client.send(Handshake::new().bytes()).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    client.put(&Frame::text("there")).await;
    server.expect(&Frame::text("there")).await;
    server.put(&Frame::text("and back")).await;
    client.expect(&Frame::text("and back")).await;
    client
}

// ---- towards clients

#[tokio::test]
async fn both_versions_are_spoken_and_the_log_says_which() {
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let mut upstream = RawServer::start().await;
    let proxy = start(upstream.url(), &[&listener(&[&own], "")]);
    for (version, number, label) in
        [(&TLS12, ProtocolVersion::TLSv1_2, "1.2"), (&TLS13, ProtocolVersion::TLSv1_3, "1.3")]
    {
        let config = Arc::new(client(&authority, &[version], None));
        let client = converse(&proxy, &mut upstream, "chat.test", &config).await;
        assert_eq!(tls(&client).protocol_version(), Some(number));
        let labels = [("listener", "plain"), ("version", label), ("resumed", "false")];
        assert_eq!(proxy.metric("wsluice_tls_handshakes_total", &labels), 1.0);
        drop(client);
        let log = proxy.log_lines(if label == "1.2" { 1 } else { 2 }).await;
        assert_eq!(log.last().unwrap()["tls"], label);
    }
}

#[tokio::test]
async fn the_server_is_told_that_the_client_came_by_https() {
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let mut upstream = RawServer::start().await;
    let proxy = start(upstream.url(), &[&listener(&[&own], "")]);
    let mut client = Conn::connect_tls(proxy.address(), "chat.test", authority.client()).await.unwrap();
    client.send(get("/")).await;
    let mut server = upstream.accept().await;
    let request = server.head().await;
    assert_eq!(request.get("x-forwarded-proto"), Some("https"));
    assert!(request.get("forwarded").unwrap().ends_with("proto=https"));
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_version_below_the_least_is_refused() {
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let mut upstream = RawServer::start().await;
    let proxy = start(upstream.url(), &[&listener(&[&own], ", min_version: \"1.3\"")]);
    let old = Arc::new(client(&authority, &[&TLS12], None));
    let error = Conn::connect_tls(proxy.address(), "chat.test", old).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    let labels = [("listener", "plain"), ("reason", "tls_failed")];
    proxy.metric_becomes("wsluice_connection_errors_total", &labels, 1.0).await;
    let new = Arc::new(client(&authority, BOTH, None));
    let client = converse(&proxy, &mut upstream, "chat.test", &new).await;
    assert_eq!(tls(&client).protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_asked_for() {
    let authority = Authority::new();
    let first = authority.issue("first", &["first.test", "other.wild.test"]);
    let exact = authority.issue("exact", &["exact.wild.test"]);
    let wild = authority.issue("wild", &["*.wild.test"]);
    let upstream = RawServer::start().await;
    let proxy = start(upstream.url(), &[&listener(&[&first, &exact, &wild], "")]);
    for (name, expected) in [
        ("first.test", &first),
        ("exact.wild.test", &exact),
        ("EXACT.wild.test", &exact),
        ("any.wild.test", &wild),
        ("other.wild.test", &first),
    ] {
        let conn = Conn::connect_tls(proxy.address(), name, authority.client()).await.unwrap();
        assert_eq!(tls(&conn).peer_certificates().unwrap()[0], certificate(&expected.0), "{name}");
    }
    // All other names get the first one, which does not match.
    for name in ["unknown.test", "a.any.wild.test", "127.0.0.1"] {
        let error = Conn::connect_tls(proxy.address(), name, authority.client()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("not valid for name") && text.contains("first.test"), "{name}: {text}");
    }
}

#[tokio::test]
async fn a_client_without_a_good_certificate_stays_outside_where_one_is_required() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let own = authority.issue("own", &["chat.test"]);
    let (good, bad) = (authority.issue("device", &["device-1"]), strangers.issue("device", &["device-1"]));
    let mut upstream = RawServer::start().await;
    for (mode, without_is_served) in [("require", false), ("optional", true)] {
        let auth = format!(", client_auth: {{ ca: {:?}, mode: {mode} }}", authority.ca());
        let proxy = start(upstream.url(), &[&listener(&[&own], &auth)]);
        for (shown, served) in [(None, without_is_served), (Some(&bad), false), (Some(&good), true)] {
            let config = Arc::new(client(&authority, BOTH, shown));
            if served {
                converse(&proxy, &mut upstream, "chat.test", &config).await;
                continue;
            }
            // With TLS 1.3 the client finishes before the listener has judged its certificate: the alert arrives at a
            // read.
            let refused = match Conn::connect_tls(proxy.address(), "chat.test", config).await {
                Err(_) => true,
                Ok(mut conn) => {
                    let _ = conn.try_send(get("/")).await;
                    conn.read_to_end().await.is_empty()
                }
            };
            assert!(refused, "{mode} {shown:?}");
        }
        let failed = if without_is_served { 1.0 } else { 2.0 };
        let labels = [("listener", "plain"), ("reason", "tls_failed")];
        proxy.metric_becomes("wsluice_connection_errors_total", &labels, failed).await;
    }
}

#[tokio::test]
async fn a_ticket_of_one_worker_is_good_at_all() {
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let mut upstream = RawServer::start().await;
    let text = crate::plain::with_listener(&yaml(&[upstream.url()], &[]), &[&listener(&[&own], "")]);
    let proxy = Proxy::start(&text.replace("workers: 1", "workers: 2"));
    for (version, label) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let config = Arc::new(client(&authority, &[version], None));
        // The kernel assigns connections to workers by port: sixteen do not all go to one.
        for number in 0..16 {
            let client = converse(&proxy, &mut upstream, "chat.test", &config).await;
            let expected = if number == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            let kind = tls(&client).handshake_kind().unwrap();
            // The very first may need another round trip for the key exchange.
            let full = matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest);
            assert_eq!(if full { HandshakeKind::Full } else { kind }, expected, "TLS {label}, connection {number}");
        }
        let labels = [("listener", "plain"), ("version", label), ("resumed", "true")];
        assert_eq!(proxy.metric("wsluice_tls_handshakes_total", &labels), 15.0);
    }
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_ends() {
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let upstream = RawServer::start().await;
    let proxy = start(upstream.url(), &[&listener(&[&own], ""), "timeouts: { tls: 200ms }"]);
    let labels = [("listener", "plain"), ("reason", "tls_timeout")];
    for (number, bytes) in [&b""[..], &[22, 3, 1, 2, 0, 1]].into_iter().enumerate() {
        let mut client = proxy.client().await;
        client.send(bytes).await;
        assert_eq!(client.read_to_end().await, b"");
        proxy.metric_becomes("wsluice_connection_errors_total", &labels, (number + 1) as f64).await;
    }
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() {
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let upstream = RawServer::start().await;
    let proxy = start(upstream.url(), &[&listener(&[&own], "")]);
    let mut client = proxy.client().await;
    client.send(get("/")).await;
    let answer = client.head().await;
    assert_eq!(answer.status(), 400);
    let body = String::from_utf8(client.body(&answer).await).unwrap();
    assert!(body.contains("https://") && body.contains("wss://"), "{body}");
    client.expect_end().await;
    client.finish().await;
    // Other protocols get no answer.
    let mut client = proxy.client().await;
    client.send("\0\x01\x02").await;
    assert_eq!(client.read_to_end().await, b"");
    let labels = [("listener", "plain"), ("reason", "tls_failed")];
    proxy.metric_becomes("wsluice_connection_errors_total", &labels, 2.0).await;
}

/// Returns the first flight of a client that requests this name, valid or not.
pub fn hello(authority: &Authority, name: &str) -> Vec<u8> {
    let stand_in: String = (0..name.len()).map(|at| if at % 10 == 4 { '.' } else { 'a' }).collect();
    let server_name = rustls::pki_types::ServerName::try_from(stand_in.clone()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(client(authority, BOTH, None)), server_name).unwrap();
    let mut bytes = vec![];
    connection.write_tls(&mut bytes).unwrap();
    let at = bytes.windows(name.len()).position(|window| window == stand_in.as_bytes()).unwrap();
    bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
    bytes
}

#[tokio::test]
async fn a_server_name_that_is_none_is_refused_and_counted() {
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let upstream = RawServer::start().await;
    let proxy = start(upstream.url(), &[&listener(&[&own], "")]);
    // An address counts as no name; any DNS name counts, even without a certificate for it.
    for good in ["10.0.0.1", "chat_1.test", "chat.test.", "CHAT.test", "elsewhere.test"] {
        let mut client = proxy.client().await;
        client.send(hello(&authority, good)).await;
        assert_eq!(client.read_exact(1).await, [HANDSHAKE], "{good}");
    }
    let long = format!("{}.test", "a".repeat(64));
    let bad = [
        "chat-.test",
        "-chat.test",
        "chat..test",
        "chat test",
        "chat.test:443",
        "b\u{fc}cher.test",
        "chat.1",
        "*.test",
        &long,
    ];
    for name in bad {
        let mut client = proxy.client().await;
        client.send(hello(&authority, name)).await;
        // Fatal, illegal_parameter (RFC 8446 §6.2).
        let alert = client.read_to_end().await;
        assert_eq!((alert[0], &alert[5..7]), (ALERT, &[2, 47][..]), "{name}");
    }
    let labels = [("listener", "plain"), ("reason", "tls_server_name")];
    proxy.metric_becomes("wsluice_connection_errors_total", &labels, bad.len() as f64).await;
}

#[tokio::test]
async fn a_client_that_offers_http_2_is_answered_by_http_1_where_it_alone_is_spoken() {
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let mut upstream = RawServer::start().await;
    let proxy = start(upstream.url(), &[&listener(&[&own], ""), "protocols: [http/1.1]"]);
    let mut config = client(&authority, BOTH, None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let conn = converse(&proxy, &mut upstream, "chat.test", &Arc::new(config.clone())).await;
    assert_eq!(tls(&conn).alpn_protocol(), Some(&b"http/1.1"[..]));
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert!(Conn::connect_tls(proxy.address(), "chat.test", Arc::new(config.clone())).await.is_err());
    // By default both are, and the better one comes first.
    let proxy = start(upstream.url(), &[&listener(&[&own], "")]);
    for (offered, chosen) in [(&["http/1.1", "h2"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let conn = Conn::connect_tls(proxy.address(), "chat.test", Arc::new(config.clone())).await.unwrap();
        assert_eq!(tls(&conn).alpn_protocol(), Some(chosen.as_bytes()));
    }
}

#[tokio::test]
async fn a_large_message_passes_through_tls_on_both_sides() {
    let authority = Authority::new();
    let own = authority.issue("own", &["chat.test"]);
    let mut upstream = RawServer::start_tls(authority.server(&["127.0.0.1"])).await;
    let text = crate::plain::with_listener(&yaml(&[upstream.url()], &[]), &[&listener(&[&own], "")]);
    let proxy = Proxy::start(&with_upstream_tls(&text, &format!("ca: {:?}", authority.ca())));
    let mut client = Conn::connect_tls(proxy.address(), "chat.test", authority.client()).await.unwrap();
    client.send(Handshake::new().bytes()).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    let message = Frame::binary((0..3_000_000_u32).map(|i| (i % 253) as u8).collect::<Vec<u8>>());
    let (_, ()) = tokio::join!(client.put(&message), server.expect(&message));
    let (_, ()) = tokio::join!(server.put(&message), client.expect(&message));
}

// ---- towards servers

/// Returns the configuration with `tls: { .. }` at its upstream.
fn with_upstream_tls(yaml: &str, tls: &str) -> String {
    let (before, after) = yaml.split_once("app: { ").unwrap();
    format!("{before}app: {{ tls: {{ {tls} }}, {after}")
}

fn errors(proxy: &Proxy, upstream: &RawServer, reason: &str) -> f64 {
    let labels = [("upstream", "app"), ("endpoint", upstream.url()), ("reason", reason)];
    proxy.metric("wsluice_upstream_errors_total", &labels)
}

#[tokio::test]
async fn a_server_is_verified_against_an_authority_of_ones_own() {
    let authority = Authority::new();
    let mut upstream = RawServer::start_tls(authority.server(&["127.0.0.1"])).await;
    let proxy = Proxy::start(&with_upstream_tls(&yaml(&[upstream.url()], &[]), &format!("ca: {:?}", authority.ca())));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    client.put(&Frame::text("secret")).await;
    server.expect(&Frame::text("secret")).await;
    // Plain HTTP goes the same way.
    let mut client = proxy.client().await;
    client.send(get("/page")).await;
    let mut server = upstream.accept().await;
    assert_eq!(server.head().await.target(), "/page");
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

/// Creates a certificate as `openssl req -x509` does for this name: of an authority and of a server at once.
fn self_signed(name: &str) -> (String, Arc<ServerConfig>) {
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(BOTH).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    (certificate.pem(), Arc::new(config))
}

#[tokio::test]
async fn a_server_whose_own_certificate_is_the_authority_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("server.crt");
    let (pem, config) = self_signed("127.0.0.1");
    // As an editor on Windows saves it.
    std::fs::write(&ca, format!("\u{feff}{}", pem.replace('\n', "\r\n"))).unwrap();
    let mut upstream = RawServer::start_tls(config).await;
    let health = "health: { websocket: { path: /, every: 1s, timeout: 500ms } }, ";
    let text = with_upstream_tls(&yaml(&[upstream.url()], &[]), &format!("ca: {ca:?}"))
        .replace("app: { ", &format!("app: {{ {health}"));
    let proxy = Proxy::start(&text);
    // The check uses the same connection settings.
    let mut probe = upstream.accept().await;
    assert!(probe.head().await.get("sec-websocket-key").is_some());
    let mut client = proxy.client().await;
    client.send(Handshake::to("/session").bytes()).await;
    let mut server = loop {
        let mut server = upstream.accept().await;
        if server.switch(&[]).await.target() == "/session" {
            break server;
        }
    };
    assert_eq!(client.head().await.status(), 101);
    client.put(&Frame::text("secret")).await;
    server.expect(&Frame::text("secret")).await;
}

#[tokio::test]
async fn a_refused_certificate_is_told_with_what_to_do_and_verify_off_takes_it() {
    let authority = Authority::new();
    let (_, config) = self_signed("127.0.0.1");
    let mut upstream = RawServer::start_tls(config).await;
    let text = |tls: &str| with_upstream_tls(&yaml(&[upstream.url()], &[]), tls);
    let (strict, lax) = (text(&format!("ca: {:?}", authority.ca())), text("verify: off"));
    let proxy = Proxy::start(&strict);
    assert_eq!(proxy.client().await.ask(&Handshake::new()).await.status(), 502);
    let detail = proxy.log_lines(1).await[0]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("set `ca` in the upstream's `tls` to this very certificate"), "{detail}");
    let loaded = wsluice::config::load_str("it", &lax, &|_| None).unwrap();
    let context = wsluice::control::context::CompileContext::for_check();
    let warnings = wsluice::control::compile::compile(&loaded, &context, None).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("upstreams.app.tls.verify is off")), "{warnings:?}");
    let proxy = Proxy::start(&lax);
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn a_server_with_a_wrong_certificate_is_a_502() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let wrong_name = RawServer::start_tls(authority.server(&["other.test"])).await;
    let wrong_authority = RawServer::start_tls(strangers.server(&["127.0.0.1"])).await;
    let ca = format!("ca: {:?}", authority.ca());
    for (upstream, hint) in [(&wrong_name, "server_name"), (&wrong_authority, "`ca`")] {
        let proxy = Proxy::start(&with_upstream_tls(&yaml(&[upstream.url()], &[]), &ca));
        for (request, count) in [(Handshake::new().bytes(), 1.0), (get("/").into_bytes(), 2.0)] {
            let mut client = proxy.client().await;
            client.send(request).await;
            let answer = client.head().await;
            assert_eq!(answer.status(), 502);
            let body = String::from_utf8(client.body(&answer).await).unwrap();
            assert!(body.starts_with("connect: ") && !body.contains("certificate"), "{body}");
            assert_eq!(errors(&proxy, upstream, "tls"), count);
            let log = proxy.log_lines(count as usize).await;
            let detail = log.last().unwrap()["detail"].as_str().unwrap();
            assert!(detail.contains("certificate was refused") && detail.contains(hint), "{detail}");
        }
    }
}

#[tokio::test]
async fn the_name_to_verify_may_be_another_than_the_address() {
    let authority = Authority::new();
    let mut upstream = RawServer::start_tls(authority.server(&["app.internal.test"])).await;
    let tls = format!("ca: {:?}, server_name: app.internal.test", authority.ca());
    let proxy = Proxy::start(&with_upstream_tls(&yaml(&[upstream.url()], &[]), &tls));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut server = upstream.accept().await;
    let request = server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    let Io::TlsServer(stream) = &server.io else { panic!("TLS") };
    assert_eq!(stream.get_ref().1.server_name(), Some("app.internal.test"));
    // The Host is still the client's.
    assert_eq!(request.get("host"), Some("example.com"));
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_ours_and_http_1_where_that_is_wanted() {
    let authority = Authority::new();
    let ours = authority.issue("wsluice", &["wsluice.test"]);
    let (cert, key) = authority.issue("app", &["127.0.0.1"]);
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&authority.ca())), provider());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate(&cert)], PrivateKeyDer::from_pem_file(&key).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut upstream = RawServer::start_tls(Arc::new(config)).await;
    let tls = format!("ca: {:?}, cert: {:?}, key: {:?}", authority.ca(), ours.0, ours.1);
    let http_1 = |yaml: String| yaml.replace("app: {", "app: { protocol: h1,");
    let proxy = Proxy::start(&http_1(with_upstream_tls(&yaml(&[upstream.url()], &[]), &tls)));
    let mut client = proxy.client().await;
    client.send(Handshake::new().bytes()).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    let Io::TlsServer(stream) = &server.io else { panic!("TLS") };
    let connection = stream.get_ref().1;
    assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(connection.peer_certificates().unwrap()[0], certificate(&ours.0));

    // Without our certificate the server refuses us.
    let proxy = Proxy::start(&with_upstream_tls(&yaml(&[upstream.url()], &[]), &format!("ca: {:?}", authority.ca())));
    let mut client = proxy.client().await;
    assert_eq!(client.ask(&Handshake::new()).await.status(), 502);
}

#[tokio::test]
async fn a_server_on_a_unix_socket_gets_websockets_and_http() {
    let dir = tempfile::tempdir().unwrap();
    let mut upstream = RawServer::start_unix(&dir.path().join("app.sock"));
    let proxy = Proxy::start(&yaml(&[upstream.url()], &[]));
    let mut client = proxy.client().await;
    client.send(Handshake::to("/ws").bytes()).await;
    let mut server = upstream.accept().await;
    assert_eq!(server.switch(&[]).await.target(), "/ws");
    assert_eq!(client.head().await.status(), 101);
    client.put(&Frame::text("hello")).await;
    server.expect(&Frame::text("hello")).await;
    let mut client = proxy.client().await;
    client.send(get("/page")).await;
    let mut server = upstream.accept().await;
    assert_eq!(server.head().await.target(), "/page");
    server.send(ok("")).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_server_that_never_speaks_tls_is_a_504_or_passed_over() {
    let authority = Authority::new();
    // It accepts connections and is silent.
    let mut silent = RawServer::start().await;
    let url = silent.url().replace("ws://", "wss://");
    let ca = format!("ca: {:?}", authority.ca());
    let timeouts = "timeouts: { connect: 200ms }";
    let proxy = Proxy::start(&with_upstream_tls(&yaml(&[&url], &[timeouts]), &ca));
    for request in [Handshake::new().bytes(), get("/").into_bytes()] {
        let mut client = proxy.client().await;
        client.send(request).await;
        let mut waiting = silent.accept().await;
        // A ClientHello arrives, and no plain request.
        assert_eq!(waiting.read_exact(1).await, [22]);
        let answer = client.head().await;
        let body = client.body(&answer).await;
        assert_eq!(answer.status(), 504);
        assert!(body.starts_with(b"connect_timeout: "), "{}", String::from_utf8_lossy(&body));
    }
    let labels = [("upstream", "app"), ("endpoint", &*url), ("reason", "connect_timeout")];
    assert_eq!(proxy.metric("wsluice_upstream_errors_total", &labels), 2.0);

    let mut good = RawServer::start_tls(authority.server(&["127.0.0.1"])).await;
    let proxy = Proxy::start(&with_upstream_tls(&yaml(&[&url, good.url()], &[timeouts]), &ca));
    for _ in 0..2 {
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        good.accept().await.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
    }
}
