//! What is only wrong in company: names that lead nowhere, limits that contradict each other, and settings without effect.
//!
//! Each rule is one function. A rule says which parts of the file it looked at, so that it is kept quiet when one of them
//! was unreadable and has been told about already.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::ServerName;

use super::File;
use super::address::Bind;
use super::edits::HeaderEdits;
use super::key::{KeyPath, Step};
use super::listener::Listener;
use super::locate::Aim;
use super::report::Severity;
use super::route::{Route, Validate};
use super::suggest::did_you_mean;
use super::tree::Node;
use super::upstream::Upstream;
use super::value::{ByteSize, OrOff, Span};
use crate::route::pattern::{PathPattern, PlainPath};

/// A name becomes a label of metrics and a field of each log line.
const NAME_CHARS_MAX: usize = 64;

/// The head of a request is held in memory for each connection that sends one; below 1KiB not even a browser's handshake fits.
const HEADER_BYTES: (ByteSize, ByteSize) = (ByteSize::from_kib(1), ByteSize::from_kib(1024));

/// Fields that end at each hop (RFC 9110 §7.6.1) or frame the message (RFC 9112 §6): the proxy answers for them.
const OWN_HEADERS: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "http2-settings",
];

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

/// Defaults that depend on other keys: a blind pipe (`validate: off`) sends no pings unless someone asks for the impossible.
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

    fn not_none(&mut self, path: &KeyPath, limit: Option<u32>, what: &str) {
        if limit == Some(0) {
            self.error(path, format!("zero would refuse every {what}")).help("remove the key for no limit");
        }
    }
}

/// Listeners.
impl Checker<'_> {
    fn listeners(&mut self) {
        let section = KeyPath::root().key("listeners");
        let listeners = &self.file.listeners;
        if listeners.is_empty() {
            self.error(&section, "there is no listener").help("remove the key for a plain one on 127.0.0.1:8080");
        }
        self.unique_names("listeners", listeners.iter().map(|listener| listener.name.as_str()));
        for (index, listener) in listeners.iter().enumerate() {
            let path = section.index(index);
            for (before, other) in listeners[..index].iter().enumerate() {
                self.collision(&path.key("bind"), &listener.bind, &section.index(before).key("bind"), &other.bind);
            }
            self.listener(&path, listener);
        }
    }

    fn collision(&mut self, path: &KeyPath, bind: &Bind, other_path: &KeyPath, other: &Bind) {
        if bind.collides(other) {
            let other_path = self.written.original(other_path);
            let shown = self.written.show(path, bind);
            let message = format!("`{shown}` cannot be bound: {other_path} takes it already");
            self.error(path, message).help("use another port or address").involving(other_path);
        }
    }

    fn listener(&mut self, path: &KeyPath, listener: &Listener) {
        let timeouts = path.key("timeouts");
        self.not_zero(&timeouts.key("tls"), listener.timeouts.tls, "no TLS handshake has the time to finish");
        self.not_zero(&timeouts.key("headers"), listener.timeouts.headers, "no request has the time to arrive");
        self.not_zero(
            &timeouts.key("keep_alive"),
            listener.timeouts.keep_alive,
            "each connection ends after one answer",
        );

        let limits = path.key("limits");
        if listener.limits.headers == 0 {
            self.error(&limits.key("headers"), "zero would refuse every request").help("the default is 100");
        }
        let (least, most) = HEADER_BYTES;
        if !(least..=most).contains(&listener.limits.header_bytes) {
            let at = limits.key("header_bytes");
            self.error(&at, format!("the head of a request may be given {least} to {most}"))
                .help("the default is `16KiB`");
        }
        self.not_none(&limits.key("connections"), listener.limits.connections, "connection");

        if let Some(tls) = &listener.tls {
            let tls_path = path.key("tls");
            if tls.certificates.is_empty() {
                let help = "add `{ cert: certs/server.crt, key: certs/server.key }`";
                self.error(&tls_path.key("certificates"), "TLS needs at least one certificate").help(help);
            }
            for (index, certificate) in tls.certificates.iter().enumerate() {
                let at = tls_path.key("certificates").index(index);
                self.file_name(&at.key("cert"), &certificate.cert);
                self.file_name(&at.key("key"), &certificate.key);
            }
            if let Some(client_auth) = &tls.client_auth {
                self.file_name(&tls_path.key("client_auth").key("ca"), &client_auth.ca);
            }
        }
        if let Some(redirect) = &listener.redirect {
            let at = path.key("redirect");
            if redirect.https == 0 {
                self.error(&at.key("https"), "0 is not a port")
                    .help("write the port of the https listener, such as 443");
            }
            if listener.tls.is_some() {
                let help = "remove `redirect`, or move it to a listener without `tls`";
                let involved = self.written.original(&path.key("tls"));
                let message = "a listener with `tls` serves https itself and has nowhere to redirect to";
                self.error(&at, message).at_key().help(help).involving(involved);
            }
        }
        for (index, network) in listener.trusted_proxies.iter().enumerate() {
            if network.prefix_len() == 0 {
                let at = path.key("trusted_proxies").index(index);
                let help = "name the networks that your proxies are in, such as `10.0.0.0/8`";
                self.warn(&at, "this trusts every client to say who it is").help(help);
            }
        }
    }

    fn file_name(&mut self, path: &KeyPath, name: &std::path::Path) {
        if name.as_os_str().is_empty() {
            self.error(path, "the name of a file is missing").help("write the path of a PEM file");
        }
    }
}

