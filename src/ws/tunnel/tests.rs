//! The tunnel under a virtual clock: examples for each end, and properties over random traffic, cuts and pauses.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;

use super::*;
use crate::ws::close::{Close, CloseCode};
use crate::ws::frame::{FrameHeader, HEADER_BYTES_MAX, apply_mask};
use crate::ws::scanner::{EndedMessage, Violation};

mod ends;
mod lenient;
mod liveness;
mod rates;

const KEYS: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const MASK: [u8; 4] = [9, 8, 7, 6];

fn settings() -> TunnelSettings {
    TunnelSettings { validation: Validation::Lenient, pong: Duration::from_secs(10), ..TunnelSettings::UNLIMITED }
}

fn at(seconds: u64) -> MonotonicTime {
    MonotonicTime::from_micros(1_000_000_000) + Duration::from_secs(seconds)
}

/// A frame on the wire, masked if it is from the client.
fn frame(from: Side, fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mask = (from == Side::Client).then_some([1, 2, 3, 4]);
    let mut header = [0; HEADER_BYTES_MAX];
    let length =
        FrameHeader { fin, rsv: 0, opcode, mask, payload: payload.len() as u64, shortest: true }.encode(&mut header);
    let mut bytes = header[..length].to_vec();
    bytes.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(key, &mut bytes[length..]);
    }
    bytes
}

/// A frame of `from` that is masked as the other side's are.
fn foreign(from: Side, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    frame(from.other(), true, opcode, payload)
}

/// A frame whose length is written in eight bytes, however short it is.
fn long(from: Side, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let short = frame(from, true, opcode, payload);
    let (_, header) = FrameHeader::parse(&short).unwrap().unwrap();
    let mask = if from == Side::Client { 4 } else { 0 };
    let length = (payload.len() as u64).to_be_bytes();
    [&[short[0], short[1] & 0x80 | 127][..], &length, &short[header - mask..]].concat()
}

