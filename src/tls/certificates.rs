//! The certificates of the process over reloads: certificates with their keys, authorities, and the TLS
//! configurations built of them.
//!
//! A reload first reads all files ([`Certificates::prepare`], then [`CertificateScan::server`] and
//! [`CertificateScan::client`] for each user of TLS) and changes nothing; [`Certificates::commit`] activates the
//! result. A scan that is dropped instead leaves no trace.
//!
//! * **A bad file keeps the active certificate**: it cannot be read, the key does not match, the certificate has
//!   expired or its chain is broken where the active one is complete. One broken renewal must neither end a service nor
//!   block other changes. [`CertificateScan::refused`], an error in the log and a metric report it until the file is
//!   good again. A bad file is an error only if nothing is active.
//! * **What has not changed stays the same**, to the `Arc`: a digest of their contents identifies files. An unchanged
//!   request gets the same configuration, with its resumption, and [`Arc::ptr_eq`] shows that nothing has changed.
//! * **Tickets outlive certificates**, but not a change of what clients must show: see [`TicketKeys`].
//!
//! A certificate and its key that are written one after the other do not match for a moment, and a certificate made on
//! a machine whose clock is ahead is not valid for as long. So scan again each minute or so while something is
//! [`stale`](Certificates::is_stale), even if no file changes: earlier findings are not counted or logged again.

use crate::base::error_chain::error_chain;
use std::collections::HashMap;
use std::fmt;
use std::mem::{self, Discriminant};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Serialize};

use super::client::{ClientTlsOptions, client_config};
use super::error::{TlsError, display};
use super::files::{self, Digest};
use super::identity::{self, Identity};
use super::metrics::{FileStatus, FileStatuses, Metrics, Reader};
use super::server::{ClientAuth, ClientAuthMode, MinVersion, ServerTlsOptions, server_config};
use super::tickets::{TicketKeys, TicketKeysState};
use super::verifier::Authorities;

/// The files of a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The certificate, followed by its intermediates.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The files and options of a listener's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The certificates, chosen by SNI; the first is the default.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version accepted.
    pub min_version: MinVersion,
    /// The authorities of client certificates, and whether clients must have one.
    pub client_auth: Option<(PathBuf, ClientAuthMode)>,
    /// The application protocols, best first.
    pub alpn: Vec<&'static [u8]>,
}

/// The files and options of TLS towards servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientFiles {
    /// The authorities that may have signed the server's certificate, instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// The client certificate, for servers that request one.
    pub certificate: Option<CertificateFiles>,
    /// Accepts any server certificate.
    pub unverified: bool,
}

/// The servers that a configuration is for; an upstream has one for each scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientTlsScope {
    /// Its endpoints.
    Endpoints,
    /// The servers that list its endpoints.
    Discovery,
    /// The servers that a route's `auth` asks; the route takes the place of the upstream.
    Auth,
    /// The store that instances share.
    Shared,
}

/// The part of the request that an error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The certificate at this index; 0 for a client's own.
    Certificate(usize),
    /// The private key of the certificate at this index.
    Key(usize),
    /// The authorities that verify the other side.
    Authorities,
    /// The combination.
    Whole,
}

/// Why TLS cannot be set up: all errors, by part.
pub type Errors = Vec<(Part, TlsError)>;

/// The active certificates. Clones share them; only one writer at a time prepares and commits.
#[derive(Debug, Clone)]
pub struct Certificates {
    in_force: Arc<Mutex<Arc<ActiveCertificates>>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct ActiveCertificates {
    identities: HashMap<CertificateFiles, ReadFile<Identity>>,
    authorities: HashMap<PathBuf, ReadFile<Arc<Authorities>>>,
    servers: HashMap<String, BuiltServerConfig>,
    clients: HashMap<(String, ClientTlsScope), BuiltClientConfig>,
    statuses: FileStatuses,
}

/// The value of a file, and the findings of the scan that read it.
#[derive(Debug, Clone)]
struct ReadFile<T> {
    value: T,
    /// The digest of the contents that `value` was built from, not of refused ones.
    digest: Digest,
    found: FileChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileChange {
    New,
    Unchanged,
    Replaced,
    /// The old value stays, for this reason.
    Refused(RefusalKey),
    /// As in the last scan: not counted or logged again.
    StillRefused(RefusalKey),
}

/// Identifies a refusal: by the contents, if there were any, and the kind of the error.
type RefusalKey = (Option<Digest>, Discriminant<TlsError>);

impl FileChange {
    fn reason(self) -> Option<RefusalKey> {
        match self {
            FileChange::Refused(reason) | FileChange::StillRefused(reason) => Some(reason),
            FileChange::New | FileChange::Unchanged | FileChange::Replaced => None,
        }
    }
}

#[derive(Debug, Clone)]
struct BuiltServerConfig {
    options: ServerTlsOptions,
    tickets: TicketKeys,
    config: Arc<ServerConfig>,
}

#[derive(Debug, Clone)]
struct BuiltClientConfig {
    options: ClientTlsOptions,
    config: Arc<ClientConfig>,
}

impl Certificates {
    /// Creates it without active certificates.
    pub fn new(metrics: Metrics) -> Certificates {
        Certificates { in_force: Arc::default(), metrics }
    }

