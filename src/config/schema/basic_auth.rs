//! Who may use a route by a name and a password.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which names and passwords let in (RFC 7617).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuthConfig {
    /// A file of users with `NAME:HASH` a line, as `htpasswd -B -C 10 FILE NAME` writes it; read again when it changes. Only
    /// bcrypt (`$2y$`, `$2b$`, `$2a$`) of a cost from 4 to 14 is taken: other hashes are guessed too fast, and higher costs
    /// take seconds. At most 1 MiB and 10,000 users. Required.
    pub file: PathBuf,

    /// What is protected: browsers may show it where they ask for the password, and send the password to all paths of a host
    /// with the same realm. At most 128 characters of ASCII. Default: `Restricted`, which tells strangers nothing.
    #[serde(default = "realm")]
    pub realm: String,

    /// Whether the server gets the name and the password as well, in `Authorization` as they came. Default: false, since what
    /// a server logs or passes on is out of your hands.
    #[serde(default)]
    pub forward: bool,
}

fn realm() -> String {
    "Restricted".to_owned()
}
