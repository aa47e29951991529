//! The proxy's own answers (refusals, redirects), and the changes to a server's.

use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, SEC_WEBSOCKET_VERSION,
    SET_COOKIE, UPGRADE, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use super::body::{self, Body};
use super::denial::ServiceDenial;
use super::edits::HeaderEdits;
use super::outcome::Failure;
use super::page::Page;
use crate::header::{Host, coding, hop_by_hop, length, trailers};
use crate::policy::basic::BasicDenial;
use crate::policy::clients::seconds_until;
use crate::policy::jwt::TokenDenial;
use crate::upstream::connect::ConnectError;
use crate::ws::handshake::OfferError;

/// When to come back who has too many sessions. Nobody knows when one of them ends; soon enough for somebody who closes a tab.
const CLIENT_SESSIONS_SECONDS: u32 = 10;

/// Seconds that a refused client is asked to wait: a random number in this range, so that they do not all come back at
/// once.
const RETRY_SECONDS: std::ops::RangeInclusive<u32> = 1..=10;

/// The answer for a failure: its status, and a line of text that names the reason.
pub fn failure(failure: &Failure) -> Response<Body> {
    if let Failure::AuthDenied(denial) = failure {
        return denied(denial);
    }
    let outcome = failure.outcome();
    let text = format!("{}: {}\n", outcome.reason, failure.hint());
    let mut response = Response::new(body::full(text));
    *response.status_mut() = outcome.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match failure {
        // RFC 9110 §15.5.6: what is allowed instead. Others than these pass, too; a server knows of itself which.
        Failure::Method => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"));
        }
        // Here the routes say which.
        Failure::MethodNotAllowed(methods) => {
            let names = methods.iter().map(http::Method::as_str).collect::<Vec<_>>().join(", ");
            // Tokens and commas are a value.
            headers.extend(HeaderValue::try_from(names).ok().map(|names| (ALLOW, names)));
        }
        // RFC 6455 §4.4: the versions that we speak.
        Failure::Offer(OfferError::WebSocketVersion) => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        // RFC 6750 §3.
        Failure::Token(denial) => {
            let challenge = denial.challenge().and_then(|challenge| HeaderValue::try_from(challenge).ok());
            headers.extend(challenge.map(|challenge| (WWW_AUTHENTICATE, challenge)));
            if *denial == TokenDenial::NoKeys {
                headers.insert(RETRY_AFTER, HeaderValue::from(fastrand::u32(RETRY_SECONDS)));
            }
        }
        // RFC 7617 §2.
        Failure::Password(password) => {
            headers.extend(password.challenge.clone().map(|challenge| (WWW_AUTHENTICATE, challenge)));
            if password.denial == BasicDenial::Busy {
                headers.insert(RETRY_AFTER, HeaderValue::from(fastrand::u32(RETRY_SECONDS)));
            }
        }
        // RFC 9110 §15.5.22: a 426 says what to upgrade to.
        Failure::NotWebSocket => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        // When there will be room, and a quarter more by chance: other instances promise the same seconds.
        Failure::Admission(after) => {
            let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.saturating_add(fastrand::u32(0..=seconds / 4 + 1))));
        }
        Failure::ClientRate(after) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds_until(*after)));
        }
        Failure::ClientSessions => {
            headers.insert(RETRY_AFTER, HeaderValue::from(CLIENT_SESSIONS_SECONDS));
        }
        Failure::AuthUnavailable(_)
        | Failure::RouteFull
        | Failure::EndpointsFull
        | Failure::QueueFull
        | Failure::QueueTimeout
        | Failure::NoEndpoint
        | Failure::AllDown
        | Failure::Connect(ConnectError::Exhausted(_))
        | Failure::Draining => {
            headers.insert(RETRY_AFTER, HeaderValue::from(fastrand::u32(RETRY_SECONDS)));
        }
        // What is left of the request, and whatever it left of us, goes with its connection. So does a body whose end others
        // may see elsewhere.
        // RFC 9110 §15.5.9, §15.5.14: who gave up on a request closes the connection.
        Failure::Panic(_) | Failure::Coding(_) | Failure::RequestTimeout | Failure::BodyTooLarge(_) => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}

/// The answer of the service that does not let in.
fn denied(denial: &ServiceDenial) -> Response<Body> {
    let body = if denial.body.is_empty() { body::empty() } else { body::full(denial.body.clone()) };
    let mut response = Response::new(body);
    *response.status_mut() = denial.status;
    *response.headers_mut() = denial.headers.clone();
    response
}

/// The same answer with a page in place of its text; all its other fields are for the client still.
pub fn with_page(response: Response<Body>, page: &Page) -> Response<Body> {
    let mut response = response.map(|_| body::full(page.bytes.clone()));
    response.headers_mut().insert(CONTENT_TYPE, page.media_type.clone());
    response
}

/// Sends the client to the same place by https.
///
/// # Errors
/// When the request names no host to send it to.
pub fn redirect(host: &Host, port: u16, path: &str, query: Option<&str>) -> Result<Response<Body>, Failure> {
    let host = Host { name: host.name.clone(), port: (port != 443).then_some(port) };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("https://{host}{path}{query}")).map_err(|_| Failure::NoRoute)?;
    if host.name.is_empty() {
        return Err(Failure::NoRoute);
    }
    let mut response = Response::new(body::empty());
    // 308: the method and the body stay as they are (RFC 9110 §15.4.9).
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// A server's answer as the client gets it: without the fields of the hop behind us, with the route's `edits` and our own
/// `cookie`, if it is to have one.
///
/// # Errors
/// When it does not say how long it is in one way only, or is coded otherwise than `chunked`.
pub fn from_upstream(
    mut response: Response<Body>,
    edits: &HeaderEdits,
    cookie: Option<HeaderValue>,
) -> Result<Response<Body>, Failure> {
    let upgrades = upgrades(&response);
    coding::of_response(response.headers()).map_err(|error| Failure::Upstream(error.to_string()))?;
    trailers::keep_allowed(response.headers_mut(), |name| !edits.concerns(name));
    hop_by_hop::strip(response.headers_mut());
    if !upgrades.is_empty() {
        response.headers_mut().extend(upgrades.into_iter().map(|upgrade| (UPGRADE, upgrade)));
        // RFC 9110 §7.8: who sends Upgrade nominates it.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    length::join_lines(response.headers_mut()).map_err(|error| Failure::Upstream(error.to_string()))?;
    edits.apply(response.headers_mut());
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
        // RFC 9111 §7.3: a shared cache would hand it to everybody, and so send all of them to one endpoint.
        response.headers_mut().append(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
    Ok(response)
}

/// What a server says that one could upgrade to, where that is for the client to know: in a 426, which is nothing without
/// it (RFC 9110 §15.5.22), and wherever it is `websocket`, which we take, too. The `h2` and `h2c` that some servers name
/// in every answer are for the hop behind us, and clients that believe them from us fail.
fn upgrades(response: &Response<Body>) -> Vec<HeaderValue> {
    let is_asked_for = response.status() == StatusCode::UPGRADE_REQUIRED;
    let is_for_client = |upgrade: &&HeaderValue| is_asked_for || upgrade.as_bytes().eq_ignore_ascii_case(b"websocket");
    response.headers().get_all(UPGRADE).iter().filter(is_for_client).cloned().collect()
}
