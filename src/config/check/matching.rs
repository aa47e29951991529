//! Checks the listeners and methods that a route is for: listeners that do not exist or serve no routes, names given
//! twice, and methods that let no WebSocket in.

use std::collections::{HashMap, HashSet};

use super::Checker;
use crate::config::read::FINDINGS_MAX;
use crate::config::read::key::KeyPath;
use crate::config::read::suggest::nearest_or_list;
use crate::config::schema::route::{PlainHttp, RouteConfig};
use crate::route::Match;

/// The most methods of a route: HTTP and WebDAV together have fewer. They are listed in a 405.
const METHODS_MAX: usize = 32;

/// The most routes that are compared with those of some listeners.
const OPEN_ROUTES_MAX: usize = 50;

impl Checker<'_, '_> {
    /// Checks `match.listeners` and `match.methods` of all routes.
    pub(super) fn matching(&mut self, section: &KeyPath) {
        let listeners: HashMap<&str, bool> =
            self.file.listeners.iter().map(|one| (one.name.as_str(), one.redirect.is_some())).collect();
        for (index, route) in self.file.routes.iter().enumerate() {
            let path = section.index(index).key("match");
            if !route.matches.listeners.is_empty() {
                self.listeners_of(&path.key("listeners"), route, &listeners);
            }
            if !route.matches.methods.is_empty() {
                self.methods_of(&path.key("methods"), route);
            }
        }
        self.taken_elsewhere(section);
    }

    /// Warns where a route is for some listeners only, and another takes its requests on all others: people who think of it as
    /// hidden there would let everybody in.
    fn taken_elsewhere(&mut self, section: &KeyPath) {
        let file = self.file;
        let serving = file.listeners.iter().filter(|listener| listener.redirect.is_none());
        let serving: Vec<&str> = serving.map(|listener| listener.name.as_str()).collect();
        let is_everywhere = |route: &RouteConfig| route.matches.listeners.is_empty();
        let open = file.routes.iter().enumerate().filter(|(_, route)| is_everywhere(route));
        let open: Vec<(usize, &RouteConfig)> = open.take(OPEN_ROUTES_MAX).collect();
        for (index, route) in file.routes.iter().enumerate() {
            let named = &route.matches.listeners;
            if named.is_empty() || serving.iter().all(|name| named.iter().any(|one| one == name)) {
                continue;
            }
            let anywhere = Match { listeners: vec![], ..route.matches.clone() };
            let later = open.iter().find(|(other, open)| *other > index && open.matches.covers(&anywhere));
            // A route that answers by itself hides what is behind it.
            let Some((other, open)) = later.filter(|(_, open)| open.upstream.is_some()) else { continue };
            let list = section.index(index).key("match").key("listeners");
            let shown = self.written.show(&section.index(*other).key("name"), &open.name);
            let help = format!(
                "put a route with the same `match` but for `listeners`, and `respond: {{ status: 404 }}`, behind it; or give \
                 `{shown}` its `listeners`"
            );
            self.warn(&list, format!("on other listeners the route `{shown}` takes these requests")).help(help);
        }
    }

    /// `known` tells of each listener whether it redirects.
    fn listeners_of(&mut self, list: &KeyPath, route: &RouteConfig, known: &HashMap<&str, bool>) {
        let section = KeyPath::root().key("listeners");
        let named = &route.matches.listeners;
        let mut seen: HashSet<&str> = HashSet::new();
        let mut redirects = true;
        for (index, name) in named.iter().enumerate() {
            let at = list.index(index);
            if !seen.insert(name) {
                let shown = self.written.show(&at, name);
                self.error(&at, format!("`{shown}` is named twice")).help("name each listener once");
            }
            match known.get(name.as_str()) {
                Some(is_redirect) => redirects &= is_redirect,
                None => {
                    redirects = false;
                    self.unknown_listener(&at, name);
                }
            }
        }
        if redirects {
            let message = "no request ever comes to this route: its listeners redirect all requests to https";
            self.warn(list, message).help("name the listener with `tls`").involving(section);
        }
    }

    fn unknown_listener(&mut self, at: &KeyPath, name: &str) {
        let section = KeyPath::root().key("listeners");
        if self.errors > FINDINGS_MAX {
            // No suggestion for what nobody reads.
            self.error(at, "there is no such listener").involving(section);
            return;
        }
        let shown = self.written.show(at, &name);
        // A name from the environment is shown as it is written.
        let listeners = self.file.listeners.iter().enumerate();
        let names: Vec<String> = listeners
            .map(|(index, listener)| self.written.show(&section.index(index).key("name"), &listener.name))
            .collect();
        let help = nearest_or_list(&shown, &names, names.len());
        self.error(at, format!("there is no listener `{shown}`")).help(help).involving(section);
    }

    fn methods_of(&mut self, list: &KeyPath, route: &RouteConfig) {
        let methods = &route.matches.methods;
        if methods.len() > METHODS_MAX {
            self.error(list, format!("there are more than {METHODS_MAX} methods")).help("keep those that are needed");
            return;
        }
        for (index, method) in methods.iter().enumerate().filter(|(index, method)| methods[..*index].contains(method)) {
            let at = list.index(index);
            let shown = self.written.show(&at, method);
            self.error(&at, format!("`{shown}` is named twice")).help("name each method once");
        }
        if route.http == PlainHttp::Reject && !methods.iter().any(|one| one.method() == http::Method::GET) {
            let message = "a WebSocket's handshake is a GET, and `http: reject` lets in nothing else";
            self.warn(list, message).help("write `methods: [GET]`, or remove it");
        }
    }
}
