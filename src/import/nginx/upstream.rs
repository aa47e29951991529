//! The upstreams: `upstream` blocks, and the servers that `proxy_pass` names directly.
//!
//! nginx has TLS settings where it uses a server, wsluice where it defines one: a block that is used in two ways becomes two.

use std::collections::HashMap;

use super::names::{Names, slug};
use super::notes::Notes;
use super::parser::Directive;
use super::values::{Piece, Scope, pieces, span, time};
use crate::config::EndpointUrl;
use crate::import::yaml::{Block, Yaml};

/// Those that routes lead to.
#[derive(Debug, Default)]
pub(super) struct Upstreams<'a> {
    defined: HashMap<&'a str, &'a Directive>,
    /// By the words and settings they were made of.
    names: HashMap<String, String>,
    taken: Names,
    /// In the order in which they were needed.
    pub made: Vec<(String, Block)>,
}

/// What `proxy_pass` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// `https://`
    pub is_tls: bool,
    /// Host and port, the name of an `upstream`, or `unix:/path`.
    pub server: String,
    /// Path and query behind it, or nothing.
    pub uri: String,
}

impl Pass {
    /// Reads a URL; none if it is none.
    pub(super) fn read(url: &str) -> Option<Pass> {
        let (is_tls, rest) = match url.split_once("://")? {
            ("http" | "ws", rest) => (false, rest),
            ("https" | "wss", rest) => (true, rest),
            _ => return None,
        };
        let (server, uri) = match rest.strip_prefix("unix:") {
            Some(path) => match path.split_once(':') {
                Some((path, uri)) => (format!("unix:{path}"), uri),
                None => (format!("unix:{path}"), ""),
            },
            None => {
                let end = rest.find(['/', '?', '$']).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        (!server.is_empty()).then(|| Pass { is_tls, server, uri: uri.to_owned() })
    }

    /// Returns what nginx sends as Host if nothing else is said.
    pub(super) fn host(&self) -> &str {
        if self.server.starts_with("unix:") { "localhost" } else { &self.server }
    }

    /// Returns the URL of a server behind this scheme, as wsluice writes it.
    fn endpoint(&self, server: &str, default_port: u16) -> Option<String> {
        if server.starts_with("unix:") {
            return (!self.is_tls).then(|| server.to_owned());
        }
        let has_port =
            server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok() && !port.contains(']'));
        let scheme = if self.is_tls { "wss" } else { "ws" };
        Some(if has_port { format!("{scheme}://{server}") } else { format!("{scheme}://{server}:{default_port}") })
    }
}

impl<'a> Upstreams<'a> {
    /// Takes an `upstream` block.
    pub(super) fn define(&mut self, block: &'a Directive) {
        self.defined.entry(block.arg(0)).or_insert(block);
    }

    /// Returns the URL of the first server behind a `proxy_pass`, for questions that wsluice itself asks.
    pub(super) fn first_server(&self, pass: &Pass) -> Option<String> {
        let server = match self.defined.get(&*pass.server) {
            Some(block) => block.inside().iter().find(|inner| inner.name == "server").map(|inner| inner.arg(0))?,
            None => &pass.server,
        };
        let scheme = if pass.is_tls { "https" } else { "http" };
        (!server.starts_with("unix:")).then(|| format!("{scheme}://{server}"))
    }

    /// Returns the name of the upstream for a `proxy_pass`, which is made if it is new; none if there is no server in it.
    pub(super) fn named(
        &mut self,
        pass: &Pass,
        from: &Directive,
        scope: &Scope<'_>,
        notes: &mut Notes,
    ) -> Option<String> {
        let (tls, comment) = if pass.is_tls { tls_settings(scope) } else { (vec![], None) };
        let settings = Yaml::Map(tls.clone()).line();
        let key = format!("{}\n{}\n{settings}", pass.is_tls, pass.server);
        if let Some(name) = self.names.get(&key) {
            return Some(name.clone());
        }
        let mut block = Block::default();
        block.comments.extend(comment);
        match self.defined.get(&*pass.server) {
            Some(defined) => self.fill(pass, defined, &mut block, notes),
            None => {
                let default = if pass.is_tls { 443 } else { 80 };
                let url = pass.endpoint(&pass.server, default).filter(|url| url.parse::<EndpointUrl>().is_ok());
                match url {
                    Some(url) => block.set("endpoints", Yaml::texts([url])),
                    None => block.comments.extend(notes.lost(from, "wsluice cannot reach this server")),
                }
            }
        }
        if !tls.is_empty() {
            block.set("tls", Yaml::Map(tls));
        }
        if !block.entries.iter().any(|(key, _)| key == "endpoints") {
            return None;
        }
        let name = self.taken.take(&slug(pass.server.trim_start_matches("unix:")));
        self.names.insert(key, name.clone());
        self.made.push((name.clone(), block));
        Some(name)
    }