fn close_frame(from: Side, code: u16, reason: &str) -> Vec<u8> {
    frame(from, true, Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// Records what the observer hears.
#[derive(Clone, Debug, Default, PartialEq)]
struct Log {
    bytes: [usize; 2],
    messages: Vec<(Side, Opcode, u64)>,
    controls: Vec<(Side, Opcode)>,
    tolerated: Vec<(Side, Violation)>,
    round_trips: Vec<(Side, Duration)>,
    delays: [usize; 2],
}

impl Observer for Log {
    fn bytes(&mut self, from: Side, bytes: usize) {
        self.bytes[from as usize] += bytes;
    }
    fn message(&mut self, from: Side, message: EndedMessage, count: u32) {
        self.messages.extend((0..count).map(|_| (from, message.opcode, message.bytes)));
    }
    fn control(&mut self, from: Side, opcode: Opcode, count: u32) {
        self.controls.extend((0..count).map(|_| (from, opcode)));
    }
    fn delayed(&mut self, from: Side) {
        self.delays[from as usize] += 1;
    }
    fn tolerated(&mut self, from: Side, violation: Violation) {
        self.tolerated.push((from, violation));
    }
    fn pinged(&mut self, _: Side) {}
    fn round_trip(&mut self, peer: Side, time: Duration) {
        self.round_trips.push((peer, time));
    }
}

/// The least driver: what a relay does, without sockets.
#[derive(Clone)]
struct Driver {
    tunnel: Tunnel,
    /// What is not taken yet. What comes from a delayed peer meanwhile stands here too, as it would in its socket.
    carry: [Vec<u8>; 2],
    /// What went to each side.
    out: [Vec<u8>; 2],
    log: Log,
    /// A client whose server is lost gets no Close.
    cuts_lost: bool,
}

impl Driver {
    fn new(settings: TunnelSettings) -> Driver {
        let tunnel = Tunnel::new(Arc::new(settings), Rsv::None, KEYS, at(0));
        Driver { tunnel, carry: Default::default(), out: Default::default(), log: Log::default(), cuts_lost: false }
    }

    fn feed(&mut self, now: MonotonicTime, from: Side, bytes: &[u8]) {
        let to = from.other() as usize;
        let mut buffer = std::mem::take(&mut self.carry[from as usize]);
        buffer.extend_from_slice(bytes);
        let mut at = 0;
        let mut is_delayed = self.tunnel.is_delayed(now, from);
        while at < buffer.len() && !is_delayed {
            match self.tunnel.handle_bytes(now, from, &buffer[at..], &mut self.log) {
                TunnelStep::Forward(n) => {
                    assert!(n > 0, "no progress");
                    self.out[to].extend_from_slice(&buffer[at..at + n]);
                    at += n;
                    self.settle(now);
                }
                TunnelStep::Remask(n) => {
                    let mask = (from == Side::Client).then_some(MASK);
                    let frame = ControlFrame::masked_anew(&buffer[at..at + n], mask);
                    self.out[to].extend_from_slice(frame.as_bytes());
                    at += n;
                    self.settle(now);
                }
                TunnelStep::Drop(n) => {
                    assert!(n > 0, "no progress");
                    at += n;
                    self.settle(now);
                }
                TunnelStep::NeedMore => break,
                TunnelStep::Wait => {
                    is_delayed = self.tunnel.is_delayed(now, from);
                    assert!(is_delayed, "it would be asked again and again");
                }
            }
        }
        let rest = &buffer[at..];
        assert!(is_delayed || rest.len() <= crate::ws::frame::FOREIGN_CONTROL_BYTES_MAX, "held back {}", rest.len());
        self.carry[from as usize] = rest.to_vec();
        self.settle(now);
    }

    fn eof(&mut self, now: MonotonicTime, side: Side) {
        self.tunnel.handle_eof(now, side);
        self.settle(now);
    }

    fn tick(&mut self, now: MonotonicTime) {
        // As a real timer: handled when due, and asked again.
        for _ in 0..100 {
            match self.tunnel.poll_timeout() {
                Some(due) if due <= now => self.tunnel.handle_timeout(now),
                _ => break,
            }
            self.settle(now);
            for from in Side::BOTH {
                self.feed(now, from, &[]);
            }
        }
        assert!(self.tunnel.poll_timeout().is_none_or(|due| due > now), "a timer that never moves");
    }

    fn settle(&mut self, now: MonotonicTime) {
        if let Some(end) = self.tunnel.poll_end().cloned() {
            let (client, server) = codes(&end);
            let farewell = |close: Option<Close>| close.map_or(Farewell::Nothing, Farewell::Close);
            let client =
                if self.cuts_lost && end == End::Lost(Side::Server) { Farewell::Cut } else { farewell(client) };
            self.tunnel.close(now, Side::Client, client);
            self.tunnel.close(now, Side::Server, farewell(server));
        }
        for side in Side::BOTH {
            while let Some(control) = self.tunnel.poll_inject(now, side, MASK, &mut self.log) {
                self.out[side as usize].extend_from_slice(control.as_bytes());
            }
        }
    }

    /// The frames that went to `side`, by a strict reader; panics on anything illegal but a cut at the very end.
    fn frames(&self, side: Side) -> Vec<(Opcode, Vec<u8>)> {
        let mut rest = &self.out[side as usize][..];
        let mut frames = vec![];
        while !rest.is_empty() {
            let Some((header, length)) = FrameHeader::parse(rest).unwrap() else { panic!("a cut header left") };
            assert_eq!(header.mask.is_some(), side == Side::Server, "masking");
            assert!(frames.last().is_none_or(|(last, _)| *last != Opcode::Close), "something after Close");
            let end = length + header.payload as usize;
            let mut payload = rest[length..end.min(rest.len())].to_vec();
            if let Some(key) = header.mask {
                apply_mask(key, &mut payload);
            }
            frames.push((header.opcode, payload));
            rest = &rest[end.min(rest.len())..];
        }
        frames
    }

    fn close_to(&self, side: Side) -> Option<u16> {
        let (opcode, payload) = self.frames(side).pop()?;
        (opcode == Opcode::Close).then(|| u16::from_be_bytes([payload[0], payload[1]]))
    }
}

fn codes(end: &End) -> (Option<Close>, Option<Close>) {
    let away = || Some(Close::new(CloseCode::GOING_AWAY, ""));
    match end {
        End::Closed { .. } | End::Finished(_) => (None, None),
        End::Lost(Side::Client) | End::Dead(Side::Client) => (None, away()),
        End::Lost(Side::Server) => (Some(Close::new(CloseCode::BAD_GATEWAY, "upstream lost")), None),
        End::Dead(Side::Server) => (away(), None),
        End::Expired => (Some(Close::new(CloseCode(4401), "")), away()),
        End::Stopped | End::Lifetime => (Some(Close::new(CloseCode::SERVICE_RESTART, "")), away()),
        End::Idle => (away(), away()),
        End::FrameTooLarge(_) | End::MessageTooLarge(_) => (Some(Close::new(CloseCode::MESSAGE_TOO_BIG, "")), away()),
        End::TooManyFragments(_) | End::TooManyControls(_) | End::RateExceeded(_) => {
            (Some(Close::new(CloseCode::POLICY_VIOLATION, "")), away())
        }
        End::Violation { .. } => (Some(Close::new(CloseCode::PROTOCOL_ERROR, "")), away()),
        End::Panicked => {
            (Some(Close::new(CloseCode::INTERNAL_ERROR, "")), Some(Close::new(CloseCode::INTERNAL_ERROR, "")))
        }
    }
}

#[test]
fn a_message_and_a_close_pass_untouched() {
    let mut driver = Driver::new(settings());
    let hello = frame(Side::Client, true, Opcode::Text, b"hello");
    driver.feed(at(0), Side::Client, &hello);
    let close = close_frame(Side::Server, 4001, "enough");
    driver.feed(at(1), Side::Server, &close);
    let echo = close_frame(Side::Client, 4001, "");
    driver.feed(at(1), Side::Client, &echo);
    assert_eq!(driver.out[1], [hello, echo].concat());
    assert_eq!(driver.out[0], close);
    assert!(
        matches!(driver.tunnel.end(), Some(End::Closed { by: Side::Server, body }) if body.code == Some(CloseCode(4001)))
    );
    assert_eq!(driver.log.messages, [(Side::Client, Opcode::Text, 5)]);
    assert!(driver.tunnel.poll_shutdown(Side::Client), "the proxy is the client's server and ends first");
    assert!(!driver.tunnel.poll_shutdown(Side::Server), "the server is to end first");
    driver.eof(at(1), Side::Server);
    driver.eof(at(1), Side::Client);
    assert!(driver.tunnel.is_finished());
}

#[test]
fn a_lost_upstream_is_1014_for_the_client_and_its_bytes_come_first() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Server, &frame(Side::Server, true, Opcode::Text, b"last words"));
    driver.eof(at(0), Side::Server);
    let frames = driver.frames(Side::Client);
    assert_eq!(frames[0].1, b"last words");
    assert_eq!(driver.close_to(Side::Client), Some(1014));
    driver.feed(at(1), Side::Client, &close_frame(Side::Client, 1014, ""));
    assert!(driver.out[1].is_empty(), "the echo is ours");
    assert!(driver.tunnel.poll_shutdown(Side::Client));
}

#[test]
fn a_lost_client_is_1001_for_the_server_and_the_answer_still_comes() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Client, &frame(Side::Client, true, Opcode::Text, b"last question"));
    driver.eof(at(0), Side::Client);
    assert_eq!(driver.close_to(Side::Server), Some(1001));
    driver.feed(at(1), Side::Server, &frame(Side::Server, true, Opcode::Text, b"answer"));
    driver.feed(at(1), Side::Server, &close_frame(Side::Server, 1001, ""));
    assert_eq!(driver.frames(Side::Client)[0].1, b"answer");
    driver.eof(at(1), Side::Server);
    assert!(driver.tunnel.is_finished());
}

#[test]
fn an_end_inside_a_frame_can_not_be_a_close() {
    let mut driver = Driver::new(settings());
    let half = &frame(Side::Server, true, Opcode::Binary, &[7; 100])[..50];
    driver.feed(at(0), Side::Server, half);
    driver.eof(at(0), Side::Server);
    assert_eq!(driver.out[0], half);
    assert!(driver.tunnel.poll_shutdown(Side::Client), "its stream ends");
}

