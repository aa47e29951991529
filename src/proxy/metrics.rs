//! Metrics of requests: handshakes by their status, refusals by their reason, plain HTTP.
//!
//! Statuses come from servers and methods from clients, so both are mapped to closed sets before they become labels.

use std::time::Duration;

use http::{Method, StatusCode, Version};
use prometheus::{Histogram, HistogramOpts, Opts, Registry};

use crate::session::version_label;
use crate::telemetry::counters::{Counters, seconds};
use crate::telemetry::labelled::{HistogramVec, IntCounterVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

/// From a proxy and a server on one machine to the 10 s that a handshake may take by default.
const HANDSHAKE_SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// As above, and on to the 60 s that a server may take to answer by default. Streams (SSE, long polls) lie above.
const REQUEST_SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 60.0];

/// Why an answer to a plain request that had begun did not come to its end.
pub const CUT_REASONS: [&str; 6] =
    ["body_limit", "client_gone", "client_timeout", "compression", "upstream_cut", "upstream_timeout"];

/// The families, before they have routes.
#[derive(Clone, Debug)]
pub struct Metrics {
    handshakes: IntCounterVec,
    handshake_duration: HistogramVec,
    rejections: IntCounterVec,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    cut: IntCounterVec,
    by_listener: SeriesRegistry<2>,
    by_route: SeriesRegistry<1>,
}

