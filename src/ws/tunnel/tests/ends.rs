//! Ends in every order of events: which peer gets what, which is waited for, and for how long.

use super::*;

fn blind(settings: TunnelSettings) -> Driver {
    Driver::new(TunnelSettings { validation: Validation::Off, ..settings })
}

#[test]
fn a_half_closed_pipe_is_ended_like_any_other_while_bytes_flow() {
    let lifetime = TunnelSettings { lifetime: Some(Duration::from_secs(50)), ..settings() };
    let stopped = |driver: &mut Driver| driver.tunnel.stop(at(47), None);
    let nothing = |_: &mut Driver| {};
    for (settings, how, end) in
        [(lifetime, &nothing as &dyn Fn(&mut Driver), End::Lifetime), (settings(), &stopped, End::Stopped)]
    {
        for ended in Side::BOTH {
            let mut driver = blind(settings);
            driver.eof(at(1), ended);
            how(&mut driver);
            for second in 1..60 {
                driver.feed(at(second), ended.other(), b"bytes");
                driver.tick(at(second));
                let is_over = driver.tunnel.poll_shutdown(ended);
                assert_eq!(is_over, second >= 50, "{end:?} at {second}");
            }
            assert_eq!(driver.tunnel.end(), Some(&end));
            assert!(driver.tunnel.gave_up(), "bytes that go nowhere put off no end");
            assert_eq!(driver.out[ended as usize].len(), 5 * 50);
        }
    }
}

#[test]
fn a_half_closed_pipe_is_idle_like_any_other_and_let_go_in_silence() {
    for (idle, end) in [(Some(Duration::from_secs(10)), End::Idle), (None, End::Finished(Side::Server))] {
        let mut driver = blind(TunnelSettings { idle, ..settings() });
        driver.eof(at(1), Side::Server);
        driver.feed(at(5), Side::Client, b"bytes");
        driver.tick(at(14));
        assert!(!driver.tunnel.gave_up() && !driver.tunnel.poll_shutdown(Side::Server));
        driver.tick(at(15));
        driver.tick(at(17));
        assert_eq!(driver.tunnel.gave_up(), idle.is_some());
        driver.tick(at(35));
        assert!(driver.tunnel.gave_up());
        assert_eq!(driver.tunnel.end(), Some(&end));
    }
}

#[test]
fn the_clients_stream_ends_right_behind_the_close_for_a_broken_rule() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Client, &frame(Side::Client, true, Opcode::Text, b"whole"));
    driver.feed(at(0), Side::Client, &[0xff; 20]);
    assert_eq!(driver.close_to(Side::Client), Some(1002));
    // RFC 6455 §7.1.7: nothing that it says counts any more, so its answer is not waited for.
    assert!(driver.tunnel.poll_shutdown(Side::Client));
    // It is read away all the same, so that no reset overtakes the Close.
    assert!(driver.tunnel.wants_bytes(Side::Client) && !driver.tunnel.is_finished());
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 1002, ""));
    driver.feed(at(0), Side::Server, &close_frame(Side::Server, 1001, ""));
    driver.eof(at(0), Side::Server);
    assert!(!driver.tunnel.is_finished());
    driver.eof(at(1), Side::Client);
    assert!(driver.tunnel.is_finished());
}

#[test]
fn a_close_for_a_broken_rule_waits_for_the_end_of_the_frame_and_so_does_the_end_of_the_stream() {
    let mut driver = Driver::new(settings());
    let large = frame(Side::Server, true, Opcode::Binary, &[1; 1000]);
    driver.feed(at(0), Side::Server, &large[..500]);
    driver.feed(at(0), Side::Client, &[0xff; 20]);
    assert!(!driver.tunnel.poll_shutdown(Side::Client));
    driver.feed(at(1), Side::Server, &large[500..]);
    assert_eq!(driver.close_to(Side::Client), Some(1002));
    assert!(driver.tunnel.poll_shutdown(Side::Client));
}

/// What a peer does at an end, in all orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    ClientCloses,
    ClientEnds,
    ServerCloses,
    ServerEnds,
    Lifetime,
}

fn act(driver: &mut Driver, act: Act) {
    match act {
        Act::ClientCloses => driver.feed(at(9), Side::Client, &close_frame(Side::Client, 3001, "c")),
        Act::ClientEnds => driver.eof(at(9), Side::Client),
        Act::ServerCloses => driver.feed(at(9), Side::Server, &close_frame(Side::Server, 3002, "s")),
        Act::ServerEnds => driver.eof(at(9), Side::Server),
        Act::Lifetime => driver.tick(at(9)),
    }
}

