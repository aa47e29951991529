//! From the tree to types, by serde: every mistake is found, and none reported twice.
//!
//! [`De`] reads a [`YamlNode`] and fails with a [`Fault`]: the path and the kind of mistake, as data (serde's own
//! deserialisers give only prose). [`Mending::decode`] notes the fault, takes the faulty node out of the tree, and
//! tries again, until the rest can be read. A key that is missing only because of such a removal is not reported.
//! Long lists and maps go through [`Mending::each`] first, so that a mistake costs another try at one element and not
//! at the whole.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use crate::config::read::key::{KeyPath, KeyStep};
use crate::config::read::sketch::Sketch;
use crate::config::read::suggest::nearest;
use crate::config::read::tree::YamlNode;

/// Where a value is wrong, and how.
#[derive(Debug)]
pub(in crate::config) struct Fault {
    /// From the inside out while it travels up; turned round by [`Fault::path`].
    steps: Vec<KeyStep>,
    /// The key itself is wrong, not what it leads to.
    pub(in crate::config) at_key: bool,
    pub(in crate::config) kind: MistakeKind,
    /// What was written there.
    pub(in crate::config) sketch: Option<Box<Sketch>>,
}

/// The kinds of mistakes.
#[derive(Debug)]
pub(in crate::config) enum MistakeKind {
    /// The path leads to the key.
    UnknownKey {
        key: String,
        expected: &'static [&'static str],
    },
    UnknownWord {
        word: String,
        expected: &'static [&'static str],
    },
    /// The path leads to the map.
    Missing(&'static str),
    WrongType {
        found: String,
        expected: String,
    },
    /// There is a key, and nothing after it.
    NoValue,
    /// A value from the environment; nothing of it may be shown.
    FromOutside {
        raw: String,
        expected: Option<String>,
    },
    Other {
        problem: String,
        help: Option<String>,
    },
}

/// What could be read, and what was wrong with the rest.
pub(in crate::config) struct Decoded<T> {
    /// `None` if too little was left.
    pub(in crate::config) value: Option<T>,
    pub(in crate::config) faults: Vec<Fault>,
    /// The paths taken out on the way, as written.
    pub(in crate::config) removed: Vec<KeyPath>,
}

/// The mistakes found so far in the tree being read.
pub(in crate::config) struct Mending {
    faults_max: usize,
    faults: Vec<Fault>,
    removed: Vec<KeyPath>,
}

impl Mending {
    /// Begins; stops after `faults_max` mistakes. `removed` names what was taken out before.
    pub(in crate::config) fn new(faults_max: usize, removed: Vec<KeyPath>) -> Mending {
        Mending { faults_max, faults: Vec::new(), removed }
    }

    /// Reads `tree`, taking out whatever is wrong. `stand_in` may give a node in place of a missing key at the top.
    pub(in crate::config) fn decode<T: DeserializeOwned>(
        mut self,
        tree: &mut YamlNode,
        stand_in: fn(&str) -> Option<YamlNode>,
    ) -> Decoded<T> {
        let mut value = None;
        while self.faults.len() < self.faults_max {
            let fault = match T::deserialize(De { node: tree, expected: &RefCell::default() }) {
                Ok(decoded) => {
                    value = Some(decoded);
                    break;
                }
                Err(fault) => fault,
            };
            let path = fault.path();
            let missing = match &fault.kind {
                MistakeKind::Missing(field) => Some(*field),
                _ => None,
            };
            self.note(fault.with(tree, &path), &path);
            if let (Some(field), YamlNode::Map(entries)) = (missing, &mut *tree)
                && let (Some(node), true) = (stand_in(field), path == KeyPath::root())
            {
                entries.push((field.to_owned(), node));
                self.removed.push(path.key(field));
            } else if tree.remove(&path) {
                self.removed.push(path);
            } else {
                break;
            }
        }
        Decoded { value, faults: self.faults, removed: self.removed }
    }

