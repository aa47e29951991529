//! A route that names its server by URL instead of an upstream: `upstream: "http://127.0.0.1:3000"`.
//!
//! Most small configurations have one server a route. This happens in the tree, before it is read as types: the server becomes
//! an upstream with the name of the route, so that everything else (defaults, metrics, the API) knows upstreams only.

use std::collections::HashSet;

use crate::config::EndpointUrl;
use crate::config::read::key::KeyPath;
use crate::config::read::parts::SourceParts;
use crate::config::read::tree::YamlNode;

/// Returns true if a text is meant as a URL.
pub(super) fn is_url(text: &str) -> bool {
    text.contains("://") || text.starts_with("unix:")
}

/// Turns the servers that routes name by URL into upstreams. What is no URL of a server, and what would take the name of an
/// upstream, is left for `check` to report.
pub(super) fn name_servers(tree: &mut YamlNode, parts: &mut SourceParts, upstreams_max: usize) {
    let mut names: HashSet<String> = match tree.at(&KeyPath::root().key("upstreams")) {
        None | Some(YamlNode::Null) => HashSet::new(),
        Some(YamlNode::Map(entries)) => entries.iter().map(|(name, _)| name.clone()).collect(),
        Some(_) => return,
    };
    let Some(YamlNode::List(routes)) = tree.at_mut(KeyPath::root().key("routes").steps()) else { return };
    let mut servers = vec![];
    for (index, route) in routes.iter_mut().enumerate() {
        let YamlNode::Map(entries) = route else { continue };
        let Some(name) = entries.iter().find(|(key, _)| key == "name").map(|(_, name)| name.clone()) else { continue };
        let YamlNode::Text { text: name_text, .. } = &name else { continue };
        let Some((_, server)) = entries.iter_mut().find(|(key, _)| key == "upstream") else { continue };
        let is_server =
            matches!(&*server, YamlNode::Text { text, .. } if is_url(text) && text.parse::<EndpointUrl>().is_ok());
        if is_server && names.len() < upstreams_max && names.insert(name_text.clone()) {
            let name_text = name_text.clone();
            parts.server(name_text.clone(), index);
            let server = std::mem::replace(server, name);
            servers.push((name_text, YamlNode::Map(vec![("endpoints".to_owned(), YamlNode::List(vec![server]))])));
        }
    }
    if servers.is_empty() {
        return;
    }
    let YamlNode::Map(top) = tree else { return };
    match top.iter_mut().find(|(key, _)| key == "upstreams") {
        Some((_, YamlNode::Map(entries))) => entries.extend(servers),
        // There was nothing.
        Some((_, upstreams)) => *upstreams = YamlNode::Map(servers),
        None => top.push(("upstreams".to_owned(), YamlNode::Map(servers))),
    }
}
