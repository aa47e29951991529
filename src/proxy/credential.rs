//! What a route asks of those who use it, and what is known of them then.

use std::sync::Arc;

use http::HeaderValue;

use super::recheck::PlannedRecheck;
use crate::auth::Keys;
use crate::auth::basic::BasicVerifier;
use crate::auth::service::AuthService;
use crate::base::time::MonotonicTime;
use crate::policy::basic::Users;
use crate::policy::jwt::{Claims, JwtRules, TokenPlace};

/// Who may use a route.
#[derive(Clone, Debug)]
pub struct RouteAuth {
    /// Who has a token.
    pub jwt: Option<JwtAuth>,
    /// Who has a name and a password.
    pub basic: Option<BasicAuth>,
    /// Whom a service lets in.
    pub service: Option<Arc<AuthService>>,
}

/// Which tokens let in.
#[derive(Clone, Debug)]
pub struct JwtAuth {
    /// What a token must be.
    pub rules: JwtRules,
    /// The keys that verify it.
    pub keys: Keys,
    /// Where it is.
    pub from: Vec<TokenPlace>,
    /// Whether the server gets it, too.
    pub forward: bool,
    /// Whether a session ends with it.
    pub ends_sessions: bool,
}

/// Which names and passwords let in.
#[derive(Clone, Debug)]
pub struct BasicAuth {
    /// Those who have one.
    pub users: Arc<Users>,
    /// Checks passwords.
    pub verifier: Arc<BasicVerifier>,
    /// What the client is told that it is for.
    pub realm: Arc<str>,
    /// Whether the server gets both, too.
    pub forward: bool,
}

/// Whose request it is, as far as the log and the session need to know.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The subject of the token, the name that has the password, or the user that a service names.
    pub subject: Option<Box<str>>,
    /// When a session must end.
    pub expires: Option<MonotonicTime>,
    /// What a service is asked about it again.
    pub recheck: Option<PlannedRecheck>,
}

/// What else the request needs of its token.
#[derive(Clone, Debug)]
pub struct Credential {
    /// What it claims.
    pub claims: Claims,
    /// The subprotocol for a client that offered its token only, should the server choose none.
    pub own_subprotocol: Option<HeaderValue>,
}
