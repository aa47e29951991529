//! Metrics of listeners: connections, their errors before a request is read, and TLS.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

use crate::base::labels::variant_labels;
use crate::telemetry::counters::{Active, Counters, seconds};
use crate::telemetry::labelled::{HistogramVec, IntCounterVec, IntGaugeVec};
use crate::telemetry::series::{SeriesGuard, SeriesRegistry};

/// What has ended, delayed or refused a connection before a request could be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionError {
    /// No descriptor was left, so accepting paused.
    AcceptPaused,
    /// The listener has reached its connection limit.
    Limit,
    /// The listener's `addresses` do not let it in.
    Address,
    /// The client has as many connections as it may have on which nobody was let in.
    Unauthenticated,
    /// The PROXY protocol header is missing, malformed or unwanted.
    ProxyProtocol,
    /// The TLS handshake took too long.
    TlsTimeout,
    /// The TLS handshake failed: no common version or cipher, no certificate, an alert.
    TlsFailed,
    /// The server name that the client sends in TLS (SNI) is not a DNS name.
    TlsServerName,
    /// The client left during the TLS handshake.
    TlsClosed,
    /// The request head took too long.
    HeaderTimeout,
    /// The request head is not HTTP, or larger than allowed.
    BadRequest,
    /// The client read nothing of a plain HTTP response for too long.
    SendTimeout,
    /// The client broke a rule of HTTP/2 (RFC 9113).
    Http2Protocol,
    /// The client sent floods of frames without data, or opened and reset streams without end.
    Http2Flood,
    /// Reading or writing failed otherwise.
    Io,
}

variant_labels! {
    ConnectionError {
        AcceptPaused => "accept_paused",
        Limit => "limit",
        Address => "address",
        Unauthenticated => "unauthenticated",
        ProxyProtocol => "proxy_protocol",
        TlsTimeout => "tls_timeout",
        TlsFailed => "tls_failed",
        TlsServerName => "tls_server_name",
        TlsClosed => "tls_closed",
        HeaderTimeout => "header_timeout",
        BadRequest => "bad_request",
        SendTimeout => "send_timeout",
        Http2Protocol => "http2_protocol",
        Http2Flood => "http2_flood",
        Io => "io",
    }
}

/// The negotiated version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersionLabel {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

variant_labels! {
    TlsVersionLabel {
        Tls12 => "1.2",
        Tls13 => "1.3",
    }
}

/// From a resumed handshake with a neighbour (one round trip, no signature) to the 10 s allowed by default; 1 s and
/// 3 s are where a client arrives whose packet was lost once or twice.
const TLS_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0];

/// The metric families of all listeners.
#[derive(Clone, Debug)]
pub struct Metrics {
    active: IntGaugeVec,
    total: IntCounterVec,
    errors: IntCounterVec,
    tls_handshakes: IntCounterVec,
    tls_duration: HistogramVec,
    http2_connections: IntGaugeVec,
    http2_streams: IntGaugeVec,
    http2_resets: IntCounterVec,
    http2_goaways: IntCounterVec,
    http2_stalls: IntCounterVec,
    by_listener: SeriesRegistry<1>,
    by_tls_listener: SeriesRegistry<1>,
}

