//! Rates: what is delayed keeps its order and arrives, what is closed ends for its sender, and no span has more than its
//! share; control frames and fragments.

use super::*;
use crate::ws::rate::TokenRate;

fn delay(messages: u64, burst: u64) -> RateLimit {
    RateLimit::new(Some(TokenRate::new(messages, burst)), None, Exceeding::Delay)
}

fn close(messages: u64, burst: u64) -> RateLimit {
    RateLimit::new(Some(TokenRate::new(messages, burst)), None, Exceeding::Close)
}

fn limited(client: RateLimit) -> TunnelSettings {
    TunnelSettings { rates: [Some(client), None], ..settings() }
}

fn millis(millis: u64) -> MonotonicTime {
    at(0) + Duration::from_millis(millis)
}

fn text(from: Side, text: &str) -> Vec<u8> {
    frame(from, true, Opcode::Text, text.as_bytes())
}

/// Any limit, from one that bites at once to one that hardly does.
pub(super) fn limit() -> impl Strategy<Value = RateLimit> {
    let rate = |most: u64| (1..most, 1..most).prop_map(|(per_second, burst)| TokenRate::new(per_second, burst));
    (
        prop::option::of(rate(60)),
        prop::option::of(rate(200_000)),
        prop::sample::select(vec![Exceeding::Delay, Exceeding::Delay, Exceeding::Close]),
    )
        .prop_map(|(messages, bytes, then)| RateLimit::new(messages, bytes, then))
}

#[test]
fn messages_above_the_burst_wait_and_arrive_at_the_rate() {
    let mut driver = Driver::new(limited(delay(10, 3)));
    let all: Vec<_> = (0..8).map(|n| text(Side::Client, &n.to_string())).collect();
    driver.feed(at(0), Side::Client, &all.concat());
    assert_eq!(driver.out[1], all[..3].concat());
    assert_eq!(driver.tunnel.poll_timeout(), Some(millis(100)));
    for (n, passed) in [(99, 3), (100, 4), (199, 4), (200, 5), (500, 8)] {
        // Late ticks let pass what is due by then.
        driver.tick(millis(n));
        assert_eq!(driver.log.messages.len(), passed, "at {n} ms");
    }
    assert_eq!((&driver.out[1], driver.log.delays), (&all.concat(), [3, 0]));
    assert_eq!(driver.tunnel.poll_timeout(), None, "nothing waits any more");
}

#[test]
fn the_other_direction_and_its_control_frames_go_on_while_one_is_delayed() {
    let mut driver = Driver::new(limited(delay(1, 1)));
    let two = [text(Side::Client, "a"), text(Side::Client, "b")].concat();
    driver.feed(at(0), Side::Client, &[&two[..], &frame(Side::Client, true, Opcode::Pong, b"x")].concat());
    let from_server = [text(Side::Server, "c"), frame(Side::Server, true, Opcode::Ping, b"x"), text(Side::Server, "d")];
    for bytes in &from_server {
        driver.feed(at(0), Side::Server, bytes);
    }
    assert_eq!(driver.out[0], from_server.concat());
    assert_eq!(driver.log.controls, [(Side::Server, Opcode::Ping)], "the Pong waits in line");
    driver.tick(at(1));
    assert_eq!(driver.log.controls.len(), 2);
    assert!(driver.out[1].starts_with(&two));
}

#[test]
fn a_message_of_any_size_passes_at_the_rate_of_bytes() {
    let bytes = RateLimit::new(None, Some(TokenRate::new(100_000, 10_000)), Exceeding::Delay);
    let mut driver = Driver::new(limited(bytes));
    let large = frame(Side::Client, true, Opcode::Binary, &[7; 200_000]);
    driver.feed(at(0), Side::Client, &large);
    assert_eq!(driver.out[1].len(), 10_000);
    let mut now = 0;
    while driver.out[1].len() < large.len() {
        now += 5;
        driver.tick(millis(now));
        assert!(driver.out[1].len() as u64 <= 10_000 + now * 100);
    }
    assert_eq!(driver.out[1], large);
    assert!((1900..=1930).contains(&now), "190,000 bytes at 100,000 a second, and not {now} ms");
    assert!(driver.log.delays[0] <= 2 * 50, "{} wake-ups", driver.log.delays[0]);
}

