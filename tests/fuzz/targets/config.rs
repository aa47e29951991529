//! The configuration: any text is read or refused, in words that point into it; what is read is shown and read again.

use wsluice::config::{ConfigErrors, Loaded, load_sent, load_str};

use super::Target;

pub const TARGET: Target = Target {
    name: "config",
    run,
    seeds: &[
        include_bytes!("../../../config/minimal.yaml"),
        include_bytes!("../../../config/hash.yaml"),
        include_bytes!("../../../config/rebalance.yaml"),
        include_bytes!("../../../config/sticky.yaml"),
        include_bytes!("../../../config/storm.yaml"),
        include_bytes!("../../../config/zones.yaml"),
        b"routes: [{name: r, upstream: u, match: {path: {prefix: /a}, hosts: [a.example]}, timeouts: {idle: 5m}, limits: {message: 1MiB}}]\nupstreams: {u: {endpoints: ['ws://127.0.0.1:1', {url: 'wss://b:2', weight: 2}]}}\n",
        b"zone: &a x\nroutes:\n- {name: *a, upstream: u, origins: {allow: ['*']}, keepalive: {ping: 30s, pong: 10s}}\nupstreams:\n  u: {balance: least_connections, endpoints: [\"ws://${H:-a}:1\"], health: {tcp: {every: 5s}}}\n",
        b"listeners: [{name: l, bind: '127.0.0.1:0', timeouts: {headers: 10s}, trusted_proxies: [10.0.0.0/8]}]\nroutes: [{name: r, upstream: u}]\nupstreams: {u: {endpoints: ['unix:/x']}}\nadmin: {bind: '127.0.0.1:9902'}\nlog: {level: info}\n",
    ],
    tokens: &[
        b"&a ", b"*a", b"<<: *a", b"- ", b"\n", b"  ", b": ", b", ", b"[", b"]", b"{", b"}", b"'", b"\"", b"|\n", b">-\n", b"#", b"!!str ", b"!x ", b"%YAML 1.2\n---\n", b"---\n",
        b"...\n", b"? ", b"~", b"null", b"true", b"0x1F", b"1e3", b".nan", b"-1", b"18446744073709551616", b"${A}", b"${A:-b}", b"$$", b"\xc3\xa9", b"\xe2\x80\xa8",
        b"\xef\xbb\xbf", b"\\u0000", b"\t", b"\r", b"\0", b"routes:", b"upstreams:", b"listeners:", b"endpoints:", b"name: r", b"upstream: u", b"5m", b"0s", b"1MiB", b"off",
        b"match:", b"path: {prefix: /}", b"path: {regex: '(a+)+'}", b"hosts: ['*.a']", b"origins:", b"headers: {request: {set: {X: y}}}", b"discover: {dns: {name: a, port: 1}}",
        b"discover: {file: {path: x}}", b"sticky:", b"cookie:", b"tls: {certificates: [{cert: c, key: k}]}", b"on_upstream_lost: {close: 1012}", b"rewrite: {strip_prefix: /a}", b"rewrite: {regex: /(.*), with: /$1}", b"redirect: 'https://{request.host}/?{request.query}'", b"respond: {body: '{{{client.ip}'}",
    ],
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| (name == "A").then(|| "from: outside".to_owned());
    let loaded = load_str("fuzz.yaml", text, &env);
    match &loaded {
        Ok(loaded) => again(loaded, &env),
        Err(errors) => judge(text, errors),
    }
    // What is sent may have no aliases; all else is the same.
    match (load_sent("fuzz.yaml", text, &env), &loaded) {
        (Ok(sent), Ok(loaded)) => assert_eq!((sent.hash(), sent.file), (loaded.hash(), loaded.file.clone())),
        (Ok(_), Err(errors)) => panic!("it may be sent but not read: {errors}"),
        (Err(errors), loaded) => {
            judge(text, &errors);
            assert!(loaded.is_err() || text.contains('*'), "{errors}");
        }
    }
}

/// What is wrong is told where it is, and in few words.
pub(super) fn judge(text: &str, errors: &ConfigErrors) {
    let (lines, longest) = (text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count(), text.chars().count());
    assert!(!errors.findings().is_empty() && errors.findings().len() <= 50);
    for finding in errors.findings() {
        assert!(!finding.message.is_empty());
        assert!(finding.line.is_none_or(|line| (1..=lines + 1).contains(&line)), "{finding:?} of {lines} lines");
        assert!(finding.col.is_none_or(|col| (1..=longest + 1).contains(&col)), "{finding:?} of {longest} characters");
        assert_eq!(finding.line.is_some(), finding.col.is_some(), "{finding:?}");
    }
    let told = errors.to_string();
    assert!(told.len() <= 256 << 10, "{} bytes are told", told.len());
    let is_harmless = |c: char| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
    assert!(told.chars().all(is_harmless), "{told:?}");
}

/// What is shown says the same, where nothing is masked.
fn again(loaded: &Loaded, env: &dyn Fn(&str) -> Option<String>) {
    let shown = serde_json::to_string(&loaded.shown()).expect("what is shown is JSON");
    if shown.contains("***") {
        return;
    }
    match load_str("shown", &shown, env) {
        Ok(again) => {
            assert_eq!(again.file, loaded.file, "{shown}");
            assert_eq!(again.hash(), loaded.hash(), "{shown}");
        }
        Err(errors) => panic!("what is shown is refused: {errors}"),
    }
}
