//! File → snapshot and listeners: names resolved, certificates read, tables built, metric handles fetched.
//!
//! Whole or not at all: every mistake that only the world outside the file can tell (a certificate that is not there, a
//! key that does not fit) is reported together, at its place in the file, and nothing is built then.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use prometheus::Registry;

use super::checks;
use super::shed::{Rebalance, Shedding};
use crate::balance::sticky::{Attributes, SameSite, Secure, Sticky};
use crate::clock;
use crate::config::{
    Bind, Certificate, ClientTls, ConfigErrors, CookieSecret, Discover, EndpointUrl, EtcdSource, File, Finding, Http,
    KeyPath, Loaded, OnDown, ProxyProtocol, Scheme, ServerTls, Source, TlsVersion, Validate, WhenAllDown,
};
use crate::discovery::{Discovery, Outlet, etcd, file};
use crate::drain::Drain;
use crate::net::listener::Address;
use crate::net::proxy_protocol::Mode;
use crate::policy::bucket::Pace;
use crate::probe::Check;
use crate::proxy::outcome::{self, Failure};
use crate::proxy::snapshot::{HeaderEdits, ListenerHandles, Rewrite, Room, Route, Snapshot};
use crate::proxy::{self, Proxy};
use crate::route::Table;
use crate::server::Listener;
use crate::server::metrics::Security;
use crate::session::RouteSessions;
use crate::session::access_log::AccessLog;
use crate::telemetry::sink::LogSink;
use crate::tls::certificates::{CertificateFiles, Certificates, ClientFiles, Part, Prepared, ServerFiles, Servers};
use crate::tls::client::server_name;
use crate::tls::server::{ClientAuthMode, MinVersion};
use crate::tls::{self, TlsError};
use crate::upstream::connect::{Connector, Sources, Target, Tls};
use crate::upstream::entry::{Entry, QueueLimits};
use crate::upstream::live::Lives;
use crate::upstream::maker::{MakeError, Maker};
use crate::upstream::{Policy, Upstream};
use crate::ws::tunnel::Settings;
use crate::{config, discovery, probe, server, session, upstream};

/// All metric families of the data plane, registered once for the life of the process.
#[derive(Clone, Debug)]
pub struct Families {
    server: server::metrics::Metrics,
    proxy: proxy::metrics::Metrics,
    session: session::metrics::Metrics,
    upstream: upstream::metrics::Metrics,
    /// Those of health checks.
    pub probe: probe::metrics::Metrics,
    discovery: discovery::metrics::Metrics,
    /// What is in force of certificates, with its metrics.
    pub certificates: Certificates,
}

impl Families {
    /// Registers them.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn register(registry: &Registry, workers: usize) -> prometheus::Result<Families> {
        Ok(Families {
            server: server::metrics::Metrics::register(registry)?,
            proxy: proxy::metrics::Metrics::register(registry)?,
            session: session::metrics::Metrics::register(registry, workers)?,
            upstream: upstream::metrics::Metrics::register(registry)?,
            probe: probe::metrics::Metrics::register(registry)?,
            discovery: discovery::metrics::Metrics::register(registry)?,
            certificates: Certificates::new(tls::metrics::Metrics::register(registry)?),
        })
    }
}

/// What the process has besides its configuration.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Threads that relay.
    pub workers: usize,
    /// Where metrics are counted.
    pub families: Families,
    /// Where log lines go.
    pub log: AccessLog,
    /// Who is still working.
    pub drain: Arc<Drain>,
    /// What is known of endpoints.
    pub lives: Lives,
}

impl Surroundings {
    /// Surroundings in which nothing is logged or scraped: enough to tell whether a file compiles.
    ///
    /// # Panics
    /// Never: the registry is new, so no name is taken.
    pub fn for_check() -> Surroundings {
        let families = Families::register(&Registry::new(), 1).expect("a new registry has no names");
        Surroundings { workers: 1, families, log: AccessLog::off(), drain: Drain::new(1), lives: Lives::default() }
    }
}