#[test]
fn in_every_order_each_peer_gets_one_close_and_only_then_the_end_of_its_stream() {
    use Act::*;
    let all = [ClientCloses, ClientEnds, ServerCloses, ServerEnds, Lifetime];
    let orders: Vec<Vec<Act>> = (0..5usize.pow(5))
        .map(|n| (0..5).map(|place| all[n / 5usize.pow(place) % 5]).collect::<Vec<_>>())
        .filter(|order| all.iter().all(|act| order.iter().filter(|other| *other == act).count() == 1))
        .filter(|order| {
            let place = |act| order.iter().position(|other| *other == act);
            // Nobody speaks after the end of its stream.
            place(ClientCloses) < place(ClientEnds) && place(ServerCloses) < place(ServerEnds)
        })
        .collect();
    assert_eq!(orders.len(), 30);
    for order in orders {
        for through in 1..=order.len() {
            let mut driver = Driver::new(TunnelSettings { lifetime: Some(Duration::from_secs(9)), ..settings() });
            for (place, &step) in order[..through].iter().enumerate() {
                act(&mut driver, step);
                let so_far = &order[..=place];
                for (side, closes, ends, far_ends) in [
                    (Side::Client, ClientCloses, ClientEnds, ServerEnds),
                    (Side::Server, ServerCloses, ServerEnds, ClientEnds),
                ] {
                    let closes_sent = driver.frames(side).len();
                    assert!(closes_sent <= 1, "{so_far:?}: {:?}", driver.frames(side));
                    if driver.tunnel.poll_shutdown(side) {
                        let has_ended = so_far.contains(&ends) || side == Side::Server;
                        assert!(closes_sent == 1 || has_ended, "{so_far:?}: a stream without its Close");
                    }
                    if so_far.contains(&closes) && so_far.contains(&far_ends) {
                        assert_eq!(closes_sent, 1, "{so_far:?}: no answer to {side:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_end_of_the_stream_waits_for_a_close_that_is_still_to_be_written() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 3001, ""));
    driver.tunnel.handle_eof(at(0), Side::Server);
    // The driver has not been asked for the answer yet.
    assert!(driver.tunnel.wants_inject(Side::Client) && !driver.tunnel.poll_shutdown(Side::Client));
    driver.settle(at(0));
    assert_eq!(driver.close_to(Side::Client), Some(3001));
    assert!(driver.tunnel.poll_shutdown(Side::Client));
}

#[test]
fn a_close_of_ours_that_waits_gives_way_to_the_peers_own() {
    let mut driver = Driver::new(TunnelSettings { lifetime: Some(Duration::from_secs(9)), ..settings() });
    let large = frame(Side::Server, true, Opcode::Binary, &[1; 1000]);
    driver.feed(at(0), Side::Server, &large[..500]);
    driver.tick(at(9));
    assert!(driver.tunnel.wants_inject(Side::Client));
    let rest = [&large[500..], &close_frame(Side::Server, 4000, "mine")].concat();
    // The server's Close stands where ours was to stand; ours goes first, and the other is then one too many.
    driver.feed(at(10), Side::Server, &rest);
    assert_eq!(driver.close_to(Side::Client), Some(1012));
    assert!(!driver.tunnel.wants_inject(Side::Client));

    // With the boundary not yet asked for, the server's own Close passes and ours is off the table.
    let mut tunnel = Driver::new(settings()).tunnel;
    tunnel.handle_eof(at(0), Side::Client);
    tunnel.close(at(0), Side::Client, Farewell::Close(Close::new(CloseCode::GOING_AWAY, "")));
    assert!(tunnel.wants_inject(Side::Client));
    let close = close_frame(Side::Server, 4000, "mine");
    assert_eq!(tunnel.handle_bytes(at(0), Side::Server, &close, &mut ()), TunnelStep::Forward(close.len()));
    assert!(!tunnel.wants_inject(Side::Client));
    assert_eq!(tunnel.poll_inject(at(0), Side::Client, MASK, &mut ()), None);
}

#[test]
fn bytes_for_a_server_that_is_gone_hold_up_nobody() {
    let gone = |how: &dyn Fn(&mut Driver)| {
        let mut driver = Driver::new(TunnelSettings { ping: Some(Duration::from_secs(30)), ..settings() });
        driver.feed(at(0), Side::Client, &frame(Side::Client, true, Opcode::Binary, &[1; 1000]));
        driver.tunnel.handle_blocked(Side::Server);
        how(&mut driver);
        driver.settle(at(45));
        driver
    };
    let ends = |driver: &mut Driver| driver.eof(at(1), Side::Server);
    let closes_and_ends = |driver: &mut Driver| {
        driver.feed(at(1), Side::Server, &close_frame(Side::Server, 1001, ""));
        driver.eof(at(1), Side::Server);
    };
    let breaks = |driver: &mut Driver| {
        driver.tunnel.handle_broken(at(1), Side::Server);
        driver.eof(at(1), Side::Server);
    };
    let dies = |driver: &mut Driver| {
        for second in 1..=40 {
            driver.feed(at(second), Side::Client, &frame(Side::Client, true, Opcode::Ping, b""));
            driver.tick(at(second));
        }
    };
    for (how, name) in
        [(&ends as &dyn Fn(&mut Driver), "ends"), (&closes_and_ends, "closes"), (&breaks, "breaks"), (&dies, "dies")]
    {
        let mut driver = gone(how);
        assert!(driver.tunnel.is_gone(Side::Server), "{name}: what waits for it is given up");
        assert!(driver.close_to(Side::Client).is_some(), "{name}");
        driver.feed(at(46), Side::Client, &close_frame(Side::Client, 1000, ""));
        assert!(driver.tunnel.is_close_complete() && driver.tunnel.poll_shutdown(Side::Client), "{name}");
    }
}

#[test]
fn a_client_that_has_ended_its_half_still_gets_what_waits_for_it() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Server, &frame(Side::Server, true, Opcode::Binary, &[1; 1000]));
    driver.tunnel.handle_blocked(Side::Client);
    driver.eof(at(1), Side::Client);
    assert!(!driver.tunnel.is_gone(Side::Client));
}

#[test]
fn a_peer_that_may_only_close_is_read_although_the_other_is_blocked() {
    let mut driver = Driver::new(TunnelSettings { message_bytes_max: 10, ..settings() });
    driver.tunnel.handle_blocked(Side::Server);
    assert!(driver.tunnel.forwards(Side::Client));
    driver.feed(at(0), Side::Client, &frame(Side::Client, true, Opcode::Text, &[b'x'; 11]));
    assert!(!driver.tunnel.forwards(Side::Client), "its messages go nowhere");
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 1009, ""));
    assert!(driver.tunnel.poll_shutdown(Side::Client));
}

#[test]
fn a_close_that_nobody_answers_is_answered_by_us_after_five_silent_seconds() {
    for by in Side::BOTH {
        let mut driver = Driver::new(settings());
        driver.feed(at(0), by, &close_frame(by, 4001, "going"));
        driver.tick(at(4));
        assert!(driver.out[by as usize].is_empty());
        driver.tick(at(5));
        assert_eq!(driver.close_to(by), Some(4001), "its own code");
        assert_eq!(driver.tunnel.poll_shutdown(by), by == Side::Client);
        driver.tick(at(7));
        assert!(driver.tunnel.gave_up());
    }
}

#[test]
fn a_peer_that_was_asked_to_close_may_first_send_what_it_has_to_say_but_not_for_ever() {
    let mut driver = Driver::new(settings());
    driver.feed(at(0), Side::Client, &close_frame(Side::Client, 4001, "going"));
    for second in (4..=40).step_by(4) {
        driver.tick(at(second));
        let is_answered = driver.close_to(Side::Client).is_some();
        assert_eq!(is_answered, second > 30, "{second}");
        driver.feed(at(second), Side::Server, &frame(Side::Server, true, Opcode::Text, b"one more"));
    }
    assert_eq!(driver.log.messages.len(), 7);
}

#[test]
fn a_client_that_is_cut_gets_all_that_came_before_and_no_close() {
    for whole in [true, false] {
        let mut driver = Driver { cuts_lost: true, ..Driver::new(settings()) };
        let last = frame(Side::Server, true, Opcode::Text, b"last words");
        let sent = if whole { &last[..] } else { &last[..7] };
        driver.feed(at(0), Side::Server, sent);
        driver.tunnel.handle_blocked(Side::Client);
        driver.eof(at(0), Side::Server);
        assert_eq!(driver.out[0], sent);
        assert!(driver.tunnel.poll_shutdown(Side::Client), "behind what waits");
        driver.tick(at(5));
        assert!(!driver.tunnel.gave_up(), "what waits has time to leave");
        driver.tunnel.handle_progress(at(6), Side::Client, true);
        driver.eof(at(7), Side::Client);
        assert!(driver.tunnel.is_finished());
    }
    // A client that keeps its end open is let go.
    let mut driver = Driver { cuts_lost: true, ..Driver::new(settings()) };
    driver.eof(at(0), Side::Server);
    driver.feed(at(1), Side::Client, &frame(Side::Client, true, Opcode::Text, b"anybody there?"));
    driver.tick(at(2));
    assert!(driver.tunnel.gave_up() && driver.out[0].is_empty());
}