    /// Tries each element of the list or map at `at` in `tree` as a `T`, and takes out what is wrong in it, or all of
    /// it.
    pub(in crate::config) fn each<T: DeserializeOwned>(&mut self, tree: &mut YamlNode, at: &KeyPath) {
        match tree.at_mut(at.steps()) {
            Some(YamlNode::List(nodes)) => {
                for (index, node) in nodes.iter_mut().enumerate() {
                    if *node != YamlNode::Removed && !self.element::<T>(node, at, KeyStep::Index(index)) {
                        *node = YamlNode::Removed;
                    }
                }
            }
            Some(YamlNode::Map(entries)) => {
                entries.retain_mut(|(key, node)| self.element::<T>(node, at, KeyStep::Key(key.clone())));
            }
            _ => {}
        }
    }

    /// Returns true if the element can stay, perhaps repaired.
    fn element<T: DeserializeOwned>(&mut self, node: &mut YamlNode, list: &KeyPath, step: KeyStep) -> bool {
        while self.faults.len() < self.faults_max {
            let expected = RefCell::default();
            let fault = match T::deserialize(De { node, expected: &expected }) {
                Ok(_) => return true,
                Err(fault) => fault.redact(node, expected.take()),
            };
            let inside = fault.path();
            let fault = fault.with(node, &inside);
            let fault =
                list.steps().iter().rev().fold(fault.under(step.clone()), |fault, step| fault.under(step.clone()));
            let path = fault.path();
            self.note(fault, &path);
            self.removed.push(path);
            if !node.remove(&inside) {
                return false;
            }
        }
        true
    }

    /// Tries `node`, which stands at `at`, as a part of a `T`, and takes out what is wrong in it. What a `T` would lack is
    /// no mistake.
    pub(in crate::config) fn part<T: DeserializeOwned>(&mut self, node: &mut YamlNode, at: &KeyPath) {
        // What is incomplete is left out in the further tries.
        let mut rest = node.clone();
        while self.faults.len() < self.faults_max {
            let expected = RefCell::default();
            let fault = match T::deserialize(De { node: &rest, expected: &expected }) {
                Ok(_) => return,
                Err(fault) => fault.redact(&rest, expected.take()),
            };
            let inside = fault.path();
            if !matches!(fault.kind, MistakeKind::Missing(_)) {
                let fault = fault.with(&rest, &inside);
                let fault = at.steps().iter().rev().fold(fault, |fault, step| fault.under(step.clone()));
                let path = fault.path();
                self.note(fault, &path);
                self.removed.push(path);
                node.remove(&inside);
            }
            if !rest.remove(&inside) {
                return;
            }
        }
    }

    fn note(&mut self, fault: Fault, path: &KeyPath) {
        if !self.follows(&fault, path) {
            self.faults.push(fault);
        }
    }

    /// Returns true if a fault exists only because something was taken out, or repeats an earlier one.
    fn follows(&self, fault: &Fault, path: &KeyPath) -> bool {
        match &fault.kind {
            MistakeKind::Missing(field) => {
                // An unknown `nme` has already suggested `name`.
                let meant = |fault: &Fault| match &fault.kind {
                    MistakeKind::UnknownKey { key, expected } => {
                        fault.path().parent().as_ref() == Some(path) && nearest(key, expected) == Some(*field)
                    }
                    _ => false,
                };
                self.removed.contains(&path.key(field)) || self.faults.iter().any(meant)
            }
            // A map that lost something and now lacks it.
            MistakeKind::Other { .. } | MistakeKind::WrongType { .. } => {
                self.removed.iter().any(|gone| gone.parent().as_ref() == Some(path))
            }
            _ => false,
        }
    }
}

impl Fault {
    /// Returns the path to the mistake, with positions in lists as written.
    pub(in crate::config) fn path(&self) -> KeyPath {
        KeyPath::from_steps(self.steps.iter().rev().cloned().collect())
    }

    fn new(kind: MistakeKind) -> Fault {
        Fault { steps: Vec::new(), at_key: false, kind, sketch: None }
    }

    fn wrong_type(node: &YamlNode, expected: impl Into<String>) -> Fault {
        match node {
            YamlNode::Null => Fault::new(MistakeKind::NoValue),
            node => Fault::new(MistakeKind::WrongType { found: node.kind(), expected: plain_words(expected.into()) }),
        }
    }

