//! TERM while sessions run: which Close each gets and when, and that no message is cut.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tokio::net::TcpStream;
use wsluice::net::listener::Address;

use super::Site;
use crate::harness::traffic::{Client, Closed, Talk};
use crate::harness::{Conn, RawServer, eventually};
use crate::plain::{get, ok};
use crate::process::{ask, put};

/// `drain.delay`.
const DELAY: Duration = Duration::from_secs(2);
/// The numbers of sessions with pauses and without.
const QUIET: usize = 200;
const STREAMS: usize = 8;
/// `drain.time`, and the span over which closes are spread: less the two seconds for the last answers, and the three
/// that the last session may wait for a pause.
const TIME: Duration = Duration::from_secs(10);
const PACED: Duration = Duration::from_secs(5);
/// How much later than its time a session may be closed: the proxy waits for 200 ms of silence, and other tests use the
/// two cores.
const LATE_MAX: Duration = Duration::from_millis(900);

/// Returns how long ago a line of the log was written, less than a day.
fn age(ts: &str) -> Duration {
    const DAY: u128 = 86_400_000;
    let number = |from: usize, to: usize| ts[from..to].parse::<u128>().unwrap();
    let written = (number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19)) * 1000 + number(20, 23);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() % DAY;
    Duration::from_millis(((now + DAY - written) % DAY) as u64)
}

