//! The file as a tree of YAML nodes, before any of it has a meaning.
//!
//! This tree, not `serde_yaml::Value`, stands between YAML's parser and the types, because here a duplicate key is
//! reported with its path, a scalar remembers that it came from the environment, and a faulty node can be taken out
//! without moving its neighbours' positions. It refuses what has no meaning in a configuration (tags), and YAML
//! bombs: small files whose aliases unfold without end.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::config::read::FINDINGS_MAX;
use crate::config::read::key::{KeyPath, KeyStep};
use crate::config::read::survey::{Aliases, Used, survey};
use crate::config::read::syntax::{self, Unparsed};

/// The most values of a file with its aliases followed. `survey` counts them before; here they would be built
/// (yaml_serde itself stops at 100 jumps per event).
const NODES_MAX: usize = 500_000;

/// The key whose maps are merged into the one it stands in.
const MERGE_KEY: &str = "<<";

/// Larger maps look up their keys by hash.
const FEW_KEYS: usize = 16;

/// One value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum YamlNode {
    /// Nothing, `~` or `null`.
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// A string; `raw` is the text in the file, if part of `text` came from the environment.
    Text {
        text: String,
        raw: Option<String>,
    },
    List(Vec<YamlNode>),
    Map(Vec<(String, YamlNode)>),
    /// Taken out because it was wrong; counts only as a position in a list.
    Removed,
}

/// A tree, and the paths of duplicate keys (the first is kept), up to a limit.
#[derive(Debug)]
pub(in crate::config) struct Parsed {
    pub(in crate::config) tree: YamlNode,
    pub(in crate::config) duplicates: Vec<KeyPath>,
}

/// Parses YAML.
pub(in crate::config) fn parse(text: &str, aliases: Aliases) -> Result<Parsed, Unparsed> {
    parse_within(text, aliases, &mut Used::default())
}

/// Parses one of several texts that have the room of one together. Adds to what is used of it.
pub(in crate::config) fn parse_within(text: &str, aliases: Aliases, used: &mut Used) -> Result<Parsed, Unparsed> {
    syntax::refuse_brackets(text)?;
    survey(text, aliases, used)?;
    let state = RefCell::new(DecodeState::default());
    let top = Seed { state: &state, trail: &Trail::Top };
    match top.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(tree) => Ok(Parsed { tree, duplicates: state.into_inner().duplicates }),
        Err(error) => {
            let at = error.location().map(|at| (at.line(), at.column()));
            match state.into_inner().refusal {
                Some((problem, help)) => Err(Unparsed { problem: problem.to_owned(), help: Some(help.to_owned()), at }),
                None => Err(syntax::explain(&error.to_string(), at, text)),
            }
        }
    }
}

impl YamlNode {
    /// Describes it for "expected …, found …".
    pub(in crate::config) fn kind(&self) -> String {
        match self {
            YamlNode::Null | YamlNode::Removed => "nothing".to_owned(),
            YamlNode::Bool(value) => format!("`{value}`"),
            YamlNode::Unsigned(value) => format!("the number {value}"),
            YamlNode::Signed(value) => format!("the number {value}"),
            YamlNode::Float(value) => format!("the number {value}"),
            YamlNode::Text { text, .. } if text.is_empty() => "an empty string".to_owned(),
            YamlNode::Text { text, raw: None } if text.chars().count() <= 40 => format!("the string {text:?}"),
            YamlNode::Text { .. } => "a string".to_owned(),
            YamlNode::List(_) => "a list".to_owned(),
            YamlNode::Map(_) => "a map".to_owned(),
        }
    }

