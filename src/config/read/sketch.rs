//! What was written where a mistake is, kept for advice after it was taken out of the tree.

use crate::config::read::key::KeyPath;
use crate::config::read::tree::YamlNode;

/// A value and the map or list around it, as far as they are short.
#[derive(Debug)]
pub(in crate::config) struct Sketch {
    pub(in crate::config) node: Option<YamlNode>,
    pub(in crate::config) around: Option<YamlNode>,
}

/// How deep a sketch goes.
const DEPTH: usize = 2;

impl Sketch {
    /// Draws what is at `path` of `tree`.
    pub(in crate::config) fn of(tree: &YamlNode, path: &KeyPath) -> Sketch {
        let around = path.parent();
        let at = |path: &KeyPath| tree.at(path).map(|node| sketch(node, DEPTH));
        Sketch { node: at(path), around: around.and_then(|path| at(&path)) }
    }
}

/// The most elements of a list or map that a sketch has.
const SKETCHED_MAX: usize = 8;

/// Longer texts and keys are left out of a sketch.
const SKETCHED_BYTES_MAX: usize = 200;

/// Returns the beginning of a node, down to this depth.
fn sketch(node: &YamlNode, depth: usize) -> YamlNode {
    let below = |node: &YamlNode| if depth == 0 { YamlNode::Null } else { sketch(node, depth - 1) };
    match node {
        YamlNode::List(nodes) => YamlNode::List(nodes.iter().take(SKETCHED_MAX).map(below).collect()),
        YamlNode::Map(entries) => {
            let short = entries.iter().filter(|(key, _)| key.len() <= SKETCHED_BYTES_MAX);
            YamlNode::Map(short.take(SKETCHED_MAX).map(|(key, node)| (key.clone(), below(node))).collect())
        }
        YamlNode::Text { text, .. } if text.len() > SKETCHED_BYTES_MAX => YamlNode::Null,
        YamlNode::Text { raw: Some(raw), .. } if raw.len() > SKETCHED_BYTES_MAX => YamlNode::Null,
        scalar => scalar.clone(),
    }
}