impl Metrics {
    /// Creates and registers the families.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            active: IntGaugeVec::new(
                Opts::new("wsluice_connections_active", "Client connections open at this moment."),
                &["listener"],
            )?,
            total: IntCounterVec::new(
                Opts::new("wsluice_connections_total", "Client connections accepted."),
                &["listener"],
            )?,
            errors: IntCounterVec::new(
                Opts::new(
                    "wsluice_connection_errors_total",
                    "Connections ended or delayed before a request could be answered, by reason.",
                ),
                &["listener", "reason"],
            )?,
            tls_handshakes: IntCounterVec::new(
                Opts::new("wsluice_tls_handshakes_total", "TLS handshakes completed with clients."),
                &["listener", "version", "resumed"],
            )?,
            tls_duration: HistogramVec::new(
                HistogramOpts::new("wsluice_tls_handshake_duration_seconds", "Time a client's TLS handshake took.")
                    .buckets(TLS_SECONDS.into()),
                &["listener"],
            )?,
            http2_connections: IntGaugeVec::new(
                Opts::new("wsluice_http2_connections_active", "Client connections of HTTP/2 open at this moment."),
                &["listener"],
            )?,
            http2_streams: IntGaugeVec::new(
                Opts::new(
                    "wsluice_http2_streams_active",
                    "Streams on client connections of HTTP/2 open at this moment: requests and WebSockets.",
                ),
                &["listener"],
            )?,
            http2_resets: IntCounterVec::new(
                Opts::new("wsluice_http2_resets_total", "RST_STREAM frames from (in) and to (out) clients."),
                &["listener", "direction"],
            )?,
            http2_goaways: IntCounterVec::new(
                Opts::new("wsluice_http2_goaways_total", "GOAWAY frames from (in) and to (out) clients."),
                &["listener", "direction"],
            )?,
            http2_stalls: IntCounterVec::new(
                Opts::new(
                    "wsluice_http2_stalls_total",
                    "Times that a stream to a client had to wait for a window of HTTP/2 or for room to send.",
                ),
                &["listener"],
            )?,
            by_listener: SeriesRegistry::new(["listener"]),
            by_tls_listener: SeriesRegistry::new(["listener"]),
        };
        metrics.by_listener.register(registry, &metrics.active)?;
        metrics.by_listener.register(registry, &metrics.total)?;
        metrics.by_listener.register(registry, &metrics.errors)?;
        for gauge in [&metrics.http2_connections, &metrics.http2_streams] {
            metrics.by_listener.register(registry, gauge)?;
        }
        for counter in [&metrics.http2_resets, &metrics.http2_goaways, &metrics.http2_stalls] {
            metrics.by_listener.register(registry, counter)?;
        }
        metrics.by_tls_listener.register(registry, &metrics.tls_handshakes)?;
        metrics.by_tls_listener.register(registry, &metrics.tls_duration)?;
        Ok(metrics)
    }

    /// Creates the metrics of one listener; its series exist until they are dropped.
    pub fn listener(&self, listener: &str, security: Security) -> ListenerMetrics {
        let held = self.by_listener.guard([listener]);
        let tls_held = (security == Security::Tls).then(|| self.by_tls_listener.guard([listener]));
        let (errors, tls) = (self.errors.clone(), self.tls_handshakes.clone());
        let (errors_of, tls_of) = (listener.to_owned(), listener.to_owned());
        let known: &[(TlsVersionLabel, bool)] = match security {
            Security::Plain => &[],
            Security::Tls => &[
                (TlsVersionLabel::Tls12, false),
                (TlsVersionLabel::Tls12, true),
                (TlsVersionLabel::Tls13, false),
                (TlsVersionLabel::Tls13, true),
            ],
        };
        ListenerMetrics {
            active: self.active.with_label_values(&[listener]),
            total: self.total.with_label_values(&[listener]),
            errors: Counters::new(&ConnectionError::ALL, move |error| {
                errors.with_label_values(&[&*errors_of, error.label()])
            }),
            tls_handshakes: Counters::new(known, move |&(version, resumed)| {
                tls.with_label_values(&[&*tls_of, version.label(), if resumed { "true" } else { "false" }])
            }),
            tls_duration: match security {
                Security::Plain => None,
                Security::Tls => Some(self.tls_duration.with_label_values(&[listener])),
            },
            http2: Http2Metrics {
                connections: self.http2_connections.with_label_values(&[listener]),
                streams: self.http2_streams.with_label_values(&[listener]),
                reset_in: self.http2_resets.with_label_values(&[listener, "in"]),
                reset_out: self.http2_resets.with_label_values(&[listener, "out"]),
                goaway_in: self.http2_goaways.with_label_values(&[listener, "in"]),
                goaway_out: self.http2_goaways.with_label_values(&[listener, "out"]),
                stalls: self.http2_stalls.with_label_values(&[listener]),
            },
            _held: (held, tls_held),
        }
    }
}

