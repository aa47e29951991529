//! Tests of server-side TLS with rustls and raw clients, over real sockets.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::super::test_certificates::{Ca, Clock};
use super::*;

fn options(ca: &Ca) -> ServerTlsOptions {
    let identities = vec![ca.identity(&["a.example"]), ca.identity(&["b.example"])];
    ServerTlsOptions {
        identities,
        min_version: MinVersion::Tls12,
        client_auth: None,
        alpn: vec![b"h2", b"http/1.1"],
        may_move: false,
    }
}

fn with_new_tickets(options: &ServerTlsOptions) -> Arc<ServerConfig> {
    server_config(options, &TicketKeys::new().unwrap()).unwrap()
}

/// A client that trusts `ca` and speaks only `versions`.
fn client(ca: &Ca, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(ca.roots())
        .with_no_client_auth()
}

async fn pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0.into(), client)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

type Shaken = (Result<ServerStream, TlsAcceptError>, io::Result<tokio_rustls::client::TlsStream<TcpStream>>);

/// Makes one handshake; returns both results. With TLS 1.3 the client may succeed where the server fails.
async fn shake(options: &ServerTlsOptions, config: ClientConfig, name: &'static str) -> Shaken {
    let (server, client) = pair().await;
    let accept = accept(server.into(), with_new_tickets(options), soon());
    let connector = TlsConnector::from(Arc::new(config));
    tokio::join!(accept, connector.connect(ServerName::try_from(name).unwrap(), client))
}

/// Sends bytes instead of a handshake; returns the listener's error and its answer.
async fn send(bytes: &[u8]) -> (TlsAcceptError, Vec<u8>) {
    let (server, mut client) = pair().await;
    let config = with_new_tickets(&options(&Ca::new()));
    let peer = async {
        client.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Unread bytes end the connection with a reset; what arrived before counts.
        let _ = client.read_to_end(&mut answer).await;
        answer
    };
    let (result, answer) = tokio::join!(accept(server.into(), config, soon()), peer);
    (result.unwrap_err(), answer)
}

