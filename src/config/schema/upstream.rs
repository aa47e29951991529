//! Upstreams: named groups of interchangeable servers.

use std::net::IpAddr;
use std::path::Path;

use schemars::JsonSchema;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use crate::config::schema::admission::{Admission, QueueConfig};
use crate::config::schema::client_tls::ClientTls;
use crate::config::schema::discover::Discover;
use crate::config::schema::ejection::{EjectionConfig, RetryBudgetConfig};
use crate::config::schema::endpoint::EndpointConfig;
use crate::config::schema::health::{HealthCheck, WhenAllDown};
use crate::config::schema::rebalance::{OnDown, RebalanceConfig};
use crate::config::schema::sticky::StickyConfig;
use crate::config::schema::tcp::TcpConfig;
use crate::config::value::off::none_if_off;
use crate::config::value::percent::Percent;
use crate::config::value::{BadValue, MapOrOff, OrOff, TimeSpan};
use crate::policy::balance_key::BalanceKey;

/// Interchangeable servers, and how sessions are spread over them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// How an endpoint is chosen for a new session: `least_connections` (fewest sessions for its weight),
    /// `round_robin` (in turn, by weight), `random_two` (the less loaded of two random ones), or `{ hash: … }` (the
    /// same endpoint for the same client, user or room). Default: `least_connections`, since sessions last for hours
    /// and taking turns says nothing of how many are still there.
    #[serde(default)]
    pub balance: Balance,

    /// The servers: URLs, or maps with a `url`. Required, unless `discover` finds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointConfig>,

    /// Where to find the servers, in place of `endpoints`: a `file` that other tools write, `dns`, or `etcd`. The
    /// last list holds until there is a new one, whatever fails in between; before the first list, clients get a 503.
    /// Default: none.
    #[serde(default)]
    pub discover: Option<Discover>,

    /// The version of HTTP towards the servers: `h1` is HTTP/1.1, `h2` is HTTP/2, without TLS by prior knowledge. `auto` lets TLS
    /// decide (ALPN), and is `h1` towards `ws://`, `http://` and Unix sockets. By HTTP/2, WebSockets are streams (RFC 8441)
    /// that share connections with each other and with plain requests: a lost connection ends up to 100 of them at once,
    /// and such sessions stay with this process at an upgrade (`on_upgrade`). A server that takes no WebSockets by HTTP/2
    /// gets them by HTTP/1.1 with `auto`, on connections of their own, and with `h2` clients get a 502. Default: `auto`, which
    /// is what servers expect of browsers.
    #[serde(default)]
    pub protocol: UpstreamProtocol,

    /// How long an endpoint that joins or comes back takes to grow from a twentieth of its weight to all of it:
    /// otherwise an empty endpoint would get all new sessions at once. Default: `off`.
    #[serde(default = "at_once")]
    pub slow_start: OrOff<TimeSpan>,

    /// Moves sessions after endpoints have joined or come back: `{ rate: 10/s, tolerance: 10% }`. Only with `balance:
    /// least_connections`, which sends them to endpoints with few sessions. Default: none, sessions stay where they
    /// are.
    #[serde(default, deserialize_with = "none_if_off")]
    #[schemars(with = "Option<MapOrOff<RebalanceConfig>>")]
    pub rebalance: Option<RebalanceConfig>,

    /// What happens to the sessions of an endpoint whose `health` check fails: `keep` leaves them, since the check
    /// may be wrong and a dead server ends them anyway; `close` closes them (code 1012, over 5 seconds), for
    /// endpoints that may be cut off and still hold their connections. Default: `keep`.
    #[serde(default)]
    pub on_down: OnDown,

    /// What happens to the sessions of an endpoint that leaves the list: `off` lets them live, a time such as `5m`
    /// closes them evenly over that time (code 1012), the quietest first. Default: `off`.
    #[serde(default = "kept")]
    pub drain_removed: OrOff<TimeSpan>,

    /// Addresses of this machine to connect from, taken in turn by each worker. One address has about 28,000 ports
    /// towards one endpoint (`net.ipv4.ip_local_port_range`), so list one for each 28,000 sessions per endpoint. An
    /// endpoint is reached only from addresses of its own family, IPv4 or IPv6. Default: none, the system chooses by
    /// its routes.
    #[serde(default, deserialize_with = "addresses")]
    #[schemars(with = "Vec<String>")]
    pub source_addresses: Vec<IpAddr>,

    /// Brings a client back to its previous endpoint, by a signed cookie, while that endpoint takes sessions;
    /// otherwise `balance` decides, and the cookie names the new one. The cookie is not passed on. Default: none.
    #[serde(default, deserialize_with = "none_if_off")]
    #[schemars(with = "Option<MapOrOff<StickyConfig>>")]
    pub sticky: Option<StickyConfig>,

    /// Lets clients wait while every endpoint is full (`max_connections`): first come, first served, each as soon as
    /// a place is free. `{}` is enough. Default: none and a 503 at once, since sessions last for hours and places are
    /// seldom free again; it helps where sessions are short, or deploys move many at a time.
    #[serde(default, deserialize_with = "none_if_off")]
    #[schemars(with = "Option<MapOrOff<QueueConfig>>")]
    pub queue: Option<QueueConfig>,

    /// Limits how many WebSocket handshakes reach the endpoints per second, so that a crowd of reconnecting clients
    /// does not bring them down. Default: none.
    #[serde(default, deserialize_with = "none_if_off")]
    #[schemars(with = "Option<MapOrOff<Admission>>")]
    pub admission: Option<Admission>,

    /// TLS towards `wss://` and `https://` endpoints. Default: certificates are verified for the host of the
    /// endpoint's URL against the system's authorities.
    #[serde(default)]
    pub tls: Option<ClientTls>,

    /// When TCP notices that a server has vanished, on connections of sessions and of plain HTTP alike.
    #[serde(default)]
    pub tcp: TcpConfig,

    /// Checks each endpoint at intervals, apart from live traffic: `{ websocket: … }`, `{ http: … }` or `{ tcp: … }`.
    /// An endpoint that fails gets no new sessions and keeps those it has. Default: none, since only the application
    /// knows which path to ask for; `ejection` judges by live traffic alone.
    #[serde(default, deserialize_with = "none_if_off")]
    #[schemars(with = "Option<MapOrOff<HealthCheck>>")]
    pub health: Option<HealthCheck>,

    /// What happens to requests when every endpoint's check fails: `try` tries the endpoints all the same, `refuse`
    /// answers 503. Default: `try`, since the check may be wrong, and if it is not, the client sees 502.
    #[serde(default)]
    pub when_all_down: WhenAllDown,

    /// Leaves out an endpoint for a while after it failed live traffic; it is still used when no other is left, and
    /// never ejected where it is the only one. `off` tries all endpoints each time. Default: on.
    #[serde(default)]
    pub ejection: MapOrOff<EjectionConfig>,

    /// Limits how often requests are retried on another endpoint, so that retries do not multiply an outage; a
    /// request without a retry is answered with its first failure. `off` always retries. Default: on.
    #[serde(default)]
    pub retry_budget: MapOrOff<RetryBudgetConfig>,
}

