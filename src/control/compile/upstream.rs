//! Compiles upstreams: policies, TLS, cookies, and the background tasks that each needs.

use std::sync::Arc;
use std::time::Duration;

use super::{Compiler, FileChecks, health};
use crate::balance::sticky::{Attributes, SameSite, Secure, Sticky};
use crate::base::clock;
use crate::config::{
    self, ClientTls, Config, Discover, EndpointUrl, KeyPath, OnDown, Scheme, SigningSecret, SourceRef, Verify,
    WhenAllDown,
};
use crate::discovery::Discovery;
use crate::policy::bucket::AdmissionRate;
use crate::probe::Check;
use crate::proxy;
use crate::tls::certificates::{CertificateFiles, ClientFiles, ClientTlsScope, Part};
use crate::upstream::connect::Sources;
use crate::upstream::entry::{EntryPolicy, QueueLimits};
use crate::upstream::maker::{Maker, server_name_of};
use crate::upstream::reach::Reach;
use crate::upstream::{Policy, Upstream};

/// An upstream of one configuration.
#[derive(Debug)]
pub struct CompiledUpstream {
    /// The compiled upstream; shared with the configuration before if nothing has changed.
    pub upstream: Arc<Upstream>,
    /// Its background tasks; `None` once they are started, and if the upstream has not changed.
    pub background: Option<UpstreamTasks>,
    inputs: UpstreamInputs,
}

/// The background tasks of an upstream.
#[derive(Debug)]
pub struct UpstreamTasks {
    /// The health check of its endpoints.
    pub check: Option<Check>,
    /// The discovery of its endpoints.
    pub discovery: Option<Discovery>,
    /// When its sessions are moved off an endpoint.
    pub eviction: Option<EvictionPolicy>,
}

/// When the sessions of an upstream are moved off an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct EvictionPolicy {
    /// Moves what exceeds an endpoint's share.
    pub rebalance: Option<RebalanceRule>,
    /// The time in which a removed endpoint is emptied; `None` if its sessions stay.
    pub removed: Option<Duration>,
    /// Whether an endpoint that fails its health check is emptied.
    pub down: bool,
}

/// How surplus sessions are moved.
#[derive(Clone, Copy, Debug)]
pub struct RebalanceRule {
    /// Sessions moved per second.
    pub rate: u32,
    /// How much more than its share an endpoint may hold, in percent of the share.
    pub tolerance_percent: u32,
    /// How long the endpoints must have been the same and healthy, so that a flapping one moves nothing.
    pub settle: Duration,
}

/// Everything that an upstream is compiled from.
#[derive(Debug)]
struct UpstreamInputs {
    written: config::UpstreamConfig,
    zone: Option<String>,
    connect_timeout: Duration,
    /// TLS to the endpoints, and to the discovery service.
    tls: [Option<Arc<rustls::ClientConfig>>; 2],
    /// The secrets of the cookie, from the configuration or their file.
    secrets: Vec<SigningSecret>,
}

impl UpstreamInputs {
    fn is_same(&self, other: &UpstreamInputs) -> bool {
        let pointer = |tls: &Option<Arc<rustls::ClientConfig>>| tls.as_ref().map(Arc::as_ptr);
        self.written == other.written
            && self.zone == other.zone
            && self.connect_timeout == other.connect_timeout
            && self.tls.each_ref().map(pointer) == other.tls.each_ref().map(pointer)
            && self.secrets == other.secrets
    }
}