impl Metrics {
    /// Makes and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            handshakes: IntCounterVec::new(
                Opts::new(
                    "wsluice_handshakes_total",
                    "WebSocket handshakes answered, by status; 101 opens a session, over HTTP/2 too.",
                ),
                &["listener", "route", "http", "code"],
            )?,
            handshake_duration: HistogramVec::new(
                HistogramOpts::new(
                    "wsluice_handshake_duration_seconds",
                    "Time from the request for a WebSocket to our answer, the upstream's handshake included.",
                )
                .buckets(HANDSHAKE_SECONDS.into()),
                &["route"],
            )?,
            rejections: IntCounterVec::new(
                Opts::new(
                    "wsluice_rejections_total",
                    "Requests that did not get what they asked for, by reason; route is empty where none was found.",
                ),
                &["listener", "route", "reason"],
            )?,
            requests: IntCounterVec::new(
                Opts::new("wsluice_http_requests_total", "Plain HTTP requests answered, by class of status."),
                &["route", "http", "method", "code"],
            )?,
            request_duration: HistogramVec::new(
                HistogramOpts::new(
                    "wsluice_http_request_duration_seconds",
                    "Time from a plain HTTP request to the end of its answer.",
                )
                .buckets(REQUEST_SECONDS.into()),
                &["route"],
            )?,
            cut: IntCounterVec::new(
                Opts::new(
                    "wsluice_http_responses_cut_total",
                    "Answers to plain HTTP requests that had begun and did not come to their end, by reason.",
                ),
                &["route", "reason"],
            )?,
            by_listener: SeriesRegistry::new(["listener", "route"]),
            by_route: SeriesRegistry::new(["route"]),
        };
        metrics.by_listener.register(registry, &metrics.handshakes)?;
        metrics.by_route.register(registry, &metrics.handshake_duration)?;
        metrics.by_listener.register(registry, &metrics.rejections)?;
        metrics.by_route.register(registry, &metrics.requests)?;
        metrics.by_route.register(registry, &metrics.request_duration)?;
        metrics.by_route.register(registry, &metrics.cut)?;
        Ok(metrics)
    }

    /// Returns the counters of one route on one listener; their series stay until the last of them is dropped. `reasons` are
    /// the labels of all refusals.
    pub fn route(&self, listener: &str, route: &str, reasons: &[&'static str]) -> RouteRequestMetrics {
        let statuses = ["101", "403", "426", "429", "502", "503", "504"];
        let requests = [("GET", "2xx"), ("GET", "3xx"), ("GET", "4xx"), ("GET", "5xx"), ("POST", "2xx")];
        self.handles(listener, route, &statuses, reasons, &requests)
    }

    /// The handles for requests that a listener answers before, or without, finding a route.
    pub fn unrouted(&self, listener: &str, reasons: &[&'static str]) -> RouteRequestMetrics {
        self.handles(listener, "", &["400", "404", "426"], reasons, &[])
    }

    fn handles(
        &self,
        listener: &str,
        route: &str,
        statuses: &[&'static str],
        reasons: &[&'static str],
        requests: &[(&'static str, &'static str)],
    ) -> RouteRequestMetrics {
        let held = (self.by_listener.guard([listener, route]), self.by_route.guard([route]));
        let by = |family: &IntCounterVec| {
            let (family, listener, route) = (family.clone(), listener.to_owned(), route.to_owned());
            move |label: &&'static str| family.with_label_values(&[&*listener, &*route, *label])
        };
        let (handshakes, of) = (self.handshakes.clone(), [listener.to_owned(), route.to_owned()]);
        let statuses: Vec<_> = statuses.iter().map(|status| ("1.1", *status)).chain([("2", "101")]).collect();
        let (plain, name) = (self.requests.clone(), route.to_owned());
        let of_two = requests.first().map(|(method, class)| ("2", *method, *class));
        let requests: Vec<_> = requests.iter().map(|(method, class)| ("1.1", *method, *class)).chain(of_two).collect();
        let (cut, cut_on) = (self.cut.clone(), route.to_owned());
        let cut_reasons: &[&'static str] = if route.is_empty() { &[] } else { &CUT_REASONS };
        RouteRequestMetrics {
            handshakes: Counters::new(&statuses, move |&(http, status)| {
                handshakes.with_label_values(&[&*of[0], &*of[1], http, status])
            }),
            handshake_duration: self.handshake_duration.with_label_values(&[route]),
            rejections: Counters::new(reasons, by(&self.rejections)),
            requests: Counters::new(&requests, move |&(http, method, class)| {
                plain.with_label_values(&[&*name, http, method, class])
            }),
            request_duration: self.request_duration.with_label_values(&[route]),
            cut: Counters::new(cut_reasons, move |reason| cut.with_label_values(&[&*cut_on, *reason])),
            _held: held,
        }
    }
}

/// What requests on one route count on.
#[derive(Debug)]
pub struct RouteRequestMetrics {
    handshakes: Counters<(&'static str, &'static str)>,
    handshake_duration: Histogram,
    rejections: Counters<&'static str>,
    requests: Counters<(&'static str, &'static str, &'static str)>,
    request_duration: Histogram,
    cut: Counters<&'static str>,
    _held: (SeriesGuard, SeriesGuard),
}

impl RouteRequestMetrics {
    /// Counts the answer to a request for a WebSocket, whatever it was, and how long it took.
    pub fn handshake(&self, http: Version, status: StatusCode, took: Duration) {
        self.handshakes.inc((version_label(http), status_label(status)));
        self.handshake_duration.observe(seconds(took));
    }

    /// Counts a refusal, by the label that the log has too.
    pub fn reject(&self, reason: &'static str) {
        self.rejections.inc(reason);
    }

    /// Counts an answer that had begun and did not come to its end, by the label that the log has too.
    pub fn cut(&self, reason: &'static str) {
        self.cut.inc(reason);
    }

    /// Counts a plain HTTP request whose answer has ended.
    pub fn request(&self, http: Version, method: &Method, status: StatusCode, took: Duration) {
        self.requests.inc((version_label(http), method_label(method), class_label(status)));
        self.request_duration.observe(seconds(took));
    }
}

/// Statuses that tell an operator something by number; others by their class.
fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        101 => "101",
        200 => "200",
        301 => "301",
        302 => "302",
        307 => "307",
        308 => "308",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        413 => "413",
        414 => "414",
        421 => "421",
        426 => "426",
        429 => "429",
        431 => "431",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        _ => class_label(status),
    }
}

fn class_label(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;

    #[test]
    fn answers_refusals_and_requests_are_counted_where_they_belong() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let route = metrics.route("public", "chat", &["origin", "connect"]);
        route.handshake(Version::HTTP_11, StatusCode::SWITCHING_PROTOCOLS, Duration::from_millis(3));
        route.handshake(Version::HTTP_2, StatusCode::from_u16(299).unwrap(), Duration::from_millis(3));
        route.reject("origin");
        route.request(Version::HTTP_11, &Method::GET, StatusCode::OK, Duration::from_secs(2));
        route.request(
            Version::HTTP_2,
            &Method::from_bytes(b"BREW").unwrap(),
            StatusCode::IM_A_TEAPOT,
            Duration::from_secs(2),
        );
        let unrouted = metrics.unrouted("public", &["no_route"]);
        unrouted.reject("no_route");
        let text = encode(&registry).unwrap();
        for line in [
            r#"wsluice_handshakes_total{code="101",http="1.1",listener="public",route="chat"} 1"#,
            r#"wsluice_handshakes_total{code="2xx",http="2",listener="public",route="chat"} 1"#,
            r#"wsluice_handshakes_total{code="502",http="1.1",listener="public",route="chat"} 0"#,
            r#"wsluice_handshake_duration_seconds_bucket{route="chat",le="0.005"} 2"#,
            r#"wsluice_rejections_total{listener="public",reason="origin",route="chat"} 1"#,
            r#"wsluice_rejections_total{listener="public",reason="connect",route="chat"} 0"#,
            r#"wsluice_rejections_total{listener="public",reason="no_route",route=""} 1"#,
            r#"wsluice_http_requests_total{code="2xx",http="1.1",method="GET",route="chat"} 1"#,
            r#"wsluice_http_requests_total{code="4xx",http="2",method="other",route="chat"} 1"#,
            r#"wsluice_http_requests_total{code="5xx",http="1.1",method="GET",route="chat"} 0"#,
            r#"wsluice_http_request_duration_seconds_count{route="chat"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn series_go_with_the_last_who_counts_on_them() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let old = metrics.route("public", "chat", &["origin"]);
        let (new, unrouted) = (metrics.route("other", "chat", &["origin"]), metrics.unrouted("public", &["no_route"]));
        old.handshake(Version::HTTP_11, StatusCode::IM_A_TEAPOT, Duration::ZERO);
        old.request(Version::HTTP_11, &Method::HEAD, StatusCode::OK, Duration::ZERO);
        drop(old);
        let text = encode(&registry).unwrap();
        assert!(!text.contains(r#"listener="public",route="chat""#), "{text}");
        assert!(text.contains(r#"listener="other",route="chat""#), "{text}");
        assert!(
            text.contains(r#"code="2xx",http="1.1",method="HEAD",route="chat"} 1"#),
            "the route goes on counting: {text}"
        );
        assert!(text.contains(r#"listener="public",reason="no_route",route="""#), "{text}");
        drop((new, unrouted));
        assert_eq!(encode(&registry).unwrap(), "");
    }

    #[test]
    fn servers_cannot_make_up_labels() {
        let statuses = (100..1000).map(|status| status_label(StatusCode::from_u16(status).unwrap()));
        assert_eq!(statuses.collect::<std::collections::BTreeSet<_>>().len(), 28);
    }
}
