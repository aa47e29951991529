//! Hostile inputs, as an ordinary test: the fuzz targets with a mutator of our own, and the whole proxy between a client
//! and a server that say anything (`frames`, `pool`, `requests`).
//!
//! `WSLUICE_FUZZ_SECONDS` says how long the tests that are chosen take together, about: some seconds without it, as long as
//! one likes by hand (`WSLUICE_FUZZ_SECONDS=600 cargo test --test fuzz scanner`). Without it the inputs are always the same
//! ones; with it each run has its own, unless `WSLUICE_FUZZ_SEED` gives their seed, which a failure tells. CI runs for a
//! minute with the seed of the tests, so that what fails there fails again.
//! `WSLUICE_FUZZ_INPUT` is one input in hex, as a failure tells it, too. CONTRIBUTING.md says how to run under libFuzzer.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

#[path = "../it/harness/mod.rs"]
mod harness;

mod frames;
mod pool;
mod requests;
mod targets;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use targets::{Target, mutate};

/// How long everything takes where nobody says anything else, in seconds.
const SECONDS: f64 = 6.0;

/// How long one input may take, on a machine however busy: a hang, or work that grows with the square of the input.
const INPUT_MAX: Duration = Duration::from_secs(20);

/// What is chosen for this run.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    until: Instant,
}

impl Plan {
    /// For one of the tests of this file: its share of the time, which begins now.
    fn new() -> Plan {
        let seconds: Option<f64> = variable("WSLUICE_FUZZ_SECONDS");
        let random = seconds.map(|_| fastrand::u64(..));
        let seed = variable("WSLUICE_FUZZ_SEED").or(random).unwrap_or(12);
        // As libtest chooses: by parts of names.
        let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
        let names: Vec<&str> =
            targets::ALL.iter().map(|target| target.name).chain(["frames", "pool", "requests"]).collect();
        let chosen = names.iter().filter(|name| words.iter().any(|word| name.contains(&**word))).count();
        let chosen = if chosen == 0 { names.len() } else { chosen };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(chosen);
        let share = seconds.unwrap_or(SECONDS) * threads as f64 / chosen as f64;
        Plan { seed, until: Instant::now() + Duration::from_secs_f64(share) }
    }

    /// The numbers of what is tried, until the time is over; one at least.
    fn rounds(self) -> impl Iterator<Item = u64> {
        (0..).take_while(move |number| *number == 0 || Instant::now() < self.until)
    }

    fn random(self, name: &str, number: u64) -> fastrand::Rng {
        let name = name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        fastrand::Rng::with_seed(self.seed ^ name.rotate_left(32) ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

/// A proxy on a route with these lines, to this server. It keeps no lines of its log, of which there would be many.
fn proxy(server: &harness::RawServer, route: &[&str]) -> harness::Proxy {
    harness::Proxy::start(&(harness::yaml(&[server.url()], route) + "log: { access: false }\n"))
}

/// No connection, session or request of this proxy ended by a mistake of ours.
fn never_panicked(proxy: &harness::Proxy) {
    let metrics = proxy.metrics();
    let counts: Vec<&str> = metrics.lines().filter(|line| line.starts_with("wsluice_panics_total{")).collect();
    assert!(!counts.is_empty() && counts.iter().all(|line| line.ends_with(" 0")), "{counts:?}");
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

fn fuzz(name: &str) {
    let target = targets::named(name);
    if let Ok(hex) = std::env::var("WSLUICE_FUZZ_INPUT") {
        return (target.run)(&bytes(&hex));
    }
    let plan = Plan::new();
    for seed in target.seeds {
        attempt(&target, plan, seed);
    }
    let mut tried = 0;
    for number in plan.rounds() {
        attempt(&target, plan, &mutate::input(&target, &mut plan.random(name, number)));
        tried += 1;
    }
    println!("{name}: {tried} inputs");
}

fn attempt(target: &Target, plan: Plan, input: &[u8]) {
    let started = Instant::now();
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let took = started.elapsed();
    if done.is_err() || took > INPUT_MAX {
        let name = target.name;
        let hex = input.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        eprintln!("{name}, seed {}, took {took:.1?}: {}\n", plan.seed, input.escape_ascii());
        eprintln!("again: WSLUICE_FUZZ_INPUT={hex} cargo test --test fuzz {name}");
    }
    done.unwrap_or_else(|panic| resume_unwind(panic));
    assert!(took <= INPUT_MAX, "one input takes {took:?}");
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("WSLUICE_FUZZ_INPUT is in hex");
    (0..hex.len() / 2).map(|at| digit(2 * at)).collect()
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                fuzz(stringify!($name));
            }
        )*

        #[test]
        fn each_target_is_run_here_and_under_libfuzzer() {
            let all: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
            let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
            for name in all {
                let text = std::fs::read_to_string(dir.join(format!("bin/{name}.rs"))).unwrap();
                assert!(text.contains(&format!("run!({name})")), "{name}");
                assert!(manifest.contains(&format!("path = \"bin/{name}.rs\"")), "{name}");
            }
        }
    };
}

targets! {
    certificate close config cookie dns endpoints etcd forwarded framing handshake heads host path proxy_protocol scanner
    switching tls_moved tunnel
}
