//! How even each algorithm keeps long sessions while endpoints join, die, come back and flap: a simulation in virtual time
//! over the very code that picks (`wsluice::balance`), beside what proxies do that forget their counts at a reload.
//!
//! `cargo bench --bench balance` prints the table of benches/README.md.
//!
//! 5,000 sessions on the average, with heavy-tailed lifetimes (Pareto, α 1.5, mean eight hours, cut at two days), over 10
//! endpoints and seven hours. Sessions whose endpoint dies or that are moved come back after 1 to 10 s.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use wsluice::balance::rebalance::{EndpointLoad, surplus};
use wsluice::balance::{Balancer, Candidates, Draw, Hash, RoundRobin};

const SESSIONS: f64 = 5000.0;
const MEAN_LIFE: f64 = 8.0 * HOUR;
const HOUR: f64 = 3600.0;
const END: f64 = 7.0 * HOUR;

/// What happens at which second to which endpoint.
const STORY: [(f64, Change); 6] = [
    (2.0 * HOUR, Change::Joins(10)),
    (2.0 * HOUR, Change::Joins(11)),
    (3.0 * HOUR, Change::Dies(0)),
    (3.0 * HOUR + 600.0, Change::Returns(0)),
    (4.0 * HOUR, Change::Flaps(1)),
    (5.0 * HOUR, Change::Reload),
];

#[derive(Clone, Copy)]
enum Change {
    Joins(usize),
    Dies(usize),
    Returns(usize),
    /// Gone for 5 s in each half minute, for ten minutes. Its sessions die each time.
    Flaps(usize),
    /// The configuration is read anew.
    Reload,
}

#[derive(Clone, Copy, PartialEq)]
enum Event {
    Arrival { returning: bool },
    Departure { endpoint: usize, session: u64 },
    Change(usize),
    Up(usize, bool),
    Tick,
}

struct Endpoints {
    open: Vec<bool>,
    /// Live sessions, as they are.
    sessions: Vec<Vec<u64>>,
    /// As the balancer counts them.
    counted: Vec<u32>,
}

impl Candidates for Endpoints {
    fn count(&self) -> usize {
        self.open.len()
    }
    fn is_excluded(&self, index: usize) -> bool {
        !self.open[index]
    }
    fn weight(&self, _: usize) -> u32 {
        1
    }
    fn load(&self, index: usize) -> u32 {
        self.counted[index]
    }
    fn identity(&self, index: usize) -> u64 {
        wsluice::balance::hash::of(&index.to_le_bytes())
    }
}

struct Contender {
    name: &'static str,
    make: fn() -> Balancer,
    /// A reload, which each change of membership is, forgets what was counted, as in proxies that count by worker or by
    /// configuration.
    forgets: bool,
    rebalances: bool,
}

#[derive(Default)]
struct Score {
    /// Of max/mean, sampled each minute: in the quiet second hour, ten minutes after the join, an hour after it, ten minutes
    /// after the return, in the two hours after the reload, and at its worst in these.
    steady: f64,
    joined: f64,
    joined_late: f64,
    returned: f64,
    reloaded: f64,
    reloaded_worst: f64,
    moved: u32,
}

fn main() {
    let contenders = [
        Contender { name: "least_connections", make: || Balancer::LeastConnections, forgets: false, rebalances: false },
        Contender {
            name: "least_connections, rebalance 10/s",
            make: || Balancer::LeastConnections,
            forgets: false,
            rebalances: true,
        },
        Contender { name: "random_two", make: || Balancer::RandomTwo, forgets: false, rebalances: false },
        Contender {
            name: "round_robin",
            make: || Balancer::RoundRobin(RoundRobin::new(0)),
            forgets: false,
            rebalances: false,
        },
        Contender {
            name: "hash of the client",
            make: || Balancer::Hash(Hash { load_max_percent: None }),
            forgets: false,
            rebalances: false,
        },
        Contender {
            name: "hash, load_max 125%",
            make: || Balancer::Hash(Hash { load_max_percent: Some(125) }),
            forgets: false,
            rebalances: false,
        },
        Contender {
            name: "the same, counts reset at reload, as elsewhere",
            make: || Balancer::LeastConnections,
            forgets: true,
            rebalances: false,
        },
    ];
    println!(
        "| max/mean sessions | steady | 10 min after 2 join | 1 h after | 10 min after one returns | 2 h after reload, mean | worst | moved |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for contender in contenders {
        let score = simulate(&contender);
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
            contender.name,
            score.steady,
            score.joined,
            score.joined_late,
            score.returned,
            score.reloaded,
            score.reloaded_worst,
            score.moved
        );
    }
}

