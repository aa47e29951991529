//! Moves sessions off their endpoint: all of them if it is drained or down, the surplus if it holds more than its share
//! after others have joined.
//!
//! One task runs for each upstream that wants this. It checks the endpoints a few times a second and, where there is
//! something to do, asks the sessions concerned once how long each has been quiet; the quietest go first, at the configured
//! rate. While there is nothing to do, it costs one check of each endpoint.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::balance::rebalance::{EndpointLoad, most, surplus};
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::control::compile::{EvictionPolicy, RebalanceRule};
use crate::session::Sessions;
use crate::session::registry::SessionId;
use crate::session::stop::StopReason;
use crate::upstream::Upstream;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::endpoint_state::{EndpointState, Standing};

/// The time between two passes.
const TICK: Duration = Duration::from_millis(200);
/// How long a closed session counts as about to return: clients wait before they reconnect.
const RETURN_TIME: Duration = Duration::from_secs(60);
/// How long the order of quietness is used before sessions are asked again.
const STALE: Duration = Duration::from_secs(5);
/// The time over which the sessions of an endpoint that is down are closed.
const DOWN_SPAN: Duration = Duration::from_secs(5);

/// The evictions under way in one upstream. The state survives a reload and a panic of its task.
#[derive(Default)]
pub struct EvictionState {
    /// The endpoints at the last pass.
    members: HashMap<u64, Arc<EndpointState>>,
    /// The endpoints that are being emptied.
    emptied: HashMap<u64, EndpointEviction>,
    moving: SurplusMove,
}

impl EvictionState {
    /// Creates a state with nothing under way. `members` are the endpoints that the upstream has had so far.
    pub fn new(members: &[Arc<Endpoint>]) -> EvictionState {
        let members = members.iter().map(|endpoint| (endpoint.state.id(), Arc::clone(&endpoint.state))).collect();
        EvictionState { members, ..EvictionState::default() }
    }
}

/// Adds an endpoint that the upstream does not have, but sessions from another process do: it counts as removed.
pub fn add_removed(state: &Mutex<EvictionState>, endpoint: &Arc<EndpointState>) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.members.insert(endpoint.id(), Arc::clone(endpoint));
}

/// Runs a pass each tick, until it is dropped. Endpoints that are in `state` and no longer in the upstream count as removed.
/// When another process `is_replacing` this one, no surplus is moved: this one does not see the sessions of the other.
pub async fn run(
    upstream: Arc<Upstream>,
    registry: Arc<Sessions>,
    policy: EvictionPolicy,
    state: Arc<Mutex<EvictionState>>,
    is_replacing: impl Fn() -> bool,
) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut policy = policy;
    loop {
        tick.tick().await;
        if is_replacing() {
            policy.rebalance = None;
        }
        // Nobody holds the lock for long; what a panic has left half done, this pass checks again.
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        EvictionPass { upstream: &upstream, registry: &registry, policy, state: &mut state }.run(clock::now());
    }
}

/// One pass over an upstream.
struct EvictionPass<'a> {
    upstream: &'a Upstream,
    registry: &'a Sessions,
    policy: EvictionPolicy,
    state: &'a mut EvictionState,
}

/// An endpoint whose sessions are being closed.
struct EndpointEviction {
    live: Arc<EndpointState>,
    why: StopReason,
    begun: MonotonicTime,
    span: Duration,
    sessions: QuietestFirst,
    /// The number of sessions to close, and how many of them have been told to.
    count: usize,
    stopped: usize,
}

/// The sessions of one endpoint, the quietest first: asked in one pass, known in the next.
struct QuietestFirst {
    asked_at: MonotonicTime,
    known: Option<VecDeque<SessionId>>,
}

/// Surplus that is being moved to other endpoints.
#[derive(Default)]
struct SurplusMove {
    /// The healthy endpoints at the last pass, and since when they have been the same.
    healthy: Option<(Vec<u64>, MonotonicTime)>,
    /// The endpoints that sessions are moved from, with how many are left to move.
    from: HashMap<u64, (usize, QuietestFirst)>,
    /// The unused part of the rate, and the time up to which it was computed.
    allowance: f64,
    allowance_at: Option<MonotonicTime>,
    /// When how many sessions were closed.
    moved: VecDeque<(MonotonicTime, u32)>,
}

