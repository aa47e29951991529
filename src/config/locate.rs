//! From a key path back to line and column.
//!
//! Positions are not kept while the file is read (serde has no place for them); they are looked up when something is
//! wrong: the text is parsed once more by a seed that walks down the path and fails on purpose when it arrives, and
//! YAML's parser then says where that was. It costs a parse for each message, and nothing when all is well.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::key::{KeyPath, Step};

/// What at the end of a path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The key itself.
    Key,
    /// The key when it stands in its map for the second time.
    SecondKey,
    /// What the key leads to.
    Value,
}

/// Line and column (from 1, in characters) of what is at `path`, or of the nearest thing above it that can be found.
pub(super) fn locate(text: &str, path: &KeyPath, aim: Aim) -> Option<(usize, usize)> {
    let mut aim = aim;
    let mut path = path.clone();
    loop {
        // An element has no key to point at; the top has nothing at all.
        if !matches!(path.steps().last(), Some(Step::Key(_))) {
            aim = Aim::Value;
        }
        let arrived = Cell::new(false);
        let probe = Probe { steps: path.steps(), aim, arrived: &arrived };
        let result = probe.deserialize(serde_yaml::Deserializer::from_str(text));
        if let Err(error) = result
            && arrived.get()
            && let Some(at) = error.location()
        {
            return Some((at.line(), at.column()));
        }
        aim = Aim::Key;
        path = path.parent()?;
    }
}

#[derive(Clone, Copy)]
struct Probe<'a> {
    steps: &'a [Step],
    aim: Aim,
    arrived: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.steps.first() {
            None => {
                self.arrived.set(true);
                from.deserialize_any(Stop)
            }
            Some(Step::Key(_)) => from.deserialize_map(self),
            Some(Step::Index(_)) => from.deserialize_seq(self),
        }
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("the way down")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(key), rest)) = self.steps.split_first() else { return Ok(()) };
        let mut skip = match self.aim {
            Aim::SecondKey if rest.is_empty() => 1,
            _ => 0,
        };
        loop {
            let stop = rest.is_empty() && self.aim != Aim::Value && skip == 0;
            let probe = KeyProbe { wanted: key, arrived: stop.then_some(self.arrived) };
            match map.next_key_seed(probe)? {
                None => return Ok(()),
                Some(true) if skip > 0 => skip -= 1,
                Some(true) => return map.next_value_seed(Probe { steps: rest, ..self }),
                Some(false) => {}
            }
            map.next_value::<IgnoredAny>()?;
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::Index(index), rest)) = self.steps.split_first() else { return Ok(()) };
        for _ in 0..*index {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Probe { steps: rest, ..self })?;
        Ok(())
    }
}

/// Compares a key; fails on purpose if it is the wanted one and the way ends there.
struct KeyProbe<'a> {
    wanted: &'a str,
    arrived: Option<&'a Cell<bool>>,
}

impl<'de> DeserializeSeed<'de> for KeyProbe<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyProbe<'_> {
    type Value = bool;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match self.arrived {
            Some(arrived) if key == self.wanted => {
                arrived.set(true);
                Err(E::custom("here"))
            }
            _ => Ok(key == self.wanted),
        }
    }
}

/// Refuses everything, by serde's defaults.
struct Stop;

impl Visitor<'_> for Stop {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("to fail here")
    }
}