impl Compiler<'_> {
    pub(super) fn upstream(&mut self, file: &Config, name: &str, written: &config::UpstreamConfig) -> CompiledUpstream {
        let path = KeyPath::root().key("upstreams").key(name);
        let connect_timeout = self.connect_times.get(name).copied().unwrap_or(Duration::from_secs(5));
        let [tls, discovery_tls] = self.tls_of(&path, name, written);
        let inputs = UpstreamInputs {
            written: written.clone(),
            zone: file.zone.clone(),
            connect_timeout,
            tls: [tls.clone(), discovery_tls],
            secrets: written.sticky.as_ref().map_or_else(Vec::new, |sticky| self.secrets(&path.key("sticky"), sticky)),
        };
        let before = self.previous.and_then(|previous| previous.upstreams.get(name));
        if let Some(before) = before.filter(|before| before.inputs.is_same(&inputs)) {
            return CompiledUpstream { upstream: Arc::clone(&before.upstream), background: None, inputs };
        }
        let reach = written
            .discover
            .as_ref()
            .map(|discover| Arc::new(Reach { places: discover.allowed_places(), own: self.context.own.clone() }));
        let maker = Maker {
            upstream: name.to_owned(),
            reach: reach.clone(),
            tls,
            protocol: written.protocol,
            server_name: server_name_of_all(written),
            connect_timeout,
            workers: self.context.workers,
            families: self.context.families.upstream.clone(),
            reasons: proxy::upgrade::endpoint_labels().into(),
            states: self.context.states.clone(),
            names: self.context.families.names.clone(),
            tcp: (&written.tcp).into(),
            sources: Sources::new(&written.source_addresses, self.context.workers).map(Arc::new),
        };
        self.server_names(&path, written);
        let policy = Policy {
            balance: written.balance.clone(),
            slow_start: written.slow_start.duration(),
            zone: file.zone.clone(),
            ejection: written.ejection.map().map(health::ejection),
            refuse_down: written.when_all_down == WhenAllDown::Refuse,
            retry_budget: written.retry_budget.map().map(health::retry_budget),
        };
        let mut upstream = Upstream::new(policy, maker);
        upstream.entry = Self::entry(name, written, &inputs.secrets);
        let upstream = Arc::new(upstream);
        let discovery = match &written.discover {
            None => {
                upstream.replace(&written.endpoints, clock::now());
                None
            }
            Some(discover) => {
                // Until the first list, keep the endpoints of the configuration before.
                let known = before.map_or_else(Vec::new, |before| before.upstream.endpoints());
                let known: Vec<_> = known.iter().map(|endpoint| endpoint.written.clone()).collect();
                upstream.replace(&known, clock::now());
                self.discovery(&path.key("discover"), discover, &upstream, &inputs.tls, reach)
            }
        };
        let check = written.health.as_ref().map(health::check);
        let background = Some(UpstreamTasks { check, discovery, eviction: eviction_policy(written) });
        CompiledUpstream { upstream, background, inputs }
    }

    /// Checks what the file alone does not show.
    pub(super) fn examine_upstream(&mut self, name: &str, written: &config::UpstreamConfig, file_checks: FileChecks) {
        let path = KeyPath::root().key("upstreams").key(name);
        self.server_names(&path, written);
        let discovery_tls = match file_checks {
            FileChecks::Nowhere => None,
            FileChecks::Inside => {
                let [_, discovery_tls] = self.tls_of(&path, name, written);
                written.sticky.iter().for_each(|sticky| drop(self.secrets(&path.key("sticky"), sticky)));
                discovery_tls
            }
        };
        match written.discover.as_ref().and_then(Discover::source) {
            #[cfg(not(feature = "dns"))]
            Some(SourceRef::Dns(_)) => self.no_dns(&path.key("discover")),
            Some(SourceRef::Etcd(source)) => {
                drop(self.etcd(&path.key("discover").key("etcd"), source, discovery_tls.as_ref()));
            }
            _ => {}
        }
    }

    /// Returns TLS to the endpoints, and to the discovery service.
    fn tls_of(
        &mut self,
        path: &KeyPath,
        name: &str,
        written: &config::UpstreamConfig,
    ) -> [Option<Arc<rustls::ClientConfig>>; 2] {
        let teller = written.discover.as_ref().and_then(Discover::source);
        let discovered_tls = match teller {
            Some(SourceRef::File(source)) => source.scheme == Scheme::Wss,
            Some(SourceRef::Dns(source)) => source.scheme == Scheme::Wss,
            Some(SourceRef::Etcd(_)) | None => false,
        };
        let needs_tls = discovered_tls || written.endpoints.iter().any(|endpoint| endpoint.url.is_tls());
        let tls = match &written.discover {
            _ if needs_tls => self.client_tls(path, name, ClientTlsScope::Endpoints, written.tls.as_ref()),
            Some(_) if written.tls.is_some() => {
                self.client_tls(path, name, ClientTlsScope::Endpoints, written.tls.as_ref())
            }
            // Discovery may find a `wss://` endpoint later. Until then, a system without authorities is no mistake.
            Some(_) => self.certificates.client(name, ClientTlsScope::Endpoints, &ClientFiles::default()).ok(),
            None => None,
        };
        let discovery_tls = match teller {
            Some(SourceRef::Etcd(source)) if source.servers.iter().any(EndpointUrl::is_tls) => {
                self.client_tls(&path.key("discover").key("etcd"), name, ClientTlsScope::Discovery, source.tls.as_ref())
            }
            _ => None,
        };
        [tls, discovery_tls]
    }

    /// Reports endpoint names that no certificate can match, each at its position.
    fn server_names(&mut self, path: &KeyPath, written: &config::UpstreamConfig) {
        let settled = server_name_of_all(written);
        for (index, endpoint) in written.endpoints.iter().enumerate() {
            if let Err(error) = server_name_of(&endpoint.url, settled.as_deref()) {
                self.ok_or_report::<()>(&path.key("endpoints").index(index), Err(error));
            }
        }
    }

    fn entry(name: &str, written: &config::UpstreamConfig, secrets: &[SigningSecret]) -> EntryPolicy {
        let admission = written.admission;
        let queue = written.queue;
        EntryPolicy {
            admission: admission.map(|it| AdmissionRate::new(it.rate.per_second(), it.burst(), it.wait.duration())),
            queue: queue.map(|it| QueueLimits { length: it.length as usize, wait: it.wait.duration() }),
            // If there are no secrets, the mistake has been reported.
            sticky: written
                .sticky
                .as_ref()
                .filter(|_| !secrets.is_empty())
                .map(|sticky| Self::sticky(name, sticky, secrets)),
        }
    }

    /// Returns the secrets of a cookie; none if they cannot be read, which is reported.
    fn secrets(&mut self, path: &KeyPath, written: &config::StickyConfig) -> Vec<SigningSecret> {
        let Some(file) = &written.secrets_file else { return written.secrets.clone() };
        SigningSecret::read_file(file).unwrap_or_else(|problem| {
            self.report(&path.key("secrets_file"), problem);
            vec![]
        })
    }

    fn sticky(upstream: &str, written: &config::StickyConfig, secrets: &[SigningSecret]) -> Sticky {
        let attributes = Attributes {
            max_age: written.max_age.map(|age| age.duration().as_secs()),
            secure: match written.secure {
                config::CookieSecure::Auto => Secure::Auto,
                config::CookieSecure::Always => Secure::Always,
                config::CookieSecure::Never => Secure::Never,
            },
            http_only: written.http_only,
            same_site: match written.same_site {
                config::CookieSameSite::Strict => SameSite::Strict,
                config::CookieSameSite::Lax => SameSite::Lax,
                config::CookieSameSite::None => SameSite::None,
            },
        };
        let secrets = secrets.iter().map(SigningSecret::as_bytes);
        Sticky::new(written.cookie.clone(), upstream.to_owned(), secrets, written.path.clone(), attributes)
    }

    pub(super) fn client_tls(
        &mut self,
        path: &KeyPath,
        upstream: &str,
        servers: ClientTlsScope,
        written: Option<&ClientTls>,
    ) -> Option<Arc<rustls::ClientConfig>> {
        let path = path.key("tls");
        if written.is_some_and(|tls| tls.verify == Verify::Off) {
            self.warnings.push(format!(
                "{path}.verify is off: the certificates of these servers are not verified, and whoever is between here and \
                 them can read and change everything; set `ca` to their certificate instead"
            ));
        }
        let files = written.map(|tls| ClientFiles {
            unverified: tls.verify == Verify::Off,
            ca: tls.ca.clone(),
            certificate: tls.cert.clone().zip(tls.key.clone()).map(|(cert, key)| CertificateFiles { cert, key }),
        });
        let built = self.certificates.client(upstream, servers, &files.unwrap_or_default());
        self.ok_or_report_all(built, |part| match part {
            Part::Certificate(_) => path.key("cert"),
            Part::Key(_) => path.key("key"),
            Part::Authorities => path.key("ca"),
            Part::Whole => path.clone(),
        })
    }
}

