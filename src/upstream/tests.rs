//! Membership that changes under sessions, and the order of preference.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use prometheus::Registry;

use super::endpoint_state::EndpointStates;
use super::metrics::Metrics;
use super::*;
use crate::health::threshold;
use crate::net::names::NameResolver;
use crate::net::socket::TcpOptions;
use crate::telemetry::exposition::encode;

const START: MonotonicTime = MonotonicTime::from_micros(1_000_000);

const EJECTION: outlier::EjectionRule = outlier::EjectionRule {
    failures: 1,
    span: Duration::from_secs(10),
    span_max: Duration::from_secs(300),
    early_end: Some(Duration::from_secs(1)),
    percent_max: 50,
};

struct Group {
    registry: Registry,
    upstream: Upstream,
}

impl Group {
    fn new(policy: Policy) -> Group {
        let registry = Registry::new();
        let maker = Maker {
            upstream: "chat".into(),
            tls: None,
            protocol: config::UpstreamProtocol::Auto,
            server_name: None,
            connect_timeout: Duration::from_secs(1),
            workers: 1,
            families: Metrics::register(&registry).unwrap(),
            reasons: ["connect"].into(),
            tcp: TcpOptions::default(),
            reach: None,
            sources: None,
            states: EndpointStates::default(),
            names: NameResolver::register(&registry).unwrap(),
        };
        Group { registry, upstream: Upstream::new(policy, maker) }
    }

    /// Endpoints as a list in YAML.
    fn become_(&self, written: &str) -> Change {
        let written: Vec<config::EndpointConfig> = serde_yaml::from_str(written).unwrap();
        self.upstream.replace(&written, START)
    }

    fn pick(&self) -> (String, ConnectionPermit) {
        self.pick_at(START).unwrap()
    }

    fn pick_at(&self, now: MonotonicTime) -> Result<(String, ConnectionPermit), NoEndpoint> {
        let draw = Draw { key: 0, random: fastrand::u64(..) };
        let (endpoint, permit) = self.upstream.pick(&[], draw, now)?;
        Ok((endpoint.name.to_string(), permit))
    }

    /// A handshake with the endpoint at this index fails.
    fn fail(&self, index: usize, now: MonotonicTime) {
        self.upstream.failed(&self.upstream.endpoints()[index].state, "connect", now);
    }

    /// Its health check passes or fails, and is believed at once.
    fn probe(&self, index: usize, passed: bool) {
        self.upstream.endpoints()[index].state.probed(threshold::HealthThresholds { rise: 1, fall: 1 }, passed, START);
    }

    fn ejected(&self) -> Vec<bool> {
        self.upstream.endpoints().iter().map(|endpoint| endpoint.state.outlier.is_ejected()).collect()
    }

    /// Sessions on each, by port, of those that are members.
    fn loads(&self) -> Vec<u32> {
        self.upstream.endpoints().iter().map(|endpoint| endpoint.state.load()).collect()
    }
}

fn policy(zone: Option<&str>) -> Policy {
    Policy {
        balance: config::Balance::LeastConnections,
        slow_start: None,
        zone: zone.map(str::to_owned),
        ejection: Some(EJECTION),
        refuse_down: false,
        retry_budget: None,
    }
}

fn names(endpoints: &[Arc<Endpoint>]) -> Vec<&str> {
    endpoints.iter().map(|endpoint| &*endpoint.name).collect()
}

