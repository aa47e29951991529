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
    Balance, ClientAuthModeConfig, ClientKeyConfig, ClientTls, Config, ConfigErrors, KeyPath, KeysConfig,
    ListenerConfig, Loaded, OrOff, RouteConfig, ServerTls, Verify,
};
use crate::control::compile::{Compiled, CompiledListener, address_rules, compile};
use crate::control::context::CompileContext;
use crate::header::client_certificate::CertificatePart;
use crate::header::forwarded::is_trusted;
use crate::header::visible::visible;
use crate::policy::address::AddressDenial;
use crate::policy::jwt::TokenDenial;
use crate::proxy::Downstream;
use crate::proxy::judge::{self, Judged};
use crate::proxy::outcome::Failure;
use crate::proxy::request::RoutedRequest;
use crate::proxy::request_log::RequestLog;
use crate::proxy::snapshot::Route;
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
    let downstream = asked.downstream(&loaded.file.listeners[index]);
    let judged = listener.proxy.judge(&downstream, parts.clone(), &mut log);
    let found = log.route.as_ref().map(|route| route.name().to_owned());
    steps.routes(listener, &downstream, &parts, found.as_deref());
    let route = found.and_then(|name| steps.file.routes.iter().position(|route| route.name == name));
    let status = match judged {
        // Only the running process has them.
        Err(Failure::Token(TokenDenial::NoKeys)) => {
            steps.unverified(route);
            None
        }
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
        Ok(Judged::Forward(route, request)) => steps.forward(asked, &compiled, &route, request, &log),
    };
    Ok(Explanation { lines: steps.lines, status })
}

