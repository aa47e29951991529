//! File → snapshot and listeners: names resolved, certificates read, tables built, metric handles fetched.
//!
//! Whole or not at all: every mistake that only the world outside the file can tell (a certificate that is not there, a
//! key that does not fit) is reported together, at its place in the file, and nothing is built then.

pub mod health;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use prometheus::Registry;

use crate::balance::sticky::{Attributes, SameSite, Secure, Sticky};
use crate::base::clock;
use crate::base::worker::Pulse;
use crate::config::{
    AdminToken, Bind, CertificateConfig, ClientTls, Config, ConfigErrors, CookieSecret, Discover, EndpointUrl,
    EtcdSource, Finding, KeyPath, Loaded, Log, LogFormat, Lookalikes, MinTlsVersion, OnDown, OnUpstreamLost, PlainHttp,
    ProxyProtocol, Scheme, ServerTls, Source, Teller, Validate, Verify, WhenAllDown,
};
use crate::control::evict::eviction::{RebalanceRule, Shedding};
use crate::discovery::{Discovery, EndpointSink, etcd, file};
use crate::net::listener::Address;
use crate::net::names::NameResolver;
use crate::net::proxy_protocol::Mode;
use crate::net::socket::TcpOptions;
use crate::policy::bucket::AdmissionRate;
use crate::probe::Check;
use crate::proxy::exchange::BodyTimeouts;
use crate::proxy::outcome::{self, Failure};
use crate::proxy::room::RouteQuotas;
use crate::proxy::snapshot::{HeaderEdits, ListenerHandles, Rewrite, Route, Snapshot};
use crate::proxy::{self, Proxy};
use crate::route::RouteTable;
use crate::server::ListenerSettings;
use crate::server::metrics::Security;
use crate::session::access_log::AccessLog;
use crate::session::registry::SessionRegistry;
use crate::session::{RouteSessions, Sessions};
use crate::telemetry::logging::{Format, Switch};
use crate::telemetry::sink::LogSink;
use crate::tls::certificates::{
    CertificateFiles, CertificateScan, Certificates, ClientFiles, ClientTlsScope, Part, ServerFiles,
};
use crate::tls::client::server_name;
use crate::tls::server::{ClientAuthMode, MinVersion};
use crate::tls::{self, TlsError};
use crate::upstream::connect::{ConnectTarget, Connector, Sources, Tls};
use crate::upstream::entry::{EntryPolicy, QueueLimits};
use crate::upstream::live::EndpointStates;
use crate::upstream::maker::{Maker, server_name_of};
use crate::upstream::reach::{Own, Reach};
use crate::upstream::{Policy, Upstream};
use crate::ws::close::Close;
use crate::ws::tunnel::{Farewell, TunnelSettings, Validation};
use crate::{config, discovery, handover, probe, server, session, upstream};

/// All metric families of the data plane, registered once for the life of the process.
#[derive(Clone, Debug)]
pub struct MetricFamilies {
    server: server::metrics::Metrics,
    proxy: proxy::metrics::Metrics,
    session: session::metrics::Metrics,
    upstream: upstream::metrics::Metrics,
    /// Those of health checks.
    pub probe: probe::metrics::Metrics,
    discovery: discovery::metrics::Metrics,
    /// Those of reloads.
    pub control: crate::control::metrics::Metrics,
    /// Those of upgrades.
    pub handover: handover::Metrics,
    /// What is in force of certificates, with its metrics.
    pub certificates: Certificates,
    /// Names of servers, with their metric.
    pub names: NameResolver,
}

impl MetricFamilies {
    /// Registers them.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn register(registry: &Registry, workers: usize) -> prometheus::Result<MetricFamilies> {
        Ok(MetricFamilies {
            server: server::metrics::Metrics::register(registry)?,
            proxy: proxy::metrics::Metrics::register(registry)?,
            session: session::metrics::Metrics::register(registry, workers)?,
            upstream: upstream::metrics::Metrics::register(registry)?,
            probe: probe::metrics::Metrics::register(registry)?,
            discovery: discovery::metrics::Metrics::register(registry)?,
            control: crate::control::metrics::Metrics::register(registry)?,
            handover: handover::Metrics::register(registry)?,
            certificates: Certificates::new(tls::metrics::Metrics::register(registry)?),
            names: NameResolver::register(registry)?,
        })
    }
}

