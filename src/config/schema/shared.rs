//! What several instances keep together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::schema::client_tls::ClientTls;
use crate::config::value::TimeSpan;
use crate::config::value::redis_url::RedisUrl;

/// What several instances of wsluice keep together.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedConfig {
    /// A Redis or Valkey that all instances reach. Required.
    #[serde(default)]
    pub redis: Option<RedisConfig>,
}

/// A Redis (5 or later) or Valkey that instances share; one server, or the primary of several under one name, and no cluster.
///
/// With it, `limits.per_client` of routes holds for all instances together, and so does the list of denied subjects
/// (`/api/v1/denied` of the admin API). Routes are told apart by their names. Limits of one session (`limits.rate`) concern one
/// instance alone, and need nothing of it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// Where it is: `redis://HOST:PORT`, `rediss://…` for TLS, with `USER:PASSWORD@` before the host and `/DATABASE` behind it if
    /// needed; what user and password have of `:/@%` is percent-encoded. A name is looked up at each new connection. Best as
    /// `${NAME}`. Required.
    pub url: RedisUrl,

    /// TLS towards a `rediss://` URL. Default: the certificate is verified for the host of the URL against the system's
    /// authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<ClientTls>>,

    /// What all keys there begin with: instances with the same prefix count together. Default: `wsluice:`.
    #[serde(default = "prefix")]
    pub prefix: String,

    /// How long one question may take, from 5ms to 5s: a handshake on a route with `limits.per_client` asks once. After that
    /// `on_failure` decides, without waiting, until a new connection answers in this time. Default: 100ms, which clients do not
    /// notice.
    #[serde(default = "timeout")]
    pub timeout: TimeSpan,

    /// What holds for `limits.per_client` while it cannot be asked: `local` (each instance allows its share, see `instances`),
    /// `allow` (no limit), or `deny` (503 `shared_store`). The list of denied subjects stays as it was last read. Default:
    /// `local`.
    #[serde(default)]
    pub on_failure: OnSharedFailure,

    /// How many instances there are: with `on_failure: local`, each allows a part of each limit, and at least one session
    /// and one handshake at once. Default: 1, so that each allows all of it.
    #[serde(default = "instances")]
    pub instances: u32,
}

/// What holds while the shared store cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSharedFailure {
    /// Each instance allows its share.
    #[default]
    Local,
    /// Everybody is let in.
    Allow,
    /// Nobody is.
    Deny,
}

fn prefix() -> String {
    "wsluice:".to_owned()
}

fn timeout() -> TimeSpan {
    TimeSpan::from_millis(100)
}

fn instances() -> u32 {
    1
}