#[test]
fn counts_survive_every_change_of_membership_and_weight() {
    let group = Group::new(policy(None));
    let change = group.become_("['ws://a:1', 'ws://b:1']");
    assert_eq!(names(&change.joined), ["ws://a:1", "ws://b:1"]);
    drop(change);
    let mut permits: Vec<_> = (0..8).map(|_| group.pick()).collect();
    assert_eq!(group.loads(), [4, 4]);
    let before = group.upstream.endpoints();
    // Another order, another weight, another neighbour, one twice.
    let change = group.become_("['ws://c:1', { url: 'ws://b:1', weight: 2 }, 'ws://a:1', 'ws://a:1']");
    assert_eq!((names(&change.joined), names(&change.left)), (vec!["ws://c:1"], vec![]));
    drop(change);
    assert_eq!(group.loads(), [0, 4, 4]);
    assert!(Arc::ptr_eq(&before[0], &group.upstream.endpoints()[2]), "what stays as it was is not touched");
    // One goes and comes back while its sessions live.
    let change = group.become_("['ws://c:1']");
    assert_eq!(names(&change.left), ["ws://b:1", "ws://a:1"]);
    drop((change, before));
    assert_eq!(permits.iter().filter(|(name, _)| name == "ws://a:1").count(), 4);
    group.become_("['ws://a:1', 'ws://b:1', 'ws://c:1']");
    assert_eq!(group.loads(), [4, 4, 0]);
    permits.retain(|(name, _)| name == "ws://b:1");
    assert_eq!(group.loads(), [0, 4, 0]);
    // One that is gone for good, with the last of its sessions, leaves no series behind.
    group.become_("['ws://a:1']");
    let series = |name: &str| encode(&group.registry).unwrap().contains(&format!("endpoint=\"{name}\""));
    assert!(series("ws://b:1") && !series("ws://c:1"));
    permits.clear();
    assert!(!series("ws://b:1") && series("ws://a:1"));
}

#[test]
fn an_endpoint_that_failed_is_remembered_by_its_name() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', 'ws://b:1']");
    group.fail(0, START);
    group.become_("[{ url: 'ws://a:1', weight: 9 }, 'ws://b:1']");
    assert!((0..20).all(|_| group.pick().0 == "ws://b:1"));
}

#[test]
fn what_was_tried_is_not_tried_again_when_its_weight_changes_meanwhile() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1']");
    let tried = group.upstream.endpoints();
    group.become_("[{ url: 'ws://a:1', weight: 9 }]");
    let draw = Draw { key: 0, random: 0 };
    assert_eq!(group.upstream.pick(&tried, draw, START).err(), Some(NoEndpoint::AllTried));
}

#[test]
fn backups_stand_in_while_no_first_choice_can() {
    let group = Group::new(policy(None));
    group.become_(
        "[{ url: 'ws://a:1', max_connections: 2 }, { url: 'ws://b:1', priority: 1 }, { url: 'ws://c:1', priority: 7 }]",
    );
    let permits: Vec<_> = (0..4).map(|_| group.pick()).collect();
    assert_eq!(group.loads(), [2, 2, 0]);
    drop(permits);
    group.fail(0, START);
    assert_eq!(group.pick().0, "ws://b:1", "a backup that is well comes before a first choice that failed");
    (0..3).for_each(|index| group.fail(index, START));
    assert_eq!(group.pick().0, "ws://a:1", "when all have failed, the first choice is tried first");
}

#[test]
fn the_own_zone_comes_first_and_spills_over() {
    let group = Group::new(policy(Some("east")));
    group.become_(
        "[{ url: 'ws://a:1', zone: east, max_connections: 2 }, { url: 'ws://b:1', zone: west }, 'ws://c:1',
          { url: 'ws://d:1', zone: east, priority: 1 }]",
    );
    let _seats: Vec<_> = (0..8).map(|_| group.pick()).collect();
    assert_eq!(group.loads(), [2, 3, 3, 0], "another zone of the same priority comes before a backup in the own zone");
    let nowhere = Group::new(policy(None));
    nowhere.become_("[{ url: 'ws://a:1', zone: east }, { url: 'ws://b:1', zone: west }, 'ws://c:1']");
    let _seats: Vec<_> = (0..6).map(|_| nowhere.pick()).collect();
    assert_eq!(nowhere.loads(), [2, 2, 2], "without a zone there is no preference");
}