    /// Fills in servers and balancing of an `upstream` block.
    fn fill(&self, pass: &Pass, defined: &Directive, block: &mut Block, notes: &mut Notes) {
        let (mut endpoints, mut seen, mut fails) = (vec![], vec![], vec![]);
        let mut balance = None;
        for inner in defined.inside() {
            match &*inner.name {
                "server" => {
                    let Some(url) = pass.endpoint(inner.arg(0), 80).filter(|url| url.parse::<EndpointUrl>().is_ok())
                    else {
                        block.comments.extend(notes.lost(inner, "wsluice cannot reach this server"));
                        continue;
                    };
                    if seen.contains(&url) {
                        block.comments.extend(notes.lost(inner, "each endpoint is named once: give it a weight"));
                        continue;
                    }
                    seen.push(url.clone());
                    endpoints.push(endpoint(url, inner, block, &mut fails, notes));
                }
                "ip_hash" => balance = Some(hash("client_address")),
                "least_conn" => balance = Some(Yaml::word("least_connections")),
                "random" => balance = Some(Yaml::word("random_two")),
                "hash" => match hash_key(inner.arg(0)) {
                    Some(on) => balance = Some(hash(&on)),
                    None => {
                        let why = "a hash is of the address, the path, or one header, cookie or parameter";
                        block.comments.extend(notes.lost(inner, why));
                    }
                },
                _ => {}
            }
        }
        let several = endpoints.len() > 1;
        if endpoints.is_empty() {
            block.comments.extend(notes.lost(defined, "there is no server in it"));
            return;
        }
        block.set("endpoints", Yaml::List(endpoints));
        match balance {
            Some(balance) => block.set("balance", balance),
            None if several => block.set("balance", Yaml::word("round_robin")),
            None => {}
        }
        // One value for all: nginx has it for each server.
        if let Some((failures, time)) = fails.first().filter(|first| fails.iter().all(|other| other == *first)) {
            match (failures.as_deref(), time) {
                (Some("0"), _) => block.set("ejection", Yaml::word("off")),
                (failures, time) => {
                    let failures = failures.map(|failures| ("failures", Yaml::word(failures)));
                    let time = time.as_ref().map(|time| ("time", Yaml::text(time)));
                    let settings: Vec<_> = failures.into_iter().chain(time).collect();
                    if !settings.is_empty() {
                        block.set("ejection", Yaml::map(settings));
                    }
                }
            }
        } else if !fails.is_empty() {
            let why = "`max_fails` and `fail_timeout` differ between its servers; see `ejection`";
            block.comments.extend(notes.lost(defined, why));
        }
    }
}

fn hash(on: &str) -> Yaml {
    Yaml::map([("hash", Yaml::map([("on", Yaml::text(on))]))])
}

/// What a server's `max_fails` and `fail_timeout` say.
type Fails = (Option<String>, Option<String>);

fn endpoint(url: String, server: &Directive, block: &mut Block, fails: &mut Vec<Fails>, notes: &mut Notes) -> Yaml {
    let mut entries = vec![("url", Yaml::text(url.clone()))];
    let (mut fail, mut is_down) = ((None, None), false);
    for word in server.args.iter().skip(1) {
        let number = |text: &str, max: u32| text.parse::<u32>().ok().filter(|number| *number <= max);
        let why = match word.split_once('=') {
            Some(("weight", value)) => match number(value, 65535) {
                Some(weight) if !is_down => {
                    entries.push(("weight", Yaml::word(weight)));
                    None
                }
                Some(_) => None,
                None => Some("this weight is none"),
            },
            Some(("max_conns", value)) => match number(value, u32::MAX) {
                Some(0) => None,
                Some(most) => {
                    entries.push(("max_connections", Yaml::word(most)));
                    None
                }
                None => Some("this number is none"),
            },
            Some(("max_fails", value)) => match number(value, 1000) {
                Some(failures) => {
                    fail.0 = Some(failures.to_string());
                    None
                }
                None => Some("this number is none"),
            },
            Some(("fail_timeout", value)) => match time(value) {
                Some(0) | None => Some("this time is none"),
                Some(millis) => {
                    fail.1 = Some(span(millis.min(300_000)));
                    None
                }
            },
            Some(("slow_start", _)) => Some("see `slow_start` of the upstream"),
            Some(("service" | "route", _)) => Some("see `discover` of the upstream"),
            None if word == "backup" => {
                entries.push(("priority", Yaml::word(1)));
                None
            }
            None if word == "down" => {
                is_down = true;
                entries.retain(|(key, _)| *key != "weight");
                entries.push(("weight", Yaml::word(0)));
                None
            }
            None if word == "resolve" => None,
            _ => Some("this word is unknown here"),
        };
        if let Some(why) = why {
            block.comments.extend(notes.lost(server, &format!("{}: {why}", super::parser::shown(word))));
        }
    }
    fails.push(fail);
    if entries.len() == 1 { Yaml::text(url) } else { Yaml::map(entries) }
}

/// Returns what a hash is of.
fn hash_key(text: &str) -> Option<String> {
    match &pieces(text)[..] {
        [Piece::Variable("remote_addr" | "binary_remote_addr")] => Some("client_address".to_owned()),
        [Piece::Variable("request_uri" | "uri")] => Some("path".to_owned()),
        [Piece::Variable(name)] => {
            let of = |prefix: &str, kind: &str| name.strip_prefix(prefix).map(|rest| format!("{kind}:{rest}"));
            of("http_", "header").map(|on| on.replace('_', "-")).or(of("cookie_", "cookie")).or(of("arg_", "query"))
        }
        _ => None,
    }
}

/// Returns `tls` of an upstream, and what to know of it. nginx verifies nothing unless it is told to.
fn tls_settings(scope: &Scope<'_>) -> (Vec<(String, Yaml)>, Option<String>) {
    let of = |name: &str| {
        scope.find(name).map(|directive| directive.arg(0)).filter(|value| !super::values::has_variable(value))
    };
    let mut tls = vec![];
    let mut put = |key: &str, value: Yaml| tls.push((key.to_owned(), value));
    let verifies = of("proxy_ssl_verify") == Some("on");
    if !verifies {
        put("verify", Yaml::word("off"));
    } else if let Some(ca) = of("proxy_ssl_trusted_certificate") {
        put("ca", Yaml::text(ca));
    }
    if let (Some(cert), Some(key)) = (of("proxy_ssl_certificate"), of("proxy_ssl_certificate_key")) {
        put("cert", Yaml::text(cert));
        put("key", Yaml::text(key));
    }
    if let Some(name) = of("proxy_ssl_name") {
        put("server_name", Yaml::text(name));
    }
    let comment =
        "nginx verifies no certificate here (`proxy_ssl_verify`); better: `ca` with the server's own certificate";
    (tls, (!verifies).then(|| comment.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_server_and_path() {
        for (url, right) in [
            ("http://app", Some((false, "app", ""))),
            ("https://app:8443/x", Some((true, "app:8443", "/x"))),
            ("http://[::1]:80/", Some((false, "[::1]:80", "/"))),
            ("http://unix:/run/a.sock:/x/", Some((false, "unix:/run/a.sock", "/x/"))),
            ("http://unix:/run/a.sock", Some((false, "unix:/run/a.sock", ""))),
            ("http://app$request_uri", Some((false, "app", "$request_uri"))),
            ("grpc://app", None),
            ("app", None),
            ("http://", None),
        ] {
            let right = right.map(|(is_tls, server, uri)| Pass { is_tls, server: server.into(), uri: uri.into() });
            assert_eq!(Pass::read(url), right, "{url}");
        }
    }

    #[test]
    fn a_hash_is_of_one_thing() {
        for (text, right) in [
            ("$remote_addr", Some("client_address")),
            ("$request_uri", Some("path")),
            ("$cookie_room", Some("cookie:room")),
            ("$arg_room", Some("query:room")),
            ("$http_x_room", Some("header:x-room")),
            ("$remote_addr$arg_room", None),
            ("fixed", None),
        ] {
            assert_eq!(hash_key(text).as_deref(), right, "{text}");
        }
    }
}
