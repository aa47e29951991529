//! Checks what routes say of clients' certificates: only a listener with `client_auth` asks for one.

use std::collections::HashSet;

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::route::RouteConfig;
use crate::header::template::{Template, TemplatePiece};
use crate::header::variable::Variable;

impl Checker<'_, '_> {
    /// Checks `match.client_cert` of all routes, and the variables that tell of a certificate.
    pub(super) fn client_certs(&mut self, section: &KeyPath) {
        let file = self.file;
        let asking: HashSet<&str> = file
            .listeners
            .iter()
            .filter(|listener| listener.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some()))
            .map(|listener| listener.name.as_str())
            .collect();
        for (index, route) in file.routes.iter().enumerate() {
            let named = &route.matches.listeners;
            let is_asked = match named.is_empty() {
                true => !asking.is_empty(),
                false => named.iter().any(|name| asking.contains(name.as_str())),
            };
            if is_asked {
                continue;
            }
            let path = section.index(index);
            if route.matches.client_cert.is_some() {
                let at = path.key("match").key("client_cert");
                let whose = if named.is_empty() { "no listener" } else { "none of its listeners" };
                let message = format!("no request ever comes to this route: {whose} asks clients for a certificate");
                let help = "add `client_auth: { ca: clients.crt }` to the `tls` of a listener, with `mode: optional` if \
                            clients may come without one";
                self.error(&at, message).at_key().help(help).involving(KeyPath::root().key("listeners"));
                continue;
            }
            self.empty_variables(&path, route);
        }
    }

    /// Warns of variables that are always empty.
    fn empty_variables(&mut self, path: &KeyPath, route: &RouteConfig) {
        let edits = path.key("headers");
        for (direction, written) in [("request", &route.headers.request), ("response", &route.headers.response)] {
            for (name, text) in written.set.iter() {
                self.empty_variable(&edits.key(direction).key("set").key(name.as_str()), text);
            }
        }
        if let Some(redirect) = &route.redirect {
            self.empty_variable(&path.key("redirect"), redirect.to.0.template());
        }
        if let Some(text) = route.respond.as_ref().and_then(|respond| respond.body.as_ref()) {
            self.empty_variable(&path.key("respond").key("body"), &text.0);
        }
    }

    fn empty_variable(&mut self, path: &KeyPath, text: &Template) {
        let of_certificate = text.pieces().iter().find_map(|piece| match piece {
            TemplatePiece::Variable(variable @ Variable::TlsClient(_)) => Some(*variable),
            _ => None,
        });
        if let Some(variable) = of_certificate {
            let message = format!("`{variable}` is always empty here: no listener asks clients for a certificate");
            let help = "add `client_auth: { ca: clients.crt }` to the `tls` of a listener, or remove it";
            self.warn(path, message).help(help).involving(KeyPath::root().key("listeners"));
        }
    }
}
