//! Checks limits of single clients: those that limit nothing, and keys that no client has.

use http::HeaderName;

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::per_client::ClientKeyConfig;
use crate::config::schema::route::RouteConfig;

impl Checker<'_, '_> {
    pub(super) fn per_client(&mut self, path: &KeyPath, route: &RouteConfig) {
        let Some(limits) = &route.limits.per_client else { return };
        if limits.sessions.is_none() && limits.handshakes.is_none() {
            self.error(path, "this limits nothing").help("add `sessions: 10`, or `handshakes: 10/s`");
        }
        self.not_none(&path.key("sessions"), limits.sessions, "session");
        self.not_none(&path.key("burst"), limits.burst, "handshake");
        if limits.burst.is_some() && limits.handshakes.is_none() {
            self.error(&path.key("burst"), "this is the burst of `handshakes`, which is not there")
                .at_key()
                .help("add `handshakes: 10/s`, or remove it");
        }
        let at = path.key("key");
        match &limits.key {
            ClientKeyConfig::Address => {}
            ClientKeyConfig::Subject => {
                let auth = route.auth.as_deref();
                let by_name = auth.is_some_and(|auth| auth.jwt.is_some() || auth.basic.is_some());
                let by_service = auth.and_then(|auth| auth.forward.as_ref()).is_some_and(|it| it.subject.is_some());
                if !by_name && !by_service {
                    self.error(&at, "this route has no `auth` that names a user, so no client has a subject")
                        .help("add `auth: { jwt: … }` or `auth.forward.subject`, or write `key: address`");
                }
            }
            ClientKeyConfig::Header(name) if name.parse::<HeaderName>().is_err() => {
                self.error(&at.key("header"), "this is not a header's name").help("write one such as `X-User`");
            }
            ClientKeyConfig::Header(_) => {
                if self.file.listeners.iter().all(|listener| listener.trusted_proxies.is_empty()) {
                    let message = "no listener has `trusted_proxies`, and nobody else's header counts";
                    self.error(&at.key("header"), message)
                        .help("add `trusted_proxies` to the listener, or write `key: address`");
                }
            }
        }
    }
}
