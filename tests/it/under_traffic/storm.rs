//! Five hundred configurations in sequence while sessions run. A model predicts what each session notices: nothing, or
//! a Close with 1012 because its route requires it. At the end the process is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use wsluice::net::listener::Address;

use super::{NAME, Site, all_hear, finish};
use crate::harness::traffic::{Client, Closed, Peers, Talk, To};
use crate::harness::{eventually, value};
use crate::plain::get;
use crate::process::{address, put};

const RELOADS: usize = 500;
/// Sessions of routes that may change.
const SESSIONS_MAX: usize = 24;
/// The latest end of a session that is to be closed: the span, the longest wait for a pause, a sweep for late sessions,
/// and time for two busy cores.
const CLOSED_BY: Duration = Duration::from_secs(12);

/// The part of a file that changes.
#[derive(Clone, Debug, PartialEq)]
struct Config {
    /// Lines of the listener with TLS.
    secure: String,
    /// The other listeners by name, with their lines.
    listeners: BTreeMap<String, String>,
    /// The routes, in order.
    routes: Vec<Route>,
    /// The lines of each upstream.
    upstreams: [String; 3],
    /// The last line.
    comment: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct Route {
    name: String,
    upstream: usize,
    on_change: &'static str,
    idle: u32,
}

impl Config {
    /// The first and last configuration.
    fn first(endpoints: &[&str]) -> Config {
        let route = |at: usize| Route { name: format!("r{at}"), upstream: at % 3, on_change: "keep", idle: 300 };
        Config {
            secure: String::new(),
            listeners: BTreeMap::new(),
            routes: (0..4).map(route).collect(),
            upstreams: [0, 1, 2].map(|at| format!("endpoints: [{:?}]", endpoints[at])),
            comment: 0,
        }
    }

    /// Returns a configuration with one to three changes.
    fn next(&self, random: &mut fastrand::Rng, endpoints: &[&str], place: &Site) -> Config {
        let mut next = self.clone();
        for _ in 0..random.usize(1..=3) {
            match random.u8(0..12) {
                0..2 => {
                    let lines = ["", ", min_version: \"1.3\"", ", min_version: \"1.2\""];
                    next.secure = lines[random.usize(..lines.len())].to_owned();
                }
                2..4 => {
                    let name = format!("l{}", random.u8(0..3));
                    if next.listeners.remove(&name).is_none() {
                        let socket = place.dir.path().join(format!("{name}.sock"));
                        let bind =
                            if random.bool() { "127.0.0.1:0".into() } else { format!("unix:{}", socket.display()) };
                        next.listeners.insert(name, format!("bind: {bind:?}"));
                    }
                }
                4..8 => {
                    let route = Route {
                        name: format!("r{}", random.u8(0..6)),
                        upstream: random.usize(0..3),
                        on_change: ["keep", "keep", "drain 1s", "close"][random.usize(0..4)],
                        idle: random.u32(300..303),
                    };
                    match next.routes.iter().position(|found| found.name == route.name) {
                        None => next.routes.push(route),
                        Some(at) if random.u8(0..4) == 0 => drop(next.routes.remove(at)),
                        Some(at) => next.routes[at] = route,
                    }
                }
                8 => random.shuffle(&mut next.routes),
                9..11 => {
                    let some: Vec<String> = random
                        .choose_multiple(endpoints, random.clone().usize(1..=endpoints.len()))
                        .into_iter()
                        .map(|url| format!("{url:?}"))
                        .collect();
                    let balance = ["round_robin", "least_connections", "random_two"][random.usize(0..3)];
                    let check = ["", ", health: { tcp: { every: 1s, timeout: 500ms } }"][random.usize(0..2)];
                    next.upstreams[random.usize(0..3)] =
                        format!("balance: {balance}, endpoints: [{}]{check}", some.join(", "));
                }
                _ => next.comment += 1,
            }
        }
        next
    }

    fn text(&self, site: &Site) -> String {
        let (cert, key) = &site.certificate;
        let tls = format!("tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}]{} }}", self.secure);
        let mut text = format!(
            "workers: 2\nwatch: false\nadmin: {{ bind: \"127.0.0.1:0\" }}\nlisteners:\n  - {{ name: plain, bind: \
             \"127.0.0.1:0\" }}\n  - {{ name: secure, bind: \"127.0.0.1:0\", {tls} }}\n"
        );
        for (name, says) in &self.listeners {
            writeln!(text, "  - {{ name: {name}, {says} }}").unwrap();
        }
        text.push_str("routes:\n  - { name: one, match: { path: { prefix: /one } }, upstream: app }\n");
        for Route { name, upstream, on_change, idle } in &self.routes {
            let says = format!("upstream: u{upstream}, on_change: {on_change}");
            let timeouts = format!("timeouts: {{ idle: {idle}s, handshake: 1s }}");
            writeln!(text, "  - {{ name: {name}, match: {{ path: {{ prefix: /{name} }} }}, {says}, {timeouts} }}")
                .unwrap();
        }
        writeln!(text, "upstreams:\n  app: {{ endpoints: [{:?}] }}", site.peers.url()).unwrap();
        for (at, says) in self.upstreams.iter().enumerate() {
            writeln!(text, "  u{at}: {{ {says} }}").unwrap();
        }
        writeln!(text, "# {}", self.comment).unwrap();
        text
    }

