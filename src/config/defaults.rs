//! Fills routes and upstreams up with what `defaults` says of all of them.
//!
//! This happens in the tree, before it is read as types: a map of a route is filled up key by key, and everything else
//! that it says replaces the default. The defaults are judged once, by themselves; a mistake is taken out of them and
//! so repeats in no route.

use std::collections::HashMap;
use std::rc::Rc;

use crate::config::read::decode::Mending;
use crate::config::read::key::{KeyPath, KeyStep};
use crate::config::read::tree::YamlNode;
use crate::config::schema::composition::{NO_ROUTE_DEFAULTS, NO_UPSTREAM_DEFAULTS};
use crate::config::{RouteConfig, UpstreamConfig};

/// The most values and bytes of a file with its defaults filled in: as many as with its aliases followed.
const FILLED_VALUES_MAX: usize = 250_000;
const FILLED_BYTES_MAX: usize = 5 << 20;

/// Keys that exclude each other, by the path of their map in a route or upstream: a map that has one of them takes none of
/// the others from the defaults.
const EXCLUSIVE: [(&[&str], &[&str]); 5] = [
    (&[], &["upstream", "redirect", "respond"]),
    (&[], &["endpoints", "discover"]),
    (&["discover"], &["file", "dns", "etcd"]),
    (&["health"], &["tcp", "http", "websocket"]),
    (&["sticky"], &["secrets", "secrets_file"]),
];

/// Maps that say one thing together: a route's own replaces the default as a whole.
const WHOLE: [&str; 3] = ["rewrite", "body", "expect"];

/// What is wrong with the defaults.
#[derive(Debug)]
pub(super) struct DefaultsFault {
    pub(super) path: KeyPath,
    pub(super) problem: String,
    pub(super) help: String,
}

