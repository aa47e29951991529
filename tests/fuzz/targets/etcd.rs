//! What etcd's gateway answers: a load, then a watch, however it is cut.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prometheus::Registry;
use serde_json::Value;
use wsluice::config::{EndpointConfig, load_endpoint};
use wsluice::discovery::EndpointSink;
use wsluice::discovery::etcd::EtcdReplay;
use wsluice::discovery::metrics::Metrics;

use super::endpoints::written;
use super::{Target, choices, pieces};

pub const TARGET: Target = Target { name: "etcd", run, seeds: SEEDS, tokens: TOKENS };

/// Choices (cut), the answer to a load, `!`, the lines of a watch. What stands between `<` and `>` goes in base64.
const SEEDS: &[&[u8]] = &[
    br#"0{"header":{"revision":"7"},"kvs":[{"key":"</a/1>","mod_revision":"5","value":"<ws://10.0.0.1:9000>"}],"count":"1"}!{"result":{"events":[{"kv":{"key":"</a/2>","mod_revision":"9","value":"<{url: ws://b:1, weight: 2}>"}},{"type":"DELETE","kv":{"key":"</a/1>","mod_revision":"9"}}]}}
"#,
    br#"1{"header":{"revision":"1"}}!{"result":{"created":true}}
{"result":{"canceled":true,"cancel_reason":"x"}}
"#,
    br#"2{"header":{"revision":"1"},"kvs":[{"key":"<k>","value":"<{\"url\":\"wss://h\",\"max_connections\":5,\"zone\":\"a\",\"priority\":1}>"},{"key":"<l>","value":"<nonsense>"}]}!{"error":{"message":"m"}}
"#,
];
const TOKENS: &[&[u8]] = &[
    b"<",
    b">",
    b"!",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\"kvs\":[",
    b"\"key\":\"<k>\"",
    b"\"value\":\"<ws://a>\"",
    b"\"count\":\"1\"",
    b"\"1\"",
    b"\"-1\"",
    b"9223372036854775808",
    b"null",
    b"true",
    b"1e99",
    b"\\u0000",
    b"\"type\":\"PUT\",",
    b"\"type\":\"DELETE\",",
    b"\"type\":\"X\",",
    b"ws://",
    b"wss://a:1",
    b"&a ",
    b"*a",
    b"!!str ",
    b"weight: 0",
    b"max_connections: 0",
    b"unix:/x",
    b"- ",
    b"\xff",
    b"\xef\xbb\xbf",
    b"{\"result\":{\"events\":[",
    b"]}}\n",
];

/// What stands between `<` and `>`, in base64.
fn filled(template: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let mut rest = template;
    while let Some(start) = rest.iter().position(|byte| *byte == b'<') {
        out.extend_from_slice(&rest[..start]);
        rest = &rest[start + 1..];
        let Some(end) = rest.iter().position(|byte| *byte == b'>') else { break };
        out.extend(BASE64.encode(&rest[..end]).bytes());
        rest = &rest[end + 1..];
    }
    out.extend_from_slice(rest);
    out
}

fn outlet() -> EndpointSink {
    let metrics = Metrics::register(&Registry::new()).expect("no name is taken").upstream("u", "etcd");
    EndpointSink::new("u", true, metrics, Box::new(|_| Ok(vec![]))).0
}

fn run(data: &[u8]) {
    let Some(([cut], template)) = choices(data) else { return };
    let (load, watch) = template.split_at(template.iter().position(|byte| *byte == b'!').unwrap_or(template.len()));
    let (load, watch) = (filled(load), filled(watch.get(1..).unwrap_or_default()));
    let mut outlet = outlet();
    let (mut whole, mut in_pieces) = (EtcdReplay::default(), EtcdReplay::default());
    let loaded = whole.load(&load, &mut outlet);
    assert_eq!(in_pieces.load(&load, &mut outlet).is_ok(), loaded.is_ok());
    match loaded {
        Ok(()) => assert_eq!(whole.endpoints(), told(&load)),
        Err(trouble) => {
            assert_eq!(whole.endpoints(), []);
            assert!(trouble.detail.len() < 2000, "a line of the log has {} bytes", trouble.detail.len());
        }
    }
    let watched = whole.watch(&watch, &mut outlet).map_err(|trouble| trouble.reason);
    let in_turn = pieces(&watch, cut).into_iter().try_for_each(|piece| in_pieces.watch(piece, &mut outlet));
    assert_eq!(in_turn.map_err(|trouble| trouble.reason), watched, "cut into pieces");
    assert_eq!(in_pieces.endpoints(), whole.endpoints(), "cut into pieces");
    for endpoint in whole.endpoints() {
        let text = written(&endpoint).to_string();
        assert_eq!(load_endpoint("again", &text).as_ref().map_err(ToString::to_string), Ok(&endpoint), "{text}");
    }
}

/// The endpoints that a good answer names, by key.
fn told(answer: &[u8]) -> Vec<EndpointConfig> {
    // What is not looked at may be no text.
    let answer: Value = serde_json::from_str(&String::from_utf8_lossy(answer)).unwrap_or_default();
    let mut keys: BTreeMap<Vec<u8>, Option<EndpointConfig>> = BTreeMap::new();
    for kv in answer["kvs"].as_array().into_iter().flatten() {
        let bytes = |name: &str| BASE64.decode(kv[name].as_str().unwrap_or_default()).expect("it was understood");
        let text = String::from_utf8(bytes("value")).ok();
        keys.insert(bytes("key"), text.and_then(|text| load_endpoint("k", &text).ok()));
    }
    keys.into_values().flatten().collect()
}