/// What the process has besides its configuration.
#[derive(Clone, Debug)]
pub struct CompileContext {
    /// Threads that relay.
    pub workers: usize,
    /// Where metrics are counted.
    pub families: MetricFamilies,
    /// Where log lines go, where there are any.
    pub log: Option<LogOutput>,
    /// Who is still working.
    pub sessions: Arc<Sessions>,
    /// What is known of endpoints.
    pub lives: EndpointStates,
    /// Who is on which route.
    pub rooms: RouteQuotas,
    /// Whether the workers go round.
    pub pulse: Pulse,
    /// Where we listen, the admin listener included.
    pub own: Own,
    /// Set when another process has taken over.
    pub replacing: Arc<AtomicBool>,
    /// The end has begun: what is waited for is not waited for any longer.
    pub ending: Arc<AtomicBool>,
    /// How long others are waited for.
    pub patience: Patience,
}

/// How long whoever changes the configuration waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For workers to accept on other sockets. One that is busy answers in milliseconds.
    pub workers: Duration,
    /// For files to be read: a network file system may hang.
    pub files: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { workers: Duration::from_secs(5), files: Duration::from_secs(10) }
    }
}

impl CompileContext {
    /// Surroundings in which nothing is logged or scraped: enough to tell whether a file compiles.
    ///
    /// # Panics
    /// Never: the registry is new, so no name is taken.
    pub fn for_check() -> CompileContext {
        let families = MetricFamilies::register(&Registry::new(), 1).expect("a new registry has no names");
        CompileContext {
            workers: 1,
            families,
            log: None,
            sessions: SessionRegistry::new(1),
            lives: EndpointStates::default(),
            rooms: RouteQuotas::default(),
            own: Own::default(),
            pulse: Pulse::new(1, clock::now()),
            replacing: Arc::default(),
            ending: Arc::default(),
            patience: Patience::default(),
        }
    }

    /// The access log as the file wants it.
    fn access_log(&self, file: &Config) -> AccessLog {
        match &self.log {
            Some(output) if file.log.access => AccessLog::new(output.sink.clone(), output.format(&file.log)),
            _ => AccessLog::off(),
        }
    }
}

/// Where log lines go, and what can be changed of them.
#[derive(Clone, Debug)]
pub struct LogOutput {
    /// The output.
    pub sink: LogSink,
    /// Whether somebody reads it on a terminal.
    pub terminal: bool,
    /// Those of the process, but for the access log.
    pub switch: Option<Switch>,
}

impl LogOutput {
    /// The look of lines: as the file says, or by what the output is.
    pub fn format(&self, log: &Log) -> Format {
        match log.format {
            LogFormat::Json => Format::Json,
            LogFormat::Human => Format::Human,
            LogFormat::Auto if self.terminal => Format::Human,
            LogFormat::Auto => Format::Json,
        }
    }

    /// Has lines be as the file says from now on.
    pub fn set(&self, log: &Log) {
        let Some(switch) = &self.switch else { return };
        switch.set_format(self.format(log));
        if let Err(error) = switch.set_level(log.level.as_str()) {
            tracing::error!(%error, "the log level stays as it was");
        }
    }
}