#[tokio::test]
async fn term_says_so_first_and_then_closes_evenly_between_messages_and_in_time() {
    let mut slow = RawServer::start().await;
    let slow_url = slow.url().to_owned();
    let mut site = Site::start_as("drain: { delay: 2s, time: 10s }", |dir, text| {
        let route = "  - { name: slow, match: { path: { exact: /slow } }, upstream: slow }\nupstreams:\n";
        let upstream = format!("{route}  slow: {{ endpoints: [{slow_url:?}] }}\n");
        let file = dir.join("wsluice.yaml");
        put(&file, &text.replace("upstreams:\n", &upstream));
        file
    })
    .await;
    let quiet = Talk::to("/one").pause(500, 1_000).bytes_max(3_000);
    let config = site.authority.client();
    let (mut sessions, mut streams) = (vec![], vec![]);
    for at in 0..QUIET {
        let to = if at % 2 == 0 { site.plain() } else { site.secure(&config) };
        let talk = if at % 4 < 2 { quiet.clone() } else { quiet.clone().push() };
        sessions.push(Client::open(&to, &talk).await);
    }
    for _ in 0..STREAMS {
        streams.push(Client::open(&site.plain(), &Talk::to("/one").push().pause(10, 60)).await);
    }
    for session in &sessions {
        eventually("its first message", || (session.received() > 0).then_some(())).await;
    }
    let mut request = Conn::connect(&site.plain).await;
    request.send(get("/slow")).await;
    let mut server = slow.accept().await;
    server.head().await;
    assert_eq!(ask(&site.admin, "/readyz").await, (200, "ok\n".to_owned()));

    site.process.signal(Signal::TERM);
    let line = site.process.message("draining soon").await;
    // By the process's clock: the line may be late.
    let begun = Instant::now() - age(line["ts"].as_str().unwrap()) + DELAY;
    // Balancers in front learn of it while their new clients are still admitted.
    assert_eq!(ask(&site.admin, "/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(site.metric("wsluice_draining", &[]).await, 1.0);
    sessions.push(Client::open(&site.plain(), &quiet).await);
    assert!(sessions.iter().chain(&streams).all(Client::is_open), "nobody is closed before");

    let line = site.process.message("draining: no new connections").await;
    assert_eq!(line["sessions"].as_u64(), Some((QUIET + 1 + STREAMS) as u64));
    let Address::Tcp(address) = site.plain else { panic!("TCP") };
    assert!(TcpStream::connect(address).await.is_err(), "nobody is let in");
    // The running request is answered as usual, and then its connection ends.
    server.send(ok("at last")).await;
    let answer = request.head().await;
    assert_eq!((answer.status(), answer.get("connection")), (200, Some("close")));
    assert_eq!(request.body(&answer).await, b"at last");
    request.expect_end().await;
    request.finish().await;

    let (mut times, mut unheard, mut said) = (vec![], 0, 0);
    for session in sessions {
        let report = session.closed_with(1012, "service restart").await;
        assert!(!report.in_message, "{report:?}");
        times.push(report.at.saturating_duration_since(begun));
        let other = site.peers.report(report.id).await;
        assert!(matches!(other.closed, Closed::With(1001, _)) && !other.in_message, "{other:?}");
        // All messages arrived in order and whole. A message that crosses its Close is lost: one at most.
        assert!(report.sent - other.received <= 1 && other.sent - report.received <= 1, "{report:?} {other:?}");
        unheard += report.sent - other.received + other.sent - report.received;
        said += report.sent + other.sent;
    }
    let mut last = Duration::ZERO;
    for stream in streams {
        let report = stream.closed_with(1012, "service restart").await;
        last = last.max(report.at.saturating_duration_since(begun));
    }
    times.sort();
    let slot = PACED / (QUIET + 1 + STREAMS) as u32;
    // Each session has a slot and its time in it, so the k-th of all is closed in the k-th slot, or later by the wait
    // for a pause; streams have some of the slots.
    for (k, time) in times.iter().enumerate() {
        let (early, late) = (slot * k as u32, slot * (k + 1 + STREAMS) as u32 + LATE_MAX);
        // Ticks of the clocks.
        assert!(*time + Duration::from_millis(20) >= early && *time <= late, "{k}: {time:?} of {early:?}..{late:?}");
    }
    // The largest distance between the observed and the even distribution (Kolmogorov and Smirnov).
    let count = times.len() as f64;
    let even = |time: &Duration| (time.as_secs_f64() / PACED.as_secs_f64()).min(1.0);
    let distance = times.iter().enumerate().map(|(k, time)| (even(time) - (k as f64 + 0.5) / count).abs());
    let distance = distance.fold(0.0, f64::max);
    let crowd = (0..times.len()).map(|at| times[at..].partition_point(|time| *time < times[at] + PACED / 20)).max();
    println!(
        "{count} closes in {:?}..{:?}, distance {distance:.3}, at most {crowd:?} in a twentieth of the time; streams by \
         {last:?}; {unheard} of {said} messages crossed a Close",
        times[0],
        times[times.len() - 1]
    );
    assert!(distance < 0.2, "{distance}");
    assert!(crowd.unwrap() <= QUIET / 5, "{crowd:?} of {count} in a twentieth of the time");
    assert!(times[times.len() - 1].max(last) < TIME, "by the deadline");
    assert!(unheard <= 10, "{unheard} of {said} messages crossed a Close");
    eventually("the end", || (!site.process.runs()).then_some(())).await;
    assert!(begun.elapsed() < TIME, "with nobody left there is nothing to wait for");
    assert_eq!(site.process.end().await.code(), Some(0));
    let has = |message: &str| site.process.seen.iter().any(|line| line.contains(message));
    assert!(has("\"message\":\"drained\"") && !has("drain time is over"));
    let closed = site.process.access().iter().filter(|line| line["reason"] == "drain").count();
    assert_eq!(closed, QUIET + 1 + STREAMS);
    site.peers.check();
}

#[tokio::test]
async fn a_reload_that_waits_for_others_does_not_keep_the_process_from_its_end() {
    let mut site = Site::start("watch: false\ndrain: { time: 4s }").await;
    let session = Client::open(&site.plain(), &Talk::to("/one").pause(400, 500)).await;
    let missing = site.dir.path().join("missing.yaml");
    let late = format!("upstreams:\n  late: {{ discover: {{ file: {{ path: {missing:?} }} }} }}\n");
    let route = "  - { name: late, match: { path: { exact: /late } }, upstream: late }\n";
    let text = site.changed("upstreams:\n", &format!("{route}{late}"));
    put(&site.config(), &text);
    site.process.signal(Signal::HUP);
    // It is running, and waits for its first endpoints.
    site.process.line("the file that is not there", |line| line.contains("missing.yaml").then_some(())).await;
    site.process.signal(Signal::TERM);
    site.process.message("draining: no new connections").await;
    assert!(!site.process.seen.iter().any(|line| line.contains("has told none yet")), "{:#?}", site.process.seen);
    session.closed_with(1012, "service restart").await;
    assert_eq!(site.process.end().await.code(), Some(0));
}