#[test]
fn one_that_joins_does_not_get_all_that_come() {
    let slow = Policy { slow_start: Some(Duration::from_secs(100)), ..policy(None) };
    let group = Group::new(slow);
    group.become_("['ws://a:1', 'ws://b:1']");
    let draw = |_| Draw { key: 0, random: fastrand::u64(..) };
    let mut permits: Vec<_> = (0..200).map(|_| group.pick()).collect();
    group.become_("['ws://a:1', 'ws://b:1', 'ws://c:1']");
    permits.extend((0..10).map(|_| group.pick()));
    let joined = group.loads()[2];
    assert!((4..=6).contains(&joined), "a twentieth of the others' hundred, not all ten: {joined}");
    // When it is warm it is filled up to its share.
    let warm = START + Duration::from_secs(100);
    let late: Vec<_> = (0..60).map(draw).map(|draw| group.upstream.pick(&[], draw, warm).unwrap()).collect();
    assert_eq!(group.loads()[2], joined + 60);
    drop((late, permits));
}

#[test]
fn a_client_has_its_endpoint_back_while_that_one_takes_sessions() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', { url: 'ws://b:1', max_connections: 1 }]");
    let endpoints = group.upstream.endpoints();
    let again = |index: usize| group.upstream.pick_named(endpoints[index].identity, START);
    let permits: Vec<_> = (0..3).map(|_| again(0).unwrap()).collect();
    assert!(permits.iter().all(|(endpoint, _)| &*endpoint.name == "ws://a:1"), "whatever its load");
    let (_, permit) = again(1).unwrap();
    assert!(again(1).is_none(), "full");
    drop(permit);
    group.fail(1, START);
    assert!(again(1).is_none(), "failed lately");
    group.become_("[{ url: 'ws://a:1', weight: 0 }, 'ws://b:1']");
    assert!(again(0).is_none(), "it is to become empty");
    group.become_("['ws://b:1']");
    assert!(again(0).is_none(), "gone");
}

#[test]
fn a_waiting_request_is_woken_by_a_returned_permit_and_by_a_new_endpoint() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let group = Group::new(policy(None));
        group.become_("[{ url: 'ws://a:1', max_connections: 1 }]");
        let (_, permit) = group.pick();
        let mut ticket = group.upstream.gate.queue.join(1).unwrap();
        let pick = || group.upstream.pick(&[], Draw { key: 0, random: 0 }, START);
        ticket.turn().await;
        assert_eq!(pick().unwrap_err(), NoEndpoint::Full);
        drop(permit);
        ticket.turn().await;
        let _seat = pick().unwrap();
        group.become_("[{ url: 'ws://a:1', max_connections: 1 }, 'ws://b:1']");
        ticket.turn().await;
        assert_eq!(&*pick().unwrap().0.name, "ws://b:1");
    });
}

fn at(seconds: u64) -> MonotonicTime {
    START + Duration::from_secs(seconds)
}

#[test]
fn good_endpoints_come_before_failed_ones_and_those_before_ones_that_are_down() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', 'ws://b:1', 'ws://c:1']");
    group.probe(0, false);
    group.fail(1, START);
    let one_after_another: Vec<_> = {
        let mut tried = vec![];
        std::iter::from_fn(|| {
            let picked = group.upstream.pick(&tried, Draw { key: 0, random: 0 }, START).ok()?.0;
            tried.push(Arc::clone(&picked));
            Some(picked.name.to_string())
        })
        .collect()
    };
    assert_eq!(one_after_another, ["ws://c:1", "ws://b:1", "ws://a:1"]);
}

#[test]
fn an_endpoint_that_is_down_is_tried_if_none_is_left_unless_that_is_refused() {
    for refuse_down in [false, true] {
        let group = Group::new(Policy { refuse_down, ..policy(None) });
        group.become_("['ws://a:1', 'ws://b:1']");
        (0..2).for_each(|index| group.probe(index, false));
        assert_eq!(group.pick_at(START).err(), refuse_down.then_some(NoEndpoint::AllDown));
        group.probe(1, true);
        assert_eq!(group.pick().0, "ws://b:1");
    }
}