#[test]
fn a_rate_of_bytes_holds_for_a_blind_pipe_too() {
    let rate = Some(TokenRate::new(2000, 2000));
    for then in [Exceeding::Delay, Exceeding::Close] {
        let settings = TunnelSettings { validation: Validation::Off, ..limited(RateLimit::new(None, rate, then)) };
        let mut driver = Driver::new(settings);
        driver.feed(at(0), Side::Client, &[0xff; 3000]);
        assert_eq!(driver.out[1].len(), 2000);
        driver.tick(at(1));
        match then {
            Exceeding::Delay => assert_eq!((driver.out[1].len(), driver.tunnel.end()), (3000, None)),
            Exceeding::Close => {
                assert_eq!(driver.tunnel.end(), Some(&End::RateExceeded(Side::Client)));
                assert!(driver.tunnel.poll_shutdown(Side::Client) && driver.tunnel.poll_shutdown(Side::Server));
            }
        }
    }
}

#[test]
fn one_message_too_many_closes_where_that_is_wanted() {
    let mut driver = Driver::new(limited(close(10, 3)));
    for n in 0..3 {
        driver.feed(at(0), Side::Client, &text(Side::Client, &n.to_string()));
    }
    // A tenth of a second later there is room for one, though not for two.
    let two = [text(Side::Client, "3"), text(Side::Client, "4")].concat();
    driver.feed(millis(100), Side::Client, &two);
    assert_eq!(driver.tunnel.end(), Some(&End::RateExceeded(Side::Client)));
    assert_eq!((driver.close_to(Side::Client), driver.close_to(Side::Server)), (Some(1008), Some(1001)));
    assert_eq!(driver.log.messages.len(), 4);
    // What it still sends is read, dropped, and its Close is found.
    driver.feed(millis(100), Side::Client, &two.repeat(100));
    driver.feed(millis(100), Side::Client, &close_frame(Side::Client, 1008, ""));
    assert!(driver.tunnel.poll_shutdown(Side::Client));
    assert_eq!(driver.log.messages.len(), 4);
}

#[test]
fn fragments_of_one_message_are_one_message_and_control_frames_are_none() {
    let mut driver = Driver::new(limited(close(1, 2)));
    for _ in 0..2 {
        let first = frame(Side::Client, false, Opcode::Text, b"a");
        let more = frame(Side::Client, false, Opcode::Continuation, b"b").repeat(50);
        let ping = frame(Side::Client, true, Opcode::Ping, b"").repeat(50);
        let last = frame(Side::Client, true, Opcode::Continuation, b"c");
        driver.feed(at(0), Side::Client, &[first, more, ping, last].concat());
    }
    assert_eq!((driver.tunnel.end(), driver.log.messages.len()), (None, 2));
    driver.feed(at(0), Side::Client, &frame(Side::Client, false, Opcode::Text, b"a"));
    assert_eq!(driver.tunnel.end(), Some(&End::RateExceeded(Side::Client)));
}

#[test]
fn a_frame_above_the_burst_is_refused_by_its_header_and_one_that_fits_is_not() {
    let rate = RateLimit::new(None, Some(TokenRate::new(1024, 2000)), Exceeding::Close);
    for (payload, fits) in [(2000 - 8, true), (2000 - 7, false)] {
        let mut driver = Driver::new(limited(rate));
        driver.feed(at(0), Side::Client, &frame(Side::Client, true, Opcode::Binary, &vec![1; payload])[..100]);
        assert_eq!(driver.tunnel.end().is_none(), fits, "{payload}");
        assert_eq!(driver.out[1].len(), if fits { 100 } else { 8 }, "a Close in place of it");
    }
}

