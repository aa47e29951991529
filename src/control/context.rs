//! The parts of the process that outlive a configuration: metrics, live state, log output.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use prometheus::Registry;

use super::metrics;
use crate::auth::KeySources;
use crate::auth::basic::BasicVerifier;
use crate::base::clock;
use crate::base::worker::WorkerHeartbeat;
use crate::config::{Config, Log, LogFormat};
use crate::net::names::NameResolver;
use crate::proxy::quota::RouteQuotas;
use crate::session::Sessions;
use crate::session::access_log::AccessLog;
use crate::session::registry::SessionRegistry;
use crate::shared::SharedState;
use crate::telemetry::logging::{Format, Switch};
use crate::telemetry::sink::LogSink;
use crate::tls::certificates::Certificates;
use crate::upstream::endpoint_state::EndpointStates;
use crate::upstream::reach::Own;
use crate::{auth, discovery, handover, probe, proxy, server, session, shared, tls, upstream};

/// All metric families, registered once for the life of the process.
#[derive(Clone, Debug)]
pub struct MetricFamilies {
    pub(super) server: server::metrics::Metrics,
    pub(super) proxy: proxy::metrics::Metrics,
    pub(super) session: session::metrics::Metrics,
    pub(super) upstream: upstream::metrics::Metrics,
    /// Metrics of health checks.
    pub probe: probe::metrics::Metrics,
    pub(super) discovery: discovery::metrics::Metrics,
    pub(super) auth: auth::metrics::Metrics,
    pub(super) auth_services: auth::service::metrics::Metrics,
    pub(super) shared: shared::metrics::Metrics,
    /// Metrics of reloads.
    pub control: metrics::Metrics,
    /// Metrics of upgrades.
    pub handover: handover::Metrics,
    /// The certificates in force, with their metrics.
    pub certificates: Certificates,
    /// The resolver of server names, with its metric.
    pub names: NameResolver,
}

impl MetricFamilies {
    /// Creates and registers all families.
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
            auth: auth::metrics::Metrics::register(registry)?,
            auth_services: auth::service::metrics::Metrics::register(registry)?,
            shared: shared::metrics::Metrics::register(registry)?,
            control: metrics::Metrics::register(registry)?,
            handover: handover::Metrics::register(registry)?,
            certificates: Certificates::new(tls::metrics::Metrics::register(registry)?),
            names: NameResolver::register(registry)?,
        })
    }

    /// Creates what is shared with other instances.
    pub fn shared_state(&self) -> SharedState {
        SharedState::new(self.shared.clone())
    }

    /// Creates the table of the URLs from which keys are fetched.
    pub fn key_sources(&self) -> KeySources {
        KeySources::new(self.auth.clone())
    }
}

/// The parts of the process that outlive a configuration.
#[derive(Clone, Debug)]
pub struct CompileContext {
    /// The number of worker threads.
    pub workers: usize,
    /// The metrics.
    pub families: MetricFamilies,
    /// The log output, if there is one.
    pub log: Option<LogOutput>,
    /// All connections and sessions.
    pub sessions: Arc<Sessions>,
    /// The live state of endpoints.
    pub states: EndpointStates,
    /// The connection quota of each route.
    pub quotas: RouteQuotas,
    /// The URLs from which keys are fetched.
    pub key_sources: KeySources,
    /// What is shared with other instances.
    pub shared: SharedState,
    /// Checks the passwords of users.
    pub passwords: Arc<BasicVerifier>,
    /// The heartbeats of the workers.
    pub pulse: WorkerHeartbeat,
    /// Our own addresses, that of the admin listener included.
    pub own: Own,
    /// Set when another process has taken over.
    pub replacing: Arc<AtomicBool>,
    /// Set when the end of the process has begun: waits are cut short.
    pub ending: Arc<AtomicBool>,
    /// How long to wait for workers and files.
    pub wait_limits: WaitLimits,
}

/// How long a change of the configuration waits for others.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// The time for workers to accept on other sockets. A busy one takes milliseconds.
    pub workers: Duration,
    /// The time for files to be read: a network file system may hang.
    pub files: Duration,
}

impl Default for WaitLimits {
    fn default() -> WaitLimits {
        WaitLimits { workers: Duration::from_secs(5), files: Duration::from_secs(10) }
    }
}

impl CompileContext {
    /// Creates a context without log and scrapes, just to check whether a file compiles.
    ///
    /// # Panics
    /// Never: the registry is new, so no name is taken.
    pub fn for_check() -> CompileContext {
        let families = MetricFamilies::register(&Registry::new(), 1).expect("a new registry has no names");
        CompileContext {
            workers: 1,
            key_sources: families.key_sources(),
            shared: families.shared_state(),
            passwords: Arc::new(BasicVerifier::new(1)),
            families,
            log: None,
            sessions: SessionRegistry::new(1),
            states: EndpointStates::default(),
            quotas: RouteQuotas::default(),
            own: Own::default(),
            pulse: WorkerHeartbeat::new(1, clock::now()),
            replacing: Arc::default(),
            ending: Arc::default(),
            wait_limits: WaitLimits::default(),
        }
    }

    /// Returns the access log that the file configures.
    pub(super) fn access_log(&self, file: &Config) -> AccessLog {
        match &self.log {
            Some(output) if file.log.access => AccessLog::new(output.sink.clone(), output.format(&file.log)),
            _ => AccessLog::off(),
        }
    }
}

/// The log output, and what a reload can change of it.
#[derive(Clone, Debug)]
pub struct LogOutput {
    /// The output.
    pub sink: LogSink,
    /// Whether it is a terminal.
    pub terminal: bool,
    /// Level and format of all lines but the access log.
    pub switch: Option<Switch>,
}

impl LogOutput {
    /// Returns the format of lines: as configured, or chosen by the kind of output.
    pub fn format(&self, log: &Log) -> Format {
        match log.format {
            LogFormat::Json => Format::Json,
            LogFormat::Human => Format::Human,
            LogFormat::Auto if self.terminal => Format::Human,
            LogFormat::Auto => Format::Json,
        }
    }

    /// Applies the configured format and level.
    pub fn set(&self, log: &Log) {
        let Some(switch) = &self.switch else { return };
        switch.set_format(self.format(log));
        if let Err(error) = switch.set_level(log.level.as_str()) {
            tracing::error!(%error, "the log level cannot be changed");
        }
    }
}
