//! What a verified token claims.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The claims of a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    pub(super) fn new(claims: Map<String, Value>) -> Claims {
        Claims(claims)
    }

    /// Returns the claim of this name. One inside another is written with dots, as in `realm_access.roles`; a claim that has
    /// the whole name comes first.
    pub fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let (first, rest) = name.split_once('.')?;
        rest.split('.').try_fold(self.0.get(first)?, |value, name| value.as_object()?.get(name))
    }

    /// Writes the text of a claim: a text as it is, a number or a boolean as in JSON, the items of a list with commas between
    /// them (a comma of an item is `%2C`). Writes nothing if there is no such claim, or if it is none of these.
    pub fn write(&self, name: &str, out: &mut String) {
        match self.get(name) {
            Some(Value::Array(items)) => {
                let mut is_first = true;
                for item in items.iter().filter_map(text) {
                    if !std::mem::take(&mut is_first) {
                        out.push(',');
                    }
                    out.push_str(&item.replace(',', "%2C"));
                }
            }
            Some(value) => out.extend(text(value)),
            None => {}
        }
    }

    /// Returns true if a claim grants `wanted`. A claim equals it, or is a list that has it. Of `scope` and `scp`, texts of
    /// words with spaces between them (RFC 8693 §4.2), all words of `wanted` must be there.
    pub(super) fn grants(&self, name: &str, wanted: &str) -> bool {
        let Some(value) = self.get(name) else { return false };
        let items: Vec<String> = match value {
            Value::Array(items) => items.iter().filter_map(text).collect(),
            value => text(value).into_iter().collect(),
        };
        if !is_scope(name) {
            return items.iter().any(|item| item == wanted);
        }
        let granted = |word: &str| items.iter().any(|item| item.split(' ').any(|granted| granted == word));
        let mut words = wanted.split(' ').filter(|word| !word.is_empty()).peekable();
        words.peek().is_some() && words.all(granted)
    }
}

/// Returns true if a claim is a list of words in one text.
pub(super) fn is_scope(name: &str) -> bool {
    name == "scope" || name == "scp"
}

/// The text of a value that is no list and no object.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => {
            let mut out = String::new();
            // Writing to a String cannot fail.
            let _ = write!(out, "{value}");
            Some(out)
        }
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
