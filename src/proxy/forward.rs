//! A plain HTTP request: passed on with its body as it comes, answered with the response as it comes.
//!
//! Bodies stream both ways and nothing is buffered, so server-sent events and long polls work as they are. Another
//! endpoint is tried only when no connection could be made and nothing of the body was read: what may have been sent is
//! never sent twice. With one exception: where a server has closed a connection of the pool just when it was used again, a
//! request without a body whose method is idempotent goes once more to the same endpoint, on a new connection. The time for the response's head counts from the last byte of the request's body.
//!
//! Interim responses end here: hyper answers `Expect: 100-continue` itself when an endpoint reads the body, and has no way
//! to hand on a 103.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, sleep, timeout};

use super::body::{Body, Lender};
use super::entry::{self, Bond};
use super::outcome::Failure;
use super::request::{Arrival, RequestLog, chain};
use super::response;
use super::snapshot::Route;
use crate::balance::Draw;
use crate::clock;
use crate::header::hop_by_hop;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::pool;

/// Tells connections of an endpoint's pool apart from nobody else's; never sent.
const POOL_AUTHORITY: &str = "endpoint";

/// Passes the request on and answers with what comes back.
///
/// # Errors
/// When the route takes no plain HTTP, or no endpoint gave the head of a response.
pub async fn run(
    route: Arc<Route>,
    mut arrival: Arrival,
    body: Incoming,
    log: &mut RequestLog,
) -> Result<Response<Body>, Failure> {
    if !route.http {
        return Err(Failure::NotWebSocket);
    }
    let wants_trailers = hop_by_hop::te_trailers(&arrival.parts.headers);
    let draw = arrival.draw(&route, log.about.client);
    let bond = arrival.bond(&route);
    let target = PathAndQuery::try_from(arrival.upstream_target());
    let mut headers = arrival.upstream_headers(&route);
    if wants_trailers {
        // RFC 9110 §10.1.4: TE is for one hop, and who sends it nominates it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
    if !body.is_end_stream() && !headers.contains_key(CONTENT_LENGTH) {
        // hyper takes a GET without a length for one without a body, and would send nothing of it.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::from_static(POOL_AUTHORITY));
    uri.path_and_query = Some(target.map_err(|error| Failure::Upstream(error.to_string()))?);
    let uri = Uri::from_parts(uri).map_err(|error| Failure::Upstream(error.to_string()))?;

    let is_repeatable = arrival.parts.method.is_idempotent() && body.is_end_stream();
    let lender = Lender::new(body);
    log.received = Some(Arc::clone(lender.sent()));
    let ask = Ask { method: &arrival.parts.method, uri: &uri, headers: &headers, is_repeatable };
    let (endpoint, response) = attempt(&route, draw, bond.as_ref(), &ask, &lender, log).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::ForeignSwitch);
    }
    let cookie = bond.and_then(|bond| bond.renewed(&route.upstream, &endpoint, log));
    let mut response = response::from_upstream(response, &route, cookie)?;
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

/// The head of the request, as each endpoint that is tried gets it.
struct Ask<'a> {
    method: &'a http::Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    /// It may be sent again although it may have been read (RFC 9110 §9.2.2).
    is_repeatable: bool,
}

impl Ask<'_> {
    fn request(&self, body: Body) -> Request<Body> {
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
    bond: Option<&Bond<'_>>,
    ask: &Ask<'_>,
    lender: &Lender,
    log: &mut RequestLog,
) -> Result<(Arc<Endpoint>, Response<Incoming>), Failure> {
    let (upstream, mut now) = (&route.upstream, clock::coarse());
    upstream.request(now);
    let mut tried = Vec::new();
    let mut failed = None;
    loop {
        // The seat is held until the answer begins: sessions are what endpoints are counted by.
        let (endpoint, _seat) = match tried.is_empty() {
            true => entry::seat(upstream, bond, draw, None, log).await?,
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
        let mut sent = within(route.response_timeout, lender, endpoint.pool.send(ask.request(body))).await;
        // Without the retry budget: each used connection of the pool can cost one request more, and no endpoint has failed.
        if let Some(Err(error)) = &sent
            && ask.is_repeatable
            && pool::was_stale(error)
            && let Some(body) = lender.lend()
        {
            upstream.metrics.stale_connection();
            tracing::debug!(endpoint = %endpoint.name, error = %chain(error), "a used connection was closed: sent again");
            let left = route.response_timeout.saturating_sub(started.elapsed());
            sent = within(left, lender, endpoint.pool.send_anew(ask.request(body))).await;
        }
        match sent {
            Some(Ok(response)) => {
                upstream.answered(&endpoint.live, clock::coarse());
                return Ok((endpoint, response));
            }
            Some(Err(error)) if error.is_connect() => {
                let cause = error.source().and_then(|cause| cause.downcast_ref::<ConnectError>());
                if let Some(ConnectError::Exhausted(errno)) = cause {
                    // No endpoint is to blame for it, and another would do no better.
                    return Err(Failure::Connect(ConnectError::Exhausted(*errno)));
                }
                let label = cause.map_or("connect", ConnectError::label);
                now = clock::coarse();
                match cause {
                    Some(cause) if cause.is_ours() => endpoint.live.metrics.error(label),
                    _ => upstream.failed(&endpoint.live, label, now),
                }
                tracing::debug!(endpoint = %endpoint.name, error = %chain(&error), "cannot connect");
                failed = Some(match cause {
                    Some(ConnectError::Timeout) => Failure::Connect(ConnectError::Timeout),
                    _ => Failure::Unreachable(chain(&error)),
                });
            }
            Some(Err(error)) => {
                endpoint.live.metrics.error("response_lost");
                return Err(Failure::Upstream(chain(&error)));
            }
            None => {
                endpoint.live.metrics.error("response_timeout");
                return Err(Failure::Timeout);
            }
        }
        tried.push(endpoint);
    }
}

/// Waits for `sending`, at most `limit` after the last byte of the body went.
async fn within<T>(limit: Duration, lender: &Lender, sending: impl Future<Output = T>) -> Option<T> {
    let started = clock::coarse();
    let mut sending = Box::pin(sending);
    let mut wait = limit;
    loop {
        if let Ok(sent) = timeout(wait, &mut sending).await {
            return Some(sent);
        }
        let last = lender.sent().at().max(started);
        let quiet = clock::coarse().since(last);
        if quiet >= limit {
            return None;
        }
        wait = limit - quiet;
        // The clock's tick is coarser than a timer may be.
        if wait < Duration::from_millis(5) {
            sleep(Duration::from_millis(5)).await;
        }
    }
}
