//! Sessions that are to leave their endpoint: those of one that is emptied or down, and the surplus of one that holds more
//! than its share after others have joined.
//!
//! One task for each upstream that wants any of this. It looks at the endpoints a few times a second and, where there is
//! something to do, asks the sessions concerned once how long each has been quiet; the quietest go first, at the pace that
//! is set. What it costs without anything to do is a look at each endpoint.

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

/// How often there is a look.
const TICK: Duration = Duration::from_millis(200);
/// How long a session that was sent away counts as on its way: clients wait before they come back.
const ON_ITS_WAY: Duration = Duration::from_secs(60);
/// How long it is believed how quiet sessions have been.
const STALE: Duration = Duration::from_secs(5);
/// Over how long the sessions of an endpoint that is down are closed.
const DOWN: Duration = Duration::from_secs(5);

/// What is under way for one upstream. It goes over from one configuration to the next, and outlives a panic.
#[derive(Default)]
pub struct EvictionState {
    /// Who was a member when last looked.
    members: HashMap<u64, Arc<EndpointState>>,
    /// Who is being emptied.
    emptied: HashMap<u64, Emptying>,
    moving: Moving,
}

impl EvictionState {
    /// Nothing is under way. `members` are the endpoints that the upstream has had so far.
    pub fn new(members: &[Arc<Endpoint>]) -> EvictionState {
        let members = members.iter().map(|endpoint| (endpoint.live.id(), Arc::clone(&endpoint.live))).collect();
        EvictionState { members, ..EvictionState::default() }
    }
}

/// Does it until it is dropped. Of endpoints that were members in `state` and are no more it is noticed that they were removed. When another process `is_replacing` this one, no surplus is moved: this one does not
/// see what the other has.
pub async fn run(
    upstream: Arc<Upstream>,
    drain: Arc<Sessions>,
    wanted: EvictionPolicy,
    state: Arc<Mutex<EvictionState>>,
    is_replacing: impl Fn() -> bool,
) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut wanted = wanted;
    loop {
        tick.tick().await;
        if is_replacing() {
            wanted.rebalance = None;
        }
        // Nobody else holds it but for a moment; what a panic left half done is looked at anew.
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        Shed { upstream: &upstream, drain: &drain, wanted, state: &mut state }.look(clock::now());
    }
}

/// One look.
struct Shed<'a> {
    upstream: &'a Upstream,
    drain: &'a Sessions,
    wanted: EvictionPolicy,
    state: &'a mut EvictionState,
}

/// An endpoint whose sessions are to go by some time.
struct Emptying {
    live: Arc<EndpointState>,
    why: StopReason,
    begun: MonotonicTime,
    span: Duration,
    sessions: Quietest,
    /// How many there were to go, and how many have been told.
    count: usize,
    told: usize,
}

/// Sessions of one endpoint, the quietest first: asked at some time, and a look later known.
struct Quietest {
    asked: MonotonicTime,
    known: Option<VecDeque<SessionId>>,
}

/// Surplus on its way to other endpoints.
#[derive(Default)]
struct Moving {
    /// Who stood well when last looked, and since when it has been these.
    well: Option<(Vec<u64>, MonotonicTime)>,
    /// Who those are that are moved now, and how many are left to move.
    from: HashMap<u64, (usize, Quietest)>,
    /// What the pace allows and was not used, and up to when that was reckoned.
    allowance: f64,
    reckoned: Option<MonotonicTime>,
    /// When how many were sent away.
    sent: VecDeque<(MonotonicTime, u32)>,
}