    /// Returns the node at `path`, with positions in lists as written.
    pub(in crate::config) fn at(&self, path: &KeyPath) -> Option<&YamlNode> {
        path.steps().iter().try_fold(self, |node, step| match (node, step) {
            (YamlNode::Map(entries), KeyStep::Key(key)) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
            }
            (YamlNode::List(nodes), KeyStep::Index(index)) => nodes.get(*index),
            _ => None,
        })
    }

    pub(in crate::config) fn at_mut(&mut self, path: &[KeyStep]) -> Option<&mut YamlNode> {
        path.iter().try_fold(self, |node, step| match (node, step) {
            (YamlNode::Map(entries), KeyStep::Key(key)) => {
                entries.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node)
            }
            (YamlNode::List(nodes), KeyStep::Index(index)) => nodes.get_mut(*index),
            _ => None,
        })
    }

    /// Takes out the node at `path`. Returns false if there is none, or it is the whole tree.
    pub(in crate::config) fn remove(&mut self, path: &KeyPath) -> bool {
        let Some((last, parent)) = path.steps().split_last() else { return false };
        match (self.at_mut(parent), last) {
            (Some(YamlNode::Map(entries)), KeyStep::Key(key)) => {
                let before = entries.len();
                entries.retain(|(name, _)| name != key);
                entries.len() < before
            }
            (Some(YamlNode::List(nodes)), KeyStep::Index(index)) => match nodes.get_mut(*index) {
                Some(node) if *node != YamlNode::Removed => {
                    *node = YamlNode::Removed;
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Calls `visit` with each scalar string and its path.
    pub(in crate::config) fn for_each_text(
        &mut self,
        visit: &mut impl FnMut(&Trail<'_>, &mut String, &mut Option<String>),
    ) {
        fn walk(
            node: &mut YamlNode,
            trail: &Trail<'_>,
            visit: &mut impl FnMut(&Trail<'_>, &mut String, &mut Option<String>),
        ) {
            match node {
                YamlNode::Text { text, raw } => visit(trail, text, raw),
                YamlNode::List(nodes) => {
                    nodes.iter_mut().enumerate().for_each(|(at, node)| walk(node, &Trail::Index(trail, at), visit));
                }
                YamlNode::Map(entries) => {
                    entries.iter_mut().for_each(|(key, node)| walk(node, &Trail::Key(trail, key), visit));
                }
                _ => {}
            }
        }
        walk(self, &Trail::Top, visit);
    }
}

/// The path to a node during a walk: a `KeyPath` is built of it only when something is reported.
pub(in crate::config) enum Trail<'a> {
    /// Of the whole.
    Top,
    /// Into a map.
    Key(&'a Trail<'a>, &'a str),
    /// Into a list.
    Index(&'a Trail<'a>, usize),
}

impl Trail<'_> {
    pub(in crate::config) fn path(&self) -> KeyPath {
        match self {
            Trail::Top => KeyPath::root(),
            Trail::Key(above, key) => above.path().then(KeyStep::Key((*key).to_owned())),
            Trail::Index(above, index) => above.path().then(KeyStep::Index(*index)),
        }
    }
}

#[derive(Default)]
struct DecodeState {
    nodes: usize,
    duplicates: Vec<KeyPath>,
    /// Set before an error of ours, not the parser's.
    refusal: Option<(&'static str, &'static str)>,
}

/// Builds the node at the end of `trail`.
#[derive(Clone, Copy)]
struct Seed<'a> {
    state: &'a RefCell<DecodeState>,
    trail: &'a Trail<'a>,
}

impl Seed<'_> {
    fn refuse<E: de::Error>(&self, problem: &'static str, help: &'static str) -> E {
        self.state.borrow_mut().refusal = Some((problem, help));
        E::custom(problem)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = YamlNode;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<YamlNode, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = YamlNode;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<YamlNode, E> {
        Ok(YamlNode::Null)
    }

    fn visit_none<E>(self) -> Result<YamlNode, E> {
        Ok(YamlNode::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<YamlNode, E> {
        Ok(YamlNode::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<YamlNode, E> {
        Ok(YamlNode::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<YamlNode, E> {
        Ok(u64::try_from(value).map_or(YamlNode::Signed(value), YamlNode::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<YamlNode, E> {
        Ok(YamlNode::Float(value))
    }

    // No field has more than 64 bits, so "a number" says enough.
    fn visit_u128<E>(self, value: u128) -> Result<YamlNode, E> {
        Ok(YamlNode::Float(value as f64))
    }

    fn visit_i128<E>(self, value: i128) -> Result<YamlNode, E> {
        Ok(YamlNode::Float(value as f64))
    }

    fn visit_str<E>(self, text: &str) -> Result<YamlNode, E> {
        Ok(YamlNode::Text { text: text.to_owned(), raw: None })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<YamlNode, A::Error> {
        let mut nodes = Vec::new();
        loop {
            self.count()?;
            let trail = Trail::Index(self.trail, nodes.len());
            match list.next_element_seed(Seed { trail: &trail, ..self })? {
                Some(node) => nodes.push(node),
                None => return Ok(YamlNode::List(nodes)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<YamlNode, A::Error> {
        let mut entries: Vec<(String, YamlNode)> = Vec::new();
        let mut seen = HashSet::new();
        let mut merged = None;
        while let Some(YamlKey(key)) = map.next_key()? {
            self.count()?;
            let trail = Trail::Key(self.trail, &key);
            if entries.len() == FEW_KEYS && seen.is_empty() {
                seen.extend(entries.iter().map(|(known, _)| known.clone()));
            }
            if key == MERGE_KEY && merged.is_none() {
                merged = Some(map.next_value_seed(Seed { trail: &trail, ..self })?);
                continue;
            }
            let is_new = key != MERGE_KEY
                && match entries.len() {
                    ..FEW_KEYS => entries.iter().all(|(known, _)| *known != key),
                    _ => seen.insert(key.clone()),
                };
            if !is_new {
                map.next_value::<IgnoredAny>()?;
                let duplicates = &mut self.state.borrow_mut().duplicates;
                if duplicates.len() < FINDINGS_MAX {
                    duplicates.push(trail.path());
                }
                continue;
            }
            let node = map.next_value_seed(Seed { trail: &trail, ..self })?;
            entries.push((key, node));
        }
        if let Some(node) = merged {
            merge(&mut entries, node);
        }
        Ok(YamlNode::Map(entries))
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, _: A) -> Result<YamlNode, A::Error> {
        Err(self.refuse("a YAML tag (`!name`) has no meaning here", "remove it, or quote a value that begins with `!`"))
    }
}

impl Seed<'_> {
    fn count<E: de::Error>(&self) -> Result<(), E> {
        self.state.borrow_mut().nodes += 1;
        if self.state.borrow().nodes > NODES_MAX {
            return Err(
                self.refuse("the file unfolds to too many values", "write out what its aliases (`*name`) repeat")
            );
        }
        Ok(())
    }
}

/// Adds what a map does not have itself from those that are merged into it, the first of them that has it
/// (<https://yaml.org/type/merge.html>). What is no map, nor a list of maps, stays under its key, where nothing knows it.
fn merge(entries: &mut Vec<(String, YamlNode)>, node: YamlNode) {
    let is_map = |node: &YamlNode| matches!(node, YamlNode::Map(_));
    let maps = match node {
        YamlNode::List(nodes) if nodes.iter().all(is_map) => nodes,
        node if is_map(&node) => vec![node],
        node => return entries.push((MERGE_KEY.to_owned(), node)),
    };
    let mut seen: HashSet<String> = entries.iter().map(|(key, _)| key.clone()).collect();
    for map in maps {
        let YamlNode::Map(more) = map else { continue };
        entries.extend(more.into_iter().filter(|(key, _)| seen.insert(key.clone())));
    }
}

/// A key; `1:` and `true:` are words too, as keys.
struct YamlKey(String);

impl<'de> Deserialize<'de> for YamlKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = YamlKey;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("a key that is a word")
            }

            fn visit_str<E>(self, key: &str) -> Result<YamlKey, E> {
                Ok(YamlKey(key.to_owned()))
            }
        }

        from.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
pub(in crate::config) mod tests {
    use super::*;

    /// Calls `visit` with each node that is neither list nor map.
    pub(in crate::config) fn for_each_scalar(node: &mut YamlNode, visit: &mut impl FnMut(&mut YamlNode)) {
        match node {
            YamlNode::List(nodes) => nodes.iter_mut().for_each(|node| for_each_scalar(node, visit)),
            YamlNode::Map(entries) => entries.iter_mut().for_each(|(_, node)| for_each_scalar(node, visit)),
            scalar => visit(scalar),
        }
    }

    /// Returns the tree as YAML again (in its JSON form).
    pub(in crate::config) fn to_yaml(node: &YamlNode) -> String {
        match node {
            YamlNode::Null | YamlNode::Removed => "null".to_owned(),
            YamlNode::Bool(value) => value.to_string(),
            YamlNode::Unsigned(value) => value.to_string(),
            YamlNode::Signed(value) => value.to_string(),
            YamlNode::Float(value) => value.to_string(),
            YamlNode::Text { text, .. } => format!("{text:?}"),
            YamlNode::List(nodes) => format!("[{}]", nodes.iter().map(to_yaml).collect::<Vec<_>>().join(", ")),
            YamlNode::Map(entries) => {
                let entry = |(key, node): &(String, YamlNode)| format!("{key:?}: {}", to_yaml(node));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
        }
    }

    #[test]
    fn duplicate_keys_are_noted_and_the_first_is_kept() {
        let Ok(parsed) = parse("a: 1\nb: { c: 2, c: [3, { d: 4 }] }\na: 5\n", Aliases::Allowed) else {
            panic!("this is YAML")
        };
        assert_eq!(to_yaml(&parsed.tree), r#"{"a": 1, "b": {"c": 2}}"#);
        let duplicates: Vec<String> = parsed.duplicates.iter().map(KeyPath::to_string).collect();
        assert_eq!(duplicates, ["b.c", "a"]);
    }

    #[test]
    fn merged_maps_add_what_is_not_there() {
        for (text, tree) in [
            ("a: &a { x: 1, y: 2 }\nb: { <<: *a, y: 3 }", r#"{"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}}"#),
            ("b: { y: 3, <<: [{ x: 1 }, { x: 2, y: 2, z: 2 }] }", r#"{"b": {"y": 3, "x": 1, "z": 2}}"#),
            (
                "a: &a { x: 1 }\nb: &b { <<: *a, y: 2 }\nc: { <<: *b }",
                r#"{"a": {"x": 1}, "b": {"y": 2, "x": 1}, "c": {"y": 2, "x": 1}}"#,
            ),
            ("b: { <<: {} }", r#"{"b": {}}"#),
            ("b: { <<: 7, c: 1 }", r#"{"b": {"c": 1, "<<": 7}}"#),
            ("b: { <<: [{}, 7] }", r#"{"b": {"<<": [{}, 7]}}"#),
        ] {
            let Ok(parsed) = parse(text, Aliases::Allowed) else { panic!("{text} is YAML") };
            assert_eq!(to_yaml(&parsed.tree), tree, "{text}");
        }
        let Ok(parsed) = parse("b: { <<: { x: 1 }, <<: { y: 1 } }", Aliases::Allowed) else { panic!("this is YAML") };
        assert_eq!(to_yaml(&parsed.tree), r#"{"b": {"x": 1}}"#);
        assert_eq!(parsed.duplicates.iter().map(KeyPath::to_string).collect::<Vec<_>>(), [r#"b."<<""#]);
    }

    #[test]
    fn removing_an_element_moves_no_other() {
        let Ok(mut parsed) = parse("[a, b, c]", Aliases::Allowed) else { panic!("this is YAML") };
        assert!(parsed.tree.remove(&KeyPath::root().index(1)));
        assert!(!parsed.tree.remove(&KeyPath::root().index(1)), "it is gone already");
        assert_eq!(parsed.tree.at(&KeyPath::root().index(2)).map(to_yaml).as_deref(), Some("\"c\""));
    }
}
