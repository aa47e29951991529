//! TLS towards servers: of an upstream, of an etcd.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS towards the servers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTls {
    /// The authorities (PEM) that may have signed the servers' certificates, or those certificates themselves.
    /// Default: the authorities of the system.
    pub ca: Option<PathBuf>,

    /// A certificate (PEM) to present to the servers; needs `key`. Default: none.
    pub cert: Option<PathBuf>,

    /// The private key of `cert`. Default: none.
    pub key: Option<PathBuf>,

    /// The name to ask for (SNI) and to verify. Default: the host of the endpoint's URL.
    pub server_name: Option<String>,

    /// Whether the servers' certificates are verified. `off` accepts any certificate, so that anybody between here
    /// and a server can read and change everything; wsluice warns of it. Better: `ca` with the server's own
    /// certificate. Default: `on`.
    pub verify: Verify,
}

/// Whether certificates are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Verified.
    #[default]
    On,
    /// Any certificate is accepted.
    Off,
}

impl ClientTls {
    /// Returns the files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().map(PathBuf::as_path)
    }
}