    /// Begins a scan of all files of TLS; certificates are judged at `now`.
    pub fn prepare(&self, now: SystemTime) -> CertificateScan {
        let (before, next) = (self.current(), ActiveCertificates::default());
        CertificateScan { before, next, now, may_move: false, warnings: vec![], refused: vec![], replaced: vec![] }
    }

    /// Activates a scan. Forgets what the scan did not request, with its metrics.
    pub fn commit(&self, prepared: CertificateScan) {
        let CertificateScan { before, next, refused, replaced, .. } = prepared;
        for file in &replaced {
            tracing::info!(%file, "certificate replaced");
        }
        for RefusedFile { file, why, .. } in refused.iter().filter(|refused| refused.is_new) {
            tracing::error!(%file, error = %why, "certificate refused: the one in force stays");
        }
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(Arc::ptr_eq(&in_force, &before), "there is one writer at a time");
        self.metrics.put(&next.statuses, &before.statuses);
        *in_force = Arc::new(next);
    }

    /// Returns true if an old value is kept because its file has become bad.
    pub fn is_stale(&self) -> bool {
        self.current().statuses.values().any(|status| status.kept_old)
    }

    /// Writes down the ticket keys of all listeners, for the next process.
    pub fn ticket_keys(&self) -> Vec<ListenerTickets> {
        let of = |(listener, server): (&String, &BuiltServerConfig)| ListenerTickets {
            listener: listener.clone(),
            asked_of_clients: asked_of_clients(&server.options),
            keys: server.tickets.state(),
        };
        self.current().servers.iter().map(of).collect()
    }

    /// Goes on with the ticket keys of another process, for the listeners of the same name that ask the same of clients.
    pub fn adopt_ticket_keys(&self, all: &[ListenerTickets]) {
        let current = self.current();
        for ListenerTickets { listener, asked_of_clients: asked, keys } in all {
            let server = current.servers.get(listener);
            if let Some(server) = server.filter(|server| asked_of_clients(&server.options) == *asked) {
                server.tickets.adopt(keys);
            }
        }
    }

    fn current(&self) -> Arc<ActiveCertificates> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The ticket keys of a listener, on their way to another process. They are secret: wiped when dropped, and not shown.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListenerTickets {
    listener: String,
    /// The digest of what the listener asks of clients, without which a ticket could stand for a certificate that was
    /// never shown.
    asked_of_clients: [u8; 32],
    keys: TicketKeysState,
}

/// Returns a digest of what a listener asks of clients: that it changes when that does matters, not its value.
fn asked_of_clients(options: &ServerTlsOptions) -> [u8; 32] {
    let mut digest = Context::new(&SHA256);
    if let Some(ClientAuth { roots, mode }) = &options.client_auth {
        digest.update(match mode {
            ClientAuthMode::Require => b"require",
            ClientAuthMode::Optional => b"optional",
        });
        for certificate in &roots.certificates {
            digest.update(&certificate.len().to_be_bytes());
            digest.update(certificate);
        }
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    bytes
}

/// The results of a scan so far. Reads each file once, for all its users.
#[derive(Debug)]
pub struct CertificateScan {
    before: Arc<ActiveCertificates>,
    next: ActiveCertificates,
    now: SystemTime,
    may_move: bool,
    warnings: Vec<String>,
    refused: Vec<RefusedFile>,
    replaced: Vec<String>,
}

/// A file that was refused, so that a better active one stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFile {
    /// The certificate, even if its key is wrong.
    pub file: String,
    /// The error with its causes.
    pub why: String,
    is_new: bool,
}

impl fmt::Display for RefusedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is bad now, the active one stays: {}", self.file, self.why)
    }
}

impl CertificateScan {
    /// Sets whether connections under these certificates may go on in another process; without, they may not.
    #[must_use]
    pub fn connections_may_move(mut self, may_move: bool) -> CertificateScan {
        self.may_move = may_move;
        self
    }

    /// Returns warnings for the operator about certificates that are used nevertheless.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the refused files; their old values stay.
    pub fn refused(&self) -> &[RefusedFile] {
        &self.refused
    }