impl EvictionPass<'_> {
    fn run(&mut self, now: MonotonicTime) {
        let endpoints = self.upstream.endpoints();
        self.update_emptied(&endpoints, now);
        self.empty(now);
        if let Some(rebalance) = self.policy.rebalance {
            self.state.moving.run(rebalance, self.upstream, self.registry, now);
        }
    }

    /// Updates which endpoints are being emptied.
    fn update_emptied(&mut self, endpoints: &[Arc<Endpoint>], now: MonotonicTime) {
        let mut to_empty: HashMap<u64, (Arc<EndpointState>, StopReason, Duration)> = HashMap::new();
        // Without a healthy endpoint, clients would return to one that is down and be closed again.
        let others = endpoints
            .iter()
            .any(|endpoint| endpoint.takes_sessions() && endpoint.state.standing(now) != Standing::Down);
        for endpoint in endpoints {
            let live = &endpoint.state;
            let why = match endpoint.written.drain {
                Some(span) => (StopReason::EndpointDrain, span.duration()),
                None if self.policy.down && others && live.standing(now) == Standing::Down => {
                    (StopReason::EndpointDown, DOWN_SPAN)
                }
                None => continue,
            };
            to_empty.insert(live.id(), (Arc::clone(live), why.0, why.1));
        }
        let members: HashMap<u64, Arc<EndpointState>> =
            endpoints.iter().map(|endpoint| (endpoint.state.id(), Arc::clone(&endpoint.state))).collect();
        let was_member =
            self.state.members.iter().chain(self.state.emptied.iter().map(|(id, emptying)| (id, &emptying.live)));
        for (id, live) in was_member.filter(|(id, _)| !members.contains_key(id)) {
            // An endpoint that was being drained and is then removed keeps its drain.
            let drained = self.state.emptied.get(id).filter(|emptying| emptying.why == StopReason::EndpointDrain);
            if let Some(span) = drained.map(|emptying| emptying.span).or(self.policy.removed) {
                to_empty.insert(*id, (Arc::clone(live), StopReason::EndpointDrain, span));
            }
        }
        self.state.members = members;
        self.state.emptied.retain(|id, emptying| {
            let is_member = self.state.members.contains_key(id);
            let as_before = |(_, why, span): &(Arc<EndpointState>, StopReason, Duration)| {
                (why, span) == (&emptying.why, &emptying.span)
            };
            to_empty.get(id).is_some_and(as_before) && (is_member || emptying.live.own_sessions() > 0)
        });
        for (id, (live, why, span)) in to_empty {
            if live.own_sessions() == 0 || self.state.emptied.contains_key(&id) {
                continue;
            }
            tracing::info!(
                upstream = %self.upstream.name, endpoint = %live.endpoint(), sessions = live.own_sessions(), ?span,
                reason = ?why, "closing the sessions of an endpoint"
            );
            let sessions = QuietestFirst::ask(self.registry, id, now);
            self.state
                .emptied
                .insert(id, EndpointEviction { live, why, begun: now, span, sessions, count: 0, stopped: 0 });
        }
    }

    fn empty(&mut self, now: MonotonicTime) {
        for (id, emptying) in &mut self.state.emptied {
            let Some(known) = emptying.sessions.known(self.registry, *id, now, true) else { continue };
            emptying.count = emptying.count.max(emptying.stopped + known.len());
            let passed = now.since(emptying.begun).as_secs_f64() / emptying.span.as_secs_f64().max(1e-3);
            // Each session has one slot in the span.
            let due = (emptying.count as f64 * passed.min(1.0)).ceil() as usize;
            let stopped = due.saturating_sub(emptying.stopped).min(known.len());
            self.registry.stop(known.drain(..stopped), now, &emptying.why);
            emptying.stopped += stopped;
            let is_stale = now.since(emptying.sessions.asked_at) >= STALE;
            if is_stale && emptying.live.own_sessions() > 0 {
                // Sessions may have opened since, and those that were quiet then need not be so now.
                emptying.sessions = QuietestFirst::ask(self.registry, *id, now);
            }
        }
    }
}

impl QuietestFirst {
    fn ask(registry: &Sessions, id: u64, now: MonotonicTime) -> QuietestFirst {
        registry.request_reports(|_, member| member.endpoint_state.id() == id);
        QuietestFirst { asked_at: now, known: None }
    }

    /// Returns the sessions that are left; `None` until they have had time to answer.
    fn known(
        &mut self,
        registry: &Sessions,
        id: u64,
        now: MonotonicTime,
        include_stopping: bool,
    ) -> Option<&mut VecDeque<SessionId>> {
        if self.known.is_none() && now.since(self.asked_at) >= TICK / 2 {
            self.known = Some(
                registry
                    .quietest_first(include_stopping.then_some(now), |member| member.endpoint_state.id() == id)
                    .into(),
            );
        }
        self.known.as_mut()
    }
}