#[test]
fn a_held_back_piece_of_header_at_the_end_does_not_prevent_the_close() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Server, &[0x82, 126]);
    driver.eof(at(0), Side::Server);
    assert_eq!(driver.close_to(Side::Client), Some(1014));
}

#[test]
fn pings_do_not_keep_a_session_from_being_idle_and_data_does() {
    let mut driver = Driver::new(TunnelSettings { idle: Some(Duration::from_secs(60)), ..settings() });
    driver.feed(at(50), Side::Server, &frame(Side::Server, true, Opcode::Text, b"x"));
    for second in (55..110).step_by(5) {
        driver.feed(at(second), Side::Client, &frame(Side::Client, true, Opcode::Ping, b""));
        driver.feed(at(second), Side::Server, &frame(Side::Server, true, Opcode::Pong, b""));
        driver.tick(at(second));
    }
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(110));
    assert_eq!(driver.tunnel.end(), Some(&End::Idle));
    assert_eq!((driver.close_to(Side::Client), driver.close_to(Side::Server)), (Some(1001), Some(1001)));
}

#[test]
fn our_ping_waits_for_the_end_of_the_frame_and_its_pong_is_swallowed() {
    let mut driver = Driver::new(TunnelSettings { ping: Some(Duration::from_secs(30)), ..settings() });
    let long = frame(Side::Server, true, Opcode::Binary, &[1; 1000]);
    driver.feed(at(29), Side::Server, &long[..500]);
    driver.tick(at(30));
    assert_eq!(driver.out[0], long[..500], "no Ping inside the frame");
    driver.feed(at(31), Side::Server, &[&long[500..], &long[..10]].concat());
    let frames = driver.frames(Side::Client);
    assert_eq!(frames.iter().map(|f| f.0).collect::<Vec<_>>(), [Opcode::Binary, Opcode::Ping, Opcode::Binary]);
    let pong = frame(Side::Client, true, Opcode::Pong, &frames[1].1);
    driver.feed(at(33), Side::Client, &pong);
    driver.feed(at(33), Side::Client, &pong);
    assert!(driver.out[1].is_empty());
    assert_eq!(driver.log.round_trips[0], (Side::Client, Duration::from_secs(2)));
    // A Pong that is not ours is the peers' affair.
    driver.feed(at(34), Side::Client, &frame(Side::Client, true, Opcode::Pong, &[0; 12]));
    assert_eq!(driver.frames(Side::Server).len(), 1);
}

#[test]
fn a_silent_peer_is_dead_after_ping_and_pong_and_the_other_hears_of_it() {
    let mut driver = Driver::new(TunnelSettings { ping: Some(Duration::from_secs(30)), ..settings() });
    for second in 1..=39 {
        driver.feed(at(second), Side::Server, &frame(Side::Server, true, Opcode::Pong, b""));
        driver.tick(at(second));
    }
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(40));
    assert_eq!(driver.tunnel.end(), Some(&End::Dead(Side::Client)));
    assert_eq!(driver.close_to(Side::Server), Some(1001));
    driver.eof(at(40), Side::Server);
    assert!(driver.tunnel.is_finished());
}

#[test]
fn while_a_peer_owes_a_pong_to_the_other_it_gets_no_ping_from_us() {
    let mut driver = Driver::new(TunnelSettings { ping: Some(Duration::from_secs(30)), ..settings() });
    driver.feed(at(1), Side::Server, &frame(Side::Server, true, Opcode::Ping, b"theirs"));
    driver.feed(at(20), Side::Server, &frame(Side::Server, true, Opcode::Text, b"x"));
    driver.tick(at(30));
    assert_eq!(driver.frames(Side::Client).iter().filter(|f| f.0 == Opcode::Ping).count(), 1);
    driver.feed(at(35), Side::Client, &frame(Side::Client, true, Opcode::Pong, b"theirs"));
    driver.tick(at(45));
    assert_eq!(driver.tunnel.end(), None, "their Pong counts for us too");
}

#[test]
fn a_peer_that_takes_nothing_and_says_nothing_is_dead() {
    let mut driver = Driver::new(TunnelSettings { ping: Some(Duration::from_secs(30)), ..settings() });
    let long = frame(Side::Server, true, Opcode::Binary, &[1; 1000]);
    driver.feed(at(0), Side::Server, &long[..500]);
    driver.tunnel.handle_blocked(Side::Client);
    driver.feed(at(29), Side::Server, &long[500..600]);
    driver.tick(at(30));
    driver.tick(at(39));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(40));
    assert_eq!(driver.tunnel.end(), Some(&End::Dead(Side::Client)));
}

#[test]
fn bytes_that_are_taken_at_once_are_no_sign_of_life() {
    let mut driver = Driver::new(TunnelSettings { ping: Some(Duration::from_secs(30)), ..settings() });
    driver.tick(at(30));
    assert_eq!(driver.frames(Side::Client).len(), 1, "our Ping");
    driver.tunnel.handle_progress(at(30), Side::Client, true);
    driver.feed(at(35), Side::Server, &frame(Side::Server, true, Opcode::Pong, b""));
    driver.tick(at(40));
    assert_eq!(driver.tunnel.end(), Some(&End::Dead(Side::Client)));
}

#[test]
fn a_slow_peer_that_goes_on_taking_bytes_is_waited_for_but_not_for_ever() {
    let mut driver = Driver::new(settings());
    driver.tunnel.handle_blocked(Side::Client);
    driver.feed(at(0), Side::Server, &frame(Side::Server, true, Opcode::Binary, &[1; 1000]));
    driver.eof(at(0), Side::Server);
    for second in (5..=70).step_by(5) {
        driver.tunnel.handle_progress(at(second), Side::Client, false);
        driver.tick(at(second));
        assert_eq!(driver.tunnel.is_finished(), second >= 60, "{second}");
    }
}

