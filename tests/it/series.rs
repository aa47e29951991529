//! Reloads leave no series behind in the metrics.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;

use prometheus::Registry;
use wsluice::config::load_str;
use wsluice::control::compile::{Compiled, compile};
use wsluice::control::context::{CompileContext, MetricFamilies};
use wsluice::telemetry::exposition::encode;

/// Returns a configuration with some of a few names.
fn configuration(random: &mut fastrand::Rng) -> String {
    let mut some = |kind: &str, max: usize| -> Vec<String> {
        let count = random.usize(1..=max);
        random.choose_multiple(0..max, count).into_iter().map(|index| format!("{kind}-{index}")).collect()
    };
    let (listeners, routes, upstreams) = (some("listener", 3), some("route", 8), some("upstream", 4));
    let mut text = "listeners:\n".to_owned();
    for name in &listeners {
        writeln!(text, "  - {{ name: {name}, bind: \"127.0.0.1:0\" }}").unwrap();
    }
    text.push_str("routes:\n");
    for name in &routes {
        let (upstream, limit) = (random.choice(&upstreams).unwrap(), random.u32(1..100));
        let rest = format!("upstream: {upstream}, limits: {{ connections: {limit} }}");
        writeln!(text, "  - {{ name: {name}, match: {{ path: {{ prefix: /{name} }} }}, {rest} }}").unwrap();
    }
    text.push_str("upstreams:\n");
    for name in &upstreams {
        let ports = random.choose_multiple(9000..9005, 2);
        let endpoints =
            ports.into_iter().map(|port| format!("\"ws://127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", ");
        writeln!(text, "  {name}: {{ endpoints: [{endpoints}] }}").unwrap();
    }
    text
}

fn surroundings(registry: &Registry) -> CompileContext {
    CompileContext { families: MetricFamilies::register(registry, 1).unwrap(), ..CompileContext::for_check() }
}

fn compiled(text: &str, context: &CompileContext) -> Compiled {
    let loaded = load_str("random", text, &|_| None).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    compile(&loaded, context, None).unwrap()
}

/// Returns the series, without their values.
fn series(registry: &Registry) -> BTreeSet<String> {
    let text = encode(registry).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[test]
fn random_reloads_leave_no_series_behind() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let registry = Registry::new();
    let context = surroundings(&registry);
    let mut text = String::new();
    // Those of earlier configurations, of which sessions may hold some for a while.
    let mut held: VecDeque<Compiled> = VecDeque::new();
    for _ in 0..500 {
        text = configuration(&mut random);
        let next = compiled(&text, &context);
        held.push_back(next);
        while held.len() > random.usize(1..6) {
            // The last one is active.
            let index = random.usize(..held.len() - 1);
            held.remove(index);
        }
    }
    let in_force = held.pop_back().unwrap();
    held.clear();
    let fresh = Registry::new();
    let _alone = compiled(&text, &surroundings(&fresh));
    assert_eq!(series(&registry), series(&fresh), "as if nothing had been in force before");
    assert!(series(&fresh).len() > 100, "there are series at all");
    drop(in_force);
    let none = Registry::new();
    surroundings(&none);
    assert_eq!(series(&registry), series(&none), "those that belong to no name");
}
