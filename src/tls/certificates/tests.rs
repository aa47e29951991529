//! Tests of certificate reloads: what changes, what stays, what clients notice.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use prometheus::{Registry, TextEncoder};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::super::test_certificates::Ca;
use super::super::{provider, server};
use super::*;

/// A directory with files, and the certificates read from them.
struct Place {
    dir: TempDir,
    certificates: Certificates,
    registry: Registry,
}

/// The result of a reload: the configuration and the refusals.
type Reloaded<T> = Result<(Arc<T>, Vec<String>), Errors>;

impl Place {
    fn new() -> Place {
        let registry = Registry::new();
        let certificates = Certificates::new(Metrics::register(&registry).unwrap());
        Place { dir: tempfile::tempdir().unwrap(), certificates, registry }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes a certificate and its key into the directory.
    fn put(&self, name: &str, (cert, key): (String, String)) {
        self.write(&format!("{name}.crt"), cert);
        self.write(&format!("{name}.key"), key);
    }

    fn files(&self, name: &str) -> CertificateFiles {
        CertificateFiles { cert: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }

    fn wanted(&self, names: &[&str]) -> ServerFiles {
        let certificates = names.iter().map(|name| self.files(name)).collect();
        ServerFiles { certificates, min_version: MinVersion::Tls12, client_auth: None, alpn: vec![b"http/1.1"] }
    }

    /// Reloads with the one listener `l`.
    fn reload(&self, wanted: &ServerFiles) -> Reloaded<ServerConfig> {
        let mut prepared = self.certificates.prepare(SystemTime::now());
        let config = prepared.server("l", wanted)?;
        let refused = prepared.refused().iter().map(ToString::to_string).collect();
        self.certificates.commit(prepared);
        Ok((config, refused))
    }

    /// Returns the series about certificates, without the directory.
    fn series(&self) -> Vec<String> {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let dir = format!("{}/", self.dir.path().display());
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_expiry_"));
        lines.map(|line| line.replace(&dir, "").replace("wsluice_tls_certificate_", "")).collect()
    }
}

fn same<T>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b)
}

/// Returns the certificate that `config` shows to a new client.
async fn shown(config: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Vec<u8> {
    shake(config, client).await.unwrap().1
}

/// Makes one connection; returns the kind of its handshake, and the server's certificate.
async fn shake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Result<(HandshakeKind, Vec<u8>), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let theirs = listener.accept().await.unwrap().0;
    let deadline = Instant::now() + Duration::from_secs(20);
    let serve = async {
        let mut stream =
            Box::pin(server::accept(crate::net::stream::Stream::from(theirs).into(), Arc::clone(server), deadline))
                .await
                .map_err(|error| error.to_string())?;
        stream.write_all(b"x").await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())
    };
    let visit = async {
        let name = ServerName::try_from("a.example").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, ours).await?;
        // Reading receives the ticket, too.
        stream.read_exact(&mut [0]).await?;
        let connection = stream.get_ref().1;
        Ok((connection.handshake_kind().unwrap(), connection.peer_certificates().unwrap()[0].to_vec()))
    };
    let (served, visited) = tokio::join!(serve, visit);
    served?;
    visited.map_err(|error: std::io::Error| error.to_string())
}

/// A client that trusts `ca` and speaks `version`, with its own tickets.
fn client(ca: &Ca, version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(&[version]).unwrap();
    Arc::new(builder.with_root_certificates(ca.roots()).with_no_client_auth())
}

static VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn what_has_not_changed_stays_the_same() {
    let (place, ca) = (Place::new(), Ca::new());
    place.put("a", ca.sign(&["a.example"], |_| {}));
    place.write("ca.crt", ca.pem());
    let auth = Some((place.path("ca.crt"), ClientAuthMode::Require));
    let wanted = ServerFiles { client_auth: auth, ..place.wanted(&["a"]) };
    let (first, _) = place.reload(&wanted).unwrap();
    // Written again, with the same contents.
    let text = fs::read(place.path("a.crt")).unwrap();
    place.write("a.crt", text);
    let (second, refused) = place.reload(&wanted).unwrap();
    assert!(same(&first, &second));
    assert_eq!(refused, [""; 0]);
    assert!(
        place.series().contains(&r#"reloads_total{certificate="a.crt",listener="l",result="replaced"} 0"#.to_owned())
    );
    // The same certificate twice is a different list.
    let (third, _) = place.reload(&ServerFiles { certificates: vec![place.files("a"); 2], ..wanted.clone() }).unwrap();
    assert!(!same(&second, &third));
    let (fourth, _) = place.reload(&ServerFiles { min_version: MinVersion::Tls13, ..wanted }).unwrap();
    assert!(!same(&second, &fourth));
}

#[tokio::test(flavor = "current_thread")]
async fn a_new_certificate_is_shown_at_once_and_sessions_are_resumed_all_the_same() {
    for version in VERSIONS {
        let (place, ca) = (Place::new(), Ca::new());
        place.put("a", ca.sign(&["a.example"], |_| {}));
        let wanted = place.wanted(&["a"]);
        let (before, _) = place.reload(&wanted).unwrap();
        let regular = client(&ca, version);
        let (kind, old) = shake(&before, &regular).await.unwrap();
        assert_ne!(kind, HandshakeKind::Resumed);

        place.put("a", ca.sign(&["a.example"], |_| {}));
        let (after, refused) = place.reload(&wanted).unwrap();
        assert!(!same(&before, &after) && refused.is_empty());
        let new = shown(&after, &client(&ca, version)).await;
        assert_ne!(old, new, "a stranger sees the new certificate");
        assert_eq!(shake(&after, &regular).await.unwrap().0, HandshakeKind::Resumed, "{version:?}");
        assert_eq!(shake(&after, &regular).await.unwrap().0, HandshakeKind::Resumed, "with the ticket of the last");
    }
}

/// A foreign client: OpenSSL keeps its session in a file, and resumes it after the renewal.
#[tokio::test(flavor = "current_thread")]
async fn openssl_resumes_over_a_renewal_as_well() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let (place, ca) = (Place::new(), Ca::new());
        let sign = |name: &str| {
            let subject = name.to_owned();
            ca.sign(&["a.example"], move |params| params.distinguished_name.push(rcgen::DnType::CommonName, subject))
        };
        place.put("a", sign("the old one"));
        place.write("ca.crt", ca.pem());
        let wanted = place.wanted(&["a"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (session, authority) = (place.path("session"), place.path("ca.crt"));
        let visit = async |config: &Arc<ServerConfig>, option: &str| {
            let mut client = Command::new("openssl");
            client.args([
                "s_client",
                "-connect",
                &address,
                "-servername",
                "a.example",
                version,
                "-verify_return_error",
            ]);
            client.arg("-CAfile").arg(&authority).args(["-alpn", "http/1.1"]);
            if !option.is_empty() {
                client.arg(option).arg(&session);
            }
            let mut client =
                client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            // It would exit at the end of its input, but must stay until it has its ticket.
            let _input = client.stdin.take();
            let stream = listener.accept().await.unwrap().0;
            let deadline = Instant::now() + Duration::from_secs(20);
            let stream = crate::net::stream::Stream::from(stream);
            let mut stream = Box::pin(server::accept(stream.into(), Arc::clone(config), deadline)).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.shutdown().await.unwrap();
            drop(stream);
            let output = tokio::task::spawn_blocking(|| client.wait_with_output()).await.unwrap().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let (before, _) = place.reload(&wanted).unwrap();
        let text = visit(&before, "-sess_out").await;
        assert!(text.contains("\nNew, TLSv1.") && text.contains("CN = the old one"), "{text}");
        place.put("a", sign("the new one"));
        let (after, _) = place.reload(&wanted).unwrap();
        let text = visit(&after, "-sess_in").await;
        assert!(text.contains("\nReused, TLSv1."), "{version}: {text}");
        let text = visit(&after, "").await;
        assert!(text.contains("\nNew, TLSv1.") && text.contains("CN = the new one"), "{text}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn tickets_end_when_something_else_is_asked_of_clients() {
    for version in VERSIONS {
        let (place, ca) = (Place::new(), Ca::new());
        place.put("a", ca.sign(&["a.example"], |_| {}));
        place.write("ca.crt", ca.pem());
        let open = place.wanted(&["a"]);
        let asking = |mode| ServerFiles { client_auth: Some((place.path("ca.crt"), mode)), ..open.clone() };
        let regular = client(&ca, version);
        let (config, _) = place.reload(&open).unwrap();
        shake(&config, &regular).await.unwrap();
        // The session had no request for a certificate, and its ticket must not skip that request.
        let (config, _) = place.reload(&asking(ClientAuthMode::Require)).unwrap();
        assert!(shake(&config, &regular).await.is_err(), "{version:?}");
        let (config, _) = place.reload(&asking(ClientAuthMode::Optional)).unwrap();
        assert_eq!(shake(&config, &regular).await.unwrap().0, HandshakeKind::Full);
        assert_eq!(shake(&config, &regular).await.unwrap().0, HandshakeKind::Resumed);
        // Another authority: what the old one signed no longer counts.
        place.write("ca.crt", Ca::new().pem());
        let (config, _) = place.reload(&asking(ClientAuthMode::Optional)).unwrap();
        assert_eq!(shake(&config, &regular).await.unwrap().0, HandshakeKind::Full);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_next_process_resumes_sessions_unless_it_asks_something_else_of_clients() {
    for version in VERSIONS {
        let (old, ca) = (Place::new(), Ca::new());
        old.put("a", ca.sign(&["a.example"], |_| {}));
        old.write("ca.crt", ca.pem());
        let other_ca = Ca::new();
        old.write("other.crt", other_ca.pem());
        let asking = |ca: &str, mode| ServerFiles { client_auth: Some((old.path(ca), mode)), ..old.wanted(&["a"]) };
        let wanted = asking("ca.crt", ClientAuthMode::Optional);
        let (before, _) = old.reload(&wanted).unwrap();
        let regular = client(&ca, version);
        shake(&before, &regular).await.unwrap();
        let written = serde_json::to_string(&old.certificates.ticket_keys()).unwrap();
        let tickets: Vec<ListenerTickets> = serde_json::from_str(&written).unwrap();

        let next = Place::new();
        let (after, _) = next.reload(&wanted).unwrap();
        next.certificates.adopt_ticket_keys(&tickets);
        assert_eq!(shake(&after, &regular).await.unwrap().0, HandshakeKind::Resumed, "{version:?}");
        // With the ticket of the new process, to which a reload makes no difference.
        old.put("a", ca.sign(&["a.example"], |_| {}));
        let (after, _) = next.reload(&wanted).unwrap();
        assert_eq!(shake(&after, &regular).await.unwrap().0, HandshakeKind::Resumed);

        let others = [
            asking("other.crt", ClientAuthMode::Optional),
            asking("ca.crt", ClientAuthMode::Require),
            old.wanted(&["a"]),
        ];
        for other in others {
            let visitor = client(&ca, version);
            shake(&before, &visitor).await.unwrap();
            let next = Place::new();
            let (after, _) = next.reload(&other).unwrap();
            next.certificates.adopt_ticket_keys(&tickets);
            let shaken = shake(&after, &visitor).await.map(|(kind, _)| kind);
            assert_ne!(shaken, Ok(HandshakeKind::Resumed), "{other:?}");
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_bad_file_keeps_the_old_certificate_and_alarms_until_it_is_good_again() {
    let (place, ca) = (Place::new(), Ca::new());
    let old = ca.sign(&["a.example"], |_| {});
    place.put("a", old.clone());
    place.put("b", ca.sign(&["b.example"], |_| {}));
    let wanted = place.wanted(&["a", "b"]);
    let (before, _) = place.reload(&wanted).unwrap();
    let (strange_cert, _) = ca.sign(&["a.example"], |_| {});
    let expired = ca.sign(&["a.example"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let broken = ca.sign(&["a.example"], |_| {});
    let broken = (format!("{}{}", broken.0, Ca::named("stranger").pem()), broken.1);
    let mut refusals = 0;
    for (what, expected) in [
        ((strange_cert, old.1.clone()), "does not belong to the certificate"),
        ((String::new(), old.1.clone()), "holds no certificate: it is empty"),
        ((old.0.clone(), "nothing".to_owned()), "holds no private key"),
        (expired, "has expired"),
        (broken, "must be followed by the one that issued it"),
    ] {
        place.put("a", what);
        place.reload(&wanted).unwrap();
        // It is reported each time, and counted once.
        let (kept, refused) = place.reload(&wanted).unwrap();
        refusals += 1;
        assert!(same(&before, &kept) && place.certificates.is_stale());
        let [refusal] = &refused[..] else { panic!("one refusal: {refused:?}") };
        assert!(refusal.contains(expected) && refusal.contains("a.crt is bad now"), "{refusal}");
        let series = place.series();
        let counted = format!(r#"reloads_total{{certificate="a.crt",listener="l",result="kept_old"}} {refusals}"#);
        assert!(series.contains(&counted), "{series:?}");
        assert!(series.contains(&r#"stale{certificate="a.crt",listener="l"} 1"#.to_owned()));
        assert!(series.contains(&r#"stale{certificate="b.crt",listener="l"} 0"#.to_owned()));
    }
    fs::remove_file(place.path("a.key")).unwrap();
    let (kept, refused) = place.reload(&wanted).unwrap();
    assert!(same(&before, &kept) && refused[0].contains("cannot read") && refused[0].contains("a.key"), "{refused:?}");
    // The other certificate is renewed meanwhile without hindrance.
    place.put("b", ca.sign(&["b.example"], |_| {}));
    let (renewed, refused) = place.reload(&wanted).unwrap();
    assert!(!same(&before, &renewed) && refused.len() == 1);
    let stranger = client(&ca, &rustls::version::TLS13);
    assert_eq!(shown(&renewed, &stranger).await, shown(&before, &client(&ca, &rustls::version::TLS13)).await);
    // A refused file is not the one compared with: the old file back is no change.
    place.put("a", old);
    let (healed, refused) = place.reload(&wanted).unwrap();
    assert!(same(&renewed, &healed) && refused.is_empty() && !place.certificates.is_stale());
    let series = place.series();
    assert!(series.contains(&r#"stale{certificate="a.crt",listener="l"} 0"#.to_owned()), "{series:?}");
    assert!(series.contains(&r#"reloads_total{certificate="a.crt",listener="l",result="replaced"} 0"#.to_owned()));
    assert!(series.contains(&r#"reloads_total{certificate="b.crt",listener="l",result="replaced"} 1"#.to_owned()));
}

#[test]
fn a_renewal_written_in_two_steps_is_taken_up_with_the_second() {
    let (place, ca) = (Place::new(), Ca::new());
    place.put("a", ca.sign(&["a.example"], |_| {}));
    let wanted = place.wanted(&["a"]);
    let (before, _) = place.reload(&wanted).unwrap();
    let (cert, key) = ca.sign(&["a.example"], |_| {});
    place.write("a.crt", cert);
    let (between, refused) = place.reload(&wanted).unwrap();
    assert!(same(&before, &between) && refused.len() == 1 && place.certificates.is_stale());
    place.write("a.key", key);
    let (after, refused) = place.reload(&wanted).unwrap();
    assert!(!same(&before, &after) && refused.is_empty() && !place.certificates.is_stale());
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_taken_up_once_it_is() {
    let (place, ca) = (Place::new(), Ca::new());
    let from = |year| move |params: &mut rcgen::CertificateParams| params.not_before = rcgen::date_time_ymd(year, 1, 1);
    place.put("a", ca.sign(&["a.example"], from(2000)));
    let wanted = place.wanted(&["a"]);
    let at = |year: u64| SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_557_600 + 86_400);
    let look = |now| {
        let mut prepared = place.certificates.prepare(now);
        let config = prepared.server("l", &wanted).unwrap();
        place.certificates.commit(prepared);
        (config, place.certificates.is_stale())
    };
    let (before, _) = look(at(2020));
    place.put("a", ca.sign(&["a.example"], from(2030)));
    let (kept, stale) = look(at(2021));
    assert!(same(&before, &kept) && stale);
    let (taken, stale) = look(at(2030));
    assert!(!same(&before, &taken) && !stale);
}

#[test]
fn what_was_not_in_force_must_be_good() {
    let (place, ca) = (Place::new(), Ca::new());
    place.put("a", ca.sign(&["a.example"], |_| {}));
    place.reload(&place.wanted(&["a"])).unwrap();
    let (cert, _) = ca.sign(&["b.example"], |_| {});
    place.put("b", (cert, "nothing".to_owned()));
    let auth = Some((place.path("nowhere"), ClientAuthMode::Require));
    let wanted = ServerFiles { client_auth: auth, ..place.wanted(&["a", "b"]) };
    let errors = place.reload(&wanted).unwrap_err();
    assert!(
        matches!(errors[..], [(Part::Key(1), TlsError::NoKey { .. }), (Part::Authorities, TlsError::Read { .. })]),
        "{errors:?}"
    );
    // An expired certificate does not prevent a start.
    place.put("b", ca.sign(&["b.example"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)));
    let mut prepared = place.certificates.prepare(SystemTime::now());
    prepared.server("l", &place.wanted(&["a", "b"])).unwrap();
    assert!(prepared.warnings()[0].contains("has expired") && prepared.refused().is_empty());
}

#[test]
fn what_is_not_committed_leaves_no_trace() {
    let (place, ca) = (Place::new(), Ca::new());
    place.put("a", ca.sign(&["a.example"], |_| {}));
    let wanted = place.wanted(&["a"]);
    let (before, _) = place.reload(&wanted).unwrap();
    let series = place.series();
    place.put("a", ca.sign(&["a.example"], |_| {}));
    let mut prepared = place.certificates.prepare(SystemTime::now());
    assert!(!same(&before, &prepared.server("l", &wanted).unwrap()));
    prepared.server("another", &wanted).unwrap();
    drop(prepared);
    assert_eq!(place.series(), series);
    let (after, _) = place.reload(&wanted).unwrap();
    assert!(!same(&before, &after), "and is still new the next time");
}

#[test]
fn series_go_with_what_they_tell_of() {
    let (place, ca) = (Place::new(), Ca::new());
    place.put("a", ca.sign(&["a.example"], |params| params.not_after = rcgen::date_time_ymd(2030, 1, 1)));
    place.put("b", ca.sign(&["b.example"], |_| {}));
    place.write("ca.crt", ca.pem());
    let a_alone = place.wanted(&["a"]);
    place.reload(&a_alone).unwrap();
    let text = || TextEncoder::new().encode_to_string(&place.registry.gather()).unwrap();
    let before = text();
    assert!(before.contains(&format!(
        "wsluice_tls_certificate_expiry_timestamp_seconds{{certificate=\"{}\",listener=\"l\"}} 1893456000\n",
        place.path("a.crt").display()
    )));
    let mut prepared = place.certificates.prepare(SystemTime::now());
    let auth = Some((place.path("ca.crt"), ClientAuthMode::Require));
    prepared.server("l", &ServerFiles { client_auth: auth, ..place.wanted(&["a", "b"]) }).unwrap();
    prepared.server("m", &a_alone).unwrap();
    let ours = ClientFiles { ca: Some(place.path("ca.crt")), certificate: Some(place.files("a")), unverified: false };
    prepared.client("u", ClientTlsScope::Endpoints, &ours).unwrap();
    place.certificates.commit(prepared);
    assert_eq!(text().matches("wsluice_tls_certificate_stale{").count(), 4);
    assert_eq!(text().matches("wsluice_tls_certificate_expiry_timestamp_seconds{").count(), 3, "an authority has none");
    assert_eq!(text().matches("wsluice_upstream_tls_certificate_stale{").count(), 2);
    place.reload(&a_alone).unwrap();
    assert_eq!(text(), before);
}

#[test]
fn towards_servers_it_is_the_same() {
    let (place, ca) = (Place::new(), Ca::new());
    place.put("us", ca.sign(&["us.example"], |_| {}));
    place.write("ca.crt", ca.pem());
    let wanted =
        ClientFiles { ca: Some(place.path("ca.crt")), certificate: Some(place.files("us")), unverified: false };
    let reload = || {
        let mut prepared = place.certificates.prepare(SystemTime::now());
        let config = prepared.client("u", ClientTlsScope::Endpoints, &wanted).unwrap();
        // Etcd, for example, has its own configuration: other servers, other sessions.
        assert!(!same(&config, &prepared.client("u", ClientTlsScope::Discovery, &wanted).unwrap()));
        let refused: Vec<_> = prepared.refused().iter().map(|refused| refused.file.clone()).collect();
        place.certificates.commit(prepared);
        (config, refused)
    };
    let (first, _) = reload();
    let (second, _) = reload();
    assert!(same(&first, &second));
    place.write("ca.crt", "nothing");
    place.write("us.key", "nothing");
    let (kept, refused) = reload();
    assert!(same(&first, &kept) && place.certificates.is_stale());
    assert_eq!(refused, [display(&place.path("ca.crt")), display(&place.path("us.crt"))]);
    place.put("us", ca.sign(&["us.example"], |_| {}));
    place.write("ca.crt", format!("{}{}", ca.pem(), Ca::new().pem()));
    let (renewed, refused) = reload();
    assert!(!same(&first, &renewed) && refused.is_empty() && !place.certificates.is_stale());
    let errors = place.certificates.prepare(SystemTime::now()).client(
        "u",
        ClientTlsScope::Endpoints,
        &ClientFiles { ca: Some(place.path("no")), certificate: Some(place.files("no")), unverified: false },
    );
    let parts: Vec<Part> = errors.unwrap_err().iter().map(|(part, _)| *part).collect();
    assert_eq!(parts, [Part::Authorities, Part::Certificate(0)]);
}