#[test]
fn a_message_one_byte_too_large_never_leaves_and_is_1009() {
    for (payload, ends) in [(10, false), (11, true)] {
        let mut driver = Driver::new(TunnelSettings { message_bytes_max: 10, ..settings() });
        let message = frame(Side::Client, true, Opcode::Binary, &vec![0; payload]);
        driver.feed(at(0), Side::Client, &message);
        assert_eq!(driver.tunnel.end().is_some(), ends);
        if ends {
            assert_eq!(driver.close_to(Side::Client), Some(1009));
            assert_eq!(driver.frames(Side::Server).len(), 1, "only our Close");
            // Its Close behind the refused message is found.
            driver.feed(at(0), Side::Client, &close_frame(Side::Client, 1009, ""));
            assert!(driver.tunnel.poll_shutdown(Side::Client));
        }
    }
}

#[test]
fn frames_before_a_violation_are_delivered_and_the_violation_is_not() {
    let mut driver = Driver::new(settings());
    let good = frame(Side::Client, true, Opcode::Text, b"good");
    driver.feed(at(0), Side::Client, &[&good[..], &[0x83, 0x80, 0, 0, 0, 0], &good[..]].concat());
    assert_eq!(driver.frames(Side::Server)[0].1, b"good");
    assert_eq!(driver.close_to(Side::Server), Some(1001));
    assert_eq!(driver.close_to(Side::Client), Some(1002));
    assert!(
        matches!(driver.tunnel.end(), Some(End::Violation { by: Side::Client, label }) if label == "reserved_opcode")
    );
}

#[test]
fn a_server_that_goes_without_answering_a_close_does_not_leave_the_client_with_1006() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 3001, "bye"));
    driver.eof(at(0), Side::Server);
    assert_eq!(driver.close_to(Side::Client), Some(3001));
    assert!(matches!(driver.tunnel.end(), Some(End::Closed { by: Side::Client, .. })));
}

#[test]
fn a_server_that_never_answers_a_close_is_given_up() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 1000, ""));
    driver.tick(at(29));
    assert!(!driver.tunnel.is_finished());
    driver.tick(at(30));
    assert_eq!(driver.close_to(Side::Client), Some(1000));
    driver.tick(at(33));
    assert!(driver.tunnel.is_finished());
}

#[test]
fn drain_and_lifetime_close_both_sides() {
    let mut driver = Driver::new(TunnelSettings { lifetime: Some(Duration::from_secs(100)), ..settings() });
    driver.tunnel.stop(at(50), None);
    driver.tick(at(49));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(50));
    assert_eq!(driver.tunnel.end(), Some(&End::Stopped));
    assert_eq!((driver.close_to(Side::Client), driver.close_to(Side::Server)), (Some(1012), Some(1001)));
    let mut driver = Driver::new(TunnelSettings { lifetime: Some(Duration::from_secs(100)), ..settings() });
    driver.tick(at(100));
    assert_eq!(driver.tunnel.end(), Some(&End::Lifetime));
}

fn millis(after: MonotonicTime, millis: u64) -> MonotonicTime {
    after + Duration::from_millis(millis)
}

#[test]
fn a_stop_waits_for_a_pause_between_messages() {
    let mut driver = Driver::new(settings());
    driver.tunnel.stop(at(50), None);
    // A question just before the time, and its answer.
    driver.feed(millis(at(49), 950), Side::Client, &frame(Side::Client, true, Opcode::Text, b"question"));
    driver.tick(at(50));
    driver.feed(millis(at(50), 100), Side::Server, &frame(Side::Server, true, Opcode::Text, b"answer"));
    // Pings are no data.
    driver.feed(millis(at(50), 290), Side::Client, &frame(Side::Client, true, Opcode::Ping, b""));
    driver.tick(millis(at(50), 299));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(millis(at(50), 300));
    assert_eq!(driver.tunnel.end(), Some(&End::Stopped));
    assert_eq!((driver.close_to(Side::Client), driver.close_to(Side::Server)), (Some(1012), Some(1001)));
}

#[test]
fn a_stop_lets_a_fragmented_message_end_and_the_timer_hears_of_it() {
    for (from, half) in [(Side::Client, 1), (Side::Server, 2)] {
        let mut driver = Driver::new(settings());
        let first = frame(from, false, Opcode::Binary, &[7; 100]);
        let last = frame(from, true, Opcode::Continuation, &[8; 100]);
        let wire = [&first[..], &last].concat();
        // Once between the two frames, once inside the second.
        let cut = if half == 1 { first.len() } else { wire.len() - 10 };
        driver.feed(at(1), from, &wire[..cut]);
        driver.tunnel.stop(at(50), None);
        driver.tick(at(52));
        assert_eq!(driver.tunnel.end(), None, "silent for long, but inside a message");
        assert_eq!(driver.tunnel.poll_timeout(), Some(at(53)));
        driver.tunnel.timer_moved();
        driver.feed(at(52), from, &wire[cut..]);
        assert!(driver.tunnel.timer_moved(), "the deadline is nearer now");
        assert_eq!(driver.tunnel.poll_timeout(), Some(millis(at(52), 200)));
        driver.tick(millis(at(52), 200));
        let frames = driver.frames(from.other());
        let opcodes: Vec<_> = frames.iter().map(|frame| frame.0).collect();
        assert_eq!(opcodes, [Opcode::Binary, Opcode::Continuation, Opcode::Close]);
    }
}

#[test]
fn a_credential_ends_its_session_in_the_first_pause_after_its_time() {
    let mut driver = Driver::new(settings());
    driver.tunnel.expire(Some(at(50)));
    assert_eq!(driver.tunnel.poll_timeout(), Some(at(50)));
    driver.feed(millis(at(49), 950), Side::Client, &frame(Side::Client, true, Opcode::Text, b"question"));
    driver.tick(at(50));
    driver.feed(millis(at(50), 100), Side::Server, &frame(Side::Server, true, Opcode::Text, b"answer"));
    driver.tick(millis(at(50), 299));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(millis(at(50), 300));
    assert_eq!(driver.tunnel.end(), Some(&End::Expired));
    assert_eq!((driver.close_to(Side::Client), driver.close_to(Side::Server)), (Some(4401), Some(1001)));
}

