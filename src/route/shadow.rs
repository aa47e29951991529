//! Finds routes that are never reached because an earlier one takes all their requests.
//!
//! Comparing each route with each earlier one is quadratic in routes and hosts: minutes for a file that is read in a
//! moment. So earlier routes are indexed by a host (its labels from the right), a path (its segments from the left) and
//! one condition. Only routes whose keys could cover the later one are compared. The remaining quadratic part stops
//! after a number of steps.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::pattern::{HostPattern, PathPattern, ValuePattern};
use super::reading::Paths;
use super::table::Match;

/// The most look-ups and comparisons. Ten thousand routes take some hundred thousand.
const STEPS_MAX: usize = 4_000_000;

/// The cost of a regex match, in comparisons.
const REGEX_STEPS: usize = 100;

/// Routes that are never reached.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shadowed {
    /// Pairs of such a route and the first earlier one that takes all its requests, as indices. Does not find routes
    /// that only several earlier ones together shadow.
    pub pairs: Vec<(usize, usize)>,
    /// How many routes were checked, from the first on; all, unless the steps ran out.
    pub looked_at: usize,
}

/// Checks routes in their order, each with its reading of paths.
pub fn shadowed(routes: &[(&Match, Paths)]) -> Shadowed {
    let mut search = ShadowSearch { steps: STEPS_MAX, ..ShadowSearch::default() };
    let mut pairs = vec![];
    for (index, (route_match, paths)) in routes.iter().enumerate() {
        match search.cover(route_match, *paths) {
            Err(StepsExhausted) => return Shadowed { pairs, looked_at: index },
            // What this route would cover, `earlier` covers as well.
            Ok(Some(earlier)) => pairs.push((index, earlier)),
            Ok(None) => search.add(index, route_match, *paths),
        }
    }
    Shadowed { pairs, looked_at: routes.len() }
}

/// The steps ran out.
struct StepsExhausted;

/// A node of a tree of names.
type TreeNode = u32;

/// A tree of names, split into parts.
#[derive(Default)]
struct NameTree<'a> {
    children: HashMap<(TreeNode, &'a str), TreeNode>,
    last: TreeNode,
}

impl<'a> NameTree<'a> {
    fn add(&mut self, parts: impl Iterator<Item = &'a str>) -> TreeNode {
        parts.fold(0, |above, part| {
            *self.children.entry((above, part)).or_insert_with(|| {
                self.last += 1;
                self.last
            })
        })
    }

    /// Returns the nodes on the way from the root, and whether all parts were found.
    fn way(&self, parts: impl Iterator<Item = &'a str>) -> (Vec<TreeNode>, bool) {
        let mut way = vec![0];
        let mut at = 0;
        for part in parts {
            match self.children.get(&(at, part)) {
                Some(node) => at = *node,
                None => return (way, false),
            }
            way.push(at);
        }
        (way, true)
    }
}

/// A key for the host of an earlier route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum HostKey {
    Any,
    Exact(TreeNode),
    Below(TreeNode),
}

/// A key for its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PathKey<'a> {
    Any,
    Exact(TreeNode),
    /// This path and all below it.
    From(TreeNode),
    /// All paths below it.
    Below(TreeNode),
    AnyRegex,
    Regex(&'a str),
}

