//! What the process has besides its configuration, which every compilation and reload works with.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use prometheus::Registry;

use super::metrics;
use crate::base::clock;
use crate::base::worker::WorkerHeartbeat;
use crate::config::{Config, Log, LogFormat};
use crate::net::names::NameResolver;
use crate::proxy::quota::RouteQuotas;
use crate::session::Sessions;
use crate::session::access_log::AccessLog;
use crate::session::registry::SessionRegistry;
use crate::telemetry::logging::{Format, Switch};
use crate::telemetry::sink::LogSink;
use crate::tls::certificates::Certificates;
use crate::upstream::endpoint_state::EndpointStates;
use crate::upstream::reach::Own;
use crate::{discovery, handover, probe, proxy, server, session, tls, upstream};

/// All metric families of the data plane, registered once for the life of the process.
#[derive(Clone, Debug)]
pub struct MetricFamilies {
    pub(super) server: server::metrics::Metrics,
    pub(super) proxy: proxy::metrics::Metrics,
    pub(super) session: session::metrics::Metrics,
    pub(super) upstream: upstream::metrics::Metrics,
    /// Those of health checks.
    pub probe: probe::metrics::Metrics,
    pub(super) discovery: discovery::metrics::Metrics,
    /// Those of reloads.
    pub control: metrics::Metrics,
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
            control: metrics::Metrics::register(registry)?,
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
    pub pulse: WorkerHeartbeat,
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
            pulse: WorkerHeartbeat::new(1, clock::now()),
            replacing: Arc::default(),
            ending: Arc::default(),
            patience: Patience::default(),
        }
    }

    /// The access log as the file wants it.
    pub(super) fn access_log(&self, file: &Config) -> AccessLog {
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
