//! What breaks a rule and leaves no doubt: where it passes, and where it does not.

use super::*;

fn driver(validation: Validation) -> Driver {
    Driver::new(TunnelSettings { validation, ping: Some(Duration::from_secs(30)), ..settings() })
}

/// A driver that has sent both peers a Ping, with the payloads of these.
fn asked(validation: Validation) -> (Driver, [Vec<u8>; 2]) {
    let mut driver = driver(validation);
    driver.tick(at(30));
    let payloads = Side::BOTH.map(|side| driver.frames(side).pop().unwrap().1);
    driver.out = Default::default();
    (driver, payloads)
}

fn refused(driver: &Driver) -> Option<&str> {
    match driver.tunnel.end() {
        Some(End::Violation { label, .. }) => Some(label),
        _ => None,
    }
}

#[test]
fn a_pong_that_we_provoked_ends_no_session_however_it_is_masked() {
    for validation in [Validation::Lenient, Validation::Strict] {
        for from in Side::BOTH {
            let (mut driver, payloads) = asked(validation);
            let strict_length = long(from, Opcode::Pong, &payloads[from as usize]);
            let mut other = driver.clone();
            other.feed(at(31), from, &strict_length);
            assert_eq!((other.tunnel.end(), other.out[from.other() as usize].len()), (None, 0), "nor by its length");
            let pong = foreign(from, Opcode::Pong, &payloads[from as usize]);
            for byte in pong {
                driver.feed(at(33), from, &[byte]);
            }
            assert_eq!(driver.tunnel.end(), None, "{validation:?} {from:?}");
            assert!(driver.out[from.other() as usize].is_empty(), "it is swallowed");
            assert_eq!(driver.log.round_trips, [(from, Duration::from_secs(3))]);
            let violation = if from == Side::Client { Violation::UnmaskedFrame } else { Violation::MaskedFrame };
            assert_eq!(driver.log.tolerated, [(from, violation)], "counted once");
            driver.feed(at(34), from, &frame(from, true, Opcode::Text, b"and on it goes"));
            assert_eq!(driver.log.messages.len(), 1);
        }
    }
}

#[test]
fn a_control_frame_with_the_wrong_masking_goes_on_with_the_right_one_unless_all_must_be_strict() {
    for from in Side::BOTH {
        for (opcode, payload) in
            [(Opcode::Ping, &b"p"[..]), (Opcode::Pong, b"twelve bytes"), (Opcode::Close, b"\x0f\xa1bye")]
        {
            let bytes = foreign(from, opcode, payload);
            let mut lenient = driver(Validation::Lenient);
            lenient.feed(at(0), from, &bytes);
            // `frames` reads strictly.
            assert_eq!(lenient.frames(from.other()), [(opcode, payload.to_vec())]);
            assert_eq!((lenient.log.tolerated.len(), &lenient.log.controls[..]), (1, &[(from, opcode)][..]));
            let closes = matches!(lenient.tunnel.end(), Some(End::Closed { .. }));
            assert_eq!(closes, opcode == Opcode::Close);

            let mut strict = driver(Validation::Strict);
            strict.feed(at(0), from, &bytes);
            assert_eq!(refused(&strict), Some(if from == Side::Client { "unmasked_frame" } else { "masked_frame" }));
            assert!(strict.log.tolerated.is_empty());
        }
    }
}

#[test]
fn data_with_the_wrong_masking_is_refused_always() {
    for validation in [Validation::Lenient, Validation::Strict] {
        for from in Side::BOTH {
            let mut driver = driver(validation);
            driver.feed(at(0), from, &foreign(from, Opcode::Text, b"x"));
            assert!(refused(&driver).is_some(), "{validation:?}");
            assert!(driver.log.tolerated.is_empty());
        }
    }
}

#[test]
fn a_length_in_more_bytes_than_it_needs_passes_as_it_came_unless_all_must_be_strict() {
    for from in Side::BOTH {
        for (opcode, length) in [(Opcode::Binary, 0), (Opcode::Text, 5), (Opcode::Binary, 40_000), (Opcode::Ping, 125)]
        {
            let bytes = long(from, opcode, &vec![b'x'; length]);
            let mut lenient = driver(Validation::Lenient);
            for byte in &bytes {
                lenient.feed(at(0), from, &[*byte]);
            }
            assert_eq!(lenient.tunnel.end(), None, "{opcode:?} {length}");
            assert_eq!(lenient.out[from.other() as usize], bytes);
            assert_eq!(lenient.log.tolerated, [(from, Violation::LengthNotMinimal)]);
            assert_eq!(lenient.log.messages.len() + lenient.log.controls.len(), 1);

            let mut strict = driver(Validation::Strict);
            strict.feed(at(0), from, &bytes);
            assert_eq!(refused(&strict), Some("bad_length"));
        }
    }
}

#[test]
fn limits_hold_for_lengths_in_any_form() {
    let settings = TunnelSettings { frame_bytes_max: 10, ..settings() };
    for (length, is_refused) in [(10, false), (11, true)] {
        let mut driver = Driver::new(settings);
        driver.feed(at(0), Side::Client, &long(Side::Client, Opcode::Binary, &vec![0; length]));
        assert_eq!(driver.tunnel.end() == Some(&End::FrameTooLarge(Side::Client)), is_refused);
    }
    for payload in [126, 1 << 40] {
        let mut driver = Driver::new(settings);
        let mut header = [0; HEADER_BYTES_MAX];
        let ping = FrameHeader { fin: true, rsv: 0, opcode: Opcode::Ping, mask: Some(MASK), payload, shortest: true };
        let length = ping.encode(&mut header);
        driver.feed(at(0), Side::Client, &header[..length]);
        assert_eq!(refused(&driver), Some("bad_control"), "no control frame is longer than 125 bytes");
    }
}