/// The access log as the file wants it.
pub fn access_log(file: &File, sink: LogSink, format: crate::telemetry::logging::Format) -> AccessLog {
    if file.log.access { AccessLog::new(sink, format) } else { AccessLog::off() }
}

/// A configuration ready to run.
#[derive(Debug)]
pub struct Compiled {
    /// Each with the address it is to be bound to.
    pub listeners: Vec<(Address, Arc<Listener>)>,
    /// The upstreams whose endpoints are to be checked, and how.
    pub checks: Vec<(Arc<Upstream>, Check)>,
    /// For upstreams whose endpoints somebody else tells.
    pub discoveries: Vec<Discovery>,
    /// Upstreams whose sessions are moved or closed for the sake of their endpoints.
    pub sheddings: Vec<(Arc<Upstream>, Shedding)>,
    /// What was read of certificates: to be committed when the rest is in force.
    pub certificates: Prepared,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Builds all of it.
///
/// # Errors
/// Everything that is wrong, at its place in the file.
pub fn compile(loaded: &Loaded, around: &Surroundings) -> Result<Compiled, ConfigErrors> {
    let certificates = around.families.certificates.prepare(SystemTime::now());
    let mut compiler = Compiler {
        around,
        source: &loaded.source,
        certificates,
        errors: vec![],
        warnings: vec![],
        discoveries: vec![],
    };
    let file = &loaded.file;
    let upstreams: BTreeMap<&str, Arc<Upstream>> = file
        .upstreams
        .iter()
        .map(|(name, upstream)| (name.as_str(), compiler.upstream(file, name, upstream)))
        .collect();
    let routes = file.routes.iter().enumerate().filter_map(|(index, route)| {
        // `config::check` has already complained about a name that is not there.
        let upstream = upstreams.get(route.upstream.as_str())?;
        Some((route.matches.clone(), Arc::new(compiler.route(file, index, route, upstream))))
    });
    let snapshot = Arc::new(Snapshot { table: Table::new(routes.collect()) });
    let listeners: Vec<_> = file
        .listeners
        .iter()
        .enumerate()
        .map(|(index, listener)| compiler.listener(index, listener, &snapshot))
        .collect();
    let checked = |(name, written): (&String, &config::Upstream)| {
        Some((Arc::clone(&upstreams[name.as_str()]), checks::check(written.health.as_ref()?)))
    };
    let checks = file.upstreams.iter().filter_map(checked).collect();
    let shed = |(name, written): (&String, &config::Upstream)| {
        Some((Arc::clone(&upstreams[name.as_str()]), shedding(written)?))
    };
    let sheddings = file.upstreams.iter().filter_map(shed).collect();
    let Compiler { certificates, errors, mut warnings, discoveries, .. } = compiler;
    if errors.is_empty() {
        warnings.extend_from_slice(certificates.warnings());
        Ok(Compiled { listeners, checks, discoveries, sheddings, certificates, warnings })
    } else {
        Err(ConfigErrors::new(&loaded.source, errors))
    }
}

struct Compiler<'a> {
    around: &'a Surroundings,
    source: &'a Source,
    certificates: Prepared,
    errors: Vec<Finding>,
    warnings: Vec<String>,
    discoveries: Vec<Discovery>,
}

