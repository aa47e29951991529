//! Endpoints from files, from dnsmasq and from etcd, through failures of each.

#[cfg(feature = "dns")]
mod dns;
mod etcd;
mod file;
mod servers;
mod wired;

use std::sync::{Arc, Mutex};

use prometheus::Registry;
use tokio::task::JoinHandle;
use wsluice::config::EndpointConfig;
use wsluice::discovery::{DiscoveryErrorKind, EndpointSink, metrics::Metrics};
use wsluice::telemetry::exposition;

pub use self::servers::{Running, free_port, is_here, put_in_place};
use super::harness::eventually;

/// A running provider, and what it found.
struct Discovery {
    /// Each list; an endpoint is its URL and weight.
    lists: Arc<Mutex<Vec<Vec<String>>>>,
    registry: Registry,
    task: JoinHandle<()>,
}

impl Discovery {
    fn start<F: Future<Output = ()> + Send + 'static>(run: impl FnOnce(EndpointSink) -> F) -> Discovery {
        Discovery::start_as(false, run)
    }

    fn start_as<F: Future<Output = ()> + Send + 'static>(
        allow_empty: bool,
        run: impl FnOnce(EndpointSink) -> F,
    ) -> Discovery {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap().upstream("app", "test");
        let lists = Arc::<Mutex<Vec<Vec<String>>>>::default();
        let out = Arc::clone(&lists);
        let apply = move |endpoints: &[EndpointConfig]| {
            let backup = |endpoint: &EndpointConfig| if endpoint.priority == 0 { "" } else { " backup" };
            let show = |endpoint: &EndpointConfig| format!("{} {}{}", endpoint.url, endpoint.weight, backup(endpoint));
            out.lock().unwrap().push(endpoints.iter().map(show).collect());
            Ok(vec![])
        };
        let (outlet, _) = EndpointSink::new("app", allow_empty, metrics, Box::new(apply));
        Discovery { lists, registry, task: tokio::spawn(run(outlet)) }
    }

    /// Waits until this is the last list.
    async fn becomes(&self, endpoints: &[&str]) {
        let what = format!("{endpoints:?} after {:?}", self.lists());
        eventually(&what, || {
            let lists = self.lists.lock().unwrap();
            lists.last().is_some_and(|last| last == endpoints).then_some(())
        })
        .await;
    }

    fn lists(&self) -> Vec<Vec<String>> {
        self.lists.lock().unwrap().clone()
    }

    /// Waits until a failure with this reason was counted.
    async fn fails(&self, reason: DiscoveryErrorKind) -> f64 {
        let what = format!("a failure {reason:?}, not only {}", exposition::encode(&self.registry).unwrap());
        eventually(&what, || Some(self.errors(reason)).filter(|count| *count > 0.0)).await
    }

    fn errors(&self, reason: DiscoveryErrorKind) -> f64 {
        let labels = format!(r#"{{provider="test",reason="{}",upstream="app"}}"#, reason.label());
        self.value(&format!("wsluice_discovery_errors_total{labels}"))
    }

    /// Returns when the source last answered.
    fn answered(&self) -> f64 {
        self.value(r#"wsluice_discovery_last_answer_timestamp_seconds{provider="test",upstream="app"}"#)
    }

    /// Waits until the source answers again.
    async fn answers(&self) {
        let before = self.answered();
        eventually("an answer of the source", || (self.answered() > before).then_some(())).await;
    }

    fn value(&self, series: &str) -> f64 {
        let text = exposition::encode(&self.registry).unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)).map_or(0.0, |value| value.trim().parse().unwrap())
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}
