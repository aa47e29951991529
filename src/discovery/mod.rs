//! Discovery: endpoint lists kept elsewhere, in a file, DNS, or etcd.
//!
//! A provider (`file`, `dns`, `etcd`) queries or watches its source for as long as it is polled, and passes whole
//! lists, or the reason why there is none, to its [`EndpointSink`]. What all providers have in common is done there
//! once: the last good list stays active through every failure; an empty list is not accepted unless that is
//! expected; a list without changes goes no further; failure and recovery are each logged once, and seldom if they
//! alternate.
//!
//! All of it runs on a thread of its own, never on one that relays.

#[cfg(feature = "dns")]
pub mod dns;
pub mod etcd;
pub mod file;
pub mod metrics;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::base::clock;
use crate::base::labels::variant_labels;
use crate::config::{ENDPOINTS_MAX, EndpointConfig};
use crate::telemetry::log_limiter::{LinePermit, LogLimiter};
use metrics::DiscoveryMetrics;

/// Why a source gave no list. The closed set is a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscoveryErrorKind {
    /// The server could not be connected to, or the file could not be read.
    Unreachable,
    /// There was no answer in time.
    Timeout,
    /// The server refuses us.
    Denied,
    /// There is no such file or name.
    NotFound,
    /// The answer cannot be understood.
    Malformed,
    /// The answer has no endpoints, or only unusable ones.
    Empty,
    /// The answer is larger than any list.
    TooLarge,
    /// The server says that it failed.
    Server,
    /// The upstream cannot have these endpoints.
    Unusable,
}

variant_labels! {
    DiscoveryErrorKind {
        Unreachable => "unreachable",
        Timeout => "timeout",
        Denied => "denied",
        NotFound => "not_found",
        Malformed => "malformed",
        Empty => "empty",
        TooLarge => "too_large",
        Server => "server",
        Unusable => "unusable",
    }
}

/// Why there is no list this time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct DiscoveryError {
    /// The kind.
    pub reason: DiscoveryErrorKind,
    /// The message.
    pub detail: String,
}

impl DiscoveryError {
    /// Makes an error of a kind with its message.
    pub fn new(reason: DiscoveryErrorKind, detail: impl Into<String>) -> DiscoveryError {
        DiscoveryError { reason, detail: detail.into() }
    }
}

/// Applies a new list: returns the endpoints it left out, with reasons, or why it refused the whole list.
pub type Apply = Box<dyn FnMut(&[EndpointConfig]) -> Result<Vec<String>, String> + Send>;

/// Discovery for one upstream, not running yet.
pub struct Discovery {
    /// The name of the upstream.
    pub upstream: String,
    /// Runs until it is dropped, which may happen at any time.
    pub task: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Receives once the first list is active.
    pub first: oneshot::Receiver<()>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// Where a provider puts its results: the way from any source to its upstream.
pub struct EndpointSink {
    upstream: String,
    /// Accepts an empty list.
    allow_empty: bool,
    /// The active list, sorted by URL.
    current: Option<Vec<EndpointConfig>>,
    /// The logged failure, until it is over.
    failing: Option<DiscoveryErrorKind>,
    /// A source may fail and work by turns, or report another error each time.
    log_limiter: LogLimiter,
    metrics: DiscoveryMetrics,
    apply: Apply,
    first: Option<oneshot::Sender<()>>,
}

impl EndpointSink {
    /// Makes a sink for the upstream of this name. The receiver gets a message once its first list is active.
    pub fn new(
        upstream: &str,
        allow_empty: bool,
        metrics: DiscoveryMetrics,
        apply: Apply,
    ) -> (EndpointSink, oneshot::Receiver<()>) {
        let (first, is_first) = oneshot::channel();
        let (upstream, first) = (upstream.to_owned(), Some(first));
        let lines = LogLimiter::default();
        (
            EndpointSink {
                upstream,
                allow_empty,
                current: None,
                failing: None,
                log_limiter: lines,
                metrics,
                apply,
                first,
            },
            is_first,
        )
    }

