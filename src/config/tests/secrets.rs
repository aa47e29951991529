//! What came from the environment is in no message, wherever it stands and however wrong it is there.

use super::super::*;
use super::full::FULL;

/// The file with scalar number `nth` as `${SECRET}`, or nothing if there are not so many.
fn with_secret(nth: usize) -> Option<String> {
    let mut tree = tree::parse(FULL).unwrap().tree;
    let mut count = 0;
    tree::tests::for_each_scalar(&mut tree, &mut |node| {
        if count == nth {
            *node = tree::Node::Text { text: "${SECRET}".to_owned(), raw: None };
        }
        count += 1;
    });
    (nth < count).then(|| tree::tests::to_yaml(&tree))
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
            for part in secret.split([':', '/', '-', '?']).filter(|part| part.len() > 3 && *part != "0.0.0.0") {
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
    assert_eq!(finding.message, "what the environment makes of `${IDLE}` cannot be used here");
    assert_eq!(finding.help.as_deref(), Some("it should be a duration such as `30s`, `5m` or `1h30m`, or `off`"));
}
