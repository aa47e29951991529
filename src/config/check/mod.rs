//! What is only wrong in company: names that lead nowhere, limits that contradict each other, and settings without
//! effect.
//!
//! Each rule is one function. A rule says which parts of the file it looked at, so that it is kept quiet when one of
//! them was unreadable and has been told about already.

mod entry;
mod listeners;
mod routes;
mod upstreams;

use std::collections::HashMap;
use std::fmt;

use super::File;
use super::address::Bind;
use super::key::{KeyPath, Step};
use super::locate::Aim;
use super::report::Severity;
use super::route::Validate;
use super::tcp::Tcp;
use super::tree::Node;
use super::value::{OrOff, Span};

/// A name becomes a label of metrics and a field of each log line.
const NAME_CHARS_MAX: usize = 64;

/// Something wrong, not drawn yet.
#[derive(Debug)]
pub(super) struct Issue {
    pub(super) severity: Severity,
    pub(super) path: KeyPath,
    pub(super) aim: Aim,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// What else the rule looked at.
    involved: Vec<KeyPath>,
}

/// The file as written, for those who hold what was read of it.
pub(super) struct Written<'a> {
    tree: &'a Node,
}

/// Collects issues.
struct Checker<'a> {
    file: &'a File,
    written: &'a Written<'a>,
    issues: Vec<Issue>,
}

/// Defaults that depend on other keys: a blind pipe (`validate: off`) sends no pings unless someone asks for the
/// impossible.
pub(super) fn settle(file: &mut File, written: &Written) {
    for (index, route) in file.routes.iter_mut().enumerate() {
        let ping = KeyPath::root().key("routes").index(index).key("keepalive").key("ping");
        if route.validate == Validate::Off && !written.has(&ping) {
            route.keepalive.ping = OrOff::Off;
        }
    }
}

/// Everything that is wrong with a file whose every value is right.
pub(super) fn check(file: &File, written: &Written) -> Vec<Issue> {
    let mut checker = Checker { file, written, issues: Vec::new() };
    checker.version();
    checker.listeners();
    checker.routes();
    checker.upstreams();
    checker.process();
    checker.issues
}

impl Issue {
    /// Whether it is about something that was taken out because it could not be read.
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

impl<'a> Written<'a> {
    pub(super) fn new(tree: &'a Node) -> Written<'a> {
        Written { tree }
    }

    /// A path among what was read, as a path in the file: elements that were taken out count there.
    fn original(&self, path: &KeyPath) -> KeyPath {
        let mut node = Some(self.tree);
        let mut original = KeyPath::root();
        for step in path.steps() {
            let step = match (node, step) {
                (Some(Node::List(nodes)), Step::Index(index)) => {
                    let kept = nodes.iter().enumerate().filter(|(_, node)| **node != Node::Removed);
                    Step::Index(kept.map(|(at, _)| at).nth(*index).unwrap_or(*index))
                }
                _ => step.clone(),
            };
            let next = KeyPath::from_steps(vec![step.clone()]);
            node = node.and_then(|node| node.at(&next));
            original = original.then(step);
        }
        original
    }

    fn node(&self, path: &KeyPath) -> Option<&Node> {
        self.tree.at(&self.original(path))
    }

    fn has(&self, path: &KeyPath) -> bool {
        self.node(path).is_some()
    }

    /// `value`, or what stands for it in the file if the environment had a part in it.
    fn show(&self, path: &KeyPath, value: &dyn fmt::Display) -> String {
        match self.node(path) {
            Some(Node::Text { raw: Some(raw), .. }) => raw.clone(),
            _ => value.to_string(),
        }
    }
}

impl Checker<'_> {
    fn issue(&mut self, severity: Severity, path: &KeyPath, message: impl Into<String>) -> &mut Issue {
        let path = self.written.original(path);
        let message = message.into();
        self.issues.push(Issue { severity, path, aim: Aim::Value, message, help: None, involved: Vec::new() });
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

    fn unique_names<'n>(&mut self, section: &str, names: impl Iterator<Item = &'n str>) {
        let list = KeyPath::root().key(section);
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (index, name) in names.enumerate() {
            let path = list.index(index).key("name");
            self.name(&path, name);
            if let Some(before) = first.get(name) {
                let before = self.written.original(&list.index(*before));
                let shown = self.written.show(&path, &name);
                self.error(&path, format!("`{shown}` is already the name of {before}")).help("give each its own name");
            }
            first.entry(name).or_insert(index);
        }
    }

    fn not_zero(&mut self, path: &KeyPath, span: Span, why: &str) {
        if span.is_zero() {
            self.error(path, format!("zero would mean that {why}")).help("write a duration such as `10s`");
        }
    }

    /// What the kernel can count: whole seconds, in 16 bits with a sign.
    fn tcp(&mut self, path: &KeyPath, tcp: &Tcp) {
        let (least, most) = (Span::from_secs(1), Span::from_secs(9 * 3600));
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
            let message = "a silent peer is given up at the first question that it does not answer";
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
impl Checker<'_> {
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
            let outside = matches!(self.written.node(&path), Some(Node::Text { raw: Some(_), .. }));
            let here = if outside { "`127.0.0.1` and a port".to_owned() } else { here };
            let help = format!("write {here}, or add `token_file:`");
            let message = "without a token admin is only served on loopback or a Unix socket";
            self.error(&path, message).help(help).involving(section.key("token")).involving(section.key("token_file"));
        }
        if let (token, Some(file)) = (&admin.token, &admin.token_file) {
            let at = section.key("token_file");
            if token.is_some() {
                let message = "the token is written here and in a file";
                self.error(&at, message).at_key().help("keep one of both").involving(section.key("token"));
            }
            self.file_name(&at, file);
        }
        for (index, listener) in self.file.listeners.iter().enumerate() {
            let other = KeyPath::root().key("listeners").index(index).key("bind");
            self.collision(&path, &admin.bind, &other, &listener.bind);
        }
    }
}
