//! Probes the current endpoints of an upstream at intervals.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::metrics::{Metrics, ProbeMetrics};
use super::{Check, ProbeError};
use crate::base::clock;
use crate::health::threshold::Health;
use crate::telemetry::log_limiter::{LinePermit, LogLimiter};
use crate::telemetry::panics::{self, PanicSite};
use crate::upstream::Upstream;
use crate::upstream::endpoint::Endpoint;

/// How far apart two intervals may be, as a part of one.
const JITTER: f64 = 0.2;

/// Probes the endpoints of `upstream`, and follows its membership. Runs until it is dropped.
pub async fn run(upstream: Arc<Upstream>, check: Check, metrics: Metrics) {
    let check = Arc::new(check);
    let what = format!("checking the health of {}", upstream.name);
    panics::keep(PanicSite::Control, &what, || follow(&upstream, &check, &metrics)).await;
}

async fn follow(upstream: &Arc<Upstream>, check: &Arc<Check>, metrics: &Metrics) {
    let mut changes = upstream.changes();
    let mut watched: Vec<(Arc<Endpoint>, Watch)> = vec![];
    loop {
        // Marked as seen before it is read: changes in between wake us again.
        changes.borrow_and_update();
        let endpoints = upstream.endpoints();
        let is_there = |endpoint: &Arc<Endpoint>| endpoints.iter().any(|there| Arc::ptr_eq(there, endpoint));
        let (stay, gone): (Vec<_>, Vec<_>) = watched.drain(..).partition(|(endpoint, _)| is_there(endpoint));
        watched = stay;
        // An endpoint with a new weight is another with the same series: the old one lets go of them first.
        for (_, watch) in gone {
            watch.end().await;
        }
        for endpoint in endpoints {
            if !watched.iter().any(|(other, _)| Arc::ptr_eq(other, &endpoint)) {
                let (upstream, check, metrics) = (Arc::clone(upstream), Arc::clone(check), metrics.clone());
                let probed = Arc::clone(&endpoint);
                let task = async move {
                    let what = format!("checking the health of {}", probed.name);
                    let again = || {
                        let metrics = metrics.endpoint(&upstream.name, &probed.name, check.probe.kind());
                        probe_repeatedly(&upstream, &probed, &check, metrics)
                    };
                    panics::keep(PanicSite::Control, &what, again).await;
                };
                watched.push((endpoint, Watch(tokio::spawn(task))));
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The task of one endpoint; it ends with this.
struct Watch(JoinHandle<()>);

impl Watch {
    /// Ends it, and waits until it has.
    async fn end(mut self) {
        self.0.abort();
        // Cancelled, which is no news.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn probe_repeatedly(upstream: &Upstream, endpoint: &Endpoint, check: &Check, metrics: ProbeMetrics) {
    // An endpoint may go up and down for ever.
    let lines = LogLimiter::default();
    loop {
        let started = Instant::now();
        let result = check.once(&endpoint.connector).await;
        metrics.probed(started.elapsed(), result.as_ref().err().map(ProbeError::label));
        // Only counted: what this machine lacks does not bring an endpoint down.
        if result.as_ref().is_err_and(ProbeError::is_ours) {
            sleep_until(started + jittered(check.every, fastrand::f64())).await;
            continue;
        }
        let (before, after) = endpoint.state.probed(check.rule, result.is_ok(), clock::now());
        metrics.set_up(after != Health::Down);
        let (upstream, endpoint) = (&upstream.name, &endpoint.name);
        match (before, after, result) {
            (Health::Unknown | Health::Up, Health::Down, Err(error)) => {
                metrics.changed(error.label());
                let (reason, error) = (error.label(), &error as &(dyn Error + 'static));
                if let Some(LinePermit { suppressed }) = lines.line(clock::now()) {
                    tracing::warn!(%upstream, %endpoint, reason, error, suppressed, "endpoint is down");
                }
            }
            (Health::Down, Health::Up, _) => {
                metrics.changed("passed");
                if let Some(LinePermit { suppressed }) = lines.line(clock::now()) {
                    tracing::info!(%upstream, %endpoint, suppressed, "endpoint is up again");
                }
            }
            (_, _, Err(error)) => {
                let (reason, error) = (error.label(), &error as &(dyn Error + 'static));
                tracing::debug!(%upstream, %endpoint, reason, error, "probe failed");
            }
            (_, _, Ok(())) => {}
        }
        sleep_until(started + jittered(check.every, fastrand::f64())).await;
    }
}

/// Returns `every`, up to a tenth shorter or longer, depending on `random` (0 to 1).
fn jittered(every: Duration, random: f64) -> Duration {
    every.mul_f64(1.0 + JITTER * (random - 0.5))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use prometheus::Registry;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config;
    use crate::health::threshold::HealthThresholds;
    use crate::net::names::NameResolver;
    use crate::net::socket::TcpOptions;
    use crate::probe::Probe;
    use crate::telemetry::exposition::encode;
    use crate::upstream::endpoint_state::EndpointStates;
    use crate::upstream::maker::Maker;
    use crate::upstream::{Policy, metrics};

    #[test]
    fn intervals_are_a_tenth_shorter_or_longer() {
        let every = Duration::from_secs(10);
        let secs = [0.0, 0.5, 1.0].map(|random| jittered(every, random).as_secs());
        assert_eq!(secs, [9, 10, 11]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_joins_is_probed_and_who_leaves_no_more() {
        let registry = Registry::new();
        let maker = Maker {
            upstream: "chat".into(),
            tls: None,
            protocol: config::UpstreamProtocol::Auto,
            server_name: None,
            connect_timeout: Duration::from_secs(1),
            workers: 1,
            families: metrics::Metrics::register(&registry).unwrap(),
            reasons: [].into(),
            tcp: TcpOptions::default(),
            reach: None,
            sources: None,
            states: EndpointStates::default(),
            names: NameResolver::register(&registry).unwrap(),
        };
        let policy = Policy {
            balance: config::Balance::LeastConnections,
            slow_start: None,
            zone: None,
            ejection: None,
            refuse_down: false,
            retry_budget: None,
        };
        let upstream = Arc::new(Upstream::new(policy, maker));
        let [a, b] = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let members = |text: String| serde_yaml::from_str::<Vec<config::EndpointConfig>>(&text).unwrap();
        let [a, b] = [a, b].map(|listener| (format!("ws://{}", listener.local_addr().unwrap()), listener));
        upstream.replace(&members(format!("['{}']", a.0)), clock::now());
        let second = Duration::from_secs(1);
        let check =
            Check { probe: Probe::Tcp, every: second, timeout: second, rule: HealthThresholds { rise: 1, fall: 1 } };
        let task = tokio::spawn(run(Arc::clone(&upstream), check, Metrics::register(&registry).unwrap()));
        let is_up = async |name: &str| {
            let line = format!("wsluice_endpoint_up{{endpoint=\"{name}\",upstream=\"chat\"}} 1");
            while !encode(&registry).unwrap().contains(&line) {
                tokio::task::yield_now().await;
            }
        };
        is_up(&a.0).await;
        // Another weight makes another endpoint with the same series.
        upstream.replace(&members(format!("[{{ url: '{}', weight: 2 }}, '{}']", a.0, b.0)), clock::now());
        is_up(&b.0).await;
        is_up(&a.0).await;
        upstream.replace(&members(format!("['{}']", b.0)), clock::now());
        let of_a = format!("wsluice_endpoint_up{{endpoint=\"{}\"", a.0);
        while encode(&registry).unwrap().contains(&of_a) {
            tokio::task::yield_now().await;
        }
        is_up(&b.0).await;
        task.abort();
    }
}
