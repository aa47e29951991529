//! The `location` blocks of a server, in the order in which wsluice must look at them, and what each does.
//!
//! nginx takes an exact location first; else it finds the longest prefix, and takes it if it is `^~`; else the first regex that matches;
//! else that prefix. wsluice takes the first route that matches.

use super::notes::Notes;
use super::parser::Directive;
use super::server::is_network;
use super::values::{Scope, has_variable, whole_regex};
use super::words::{Class, class};
use crate::import::yaml::Yaml;
use crate::route::pattern::PathPattern;

/// How a location compares paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Exact,
    /// Every path that begins so; `^~` looks at no regex then.
    Prefix {
        is_final: bool,
    },
    Regex {
        ignores_case: bool,
    },
}

/// A location.
#[derive(Clone, Debug)]
pub(super) struct Location<'a> {
    pub kind: Kind,
    /// A path, or the regex.
    pub path: String,
    pub directive: &'a Directive,
    pub scope: Scope<'a>,
}

impl<'a> Location<'a> {
    /// Reads one; none for `@name`.
    fn new(directive: &'a Directive, scope: &Scope<'a>) -> Option<Location<'a>> {
        let (kind, path) = match (directive.arg(0), directive.arg(1)) {
            ("=", path) => (Kind::Exact, path),
            ("^~", path) => (Kind::Prefix { is_final: true }, path),
            ("~", path) => (Kind::Regex { ignores_case: false }, path),
            ("~*", path) => (Kind::Regex { ignores_case: true }, path),
            // `=/a` is written by some.
            (word, "") if word.starts_with("=/") => (Kind::Exact, &word[1..]),
            (word, "") if word.starts_with("^~/") => (Kind::Prefix { is_final: true }, &word[2..]),
            (word, "") if word.starts_with("~*") => (Kind::Regex { ignores_case: true }, &word[2..]),
            (word, "") if word.starts_with('~') => (Kind::Regex { ignores_case: false }, &word[1..]),
            (word, _) if word.starts_with('@') => return None,
            (path, _) => (Kind::Prefix { is_final: false }, path),
        };
        Some(Location { kind, path: path.to_owned(), directive, scope: scope.with(directive.inside()) })
    }

    pub(super) fn is_prefix(&self) -> bool {
        matches!(self.kind, Kind::Prefix { .. })
    }

    /// Returns true if wsluice can compare paths so, in both ways in which it may be written.
    pub(super) fn is_readable(&self) -> bool {
        let fits = |is_literal| {
            self.pattern(is_literal)
                .is_none_or(|path| serde_yaml::from_str::<PathPattern>(&path.line().replace("$${", "${")).is_ok())
        };
        fits(false) && fits(true)
    }

    /// Returns `match.path`; none for all paths. A prefix without a slash at its end is a prefix of segments where that lets nobody
    /// further in, and a regex where more than the text counts.
    pub(super) fn pattern(&self, is_literal: bool) -> Option<Yaml> {
        let one = |key: &str, value: &str| Some(Yaml::map([(key, Yaml::text(value))]));
        match self.kind {
            Kind::Exact => one("exact", &self.path),
            Kind::Prefix { .. } if self.path == "/" => None,
            Kind::Prefix { .. } if is_literal && !self.path.ends_with('/') => {
                one("regex", &format!("{}.*", regex::escape(&self.path)))
            }
            Kind::Prefix { .. } => one("prefix", &self.path),
            Kind::Regex { ignores_case } => one("regex", &whole_regex(&self.path, ignores_case)),
        }
    }
}

/// Returns all locations of a server in the order of their routes.
pub(super) fn ordered<'a>(scope: &Scope<'a>, notes: &mut Notes, comments: &mut Vec<String>) -> Vec<Location<'a>> {
    let mut all = vec![];
    collect(scope, &mut all, notes, comments);
    let has_regex = all.iter().any(|location| matches!(location.kind, Kind::Regex { .. }));
    let finals: Vec<String> = all
        .iter()
        .filter(|location| location.kind == Kind::Prefix { is_final: true })
        .map(|location| location.path.clone())
        .collect();
    let mut ranked: Vec<((u8, usize), Location<'a>)> = vec![];
    for location in all {
        let below_final = finals.iter().any(|path| location.path.starts_with(path) && location.path != *path);
        let longest = usize::MAX - location.path.len();
        let rank = match location.kind {
            Kind::Exact => (0, 0),
            Kind::Prefix { is_final: true } => (1, longest),
            Kind::Prefix { is_final: false } if has_regex && below_final => {
                let why = "a regex that matches below it would come first in nginx, since it stands below a `^~`";
                comments.extend(notes.lost(location.directive, why));
                (1, longest)
            }
            Kind::Regex { .. } => (2, 0),
            Kind::Prefix { is_final: false } => (3, longest),
        };
        ranked.push((rank, location));
    }
    // Stable: regexes stay in their order.
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, location)| location).collect()
}