/// The client's `frame` passes as often as that, and once more it ends the session.
fn assert_takes_no_more_than(count: usize, frame: &[u8], driver: &mut Driver, now: MonotonicTime, end: &End) {
    driver.feed(now, Side::Client, &frame.repeat(count));
    assert_eq!(driver.tunnel.end(), None);
    driver.feed(now, Side::Client, frame);
    assert_eq!(driver.tunnel.end(), Some(end));
}

#[test]
fn compressed_messages_count_as_they_are_on_the_wire() {
    let tunnel = Tunnel::new(Arc::new(limited(close(1, 2))), Rsv::Deflate, KEYS, at(0));
    let mut driver = Driver { tunnel, ..Driver::new(settings()) };
    let mut compressed = text(Side::Client, "deflated");
    compressed[0] |= 0x40;
    assert_takes_no_more_than(2, &compressed, &mut driver, at(0), &End::RateExceeded(Side::Client));
}

// ---- timers

#[test]
fn a_delayed_session_is_neither_idle_nor_dead() {
    let settings = TunnelSettings {
        idle: Some(Duration::from_millis(300)),
        ping: Some(Duration::from_millis(200)),
        pong: Duration::from_millis(100),
        ..limited(delay(1, 1))
    };
    let mut driver = Driver::new(settings);
    driver.feed(at(0), Side::Client, &text(Side::Client, "x").repeat(10));
    // The client's Pong is behind what it has sent. The server answers.
    for now in (50..8900).step_by(50) {
        driver.tick(millis(now));
        assert_eq!(driver.tunnel.end(), None, "at {now} ms");
        let pings = driver.frames(Side::Server).iter().filter(|(opcode, _)| *opcode == Opcode::Ping).count() as u32;
        if pings > 0 {
            let pong = frame(Side::Server, true, Opcode::Pong, &ping_payload(KEYS[1], pings));
            driver.feed(millis(now), Side::Server, &pong);
        }
    }
    assert!(!driver.frames(Side::Client).iter().any(|(opcode, _)| *opcode == Opcode::Ping), "it is not in doubt");
    // The last of them passes, and from then on it is judged as any other.
    driver.tick(at(9));
    assert_eq!(driver.log.messages.len(), 10);
    driver.tick(millis(9299));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(millis(9300));
    assert_eq!(driver.tunnel.end(), Some(&End::Idle));
}

#[test]
fn a_lifetime_ends_a_delayed_session_all_the_same() {
    let mut driver = Driver::new(TunnelSettings { lifetime: Some(Duration::from_secs(3)), ..limited(delay(1, 1)) });
    driver.feed(at(0), Side::Client, &text(Side::Client, "x").repeat(10));
    driver.tick(at(2));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(3));
    assert_eq!(driver.tunnel.end(), Some(&End::Lifetime));
    assert_eq!((driver.close_to(Side::Client), driver.close_to(Side::Server)), (Some(1012), Some(1001)));
    // Nothing of it is passed on any more, so nothing is delayed either: its Close is found at once.
    driver.feed(at(3), Side::Client, &close_frame(Side::Client, 1012, ""));
    assert!(driver.tunnel.poll_shutdown(Side::Client));
}

#[test]
fn a_stop_does_not_take_a_delay_for_a_pause() {
    let mut driver = Driver::new(limited(delay(1, 1)));
    driver.feed(at(0), Side::Client, &text(Side::Client, "x").repeat(3));
    driver.tunnel.stop(millis(500), None);
    driver.tick(millis(999));
    assert_eq!(driver.tunnel.end(), None, "two more are to come");
    driver.tick(at(1));
    driver.tick(at(2));
    assert_eq!((driver.tunnel.end(), driver.log.messages.len()), (None, 3));
    driver.tick(millis(2200));
    assert_eq!(driver.tunnel.end(), Some(&End::Stopped), "now there is a pause");
    // One that has more to send than can pass in that time is ended all the same.
    let mut driver = Driver::new(limited(delay(1, 1)));
    driver.feed(at(0), Side::Client, &text(Side::Client, "x").repeat(30));
    driver.tunnel.stop(millis(500), None);
    driver.tick(millis(3499));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(millis(3500));
    assert_eq!(driver.tunnel.end(), Some(&End::Stopped));
}

