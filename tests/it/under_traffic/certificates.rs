//! Renewed certificates while sessions run: each new client gets the right one, and earlier clients resume TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, HandshakeKind};

use super::{NAME, Site, all_hear, finish};
use crate::harness::traffic::{Client, Talk};
use crate::harness::{Conn, Io};
use crate::process::put;

/// Opens a session and ends it. Returns whether TLS was resumed, and the certificate.
async fn visit(site: &Site, config: &Arc<ClientConfig>) -> (bool, CertificateDer<'static>) {
    let conn = site.secure(config).connect().await;
    let (resumed, shown) = tls(&conn);
    let client = Client::on(conn, &Talk::to("/one").push().pause(1, 10).bytes_max(100)).await;
    // The ticket arrives with the first messages.
    client.hears(2).await;
    client.finish().await;
    (resumed, shown)
}

fn tls(conn: &Conn) -> (bool, CertificateDer<'static>) {
    let Io::TlsClient(stream) = &conn.io else { panic!("no TLS") };
    let tls = stream.get_ref().1;
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    (resumed, tls.peer_certificates().unwrap()[0].clone().into_owned())
}

fn in_file(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

#[tokio::test]
async fn a_renewal_is_shown_to_who_is_new_and_resumption_goes_on_whatever_the_files_hold() {
    let mut site = Site::start("").await;
    let (cert, key) = site.certificate.clone();
    let file = cert.to_str().unwrap().to_owned();
    let reader = [("listener", "secure"), ("certificate", file.as_str())];
    let sessions = site.sessions("/one").await;
    // A returning client; all others come for the first time.
    let known = site.authority.client();
    assert_eq!(visit(&site, &known).await, (false, in_file(&cert)));
    let handshakes = [("listener", "secure"), ("version", "1.3"), ("resumed", "true")];
    let before = site.metric("wsluice_tls_handshakes_total", &handshakes).await;
    let (mut resumed, mut replaced, mut kept) = (0, 0, 0);
    let (cert_text, key_text) = (std::fs::read_to_string(&cert).unwrap(), std::fs::read_to_string(&key).unwrap());
    let (other, _) = site.authority.issue("other", &[NAME]);
    let other = std::fs::read_to_string(other).unwrap();
    let broken = [
        ("no PEM", "-----BEGIN CERTIFICATE-----\nnothing\n".to_owned()),
        ("half of it", cert_text[..cert_text.len() / 2].to_owned()),
        ("of another key", other),
        ("empty", String::new()),
    ];
    for (what, text) in broken {
        // A good certificate, written as certbot does.
        site.authority.issue("own", &[NAME]);
        let good = in_file(&cert);
        let line = site.reloaded("watch", "configuration reloaded").await;
        assert_eq!(line["listeners"], "~secure", "{line}");
        replaced += 1;
        let again = visit(&site, &known).await;
        assert!(again.0, "{what}: a renewal has ended resumption");
        resumed += 1;
        assert_eq!(visit(&site, &site.authority.client()).await, (false, good.clone()), "before {what}");
        assert_eq!(site.metric("wsluice_tls_certificate_stale", &reader).await, 0.0);
        // And a bad one: nothing changes, except for the alarm.
        put(&cert, &text);
        let line = site.process.message("certificate refused: the one in force stays").await;
        assert_eq!((line["level"].as_str(), line["file"].as_str()), (Some("error"), Some(file.as_str())), "{line}");
        assert!(!line["error"].as_str().unwrap().is_empty());
        kept += 1;
        site.reloaded("watch", "configuration").await;
        assert_eq!(site.metric("wsluice_tls_certificate_stale", &reader).await, 1.0, "{what}");
        assert_eq!(visit(&site, &site.authority.client()).await, (false, good), "after {what}");
        assert!(visit(&site, &known).await.0, "{what}: has ended resumption");
        resumed += 1;
        for (result, count) in [("replaced", replaced), ("kept_old", kept)] {
            let labels = [reader[0], reader[1], ("result", result)];
            assert_eq!(site.metric("wsluice_tls_certificate_reloads_total", &labels).await, f64::from(count), "{what}");
        }
        all_hear(&sessions).await;
    }
    // Repaired by restoring the first one.
    put(&key, &key_text);
    put(&cert, &cert_text);
    site.reloaded("watch", "configuration reloaded").await;
    assert_eq!(site.metric("wsluice_tls_certificate_stale", &reader).await, 0.0);
    assert_eq!(visit(&site, &site.authority.client()).await, (false, in_file(&cert)));
    assert!(visit(&site, &known).await.0);
    resumed += 1;
    assert_eq!(site.metric("wsluice_tls_handshakes_total", &handshakes).await, before + f64::from(resumed));
    finish(sessions, &site.peers).await;
}
