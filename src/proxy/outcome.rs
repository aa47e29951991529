//! The one table of outcomes: what each failure is as a status, and each end as close codes, with the label that the
//! client's text, the log and the metrics share.

use std::time::Duration;

use http::{Method, StatusCode};

use super::StatusAndReason;
use super::body::BodyTooLarge;
use super::denial::{PasswordDenial, ServiceDenial};

use super::hops::RequestLoop;

use crate::auth::service::AskError;
use crate::header::authority::HostError;
use crate::header::coding::CodingError;
use crate::header::path::PathError;
use crate::policy::OriginDenial;
use crate::policy::address::AddressDenial;
use crate::policy::basic::BasicDenial;
use crate::policy::jwt::TokenDenial;
use crate::session::metrics::{EndLabels, Initiator};
use crate::session::stop::StopReason;
use crate::session::{CloseActions, RouteFarewells};
use crate::shared::Away;
use crate::telemetry::panics::Panic;
use crate::upstream::NoEndpoint;
use crate::upstream::connect::ConnectError;
use crate::upstream::handshake::HandshakeError;
use crate::ws::Side;
use crate::ws::close::{Close, CloseCode};
use crate::ws::handshake::OfferError;
use crate::ws::tunnel::{End, Farewell};

/// The log's reason for a request whose answer, a server's, came to its end.
pub const OK: &str = "ok";

/// The same for a redirect of the route.
pub const REDIRECT: &str = "redirect";

/// The same for an answer of the route.
pub const RESPOND: &str = "respond";

