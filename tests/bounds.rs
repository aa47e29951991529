//! What a text costs in memory while it is read, however hostile it is: at most 64 MiB for one of up to a megabyte.
//!
//! An allocator counts what is taken and not given back, and the most it ever was. The texts are of all kinds that become
//! larger when they are read: what aliases repeat, values of one letter, routes with all their defaults, regexes, mistakes
//! that are quoted.
#![allow(unsafe_code, reason = "a counting allocator cannot be written without")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use wsluice::config::{FILE_BYTES_MAX, Scheme, load_endpoint, load_endpoints, load_sent, load_str};
use wsluice::control::compile::{FileChecks, examine};

/// What may be taken for one text.
const PEAK_MAX: i64 = 64 << 20;

static HELD: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

struct Counting;

fn count(bytes: i64) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new one are there at the same time, for a moment.
        count(size as i64);
        // SAFETY: as above.
        let new = unsafe { System.realloc(pointer, layout, size) };
        count(-(layout.size() as i64));
        new
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `work` holds beside what was held before.
fn peak(what: &str, work: impl FnOnce() -> String) -> i64 {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let started = Instant::now();
    let told = work();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let told: String = told.chars().take(120).collect::<String>().replace('\n', " ");
    println!("{what:24} {:6.1} MiB {:7.2?}  {told}", peak as f64 / 1_048_576.0, started.elapsed());
    peak
}

const UPSTREAMS: &str = "upstreams: { u: { endpoints: ['ws://127.0.0.1:1'] } }\n";

/// `head`, then what `piece` gives for 0, 1, …, as many as there is room for, then `tail`.
fn filled(head: &str, piece: impl Fn(usize) -> String, tail: &str) -> String {
    let mut text = head.to_owned();
    for number in 0.. {
        let next = piece(number);
        if text.len() + next.len() + tail.len() > FILE_BYTES_MAX as usize {
            break;
        }
        text.push_str(&next);
    }
    text + tail
}

fn routes(piece: impl Fn(usize) -> String) -> String {
    filled(UPSTREAMS, |number| if number == 0 { "routes:\n".to_owned() } else { piece(number) }, "")
}