/// A configuration ready to run.
#[derive(Debug)]
pub struct Compiled {
    /// In the order of the file.
    pub listeners: Vec<CompiledListener>,
    /// By name.
    pub routes: BTreeMap<String, CompiledRoute>,
    /// By name.
    pub upstreams: BTreeMap<String, CompiledUpstream>,
    /// What opens the API of the admin listener, if it is not open.
    pub tokens: Vec<AdminToken>,
    /// What was read of certificates, until it is committed.
    pub certificates: Option<CertificateScan>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// A listener as one configuration has it.
#[derive(Debug)]
pub struct CompiledListener {
    /// What it was made of.
    pub written: config::ListenerConfig,
    /// How its connections begin.
    pub settings: Arc<ListenerSettings>,
    /// What becomes of its requests.
    pub proxy: Arc<Proxy>,
}

/// A route as one configuration has it.
#[derive(Debug)]
pub struct CompiledRoute {
    /// What it was made of.
    pub written: config::RouteConfig,
    /// The same as in the configuration before if nothing of it has changed.
    pub route: Arc<Route>,
}

/// An upstream as one configuration has it.
#[derive(Debug)]
pub struct CompiledUpstream {
    /// The same as in the configuration before if nothing of it has changed.
    pub upstream: Arc<Upstream>,
    /// What is to be done for it apart from any client; `None` once that is taken, and where it is the same as before.
    pub background: Option<Background>,
    made_of: MadeOf,
}

/// What is done for an upstream apart from any client.
#[derive(Debug)]
pub struct Background {
    /// How its endpoints are checked.
    pub check: Option<Check>,
    /// Who tells its endpoints.
    pub discovery: Option<Discovery>,
    /// When its sessions are moved or closed for the sake of its endpoints.
    pub shedding: Option<Shedding>,
}

/// All that an upstream depends on.
#[derive(Debug)]
struct MadeOf {
    written: config::UpstreamConfig,
    zone: Option<String>,
    connect_timeout: Duration,
    /// Towards endpoints, and towards who tells them.
    tls: [Option<Arc<rustls::ClientConfig>>; 2],
    /// Of the cookie, as written or out of their file.
    secrets: Vec<CookieSecret>,
}

impl MadeOf {
    fn is_same(&self, other: &MadeOf) -> bool {
        let pointer = |tls: &Option<Arc<rustls::ClientConfig>>| tls.as_ref().map(Arc::as_ptr);
        self.written == other.written
            && self.zone == other.zone
            && self.connect_timeout == other.connect_timeout
            && self.tls.each_ref().map(pointer) == other.tls.each_ref().map(pointer)
            && self.secrets == other.secrets
    }
}

/// Builds all of it. What is the same as in `previous`, the files that it names included, is taken from there.
///
/// # Errors
/// Everything that is wrong, at its place in the file.
pub fn compile(
    loaded: &Loaded,
    context: &CompileContext,
    previous: Option<&Compiled>,
) -> Result<Compiled, ConfigErrors> {
    let file = &loaded.file;
    let log = context.access_log(file);
    let certificates = context.families.certificates.prepare(SystemTime::now());
    let source = &loaded.source;
    let connect_times = connect_times(file);
    let mut compiler =
        Compiler { context, source, previous, log, certificates, connect_times, errors: vec![], warnings: vec![] };
    let upstreams: BTreeMap<String, CompiledUpstream> =
        file.upstreams.iter().map(|(name, upstream)| (name.clone(), compiler.upstream(file, name, upstream))).collect();
    let mut table = vec![];
    let mut routes = BTreeMap::new();
    for written in &file.routes {
        // `config::check` has already complained about a name that is not there.
        let Some(CompiledUpstream { upstream, .. }) = upstreams.get(&written.upstream) else { continue };
        let route = compiler.route(file, written, upstream);
        table.push((written.matches.clone(), written.paths, Arc::clone(&route)));
        routes.insert(written.name.clone(), CompiledRoute { written: written.clone(), route });
    }
    let snapshot = Arc::new(Snapshot { table: RouteTable::new(table) });
    let listeners = file.listeners.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| compiler.listener(index, listener, &snapshot)).collect();
    let tokens = file.admin.as_ref().map_or_else(Vec::new, |admin| compiler.tokens(admin));
    let Compiler { certificates, errors, mut warnings, .. } = compiler;
    if errors.is_empty() {
        warnings.extend_from_slice(certificates.warnings());
        warnings.extend(certificates.refused().iter().map(ToString::to_string));
        Ok(Compiled { listeners, routes, upstreams, tokens, certificates: Some(certificates), warnings })
    } else {
        Err(ConfigErrors::new(&loaded.source, errors))
    }
}

/// How many mistakes are told, as in a file.
const FINDINGS_MAX: usize = 50;

/// Whether files that a configuration names are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChecks {
    /// They are read as they would be to run it.
    Inside,
    /// Not even whether they exist: whoever sent the text may not ask that of this machine.
    Nowhere,
}

