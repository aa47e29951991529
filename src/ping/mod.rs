//! `wsluice ping`: opens one WebSocket as a client does and shows each step: name, connection, TLS, handshake, Ping, Close.
//!
//! Each step is timed and has a time limit of its own. The first that fails ends it, and [`PingError`] says what to try.

mod advice;
mod report;
mod target;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_EXTENSIONS};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

pub use advice::PingError;
pub use target::{ConnectTo, Target};

use crate::net::listener::Address;
use crate::net::socket::{self, ConnectOptions};
use crate::net::stream::Stream;
use crate::net::transport::Transport;
use crate::tls::client;
use crate::tls::inspect::{self, ShownCertificates};
use crate::upstream::answer_body::AnswerBody;
use crate::upstream::connect::UpstreamIo;
use crate::upstream::handshake::{self, HandshakeReply, Switched};
use crate::upstream::request_head::RequestHead;
use crate::upstream::websocket::WebSocketClient;
use crate::ws::close::CloseBody;
use crate::ws::frame::Opcode;
use crate::ws::handshake::{DEFLATE, Extension, HandshakeAnswer, HandshakeOffer, key};
use report::Report;

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// How much of a refusal's body is shown.
const BODY_BYTES_MAX: usize = 2048;
/// The parameter of permessage-deflate that browsers offer (RFC 7692 §7.1.2.2).
const WINDOW_BITS: &str = "client_max_window_bits";
/// The pause between two Pings.
const PAUSE: Duration = Duration::from_secs(1);

/// What to open, and how.
#[derive(Clone, Debug)]
pub struct PingOptions {
    /// The URL.
    pub target: Target,
    /// Where to connect instead; the name in TLS and `Host` stays.
    pub connect: Option<ConnectTo>,
    /// The web page that asks.
    pub origin: Option<HeaderValue>,
    /// Subprotocols to offer, the best first.
    pub subprotocols: Vec<String>,
    /// Further fields; those of the handshake itself are left out.
    pub headers: HeaderMap,
    /// A file with the authorities to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// Accepts any certificate.
    pub insecure: bool,
    /// How many Pings to send.
    pub count: u32,
    /// The limit of each step.
    pub timeout: Duration,
}

/// Opens the WebSocket, sends its Pings, closes it, and writes to `out` what happens. Needs a tokio runtime.
///
/// # Errors
/// The first step that fails.
pub async fn ping(options: &PingOptions, out: &mut (dyn Write + Send)) -> Result<(), PingError> {
    let mut report = Report::new(out);
    report.title(&options.target);
    let addresses = resolve(options, &mut report).await?;
    let stream = connect(options, &addresses, &mut report).await?;
    let io = if options.target.tls {
        Box::pin(secure(options, stream, &mut report)).await?
    } else {
        Transport::Plain(stream)
    };
    let Switched { io, answer, early, .. } = Box::pin(open(options, io, &mut report)).await?;
    let mut server = WebSocketClient::new(io, &early, answer.rsv());
    let mut times = vec![];
    for number in 0..options.count {
        if number > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        times.push(pong(options, &mut server, &mut report).await?);
    }
    report.summary(&times);
    let begun = Instant::now();
    match timeout(options.timeout, server.close()).await {
        Ok(Ok(payload)) => {
            let close = CloseBody::parse(&payload).ok().and_then(|body| body.code);
            report.step("Close", begun.elapsed(), &close.map_or("no code".to_owned(), |code| code.to_string()));
        }
        Ok(Err(_)) => report.step("Close", begun.elapsed(), "the server ended the connection without a Close"),
        Err(_) => report.step("Close", begun.elapsed(), "the server did not answer the Close"),
    }
    Ok(())
}

