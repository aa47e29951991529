//! Two files are equal if they say the same, and differ as soon as one thing does.

use std::collections::HashSet;

use super::full::FULL;
use super::load;
use crate::config::read::survey::Aliases;
use crate::config::read::tree::{self, YamlNode};
use crate::config::*;

/// Returns `FULL` in another order, with comments and in another notation.
fn otherwise() -> String {
    fn turn(node: &mut YamlNode) {
        match node {
            // The order of lists counts.
            YamlNode::List(nodes) => nodes.iter_mut().for_each(turn),
            YamlNode::Map(entries) => {
                entries.reverse();
                entries.iter_mut().for_each(|(_, node)| turn(node));
            }
            YamlNode::Text { text, .. } => {
                for (written, same) in
                    [("60s", "1m"), ("5m", "300s"), ("1h", "60m"), ("1MiB", "1024KiB"), ("move 20m", "move  1200s")]
                {
                    if text == written {
                        *text = same.to_owned();
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    let mut tree = tree::parse(FULL, Aliases::Allowed).unwrap().tree;
    turn(&mut tree);
    format!("# The same.\n\n{} # Nothing else.\n", tree::tests::to_yaml(&tree))
}

#[test]
fn order_comments_and_notation_do_not_matter() {
    let (one, other) = (load(FULL).unwrap(), load(&otherwise()).unwrap());
    assert!(one.file == other.file);
    assert_eq!(one.hash(), other.hash());
}

#[test]
fn a_default_is_equal_to_the_same_written_out() {
    let one = load("routes: [{ name: a, upstream: a }]\nupstreams: { a: { endpoints: [ws://a:80] } }").unwrap();
    let other = load(
        "watch: true\non_upgrade: move\nlisteners: [{ name: default, bind: '127.0.0.1:8080' }]\n\
         routes: [{ name: a, upstream: a, on_change: keep, origins: {}, limits: { message: off } }]\n\
         upstreams: { a: { balance: least_connections, endpoints: [{ url: 'http://A', weight: 1 }] } }",
    )
    .unwrap();
    assert!(one.file == other.file);
    assert_eq!(one.hash(), other.hash());
    assert!(one.hash().len() == 64 && one.hash().bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
}

#[test]
fn what_is_shown_of_routes_is_read_as_the_same() {
    let text = "\
routes:
  - { name: gone, match: { path: { exact: /gone } }, redirect: /new }
  - { name: old, match: { path: { prefix: /old } }, redirect: { to: '/{rewrite.path}', status: 308 }, rewrite: { strip_prefix: /old } }
  - { name: well, match: { path: { exact: /well } }, respond: { status: 200, body: '{{{client.ip}' } }
  - name: a
    upstream: a
    rewrite: { regex: '/a/(.*)', with: '/$1' }
    headers: { send: [x-real-ip], response: { set: { X-A: '{request.id}' } } }
    error_pages: { 5XX: a.html }
upstreams: { a: { endpoints: ['ws://a:1'] } }
";
    let one = load(text).unwrap();
    let other = load(&one.shown().to_string()).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(one.file == other.file);
    assert_eq!(one.hash(), other.hash());
}

#[test]
fn what_is_shown_of_discovered_endpoints_is_read_as_the_same() {
    let one =
        load("routes: [{ name: a, upstream: a }]\nupstreams: { a: { discover: { file: { path: a.yaml } } } }").unwrap();
    let other = load(&one.shown().to_string()).unwrap();
    assert!(one.file == other.file);
    assert_eq!(one.hash(), other.hash());
}

/// What may stand in place of `node`; that of the right kind for the key is kept.
fn others(node: &YamlNode) -> Vec<YamlNode> {
    const WORDS: &[&str] = &[
        "h2",
        "X-Forwarded-Port",
        "Cookie",
        "Authorization",
        "3",
        "moved",
        "999ms",
        "x",
        "1.3",
        "12345",
        "debug",
        "off",
        "optional",
        "human",
        "reject",
        "allow",
        "kept",
        "close",
        "refuse",
        "wss",
        "zstd",
        "ipv6",
        "never",
        "strict",
        "random_two",
        "cookie:a",
        "127.0.0.9:9",
        "10.0.0.6",
        "deny",
        "11.0.0.0/8",
        "300-399",
        "7s",
        "7%",
        "130%",
        "7KiB",
        "https://z.example.com",
        "ws://z:9",
        "rediss://z:9",
        "/z",
        "merge",
        "border",
        "ignore",
        "drop",
        "delay",
        "plain",
        "PUT",
        "PS512",
        "ES384",
        "HS384",
        "HS512",
        "0f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ];
    match node {
        YamlNode::Bool(value) => vec![YamlNode::Bool(!value)],
        YamlNode::Unsigned(value) => vec![YamlNode::Unsigned(value + 1)],
        YamlNode::Text { text, .. } => {
            let near = [format!("{text}z"), format!("9{text}")];
            let words = WORDS.iter().map(|word| (*word).to_owned()).chain(near);
            words.map(|text| YamlNode::Text { text, raw: None }).collect()
        }
        other => panic!("{other:?} stands in the full file"),
    }
}

/// Calls `visit` with `FULL` and each change of one of its scalars that makes another file which can be loaded.
fn for_each_change(mut visit: impl FnMut(&str, &Loaded)) {
    let whole = tree::parse(FULL, Aliases::Allowed).unwrap().tree;
    let mut scalars = Vec::new();
    tree::tests::for_each_scalar(&mut whole.clone(), &mut |node| scalars.push(node.clone()));
    for (nth, scalar) in scalars.iter().enumerate() {
        let mut loaded = 0;
        for other in others(scalar) {
            // Two changes of each are enough.
            if other == *scalar || loaded == 2 {
                continue;
            }
            let (mut tree, mut at) = (whole.clone(), 0);
            tree::tests::for_each_scalar(&mut tree, &mut |node| {
                if at == nth {
                    *node = other.clone();
                }
                at += 1;
            });
            let text = tree::tests::to_yaml(&tree);
            if let Ok(changed) = load(&text) {
                loaded += 1;
                visit(&format!("{scalar:?} as {other:?}"), &changed);
            }
        }
        // There is only one version, a route names the listener, and all other places of a token have a name.
        let text = |text: &str| YamlNode::Text { text: text.to_owned(), raw: None };
        let is_fixed = [YamlNode::Unsigned(1), text("public"), text("authorization")];
        assert!(loaded > 0 || is_fixed.contains(scalar), "nothing can stand in place of {scalar:?}");
    }
}

#[test]
fn a_change_of_any_value_is_a_change() {
    let whole = load(FULL).unwrap();
    let mut hashes = HashSet::from([whole.hash()]);
    let (mut changes, mut secrets) = (0, vec![]);
    for_each_change(|what, changed| {
        changes += 1;
        assert!(changed.file != whole.file, "{what} changes nothing");
        if changed.shown() == whole.shown() {
            assert_eq!(changed.hash(), whole.hash(), "the hash tells of {what}");
            secrets.push(what.split('"').nth(1).unwrap().to_owned());
        } else {
            assert!(hashes.insert(changed.hash()), "{what} has the hash of another file");
        }
    });
    assert!(changes > 150, "{changes}");
    secrets.dedup();
    // Values of headers and parameters that may be credentials, secrets of tokens and cookies, the password of etcd, the token.
    let secret = "0123456789abcdef".repeat(4);
    let all = [
        "c",
        "Bearer z",
        &secret,
        "0123456789abcdef0123456789abcdef",
        "/ws?token=s",
        "c",
        "k",
        "me",
        "0123456789abcdefg",
    ];
    assert_eq!(secrets, all);
}

#[test]
fn the_files_that_a_file_names_are_known() {
    let named = |text: &str| {
        let paths = load(text).unwrap().file.files().into_iter();
        paths.map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    let all =
        "a.crt a.key c.crt d.crt down.html e.crt e.key k.pem oops.html page.html s.txt secrets.txt users.htpasswd";
    let all: Vec<&str> = all.split(' ').collect();
    assert_eq!(named(FULL), all, "sorted, each once, without the file of discovery");
    let text = FULL.replace("token: 0123456789abcdefg", "token_file: token.txt");
    let mut with_token = [all.as_slice(), &["token.txt"]].concat();
    with_token.sort_unstable();
    assert_eq!(named(&text), with_token);
}
