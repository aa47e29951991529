//! The live state of endpoints: load, health, ejection.
//!
//! The state belongs to the endpoint, by upstream and name, and not to a configuration: it survives a new weight, a new
//! neighbour and a new file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::Gate;
use super::metrics::EndpointMetrics;
use crate::base::time::MonotonicTime;
use crate::health::outlier::Outlier;
use crate::health::threshold::{self, Health, Threshold};

/// The standing of an endpoint; better ones are picked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not failed.
    Good,
    /// It failed live traffic.
    Ejected,
    /// It fails its health check.
    Down,
}

/// What a process knows of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownStanding {
    /// Its health, from its health check.
    pub health: Health,
    /// Until when it is ejected.
    pub ejected_until: Option<MonotonicTime>,
}

/// The live state of one endpoint.
#[derive(Debug)]
pub struct EndpointState {
    name: EndpointKey,
    id: u64,
    /// Its metrics. The series end with the last state of this name.
    pub metrics: EndpointMetrics,
    /// The permits that this process holds on it.
    own: PermitCounts,
    /// Sessions of earlier processes on it that still drain.
    inherited: AtomicU32,
    /// Ejection, from live traffic.
    pub outlier: Outlier,
    /// Health, from its health check.
    threshold: Mutex<Threshold>,
    /// Whether its health is down, for picks.
    down: AtomicBool,
    /// Whether it is drained and takes no sessions.
    closed: AtomicBool,
    /// When it joined the others or came back, in microseconds; 0 if it was there from the start.
    joined_at: AtomicU64,
    gate: Arc<Gate>,
    states: EndpointStates,
}

impl EndpointState {
    /// Returns the endpoint's name.
    pub fn endpoint(&self) -> &str {
        &self.name.1
    }

    /// Returns its number, unique in this process and never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the load that `max_connections` limits: sessions, those being opened included, those of earlier
    /// processes that still drain, and running plain requests.
    pub fn load(&self) -> u32 {
        let (sessions, requests) = self.own.counts();
        sessions.saturating_add(requests).saturating_add(self.inherited_sessions())
    }

    /// Returns the sessions on it, those being opened included, and those of earlier processes that still drain.
    pub fn sessions(&self) -> u32 {
        self.own_sessions().saturating_add(self.inherited_sessions())
    }

    /// Returns the sessions of this process on it, those being opened included.
    pub fn own_sessions(&self) -> u32 {
        self.own.counts().0
    }

    /// Returns the running plain requests of this process on it.
    pub fn requests(&self) -> u32 {
        self.own.counts().1
    }

    /// Returns the sessions of earlier processes that still drain, as last reported.
    pub fn inherited_sessions(&self) -> u32 {
        self.inherited.load(Ordering::Relaxed)
    }

    /// Takes a permit, unless `max` are taken, those of earlier processes included.
    pub fn enter(self: &Arc<EndpointState>, max: u32) -> Option<ConnectionPermit> {
        let max = max.saturating_sub(self.inherited_sessions());
        self.own.enter(max).then(|| ConnectionPermit(Arc::clone(self)))
    }

    /// Returns its standing.
    pub fn standing(&self, now: MonotonicTime) -> Standing {
        if self.down.load(Ordering::Relaxed) {
            Standing::Down
        } else if self.outlier.is_out(now) {
            Standing::Ejected
        } else {
            Standing::Good
        }
    }

    /// Returns its health, from its health check.
    pub fn health(&self) -> Health {
        self.lock_threshold().health()
    }

    /// Records the result of a probe; returns its health before and after. An endpoint that comes back counts as newly
    /// joined.
    pub fn probed(&self, rule: threshold::HealthThresholds, passed: bool, now: MonotonicTime) -> (Health, Health) {
        let mut threshold = self.lock_threshold();
        let before = threshold.health();
        threshold.observe(rule, passed);
        let after = threshold.health();
        if (before, after) == (Health::Down, Health::Up) {
            self.joined(now);
        }
        self.down.store(after == Health::Down, Ordering::Relaxed);
        if after == Health::Up && before != after {
            self.gate.queue.recheck();
        }
        (before, after)
    }

