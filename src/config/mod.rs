//! The configuration file, exactly as it is written: types, reading, and every complaint about it.
//!
//! Owns what a file may say, what holds when it says nothing (each default stands in its field's doc, with the reason),
//! and how a mistake is told: all of them at once, each with line, column, key path and what would be right. Leaves to
//! `control::compile` whatever needs the world outside the file: whether certificates exist and match, whether a regex
//! is too large, whether an address can be bound.
//!
//! The way from text to [`Config`], one module a step: `survey` measures it, `tree` parses YAML, `environment` fills in `${NAME}`,
//! `decode` turns nodes into types by serde and mends the tree at each mistake so that it can go on to the next,
//! `check` judges what is only wrong in company, `locate` finds lines and columns again, `report` draws them;
//! `load` joins them. Why a tree of our own between YAML and serde: YAML's deserialiser stops at the first error,
//! tells its kind only in prose, and puts a duplicate key at line 1.
//!
//! What always holds: no input makes it panic, a value that came from the environment is never printed, and a key that
//! is not understood is never ignored.

mod check;
mod endpoint_list;
mod load;
mod read;
mod schema;
mod shown;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use endpoint_list::{ENDPOINT_BYTES_MAX, ENDPOINTS_MAX, load_endpoint, load_endpoints};
pub use load::{Loaded, load_again, load_file, load_sent, load_str};
pub use read::FILE_BYTES_MAX;
pub use read::key::KeyPath;
pub use read::report::{ConfigErrors, Finding, Severity, Source, without};
pub use schema::admin::{Admin, AdminToken};
pub use schema::admission::{Admission, QueueConfig, Rate};
pub use schema::client_tls::{ClientTls, Verify};
pub use schema::discover::{Discover, DnsSource, EtcdSource, FileSource, IpFamily, Secret, Teller};
pub use schema::ejection::{EjectionConfig, RetryBudgetConfig};
pub use schema::endpoint::{EndpointConfig, Scheme};
pub use schema::health::{CheckSchedule, Expectation, HealthCheck, HttpCheck, TcpCheck, WebSocketCheck, WhenAllDown};
pub use schema::listener::{
    CertificateConfig, ClientAuthConfig, ClientAuthModeConfig, ListenerConfig, ListenerLimits, ListenerTimeouts,
    MinTlsVersion, ProxyProtocol, Redirect, ServerTls,
};
pub use schema::on_change::OnChange;
pub use schema::process::{DrainConfig, Log, LogFormat, LogLevel, Workers};
pub use schema::rebalance::{OnDown, RebalanceConfig};
pub use schema::route::{
    Headers, Keepalive, Lookalikes, PlainHttp, RewriteConfig, RouteConfig, RouteLimits, RouteTimeouts, Validate,
};
pub use schema::sticky::{CookieSameSite, CookieSecret, CookieSecure, StickyConfig};
pub use schema::tcp::TcpConfig;
pub use schema::upstream::{Balance, UpstreamConfig};
pub use schema::upstream_lost::{OnUpstreamLost, SentCode};
pub use value::address::{Bind, EndpointUrl};
pub use value::edits::{HeaderEditsConfig, HeaderSet};
pub use value::{BadValue, ByteSize, MapOrOff, OrOff, TimeSpan};

/// The configuration of wsluice. Two are equal when they say the same, each default filled in: comments, the order of
/// keys and the notation of values (`60s`, `1m`) do not matter; the order of lists does.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "wsluice configuration")]
pub struct Config {
    /// The version of this format. Default: 1, the only one there is.
    #[serde(default = "Config::version")]
    pub version: u32,

    /// How many threads relay traffic. Default: `auto`, one per core that this process may use, since each thread runs
    /// its connections without handing them to another.
    #[serde(default)]
    pub workers: Workers,

    /// Where this process stands (rack, data centre, availability zone): endpoints of the same `zone` are preferred. Often
    /// `${ZONE}`. Default: none, and zones play no part.
    #[serde(default)]
    pub zone: Option<String>,