/// Which keys of routes and upstreams come from the defaults alone.
#[derive(Debug, Default)]
pub(super) struct InheritedKeys {
    /// By the section and the element in it.
    keys: HashMap<(&'static str, KeyStep), Rc<[String]>>,
}

impl InheritedKeys {
    /// Returns true if the key of a route or upstream that `path` leads through is a default.
    pub(super) fn has(&self, path: &KeyPath) -> bool {
        match path.steps() {
            [KeyStep::Key(section), element, KeyStep::Key(key), ..] if !self.keys.is_empty() => {
                let Some(section) = ["routes", "upstreams"].into_iter().find(|one| one == section) else {
                    return false;
                };
                self.keys.get(&(section, element.clone())).is_some_and(|keys| keys.contains(key))
            }
            _ => false,
        }
    }
}

/// Judges the defaults of `tree`, takes out what is wrong with them, and fills the routes and upstreams up.
pub(super) fn fill_in(tree: &mut YamlNode, mending: &mut Mending) -> (InheritedKeys, Vec<DefaultsFault>) {
    let (mut inherited, mut faults) = (InheritedKeys::default(), vec![]);
    let section = KeyPath::root().key("defaults");
    let route = judged::<RouteConfig>(tree, &section.key("route"), &NO_ROUTE_DEFAULTS, mending, &mut faults);
    let upstream =
        judged::<UpstreamConfig>(tree, &section.key("upstream"), &NO_UPSTREAM_DEFAULTS, mending, &mut faults);
    let size = [(&route, "routes"), (&upstream, "upstreams")].map(|(defaults, section)| {
        let one = defaults.as_ref().map(size_of).unwrap_or_default();
        let count = match tree.at(&KeyPath::root().key(section)) {
            Some(YamlNode::List(nodes)) => nodes.len(),
            Some(YamlNode::Map(entries)) => entries.len(),
            _ => 0,
        };
        (one.0.saturating_mul(count), one.1.saturating_mul(count))
    });
    let whole = size_of(tree);
    if whole.0.saturating_add(size[0].0).saturating_add(size[1].0) > FILLED_VALUES_MAX
        || whole.1.saturating_add(size[0].1).saturating_add(size[1].1) > FILLED_BYTES_MAX
    {
        let problem = "the routes and upstreams have too many values with these filled in".to_owned();
        faults.push(DefaultsFault { path: section, problem, help: "keep those that most of them need".to_owned() });
        return (inherited, faults);
    }
    for (section, defaults) in [("routes", route), ("upstreams", upstream)] {
        if let Some(defaults) = defaults {
            fill_section(tree, section, &defaults, &mut inherited);
        }
    }
    (inherited, faults)
}

/// Returns the defaults at `path`, without what is wrong with them; `None` if there are none.
fn judged<T: serde::de::DeserializeOwned>(
    tree: &mut YamlNode,
    path: &KeyPath,
    refused: &[(&str, &str, &str)],
    mending: &mut Mending,
    faults: &mut Vec<DefaultsFault>,
) -> Option<YamlNode> {
    let node = tree.at_mut(path.steps())?;
    // Another kind of value is reported when the whole is read.
    let YamlNode::Map(_) = node else { return None };
    for (key, why, help) in refused {
        if node.remove(&KeyPath::root().key(key)) {
            let problem = format!("no default can stand here: {why}");
            faults.push(DefaultsFault { path: path.key(key), problem, help: (*help).to_owned() });
        }
    }
    mending.part::<T>(node, path);
    Some(node.clone())
}

/// Returns the number of values, and the bytes of their texts and keys.
fn size_of(node: &YamlNode) -> (usize, usize) {
    let add = |sum: (usize, usize), one: (usize, usize)| (sum.0 + one.0, sum.1 + one.1);
    match node {
        YamlNode::Text { text, .. } => (1, text.len()),
        YamlNode::List(nodes) => nodes.iter().map(size_of).fold((1, 0), add),
        YamlNode::Map(entries) => {
            entries.iter().map(|(key, node)| add(size_of(node), (1, key.len()))).fold((1, 0), add)
        }
        _ => (1, 0),
    }
}

fn fill_section(tree: &mut YamlNode, section: &'static str, defaults: &YamlNode, inherited: &mut InheritedKeys) {
    // Most elements have the same.
    let mut last: Rc<[String]> = Rc::default();
    let mut fill = |step: KeyStep, node: &mut YamlNode| {
        let YamlNode::Map(entries) = node else { return };
        let own = entries.len();
        fill_up(entries, defaults, &mut vec![]);
        let keys = || entries[own..].iter().map(|(key, _)| key);
        if !keys().eq(last.iter()) {
            last = keys().cloned().collect();
        }
        if !last.is_empty() {
            inherited.keys.insert((section, step), Rc::clone(&last));
        }
    };
    match tree.at_mut(KeyPath::root().key(section).steps()) {
        Some(YamlNode::List(nodes)) => {
            nodes.iter_mut().enumerate().for_each(|(index, node)| fill(KeyStep::Index(index), node));
        }
        Some(YamlNode::Map(entries)) => {
            entries.iter_mut().for_each(|(key, node)| fill(KeyStep::Key(key.clone()), node));
        }
        _ => {}
    }
}

/// Fills a map up with what it does not say. `trail` leads to it from the route or upstream.
fn fill_up(own: &mut Vec<(String, YamlNode)>, defaults: &YamlNode, trail: &mut Vec<String>) {
    let YamlNode::Map(defaults) = defaults else { return };
    for (key, default) in defaults {
        // Upper and lower case are the same in the names of headers, and in no other key.
        match own.iter().position(|(other, _)| other.eq_ignore_ascii_case(key)) {
            Some(at) if !WHOLE.contains(&key.as_str()) => {
                if let YamlNode::Map(entries) = &mut own[at].1 {
                    trail.push(key.clone());
                    fill_up(entries, default, trail);
                    trail.pop();
                }
            }
            None if !is_excluded(own, key, trail) => own.push((key.clone(), default.clone())),
            _ => {}
        }
    }
}

/// Returns true if one of the map's own keys excludes this one.
fn is_excluded(own: &[(String, YamlNode)], key: &str, trail: &[String]) -> bool {
    let groups = EXCLUSIVE.iter().filter(|(path, keys)| *path == trail && keys.contains(&key));
    groups.flat_map(|(_, keys)| *keys).any(|other| *other != key && own.iter().any(|(own, _)| own == other))
}
