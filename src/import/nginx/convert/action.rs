//! What a location does: it sends requests on, sends clients elsewhere, or answers.

use super::edits::Edits;
use super::{Builder, Frame, respond};
use crate::import::nginx::location::{Access, Kind, Location};
use crate::import::nginx::parser::Directive;
use crate::import::nginx::server::Server;
use crate::import::nginx::upstream::Pass;
use crate::import::nginx::values::{Piece, Scope, has_variable, pieces, size, span, template, time, whole_regex};
use crate::import::yaml::{Block, Yaml};

/// The statuses that wsluice itself answers with, which may have a page.
const ANSWERED: [&str; 11] = ["400", "401", "403", "408", "413", "426", "500", "502", "503", "504", "508"];

impl<'a> Builder<'a, '_> {
    /// `return`.
    pub(super) fn returns(&mut self, returns: &Directive, scope: &Scope<'_>, frame: &Frame<'_>, block: &mut Block) {
        let (first, second) = (returns.arg(0), scope.expand(returns.arg(1)));
        let mut edits = Edits::default();
        let (status, text) = match first.parse::<u16>() {
            Ok(status) => (status, second),
            Err(_) => (302, scope.expand(first)),
        };
        edits.answer(scope, frame.server_name, &mut self.notes, &mut block.comments);
        let text = match template(&text, frame.server_name) {
            Ok(text) => text,
            Err(variable) => {
                block.comments.extend(self.notes.lost(returns, &format!("there is no variable for ${variable}")));
                return respond(block, 503);
            }
        };
        if matches!(status, 301 | 302 | 303 | 307 | 308) {
            let redirect = Yaml::map([("to", Yaml::text(&*text)), ("status", Yaml::word(status))]);
            let fits = serde_yaml::from_str::<crate::config::RedirectConfig>(&redirect.line().replace("$${", "${"));
            match fits {
                Ok(_) => block.set("redirect", redirect),
                Err(error) => {
                    block.comments.extend(self.notes.lost(
                        returns,
                        &format!("no redirect of wsluice: {}", error.to_string().replace(['\n', '\r'], " ")),
                    ));
                    return respond(block, 503);
                }
            }
        } else {
            let sent = match status {
                444 => {
                    block.comments.extend(self.notes.remark(returns, "wsluice answers 403 where nginx hangs up"));
                    403
                }
                200..300 | 400..600 => status,
                _ => {
                    block.comments.extend(self.notes.lost(returns, "wsluice does not answer with this status"));
                    503
                }
            };
            let mut entries = vec![("status", Yaml::word(sent))];
            if !text.is_empty() {
                entries.push(("body", Yaml::text(text)));
                if let Some(kind) =
                    scope.find("default_type").map(|kind| kind.arg(0)).filter(|kind| *kind != "text/plain")
                {
                    edits.content_type(kind);
                }
            }
            block.set("respond", Yaml::map(entries));
        }
        if let Some(headers) = edits.yaml() {
            block.set("headers", headers);
        }
    }

    /// `rewrite`. Returns true if the route is complete with it.
    pub(super) fn rewrite(
        &mut self,
        rewrite: &Directive,
        scope: &Scope<'_>,
        frame: &Frame<'_>,
        block: &mut Block,
        pass: Option<&Directive>,
    ) -> bool {
        let (regex, with, flag) = (rewrite.arg(0), scope.expand(rewrite.arg(1)), rewrite.arg(2));
        let is_elsewhere = with.starts_with("http://") || with.starts_with("https://") || with.starts_with("$scheme");
        let regex = whole_regex(regex, false);
        if is_elsewhere || matches!(flag, "permanent" | "redirect") {
            let status = if flag == "permanent" { 301 } else { 302 };
            let has_group = pieces(&with)
                .iter()
                .any(|piece| matches!(piece, Piece::Variable(name) if name.starts_with(|c: char| c.is_ascii_digit())));
            if !has_group && let Ok(to) = template(&with, frame.server_name) {
                let is_all = matches!(&*regex, ".*" | "(.*)" | "/.*" | "/(.*)");
                if is_all {
                    // nginx adds the query where the text has none and does not end in `?`.
                    let to = to.strip_suffix('?').map_or_else(|| to.clone(), str::to_owned);
                    block.set("redirect", Yaml::map([("to", Yaml::text(to)), ("status", Yaml::word(status))]));
                    return true;
                }
            }
            let host_end =
                with.find("://").map_or(0, |at| with[at + 3..].find('/').map_or(with.len(), |end| at + 3 + end));
            let (origin, path) = with.split_at(host_end);
            if let (Ok(origin), true) = (template(origin, frame.server_name), is_replacement(path)) {
                block.set("rewrite", Yaml::map([("regex", Yaml::text(regex)), ("with", Yaml::text(groups(path)))]));
                let to = format!("{origin}{{rewrite.target}}");
                block.set("redirect", Yaml::map([("to", Yaml::text(to)), ("status", Yaml::word(status))]));
                return true;
            }
            block.comments.extend(self.notes.lost(rewrite, "wsluice cannot put this URL together"));
            respond(block, 503);
            return true;
        }
        if pass.is_none() {
            let why = "what becomes of the new path is another location: send clients there, or write a route";
            block.comments.extend(self.notes.lost(rewrite, why));
            return false;
        }
        if !is_replacement(&with) {
            block.comments.extend(self.notes.lost(rewrite, "only the path changes, by groups of the regex: closed"));
            respond(block, 503);
            return true;
        }
        if flag != "break" {
            let why = "the new path does not look for another location here";
            block.comments.extend(self.notes.lost(rewrite, why));
        }
        block.set("rewrite", Yaml::map([("regex", Yaml::text(regex)), ("with", Yaml::text(groups(&with)))]));
        false
    }

    /// `proxy_pass`, with all that belongs to it.
    pub(super) fn pass(
        &mut self,
        directive: &Directive,
        location: &Location<'a>,
        scope: &Scope<'_>,
        server: &Server<'a>,
        frame: &Frame<'_>,
        block: &mut Block,
    ) {
        let url = scope.expand(directive.arg(0));
        let pass = match Pass::read(&url) {
            Some(pass) if !has_variable(&pass.server) => pass,
            Some(_) | None => {
                let why = "wsluice knows its servers when it starts: write an upstream";
                block.comments.extend(self.notes.lost(directive, why));
                return respond(block, 503);
            }
        };
        let Some(upstream) = self.upstreams.named(&pass, directive, scope, &mut self.notes) else {
            block.comments.extend(self.notes.lost(directive, "there is no server that wsluice could reach"));
            return respond(block, 503);
        };
        let is_rewritten = block.entries.iter().any(|(key, _)| key == "rewrite");
        match rewritten(location, &pass.uri) {
            _ if is_rewritten => {}
            Ok(None) => {}
            Ok(Some(rewrite)) => block.set("rewrite", rewrite),
            Err(why) => {
                block.comments.extend(self.notes.lost(directive, why));
                return respond(block, 503);
            }
        }
        let at = block.entries.iter().position(|(key, _)| key == "rewrite").unwrap_or(block.entries.len());
        block.entries.insert(at, ("upstream".to_owned(), Yaml::text(upstream)));
        let from_service = self.service_headers(scope);
        let mut edits = Edits::default();
        let comments = &mut block.comments;
        edits.request(scope, &pass, frame.server_name, &from_service, &mut self.notes, comments);
        edits.answer(scope, frame.server_name, &mut self.notes, comments);
        let mut set = |key: &str, value: Option<Yaml>| block.entries.extend(value.map(|value| (key.to_owned(), value)));
        set("headers", edits.yaml());
        set("timeouts", self.timeouts(scope, &mut block.comments));
        set("limits", self.limits(scope, &mut block.comments));
        set("http_compression", compression(scope));
        set("error_pages", self.pages(scope, server, &mut block.comments));
    }

    fn timeouts(&mut self, scope: &Scope<'_>, comments: &mut Vec<String>) -> Option<Yaml> {
        let mut of = |name: &str| {
            let directive = scope.find(name)?;
            let read = time(directive.arg(0)).filter(|millis| *millis > 0);
            if read.is_none() {
                comments.extend(self.notes.lost(directive, "this is no time that wsluice could wait"));
            }
            read
        };
        let (connect, read, send) = (of("proxy_connect_timeout"), of("proxy_read_timeout"), of("proxy_send_timeout"));
        let mut entries = vec![];
        let mut put = |key: &str, millis: Option<u64>| {
            entries.extend(millis.map(|millis| (key.to_owned(), Yaml::text(span(millis)))))
        };
        put("connect", connect);
        put("response", read);
        put("body", read.max(send));
        (!entries.is_empty()).then_some(Yaml::Map(entries))
    }

    fn limits(&mut self, scope: &Scope<'_>, comments: &mut Vec<String>) -> Option<Yaml> {
        let (mut entries, mut client) = (vec![], vec![]);
        if let Some(directive) = scope.find("client_max_body_size") {
            match size(directive.arg(0)) {
                Some(size) => entries.extend(size.map(|size| ("body", Yaml::text(size)))),
                None => comments.extend(self.notes.lost(directive, "this is no size")),
            }
        }
        let is_address = |key: &str| matches!(key, "$remote_addr" | "$binary_remote_addr");
        for directive in scope.all("limit_conn") {
            let zone = zone(scope, "limit_conn_zone", directive.arg(0));
            let number = directive.arg(1).parse::<u32>().ok().filter(|number| *number > 0);
            match (zone.map(|zone| zone.arg(0)), number) {
                (Some(key), Some(number)) if is_address(key) && client.is_empty() => {
                    client.push(("sessions", Yaml::word(number)));
                    comments.extend(self.notes.remark(directive, "it counts WebSockets here, no plain HTTP"));
                }
                (Some("$server_name" | "$host" | "$http_host"), Some(number)) => {
                    entries.push(("connections", Yaml::word(number)));
                    comments.extend(self.notes.remark(directive, "it counts for each route here"));
                }
                _ => comments.extend(self.notes.lost(directive, "connections are counted by address, or by route")),
            }
        }
        for directive in scope.all("limit_req") {
            let of = |word: &str| directive.args.iter().find_map(|arg| arg.strip_prefix(word)?.strip_prefix('='));
            let zone = zone(scope, "limit_req_zone", of("zone").unwrap_or_default());
            let rate = zone.and_then(|zone| zone.args.iter().find_map(|arg| arg.strip_prefix("rate=")));
            let per_second =
                rate.and_then(|rate| rate.strip_suffix("r/s")?.parse::<u32>().ok()).filter(|rate| *rate > 0);
            let is_first = !client.iter().any(|(key, _)| *key == "handshakes");
            match per_second.filter(|_| is_first && zone.is_some_and(|zone| is_address(zone.arg(0)))) {
                Some(rate) => {
                    client.push(("handshakes", Yaml::word(format!("{rate}/s"))));
                    let burst = of("burst").and_then(|burst| burst.parse::<u32>().ok());
                    client.push(("burst", Yaml::word(burst.unwrap_or(0).saturating_add(1))));
                    comments.extend(self.notes.remark(directive, "it counts WebSocket handshakes here, no plain HTTP"));
                }
                None => comments
                    .extend(self.notes.lost(directive, "handshakes are counted by address, at a rate per second")),
            }
        }
        if !client.is_empty() {
            entries.push(("per_client", Yaml::map(client)));
        }
        (!entries.is_empty()).then(|| Yaml::map(entries))
    }

    /// `error_page`, where it shows a file.
    fn pages(&mut self, scope: &Scope<'_>, server: &Server<'a>, comments: &mut Vec<String>) -> Option<Yaml> {
        let mut pages: Vec<(String, Yaml)> = vec![];
        for directive in scope.all("error_page") {
            let Some((target, codes)) = directive.args.split_last() else { continue };
            let exact = server
                .scope
                .own()
                .iter()
                .find(|inner| inner.name == "location" && inner.args.last() == Some(target) && inner.arg(0) != "~");
            let at = exact.map_or_else(|| server.scope.clone(), |exact| server.scope.with(exact.inside()));
            let root =
                at.find("root").map(|root| root.arg(0)).filter(|root| root.starts_with('/') && !has_variable(root));
            let (true, Some(root)) = (target.starts_with('/') && !has_variable(target), root) else {
                comments
                    .extend(self.notes.lost(directive, "a page is a file here, below a `root` that begins with `/`"));
                continue;
            };
            let mut is_partial = false;
            for code in codes {
                match ANSWERED.contains(&&**code) {
                    true if !pages.iter().any(|(known, _)| known == code) => {
                        pages.push((code.clone(), Yaml::text(format!("{}{target}", root.trim_end_matches('/')))));
                    }
                    true => {}
                    false => is_partial = true,
                }
            }
            if is_partial {
                comments.extend(
                    self.notes.lost(directive, "pages are for what wsluice itself answers on a route: no 404, no `=`"),
                );
            }
        }
        (!pages.is_empty()).then_some(Yaml::Map(pages))
    }

    /// Returns the headers that come from the service of `auth_request`, in lower case.
    fn service_headers(&self, scope: &Scope<'_>) -> Vec<String> {
        let sent = scope.all("proxy_set_header");
        let set = scope.all("auth_request_set");
        let names = set.iter().filter_map(|set| {
            let header = set.arg(1).strip_prefix("$upstream_http_")?.replace('_', "-");
            let is_sent =
                sent.iter().any(|sent| sent.arg(1) == set.arg(0) && sent.arg(0).eq_ignore_ascii_case(&header));
            is_sent.then_some(header)
        });
        names.collect()
    }

    /// `auth_request`: the service is the server behind the location that it names.
    pub(super) fn auth_request(
        &mut self,
        scope: &Scope<'a>,
        server: &Server<'a>,
        access: &mut Access,
        comments: &mut Vec<String>,
    ) {
        let Some(directive) = scope.find("auth_request").filter(|asked| asked.arg(0) != "off") else { return };
        access.is_limited = true;
        let path = directive.arg(0);
        let mut locations = server.scope.own().iter().filter(|inner| inner.name == "location");
        let found = locations
            .find(|inner| inner.args.last().is_some_and(|last| last == path) && !inner.arg(0).starts_with('~'));
        let url = found.and_then(|found| {
            let inner = server.scope.with(found.inside());
            let pass = Pass::read(&inner.expand(inner.own().iter().find(|inner| inner.name == "proxy_pass")?.arg(0)))?;
            let target = if pass.uri.is_empty() { path } else { &pass.uri };
            let url = format!("{}{target}", self.upstreams.first_server(&pass)?);
            (!has_variable(&url) && url.parse::<crate::config::HttpUrl>().is_ok()).then_some((url, pass.is_tls))
        });
        let Some((url, is_tls)) = url else {
            access.is_closed = true;
            let why = "wsluice finds no server to ask at this path: closed until you write `auth: { forward: … }`";
            comments.extend(self.notes.guard(directive, why));
            return;
        };
        let mut forward = vec![("url", Yaml::text(url))];
        let headers = self.service_headers(scope);
        if !headers.is_empty() {
            forward.push(("headers", Yaml::texts(headers)));
        }
        if is_tls {
            comments.push("wsluice verifies the certificate of the service that says who may come in".to_owned());
        }
        access.auth.push(("forward", Yaml::map(forward)));
    }
}