    /// Forgets its health, since its health check ended. An endpoint that was down counts as newly joined.
    pub fn unchecked(&self, now: MonotonicTime) {
        let mut threshold = self.lock_threshold();
        if *threshold != Threshold::default() {
            let was_down = threshold.health() == Health::Down;
            *threshold = Threshold::default();
            if was_down {
                self.joined(now);
            }
            self.down.store(false, Ordering::Relaxed);
            drop(threshold);
            if was_down {
                self.gate.queue.recheck();
            }
        }
    }

    /// Returns what is known of it that another process should know too; `None` if there is nothing.
    pub fn known(&self, now: MonotonicTime) -> Option<KnownStanding> {
        let (health, ejected_until) = (self.health(), self.outlier.ejected_until(now));
        (health != Health::Unknown || ejected_until.is_some()).then_some(KnownStanding { health, ejected_until })
    }

    /// Goes on with what another process knew of it.
    pub fn go_on_with(&self, known: KnownStanding, now: MonotonicTime) {
        let KnownStanding { health, ejected_until } = known;
        *self.lock_threshold() = Threshold::known(health);
        self.down.store(health == Health::Down, Ordering::Relaxed);
        if let Some(until) = ejected_until.filter(|until| *until > now) {
            self.outlier.go_on_ejected(now, until);
        }
    }

    fn lock_threshold(&self) -> MutexGuard<'_, Threshold> {
        self.threshold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true unless it is drained.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Opens or closes it for sessions. When it opens, it counts as newly joined.
    pub fn set_open(&self, open: bool, now: MonotonicTime) {
        if self.closed.swap(!open, Ordering::Relaxed) && open {
            self.joined(now);
            self.gate.queue.recheck();
        }
    }

    /// Records that it joined others that already have sessions, or came back to them.
    pub fn joined(&self, now: MonotonicTime) {
        self.joined_at.store(now.as_micros().max(1), Ordering::Relaxed);
    }

    /// Returns how long ago it joined; the maximum if it was there from the start.
    pub fn joined_for(&self, now: MonotonicTime) -> Duration {
        match self.joined_at.load(Ordering::Relaxed) {
            0 => Duration::MAX,
            at => now.since(MonotonicTime::from_micros(at)),
        }
    }

    /// Returns its progress through slow start, the `span` since it joined, from 0 to 1.
    pub fn warmth(&self, span: Duration, now: MonotonicTime) -> f64 {
        match self.joined_at.load(Ordering::Relaxed) {
            0 => 1.0,
            at => (now.since(MonotonicTime::from_micros(at)).as_secs_f64() / span.as_secs_f64().max(1e-6)).min(1.0),
        }
    }
}

impl Drop for EndpointState {
    /// Removes its name from the table, unless another state of the same name has begun.
    fn drop(&mut self) {
        let endpoints = &mut self.states.lock().endpoints;
        // This state is the one that can no longer be upgraded.
        if endpoints.get(&self.name).is_some_and(|state| state.strong_count() == 0) {
            endpoints.remove(&self.name);
        }
    }
}

/// The permits taken on an endpoint, and how many of them belong to plain requests. Both are in one number, so that
/// they are consistent.
#[derive(Debug, Default)]
struct PermitCounts(AtomicU64);

impl PermitCounts {
    const SEAT: u64 = 1;
    const REQUEST: u64 = 1 << 32;

    /// Returns the number of sessions and of requests.
    fn counts(&self) -> (u32, u32) {
        let counts = self.0.load(Ordering::Relaxed);
        let (permits, requests) = (counts as u32, (counts >> 32) as u32);
        (permits - requests, requests)
    }

