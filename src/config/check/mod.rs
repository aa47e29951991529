//! Checks what is wrong only in combination: names that lead nowhere, limits that contradict each other, and settings
//! without effect.
//!
//! Each rule is one function. A rule names the parts of the file it looked at, so that it stays quiet if one of them
//! was unreadable and has been reported already.

mod actions;
mod addresses;
mod auth;
mod basic_auth;
mod client_cert;
mod entry;
mod forward_auth;
mod listeners;
mod matching;
mod per_client;
mod rewrite;
mod routes;
mod shared;
mod spellings;
mod upstreams;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use crate::config::Config;
use crate::config::defaults::InheritedKeys;
use crate::config::read::key::{KeyPath, KeyStep};
use crate::config::read::locate::Aim;
use crate::config::read::report::{Severity, Source, clip};
use crate::config::read::tree::YamlNode;
use crate::config::schema::route::Validate;
use crate::config::schema::tcp::TcpConfig;
use crate::config::value::address::Bind;
use crate::config::value::{ByteSize, OrOff, TimeSpan};

/// The most memory that all regexes of a file may take compiled.
const REGEXES_BYTES_MAX: usize = 16 << 20;

/// The most issues of a severity collected: some are dropped later, since they follow from what could not be read.
const ISSUES_MAX: usize = 1000;

/// Longer values are cut.
const SHOWN_CHARS_MAX: usize = 200;

/// Longer lists and maps are indexed.
const FEW: usize = 16;

/// A name becomes a label of metrics and a field of each log line.
const NAME_CHARS_MAX: usize = 64;

/// A mistake, not drawn yet.
#[derive(Debug)]
pub(super) struct Issue {
    pub(super) severity: Severity,
    pub(super) path: KeyPath,
    pub(super) aim: Aim,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// Other parts that the rule looked at.
    involved: Vec<KeyPath>,
}

/// The file as written, beside what was read of it.
pub(super) struct WrittenText<'a> {
    tree: &'a YamlNode,
    source: &'a Source,
    inherited: &'a InheritedKeys,
    /// Where elements of long lists are that were not taken out, and values of long maps, by the node: rules ask for each
    /// in turn, and to count up to each would take the square of how many there are.
    kept: RefCell<HashMap<*const YamlNode, Vec<usize>>>,
    values: RefCell<HashMap<*const YamlNode, HashMap<&'a str, &'a YamlNode>>>,
}

/// Collects issues.
struct Checker<'a, 'w> {
    file: &'a Config,
    written: &'a WrittenText<'w>,
    issues: Vec<Issue>,
    errors: usize,
    warnings: usize,
    /// The limit that was exceeded.
    spare: Option<Issue>,
    /// For regexes, in bytes; `None` once there was not enough.
    room: Option<usize>,
    /// Which routes lead to an upstream.
    routes_to: HashMap<&'a str, Vec<usize>>,
}

/// Fills in defaults that depend on other keys: a blind pipe (`validate: off`) sends no pings, unless the file asks
/// for the impossible.
pub(super) fn settle(file: &mut Config, written: &WrittenText) {
    for (index, route) in file.routes.iter_mut().enumerate() {
        let ping = KeyPath::root().key("routes").index(index).key("keepalive").key("ping");
        if route.validate == Validate::Off && !written.has_own(&ping) {
            route.keepalive.ping = OrOff::Off;
        }
    }
}

/// Returns everything that is wrong with a file whose single values are all right.
pub(super) fn check(file: &Config, written: &WrittenText) -> Vec<Issue> {
    let mut routes_to: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, route) in file.routes.iter().enumerate() {
        route.upstream.iter().for_each(|name| routes_to.entry(name).or_default().push(index));
    }
    let mut checker = Checker {
        file,
        written,
        issues: Vec::new(),
        errors: 0,
        warnings: 0,
        spare: None,
        room: Some(REGEXES_BYTES_MAX),
        routes_to,
    };
    checker.version();
    checker.listeners();
    checker.routes();
    checker.upstreams();
    checker.process();
    checker.shared();
    checker.issues
}

impl Issue {
    /// Returns true if it is about something that was taken out because it could not be read.
    pub(super) fn concerns(&self, removed: &[KeyPath]) -> bool {
        let touches = |path: &KeyPath| removed.iter().any(|gone| gone.on_one_line_with(path));
        touches(&self.path) || self.involved.iter().any(touches)
    }

    fn help(&mut self, help: impl Into<String>) -> &mut Issue {
        self.help = Some(help.into());
        self
    }

    fn involving(&mut self, path: KeyPath) -> &mut Issue {
        self.involved.push(path);
        self
    }

    fn at_key(&mut self) -> &mut Issue {
        self.aim = Aim::Key;
        self
    }
}

