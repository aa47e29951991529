//! What becomes of a request, told by the configuration alone: `wsluice check --request`.
//!
//! The request goes the way of a real one (`proxy::judge`, the policies of `upgrade` and `forward`), up to where an endpoint
//! would be asked; only what depends on the moment (full routes, health) is left out.

mod request;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::Method;
use http::header::ORIGIN;

pub use request::AskedRequest;

use crate::balance::Draw;
use crate::base::clock;
use crate::config::{
    Balance, ClientTls, Config, ConfigErrors, KeyPath, ListenerConfig, Loaded, OrOff, RouteConfig, Verify,
};
use crate::control::compile::{Compiled, CompiledListener, compile};
use crate::control::context::CompileContext;
use crate::header::forwarded::is_trusted;
use crate::header::visible::visible;
use crate::proxy::judge::{self, Judged};
use crate::proxy::outcome::Failure;
use crate::proxy::request::RoutedRequest;
use crate::proxy::request_log::RequestLog;
use crate::proxy::snapshot::Route;
use crate::proxy::{forward, upgrade};
use crate::session::RequestInfo;
use crate::upstream::Upstream;

/// The most routes that are shown of those that do not match.
const ROUTES_MAX: usize = 30;
/// The most endpoints that are shown.
const ENDPOINTS_MAX: usize = 20;

/// Why nothing can be steps.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The request cannot be written down.
    #[error("this is no request: {0}")]
    Request(String),
    /// There is no such listener.
    #[error("there is no listener {name}: {hint}")]
    Listener {
        /// The name.
        name: String,
        /// What there is.
        hint: String,
    },
}

/// What becomes of a request. Displays as a table: the step, what it does, and the line of the file that says so.
#[derive(Debug)]
pub struct Explanation {
    lines: Vec<Line>,
    /// The status that the client gets, if the proxy answers by itself.
    pub status: Option<http::StatusCode>,
}

#[derive(Debug)]
struct Line {
    step: &'static str,
    text: String,
    /// The place in the file.
    at: Option<String>,
}

/// Tells what becomes of `asked`.
///
/// # Errors
/// See [`ExplainError`].
pub fn explain(loaded: &Loaded, asked: &AskedRequest) -> Result<Explanation, ExplainError> {
    let compiled = compile(&without_files(loaded), &CompileContext::for_check(), None)?;
    let index = asked.listener(&loaded.file)?;
    let listener = &compiled.listeners[index];
    let parts = asked.parts()?;
    let mut steps = Steps { loaded, file: &loaded.file, lines: vec![] };
    steps.request(asked, index);
    let mut log = RequestLog::new(Arc::clone(&listener.proxy), RequestInfo::default(), parts.method.clone());
    let judged = listener.proxy.judge(&asked.downstream(&loaded.file.listeners[index]), parts.clone(), &mut log);
    let found = log.route.as_ref().map(|route| route.name().to_owned());
    steps.routes(listener, &parts, found.as_deref());
    let route = found.and_then(|name| steps.file.routes.iter().position(|route| route.name == name));
    let status = match judged {
        Err(failure) => Some(steps.refusal(&failure, index, route)),
        Ok(Judged::Answered(response)) => {
            let status = response.status();
            let to = response.headers().get(http::header::LOCATION).and_then(|to| to.to_str().ok());
            let to = to.map_or_else(String::new, |to| format!(" to {to}"));
            let at = match route {
                Some(route) => KeyPath::root().key("routes").index(route),
                None => KeyPath::root().key("listeners").index(index).key("redirect"),
            };
            steps.line("answer", format!("{status}{to}, by the proxy itself"), Some(&at));
            Some(status)
        }
        Ok(Judged::Forward(route, request)) => steps.forward(asked, &compiled, index, &route, request, &log),
    };
    Ok(Explanation { lines: steps.lines, status })
}

/// Returns the configuration without certificates and tokens, which decide nothing here: whoever asks may sit at a machine
/// that has none of these files.
fn without_files(loaded: &Loaded) -> Loaded {
    let mut loaded = loaded.clone();
    loaded.file.admin = None;
    for listener in &mut loaded.file.listeners {
        listener.tls = None;
    }
    for upstream in loaded.file.upstreams.values_mut() {
        upstream.tls = Some(ClientTls { verify: Verify::Off, ..ClientTls::default() });
    }
    loaded
}

/// The lines so far.
struct Steps<'a> {
    loaded: &'a Loaded,
    file: &'a Config,
    lines: Vec<Line>,
}

