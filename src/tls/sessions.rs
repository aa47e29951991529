//! Resumable sessions with servers, valid only while the certificate that verified the server is valid.
//!
//! A resumed session shows no certificate, and brings new tickets. So a server verified once would stay accepted for
//! ever after its certificate expired, as long as a client connects once a week.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{Error, NamedGroup};

use super::validity::Validity;
use super::verifier::signatures_by;

/// Tickets that are kept, eight a server: rustls's default.
const TICKETS_MAX: usize = 256;
/// The most names whose end is kept; more than there are tickets for.
const NAMES_MAX: usize = 256;

/// Sessions and their end by server name. A name without a known end has no sessions.
#[derive(Debug)]
pub(super) struct TlsSessions {
    cache: ClientSessionMemoryCache,
    /// The last second, in Unix time, in which a server's sessions are valid: of all certificates verified since it had
    /// none, the earliest end.
    ends: Mutex<HashMap<ServerName<'static>, i64>>,
    clock: Arc<dyn TimeProvider>,
}

impl TlsSessions {
    pub(super) fn new(clock: Arc<dyn TimeProvider>) -> TlsSessions {
        TlsSessions { cache: ClientSessionMemoryCache::new(TICKETS_MAX), ends: Mutex::default(), clock }
    }

    /// Records that a server showed a valid certificate.
    fn judged(&self, name: &ServerName<'_>, certificate: &CertificateDer<'_>) {
        let Some(Validity { not_after, .. }) = Validity::of(certificate) else { return };
        let name = name.to_owned();
        let mut ends = self.ends();
        if ends.len() >= NAMES_MAX && !ends.contains_key(&name) {
            // This costs each of them a full handshake.
            ends.clear();
        }
        ends.entry(name).and_modify(|end| *end = not_after.min(*end)).or_insert(not_after);
    }

    /// Returns true if this server's sessions are valid now. If not, forgets them.
    fn are_good(&self, name: &ServerName<'_>) -> bool {
        let Some(now) = self.clock.current_time().and_then(|now| i64::try_from(now.as_secs()).ok()) else {
            return false;
        };
        let name = name.to_owned();
        let mut ends = self.ends();
        if ends.get(&name).is_some_and(|end| now <= *end) {
            return true;
        }
        ends.remove(&name);
        drop(ends);
        self.cache.remove_tls12_session(&name);
        while self.cache.take_tls13_ticket(&name).is_some() {}
        false
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, i64>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for TlsSessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.cache.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        if self.are_good(&name) {
            self.cache.set_tls12_session(name, value);
        }
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.are_good(name).then(|| self.cache.tls12_session(name)).flatten()
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.cache.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        if self.are_good(&name) {
            self.cache.insert_tls13_ticket(name, value);
        }
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.are_good(name).then(|| self.cache.take_tls13_ticket(name)).flatten()
    }
}

/// Verifies by another verifier, and reports the result to `sessions`.
#[derive(Debug)]
pub(super) struct RecordingVerifier {
    pub(super) judge: Arc<dyn ServerCertVerifier>,
    pub(super) sessions: Arc<TlsSessions>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.judge.verify_server_cert(certificate, intermediates, name, ocsp_response, now)?;
        self.sessions.judged(name, certificate);
        Ok(judged)
    }

    signatures_by!(judge);
}