fn simulate(contender: &Contender) -> Score {
    let mut random = fastrand::Rng::with_seed(20261121);
    let mut balancer = (contender.make)();
    let mut endpoints = Endpoints { open: vec![true; 12], sessions: vec![vec![]; 12], counted: vec![0; 12] };
    endpoints.open[10] = false;
    endpoints.open[11] = false;
    let mut queue: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut events: Vec<Event> = vec![];
    let push = |queue: &mut BinaryHeap<Reverse<(u64, u64)>>, events: &mut Vec<Event>, at: f64, event: Event| {
        events.push(event);
        queue.push(Reverse(((at * 1000.0) as u64, events.len() as u64 - 1)));
    };
    for (index, (at, _)) in STORY.iter().enumerate() {
        push(&mut queue, &mut events, *at, Event::Change(index));
    }
    push(&mut queue, &mut events, 0.0, Event::Arrival { returning: false });
    // Those who are there when it begins.
    for _ in 0..SESSIONS as u32 {
        push(&mut queue, &mut events, 0.0, Event::Arrival { returning: true });
    }
    push(&mut queue, &mut events, 0.5, Event::Tick);
    let (mut score, mut session, mut samples) = (Score::default(), 0, [0.0_f64; 2]);
    let (mut sent, mut plan): (Vec<(f64, u32)>, Vec<u32>) = (vec![], vec![]);
    while let Some(Reverse((at, event))) = queue.pop() {
        let now = at as f64 / 1000.0;
        if now > END {
            break;
        }
        let gone: Vec<u64> = match events[event as usize] {
            Event::Arrival { returning } => {
                if !returning {
                    let wait = -random.f64().max(1e-12).ln() * MEAN_LIFE / SESSIONS;
                    push(&mut queue, &mut events, now + wait, Event::Arrival { returning: false });
                }
                let draw = Draw { key: random.u64(..), random: random.u64(..) };
                if let Some(endpoint) = balancer.pick(&endpoints, draw) {
                    session += 1;
                    endpoints.sessions[endpoint].push(session);
                    endpoints.counted[endpoint] += 1;
                    // Pareto with α 1.5 has three times its least as its mean.
                    let life = (MEAN_LIFE / 3.0 * random.f64().max(1e-12).powf(-1.0 / 1.5)).min(48.0 * HOUR);
                    push(&mut queue, &mut events, now + life, Event::Departure { endpoint, session });
                }
                vec![]
            }
            Event::Departure { endpoint, session } => {
                if let Some(place) = endpoints.sessions[endpoint].iter().position(|&one| one == session) {
                    endpoints.sessions[endpoint].swap_remove(place);
                    endpoints.counted[endpoint] = endpoints.counted[endpoint].saturating_sub(1);
                }
                vec![]
            }
            Event::Up(endpoint, up) => {
                endpoints.open[endpoint] = up;
                if up { vec![] } else { close_all(&mut endpoints, endpoint) }
            }
            Event::Change(index) => {
                if contender.forgets {
                    balancer = (contender.make)();
                    endpoints.counted.fill(0);
                }
                match STORY[index].1 {
                    Change::Joins(endpoint) | Change::Returns(endpoint) => {
                        endpoints.open[endpoint] = true;
                        vec![]
                    }
                    Change::Dies(endpoint) => {
                        endpoints.open[endpoint] = false;
                        close_all(&mut endpoints, endpoint)
                    }
                    Change::Flaps(endpoint) => {
                        for bounce in 0..20 {
                            let at = now + 30.0 * f64::from(bounce);
                            push(&mut queue, &mut events, at, Event::Up(endpoint, false));
                            push(&mut queue, &mut events, at + 5.0, Event::Up(endpoint, true));
                        }
                        vec![]
                    }
                    Change::Reload => vec![],
                }
            }
            Event::Tick => {
                push(&mut queue, &mut events, now + 1.0, Event::Tick);
                sample(&endpoints, now, &mut score, &mut samples);
                if contender.rebalances { move_some(&mut endpoints, now, &mut sent, &mut plan) } else { vec![] }
            }
        };
        for _ in &gone {
            let back = now + 1.0 + 9.0 * random.f64();
            push(&mut queue, &mut events, back, Event::Arrival { returning: true });
        }
        if contender.rebalances && matches!(events[event as usize], Event::Tick) {
            score.moved += gone.len() as u32;
        }
    }
    score.steady /= 60.0;
    score.reloaded /= samples[0].max(1.0);
    score
}

fn close_all(endpoints: &mut Endpoints, endpoint: usize) -> Vec<u64> {
    endpoints.counted[endpoint] = 0;
    std::mem::take(&mut endpoints.sessions[endpoint])
}

/// Ten a second, by the rule of the proxy.
fn move_some(endpoints: &mut Endpoints, now: f64, sent: &mut Vec<(f64, u32)>, plan: &mut Vec<u32>) -> Vec<u64> {
    sent.retain(|(at, _)| now - at < 60.0);
    if plan.iter().all(|&left| left == 0) {
        let load = |index: usize| if endpoints.open[index] { endpoints.sessions[index].len() as u32 } else { 0 };
        let held: Vec<EndpointLoad> = (0..12)
            .map(|index| EndpointLoad {
                load: load(index),
                weight: u32::from(endpoints.open[index]),
                sessions_max: u32::MAX,
            })
            .collect();
        *plan = surplus(&held, sent.iter().map(|(_, count)| count).sum(), 10);
    }
    let mut gone = vec![];
    for _ in 0..10 {
        let Some(most) = (0..12).filter(|&index| plan[index] > 0).max_by_key(|&index| plan[index]) else { break };
        plan[most] -= 1;
        if let Some(session) = endpoints.sessions[most].pop() {
            endpoints.counted[most] = endpoints.counted[most].saturating_sub(1);
            gone.push(session);
        }
    }
    sent.push((now, gone.len() as u32));
    gone
}

fn sample(endpoints: &Endpoints, now: f64, score: &mut Score, samples: &mut [f64; 2]) {
    let second = now as u64;
    if !second.is_multiple_of(60) {
        return;
    }
    let loads: Vec<f64> =
        (0..12).filter(|&index| endpoints.open[index]).map(|index| endpoints.sessions[index].len() as f64).collect();
    let mean = loads.iter().sum::<f64>() / loads.len() as f64;
    let evenness = loads.iter().copied().fold(0.0, f64::max) / mean.max(1.0);
    match second / 60 {
        60..=119 => score.steady += evenness,
        130 => score.joined = evenness,
        179 => score.joined_late = evenness,
        200 => score.returned = evenness,
        300..=419 => {
            samples[0] += 1.0;
            score.reloaded += evenness;
            score.reloaded_worst = score.reloaded_worst.max(evenness);
        }
        _ => {}
    }
}