impl Compiler<'_> {
    /// Notes a failure at `path`; `None` keeps the compilation going, to find all of them.
    fn noted<T>(&mut self, path: &KeyPath, result: Result<T, TlsError>) -> Option<T> {
        result.map_err(|error| self.errors.push(self.source.error(path, proxy::request::chain(&error), None))).ok()
    }

    /// The same of what has several parts, each with a place of its own.
    fn all_noted<T>(
        &mut self,
        result: Result<T, tls::certificates::Errors>,
        place: impl Fn(Part) -> KeyPath,
    ) -> Option<T> {
        let errors = match result {
            Ok(built) => return Some(built),
            Err(errors) => errors,
        };
        for (part, error) in errors {
            self.noted::<()>(&place(part), Err(error));
        }
        None
    }

    fn upstream(&mut self, file: &File, name: &str, written: &config::Upstream) -> Arc<Upstream> {
        let path = KeyPath::root().key("upstreams").key(name);
        let told_tls = match &written.discover {
            None => false,
            Some(Discover::File(source)) => source.scheme == Scheme::Wss,
            Some(Discover::Dns(source)) => source.scheme == Scheme::Wss,
            Some(Discover::Etcd(_)) => false,
        };
        let needs_tls = told_tls || written.endpoints.iter().any(|endpoint| endpoint.url.is_tls());
        let tls = match &written.discover {
            _ if needs_tls => self.client_tls(&path, name, Servers::Endpoints, written.tls.as_ref()),
            Some(_) if written.tls.is_some() => self.client_tls(&path, name, Servers::Endpoints, written.tls.as_ref()),
            // Somebody may tell a `wss://` one day. A system without authorities is no mistake of the file until then.
            Some(_) => self.certificates.client(name, Servers::Endpoints, &ClientFiles::default()).ok(),
            None => None,
        };
        // Each route has its own time to connect; connections of the pool are shared by routes and take the longest.
        let connect =
            file.routes.iter().filter(|route| route.upstream == name).map(|route| route.timeouts.connect.duration());
        let connect = connect.max().unwrap_or(Duration::from_secs(5));
        let maker = Maker {
            upstream: name.to_owned(),
            tls,
            server_name: server_name_of(written),
            connect_timeout: connect,
            workers: self.around.workers,
            families: self.around.families.upstream.clone(),
            reasons: proxy::upgrade::endpoint_labels().into(),
            lives: self.around.lives.clone(),
            sources: Sources::new(&written.source_addresses, self.around.workers).map(Arc::new),
        };
        // What is wrong is told at its place. Without TLS settings that has been done.
        for (index, endpoint) in written.endpoints.iter().enumerate() {
            if let Err(MakeError::Tls(error)) = maker.endpoint(endpoint) {
                self.noted::<()>(&path.key("endpoints").index(index), Err(error));
            }
        }
        let policy = Policy {
            balance: written.balance.clone(),
            slow_start: written.slow_start.duration(),
            zone: file.zone.clone(),
            ejection: written.ejection.map().map(checks::ejection),
            refuse_down: written.when_all_down == WhenAllDown::Refuse,
            retry_budget: written.retry_budget.map().map(checks::retry_budget),
        };
        let has_tls = maker.tls.is_some();
        let mut upstream = Upstream::new(policy, maker);
        upstream.entry = self.entry(&path, name, written);
        let upstream = Arc::new(upstream);
        match &written.discover {
            None => drop(upstream.replace(&written.endpoints, clock::now())),
            Some(discover) => self.discovery(&path.key("discover"), name, discover, &upstream, has_tls),
        }
        upstream
    }

    fn entry(&mut self, path: &KeyPath, name: &str, written: &config::Upstream) -> Entry {
        let admission = written.admission;
        let queue = written.queue;
        Entry {
            admission: admission.map(|it| Pace::new(it.rate.per_second(), it.burst(), it.wait.duration())),
            queue: queue.map(|it| QueueLimits { length: it.length as usize, wait: it.wait.duration() }),
            sticky: written.sticky.as_ref().and_then(|sticky| self.sticky(&path.key("sticky"), name, sticky)),
        }
    }

    fn sticky(&mut self, path: &KeyPath, upstream: &str, written: &config::Sticky) -> Option<Sticky> {
        let secrets = match &written.secrets_file {
            None => written.secrets.clone(),
            Some(file) => match CookieSecret::read_file(file) {
                Ok(secrets) => secrets,
                Err(problem) => {
                    self.errors.push(self.source.error(&path.key("secrets_file"), problem, None));
                    return None;
                }
            },
        };
        let attributes = Attributes {
            max_age: written.max_age.map(|age| age.duration().as_secs()),
            secure: match written.secure {
                config::Secure::Auto => Secure::Auto,
                config::Secure::Always => Secure::Always,
                config::Secure::Never => Secure::Never,
            },
            http_only: written.http_only,
            same_site: match written.same_site {
                config::SameSite::Strict => SameSite::Strict,
                config::SameSite::Lax => SameSite::Lax,
                config::SameSite::None => SameSite::None,
            },
        };
        let secrets = secrets.iter().map(CookieSecret::as_bytes);
        Some(Sticky::new(written.cookie.clone(), upstream.to_owned(), secrets, written.path.clone(), attributes))
    }

    fn discovery(&mut self, path: &KeyPath, name: &str, discover: &Discover, upstream: &Arc<Upstream>, has_tls: bool) {
        let (provider, allow_empty) = match discover {
            Discover::File(source) => ("file", source.allow_empty),
            Discover::Dns(source) => ("dns", source.allow_empty),
            Discover::Etcd(source) => ("etcd", source.allow_empty),
        };
        let metrics = self.around.families.discovery.upstream(name, provider);
        let upstream = Arc::clone(upstream);
        let apply = move |endpoints: &[config::Endpoint]| replace(&upstream, endpoints, has_tls);
        let (outlet, first) = Outlet::new(name, allow_empty, metrics, Box::new(apply));
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = match discover {
            Discover::File(source) => {
                Box::pin(file::File { path: source.path.clone(), scheme: source.scheme }.run(outlet))
            }
            #[cfg(feature = "dns")]
            Discover::Dns(source) => Box::pin(
                discovery::dns::Dns {
                    name: source.name.clone(),
                    port: source.port,
                    scheme: source.scheme,
                    family: source.family,
                    server: source.server,
                    every: source.every.duration(),
                }
                .run(outlet),
            ),
            #[cfg(not(feature = "dns"))]
            Discover::Dns(_) => {
                let message = "this wsluice was built without DNS (cargo feature `dns`)";
                self.errors.push(self.source.error(&path.key("dns"), message, None));
                return;
            }
            Discover::Etcd(source) => match self.etcd(&path.key("etcd"), name, source) {
                Some(etcd) => Box::pin(etcd.run(outlet)),
                None => return,
            },
        };
        self.discoveries.push(Discovery { upstream: name.to_owned(), task, first });
    }

    fn etcd(&mut self, path: &KeyPath, upstream: &str, written: &EtcdSource) -> Option<etcd::Etcd> {
        let tls = written.servers.iter().any(EndpointUrl::is_tls);
        let tls =
            if tls { Some(self.client_tls(path, upstream, Servers::Discovery, written.tls.as_ref())?) } else { None };
        let mut servers = vec![];
        for (index, url) in written.servers.iter().enumerate() {
            let (target, host, authority) = match url {
                EndpointUrl::Tcp { host, port, .. } => {
                    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                    (Target::new(host, *port), host.as_str(), format!("{bracketed}:{port}"))
                }
                EndpointUrl::Unix(path) => (Target::Unix(path.clone()), "localhost", "localhost".to_owned()),
            };
            let tls = match tls.as_ref().filter(|_| url.is_tls()) {
                None => None,
                Some(config) => {
                    let name = written.tls.as_ref().and_then(|tls| tls.server_name.as_deref()).unwrap_or(host);
                    let server_name = self.noted(&path.key("servers").index(index), server_name(name))?;
                    Some(Tls { config: Arc::clone(config), server_name })
                }
            };
            servers.push(etcd::Server { authority, connector: Connector { target, tls, sources: None } });
        }
        let login = written.user.clone().zip(written.password.as_ref());
        let login = login.map(|(user, password)| etcd::Login { user, password: password.reveal().to_owned() });
        Some(etcd::Etcd { servers, prefix: written.prefix.clone(), login })
    }

    fn client_tls(
        &mut self,
        path: &KeyPath,
        upstream: &str,
        servers: Servers,
        written: Option<&ClientTls>,
    ) -> Option<Arc<rustls::ClientConfig>> {
        let path = path.key("tls");
        let files = written.map(|tls| ClientFiles {
            ca: tls.ca.clone(),
            certificate: tls.cert.clone().zip(tls.key.clone()).map(|(cert, key)| CertificateFiles { cert, key }),
        });
        let built = self.certificates.client(upstream, servers, &files.unwrap_or_default());
        self.all_noted(built, |part| match part {
            Part::Certificate(_) => path.key("cert"),
            Part::Authorities => path.key("ca"),
            Part::Whole => path.clone(),
        })
    }

    fn route(&mut self, file: &File, _index: usize, written: &config::Route, upstream: &Arc<Upstream>) -> Route {
        let families = &self.around.families;
        let (name, upstream_name): (Arc<str>, Arc<str>) =
            (written.name.as_str().into(), written.upstream.as_str().into());
        let handles = |listener: &config::Listener| ListenerHandles {
            requests: families.proxy.route(&listener.name, &written.name, &Failure::LABELS),
            sessions: Arc::new(RouteSessions {
                listener: listener.name.as_str().into(),
                route: Arc::clone(&name),
                upstream: Arc::clone(upstream),
                metrics: families.session.route(&listener.name, &written.name, &written.upstream, &outcome::endings()),
                log: self.around.log.clone(),
                table: outcome::closing,
            }),
        };
        let edits = |written: &config::HeaderEdits| HeaderEdits {
            remove: written.remove.clone(),
            set: written.set.iter().cloned().collect(),
        };
        let limits = &written.limits;
        Route {
            name: Arc::clone(&name),
            upstream: Arc::clone(upstream),
            upstream_name: Arc::clone(&upstream_name),
            origins: written.origins.clone(),
            rewrite: Rewrite {
                strip_prefix: written.rewrite.strip_prefix.clone(),
                add_prefix: written.rewrite.add_prefix.clone(),
            },
            request_edits: edits(&written.headers.request),
            response_edits: edits(&written.headers.response),
            connect_timeout: written.timeouts.connect.duration(),
            handshake_timeout: written.timeouts.handshake.duration(),
            response_timeout: written.timeouts.response.duration(),
            tunnel: Arc::new(Settings {
                validate: written.validate == Validate::Strict,
                idle: written.timeouts.idle.duration(),
                lifetime: written.timeouts.lifetime.duration(),
                ping: written.keepalive.ping.duration(),
                pong: written.keepalive.pong.duration(),
                frame_bytes_max: limits.frame.bytes().unwrap_or(u64::MAX),
                message_bytes_max: limits.message.bytes().unwrap_or(u64::MAX),
            }),
            room: Arc::new(Room::new(limits.connections.map_or(usize::MAX, |limit| limit as usize))),
            http: written.http == Http::Proxy,
            listeners: file.listeners.iter().map(handles).collect(),
        }
    }

    fn listener(
        &mut self,
        index: usize,
        written: &config::Listener,
        snapshot: &Arc<Snapshot>,
    ) -> (Address, Arc<Listener>) {
        let path = KeyPath::root().key("listeners").index(index);
        let families = &self.around.families;
        let security = if written.tls.is_some() { Security::Tls } else { Security::Plain };
        let metrics = families.server.listener(&written.name, security);
        let tls = written.tls.as_ref().and_then(|tls| self.server_tls(&path.key("tls"), &written.name, tls));
        let name: Arc<str> = written.name.as_str().into();
        let proxy = Proxy {
            snapshot: Arc::clone(snapshot),
            listener: Arc::clone(&name),
            listener_index: index,
            trusted: written.trusted_proxies.clone(),
            redirect: written.redirect.as_ref().map(|redirect| redirect.https),
            unrouted: families.proxy.unrouted(&written.name, &Failure::LABELS),
            log: self.around.log.clone(),
            drain: Arc::clone(&self.around.drain),
        };
        let listener = Listener {
            name,
            tls,
            proxy_protocol: match written.proxy_protocol {
                ProxyProtocol::Off => None,
                ProxyProtocol::Optional => Some(Mode::Optional),
                ProxyProtocol::Require => Some(Mode::Require),
            },
            timeouts: written.timeouts.clone(),
            limits: written.limits.clone(),
            open: AtomicUsize::new(0),
            proxy: Arc::new(proxy),
            metrics,
        };
        (address(&written.bind), Arc::new(listener))
    }

    fn server_tls(&mut self, path: &KeyPath, listener: &str, written: &ServerTls) -> Option<Arc<rustls::ServerConfig>> {
        let files = |Certificate { cert, key }: &Certificate| CertificateFiles { cert: cert.clone(), key: key.clone() };
        let wanted = ServerFiles {
            certificates: written.certificates.iter().map(files).collect(),
            min_version: match written.min_version {
                TlsVersion::Tls12 => MinVersion::Tls12,
                TlsVersion::Tls13 => MinVersion::Tls13,
            },
            client_auth: written.client_auth.as_ref().map(|auth| {
                let mode = match auth.mode {
                    config::ClientAuthMode::Require => ClientAuthMode::Require,
                    config::ClientAuthMode::Optional => ClientAuthMode::Optional,
                };
                (auth.ca.clone(), mode)
            }),
        };
        let built = self.certificates.server(listener, &wanted);
        self.all_noted(built, |part| match part {
            Part::Certificate(index) => path.key("certificates").index(index).key("cert"),
            Part::Authorities => path.key("client_auth").key("ca"),
            Part::Whole => path.clone(),
        })
    }
}

