//! Who may use a route, as a service says that is asked about each request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::schema::client_tls::ClientTls;
use crate::config::value::TimeSpan;
use crate::config::value::http::FieldName;
use crate::config::value::http_url::HttpUrl;

/// The service that is asked, and what becomes of its answers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuthConfig {
    /// Where it is asked: a GET without a body, with the request's headers, and its method and target in `X-Forwarded-Method`,
    /// `X-Forwarded-Uri`, `X-Original-Method` and `X-Original-URL`. 2xx lets in. Any other answer goes to the client as it is:
    /// a 401 with its challenge, a 302 to a login. Required.
    pub url: HttpUrl,

    /// TLS towards an `https://` URL. Default: the certificate is verified for the host of the URL against the system's
    /// authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<ClientTls>>,

    /// The headers of the request that the service gets, by name, beside those that name the client, the method and the
    /// target: `[Authorization, Cookie]`. Default: all but those of the connection and the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<Vec<FieldName>>,

    /// Headers of a 2xx that go on to the server, such as `[X-User, X-Groups]`, in place of any that the client has sent; one
    /// that the service does not give is left out. Default: none.
    #[serde(default)]
    pub headers: Vec<FieldName>,

    /// The header of a 2xx that names the user: sessions are logged, listed and closed by it, and it is the `subject` of
    /// `limits.per_client`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<FieldName>,

    /// How long the service may take, the connection included. Default: 5s.
    #[serde(default = "timeout")]
    pub timeout: TimeSpan,

    /// Remembers who was let in: `cache: { time: 10s, by: [Cookie, Authorization] }`. Default: each request is asked about;
    /// equal ones that wait at the same time are asked about once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<ForwardAuthCacheConfig>,

    /// How often the service is asked again about each open session, with the question of its handshake: from 1s to 1d. A 3xx
    /// or 4xx closes the session in its next pause, as an expired token does (`on_expiry` of `jwt`, else 4401); 5xx, 408, 429
    /// and no answer leave it, and it is asked again. Default: never; a session stays open whatever the service thinks later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recheck: Option<TimeSpan>,

    /// What becomes of requests when the service cannot be reached, takes too long, or answers with what is no answer:
    /// `refuse` answers 503, `allow` lets everybody in, without the headers of the service. Default: `refuse`.
    #[serde(default)]
    pub on_failure: OnAuthFailure,
}

/// What is remembered of who was let in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuthCacheConfig {
    /// For how long: from 1s to 1h. As long as that, the service cannot take back what it has allowed. A 2xx with
    /// `Cache-Control: no-store` is not remembered. Required.
    pub time: TimeSpan,

    /// The headers of the request, by name, on which the answer depends: two requests are alike if these are equal, and the
    /// client's address, the method, the host and the target too. Required.
    pub by: Vec<FieldName>,
}

/// What becomes of requests about which the service cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnAuthFailure {
    /// They are answered with 503.
    #[default]
    Refuse,
    /// They are let in.
    Allow,
}

fn timeout() -> TimeSpan {
    TimeSpan::from_secs(5)
}