/// Routes.
impl Checker<'_> {
    fn routes(&mut self) {
        let section = KeyPath::root().key("routes");
        let routes = &self.file.routes;
        if routes.is_empty() {
            self.error(&section, "there is no route")
                .help("a route names an `upstream` and says in `match` what goes there");
        }
        self.unique_names("routes", routes.iter().map(|route| route.name.as_str()));
        for (index, route) in routes.iter().enumerate() {
            let path = section.index(index);
            self.upstream_of(&path, route);
            self.rewrite(&path, route);
            self.edits(&path.key("headers").key("request"), &route.headers.request, Direction::Request);
            self.edits(&path.key("headers").key("response"), &route.headers.response, Direction::Response);
            self.route_times(&path, route);
            self.route_limits(&path, route);
            if route.validate == Validate::Off {
                self.blind(&path, route);
            }
        }
    }

    fn upstream_of(&mut self, route_path: &KeyPath, route: &Route) {
        if self.file.upstreams.contains_key(&route.upstream) {
            return;
        }
        let path = route_path.key("upstream");
        let shown = self.written.show(&path, &route.upstream);
        let names: Vec<&str> = self.file.upstreams.keys().map(String::as_str).collect();
        let help = match did_you_mean(&route.upstream, &names) {
            Some(question) if shown == route.upstream => question,
            _ if names.is_empty() => "define it under `upstreams`".to_owned(),
            _ => format!("there are {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        let definition = KeyPath::root().key("upstreams").key(&route.upstream);
        self.error(&path, format!("there is no upstream `{shown}`")).help(help).involving(definition);
    }

    fn rewrite(&mut self, route_path: &KeyPath, route: &Route) {
        let strip_path = route_path.key("rewrite").key("strip_prefix");
        let add_path = route_path.key("rewrite").key("add_prefix");
        for (path, prefix) in [(&strip_path, &route.rewrite.strip_prefix), (&add_path, &route.rewrite.add_prefix)] {
            let Some(prefix) = prefix else { continue };
            let shown = self.written.show(path, prefix);
            if prefix == "/" {
                self.error(path, "`/` changes nothing").help("remove the key");
            } else if !prefix.starts_with('/') {
                let help = format!("write `/{shown}`");
                self.error(path, format!("`{shown}` does not start with `/`")).help(help);
            } else if prefix.parse::<PlainPath>().is_err() {
                let help = "write a path without query, `..`, and escapes that are not needed";
                self.error(path, format!("`{shown}` is not a path in normal form")).help(help);
            }
        }
        let Some(strip) = route.rewrite.strip_prefix.as_deref().filter(|strip| strip.len() > 1) else { return };
        let strip = strip.trim_end_matches('/');
        let below =
            |path: &str, top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let never = match &route.matches.path {
            Some(PathPattern::Exact(path)) => !below(path.as_str(), strip),
            Some(PathPattern::Prefix(path)) => {
                let path = path.as_str().trim_end_matches('/');
                !below(path, strip) && !below(strip, path)
            }
            Some(PathPattern::Regex(_)) | None => false,
        };
        if never {
            let matches = self.written.original(&route_path.key("match").key("path"));
            let message = "no path that this route matches begins with this";
            self.warn(&strip_path, message).help(format!("compare it with {matches}")).involving(matches);
        }
    }

    fn edits(&mut self, path: &KeyPath, edits: &HeaderEdits, direction: Direction) {
        for (name, _) in edits.set.iter() {
            // Keys keep the case they were written in.
            let key = match self.written.node(&path.key("set")) {
                Some(Node::Map(entries)) => entries.iter().find(|(key, _)| key.eq_ignore_ascii_case(name.as_str())),
                _ => None,
            };
            let at = path.key("set").key(key.map_or(name.as_str(), |(key, _)| key));
            self.own_header(&at, name.as_str(), name.as_str().to_owned(), direction, true);
            if let Some(index) = edits.remove.iter().position(|removed| removed == name) {
                let removed = self.written.original(&path.key("remove").index(index));
                let message = format!("`{name}` is also removed by {removed}");
                self.warn(&at, message).at_key().help("`set` alone replaces what was there").involving(removed);
            }
        }
        for (index, name) in edits.remove.iter().enumerate() {
            let at = path.key("remove").index(index);
            let shown = self.written.show(&at, name);
            self.own_header(&at, name.as_str(), shown, direction, false);
        }
    }

    fn own_header(&mut self, path: &KeyPath, name: &str, shown: String, direction: Direction, set: bool) {
        let why = match name {
            name if OWN_HEADERS.contains(&name) => "it belongs to one connection, and the proxy answers for it",
            name if name.starts_with("sec-websocket-") => "the handshake depends on it",
            "host" if !set => "every request has one (RFC 9112 §3.2)",
            "host" if direction == Direction::Response => "it is a header of requests",
            _ => return,
        };
        self.error(path, format!("`{shown}` cannot be changed: {why}")).at_key().help("remove it here");
    }

    fn route_times(&mut self, path: &KeyPath, route: &Route) {
        let timeouts = path.key("timeouts");
        let times = &route.timeouts;
        self.not_zero(&timeouts.key("connect"), times.connect, "no endpoint has the time to accept");
        self.not_zero(&timeouts.key("handshake"), times.handshake, "no endpoint has the time to answer");
        self.not_zero(&timeouts.key("response"), times.response, "no endpoint has the time to answer");
        for (key, span) in [("idle", times.idle), ("lifetime", times.lifetime)] {
            self.off_not_zero(&timeouts.key(key), span, "each session ends at once");
        }
        let keepalive = path.key("keepalive");
        self.off_not_zero(&keepalive.key("ping"), route.keepalive.ping, "pings follow one another without pause");
        self.not_zero(&keepalive.key("pong"), route.keepalive.pong, "nobody has the time to answer");
        if let OrOff::Set(ping) = route.keepalive.ping
            && route.keepalive.pong >= ping
            && !ping.is_zero()
        {
            let (ping_path, pong_path) = (keepalive.key("ping"), keepalive.key("pong"));
            // Point at what was written; the other may be a default.
            let (at, other) =
                if self.written.has(&pong_path) { (&pong_path, &ping_path) } else { (&ping_path, &pong_path) };
            let shown = [self.written.show(&pong_path, &route.keepalive.pong), self.written.show(&ping_path, &ping)];
            let message = format!(
                "the wait for a pong ({}) must be shorter than the time between pings ({})",
                shown[0], shown[1]
            );
            let involved = self.written.original(other);
            self.error(at, message)
                .help("by default pings go out after `30s`, and a pong has `10s`")
                .involving(involved);
        }
    }

    fn off_not_zero(&mut self, path: &KeyPath, span: OrOff<Span>, why: &str) {
        if span.value().is_some_and(Span::is_zero) {
            self.error(path, format!("zero would mean that {why}")).help("write a duration such as `5m`, or `off`");
        }
    }

    fn route_limits(&mut self, route_path: &KeyPath, route: &Route) {
        let path = route_path.key("limits");
        let limits = &route.limits;
        for (key, size) in [("message", limits.message), ("frame", limits.frame)] {
            if size.bytes() == Some(0) {
                let message = "zero would refuse every message that is not empty";
                self.error(&path.key(key), message).help("write a size such as `1MiB`, or `off`");
            }
        }
        self.not_none(&path.key("connections"), limits.connections, "session");
        if let (Some(frame), Some(message)) = (limits.frame.value(), limits.message.value())
            && frame > message
        {
            let (frame_path, message_path) = (path.key("frame"), path.key("message"));
            let shown = [self.written.show(&frame_path, &frame), self.written.show(&message_path, &message)];
            let text = format!("a frame ({}) cannot be larger than the message it is part of ({})", shown[0], shown[1]);
            let involved = self.written.original(&message_path);
            self.error(&frame_path, text).help("make it at most as large as `message`").involving(involved);
        }
    }

    /// `validate: off`: what needs frames cannot work.
    fn blind(&mut self, path: &KeyPath, route: &Route) {
        let set = [
            (path.key("keepalive").key("ping"), route.keepalive.ping != OrOff::Off),
            (path.key("limits").key("message"), route.limits.message != OrOff::Off),
            (path.key("limits").key("frame"), route.limits.frame != OrOff::Off),
        ];
        for (at, _) in set.iter().filter(|(_, set)| *set) {
            let involved = self.written.original(&path.key("validate"));
            let help = "remove it, or `validate: off`; `timeouts.idle`, `timeouts.lifetime` and `limits.connections` still work";
            let message = "this has no effect with `validate: off`, where no frames are read";
            self.error(at, message).at_key().help(help).involving(involved);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// Upstreams.
impl Checker<'_> {
    fn upstreams(&mut self) {
        let section = KeyPath::root().key("upstreams");
        for (name, upstream) in &self.file.upstreams {
            let path = section.key(name);
            let before = self.issues.len();
            self.name(&path, name);
            self.issues[before..].iter_mut().for_each(|issue| issue.aim = Aim::Key);
            self.upstream(&path, upstream);
            if !self.file.routes.iter().any(|route| route.upstream == *name) {
                let routes = KeyPath::root().key("routes");
                let message = "no route leads to this upstream";
                self.warn(&path, message).at_key().help("remove it, or name it in a route").involving(routes);
            }
        }
    }

    fn upstream(&mut self, path: &KeyPath, upstream: &Upstream) {
        let list = path.key("endpoints");
        if upstream.endpoints.is_empty() {
            self.error(&list, "there is no endpoint").help("add a URL such as `ws://10.0.0.11:9000`");
        }
        let mut first: BTreeMap<&super::EndpointUrl, usize> = BTreeMap::new();
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            if let Some(before) = first.get(&endpoint.url) {
                let before = self.written.original(&list.index(*before));
                let at = list.index(index);
                let at = if self.written.has(&at.key("url")) { at.key("url") } else { at };
                let shown = self.written.show(&at, &endpoint.url);
                self.error(&at, format!("`{shown}` is the same endpoint as {before}")).help("name each endpoint once");
            }
            first.entry(&endpoint.url).or_insert(index);
        }
        let Some(tls) = &upstream.tls else { return };
        let tls_path = path.key("tls");
        let plain = !upstream.endpoints.iter().any(|endpoint| endpoint.url.is_tls());
        if plain && !upstream.endpoints.is_empty() {
            let involved = self.written.original(&list);
            let help = "write `wss://` in the URLs of the endpoints, or remove it";
            self.warn(&tls_path, "no endpoint of this upstream uses TLS").at_key().help(help).involving(involved);
        }
        for (file, key) in [(&tls.ca, "ca"), (&tls.cert, "cert"), (&tls.key, "key")] {
            file.iter().for_each(|name| self.file_name(&tls_path.key(key), name));
        }
        for (this, other, there) in [("cert", "key", tls.cert.is_some()), ("key", "cert", tls.key.is_some())] {
            if there && tls.cert.is_some() != tls.key.is_some() {
                let involved = self.written.original(&tls_path.key(other));
                let message = format!("`{this}` needs `{other}` beside it");
                self.error(&tls_path.key(this), message).at_key().help(format!("add `{other}:`")).involving(involved);
            }
        }
        if let Some(name) = &tls.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            let at = tls_path.key("server_name");
            let shown = self.written.show(&at, name);
            self.error(&at, format!("`{shown}` is not a server name")).help("write a DNS name or an IP address");
        }
    }
}

/// The process.
impl Checker<'_> {
    fn process(&mut self) {
        let drain = KeyPath::root().key("drain").key("time");
        self.not_zero(&drain, self.file.drain.time, "every session is cut off");
        let Some(admin) = &self.file.admin else { return };
        let path = KeyPath::root().key("admin").key("bind");
        if !admin.bind.is_local() {
            let help = match &admin.bind {
                Bind::Tcp(addr) if matches!(addr.ip(), IpAddr::V6(_)) => format!("write `[::1]:{}`", addr.port()),
                Bind::Tcp(addr) => format!("write `127.0.0.1:{}`", addr.port()),
                Bind::Unix(_) => String::new(),
            };
            let outside = matches!(self.written.node(&path), Some(Node::Text { raw: Some(_), .. }));
            let help = if outside { "write `127.0.0.1` and a port".to_owned() } else { help };
            let message = "admin is only served on loopback or a Unix socket, as it asks for no password";
            self.error(&path, message).help(help);
        }
        for (index, listener) in self.file.listeners.iter().enumerate() {
            let other = KeyPath::root().key("listeners").index(index).key("bind");
            self.collision(&path, &admin.bind, &other, &listener.bind);
        }
    }
}
