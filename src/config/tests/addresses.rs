//! What is said of lists of addresses.

use super::broken::{in_listener, in_route, said};
use super::load;

#[test]
fn lists_that_say_nothing_or_the_opposite_are_told() {
    for (written, words) in [
        ("{}", "addresses: this names no address | write `allow: [10.0.0.0/8]`, or `deny: …`"),
        ("{ allow: [] }", "addresses.allow: the list is empty | name networks; to refuse everybody, write `deny:"),
        ("{ deny: [] }", "addresses.deny: the list is empty | remove it"),
        ("{ allow: [10.0.0.0/33] }", "addresses.allow[0]: `10.0.0.0/33` is not a network | write a network such as"),
        ("{ deny: [localhost] }", "addresses.deny[0]: `localhost` is not a network | write a network such as"),
        ("{ block: [10.0.0.1] }", "addresses.block: "),
        ("[10.0.0.0/8]", "addresses: "),
        (
            "{ allow: [10.1.0.0/16], deny: [10.0.0.0/8] }",
            "addresses.allow[0]: nobody of `10.1.0.0/16` is let in: `10.0.0.0/8` is denied, and deny wins | remove one",
        ),
    ] {
        for text in [in_route(&format!("addresses: {written}")), in_listener(&format!("addresses: {written}"))] {
            let said = said(&text);
            assert!(said.iter().any(|line| line.contains(words)), "{written}: {said:#?}");
        }
    }
    for fine in
        ["off", "{ allow: [10.0.0.0/8], deny: [10.1.2.3] }", "{ deny: [\"::ffff:10.0.0.0/104\", \"fd00::/8\"] }"]
    {
        for text in [in_route(&format!("addresses: {fine}")), in_listener(&format!("addresses: {fine}"))] {
            assert_eq!(said(&text), [""; 0], "{fine}");
        }
    }
}

#[test]
fn a_unix_socket_has_addresses_only_where_a_proxy_tells_them() {
    let listener = |more: &str| {
        format!(
            "listeners: [{{ name: a, bind: unix:/tmp/a.sock, addresses: {{ deny: [192.0.2.7] }}{more} }}]\n\
             routes: [{{ name: a, upstream: a }}]\nupstreams: {{ a: {{ endpoints: ['ws://a:1'] }} }}\n"
        )
    };
    let said = said(&listener(""));
    assert!(said[0].contains("listeners[0].addresses: connections to a Unix socket have no address"), "{said:#?}");
    assert!(load(&listener(", proxy_protocol: require")).is_ok());
}