#[test]
fn the_time_of_a_credential_can_be_moved_and_taken_away_and_a_message_may_end_but_not_last() {
    let mut driver = Driver::new(settings());
    for (expires, then) in [(at(5), Some(at(9))), (at(9), None)] {
        driver.tunnel.expire(Some(expires));
        driver.tunnel.expire(then);
        driver.tick(at(8));
        assert_eq!(driver.tunnel.end(), None);
    }
    driver.tick(at(15));
    assert_eq!((driver.tunnel.end(), &driver.tunnel.rare), (None, &None));
    let wire = frame(Side::Client, true, Opcode::Binary, &[7; 100]);
    driver.feed(at(15), Side::Client, &wire[..50]);
    driver.tunnel.expire(Some(at(16)));
    driver.tick(at(17));
    assert_eq!(driver.tunnel.end(), None, "inside a message");
    driver.tunnel.timer_moved();
    driver.feed(at(18), Side::Client, &wire[50..]);
    assert!(driver.tunnel.timer_moved(), "the deadline is nearer now");
    driver.feed(at(18), Side::Client, &wire[..50]);
    driver.tick(millis(at(18), 999));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(19));
    assert_eq!(driver.tunnel.end(), Some(&End::Expired));
}

#[test]
fn a_stop_comes_in_time_without_a_pause() {
    // (the stop, its bound, when it ends)
    for (by, ends) in [(None, 3000), (Some(at(51)), 1000), (Some(at(60)), 3000), (Some(at(49)), 0)] {
        let mut driver = Driver::new(settings());
        driver.tunnel.stop(at(50), by);
        let long = frame(Side::Server, true, Opcode::Binary, &[0; 60_000]);
        driver.feed(at(48), Side::Server, &long[..9]);
        for (i, byte) in long[9..].chunks(10).enumerate() {
            let now = millis(at(48), 10 * i as u64);
            driver.feed(now, Side::Server, byte);
            driver.tick(now);
            let began = driver.tunnel.end_began().map(|began| began.since(at(50)).as_millis() as u64);
            match by {
                Some(by) if by < at(50) => assert_eq!(began.is_some(), now >= by),
                _ => assert_eq!(began, (now >= millis(at(50), ends)).then_some(ends)),
            }
            if now > millis(at(50), ends) + BOUNDARY_WAIT / 2 {
                break;
            }
            // What is between is the frame's, and so is what comes after the stop.
            assert_eq!(driver.out[0].len(), (9 + 10 * (i + 1)).min(long.len()));
        }
    }
}

#[test]
fn a_second_stop_can_only_make_it_earlier() {
    let mut driver = Driver::new(settings());
    driver.tunnel.stop(at(50), None);
    driver.tunnel.stop(at(60), None);
    assert_eq!(driver.tunnel.poll_timeout(), Some(at(50)));
    driver.tunnel.stop(at(20), Some(at(100)));
    assert_eq!(driver.tunnel.poll_timeout(), Some(at(20)));
    // The bound of a later one holds as well.
    driver.feed(at(20), Side::Server, &frame(Side::Server, false, Opcode::Binary, b"x"));
    assert_eq!(driver.tunnel.poll_timeout(), Some(at(23)));
    driver.tunnel.stop(at(30), Some(at(22)));
    assert_eq!(driver.tunnel.poll_timeout(), Some(at(22)));
    driver.tunnel = restored(&driver.tunnel);
    driver.tick(at(22));
    assert_eq!(driver.tunnel.end(), Some(&End::Stopped));
}

#[test]
fn a_blind_pipe_is_stopped_in_a_pause_too() {
    let mut driver = Driver::new(TunnelSettings { validation: Validation::Off, ..settings() });
    driver.tunnel.stop(at(50), None);
    driver.feed(at(50), Side::Client, b"bytes");
    driver.tick(millis(at(50), 199));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(millis(at(50), 200));
    assert!(driver.tunnel.poll_shutdown(Side::Client) && driver.tunnel.poll_shutdown(Side::Server));
}

#[test]
fn a_session_that_the_proxy_failed_on_is_closed_with_1011_where_a_frame_ends() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Client, &frame(Side::Client, true, Opcode::Text, b"hello"));
    let half = &frame(Side::Client, true, Opcode::Text, b"never whole")[..9];
    driver.feed(at(0), Side::Client, half);
    driver.tunnel.abort(at(1));
    driver.settle(at(1));
    assert_eq!(driver.close_to(Side::Client), Some(1011));
    assert!(driver.out[1].ends_with(half) && driver.tunnel.poll_shutdown(Side::Server), "no Close inside the frame");
    // Nothing of what comes is looked at any more.
    driver.feed(at(2), Side::Client, &[0xff; 100]);
    driver.feed(at(2), Side::Server, &[0xff; 100]);
    assert_eq!(driver.tunnel.end(), Some(&End::Panicked));
    driver.tick(at(3));
    assert!(driver.tunnel.gave_up());

    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 1000, ""));
    driver.tunnel.abort(at(1));
    assert!(driver.tunnel.is_finished() && matches!(driver.tunnel.end(), Some(End::Closed { .. })));
}

#[test]
fn a_blind_pipe_passes_anything_and_half_closes() {
    let mut driver =
        Driver::new(TunnelSettings { validation: Validation::Off, idle: Some(Duration::from_secs(60)), ..settings() });
    driver.feed(at(0), Side::Client, b"no frame at all");
    driver.eof(at(1), Side::Client);
    assert!(driver.tunnel.poll_shutdown(Side::Server) && !driver.tunnel.poll_shutdown(Side::Client));
    driver.feed(at(2), Side::Server, b"answer");
    driver.eof(at(3), Side::Server);
    assert_eq!((&driver.out[0][..], &driver.out[1][..]), (&b"answer"[..], &b"no frame at all"[..]));
    assert!(driver.tunnel.is_finished());

    let mut driver =
        Driver::new(TunnelSettings { validation: Validation::Off, idle: Some(Duration::from_secs(60)), ..settings() });
    driver.tick(at(60));
    assert!(driver.tunnel.poll_shutdown(Side::Client) && driver.tunnel.poll_shutdown(Side::Server));
    driver.tick(at(63));
    assert!(driver.tunnel.is_finished() && driver.out[0].is_empty());
}