/// Returns when sessions are moved, if they ever are.
fn eviction_policy(written: &config::UpstreamConfig) -> Option<EvictionPolicy> {
    let policy = EvictionPolicy {
        rebalance: written.rebalance.as_ref().map(|it| RebalanceRule {
            rate: it.rate.per_second(),
            tolerance_percent: it.tolerance.percent(),
            settle: it.settle.duration(),
        }),
        removed: written.drain_removed.duration(),
        down: written.on_down == OnDown::Close,
    };
    let emptied = written.endpoints.iter().any(|endpoint| endpoint.drain.is_some());
    // A discovered endpoint may say `drain` later.
    let wanted = policy.rebalance.is_some() || policy.removed.is_some() || policy.down;
    (wanted || emptied || written.discover.is_some()).then_some(policy)
}

/// Returns the name that the certificates of all `wss` endpoints must match, if there is one for all. For endpoints from DNS it
/// is the name that was looked up: they are addresses, and a DNS answer must not decide whom to trust. For an SRV name it is
/// its domain (the source domain of RFC 6125 §6.2.1).
fn server_name_of_all(written: &config::UpstreamConfig) -> Option<String> {
    let settled = written.tls.as_ref().and_then(|tls| tls.server_name.clone());
    settled.or_else(|| match written.discover.as_ref().and_then(Discover::source) {
        Some(SourceRef::Dns(source)) => {
            let labels = source.name.trim_end_matches('.').split('.');
            Some(labels.skip_while(|label| label.starts_with('_')).collect::<Vec<_>>().join("."))
        }
        _ => None,
    })
}