    /// Takes one more permit if fewer than `max` are taken. Two workers cannot both get the last one.
    fn enter(&self, max: u32) -> bool {
        let more = |own: u64| ((own as u32) < max).then(|| own + PermitCounts::SEAT);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn leave(&self) {
        // `Queue` needs this order. On x86 it costs no more than any other.
        self.0.fetch_sub(PermitCounts::SEAT, Ordering::SeqCst);
    }

    fn request_begins(&self) {
        self.0.fetch_add(PermitCounts::REQUEST, Ordering::Relaxed);
    }

    fn request_ends(&self) {
        self.0.fetch_sub(PermitCounts::REQUEST, Ordering::Relaxed);
    }
}

/// A permit to use an endpoint, for a session being opened or a request; dropping it returns it.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<EndpointState>);

impl ConnectionPermit {
    /// Turns it into the permit of an open session.
    pub fn into_session(self) -> SessionPermit {
        self.0.metrics.session_begins();
        SessionPermit(self)
    }

    /// Turns it into the permit of a plain request, held until its answer is complete.
    pub fn into_request(self) -> RequestPermit {
        self.0.own.request_begins();
        self.0.metrics.request_begins();
        RequestPermit(self)
    }
}

/// The permit of a running plain request, counted in the gauge until dropped.
#[derive(Debug)]
pub struct RequestPermit(ConnectionPermit);

impl Drop for RequestPermit {
    fn drop(&mut self) {
        // The permit itself is returned later, so there are never more requests than permits.
        self.0.0.own.request_ends();
        self.0.0.metrics.request_ends();
    }
}

/// The permit of an open session, counted in the gauge until dropped.
#[derive(Debug)]
pub struct SessionPermit(ConnectionPermit);

impl SessionPermit {
    /// Returns the state of the endpoint.
    pub fn state(&self) -> &EndpointState {
        &self.0.0
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.0.0.metrics.session_ends();
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.own.leave();
        self.0.gate.queue.permit_freed();
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The states of all endpoints, by upstream and endpoint name, and the gates of all upstreams.
#[derive(Clone, Debug, Default)]
pub struct EndpointStates(Arc<Mutex<StateTable>>);

#[derive(Debug, Default)]
struct StateTable {
    endpoints: HashMap<EndpointKey, Weak<EndpointState>>,
    gates: HashMap<String, Weak<Gate>>,
    /// Sessions of earlier processes, including endpoints that this process does not know, or not yet.
    inherited: HashMap<EndpointKey, u32>,
}

/// The names of the upstream and of the endpoint.
pub type EndpointKey = (String, String);

impl EndpointStates {
    /// Returns the state of this endpoint: the same one as long as a configuration or a session holds it. `metrics`
    /// makes the metrics of a new one.
    pub fn of(&self, upstream: &str, endpoint: &str, metrics: impl FnOnce() -> EndpointMetrics) -> Arc<EndpointState> {
        let name = (upstream.to_owned(), endpoint.to_owned());
        let gate = self.gate(upstream);
        let mut table = self.lock();
        if let Some(state) = table.endpoints.get(&name).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(EndpointState {
            name: name.clone(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            metrics: metrics(),
            own: PermitCounts::default(),
            inherited: AtomicU32::new(table.inherited.get(&name).copied().unwrap_or(0)),
            outlier: Outlier::default(),
            threshold: Mutex::default(),
            down: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            joined_at: AtomicU64::new(0),
            gate,
            states: self.clone(),
        });
        table.endpoints.insert(name, Arc::downgrade(&state));
        state
    }

    /// Returns the gate of this upstream: the same one as long as a configuration or a session holds it.
    pub fn gate(&self, upstream: &str) -> Arc<Gate> {
        let gates = &mut self.lock().gates;
        if let Some(gate) = gates.get(upstream).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::<Gate>::default();
        gates.insert(upstream.to_owned(), Arc::downgrade(&gate));
        gate
    }

    /// Sets the sessions of earlier processes; they count as load. If there are fewer now, requests waiting for a
    /// permit check again.
    pub fn set_inherited(&self, inherited: HashMap<EndpointKey, u32>) {
        let mut table = self.lock();
        table.inherited = inherited;
        table.inherited.retain(|_, sessions| *sessions > 0);
        // Locked while they are updated, so that no state begins with the old numbers; kept longer, since the last
        // holder of a state takes the lock.
        let states: Vec<Arc<EndpointState>> = table.endpoints.values().filter_map(Weak::upgrade).collect();
        let mut eased: Vec<&Arc<Gate>> = vec![];
        for state in &states {
            let now = table.inherited.get(&state.name).copied().unwrap_or(0);
            if state.inherited.swap(now, Ordering::SeqCst) > now {
                eased.push(&state.gate);
            }
        }
        drop(table);
        eased.sort_unstable_by_key(|gate| Arc::as_ptr(gate));
        eased.dedup_by(|one, other| Arc::ptr_eq(one, other));
        eased.into_iter().for_each(|gate| gate.queue.recheck());
    }

    /// Returns the sessions of this process on each endpoint that has any.
    pub fn counts(&self) -> HashMap<EndpointKey, u32> {
        let states: Vec<Arc<EndpointState>> = self.lock().endpoints.values().filter_map(Weak::upgrade).collect();
        // Counted without the lock, which the last holder of a state takes.
        states
            .into_iter()
            .map(|state| (state.name.clone(), state.own_sessions()))
            .filter(|(_, sessions)| *sessions > 0)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, StateTable> {
        // A panic cannot leave this half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;
    use crate::telemetry::exposition::encode;
    use crate::upstream::metrics::Metrics;
    use prometheus::Registry;

    fn state() -> Arc<EndpointState> {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        EndpointStates::default().of("chat", "ws://a:1", || metrics.endpoint("chat", "ws://a:1", &[]))
    }

    #[test]
    fn another_process_goes_on_with_what_is_known() {
        let at = |seconds: u64| MonotonicTime::from_micros(seconds * 1_000_000);
        let (old, new) = (state(), state());
        assert_eq!(old.known(at(1)), None, "nothing to tell");
        let rule = threshold::HealthThresholds { rise: 2, fall: 1 };
        old.probed(rule, false, at(1));
        let ejection = crate::health::outlier::EjectionRule {
            failures: 1,
            span: Duration::from_secs(10),
            span_max: Duration::from_secs(60),
            early_end: None,
            percent_max: 100,
        };
        old.outlier.failed(ejection, at(1), || true).unwrap();
        let known = old.known(at(2)).unwrap();
        assert_eq!(known, KnownStanding { health: Health::Down, ejected_until: Some(at(11)) });
        new.go_on_with(known, at(2));
        assert_eq!((new.health(), new.standing(at(3))), (Health::Down, Standing::Down));
        assert!(new.outlier.is_ejected() && new.outlier.is_out(at(10)) && !new.outlier.is_out(at(12)));
        // As many passes as there too.
        assert_eq!(new.probed(rule, true, at(4)).1, Health::Down);
        assert_eq!(new.probed(rule, true, at(5)).1, Health::Up);
        assert_eq!(new.standing(at(6)), Standing::Ejected);
        assert!(new.outlier.answered(at(12)) && new.standing(at(12)) == Standing::Good);
    }

    #[test]
    fn permits_are_bounded_and_come_back() {
        let state = state();
        let permits: Vec<_> = (0..2).map(|_| state.enter(2).unwrap()).collect();
        assert!(state.enter(2).is_none());
        assert_eq!(state.load(), 2);
        drop(permits);
        assert_eq!(state.load(), 0);
    }

    #[test]
    fn a_request_takes_a_permit_and_is_no_session() {
        let state = state();
        let request = state.enter(2).unwrap().into_request();
        let session = state.enter(2).unwrap();
        assert!(state.enter(2).is_none());
        assert_eq!((state.load(), state.sessions(), state.own_sessions(), state.requests()), (2, 1, 1, 1));
        drop(request);
        assert_eq!((state.load(), state.sessions(), state.requests()), (1, 1, 0));
        drop(session);
        assert_eq!((state.load(), state.requests()), (0, 0));
    }

    #[test]
    fn workers_that_take_and_return_at_once_neither_lose_a_permit_nor_exceed_the_limit() {
        let state = state();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let permit = state.enter(3);
                        assert!(state.load() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(state.load(), 0);
    }

    #[test]
    fn a_state_outlives_its_first_configuration_as_long_as_a_session_holds_it() {
        let (registry, states) = (Registry::new(), EndpointStates::default());
        let metrics = Metrics::register(&registry).unwrap();
        let of =
            |upstream, endpoint| states.of(upstream, endpoint, || metrics.endpoint(upstream, endpoint, &["connect"]));
        let permit = of("chat", "ws://a:1").enter(u32::MAX).unwrap();
        assert_eq!(of("chat", "ws://a:1").load(), 1);
        assert_eq!(of("other", "ws://a:1").load(), 0);
        assert!(encode(&registry).unwrap().contains("ws://a:1"));
        drop(permit);
        assert!(states.lock().endpoints.is_empty());
        assert!(!encode(&registry).unwrap().contains("ws://a:1"), "its series went with it");
    }

    #[test]
    fn a_state_that_begins_while_the_last_one_ends_keeps_its_series() {
        let (registry, states) = (Registry::new(), EndpointStates::default());
        let metrics = Metrics::register(&registry).unwrap();
        let of = || states.of("chat", "ws://a:1", || metrics.endpoint("chat", "ws://a:1", &[]));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| of().metrics.pick()));
                scope.spawn(|| (0..500).for_each(|_| assert!(encode(&registry).is_ok())));
            }
        });
        let last = of();
        last.metrics.pick();
        assert!(encode(&registry).unwrap().contains("wsluice_endpoint_picks_total{"));
        drop(last);
        assert!(states.lock().endpoints.is_empty());
    }

    #[test]
    fn sessions_of_earlier_processes_count_as_load_and_take_permits() {
        let (registry, states) = (Registry::new(), EndpointStates::default());
        let metrics = Metrics::register(&registry).unwrap();
        let of = |endpoint| states.of("chat", endpoint, || metrics.endpoint("chat", endpoint, &[]));
        let report = |sessions: &[(&str, u32)]| {
            let name = |endpoint: &str| ("chat".to_owned(), endpoint.to_owned());
            states.set_inherited(sessions.iter().map(|(endpoint, count)| (name(endpoint), *count)).collect());
        };
        let known = of("ws://a:1");
        report(&[("ws://a:1", 2), ("ws://late:1", 7), ("ws://none:1", 0)]);
        assert_eq!((known.load(), known.own_sessions(), of("ws://none:1").load()), (2, 0, 0));
        assert_eq!(of("ws://late:1").load(), 7, "reported before the endpoint was known here");

        let permit = known.enter(3).unwrap();
        assert!(known.enter(3).is_none());
        assert_eq!(states.counts(), HashMap::from([(("chat".to_owned(), "ws://a:1".to_owned()), 1)]));
        report(&[("ws://a:1", u32::MAX)]);
        assert_eq!(known.load(), u32::MAX);
        assert!(known.enter(u32::MAX).is_none());
        report(&[]);
        assert_eq!((known.load(), of("ws://late:1").load()), (1, 0));
        drop(known.enter(2).unwrap());
        drop(permit);
        assert_eq!(states.counts(), HashMap::new());
        report(&[("ws://gone:1", 0)]);
        assert!(states.lock().inherited.is_empty(), "no entry is kept without sessions");
        drop(states.gate("another"));
        states.gate("a third");
        assert!(!states.lock().gates.contains_key("another"), "nor a gate without an owner");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_waiting_request_checks_again_when_an_earlier_process_returns_a_permit() {
        let state = state();
        let name = state.name.clone();
        state.states.set_inherited(HashMap::from([(name.clone(), 1)]));
        let mut ticket = state.gate.queue.join(1).unwrap();
        ticket.turn().await;
        assert!(state.enter(1).is_none());
        let waiting = tokio::spawn(async move { ticket.turn().await });
        tokio::task::yield_now().await;
        // As many as before: nobody is woken.
        state.states.set_inherited(HashMap::from([(name, 1)]));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        state.states.set_inherited(HashMap::new());
        waiting.await.unwrap();
        assert!(state.enter(1).is_some());
    }

    /// A waiter tried in vain, and is woken when `what` happens to the endpoint.
    async fn looks_again_when(state: &Arc<EndpointState>, what: impl FnOnce()) {
        let mut ticket = state.gate.queue.join(1).unwrap();
        ticket.turn().await;
        let waiting = tokio::spawn(async move { ticket.turn().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "nothing has happened yet");
        what();
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it is woken").unwrap();
    }

    async fn stays_when(state: &Arc<EndpointState>, what: impl FnOnce()) {
        let mut ticket = state.gate.queue.join(1).unwrap();
        ticket.turn().await;
        let waiting = tokio::spawn(async move { ticket.turn().await });
        tokio::task::yield_now().await;
        what();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "no needless wake-up");
        waiting.abort();
        let _ = waiting.await;
    }

    const RULE: threshold::HealthThresholds = threshold::HealthThresholds { rise: 1, fall: 1 };

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime::from_micros(seconds * 1_000_000)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_waiting_request_checks_again_when_an_endpoint_takes_sessions_again() {
        let state = state();
        let probed = |passed, now| {
            state.probed(RULE, passed, now);
        };
        state.set_open(false, at(1));
        looks_again_when(&state, || state.set_open(true, at(2))).await;
        state.probed(RULE, false, at(3));
        looks_again_when(&state, || probed(true, at(4))).await;
        state.probed(RULE, false, at(5));
        looks_again_when(&state, || state.unchecked(at(6))).await;
        // Changes without effect on anybody.
        stays_when(&state, || state.set_open(true, at(7))).await;
        stays_when(&state, || state.set_open(false, at(7))).await;
        state.probed(RULE, true, at(8));
        stays_when(&state, || probed(true, at(8))).await;
        stays_when(&state, || probed(false, at(8))).await;
        state.probed(RULE, true, at(9));
        stays_when(&state, || state.unchecked(at(9))).await;
    }

    #[test]
    fn one_that_comes_back_joins_the_others_anew_and_one_that_was_there_does_not() {
        let state = state();
        let joined = |now| state.joined_for(at(now));
        // The first verdict does not count as a return.
        state.probed(RULE, true, at(1));
        state.set_open(true, at(1));
        assert_eq!(joined(2), Duration::MAX);
        state.probed(RULE, false, at(3));
        assert_eq!((joined(3), state.standing(at(3)), state.health()), (Duration::MAX, Standing::Down, Health::Down));
        state.probed(RULE, true, at(10));
        assert_eq!((joined(15), state.standing(at(15))), (Duration::from_secs(5), Standing::Good));
        state.probed(RULE, true, at(16));
        assert_eq!(joined(20), Duration::from_secs(10), "it is up as before");
        state.set_open(false, at(20));
        assert_eq!((joined(21), state.is_open()), (Duration::from_secs(11), false));
        state.set_open(true, at(30));
        assert_eq!((joined(31), state.is_open()), (Duration::from_secs(1), true));
        state.probed(RULE, false, at(40));
        state.unchecked(at(50));
        assert_eq!(
            (joined(53), state.standing(at(53)), state.health()),
            (Duration::from_secs(3), Standing::Good, Health::Unknown)
        );
        state.probed(RULE, true, at(60));
        state.unchecked(at(61));
        assert_eq!((joined(63), state.health()), (Duration::from_secs(13), Health::Unknown), "it was up");
    }

    #[test]
    fn a_check_that_fails_says_more_than_an_ejection() {
        let state = state();
        let rule = crate::health::outlier::EjectionRule {
            failures: 1,
            span: Duration::from_secs(10),
            span_max: Duration::from_secs(10),
            early_end: None,
            percent_max: 100,
        };
        state.outlier.failed(rule, at(1), || true);
        assert_eq!(state.standing(at(2)), Standing::Ejected);
        state.probed(RULE, false, at(2));
        assert_eq!(state.standing(at(2)), Standing::Down);
    }

    #[test]
    fn one_that_joins_warms_up() {
        let (state, span) = (state(), Duration::from_secs(10));
        let at = |seconds: u64| MonotonicTime::from_micros(seconds * 1_000_000);
        assert_eq!(state.warmth(span, at(5)), 1.0);
        state.joined(at(5));
        assert_eq!([5, 10, 15, 90].map(|now| state.warmth(span, at(now))), [0.0, 0.5, 1.0, 1.0]);
    }
}
