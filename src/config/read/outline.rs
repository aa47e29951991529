//! Where each value of a text stands.
//!
//! Built of the parser's events (`survey::walk`) when something is wrong, and dropped at once: for a correct file it
//! costs nothing.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::config::read::key::KeyStep;
use crate::config::read::survey::{YamlEvent, walk};

/// Line and column, from 1 and in characters.
pub(in crate::config) type Position = (usize, usize);

/// How many aliases and merges are followed from one value to the next; `survey` allows no more nesting.
const FOLLOWED_MAX: usize = 128;

/// The values of a text, with their positions.
#[derive(Default)]
pub(in crate::config) struct Outline {
    nodes: Vec<Node>,
}

struct Node {
    at: (u32, u32),
    content: Content,
}

enum Content {
    Scalar,
    Map(Vec<OutlineEntry>),
    List(Vec<u32>),
    /// The node at the anchor.
    Alias(u32),
}

struct OutlineEntry {
    key: Box<str>,
    at: (u32, u32),
    /// `None` if the text ends behind the key.
    value: Option<u32>,
}

/// The end of a path, or of the part of it that there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::config) struct PathEnd {
    /// The last key, unless the path ends in a list.
    pub(in crate::config) key: Option<Position>,
    /// The same key for the second time.
    pub(in crate::config) second: Option<Position>,
    pub(in crate::config) value: Option<Position>,
    /// All of the path is there.
    pub(in crate::config) is_whole: bool,
}

impl Outline {
    /// Reads `text` up to the end of its first document, or to where it is not YAML.
    pub(in crate::config) fn of(text: &str) -> Outline {
        let mut outline = Outline::default();
        let mut anchors: HashMap<Box<[u8]>, u32> = HashMap::new();
        let mut open: Vec<u32> = vec![];
        walk(text, |event, at| {
            let at = (u32::try_from(at.0).unwrap_or(u32::MAX), u32::try_from(at.1).unwrap_or(u32::MAX));
            outline.take(event, at, &mut open, &mut anchors);
            // One document is all there is.
            if open.is_empty() && !outline.nodes.is_empty() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        outline
    }

    fn take(
        &mut self,
        event: YamlEvent<'_>,
        at: (u32, u32),
        open: &mut Vec<u32>,
        anchors: &mut HashMap<Box<[u8]>, u32>,
    ) {
        let (anchor, content) = match event {
            YamlEvent::TagDirective => return,
            YamlEvent::End => {
                open.pop();
                return;
            }
            YamlEvent::StartMap { anchor } => (anchor, Content::Map(vec![])),
            YamlEvent::StartList { anchor } => (anchor, Content::List(vec![])),
            YamlEvent::Scalar { anchor, value } => {
                if let Some(Content::Map(entries)) = open.last().map(|map| &mut self.nodes[*map as usize].content)
                    && entries.last().is_none_or(|entry| entry.value.is_some())
                {
                    entries.push(OutlineEntry { key: String::from_utf8_lossy(value).into(), at, value: None });
                    return;
                }
                (anchor, Content::Scalar)
            }
            YamlEvent::Alias(name) => (None, anchors.get(name).map_or(Content::Scalar, |node| Content::Alias(*node))),
        };
        // A text of a megabyte has fewer than four billion values.
        let node = self.nodes.len() as u32;
        let is_open = matches!(content, Content::Map(_) | Content::List(_));
        self.nodes.push(Node { at, content });
        if let Some(name) = anchor {
            anchors.insert(name.into(), node);
        }
        match open.last().map(|around| &mut self.nodes[*around as usize].content) {
            Some(Content::List(nodes)) => nodes.push(node),
            Some(Content::Map(entries)) => match entries.last_mut().filter(|entry| entry.value.is_none()) {
                Some(entry) => entry.value = Some(node),
                // A key that is no word; the parser refuses it.
                None => entries.push(OutlineEntry { key: "".into(), at, value: None }),
            },
            _ => {}
        }
        if is_open {
            open.push(node);
        }
    }

    /// Finds the end of a path. Aliases (`*name`) and merges (`<<`) on the way are followed to where their content is
    /// written; a value that is an alias as a whole stands where the alias does.
    pub(in crate::config) fn find(&self, steps: &[KeyStep]) -> PathEnd {
        let top = self.nodes.first().map(|top| position(top.at));
        let mut end = PathEnd { value: top, is_whole: steps.is_empty() && top.is_some(), ..PathEnd::default() };
        let mut node = 0;
        for (depth, step) in steps.iter().enumerate() {
            let Some(below) = self.step(node, step) else {
                end.is_whole = false;
                return end;
            };
            end = PathEnd { is_whole: depth + 1 == steps.len(), ..below.0 };
            let Some(value) = below.1 else { break };
            node = value;
        }
        end
    }

    /// Goes one step down. Returns what is there, and its value.
    fn step(&self, node: u32, step: &KeyStep) -> Option<(PathEnd, Option<u32>)> {
        let value_at = |value: u32| self.nodes.get(value as usize).map(|node| position(node.at));
        match (&self.nodes.get(self.followed(node)? as usize)?.content, step) {
            (Content::List(nodes), KeyStep::Index(index)) => {
                let value = *nodes.get(*index)?;
                Some((PathEnd { value: value_at(value), ..PathEnd::default() }, Some(value)))
            }
            (Content::Map(_), KeyStep::Key(key)) => {
                let (entry, second) = self.entry(node, key, FOLLOWED_MAX)?;
                let end = PathEnd {
                    key: Some(position(entry.at)),
                    second: second.map(|entry| position(entry.at)),
                    value: entry.value.and_then(value_at),
                    is_whole: false,
                };
                Some((end, entry.value))
            }
            _ => None,
        }
    }

    /// Finds a key in a map, or in those that are merged into it, and its second occurrence in the same.
    fn entry(&self, map: u32, key: &str, depth: usize) -> Option<(&OutlineEntry, Option<&OutlineEntry>)> {
        let depth = depth.checked_sub(1)?;
        let Content::Map(entries) = &self.nodes.get(self.followed(map)? as usize)?.content else { return None };
        let mut own = entries.iter().filter(|entry| *entry.key == *key);
        if let Some(first) = own.next() {
            return Some((first, own.next()));
        }
        let merged = entries.iter().find(|entry| *entry.key == *"<<")?.value?;
        match &self.nodes.get(self.followed(merged)? as usize)?.content {
            Content::List(maps) => maps.iter().find_map(|map| self.entry(*map, key, depth)),
            _ => self.entry(merged, key, depth),
        }
    }

    /// Follows aliases to the node that they stand for.
    fn followed(&self, mut node: u32) -> Option<u32> {
        for _ in 0..FOLLOWED_MAX {
            match self.nodes.get(node as usize)?.content {
                Content::Alias(target) => node = target,
                _ => return Some(node),
            }
        }
        None
    }
}

fn position(at: (u32, u32)) -> Position {
    (at.0 as usize, at.1 as usize)
}