/// A key for one of its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ConditionKey<'a> {
    None,
    Exact(Field<'a>, &'a str),
    Present(Field<'a>, bool),
    AnyRegex(Field<'a>),
    Regex(Field<'a>, &'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Field<'a> {
    Header(&'a str),
    Parameter(&'a str),
}

/// A route that may cover later ones.
struct Earlier<'a> {
    index: usize,
    route_match: &'a Match,
    paths: Paths,
    hosts: HashSet<HostKey>,
}

/// An entry in a list of earlier routes.
struct Link {
    earlier: u32,
    next: Option<u32>,
}

#[derive(Default)]
struct ShadowSearch<'a> {
    labels: NameTree<'a>,
    segments: NameTree<'a>,
    earlier: Vec<Earlier<'a>>,
    /// Numbers of the pairs of path and condition: a route of a thousand hosts needs one.
    path_conditions: HashMap<(PathKey<'a>, ConditionKey<'a>), u32>,
    /// The first and the last link of each list of earlier routes, in order.
    lists: HashMap<(HostKey, u32), (u32, u32)>,
    links: Vec<Link>,
    steps: usize,
}

impl<'a> ShadowSearch<'a> {
    fn spend(&mut self, steps: usize) -> Result<(), StepsExhausted> {
        self.steps = self.steps.checked_sub(steps).ok_or(StepsExhausted)?;
        Ok(())
    }

    fn add(&mut self, index: usize, route_match: &'a Match, paths_read: Paths) {
        let hosts: HashSet<HostKey> = match route_match.hosts.as_slice() {
            [] => [HostKey::Any].into(),
            hosts => hosts.iter().map(|host| self.host(host)).collect(),
        };
        let paths = match &route_match.path {
            None => vec![PathKey::Any],
            Some(PathPattern::Exact(path)) => vec![PathKey::Exact(self.segments.add(segments(path.as_str())))],
            Some(PathPattern::Prefix(path)) => {
                let path = path.as_str();
                vec![match path.strip_suffix('/') {
                    Some("") => PathKey::Below(0),
                    Some(above) => PathKey::Below(self.segments.add(segments(above))),
                    None => PathKey::From(self.segments.add(segments(path))),
                }]
            }
            Some(PathPattern::Regex(regex)) => vec![PathKey::AnyRegex, PathKey::Regex(regex.source())],
        };
        let all: Vec<(Field<'a>, &'a ValuePattern)> = conditions(route_match).collect();
        // The condition that fewest other routes have.
        let most_selective = all.iter().find(|(_, value)| matches!(value, ValuePattern::Exact(_))).or(all.first());
        let conditions = match most_selective {
            None => vec![ConditionKey::None],
            Some((field, ValuePattern::Exact(text))) => vec![ConditionKey::Exact(*field, text)],
            Some((field, ValuePattern::Present(is_there))) => vec![ConditionKey::Present(*field, *is_there)],
            Some((field, ValuePattern::Regex(regex))) => {
                vec![ConditionKey::AnyRegex(*field), ConditionKey::Regex(*field, regex.source())]
            }
        };
        // A megabyte of text holds fewer than four billion routes and hosts.
        let number = self.earlier.len() as u32;
        for path in &paths {
            for condition in &conditions {
                let next_number = self.path_conditions.len() as u32;
                let rest = *self.path_conditions.entry((*path, *condition)).or_insert(next_number);
                hosts.iter().for_each(|host| self.link((*host, rest), number));
            }
        }
        self.earlier.push(Earlier { index, route_match, paths: paths_read, hosts });
    }

    /// Appends an earlier route to a list.
    fn link(&mut self, list: (HostKey, u32), earlier: u32) {
        let new = self.links.len() as u32;
        self.links.push(Link { earlier, next: None });
        let (_, last) = self.lists.entry(list).or_insert((new, new));
        if *last != new {
            self.links[*last as usize].next = Some(new);
            *last = new;
        }
    }

    fn host(&mut self, host: &'a HostPattern) -> HostKey {
        match host {
            HostPattern::Any => HostKey::Any,
            HostPattern::Exact(name) => HostKey::Exact(self.labels.add(labels(name))),
            HostPattern::Below(suffix) => HostKey::Below(self.labels.add(labels(&suffix[1..]))),
        }
    }

    /// Returns the first earlier route that covers this one.
    fn cover(&mut self, route_match: &'a Match, paths_read: Paths) -> Result<Option<usize>, StepsExhausted> {
        let any = [HostPattern::Any];
        let hosts = if route_match.hosts.is_empty() { &any[..] } else { &route_match.hosts };
        // A route that covers all hosts is listed under a key that covers the first.
        let (paths, conditions) = (self.above_path(route_match), above_conditions(route_match));
        let hosts_above = self.above_host(&hosts[0]);
        self.spend(hosts_above.len().saturating_mul(paths.len()).saturating_mul(conditions.len()))?;
        // In order; a route may be in several lists.
        let mut next: BinaryHeap<Reverse<(u32, u32)>> = BinaryHeap::new();
        let entry = |link: u32| Reverse((self.links[link as usize].earlier, link));
        for path in &paths {
            for rest in conditions.iter().filter_map(|condition| self.path_conditions.get(&(*path, *condition))) {
                let lists = hosts_above.iter().filter_map(|host| self.lists.get(&(*host, *rest)));
                next.extend(lists.map(|(first, _)| entry(*first)));
            }
        }
        let mut rest_of_hosts: Option<Vec<Vec<HostKey>>> = None;
        let mut steps = self.steps;
        let mut last = None;
        let found = loop {
            let Some(Reverse((number, link))) = next.pop() else { break None };
            next.extend(self.links[link as usize].next.map(entry));
            steps = steps.checked_sub(1).ok_or(StepsExhausted)?;
            if last.replace(number) == Some(number) {
                continue;
            }
            let earlier = &self.earlier[number as usize];
            let rest =
                rest_of_hosts.get_or_insert_with(|| hosts[1..].iter().map(|host| self.above_host(host)).collect());
            let mut has_all = true;
            for above in rest.iter() {
                steps = steps.checked_sub(above.len()).ok_or(StepsExhausted)?;
                has_all = above.iter().any(|key| earlier.hosts.contains(key));
                if !has_all {
                    break;
                }
            }
            steps = steps.checked_sub(comparison(earlier.route_match, route_match)).ok_or(StepsExhausted)?;
            // Routes that read paths differently see different paths.
            let reads_alike = earlier.route_match.path.is_none() || earlier.paths == paths_read;
            if has_all && reads_alike && earlier.route_match.covers_apart_from_hosts(route_match) {
                break Some(earlier.index);
            }
        };
        self.steps = steps;
        Ok(found)
    }

    /// Returns all keys that cover this host.
    fn above_host(&self, host: &HostPattern) -> Vec<HostKey> {
        let (name, is_exact) = match host {
            HostPattern::Any => return vec![HostKey::Any],
            HostPattern::Exact(name) => (name.as_str(), true),
            HostPattern::Below(suffix) => (&suffix[1..], false),
        };
        let mut above = vec![HostKey::Any];
        let mut at = 0;
        let mut labels = labels(name).peekable();
        while let Some(label) = labels.next() {
            let Some(node) = self.labels.children.get(&(at, label)) else { return above };
            at = *node;
            if labels.peek().is_some() || !is_exact {
                above.push(HostKey::Below(at));
            }
        }
        if is_exact {
            above.push(HostKey::Exact(at));
        }
        above
    }

    fn above_path(&self, route_match: &'a Match) -> Vec<PathKey<'a>> {
        let (path, is_exact) = match &route_match.path {
            None => return vec![PathKey::Any],
            Some(PathPattern::Regex(regex)) => return vec![PathKey::Any, PathKey::Regex(regex.source())],
            Some(PathPattern::Exact(path)) => (path.as_str(), true),
            Some(PathPattern::Prefix(path)) => (path.as_str(), false),
        };
        let (way, is_whole) = self.segments.way(segments(path));
        let mut above = vec![PathKey::Any];
        for (depth, node) in way.iter().enumerate() {
            if depth > 0 {
                above.push(PathKey::From(*node));
            }
            if !is_whole || depth + 1 < way.len() {
                above.push(PathKey::Below(*node));
            }
        }
        if let (true, true, Some(node)) = (is_exact, is_whole, way.last()) {
            above.push(PathKey::Exact(*node));
        }
        if is_exact {
            above.push(PathKey::AnyRegex);
        }
        above
    }
}

fn labels(name: &str) -> impl Iterator<Item = &str> {
    name.rsplit('.')
}

/// `/a/b/` has the segments `a`, `b` and an empty one.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

fn conditions(route_match: &Match) -> impl Iterator<Item = (Field<'_>, &ValuePattern)> {
    let headers = route_match.headers.iter().map(|(name, value)| (Field::Header(name.name().as_str()), value));
    headers.chain(route_match.query.iter().map(|(name, value)| (Field::Parameter(name), value)))
}

/// Returns the keys that a condition of a covering route may have.
fn above_conditions(route_match: &Match) -> Vec<ConditionKey<'_>> {
    let mut above = vec![ConditionKey::None];
    for (field, value) in conditions(route_match) {
        match value {
            ValuePattern::Present(is_there) => above.push(ConditionKey::Present(field, *is_there)),
            ValuePattern::Exact(text) => above.extend([
                ConditionKey::Exact(field, text),
                ConditionKey::Present(field, true),
                ConditionKey::AnyRegex(field),
            ]),
            ValuePattern::Regex(regex) => {
                above.extend([ConditionKey::Regex(field, regex.source()), ConditionKey::Present(field, true)]);
            }
        }
    }
    above
}

/// Returns how many certificates are asked for.
fn certificates(route_match: &Match) -> usize {
    route_match.client_cert.as_ref().map_or(0, |asked| asked.len())
}

/// Returns the cost of one comparison, in steps.
fn comparison(earlier: &Match, later: &Match) -> usize {
    let regexes = conditions(earlier).filter(|(_, value)| matches!(value, ValuePattern::Regex(_))).count()
        + usize::from(matches!(earlier.path, Some(PathPattern::Regex(_))));
    // Each item of one list is searched for in the other.
    let lists = earlier.listeners.len() * later.listeners.len()
        + earlier.methods.len() * later.methods.len()
        + earlier.subprotocols.len() * later.subprotocols.len()
        + certificates(earlier) * certificates(later);
    1 + earlier.headers.len() + earlier.query.len() + lists + regexes * REGEX_STEPS
}
