//! Affinity: the cookie that brings a client back to its previous endpoint.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::TimeSpan;
use crate::config::value::secret::SigningSecret;

/// The affinity cookie of an upstream.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyConfig {
    /// The cookie's name. Required.
    pub cookie: String,

    /// Secrets that sign the cookie, at least 32 characters each, such as `openssl rand -hex 32` prints; best as
    /// `${NAME}`. The first signs, all are accepted: to change it, put the new one first and remove the old one once
    /// its cookies have expired. All instances of wsluice that share clients need the same. Required, unless there is
    /// a `secrets_file`; there is no default, as cookies signed with a secret made at start would be void after each
    /// restart.
    #[serde(default)]
    pub secrets: Vec<SigningSecret>,

    /// A file with the secrets, one a line, in place of `secrets`. Default: none.
    #[serde(default)]
    pub secrets_file: Option<PathBuf>,

    /// How long the cookie is valid; it is renewed after half of that time. Default: until the browser is closed.
    #[serde(default)]
    pub max_age: Option<TimeSpan>,

    /// The path below which browsers send it. Default: `/`.
    #[serde(default = "everywhere")]
    pub path: String,

    /// Whether browsers send it only over TLS: `always`, `never`, or `auto`, if the client came over TLS. Default:
    /// `auto`.
    #[serde(default)]
    pub secure: CookieSecure,

    /// Whether scripts in the page cannot read it. Default: true.
    #[serde(default = "yes")]
    pub http_only: bool,

    /// Whether browsers send it with requests from other sites: `lax` (links only), `strict` (not at all) or `none`
    /// (always; needs `secure: always`). Default: `lax`, as browsers do by themselves.
    #[serde(default)]
    pub same_site: CookieSameSite,
}

/// When browsers send a cookie only over TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CookieSecure {
    /// If the client came over TLS.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Which requests from other sites carry a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CookieSameSite {
    /// None, links included.
    Strict,
    /// Links.
    #[default]
    Lax,
    /// All.
    None,
}

fn everywhere() -> String {
    "/".to_owned()
}

const fn yes() -> bool {
    true
}