/// Collects locations, nested ones too: a nested prefix is the longer one.
fn collect<'a>(scope: &Scope<'a>, all: &mut Vec<Location<'a>>, notes: &mut Notes, comments: &mut Vec<String>) {
    for directive in scope.own().iter().filter(|directive| directive.name == "location") {
        let Some(location) = Location::new(directive, scope) else { continue };
        for inner in directive.inside().iter().filter(|inner| inner.name == "location") {
            if inner.arg(0).starts_with('~') {
                let why = "a regex inside of another location: write a route for it, before that of the location";
                comments.extend(notes.guard(inner, why));
            }
        }
        let inner = location.scope.clone();
        all.push(location);
        let from = all.len();
        collect(&inner, all, notes, comments);
        // Nested regexes hold only within their location, which no route could say.
        let mut at = from;
        while at < all.len() {
            if matches!(all[at].kind, Kind::Regex { .. }) { drop(all.remove(at)) } else { at += 1 }
        }
    }
}

/// Returns the named location.
pub(super) fn named<'a>(server: &Scope<'a>, name: &str) -> Option<&'a Directive> {
    server.own().iter().find(|directive| directive.name == "location" && directive.arg(0) == name)
}

/// Who may come in, as keys of a route.
#[derive(Debug, Default)]
pub(super) struct Access {
    /// `addresses` of the route.
    pub addresses: Option<Yaml>,
    /// What stands in `auth` of the route.
    pub auth: Vec<(&'static str, Yaml)>,
    /// Something keeps people out that has no counterpart.
    pub is_closed: bool,
    /// Something is asked at all.
    pub is_limited: bool,
}

impl Access {
    /// Adds what another location asks for as well. What cannot both be said is closed.
    pub(super) fn join(&mut self, other: Access) {
        self.is_closed |= other.is_closed;
        self.is_limited |= other.is_limited;
        match (&self.addresses, other.addresses) {
            (Some(ours), Some(theirs)) => self.is_closed |= *ours != theirs,
            (None, theirs) => self.addresses = theirs,
            (Some(_), None) => {}
        }
        for (key, value) in other.auth {
            match self.auth.iter().find(|(known, _)| *known == key) {
                Some((_, known)) => self.is_closed |= *known != value,
                None => self.auth.push((key, value)),
            }
        }
    }
}

/// Reads `allow`, `deny`, passwords, and everything that has no counterpart.
pub(super) fn access(scope: &Scope<'_>, notes: &mut Notes, comments: &mut Vec<String>) -> Access {
    let mut access = Access::default();
    for guard in scope.every().filter(|directive| class(&directive.name) == Class::Guard) {
        access.is_closed = true;
        comments.extend(notes.guard(guard, "wsluice cannot ask for this: closed until you put something in its place"));
    }
    addresses(scope, &mut access, notes, comments);
    if let Some(satisfy) = scope.find("satisfy").filter(|satisfy| satisfy.arg(0) == "any") {
        comments.extend(notes.lost(satisfy, "all that is asked for is needed here, not one of it"));
    }
    if let Some(realm) = scope.find("auth_basic").filter(|basic| basic.arg(0) != "off") {
        access.is_limited = true;
        match scope.find("auth_basic_user_file").filter(|file| !has_variable(file.arg(0)) && !file.arg(0).is_empty()) {
            Some(file) => {
                let mut basic = vec![("file", Yaml::text(file.arg(0)))];
                let text = realm.arg(0);
                if !text.is_empty()
                    && text.len() <= 128
                    && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
                    && !has_variable(text)
                {
                    basic.push(("realm", Yaml::text(text)));
                }
                access.auth.push(("basic", Yaml::map(basic)));
                let why = "only bcrypt is taken: `htpasswd -B -C 10 FILE NAME` makes other hashes anew";
                comments.extend(notes.remark(file, why));
            }
            None => {
                access.is_closed = true;
                comments.extend(notes.guard(realm, "there is no file of users that wsluice could read: closed"));
            }
        }
    }
    access
}

/// Turns rules in an order into two lists, of which `deny` wins. Where that is not the same it lets in fewer.
fn addresses(scope: &Scope<'_>, access: &mut Access, notes: &mut Notes, comments: &mut Vec<String>) {
    let (mut allow, mut deny, mut rest_denied) = (vec![], vec![], false);
    for rule in scope.any_of(&["allow", "deny"]) {
        let (is_allow, who) = (rule.name == "allow", rule.arg(0));
        match who {
            "all" if is_allow => break,
            "all" => {
                rest_denied = true;
                break;
            }
            _ if !is_network(who) => {
                if !is_allow {
                    access.is_closed = true;
                    comments.extend(notes.guard(rule, "this is no network that wsluice can deny: closed"));
                } else {
                    comments.extend(notes.lost(rule, "only networks and addresses are let in"));
                }
            }
            _ if is_allow => allow.push(who.to_owned()),
            _ => {
                if !allow.is_empty() {
                    comments.extend(notes.lost(rule, "a `deny` wins here, also over an `allow` before it"));
                }
                deny.push(who.to_owned());
            }
        }
    }
    access.is_limited |= rest_denied || !deny.is_empty();
    if rest_denied && allow.is_empty() {
        access.is_closed = true;
        return;
    }
    let mut entries = vec![];
    if rest_denied {
        entries.push(("allow", Yaml::texts(allow)));
    }
    if !deny.is_empty() {
        entries.push(("deny", Yaml::texts(deny)));
    }
    if !entries.is_empty() {
        access.addresses = Some(Yaml::map(entries));
    }
}