#[test]
fn a_clock_that_stood_still_gives_no_more_than_the_burst() {
    let mut driver = Driver::new(limited(delay(10, 3)));
    driver.feed(at(0), Side::Client, &text(Side::Client, "x").repeat(20));
    // The process was suspended for an hour; then the timer fires.
    driver.tick(at(3600));
    assert_eq!(driver.log.messages.len(), 6);
    // A coarse reading after an exact one is a little earlier.
    driver.feed(millis(3_599_998), Side::Client, &[]);
    assert_eq!((driver.log.messages.len(), driver.tunnel.end()), (6, None));
    driver.tick(at(3601));
    assert_eq!(driver.log.messages.len(), 9);
}

// ---- the end

#[test]
fn the_close_of_a_delayed_peer_waits_in_line_and_is_answered() {
    let mut driver = Driver::new(limited(delay(1, 1)));
    let bye = close_frame(Side::Client, 1000, "bye");
    driver.feed(at(0), Side::Client, &[text(Side::Client, "x").repeat(3), bye.clone()].concat());
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(1));
    driver.tick(at(2));
    assert!(matches!(driver.tunnel.end(), Some(End::Closed { by: Side::Client, .. })));
    assert!(driver.out[1].ends_with(&bye));
    driver.feed(at(2), Side::Server, &close_frame(Side::Server, 1000, ""));
    assert_eq!(driver.close_to(Side::Client), Some(1000));
}

#[test]
fn a_server_that_closes_gets_its_answer_though_the_client_is_delayed() {
    let mut driver = Driver::new(limited(delay(1, 1)));
    driver.feed(at(0), Side::Client, &text(Side::Client, "x").repeat(4));
    driver.feed(at(0), Side::Server, &close_frame(Side::Server, 1001, "away"));
    assert_eq!(driver.close_to(Side::Client), Some(1001), "at once");
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 1001, ""));
    for second in 1..=3 {
        driver.tick(at(second));
        assert!(!driver.tunnel.gave_up());
    }
    assert_eq!((driver.close_to(Side::Server), driver.log.messages.len()), (Some(1001), 4));
    // With more in line than can pass in time, we answer in the client's place.
    let mut driver = Driver::new(limited(delay(1, 1)));
    driver.feed(at(0), Side::Client, &text(Side::Client, "x").repeat(400));
    driver.feed(at(0), Side::Server, &close_frame(Side::Server, 1001, "away"));
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 1001, ""));
    for second in 1..=ANSWER_WAIT_MAX.as_secs() {
        driver.tick(at(second));
    }
    assert_eq!(driver.close_to(Side::Server), Some(1001));
    assert!(driver.tunnel.poll_shutdown(Side::Client), "and its Close is found behind what is dropped");
}

#[test]
fn a_delayed_peer_that_cannot_be_written_to_any_more_is_let_go() {
    let mut driver = Driver::new(limited(delay(1, 1)));
    driver.feed(at(0), Side::Client, &text(Side::Client, "x").repeat(400));
    driver.tunnel.handle_broken(at(0), Side::Client);
    driver.feed(at(0), Side::Client, &[]);
    assert_eq!(driver.log.messages.len(), 1);
    driver.eof(at(0), Side::Client);
    assert_eq!((driver.tunnel.end(), driver.close_to(Side::Server)), (Some(&End::Lost(Side::Client)), Some(1001)));
}

// ---- control frames and fragments