/// Returns the configuration without certificates and tokens, which decide nothing here: whoever asks may sit at a machine
/// that has none of these files.
fn without_files(loaded: &Loaded) -> Loaded {
    let mut loaded = loaded.clone();
    loaded.file.admin = None;
    loaded.file.shared = None;
    for listener in &mut loaded.file.listeners {
        listener.tls = None;
    }
    for auth in loaded.file.routes.iter_mut().filter_map(|route| route.auth.as_mut()) {
        let unverified = || Some(Box::new(ClientTls { verify: Verify::Off, ..ClientTls::default() }));
        if let Some(keys) = auth.jwt.as_mut().map(|jwt| &mut jwt.keys) {
            keys.tls = unverified();
            for file in [&mut keys.file, &mut keys.secret_file] {
                file.take_if(|file| !file.is_file());
            }
        }
        auth.basic.take_if(|basic| !basic.file.is_file());
        auth.forward.iter_mut().for_each(|forward| forward.tls = unverified());
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
        let ListenerConfig { name, bind, tls, trusted_proxies, addresses, .. } = &self.file.listeners[index];
        let encrypted = if tls.is_some() { "TLS" } else { "without TLS" };
        let path = KeyPath::root().key("listeners").index(index);
        self.line("listener", format!("{name}, {bind}, {encrypted}"), Some(&path));
        if tls.is_some() != target.tls {
            let note = "no listener fits the URL's scheme; this is what it would do with the request";
            self.line("", note, None);
        }
        self.certificate(asked, tls.as_ref(), &path.key("tls"));
        // Which address the connection has, if a PROXY header is to announce one, nobody knows here.
        if let Some(addresses) = addresses {
            let verdict = match address_rules(addresses).judge(Some(*client)) {
                Ok(()) => format!("connections of {client} are let in"),
                Err(denial) => format!("no connection gets here: {denial}; this is what it would do with the request"),
            };
            self.line("", verdict, Some(&path.key("addresses")));
        }
        if is_trusted(*client, trusted_proxies) {
            let note = format!("{client} is a trusted proxy: its forwarding fields count");
            self.line("", note, Some(&path.key("trusted_proxies")));
        }
    }

    /// The client's certificate, or that there is none.
    fn certificate(&mut self, asked: &AskedRequest, tls: Option<&ServerTls>, path: &KeyPath) {
        let client_auth = tls.and_then(|tls| tls.client_auth.as_ref());
        match (client_auth, &asked.certificate) {
            (None, None) => {}
            (None, Some(_)) => {
                self.line("", "it asks clients for no certificate, so that of this one is not seen", None)
            }
            (Some(written), None) => {
                let note = match written.mode {
                    ClientAuthModeConfig::Optional => "the client shows no certificate (`--client-cert`), as it may",
                    ClientAuthModeConfig::Require => {
                        "no connection gets here without a certificate (`--client-cert`); this is what it would do with the \
                         request"
                    }
                };
                self.line("", note, Some(&path.key("client_auth")));
            }
            (Some(written), Some(certificate)) => {
                let part = |part: CertificatePart| {
                    let mut text = String::new();
                    certificate.write(part, &mut text);
                    text
                };
                let ca = written.ca.display();
                let note = format!("a certificate is shown, which an authority of {ca} must have signed; it says");
                self.line("", note, Some(&path.key("client_auth")));
                self.line("", format!("  subject {}", certificate.subject), None);
                for name in &certificate.names {
                    self.line("", format!("  san {name}"), None);
                }
                self.line("", format!("  fingerprint {}", part(CertificatePart::Fingerprint)), None);
            }
        }
    }

    /// The routes up to the one found, or all, each with what keeps the request from it.
    fn routes(
        &mut self,
        listener: &CompiledListener,
        downstream: &Downstream,
        parts: &http::request::Parts,
        found: Option<&str>,
    ) {
        if listener.proxy.redirect.is_some() {
            return;
        }
        let Ok(judge::HostAndPath { host, path }) = judge::target(parts) else { return };
        let view = listener.proxy.view(downstream, parts, &host, &path);
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
            (Failure::Address(denial), Some(route)) => {
                let key = if matches!(denial, AddressDenial::Denied(_)) { "deny" } else { "allow" };
                Some(route.key("addresses").key(key))
            }
            (Failure::Origin(_), Some(route)) => Some(route.key("origins")),
            (Failure::Token(denial), Some(route)) => {
                let jwt = route.key("auth").key("jwt");
                Some(match denial {
                    TokenDenial::Missing(_) | TokenDenial::Several(_) => jwt.key("from"),
                    TokenDenial::Algorithm(_) => jwt.key("algorithms"),
                    TokenDenial::UnknownKey | TokenDenial::Unnamed | TokenDenial::Signature | TokenDenial::NoKeys => {
                        jwt.key("keys")
                    }
                    TokenDenial::Issuer => jwt.key("issuer"),
                    TokenDenial::Audience => jwt.key("audience"),
                    TokenDenial::Claim { claim, .. } => jwt.key("require").key(claim),
                    TokenDenial::Flawed(_) | TokenDenial::Expired(_) | TokenDenial::Early => jwt,
                })
            }
            (Failure::NotWebSocket, Some(route)) => Some(route.key("http")),
            (Failure::Path(_), Some(route)) => Some(route.key("paths")),
            (_, Some(route)) => Some(route),
            (_, None) => Some(KeyPath::root().key("listeners").index(listener)),
        };
        self.line("answer", format!("{} `{}`: {failure}", outcome.status, outcome.reason), at.as_ref());
        match failure {
            Failure::Origin(denial) => self.line("", denial.hint(), None),
            Failure::Token(TokenDenial::Missing(_)) => {
                self.line("", "for a try: `--header \"Authorization: Bearer …\"`", None);
            }
            _ => {}
        }
        outcome.status
    }

    /// What becomes of a request whose token only the running process can verify.
    fn unverified(&mut self, route: Option<usize>) {
        let Some(index) = route else { return };
        let at = KeyPath::root().key("routes").index(index).key("auth").key("jwt");
        let jwt = self.file.routes[index].auth.as_ref().and_then(|auth| auth.jwt.as_ref());
        let keys = jwt.map(|jwt| &jwt.keys);
        let place = match keys {
            Some(KeysConfig { url: Some(url), .. }) => {
                format!("the keys of {url}, which only the running process fetches")
            }
            _ => "keys in a file, which is not here".to_owned(),
        };
        self.line("auth", format!("there is a token; what becomes of it depends on {place}"), Some(&at.key("keys")));
        self.line("answer", "the server's if the token is valid, else a refusal", None);
    }

    /// What a route with an upstream does. Returns the status if it refuses the request.
    fn forward(
        &mut self,
        asked: &AskedRequest,
        compiled: &Compiled,
        route: &Route,
        mut request: RoutedRequest,
        log: &RequestLog,
    ) -> Option<http::StatusCode> {
        let index = self.file.routes.iter().position(|written| *written.name == *route.name)?;
        let written = &self.file.routes[index];
        let at = KeyPath::root().key("routes").index(index);
        self.policies(asked, written, &request, log, &at);
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
    fn policies(
        &mut self,
        asked: &AskedRequest,
        route: &RouteConfig,
        request: &RoutedRequest,
        log: &RequestLog,
        at: &KeyPath,
    ) {
        if route.addresses.is_some() {
            let client = log.request_info.client.map_or_else(|| "unknown".to_owned(), |client| client.to_string());
            self.line("address", format!("the client's, {client}, is let in"), Some(&at.key("addresses")));
        }
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
        let auth = route.auth.as_deref();
        if auth.is_some_and(|auth| auth.jwt.is_some()) {
            let subject = log.identity.as_ref().and_then(|identity| identity.subject.as_deref());
            let whose = subject.map_or_else(|| "of nobody by name".to_owned(), |subject| format!("of {subject}"));
            let text = format!("the token, {whose}, lets in");
            self.line("auth", text, Some(&at.key("auth").key("jwt")));
        }
        if let Some(basic) = auth.and_then(|auth| auth.basic.as_ref()) {
            let file = basic.file.display();
            let text = format!("a name and a password of {file} are needed; what follows is for those who have them");
            self.line("auth", text, Some(&at.key("auth").key("basic")));
        }
        if let Some(forward) = auth.and_then(|auth| auth.forward.as_ref()) {
            let text = format!("{} is asked; what follows is for those whom it lets in", forward.url);
            self.line("auth", text, Some(&at.key("auth").key("forward")));
        }
        let limits = at.key("limits");
        if let Some(limit) = route.limits.connections {
            let text = format!("at most {limit} sessions and requests at once");
            self.line("limits", text, Some(&limits.key("connections")));
        }
        if let (true, Some(written)) = (asked.is_handshake, &route.limits.per_client) {
            let by = match &written.key {
                ClientKeyConfig::Address => "its address".to_owned(),
                ClientKeyConfig::Subject => "its subject".to_owned(),
                ClientKeyConfig::Header(name) => format!("the header {name} of a trusted proxy"),
            };
            let sessions = written.sessions.map(|limit| format!("at most {limit} sessions at once"));
            let handshakes = written.handshakes.map(|rate| format!("{rate} handshakes, {} at once", written.burst()));
            let both: Vec<String> = [sessions, handshakes].into_iter().flatten().collect();
            let text = format!("each client, told by {by}: {}", both.join(", "));
            self.line("limits", text, Some(&limits.key("per_client")));
            if let Some(redis) = self.file.shared.as_ref().and_then(|shared| shared.redis.as_ref()) {
                let text = format!("on all instances together, which {} counts", redis.url.server());
                self.line("", text, Some(&KeyPath::root().key("shared").key("redis")));
            }
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
