//! The fuzz targets for libFuzzer: each of `targets` becomes a binary by [`run!`].

pub mod targets;

pub use libfuzzer_sys;

/// A target under libFuzzer, whose mutator takes turns with ours, which knows the seeds and tokens.
#[macro_export]
macro_rules! run {
    ($name:ident) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| ($crate::targets::$name::TARGET.run)(data));

        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::mutated(&$crate::targets::$name::TARGET, data, size, max_size, seed)
        });
    };
}

/// Changes the first `size` bytes of `data`, and says how many there are now.
pub fn mutated(target: &targets::Target, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let changed = match random.u8(0..8) {
        0 => targets::mutate::input(target, &mut random),
        1..4 => {
            let mut changed = data[..size].to_vec();
            targets::mutate::change(&mut changed, target, &mut random);
            changed
        }
        _ => return libfuzzer_sys::fuzzer_mutate(data, size, max_size),
    };
    let length = changed.len().min(max_size);
    data[..length].copy_from_slice(&changed[..length]);
    length
}