    /// Returns the TLS configuration of a listener: the active one, if nothing has changed.
    ///
    /// # Errors
    /// Returns all errors of files that have no active value to keep.
    pub fn server(&mut self, listener: &str, wanted: &ServerFiles) -> Result<Arc<ServerConfig>, Errors> {
        let reader = Reader::Listener(listener.to_owned());
        let mut errors = vec![];
        let mut identities = vec![];
        for (index, files) in wanted.certificates.iter().enumerate() {
            match self.identity(&reader, files) {
                Ok(identity) => {
                    let status = self.next.statuses.entry((reader.clone(), display(&files.cert))).or_default();
                    let expiry = identity.validity().not_after;
                    // The same file with two keys: the alarm is for the first to expire.
                    status.expiry = Some(status.expiry.map_or(expiry, |other| other.min(expiry)));
                    identities.push(identity);
                }
                Err(error) => errors.push((part(files, index, &error), error)),
            }
        }
        let client_auth = match &wanted.client_auth {
            None => None,
            Some((ca, mode)) => match self.authorities(&reader, ca) {
                Ok(roots) => Some(ClientAuth { roots, mode: *mode }),
                Err(error) => {
                    errors.push((Part::Authorities, error));
                    None
                }
            },
        };
        if !errors.is_empty() {
            // A listener with the rest would answer some names with the wrong certificate.
            return Err(errors);
        }
        let (min_version, may_move) = (wanted.min_version, self.may_move);
        let options = ServerTlsOptions { identities, min_version, client_auth, alpn: wanted.alpn.clone(), may_move };
        let old = self.before.servers.get(listener);
        let server = match old.filter(|old| same_server(&old.options, &options)) {
            Some(same) => same.clone(),
            None => {
                let tickets = old.filter(|old| same_auth(&old.options, &options));
                let tickets = tickets.map_or_else(TicketKeys::new, |old| Ok(old.tickets.clone()));
                let built = tickets.and_then(|tickets| Ok((server_config(&options, &tickets)?, tickets)));
                let (config, tickets) = built.map_err(|error| vec![(Part::Whole, error)])?;
                BuiltServerConfig { options, tickets, config }
            }
        };
        let config = Arc::clone(&server.config);
        self.next.servers.insert(listener.to_owned(), server);
        Ok(config)
    }

    /// Returns the TLS configuration towards `servers` of an upstream: the active one, if nothing has changed.
    ///
    /// # Errors
    /// Returns all errors of files that have no active value to keep.
    pub fn client(
        &mut self,
        upstream: &str,
        servers: ClientTlsScope,
        wanted: &ClientFiles,
    ) -> Result<Arc<ClientConfig>, Errors> {
        let reader = Reader::Upstream(upstream.to_owned());
        // Reads both before failing, to report all errors at once.
        let roots = wanted.ca.as_ref().map(|ca| self.authorities(&reader, ca)).transpose();
        let identity = wanted.certificate.as_ref().map(|files| self.identity(&reader, files)).transpose();
        let (roots, identity) = match (roots, identity) {
            (Ok(roots), Ok(identity)) => (roots, identity),
            (roots, identity) => {
                let roots = roots.err().map(|error| (Part::Authorities, error));
                let files = wanted.certificate.as_ref();
                let identity = identity.err().zip(files).map(|(error, files)| (part(files, 0, &error), error));
                return Err(roots.into_iter().chain(identity).collect());
            }
        };
        let (unverified, may_move) = (wanted.unverified, self.may_move);
        let options = ClientTlsOptions { roots, identity, unverified, may_move };
        let key = (upstream.to_owned(), servers);
        let client = match self.before.clients.get(&key).filter(|old| same_client(&old.options, &options)) {
            Some(same) => same.clone(),
            None => {
                // Sessions are not carried over: the certificates of either side have changed.
                let config = client_config(&options).map_err(|error| vec![(Part::Whole, error)])?;
                BuiltClientConfig { options, config }
            }
        };
        let config = Arc::clone(&client.config);
        self.next.clients.insert(key, client);
        Ok(config)
    }

    fn identity(&mut self, reader: &Reader, files: &CertificateFiles) -> Result<Identity, TlsError> {
        let file = display(&files.cert);
        if !self.next.identities.contains_key(files) {
            let old = self.before.identities.get(files);
            let read = files::read_pair(&files.cert, &files.key).map(|(cert, key)| vec![cert, key]);
            let (known, refusal) = compare(old, read, |contents| {
                let identity = Identity::from_parts(&file, &contents[0], &display(&files.key), &contents[1])?;
                match old.and_then(|old| identity.worse_than(&old.value, self.now)) {
                    None => Ok(identity),
                    Some(fault) => Err(TlsError::Worse(fault)),
                }
            })?;
            self.warnings.extend(known.value.warnings(self.now).iter().map(ToString::to_string));
            self.note(&file, known.found, refusal);
            self.next.identities.insert(files.clone(), known);
        }
        let known = &self.next.identities[files];
        self.next.statuses.entry((reader.clone(), file)).or_default().record(known.found);
        Ok(known.value.clone())
    }