    /// Takes in the source's whole list, in any order. Of endpoints with the same URL the first counts.
    ///
    /// Returns true if it is active now.
    pub fn list(&mut self, mut endpoints: Vec<EndpointConfig>) -> bool {
        // Sorted, so that another order is not a change; a stable sort keeps the first of equals.
        endpoints.sort_by(|a, b| a.url.cmp(&b.url));
        endpoints.dedup_by(|later, first| later.url == first.url);
        let refusal = match endpoints.len() {
            0 if !self.allow_empty => {
                Some(DiscoveryError::new(DiscoveryErrorKind::Empty, "the source names no endpoint"))
            }
            len if len > ENDPOINTS_MAX => Some(DiscoveryError::new(
                DiscoveryErrorKind::TooLarge,
                format!("{len} endpoints, more than {ENDPOINTS_MAX}"),
            )),
            _ if self.current.as_ref() == Some(&endpoints) => None,
            len => match (self.apply)(&endpoints) {
                Ok(refused) => {
                    let len = len - refused.len();
                    if let Some(LinePermit { suppressed }) = self.log_limiter.line(clock::now()) {
                        tracing::info!(upstream = %self.upstream, endpoints = len, suppressed, "endpoints discovered");
                    }
                    self.metrics.updated(len);
                    self.current = Some(endpoints);
                    if let Some(first) = self.first.take() {
                        // The receiver may be gone.
                        let _ = first.send(());
                    }
                    for why in refused {
                        self.flawed(&DiscoveryError::new(DiscoveryErrorKind::Unusable, why));
                    }
                    None
                }
                Err(why) => Some(DiscoveryError::new(DiscoveryErrorKind::Unusable, why)),
            },
        };
        if let Some(trouble) = refusal {
            self.failed(&trouble);
            return false;
        }
        self.confirm();
        true
    }

    /// Records that the source answered, and that its last list still holds.
    pub fn confirm(&mut self) {
        self.metrics.answered();
        let now = clock::now();
        if self.failing.take().is_some()
            && let Some(LinePermit { suppressed }) = self.log_limiter.line(now)
        {
            tracing::info!(upstream = %self.upstream, suppressed, "discovery works again");
        }
        if let Some(suppressed) = self.log_limiter.unwritten(now) {
            tracing::info!(upstream = %self.upstream, suppressed, "more discovery events than log lines");
        }
    }

    /// Records that there is no list this time: the last good one stays.
    pub fn failed(&mut self, trouble: &DiscoveryError) {
        self.metrics.failed(trouble.reason);
        if self.failing.replace(trouble.reason) != Some(trouble.reason)
            && let Some(LinePermit { suppressed }) = self.log_limiter.line(clock::now())
        {
            let kept = self.current.as_ref().map_or(0, Vec::len);
            let (upstream, reason) = (&self.upstream, trouble.reason.label());
            tracing::warn!(%upstream, reason, error = %trouble, kept, suppressed, "discovery fails, the last good endpoints stay");
        }
    }

    /// Records that the source has no endpoints, with this reason. Returns true if that is active now.
    pub fn nobody(&mut self, trouble: &DiscoveryError) -> bool {
        if self.allow_empty {
            return self.list(vec![]);
        }
        self.failed(trouble);
        false
    }

    /// Reports an error in a part of the list; the rest is used.
    pub fn flawed(&mut self, trouble: &DiscoveryError) {
        self.metrics.failed(trouble.reason);
        if let Some(LinePermit { suppressed }) = self.log_limiter.line(clock::now()) {
            tracing::warn!(upstream = %self.upstream, reason = trouble.reason.label(), error = %trouble, suppressed, "discovered endpoint left out");
        }
    }
}

impl fmt::Debug for EndpointSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("upstream", &self.upstream).field("failing", &self.failing).finish()
    }
}