#[test]
fn an_ejection_whose_time_is_over_is_tried_by_one_session_until_it_is_answered() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', 'ws://b:1']");
    group.fail(0, START);
    // It has the fewest sessions, and each of these stays open.
    let _seats: Vec<_> = (0..10).map(|_| group.pick_at(at(9)).unwrap()).collect();
    assert_eq!(group.loads(), [0, 10]);
    let trials: Vec<_> = (0..10).map(|_| group.pick_at(at(10)).unwrap()).collect();
    assert_eq!(group.loads(), [1, 19], "one of ten");
    drop(trials);
    group.upstream.answered(&group.upstream.endpoints()[0].state, at(10));
    let _seats: Vec<_> = (0..10).map(|_| group.pick_at(at(10)).unwrap()).collect();
    assert_eq!(group.loads(), [10, 10]);
}

#[test]
fn a_share_is_ejected_at_most_and_the_next_is_passed_over_for_a_moment() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', 'ws://b:1', 'ws://c:1', 'ws://d:1']");
    (0..3).for_each(|index| group.fail(index, START));
    assert_eq!(group.ejected(), [true, true, false, false]);
    let _seats: Vec<_> = (0..9).map(|_| group.pick()).collect();
    assert_eq!(group.loads(), [0, 0, 0, 9]);
    assert_eq!(group.pick_at(at(1)).unwrap().0, "ws://c:1");
    // Removed endpoints do not count.
    group.become_("['ws://b:1', 'ws://c:1', 'ws://d:1', 'ws://e:1']");
    group.fail(1, at(3));
    assert_eq!(group.ejected(), [true, true, false, false]);
}

#[test]
fn one_that_alone_takes_sessions_is_not_ejected() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', { url: 'ws://b:1', weight: 0 }]");
    (0..3).for_each(|_| group.fail(0, START));
    let state = Arc::clone(&group.upstream.endpoints()[0].state);
    (0..10).for_each(|_| group.upstream.opened(&state, START));
    (0..10).for_each(|_| group.upstream.broke_off(&state, Duration::ZERO, START));
    assert_eq!(group.ejected(), [false, false]);
    assert_eq!(group.pick().0, "ws://a:1");
    group.become_("['ws://a:1', 'ws://b:1']");
    group.fail(0, START);
    assert_eq!(group.ejected(), [true, false]);
}

#[test]
fn with_another_good_one_left_an_attempt_is_not_the_last() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', 'ws://b:1', { url: 'ws://c:1', weight: 0 }]");
    let [a, b, _] = &*group.upstream.endpoints() else { panic!() };
    assert!(group.upstream.has_another(&[], a, START));
    assert!(!group.upstream.has_another(std::slice::from_ref(b), a, START));
    group.fail(1, START);
    assert!(!group.upstream.has_another(&[], a, START));
}

#[test]
fn one_that_is_closed_takes_nobody_until_it_is_opened() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', 'ws://b:1']");
    let endpoints = group.upstream.endpoints();
    endpoints[0].state.set_open(false, START);
    let permits: Vec<_> = (0..4).map(|_| group.pick()).collect();
    assert_eq!((group.loads(), group.upstream.weight(&endpoints[0], START)), (vec![0, 4], 0));
    assert!(group.upstream.pick_named(endpoints[0].identity, START).is_none());
    assert!(!group.upstream.has_another(&[], &endpoints[1], START));
    endpoints[1].state.set_open(false, START);
    assert_eq!(group.pick_at(START).err(), Some(NoEndpoint::Closed));
    endpoints[0].state.set_open(true, START);
    assert_eq!(group.pick().0, "ws://a:1");
    drop(permits);
}

#[test]
fn first_choices_are_those_of_the_best_rank_that_take_sessions_and_are_well() {
    let group = Group::new(policy(None));
    group.become_(
        "['ws://a:1', { url: 'ws://b:1', max_connections: 1 }, { url: 'ws://c:1', weight: 0 }, { url: 'ws://d:1', priority: 1 }]",
    );
    let at_that_time = |now| names(&group.upstream.first_choices(now)).join(" ");
    let _seats = [group.pick(), group.pick()];
    assert_eq!(at_that_time(START), "ws://a:1 ws://b:1", "be they full or not");
    group.fail(0, START);
    assert_eq!(at_that_time(START), "ws://b:1");
    assert_eq!(at_that_time(at(100)), "ws://b:1", "its time is over, and it has not answered");
    group.upstream.answered(&group.upstream.endpoints()[0].state, at(100));
    assert_eq!(at_that_time(at(100)), "ws://a:1 ws://b:1");
    group.probe(0, false);
    group.upstream.endpoints()[1].state.set_open(false, START);
    assert_eq!(at_that_time(at(100)), "ws://d:1");
}

