//! The configuration file: its types, how it is read, and how its mistakes are reported.
//!
//! Owns what a file may say, the defaults (each stands in its field's doc, with the reason), and the report of
//! mistakes: all of them at once, each with line, column, key path and the right form. Leaves to `control::compile`
//! whatever needs the world outside the file: whether certificates exist and match, whether a regex is too large,
//! whether an address can be bound.
//!
//! The floors, from the bottom up: `read` turns text into types and reports mistakes, `value` holds the values that
//! parse themselves, `schema` the keys, `check` judges what is wrong only in combination. On top, `load` joins them
//! for a file, `endpoint_list` for a list of discovered endpoints, and `shown` prints the result without secrets.
//!
//! From text to [`Config`], one module of `read` a step: `survey` measures the text, `tree` parses YAML,
//! `environment` fills in `${NAME}`, `decode` turns nodes into types by serde and repairs the tree after each mistake
//! so that it can go on to the next, `locate` finds lines and columns again, `report` draws them. A tree of our own
//! stands between YAML and serde because YAML's deserialiser stops at the first error, describes it only in prose,
//! and puts a duplicate key at line 1.
//!
//! What always holds: no input causes a panic, a value from the environment is never printed, and an unknown key is
//! never ignored.

mod check;
mod defaults;
mod endpoint_list;
mod guesses;
mod include;
mod load;
mod read;
mod schema;
mod shown;
mod single_server;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use endpoint_list::{ENDPOINT_BYTES_MAX, ENDPOINTS_MAX, load_endpoint, load_endpoints};
pub use include::{IncludePattern, IncludedFiles};
pub use load::{Loaded, load_again, load_as, load_file, load_sent, load_str};
pub use read::FILE_BYTES_MAX;
pub use read::key::KeyPath;
pub use read::report::{ConfigErrors, Finding, Severity, Source, without};
pub use read::suggest::{did_you_mean, nearest_or_list};
pub use schema::action::{AnswerStatus, Location, RedirectConfig, RedirectStatus, RespondConfig, Text};
pub use schema::addresses::AddressesConfig;
pub use schema::admin::{Admin, AdminToken};
pub use schema::admission::{Admission, QueueConfig, Rate};
pub use schema::auth::{AuthConfig, JwtConfig, KeysConfig, OnExpiry, OneOrMore};
pub use schema::basic_auth::BasicAuthConfig;
pub use schema::client_tls::{ClientTls, Verify};
pub use schema::composition::{Defaults, Include};
pub use schema::discover::{Discover, DnsSource, EtcdSource, FileSource, IpFamily, Secret, SourceRef};
pub use schema::ejection::{EjectionConfig, RetryBudgetConfig};
pub use schema::endpoint::{EndpointConfig, Scheme};
pub use schema::forward_auth::{ForwardAuthCacheConfig, ForwardAuthConfig, OnAuthFailure};
pub use schema::health::{CheckSchedule, Expectation, HealthCheck, HttpCheck, TcpCheck, WebSocketCheck, WhenAllDown};
pub use schema::http_compression::HttpCompression;
pub use schema::listener::{
    CertificateConfig, ClientAuthConfig, ClientAuthModeConfig, ExtendedConnectMode, HttpProtocol, ListenerConfig,
    ListenerLimits, ListenerTimeouts, MinTlsVersion, ProxyProtocol, Redirect, ServerTls,
};
pub use schema::on_change::{OnChange, OnUpgrade};
pub use schema::per_client::{ClientKeyConfig, PerClientConfig};
pub use schema::process::{DrainConfig, Log, LogFormat, LogLevel, Workers};
pub use schema::rate::{ByteRate, Count, Exceeding, RateConfig};
pub use schema::rebalance::{OnDown, RebalanceConfig};
pub use schema::route::{
    Headers, Keepalive, Lookalikes, PlainHttp, RewriteConfig, RouteConfig, RouteLimits, RouteTimeouts, Validate,
};
pub use schema::shared::{OnSharedFailure, RedisConfig, SharedConfig};
pub use schema::sticky::{CookieSameSite, CookieSecure, StickyConfig};
pub use schema::tcp::TcpConfig;
pub use schema::upstream::{Balance, UpstreamConfig, UpstreamProtocol};
pub use schema::upstream_lost::{OnUpstreamLost, SentCode};
pub use value::address::{Bind, EndpointUrl};
pub use value::edits::{HeaderEditsConfig, HeaderSet};
pub use value::error_status::ErrorStatus;
pub use value::http::FieldName;
pub use value::http_url::HttpUrl;
pub use value::redis_url::RedisUrl;
pub use value::secret::SigningSecret;
pub use value::sent::SentHeader;
pub use value::{BadValue, ByteSize, MapOrOff, OrOff, TimeSpan};

