//! A plain HTTP request: forwarded with its body as it comes, answered with the response as it comes.
//!
//! Bodies stream both ways and nothing is buffered, so server-sent events and long polls work unchanged. Another
//! endpoint is tried only if no connection could be made and nothing of the body was read: what may have been sent is
//! never sent twice. One exception: if a server closed a pooled connection just as it was used again, a request without
//! a body whose method is idempotent goes once more to the same endpoint, on a new connection; and by HTTP/2, where a server
//! says what it did not look at, any request whose body is still there. The time for the
//! response's head counts from the last byte of the request's body, and that body may not stall for too long.
//! `exchange` handles the end of an exchange whose answer has begun.
//!
//! Interim responses end here: hyper answers `Expect: 100-continue` itself when an endpoint reads the body, and cannot
//! forward a 103.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout};

use super::body::{Awaited, Body, RetryableBody};
use super::entry::{self, AffinityCookie};
use super::exchange::{ExchangePermits, RelayedBody, RequestBodyProgress};
use super::outcome::Failure;
use super::request::RoutedRequest;
use super::request_log::RequestLog;
use super::response;
use super::snapshot::Route;
use crate::balance::Draw;
use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::header::content_coding::ContentCoding;
use crate::header::hop_by_hop;
use crate::upstream::answer_body::AnswerBody;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::endpoint_state::ConnectionPermit;
use crate::upstream::pool;
use crate::upstream::pooled::{PooledConnection, Uploading};
use crate::upstream::request_body::RequestBody;
use crate::upstream::sending::{self, SendError};

/// Judges whether a route takes plain requests.
///
/// # Errors
/// If it does not.
pub fn judge(route: &Route) -> Result<(), Failure> {
    if route.http { Ok(()) } else { Err(Failure::NotWebSocket) }
}

