//! Computes how many sessions to move when some endpoints hold more than their share and others less.
//!
//! A session cannot be moved as it is: it is closed, and its client comes back to a lighter endpoint if the algorithm
//! sends it there. Meanwhile it is on no endpoint, so recently closed sessions still count: otherwise every share would
//! seem to shrink while clients are on their way, and more sessions would be closed.

/// The load of one endpoint that takes sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLoad {
    /// Sessions on it.
    pub load: u32,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// The most sessions that it takes.
    pub sessions_max: u32,
}

/// Returns how many sessions each of `held` may keep: its share plus `tolerance_percent`.
pub fn most(held: &[EndpointLoad], returning: u32, tolerance_percent: u32) -> Vec<u32> {
    let weights: u64 = held.iter().map(|held| u64::from(held.weight)).sum::<u64>().max(1);
    let total = held.iter().map(|held| u64::from(held.load)).sum::<u64>() + u64::from(returning);
    let most = |held: &EndpointLoad| {
        let share = total * u64::from(held.weight);
        (share * u64::from(100 + tolerance_percent) / (weights * 100)).max(share.div_ceil(weights))
    };
    held.iter().map(|held| u32::try_from(most(held)).unwrap_or(u32::MAX)).collect()
}

/// Returns how many sessions each of `held` should give away, in order. None gives away what it may hold (its share
/// plus `tolerance_percent`); together they give no more than the others lack, less the `returning` sessions that are
/// already on their way.
pub fn surplus(held: &[EndpointLoad], returning: u32, tolerance_percent: u32) -> Vec<u32> {
    let weights: u64 = held.iter().map(|held| u64::from(held.weight)).sum();
    let total = held.iter().map(|held| u64::from(held.load)).sum::<u64>() + u64::from(returning);
    if weights == 0 {
        return vec![0; held.len()];
    }
    let share = |held: &EndpointLoad| total * u64::from(held.weight);
    let lacks = |held: &EndpointLoad| {
        (share(held) / weights).min(u64::from(held.sessions_max)).saturating_sub(u64::from(held.load))
    };
    let lacking: u64 = held.iter().map(lacks).sum();
    let most = most(held, returning, tolerance_percent);
    let over: Vec<u64> = held.iter().zip(most).map(|(held, most)| u64::from(held.load.saturating_sub(most))).collect();
    let room = lacking.saturating_sub(u64::from(returning));
    let all: u64 = over.iter().sum();
    // Rounded down, so that together they never give more than there is room for.
    let part = |over: u64| if all <= room { over } else { over * room / all };
    over.into_iter().map(|over| u32::try_from(part(over)).unwrap_or(u32::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(loads: &[u32], returning: u32, tolerance: u32) -> Vec<u32> {
        let held: Vec<_> = loads.iter().map(|&load| EndpointLoad { load, weight: 1, sessions_max: u32::MAX }).collect();
        surplus(&held, returning, tolerance)
    }

    #[test]
    fn what_is_over_the_share_goes_where_there_is_too_little() {
        assert_eq!(of(&[500, 500, 0], 0, 10), [134, 134, 0]);
        assert_eq!(of(&[500, 500, 0], 0, 0), [166, 166, 0]);
        assert_eq!(of(&[366, 366, 268], 0, 10), [0, 0, 0], "that is within the tolerance");
        assert_eq!(of(&[366, 366, 0], 268, 10), [0, 0, 0], "those that were sent away are on their way");
        assert_eq!(of(&[10, 10, 10], 0, 10), [0, 0, 0]);
        assert_eq!(of(&[1, 0], 0, 10), [0, 0], "one session has to be somewhere");
        assert_eq!(of(&[], 0, 10), [0_u32; 0]);
        let weighted = [
            EndpointLoad { load: 300, weight: 1, sessions_max: u32::MAX },
            EndpointLoad { load: 300, weight: 3, sessions_max: u32::MAX },
        ];
        assert_eq!(surplus(&weighted, 0, 10), [135, 0]);
        assert_eq!(surplus(&[EndpointLoad { load: 9, weight: 0, sessions_max: u32::MAX }], 0, 10), [0]);
    }

    #[test]
    fn nothing_is_moved_for_one_that_is_full() {
        let held = |load, sessions_max| EndpointLoad { load, weight: 1, sessions_max };
        assert_eq!(surplus(&[held(100, u32::MAX), held(100, u32::MAX), held(10, 10)], 0, 10), [0, 0, 0]);
        assert_eq!(surplus(&[held(100, u32::MAX), held(100, u32::MAX), held(10, 14)], 0, 10), [2, 2, 0]);
        let returning = surplus(&[held(500, u32::MAX), held(500, u32::MAX), held(0, 100)], 80, 0);
        assert_eq!(returning, [10, 10, 0], "eighty are on their way to its hundred places");
    }

    #[test]
    fn nobody_is_allowed_less_than_its_share_rounded_up() {
        let held = |load| EndpointLoad { load, weight: 1, sessions_max: u32::MAX };
        assert_eq!(most(&[held(1), held(0)], 0, 10), [1, 1], "one session has to be somewhere");
        assert_eq!(most(&[held(100), held(50)], 50, 10), [110, 110]);
    }

    proptest! {
        #[test]
        fn none_falls_below_its_share_none_is_sent_without_need_and_once_is_enough(
            held in proptest::collection::vec((0u32..2000, 0u32..5), 0..12),
            returning in 0u32..500,
            tolerance in 0u32..60,
        ) {
            let held: Vec<_> = held.into_iter().map(|(load, weight)| EndpointLoad { load, weight, sessions_max: u32::MAX }).collect();
            let given = surplus(&held, returning, tolerance);
            let weights: u64 = held.iter().map(|held| u64::from(held.weight)).sum();
            prop_assume!(weights > 0);
            let total: u64 = held.iter().map(|held| u64::from(held.load)).sum::<u64>() + u64::from(returning);
            let mut lacking = 0;
            for (held, &given) in held.iter().zip(&given) {
                let share = total * u64::from(held.weight) / weights;
                prop_assert!(given == 0 || u64::from(held.load - given) >= share);
                lacking += share.saturating_sub(u64::from(held.load));
            }
            let sent: u64 = given.iter().map(|&given| u64::from(given)).sum();
            prop_assert!(sent <= lacking);
            // Meanwhile no other session is closed, unless there was more to move than room.
            let after: Vec<_> =
                held.iter().zip(&given).map(|(held, given)| EndpointLoad { load: held.load - given, ..*held }).collect();
            let again: u64 = surplus(&after, returning + sent as u32, tolerance).into_iter().map(u64::from).sum();
            prop_assert!(sent + again <= lacking.max(sent), "{sent} and then {again} of {lacking}");
        }
    }
}
