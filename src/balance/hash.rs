//! Consistent hashing: the same endpoint for the same key, on every instance and after every restart.
//!
//! Uses weighted rendezvous hashing: each candidate draws a number from the key and its own name, and the best one
//! wins. When one of N candidates goes, only its keys move, and they spread over all others; there is no table to build
//! or to keep equal between instances. A pick costs one hash per candidate, once a handshake.
//!
//! With a bound on the load (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016) a
//! candidate that holds more than its share times a factor is skipped until it holds less, so one popular key does not
//! overload it.

use super::{Candidates, Draw};

/// Consistent hashing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hash {
    /// How much a candidate may hold, in percent of its share (125: a quarter more); `None` sets no bound.
    pub load_max_percent: Option<u32>,
}

impl Hash {
    /// See [`super::Balancer::pick`].
    pub fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        let open = || (0..candidates.count()).filter(|&index| candidates.is_open(index));
        let best = |within: &dyn Fn(usize) -> bool| {
            open().filter(|&index| within(index)).min_by_key(|&index| {
                // The name breaks ties, so that the order in the file does not matter.
                let identity = candidates.identity(index);
                (score(mix(draw.key, identity), candidates.weight(index)), identity)
            })
        };
        let Some(percent) = self.load_max_percent else { return best(&|_| true) };
        let (mut weights, mut loads) = (0, 1);
        for index in open() {
            weights += u128::from(candidates.weight(index));
            loads += u128::from(candidates.load(index));
        }
        let within = |index| {
            let share = loads * u128::from(candidates.weight(index)) * u128::from(percent);
            u128::from(candidates.load(index)) * weights * 100 < share
        };
        // The bound is above the mean, so some candidate is within it, unless loads change during the pick.
        best(&within).or_else(|| best(&|_| true))
    }
}

/// Returns the distance of a candidate: an exponentially distributed number divided by its weight, so that each is the
/// nearest with a probability in proportion to its weight. Uses integers, since the result must be equal on every
/// machine.
fn score(hash: u64, weight: u32) -> u64 {
    // -log2(hash / 2^64) with 32 bits behind the point: at most 64 << 32.
    let distance = (64 << 32) - log2(hash | 1);
    // 38 bits and 24 more, so that the division does not make different distances equal.
    (distance << 24) / u64::from(weight.max(1))
}

/// Returns the binary logarithm of `value`, which is not 0, with 32 bits behind the point, rounded down.
fn log2(value: u64) -> u64 {
    let whole = u64::from(value.ilog2());
    // 1 <= mantissa < 2 with 63 bits behind the point. Each squaring gives one more bit of the logarithm.
    let mut mantissa = value << value.leading_zeros();
    let mut fraction = 0;
    for _ in 0..32 {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        fraction <<= 1;
        mantissa = if square >> 64 != 0 {
            fraction |= 1;
            (square >> 1) as u64
        } else {
            square as u64
        };
    }
    whole << 32 | fraction
}

/// Hashes bytes: FNV-1a, then mixed. Must never change: instances of different versions must agree.
pub fn of(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(fnv, bytes.len() as u64)
}

/// Mixes two numbers into one of which each bit depends on all bits of both (the finalizer of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut mixed = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for value in [1, 2, 3, 10, 1 << 40, (1 << 40) + 12345, u64::MAX] {
            let expected = (value as f64).log2() * (1_u64 << 32) as f64;
            assert!((log2(value) as f64 - expected).abs() < 64.0, "{value}: {} {expected}", log2(value));
        }
    }

    #[test]
    fn hashes_are_what_they_always_were() {
        assert_eq!(
            [of(b""), of(b"a"), of(b"ws://10.0.0.11:9000")],
            [17665956581633026203, 9451894974833730488, 4357007953953146345]
        );
    }
}
