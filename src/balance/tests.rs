//! Tests of all algorithms: the contract, fairness, and what moves when an endpoint goes.

use std::cell::Cell;
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Candidates with given weights and loads.
#[derive(Clone, Debug, Default)]
struct Group {
    weights: Vec<u32>,
    excluded: Vec<bool>,
    loads: Vec<Cell<u32>>,
    names: Vec<u64>,
}

impl Group {
    fn new(weights: &[u32]) -> Group {
        Group {
            weights: weights.to_vec(),
            excluded: vec![false; weights.len()],
            loads: vec![Cell::new(0); weights.len()],
            names: (0..weights.len()).map(|index| hash::of(format!("ws://10.0.0.{index}:9000").as_bytes())).collect(),
        }
    }

    fn add(&self, index: usize) {
        self.loads[index].set(self.loads[index].get() + 1);
    }
}

impl Candidates for Group {
    fn count(&self) -> usize {
        self.weights.len()
    }
    fn is_excluded(&self, index: usize) -> bool {
        self.excluded[index]
    }
    fn weight(&self, index: usize) -> u32 {
        self.weights[index]
    }
    fn load(&self, index: usize) -> u32 {
        self.loads[index].get()
    }
    fn identity(&self, index: usize) -> u64 {
        self.names[index]
    }
}

fn draw(random: &mut fastrand::Rng) -> Draw {
    Draw { key: random.u64(..), random: random.u64(..) }
}

fn all() -> [Balancer; 5] {
    [
        Balancer::LeastConnections,
        Balancer::RoundRobin(RoundRobin::new(7)),
        Balancer::RandomTwo,
        Balancer::Hash(Hash::default()),
        Balancer::Hash(Hash { load_max_percent: Some(125) }),
    ]
}

/// Returns how often each is picked if no session ends.
fn counts(balancer: &Balancer, group: &Group, picks: u32) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..picks {
        let index = balancer.pick(group, draw(&mut random)).expect("some are open");
        group.add(index);
    }
    group.loads.iter().map(Cell::get).collect()
}