/// Looks the name up, as the system does.
async fn resolve(options: &PingOptions, report: &mut Report<'_>) -> Result<Vec<SocketAddr>, PingError> {
    let (host, port) = match &options.connect {
        Some(to) => (to.host.as_str(), to.port),
        None => (options.target.host.as_str(), options.target.port),
    };
    let begun = Instant::now();
    let found = match timeout(options.timeout, lookup_host((host, port))).await {
        Ok(found) => found,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let found = found.inspect_err(|_| report.step("DNS", begun.elapsed(), "failed"));
    let mut addresses: Vec<SocketAddr> = vec![];
    for address in found.map_err(|error| PingError::Resolve { host: host.to_owned(), error })?.take(ADDRESSES_MAX) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if host.parse::<std::net::IpAddr>().is_err() {
        let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        report.step("DNS", begun.elapsed(), &format!("{host} is {}", shown.join(", ")));
    }
    Ok(addresses)
}

/// Connects to the first address that answers.
async fn connect(
    options: &PingOptions,
    addresses: &[SocketAddr],
    report: &mut Report<'_>,
) -> Result<Stream, PingError> {
    let mut failures = vec![];
    for address in addresses {
        let begun = Instant::now();
        let connecting = Address::Tcp(*address);
        let connected = timeout(options.timeout, socket::connect(&connecting, &ConnectOptions::default())).await;
        let error = match connected {
            Ok(Ok(stream)) => {
                report.step("TCP", begun.elapsed(), &address.to_string());
                return Ok(stream);
            }
            Ok(Err(socket::SocketError::Io(error))) => error,
            Ok(Err(error)) => io::Error::other(error),
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        report.step("TCP", begun.elapsed(), &format!("{address}: {error}"));
        failures.push(error);
    }
    Err(PingError::Connect { port: addresses.first().map_or(0, SocketAddr::port), errors: failures })
}

/// Does the TLS handshake.
async fn secure(options: &PingOptions, stream: Stream, report: &mut Report<'_>) -> Result<UpstreamIo, PingError> {
    let (config, shown) = inspect::inspecting_config(options.ca.as_deref(), options.insecure)?;
    let name = client::server_name(&options.target.host)?;
    let begun = Instant::now();
    let connecting = Box::pin(client::connect(stream, name, config));
    let result = match timeout(options.timeout, connecting).await {
        Ok(Ok(stream)) => {
            let version = stream.protocol_version().map_or("TLS", report::tls_version);
            report.step("TLS", begun.elapsed(), version);
            Ok(Transport::Tls(Box::new(stream)))
        }
        Ok(Err(error)) => Err(PingError::Tls { error, target: options.target.clone() }),
        Err(_) => Err(PingError::TlsTimeout),
    };
    if result.is_err() {
        report.step("TLS", begun.elapsed(), "failed");
    }
    certificates(&shown, options, report);
    result
}

fn certificates(shown: &ShownCertificates, options: &PingOptions, report: &mut Report<'_>) {
    let now = SystemTime::now();
    if let Some(summary) = shown.summary(now) {
        report.certificate(&summary, now);
    }
    if options.insecure {
        report.detail("not verified (--insecure)");
    }
}

/// Does the WebSocket handshake.
async fn open(
    options: &PingOptions,
    io: UpstreamIo,
    report: &mut Report<'_>,
) -> Result<Switched<UpstreamIo>, PingError> {
    let offer = offer(options);
    let mut head = head(options, &offer);
    let key = key(fastrand::u128(..).to_ne_bytes());
    let begun = Instant::now();
    let reply = match timeout(options.timeout, handshake::open(io, &mut head, &key, &offer)).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => return Err(PingError::Handshake { error, target: options.target.clone() }),
        Err(_) => return Err(PingError::HandshakeTimeout),
    };
    match reply {
        HandshakeReply::Switched(switched) => {
            report.step("101", begun.elapsed(), &agreed(&switched.answer));
            report.fields(&switched.headers, &[SEC_WEBSOCKET_EXTENSIONS]);
            Ok(switched)
        }
        HandshakeReply::Refused(response) => {
            let status = response.status();
            let reason = status.canonical_reason().unwrap_or("a status without a name");
            report.step(status.as_str(), begun.elapsed(), reason);
            report.fields(response.headers(), &[]);
            Err(refusal(options, response, report).await)
        }
    }
}

/// Shows the beginning of a refusal's body, and returns what it means.
async fn refusal(options: &PingOptions, response: Response<AnswerBody>, report: &mut Report<'_>) -> PingError {
    let (parts, body) = response.into_parts();
    let reading = timeout(options.timeout, first_bytes(body)).await;
    report.body(&reading.unwrap_or_default());
    let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    PingError::Status {
        status: parts.status,
        location: text(http::header::LOCATION),
        retry_after: text(http::header::RETRY_AFTER),
        origin: options.origin.as_ref().map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned()),
        target: options.target.clone(),
    }
}