    /// Adds what is written at `path` of `tree`, before it is taken out.
    fn with(mut self, tree: &YamlNode, path: &KeyPath) -> Fault {
        self.sketch = Some(Box::new(Sketch::of(tree, path)));
        self
    }

    fn under(mut self, step: KeyStep) -> Fault {
        self.steps.push(step);
        self
    }

    /// Rewords serde's error for a variant that lacks its settings, or has some it must not have.
    fn about_settings(mut self, word: &str) -> Fault {
        let (problem, help) = match &self.kind {
            MistakeKind::WrongType { expected, .. } if expected == "newtype variant" => {
                (format!("`{word}` needs settings"), format!("write `{word}: {{ … }}`"))
            }
            MistakeKind::WrongType { expected, .. } if expected == "unit" => {
                (format!("`{word}` has no settings"), format!("write `{word}` alone"))
            }
            _ => return self,
        };
        // The whole value is wrong, not one key in it.
        self.steps.clear();
        self.kind = MistakeKind::Other { problem, help: Some(help) };
        self
    }

    /// Removes the content of `node` from the fault, if it came from the environment.
    fn redact(mut self, node: &YamlNode, expected: Option<String>) -> Fault {
        let YamlNode::Text { raw: Some(raw), .. } = node else { return self };
        let expected = match self.kind {
            MistakeKind::FromOutside { .. } => return self,
            MistakeKind::WrongType { expected, .. } => Some(expected),
            MistakeKind::UnknownWord { expected, .. } => Some(one_of(expected)),
            _ => expected.map(plain_words).filter(|expected| expected != "a string"),
        };
        self.kind = MistakeKind::FromOutside { raw: raw.clone(), expected };
        self
    }
}

/// "`a`, `b` or `c`"
pub(in crate::config) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// Translates serde's names of types for people who do not know Rust.
fn plain_words(expected: String) -> String {
    match expected.as_str() {
        "u8" => "a number from 0 to 255".to_owned(),
        "u16" => "a number from 0 to 65535".to_owned(),
        "u32" => "a number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a number that is not negative".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "path string" => "a path".to_owned(),
        _ => expected,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}: {:?}", self.path(), self.kind)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Fault {
        let message = message.to_string();
        let (problem, help) = match message.split_once('\n') {
            Some((problem, help)) => (problem.to_owned(), Some(help.to_owned())),
            None => (message, None),
        };
        Fault::new(MistakeKind::Other { problem, help })
    }

    fn invalid_type(found: de::Unexpected, expected: &dyn Expected) -> Fault {
        let found = match found {
            de::Unexpected::Bool(value) => format!("`{value}`"),
            de::Unexpected::Unsigned(value) => format!("the number {value}"),
            de::Unexpected::Signed(value) => format!("the number {value}"),
            de::Unexpected::Float(value) => format!("the number {value}"),
            de::Unexpected::Str("") => "an empty string".to_owned(),
            de::Unexpected::Str(text) if text.chars().count() <= 40 => format!("the string {text:?}"),
            de::Unexpected::Str(_) => "a string".to_owned(),
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Map => "a map".to_owned(),
            other => other.to_string(),
        };
        Fault::new(MistakeKind::WrongType { found, expected: plain_words(expected.to_string()) })
    }

    fn invalid_value(found: de::Unexpected, expected: &dyn Expected) -> Fault {
        Fault::invalid_type(found, expected)
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> Fault {
        Fault::new(MistakeKind::UnknownWord { word: word.to_owned(), expected })
    }

    fn unknown_field(key: &str, expected: &'static [&'static str]) -> Fault {
        Fault::new(MistakeKind::UnknownKey { key: key.to_owned(), expected })
    }

    fn missing_field(field: &'static str) -> Fault {
        Fault::new(MistakeKind::Missing(field))
    }
}

/// Reads one node. `expected` keeps a visitor's expectation for the case that the value is wrong.
#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a YamlNode,
    expected: &'a RefCell<Option<String>>,
}