/// Returns the zone of a limit.
fn zone<'a>(scope: &Scope<'a>, directive: &str, name: &str) -> Option<&'a Directive> {
    let mut zones = scope.every().filter(|zone| zone.name == directive);
    zones.find(|zone| {
        let named = zone.args.iter().find_map(|arg| arg.strip_prefix("zone="));
        named.is_some_and(|named| named.split(':').next() == Some(name))
    })
}

/// Returns true if it is a path made of text and groups of a regex.
fn is_replacement(text: &str) -> bool {
    let good = |piece: &Piece<'_>| match piece {
        Piece::Text(text) => !text.contains(['?', '$', '#']),
        Piece::Variable(name) => name.len() == 1 && name.chars().all(|c| c.is_ascii_digit() && c != '0'),
    };
    pieces(text).iter().all(good) && text.starts_with(['/', '$'])
}

/// Returns a text with groups as wsluice writes them: braces only where a letter follows.
fn groups(text: &str) -> String {
    let pieces = pieces(text);
    let word = |piece: Option<&Piece<'_>>| matches!(piece, Some(Piece::Text(text)) if text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
    let one = |(at, piece): (usize, &Piece<'_>)| match piece {
        Piece::Text(text) => (*text).to_owned(),
        Piece::Variable(name) if word(pieces.get(at + 1)) => format!("${{{name}}}"),
        Piece::Variable(name) => format!("${name}"),
    };
    pieces.iter().enumerate().map(one).collect()
}

