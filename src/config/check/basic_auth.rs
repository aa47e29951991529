//! Checks who may use a route by a name and a password: realms that no header can carry, files without a name, and a token that
//! would have to stand in the same place.

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::basic_auth::BasicAuthConfig;
use crate::config::schema::listener::{ListenerConfig, ProxyProtocol};
use crate::config::schema::route::RouteConfig;
use crate::policy::jwt::TokenPlace;

/// Browsers show it in one line.
const REALM_CHARS_MAX: usize = 128;

impl Checker<'_, '_> {
    /// Checks `auth.basic` of a route at `path`, with the `auth.jwt` beside it.
    pub(super) fn basic_auth(&mut self, path: &KeyPath, route: &RouteConfig, basic: &BasicAuthConfig) {
        let jwt = route.auth.as_ref().and_then(|auth| auth.jwt.as_ref());
        self.file_name(&path.key("file"), &basic.file);
        self.realm(path, basic);
        self.in_the_clear(path, route);
        if jwt.is_some_and(|jwt| jwt.from.iter().all(|place| *place == TokenPlace::Authorization)) {
            let message = "`jwt` and `basic` both read `Authorization`, and no request may have two of it";
            let help = "read the token elsewhere, such as `from: [{ cookie: session }]`, or keep one of the two";
            self.error(path, message).at_key().help(help);
        }
    }

    /// Warns of a listener on which passwords come as they are. In front of trusted proxies, TLS may end there.
    fn in_the_clear(&mut self, path: &KeyPath, route: &RouteConfig) {
        let file = self.file;
        let named = &route.matches.listeners;
        let is_clear = |listener: &ListenerConfig| {
            (named.is_empty() || named.contains(&listener.name))
                && listener.tls.is_none()
                && listener.redirect.is_none()
                && listener.trusted_proxies.is_empty()
                && listener.proxy_protocol == ProxyProtocol::Off
                && !listener.bind.is_local()
        };
        if let Some(index) = file.listeners.iter().position(is_clear) {
            let name = &file.listeners[index].name;
            let message = format!("the listener `{name}` has no TLS, so whoever is in between reads the passwords");
            let help = "add `tls` to it, name the listeners of this route (`match.listeners`), or name the proxy before it \
                        (`trusted_proxies`)";
            self.warn(path, message).at_key().help(help).involving(KeyPath::root().key("listeners").index(index));
        }
    }

    fn realm(&mut self, path: &KeyPath, basic: &BasicAuthConfig) {
        let at = path.key("realm");
        if basic.realm.is_empty() {
            self.error(&at, "the realm is empty").help("write a few words, or remove it for `Restricted`");
        } else if basic.realm.contains(|c: char| !(' '..='~').contains(&c)) {
            // RFC 7617 names no charset for it, so that browsers read other characters in different ways.
            self.error(&at, "a realm is printable ASCII, since browsers read other characters in different ways")
                .help("write a few words in ASCII, or remove it for `Restricted`");
        } else if basic.realm.len() > REALM_CHARS_MAX {
            self.error(&at, format!("a realm has at most {REALM_CHARS_MAX} characters")).help("write a few words");
        }
    }
}
