//! A named group of interchangeable servers, and the connections to them.
//!
//! A route refers to an `Upstream`: its current endpoints (`set`), which may be replaced while sessions run, and the
//! balancer over them. `endpoint_state` is the live state of an endpoint and survives every change; `maker` makes
//! endpoints from the configuration. `connect` makes one connection, `handshake` opens a WebSocket over it with a small
//! client of our own (hyper's costs a task and 18 KB for each), and `pool` carries plain HTTP over reused connections.
//! `proxy` decides which endpoint is tried next and what a client gets when all fail.

pub mod answer_body;
pub mod connect;
pub mod endpoint;
pub mod entry;
pub mod extended_connect;
pub mod handshake;
pub mod endpoint_state;
pub mod maker;
pub mod metrics;
pub mod one_exchange;
pub mod opener;
pub mod pool;
pub mod pooled;
pub mod reach;
pub mod queue;
pub mod request_body;
pub mod request_head;
pub mod sending;
pub mod server_stream;
pub mod set;
pub mod streams;
pub mod websocket;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::balance::{Balancer, Draw, Hash, RoundRobin};
use crate::base::time::MonotonicTime;
use crate::config;
use crate::health::outlier::{self, Ejection};
use crate::policy::balance_key::BalanceKey;
use crate::policy::retry_budget::{self, RetryBudget};
use endpoint::Endpoint;
use endpoint_state::{ConnectionPermit, EndpointState, Standing};
use entry::{EntryPolicy, Gate};
use maker::{MakeError, Maker};
use metrics::UpstreamMetrics;
use set::{Set, is_among};

/// A group of endpoints under one name.
#[derive(Debug)]
pub struct Upstream {
    /// As written under `upstreams:`.
    pub name: String,
    set: ArcSwap<Set>,
    /// Signals each change of membership.
    changed: watch::Sender<()>,
    policy: Policy,
    retry_budget: Option<RetryBudget>,
    maker: Maker,
    /// How requests are admitted.
    pub entry: EntryPolicy,
    /// The live state of admission.
    pub gate: Arc<Gate>,
    /// The metrics of the group.
    pub metrics: UpstreamMetrics,
}

/// How an endpoint is chosen.
#[derive(Debug)]
pub struct Policy {
    /// The algorithm.
    pub balance: config::Balance,
    /// How long an endpoint that joins takes to its full weight.
    pub slow_start: Option<Duration>,
    /// Where this process stands; endpoints of the same zone come first.
    pub zone: Option<String>,
    /// When an endpoint is ejected, if ever.
    pub ejection: Option<outlier::EjectionRule>,
    /// Whether endpoints that fail their health check are not tried even if no other is left.
    pub refuse_down: bool,
    /// The bound of retries, if there is one.
    pub retry_budget: Option<retry_budget::RetryBudgetRule>,
}

impl Policy {
    /// Creates a balancer with a state of its own.
    fn balancer(&self) -> Balancer {
        match &self.balance {
            config::Balance::LeastConnections => Balancer::LeastConnections,
            // A random start: instances that start together must not all begin with the first endpoint.
            config::Balance::RoundRobin => Balancer::RoundRobin(RoundRobin::new(fastrand::usize(..))),
            config::Balance::RandomTwo => Balancer::RandomTwo,
            config::Balance::Hash(written) => Balancer::Hash(Hash { load_max_percent: written.load_max.percent() }),
        }
    }
}

/// The result of a change of membership.
#[derive(Debug, Default)]
pub struct Change {
    /// Endpoints added.
    pub joined: Vec<Arc<Endpoint>>,
    /// Endpoints removed; sessions on them go on.
    pub left: Vec<Arc<Endpoint>>,
    /// Endpoints that cannot be used as written, and why.
    pub refused: Vec<MakeError>,
}