#[test]
fn a_flood_of_control_frames_ends_the_session_and_what_keeps_it_alive_does_not() {
    for opcode in [Opcode::Ping, Opcode::Pong] {
        for payload in [&b""[..], b"12 bytes lng"] {
            let settings = TunnelSettings { control_per_second: Some(100), ..settings() };
            let mut driver = Driver::new(settings);
            let one = frame(Side::Server, true, opcode, payload);
            // As much as it may, each second.
            for second in 0..5 {
                driver.feed(at(second), Side::Server, &one.repeat(100));
            }
            assert_eq!((driver.tunnel.end(), driver.log.controls.len()), (None, 500));
            driver.feed(millis(4999), Side::Server, &one);
            assert_eq!(driver.tunnel.end(), Some(&End::TooManyControls(Side::Server)));
            assert_eq!((driver.close_to(Side::Client), driver.log.controls.len()), (Some(1008), 500));
        }
    }
}

#[test]
fn answers_to_a_ping_of_ours_count_too_however_often_it_is_answered() {
    let ping = Some(Duration::from_secs(30));
    let mut driver = Driver::new(TunnelSettings { control_per_second: Some(50), ping, ..settings() });
    driver.tick(at(30));
    let pong = frame(Side::Client, true, Opcode::Pong, &ping_payload(KEYS[0], 1));
    assert_takes_no_more_than(50, &pong, &mut driver, at(31), &End::TooManyControls(Side::Client));
}

#[test]
fn the_sides_are_counted_apart() {
    let settings = TunnelSettings { control_per_second: Some(10), rates: [Some(close(1, 2)); 2], ..settings() };
    let mut driver = Driver::new(settings);
    for from in Side::BOTH {
        driver.feed(at(0), from, &frame(from, true, Opcode::Ping, b"").repeat(10));
        driver.feed(at(0), from, &text(from, "x").repeat(2));
    }
    assert_eq!(driver.tunnel.end(), None);
    driver.feed(at(0), Side::Server, &text(Side::Server, "x"));
    assert_eq!(driver.tunnel.end(), Some(&End::RateExceeded(Side::Server)));
}

#[test]
fn a_message_of_a_million_empty_frames_is_refused_after_as_many_as_may_be() {
    let mut driver = Driver::new(TunnelSettings { fragments_max: 1000, ..settings() });
    driver.feed(at(0), Side::Client, &frame(Side::Client, false, Opcode::Binary, b""));
    let empty = frame(Side::Client, false, Opcode::Continuation, b"");
    driver.feed(at(0), Side::Client, &empty.repeat(1_000_000));
    assert_eq!(driver.tunnel.end(), Some(&End::TooManyFragments(Side::Client)));
    assert_eq!((driver.close_to(Side::Client), driver.close_to(Side::Server)), (Some(1008), Some(1001)));
    assert_eq!(driver.frames(Side::Server).len(), 1001);
}

#[test]
fn a_session_without_rates_is_no_larger_for_them() {
    assert_eq!(size_of::<Tunnel>(), 192);
    assert!(Driver::new(settings()).tunnel.rare.is_none());
}

// ---- properties

