//! Checks routes that keep a spelling of a path apart (`paths`), where that leads past their rules.
//!
//! By default no spelling does. With `paths: { encoded_slash: keep }` a request for `/admin%2Fws` does not match
//! `prefix: /admin`, as configured; but if the server behind the route that gets it reads it as `/admin/ws`, the
//! request was admitted by the wrong rules.

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::route::RouteConfig;
use crate::route::pattern::{HostPattern, PathPattern};
use crate::route::reading::{EncodedSlash, PathParameters, Paths, Slashes};

/// How many pairs of routes are compared.
const STEPS_MAX: usize = 1_000_000;

impl Checker<'_, '_> {
    /// Returns spellings of this route's path that do not match it, each with the key and value that cause it.
    pub(super) fn spellings(&mut self, section: &KeyPath) {
        let routes = &self.file.routes;
        let mut steps = STEPS_MAX;
        for (index, route) in routes.iter().enumerate().filter(|(_, route)| route.paths != Paths::default()) {
            for (key, value, spelling) in spellings(route) {
                let Some(left) = steps.checked_sub(routes.len()) else { return };
                steps = left;
                let found = routes.iter().position(|other| takes(other, route, &spelling));
                let Some(other) = found.filter(|other| has_other_rules(&routes[*other], route)) else { continue };
                let involved = self.written.original(&section.index(other));
                let at = section.index(index).key("paths").key(key);
                let named = self.written.name_of(&involved, &self.written.original(&at));
                let message = format!(
                    "a request for `{spelling}` goes to {named}, which lets in others than this route: if a server reads it \
                     as this route's path, it is let in by the wrong rules"
                );
                let help = format!("leave out `{value}`, or give both routes the same `origins` and `http`");
                self.warn(&at, message).at_key().help(help).involving(involved);
            }
        }
    }
}

/// Spellings of a path of this route that are none to it, each with the key and the value by which they are not.
fn spellings(route: &RouteConfig) -> Vec<(&'static str, String, String)> {
    let path = match &route.matches.path {
        Some(PathPattern::Exact(path) | PathPattern::Prefix(path)) => path.as_str(),
        Some(PathPattern::Regex(_)) | None => return vec![],
    };
    let (name, paths) = (path.trim_matches('/'), route.paths);
    let mut all = vec![];
    if paths.slashes == Slashes::Keep {
        all.push(("slashes", "slashes: keep", format!("/{path}")));
    }
    if paths.encoded_slash == EncodedSlash::Keep {
        all.push(("encoded_slash", "encoded_slash: keep", format!("/{name}%2F")));
        all.push(("encoded_slash", "encoded_slash: keep", format!("/%2F{name}")));
    }
    if paths.parameters == PathParameters::Keep {
        all.push(("parameters", "parameters: keep", format!("/{name};x")));
    }
    let is_missed = |spelling: &str| !is_path_of(route, spelling);
    let mut seen = vec![];
    all.retain(|(key, _, spelling)| {
        let is_new = !name.is_empty() && is_missed(spelling) && !seen.contains(key);
        if is_new {
            seen.push(*key);
        }
        is_new
    });
    all.into_iter().map(|(key, value, spelling)| (key, value.to_owned(), spelling)).collect()
}

fn is_path_of(route: &RouteConfig, path: &str) -> bool {
    match &route.matches.path {
        None => true,
        Some(PathPattern::Regex(_)) => false,
        Some(pattern) => pattern.matches(&route.paths.read(path)),
    }
}

/// Returns true if `other` gets a request for this path that meets all other conditions of `route`.
fn takes(other: &RouteConfig, route: &RouteConfig, path: &str) -> bool {
    const ANY: &[HostPattern] = &[HostPattern::Any];
    fn hosts(route: &RouteConfig) -> &[HostPattern] {
        if route.matches.hosts.is_empty() { ANY } else { &route.matches.hosts }
    }
    is_path_of(other, path)
        && other.matches.covers_conditions(&route.matches)
        && hosts(other).iter().any(|theirs| hosts(route).iter().any(|ours| theirs.covers(ours) || ours.covers(theirs)))
}

fn has_other_rules(other: &RouteConfig, route: &RouteConfig) -> bool {
    other.origins != route.origins || other.http != route.http
}