    fn route(&self, name: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.name == name)
    }

    /// Rewrites it without changing its meaning.
    fn is_same(&self, other: &Config) -> bool {
        let without = |config: &Config| Config { comment: 0, ..config.clone() };
        let plain = |config: &Config| {
            let mut config = without(config);
            // The defaults, written out.
            config.secure = config.secure.replace(", min_version: \"1.2\"", "");
            for upstream in &mut config.upstreams {
                *upstream = upstream.replace("balance: least_connections, ", "");
            }
            config
        };
        plain(self) == plain(other)
    }
}

/// A mistake in a file, and its error message.
fn spoiled(text: &str, random: &mut fastrand::Rng, taken: &str) -> (String, &'static str) {
    let listener = |says: &str| text.replace("routes:\n", &format!("  - {{ name: bad, {says} }}\nroutes:\n"));
    match random.u8(0..5) {
        0 => (text.replace("routes:", "routes: ["), "wsluice.yaml"),
        1 => (text.replace("upstream: app }", "upstream: nobody }"), "nobody"),
        2 => (listener(&format!("bind: {taken:?}")), "in use"),
        3 => {
            let tls = "tls: { certificates: [{ cert: /none.crt, key: /none.key }] }";
            (listener(&format!("bind: \"127.0.0.1:0\", {tls}")), "none.crt")
        }
        _ => (text.replace("workers: 2", "workers: 2\nwokrers: 3"), "wokrers"),
    }
}

/// A session of a route that may change.
struct Open {
    client: Client,
    route: String,
    listener: String,
    /// The latest time of its Close, and the reload that causes it.
    leaves: Option<(Instant, usize)>,
}

/// The resources of a process.
#[derive(Debug)]
struct ProcessUsage {
    descriptors: usize,
    threads: f64,
    series: BTreeSet<String>,
    rss: f64,
}

struct Storm {
    site: Site,
    others: Vec<Peers>,
    config: Config,
    open: Vec<Open>,
    /// Where listeners are that come and go.
    listeners: BTreeMap<String, Address>,
    /// The number of log lines read.
    read: usize,
    reloads: usize,
    counts: BTreeMap<&'static str, usize>,
    /// The requests on new connections during reloads, and the longest time that one of them took.
    knocks: usize,
    longest: Duration,
}

/// Sends requests, each on a new connection, until it is done; each must be answered.
async fn knock(to: &To, done: &AtomicBool) -> (usize, Duration) {
    let (mut knocks, mut longest) = (0, Duration::ZERO);
    while !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut conn = to.connect().await;
        conn.send(get("/one")).await;
        assert_eq!(conn.head().await.status(), 200);
        longest = longest.max(begun.elapsed());
        knocks += 1;
    }
    (knocks, longest)
}

impl Storm {
    fn endpoints(others: &[Peers]) -> Vec<&str> {
        others.iter().map(Peers::url).collect()
    }