impl Shed<'_> {
    fn look(&mut self, now: MonotonicTime) {
        let endpoints = self.upstream.endpoints();
        self.note_emptied(&endpoints, now);
        self.empty(now);
        if let Some(rebalance) = self.wanted.rebalance {
            self.state.moving.look(rebalance, self.upstream, self.drain, now);
        }
    }

    /// Who is to be emptied, and who is not any more.
    fn note_emptied(&mut self, endpoints: &[Arc<Endpoint>], now: MonotonicTime) {
        let mut wanted: HashMap<u64, (Arc<EndpointState>, StopReason, Duration)> = HashMap::new();
        // With nobody who is well the clients would come back to those that are down, and be closed again.
        let others =
            endpoints.iter().any(|endpoint| endpoint.takes_sessions() && endpoint.live.standing(now) != Standing::Down);
        for endpoint in endpoints {
            let live = &endpoint.live;
            let why = match endpoint.written.drain {
                Some(span) => (StopReason::EndpointDrain, span.duration()),
                None if self.wanted.down && others && live.standing(now) == Standing::Down => {
                    (StopReason::EndpointDown, DOWN)
                }
                None => continue,
            };
            wanted.insert(live.id(), (Arc::clone(live), why.0, why.1));
        }
        let members: HashMap<u64, Arc<EndpointState>> =
            endpoints.iter().map(|endpoint| (endpoint.live.id(), Arc::clone(&endpoint.live))).collect();
        let was_member =
            self.state.members.iter().chain(self.state.emptied.iter().map(|(id, emptying)| (id, &emptying.live)));
        for (id, live) in was_member.filter(|(id, _)| !members.contains_key(id)) {
            // One that was drained and is taken out then goes on as it was to.
            let drained = self.state.emptied.get(id).filter(|emptying| emptying.why == StopReason::EndpointDrain);
            if let Some(span) = drained.map(|emptying| emptying.span).or(self.wanted.removed) {
                wanted.insert(*id, (Arc::clone(live), StopReason::EndpointDrain, span));
            }
        }
        self.state.members = members;
        self.state.emptied.retain(|id, emptying| {
            let is_member = self.state.members.contains_key(id);
            let as_before = |(_, why, span): &(Arc<EndpointState>, StopReason, Duration)| {
                (why, span) == (&emptying.why, &emptying.span)
            };
            wanted.get(id).is_some_and(as_before) && (is_member || emptying.live.here() > 0)
        });
        for (id, (live, why, span)) in wanted {
            if live.here() == 0 || self.state.emptied.contains_key(&id) {
                continue;
            }
            tracing::info!(
                upstream = %self.upstream.name, endpoint = %live.endpoint(), sessions = live.here(), ?span,
                reason = ?why, "closing the sessions of an endpoint"
            );
            let sessions = Quietest::ask(self.drain, id, now);
            self.state.emptied.insert(id, Emptying { live, why, begun: now, span, sessions, count: 0, told: 0 });
        }
    }

    fn empty(&mut self, now: MonotonicTime) {
        for (id, emptying) in &mut self.state.emptied {
            let Some(known) = emptying.sessions.known(self.drain, *id, now, true) else { continue };
            emptying.count = emptying.count.max(emptying.told + known.len());
            let passed = now.since(emptying.begun).as_secs_f64() / emptying.span.as_secs_f64().max(1e-3);
            // One slot for each.
            let due = (emptying.count as f64 * passed.min(1.0)).ceil() as usize;
            let told = due.saturating_sub(emptying.told).min(known.len());
            self.drain.stop(known.drain(..told), now, &emptying.why);
            emptying.told += told;
            let is_stale = now.since(emptying.sessions.asked) >= STALE;
            if is_stale && emptying.live.here() > 0 {
                // Some may have been about to open when it began, and who was quiet then need not be so now.
                emptying.sessions = Quietest::ask(self.drain, *id, now);
            }
        }
    }
}

impl Quietest {
    fn ask(drain: &Sessions, id: u64, now: MonotonicTime) -> Quietest {
        drain.ask(|_, member| member.live.id() == id);
        Quietest { asked: now, known: None }
    }

    /// Those who are left; `None` as long as they can not have answered.
    fn known(
        &mut self,
        drain: &Sessions,
        id: u64,
        now: MonotonicTime,
        even_told: bool,
    ) -> Option<&mut VecDeque<SessionId>> {
        if self.known.is_none() && now.since(self.asked) >= TICK / 2 {
            self.known = Some(drain.by_silence(even_told.then_some(now), |member| member.live.id() == id).into());
        }
        self.known.as_mut()
    }
}

