//! Discovery: where the endpoints of an upstream come from when the configuration does not list them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::read::MASK;
use crate::config::schema::client_tls::ClientTls;
use crate::config::schema::endpoint::Scheme;
use crate::config::value::address::EndpointUrl;
use crate::config::value::{BadValue, TimeSpan};
use crate::policy::reach::{Allowed, Places};

/// Where to find the endpoints, and where they may be.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// A file that other tools write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,

    /// DNS: addresses, or SRV records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSource>,

    /// The keys below a prefix of an etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdSource>,

    /// Where discovered endpoints may be: networks (`10.0.0.0/8`) and Unix sockets (`unix`, or `unix:/run/apps` for
    /// all below a directory), and nowhere else. Names count by the addresses they resolve to. Default: every address
    /// that servers have, so no link-local one (clouds have their metadata services there), and no Unix socket. The
    /// admin listener and the listeners of this proxy are never allowed.
    #[serde(default)]
    pub allow: Option<Vec<Allowed>>,
}

/// The configured source.
#[derive(Clone, Copy, Debug)]
pub enum SourceRef<'a> {
    /// A file.
    File(&'a FileSource),
    /// DNS.
    Dns(&'a DnsSource),
    /// An etcd.
    Etcd(&'a EtcdSource),
}

impl Discover {
    /// Returns the source. `check` makes sure that there is exactly one.
    pub fn source(&self) -> Option<SourceRef<'_>> {
        let file = self.file.as_ref().map(SourceRef::File);
        file.or(self.dns.as_ref().map(SourceRef::Dns)).or(self.etcd.as_ref().map(SourceRef::Etcd))
    }

    /// Returns where endpoints may be.
    pub fn allowed_places(&self) -> Places {
        self.allow.as_ref().map_or(Places::Usual, |allowed| Places::Only(allowed.clone()))
    }
}

/// Endpoints from a file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// The file, in YAML or JSON: a list as under `endpoints:`, or the `file_sd` format of Prometheus, a list of `{
    /// targets: ["host:port"], labels: {…} }`. The labels `__wsluice_weight__`, `__wsluice_max_connections__`,
    /// `__wsluice_priority__` and `__wsluice_zone__` (numbers in quotes) are read, others are ignored. A change is
    /// read within a second or so; put the file in place by rename, since half a list may be a list too. A file with
    /// a mistake changes nothing. Required.
    pub path: PathBuf,

    /// How to speak to targets of `file_sd`: `ws` or `wss`. Default: `ws`.
    #[serde(default)]
    pub scheme: Scheme,

    /// Whether to accept a file without endpoints. Default: false; the last endpoints stay, since an empty list is
    /// more often a slip than meant.
    #[serde(default)]
    pub allow_empty: bool,
}

/// Endpoints from DNS.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsSource {
    /// The name to look up: of the servers, or of an SRV record (`_ws._tcp.chat.internal`). For `wss` the
    /// certificates must match it (without `_ws._tcp.`), unless the upstream's `tls.server_name` says otherwise.
    /// Required.
    pub name: String,

    /// The port of every address of `name`. Default: SRV records are looked up, which give ports, weights and
    /// priorities.
    #[serde(default)]
    pub port: Option<u16>,

    /// How to speak to the servers: `ws` or `wss`. Default: `ws`.
    #[serde(default)]
    pub scheme: Scheme,

    /// Which addresses count: `ipv4`, `ipv6`, or `any`. Default: `any`, which takes IPv4 addresses, or IPv6 where a
    /// name has no IPv4: a server with both is still one server.
    #[serde(default)]
    pub family: IpFamily,

    /// The DNS server to ask, as `127.0.0.1:8600`; without a port, 53. Default: the system's, with its search
    /// domains.
    #[serde(default, deserialize_with = "dns_server")]
    #[schemars(with = "Option<String>")]
    pub server: Option<SocketAddr>,

    /// The longest time between two look-ups; an answer with a shorter TTL is renewed earlier, but not within a
    /// second. At most 5m. Default: 5m.
    #[serde(default = "DnsSource::every")]
    pub every: TimeSpan,

    /// Whether to accept an answer without an address, or that the name does not exist. Default: false; the last
    /// endpoints stay.
    #[serde(default)]
    pub allow_empty: bool,
}

impl DnsSource {
    const fn every() -> TimeSpan {
        TimeSpan::from_secs(300)
    }
}

/// Reads an IP address, with or without a port.
fn dns_server<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    let server = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
    server.map(Some).map_err(|_| {
        let help = "write an address such as `127.0.0.1:8600` or `10.0.0.2`";
        BadValue::new(format!("`{text}` is not an IP address"), help).into_serde()
    })
}

/// Which addresses of a host count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IpFamily {
    /// IPv4, and IPv6 where there is none.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Never shows the text itself.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(MASK)
    }
}

/// Endpoints from etcd.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EtcdSource {
    /// The members of the cluster (etcd 3.4 or later), as `http://10.0.0.5:2379` or `https://…`; one is used at a
    /// time, the next when it fails. Required.
    pub servers: Vec<EndpointUrl>,

    /// The prefix of the keys, as `/wsluice/chat/`. The value of each key is an endpoint as under `endpoints:`: a
    /// URL, or a map with `url`, in YAML or JSON. A server that registers itself with a lease is gone when the lease
    /// ends. Required.
    pub prefix: String,

    /// The user to log in as; needs `password`. Default: none.
    #[serde(default)]
    pub user: Option<String>,

    /// The password of `user`, best as `${NAME}`. Default: none.
    #[serde(default)]
    pub password: Option<Secret>,

    /// TLS towards `https://` servers. Default: certificates are verified for the host of the server's URL against
    /// the system's authorities.
    #[serde(default)]
    pub tls: Option<ClientTls>,

    /// Whether to accept that there are no keys. Default: false; the last endpoints stay.
    #[serde(default)]
    pub allow_empty: bool,
}
