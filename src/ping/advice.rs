//! Why a ping failed, and what to try.

use std::io;

use http::StatusCode;
use rustls::{CertificateError, Error as RustlsError};

use super::is_redirect;
use super::target::Target;
use crate::base::error_chain::error_chain;
use crate::tls::TlsError;
use crate::tls::client::TlsConnectError;
use crate::upstream::handshake::HandshakeError;
use crate::upstream::websocket::FrameError;
use crate::ws::close::{CloseBody, CloseCode};

/// The step that failed, and why.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// The name has no address.
    #[error("{host} cannot be resolved")]
    Resolve {
        /// The name.
        host: String,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// No address could be connected to.
    #[error("no address accepts a connection")]
    Connect {
        /// The port.
        port: u16,
        /// What the system says, by address.
        errors: Vec<io::Error>,
    },
    /// TLS could not be set up here.
    #[error("TLS cannot be used")]
    Setup(#[from] TlsError),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {}", tls_reason(.error))]
    Tls {
        /// Why.
        error: TlsConnectError,
        /// The URL.
        target: Target,
    },
    /// The TLS handshake took too long.
    #[error("the server did not finish the TLS handshake in time")]
    TlsTimeout,
    /// The WebSocket handshake failed.
    #[error("the WebSocket handshake failed")]
    Handshake {
        /// Why.
        #[source]
        error: HandshakeError,
        /// The URL.
        target: Target,
    },
    /// There was no answer to the WebSocket handshake.
    #[error("the server did not answer the WebSocket handshake in time")]
    HandshakeTimeout,
    /// The server answered with another status than 101.
    #[error("the server refused the handshake with status {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// Its `Location`.
        location: Option<String>,
        /// Its `Retry-After`.
        retry_after: Option<String>,
        /// The Origin that was sent.
        origin: Option<String>,
        /// The URL.
        target: Target,
    },
    /// The Ping was not answered.
    #[error("no Pong came in time")]
    NoPong,
    /// The server closed the WebSocket before its Pong.
    #[error("the server closed the WebSocket before its Pong: {code}{reason}")]
    Closed {
        /// Its code, or that there is none.
        code: String,
        /// Its reason, if it gives one.
        reason: String,
    },
    /// The WebSocket failed after the 101.
    #[error(transparent)]
    Frames(#[from] FrameError),
}

impl PingError {
    /// A Close of the server with this payload.
    pub(super) fn closed(payload: &[u8]) -> PingError {
        let Ok(body) = CloseBody::parse(payload) else { return FrameError::Protocol("a malformed Close").into() };
        let code = body.code.map_or("no code".to_owned(), |code: CloseCode| code.to_string());
        let reason = if body.reason.is_empty() { String::new() } else { format!(" \"{}\"", body.reason) };
        PingError::Closed { code, reason }
    }

    /// Returns what to try next, in a sentence or two.
    pub fn advice(&self) -> String {
        match self {
            PingError::Resolve { host, .. } => format!(
                "is the name spelled right? `getent hosts {host}` asks the same resolver; `--connect ADDRESS:PORT` goes \
                 around it"
            ),
            PingError::Connect { port, errors } => of_connect(*port, errors),
            PingError::Setup(_) => {
                "check the file of `--ca`; without it, install the system's `ca-certificates`".into()
            }
            PingError::Tls { error, target } => of_tls(error, target),
            PingError::TlsTimeout => {
                "something accepts connections and does not speak TLS: is the port right, or does a \
                                      middlebox hold the bytes back?"
                    .into()
            }
            PingError::Handshake { error, target } => of_handshake(error, target),
            PingError::HandshakeTimeout => {
                "the server reads the request and says nothing: is its event loop blocked, or \
                                            does it wait for something of its own?"
                    .into()
            }
            PingError::Status { .. } => self.of_status(),
            PingError::NoPong => {
                "RFC 6455 (§5.5.2) demands a Pong: the server's event loop may be blocked, or something in \
                                  between buffers what it should pass on"
                    .into()
            }
            PingError::Closed { .. } => {
                "the handshake was fine and the application ended the session: look at its log, and at \
                                         what it wants (a token, a subprotocol: `--header`, `--subprotocol`)"
                    .into()
            }
            PingError::Frames(FrameError::Lost(_)) => {
                "the connection ended right after the 101: look at the server's log; a \
                                                       proxy in between may have lost it"
                    .into()
            }
            PingError::Frames(FrameError::Protocol(_)) => {
                "this is a fault of the server, or of something in between that \
                                                           changes bytes"
                    .into()
            }
        }
    }

    fn of_status(&self) -> String {
        let PingError::Status { status, location, retry_after, origin, target } = self else { return String::new() };
        let host = target.authority();
        match status.as_u16() {
            _ if is_redirect(*status) => {
                let to = location.as_deref().unwrap_or("another URL");
                format!("it sends clients to {to}, and WebSocket clients do not follow: use that URL")
            }
            200..300 => "something answers plain HTTP there: is the path right? A proxy in between that drops `Upgrade` and \
                         `Connection` has the same effect"
                .into(),
            400 if !target.tls => format!(
                "the server dislikes the request: the port may want TLS ({}), or a proxy in between has dropped `Upgrade` or \
                 `Connection`",
                target.with_tls(true)
            ),
            400 => "the server dislikes the request: often a proxy in between has dropped `Upgrade` or `Connection`".into(),
            401 | 407 => "it wants credentials: `--header 'Authorization: Bearer …'` or `--header 'Cookie: …'`".into(),
            403 => match origin {
                None => format!("it may ask for an Origin, as browsers send it: `--origin https://{host}`"),
                Some(origin) => format!("it may not allow the origin {origin}, or want credentials (`--header`)"),
            },
            404 => "no such path there: compare it, slash by slash; behind wsluice, `wsluice check --config FILE --request \
                    URL` tells which route takes it"
                .into(),
            426 => "the server does not want a WebSocket on this path, or wants another version of it".into(),
            429 | 503 => {
                let after = retry_after.as_ref().map_or(String::new(), |after| format!(" (it says: in {after} s)"));
                format!("it has no room now, or is draining: try again later{after}")
            }
            502 | 504 => "a proxy answers, and cannot reach its own server: look at that proxy's log".into(),
            500..600 => "look at the server's log".into(),
            _ => "look at what the answer says".into(),
        }
    }
}

/// Returns why, without what an upstream's configuration could do about it.
fn tls_reason(error: &TlsConnectError) -> String {
    match error {
        TlsConnectError::Untrusted(error) => error.to_string(),
        TlsConnectError::NotTls => "the server does not speak TLS on this port".to_owned(),
        error => error_chain(error).to_string(),
    }
}

fn of_connect(port: u16, errors: &[io::Error]) -> String {
    let has = |kind: io::ErrorKind| errors.iter().any(|error| error.kind() == kind);
    if has(io::ErrorKind::ConnectionRefused) {
        format!(
            "nothing listens on port {port} there: is the server running, and does it bind an address that this machine can \
             reach (not just 127.0.0.1)?"
        )
    } else if has(io::ErrorKind::TimedOut) {
        "nothing answers at all: a firewall may drop the packets, or the address is not the server's".into()
    } else {
        "this machine has no way there: check its network and the address".into()
    }
}

fn of_tls(error: &TlsConnectError, target: &Target) -> String {
    match error {
        TlsConnectError::Untrusted(RustlsError::InvalidCertificate(error)) => of_certificate(error),
        TlsConnectError::NotTls => format!("the port speaks something else than TLS: try {}", target.with_tls(false)),
        TlsConnectError::Closed => format!(
            "does the server have a certificate for {}? If the port does not speak TLS, try {}",
            target.host,
            target.with_tls(false)
        ),
        TlsConnectError::NothingShared(_) => "the server is too old: TLS 1.2 with modern ciphers is the least".into(),
        TlsConnectError::ServerRefused(_) => {
            "it may have no certificate for this name, or want a client's certificate".into()
        }
        TlsConnectError::Untrusted(_) | TlsConnectError::Protocol(_) | TlsConnectError::Io(_) => {
            "look at the server's log; `--insecure` tells whether it is about the certificate".into()
        }
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the certificate at the server, or set this machine's clock if that is wrong".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is this machine's clock right?".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for other names: is this the right server, and was the certificate made for this name?".into()
        }
        _ => "a server must send its intermediates too; for an authority of your own, or a server that signs for itself: \
              `--ca FILE`; to look at the rest all the same: `--insecure`"
            .into(),
    }
}

fn of_handshake(error: &HandshakeError, target: &Target) -> String {
    match error {
        HandshakeError::Closed | HandshakeError::Io(_) | HandshakeError::Malformed(_) if !target.tls => {
            format!("does the port want TLS? Try {}", target.with_tls(true))
        }
        HandshakeError::Closed | HandshakeError::Io(_) => {
            "the server hung up on the request: look at its log; is this the right port?".into()
        }
        HandshakeError::False(_) => {
            "something that is no WebSocket server answers 101: is the path right, and what is in between?".into()
        }
        HandshakeError::Malformed(_)
        | HandshakeError::TooLong
        | HandshakeError::Interims
        | HandshakeError::Answer(_) => "this is not an HTTP server: is the port right?".into(),
        HandshakeError::NoExtendedConnect | HandshakeError::Stream(_) | HandshakeError::Head(_) => {
            "the server may do better by HTTP/1.1".into()
        }
    }
}
