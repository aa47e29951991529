//! Checks routes: upstreams that do not exist, rewrites and header edits without sense, limits that contradict each
//! other.

use super::Checker;
use crate::config::read::FINDINGS_MAX;
use crate::config::read::key::KeyPath;
use crate::config::read::suggest::{did_you_mean, list};
use crate::config::read::tree::YamlNode;
use crate::config::schema::rate::{Count, Exceeding, RateConfig};
use crate::config::schema::route::{Headers, PlainHttp, RouteConfig, RouteLimits, Validate};
use crate::config::single_server::is_url;
use crate::config::value::OrOff;
use crate::config::value::edits::HeaderEditsConfig;
use crate::config::{BadValue, EndpointUrl};
use crate::policy::{Insecure, OriginPattern};
use crate::route::pattern::{PathPattern, ValuePattern, WholeRegex};
use crate::route::reading::EncodedSlash;
use crate::route::shadow::shadowed;
use crate::ws::tunnel::BURST_BYTES_MIN;

/// The most upstreams searched for the nearest name.
const NAMES_MAX: usize = 1000;

/// Fields that end at each hop (RFC 9110 §7.6.1) or frame the message (RFC 9112 §6): the proxy is responsible for
/// them.
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

impl Checker<'_, '_> {
    pub(super) fn routes(&mut self) {
        let section = KeyPath::root().key("routes");
        let routes = &self.file.routes;
        if routes.is_empty() {
            self.error(&section, "there is no route")
                .help("a route names an `upstream` and says in `match` what goes there");
        }
        self.unique_names("routes", routes.iter().map(|route| route.name.as_str()));
        for (index, route) in routes.iter().enumerate() {
            let path = section.index(index);
            self.action(&path, route);
            self.path_read(&path, route);
            self.rewrite(&path, route);
            self.origins(&path, route);
            self.addresses(&path.key("addresses"), route.addresses.as_deref());
            self.auth(&path, route);
            self.sent(&path.key("headers"), &route.headers);
            self.edits(&path.key("headers").key("request"), &route.headers.request, EditDirection::Request);
            self.edits(&path.key("headers").key("response"), &route.headers.response, EditDirection::Response);
            for (status, file) in &route.error_pages {
                self.file_name(&path.key("error_pages").key(&status.to_string()), file);
            }
            self.route_times(&path, route);
            self.route_limits(&path, route);
            self.compression(&path.key("http_compression"), route);
            if route.validate == Validate::Off {
                self.blind(&path, route);
            }
            self.regexes(&path, route);
            self.rewrite_regex(&path, route);
        }
        self.matching(&section);
        self.client_certs(&section);
        // With a regex that matches nothing it would be wrong.
        if self.room.is_some() {
            self.never_reached(&section);
            self.spellings(&section);
        }
    }

    fn compression(&mut self, path: &KeyPath, route: &RouteConfig) {
        let Some(settings) = route.http_compression.settings() else { return };
        if !cfg!(feature = "compression") {
            let message = "this wsluice was built without compression (cargo feature `compression`)";
            self.error(path, message).at_key().help("remove it, or write `http_compression: off`");
        }
        if route.http == PlainHttp::Reject {
            let message = "this has no effect with `http: reject`, where no plain HTTP is answered by a server";
            self.error(path, message)
                .at_key()
                .help("remove it; WebSockets compress by themselves (permessage-deflate)");
        }
        for (key, is_empty) in [("encodings", settings.encodings.is_empty()), ("types", settings.types.is_empty())] {
            if is_empty {
                self.error(&path.key(key), "the list is empty").help("write `http_compression: off`, or leave it out");
            }
        }
    }

    /// Warns of a path that no request can have, as paths are read here.
    fn path_read(&mut self, route_path: &KeyPath, route: &RouteConfig) {
        let path = route_path.key("match").key("path");
        let (at, written) = match &route.matches.path {
            Some(PathPattern::Exact(plain)) => (path.key("exact"), plain.as_str()),
            Some(PathPattern::Prefix(plain)) => (path.key("prefix"), plain.as_str()),
            Some(PathPattern::Regex(regex)) => {
                if route.paths.encoded_slash != EncodedSlash::Keep
                    && regex.source().to_ascii_uppercase().contains("%2F")
                {
                    let message = "`%2F` matches nothing here, because it is read as `/` first";
                    let help = "write `/`, or `paths: { encoded_slash: keep }` in this route";
                    self.warn(&path.key("regex"), message).help(help);
                }
                return;
            }
            None => return,
        };
        let read = route.paths.read(written);
        if read != written {
            let shown = self.written.show(&at, &written);
            let way_out = match &written {
                path if path.contains("%2F") => "encoded_slash: keep",
                path if path.contains("//") => "slashes: keep",
                _ => "parameters: keep",
            };
            let message = format!("`{shown}` never matches, because `//`, `%2F` and `;` are read as borders first");
            self.error(&at, message).help(format!("write `{read}`, or `paths: {{ {way_out} }}` in this route"));
        }
    }

