//! The configuration in force, told to operators: its hash, and itself without what is secret.
//!
//! What is shown is the typed file, so that defaults and units are filled in, laid over the tree it was read from, which
//! remembers what came from the environment. What does not fit together is masked.

use aws_lc_rs::digest;
use serde_json::Value;

use super::File;
use super::tree::Node;
use crate::header::redact;

/// Stands for what is secret.
pub(super) const MASK: &str = "***";

/// As [`super::Loaded::hash`]. Keys of structs have their order in what is `shown`, those of maps are sorted.
pub(super) fn hash(shown: &Value) -> String {
    let digest = digest::digest(&digest::SHA256, shown.to_string().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As [`super::Loaded::shown`]. `written` is the tree that `file` was read from.
pub(super) fn shown(file: &File, written: &Node) -> Value {
    let typed = serde_json::to_value(file).expect("a file that was read as text has no part that is not");
    lay_over(typed, Some(written), Place { key: "", secret: false })
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// The nearest key above.
    key: &'a str,
    /// Nothing of it is shown.
    secret: bool,
}

impl<'a> Place<'a> {
    /// The place of `key` in a map at this one.
    fn at(self, key: &'a str) -> Place<'a> {
        let credential = match self.key {
            "headers" | "set" => redact::is_credential(key),
            "query" => redact::is_secret(key),
            _ => false,
        };
        Place { key, secret: self.secret || credential }
    }

    fn text(self, text: &str) -> Value {
        match text.split_once('?') {
            _ if self.secret => Value::from(MASK),
            // What a health check asks for.
            Some((path, query)) if self.key == "path" => Value::from(format!("{path}?{}", redact::query(query))),
            _ => Value::from(text),
        }
    }

    /// What is written in place of a value from outside. A default or other text around a secret may be one itself.
    fn raw(self, raw: &str) -> Value {
        let inside = raw.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let plain = inside.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        if plain { Value::from(raw) } else { self.text(raw) }
    }
}

fn lay_over(typed: Value, written: Option<&Node>, place: Place<'_>) -> Value {
    match (typed, written) {
        (typed, Some(Node::Text { raw: Some(raw), .. })) => {
            let secret = place.secret || typed == MASK;
            Place { secret, ..place }.raw(raw)
        }
        (Value::Object(map), written @ (Some(Node::Map(_)) | None)) => {
            let entries = match written {
                Some(Node::Map(entries)) => entries.as_slice(),
                _ => &[],
            };
            // Names of headers are lower case when they are read; those of upstreams differ by case.
            let exact = |key: &str| entries.iter().find(|(name, _)| name == key);
            let loose = |key: &str| entries.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
            let values = map.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| {
                let written = exact(&key).or_else(|| loose(&key)).map(|(_, node)| node);
                let value = lay_over(value, written, place.at(&key));
                (key, value)
            });
            Value::Object(values.collect())
        }
        (Value::Array(values), Some(Node::List(nodes))) if values.len() == nodes.len() => {
            values.into_iter().zip(nodes).map(|(value, node)| lay_over(value, Some(node), place)).collect()
        }
        (Value::Array(values), None) => values.into_iter().map(|value| lay_over(value, None, place)).collect(),
        // Not what was read from it: nobody can say what of it came from outside.
        (_, Some(Node::Map(_) | Node::List(_))) => Value::from(MASK),
        // An endpoint that is written as its URL alone.
        (typed @ (Value::Object(_) | Value::Array(_)), Some(_)) => lay_over(typed, None, place),
        (Value::String(text), _) => place.text(&text),
        (typed, _) => typed,
    }
}