/// Reads at most `BODY_BYTES_MAX`.
async fn first_bytes(body: AnswerBody) -> Vec<u8> {
    let mut body = Limited::new(body, 16 * BODY_BYTES_MAX);
    let mut kept = vec![];
    while let Some(Ok(frame)) = body.frame().await {
        let bytes: Bytes = frame.into_data().unwrap_or_default();
        kept.extend_from_slice(&bytes[..bytes.len().min(BODY_BYTES_MAX - kept.len())]);
        if kept.len() == BODY_BYTES_MAX {
            break;
        }
    }
    kept
}

/// Offers what browsers do.
fn offer(options: &PingOptions) -> HandshakeOffer {
    let deflate = Extension { name: DEFLATE.to_owned(), params: vec![(WINDOW_BITS.to_owned(), None)] };
    HandshakeOffer { subprotocols: options.subprotocols.clone(), extensions: vec![deflate] }
}

fn head(options: &PingOptions, offer: &HandshakeOffer) -> RequestHead {
    let authority = options.target.authority();
    let host = options.headers.get(HOST).map_or(authority.as_bytes(), HeaderValue::as_bytes);
    let mut head = RequestHead::new(&options.target.path, None, Some(host));
    head.field("sec-websocket-version", b"13");
    head.field("sec-websocket-extensions", format!("{DEFLATE}; {WINDOW_BITS}").as_bytes());
    if !offer.subprotocols.is_empty() {
        head.field("sec-websocket-protocol", offer.subprotocols.join(", ").as_bytes());
    }
    if let Some(origin) = &options.origin {
        head.field(ORIGIN.as_str(), origin.as_bytes());
    }
    if !options.headers.contains_key(http::header::USER_AGENT) {
        head.field("user-agent", concat!("wsluice-ping/", env!("CARGO_PKG_VERSION")).as_bytes());
    }
    // Those that are ours must not come twice.
    let is_ours = |name: &str| name.starts_with("sec-websocket-") || name == "origin";
    for (name, value) in options.headers.iter().filter(|(name, _)| !is_ours(name.as_str())) {
        head.field(name.as_str(), value.as_bytes());
    }
    head.end()
}

fn agreed(answer: &HandshakeAnswer) -> String {
    let names: Vec<&str> = answer.extensions.iter().map(|extension| extension.name.as_str()).collect();
    let extensions = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("subprotocol: {}; extensions: {extensions}", answer.subprotocol.as_deref().unwrap_or("none"))
}

/// Sends a Ping and waits for its Pong; answers the server's own Pings, and counts the messages that come meanwhile.
async fn pong(
    options: &PingOptions,
    server: &mut WebSocketClient<UpstreamIo>,
    report: &mut Report<'_>,
) -> Result<Duration, PingError> {
    let nonce = fastrand::u64(..).to_ne_bytes();
    let begun = Instant::now();
    let mut messages = 0_u32;
    let waiting = async {
        server.send(Opcode::Ping, &nonce).await?;
        loop {
            let (header, payload) = server.frame(0).await?;
            match header.opcode {
                Opcode::Pong if payload == nonce => return Ok(()),
                Opcode::Ping => server.send(Opcode::Pong, &payload).await?,
                Opcode::Close => return Err(PingError::closed(&payload)),
                opcode if !opcode.is_control() && header.fin => messages = messages.saturating_add(1),
                _ => {}
            }
        }
    };
    timeout(options.timeout, waiting).await.unwrap_or(Err(PingError::NoPong))?;
    let took = begun.elapsed();
    let note = match messages {
        0 => String::new(),
        1 => "1 message came before it".to_owned(),
        count => format!("{count} messages came before it"),
    };
    report.step("Pong", took, &note);
    Ok(took)
}

/// Returns true for a status that sends the client elsewhere.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