    fn never_reached(&mut self, section: &KeyPath) {
        let routes = &self.file.routes;
        let asked: Vec<_> = routes.iter().map(|route| (&route.matches, route.paths)).collect();
        let shadowed = shadowed(&asked);
        for (index, before) in shadowed.pairs {
            let before = self.written.original(&section.index(before));
            let named = self.written.name_of(&before, &self.written.original(&section.index(index)));
            let message = format!("no request ever comes to this route, since {named} takes all that it matches");
            let help = "put the narrower route first, or remove this one";
            self.warn(&section.index(index), message).help(help).involving(before);
        }
        if shadowed.looked_at < routes.len() {
            let message =
                "whether this route and those behind it are ever reached was not looked at: it would take long";
            self.warn(&section.index(shadowed.looked_at), message).help("give routes fewer hosts and conditions");
        }
    }

    /// Compiles those of a route.
    fn regexes(&mut self, route_path: &KeyPath, route: &RouteConfig) {
        let path = route_path.key("match");
        let mut all: Vec<(KeyPath, &WholeRegex)> = vec![];
        if let Some(PathPattern::Regex(regex)) = &route.matches.path {
            all.push((path.key("path").key("regex"), regex));
        }
        if let Some(regex) = &route.rewrite.regex {
            all.push((route_path.key("rewrite").key("regex"), regex));
        }
        let headers = route.matches.headers.iter().map(|(name, value)| ("headers", name.to_string(), value));
        let query = route.matches.query.iter().map(|(name, value)| ("query", name.clone(), value));
        for (key, name, value) in headers.chain(query) {
            if let ValuePattern::Regex(regex) = value {
                all.push((path.key(key).key(&name).key("regex"), regex));
            }
        }
        for (at, regex) in all {
            self.regex(&at, |room| regex.compile(room).is_ok());
        }
    }

    pub(super) fn upstream_of(&mut self, route_path: &KeyPath, upstream: &str) {
        if self.file.upstreams.contains_key(upstream) {
            return;
        }
        let path = route_path.key("upstream");
        let shown = self.written.show(&path, &upstream);
        if self.errors > FINDINGS_MAX {
            // Finding the nearest of many names for each of many routes takes long, and the result is not reported.
            self.error(&path, "there is no such upstream");
            return;
        }
        let names: Vec<&str> = self.file.upstreams.keys().map(String::as_str).take(NAMES_MAX).collect();
        let help = match did_you_mean(upstream, &names) {
            // One that can be used has become an upstream (`single_server`).
            _ if is_url(upstream) => match upstream.parse::<EndpointUrl>() {
                Err(BadValue { problem, help }) => format!("{problem}; {help}"),
                Ok(_) => {
                    "there is an upstream with the name of this route: name that one, or give the route another name"
                        .to_owned()
                }
            },
            Some(question) if shown == upstream => question,
            _ if names.is_empty() => "define it under `upstreams`".to_owned(),
            _ => list(&names, self.file.upstreams.len()),
        };
        let definition = KeyPath::root().key("upstreams").key(upstream);
        self.error(&path, format!("there is no upstream `{shown}`")).help(help).involving(definition);
    }

    fn origins(&mut self, route_path: &KeyPath, route: &RouteConfig) {
        let path = route_path.key("origins");
        let (allow, insecure) = (path.key("allow"), path.key("insecure"));
        if route.origins.insecure == Insecure::Allow && !route.origins.allow.contains(&OriginPattern::SameOrigin) {
            let allow = self.written.original(&allow);
            let named = self.written.name_of(&allow, &allow);
            let message = "this is about `same-origin`, which is not allowed here";
            self.warn(&insecure, message)
                .at_key()
                .help(format!("remove it, or add `same-origin` to {named}"))
                .involving(allow);
        }
    }