#[test]
fn a_blind_pipe_whose_client_has_ended_its_half_has_time_for_the_answer() {
    let mut driver = Driver::new(TunnelSettings { validation: Validation::Off, ..settings() });
    driver.eof(at(1), Side::Client);
    driver.tick(at(20));
    assert!(!driver.tunnel.is_finished());
    driver.feed(at(20), Side::Server, b"late answer");
    assert_eq!(driver.out[0], b"late answer");
}

#[test]
fn a_close_is_answered_though_the_answer_is_lost_behind_a_message_too_large() {
    let mut driver = Driver::new(TunnelSettings { message_bytes_max: 10, ..settings() });
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 3001, ""));
    driver.feed(at(1), Side::Server, &frame(Side::Server, true, Opcode::Text, &[b'x'; 11]));
    driver.feed(at(1), Side::Server, &close_frame(Side::Server, 3001, ""));
    assert_eq!(driver.frames(Side::Client).len(), 1);
    assert_eq!(driver.close_to(Side::Client), Some(3001));
}

#[test]
fn a_peer_that_cannot_be_written_to_and_says_nothing_is_dead() {
    let mut driver = Driver::new(TunnelSettings { ping: Some(Duration::from_secs(30)), ..settings() });
    driver.tunnel.handle_broken(at(0), Side::Client);
    for second in 1..=40 {
        driver.feed(at(second), Side::Server, &frame(Side::Server, true, Opcode::Text, b"x"));
        driver.tick(at(second));
    }
    assert_eq!(driver.tunnel.end(), Some(&End::Dead(Side::Client)));
    assert_eq!(driver.close_to(Side::Server), Some(1001));
}

#[test]
fn a_close_behind_bytes_that_a_slow_peer_takes_has_time_to_leave() {
    let blocked = || {
        let mut driver = Driver::new(settings());
        driver.feed(at(0), Side::Server, &frame(Side::Server, true, Opcode::Binary, &[1; 1000]));
        driver.tunnel.handle_blocked(Side::Client);
        driver
    };
    let lost = |driver: &mut Driver| driver.eof(at(0), Side::Server);
    let drained = |driver: &mut Driver| {
        driver.tunnel.stop(at(0), Some(at(0)));
        driver.tick(at(0));
    };
    let exchanged = |driver: &mut Driver| {
        driver.feed(at(0), Side::Client, &close_frame(Side::Client, 1000, ""));
        driver.feed(at(0), Side::Server, &close_frame(Side::Server, 1000, ""));
    };
    for end in [&lost as &dyn Fn(&mut Driver), &drained, &exchanged] {
        let mut driver = blocked();
        end(&mut driver);
        assert!(driver.close_to(Side::Client).is_some(), "it stands behind what waits");
        driver.tick(at(5));
        assert!(!driver.tunnel.gave_up(), "{:?}", driver.tunnel);
        driver.tunnel.handle_progress(at(6), Side::Client, false);
        driver.tick(at(7));
        assert!(!driver.tunnel.gave_up());
        // From here on the peer is only to answer.
        driver.tunnel.handle_progress(at(8), Side::Client, true);
        driver.tick(at(9));
        assert!(!driver.tunnel.gave_up());
        driver.tick(at(10));
        assert!(driver.tunnel.gave_up());
        // One that takes nothing at all is let go.
        let mut driver = blocked();
        end(&mut driver);
        driver.tick(at(10));
        assert!(driver.tunnel.gave_up());
    }
}

#[test]
fn a_slow_peer_that_was_asked_to_close_still_has_time_to_answer() {
    let mut driver = Driver::new(settings());
    driver.tunnel.handle_blocked(Side::Client);
    driver.feed(at(0), Side::Server, &close_frame(Side::Server, 1000, ""));
    // The Close leaves late, and from then on the answer is awaited.
    driver.tunnel.handle_progress(at(9), Side::Client, true);
    driver.tick(at(13));
    assert!(!driver.tunnel.gave_up());
    driver.feed(at(13), Side::Client, &close_frame(Side::Client, 1000, ""));
    assert_eq!(driver.close_to(Side::Server), Some(1000));
}

// ---- properties

#[derive(Clone, Debug)]
enum Piece {
    Message {
        text: bool,
        fragments: Vec<Vec<u8>>,
        ping_between: bool,
    },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
    /// A control frame that is masked as the other side's are.
    Foreign(Opcode, Vec<u8>),
    /// A message whose length is written in eight bytes.
    Long(Vec<u8>),
    /// Many short frames alike: inside a message as well as fragments of it.
    Flood {
        opcode: Opcode,
        payload: Vec<u8>,
        count: usize,
    },
    Garbage(Vec<u8>),
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        prop::collection::vec(any::<u8>(), 120..130),
        Just(vec![5; 70_000]),
    ]
}

fn legal_piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        6 => (any::<bool>(), prop::collection::vec(payload(), 1..4), any::<bool>())
            .prop_map(|(text, fragments, ping_between)| Piece::Message { text, fragments, ping_between }),
        2 => (
            prop::sample::select(vec![Opcode::Text, Opcode::Binary, Opcode::Ping, Opcode::Pong, Opcode::Continuation]),
            prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 0..=125)],
            1usize..40,
        )
            .prop_map(|(opcode, payload, count)| Piece::Flood { opcode, payload, count }),
        1 => prop::collection::vec(any::<u8>(), 0..=125).prop_map(Piece::Ping),
        1 => prop::collection::vec(any::<u8>(), 0..=125).prop_map(Piece::Pong),
        // A Pong as ours would be, answering a Ping we may or may not have sent.
        1 => (side(), 1u32..4).prop_map(|(of, count)| Piece::Pong(ping_payload(KEYS[of as usize], count).to_vec())),
    ]
}

fn any_piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        12 => legal_piece(),
        1 => (1000u16..1004).prop_map(Piece::Close),
        1 => (prop::sample::select(vec![Opcode::Ping, Opcode::Pong]), prop::collection::vec(any::<u8>(), 0..=125))
            .prop_map(|(opcode, payload)| Piece::Foreign(opcode, payload)),
        1 => (side(), 1u32..4)
            .prop_map(|(of, count)| Piece::Foreign(Opcode::Pong, ping_payload(KEYS[of as usize], count).to_vec())),
        1 => Just(Piece::Foreign(Opcode::Close, b"\x03\xe8bye".to_vec())),
        1 => payload().prop_map(Piece::Long),
        1 => prop::collection::vec(any::<u8>(), 1..30).prop_map(Piece::Garbage),
    ]
}

