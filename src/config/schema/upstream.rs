//! Named groups of interchangeable servers.

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
use crate::config::value::percent::Percent;
use crate::config::value::{BadValue, MapOrOff, OrOff, TimeSpan};
use crate::policy::balance_key::BalanceKey;

/// Servers that can stand in for one another.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// How an endpoint is chosen for a new session: `least_connections` (fewest sessions for its weight), `round_robin`
    /// (in turn, as often as its weight says), `random_two` (the less loaded of two by chance), or `{ hash: … }` (the
    /// same endpoint for the same client, user or room). Default: `least_connections`, since sessions last for hours and
    /// taking turns says nothing of how many are still there.
    #[serde(default)]
    pub balance: Balance,

    /// The servers: URLs, or maps with a `url`. Required, unless `discover` tells them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointConfig>,

    /// Who tells the servers, in place of `endpoints`: a `file` that other tools write, `dns`, or `etcd`. What was told last
    /// holds until something else is told, whatever fails in between; while nobody has told anything yet, clients get a
    /// 503. Default: none.
    #[serde(default)]
    pub discover: Option<Discover>,

    /// How long an endpoint that joins the others or comes back takes to grow from a twentieth of its weight to all of it:
    /// an empty endpoint would otherwise get all new sessions at once. Default: `off`.
    #[serde(default = "at_once")]
    pub slow_start: OrOff<TimeSpan>,

    /// Moves sessions when endpoints have joined or come back: `{ rate: 10/s, tolerance: 10% }`. Only with `balance:
    /// least_connections`, which sends them where there are few. Default: none, sessions stay where they are.
    #[serde(default)]
    pub rebalance: Option<RebalanceConfig>,

    /// What becomes of the sessions of an endpoint whose `health` check fails: `keep` them, since the check may be wrong and
    /// a dead server ends them anyway, or `close` them (code 1012, over 5 seconds), where an endpoint may be cut off and
    /// still hold its connections. Default: `keep`.
    #[serde(default)]
    pub on_down: OnDown,

    /// What becomes of the sessions of an endpoint that is not in the list any more: `off` lets them live, a time such as
    /// `5m` closes them over it (code 1012), evenly, the quietest first. Default: `off`.
    #[serde(default = "kept")]
    pub drain_removed: OrOff<TimeSpan>,

    /// Addresses of this machine to connect from, each worker taking them in turn. One address has about 28,000 ports
    /// towards one endpoint (`net.ipv4.ip_local_port_range`), so one is needed for each 28,000 sessions that an endpoint is
    /// to hold. An endpoint is reached only from addresses of its own family, IPv4 or IPv6. Default: none, the system
    /// chooses by its routes.
    #[serde(default, deserialize_with = "addresses")]
    #[schemars(with = "Vec<String>")]
    pub source_addresses: Vec<IpAddr>,

    /// Brings a client back to the endpoint it had, by a signed cookie, while that endpoint takes sessions; otherwise
    /// `balance` decides, and the cookie names the new one. The cookie is not passed on. Default: none.
    #[serde(default)]
    pub sticky: Option<StickyConfig>,

    /// Lets those wait for whom every endpoint is full (`max_connections`): first come, first served, each as soon as a
    /// place is given back. `{}` is enough. Default: none and a 503 at once, since sessions last for hours and places
    /// are seldom given back; it is of use where they are short, or where deploys move many at a time.
    #[serde(default)]
    pub queue: Option<QueueConfig>,

    /// Bounds how many WebSocket handshakes reach the endpoints in a second, so that a crowd that comes back at once does not
    /// bring them down. Default: none.
    #[serde(default)]
    pub admission: Option<Admission>,

    /// TLS towards `wss://` and `https://` endpoints. Default: their certificate is verified for the host of their URL
    /// against the system's authorities.
    #[serde(default)]
    pub tls: Option<ClientTls>,

    /// When TCP notices that a server has vanished, on connections of sessions and of plain HTTP alike.
    #[serde(default)]
    pub tcp: TcpConfig,

    /// A check made of each endpoint again and again, apart from live traffic: `{ websocket: … }`, `{ http: … }` or
    /// `{ tcp: … }`. Who fails it gets no new sessions and keeps those it has. Default: none, since only the application
    /// knows a path to ask; `ejection` goes by live traffic alone.
    #[serde(default)]
    pub health: Option<HealthCheck>,

    /// What becomes of requests when every endpoint's check fails: `try` the endpoints all the same, or `refuse` with 503.
    /// Default: `try`, since it may be the check that is wrong, and the client sees 502 if it is not.
    #[serde(default)]
    pub when_all_down: WhenAllDown,

    /// Leaving out for a while an endpoint that fails live traffic; it is used when nobody else is left. `off` tries them
    /// all each time. Default: on.
    #[serde(default)]
    pub ejection: MapOrOff<EjectionConfig>,

    /// How often requests whose endpoint failed are tried on another one, so that an outage is not multiplied; a request
    /// without a second try is answered with its first failure. `off` tries always. Default: on.
    #[serde(default)]
    pub retry_budget: MapOrOff<RetryBudgetConfig>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one with the fewest sessions for its weight.
    #[default]
    LeastConnections,
    /// Each in turn, as often as its weight says.
    RoundRobin,
    /// The less loaded of two taken by chance.
    RandomTwo,
    /// The same one for the same part of the request.
    Hash(HashBy),
}

/// By what the hash goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashBy {
    /// The part of the request that decides: `client_address`, `path`, `header:NAME`, `cookie:NAME` or `query:NAME`.
    /// Equal parts go to the same endpoint, on every instance and after every restart; requests without it spread. IPv6
    /// addresses count by their /64. Required.
    pub on: BalanceKey,

    /// How much more than its share of the sessions an endpoint may hold before it is passed over: `125%` lets it have a
    /// quarter more. Default: `off`, since passing over breaks the rule that equal parts meet.
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
    /// The files that it names, but for one that lists its endpoints.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let etcd = self.discover.iter().filter_map(|discover| discover.etcd.as_ref()?.tls.as_ref());
        let secrets = self.sticky.iter().filter_map(|sticky| sticky.secrets_file.as_deref());
        self.tls.iter().chain(etcd).flat_map(ClientTls::files).chain(secrets)
    }
}

/// IP addresses without a port.
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