/// Returns `rewrite` for the path behind the server in `proxy_pass`, which takes the place of the location's.
fn rewritten(location: &Location<'_>, uri: &str) -> Result<Option<Yaml>, &'static str> {
    let plain = uri.replace("${", "$").replace('}', "");
    let regex = |source: String, with: String| {
        // `$` alone is none of a group.
        Ok(Some(Yaml::map([("regex", Yaml::text(source)), ("with", Yaml::text(groups(&with)))])))
    };
    if matches!(&*plain, "" | "$request_uri" | "$uri" | "$uri$is_args$args" | "$request_uri$is_args$args") {
        return Ok(None);
    }
    let without_query = plain.strip_suffix("$is_args$args").or(plain.strip_suffix("?$args")).unwrap_or(&plain);
    if let Kind::Regex { ignores_case } = location.kind {
        return match is_replacement(without_query) {
            true => regex(whole_regex(&location.path, ignores_case), without_query.to_owned()),
            false => Err("wsluice cannot put this path together"),
        };
    }
    if has_variable(without_query) || without_query.contains(['?', '#', '$']) {
        return Err("a path behind the server has no query and no variables here");
    }
    let (uri, path) = (without_query, &*location.path);
    if location.kind == Kind::Exact {
        return Ok((uri != path).then(|| Yaml::map([("path", Yaml::text(uri))])));
    }
    if uri == path {
        return Ok(None);
    }
    if path.ends_with('/') && uri.ends_with('/') {
        let (strip, add) = (path.trim_end_matches('/'), uri.trim_end_matches('/'));
        let parts = [("strip_prefix", strip), ("add_prefix", add)].into_iter().filter(|(_, part)| !part.is_empty());
        return Ok(Some(Yaml::map(parts.map(|(key, part)| (key, Yaml::text(part))))));
    }
    regex(format!("{}(.*)", regex::escape(path)), format!("{uri}$1"))
}

/// `gzip`.
fn compression(scope: &Scope<'_>) -> Option<Yaml> {
    scope.find("gzip").filter(|gzip| gzip.arg(0) == "on")?;
    let mut entries = vec![("encodings", Yaml::texts(["gzip"]))];
    let types: Vec<&str> =
        scope.all("gzip_types").iter().flat_map(|types| types.args.iter().map(String::as_str)).collect();
    if !types.contains(&"*") {
        let mut all = vec!["text/html"];
        all.extend(types.iter().filter(|kind| **kind != "text/html" && **kind != "text/event-stream"));
        entries.push(("types", Yaml::texts(all)));
    }
    if let Some(least) = scope.find("gzip_min_length").and_then(|least| least.arg(0).parse::<u64>().ok()) {
        entries.push(("min_bytes", Yaml::word(least)));
    }
    Some(Yaml::map(entries))
}
