//! Broken files and their messages; the module is tested from outside, as a user meets it.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod addresses;
mod auth;
mod broken;
mod defaults;
mod equal;
mod examples;
mod full;
mod guesses;
mod include;
mod per_client;
mod rates;
mod secrets;
mod single_server;

use proptest::prelude::*;

use super::*;
use crate::config::read::secret_lines;

/// Loads `text` without an environment.
fn load(text: &str) -> Result<Loaded, ConfigErrors> {
    load_str("wsluice.yaml", text, &|_| None)
}

/// The smallest valid file; tests add to it.
const FRAME: &str = "\
routes:
  - name: chat
    upstream: chat
upstreams:
  chat:
    endpoints: [ws://a:1]
";

#[test]
fn what_a_file_leaves_out_has_the_default_of_its_doc() {
    let file = load(FRAME).unwrap().file;
    assert_eq!((file.version, file.workers, file.admin.is_none()), (1, Workers::Auto, true));
    assert_eq!(file.listeners[0].bind.to_string(), "127.0.0.1:8080");
    assert_eq!(file.listeners[0].timeouts.headers.to_string(), "10s");
    assert_eq!(file.listeners[0].limits.header_bytes.to_string(), "16KiB");
    let route = &file.routes[0];
    assert_eq!(route.keepalive.ping.to_string(), "30s");
    assert_eq!((route.timeouts.idle, route.limits.message), (OrOff::Off, OrOff::Off));
    assert_eq!((route.http, route.validate), (PlainHttp::Proxy, Validate::Lenient));
    assert_eq!(file.log.level.as_str(), "info");
    assert_eq!(file.drain.time.duration().as_secs(), 30);
}

#[test]
fn a_blind_pipe_sends_no_pings_by_default() {
    let file = load(&FRAME.replace("name: chat", "name: chat\n    validate: off")).unwrap().file;
    assert_eq!(file.routes[0].keepalive.ping, OrOff::Off);
}

#[test]
fn the_environment_fills_in_strings_numbers_and_booleans() {
    let text = "\
workers: ${WORKERS}
listeners: [{ name: '${NAME:-public}', bind: '127.0.0.1:${PORT}', limits: { headers: '${HEADERS}' } }]
log: { access: '${ACCESS}', level: '${LEVEL:-debug}' }
routes:
  - name: chat
    upstream: chat
    headers: { request: { set: { X-Number: '${HEADERS}' } } }
    limits: { message: '${SIZE}', connections: '${HEADERS}' }
upstreams: { chat: { endpoints: ['ws://${NAME:-a}:${PORT}'] } }
";
    let env = |name: &str| match name {
        "WORKERS" => Some("3".to_owned()),
        "PORT" => Some("9000".to_owned()),
        "HEADERS" => Some("50".to_owned()),
        "ACCESS" => Some("false".to_owned()),
        "SIZE" => Some("64KiB".to_owned()),
        _ => None,
    };
    let file = load_str("env.yaml", text, &env).unwrap().file;
    assert_eq!(file.workers, Workers::Count(3));
    assert_eq!((file.listeners[0].name.as_str(), file.listeners[0].limits.headers), ("public", 50));
    assert_eq!((file.log.access, file.log.level.as_str()), (false, "debug"));
    assert_eq!(file.routes[0].limits.message.bytes(), Some(65_536));
    assert_eq!(file.routes[0].limits.connections, Some(50));
    assert_eq!(file.routes[0].headers.request.set.iter().next().unwrap().1.to_string(), "50");
    assert_eq!(file.upstreams["chat"].endpoints[0].url.to_string(), "ws://a:9000");
}

#[test]
fn configured_header_values_are_not_in_debug_output() {
    let text =
        FRAME.replace("name: chat", "name: chat\n    headers: { request: { set: { Authorization: Bearer hunter2 } } }");
    assert!(!format!("{:?}", load(&text).unwrap().file).contains("hunter2"));
}

#[test]
fn an_alias_repeats_a_whole_value() {
    let text = "\
routes:
  - { name: a, match: { path: { exact: /a } }, upstream: a, timeouts: &times { idle: 5m } }
  - { name: b, upstream: a, timeouts: *times }
upstreams: { a: { endpoints: [ws://a:1] } }
";
    let file = load(text).unwrap().file;
    assert_eq!(file.routes[1].timeouts.idle.to_string(), "5m");
}

#[test]
fn maps_are_merged_and_anchors_have_a_place() {
    let text = "\
x-routes:
  - &chat { upstream: chat, timeouts: &times { idle: 5m, lifetime: 1h }, http: reject }
x-more: &more { upstream: nowhere, validate: strict }
x-nothing: ${UNSET}
routes:
  - { <<: [*chat, *more], name: a, match: { path: { exact: /a } } }
  - name: b
    <<: *chat
    http: proxy
    timeouts: { <<: *times, idle: 1m }
upstreams: { chat: { endpoints: [ws://a:1] } }
";
    let plain = "\
routes:
  - { name: a, match: { path: { exact: /a } }, upstream: chat, timeouts: { idle: 5m, lifetime: 1h }, http: reject, validate: strict }
  - { name: b, upstream: chat, timeouts: { idle: 1m, lifetime: 1h } }
upstreams: { chat: { endpoints: [ws://a:1] } }
";
    assert!(load(text).unwrap().file == load(plain).unwrap().file);
    // What is wrong there is told once, where it is written.
    let said = |text: &str| {
        broken::said(text).iter().map(|one| one.split(": ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(said(&text.replace("lifetime: 1h", "lifetime: never")), ["2:68 routes[0].timeouts.lifetime"]);
    assert_eq!(said(&text.replace("{ upstream: chat,", "{ upstream: nobody,")), ["2:23 routes[0].upstream"]);
}

#[test]
fn the_report_shows_the_line_and_what_would_be_right() {
    let report = load(&FRAME.replace("upstream: chat", "upstream: caht")).unwrap_err().to_string();
    let expected = "\
error: routes[0].upstream: there is no upstream `caht`
 --> wsluice.yaml:3:15
  |
3 |     upstream: caht
  |               ^^^^
  |
  = help: did you mean `chat`?

1 error in wsluice.yaml";
    assert_eq!(report, expected);
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.yaml");
    let message = |path: &std::path::Path| load_file(path, &|_| None).unwrap_err().findings()[0].message.clone();
    assert!(message(&path).starts_with("the file cannot be read: "));
    std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    assert_eq!(message(&path), "the file is not UTF-8 text (line 2)");
    std::fs::write(&path, b"\xff\xfea\0:\0").unwrap();
    assert_eq!(message(&path), "the file is UTF-16 text, as some programs on Windows write it: save it as UTF-8");
    std::fs::write(&path, vec![b'#'; (FILE_BYTES_MAX + 1) as usize]).unwrap();
    assert_eq!(message(&path), "the file is larger than 1MiB");
}

#[test]
fn a_file_is_read_as_editors_on_windows_write_it() {
    let plain = load(FRAME).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("it.yaml");
    for text in [format!("\u{feff}{FRAME}"), FRAME.replace('\n', "\r\n"), format!("\u{feff}---\r\n{FRAME}")] {
        assert_eq!(load(&text).unwrap().file, plain.file);
        std::fs::write(&path, &text).unwrap();
        assert_eq!(load_file(&path, &|_| None).unwrap().file, plain.file);
    }
    // Positions are those that an editor shows.
    let error = load(&format!("\u{feff}{}", FRAME.replace("upstream: chat", "upstream: caht"))).unwrap_err();
    assert_eq!(error.findings()[0].line, Some(3));
    let behind = load(&format!("---\n\u{feff}{FRAME}")).unwrap_err();
    let finding = &behind.findings()[0];
    assert_eq!((finding.message.as_str(), finding.line), ("there is a byte order mark (U+FEFF) in this line", Some(2)));
    let twice = load("\u{feff}a: 1\n\u{feff}b: 2\n").unwrap_err();
    let finding = &twice.findings()[0];
    assert_eq!((finding.message.as_str(), finding.line), ("there is a byte order mark (U+FEFF) in this line", Some(2)));
}

#[test]
fn files_that_would_take_forever_are_refused_at_once() {
    for (text, problem) in [
        ("{a: ".repeat(1 << 18), "too many brackets are open at once"),
        ("- ".repeat(1 << 18), "the file is nested too deep"),
        ("a: &a [*a]\n".to_owned(), "the file is nested too deep"),
        (bomb(), "the file unfolds to too many values"),
    ] {
        let errors = load(&text).unwrap_err();
        assert_eq!(errors.findings()[0].message, problem);
    }
}

#[test]
fn what_would_become_too_large_is_refused_at_its_place() {
    let upstreams = "upstreams: { a: { endpoints: [ws://a:1] } }\n";
    let routes = |count: usize, more: &str| {
        let route = |number: usize| format!("- {{ name: r{number}, upstream: a{more} }}\n");
        format!("{upstreams}routes:\n{}", (0..count).map(route).collect::<String>())
    };
    let listeners = |count: usize| -> String {
        (0..count).map(|number| format!("- {{ name: l{number}, bind: '127.0.0.1:{}' }}\n", number + 1)).collect()
    };
    let regex = ", match: { path: { regex: '/\\w{900}' } }";
    for (text, at, problem) in [
        (routes(20_001, ""), Some((2, 1)), "there are 20001 routes, more than 20000"),
        (
            format!("{}listeners:\n{}", routes(1, ""), listeners(1001)),
            Some((4, 1)),
            "there are 1001 listeners, more than 1000",
        ),
        (
            format!("{}listeners:\n{}", routes(1001, ""), listeners(100)),
            Some((1004, 1)),
            "1001 routes for each of 100 listeners are 100100, more than 100000",
        ),
        (routes(9, regex), None, "the regexes up to this one take more than 16MiB compiled"),
        (
            format!("x: &x {}\ny: [{}]", "y".repeat(1 << 18), "*x,".repeat(30)),
            Some((2, 59)),
            "the file unfolds to too many values",
        ),
        (format!("x: [{}]", "a,".repeat(250_000)), Some((1, 499_999)), "the file has too many values"),
        ("%TAG !e! tag:e:\n---\nx: !e!x y".to_owned(), Some((1, 1)), "directives (`%TAG`) have no meaning here"),
    ] {
        let errors = load(&text).unwrap_err();
        let first = &errors.findings()[0];
        assert_eq!(first.message, problem);
        if at.is_some() {
            assert_eq!(first.line.zip(first.col), at, "{problem}");
        }
    }
    let sent = load_sent("request", "x: &x y\ny: [a, *x]\n", &|_| None).unwrap_err();
    let first = &sent.findings()[0];
    assert_eq!(
        (first.message.as_str(), first.line, first.col),
        ("aliases (`*name`) are not followed here", Some(2), Some(8))
    );
}

#[test]
fn warnings_hide_no_error_behind_them() {
    let routes: String = (0..100).map(|number| format!("- {{ name: r{number}, upstream: a }}\n")).collect();
    let text = format!("routes:\n{routes}upstreams: {{ a: {{ endpoints: [ws://a:1, ws://a:1] }} }}\n");
    let errors = load(&text).unwrap_err();
    assert_eq!(errors.findings().len(), 1);
    assert!(errors.findings()[0].message.contains("the same endpoint"), "{errors}");
    // All warnings are about the first routes; nobody reads more of them.
    let right = load(&text.replace(", ws://a:1]", "]")).unwrap();
    assert_eq!(right.warnings.len(), 50);
}

#[test]
fn what_a_mistake_quotes_is_told_by_its_beginning() {
    let long = "x y".repeat(100_000);
    for text in [
        FRAME.replace("name: chat", &format!("name: '{long}'")),
        FRAME.replace("upstream: chat", &format!("upstream: '{long}'")),
        FRAME.replace("name: chat", &format!("'{long}': chat")),
        FRAME.replace("ws://a:1", &format!("'{long}'")),
    ] {
        let report = load(&text).unwrap_err().to_string();
        assert!(report.len() < 10_000, "{}", &report[..2000]);
    }
}

/// Nine levels of nine aliases each: 9⁹ values in half a kilobyte.
fn bomb() -> String {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..9 {
        let alias = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 9].join(", ")));
    }
    text
}

/// Changes a file as a user might: cuts, duplicates, replaces.
fn mutate(text: &str, edits: &[(prop::sample::Index, u8, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, kind, with) in edits {
        let at = at.index(chars.len() + 1);
        let to = chars.len().min(at + usize::from(kind >> 2));
        match kind & 3 {
            0 => drop(chars.drain(at..to)),
            1 => drop(chars.splice(at..at, with.chars())),
            2 => drop(chars.splice(at..to, with.chars())),
            _ => {
                let copy = chars[at..to].to_vec();
                chars.splice(at..at, copy);
            }
        }
    }
    chars.into_iter().collect()
}

fn positions_are_inside(text: &str, errors: &ConfigErrors) -> Result<(), TestCaseError> {
    prop_assert!(!errors.findings().is_empty());
    for finding in errors.findings() {
        prop_assert!(!finding.message.is_empty());
        if let (Some(line), Some(col)) = (finding.line, finding.col) {
            let shown = secret_lines::lines(text).nth(line - 1);
            prop_assert!(
                shown.is_some_and(|shown| col >= 1 && col <= shown.chars().count() + 1),
                "{line}:{col} of {text:?}"
            );
        }
    }
    Ok(())
}

/// What a slip of the finger may leave behind.
const SLIP: &str = "\\PC{0,4}|[\\n :\\-{}$\"'*&!0-9]{0,4}";

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_loading_panic(text in "\\PC{0,60}|[a-c:\\-\\[\\]{}&*!'\"#|>\\n\\r\\t ${}\u{85}\u{2028}]{0,60}") {
        if let Err(errors) = load(&text) {
            positions_are_inside(&text, &errors)?;
        }
    }

    #[test]
    fn no_slip_in_an_example_makes_loading_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), SLIP), 1..4),
    ) {
        let text = mutate(include_str!("../../../config/multi-route.yaml"), &edits);
        match load(&text) {
            Ok(_) => {}
            Err(errors) => positions_are_inside(&text, &errors)?,
        }
    }
}