fn encode(from: Side, pieces: &[Piece]) -> Vec<u8> {
    let mut wire = vec![];
    for piece in pieces {
        match piece {
            Piece::Message { text, fragments, ping_between } => {
                for (i, fragment) in fragments.iter().enumerate() {
                    let opcode = match (i, text) {
                        (0, true) => Opcode::Text,
                        (0, false) => Opcode::Binary,
                        _ => Opcode::Continuation,
                    };
                    wire.extend(frame(from, i + 1 == fragments.len(), opcode, fragment));
                    if *ping_between && i + 1 < fragments.len() {
                        wire.extend(frame(from, true, Opcode::Ping, b"between"));
                    }
                }
            }
            Piece::Ping(payload) => wire.extend(frame(from, true, Opcode::Ping, payload)),
            Piece::Pong(payload) => wire.extend(frame(from, true, Opcode::Pong, payload)),
            Piece::Close(code) => wire.extend(close_frame(from, *code, "r")),
            Piece::Foreign(opcode, payload) => wire.extend(foreign(from, *opcode, payload)),
            Piece::Long(payload) => wire.extend(long(from, Opcode::Binary, payload)),
            Piece::Flood { opcode: Opcode::Continuation, payload, count } => {
                wire.extend(frame(from, false, Opcode::Text, b"begins"));
                wire.extend(frame(from, false, Opcode::Continuation, payload).repeat(*count));
                wire.extend(frame(from, true, Opcode::Continuation, b"ends"));
            }
            Piece::Flood { opcode, payload, count } => wire.extend(frame(from, true, *opcode, payload).repeat(*count)),
            Piece::Garbage(bytes) => wire.extend_from_slice(bytes),
        }
    }
    wire
}

fn side() -> impl Strategy<Value = Side> {
    prop::sample::select(&Side::BOTH[..])
}

/// Cuts `wire` at pseudo-random places.
fn chunks(wire: &[u8], mut seed: u64) -> Vec<&[u8]> {
    let mut rest = wire;
    let mut chunks = vec![];
    while !rest.is_empty() {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let most = [1, 3, 14, 200, 66_000][(seed >> 33) as usize % 5];
        let (chunk, tail) = rest.split_at((1 + (seed >> 40) as usize % most).min(rest.len()));
        chunks.push(chunk);
        rest = tail;
    }
    chunks
}

#[derive(Clone, Debug)]
enum Op {
    Bytes(Side),
    Sleep(u64),
    Eof(Side),
    Broken(Side),
    Blocked(Side),
    Progress(Side, bool),
    /// In this many seconds, and at the latest this many later.
    Drain(u64, Option<u64>),
    /// The proxy fails on the session, when nothing is half done.
    Abort,
    /// Write the state down and go on with what was read back.
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => side().prop_map(Op::Bytes),
        6 => (0u64..40).prop_map(Op::Sleep),
        1 => side().prop_map(Op::Eof),
        1 => side().prop_map(Op::Broken),
        1 => side().prop_map(Op::Blocked),
        1 => (side(), any::<bool>()).prop_map(|(side, drained)| Op::Progress(side, drained)),
        2 => (0u64..100, prop::option::of(0u64..10)).prop_map(|(after, more)| Op::Drain(after, more)),
        1 => prop::bool::weighted(0.2).prop_map(|abort| if abort { Op::Abort } else { Op::Restore }),
        3 => Just(Op::Restore),
    ]
}