    fn authorities(&mut self, reader: &Reader, ca: &Path) -> Result<Arc<Authorities>, TlsError> {
        let file = display(ca);
        if !self.next.authorities.contains_key(ca) {
            let read = files::read(ca).map(|contents| vec![contents]);
            let (known, refusal) =
                compare(self.before.authorities.get(ca), read, |contents| identity::authorities(&file, &contents[0]))?;
            self.note(&file, known.found, refusal);
            self.next.authorities.insert(ca.to_owned(), known);
        }
        if let Reader::Upstream(_) = reader {
            let warnings = identity::warnings_of_servers(&file, &self.next.authorities[ca].value, self.now);
            let news = warnings.iter().map(ToString::to_string).filter(|warning| !self.warnings.contains(warning));
            self.warnings.extend(news.collect::<Vec<_>>());
        }
        let known = &self.next.authorities[ca];
        self.next.statuses.entry((reader.clone(), file)).or_default().record(known.found);
        Ok(Arc::clone(&known.value))
    }

    fn note(&mut self, file: &str, found: FileChange, refusal: Option<TlsError>) {
        if found == FileChange::Replaced {
            self.replaced.push(file.to_owned());
        }
        let is_new = matches!(found, FileChange::Refused(_));
        self.refused.extend(refusal.map(|error| RefusedFile {
            file: file.to_owned(),
            why: error_chain(&error),
            is_new,
        }));
    }
}

/// Returns the part of the certificate at `index` that an error belongs to.
fn part(files: &CertificateFiles, index: usize, error: &TlsError) -> Part {
    if error.is_about_key(&files.cert, &files.key) { Part::Key(index) } else { Part::Certificate(index) }
}

impl FileStatus {
    fn record(&mut self, found: FileChange) {
        self.replaced |= found == FileChange::Replaced;
        self.refused |= matches!(found, FileChange::Refused(_));
        self.kept_old |= found.reason().is_some();
    }
}

/// Compares what was read with what is active, and builds a new value only if it differs. If the active one is kept
/// although it should have been replaced, returns the reason too.
fn compare<T: Clone>(
    old: Option<&ReadFile<T>>,
    read: Result<Vec<Vec<u8>>, TlsError>,
    make: impl FnOnce(&[Vec<u8>]) -> Result<T, TlsError>,
) -> Result<(ReadFile<T>, Option<TlsError>), TlsError> {
    let mut digest_read = None;
    let found = read.and_then(|contents| {
        let digest = *digest_read.insert(Digest::of(&contents));
        Ok(match old {
            Some(old) if old.digest == digest => ReadFile { found: FileChange::Unchanged, ..old.clone() },
            Some(_) => ReadFile { value: make(&contents)?, digest, found: FileChange::Replaced },
            None => ReadFile { value: make(&contents)?, digest, found: FileChange::New },
        })
    });
    match (found, old) {
        (Ok(known), _) => Ok((known, None)),
        (Err(error), Some(old)) => {
            let reason = (digest_read, mem::discriminant(&error));
            let again = old.found.reason() == Some(reason);
            let found = if again { FileChange::StillRefused(reason) } else { FileChange::Refused(reason) };
            Ok((ReadFile { found, ..old.clone() }, Some(error)))
        }
        (Err(error), None) => Err(error),
    }
}

fn same_server(a: &ServerTlsOptions, b: &ServerTlsOptions) -> bool {
    let same_identity = |(a, b): (&Identity, &Identity)| Arc::ptr_eq(&a.key, &b.key);
    a.identities.len() == b.identities.len()
        && a.identities.iter().zip(&b.identities).all(same_identity)
        && a.min_version == b.min_version
        && a.alpn == b.alpn
        && a.may_move == b.may_move
        && same_auth(a, b)
}

/// Returns true if both require the same of clients.
fn same_auth(a: &ServerTlsOptions, b: &ServerTlsOptions) -> bool {
    match (&a.client_auth, &b.client_auth) {
        (Some(a), Some(b)) => a.mode == b.mode && Arc::ptr_eq(&a.roots, &b.roots),
        (a, b) => a.is_none() && b.is_none(),
    }
}

fn same_client(a: &ClientTlsOptions, b: &ClientTlsOptions) -> bool {
    fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
        a.map(Arc::as_ptr) == b.map(Arc::as_ptr)
    }
    let key = |options: &ClientTlsOptions| options.identity.as_ref().map(|identity| Arc::clone(&identity.key));
    (a.unverified, a.may_move) == (b.unverified, b.may_move)
        && same(a.roots.as_ref(), b.roots.as_ref())
        && same(key(a).as_ref(), key(b).as_ref())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