/// The configuration of wsluice. Two are equal when they say the same with all defaults filled in: comments, the
/// order of keys and the notation of values (`60s`, `1m`) do not matter; the order of lists does.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "wsluice configuration")]
pub struct Config {
    /// The version of this format. Default: 1, the only one there is.
    #[serde(default = "Config::version")]
    pub version: u32,

    /// How many threads relay traffic. Default: `auto`, one per core that this process may use, since a connection
    /// stays on its thread.
    #[serde(default)]
    pub workers: Workers,

    /// The zone of this process (rack, data centre, availability zone): endpoints with the same `zone` are preferred.
    /// Often `${ZONE}`. Default: none; zones then do not matter.
    #[serde(default)]
    pub zone: Option<String>,

    /// The addresses that clients connect to. Default: one listener named `default` on `127.0.0.1:8080` without TLS,
    /// which nobody outside this machine can reach.
    #[serde(default = "ListenerConfig::defaults")]
    pub listeners: Vec<ListenerConfig>,

    /// Where each request goes. The first route that matches wins. Required.
    pub routes: Vec<RouteConfig>,

    /// Named groups of interchangeable servers. Default: none, as routes may name their one server by URL, or answer by
    /// themselves.
    #[serde(default)]
    pub upstreams: BTreeMap<String, UpstreamConfig>,

    /// Files whose `listeners`, `routes` and `upstreams` are appended to those here, in this order: names such as
    /// `chat.yaml`, or patterns such as `conf.d/*.yaml`, which stand for the files of a folder in the order of their
    /// names (`*` for any characters, `?` for one, none of them for a dot at the beginning). Relative to the folder of
    /// this file. An included file has no other keys, but `x-…` for anchors of its own, and `version`; the `defaults`
    /// here hold for it. With `watch`, files that come, change or go are noticed. Default: none.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Vec<String>")]
    pub include: Include,

    /// What every route and upstream has unless it says otherwise.
    #[serde(default, skip_serializing)]
    pub defaults: Defaults,

    /// What several instances keep together: limits of single clients, and the list of denied subjects. Default: nothing; each
    /// instance has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedConfig>,

    /// Metrics, health and control for operators. Default: not served.
    #[serde(default)]
    pub admin: Option<Admin>,

    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,

    /// How connections end when the process stops.
    #[serde(default)]
    pub drain: DrainConfig,

    /// Whether to reload when this file changes, or a certificate, key or other file that it names; HUP and the admin
    /// API always reload. A file with a mistake changes nothing. Default: true, since editors, certbot and Kubernetes
    /// all write files without sending a signal.
    #[serde(default = "Config::watch")]
    pub watch: bool,

    /// What happens to the sessions of the old process after a new one has taken over: `move` gives them to the new
    /// process with both their connections, and no peer notices; those that cannot go are closed evenly over ten minutes,
    /// or over the time after it (`move 1h`). `keep` leaves them until they end by themselves, `drain 10m` closes them
    /// evenly over that time (code 1012), `close` closes all at once. Default: `move`.
    #[serde(default)]
    pub on_upgrade: OnUpgrade,
}

impl Config {
    /// Returns every file that the configuration names and a reload reads again: certificates, keys, authorities,
    /// secrets, tokens and pages. Sorted, each once, as written. Endpoint lists are left out: discovery watches them itself.
    pub fn files(&self) -> Vec<PathBuf> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(ServerTls::files);
        let upstreams = self.upstreams.values().flat_map(UpstreamConfig::files);
        let token = self.admin.iter().filter_map(|admin| admin.token_file.as_deref());
        let routes = self.routes.iter().flat_map(RouteConfig::files);
        let redis = self.shared.iter().filter_map(|shared| shared.redis.as_ref());
        let redis = redis.filter_map(|redis| redis.tls.as_deref()).flat_map(ClientTls::files);
        let all: BTreeSet<&Path> = listeners.chain(routes).chain(upstreams).chain(redis).chain(token).collect();
        all.into_iter().map(Path::to_owned).collect()
    }

    fn version() -> u32 {
        1
    }

    fn watch() -> bool {
        true
    }
}

/// Returns the JSON Schema of [`Config`], for editors: field docs become descriptions.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::generate::SchemaSettings::draft07().into_generator().into_root_schema_for::<Config>();
    RecursiveTransform(as_decoded).transform(&mut schema);
    // What is missing here may stand in the files that are included.
    if let Some(required) = schema.remove("required") {
        schema.insert("anyOf".to_owned(), json!([{ "required": required }, { "required": ["include"] }]));
    }
    // Places for anchors.
    schema.insert("patternProperties".to_owned(), json!({ "^x-": true }));
    schema.to_value()
}

/// Adjusts the schema to what the decoder does beyond serde: nothing (`key:`) is never a value, and a number or
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
    // A configuration is not written back.
    object.remove("writeOnly");
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
