//! Rates that limit nothing, or more than is meant, and what is said of them.

use super::broken::{in_route, said};

#[test]
fn rates_that_say_nothing_or_too_much_are_told() {
    let blind = "this has no effect with `validate: off`, where no frames are read | remove it, or `validate: off`; \
                 `timeouts`, `limits.connections` and rates of bytes still work";
    for (keys, expected) in [
        ("limits: { rate: off, server_rate: off }", vec![]),
        ("limits: { rate: { messages: 50/s, bytes: 1MiB/s, burst: 1, burst_bytes: 1KiB } }", vec![]),
        (
            "limits: { rate: {} }",
            vec![
                "4:15 routes[0].limits.rate: this limits nothing, without `messages` and without `bytes` | write `messages: 50/s`, `bytes: 1MiB/s`, or both"
                    .to_owned(),
            ],
        ),
        (
            "limits: { server_rate: { bytes: 1MiB/s, burst: 5 } }",
            vec![
                "4:45 routes[0].limits.server_rate.burst: this has no effect without `messages` | remove it, or add `messages: 50/s`"
                    .to_owned(),
            ],
        ),
        (
            "limits: { rate: { messages: 5/s, burst: 0, burst_bytes: 5KiB } }",
            vec![
                "4:45 routes[0].limits.rate.burst: zero would let no message pass | write `1` or more, or remove it"
                    .to_owned(),
                "4:48 routes[0].limits.rate.burst_bytes: this has no effect without `bytes` | remove it, or add `bytes: 1MiB/s`"
                    .to_owned(),
            ],
        ),
        (
            "limits: { rate: { bytes: 5KiB/s, burst_bytes: 1000 } }",
            vec![
                "4:51 routes[0].limits.rate.burst_bytes: a burst of `1000` is too small for headers and control frames, which pass whole | write at least `1KiB`"
                    .to_owned(),
            ],
        ),
        // A message of any size passes where it is delayed, so that is right.
        ("limits: { message: 1MiB, rate: { bytes: 64KiB/s, burst_bytes: 64KiB } }", vec![]),
        ("limits: { message: 1MiB, rate: { bytes: 64KiB/s, then: close } }", vec![]),
        (
            "limits: { message: 1MiB, rate: { bytes: 64KiB/s, burst_bytes: 64KiB, then: close } }",
            vec![
                "4:67 routes[0].limits.rate.burst_bytes: a frame above the burst (64KiB) always ends the session, although one of `message` (1MiB) is allowed | make it larger than `message`, remove it, or write `then: delay`"
                    .to_owned(),
            ],
        ),
        (
            "limits: { message: 1MiB, frame: 16KiB, rate: { bytes: 64KiB/s, burst_bytes: 64KiB, then: close } }",
            vec![],
        ),
        (
            "limits: { control: 65536/s, fragments: 0 }",
            vec![
                "4:24 routes[0].limits.control: more than `65535/s` cannot be counted, and this is `65536/s` | write at most `65535/s`, or `off`"
                    .to_owned(),
                "4:44 routes[0].limits.fragments: zero would refuse every message in fragments | write a number such as `100000`, or `off`"
                    .to_owned(),
            ],
        ),
        ("validate: off\nkeepalive: off\nlimits: { rate: { bytes: 1MiB/s }, server_rate: { bytes: 1MiB/s } }", vec![]),
        (
            "validate: off\nkeepalive: off\nlimits: { rate: { messages: 5/s }, control: 5/s, fragments: off }",
            vec![
                format!("6:23 routes[0].limits.rate.messages: {blind}"),
                format!("6:40 routes[0].limits.control: {blind}"),
                format!("6:54 routes[0].limits.fragments: {blind}"),
            ],
        ),
    ] {
        assert_eq!(said(&in_route(keys)), expected, "{keys}");
    }
}
