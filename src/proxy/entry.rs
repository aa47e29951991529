//! Admits a request to an endpoint: its turn at the rate of the upstream, a permit, the wait for either, and the
//! affinity cookie.
//!
//! Only the first choice may wait for a permit. A request that has already tried an endpoint and finds the others full
//! gets that endpoint's result: in the queue it could hold up those behind it, who may still try that one.

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::{Instant, sleep, timeout_at};

use super::outcome::Failure;
use super::request_log::RequestLog;
use crate::balance::Draw;
use crate::balance::sticky::{Affinity, Sticky};
use crate::base::clock;
use crate::policy::bucket::RateExceeded;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::endpoint_state::ConnectionPermit;
use crate::upstream::metrics::Admitted;
use crate::upstream::{NoEndpoint, Upstream};

/// Waits for the request's turn, if the upstream limits its rate.
///
/// # Errors
/// If the turn is too far away, or after `deadline`.
pub async fn admit(upstream: &Upstream, deadline: Instant, log: &mut RequestLog) -> Result<(), Failure> {
    let Some(pace) = upstream.entry.admission else { return Ok(()) };
    let left = deadline.saturating_duration_since(Instant::now());
    match upstream.gate.bucket.take(pace.within(left), clock::now()) {
        Ok(wait) if wait.is_zero() => upstream.metrics.admission(Admitted::AtOnce),
        Ok(wait) => {
            upstream.metrics.admission(Admitted::Delayed);
            log.wait_begins();
            sleep(wait).await;
            log.wait_ends();
        }
        Err(RateExceeded { after }) => {
            upstream.metrics.admission(Admitted::Refused);
            return Err(Failure::Admission(after));
        }
    }
    Ok(())
}

/// Picks the endpoint that a request tries first, with a permit: the one of its affinity cookie, or else the balancer's
/// choice. While all are full it waits, if the upstream allows it, until `deadline` at most. Cancel-safe: dropping it
/// leaves the queue.
///
/// # Errors
/// If there is none, and why.
pub async fn pick_endpoint(
    upstream: &Upstream,
    affinity_cookie: Option<&AffinityCookie<'_>>,
    draw: Draw,
    deadline: Option<Instant>,
    log: &mut RequestLog,
) -> Result<(Arc<Endpoint>, ConnectionPermit), Failure> {
    let pick = || {
        let now = clock::coarse();
        let had = affinity_cookie.and_then(|affinity_cookie| affinity_cookie.affinity.identity());
        had.and_then(|identity| upstream.pick_named(identity, now)).map_or_else(|| upstream.pick(&[], draw, now), Ok)
    };
    let Some(limits) = upstream.entry.queue else { return Ok(pick()?) };
    let queue = &upstream.gate.queue;
    if queue.is_empty() {
        match pick() {
            Err(NoEndpoint::Full) => {}
            picked => return Ok(picked?),
        }
    }
    let mut ticket = queue.join(limits.length).ok_or(Failure::QueueFull)?;
    let until = Instant::now() + limits.wait;
    let until = deadline.map_or(until, |deadline| until.min(deadline));
    let waiting = upstream.metrics.waiting();
    log.wait_begins();
    let picked = timeout_at(until, async {
        loop {
            ticket.turn().await;
            match pick() {
                Err(NoEndpoint::Full) => {}
                picked => break picked,
            }
        }
    });
    let picked = picked.await;
    log.wait_ends();
    drop(waiting);
    Ok(picked.map_err(|_| Failure::QueueTimeout)??)
}

/// The affinity cookie of a request.
#[derive(Debug)]
pub struct AffinityCookie<'a> {
    sticky: &'a Sticky,
    affinity: Affinity,
    /// The client came by TLS.
    tls: bool,
}

impl<'a> AffinityCookie<'a> {
    /// Reads it from these `Cookie` fields.
    pub fn new<'c>(sticky: &'a Sticky, cookies: impl IntoIterator<Item = &'c [u8]>, tls: bool) -> AffinityCookie<'a> {
        AffinityCookie { sticky, affinity: sticky.read(cookies, unix_seconds()), tls }
    }

    /// Returns the new cookie for a client that `endpoint` has answered, unless it has a good one. Counts what became
    /// of the old one.
    pub fn renewed(&self, upstream: &Upstream, endpoint: &Endpoint, log: &mut RequestLog) -> Option<HeaderValue> {
        let returned = self.affinity.returned(endpoint.identity);
        upstream.metrics.sticky(returned);
        log.returned = Some(returned);
        if self.affinity == (Affinity::Endpoint { identity: endpoint.identity, is_fresh: true }) {
            return None;
        }
        // Made of a token, a checked path and fixed words.
        HeaderValue::try_from(self.sticky.set(endpoint.identity, unix_seconds(), self.tls)).ok()
    }
}

fn unix_seconds() -> u64 {
    clock::since_epoch().as_secs()
}