impl Upstream {
    /// Creates a group without endpoints; see [`Upstream::replace`].
    pub fn new(policy: Policy, maker: Maker) -> Upstream {
        let metrics = maker.families.upstream(&maker.upstream);
        let set = ArcSwap::from_pointee(Set::new(vec![], None, policy.balancer()));
        let (name, gate) = (maker.upstream.clone(), maker.states.gate(&maker.upstream));
        let (changed, retry_budget) = (watch::Sender::new(()), policy.retry_budget.map(RetryBudget::new));
        Upstream { name, set, changed, policy, retry_budget, maker, entry: EntryPolicy::default(), gate, metrics }
    }

    /// Replaces the endpoints. An unchanged endpoint stays as it is; one with another weight keeps its state. Endpoints
    /// that join others start slowly if the upstream has slow start. Of two with the same name the first counts.
    ///
    /// Calls must not overlap: membership has one writer.
    pub fn replace(&self, written: &[config::EndpointConfig], now: MonotonicTime) -> Change {
        let before = self.set.load();
        let mut change = Change::default();
        let mut seen = HashSet::new();
        let mut endpoints = vec![];
        for written in written {
            if !seen.insert(&written.url) {
                continue;
            }
            let same = |endpoint: &&Arc<Endpoint>| endpoint.written.url == written.url;
            let was = before.endpoints().iter().find(same);
            if let Some(was) = was.filter(|was| was.written == *written) {
                endpoints.push(Arc::clone(was));
                continue;
            }
            match self.maker.endpoint(written) {
                Ok(endpoint) => {
                    let endpoint = Arc::new(endpoint);
                    if was.is_none() {
                        change.joined.push(Arc::clone(&endpoint));
                    }
                    endpoints.push(endpoint);
                }
                Err(error) => change.refused.push(error),
            }
        }
        if !before.endpoints().is_empty() {
            change.joined.iter().for_each(|endpoint| endpoint.state.joined(now));
        }
        let gone = |endpoint: &&Arc<Endpoint>| !is_among(&endpoints, endpoint);
        change.left = before.endpoints().iter().filter(gone).cloned().collect();
        self.set.store(Arc::new(Set::new(endpoints, self.policy.zone.as_deref(), self.policy.balancer())));
        self.gate.queue.recheck();
        self.changed.send_replace(());
        change
    }

    /// Picks the endpoint for the next session, without those already `tried`, and takes a permit on it. Ejected
    /// endpoints come after all good ones, and those that are down after these.
    ///
    /// # Errors
    /// If none can be picked, and why.
    pub fn pick(
        &self,
        tried: &[Arc<Endpoint>],
        draw: Draw,
        now: MonotonicTime,
    ) -> Result<(Arc<Endpoint>, ConnectionPermit), NoEndpoint> {
        let set = self.set.load();
        // Bounded: between the choice and the permit another worker may take the last one; then the next choice sees it full.
        for _ in 0..=set.endpoints().len() {
            let standings = self.standings();
            let Some((endpoint, standing)) = set.pick(tried, self.policy.slow_start, standings, draw, now) else {
                break;
            };
            // An endpoint whose ejection is over gets one session at a time until it has answered; other sessions still
            // avoid it.
            if standing == Standing::Good && !endpoint.state.outlier.admits(now) {
                continue;
            }
            if let Some(permit) = endpoint.enter() {
                endpoint.state.metrics.pick();
                return Ok((Arc::clone(endpoint), permit));
            }
        }
        let left = set.endpoints().iter().filter(|endpoint| endpoint.takes_sessions() && !is_among(tried, endpoint));
        let (mut left, mut usable) = (left.clone(), left.filter(|endpoint| self.is_usable(endpoint, now)));
        match (left.next(), usable.next()) {
            (Some(_), Some(_)) => Err(NoEndpoint::Full),
            (Some(_), None) => Err(NoEndpoint::AllDown),
            (None, _) if tried.is_empty() => Err(NoEndpoint::Closed),
            (None, _) => Err(NoEndpoint::AllTried),
        }
    }

