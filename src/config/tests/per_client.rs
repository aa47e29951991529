//! What is said of limits of single clients.

use super::broken::{in_route, said};

#[test]
fn limits_that_limit_nothing_and_keys_that_nobody_has_are_told() {
    for (written, words) in [
        ("{}", "per_client: this limits nothing | add `sessions: 10`, or `handshakes: 10/s`"),
        ("{ key: address }", "per_client: this limits nothing"),
        ("{ sessions: 0 }", "per_client.sessions: "),
        ("{ handshakes: 5/s, burst: 0 }", "per_client.burst: "),
        ("{ sessions: 1, burst: 5 }", "per_client.burst: this is the burst of `handshakes`, which is not there | add"),
        (
            "{ sessions: 1, key: subject }",
            "per_client.key: this route has no `auth` that names a user, so no client has a subject | add",
        ),
        ("{ sessions: 1, key: { header: \"a b\" } }", "per_client.key.header: this is not a header's name | write"),
        ("{ sessions: 1, key: { header: X-A } }", "per_client.key.header: no listener has `trusted_proxies`"),
        ("{ sessions: 1, key: cookie }", "per_client.key: "),
        ("{ handshakes: 5 }", "per_client.handshakes: expected a rate such as"),
    ] {
        let said = said(&in_route(&format!("limits: {{ per_client: {written} }}")));
        assert!(said.iter().any(|line| line.contains(words)), "{written}: {said:#?}");
    }
    for fine in ["off", "{ sessions: 5 }", "{ handshakes: 5/s, burst: 10, key: address }"] {
        assert_eq!(said(&in_route(&format!("limits: {{ per_client: {fine} }}"))), [""; 0], "{fine}");
    }
}