    /// Writes a text to the file, and returns the result of the reload.
    async fn reload(&mut self, text: &str) -> Value {
        put(&self.site.config(), text);
        // Meanwhile new clients connect all the time.
        let (to, done) = (self.site.plain(), Arc::new(AtomicBool::new(false)));
        let knocking = tokio::spawn({
            let done = Arc::clone(&done);
            async move { knock(&to, &done).await }
        });
        self.site.process.signal(Signal::HUP);
        let outcome = self.site.process.line("the end of a reload", |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["trigger"] == "signal").then_some(value)
        });
        let outcome = outcome.await;
        done.store(true, Ordering::Relaxed);
        let (knocks, longest) = knocking.await.unwrap();
        (self.knocks, self.longest) = (self.knocks + knocks, self.longest.max(longest));
        self.reloads += 1;
        for line in &self.site.process.seen[self.read..] {
            let Ok(value) = serde_json::from_str::<Value>(line) else { panic!("{line}") };
            if value["message"] == "listening" {
                self.listeners.insert(value["listener"].as_str().unwrap().to_owned(), address(&value));
            }
            assert!(!line.contains("panicked"), "{line}");
        }
        self.read = self.site.process.seen.len();
        outcome
    }

    /// Reloads a valid configuration.
    async fn becomes(&mut self, next: Config) {
        let text = next.text(&self.site);
        let outcome = self.reload(&text).await;
        let message = outcome["message"].as_str().unwrap();
        let expected = match next.is_same(&self.config) {
            true => "configuration read again",
            false => "configuration reloaded",
        };
        assert!(
            message.starts_with(expected),
            "{expected}: {outcome} of\n{text}\nafter\n{}",
            self.config.text(&self.site)
        );
        *self.counts.entry(expected).or_default() += 1;
        let leaves = Some((Instant::now() + CLOSED_BY, self.reloads));
        for route in &self.config.routes {
            let new = next.route(&route.name);
            if new.unwrap_or(route).on_change == "keep" {
                continue;
            }
            // A change of `on_change` alone does not affect sessions.
            let is_changed = new.is_none_or(|new| Route { on_change: route.on_change, ..new.clone() } != *route);
            let is_gone =
                |listener: &str| self.config.listeners.contains_key(listener) && !next.listeners.contains_key(listener);
            for open in self.open.iter_mut().filter(|open| open.route == route.name && open.leaves.is_none()) {
                if is_changed || is_gone(&open.listener) {
                    open.leaves = leaves;
                }
            }
        }
        self.config = next;
    }

    async fn open(&mut self, random: &mut fastrand::Rng) {
        let Some(route) = random.choice(&self.config.routes) else { return };
        let names: Vec<String> =
            ["plain", "secure"].into_iter().map(str::to_owned).chain(self.config.listeners.keys().cloned()).collect();
        let listener = random.choice(names).unwrap();
        let to = match listener.as_str() {
            "plain" => self.site.plain(),
            "secure" => self.site.secure(&self.site.authority.client()),
            other => To::plain(&self.listeners[other]),
        };
        let talk = Talk::to(&format!("/{}", route.name)).pause(100, 400).bytes_max(3_000);
        let talk = if random.bool() { talk.push() } else { talk };
        let client = Client::open(&to, &talk).await;
        self.open.push(Open { client, route: route.name.clone(), listener, leaves: None });
        *self.counts.entry("opened").or_default() += 1;
    }

    /// Checks that exactly the predicted sessions have ended.
    async fn check_sessions(&mut self) {
        let mut left = vec![];
        for open in std::mem::take(&mut self.open) {
            let (now, reloads) = (Instant::now(), self.reloads);
            let about = format!("{} by {} at reload {reloads}", open.route, open.listener);
            match (open.client.is_open(), open.leaves) {
                (true, Some((by, reload))) if by < now => panic!("{about}: reload {reload} was to close it"),
                (true, _) => left.push(open),
                (false, leaves) => {
                    let report = open.client.closed().await;
                    assert!(leaves.is_some(), "{about}: was to notice nothing, and saw {report:?}");
                    let reason = "the service has changed, please reconnect".to_owned();
                    assert_eq!(report.closed, Closed::With(1012, reason), "{about}");
                    *self.counts.entry("closed").or_default() += 1;
                }
            }
        }
        self.open = left;
    }

    /// Ends a session that nobody else ends. Both ends have received everything.
    async fn finish(&mut self, at: usize) {
        let report = self.open.swap_remove(at).client.finish().await;
        let other =
            eventually("the server's end", || self.others.iter().find_map(|peers| peers.ended(report.id))).await;
        assert_eq!((other.sent, other.received), (report.received, report.sent), "{report:?} {other:?}");
        *self.counts.entry("finished").or_default() += 1;
    }

    /// Returns to the first configuration, without sessions of changing routes, and returns the resources of the
    /// process.
    async fn rest(&mut self, held: Option<&ProcessUsage>) -> ProcessUsage {
        let endpoints = Storm::endpoints(&self.others);
        let first = Config::first(&endpoints);
        self.becomes(first).await;
        while !self.open.is_empty() {
            self.check_sessions().await;
            if let Some(at) = self.open.iter().position(|open| open.leaves.is_none()) {
                self.finish(at).await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Removed routes are held until the last sweep for late sessions.
        let begun = Instant::now();
        loop {
            let now = self.held().await;
            let is_back = held.is_none_or(|held| {
                // A thread for files, which ends by itself when idle, may have existed before.
                now.descriptors <= held.descriptors && now.threads <= held.threads && now.series == held.series
            });
            if is_back {
                return now;
            }
            let held = held.unwrap();
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "descriptors {} before and {} now, threads {} and {}, series that are new {:?} and gone {:?}",
                held.descriptors,
                now.descriptors,
                held.threads,
                now.threads,
                now.series.difference(&held.series).collect::<Vec<_>>(),
                held.series.difference(&now.series).collect::<Vec<_>>(),
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn held(&self) -> ProcessUsage {
        let process = PathBuf::from(format!("/proc/{}", self.site.process.id()));
        let metrics = self.site.metrics().await;
        let hash = |line: &&str| !line.starts_with('#') && !line.starts_with("wsluice_config_info");
        let series = metrics.lines().filter(hash).map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        let number = |key: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(process.join("fd")).unwrap().count();
        ProcessUsage { descriptors, threads: number("Threads:"), series, rss: number("VmRSS:") * 1024.0 }
    }
}

#[tokio::test]
async fn five_hundred_reloads_lose_nothing_and_leave_nothing_behind() {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let others = vec![Peers::start().await, Peers::start().await, Peers::start().await];
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let site = Site::start("watch: false").await;
    let config = Config::first(&Storm::endpoints(&others));
    let (read, listeners) = (site.process.seen.len(), BTreeMap::new());
    let (open, counts) = (vec![], BTreeMap::new());
    let mut storm =
        Storm { site, others, config, open, listeners, read, reloads: 0, counts, knocks: 0, longest: Duration::ZERO };
    let text = storm.config.text(&storm.site);
    storm.reload(&text).await;
    // The sessions that never notice: their route does not change.
    let mut stable = vec![];
    let config = storm.site.authority.client();
    for to in [storm.site.plain(), storm.site.secure(&config)] {
        for talk in [Talk::to("/one"), Talk::to("/one").push()] {
            for _ in 0..4 {
                stable.push(Client::open(&to, &talk.clone().pause(10, 80).bytes_max(20_000)).await);
            }
        }
    }
    all_hear(&stable).await;
    let before = storm.rest(None).await;
    let mut early = None;
    while storm.reloads < RELOADS {
        if storm.open.len() < SESSIONS_MAX {
            storm.open(&mut random).await;
        } else if let Some(at) = storm.open.iter().position(|open| open.leaves.is_none() && open.client.received() > 0)
        {
            storm.finish(at).await;
        }
        let endpoints = Storm::endpoints(&storm.others);
        let next = storm.config.next(&mut random, &endpoints, &storm.site);
        match random.u8(0..8) {
            0 => {
                let (text, word) = spoiled(&next.text(&storm.site), &mut random, &taken);
                let outcome = storm.reload(&text).await;
                assert!(outcome["message"].as_str().unwrap().starts_with("the new configuration is refused"), "{text}");
                assert!(outcome["error"].as_str().unwrap().contains(word), "{word}: {outcome}");
                *storm.counts.entry("refused").or_default() += 1;
            }
            1 => {
                storm.site.authority.issue("own", &[NAME]);
                let mut next = next;
                // The certificate changes in any case.
                next.secure = match storm.config.secure.contains("1.3") {
                    true => String::new(),
                    false => ", min_version: \"1.3\"".to_owned(),
                };
                storm.becomes(next).await;
            }
            _ => storm.becomes(next).await,
        }
        storm.check_sessions().await;
        assert!(stable.iter().all(Client::is_open), "a session whose route never changes has ended");
        if early.is_none() && storm.reloads >= RELOADS / 5 {
            early = Some(storm.rest(Some(&before)).await);
        }
    }
    let (early, late) = (early.unwrap(), storm.rest(Some(&before)).await);
    all_hear(&stable).await;
    let said: u64 = stable.iter().map(Client::received).sum();
    finish(stable, &storm.site.peers).await;
    storm.others.iter().for_each(Peers::check);
    let Storm { site, counts, knocks, longest, .. } = storm;
    println!(
        "{counts:?}, {said} messages of those that never notice; {knocks} came in during reloads, the longest in \
         {longest:?}; {:.1} s; resident {:.1} MiB at first, {:.1} after a \
         fifth, {:.1} at the end",
        begun.elapsed().as_secs_f64(),
        before.rss / 1048576.0,
        early.rss / 1048576.0,
        late.rss / 1048576.0
    );
    assert!(late.rss - early.rss < RSS_MORE_MAX, "{} bytes more than after a fifth", late.rss - early.rss);
    for (label, count) in [
        ("done", counts["configuration reloaded"]),
        ("refused", counts["refused"]),
        ("unchanged", counts["configuration read again"]),
    ] {
        let labels = [("trigger", "signal"), ("result", label)];
        // The first reported the changing routes, and is in no count.
        let count = count as f64 + if label == "done" { 1.0 } else { 0.0 };
        assert_eq!(value(&site.metrics().await, "wsluice_config_reloads_total", &labels), count, "{label}");
    }
    assert!(counts["closed"] > 20 && counts["finished"] > 20, "{counts:?}");
}

/// How much resident memory may grow in 400 more reloads: what the allocator keeps varies by some hundred KiB, and a
/// leaked configuration per reload would add several MiB.
const RSS_MORE_MAX: f64 = 3.0 * 1048576.0;