    fn edits(&mut self, path: &KeyPath, edits: &HeaderEditsConfig, direction: EditDirection) {
        for (name, value) in edits.set.iter() {
            // Keys keep the case they were written in.
            let key = match self.written.node(&path.key("set")) {
                Some(YamlNode::Map(entries)) => entries.iter().find(|(key, _)| key.eq_ignore_ascii_case(name.as_str())),
                _ => None,
            };
            let at = path.key("set").key(key.map_or(name.as_str(), |(key, _)| key));
            self.own_header(&at, name.as_str(), name.as_str().to_owned(), direction, true);
            // One from the environment may be a password with such a word in it, and is not shown.
            if !matches!(self.written.node(&at), Some(YamlNode::Text { raw: Some(_), .. })) {
                self.foreign(&at, &value.to_string());
            }
            if let Some(index) = edits.remove.iter().position(|removed| removed == name) {
                let removed = self.written.original(&path.key("remove").index(index));
                let message = format!("`{name}` is also removed by {}", self.written.name_of(&removed, &removed));
                self.warn(&at, message).at_key().help("`set` alone replaces what was there").involving(removed);
            }
        }
        for (index, name) in edits.remove.iter().enumerate() {
            let at = path.key("remove").index(index);
            let shown = self.written.show(&at, name);
            self.own_header(&at, name.as_str(), shown, direction, false);
        }
    }

    /// Checks that each header of `send` is there once, and that no change is made to it.
    fn sent(&mut self, path: &KeyPath, headers: &Headers) {
        for (index, sent) in headers.send.iter().enumerate() {
            let at = path.key("send").index(index);
            if headers.send[..index].contains(sent) {
                self.error(&at, format!("`{sent}` is here for the second time")).help("keep one of the two");
            }
            let name = sent.name();
            let edits = &headers.request;
            let other = match edits.remove.iter().position(|removed| *removed == name) {
                _ if edits.set.iter().any(|(set, _)| *set == name) => path.key("request").key("set"),
                Some(index) => path.key("request").key("remove").index(index),
                None => continue,
            };
            let other = self.written.original(&other);
            let message = format!("`{sent}` is also changed by {other}");
            self.error(&at, message).help("keep one of the two").involving(other);
        }
    }

    pub(super) fn own_header(
        &mut self,
        path: &KeyPath,
        name: &str,
        shown: String,
        direction: EditDirection,
        set: bool,
    ) {
        let why = match name {
            name if OWN_HEADERS.contains(&name) => "it belongs to one connection, and the proxy answers for it",
            name if name.starts_with("sec-websocket-") => "the handshake depends on it",
            "host" if !set => "every request has one (RFC 9112 §3.2)",
            "host" if direction == EditDirection::Response => "it is a header of requests",
            _ => return,
        };
        self.error(path, format!("`{shown}` cannot be changed: {why}")).at_key().help("remove it here");
    }

