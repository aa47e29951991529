//! Values from the environment appear in no message, wherever they stand and however wrong they are.

use super::full::FULL;
use crate::config::read::survey::Aliases;
use crate::config::*;

/// The file with scalar number `nth` as `${SECRET}`, or nothing if there are not so many.
fn with_secret(nth: usize) -> Option<String> {
    let mut tree = crate::config::read::tree::parse(FULL, Aliases::Allowed).unwrap().tree;
    let mut count = 0;
    crate::config::read::tree::tests::for_each_scalar(&mut tree, &mut |node| {
        if count == nth {
            *node = crate::config::read::tree::YamlNode::Text { text: "${SECRET}".to_owned(), raw: None };
        }
        count += 1;
    });
    (nth < count).then(|| crate::config::read::tree::tests::to_yaml(&tree))
}

#[test]
fn no_message_contains_what_the_environment_says() {
    for secret in [
        "hunter2-&?[x",
        "s3cr3tpassword",
        "/sekrit",
        "987654321987",
        "chatt",
        "ws://sekrit:1/x",
        "0.0.0.0:31337",
        "transfer-encoding",
    ] {
        let mut refused = 0;
        for nth in 0.. {
            let Some(text) = with_secret(nth) else { break };
            let env = |name: &str| (name == "SECRET").then(|| secret.to_owned());
            let said = match load_str("secret.yaml", &text, &env) {
                Ok(loaded) => loaded.warnings.iter().map(Finding::to_string).collect::<String>(),
                Err(errors) => {
                    refused += 1;
                    format!("{errors} {errors:?}")
                }
            };
            assert!(!said.contains(secret), "{secret} is told:\n{said}");
            // The file itself says `encodings`.
            let is_told = |part: &&str| part.len() > 3 && !["0.0.0.0", "encoding"].contains(part);
            for part in secret.split([':', '/', '-', '?']).filter(is_told) {
                assert!(!said.contains(part), "{part} of {secret} is told:\n{said}");
            }
        }
        assert!(refused > 20, "{secret} is refused in {refused} places only");
    }
}

#[test]
fn a_value_from_outside_is_told_by_its_name_and_what_it_should_be() {
    let text = with_secret(2).unwrap();
    assert!(text.contains("\"zone\": \"${SECRET}\""), "{text}");
    let text = FULL.replace("idle: 5m", "idle: '${IDLE}'");
    let errors = load_str("a.yaml", &text, &|_| Some("soon".to_owned())).unwrap_err();
    let finding = &errors.findings()[0];
    assert_eq!(finding.message, "the environment's value of `${IDLE}` cannot be used here");
    assert_eq!(finding.help.as_deref(), Some("it should be a duration such as `30s`, `5m` or `1h30m`, or `off`"));
}

#[test]
fn what_is_shown_contains_nothing_that_the_environment_says() {
    for secret in
        ["s3cr3tpassword", "/sekrit", "4711", "wss://sekrit:4711", "sekrit.example.com", "s3cr3t.s3cr3t-01234"]
    {
        let mut accepted = 0;
        for nth in 0.. {
            let Some(text) = with_secret(nth) else { break };
            let env = |name: &str| (name == "SECRET").then(|| secret.to_owned());
            let Ok(loaded) = load_str("secret.yaml", &text, &env) else { continue };
            accepted += 1;
            let shown = loaded.shown().to_string();
            assert!(!shown.contains(secret) && !shown.contains("sekrit"), "{secret} is shown:\n{shown}");
            assert!(shown.contains("${SECRET}"), "what was written is not shown:\n{shown}");
        }
        assert!(accepted > 5, "{secret} is accepted in {accepted} places only");
    }
}

#[test]
fn secrets_in_the_file_are_not_shown_either() {
    let text = "\
routes:
  - name: a
    upstream: a
    match: { headers: { X-Api-Key: SECRET, X-B: plain }, query: { access_token: { regex: SECRET }, q: plain } }
    headers: { request: { set: { Authorization: Bearer SECRET, X-C: plain } }, response: { set: { Set-Cookie: SECRET } } }
upstreams:
  a:
    endpoints: [ws://a:1]
    sticky: { cookie: srv, secrets: [SECRETSECRETSECRETSECRETSECRETSECRET, '${S:-SECRETSECRETSECRETSECRETSECRETSECRET}'] }
    health: { websocket: { path: '/ws?token=SECRET&plain=1', headers: { Cookie: SECRET } } }
  b: { discover: { etcd: { servers: ['http://a:1'], prefix: /a, user: me, password: SECRET } } }
shared: { redis: { url: 'rediss://SECRET:SECRET@a' } }
admin: { bind: '127.0.0.1:9902', token: SECRETSECRETSECRET }
";
    let loaded = load_str("secret.yaml", text, &|_| None).unwrap();
    let shown = loaded.shown();
    assert!(!shown.to_string().contains("SECRET"), "{shown:#}");
    let at = |pointer: &str| shown.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing in {shown:#}"));
    for (pointer, value) in [
        ("/routes/0/match/headers/x-api-key", "***"),
        ("/routes/0/match/headers/x-b", "plain"),
        ("/routes/0/match/query/access_token/regex", "***"),
        ("/routes/0/match/query/q", "plain"),
        ("/routes/0/headers/request/set/authorization", "***"),
        ("/routes/0/headers/request/set/x-c", "plain"),
        ("/routes/0/headers/response/set/set-cookie", "***"),
        ("/upstreams/a/sticky/secrets/0", "***"),
        ("/upstreams/a/sticky/secrets/1", "***"),
        ("/upstreams/a/health/websocket/path", "/ws?token=***&plain=1"),
        ("/upstreams/a/health/websocket/headers/cookie", "***"),
        ("/upstreams/b/discover/etcd/password", "***"),
        ("/upstreams/b/discover/etcd/user", "me"),
        ("/shared/redis/url", "rediss://***@a:6379/0"),
        ("/admin/token", "***"),
    ] {
        assert_eq!(at(pointer), value, "{pointer}");
    }
}

#[test]
fn what_is_shown_has_the_defaults_filled_in() {
    let loaded = load_str("a.yaml", super::FRAME, &|_| None).unwrap();
    let shown = loaded.shown();
    let at = |pointer: &str| shown.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing in {shown:#}"));
    assert_eq!(at("/listeners/0/bind"), "127.0.0.1:8080");
    assert_eq!(at("/routes/0/keepalive/ping"), "30s");
    assert_eq!(at("/routes/0/on_change"), "keep");
    assert_eq!(at("/upstreams/chat/endpoints/0/url"), "ws://a:1");
    assert_eq!(at("/upstreams/chat/ejection/time"), "10s");
    assert_eq!(at("/watch"), true);
    assert!(shown.get("admin").is_none() && shown.pointer("/listeners/0/tls").is_none(), "what is not set is left out");
}