fn restored(tunnel: &Tunnel) -> Tunnel {
    serde_json::from_str(&serde_json::to_string(tunnel).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_result_does_not_depend_on_the_cuts(
        from in side(),
        pieces in prop::collection::vec(any_piece(), 0..8),
        seed: u64,
        limit in prop::option::of(0u64..100_000),
    ) {
        let settings = TunnelSettings { message_bytes_max: limit.unwrap_or(u64::MAX), ..settings() };
        let wire = encode(from, &pieces);
        let mut whole = Driver::new(settings);
        whole.feed(at(0), from, &wire);
        let mut cut = Driver::new(settings);
        for chunk in chunks(&wire, seed) {
            cut.feed(at(0), from, chunk);
        }
        prop_assert_eq!(&whole.out, &cut.out);
        prop_assert_eq!(whole.tunnel.end(), cut.tunnel.end());
        // Within a slice texts are reported before binary messages, each in order.
        let of_kind = |driver: &Driver| {
            [Opcode::Text, Opcode::Binary].map(|kind| {
                driver.log.messages.iter().filter(|(_, opcode, _)| *opcode == kind).copied().collect::<Vec<_>>()
            })
        };
        prop_assert_eq!(of_kind(&whole), of_kind(&cut));
        // Pings and Pongs of a slice are reported by kind.
        let counted = |driver: &Driver| {
            [Opcode::Ping, Opcode::Pong, Opcode::Close]
                .map(|kind| driver.log.controls.iter().filter(|(_, opcode)| *opcode == kind).count())
        };
        prop_assert_eq!(counted(&whole), counted(&cut));
    }

    #[test]
    fn legal_traffic_passes_unchanged(
        from in side(),
        pieces in prop::collection::vec(legal_piece(), 0..8),
        seed: u64,
    ) {
        let wire = encode(from, &pieces);
        let mut driver = Driver::new(settings());
        for chunk in chunks(&wire, seed) {
            driver.feed(at(0), from, chunk);
        }
        prop_assert_eq!(&driver.out[from.other() as usize], &wire);
        prop_assert_eq!(driver.log.bytes[from as usize], wire.len());
        let messages = pieces.iter().map(|piece| match piece {
            Piece::Message { .. } => 1,
            Piece::Flood { opcode: Opcode::Continuation, .. } => 1,
            Piece::Flood { opcode: Opcode::Text | Opcode::Binary, count, .. } => *count,
            _ => 0,
        });
        prop_assert_eq!(driver.log.messages.len(), messages.sum::<usize>());
        prop_assert_eq!(driver.tunnel.end(), None);
    }

    /// Anything may happen in any order: what leaves is legal, data is what came and in order, injected frames stand
    /// between frames, nothing follows a Close, and after a minute of silence it is over or open and timed.
    #[test]
    fn whatever_happens_what_leaves_is_legal_and_it_ends(
        pieces in prop::array::uniform2(prop::collection::vec(any_piece(), 0..6)),
        ops in prop::collection::vec(op(), 0..60),
        seeds in prop::array::uniform2(any::<u64>()),
        idle in prop::option::of(20u64..60),
        ping in prop::option::of(5u64..30),
        rates in prop::array::uniform2(prop::option::of(rates::limit())),
        control in prop::option::of(20_u16..60),
    ) {
        let settings = TunnelSettings {
            idle: idle.map(Duration::from_secs),
            ping: ping.map(Duration::from_secs),
            message_bytes_max: 100_000,
            fragments_max: 30,
            control_per_second: control,
            rates,
            ..settings()
        };
        let wires = [encode(Side::Client, &pieces[0]), encode(Side::Server, &pieces[1])];
        let mut queues = [chunks(&wires[0], seeds[0]), chunks(&wires[1], seeds[1])].map(std::collections::VecDeque::from);
        let mut driver = Driver::new(settings);
        let mut twin = driver.clone();
        let mut now = at(0);
        let mut ended = [false; 2];
        let mut stopped_by: Option<MonotonicTime> = None;
        let (mut ticked, mut armed) = (now, [None; 2]);
        for op in &ops {
            for (which, driver) in [&mut driver, &mut twin].into_iter().enumerate() {
                match op {
                    Op::Bytes(side) if !ended[*side as usize] => {
                        let queue = &mut queues[*side as usize];
                        if let Some(&chunk) = queue.front() {
                            driver.feed(now, *side, chunk);
                            if which == 1 {
                                queue.pop_front();
                            }
                        }
                    }
                    Op::Bytes(_) => {}
                    Op::Sleep(seconds) => {
                        if which == 0 {
                            now = now + Duration::from_secs(*seconds);
                            ticked = now;
                        }
                        driver.tick(now);
                    }
                    Op::Eof(side) => {
                        driver.eof(now, *side);
                        ended[*side as usize] = true;
                    }
                    Op::Broken(side) => driver.tunnel.handle_broken(now, *side),
                    Op::Blocked(side) => driver.tunnel.handle_blocked(*side),
                    Op::Progress(side, drained) => driver.tunnel.handle_progress(now, *side, *drained),
                    Op::Drain(after, more) => {
                        let stop = now + Duration::from_secs(*after);
                        let by = more.map(|more| stop + Duration::from_secs(more));
                        driver.tunnel.stop(stop, by);
                        let latest = by.map_or(stop + QUIET_WAIT, |by| by.min(stop + QUIET_WAIT));
                        if which == 0 {
                            stopped_by = Some(stopped_by.map_or(latest, |before: MonotonicTime| before.min(latest)));
                        }
                    }
                    Op::Abort => driver.tunnel.abort(now),
                    Op::Restore if which == 1 => driver.tunnel = restored(&driver.tunnel),
                    Op::Restore => {}
                }
                driver.settle(now);
                // As a lazy timer: asked again only where it is said to have moved, and never set too late.
                if driver.tunnel.timer_moved() {
                    armed[which] = driver.tunnel.poll_timeout();
                }
                if let Some(due) = driver.tunnel.poll_timeout() {
                    prop_assert!(armed[which].is_some_and(|armed| armed <= due), "{:?} for {:?}", armed[which], due);
                }
            }
            // A stop is kept whatever passes meanwhile.
            prop_assert!(driver.tunnel.is_closing() || stopped_by.is_none_or(|by| by >= ticked));
        }
        prop_assert_eq!(&driver.tunnel, &twin.tunnel, "a restored state goes on as the original");
        prop_assert_eq!(&driver.out, &twin.out);

        // Legal to a strict reader (`frames` panics otherwise), and data frames are a prefix of what came.
        for to in Side::BOTH {
            let data = |frames: Vec<(Opcode, Vec<u8>)>| -> Vec<_> {
                frames.into_iter().filter(|(opcode, _)| !opcode.is_control()).collect()
            };
            let garbled = pieces[to.other() as usize].iter().any(|piece| matches!(piece, Piece::Garbage(_)));
            let sent = data(driver.frames(to));
            if !garbled {
                let mut reference = Driver::new(self::settings());
                reference.out[to as usize] = wires[to.other() as usize].clone();
                let came = data(reference_frames(&reference, to));
                prop_assert!(sent.len() <= came.len());
                for (i, (sent, came)) in sent.iter().zip(&came).enumerate() {
                    prop_assert_eq!(sent.0, came.0);
                    prop_assert!(came.1.starts_with(&sent.1), "frame {} changed", i);
                }
            }
        }

        if driver.tunnel.is_closing() {
            // What was delayed may still pass, which prolongs the wait.
            let most = ANSWER_WAIT_MAX + 4 * ANSWER_WAIT;
            for _ in 0..most.as_millis() / 500 {
                now = now + Duration::from_millis(500);
                driver.tick(now);
            }
            prop_assert!(driver.tunnel.is_finished(), "{:?}", driver.tunnel);
        } else {
            // Two peers that take nothing are not judged: there may be no deadline then.
            let stuck = Side::BOTH.iter().all(|&side| driver.tunnel.peer(side).blocked);
            prop_assert!(driver.tunnel.poll_timeout().is_some() || (idle.is_none() && (ping.is_none() || stuck)));
        }
    }
}

/// As `Driver::frames`, for wire that may hold several Closes.
fn reference_frames(driver: &Driver, side: Side) -> Vec<(Opcode, Vec<u8>)> {
    let mut rest = &driver.out[side as usize][..];
    let mut frames = vec![];
    while let Some((header, length)) = FrameHeader::parse(rest).unwrap() {
        let end = length + header.payload as usize;
        let mut payload = rest[length..end].to_vec();
        if let Some(key) = header.mask {
            apply_mask(key, &mut payload);
        }
        frames.push((header.opcode, payload));
        rest = &rest[end..];
    }
    frames
}