impl<'a> WrittenText<'a> {
    pub(super) fn new(tree: &'a YamlNode, source: &'a Source, inherited: &'a InheritedKeys) -> WrittenText<'a> {
        WrittenText { tree, source, inherited, kept: RefCell::default(), values: RefCell::default() }
    }

    /// Turns a path among what was read into a path of the file: elements that were taken out count there.
    fn original(&self, path: &KeyPath) -> KeyPath {
        let mut node = Some(self.tree);
        let mut original = Vec::with_capacity(path.steps().len());
        for step in path.steps() {
            let (step, next) = self.down(node, step);
            original.push(step);
            node = next;
        }
        KeyPath::from_steps(original)
    }

    fn node(&self, path: &KeyPath) -> Option<&'a YamlNode> {
        path.steps().iter().try_fold(self.tree, |node, step| self.down(Some(node), step).1)
    }

    /// Goes one step down from `node`, as in the file; returns the step and the node there.
    fn down(&self, node: Option<&'a YamlNode>, step: &KeyStep) -> (KeyStep, Option<&'a YamlNode>) {
        match (node, step) {
            (Some(node @ YamlNode::List(nodes)), KeyStep::Index(index)) => {
                let at = self.kept(node, nodes, *index).unwrap_or(*index);
                (KeyStep::Index(at), nodes.get(at))
            }
            (Some(node @ YamlNode::Map(entries)), KeyStep::Key(key)) if entries.len() > FEW => {
                let mut values = self.values.borrow_mut();
                let values = values.entry(node).or_insert_with(|| {
                    // The first key of a name counts.
                    entries.iter().rev().map(|(key, node)| (key.as_str(), node)).collect()
                });
                (step.clone(), values.get(key.as_str()).copied())
            }
            (Some(YamlNode::Map(entries)), KeyStep::Key(key)) => {
                (step.clone(), entries.iter().find(|(name, _)| name == key).map(|(_, node)| node))
            }
            _ => (step.clone(), None),
        }
    }

    /// Returns the position of this element among all that were written.
    fn kept(&self, list: &'a YamlNode, nodes: &'a [YamlNode], index: usize) -> Option<usize> {
        let kept = || nodes.iter().enumerate().filter(|(_, node)| **node != YamlNode::Removed).map(|(at, _)| at);
        if nodes.len() <= FEW {
            return kept().nth(index);
        }
        self.kept.borrow_mut().entry(list).or_insert_with(|| kept().collect()).get(index).copied()
    }

    /// Returns true if it is written, be it as a default.
    fn has(&self, path: &KeyPath) -> bool {
        self.node(path).is_some()
    }

    /// Returns true if a route or upstream says it for itself: what only the defaults say may have no effect here and
    /// there.
    fn has_own(&self, path: &KeyPath) -> bool {
        self.has(path) && !self.inherited.has(&self.original(path))
    }

    /// Names another part in a message about `about`, as the file says that has it. Both are paths of what was written.
    fn name_of(&self, path: &KeyPath, about: &KeyPath) -> String {
        self.source.shown_from(self.source.parts.own(about).file, path)
    }

    /// Returns `value`, or the text in the file if it came from the environment.
    fn show(&self, path: &KeyPath, value: &dyn fmt::Display) -> String {
        match self.node(path) {
            Some(YamlNode::Text { raw: Some(raw), .. }) => clip(raw.clone(), SHOWN_CHARS_MAX),
            _ => clip(value.to_string(), SHOWN_CHARS_MAX),
        }
    }
}

impl Checker<'_, '_> {
    fn issue(&mut self, severity: Severity, path: &KeyPath, message: impl Into<String>) -> &mut Issue {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        let is_told = *count <= ISSUES_MAX;
        let path = if is_told { self.written.original(path) } else { KeyPath::root() };
        let issue =
            Issue { severity, path, aim: Aim::Value, message: message.into(), help: None, involved: Vec::new() };
        if !is_told {
            return self.spare.insert(issue);
        }
        self.issues.push(issue);
        let last = self.issues.len() - 1;
        &mut self.issues[last]
    }

    fn error(&mut self, path: &KeyPath, message: impl Into<String>) -> &mut Issue {
        self.issue(Severity::Error, path, message)
    }

    fn warn(&mut self, path: &KeyPath, message: impl Into<String>) -> &mut Issue {
        self.issue(Severity::Warning, path, message)
    }

    fn version(&mut self) {
        if self.file.version != 1 {
            let message = "this version of wsluice reads configurations of version 1 only";
            self.error(&KeyPath::root().key("version"), message).help("write `version: 1`");
        }
    }

    fn name(&mut self, path: &KeyPath, name: &str) {
        let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() {
            self.error(path, "a name cannot be empty").help("it labels metrics and log lines");
        } else if !name.chars().all(good) {
            let shown = self.written.show(path, &name);
            let help = "use letters, digits, `_`, `.` and `-`: it labels metrics and log lines";
            self.error(path, format!("`{shown}` is not a name")).help(help);
        } else if name.len() > NAME_CHARS_MAX {
            let message = format!("a name has at most {NAME_CHARS_MAX} characters, this one {}", name.len());
            self.error(path, message).help("it labels metrics and log lines");
        }
    }