fn configurations() -> Vec<(&'static str, String)> {
    let long = "x".repeat(20_000);
    let hosts = (0..1000).map(|number| format!("h{number}.example.com")).collect::<Vec<_>>().join(",");
    vec![
        ("an alias of 20 KB", filled(&format!("{UPSTREAMS}zone: &a {long}\nroutes: ["), |_| "*a,".into(), "]")),
        ("an alias of few bytes", filled(&format!("{UPSTREAMS}zone: &a x\nroutes: ["), |_| "*a,".into(), "]")),
        ("aliases of 3 MB", {
            let names = format!("{UPSTREAMS}zone: &a {}\nroutes: [", "x".repeat(1000));
            names + &(0..3000).map(|number| format!("{{name: r{number}, upstream: *a}},")).collect::<String>() + "]"
        }),
        ("hosts that are shared", {
            let route = |number| {
                let hosts = if number == 0 { format!("&h [{hosts}]") } else { "*h".to_owned() };
                format!("- {{name: r{number}, upstream: u, match: {{hosts: {hosts}, path: {{exact: /a{number}}}}}}}\n")
            };
            format!("{UPSTREAMS}routes:\n{}", (0..235).map(route).collect::<String>())
        }),
        ("defaults of many routes", {
            let sets: String = (0..8).map(|number| format!("X-{number}: a, ")).collect();
            let defaults = format!("defaults: {{route: {{headers: {{request: {{set: {{{sets}}}}}}}}}}}\n");
            let route = |number| format!("- {{name: r{number}, upstream: u}}\n");
            format!("{UPSTREAMS}{defaults}routes:\n{}", (0..8_000).map(route).collect::<String>())
        }),
        ("defaults of 20 KB", {
            let defaults = format!("defaults: {{route: {{headers: {{request: {{set: {{X-A: {long}}}}}}}}}}}\n");
            let route = |number| format!("- {{name: r{number}, upstream: u}}\n");
            format!("{UPSTREAMS}{defaults}routes:\n{}", (0..3000).map(route).collect::<String>())
        }),
        ("merges of few bytes", {
            filled(&format!("{UPSTREAMS}x-a: &a {{upstream: u}}\nroutes:\n"), |_| "- {<<: *a}\n".into(), "")
        }),
        ("values of one letter", filled("routes: [", |_| "a,".into(), "a]")),
        ("keys of one letter", filled("{", |number| format!("{number:x}: a,"), "}")),
        ("the same key", filled("{", |_| "a: a,".into(), "}")),
        ("maps in maps", filled("routes: [", |_| "{a: {b: {c: {}}}},".into(), "]")),
        ("dashes", "- ".repeat(500_000)),
        ("tags", filled(&format!("%TAG !e! tag:{long}:\n---\nroutes: ["), |_| "!e!a b,".into(), "]")),
        ("comments", filled(UPSTREAMS, |_| "# a, b: c\n".into(), "routes: [{name: r, upstream: u}]\n")),
        ("the shortest routes", routes(|number| format!("- {{name: r{number},upstream: u}}\n"))),
        ("20,000 routes", {
            let route = |number| format!("- {{name: r{number},upstream: u,match: {{path: {{exact: /{number}}}}}}}\n");
            format!("{UPSTREAMS}routes:\n{}", (0..16_500).map(route).collect::<String>())
        }),
        ("servers in routes", {
            let route = |number| format!("- {{name: r{number},upstream: 'ws://h{number}:1'}}\n");
            format!("routes:\n{}", (0..17_000).map(route).collect::<String>())
        }),
        ("10,000 servers in routes", {
            let route = |number| {
                format!("- {{name: r{number},upstream: 'ws://h{number}:1',match: {{path: {{exact: /{number}}}}}}}\n")
            };
            format!("routes:\n{}", (0..10_000).map(route).collect::<String>())
        }),
        ("routes without a name", routes(|_| "- {upstream: u}\n".into())),
        ("routes to nowhere", routes(|number| format!("- {{name: r{number}, upstream: v}}\n"))),
        ("routes that are wrong", {
            routes(|number| format!("- {{name: r{number}, upstream: u, timeouts: {{connect: 0s, idle: 0s}}}}\n"))
        }),
        ("a long name", format!("{UPSTREAMS}routes:\n- {{name: '{}', upstream: v}}\n", " ".repeat(1_000_000))),
        ("large regexes", {
            routes(|number| {
                format!("- {{name: r{number}, upstream: u, match: {{path: {{regex: '/{number}\\w{{100}}'}}}}}}\n")
            })
        }),
        ("small regexes", {
            routes(|number| {
                format!("- {{name: r{number}, upstream: u, match: {{path: {{regex: '/{number}/[0-9]+'}}}}}}\n")
            })
        }),
        ("regexes of classes", {
            let classes = r"\w{0}".repeat(190);
            routes(|number| {
                format!("- {{name: r{number}, upstream: u, match: {{path: {{regex: '/{number}{classes}'}}}}}}\n")
            })
        }),
        ("bodies of checks", {
            filled(
                "routes: [{name: r, upstream: u0}]\nupstreams:\n",
                |number| {
                    format!(
                        "  u{number}: {{endpoints: ['ws://a'], health: {{http: {{path: /, body: {{matches: '\\w{{99}}'}}}}}}}}\n"
                    )
                },
                "",
            )
        }),
        ("upstreams", {
            filled(
                "routes: [{name: r, upstream: u0}]\nupstreams:\n",
                |number| format!("  u{number}: {{endpoints: ['ws://a']}}\n"),
                "",
            )
        }),
        ("endpoints", {
            let head = "routes: [{name: r, upstream: u}]\nupstreams: {u: {endpoints: [";
            filled(head, |number| format!("'ws://a:{}',", number % 60_000 + 1), "]}}\n")
        }),
        ("listeners", {
            filled(
                &format!("routes: [{{name: r, upstream: u}}]\n{UPSTREAMS}listeners:\n"),
                |number| format!("- {{name: l{number}, bind: '127.0.0.1:{}'}}\n", number % 60_000 + 1),
                "",
            )
        }),
        ("hosts", {
            let head = format!("{UPSTREAMS}routes: [{{name: r, upstream: u, match: {{hosts: [");
            filled(&head, |number| format!("h{number},"), "]}}]\n")
        }),
        ("headers", {
            let head = format!("{UPSTREAMS}routes: [{{name: r, upstream: u, headers: {{request: {{remove: [");
            filled(&head, |number| format!("h{number},"), "]}}}]\n")
        }),
        ("conditions", {
            let head = format!("{UPSTREAMS}routes: [{{name: r, upstream: u, match: {{headers: {{");
            filled(&head, |number| format!("h{number}: a,"), "}}}]\n")
        }),
        ("variables", routes(|number| format!("- {{name: '${{LONG}}{number}', upstream: u}}\n"))),
        ("variables that are unset", routes(|number| format!("- {{name: '${{UNSET}}{number}', upstream: u}}\n"))),
    ]
}

