//! Shows the active configuration to operators: its hash, and its content without secrets.
//!
//! The typed file is shown, so that defaults and units are filled in, overlaid with the parts of its tree that came
//! from the environment. Where the two do not fit together, the value is masked.
//!
//! With its defaults filled in, a route is a hundred times as long as it is written: nothing of that is kept, and the
//! hash is computed piece by piece.

use std::collections::HashMap;

use aws_lc_rs::digest;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::config::read::MASK;
use crate::config::read::tree::YamlNode;
use crate::header::redact;

/// Computes [`super::Loaded::hash`]. Keys are sorted, elements of lists are not.
pub(super) fn hash(file: &Config, written: Option<&YamlNode>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for_each_piece(file, written, |section, piece, value| {
        let place = match piece {
            Piece::Whole => String::new(),
            Piece::Element => "[]".to_owned(),
            Piece::Entry(key) => Value::from(key).to_string(),
        };
        context.update(format!("{section}{place}: {value}\n").as_bytes());
    });
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computes [`super::Loaded::shown`]. `written` is what [`keep`] kept of the tree.
pub(super) fn shown(file: &Config, written: Option<&YamlNode>) -> Value {
    let mut whole = Map::new();
    // Empty lists are shown too.
    for (key, empty) in [("listeners", Value::Array(vec![])), ("routes", Value::Array(vec![]))] {
        whole.insert(key.to_owned(), empty);
    }
    whole.insert("upstreams".to_owned(), Value::Object(Map::new()));
    for_each_piece(file, written, |section, piece, value| match (piece, whole.get_mut(section)) {
        (Piece::Element, Some(Value::Array(list))) => list.push(value),
        (Piece::Entry(key), Some(Value::Object(map))) => drop(map.insert(key.to_owned(), value)),
        _ => drop(whole.insert(section.to_owned(), value)),
    });
    Value::Object(whole)
}

/// Keeps of a tree only the values from the environment; everything else becomes null.
pub(super) fn keep(node: YamlNode) -> Option<YamlNode> {
    let or_nothing = |node: Option<YamlNode>| node.unwrap_or(YamlNode::Null);
    match node {
        YamlNode::Text { raw: Some(_), .. } => Some(node),
        YamlNode::List(nodes) => {
            let kept: Vec<Option<YamlNode>> = nodes.into_iter().map(keep).collect();
            let some = kept.iter().any(Option::is_some);
            some.then(|| YamlNode::List(kept.into_iter().map(or_nothing).collect()))
        }
        YamlNode::Map(entries) => {
            let kept: Vec<(String, Option<YamlNode>)> =
                entries.into_iter().map(|(key, node)| (key, keep(node))).collect();
            let some = kept.iter().any(|(_, node)| node.is_some());
            some.then(|| YamlNode::Map(kept.into_iter().map(|(key, node)| (key, or_nothing(node))).collect()))
        }
        _ => None,
    }
}

/// What a piece of a section is.
enum Piece<'a> {
    Whole,
    Element,
    Entry(&'a str),
}

/// Calls `visit` with each section, or each part of a long one, as it is shown.
fn for_each_piece(file: &Config, written: Option<&YamlNode>, mut visit: impl FnMut(&'static str, Piece<'_>, Value)) {
    // Every field, so that the compiler reports a new one here.
    let Config {
        version,
        workers,
        zone,
        listeners,
        routes,
        upstreams,
        admin,
        log,
        drain,
        watch,
        on_upgrade,
        shared,
        include: _,
        defaults: _,
    } = file;
    let section = |key: &str| match written {
        Some(YamlNode::Map(entries)) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
        _ => None,
    };
    let shown = |value: Value, key: &str, node: Option<&YamlNode>| {
        lay_over(value, node, ValuePosition { key: "", secret: false }.at(key))
    };
    for (key, value) in [
        ("admin", value(admin)),
        ("drain", value(drain)),
        ("log", value(log)),
        ("on_upgrade", value(on_upgrade)),
        ("shared", value(shared)),
        ("version", value(version)),
        ("watch", value(watch)),
        ("workers", value(workers)),
        ("zone", value(zone)),
    ] {
        if !value.is_null() {
            visit(key, Piece::Whole, shown(value, key, section(key)));
        }
    }
    list("listeners", listeners, section("listeners"), &mut visit);
    list("routes", routes, section("routes"), &mut visit);
    let nodes = match section("upstreams") {
        Some(YamlNode::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    let nodes: HashMap<&str, &YamlNode> = nodes.iter().map(|(key, node)| (key.as_str(), node)).collect();
    for (name, upstream) in upstreams {
        let value = shown(value(upstream), name, nodes.get(name.as_str()).copied());
        visit("upstreams", Piece::Entry(name), value);
    }
}

fn list<T: Serialize>(
    key: &'static str,
    elements: &[T],
    written: Option<&YamlNode>,
    visit: &mut impl FnMut(&'static str, Piece<'_>, Value),
) {
    let nodes = match written {
        Some(YamlNode::List(nodes)) if nodes.len() == elements.len() => Some(nodes),
        _ => None,
    };
    for (index, element) in elements.iter().enumerate() {
        let node = nodes.map(|nodes| &nodes[index]);
        visit(key, Piece::Element, lay_over(value(element), node, ValuePosition { key, secret: false }));
    }
}

fn value<T: Serialize>(part: &T) -> Value {
    serde_json::to_value(part).expect("a file that was read as text has no part that is not")
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct ValuePosition<'a> {
    /// The nearest key above.
    key: &'a str,
    /// Hides all of it.
    secret: bool,
}

impl<'a> ValuePosition<'a> {
    /// Returns the position of `key` in the map at this one.
    fn at(self, key: &'a str) -> ValuePosition<'a> {
        let credential = match self.key {
            "headers" | "set" => redact::is_credential(key),
            "query" => redact::is_secret(key),
            _ => false,
        };
        ValuePosition { key, secret: self.secret || credential }
    }

    fn text(self, text: &str) -> Value {
        match text.split_once('?') {
            _ if self.secret => Value::from(MASK),
            // The path of a health check.
            Some((path, query)) if self.key == "path" => Value::from(format!("{path}?{}", redact::query(query))),
            _ => Value::from(text),
        }
    }

    /// Returns the text in place of a value from the environment. A default or other text around the variable may be
    /// a secret itself.
    fn raw(self, raw: &str) -> Value {
        let inside = raw.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let plain = inside.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        if plain { Value::from(raw) } else { self.text(raw) }
    }
}

fn lay_over(typed: Value, written: Option<&YamlNode>, place: ValuePosition<'_>) -> Value {
    match (typed, written) {
        (typed, Some(YamlNode::Text { raw: Some(raw), .. })) => {
            let is_masked = matches!(&typed, Value::String(text) if text.contains(MASK));
            let secret = place.secret || is_masked;
            ValuePosition { secret, ..place }.raw(raw)
        }
        (Value::Object(map), written @ (Some(YamlNode::Map(_)) | None)) => {
            let entries = match written {
                Some(YamlNode::Map(entries)) => entries.as_slice(),
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
        (Value::Array(values), Some(YamlNode::List(nodes))) if values.len() == nodes.len() => {
            values.into_iter().zip(nodes).map(|(value, node)| lay_over(value, Some(node), place)).collect()
        }
        (Value::Array(values), None) => values.into_iter().map(|value| lay_over(value, None, place)).collect(),
        // It does not fit what was read, so what came from the environment is unknown.
        (_, Some(YamlNode::Map(_) | YamlNode::List(_))) => Value::from(MASK),
        // An endpoint written as its URL alone.
        (typed @ (Value::Object(_) | Value::Array(_)), Some(_)) => lay_over(typed, None, place),
        (Value::String(text), _) => place.text(&text),
        (typed, _) => typed,
    }
}