impl SurplusMove {
    fn run(&mut self, rule: RebalanceRule, upstream: &Upstream, registry: &Sessions, now: MonotonicTime) {
        while self.moved.front().is_some_and(|(at, _)| now.since(*at) >= RETURN_TIME) {
            self.moved.pop_front();
        }
        // Only endpoints that take sessions now: backups and other zones take no part in rebalancing.
        let open = upstream.first_choices(now);
        let healthy: Vec<u64> = open.iter().map(|endpoint| endpoint.state.id()).collect();
        let since = match &self.healthy {
            Some((before, since)) if *before == healthy => *since,
            _ => now,
        };
        self.healthy = Some((healthy, since));
        let is_settled = |endpoint: &Arc<Endpoint>| endpoint.state.joined_for(now) >= rule.settle;
        if now.since(since) < rule.settle || !open.iter().all(is_settled) {
            self.reset();
            return;
        }
        let load_of = |endpoint: &Arc<Endpoint>| EndpointLoad {
            load: endpoint.state.sessions(),
            weight: upstream.weight(endpoint, now),
            sessions_max: endpoint.sessions_max,
        };
        let loads: Vec<EndpointLoad> = open.iter().map(load_of).collect();
        let on_their_way = self.moved.iter().map(|(_, count)| *count).sum();
        let surplus = |loads: &[EndpointLoad]| surplus(loads, on_their_way, rule.tolerance_percent);
        if self.from.is_empty() {
            if surplus(&loads).iter().all(|given| *given == 0) {
                return;
            }
            // Sessions that are closing count as about to return, so they must not count on their endpoint too.
            let ids: Vec<u64> = open.iter().map(|endpoint| endpoint.state.id()).collect();
            let mut left = vec![0; ids.len()];
            registry.for_each_left(|member| {
                if let Some(at) = ids.iter().position(|id| *id == member.endpoint_state.id()) {
                    left[at] += 1;
                }
            });
            // Sessions of earlier processes count as load too, but only those processes can move them.
            let own = open.iter().zip(&left).map(|(endpoint, left)| endpoint.state.own_sessions().min(*left));
            let loads = loads.iter().zip(&open).zip(own);
            let loads: Vec<EndpointLoad> = loads
                .map(|((loads, endpoint), own)| EndpointLoad {
                    load: endpoint.state.inherited_sessions().saturating_add(own),
                    ..*loads
                })
                .collect();
            for ((endpoint, given), left) in open.iter().zip(surplus(&loads)).zip(left) {
                let given = given.min(left);
                if given > 0 {
                    let id = endpoint.state.id();
                    self.from.insert(id, (given as usize, QuietestFirst::ask(registry, id, now)));
                }
            }
            if !self.from.is_empty() {
                let sessions: usize = self.from.values().map(|(left, _)| left).sum();
                tracing::info!(upstream = %upstream.name, sessions, rate = rule.rate, "moving sessions to lighter endpoints");
            }
            return;
        }
        // Other sessions open and close meanwhile: no endpoint gives more than its surplus now. Clients that have returned
        // are among them, so those about to return are not added: counting them twice would end this early.
        for ((endpoint, loads), most) in open.iter().zip(&loads).zip(most(&loads, 0, rule.tolerance_percent)) {
            let id = endpoint.state.id();
            let Some((left, sessions)) = self.from.get_mut(&id) else { continue };
            *left = (*left).min(loads.load.saturating_sub(most) as usize);
            if *left > 0 && now.since(sessions.asked_at) >= STALE {
                *sessions = QuietestFirst::ask(registry, id, now);
            }
        }
        self.from.retain(|_, (left, _)| *left > 0);
        let passed = self.allowance_at.replace(now).map_or(TICK, |before| now.since(before));
        self.allowance = (self.allowance + f64::from(rule.rate) * passed.as_secs_f64()).min(f64::from(rule.rate));
        let mut stopped_now = 0;
        while self.allowance >= 1.0 {
            // Always from the endpoint with the most left to move.
            let Some((id, (left, sessions))) = self.from.iter_mut().max_by_key(|(id, (left, _))| (*left, **id)) else {
                break;
            };
            let id = *id;
            let Some(known) = sessions.known(registry, id, now, false) else { break };
            let Some(session) = known.pop_front().filter(|_| *left > 0) else {
                self.from.remove(&id);
                continue;
            };
            let stopped = registry.stop([session], now, &StopReason::Rebalance);
            *left -= stopped;
            self.allowance -= stopped as f64;
            stopped_now += stopped as u32;
        }
        if stopped_now > 0 {
            self.moved.push_back((now, stopped_now));
        }
        if self.from.is_empty() {
            self.reset();
        }
    }

    /// Stops moving sessions.
    fn reset(&mut self) {
        self.from.clear();
        (self.allowance, self.allowance_at) = (0.0, None);
    }
}