impl Steps<'_> {
    fn line(&mut self, step: &'static str, text: impl Into<String>, at: Option<&KeyPath>) {
        let at = at.and_then(|path| {
            let finding = self.loaded.source.error(path, "", None);
            finding.line.map(|line| format!("{}:{line}", finding.file))
        });
        self.lines.push(Line { step, text: text.into(), at });
    }

    fn request(&mut self, asked: &AskedRequest, index: usize) {
        let AskedRequest { target, is_handshake, method, client, .. } = asked;
        let what = if *is_handshake { "WebSocket handshake".to_owned() } else { method.to_string() };
        self.line("request", format!("{what} {} from {client}", target.url()), None);
        let ListenerConfig { name, bind, tls, trusted_proxies, .. } = &self.file.listeners[index];
        let encrypted = if tls.is_some() { "TLS" } else { "without TLS" };
        let path = KeyPath::root().key("listeners").index(index);
        self.line("listener", format!("{name}, {bind}, {encrypted}"), Some(&path));
        if tls.is_some() != target.tls {
            let note = "no listener fits the URL's scheme; this is what it would do with the request";
            self.line("", note, None);
        }
        if is_trusted(*client, trusted_proxies) {
            let note = format!("{client} is a trusted proxy: its forwarding fields count");
            self.line("", note, Some(&path.key("trusted_proxies")));
        }
    }

    /// The routes up to the one found, or all, each with what keeps the request from it.
    fn routes(&mut self, listener: &CompiledListener, parts: &http::request::Parts, found: Option<&str>) {
        if listener.proxy.redirect.is_some() {
            return;
        }
        let Ok(judge::HostAndPath { host, path }) = judge::target(parts) else { return };
        let view = listener.proxy.view(parts, &host, &path);
        let mut left_out = 0;
        let all: Vec<_> = listener.proxy.snapshot.table.mismatches(&view).collect();
        for (index, (route, mismatch)) in all.into_iter().enumerate() {
            let at = KeyPath::root().key("routes").index(index);
            let name = route.name().to_owned();
            if Some(name.as_str()) == found {
                if left_out > 0 {
                    self.line("", format!("and {left_out} more that do not match"), None);
                }
                self.line(if index == 0 { "route" } else { "" }, format!("{name}: matches"), Some(&at));
                return;
            }
            if index >= ROUTES_MAX {
                left_out += 1;
                continue;
            }
            let Some(mismatch) = mismatch else { continue };
            let at = mismatch.keys.iter().fold(at.key("match"), |path, key| path.key(key));
            self.line(if index == 0 { "route" } else { "" }, format!("{name}: no, {}", mismatch.text), Some(&at));
        }
        if left_out > 0 {
            self.line("", format!("and {left_out} more that do not match"), None);
        }
    }

    fn refusal(&mut self, failure: &Failure, listener: usize, route: Option<usize>) -> http::StatusCode {
        let outcome = failure.outcome();
        let route = route.map(|route| KeyPath::root().key("routes").index(route));
        let at = match (failure, route) {
            (Failure::NoRoute | Failure::MethodNotAllowed(_), _) => Some(KeyPath::root().key("routes")),
            (Failure::Origin(_), Some(route)) => Some(route.key("origins")),
            (Failure::NotWebSocket, Some(route)) => Some(route.key("http")),
            (Failure::Path(_), Some(route)) => Some(route.key("paths")),
            (_, Some(route)) => Some(route),
            (_, None) => Some(KeyPath::root().key("listeners").index(listener)),
        };
        self.line("answer", format!("{} `{}`: {failure}", outcome.status, outcome.reason), at.as_ref());
        if let Failure::Origin(denial) = failure {
            self.line("", denial.hint(), None);
        }
        outcome.status
    }

    /// What a route with an upstream does. Returns the status if it refuses the request.
    fn forward(
        &mut self,
        asked: &AskedRequest,
        compiled: &Compiled,
        listener: usize,
        route: &Route,
        mut request: RoutedRequest,
        log: &RequestLog,
    ) -> Option<http::StatusCode> {
        let index = self.file.routes.iter().position(|written| *written.name == *route.name)?;
        let judged = match asked.is_handshake {
            true => upgrade::judge(route, &request).map(drop),
            false => forward::judge(route),
        };
        if let Err(failure) = judged {
            return Some(self.refusal(&failure, listener, Some(index)));
        }
        let written = &self.file.routes[index];
        let at = KeyPath::root().key("routes").index(index);
        self.policies(asked, written, &request, &at);
        let target = request.upstream_target();
        let rewrites =
            if target == asked.target.path { "as it came".to_owned() } else { format!("{target}, rewritten") };
        self.line("path", rewrites, Some(&at.key("rewrite")).filter(|_| target != asked.target.path));
        let draw = request.draw(route, log.request_info.client);
        let head = match asked.is_handshake {
            true => request.upstream_handshake(route).text(),
            false => plain_head(&asked.method, &target, &request.upstream_headers(route)),
        };
        let set = self.loaded.shown();
        let set = &set["routes"][index]["headers"]["request"]["set"];
        for (number, line) in head.lines().filter(|line| !line.is_empty()).enumerate() {
            let line = without_secret(line, set);
            self.line(if number == 0 { "sent" } else { "" }, line, None);
        }
        if let Some(upstream) = compiled.upstreams.get(&*route.upstream_name) {
            self.upstream(&route.upstream_name, &upstream.upstream, draw);
        }
        self.line("answer", "the server's", None);
        None
    }

    /// What has let the request pass, and what may keep it out or waiting at another moment.
    fn policies(&mut self, asked: &AskedRequest, route: &RouteConfig, request: &RoutedRequest, at: &KeyPath) {
        if asked.is_handshake {
            self.line("handshake", "complete: WebSocket version 13", None);
            let origin = request.parts.headers.get(ORIGIN);
            let verdict = match origin {
                Some(origin) => format!("{} is allowed", String::from_utf8_lossy(origin.as_bytes())),
                None => "none, which is allowed; browsers send one (`--origin`)".to_owned(),
            };
            self.line("origin", verdict, Some(&at.key("origins")));
        } else {
            self.line("http", "plain requests are forwarded", Some(&at.key("http")));
        }
        let limits = at.key("limits");
        if let Some(limit) = route.limits.connections {
            let text = format!("at most {limit} sessions and requests at once");
            self.line("limits", text, Some(&limits.key("connections")));
        }
        if let (false, OrOff::Set(limit)) = (asked.is_handshake, route.limits.body) {
            self.line("limits", format!("a body of at most {limit}"), Some(&limits.key("body")));
        }
        let Some((name, upstream)) = route.upstream.as_ref().and_then(|name| self.file.upstreams.get_key_value(name))
        else {
            return;
        };
        let at = KeyPath::root().key("upstreams").key(name);
        if let (true, Some(admission)) = (asked.is_handshake, &upstream.admission) {
            let text =
                format!("at most {} handshakes; a faster one waits for up to {}", admission.rate, admission.wait);
            self.line("admission", text, Some(&at.key("admission")));
        }
        if let Some(queue) = &upstream.queue {
            let text = format!("while all endpoints are full, {} wait for up to {}", queue.length, queue.wait);
            self.line("queue", text, Some(&at.key("queue")));
        }
    }

    fn upstream(&mut self, name: &str, upstream: &Upstream, draw: Draw) {
        let Some(written) = self.file.upstreams.get(name) else { return };
        let at = KeyPath::root().key("upstreams").key(name);
        let balance = match &written.balance {
            Balance::LeastConnections => "the endpoint with the fewest sessions",
            Balance::RoundRobin => "endpoints in turn",
            Balance::RandomTwo => "the less loaded of two random endpoints",
            Balance::Hash(_) => "the endpoint that the hash gives",
        };
        let sticky = written.sticky.as_ref();
        let sticky =
            sticky.map_or_else(String::new, |sticky| format!(", but first that of the cookie {}", sticky.cookie));
        self.line("upstream", format!("{name}: {balance}{sticky}"), Some(&at));
        let endpoints = upstream.endpoints();
        if written.discover.is_some() {
            self.line("", "its endpoints are discovered while the process runs", Some(&at.key("discover")));
        }
        let picked = upstream.pick(&[], draw, clock::coarse()).ok().map(|(endpoint, _)| endpoint);
        let is_hash = matches!(written.balance, Balance::Hash(_));
        for endpoint in endpoints.iter().take(ENDPOINTS_MAX) {
            let is_picked = is_hash && picked.as_ref().is_some_and(|picked| Arc::ptr_eq(picked, endpoint));
            let mut text = format!("  {}", endpoint.name);
            for (is_said, note) in [
                (endpoint.weight != 1, format!(", weight {}", endpoint.weight)),
                (
                    endpoint.priority != 0,
                    format!(", priority {}: only if none before it can be used", endpoint.priority),
                ),
                (is_picked, ", this one".to_owned()),
            ] {
                if is_said {
                    text.push_str(&note);
                }
            }
            self.line("", text, None);
        }
        if let Some(more) = endpoints.len().checked_sub(ENDPOINTS_MAX).filter(|more| *more > 0) {
            self.line("", format!("  and {more} more"), None);
        }
    }
}

/// Returns a line of a head; a value that is not shown of the configuration (`set`) is not shown here either.
fn without_secret<'l>(line: &'l str, set: &serde_json::Value) -> Cow<'l, str> {
    let Some((name, _)) = line.split_once(": ") else { return Cow::Borrowed(line) };
    let entries = set.as_object().into_iter().flatten();
    let shown = entries.filter(|(key, _)| key.eq_ignore_ascii_case(name)).find_map(|(_, value)| value.as_str());
    match shown.filter(|shown| shown.contains("***") || shown.contains("${")) {
        Some(shown) => Cow::Owned(format!("{name}: {shown}")),
        None => Cow::Borrowed(line),
    }
}

/// The head of a plain request as it is sent.
fn plain_head(method: &Method, target: &str, headers: &http::HeaderMap) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    head
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEP: usize = 10;
        /// Places stand in one column, unless a text is longer.
        const TEXT: usize = 72;
        for Line { step, text, at } in &self.lines {
            let text = visible(text);
            match at {
                Some(at) => writeln!(f, "{step:<STEP$}{text:<TEXT$}  {at}")?,
                None => writeln!(f, "{step:<STEP$}{text}")?,
            }
        }
        Ok(())
    }
}
