//! The tree becomes listeners, routes and upstreams, and these become text.

mod action;
mod edits;
mod write;

use super::location::{self, Kind, Location};
use super::names::{Names, slug};
use super::notes::Notes;
use super::parser::{Directive, is_opaque};
use super::server::{self, Face, Listener, Server, Verifies};
use super::upstream::Upstreams;
use super::values::Scope;
use super::words::{Class, class};
use crate::config::RouteConfig;
use crate::import::report::{Imported, Summary};
use crate::import::yaml::{Block, Yaml};

/// The most routes that are written; wsluice takes no more either.
const ROUTES_MAX: usize = 20_000;

/// Returns the configuration; none if there is no server.
pub(super) fn convert(path: &str, tree: &[Directive]) -> Option<Imported> {
    let mut notes = Notes::default();
    let mut head = vec![];
    let http: Vec<&Directive> = tree.iter().filter(|directive| directive.name == "http").collect();
    // A file of `conf.d` or `sites-available` is read alone as well.
    let levels: Vec<&[Directive]> = match &http[..] {
        [] => vec![tree],
        blocks => blocks.iter().map(|block| block.inside()).collect(),
    };
    for level in levels.iter().copied().chain((!http.is_empty()).then_some(tree)) {
        head.extend(lost(level, &mut notes));
    }
    let (mut upstreams, mut servers) = (Upstreams::default(), vec![]);
    for level in &levels {
        let scope = Scope::default().with(level);
        level.iter().filter(|directive| directive.name == "upstream").for_each(|block| upstreams.define(block));
        for directive in level.iter().filter(|directive| directive.name == "server" && directive.block.is_some()) {
            servers.push(Server::new(directive, &scope, &mut notes));
        }
    }
    if servers.is_empty() {
        return None;
    }
    let mut listeners = server::listeners(&mut servers, &mut notes);
    let listener_blocks: Vec<Block> =
        listeners.iter_mut().map(|listener| listener.block(&mut servers, &mut notes)).collect();
    let access_log =
        servers.iter().all(|server| server.scope.find("access_log").is_some_and(|log| log.arg(0) == "off"));
    let faces = server::faces(&servers, &listeners);
    let mut builder =
        Builder { servers: &servers, listeners: &listeners, notes, upstreams, routes: vec![], names: Names::default() };
    for (index, face) in faces.iter().enumerate() {
        builder.face(face, index + 1 == faces.len());
    }
    let Builder { notes, upstreams, routes, .. } = builder;
    let summary = Summary { directives: count(tree), lost: notes.lost };
    let yaml = write::write(path, &head, &listener_blocks, &routes, &upstreams.made, access_log, &summary);
    Some(Imported { yaml, summary })
}

/// Returns comments about the directives of a level that have no counterpart.
fn lost(level: &[Directive], notes: &mut Notes) -> Vec<String> {
    let mut comments = vec![];
    for directive in level {
        match class(&directive.name) {
            Class::Lost(why) => comments.extend(notes.lost(directive, why)),
            Class::Known if directive.name == "map" => comments.extend(lost_map(directive, notes)),
            Class::Known if directive.name == "upstream" => {
                for inner in directive.inside() {
                    if let Class::Lost(why) = class(&inner.name) {
                        comments.extend(notes.lost(inner, why));
                    }
                }
            }
            _ => {}
        }
    }
    comments
}

/// The usual map from `$http_upgrade` to a `Connection` has no other use.
fn lost_map(map: &Directive, notes: &mut Notes) -> Option<String> {
    match map.arg(0) {
        "$http_upgrade" | "$http_connection" => None,
        _ => notes.lost(map, "values have no maps: write a route for each case"),
    }
}

/// Counts directives, without what stands in blocks of data.
fn count(level: &[Directive]) -> usize {
    let inside =
        |directive: &Directive| match is_opaque(&directive.name) || ["stream", "mail"].contains(&&*directive.name) {
            true => 0,
            false => count(directive.inside()),
        };
    level.iter().map(|directive| 1 + inside(directive)).sum()
}