#[test]
fn a_client_that_comes_back_to_one_whose_ejection_is_over_is_its_trial_as_well() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', 'ws://b:1']");
    let identity = group.upstream.endpoints()[0].identity;
    group.fail(0, START);
    assert!(group.upstream.pick_named(identity, at(9)).is_none());
    let trial = group.upstream.pick_named(identity, at(10));
    assert!(trial.is_some() && group.upstream.pick_named(identity, at(10)).is_none(), "one at a time");
}

#[test]
fn one_that_answers_again_joins_anew_and_one_whose_trial_fails_is_out_for_longer() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', 'ws://b:1']");
    let state = Arc::clone(&group.upstream.endpoints()[0].state);
    group.fail(0, START);
    // As many as may be are ejected, and this one is among them.
    group.fail(0, at(10));
    assert!(state.outlier.is_out(at(29)) && !state.outlier.is_out(at(30)));
    assert_eq!(state.joined_for(at(30)), Duration::MAX);
    group.upstream.answered(&state, at(31));
    assert_eq!(state.joined_for(at(33)), Duration::from_secs(2));
    group.upstream.answered(&state, at(40));
    assert_eq!(state.joined_for(at(41)), Duration::from_secs(10), "it answered before");
}

#[test]
fn sessions_that_break_off_early_count_beside_those_that_open_and_only_if_early() {
    let (short, long) = (Duration::from_millis(999), Duration::from_secs(1));
    let ejected_by = |opened: usize, lasted, rule: Option<Duration>| {
        let ejection = Some(outlier::EjectionRule { early_end: rule, ..EJECTION });
        let group = Group::new(Policy { ejection, ..policy(None) });
        group.become_("['ws://a:1', 'ws://b:1']");
        let state = Arc::clone(&group.upstream.endpoints()[0].state);
        (0..opened).for_each(|_| group.upstream.opened(&state, START));
        (0..5).for_each(|_| group.upstream.broke_off(&state, lasted, START));
        state.outlier.is_ejected()
    };
    let early = EJECTION.early_end;
    assert!(ejected_by(5, short, early) && ejected_by(10, short, early));
    assert!(!ejected_by(11, short, early), "most of them stay");
    assert!(!ejected_by(5, long, early), "they had their time");
    assert!(!ejected_by(5, short, None), "early ends do not count");
}

#[test]
fn a_full_one_is_no_other_to_try() {
    let group = Group::new(policy(None));
    group.become_("['ws://a:1', { url: 'ws://b:1', max_connections: 1 }]");
    let endpoints = group.upstream.endpoints();
    assert!(group.upstream.has_another(&[], &endpoints[0], START));
    let _seat = endpoints[1].enter().unwrap();
    assert!(!group.upstream.has_another(&[], &endpoints[0], START));
}

#[test]
fn workers_that_choose_the_same_at_once_all_find_a_seat_while_there_are_some() {
    let group = Group::new(policy(None));
    let one = |name: char| format!("{{ url: 'ws://{name}:1', max_connections: 1 }}");
    group.become_(&format!("[{}]", ['a', 'b', 'c', 'd'].map(one).join(", ")));
    let barrier = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..500 {
                    barrier.wait();
                    // All begin their look with the same one.
                    let picked = group.upstream.pick(&[], Draw { key: 0, random: round }, START);
                    assert!(picked.is_ok(), "{:?}", picked.err());
                    barrier.wait();
                    drop(picked);
                    barrier.wait();
                }
            });
        }
    });
}
