//! Checks who may use a route: keys that do not fit the algorithms, lists that are empty, and claims where no token is read.

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::auth::{JwtConfig, OneOrMore};
use crate::config::schema::client_tls::ClientTls;
use crate::config::schema::route::RouteConfig;
use crate::config::value::http_url::HttpUrl;
use crate::header::template::Template;
use crate::policy::jwt::{Algorithm, TokenPlace};
use crate::ws::handshake::is_token;

/// The longest leeway: clocks that are further apart are wrong, and so is a token that is used for so long after its end.
const LEEWAY_SECONDS_MAX: u64 = 3600;

impl Checker<'_, '_> {
    pub(super) fn auth(&mut self, route_path: &KeyPath, route: &RouteConfig) {
        let path = route_path.key("auth");
        if let Some(auth) = &route.auth {
            if route.upstream.is_none() && (route.redirect.is_some() || route.respond.is_some()) {
                let message = "this route answers by itself, and everybody gets that answer: `auth` guards an upstream";
                self.error(&path, message).at_key().help("remove it, or write `auth: off`");
            }
            if auth.jwt.is_none() && auth.basic.is_none() && auth.forward.is_none() {
                let help = "add `jwt: …`, `basic: …` or `forward: …`, or write `auth: off`";
                let issue = self.error(&path, "this asks nobody for anything").help(help);
                for key in ["jwt", "basic", "forward"] {
                    issue.involving(path.key(key));
                }
            }
            auth.jwt.iter().for_each(|jwt| self.jwt(&path.key("jwt"), jwt));
            auth.basic.iter().for_each(|basic| self.basic_auth(&path.key("basic"), route, basic));
            auth.forward.iter().for_each(|forward| self.forward_auth(&path.key("forward"), route, forward));
        }
        let has_jwt = route.auth.as_ref().is_some_and(|auth| auth.jwt.is_some());
        // Keys of a route that have claims, though nothing has verified any.
        let edits = route_path.key("headers");
        for (direction, written) in [("request", &route.headers.request), ("response", &route.headers.response)] {
            for (name, text) in written.set.iter().filter(|_| !has_jwt) {
                let at = edits.key(direction).key("set").key(name.as_str());
                self.no_claims(&at, text, "this route has no `auth.jwt`, so no claim is known");
            }
        }
        let why = "a route without an upstream verifies no token, so no claim is known";
        if let Some(redirect) = &route.redirect {
            self.no_claims(&route_path.key("redirect"), redirect.to.0.template(), why);
        }
        if let Some(text) = route.respond.as_ref().and_then(|respond| respond.body.as_ref()) {
            self.no_claims(&route_path.key("respond").key("body"), &text.0, why);
        }
    }

    fn jwt(&mut self, path: &KeyPath, jwt: &JwtConfig) {
        self.keys(&path.key("keys"), jwt);
        self.algorithms(path, jwt);
        self.token_places(&path.key("from"), jwt);
        self.texts(&path.key("issuer"), jwt.issuer.as_ref());
        self.texts(&path.key("audience"), jwt.audience.as_ref());
        for (claim, wanted) in &jwt.require {
            if claim.is_empty() {
                self.error(&path.key("require").key(claim), "the name of a claim is empty").at_key().help("write one");
            }
            self.texts(&path.key("require").key(claim), Some(wanted));
        }
        if jwt.leeway.duration().as_secs() > LEEWAY_SECONDS_MAX {
            let help = "write a duration such as `30s`, and set the clocks by NTP";
            self.error(&path.key("leeway"), "a leeway is at most an hour").help(help);
        }
        if jwt.keys.url.is_some() && jwt.audience.is_none() {
            let message =
                "`audience` is missing: a token that this issuer has given for another service lets in here too";
            self.warn(path, message).at_key().help("add `audience:` with what `aud` is in the tokens for this service");
        }
    }

    fn no_claims(&mut self, path: &KeyPath, text: &Template, why: &str) {
        if let Some(claim) = text.claims().next() {
            self.error(path, format!("`{{claims.{claim}}}`: {why}")).help("add `auth: { jwt: … }`, or remove it");
        }
    }

    fn keys(&mut self, path: &KeyPath, jwt: &JwtConfig) {
        let keys = &jwt.keys;
        let all = [
            ("url", keys.url.is_some()),
            ("file", keys.file.is_some()),
            ("secret", keys.secret.is_some()),
            ("secret_file", keys.secret_file.is_some()),
        ];
        let mut there = all.iter().filter(|(_, is_there)| *is_there).map(|(key, _)| *key);
        let Some(first) = there.next() else {
            let issue = self.error(path, "there are no keys").help("add `url:`, `file:`, `secret:` or `secret_file:`");
            for (key, _) in all {
                issue.involving(path.key(key));
            }
            return;
        };
        for other in there {
            let involved = self.written.original(&path.key(first));
            let message = format!("keys come from one place, and `{first}` is there already");
            self.error(&path.key(other), message).at_key().help("keep one of the two").involving(involved);
        }
        for (key, file) in [("file", &keys.file), ("secret_file", &keys.secret_file)] {
            file.iter().for_each(|name| self.file_name(&path.key(key), name));
        }
        let tls_path = path.key("tls");
        match (&keys.url, &keys.tls) {
            (Some(url), tls) => {
                let danger = "keys that come without TLS can be replaced by whoever is in between, who then lets in whom they \
                              like";
                self.asked_url(path, url, tls.as_deref(), danger);
            }
            (None, Some(_)) => {
                self.error(&tls_path, "there is no `url` to reach by TLS").at_key().help("remove it");
            }
            (None, None) => {}
        }
        keys.tls.iter().for_each(|tls| self.client_tls(&tls_path, tls));
    }