/// Makes `match` of listeners and hosts.
type Conditions<'f> = dyn Fn(&[usize], &[String]) -> Vec<(String, Yaml)> + 'f;

/// What stands around all routes of a face.
struct Frame<'s> {
    /// `match` without the path.
    conditions: Vec<(String, Yaml)>,
    label: String,
    server_name: Option<&'s str>,
}

impl Frame<'_> {
    /// Returns a route with its name and `match`.
    fn route(&self, what: &str, path: Option<Yaml>) -> Block {
        let mut block = Block::default();
        block.set("name", Yaml::text(slug(&format!("{}-{what}", self.label))));
        let mut conditions = self.conditions.clone();
        if let Some(path) = path {
            conditions.push(("path".to_owned(), path));
        }
        if !conditions.is_empty() {
            block.set("match", Yaml::Map(conditions));
        }
        block
    }
}

struct Builder<'a, 's> {
    servers: &'s [Server<'a>],
    listeners: &'s [Listener],
    notes: Notes,
    upstreams: Upstreams<'a>,
    routes: Vec<Block>,
    /// Those of the routes.
    names: Names,
}

impl<'a> Builder<'a, '_> {
    /// Writes the routes of a server for some listeners and names.
    fn face(&mut self, face: &Face, is_last: bool) {
        let server = &self.servers[face.server];
        let mut comments = server.comments.clone();
        comments.retain(|comment| !self.routes.iter().any(|route| route.comments.contains(comment)));
        comments.extend(lost(server.directive.inside(), &mut self.notes));
        let conditions = |listeners: &[usize], hosts: &[String]| {
            let mut conditions = vec![];
            if listeners.len() < self.listeners.len() {
                let names = listeners.iter().map(|at| self.listeners[*at].name.clone());
                conditions.push(("listeners".to_owned(), Yaml::texts(names)));
            }
            if !hosts.is_empty() {
                conditions.push(("hosts".to_owned(), Yaml::texts(hosts.to_vec())));
            }
            conditions
        };
        let mut frame = Frame {
            conditions: conditions(&face.listeners, &face.hosts),
            label: server.label(),
            server_name: server.name(),
        };
        let open = frame.conditions.clone();
        // Who shows no certificate passes these routes by, and comes to the one that refuses.
        let asks =
            server.verifies == Verifies::Required && face.listeners.iter().any(|at| self.listeners[*at].is_mixed);
        if asks {
            frame.conditions.push(("client_cert".to_owned(), Yaml::map::<&str>([])));
        }
        let from = self.routes.len();
        if server.is_closed {
            self.push(answer(&frame, "closed", None, 403, comments));
            return;
        }
        for directive in server.directive.inside().iter().filter(|directive| directive.name == "if") {
            self.condition(directive, face, &frame, &conditions, &mut comments);
        }
        let returns = server.directive.inside().iter().find(|directive| directive.name == "return");
        let mut is_whole = returns.is_some();
        if let Some(returns) = returns {
            let mut block = frame.route("all", None);
            block.comments.append(&mut comments);
            self.returns(returns, &server.scope, &frame, &mut block);
            self.push(block);
        } else {
            is_whole = self.locations(server, &frame, comments);
        }
        if asks {
            let refusal = Frame { conditions: open, label: frame.label.clone(), server_name: None };
            self.push(answer(&refusal, "no-certificate", None, 403, vec![]));
        } else if !is_whole && !is_last {
            let comment =
                "nginx would look for a file here; without this route, another server's routes would answer".to_owned();
            self.push(answer(&frame, "rest", None, 404, vec![comment]));
        }
        if self.routes.len() == from && !server.comments.is_empty() {
            self.push(answer(&frame, "rest", None, 404, server.comments.clone()));
        }
    }

    /// Adds a route if wsluice can read it; else what of it can be read, and at least that it is closed.
    fn push(&mut self, mut block: Block) {
        if self.routes.len() >= ROUTES_MAX {
            return;
        }
        let name = match block.entries.iter().find(|(key, _)| key == "name") {
            Some((_, Yaml::Text(name))) => name.clone(),
            _ => return,
        };
        let name = self.names.take(&name);
        block.entries[0].1 = Yaml::text(name);
        for key in ["http_compression", "error_pages", "timeouts", "limits", "rewrite", "headers"] {
            let Some(why) = fault(&block.entries) else { break };
            if let Some(at) = block.entries.iter().position(|(other, _)| other == key) {
                let mut without = block.entries.clone();
                let (_, value) = without.remove(at);
                let worse = fault(&without).is_some_and(|after| after == why);
                if !worse {
                    block.comments.push(shown_comment(&format!(
                        "left out, as wsluice cannot read it: {key}: {} ({why})",
                        value.line()
                    )));
                    block.entries = without;
                    if key == "rewrite" {
                        close(&mut block, 503);
                    }
                }
            }
        }
        if let Some(why) = fault(&block.entries) {
            block.comments.push(shown_comment(&format!("closed, as wsluice cannot read this route: {why}")));
            close(&mut block, 403);
        }
        if let Some(why) = fault(&block.entries) {
            // Its path or names are none for wsluice.
            let text = Yaml::Map(block.entries.clone()).line();
            let comment = shown_comment(&format!("left out, as wsluice cannot read it: {text} ({why})"));
            match self.routes.last_mut() {
                Some(last) => last.comments.push(comment),
                None => {
                    block.entries.retain(|(key, _)| key != "match");
                    block.comments.push(comment);
                    self.routes.push(block);
                }
            }
            return;
        }
        self.routes.push(block);
    }

    /// `if` in a server: those by which clients are sent to https or to another name.
    fn condition(
        &mut self,
        directive: &'a Directive,
        face: &Face,
        frame: &Frame<'_>,
        conditions: &Conditions<'_>,
        comments: &mut Vec<String>,
    ) {
        let words: Vec<&str> =
            directive.args.iter().map(|word| word.trim_matches(['(', ')'])).filter(|word| !word.is_empty()).collect();
        let returns = directive.inside().iter().find(|inner| matches!(&*inner.name, "return" | "rewrite"));
        let plain: Vec<usize> = face.listeners.iter().copied().filter(|at| !self.listeners[*at].is_tls).collect();
        let (on, hosts): (Vec<usize>, Vec<String>) = match (&words[..], returns) {
            (["$host" | "$http_host", "=", name], Some(_)) => (face.listeners.clone(), vec![name.to_ascii_lowercase()]),
            (
                ["$scheme", "=", "http"] | ["$scheme", "!=", "https"] | ["$https", "!=", "on"] | ["$https", "=", ""],
                Some(_),
            ) => (plain, face.hosts.clone()),
            _ => {
                let may_refuse = directive.inside().iter().any(|inner| inner.name == "return" || inner.name == "deny");
                let why = "conditions on a request are `match` of a route: write one before these";
                comments.extend(if may_refuse {
                    self.notes.guard(directive, why)
                } else {
                    self.notes.lost(directive, why)
                });
                return;
            }
        };
        let Some(returns) = returns.filter(|_| !on.is_empty()) else { return };
        // A name of another server never comes to this one.
        if !face.hosts.is_empty()
            && hosts.iter().any(|host| !face.hosts.contains(host) && !face.hosts.iter().any(|h| h.starts_with('*')))
        {
            return;
        }
        let narrowed =
            Frame { conditions: conditions(&on, &hosts), label: frame.label.clone(), server_name: frame.server_name };
        let mut block = narrowed.route("redirect", None);
        block.comments.append(comments);
        let server = &self.servers[face.server];
        if returns.name == "return" {
            self.returns(returns, &server.scope, frame, &mut block);
        } else {
            self.rewrite(returns, &server.scope, frame, &mut block, None);
        }
        self.push(block);
    }

    /// Writes the routes of all locations. Returns true if one of them takes all paths.
    fn locations(&mut self, server: &Server<'a>, frame: &Frame<'_>, mut comments: Vec<String>) -> bool {
        let all = location::ordered(&server.scope, &mut self.notes, &mut comments);
        let pages = error_page_targets(server, &all);
        for location in &all {
            if pages.iter().any(|page| location.kind == Kind::Exact && location.path == *page)
                && !is_proxied(&location.scope)
            {
                continue;
            }
            if !location.is_readable() {
                let why = "wsluice has no such path: left out, and another route may take what it is for";
                comments.extend(self.notes.guard(location.directive, why));
                continue;
            }
            if let Some(added) = self.slash(location, &all, frame) {
                let mut block = added;
                block.comments.append(&mut comments);
                self.push(block);
            }
            let mut block = self.location(location, server, frame);
            let mut first = std::mem::take(&mut comments);
            first.append(&mut block.comments);
            block.comments = first;
            self.push(block);
        }
        let is_whole = all.iter().any(|location| location.is_prefix() && location.path == "/");
        if !comments.is_empty() {
            self.push(answer(frame, "rest", None, 404, comments));
            return true;
        }
        is_whole
    }

    /// nginx sends `/a` to `/a/` where a location `/a/` is proxied.
    fn slash(&self, location: &Location<'a>, all: &[Location<'a>], frame: &Frame<'_>) -> Option<Block> {
        let bare = location.path.strip_suffix('/').filter(|bare| location.is_prefix() && !bare.is_empty())?;
        let is_taken = all.iter().any(|other| !matches!(other.kind, Kind::Regex { .. }) && other.path == bare);
        if is_taken || !location.scope.own().iter().any(|inner| inner.name == "proxy_pass") {
            return None;
        }
        let path = Yaml::map([("exact", Yaml::text(bare))]);
        let mut block = frame.route(&format!("{bare}-slash"), Some(path));
        block.set("rewrite", Yaml::map([("path", Yaml::text(&*location.path))]));
        let to = [("to", Yaml::text("{rewrite.target}")), ("status", Yaml::word(301))];
        block.set("redirect", Yaml::map(to));
        Some(block)
    }

    /// Returns the route of a location.
    fn location(&mut self, location: &Location<'a>, server: &Server<'a>, frame: &Frame<'_>) -> Block {
        let mut comments = lost(location.directive.inside(), &mut self.notes);
        let (mut scope, mut is_fallback) = (location.scope.clone(), false);
        // What `try_files` ends at does the work; the files before it are none of ours.
        if let Some(files) = scope.own().iter().find(|inner| inner.name == "try_files") {
            let last = files.args.last().map_or("", String::as_str);
            if let Some(fallback) = location::named(&server.scope, last) {
                comments.extend(self.notes.lost(files, "wsluice serves no files: all goes to the last one"));
                comments.extend(lost(fallback.inside(), &mut self.notes));
                (scope, is_fallback) = (server.scope.with(fallback.inside()), true);
            }
        }
        let own = |name: &str| scope.own().iter().find(|inner| inner.name == name);
        let mut access = location::access(&scope, &mut self.notes, &mut comments);
        self.auth_request(&scope, server, &mut access, &mut comments);
        if is_fallback {
            // nginx asks both: the location, and then the one that it falls back to.
            let mut outer = location::access(&location.scope, &mut self.notes, &mut comments);
            self.auth_request(&location.scope, server, &mut outer, &mut comments);
            access.join(outer);
        }
        for inner in scope.own().iter().filter(|inner| inner.name == "if") {
            comments.extend(
                self.notes.guard(inner, "conditions on a request are `match` of a route: write one before this"),
            );
        }
        let returns = own("return");
        let is_open = own("proxy_pass").is_some()
            && returns.is_none()
            && !access.is_limited
            && !access.is_closed
            && own("internal").is_none();
        let what = match location.kind {
            Kind::Regex { .. } => format!("regex-{}", location.path),
            _ => location.path.clone(),
        };
        let mut block = frame.route(&what, location.pattern(!is_open));
        if let Kind::Regex { .. } = location.kind {
            block.entries[0].1 = Yaml::text(slug(&format!("{}-regex-{}", frame.label, location.path)));
        }
        block.comments = comments;
        if own("internal").is_some() {
            respond(&mut block, 404);
            return block;
        }
        if let Some(returns) = returns {
            self.returns(returns, &scope, frame, &mut block);
            return block;
        }
        if access.is_closed {
            respond(&mut block, 403);
            return block;
        }
        let rewrites: Vec<&Directive> = scope.own().iter().filter(|inner| inner.name == "rewrite").collect();
        if let [rewrite, rest @ ..] = &rewrites[..] {
            for more in rest {
                block.comments.extend(self.notes.lost(more, "a route has one `rewrite`: write a route for each"));
            }
            if self.rewrite(rewrite, &scope, frame, &mut block, own("proxy_pass")) {
                return block;
            }
        }
        let Some(pass) = own("proxy_pass") else {
            let other = ["fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass"]
                .iter()
                .find_map(|name| own(name));
            match other {
                Some(other) => block.comments.extend(self.notes.lost(other, "wsluice speaks HTTP and WebSocket only")),
                None => block.comments.extend(self.notes.lost(location.directive, "wsluice serves no files")),
            }
            respond(&mut block, 404);
            return block;
        };
        self.pass(pass, location, &scope, server, frame, &mut block);
        if block.entries.iter().any(|(key, _)| key == "upstream") {
            block.entries.extend(access.addresses.map(|value| ("addresses".to_owned(), value)));
            if !access.auth.is_empty() {
                block.set("auth", Yaml::map(access.auth));
            }
        }
        block
    }
}