/// The first wait after a failure. A restart of a server on the same machine is over by then.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// The longest wait after a failure: whoever repairs a source should not wait longer for the effect.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Waits between attempts that fail: twice as long each time, up to a bound, and shortened by chance so that the proxies
/// of a site do not come all at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns how long to wait now; `chance` is from 0 to 1.
    pub fn after_failure(&mut self, chance: f64) -> Duration {
        let wait = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(1.0 - 0.5 * chance)
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::sync::{Arc, Mutex};

    use prometheus::Registry;

    use super::*;

    type Lists = Arc<Mutex<Vec<Vec<String>>>>;

    /// An outlet, the lists that came through, and the families it counts in. Lists with an endpoint `bad` are refused.
    fn outlet(allow_empty: bool) -> (EndpointSink, Lists, Registry) {
        let registry = Registry::new();
        let metrics = metrics::Metrics::register(&registry).unwrap().upstream("app", "file");
        let lists = Lists::default();
        let out = Arc::clone(&lists);
        let apply = move |endpoints: &[EndpointConfig]| {
            let urls: Vec<String> = endpoints.iter().map(|endpoint| endpoint.url.to_string()).collect();
            if urls.iter().any(|url| url.contains("bad")) {
                return Err("bad".to_owned());
            }
            out.lock().unwrap().push(urls);
            Ok(vec![])
        };
        (EndpointSink::new("app", allow_empty, metrics, Box::new(apply)).0, lists, registry)
    }

    fn endpoints(urls: &[&str]) -> Vec<EndpointConfig> {
        urls.iter().map(|url| EndpointConfig::at(url.parse().unwrap())).collect()
    }

    #[test]
    fn only_what_is_new_goes_further() {
        let (mut outlet, lists, _registry) = outlet(false);
        assert!(outlet.list(endpoints(&["ws://b:1", "ws://a:1", "ws://b:1"])));
        assert!(outlet.list(endpoints(&["ws://a:1", "ws://b:1"])));
        assert!(outlet.list(endpoints(&["ws://a:1"])));
        assert_eq!(*lists.lock().unwrap(), [vec!["ws://a:1", "ws://b:1"], vec!["ws://a:1"]]);
    }

    #[test]
    fn another_weight_is_new() {
        let (mut outlet, lists, _registry) = outlet(false);
        outlet.list(endpoints(&["ws://a:1"]));
        outlet.list(vec![EndpointConfig { weight: 2, ..endpoints(&["ws://a:1"])[0].clone() }]);
        assert_eq!(lists.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_source_that_names_nobody_is_believed_only_where_that_is_expected() {
        for (allow_empty, lists_expected) in [(false, 1), (true, 2)] {
            let (mut outlet, lists, _registry) = outlet(allow_empty);
            outlet.list(endpoints(&["ws://a:1"]));
            assert_eq!(outlet.list(vec![]), allow_empty);
            assert_eq!(lists.lock().unwrap().len(), lists_expected);
        }
    }

    #[test]
    fn a_list_that_is_refused_leaves_the_last_good_one() {
        let (mut outlet, lists, registry) = outlet(false);
        outlet.list(endpoints(&["ws://a:1"]));
        assert!(!outlet.list(endpoints(&["ws://bad:1"])));
        outlet.failed(&DiscoveryError::new(DiscoveryErrorKind::Timeout, "late"));
        assert_eq!(outlet.failing, Some(DiscoveryErrorKind::Timeout));
        assert!(outlet.list(endpoints(&["ws://a:1"])), "the same is still in force");
        assert_eq!(outlet.failing, None);
        assert_eq!(lists.lock().unwrap().len(), 1);
        let text = crate::telemetry::exposition::encode(&registry).unwrap();
        for line in [
            r#"wsluice_discovery_errors_total{provider="file",reason="unusable",upstream="app"} 1"#,
            r#"wsluice_discovery_errors_total{provider="file",reason="timeout",upstream="app"} 1"#,
            r#"wsluice_discovery_updates_total{provider="file",upstream="app"} 1"#,
            r#"wsluice_discovery_endpoints{provider="file",upstream="app"} 1"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn waits_grow_up_to_a_bound_and_vary() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.after_failure(0.0).as_millis()).collect();
        assert_eq!(waits[..8], [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(waits[39], 30000);
        assert_eq!(backoff.after_failure(1.0).as_millis(), 15000);
        backoff.reset();
        assert_eq!(backoff.after_failure(0.0).as_millis(), 500);
    }
}