    /// Where clients connect. Default: one listener named `default` on `127.0.0.1:8080` without TLS, which nobody
    /// outside this machine can reach.
    #[serde(default = "ListenerConfig::defaults")]
    pub listeners: Vec<ListenerConfig>,

    /// Which request goes where. The first route that matches wins. Required.
    pub routes: Vec<RouteConfig>,

    /// Named groups of interchangeable servers. Required.
    pub upstreams: BTreeMap<String, UpstreamConfig>,

    /// Metrics, health and control for operators. Default: not served.
    #[serde(default)]
    pub admin: Option<Admin>,

    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,

    /// How connections end when the process does.
    #[serde(default)]
    pub drain: DrainConfig,

    /// Whether to reload when this file, or a certificate, key or other file that it names, changes; HUP and the admin API
    /// reload in any case. A file with a mistake changes nothing. Default: true, since editors, certbot and Kubernetes all
    /// write files and tell nobody.
    #[serde(default = "Config::watch")]
    pub watch: bool,

    /// What becomes of the sessions of the old process when USR2 has put a new one in its place: `keep` them until they end
    /// by themselves, `drain 10m` closes them over that time (code 1012), evenly, `close` all at once. Default: `drain 10m`,
    /// slow enough for clients to come back a few at a time, and no process of an old version stays for days.
    #[serde(default = "Config::on_upgrade")]
    pub on_upgrade: OnChange,
}

impl Config {
    /// All files that it names and that a reload reads again: certificates, keys, authorities, secrets and tokens. Sorted,
    /// each once, as written. Those that list endpoints are not among them: discovery looks at these itself.
    pub fn files(&self) -> Vec<PathBuf> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(ServerTls::files);
        let upstreams = self.upstreams.values().flat_map(UpstreamConfig::files);
        let token = self.admin.iter().filter_map(|admin| admin.token_file.as_deref());
        let all: BTreeSet<&Path> = listeners.chain(upstreams).chain(token).collect();
        all.into_iter().map(Path::to_owned).collect()
    }

    fn version() -> u32 {
        1
    }

    fn watch() -> bool {
        true
    }

    fn on_upgrade() -> OnChange {
        OnChange::Drain(TimeSpan::from_secs(600))
    }
}

/// The JSON Schema of [`Config`], for editors: field docs become descriptions.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::generate::SchemaSettings::draft07().into_generator().into_root_schema_for::<Config>();
    RecursiveTransform(as_decoded).transform(&mut schema);
    schema.to_value()
}

/// What the decoder does differently from what serde alone would: nothing (`key:`) is never a value, and a number or
/// boolean may also be written as `${NAME}`, which is a string to an editor.
fn as_decoded(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    let null = json!("null");
    if let Some(kinds) = object.get_mut("type").and_then(Value::as_array_mut) {
        kinds.retain(|kind| *kind != null);
        if let [kind] = kinds.as_slice() {
            let kind = kind.clone();
            object.insert("type".to_owned(), kind);
        }
    }
    if let Some(choices) = object.get_mut("anyOf").and_then(Value::as_array_mut) {
        choices.retain(|choice| choice.get("type") != Some(&null));
    }
    match object.get_mut("default") {
        Some(Value::Null) => drop(object.remove("default")),
        Some(default) => leave_out_null(default),
        None => {}
    }
    if matches!(object.get("type").and_then(Value::as_str), Some("integer" | "boolean"))
        && let Some(kind) = object.remove("type")
    {
        object.insert("type".to_owned(), json!([kind, "string"]));
        object.insert("pattern".to_owned(), json!(r"\$\{"));
    }
    // Docs are wrapped for the source; an editor wraps them for itself.
    if let Some(Value::String(description)) = object.get_mut("description") {
        *description = description.replace("\n\n", "\u{0}").replace('\n', " ").replace('\u{0}', "\n\n");
    }
}

fn leave_out_null(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(leave_out_null),
        Value::Object(entries) => {
            entries.retain(|_, value| !value.is_null());
            entries.values_mut().for_each(leave_out_null);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
