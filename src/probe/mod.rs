//! Active health checks: each endpoint is probed at intervals, apart from any client.
//!
//! A probe takes the same way as a session (`upstream::connect`, TLS included, and our own handshake), or it would
//! find healthy what no session can use. It takes no permit: it is not load. All probes of the process run on one
//! thread that relays nothing, since probing on every worker would multiply them.
//!
//! Only the probing is here, once (`Check`) and at intervals (`watch`). `health::threshold` counts results, and
//! `upstream` decides what they mean for a pick.

pub mod http;
pub mod metrics;
pub mod tcp;
pub mod watch;

pub mod websocket;

use std::time::Duration;

use ::http::StatusCode;
use tokio::time::{Instant, timeout_at};

use crate::health::threshold::HealthThresholds;
use crate::upstream::connect::{ConnectError, Connector};
use crate::upstream::handshake::HandshakeError;
use crate::upstream::opener::OpenError;
use crate::upstream::websocket::FrameError;
use crate::ws::close::CloseCode;

/// The name of a probe, for readers of the endpoint's log.
const AGENT: &str = "wsluice-probe";
/// How much of a body or message is looked at; a health answer has a line.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A health check as an upstream has it.
#[derive(Clone, Debug)]
pub struct Check {
    /// The kind of probe.
    pub probe: Probe,
    /// The time from the start of one probe to the start of the next.
    pub every: Duration,
    /// The limit of one whole probe.
    pub timeout: Duration,
    /// How many results decide.
    pub rule: HealthThresholds,
}

/// The kinds of probes.
#[derive(Clone, Debug)]
pub enum Probe {
    /// Connects.
    Tcp,
    /// Sends an HTTP request.
    Http(http::HttpProbe),
    /// Opens a WebSocket.
    WebSocket(websocket::WebSocket),
}

/// What a probe waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStage {
    /// A connection.
    Connect,
    /// An answer to the request.
    Answer,
    /// The Pong.
    Pong,
    /// The expected message.
    Message,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// No WebSocket.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    /// No HTTP response, or half of one.
    #[error("no complete HTTP response")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A status that is not a good one.
    #[error("it answered with status {0}")]
    Status(StatusCode),
    /// The body is not as expected.
    #[error("the body is not as expected")]
    Body,
    /// The 101 chose no subprotocol.
    #[error("it did not choose the subprotocol")]
    Subprotocol,
    /// The server closed the WebSocket.
    #[error("it closed the WebSocket{}", .0.map_or_else(String::new, |code| format!(" with code {code}")))]
    Closed(Option<CloseCode>),
    /// The WebSocket failed after the 101.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// Time was over.
    #[error("{}", match .0 {
        ProbeStage::Connect => "connecting took too long",
        ProbeStage::Answer => "it did not answer in time",
        ProbeStage::Pong => "it did not answer the Ping in time",
        ProbeStage::Message => "the expected message did not come in time",
    })]
    Timeout(ProbeStage),
}

impl From<OpenError> for ProbeError {
    fn from(error: OpenError) -> ProbeError {
        match error {
            OpenError::Connect(error) => error.into(),
            OpenError::Handshake(error) => error.into(),
            OpenError::Timeout => ProbeError::Timeout(ProbeStage::Answer),
        }
    }
}

impl ProbeError {
    /// All names used in metrics and logs.
    pub const LABELS: [&'static str; 22] = [
        "resolve",
        "connect",
        "connect_timeout",
        "tls",
        "exhausted",
        "not_http2",
        "http2",
        "handshake_lost",
        "bad_response",
        "false_101",
        "no_extended_connect",
        "stream_refused",
        "stream_reset",
        "request_head",
        "status",
        "body",
        "subprotocol",
        "closed",
        "protocol",
        "answer_timeout",
        "pong_timeout",
        "message_timeout",
    ];

    /// Returns the name used in metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            ProbeError::Connect(error) => error.label(),
            ProbeError::Handshake(error) => error.label(),
            ProbeError::Http(_) => "bad_response",
            ProbeError::Status(_) => "status",
            ProbeError::Body => "body",
            ProbeError::Subprotocol => "subprotocol",
            ProbeError::Closed(_) | ProbeError::Frames(FrameError::Lost(_)) => "closed",
            ProbeError::Frames(FrameError::Protocol(_)) => "protocol",
            ProbeError::Timeout(ProbeStage::Connect) => "connect_timeout",
            ProbeError::Timeout(ProbeStage::Answer) => "answer_timeout",
            ProbeError::Timeout(ProbeStage::Pong) => "pong_timeout",
            ProbeError::Timeout(ProbeStage::Message) => "message_timeout",
        }
    }

    /// Returns true if it shows nothing about the endpoint.
    pub fn is_ours(&self) -> bool {
        matches!(self, ProbeError::Connect(error) if error.is_ours())
    }
}

impl Probe {
    /// Returns the name used in metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Probe::Tcp => "tcp",
            Probe::Http(_) => "http",
            Probe::WebSocket(_) => "websocket",
        }
    }
}

impl Check {
    /// Probes once.
    ///
    /// # Errors
    /// What is wrong with the endpoint.
    pub async fn once(&self, connector: &Connector) -> Result<(), ProbeError> {
        let deadline = Instant::now() + self.timeout;
        let mut stage = ProbeStage::Connect;
        let steps = async {
            match &self.probe {
                Probe::Tcp => tcp::run(connector, deadline).await,
                Probe::Http(http) => http.run(connector, deadline, &mut stage).await,
                Probe::WebSocket(websocket) => websocket.run(connector, deadline, &mut stage).await,
            }
        };
        let ended = timeout_at(deadline, Box::pin(steps)).await;
        ended.unwrap_or(Err(ProbeError::Timeout(stage)))
    }
}