impl Moving {
    fn look(&mut self, rule: RebalanceRule, upstream: &Upstream, drain: &Sessions, now: MonotonicTime) {
        while self.sent.front().is_some_and(|(at, _)| now.since(*at) >= ON_ITS_WAY) {
            self.sent.pop_front();
        }
        // Those that take sessions now: backups and other zones are not for evening out.
        let open = upstream.first_choices(now);
        let well: Vec<u64> = open.iter().map(|endpoint| endpoint.live.id()).collect();
        let since = match &self.well {
            Some((before, since)) if *before == well => *since,
            _ => now,
        };
        self.well = Some((well, since));
        let is_settled = |endpoint: &Arc<Endpoint>| endpoint.live.joined_for(now) >= rule.settle;
        if now.since(since) < rule.settle || !open.iter().all(is_settled) {
            self.rest();
            return;
        }
        let hold = |endpoint: &Arc<Endpoint>| EndpointLoad {
            load: endpoint.live.sessions(),
            weight: upstream.weight(endpoint, now),
            sessions_max: endpoint.sessions_max,
        };
        let held: Vec<EndpointLoad> = open.iter().map(hold).collect();
        let on_their_way = self.sent.iter().map(|(_, count)| *count).sum();
        let surplus = |held: &[EndpointLoad]| surplus(held, on_their_way, rule.tolerance_percent);
        if self.from.is_empty() {
            if surplus(&held).iter().all(|given| *given == 0) {
                return;
            }
            // Those who have been told and are still closing are on their way, and not on their endpoint as well.
            let ids: Vec<u64> = open.iter().map(|endpoint| endpoint.live.id()).collect();
            let mut left = vec![0; ids.len()];
            drain.for_each_left(|member| {
                if let Some(at) = ids.iter().position(|id| *id == member.live.id()) {
                    left[at] += 1;
                }
            });
            // Those of earlier processes are load as well, which only they can move.
            let own = open.iter().zip(&left).map(|(endpoint, left)| endpoint.live.here().min(*left));
            let held = held.iter().zip(&open).zip(own);
            let held: Vec<EndpointLoad> = held
                .map(|((held, endpoint), own)| EndpointLoad {
                    load: endpoint.live.elsewhere().saturating_add(own),
                    ..*held
                })
                .collect();
            for ((endpoint, given), left) in open.iter().zip(surplus(&held)).zip(left) {
                let given = given.min(left);
                if given > 0 {
                    let id = endpoint.live.id();
                    self.from.insert(id, (given as usize, Quietest::ask(drain, id, now)));
                }
            }
            if !self.from.is_empty() {
                let sessions: usize = self.from.values().map(|(left, _)| left).sum();
                tracing::info!(upstream = %upstream.name, sessions, rate = rule.rate, "moving sessions to lighter endpoints");
            }
            return;
        }
        // Others leave and come by themselves meanwhile: nobody gives more than is over now. Whoever has come back since is
        // among these, so those on their way are left out: counted twice, they would end it early.
        for ((endpoint, held), most) in open.iter().zip(&held).zip(most(&held, 0, rule.tolerance_percent)) {
            let id = endpoint.live.id();
            let Some((left, sessions)) = self.from.get_mut(&id) else { continue };
            *left = (*left).min(held.load.saturating_sub(most) as usize);
            if *left > 0 && now.since(sessions.asked) >= STALE {
                *sessions = Quietest::ask(drain, id, now);
            }
        }
        self.from.retain(|_, (left, _)| *left > 0);
        let passed = self.reckoned.replace(now).map_or(TICK, |before| now.since(before));
        self.allowance = (self.allowance + f64::from(rule.rate) * passed.as_secs_f64()).min(f64::from(rule.rate));
        let mut told_now = 0;
        while self.allowance >= 1.0 {
            // In turn from the one with the most to give.
            let Some((id, (left, sessions))) = self.from.iter_mut().max_by_key(|(id, (left, _))| (*left, **id)) else {
                break;
            };
            let id = *id;
            let Some(known) = sessions.known(drain, id, now, false) else { break };
            let Some(place) = known.pop_front().filter(|_| *left > 0) else {
                self.from.remove(&id);
                continue;
            };
            let told = drain.stop([place], now, &StopReason::Rebalance);
            *left -= told;
            self.allowance -= told as f64;
            told_now += told as u32;
        }
        if told_now > 0 {
            self.sent.push_back((now, told_now));
        }
        if self.from.is_empty() {
            self.rest();
        }
    }

    /// Nothing is moved now.
    fn rest(&mut self) {
        self.from.clear();
        (self.allowance, self.reckoned) = (0.0, None);
    }
}