/// The metrics of a listener's HTTP/2.
#[derive(Debug)]
pub struct Http2Metrics {
    connections: IntGauge,
    streams: IntGauge,
    /// Streams that clients have reset.
    pub reset_in: IntCounter,
    /// Streams that were reset here.
    pub reset_out: IntCounter,
    /// GOAWAY frames of clients.
    pub goaway_in: IntCounter,
    /// GOAWAY frames to clients.
    pub goaway_out: IntCounter,
    /// Waits for a window.
    pub stalls: IntCounter,
}

impl Http2Metrics {
    /// Counts a connection, which is active until the result is dropped.
    pub fn connection(&self) -> Active {
        Active::new(&self.connections)
    }

    /// Counts a stream, which is active until the result is dropped.
    pub fn stream(&self) -> Active {
        Active::new(&self.streams)
    }
}

/// Whether a listener terminates TLS; only then has it series about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Plain TCP or a Unix socket.
    Plain,
    /// TLS is terminated here.
    Tls,
}

/// The metrics of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    active: IntGauge,
    total: IntCounter,
    errors: Counters<ConnectionError>,
    tls_handshakes: Counters<(TlsVersionLabel, bool)>,
    tls_duration: Option<Histogram>,
    /// HTTP/2.
    pub http2: Http2Metrics,
    _held: (SeriesGuard, Option<SeriesGuard>),
}

impl ListenerMetrics {
    /// Counts an accepted connection, which is active until the result is dropped.
    pub fn accept(&self) -> Active {
        self.total.inc();
        Active::new(&self.active)
    }

    /// Counts a connection that another process has accepted, which is active until the result is dropped.
    pub fn arrived(&self) -> Active {
        Active::new(&self.active)
    }

    /// Counts an error of a connection.
    pub fn error(&self, error: ConnectionError) {
        self.errors.inc(error);
    }

    /// Counts a completed TLS handshake.
    pub fn tls_handshake(&self, version: TlsVersionLabel, resumed: bool, took: Duration) {
        self.tls_handshakes.inc((version, resumed));
        if let Some(duration) = &self.tls_duration {
            duration.observe(seconds(took));
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;

    #[test]
    fn listeners_count_connections_errors_and_tls() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let listener = metrics.listener("public", Security::Tls);
        let active = listener.accept();
        drop(listener.accept());
        listener.error(ConnectionError::HeaderTimeout);
        listener.tls_handshake(TlsVersionLabel::Tls13, true, Duration::from_micros(900));
        let text = encode(&registry).unwrap();
        drop(active);
        for line in [
            r#"wsluice_connections_active{listener="public"} 1"#,
            r#"wsluice_connections_total{listener="public"} 2"#,
            r#"wsluice_connection_errors_total{listener="public",reason="header_timeout"} 1"#,
            r#"wsluice_connection_errors_total{listener="public",reason="accept_paused"} 0"#,
            r#"wsluice_tls_handshakes_total{listener="public",resumed="true",version="1.3"} 1"#,
            r#"wsluice_tls_handshakes_total{listener="public",resumed="false",version="1.2"} 0"#,
            r#"wsluice_tls_handshake_duration_seconds_bucket{listener="public",le="0.001"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn series_go_with_the_listener() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let tls = metrics.listener("public", Security::Tls);
        let plain = metrics.listener("public", Security::Plain);
        drop(tls);
        let text = encode(&registry).unwrap();
        assert!(text.contains("wsluice_connections_total{") && !text.contains("wsluice_tls_"), "{text}");
        drop(plain);
        assert_eq!(encode(&registry).unwrap(), "");
    }

    #[test]
    fn a_plain_listener_says_nothing_of_tls() {
        let registry = Registry::new();
        let _listener = Metrics::register(&registry).unwrap().listener("plain", Security::Plain);
        assert!(!encode(&registry).unwrap().contains("wsluice_tls_handshake"));
    }
}