    /// Returns an endpoint's share of new sessions now, relative to the others'.
    pub fn weight(&self, endpoint: &Endpoint, now: MonotonicTime) -> u32 {
        set::weight(endpoint, self.policy.slow_start, now)
    }

    /// Returns the endpoint of this identity, with a permit on it, if it takes sessions and has not failed lately. An
    /// endpoint with the weight 0 takes none, not even returning clients: it would never become empty otherwise.
    pub fn pick_named(&self, identity: u64, now: MonotonicTime) -> Option<(Arc<Endpoint>, ConnectionPermit)> {
        let set = self.set.load();
        let endpoint = set.endpoints().iter().find(|endpoint| endpoint.identity == identity)?;
        if !endpoint.takes_sessions() || endpoint.state.standing(now) != Standing::Good {
            return None;
        }
        if !endpoint.state.outlier.admits(now) {
            return None;
        }
        let permit = endpoint.enter()?;
        endpoint.state.metrics.pick();
        Some((Arc::clone(endpoint), permit))
    }

    /// Returns which standings may be picked, best first. If nothing better is left, ejected endpoints and those that
    /// are down are still tried: the observation may be outdated or wrong, and the client is no worse off.
    fn standings(&self) -> &'static [Standing] {
        let all = &[Standing::Good, Standing::Ejected, Standing::Down];
        if self.policy.refuse_down { &all[..2] } else { all }
    }

    fn is_usable(&self, endpoint: &Endpoint, now: MonotonicTime) -> bool {
        self.standings().contains(&endpoint.state.standing(now))
    }

    /// Returns true if there is another healthy endpoint besides those `tried` and this one.
    pub fn has_another(&self, tried: &[Arc<Endpoint>], endpoint: &Arc<Endpoint>, now: MonotonicTime) -> bool {
        let is_good = |other: &&Arc<Endpoint>| {
            other.takes_sessions() && !other.is_full() && other.state.standing(now) == Standing::Good
        };
        let is_other =
            |other: &&Arc<Endpoint>| !is_among(tried, other) && !is_among(std::slice::from_ref(endpoint), other);
        self.set.load().endpoints().iter().filter(is_good).any(|other| is_other(&other))
    }

    /// Counts a request, which adds to the retry budget.
    pub fn request(&self, now: MonotonicTime) {
        if let Some(budget) = &self.retry_budget {
            budget.request(now);
        }
    }

    /// Returns true if a request whose endpoint failed may be tried on another one.
    pub fn may_retry(&self, now: MonotonicTime) -> bool {
        let may = self.retry_budget.as_ref().is_none_or(|budget| budget.retry(now));
        if may {
            self.metrics.retry();
        } else {
            self.metrics.retry_denied();
        }
        may
    }

    /// Returns true if the retry budget is spent.
    pub fn is_budget_spent(&self, now: MonotonicTime) -> bool {
        self.retry_budget.as_ref().is_some_and(|budget| budget.is_spent(now))
    }

    /// Returns the endpoints that new sessions go to if none is full: all healthy ones of the best rank that has any.
    pub fn first_choices(&self, now: MonotonicTime) -> Vec<Arc<Endpoint>> {
        let is_well = |endpoint: &Endpoint| {
            let state = &endpoint.state;
            // An endpoint whose ejection is over counts as ejected until it has answered.
            endpoint.takes_sessions() && state.standing(now) == Standing::Good && !state.outlier.is_ejected()
        };
        self.set.load().best(is_well)
    }

    /// Records that an endpoint could not be connected to or answered wrongly, for `reason`.
    pub fn failed(&self, state: &EndpointState, reason: &'static str, now: MonotonicTime) {
        state.metrics.error(reason);
        if let Some(rule) = self.policy.ejection.filter(|_| self.is_one_of_several(state)) {
            let ejection = state.outlier.failed(rule, now, || self.has_room(rule, state));
            self.ejected(state, ejection, reason, now);
        }
    }

    /// Records that an endpoint answered.
    pub fn answered(&self, state: &EndpointState, now: MonotonicTime) {
        if state.outlier.answered(now) {
            self.show_ejected(state);
            state.joined(now);
            tracing::info!(upstream = %self.name, endpoint = state.endpoint(), "endpoint answers again");
        }
    }

    /// Records that a session on an endpoint opened.
    pub fn opened(&self, state: &EndpointState, now: MonotonicTime) {
        if self.policy.ejection.is_some_and(|rule| rule.early_end.is_some()) {
            state.outlier.opened(now);
        }
    }

    /// Records that an endpoint broke off a session after this time.
    pub fn broke_off(&self, state: &EndpointState, lasted: Duration, now: MonotonicTime) {
        if let Some(rule) = self.policy.ejection
            && rule.early_end.is_some_and(|early| lasted < early)
            && self.is_one_of_several(state)
        {
            let ejection = state.outlier.ended_early(rule, now, || self.has_room(rule, state));
            self.ejected(state, ejection, "upstream_lost", now);
        }
    }

    fn ejected(&self, state: &EndpointState, ejection: Option<Ejection>, reason: &'static str, now: MonotonicTime) {
        let Some(Ejection { why, span }) = ejection else { return };
        state.metrics.ejection(why);
        self.show_ejected(state);
        let (why, endpoint) = (why.label(), state.endpoint());
        if self.has_good_besides(state, now) {
            tracing::warn!(upstream = %self.name, endpoint, why, reason, ?span, "endpoint is ejected");
        } else {
            let message = "endpoint is ejected, but still tried: no other takes sessions";
            tracing::warn!(upstream = %self.name, endpoint, why, reason, ?span, "{message}");
        }
    }

    /// Returns true if another endpoint takes sessions. One that is alone is tried each time, so it is not ejected (as
    /// nginx ignores `max_fails` of an only server).
    fn is_one_of_several(&self, state: &EndpointState) -> bool {
        let others = |other: &&Arc<Endpoint>| !std::ptr::eq(&*other.state, state) && other.takes_sessions();
        self.set.load().endpoints().iter().any(|other| others(&other))
    }

    /// Returns true if there is another healthy endpoint that takes sessions.
    fn has_good_besides(&self, state: &EndpointState, now: MonotonicTime) -> bool {
        let is_good = |other: &Arc<Endpoint>| {
            !std::ptr::eq(&*other.state, state) && other.takes_sessions() && other.state.standing(now) == Standing::Good
        };
        self.set.load().endpoints().iter().any(is_good)
    }

    /// Shows whether it is ejected. Of several workers the last one to write has read the present state.
    fn show_ejected(&self, state: &EndpointState) {
        loop {
            let ejected = state.outlier.is_ejected();
            state.metrics.show_ejected(ejected);
            if state.outlier.is_ejected() == ejected {
                return;
            }
        }
    }

    /// Returns true if one more endpoint may be ejected.
    fn has_room(&self, rule: outlier::EjectionRule, state: &EndpointState) -> bool {
        let set = self.set.load();
        let is_other = |other: &&Arc<Endpoint>| !std::ptr::eq(&*other.state, state);
        let out = set.endpoints().iter().filter(is_other).filter(|other| other.state.outlier.is_ejected()).count();
        rule.has_room(out, set.endpoints().len())
    }

    /// Returns a receiver that is notified of each change of membership.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the part of a request that the balancer hashes, if it does.
    pub fn balance_key(&self) -> Option<&BalanceKey> {
        match &self.policy.balance {
            config::Balance::Hash(written) => Some(&written.on),
            _ => None,
        }
    }

    /// Returns the current endpoints.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.set.load().endpoints().to_vec()
    }
}

/// Why no endpoint could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// All that take sessions were tried for this request.
    AllTried,
    /// All others have reached their limit of sessions.
    Full,
    /// All others fail their health check and must not be tried then.
    AllDown,
    /// There is none, or all have the weight 0.
    Closed,
}

#[cfg(test)]
mod tests;
