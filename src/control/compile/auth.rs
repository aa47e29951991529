//! Compiles who may use a route: rules, the keys and passwords that verify credentials, and services that are asked.
//!
//! A file of keys or users that has become bad while a configuration is in force keeps what was read of it, as pages do: the keys that
//! are known are better than none, and a warning says so.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Compiler;
use super::connector::Server;
use crate::auth::basic::BasicVerifier;
use crate::auth::service::{AuthService, ServiceSettings};
use crate::auth::{Keys, pem};
use crate::base::file_state;
use crate::config::{
    self, AuthConfig, ClientTls, FieldName, ForwardAuthConfig, HttpUrl, JwtConfig, KeyPath, KeysConfig, OnAuthFailure,
    OnExpiry, OneOrMore, SigningSecret,
};
use crate::policy::basic::{USERS_BYTES_MAX, Users};
use crate::policy::jwt::keys::KEYS_BYTES_MAX;
use crate::policy::jwt::{Algorithm, JwtRules, Key, KeySet, RequiredClaim};
use crate::proxy::credential::{BasicAuth, JwtAuth, RouteAuth};
use crate::tls::certificates::ClientTlsScope;
use crate::upstream::connect::Connector;

/// Files of keys that were read, by their name and what is in them.
pub type KeyFiles = HashMap<(PathBuf, KeyFileKind), Arc<KeyFile>>;

/// What a file of keys holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyFileKind {
    /// Public keys.
    Public,
    /// Secrets, one a line, each at least this long.
    Secrets(usize),
    /// Users with their passwords.
    Users,
}

/// What was read of a file.
#[derive(Clone, Debug)]
enum KeyFileContent {
    Keys(Arc<KeySet>),
    Users(Arc<Users>),
}

/// A file of keys.
#[derive(Debug)]
pub struct KeyFile {
    bytes: Vec<u8>,
    content: KeyFileContent,
}

/// What a route needs to know whose a request is, beside what is written.
#[derive(Clone, Debug, Default)]
pub struct AuthSources {
    /// The keys that verify tokens.
    pub keys: Option<Keys>,
    /// The users that have passwords.
    pub users: Option<Arc<Users>>,
    /// The service that is asked.
    pub service: Option<Arc<AuthService>>,
}

/// Two are equal if they are the same.
impl PartialEq for AuthSources {
    fn eq(&self, other: &AuthSources) -> bool {
        self.keys == other.keys
            && self.users.as_ref().map(Arc::as_ptr) == other.users.as_ref().map(Arc::as_ptr)
            && self.service.as_ref().map(Arc::as_ptr) == other.service.as_ref().map(Arc::as_ptr)
    }
}