/// The version of HTTP towards servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// As TLS decides; HTTP/1.1 without it.
    #[default]
    Auto,
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one with the fewest sessions for its weight.
    #[default]
    LeastConnections,
    /// Each in turn, by weight.
    RoundRobin,
    /// The less loaded of two random ones.
    RandomTwo,
    /// The same one for the same part of the request.
    Hash(HashBy),
}

/// What the hash is taken of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashBy {
    /// The part of the request that decides: `client_address`, `path`, `header:NAME`, `cookie:NAME` or `query:NAME`.
    /// Equal parts go to the same endpoint, on every instance and after every restart; requests without it spread.
    /// IPv6 addresses count by their /64. Required.
    pub on: BalanceKey,

    /// How far above its share of the sessions an endpoint may go before it is passed over: `125%` allows a quarter
    /// more. Default: `off`, since passing over breaks the rule that equal parts meet.
    #[serde(default = "unbounded")]
    pub load_max: OrOff<Percent>,
}

fn unbounded() -> OrOff<Percent> {
    OrOff::Off
}

fn kept() -> OrOff<TimeSpan> {
    OrOff::Off
}

fn at_once() -> OrOff<TimeSpan> {
    OrOff::Off
}

impl UpstreamConfig {
    /// Returns the files that it names, except an endpoint list.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let etcd = self.discover.iter().filter_map(|discover| discover.etcd.as_ref()?.tls.as_ref());
        let secrets = self.sticky.iter().filter_map(|sticky| sticky.secrets_file.as_deref());
        self.tls.iter().chain(etcd).flat_map(ClientTls::files).chain(secrets)
    }
}

/// Reads IP addresses without a port.
fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    struct Address(IpAddr);

    impl<'de> Deserialize<'de> for Address {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = String::deserialize(from)?;
            let address = text.parse::<IpAddr>().map(|address| Address(address.to_canonical()));
            address.map_err(|_| {
                let help = "write an address such as `10.0.0.5` or `fd00::5`, without a port";
                BadValue::new(format!("`{text}` is not an IP address"), help).into_serde()
            })
        }
    }

    Ok(Vec::<Address>::deserialize(from)?.into_iter().map(|address| address.0).collect())
}