    /// Compiles a regex while there is room.
    fn regex(&mut self, path: &KeyPath, compile: impl FnOnce(&mut usize) -> bool) {
        // Reported once: there is no room for the next ones either.
        if self.room.as_mut().is_none_or(compile) {
            return;
        }
        self.room = None;
        let message = format!(
            "the regexes up to this one take more than {} compiled",
            ByteSize::from_kib(REGEXES_BYTES_MAX as u64 / 1024)
        );
        let help = "write smaller ones, or fewer: `[0-9]` for `\\d` and `[0-9A-Za-z_]` for `\\w`, which have the digits \
                    and letters of all scripts, and short repetitions";
        self.error(path, message).help(help);
    }

    fn unique_names<'n>(&mut self, section: &str, names: impl Iterator<Item = &'n str>) {
        let list = KeyPath::root().key(section);
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (index, name) in names.enumerate() {
            let path = list.index(index).key("name");
            self.name(&path, name);
            if let Some(before) = first.get(name) {
                let before = self.written.original(&list.index(*before));
                let shown = self.written.show(&path, &name);
                let before = self.written.name_of(&before, &self.written.original(&path));
                self.error(&path, format!("`{shown}` is already the name of {before}")).help("give each its own name");
            }
            first.entry(name).or_insert(index);
        }
    }

    fn not_zero(&mut self, path: &KeyPath, span: TimeSpan, why: &str) {
        if span.is_zero() {
            self.error(path, format!("zero would mean that {why}")).help("write a duration such as `10s`");
        }
    }

    fn off_not_zero(&mut self, path: &KeyPath, span: OrOff<TimeSpan>, why: &str) {
        if span.value().is_some_and(TimeSpan::is_zero) {
            self.error(path, format!("zero would mean that {why}")).help("write a duration such as `5m`, or `off`");
        }
    }

    /// Checks against what the kernel can count: whole seconds, in 16 bits with a sign.
    fn tcp(&mut self, path: &KeyPath, tcp: &TcpConfig) {
        let (least, most) = (TimeSpan::from_secs(1), TimeSpan::from_secs(9 * 3600));
        for (key, span) in [("keepalive", tcp.keepalive), ("user_timeout", tcp.user_timeout)] {
            if span.value().is_some_and(|span| !(least..=most).contains(&span)) {
                let message = format!("it may be {least} to {most}");
                self.error(&path.key(key), message).help("write a duration such as `2m`, or `off`");
            }
        }
        if let (Some(keepalive), Some(user_timeout)) = (tcp.keepalive.value(), tcp.user_timeout.value())
            && user_timeout <= keepalive
        {
            let (at, involved) = (path.key("user_timeout"), self.written.original(&path.key("keepalive")));
            let message = "a silent peer is given up at the first probe that it does not answer";
            let help = format!("make it longer than `keepalive` ({keepalive}), or `off`");
            self.warn(&at, message).help(help).involving(involved);
        }
    }

    fn not_none(&mut self, path: &KeyPath, limit: Option<u32>, what: &str) {
        if limit == Some(0) {
            self.error(path, format!("zero would refuse every {what}")).help("remove the key for no limit");
        }
    }
}

/// The process.
impl Checker<'_, '_> {
    fn process(&mut self) {
        let drain = KeyPath::root().key("drain").key("time");
        self.not_zero(&drain, self.file.drain.time, "every session is cut off");
        let Some(admin) = &self.file.admin else { return };
        let section = KeyPath::root().key("admin");
        let path = section.key("bind");
        if !admin.bind.is_local() && admin.token.is_none() && admin.token_file.is_none() {
            let here = match &admin.bind {
                Bind::Tcp(addr) if addr.is_ipv6() => format!("`[::1]:{}`", addr.port()),
                Bind::Tcp(addr) => format!("`127.0.0.1:{}`", addr.port()),
                Bind::Unix(_) => String::new(),
            };
            let outside = matches!(self.written.node(&path), Some(YamlNode::Text { raw: Some(_), .. }));
            let here = if outside { "`127.0.0.1` and a port".to_owned() } else { here };
            let help = format!("write {here}, or add `token_file:`");
            let message = "without a token admin is only served on loopback or a Unix socket";
            self.error(&path, message).help(help).involving(section.key("token")).involving(section.key("token_file"));
        }
        if let (token, Some(file)) = (&admin.token, &admin.token_file) {
            let at = section.key("token_file");
            if token.is_some() {
                let message = "the token is written here and in a file";
                self.error(&at, message).at_key().help("keep one of the two").involving(section.key("token"));
            }
            self.file_name(&at, file);
        }
        for (index, listener) in self.file.listeners.iter().enumerate() {
            let other = KeyPath::root().key("listeners").index(index).key("bind");
            self.collision(&path, &admin.bind, &other, &listener.bind);
        }
    }
}