const ALL: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test(flavor = "current_thread")]
async fn both_versions_are_spoken_and_the_name_chooses_the_certificate() {
    let ca = Ca::new();
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        for name in ["a.example", "b.example"] {
            let mut config = client(&ca, versions);
            // The server's order counts.
            config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
            let (server, client) = shake(&options(&ca), config, name).await;
            let (server, client) = (server.unwrap(), client.unwrap());
            assert_eq!(server.protocol_version(), Some(versions[0].version));
            let client = client.get_ref().1;
            assert_eq!([server.alpn_protocol(), client.alpn_protocol()], [Some(&b"h2"[..]); 2]);
            assert_eq!(client.protocol_version(), Some(versions[0].version));
            // The certificate was checked for this name.
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn bytes_read_before_the_handshake_are_part_of_it() {
    let ca = Ca::new();
    let (server, client_side) = pair().await;
    let config = with_new_tickets(&options(&ca));
    let connector = TlsConnector::from(Arc::new(client(&ca, ALL)));
    let server = async {
        let mut stream = server;
        let mut early = vec![0; 100];
        stream.read_exact(&mut early).await.unwrap();
        accept(Prefixed::new(early, stream), config, soon()).await
    };
    let (server, client) =
        tokio::join!(server, connector.connect(ServerName::try_from("a.example").unwrap(), client_side));
    server.unwrap();
    client.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn an_old_client_is_refused_where_only_1_3_is_spoken() {
    let ca = Ca::new();
    let only_1_3 = ServerTlsOptions { min_version: MinVersion::Tls13, ..options(&ca) };
    let (server, client) = shake(&only_1_3, client(&ca, &[&rustls::version::TLS12]), "a.example").await;
    assert_eq!(server.unwrap_err().label(), "nothing_shared");
    assert!(client.unwrap_err().to_string().contains("ProtocolVersion"), "the alert arrives");
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_only_speaks_h2_is_refused_where_it_is_not_spoken() {
    let ca = Ca::new();
    let mut config = client(&ca, ALL);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (server, client) =
        shake(&ServerTlsOptions { alpn: vec![b"http/1.1"], ..options(&ca) }, config, "a.example").await;
    assert_eq!(server.unwrap_err().label(), "nothing_shared");
    assert!(client.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_does_not_trust_us_says_so() {
    let (server, _) = shake(&options(&Ca::new()), client(&Ca::new(), ALL), "a.example").await;
    assert!(matches!(server, Err(TlsAcceptError::ClientRefused(AlertDescription::UnknownCA))), "{server:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn clients_show_the_certificate_that_is_asked_for() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let asking =
        |mode| ServerTlsOptions { client_auth: Some(ClientAuth { roots: ca.authorities(), mode }), ..options(&ca) };
    let with = |identity: &Identity| {
        let mut config = client(&ca, ALL);
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key)));
        config
    };
    let (ours, foreign) = (ca.identity(&["client.example"]), stranger.identity(&["client.example"]));
    for (mode, config, accepted) in [
        (ClientAuthMode::Require, with(&ours), true),
        (ClientAuthMode::Require, client(&ca, ALL), false),
        (ClientAuthMode::Require, with(&foreign), false),
        (ClientAuthMode::Optional, with(&ours), true),
        (ClientAuthMode::Optional, client(&ca, ALL), true),
        (ClientAuthMode::Optional, with(&foreign), false),
    ] {
        let (server, _client) = shake(&asking(mode), config, "a.example").await;
        match server {
            Ok(_) => assert!(accepted),
            Err(error) => assert_eq!((error.label(), accepted), ("client_certificate", false)),
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn plain_http_is_answered_in_plain_http() {
    let (error, answer) = send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(matches!(error, TlsAcceptError::PlainHttp));
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_not_tls_is_told_apart() {
    assert!(matches!(send(b"\0\0\0\0").await.0, TlsAcceptError::NotTls));
    assert!(matches!(send(b"ssh").await.0, TlsAcceptError::NotTls));
    // A handshake record with nonsense in it gets its alert (RFC 8446 §6).
    let (error, answer) = send(b"\x16\x03\x01\0\x05\x01\0\0\x01\0").await;
    assert_eq!(error.label(), "protocol");
    assert_eq!(answer[0], 21);
}

#[tokio::test(flavor = "current_thread")]
async fn silence_and_hanging_up_have_names_of_their_own() {
    let config = with_new_tickets(&options(&Ca::new()));
    let (server, mut client) = pair().await;
    client.write_all(b"\x16\x03").await.unwrap();
    let error = accept(server.into(), Arc::clone(&config), Instant::now()).await.unwrap_err();
    assert_eq!(error.label(), "timeout");
    for sent in [b"".as_slice(), b"\x16\x03"] {
        let (server, mut client) = pair().await;
        client.write_all(sent).await.unwrap();
        drop(client);
        let error = accept(server.into(), Arc::clone(&config), soon()).await.unwrap_err();
        assert_eq!(error.label(), "closed");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn tickets_hold_on_every_worker() {
    let ca = Ca::new();
    let (server, client) = (with_new_tickets(&options(&ca)), Arc::new(client(&ca, ALL)));
    let connect = |expected| {
        let (server, client) = (Arc::clone(&server), Arc::clone(&client));
        // A thread with a runtime of its own, as a worker has.
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let (ours, theirs) = pair().await;
                let name = ServerName::try_from("a.example").unwrap();
                let (server, client) =
                    tokio::join!(accept(ours.into(), server, soon()), TlsConnector::from(client).connect(name, theirs));
                let (mut server, mut client) = (server.unwrap(), client.unwrap());
                server.write_all(b"x").await.unwrap();
                server.flush().await.unwrap();
                client.read_exact(&mut [0]).await.unwrap();
                assert_eq!(client.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed), expected);
            });
        })
        .join()
        .unwrap();
    };
    connect(false);
    connect(true);
    connect(true);
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_whose_certificate_is_listed_cannot_sign_others() {
    let ca = Ca::new();
    let mut params = rcgen::CertificateParams::new(vec!["one.example".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "one");
    let key = rcgen::KeyPair::generate().unwrap();
    let listed_key = key.serialize_pem();
    let listed = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
    let other = (other.signed_by(&key, &listed).unwrap().pem(), key.serialize_pem());
    let roots = super::super::identity::authorities("ca", listed.pem().as_bytes()).unwrap();
    let auth = ClientAuth { roots, mode: ClientAuthMode::Require };
    let server = with_new_tickets(&ServerTlsOptions { client_auth: Some(auth), ..options(&ca) });
    for version in ALL {
        for ((cert, key), accepted) in [((listed.pem(), listed_key.clone()), true), (other.clone(), false)] {
            let identity = Identity::from_pem("client", cert.as_bytes(), key.as_bytes()).unwrap();
            let mut client = client(&ca, &[version]);
            client.client_auth_cert_resolver =
                Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key)));
            let (ours, theirs) = pair().await;
            let name = ServerName::try_from("a.example").unwrap();
            let connecting = TlsConnector::from(Arc::new(client)).connect(name, theirs);
            let (server, _client) = tokio::join!(accept(ours.into(), Arc::clone(&server), soon()), connecting);
            match server {
                Ok(_) => assert!(accepted),
                Err(error) => assert_eq!((error.label(), accepted), ("client_certificate", false)),
            }
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn no_ticket_outlives_the_certificate_of_the_client() {
    let (ca, clock) = (Ca::new(), Arc::new(Clock::at(2030, 1, 31)));
    let (cert, key) = ca.sign(&["client.example"], |params| params.not_after = rcgen::date_time_ymd(2030, 2, 1));
    let identity = Identity::from_pem("client", cert.as_bytes(), key.as_bytes()).unwrap();
    let auth = ClientAuth { roots: ca.authorities(), mode: ClientAuthMode::Require };
    let mut server =
        ServerConfig::clone(&with_new_tickets(&ServerTlsOptions { client_auth: Some(auth), ..options(&ca) }));
    server.time_provider = Arc::clone(&clock) as _;
    let server = Arc::new(server);
    for version in ALL {
        clock.set(2030, 1, 31);
        let mut client = client(&ca, &[version]);
        client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(&identity.key)));
        let client = Arc::new(client);
        let connect = async || {
            let (ours, theirs) = pair().await;
            let name = ServerName::try_from("a.example").unwrap();
            let connecting = async {
                let mut client = TlsConnector::from(Arc::clone(&client)).connect(name, theirs).await?;
                client.read_exact(&mut [0]).await.map(drop)
            };
            let accepting = async {
                let mut server = accept(ours.into(), Arc::clone(&server), soon()).await?;
                server.write_all(b"x").await?;
                server.flush().await?;
                Ok::<_, TlsAcceptError>(server.handshake_kind() == Some(HandshakeKind::Resumed))
            };
            tokio::join!(accepting, connecting)
        };
        assert!(matches!(connect().await, (Ok(false), Ok(()))));
        assert!(matches!(connect().await, (Ok(true), Ok(()))));
        clock.set(2030, 2, 2);
        for _ in 0..2 {
            let (server, client) = connect().await;
            assert_eq!((server.unwrap_err().label(), client.is_err()), ("client_certificate", true));
        }
    }
}

#[cfg(not(feature = "tls-tokio"))] // which keeps buffers of its own
#[tokio::test(flavor = "current_thread")]
async fn nothing_is_held_while_a_client_is_idle() {
    let ca = Ca::new();
    let (server, client) = shake(&options(&ca), client(&ca, ALL), "a.example").await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let message = vec![7; 16 * 1024];
    client.write_all(&message).await.unwrap();
    client.flush().await.unwrap();
    let mut read = vec![0; message.len()];
    server.read_exact(&mut read).await.unwrap();
    assert!(read == message);
    assert!(crate::net::pool::free(crate::net::pool::BufferSize::Medium) > 0);
}