/// Puts an answer in the place of whatever a route does.
pub(super) fn respond(block: &mut Block, status: u16) {
    block.set("respond", Yaml::map([("status", Yaml::word(status))]));
}

/// Leaves of a route only whom it is for, and answers them.
fn close(block: &mut Block, status: u16) {
    block.entries.retain(|(key, _)| key == "name" || key == "match");
    respond(block, status);
}

/// Returns why wsluice cannot read a route.
fn fault(entries: &[(String, Yaml)]) -> Option<String> {
    let text = Yaml::Map(entries.to_vec()).line();
    // `${` is written for the loader, which reads variables of the environment; the types alone do not.
    let read: Result<RouteConfig, _> = serde_yaml::from_str(&text.replace("$${", "${"));
    read.err().map(|error| error.to_string())
}

/// Returns a comment on one line.
fn shown_comment(text: &str) -> String {
    let line: String = text.chars().take(400).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line
}

/// Returns a route that answers by itself.
fn answer(frame: &Frame<'_>, what: &str, path: Option<Yaml>, status: u16, comments: Vec<String>) -> Block {
    let mut block = frame.route(what, path);
    block.comments = comments;
    respond(&mut block, status);
    block
}

/// Returns true if a location goes to a server.
fn is_proxied(scope: &Scope<'_>) -> bool {
    scope.own().iter().any(|inner| inner.name == "proxy_pass")
}

/// Returns the paths of the pages that `error_page` shows.
fn error_page_targets(server: &Server<'_>, all: &[Location<'_>]) -> Vec<String> {
    let scopes = all.iter().map(|location| &location.scope).chain([&server.scope]);
    let pages = scopes.flat_map(|scope| scope.all("error_page"));
    pages.filter_map(|page| page.args.last().cloned()).filter(|target| target.starts_with('/')).collect()
}