/// Says whether it can be built, as [`compile`] does, and builds nothing: routes, listeners and endpoints with their counters
/// take far more room than the file.
///
/// # Errors
/// Everything that is wrong, at its place in the file.
pub fn examine(loaded: &Loaded, look: FileChecks) -> Result<Vec<String>, ConfigErrors> {
    let file = &loaded.file;
    let context = CompileContext::for_check();
    let certificates = context.families.certificates.prepare(SystemTime::now());
    let mut compiler = Compiler {
        context: &context,
        source: &loaded.source,
        previous: None,
        log: AccessLog::off(),
        certificates,
        connect_times: HashMap::new(),
        errors: vec![],
        warnings: vec![],
    };
    for (name, upstream) in &file.upstreams {
        compiler.examine(name, upstream, look);
    }
    if look == FileChecks::Inside {
        for (index, listener) in file.listeners.iter().enumerate() {
            if let Some(tls) = &listener.tls {
                let path = KeyPath::root().key("listeners").index(index).key("tls");
                compiler.server_tls(&path, &listener.name, tls);
            }
        }
        file.admin.iter().for_each(|admin| drop(compiler.tokens(admin)));
    } else if !file.files().is_empty() {
        let message = "the files that this names were not looked at: who sends a text is not told which files there are \
                       (`wsluice check` looks)";
        compiler.warnings.push(message.to_owned());
    }
    let Compiler { certificates, errors, mut warnings, .. } = compiler;
    if !errors.is_empty() {
        return Err(ConfigErrors::new(&loaded.source, errors));
    }
    warnings.extend_from_slice(certificates.warnings());
    warnings.extend(certificates.refused().iter().map(ToString::to_string));
    Ok(warnings)
}

/// How long it may take to connect to each upstream. Each route has its own time; connections of the pool are shared by
/// routes and take the longest.
fn connect_times(file: &Config) -> HashMap<&str, Duration> {
    let mut times: HashMap<&str, Duration> = HashMap::new();
    for route in &file.routes {
        let longest = times.entry(&route.upstream).or_default();
        *longest = route.timeouts.connect.duration().max(*longest);
    }
    times
}

impl CompiledListener {
    /// Whether this is what it was.
    pub fn is_same(&self, before: &CompiledListener) -> bool {
        let tls = |listener: &CompiledListener| listener.settings.tls.as_ref().map(Arc::as_ptr);
        self.written == before.written && tls(self) == tls(before)
    }
}

impl Compiled {
    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<&CompiledListener> {
        self.listeners.iter().find(|listener| listener.written.name == name)
    }
}

struct Compiler<'a> {
    context: &'a CompileContext,
    source: &'a Source,
    previous: Option<&'a Compiled>,
    log: AccessLog,
    certificates: CertificateScan,
    connect_times: HashMap<&'a str, Duration>,
    errors: Vec<Finding>,
    warnings: Vec<String>,
}