impl Compiler<'_> {
    /// Returns what the `auth` of the route at `index` needs; `None` if something of it cannot be had, which is reported.
    pub(super) fn auth_sources(&mut self, index: usize, route: &config::RouteConfig) -> Option<AuthSources> {
        let Some(auth) = &route.auth else { return Some(AuthSources::default()) };
        let path = KeyPath::root().key("routes").index(index).key("auth");
        let (keys, users, service) = (
            auth.jwt.as_ref().map(|jwt| self.keys_of(&path.key("jwt").key("keys"), route, jwt)),
            auth.basic.as_ref().map(|basic| self.users_of(&path.key("basic").key("file"), &basic.file)),
            auth.forward.as_ref().map(|forward| self.service_of(&path.key("forward"), route, forward)),
        );
        // Without one of them, nobody could be told from anybody.
        match (keys, users, service) {
            (Some(None), ..) | (_, Some(None), _) | (.., Some(None)) => None,
            (keys, users, service) => {
                Some(AuthSources { keys: keys.flatten(), users: users.flatten(), service: service.flatten() })
            }
        }
    }

    /// The same one as long as nobody changes anything about it, so that the route is the same.
    fn service_of(
        &mut self,
        path: &KeyPath,
        route: &config::RouteConfig,
        written: &ForwardAuthConfig,
    ) -> Option<Arc<AuthService>> {
        let connector = self.asked_server(path, &route.name, &written.url, written.tls.as_deref())?;
        let before = self.previous.and_then(|previous| previous.routes.get(&route.name));
        let before = before.filter(|before| before.written.auth == route.auth);
        let known = before.and_then(|before| before.auth.service.as_ref());
        if let Some(known) = known.filter(|known| known.is_reached_by(&connector)) {
            return Some(Arc::clone(known));
        }
        let names = |names: &[FieldName]| names.iter().map(|name| name.0.clone()).collect::<Vec<_>>();
        let settings = ServiceSettings {
            url: written.url.clone(),
            timeout: written.timeout.duration(),
            request_headers: written.request_headers.as_deref().map(names),
            headers: names(&written.headers),
            subject: written.subject.as_ref().map(|name| name.0.clone()),
            cache: written.cache.as_ref().map(|cache| (cache.time.duration(), names(&cache.by))),
            recheck: written.recheck.map(|every| every.duration()),
            allows_on_failure: written.on_failure == OnAuthFailure::Allow,
        };
        let metrics = self.context.families.auth_services.route(&route.name);
        let service = AuthService::new(settings, connector, self.context.workers, metrics);
        self.ok_or_report(&path.key("url"), service).map(Arc::new)
    }

    fn keys_of(&mut self, path: &KeyPath, route: &config::RouteConfig, jwt: &JwtConfig) -> Option<Keys> {
        let least = secret_bytes_min(jwt);
        match &jwt.keys {
            KeysConfig { url: Some(url), tls, .. } => {
                let connector = self.asked_server(path, &route.name, url, tls.as_deref())?;
                Some(Keys::Remote(self.context.key_sources.of(url, tls.as_deref(), connector)))
            }
            KeysConfig { file: Some(file), .. } => self.keys_in_file(&path.key("file"), file, KeyFileKind::Public),
            KeysConfig { secret_file: Some(file), .. } => {
                self.keys_in_file(&path.key("secret_file"), file, KeyFileKind::Secrets(least))
            }
            KeysConfig { secret: Some(secret), .. } => {
                // The same ones as long as nobody changes it, so that the route is the same.
                let before = self.previous.and_then(|previous| previous.routes.get(&route.name));
                let before = before.filter(|before| before.written.auth == route.auth);
                let known = before.and_then(|before| before.auth.keys.clone());
                Some(known.unwrap_or_else(|| Keys::Fixed(Arc::new(secrets(std::slice::from_ref(secret))))))
            }
            // `config::check` has reported it.
            _ => Some(Keys::Fixed(Arc::default())),
        }
    }

    /// How to reach the server of a URL at `path`, with its `tls` beside it.
    fn asked_server(
        &mut self,
        path: &KeyPath,
        route: &str,
        url: &HttpUrl,
        tls: Option<&ClientTls>,
    ) -> Option<Connector> {
        let server = Server { host: &url.host, port: url.port, is_tls: url.is_tls, tls };
        self.connector(path, route, ClientTlsScope::Auth, server)
    }

    fn keys_in_file(&mut self, path: &KeyPath, file: &Path, kind: KeyFileKind) -> Option<Keys> {
        match self.key_file(path, file, kind)? {
            KeyFileContent::Keys(keys) => Some(Keys::Fixed(keys)),
            KeyFileContent::Users(_) => None,
        }
    }

    fn users_of(&mut self, path: &KeyPath, file: &Path) -> Option<Arc<Users>> {
        match self.key_file(path, file, KeyFileKind::Users)? {
            KeyFileContent::Users(users) => Some(users),
            KeyFileContent::Keys(_) => None,
        }
    }

    fn key_file(&mut self, path: &KeyPath, file: &Path, kind: KeyFileKind) -> Option<KeyFileContent> {
        let place = (file.to_owned(), kind);
        if let Some(known) = self.key_files.get(&place) {
            return Some(known.content.clone());
        }
        let before = self.previous.and_then(|previous| previous.key_files.get(&place)).map(Arc::clone);
        let read = file_state::read(file, kind.bytes_max()).map_err(|error| format!("it cannot be read: {error}"));
        let read = read.and_then(|bytes| match &before {
            Some(before) if before.bytes == bytes => Ok(Arc::clone(before)),
            _ => read_content(&bytes, kind).map(|content| Arc::new(KeyFile { bytes, content })),
        });
        let known = match (read, before) {
            (Ok(known), _) => known,
            (Err(problem), Some(before)) => {
                let name = file.display();
                self.warnings.push(format!("{path}: `{name}`: {problem}; what was read of it before stays in force"));
                before
            }
            (Err(problem), None) => {
                self.report(path, format!("`{}`: {problem}", file.display()));
                return None;
            }
        };
        let content = known.content.clone();
        self.key_files.insert(place, known);
        Some(content)
    }
}