impl<'a> De<'a> {
    fn child(self, node: &'a YamlNode) -> De<'a> {
        De { node, ..self }
    }

    /// Reads a string; one from the environment may be a number or boolean where one is expected.
    fn scalar<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let YamlNode::Text { text, raw: Some(_) } = self.node else { return self.deserialize_any(visitor) };
        let expected = (&visitor as &dyn Expected).to_string();
        let result: Result<V::Value, Fault> = match text.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            text => match (text.parse::<u64>(), text.parse::<i64>()) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => visitor.visit_str(text),
            },
        };
        result.map_err(|fault| fault.redact(self.node, Some(expected)))
    }
}

/// Entries of a map, in the order written.
struct Entries<'a> {
    de: De<'a>,
    entries: std::slice::Iter<'a, (String, YamlNode)>,
    current: Option<&'a (String, YamlNode)>,
}

/// Elements of a list; those taken out keep their number.
struct Elements<'a> {
    de: De<'a>,
    nodes: std::iter::Enumerate<std::slice::Iter<'a, YamlNode>>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.current = self.entries.next();
        let Some((key, _)) = self.current else { return Ok(None) };
        let from: StrDeserializer<Fault> = key.as_str().into_deserializer();
        let attach = |fault: Fault| Fault { at_key: true, ..fault.under(KeyStep::Key(key.clone())) };
        seed.deserialize(from).map(Some).map_err(attach)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, node)) = self.current else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let attach = |fault: Fault| fault.redact(node, self.de.expected.take()).under(KeyStep::Key(key.clone()));
        seed.deserialize(self.de.child(node)).map_err(attach)
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.nodes.find(|(_, node)| **node != YamlNode::Removed) else { return Ok(None) };
        let attach = |fault: Fault| fault.redact(node, self.de.expected.take()).under(KeyStep::Index(index));
        seed.deserialize(self.de.child(node)).map(Some).map_err(attach)
    }
}

impl<'de> Deserializer<'de> for De<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node {
            YamlNode::Null | YamlNode::Removed => Err(Fault::new(MistakeKind::NoValue)),
            YamlNode::Bool(value) => visitor.visit_bool(*value),
            YamlNode::Unsigned(value) => visitor.visit_u64(*value),
            YamlNode::Signed(value) => visitor.visit_i64(*value),
            YamlNode::Float(value) => visitor.visit_f64(*value),
            YamlNode::Text { text, raw } => {
                if raw.is_some() {
                    *self.expected.borrow_mut() = Some((&visitor as &dyn Expected).to_string());
                }
                visitor.visit_str(text)
            }
            YamlNode::List(nodes) => visitor.visit_seq(Elements { de: self, nodes: nodes.iter().enumerate() }),
            YamlNode::Map(entries) => visitor.visit_map(Entries { de: self, entries: entries.iter(), current: None }),
        }
    }

    /// An empty value is not the same as no key: commenting out all of `tls:` would otherwise turn TLS off.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node {
            YamlNode::Null => Err(Fault::new(MistakeKind::NoValue)),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.node {
            YamlNode::Map(_) => self.deserialize_any(visitor),
            node => Err(Fault::wrong_type(node, format!("a map with {}", one_of(fields).replace(" or ", ", ")))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let word = match self.node {
            YamlNode::Text { text, .. } => text.clone(),
            YamlNode::Map(entries) if entries.len() == 1 => {
                let word = &entries[0].0;
                let entries = Entries { de: self, entries: entries.iter(), current: None };
                let chosen = visitor.visit_enum(MapAccessDeserializer::new(entries));
                return chosen.map_err(|fault| fault.about_settings(word));
            }
            // `min_version: 1.2` is a number to YAML; the intent is clear.
            YamlNode::Float(value) => value.to_string(),
            YamlNode::Unsigned(value) => value.to_string(),
            YamlNode::Bool(value) => value.to_string(),
            node => return Err(Fault::wrong_type(node, format!("one of {}", one_of(words)))),
        };
        let from: StrDeserializer<Fault> = word.as_str().into_deserializer();
        visitor.visit_enum(from).map_err(|fault| fault.about_settings(&word))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.scalar(visitor)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}
