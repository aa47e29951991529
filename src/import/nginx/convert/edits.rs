//! The headers that a location sends on and answers with.

use crate::import::nginx::notes::Notes;
use crate::import::nginx::parser::Directive;
use crate::import::nginx::upstream::Pass;
use crate::import::nginx::values::{Scope, template};
use crate::import::yaml::Yaml;

/// Those that belong to a connection or a handshake, which wsluice writes itself.
const OWN: [&str; 15] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "te",
    "trailer",
    "transfer-encoding",
];

/// Headers of a route.
#[derive(Debug, Default)]
pub(super) struct Edits {
    send: Vec<&'static str>,
    set: Vec<(String, String)>,
    remove: Vec<String>,
    answer_set: Vec<(String, String)>,
    answer_remove: Vec<String>,
}

impl Edits {
    /// Returns `headers` of the route, if there is something to change.
    pub(super) fn yaml(&self) -> Option<Yaml> {
        let set =
            |set: &[(String, String)]| Yaml::map(set.iter().map(|(name, value)| (name.clone(), Yaml::text(&**value))));
        let side = |edits: &[(String, String)], removed: &[String]| {
            let mut entries = vec![];
            if !edits.is_empty() {
                entries.push(("set", set(edits)));
            }
            let left: Vec<String> = removed
                .iter()
                .filter(|name| !edits.iter().any(|(set, _)| set.eq_ignore_ascii_case(name)))
                .cloned()
                .collect();
            if !left.is_empty() {
                entries.push(("remove", Yaml::texts(left)));
            }
            (!entries.is_empty()).then(|| Yaml::map(entries))
        };
        let mut entries = vec![];
        if !self.send.is_empty() {
            entries.push(("send", Yaml::texts(self.send.iter().copied())));
        }
        entries.extend(side(&self.set, &self.remove).map(|side| ("request", side)));
        entries.extend(side(&self.answer_set, &self.answer_remove).map(|side| ("response", side)));
        (!entries.is_empty()).then(|| Yaml::map(entries))
    }

    fn put(&mut self, name: &str, value: String) {
        self.set.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.set.push((name.to_owned(), value));
    }

    fn send(&mut self, name: &'static str) {
        if !self.send.contains(&name) {
            self.send.push(name);
        }
    }

    /// `proxy_set_header`. Those of `from_service` come with the answer of a service that was asked.
    pub(super) fn request(
        &mut self,
        scope: &Scope<'_>,
        pass: &Pass,
        server_name: Option<&str>,
        from_service: &[String],
        notes: &mut Notes,
        comments: &mut Vec<String>,
    ) {
        let (mut has_host, mut upgrades) = (false, false);
        let mut all = scope.all("proxy_set_header");
        // nginx sends what it sends by itself where nothing is said.
        for directive in all.drain(..) {
            let (name, value) = (directive.arg(0), scope.expand(directive.arg(1)));
            let lower = name.to_ascii_lowercase();
            has_host |= lower == "host";
            upgrades |= lower == "upgrade" && !value.is_empty();
            if from_service.contains(&lower) {
                continue;
            }
            self.one(directive, name, &value, pass, server_name, notes, comments);
        }
        if !has_host {
            self.put("Host", pass.host().replace('{', "{{"));
        }
        if !upgrades {
            comments.push("nginx passes no Upgrade on here: WebSockets did not open, and do now".to_owned());
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one directive and all that may stand in its value")]
    fn one(
        &mut self,
        directive: &Directive,
        name: &str,
        value: &str,
        pass: &Pass,
        server_name: Option<&str>,
        notes: &mut Notes,
        comments: &mut Vec<String>,
    ) {
        let lower = name.to_ascii_lowercase();
        let plain = value.replace(['{', '}'], "");
        let is_own = OWN.contains(&&*lower) || lower.starts_with("sec-websocket-");
        match (&*lower, &*plain) {
            ("upgrade", "$http_upgrade" | "websocket" | "") | ("connection", _) => {}
            ("x-forwarded-for", "$proxy_add_x_forwarded_for" | "$remote_addr" | "$http_x_forwarded_for")
            | ("x-forwarded-proto", "$scheme" | "$http_x_forwarded_proto")
            | ("x-forwarded-host", "$host" | "$http_host" | "$host:$server_port" | "$http_x_forwarded_host")
            | ("host", "$http_host") => {}
            ("host", "$proxy_host") => self.put(name, pass.host().replace('{', "{{")),
            ("host", "") => {}
            ("x-real-ip", "$remote_addr" | "$realip_remote_addr" | "$proxy_protocol_addr" | "$http_x_real_ip") => {
                self.send("X-Real-IP")
            }
            ("x-forwarded-port", "$server_port" | "$http_x_forwarded_port") => self.send("X-Forwarded-Port"),
            ("x-request-id", "$request_id") => self.send("X-Request-Id"),
            // It goes on as it came.
            (lower, same) if same.strip_prefix("$http_").is_some_and(|same| same == lower.replace('-', "_")) => {}
            _ if is_own || lower == "upgrade" => {
                comments.extend(notes.lost(directive, "wsluice writes this header itself"));
            }
            (_, "") => self.remove.push(name.to_owned()),
            _ => match template(value, server_name) {
                Ok(value) => self.put(name, value),
                Err(variable) => {
                    // Nobody else's value may take its place.
                    self.remove.push(name.to_owned());
                    comments.extend(
                        notes.lost(directive, &format!("there is no variable for ${variable}: the header is left out")),
                    );
                }
            },
        }
    }

    /// `add_header` and `proxy_hide_header`.
    pub(super) fn answer(
        &mut self,
        scope: &Scope<'_>,
        server_name: Option<&str>,
        notes: &mut Notes,
        comments: &mut Vec<String>,
    ) {
        for directive in scope.all("add_header") {
            let (name, value) = (directive.arg(0), scope.expand(directive.arg(1)));
            let lower = name.to_ascii_lowercase();
            match &*lower {
                _ if value.is_empty() => continue,
                "set-cookie" | "link" | "www-authenticate" => {
                    comments.extend(notes.lost(directive, "it would replace the server's own, and not be added to it"));
                }
                _ if OWN.contains(&&*lower)
                    || lower.starts_with("sec-websocket-")
                    || ["host", "upgrade", "content-length"].contains(&&*lower) =>
                {
                    comments.extend(notes.lost(directive, "wsluice writes this header itself"));
                }
                _ => match template(&value, server_name) {
                    Ok(value) => {
                        self.answer_set.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
                        self.answer_set.push((name.to_owned(), value));
                    }
                    Err(variable) => {
                        comments.extend(notes.lost(directive, &format!("there is no variable for ${variable}")));
                    }
                },
            }
        }
        for directive in scope.all("proxy_hide_header") {
            let lower = directive.arg(0).to_ascii_lowercase();
            if OWN.contains(&&*lower) || ["upgrade", "host"].contains(&&*lower) {
                comments.extend(notes.lost(directive, "wsluice writes this header itself"));
            } else if !self.answer_remove.iter().any(|other| other.eq_ignore_ascii_case(&lower)) {
                self.answer_remove.push(directive.arg(0).to_owned());
            }
        }
    }

    /// The type of a body that the route itself sends.
    pub(super) fn content_type(&mut self, value: &str) {
        if !self.answer_set.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            self.answer_set.push(("Content-Type".to_owned(), value.to_owned()));
        }
    }
}