fn lists() -> Vec<(&'static str, String)> {
    let long = "x".repeat(20_000);
    vec![
        ("an alias in a list", filled(&format!("- &a '{long}'\n"), |_| "- *a\n".into(), "")),
        ("endpoints", filled("", |number| format!("- ws://h{number}\n"), "")),
        ("10,000 endpoints", (0..10_000).map(|number| format!("- {{ url: 'ws://h{number}', weight: 2 }}\n")).collect()),
        ("wrong ones", filled("", |_| "- a\n".into(), "")),
        ("targets of one letter", filled("[{targets: [", |_| "a,".into(), "]}]")),
        ("groups", filled("[", |_| "{targets: []},".into(), "]")),
        ("labels", filled("[{targets: [a], labels: {", |number| format!("l{number}: a,"), "}}]")),
        ("a long one", filled("[{targets: ['", |_| "a".into(), "']}]")),
    ]
}

/// One test, so that nothing else is counted.
#[test]
fn no_text_takes_more_than_64_mib() {
    let env = |name: &str| (name == "LONG").then(|| "x".repeat(100_000));
    let mut too_much = vec![];
    let mut judge = |what: &str, peak: i64| {
        if peak > PEAK_MAX {
            too_much.push(format!("{what}: {} MiB", peak >> 20));
        }
    };
    // What is made once, and kept.
    examine(
        &load_str("first", &format!("routes: [{{name: r, upstream: u}}]\n{UPSTREAMS}"), &env).unwrap(),
        FileChecks::Inside,
    )
    .unwrap();
    for (what, text) in configurations() {
        assert!(text.len() as u64 <= FILE_BYTES_MAX, "{what}");
        let told = |sent: bool| {
            let loaded = if sent { load_sent("text", &text, &env) } else { load_str("text", &text, &env) };
            match loaded.and_then(|loaded| examine(&loaded, FileChecks::Inside).map(|_| loaded)) {
                Ok(loaded) => format!("ok, {} warnings {}", loaded.warnings.len(), loaded.hash()),
                Err(errors) => errors.to_string(),
            }
        };
        judge(what, peak(what, || told(false)));
        if what.contains("alias") {
            judge(what, peak("  as it is sent", || told(true)));
        }
    }
    for (what, text) in lists() {
        let told = || match load_endpoints("list", &text, Scheme::Ws) {
            Ok(endpoints) => format!("{} endpoints", endpoints.len()),
            Err(errors) => errors.to_string(),
        };
        judge(what, peak(what, told));
        let told = || load_endpoint("value", &text).map_or_else(|errors| errors.to_string(), |one| one.url.to_string());
        judge(what, peak("  as a value", told));
    }
    assert_eq!(too_much, [""; 0]);
}