#[test]
fn round_robin_spreads_the_turns_of_the_heavy_one() {
    let (group, turn) = (Group::new(&[5, 1, 1]), RoundRobin::new(0));
    let picks: Vec<_> = (0..14).filter_map(|_| turn.pick(&group)).collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn one_that_was_away_does_not_come_back_to_a_row_of_picks() {
    let (mut group, turn) = (Group::new(&[1, 1, 1]), RoundRobin::new(0));
    group.excluded[1] = true;
    for _ in 0..1000 {
        turn.pick(&group);
    }
    group.excluded[1] = false;
    let picks: Vec<_> = (0..9).filter_map(|_| turn.pick(&group)).collect();
    assert!(picks.iter().filter(|&&index| index == 1).count() <= 4, "{picks:?}");
}

#[test]
fn what_was_saved_beside_a_heavy_one_is_not_spent_in_a_row_when_it_goes() {
    for before in (0..1002).step_by(7) {
        let (mut group, turn) = (Group::new(&[1000, 1, 1]), RoundRobin::new(0));
        for _ in 0..before {
            turn.pick(&group);
        }
        group.excluded[0] = true;
        let picks: Vec<_> = (0..20).filter_map(|_| turn.pick(&group)).collect();
        let ones = picks.iter().filter(|&&index| index == 1).count();
        assert!((8..=12).contains(&ones), "after {before}: {picks:?}");
    }
}

#[test]
fn proxies_that_start_together_begin_with_different_endpoints() {
    let group = Group::new(&[1; 4]);
    let firsts = |pick: &dyn Fn(usize) -> Option<usize>| (0..4).filter_map(pick).collect::<Vec<_>>();
    assert_eq!(firsts(&|start| RoundRobin::new(start).pick(&group)), [0, 1, 2, 3]);
    let least = |start: usize| Balancer::LeastConnections.pick(&group, Draw { key: 0, random: start as u64 });
    assert_eq!(firsts(&least), [0, 1, 2, 3]);
}

#[test]
fn of_two_by_chance_the_lighter_is_taken_and_they_are_two() {
    let group = Group::new(&[1, 1]);
    group.loads[0].set(100);
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..1000 {
        assert_eq!(Balancer::RandomTwo.pick(&group, draw(&mut random)), Some(1));
    }
}

#[test]
fn each_pair_is_drawn_as_often_as_any_other() {
    let group = Group::new(&[1; 4]);
    (0..4).for_each(|index| group.loads[index].set(index as u32));
    let mut random = fastrand::Rng::with_seed(17);
    let mut picked = [0_u32; 4];
    for _ in 0..6000 {
        picked[Balancer::RandomTwo.pick(&group, draw(&mut random)).expect("open")] += 1;
    }
    // The lightest is in three of six pairs; the next is the lighter of two, the third of one.
    for (picked, expected) in picked.into_iter().zip([3000_u32, 2000, 1000, 0]) {
        assert!(picked.abs_diff(expected) < 250, "{picked} for {expected}");
    }
}

#[test]
fn two_by_chance_are_drawn_by_their_weights() {
    // The heavy one is in nearly each pair; with twice the load for its weight it is still the lighter one.
    let group = Group::new(&[8, 1, 1]);
    group.loads[0].set(3);
    let mut random = fastrand::Rng::with_seed(23);
    let mut heavy = 0;
    for _ in 0..2000 {
        heavy += u32::from(Balancer::RandomTwo.pick(&group, draw(&mut random)) == Some(0));
    }
    // All pairs but the one of the light ones: 1 - 2 * (1/10 * 1/9).
    assert!(heavy.abs_diff(1956) < 40, "{heavy}");
}

/// Weights that shrink during a pick, as if endpoints were being closed.
struct Shrinking(Cell<u32>);

impl Candidates for Shrinking {
    fn count(&self) -> usize {
        3
    }
    fn is_excluded(&self, _: usize) -> bool {
        false
    }
    fn weight(&self, _: usize) -> u32 {
        let asked = self.0.get() + 1;
        self.0.set(asked);
        if asked <= 6 { 1000 } else { 1 }
    }
    fn load(&self, _: usize) -> u32 {
        0
    }
    fn identity(&self, index: usize) -> u64 {
        index as u64
    }
}

#[test]
fn weights_that_shrink_during_a_draw_leave_nobody_without_an_endpoint() {
    for random in [0, 1 << 62, u64::MAX] {
        let pick = Balancer::RandomTwo.pick(&Shrinking(Cell::new(0)), Draw { key: 0, random });
        assert!(pick.is_some_and(|index| index < 3), "{random}: {pick:?}");
    }
}

#[test]
fn an_empty_endpoint_takes_all_until_it_holds_its_share_by_least_connections() {
    let group = Group::new(&[1, 1, 1]);
    group.loads[0].set(500);
    group.loads[1].set(500);
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..500 {
        assert_eq!(Balancer::LeastConnections.pick(&group, draw(&mut random)), Some(2));
        group.add(2);
    }
}

#[test]
fn two_choices_are_nearly_even() {
    let loads = counts(&Balancer::RandomTwo, &Group::new(&[1; 10]), 10_000);
    assert!(loads.iter().all(|load| load.abs_diff(1000) < 20), "{loads:?}");
}

#[test]
fn a_popular_key_does_not_drown_its_endpoint() {
    let group = Group::new(&[1; 4]);
    let bounded = Balancer::Hash(Hash { load_max_percent: Some(125) });
    for random in 0..1000 {
        group.add(bounded.pick(&group, Draw { key: 42, random }).expect("open"));
    }
    assert!(group.loads.iter().all(|load| load.get() <= 314), "{:?}", group.loads);
}

#[test]
fn the_bound_is_that_of_the_loads_with_the_new_session() {
    let hash = Balancer::Hash(Hash { load_max_percent: Some(125) });
    let group = Group::new(&[1, 1]);
    let key = (0..).find(|&key| hash.pick(&group, Draw { key, random: 0 }) == Some(0)).expect("one of them");
    for (loads, pick) in [([5, 3], 0), ([7, 3], 1), ([5, 2], 1), ([1000, 999], 0)] {
        group.loads.iter().zip(loads).for_each(|(load, now)| load.set(now));
        // The bound is a quarter more than half of all, the new one included: 5 of 9 (5.6) is within it; 7 of 11 (6.9)
        // and 5 of 8 are not.
        assert_eq!(hash.pick(&group, Draw { key, random: 0 }), Some(pick), "{loads:?}");
    }
}

/// Loads that grow during a pick, as if everybody chose the same endpoint at once.
struct Growing(Cell<u32>);

impl Candidates for Growing {
    fn count(&self) -> usize {
        2
    }
    fn is_excluded(&self, _: usize) -> bool {
        false
    }
    fn weight(&self, _: usize) -> u32 {
        1
    }
    fn load(&self, _: usize) -> u32 {
        self.0.set(self.0.get() + 100);
        self.0.get()
    }
    fn identity(&self, index: usize) -> u64 {
        index as u64
    }
}

#[test]
fn loads_that_grow_during_a_pick_leave_nobody_without_an_endpoint() {
    let hash = Hash { load_max_percent: Some(101) };
    assert!((0..20).all(|key| hash.pick(&Growing(Cell::new(0)), Draw { key, random: 0 }).is_some()));
}

#[test]
fn the_order_in_the_file_means_nothing_to_the_hash() {
    let group = Group::new(&[1, 2, 3, 4]);
    let mut turned = group.clone();
    turned.weights.rotate_left(1);
    turned.names.rotate_left(1);
    let hash = Balancer::Hash(Hash::default());
    for key in 0..1000 {
        let draw = Draw { key: hash::of(&u64::to_le_bytes(key)), random: 0 };
        let (one, other) = (hash.pick(&group, draw).expect("open"), hash.pick(&turned, draw).expect("open"));
        assert_eq!(group.names[one], turned.names[other]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn only_open_ones_are_picked_and_none_only_when_there_is_none(
        weights in proptest::collection::vec(0u32..4, 0..9),
        mask in any::<u16>(),
        loads in proptest::collection::vec(0u32..50, 9),
        seed in any::<u64>(),
    ) {
        let mut group = Group::new(&weights);
        let mut random = fastrand::Rng::with_seed(seed);
        for (index, load) in loads.into_iter().enumerate().take(weights.len()) {
            group.excluded[index] = mask & (1 << index) != 0;
            group.loads[index].set(load);
        }
        let any_open = (0..group.count()).any(|index| group.is_open(index));
        for balancer in all() {
            for _ in 0..20 {
                let pick = balancer.pick(&group, draw(&mut random));
                prop_assert_eq!(pick.is_some(), any_open);
                prop_assert!(pick.is_none_or(|index| group.is_open(index)), "{:?} {:?}", balancer, pick);
            }
        }
    }

    #[test]
    fn round_robin_gives_each_its_weight_in_a_round(
        weights in proptest::collection::vec(1u32..20, 1..8), start in any::<usize>(), rounds in 1u32..4,
    ) {
        let (group, turn) = (Group::new(&weights), RoundRobin::new(start));
        for _ in 0..rounds * weights.iter().sum::<u32>() {
            group.add(turn.pick(&group).expect("open"));
        }
        for (index, weight) in weights.iter().enumerate() {
            prop_assert_eq!(group.load(index), rounds * weight);
        }
    }

    #[test]
    fn least_connections_never_departs_from_the_weights_by_more_than_one(
        weights in proptest::collection::vec(1u32..20, 1..8), picks in 1u32..2000,
    ) {
        let group = Group::new(&weights);
        let loads = counts(&Balancer::LeastConnections, &group, picks);
        let total: u32 = weights.iter().sum();
        for (load, weight) in loads.iter().zip(&weights) {
            let share = f64::from(picks) * f64::from(*weight) / f64::from(total);
            // The others can be up to one ahead each.
            prop_assert!(f64::from(*load) <= share + weights.len() as f64, "{loads:?} {weights:?}");
        }
    }

    #[test]
    fn the_hash_is_fair_by_weight(weights in proptest::collection::vec(1u32..6, 2..8)) {
        let loads = counts(&Balancer::Hash(Hash::default()), &Group::new(&weights), 20_000);
        let total: u32 = weights.iter().sum();
        for (load, weight) in loads.iter().zip(&weights) {
            let share = 20_000.0 * f64::from(*weight) / f64::from(total);
            // Six standard deviations of a binomial.
            prop_assert!((f64::from(*load) - share).abs() < 6.0 * share.sqrt(), "{loads:?} {weights:?}");
        }
    }

    #[test]
    fn an_endpoint_that_goes_moves_only_its_own_keys_and_they_spread(
        weights in proptest::collection::vec(1u32..6, 3..9), gone in any::<prop::sample::Index>(), for_good in any::<bool>(),
    ) {
        let group = Group::new(&weights);
        let gone = gone.index(weights.len());
        let mut left = group.clone();
        if for_good {
            left.weights.remove(gone);
            left.excluded.remove(gone);
            left.loads.remove(gone);
            left.names.remove(gone);
        } else {
            left.excluded[gone] = true;
        }
        let hash = Balancer::Hash(Hash::default());
        let mut moved: HashMap<u64, u32> = HashMap::new();
        for key in 0..4000_u64 {
            let draw = Draw { key: hash::of(&key.to_le_bytes()), random: 0 };
            let before = group.names[hash.pick(&group, draw).expect("open")];
            let after = left.names[hash.pick(&left, draw).expect("open")];
            if before == group.names[gone] {
                *moved.entry(after).or_default() += 1;
            } else {
                prop_assert_eq!(before, after);
            }
        }
        let all: u32 = moved.values().sum();
        let others: u32 = weights.iter().sum::<u32>() - weights[gone];
        for (index, weight) in weights.iter().enumerate().filter(|(index, _)| *index != gone) {
            let share = f64::from(all) * f64::from(*weight) / f64::from(others);
            let got = f64::from(*moved.get(&group.names[index]).unwrap_or(&0));
            prop_assert!((got - share).abs() < 6.0 * share.sqrt() + 6.0, "{moved:?} {weights:?}");
        }
    }
}