impl KeyFileKind {
    fn bytes_max(self) -> u64 {
        match self {
            KeyFileKind::Public | KeyFileKind::Secrets(_) => KEYS_BYTES_MAX as u64,
            KeyFileKind::Users => USERS_BYTES_MAX as u64,
        }
    }
}

/// Reads a file. The message reveals nothing of its content.
fn read_content(bytes: &[u8], kind: KeyFileKind) -> Result<KeyFileContent, String> {
    let keys = match kind {
        KeyFileKind::Users => return Users::read(bytes).map(|users| KeyFileContent::Users(Arc::new(users))),
        KeyFileKind::Public => pem::read(bytes).map_err(|error| error.to_string()),
        KeyFileKind::Secrets(least) => {
            let text = file_state::text(bytes.to_vec()).map_err(|error| format!("it {error}"))?;
            let all = SigningSecret::read_text(&text)?;
            match all.iter().all(|secret| secret.as_bytes().len() >= least) {
                true => Ok(secrets(&all)),
                false => Err(format!("a secret for these algorithms has at least {least} bytes (RFC 7518 §3.2)")),
            }
        }
    };
    keys.map(|keys| KeyFileContent::Keys(Arc::new(keys)))
}

fn secrets(secrets: &[SigningSecret]) -> KeySet {
    KeySet::new(secrets.iter().filter_map(|secret| Key::secret(secret.as_bytes())).collect())
}

fn secret_bytes_min(jwt: &JwtConfig) -> usize {
    jwt.algorithms.iter().map(|algorithm| Algorithm::secret_bytes_min(*algorithm)).max().unwrap_or_default()
}

/// Returns who may use a route; `passwords` checks those of users.
pub(super) fn route_auth(written: &AuthConfig, sources: &AuthSources, passwords: &Arc<BasicVerifier>) -> RouteAuth {
    let jwt = written.jwt.as_ref().zip(sources.keys.clone()).map(|(jwt, keys)| jwt_auth(jwt, keys));
    let basic = written.basic.as_ref().zip(sources.users.clone()).map(|(basic, users)| BasicAuth {
        users,
        verifier: Arc::clone(passwords),
        realm: basic.realm.as_str().into(),
        forward: basic.forward,
    });
    RouteAuth { jwt, basic, service: sources.service.clone() }
}

fn jwt_auth(jwt: &JwtConfig, keys: Keys) -> JwtAuth {
    let texts = |texts: &Option<OneOrMore>| texts.as_ref().map_or_else(Vec::new, |texts| texts.0.clone());
    let require =
        |(name, one_of): (&String, &OneOrMore)| RequiredClaim { name: name.clone(), one_of: one_of.0.clone() };
    JwtAuth {
        rules: JwtRules {
            algorithms: jwt.algorithms.clone(),
            issuers: texts(&jwt.issuer),
            audiences: texts(&jwt.audience),
            leeway: jwt.leeway.duration(),
            require: jwt.require.iter().map(require).collect(),
        },
        keys,
        from: jwt.from.clone(),
        forward: jwt.forward,
        ends_sessions: jwt.on_expiry != OnExpiry::Keep,
    }
}
