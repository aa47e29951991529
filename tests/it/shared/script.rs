//! The script of handshakes, with clocks that a test turns.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use wsluice::shared::scripts::ENTER;

use super::has_redis;
use super::server::RedisServer;

/// The answer to one handshake at `now`, in microseconds.
fn enter(
    connection: &mut redis::Connection,
    script: &str,
    now: u64,
    limits: (u64, u64, i64),
    held: (&str, u32),
) -> (u64, u64) {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(2).arg("rate").arg("held").arg(limits.0).arg(limits.1).arg(limits.2);
    command.arg(held.0).arg(held.1).arg("alive:").arg(3_600_000);
    command.arg(now / 1_000_000).arg(now % 1_000_000);
    command.query(connection).unwrap()
}

#[tokio::test]
async fn no_span_has_more_than_the_burst_and_its_share_whoever_asks_and_whatever_the_clock_does() {
    if !has_redis() {
        return;
    }
    let redis = RedisServer::start().await;
    let connection = RefCell::new(redis.connection());
    let script = ENTER.replace("redis.call('TIME')", "{ARGV[8], ARGV[9]}").replace("'PX',", "'PX', 3600000 +");
    assert!(script.contains("ARGV[9]"));
    let steps = prop::collection::vec(0_u64..400_000, 1..60);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(60));
    runner
        .run(&(1_u64..50, 1_u64..6, steps), |(per_second, burst, gaps)| {
            let connection = &mut *connection.borrow_mut();
            redis::cmd("FLUSHALL").exec(connection).unwrap();
            let interval = 1_000_000_u64.div_ceil(per_second);
            let (mut now, mut taken) = (1_790_000_000_000_000_u64, vec![]);
            for gap in gaps {
                now += gap / 4;
                match enter(connection, &script, now, (interval, interval * burst, -1), ("me", 0)) {
                    (0, _) => taken.push(now),
                    (1, wait) => {
                        // What it says is when the next is free: not before, and then.
                        prop_assert!(wait > 0 && wait <= interval, "{wait}");
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, until) in taken.iter().enumerate().skip(first) {
                    let most = burst as f64 + per_second as f64 * (until - from) as f64 / 1e6;
                    prop_assert!((last - first + 1) as f64 <= most + 1e-6, "{taken:?}");
                }
            }
            // A clock that is set back by an hour locks nobody out for longer than a slot.
            let back = now - 3_600_000_000;
            let (said, wait) = enter(connection, &script, back, (interval, interval * burst, -1), ("me", 0));
            prop_assert!(said == 0 || wait <= interval, "{said} {wait}");
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn places_are_counted_over_those_who_live() {
    if !has_redis() {
        return;
    }
    let redis = RedisServer::start().await;
    let mut connection = redis.connection();
    let script = ENTER.replace("redis.call('TIME')", "{ARGV[8], ARGV[9]}");
    let mut at = |who: &str, count: u32| enter(&mut connection, &script, 1, (0, 0, 3), (who, count)).0;
    redis.say::<String>("SET alive:one 1");
    redis.say::<String>("SET alive:other 1");
    assert_eq!([at("one", 1), at("other", 1), at("one", 2)], [0, 0, 0]);
    assert_eq!([at("one", 3), at("other", 2), at("third", 1)], [2, 2, 2]);
    // A refusal changes nothing, and who lives no more has nothing.
    redis.say::<u64>("DEL alive:one");
    assert_eq!([at("other", 2), at("other", 3), at("other", 4)], [0, 0, 2]);
    let held: Vec<String> = redis.say("HGETALL held");
    assert_eq!(held, ["other", "3"]);
}