    /// A URL that is asked, with its `tls` beside it; `danger` says what can be done to one that is not `https`.
    pub(super) fn asked_url(&mut self, path: &KeyPath, url: &HttpUrl, tls: Option<&ClientTls>, danger: &str) {
        if url.is_tls {
            return;
        }
        if tls.is_some() {
            let involved = self.written.original(&path.key("url"));
            let help = "write `https://` in `url`, or remove it";
            self.warn(&path.key("tls"), "the URL uses no TLS").at_key().help(help).involving(involved);
        }
        if !url.is_local() {
            self.warn(&path.key("url"), danger).help("write `https://`");
        }
    }

    /// The kinds of keys and the algorithms fit, so that a public key is never taken for a secret.
    fn algorithms(&mut self, path: &KeyPath, jwt: &JwtConfig) {
        let (list, keys) = (path.key("algorithms"), path.key("keys"));
        if jwt.algorithms.is_empty() {
            self.error(&list, "the list is empty, so that no token is valid")
                .help("write the algorithm of your tokens, such as `[ES256]`");
        }
        let is_secret = jwt.keys.secret.is_some() || jwt.keys.secret_file.is_some();
        let has_keys = is_secret || jwt.keys.url.is_some() || jwt.keys.file.is_some();
        for (index, algorithm) in jwt.algorithms.iter().enumerate().filter(|_| has_keys) {
            let name = algorithm.name();
            let (message, help) = match (algorithm.is_symmetric(), is_secret) {
                (true, false) => (
                    format!("`{name}` needs a secret, and the keys here are public: whoever knows them could sign"),
                    "write the algorithm of the public keys, such as `ES256` or `RS256`, or `keys: { secret: … }`",
                ),
                (false, true) => (
                    format!("`{name}` needs public keys, and `keys` has a secret"),
                    "write `HS256`, `HS384` or `HS512`, or `keys: { url: … }` or `keys: { file: … }`",
                ),
                _ => continue,
            };
            let involved = self.written.original(&keys);
            self.error(&list.index(index), message).help(help).involving(involved);
        }
        let least =
            jwt.algorithms.iter().map(|algorithm| Algorithm::secret_bytes_min(*algorithm)).max().unwrap_or_default();
        if let Some(secret) = &jwt.keys.secret
            && secret.as_bytes().len() < least
        {
            let message = format!("a secret for these algorithms has at least {least} bytes (RFC 7518 §3.2)");
            let help = format!("write `${{NAME}}`, with what `openssl rand -hex {}` gives", least / 2);
            self.error(&keys.key("secret"), message).help(help).involving(list);
        }
    }

    fn token_places(&mut self, path: &KeyPath, jwt: &JwtConfig) {
        if jwt.from.is_empty() {
            self.error(path, "the list is empty, so that no token is found")
                .help("write `[authorization]`, or remove it");
        }
        for (index, place) in jwt.from.iter().enumerate() {
            let at = path.index(index);
            if jwt.from[..index].contains(place) {
                self.error(&at, "this is here for the second time").help("keep one of the two");
            }
            let (key, is_right, help) = match place {
                TokenPlace::Authorization => continue,
                TokenPlace::Query(name) => {
                    ("query", !name.is_empty(), "write the name of a parameter, such as `access_token`")
                }
                TokenPlace::Cookie(name) => ("cookie", is_token(name), "write the name of a cookie, such as `session`"),
                TokenPlace::Subprotocol(name) => {
                    ("subprotocol", is_token(name), "write what stands before the token in the offer, such as `bearer`")
                }
            };
            if !is_right {
                let at = at.key(key);
                let shown = self.written.show(
                    &at,
                    &match place {
                        TokenPlace::Query(name) | TokenPlace::Cookie(name) | TokenPlace::Subprotocol(name) => name,
                        TokenPlace::Authorization => "",
                    },
                );
                self.error(&at, format!("`{shown}` cannot be the name of a {key}")).help(help);
            }
        }
    }

    fn texts(&mut self, path: &KeyPath, texts: Option<&OneOrMore>) {
        let Some(OneOrMore(texts)) = texts else { return };
        if texts.is_empty() || texts.iter().any(String::is_empty) {
            self.error(path, "nothing can be equal to this").help("write a text, or a list of texts");
        }
    }
}