/// Why a request fails.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// CONNECT and TRACE are not for a reverse proxy.
    #[error("this method is not supported")]
    Method,
    /// An extended CONNECT for another protocol than WebSocket (RFC 8441 §4, RFC 9220 §3).
    #[error("this protocol is not supported")]
    Protocol,
    /// It is no request of HTTP; carries the reason.
    #[error("no valid HTTP request: {0}")]
    Malformed(String),
    /// The request line is longer than any URI may be.
    #[error("the request's target is over 64 KiB")]
    TargetTooLong,
    /// The head is larger than the listener takes.
    #[error("the request's head is over the listener's limits.header_bytes, or has more fields than limits.headers")]
    HeadTooLarge,
    /// The Host is missing, doubled or malformed.
    #[error("bad Host: {0}")]
    Host(#[from] HostError),
    /// The path cannot be read in one way only.
    #[error("bad path: {0}")]
    Path(#[from] PathError),
    /// The body has a transfer coding that we cannot undo, or a contradictory one.
    #[error("{0}")]
    Coding(#[from] CodingError),
    /// No route matches.
    #[error("no route matches")]
    NoRoute,
    /// Routes match but for the method. Carries those that they take.
    #[error("no route takes this method here")]
    MethodNotAllowed(Vec<Method>),
    /// The client's address is not let in.
    #[error("{0}")]
    Address(#[from] AddressDenial),
    /// It has been here before.
    #[error("{0}")]
    Loop(#[from] RequestLoop),
    /// The origin is not allowed. Carries which, and what was allowed.
    #[error("{0}")]
    Origin(#[from] OriginDenial),
    /// The handshake breaks a rule.
    #[error("{0}")]
    Offer(#[from] OfferError),
    /// Its token does not let it in.
    #[error("{0}")]
    Token(#[from] TokenDenial),
    /// Its name and its password do not let it in.
    #[error("{0}")]
    Password(#[from] PasswordDenial),
    /// The service of its route does not let it in, and has an answer for it.
    #[error("the auth service answers {}", .0.status)]
    AuthDenied(Box<ServiceDenial>),
    /// The service of its route cannot be asked.
    #[error("{0}")]
    AuthUnavailable(AskError),
    /// An operator has denied its subject.
    #[error("its subject is denied by an operator")]
    Denied,
    /// The route takes WebSockets only.
    #[error("this route takes WebSockets only")]
    NotWebSocket,
    /// The client has as many sessions on the route as it may have.
    #[error("the client has as many sessions as limits.per_client allows")]
    ClientSessions,
    /// The client opens sessions too fast. Carries how long it will be until it may.
    #[error("the client makes more handshakes than limits.per_client allows: the next in {0:?}")]
    ClientRate(Duration),
    /// The store that counts clients for all instances cannot be asked.
    #[error("the shared store is away ({}), and shared.redis.on_failure is deny", .0.label())]
    SharedStore(Away),
    /// The route has as many sessions as it may have.
    #[error("the route is full")]
    RouteFull,
    /// Every endpoint has as many sessions as it may have.
    #[error("all endpoints are full")]
    EndpointsFull,
    /// Every endpoint is full, and so is the queue.
    #[error("all endpoints are full, and so is the queue")]
    QueueFull,
    /// Every endpoint was full for as long as a request may wait.
    #[error("no endpoint had room in time")]
    QueueTimeout,
    /// Too many handshakes at once. Carries how long it will be until there is room.
    #[error("too many handshakes at once: there is room in {0:?}")]
    Admission(Duration),
    /// Every endpoint has the weight 0.
    #[error("no endpoint takes new sessions")]
    NoEndpoint,
    /// Every endpoint fails its health check.
    #[error("all endpoints are down")]
    AllDown,
    /// The process is on its way out.
    #[error("shutting down")]
    Draining,
    /// No endpoint could be connected to; this is the last one's error.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// No endpoint completed the handshake; this is the last one's error.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    /// Plain HTTP: the client stopped sending the request's body.
    #[error("the client sent nothing of its request's body for as long as the route's timeouts.body allows")]
    RequestTimeout,
    /// Plain HTTP: the request's body is larger than the route allows.
    #[error("{0}")]
    BodyTooLarge(#[from] BodyTooLarge),
    /// The time for the handshake, or for a response's head, is over.
    #[error("the upstream took too long to answer")]
    Timeout,
    /// Plain HTTP: no endpoint could be connected to; this is the last one's error, in words.
    #[error("{0}")]
    Unreachable(String),
    /// Plain HTTP: the connection failed before the response's head was whole.
    #[error("the upstream failed: {0}")]
    Upstream(String),
    /// Plain HTTP: the upstream switched protocols without being asked.
    #[error("the upstream answered 101 to a plain request")]
    ForeignSwitch,
    /// The handshake of an extended CONNECT got an answer of success that is no WebSocket's. Passed on, it would tell the
    /// client that a tunnel is open (RFC 8441 §5.1).
    #[error("the handshake was answered with {0} and no WebSocket, which the client would take for an open one")]
    OrdinaryAnswer(StatusCode),
    /// A mistake of ours.
    #[error("panic: {0}")]
    Panic(Panic),
}

impl Failure {
    /// Returns the failure of a request that no route takes, though some would with one of these methods.
    pub fn no_route(methods_allowed: Vec<Method>) -> Failure {
        if methods_allowed.is_empty() { Failure::NoRoute } else { Failure::MethodNotAllowed(methods_allowed) }
    }

    /// The table, first half: before a tunnel opens, a status.
    pub fn outcome(&self) -> StatusAndReason {
        match self {
            Failure::Method | Failure::MethodNotAllowed(_) => named(405, "method"),
            Failure::Protocol => named(501, "protocol"),
            Failure::Malformed(_) => named(400, "malformed"),
            Failure::TargetTooLong => named(414, "target_too_long"),
            Failure::HeadTooLarge => named(431, "head_too_large"),
            Failure::Host(_) => named(400, "host"),
            Failure::Path(_) => named(400, "path"),
            Failure::Coding(CodingError::Unknown) => named(501, "transfer_encoding"),
            Failure::Coding(CodingError::Malformed) => named(400, "transfer_encoding"),
            Failure::NoRoute => named(404, "no_route"),
            Failure::Address(_) => named(403, "address"),
            Failure::Loop(_) => named(508, "loop"),
            Failure::Origin(_) => named(403, "origin"),
            Failure::Offer(OfferError::WebSocketVersion) => named(426, "websocket_version"),
            Failure::Offer(_) => named(400, "handshake"),
            Failure::Token(denial) => match denial {
                TokenDenial::Missing(_) => named(401, "token_missing"),
                TokenDenial::Several(_) => named(400, "token_invalid"),
                TokenDenial::Expired(_) => named(401, "token_expired"),
                TokenDenial::Claim { .. } => named(403, "token_claim"),
                TokenDenial::NoKeys => named(503, "no_keys"),
                TokenDenial::Flawed(_)
                | TokenDenial::Algorithm(_)
                | TokenDenial::UnknownKey
                | TokenDenial::Unnamed
                | TokenDenial::Signature
                | TokenDenial::Early
                | TokenDenial::Issuer
                | TokenDenial::Audience => named(401, "token_invalid"),
            },
            Failure::Password(password) => match password.denial {
                BasicDenial::Missing => named(401, "basic_missing"),
                BasicDenial::Several => named(400, "basic_malformed"),
                BasicDenial::Malformed(_) => named(401, "basic_malformed"),
                BasicDenial::Wrong => named(401, "basic_wrong"),
                BasicDenial::Busy => named(503, "basic_busy"),
            },
            Failure::AuthDenied(denial) => StatusAndReason { status: denial.status, reason: "auth_denied" },
            Failure::AuthUnavailable(_) => named(503, "auth_unavailable"),
            Failure::Denied => named(403, "denied"),
            Failure::NotWebSocket => named(426, "not_websocket"),
            Failure::ClientSessions => named(429, "client_sessions"),
            Failure::ClientRate(_) => named(429, "client_rate"),
            Failure::SharedStore(_) => named(503, "shared_store"),
            Failure::RouteFull => named(503, "route_full"),
            Failure::EndpointsFull => named(503, "endpoints_full"),
            Failure::QueueFull => named(503, "queue_full"),
            Failure::QueueTimeout => named(503, "queue_timeout"),
            Failure::Admission(_) => named(503, "admission"),
            Failure::NoEndpoint => named(503, "no_endpoint"),
            Failure::AllDown => named(503, "all_down"),
            Failure::Draining => named(503, "drain"),
            Failure::Connect(ConnectError::Timeout) => named(504, "connect_timeout"),
            Failure::Connect(ConnectError::Exhausted(_)) => named(503, "exhausted"),
            Failure::Connect(_) | Failure::Unreachable(_) => named(502, "connect"),
            Failure::Handshake(_) => named(502, "upstream_handshake"),
            Failure::RequestTimeout => named(408, "request_timeout"),
            Failure::BodyTooLarge(_) => named(413, "body_limit"),
            Failure::Timeout => named(504, "upstream_timeout"),
            Failure::Upstream(_) => named(502, "upstream"),
            Failure::ForeignSwitch => named(502, "upstream_switched"),
            Failure::OrdinaryAnswer(_) => named(502, "ordinary_answer"),
            Failure::Panic(_) => named(500, "panic"),
        }
    }

    /// All labels of the first half, for metrics that begin at 0.
    pub const LABELS: [&'static str; 49] = [
        "method",
        "protocol",
        "malformed",
        "target_too_long",
        "head_too_large",
        "host",
        "path",
        "transfer_encoding",
        "no_route",
        "address",
        "loop",
        "origin",
        "websocket_version",
        "handshake",
        "token_missing",
        "token_invalid",
        "token_expired",
        "token_claim",
        "no_keys",
        "basic_missing",
        "basic_malformed",
        "basic_wrong",
        "basic_busy",
        "auth_denied",
        "auth_unavailable",
        "denied",
        "not_websocket",
        "client_sessions",
        "client_rate",
        "shared_store",
        "route_full",
        "endpoints_full",
        "queue_full",
        "queue_timeout",
        "admission",
        "no_endpoint",
        "all_down",
        "drain",
        "connect_timeout",
        "exhausted",
        "connect",
        "upstream_handshake",
        "request_timeout",
        "body_limit",
        "upstream_timeout",
        "upstream",
        "upstream_switched",
        "ordinary_answer",
        "panic",
    ];

    /// The text for the client, beside the label: nothing internal, but enough to fix its own mistake.
    pub fn hint(&self) -> String {
        match self {
            Failure::Offer(error) => error.to_string(),
            Failure::HeadTooLarge => "the request's head is too large, or has too many fields".into(),
            Failure::Method
            | Failure::Protocol
            | Failure::Malformed(_)
            | Failure::TargetTooLong
            | Failure::Host(_)
            | Failure::Path(_)
            | Failure::Coding(_)
            | Failure::NoRoute
            | Failure::MethodNotAllowed(_)
            | Failure::NotWebSocket => self.to_string(),
            Failure::RequestTimeout => "the request's body took too long to come".into(),
            Failure::BodyTooLarge(_) => "the request's body is too large".into(),
            Failure::Address(_) => "this address is not allowed here".into(),
            Failure::Origin(_) => "this origin is not allowed here".into(),
            Failure::Token(denial) => denial.hint().into(),
            Failure::Password(password) => password.denial.hint().into(),
            Failure::AuthDenied(_) => "the service that says who may come in has refused".into(),
            Failure::AuthUnavailable(_) => "it cannot be told now who may come in, try again later".into(),
            Failure::Denied => "this user is not let in".into(),
            Failure::Loop(_) => "the request has been here before".into(),
            Failure::ClientSessions => "too many connections of this client, close some first".into(),
            Failure::ClientRate(_) => "too many handshakes of this client, try again later".into(),
            Failure::SharedStore(_) => "it cannot be told now who may come in, try again later".into(),
            Failure::RouteFull
            | Failure::EndpointsFull
            | Failure::QueueFull
            | Failure::QueueTimeout
            | Failure::Connect(ConnectError::Exhausted(_))
            | Failure::Admission(_) => "too many connections, try again later".into(),
            Failure::NoEndpoint | Failure::AllDown => "no server takes connections now, try again later".into(),
            Failure::Draining => "this service is drained, try again".into(),
            Failure::Panic(_) => "the proxy failed on this request".into(),
            Failure::Timeout | Failure::Connect(ConnectError::Timeout) => "the server took too long to answer".into(),
            Failure::Connect(_)
            | Failure::Unreachable(_)
            | Failure::Handshake(_)
            | Failure::Upstream(_)
            | Failure::OrdinaryAnswer(_)
            | Failure::ForeignSwitch => "the server could not be reached or did not answer properly".into(),
        }
    }
}

const fn named(status: u16, reason: &'static str) -> StatusAndReason {
    let status = match status {
        400 => StatusCode::BAD_REQUEST,
        401 => StatusCode::UNAUTHORIZED,
        403 => StatusCode::FORBIDDEN,
        404 => StatusCode::NOT_FOUND,
        405 => StatusCode::METHOD_NOT_ALLOWED,
        408 => StatusCode::REQUEST_TIMEOUT,
        413 => StatusCode::PAYLOAD_TOO_LARGE,
        414 => StatusCode::URI_TOO_LONG,
        426 => StatusCode::UPGRADE_REQUIRED,
        429 => StatusCode::TOO_MANY_REQUESTS,
        431 => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        501 => StatusCode::NOT_IMPLEMENTED,
        502 => StatusCode::BAD_GATEWAY,
        503 => StatusCode::SERVICE_UNAVAILABLE,
        504 => StatusCode::GATEWAY_TIMEOUT,
        508 => StatusCode::LOOP_DETECTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    StatusAndReason { status, reason }
}

impl From<NoEndpoint> for Failure {
    fn from(none: NoEndpoint) -> Failure {
        match none {
            NoEndpoint::Full => Failure::EndpointsFull,
            NoEndpoint::AllDown => Failure::AllDown,
            NoEndpoint::Closed | NoEndpoint::AllTried => Failure::NoEndpoint,
        }
    }
}

/// The table, second half: after the tunnel opened, a Close for each side. `farewells` are what the route wants
/// its clients to get; `stop` is why the proxy stops the session.
pub fn closing(end: &End, stop: Option<&StopReason>, farewells: &RouteFarewells) -> CloseActions {
    use CloseCode as Code;
    use Initiator::{Client, Proxy, Server};
    let row = |client: Option<(Code, &'static str)>, server: Option<Code>, initiator, reason| CloseActions {
        client: client.map_or(Farewell::Nothing, |(code, reason)| Farewell::Close(Close::new(code, reason))),
        server: server.map_or(Farewell::Nothing, |code| Farewell::Close(Close::new(code, ""))),
        initiator,
        reason,
    };
    let away = Some(Code::GOING_AWAY);
    // RFC 6455 §7.1.7: the side that broke a rule gets its code, the server too. A client, which may have done nothing,
    // always gets the reason.
    let to_server = |by: Side, code| if by == Side::Server { Some(code) } else { away };
    match end {
        //                                     client                                       server  who     label
        End::Closed { by: Side::Client, .. } => row(None, None, Client, "closed"),
        End::Closed { by: Side::Server, .. } => row(None, None, Server, "closed"),
        End::Finished(Side::Client) => row(None, None, Client, "finished"),
        End::Finished(Side::Server) => row(None, None, Server, "finished"),
        End::Lost(Side::Client) => row(None, away, Client, "client_lost"),
        End::Lost(Side::Server) => {
            CloseActions { client: farewells.upstream_lost.clone(), ..row(None, None, Server, "upstream_lost") }
        }
        End::Idle => row(Some((Code::GOING_AWAY, "idle timeout")), away, Proxy, "idle"),
        End::Dead(Side::Client) => row(None, away, Proxy, "client_dead"),
        End::Dead(Side::Server) => row(Some((Code::GOING_AWAY, "upstream dead")), None, Proxy, "upstream_dead"),
        End::Lifetime => row(Some((Code::SERVICE_RESTART, "lifetime reached")), away, Proxy, "lifetime"),
        End::Expired => row(Some((farewells.expired, "credential expired")), away, Proxy, "credential_expired"),
        End::Stopped => {
            let (client, reason) = stopping(stop.unwrap_or(&StopReason::Drain));
            CloseActions { client: Farewell::Close(client), ..row(None, away, Proxy, reason) }
        }
        End::Panicked => {
            row(Some((Code::INTERNAL_ERROR, "internal error")), Some(Code::INTERNAL_ERROR), Proxy, "panic")
        }
        End::FrameTooLarge(_) => row(Some((Code::MESSAGE_TOO_BIG, "frame too large")), away, Proxy, "frame_limit"),
        End::MessageTooLarge(_) => {
            row(Some((Code::MESSAGE_TOO_BIG, "message too large")), away, Proxy, "message_limit")
        }
        // Rules of this service, and not of the protocol.
        End::TooManyFragments(by) => {
            let code = Code::POLICY_VIOLATION;
            row(Some((code, "too many fragments")), to_server(*by, code), Proxy, "fragment_limit")
        }
        End::TooManyControls(by) => {
            let code = Code::POLICY_VIOLATION;
            row(Some((code, "too many control frames")), to_server(*by, code), Proxy, "control_limit")
        }
        End::RateExceeded(by) => {
            let code = Code::POLICY_VIOLATION;
            row(Some((code, "rate exceeded")), to_server(*by, code), Proxy, "rate_limit")
        }
        End::Violation { by, label } if label == "invalid_utf8" => {
            let code = Code::INVALID_PAYLOAD;
            row(Some((code, "invalid UTF-8")), to_server(*by, code), Proxy, "invalid_utf8")
        }
        End::Violation { by, .. } => {
            let code = Code::PROTOCOL_ERROR;
            row(Some((code, "protocol error")), to_server(*by, code), Proxy, "protocol_error")
        }
    }
}

/// The Close for a client that should reconnect, and the label: for a developer at the browser's console, without
/// internals.
fn stopping(why: &StopReason) -> (Close, &'static str) {
    let text = match why {
        StopReason::Drain => "service restart",
        StopReason::Rebalance => "moved to another server, please reconnect",
        StopReason::EndpointDrain => "this server is taken out of service, please reconnect",
        StopReason::EndpointDown => "this server is not well, please reconnect",
        StopReason::Reload => "the service has changed, please reconnect",
        StopReason::ListenerDrain => "this address is taken out of service, please reconnect",
        StopReason::RouteDrain => "this service is moved, please reconnect",
        StopReason::UpstreamDrain => "the servers are taken out of service, please reconnect",
        StopReason::Upgrade => "the service is upgraded, please reconnect",
        StopReason::Operator(close) => return (Close::clone(close), why.label()),
    };
    (Close::new(CloseCode::SERVICE_RESTART, text), why.label())
}

/// The endings that can be named beforehand, for metrics that begin at 0.
pub fn endings() -> Vec<EndLabels> {
    use Initiator::{Client, Proxy, Server};
    // What the operator's own Close says is not known beforehand, but for the usual one.
    let code = |reason| Some(if reason == "operator" { 1008 } else { 1012 });
    let stops = StopReason::LABELS.map(|reason| (Proxy, code(reason), reason));
    let others = [
        (Client, Some(1000), "closed"),
        (Client, Some(1001), "closed"),
        (Client, None, "closed"),
        (Server, Some(1000), "closed"),
        (Server, Some(1001), "closed"),
        (Client, None, "client_lost"),
        (Server, None, "upstream_lost"),
        (Proxy, Some(1001), "idle"),
        (Proxy, None, "client_dead"),
        (Proxy, Some(1001), "upstream_dead"),
        (Proxy, Some(1012), "lifetime"),
        (Proxy, Some(4401), "credential_expired"),
        (Proxy, Some(1011), "panic"),
        (Proxy, Some(1009), "frame_limit"),
        (Proxy, Some(1009), "message_limit"),
        (Proxy, Some(1008), "rate_limit"),
        (Proxy, Some(1008), "fragment_limit"),
        (Proxy, Some(1008), "control_limit"),
        (Proxy, Some(1002), "protocol_error"),
        (Proxy, Some(1007), "invalid_utf8"),
        (Proxy, None, "cut"),
    ];
    others.into_iter().chain(stops).map(|(initiator, code, reason)| EndLabels::new(initiator, code, reason)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const FAREWELLS: RouteFarewells = RouteFarewells { upstream_lost: Farewell::Cut, expired: CloseCode(4401) };

    #[test]
    fn every_close_may_stand_on_the_wire() {
        let lost = |side| End::Lost(side);
        let stop = Some(StopReason::Operator(Arc::new(Close::new(CloseCode(4321), "be good"))));
        let violation = |label: &'static str| End::Violation { by: Side::Client, label: label.into() };
        for end in [
            lost(Side::Client),
            lost(Side::Server),
            End::Idle,
            End::Dead(Side::Client),
            End::Dead(Side::Server),
            End::Lifetime,
            End::Expired,
            End::Stopped,
            End::Panicked,
            End::FrameTooLarge(Side::Client),
            End::MessageTooLarge(Side::Server),
            End::TooManyFragments(Side::Client),
            End::TooManyControls(Side::Server),
            End::RateExceeded(Side::Client),
            violation("reserved_bits"),
            violation("invalid_utf8"),
        ] {
            let closing = closing(&end, stop.as_ref(), &FAREWELLS);
            for farewell in [closing.client, closing.server] {
                if let Farewell::Close(close) = farewell {
                    assert!(close.code.is_some_and(CloseCode::is_sendable), "{end:?}");
                }
            }
        }
    }

    #[test]
    fn the_side_that_broke_a_rule_gets_its_code_and_an_innocent_server_gets_going_away() {
        type Broken = fn(Side) -> End;
        let table: [(Broken, CloseCode); 5] = [
            (End::TooManyFragments, CloseCode::POLICY_VIOLATION),
            (End::TooManyControls, CloseCode::POLICY_VIOLATION),
            (End::RateExceeded, CloseCode::POLICY_VIOLATION),
            (|by| End::Violation { by, label: "reserved_bits".into() }, CloseCode::PROTOCOL_ERROR),
            (|by| End::Violation { by, label: "invalid_utf8".into() }, CloseCode::INVALID_PAYLOAD),
        ];
        for (broken, code) in table {
            for (by, server) in [(Side::Client, CloseCode::GOING_AWAY), (Side::Server, code)] {
                let closing = closing(&broken(by), None, &FAREWELLS);
                let Farewell::Close(client) = closing.client else { panic!("no Close") };
                assert_eq!(client.code, Some(code));
                assert_eq!(closing.server, Farewell::Close(Close::new(server, "")));
            }
        }
    }

    #[test]
    fn a_stopped_client_gets_the_reason_and_may_come_back() {
        use StopReason::*;
        let all = [
            (Drain, "drain"),
            (Rebalance, "rebalance"),
            (EndpointDrain, "endpoint_drain"),
            (EndpointDown, "endpoint_down"),
            (Reload, "reload"),
            (ListenerDrain, "listener_drain"),
            (RouteDrain, "route_drain"),
            (UpstreamDrain, "upstream_drain"),
            (Upgrade, "upgrade"),
        ];
        for (why, label) in all {
            let closing = closing(&End::Stopped, Some(&why), &FAREWELLS);
            let Farewell::Close(client) = closing.client else { panic!("{label}: no Close") };
            assert_eq!((client.code, closing.reason), (Some(CloseCode::SERVICE_RESTART), label));
            assert_eq!(closing.server, Farewell::Close(Close::new(CloseCode::GOING_AWAY, "")));
            // RFC 6455 §5.5: what is longer would be cut.
            assert!((15..=123).contains(&client.reason.len()), "{}", client.reason);
            assert!(endings().contains(&EndLabels::new(Initiator::Proxy, Some(1012), label)), "{label}");
            assert!(StopReason::LABELS.contains(&label), "{label}");
        }
        let said = Close::new(CloseCode(4001), "be good");
        let closing = closing(&End::Stopped, Some(&Operator(Arc::new(said.clone()))), &FAREWELLS);
        assert_eq!((closing.client, closing.reason), (Farewell::Close(said), "operator"));
        assert_eq!(closing.server, Farewell::Close(Close::new(CloseCode::GOING_AWAY, "")));
    }

    #[test]
    fn what_a_client_gets_whose_server_is_lost_is_for_its_route_to_say() {
        let close = Farewell::Close(Close::new(CloseCode(4321), "come back"));
        for wanted in [close, Farewell::Cut] {
            let farewells = RouteFarewells { upstream_lost: wanted.clone(), ..FAREWELLS };
            let closing = closing(&End::Lost(Side::Server), None, &farewells);
            assert_eq!((closing.client, closing.server), (wanted, Farewell::Nothing));
        }
    }

    #[test]
    fn every_status_is_one_of_the_documented() {
        for failure in [Failure::Method, Failure::NoRoute, Failure::NotWebSocket, Failure::RouteFull, Failure::Timeout]
        {
            let outcome = failure.outcome();
            assert_ne!(outcome.status, StatusCode::INTERNAL_SERVER_ERROR);
            assert!(Failure::LABELS.contains(&outcome.reason));
        }
    }
}
