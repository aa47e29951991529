//! Which peers count as dead; never one that is not read.

use super::*;

const PING: u64 = 30;
const PONG: u64 = 10;

fn pinged() -> Driver {
    Driver::new(TunnelSettings { ping: Some(Duration::from_secs(PING)), pong: Duration::from_secs(PONG), ..settings() })
}

/// `taker` takes nothing and is alive all the same; the other one is not read meanwhile.
fn stalled(taker: Side, from: u64, until: u64, driver: &mut Driver) {
    driver.tunnel.handle_blocked(taker);
    for second in from..=until {
        driver.feed(at(second), taker, &frame(taker, true, Opcode::Text, b"tick"));
        driver.tick(at(second));
        assert_eq!(driver.tunnel.end(), None, "after {second} s");
    }
}

#[test]
fn a_peer_that_is_not_read_is_not_dead_however_long_it_lasts() {
    for taker in Side::BOTH {
        let mut driver = pinged();
        stalled(taker, 0, 1000, &mut driver);
    }
}

#[test]
fn a_peer_that_was_asked_before_the_stall_has_its_whole_time_after_it() {
    for taker in Side::BOTH {
        let mut driver = pinged();
        driver.tick(at(PING));
        assert!(driver.tunnel.awaits_pong());
        stalled(taker, PING + 1, 100, &mut driver);
        driver.tunnel.handle_progress(at(100), taker, false);
        driver.tick(at(105));
        driver.tunnel.handle_progress(at(105), taker, true);
        driver.feed(at(106), taker, &frame(taker, true, Opcode::Text, b"tick"));
        driver.tick(at(105 + PONG - 1));
        assert_eq!(driver.tunnel.end(), None, "its Pong may stand behind much else");
        driver.tick(at(105 + PONG));
        assert_eq!(driver.tunnel.end(), Some(&End::Dead(taker.other())), "and if it is not there at all");
    }
}

#[test]
fn a_peer_that_is_read_again_is_asked_again_only_when_it_is_silent_again() {
    for taker in Side::BOTH {
        let mut driver = pinged();
        stalled(taker, 0, 100, &mut driver);
        driver.tunnel.handle_progress(at(100), taker, true);
        assert_eq!(driver.tunnel.poll_timeout(), Some(at(100 + PING)));
    }
}

#[test]
fn where_both_take_nothing_neither_is_judged_and_idle_ends_it() {
    let mut driver = Driver::new(TunnelSettings {
        ping: Some(Duration::from_secs(PING)),
        idle: Some(Duration::from_secs(300)),
        ..settings()
    });
    for side in Side::BOTH {
        driver.tunnel.handle_blocked(side);
    }
    driver.tick(at(299));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(300));
    assert_eq!(driver.tunnel.end(), Some(&End::Idle));
}

#[test]
fn a_peer_that_breaks_off_blocks_nobody_any_more() {
    let mut driver = pinged();
    driver.tick(at(PING));
    driver.tunnel.handle_blocked(Side::Server);
    driver.tunnel.handle_broken(at(100), Side::Server);
    driver.feed(at(101), Side::Server, &frame(Side::Server, true, Opcode::Pong, b""));
    driver.tick(at(100 + PONG - 1));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(100 + PONG));
    assert_eq!(driver.tunnel.end(), Some(&End::Dead(Side::Client)));
}

#[test]
fn after_a_stall_of_our_own_peers_are_asked_again() {
    let mut driver = pinged();
    driver.tick(at(PING));
    // The process was suspended; the Pongs may wait in the sockets.
    driver.tunnel.handle_timeout(at(3600));
    assert_eq!(driver.tunnel.end(), None);
    assert_eq!(driver.tunnel.poll_timeout(), Some(at(3600 + PONG)));
    driver.tick(at(3600 + PONG));
    assert!(matches!(driver.tunnel.end(), Some(End::Dead(_))));
}

#[test]
fn after_a_stall_of_our_own_nobody_is_idle_before_he_is_read() {
    let mut driver = Driver::new(TunnelSettings { idle: Some(Duration::from_secs(60)), ..settings() });
    driver.tunnel.handle_timeout(at(600));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(659));
    assert_eq!(driver.tunnel.end(), None);
    driver.tick(at(660));
    assert_eq!(driver.tunnel.end(), Some(&End::Idle));
}

#[test]
fn our_pong_is_found_among_others_of_its_length() {
    for from in Side::BOTH {
        let mut driver = pinged();
        driver.tick(at(PING));
        let ours = driver.frames(from).pop().unwrap().1;
        let other = frame(from, true, Opcode::Pong, b"twelve bytes");
        let bytes = [&other.repeat(3)[..], &frame(from, true, Opcode::Pong, &ours), &other.repeat(2)].concat();
        driver.out = Default::default();
        driver.feed(at(PING + 1), from, &bytes);
        assert_eq!(driver.log.round_trips, [(from, Duration::from_secs(1))]);
        assert_eq!(driver.out[from.other() as usize], other.repeat(5), "all others go on");
        assert_eq!(driver.log.controls.len(), 5);
    }
}
