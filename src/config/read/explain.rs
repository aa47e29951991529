//! Explains a value that cannot be decoded: where, what is wrong, and what would be right.

use crate::config::read::decode::{self, Fault, MistakeKind};
use crate::config::read::key::KeyPath;
use crate::config::read::locate::Aim;
use crate::config::read::suggest::did_you_mean;
use crate::config::read::tree::YamlNode;

/// Returns where to point, the message, and the help.
pub(in crate::config) fn explain(tree: &YamlNode, fault: Fault) -> (KeyPath, Aim, String, Option<String>) {
    let path = fault.path();
    match fault.kind {
        MistakeKind::UnknownKey { key, .. } if key == "<<" => {
            let help = "write `<<: *name`, or `<<: [*name, *other]`, with maps at these anchors";
            (path, Aim::Key, "only maps can be merged (`<<`)".to_owned(), Some(help.to_owned()))
        }
        MistakeKind::UnknownKey { key, expected }
            if ["gzip", "compress", "compression", "encode"].contains(&key.as_str())
                && expected.contains(&"http_compression") =>
        {
            let help = "write `http_compression: on` to compress plain HTTP answers; for WebSockets, client and server \
                        agree on permessage-deflate by themselves";
            (path, Aim::Key, "unknown key".to_owned(), Some(help.to_owned()))
        }
        MistakeKind::UnknownKey { key, expected } => {
            let help = did_you_mean(&key, expected).unwrap_or_else(|| match expected {
                [] => "nothing can stand here".to_owned(),
                expected => format!("known here: {}", list(expected)),
            });
            (path, Aim::Key, "unknown key".to_owned(), Some(help))
        }
        MistakeKind::UnknownWord { word, expected } => {
            let help = match word.as_str() {
                "false" | "no" if expected.contains(&"off") => Some("write `off`".to_owned()),
                word => did_you_mean(word, expected),
            };
            let message = format!("`{word}` is not {}", decode::one_of(expected));
            (path, Aim::Value, message, help)
        }
        MistakeKind::Missing(field) => {
            let help = format!("add `{field}:`, which is required");
            (path, Aim::Key, format!("`{field}` is missing"), Some(help))
        }
        MistakeKind::NoValue => {
            let help = "write one, or remove the key to keep the default".to_owned();
            (path, Aim::Key, "there is no value".to_owned(), Some(help))
        }
        MistakeKind::WrongType { found, expected } if fault.at_key => {
            (path, Aim::Key, format!("expected {expected}, found {found}"), None)
        }
        MistakeKind::WrongType { found, expected } => {
            let quoted =
                expected == "a string" && !matches!(tree.at(&path), Some(YamlNode::List(_) | YamlNode::Map(_)));
            let help = match found.as_str() {
                "`false`" if expected.contains("`off`") => Some("write `off`".to_owned()),
                r#"the string "yes""# | r#"the string "on""# if expected.contains("`true`") => {
                    Some("write `true`".to_owned())
                }
                r#"the string "no""# | r#"the string "off""# if expected.contains("`true`") => {
                    Some("write `false`".to_owned())
                }
                found if expected.starts_with("a duration") => found
                    .strip_prefix("the number ")
                    .map(|number| format!("give it a unit: `{number}s` or `{number}ms`")),
                found if found.starts_with("the number") && quoted => Some("put it in quotes".to_owned()),
                "`true`" | "`false`" if quoted => Some("put it in quotes".to_owned()),
                found if found.starts_with("the string") && expected.starts_with("a number") => {
                    Some("write digits, without quotes".to_owned())
                }
                _ => None,
            };
            (path, Aim::Value, format!("expected {expected}, found {found}"), help)
        }
        MistakeKind::FromOutside { raw, expected } => {
            let message = format!("the environment's value of `{raw}` cannot be used here");
            (path, Aim::Value, message, expected.map(|expected| format!("it should be {expected}")))
        }
        MistakeKind::Other { problem, help } => {
            let aim = if fault.at_key { Aim::Key } else { Aim::Value };
            (path, aim, problem, help)
        }
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
