//! Checks what routes do: send requests to an upstream, send clients elsewhere, or answer.

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::action::{RedirectConfig, RespondConfig};
use crate::config::schema::route::{Headers, RewriteConfig, RouteConfig};
use crate::config::value::template::write_instead;
use crate::header::variable::{Variable, foreign_word};

/// Keys of a route that are about its upstream, or about what a client gets of one, and whether they say something. A default
/// that is spelt out does no harm, and stands in what the API shows.
fn of_upstreams(route: &RouteConfig) -> [(&'static [&'static str], bool); 10] {
    let Headers { send, request, lookalikes, .. } = &route.headers;
    [
        (&["origins"], route.origins != Default::default()),
        (&["headers", "send"], !send.is_empty()),
        (&["headers", "request"], *request != Default::default()),
        (&["headers", "lookalikes"], *lookalikes != Default::default()),
        (&["timeouts"], route.timeouts != Default::default()),
        (&["keepalive"], route.keepalive != Default::default()),
        (&["limits"], route.limits != Default::default()),
        (&["http"], route.http != Default::default()),
        (&["validate"], route.validate != Default::default()),
        (&["on_upstream_lost"], route.on_upstream_lost != Default::default()),
    ]
}

impl Checker<'_, '_> {
    pub(super) fn action(&mut self, path: &KeyPath, route: &RouteConfig) {
        let RouteConfig { upstream, redirect, respond, .. } = route;
        let there =
            [("upstream", upstream.is_some()), ("redirect", redirect.is_some()), ("respond", respond.is_some())];
        let mut there = there.iter().filter(|(_, is_there)| *is_there).map(|(key, _)| *key);
        let Some(first) = there.next() else {
            let message = "the route does nothing: it needs `upstream`, `redirect` or `respond`";
            let help = "add `upstream:` with the name of one of `upstreams`";
            let issue = self.error(path, message).help(help);
            for key in ["upstream", "redirect", "respond"] {
                issue.involving(path.key(key));
            }
            return;
        };
        for other in there {
            let involved = self.written.original(&path.key(first));
            let message = format!("a route does one thing, and `{first}` is there already");
            self.error(&path.key(other), message).at_key().help("keep one of the two").involving(involved);
        }
        match (upstream, redirect, respond) {
            (Some(upstream), ..) => self.upstream_of(path, upstream),
            (None, Some(redirect), _) => self.redirect(path, route, redirect),
            (None, None, Some(respond)) => self.respond(path, route, respond),
            (None, None, None) => {}
        }
    }

    fn redirect(&mut self, path: &KeyPath, route: &RouteConfig, redirect: &RedirectConfig) {
        self.nothing_of_upstreams(path, route, "redirect");
        let (written, rewrite) = (path.key("redirect"), path.key("rewrite"));
        let at = if self.written.has(&written.key("to")) { written.key("to") } else { written };
        let to = &redirect.to.0;
        self.foreign(&at, &to.to_string());
        if ["{request.path}", "{request.target}"].contains(&to.to_string().as_str()) {
            let message = "this leads to where the request came from, without end";
            self.error(&at, message).help("write a host or a path before it");
        }
        let is_rewritten = [Variable::RewritePath, Variable::RewriteTarget, Variable::RewritePrefix]
            .iter()
            .any(|variable| to.has(*variable));
        let rewrites = *route.rewrite != RewriteConfig::default();
        if rewrites && self.written.has_own(&rewrite) && !is_rewritten {
            let message = "`rewrite` has no effect here, because the redirect does not lead to what it leaves";
            let help = "write `{rewrite.target}` (path and query) or `{rewrite.path}` in `redirect`, or remove it";
            self.error(&rewrite, message).at_key().help(help).involving(at);
        } else if is_rewritten && !rewrites {
            let message = "nothing is rewritten here";
            let help = "add `rewrite:`, or write `{request.target}` or `{request.path}`";
            self.warn(&at, message).help(help).involving(rewrite);
        }
    }

    fn respond(&mut self, path: &KeyPath, route: &RouteConfig, respond: &RespondConfig) {
        self.nothing_of_upstreams(path, route, "respond");
        let (written, rewrite) = (path.key("respond"), path.key("rewrite"));
        if *route.rewrite != RewriteConfig::default() && self.written.has_own(&rewrite) {
            let help = "remove it, unless an `upstream` comes back";
            self.warn(&rewrite, "`rewrite` has no effect beside `respond`")
                .at_key()
                .help(help)
                .involving(written.clone());
        }
        let (status, body, file) = (written.key("status"), written.key("body"), written.key("file"));
        if let Some(text) = &respond.body {
            self.foreign(&body, &text.to_string());
        }
        if respond.body.is_some() && respond.file.is_some() {
            let message = "the body is written here and in a file";
            self.error(&file, message).at_key().help("keep one of the two").involving(body.clone());
        }
        if let Some(name) = &respond.file {
            self.file_name(&file, name);
        }
        if respond.status.has_no_body() && (respond.body.is_some() || respond.file.is_some()) {
            let at = if respond.body.is_some() { body } else { file };
            let message = format!("an answer with status {} has no body (RFC 9110)", respond.status);
            self.error(&at, message).at_key().help("remove it, or write `status: 200`").involving(status);
        }
    }

    /// Keys that would do nothing on a route without an upstream.
    fn nothing_of_upstreams(&mut self, path: &KeyPath, route: &RouteConfig, action: &str) {
        for (keys, is_said) in of_upstreams(route) {
            let at = keys.iter().fold(path.clone(), |path, key| path.key(key));
            if is_said && self.written.has_own(&at) {
                let message = format!("this has no effect beside `{action}`: the route has no upstream");
                let involved = self.written.original(&path.key(action));
                // No error: a route that answers for a while, as for maintenance, keeps what it will need again.
                self.warn(&at, message).at_key().help("remove it, unless an `upstream` comes back").involving(involved);
            }
        }
    }

    /// Warns of a word that is a variable of another proxy and text here.
    pub(super) fn foreign(&mut self, path: &KeyPath, text: &str) {
        if let Some((word, instead)) = foreign_word(text) {
            let message = format!("`{word}` is sent as it is: it is a variable of another program");
            self.warn(path, message).help(write_instead(instead));
        }
    }
}