    fn route_times(&mut self, path: &KeyPath, route: &RouteConfig) {
        let timeouts = path.key("timeouts");
        let times = &route.timeouts;
        self.not_zero(&timeouts.key("connect"), times.connect, "no endpoint has the time to accept");
        self.not_zero(&timeouts.key("handshake"), times.handshake, "no endpoint has the time to answer");
        self.not_zero(&timeouts.key("response"), times.response, "no endpoint has the time to answer");
        for (key, span) in [("idle", times.idle), ("lifetime", times.lifetime)] {
            self.off_not_zero(&timeouts.key(key), span, "each session ends at once");
        }
        for (key, span) in [("body", times.body), ("event_stream", times.event_stream)] {
            self.off_not_zero(&timeouts.key(key), span, "no body has the time to come");
        }
        let keepalive = path.key("keepalive");
        self.off_not_zero(&keepalive.key("ping"), route.keepalive.ping, "pings follow one another without pause");
        self.not_zero(&keepalive.key("pong"), route.keepalive.pong, "no peer has the time to answer");
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

    fn route_limits(&mut self, route_path: &KeyPath, route: &RouteConfig) {
        let path = route_path.key("limits");
        let limits = &route.limits;
        for (key, size) in [("message", limits.message), ("frame", limits.frame)] {
            if size.bytes() == Some(0) {
                let message = "zero would refuse every message that is not empty";
                self.error(&path.key(key), message).help("write a size such as `1MiB`, or `off`");
            }
        }
        self.not_none(&path.key("connections"), limits.connections, "session");
        self.per_client(&path.key("per_client"), route);
        self.counted_limits(&path, limits);
        for (key, rate) in [("rate", &limits.rate), ("server_rate", &limits.server_rate)] {
            if let Some(rate) = rate {
                self.rate(&path, &path.key(key), rate, limits);
            }
        }
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

    fn counted_limits(&mut self, path: &KeyPath, limits: &RouteLimits) {
        if limits.fragments.value() == Some(Count(0)) {
            let message = "zero would refuse every message in fragments";
            self.error(&path.key("fragments"), message).help("write a number such as `100000`, or `off`");
        }
        if limits.control.value().is_some_and(|rate| rate.per_second() > u16::MAX.into()) {
            let at = path.key("control");
            let shown = self.written.show(&at, &limits.control);
            let message = format!("more than `65535/s` cannot be counted, and this is `{shown}`");
            self.error(&at, message).help("write at most `65535/s`, or `off`");
        }
    }

    fn rate(&mut self, limits_path: &KeyPath, path: &KeyPath, rate: &RateConfig, limits: &RouteLimits) {
        if rate.messages.is_none() && rate.bytes.is_none() {
            let message = "this limits nothing, without `messages` and without `bytes`";
            self.error(path, message).at_key().help("write `messages: 50/s`, `bytes: 1MiB/s`, or both");
            return;
        }
        for (key, is_set, of, of_what) in [
            ("burst", rate.burst.is_some() && rate.messages.is_none(), "messages", "messages: 50/s"),
            ("burst_bytes", rate.burst_bytes.is_some() && rate.bytes.is_none(), "bytes", "bytes: 1MiB/s"),
        ] {
            if is_set {
                let message = format!("this has no effect without `{of}`");
                self.error(&path.key(key), message).at_key().help(format!("remove it, or add `{of_what}`"));
            }
        }
        if rate.burst == Some(0) {
            let message = "zero would let no message pass";
            self.error(&path.key("burst"), message).help("write `1` or more, or remove it");
        }
        let Some(burst) = rate.burst_bytes else { return };
        let at = path.key("burst_bytes");
        if burst.bytes() < BURST_BYTES_MIN {
            let shown = self.written.show(&at, &burst);
            let message = format!("a burst of `{shown}` is too small for headers and control frames, which pass whole");
            self.error(&at, message).help("write at least `1KiB`");
        } else if rate.then == Exceeding::Close
            && let Some((key, size)) = [("frame", limits.frame), ("message", limits.message)]
                .into_iter()
                .find_map(|(key, size)| size.value().map(|size| (key, size)))
            && size.bytes() >= burst.bytes()
        {
            let allowed = limits_path.key(key);
            let shown = [self.written.show(&at, &burst), self.written.show(&allowed, &size)];
            let message = format!(
                "a frame above the burst ({}) always ends the session, although one of `{key}` ({}) is allowed",
                shown[0], shown[1]
            );
            let allowed = self.written.original(&allowed);
            self.warn(&at, message)
                .help(format!("make it larger than `{key}`, remove it, or write `then: delay`"))
                .involving(allowed);
        }
    }

    /// Checks that `validate: off` stands beside nothing that needs frames.
    fn blind(&mut self, path: &KeyPath, route: &RouteConfig) {
        let set = [
            (path.key("keepalive").key("ping"), route.keepalive.ping != OrOff::Off),
            (path.key("keepalive").key("pong"), self.written.has_own(&path.key("keepalive").key("pong"))),
            (path.key("limits").key("message"), route.limits.message != OrOff::Off),
            (path.key("limits").key("frame"), route.limits.frame != OrOff::Off),
            (path.key("limits").key("control"), self.written.has_own(&path.key("limits").key("control"))),
            (path.key("limits").key("fragments"), self.written.has_own(&path.key("limits").key("fragments"))),
            (path.key("limits").key("rate").key("messages"), has_messages(&route.limits.rate)),
            (path.key("limits").key("server_rate").key("messages"), has_messages(&route.limits.server_rate)),
            (path.key("on_upstream_lost"), self.written.has_own(&path.key("on_upstream_lost"))),
        ];
        for (at, _) in set.iter().filter(|(_, set)| *set) {
            let involved = self.written.original(&path.key("validate"));
            let help = match self.written.has_own(at) {
                true => "remove it, or `validate: off`; `timeouts`, `limits.connections` and rates of bytes still work",
                false => "write `off` for it where `validate` is off",
            };
            let message = "this has no effect with `validate: off`, where no frames are read";
            self.error(at, message).at_key().help(help).involving(involved);
        }
    }
}

fn has_messages(rate: &Option<Box<RateConfig>>) -> bool {
    rate.as_ref().is_some_and(|rate| rate.messages.is_some())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EditDirection {
    Request,
    Response,
}