/// Forwards the request and returns the answer.
///
/// # Errors
/// If no endpoint sent the head of a response, or the route is full.
pub async fn run(
    route: Arc<Route>,
    mut arrival: RoutedRequest,
    body: RequestBody,
    log: &mut RequestLog,
) -> Result<Response<Body>, Failure> {
    let route_permit = route.quota.enter(route.connections_max).ok_or(Failure::RouteFull)?;
    let compression = route.compression.as_ref();
    let compression = compression
        .map(|it| (it, it.requested_coding(&arrival.parts.method, arrival.parts.version, &arrival.parts.headers)));
    let wants_trailers = hop_by_hop::te_trailers(&arrival.parts.headers);
    let draw = arrival.draw(&route, log.request_info.client);
    let affinity_cookie = arrival.affinity_cookie(&route);
    let uri = pool::uri(arrival.upstream_target()).map_err(|error| Failure::Upstream(error.to_string()))?;
    let mut headers = arrival.upstream_headers(&route);
    let edits = arrival.take_response_edits();
    if wants_trailers {
        // RFC 9110 §10.1.4: TE is for one hop, and who sends it nominates it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
    if !body.is_end_stream() && !headers.contains_key(CONTENT_LENGTH) {
        // hyper takes a GET without a length for one without a body, and would send nothing of it.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }

    let is_repeatable = arrival.parts.method.is_idempotent() && body.is_end_stream();
    let lender = RetryableBody::new(body, route.body_bytes_max)?;
    log.upload = Some(Arc::clone(lender.upload()));
    let ask = RequestTemplate { method: &arrival.parts.method, uri: &uri, headers: &headers, is_repeatable };
    let (endpoint, endpoint_permit, mut response) =
        attempt(&route, draw, affinity_cookie.as_ref(), &ask, &lender, log).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::ForeignSwitch);
    }
    let cookie = affinity_cookie.and_then(|affinity_cookie| affinity_cookie.renewed(&route.upstream, &endpoint, log));
    let connection = PooledConnection::of_response(&mut response);
    let sending = RequestBodyProgress { upload: Arc::clone(lender.upload()), connection };
    let (parts, body) = response.into_parts();
    let body = RelayedBody::new(
        body,
        &parts.headers,
        Some(sending),
        &route,
        ExchangePermits::new(endpoint_permit, route_permit),
    );
    let response = Response::from_parts(parts, body.boxed_unsync());
    let edits = edits.as_ref().unwrap_or(&route.response_edits);
    let mut response = response::from_upstream(response, edits, cookie)?;
    if let Some((compression, requested)) = compression {
        let (compressed, coding) = compression.apply(response, requested);
        response = compressed;
        log.compression = coding.map(ContentCoding::name);
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

/// The head of the request, as sent to each endpoint that is tried.
struct RequestTemplate<'a> {
    method: &'a http::Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    /// It may be sent again although it may have been read (RFC 9110 §9.2.2).
    is_repeatable: bool,
}

impl RequestTemplate<'_> {
    fn request(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

async fn attempt(
    route: &Route,
    draw: Draw,
    affinity_cookie: Option<&AffinityCookie<'_>>,
    ask: &RequestTemplate<'_>,
    lender: &RetryableBody,
    log: &mut RequestLog,
) -> Result<(Arc<Endpoint>, ConnectionPermit, Response<AnswerBody>), Failure> {
    let (upstream, mut now) = (&route.upstream, clock::coarse());
    upstream.request(now);
    let mut tried = Vec::new();
    let mut failed = None;
    loop {
        let (endpoint, endpoint_permit) = match tried.is_empty() {
            true => entry::pick_endpoint(upstream, affinity_cookie, draw, None, log).await?,
            false if upstream.is_budget_spent(now) => {
                upstream.metrics.retry_denied();
                return Err(failed.unwrap_or(Failure::Timeout));
            }
            false => match upstream.pick(&tried, draw, now) {
                Ok(picked) => picked,
                Err(none) => return Err(failed.unwrap_or(none.into())),
            },
        };
        let Some(body) = lender.lend() else { return Err(failed.unwrap_or(Failure::Timeout)) };
        if let Some(failure) = failed.take_if(|_| !upstream.may_retry(now)) {
            return Err(failure);
        }
        log.attempts += 1;
        log.endpoint = Some(Arc::clone(&endpoint.name));
        let started = Instant::now();
        let mut request = ask.request(body);
        // Only a body that takes time is watched on its way.
        let mut uploading = (lender.upload().awaited() != Awaited::Nobody).then(|| Uploading::of(&mut request));
        let connection = || uploading.as_ref().map(Uploading::connection);
        let mut sent =
            within(route, route.response_timeout, lender, connection, sending::send(&endpoint, request)).await?;
        // Without the retry budget: each used connection of the pool can cost one request more, and no endpoint has failed.
        if let Some(Err(error)) = &sent
            && (error.is_unprocessed() || (ask.is_repeatable && error.was_stale()))
            && let Some(body) = lender.lend()
        {
            upstream.metrics.stale_connection();
            tracing::debug!(endpoint = %endpoint.name, error = %error_chain(error), "a used connection was closed: sent again");
            let left = route.response_timeout.saturating_sub(started.elapsed());
            let mut request = ask.request(body);
            let again = uploading.is_some().then(|| Uploading::of(&mut request));
            let connection = || again.as_ref().map(Uploading::connection);
            sent = within(route, left, lender, connection, sending::send_anew(&endpoint, request)).await?;
            uploading = again;
        }
        match sent {
            Some(Ok(response)) => {
                if let Some(uploading) = uploading {
                    uploading.answered();
                }
                upstream.answered(&endpoint.state, clock::coarse());
                return Ok((endpoint, endpoint_permit, response));
            }
            Some(Err(error)) if error.is_connect() => {
                let cause = error.connect_error();
                if let Some(ConnectError::Exhausted(errno)) = cause {
                    // No endpoint is to blame for it, and another would do no better.
                    return Err(Failure::Connect(ConnectError::Exhausted(*errno)));
                }
                let label = cause.map_or("connect", ConnectError::label);
                now = clock::coarse();
                match cause {
                    Some(cause) if cause.is_ours() => endpoint.state.metrics.error(label),
                    _ => upstream.failed(&endpoint.state, label, now),
                }
                tracing::debug!(endpoint = %endpoint.name, error = %error_chain(&error), "cannot connect");
                failed = Some(match cause {
                    Some(ConnectError::Timeout) => Failure::Connect(ConnectError::Timeout),
                    _ => Failure::Unreachable(error_chain(&error)),
                });
            }
            // The connection was given up for it; the endpoint has not failed.
            Some(Err(_)) if let Some(too_large) = lender.upload().too_large() => return Err(too_large.into()),
            Some(Err(error)) if is_of_request(&error) => return Err(Failure::Malformed(error_chain(&error))),
            Some(Err(error)) => {
                endpoint.state.metrics.error("response_lost");
                return Err(Failure::Upstream(error_chain(&error)));
            }
            None => {
                endpoint.state.metrics.error("response_timeout");
                return Err(Failure::Timeout);
            }
        }
        tried.push(endpoint);
    }
}

/// Returns true if the body of the request could not be read: malformed chunks, or a client that has gone.
fn is_of_request(error: &SendError) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    let mut chain = std::iter::successors(Some(first), |error| (*error).source());
    error.is_of_request() || chain.any(|error| error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user))
}

/// Waits for the response's head, at most `limit` after the last byte of the request's body, and no longer than the
/// route lets that body stall. `None`: the endpoint did not answer in time.
///
/// # Errors
/// If the client sent nothing of the body for too long.
async fn within<T>(
    route: &Route,
    limit: Duration,
    lender: &RetryableBody,
    connection: impl Fn() -> Option<PooledConnection>,
    answering: impl Future<Output = T>,
) -> Result<Option<T>, Failure> {
    let started = clock::coarse();
    let mut answering = Box::pin(answering);
    // The body may stand still before that.
    let mut wait = route
        .body_timeouts
        .body
        .filter(|_| lender.upload().awaited() != Awaited::Nobody)
        .map_or(limit, |body| body.min(limit));
    loop {
        if let Ok(answer) = timeout(wait, &mut answering).await {
            return Ok(Some(answer));
        }
        let sending = RequestBodyProgress { upload: Arc::clone(lender.upload()), connection: connection() };
        let awaited = sending.upload.awaited();
        let limit = match (awaited, route.body_timeouts.body) {
            (Awaited::Nobody, _) => limit,
            (_, Some(limit)) => limit,
            (_, None) => {
                // It may be whole by then.
                wait = limit.max(TICK);
                continue;
            }
        };
        let quiet = clock::coarse().since(sending.moved_at().max(started));
        match awaited {
            Awaited::Client if quiet >= limit => return Err(Failure::RequestTimeout),
            _ if quiet >= limit => return Ok(None),
            // The clock's tick is coarser than a timer may be.
            _ => wait = (limit - quiet).max(TICK),
        }
    }
}

/// The shortest wait.
const TICK: Duration = Duration::from_millis(5);