/// Returns true if some span of what passed, as `(millisecond, count)`, has more than its share.
fn excess(passed: &[(u64, u64)], rate: TokenRate) -> bool {
    passed.iter().enumerate().any(|(from, (begin, _))| {
        let mut sum = 0;
        passed[from..].iter().any(|(end, count)| {
            sum += count;
            sum * 1000 > rate.burst() * 1000 + rate.per_second() * (end - begin)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is sent, and however it comes: it arrives unchanged and in order, in no span more than may be, and given
    /// time all of it.
    #[test]
    fn delay_loses_and_reorders_nothing_and_no_span_has_more_than_its_share(
        from in side(),
        pieces in prop::collection::vec(legal_piece(), 1..8),
        seed: u64,
        messages in prop::option::of((1_u64..200, 1_u64..50)),
        bytes in prop::option::of((1024_u64..500_000, 1_u64..100_000)),
        gaps in prop::collection::vec(0_u64..400, 1..20),
        restores: bool,
    ) {
        let rate = |(per_second, burst)| TokenRate::new(per_second, burst);
        let limit = RateLimit::new(messages.map(rate), bytes.map(rate), Exceeding::Delay);
        let mut rates = [None; 2];
        rates[from as usize] = Some(limit);
        let mut driver = Driver::new(TunnelSettings { rates, ..settings() });
        let wire = encode(from, &pieces);
        let to = from.other() as usize;
        let (mut now, mut began, mut left) = (0, vec![], vec![]);
        let (mut begins_before, mut bytes_before) = (0, 0);
        let mut note = |driver: &Driver, now| {
            let out = &driver.out[to];
            prop_assert!(wire.starts_with(out), "changed or out of order");
            // Headers leave whole, so a strict reader sees each message that has begun.
            let begins = driver.frames(from.other()).iter().filter(|(opcode, _)| {
                matches!(opcode, Opcode::Text | Opcode::Binary)
            }).count() as u64;
            began.push((now, begins - begins_before));
            left.push((now, (out.len() - bytes_before) as u64));
            (begins_before, bytes_before) = (begins, out.len());
            Ok(())
        };
        for (index, chunk) in chunks(&wire, seed).into_iter().enumerate() {
            driver.feed(millis(now), from, chunk);
            if index < 200 {
                note(&driver, now)?;
                now += gaps[index % gaps.len()];
                driver.tick(millis(now));
                note(&driver, now)?;
            }
            if restores {
                driver.tunnel = restored(&driver.tunnel);
            }
        }
        // Woken as the timer says.
        for _ in 0..100_000 {
            let Some(due) = driver.tunnel.poll_timeout() else { break };
            now = due.since(at(0)).as_micros().div_ceil(1000) as u64;
            driver.tick(millis(now));
            note(&driver, now)?;
        }
        prop_assert_eq!(&driver.out[to], &wire, "all of it");
        if let Some(messages) = messages {
            prop_assert!(!excess(&began, rate(messages)));
        }
        if let Some((per_second, burst)) = bytes {
            prop_assert!(!excess(&left, TokenRate::new(per_second, burst.max(BURST_BYTES_MIN))));
        }
    }

    /// What passes before it closes is what came, in whole frames, and no span has more than its share.
    #[test]
    fn close_passes_what_may_be_and_ends_at_the_first_that_may_not(
        from in side(),
        pieces in prop::collection::vec(legal_piece(), 1..8),
        seed: u64,
        messages in prop::option::of((1_u64..200, 1_u64..50)),
        bytes in prop::option::of((1024_u64..500_000, 1_u64..100_000)),
        gaps in prop::collection::vec(0_u64..400, 1..20),
    ) {
        let rate = |(per_second, burst)| TokenRate::new(per_second, burst);
        let limit = RateLimit::new(messages.map(rate), bytes.map(rate), Exceeding::Close);
        let mut rates = [None; 2];
        rates[from as usize] = Some(limit);
        let mut driver = Driver::new(TunnelSettings { rates, ..settings() });
        let wire = encode(from, &pieces);
        let (mut now, mut began, mut begins_before) = (0, vec![], 0);
        for (index, chunk) in chunks(&wire, seed).into_iter().enumerate() {
            driver.feed(millis(now), from, chunk);
            let begins = driver.frames(from.other()).iter().filter(|(opcode, _)| {
                matches!(opcode, Opcode::Text | Opcode::Binary)
            }).count() as u64;
            began.push((now, begins - begins_before));
            begins_before = begins;
            now += if index < 200 { gaps[index % gaps.len()] } else { 0 };
        }
        let out = &driver.out[from.other() as usize];
        match driver.tunnel.end() {
            None => prop_assert_eq!(out, &wire),
            Some(end) => {
                prop_assert_eq!(end, &End::RateExceeded(from));
                let (code, mask) = if from == Side::Client { (1001_u16, Some(MASK)) } else { (1008, None) };
                let close = ControlFrame::new(Opcode::Close, &code.to_be_bytes(), mask);
                let passed = out.strip_suffix(close.as_bytes());
                prop_assert!(passed.is_some_and(|passed| wire.starts_with(passed)), "a Close between two frames");
            }
        }
        if let Some(messages) = messages {
            prop_assert!(!excess(&began, rate(messages)));
        }
    }
}