/// What is wanted of an upstream's sessions, if anything ever is.
fn shedding(written: &config::Upstream) -> Option<Shedding> {
    let shedding = Shedding {
        rebalance: written.rebalance.as_ref().map(|it| Rebalance {
            rate: it.rate.per_second(),
            tolerance_percent: it.tolerance.percent(),
            settle: it.settle.duration(),
        }),
        removed: written.drain_removed.duration(),
        down: written.on_down == OnDown::Close,
    };
    let emptied = written.endpoints.iter().any(|endpoint| endpoint.drain.is_some());
    // What is discovered may say `drain` one day.
    let wanted = shedding.rebalance.is_some() || shedding.removed.is_some() || shedding.down;
    (wanted || emptied || written.discover.is_some()).then_some(shedding)
}

/// The name that certificates of `wss` endpoints must be for, if it is one for all. Of endpoints that DNS tells it is the
/// name that was asked for: they are addresses, and whom to believe is not for the answer to say. Of an SRV name it is the
/// domain (RFC 6125 §6.2.1 has it as the source domain).
fn server_name_of(written: &config::Upstream) -> Option<String> {
    let settled = written.tls.as_ref().and_then(|tls| tls.server_name.clone());
    settled.or_else(|| match &written.discover {
        Some(Discover::Dns(source)) => {
            let labels = source.name.trim_end_matches('.').split('.');
            Some(labels.skip_while(|label| label.starts_with('_')).collect::<Vec<_>>().join("."))
        }
        _ => None,
    })
}

/// Puts a list that was told in force. Those that cannot be used are left out and told back.
fn replace(upstream: &Upstream, endpoints: &[config::Endpoint], has_tls: bool) -> Result<Vec<String>, String> {
    let (usable, unusable): (Vec<_>, Vec<_>) =
        endpoints.iter().cloned().partition(|endpoint| has_tls || !endpoint.url.is_tls());
    if usable.is_empty() && !unusable.is_empty() {
        return Err("all endpoints need TLS, and there is no authority to trust (see `tls` of the upstream)".to_owned());
    }
    let change = upstream.replace(&usable, clock::now());
    let no_tls =
        unusable.iter().map(|endpoint| format!("{} needs TLS, and there is no authority to trust", endpoint.url));
    Ok(no_tls.chain(change.refused.iter().map(ToString::to_string)).collect())
}

/// What is bound for an address as written.
pub fn address(bind: &Bind) -> Address {
    match bind {
        Bind::Tcp(addr) => Address::Tcp(*addr),
        Bind::Unix(path) => Address::Unix(path.clone()),
    }
}