impl Compiler<'_> {
    /// Notes a failure at `path`; `None` keeps the compilation going, to find all of them.
    fn noted<T>(&mut self, path: &KeyPath, result: Result<T, TlsError>) -> Option<T> {
        result.map_err(|error| self.tell(path, proxy::request::chain(&error))).ok()
    }

    /// Notes what is wrong at `path`, while somebody reads on.
    fn tell(&mut self, path: &KeyPath, message: impl Into<String>) {
        if self.errors.len() < FINDINGS_MAX {
            self.errors.push(self.source.error(path, message, None));
        }
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

    fn tokens(&mut self, admin: &config::Admin) -> Vec<AdminToken> {
        admin.tokens().unwrap_or_else(|problem| {
            let path = KeyPath::root().key("admin").key("token_file");
            self.tell(&path, problem);
            vec![]
        })
    }

    fn upstream(&mut self, file: &Config, name: &str, written: &config::UpstreamConfig) -> CompiledUpstream {
        let path = KeyPath::root().key("upstreams").key(name);
        let connect_timeout = self.connect_times.get(name).copied().unwrap_or(Duration::from_secs(5));
        let [tls, discovery_tls] = self.tls_of(&path, name, written);
        let made_of = MadeOf {
            written: written.clone(),
            zone: file.zone.clone(),
            connect_timeout,
            tls: [tls.clone(), discovery_tls],
            secrets: written.sticky.as_ref().map_or_else(Vec::new, |sticky| self.secrets(&path.key("sticky"), sticky)),
        };
        let before = self.previous.and_then(|previous| previous.upstreams.get(name));
        if let Some(before) = before.filter(|before| before.made_of.is_same(&made_of)) {
            return CompiledUpstream { upstream: Arc::clone(&before.upstream), background: None, made_of };
        }
        let reach = written
            .discover
            .as_ref()
            .map(|discover| Arc::new(Reach { places: discover.places(), own: self.context.own.clone() }));
        let maker = Maker {
            upstream: name.to_owned(),
            reach: reach.clone(),
            tls,
            server_name: server_name_of_all(written),
            connect_timeout,
            workers: self.context.workers,
            families: self.context.families.upstream.clone(),
            reasons: proxy::upgrade::endpoint_labels().into(),
            lives: self.context.lives.clone(),
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
        upstream.entry = Self::entry(name, written, &made_of.secrets);
        let upstream = Arc::new(upstream);
        let discovery = match &written.discover {
            None => {
                upstream.replace(&written.endpoints, clock::now());
                None
            }
            Some(discover) => {
                // Until the first list, those that are known from before.
                let known = before.map_or_else(Vec::new, |before| before.upstream.endpoints());
                let known: Vec<_> = known.iter().map(|endpoint| endpoint.written.clone()).collect();
                upstream.replace(&known, clock::now());
                self.discovery(&path.key("discover"), discover, &upstream, &made_of, reach)
            }
        };
        let check = written.health.as_ref().map(health::check);
        let background = Some(Background { check, discovery, shedding: shedding(written) });
        CompiledUpstream { upstream, background, made_of }
    }

    /// What is wrong with it that its file does not show.
    fn examine(&mut self, name: &str, written: &config::UpstreamConfig, look: FileChecks) {
        let path = KeyPath::root().key("upstreams").key(name);
        self.server_names(&path, written);
        let discovery_tls = match look {
            FileChecks::Nowhere => None,
            FileChecks::Inside => {
                let [_, discovery_tls] = self.tls_of(&path, name, written);
                written.sticky.iter().for_each(|sticky| drop(self.secrets(&path.key("sticky"), sticky)));
                discovery_tls
            }
        };
        match written.discover.as_ref().and_then(Discover::teller) {
            #[cfg(not(feature = "dns"))]
            Some(Teller::Dns(_)) => self.no_dns(&path.key("discover")),
            Some(Teller::Etcd(source)) => {
                drop(self.etcd(&path.key("discover").key("etcd"), source, discovery_tls.as_ref()));
            }
            _ => {}
        }
    }

    /// TLS towards endpoints, and towards who tells them.
    fn tls_of(
        &mut self,
        path: &KeyPath,
        name: &str,
        written: &config::UpstreamConfig,
    ) -> [Option<Arc<rustls::ClientConfig>>; 2] {
        let teller = written.discover.as_ref().and_then(Discover::teller);
        let told_tls = match teller {
            Some(Teller::File(source)) => source.scheme == Scheme::Wss,
            Some(Teller::Dns(source)) => source.scheme == Scheme::Wss,
            Some(Teller::Etcd(_)) | None => false,
        };
        let needs_tls = told_tls || written.endpoints.iter().any(|endpoint| endpoint.url.is_tls());
        let tls = match &written.discover {
            _ if needs_tls => self.client_tls(path, name, ClientTlsScope::Endpoints, written.tls.as_ref()),
            Some(_) if written.tls.is_some() => {
                self.client_tls(path, name, ClientTlsScope::Endpoints, written.tls.as_ref())
            }
            // Somebody may tell a `wss://` one day. A system without authorities is no mistake of the file until then.
            Some(_) => self.certificates.client(name, ClientTlsScope::Endpoints, &ClientFiles::default()).ok(),
            None => None,
        };
        let discovery_tls = match teller {
            Some(Teller::Etcd(source)) if source.servers.iter().any(EndpointUrl::is_tls) => {
                self.client_tls(&path.key("discover").key("etcd"), name, ClientTlsScope::Discovery, source.tls.as_ref())
            }
            _ => None,
        };
        [tls, discovery_tls]
    }

    /// Names of endpoints that no certificate can be for, each told at its place.
    fn server_names(&mut self, path: &KeyPath, written: &config::UpstreamConfig) {
        let settled = server_name_of_all(written);
        for (index, endpoint) in written.endpoints.iter().enumerate() {
            if let Err(error) = server_name_of(&endpoint.url, settled.as_deref()) {
                self.noted::<()>(&path.key("endpoints").index(index), Err(error));
            }
        }
    }

    #[cfg(not(feature = "dns"))]
    fn no_dns(&mut self, path: &KeyPath) {
        let message = "this wsluice was built without DNS (cargo feature `dns`)";
        self.tell(&path.key("dns"), message);
    }

    fn entry(name: &str, written: &config::UpstreamConfig, secrets: &[CookieSecret]) -> EntryPolicy {
        let admission = written.admission;
        let queue = written.queue;
        EntryPolicy {
            admission: admission.map(|it| AdmissionRate::new(it.rate.per_second(), it.burst(), it.wait.duration())),
            queue: queue.map(|it| QueueLimits { length: it.length as usize, wait: it.wait.duration() }),
            // Without secrets, what is wrong with them has been noted.
            sticky: written
                .sticky
                .as_ref()
                .filter(|_| !secrets.is_empty())
                .map(|sticky| Self::sticky(name, sticky, secrets)),
        }
    }

    /// Those of a cookie; none where they cannot be read, which is noted.
    fn secrets(&mut self, path: &KeyPath, written: &config::StickyConfig) -> Vec<CookieSecret> {
        let Some(file) = &written.secrets_file else { return written.secrets.clone() };
        CookieSecret::read_file(file).unwrap_or_else(|problem| {
            self.tell(&path.key("secrets_file"), problem);
            vec![]
        })
    }

    fn sticky(upstream: &str, written: &config::StickyConfig, secrets: &[CookieSecret]) -> Sticky {
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
        let secrets = secrets.iter().map(CookieSecret::as_bytes);
        Sticky::new(written.cookie.clone(), upstream.to_owned(), secrets, written.path.clone(), attributes)
    }

    fn discovery(
        &mut self,
        path: &KeyPath,
        discover: &Discover,
        upstream: &Arc<Upstream>,
        made_of: &MadeOf,
        reach: Option<Arc<Reach>>,
    ) -> Option<Discovery> {
        let [tls, discovery_tls] = &made_of.tls;
        let (name, has_tls) = (upstream.name.as_str(), tls.is_some());
        let teller = discover.teller()?;
        let (provider, allow_empty) = match teller {
            Teller::File(source) => ("file", source.allow_empty),
            Teller::Dns(source) => ("dns", source.allow_empty),
            Teller::Etcd(source) => ("etcd", source.allow_empty),
        };
        let metrics = self.context.families.discovery.upstream(name, provider);
        let upstream = Arc::clone(upstream);
        let apply =
            move |endpoints: &[config::EndpointConfig]| replace(&upstream, endpoints, has_tls, reach.as_deref());
        let (outlet, first) = EndpointSink::new(name, allow_empty, metrics, Box::new(apply));
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = match teller {
            Teller::File(source) => {
                Box::pin(file::FileWatch { path: source.path.clone(), scheme: source.scheme }.run(outlet))
            }
            #[cfg(feature = "dns")]
            Teller::Dns(source) => Box::pin(
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
            Teller::Dns(_) => {
                self.no_dns(path);
                return None;
            }
            Teller::Etcd(source) => Box::pin(self.etcd(&path.key("etcd"), source, discovery_tls.as_ref())?.run(outlet)),
        };
        Some(Discovery { upstream: name.to_owned(), task, first })
    }

    fn etcd(
        &mut self,
        path: &KeyPath,
        written: &EtcdSource,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Option<etcd::Etcd> {
        let mut servers = vec![];
        for (index, url) in written.servers.iter().enumerate() {
            let (target, host, authority) = match url {
                EndpointUrl::Tcp { host, port, .. } => {
                    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                    (
                        ConnectTarget::new(host, *port, &self.context.families.names),
                        host.as_str(),
                        format!("{bracketed}:{port}"),
                    )
                }
                EndpointUrl::Unix(path) => (ConnectTarget::Unix(path.clone()), "localhost", "localhost".to_owned()),
            };
            let tls = match tls.filter(|_| url.is_tls()) {
                // What is wrong with it has been told.
                None if url.is_tls() => return None,
                None => None,
                Some(config) => {
                    let name = written.tls.as_ref().and_then(|tls| tls.server_name.as_deref()).unwrap_or(host);
                    let server_name = self.noted(&path.key("servers").index(index), server_name(name))?;
                    Some(Tls { config: Arc::clone(config), server_name })
                }
            };
            servers.push(etcd::EtcdMember {
                authority,
                connector: Connector { target, tls, tcp: TcpOptions::default(), sources: None, reach: None },
            });
        }
        let login = written.user.clone().zip(written.password.as_ref());
        let login = login.map(|(user, password)| etcd::Login { user, password: password.reveal().to_owned() });
        Some(etcd::Etcd { servers, prefix: written.prefix.clone(), login })
    }

    fn client_tls(
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
        self.all_noted(built, |part| match part {
            Part::Certificate(_) => path.key("cert"),
            Part::Authorities => path.key("ca"),
            Part::Whole => path.clone(),
        })
    }

    fn route(&mut self, file: &Config, written: &config::RouteConfig, upstream: &Arc<Upstream>) -> Arc<Route> {
        if let Some(before) = self.previous.and_then(|previous| previous.routes.get(&written.name)) {
            let route = &before.route;
            let listeners = route.listeners.iter().map(|handles| &*handles.sessions.listener);
            let is_logged = route.listeners.iter().all(|handles| handles.sessions.log.is_like(&self.log));
            if before.written.is_like(written)
                && Arc::ptr_eq(&route.upstream, upstream)
                && listeners.eq(file.listeners.iter().map(|listener| listener.name.as_str()))
                && is_logged
            {
                return Arc::clone(route);
            }
        }
        let families = &self.context.families;
        let (name, upstream_name): (Arc<str>, Arc<str>) =
            (written.name.as_str().into(), written.upstream.as_str().into());
        let handles = |listener: &config::ListenerConfig| ListenerHandles {
            requests: families.proxy.route(&listener.name, &written.name, &Failure::LABELS),
            sessions: Arc::new(RouteSessions {
                number: RouteSessions::next_number(),
                listener: listener.name.as_str().into(),
                route: Arc::clone(&name),
                upstream: Arc::clone(upstream),
                metrics: families.session.route(&listener.name, &written.name, &written.upstream, &outcome::endings()),
                log: self.log.clone(),
                table: outcome::closing,
                upstream_lost: match written.on_upstream_lost {
                    OnUpstreamLost::Close(code) => Farewell::Close(Close::new(code.0, "upstream lost")),
                    OnUpstreamLost::Cut => Farewell::Cut,
                },
            }),
        };
        let edits = |written: &config::HeaderEditsConfig| HeaderEdits {
            remove: written.remove.clone(),
            set: written.set.iter().cloned().collect(),
        };
        let limits = &written.limits;
        Arc::new(Route {
            name: Arc::clone(&name),
            upstream: Arc::clone(upstream),
            upstream_name: Arc::clone(&upstream_name),
            hop: proxy::hops::of_route(&written.name),
            origins: written.origins.clone(),
            rewrite: Rewrite {
                strip_prefix: written.rewrite.strip_prefix.clone(),
                add_prefix: written.rewrite.add_prefix.clone(),
            },
            request_edits: edits(&written.headers.request),
            keeps_lookalikes: written.headers.lookalikes == Lookalikes::Keep,
            response_edits: edits(&written.headers.response),
            connect_timeout: written.timeouts.connect.duration(),
            handshake_timeout: written.timeouts.handshake.duration(),
            response_timeout: written.timeouts.response.duration(),
            body_timeouts: BodyTimeouts {
                body: written.timeouts.body.duration(),
                event_stream: written.timeouts.event_stream.duration(),
            },
            tunnel: Arc::new(TunnelSettings {
                validation: match written.validate {
                    Validate::Off => Validation::Off,
                    Validate::Lenient => Validation::Lenient,
                    Validate::Strict => Validation::Strict,
                },
                idle: written.timeouts.idle.duration(),
                lifetime: written.timeouts.lifetime.duration(),
                ping: written.keepalive.ping.duration(),
                pong: written.keepalive.pong.duration(),
                frame_bytes_max: limits.frame.bytes().unwrap_or(u64::MAX),
                message_bytes_max: limits.message.bytes().unwrap_or(u64::MAX),
            }),
            room: self.context.rooms.of(&written.name),
            connections_max: limits.connections.map_or(usize::MAX, |limit| limit as usize),
            http: written.http == PlainHttp::Proxy,
            listeners: file.listeners.iter().map(handles).collect(),
        })
    }

    fn listener(
        &mut self,
        index: usize,
        written: &config::ListenerConfig,
        snapshot: &Arc<Snapshot>,
    ) -> CompiledListener {
        let path = KeyPath::root().key("listeners").index(index);
        let families = &self.context.families;
        let security = if written.tls.is_some() { Security::Tls } else { Security::Plain };
        let metrics = families.server.listener(&written.name, security);
        let name: Arc<str> = written.name.as_str().into();
        let proxy = Proxy {
            snapshot: Arc::clone(snapshot),
            listener: Arc::clone(&name),
            listener_index: index,
            trusted: written.trusted_proxies.clone(),
            redirect: written.redirect.as_ref().map(|redirect| redirect.https),
            unrouted: families.proxy.unrouted(&written.name, &Failure::LABELS),
            log: self.log.clone(),
            sessions: Arc::clone(&self.context.sessions),
        };
        let tls = written.tls.as_ref().and_then(|tls| self.server_tls(&path.key("tls"), &written.name, tls));
        let settings = ListenerSettings {
            tls,
            proxy_protocol: match written.proxy_protocol {
                ProxyProtocol::Off => None,
                ProxyProtocol::Optional => Some(Mode::Optional),
                ProxyProtocol::Require => Some(Mode::Require),
            },
            timeouts: written.timeouts.clone(),
            limits: written.limits.clone(),
            metrics,
        };
        CompiledListener { written: written.clone(), settings: Arc::new(settings), proxy: Arc::new(proxy) }
    }

    fn server_tls(&mut self, path: &KeyPath, listener: &str, written: &ServerTls) -> Option<Arc<rustls::ServerConfig>> {
        let files = |CertificateConfig { cert, key }: &CertificateConfig| CertificateFiles {
            cert: cert.clone(),
            key: key.clone(),
        };
        let wanted = ServerFiles {
            certificates: written.certificates.iter().map(files).collect(),
            min_version: match written.min_version {
                MinTlsVersion::Tls12 => MinVersion::Tls12,
                MinTlsVersion::Tls13 => MinVersion::Tls13,
            },
            client_auth: written.client_auth.as_ref().map(|auth| {
                let mode = match auth.mode {
                    config::ClientAuthModeConfig::Require => ClientAuthMode::Require,
                    config::ClientAuthModeConfig::Optional => ClientAuthMode::Optional,
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
fn shedding(written: &config::UpstreamConfig) -> Option<Shedding> {
    let shedding = Shedding {
        rebalance: written.rebalance.as_ref().map(|it| RebalanceRule {
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
fn server_name_of_all(written: &config::UpstreamConfig) -> Option<String> {
    let settled = written.tls.as_ref().and_then(|tls| tls.server_name.clone());
    settled.or_else(|| match written.discover.as_ref().and_then(Discover::teller) {
        Some(Teller::Dns(source)) => {
            let labels = source.name.trim_end_matches('.').split('.');
            Some(labels.skip_while(|label| label.starts_with('_')).collect::<Vec<_>>().join("."))
        }
        _ => None,
    })
}

/// Puts a list that was told in force. Those that cannot be used are left out and told back.
fn replace(
    upstream: &Upstream,
    endpoints: &[config::EndpointConfig],
    has_tls: bool,
    reach: Option<&Reach>,
) -> Result<Vec<String>, String> {
    let mut reachable = Vec::with_capacity(endpoints.len());
    let mut refused = vec![];
    for endpoint in endpoints {
        let place = match &endpoint.url {
            // A name is judged when it is known where it leads.
            EndpointUrl::Tcp { host, port, .. } => {
                host.parse::<IpAddr>().ok().map(|ip| Address::Tcp(SocketAddr::new(ip, *port)))
            }
            EndpointUrl::Unix(path) => Some(Address::Unix(path.clone())),
        };
        match reach.zip(place).map_or(Ok(()), |(reach, place)| reach.judge(&place)) {
            Ok(()) => reachable.push(endpoint.clone()),
            Err(why) => refused.push(format!("{}: {why}", endpoint.url)),
        }
    }
    if let (true, Some(first)) = (reachable.is_empty(), refused.first()) {
        return Err(format!("none of the endpoints may be used, the first one since {first}"));
    }
    let (usable, unusable): (Vec<_>, Vec<_>) =
        reachable.into_iter().partition(|endpoint| has_tls || !endpoint.url.is_tls());
    if usable.is_empty() && !unusable.is_empty() {
        return Err("all endpoints need TLS, and there is no authority to trust (see `tls` of the upstream)".to_owned());
    }
    let change = upstream.replace(&usable, clock::now());
    let no_tls =
        unusable.iter().map(|endpoint| format!("{} needs TLS, and there is no authority to trust", endpoint.url));
    Ok(refused.into_iter().chain(no_tls).chain(change.refused.iter().map(ToString::to_string)).collect())
}

/// What is bound for an address as written.
pub fn address(bind: &Bind) -> Address {
    match bind {
        Bind::Tcp(addr) => Address::Tcp(*addr),
        Bind::Unix(path) => Address::Unix(path.clone()),
    }
}
