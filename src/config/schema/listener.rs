//! Listeners: addresses, TLS, the PROXY protocol, and the bounds on a connection before it is a request.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::schema::addresses::{AddressesConfig, networks};
use crate::config::schema::tcp::TcpConfig;
use crate::config::value::address::Bind;
use crate::config::value::off::none_if_off;
use crate::config::value::{ByteSize, MapOrOff, OrOff, TimeSpan};

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Its name in logs and metrics: letters, digits, `_`, `.`, `-`. Required.
    pub name: String,

    /// The address: `0.0.0.0:8443`, `[::]:8443`, or `unix:/run/wsluice.sock`. Required.
    pub bind: Bind,

    /// Certificates for clients that connect with `wss://` or `https://`. Default: none, connections are not
    /// encrypted.
    #[serde(default)]
    pub tls: Option<ServerTls>,

    /// The versions of HTTP that clients may speak, best first: `h2` and `http/1.1`. With `tls` they are negotiated (ALPN). Without
    /// it nothing is, and a client that speaks `h2` has to know that it may (prior knowledge). Browsers take one `h2` connection
    /// for a page and all its WebSockets, see `extended_connect`. Default: `[h2, http/1.1]` with `tls`, since pages load faster so; `[http/1.1]`
    /// without, since hardly any client but other proxies speaks `h2` there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<HttpProtocol>>,

    /// Whether WebSockets are streams of a connection of `h2` (extended CONNECT, RFC 8441). `off`: browsers open a connection of
    /// `http/1.1` for each, whose session can move to the next process at an upgrade; one on `h2` shares its connection and is
    /// drained. Default: `on`, since a browser's first WebSocket then needs neither TCP nor TLS of its own.
    #[serde(default)]
    pub extended_connect: ExtendedConnectMode,

    /// Whether a PROXY protocol header (version 1 or 2) with the client's address comes before everything else.
    /// Default: `off`, since otherwise anybody who can connect could claim any address.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,

    /// How long each step before a session may take.
    #[serde(default)]
    pub timeouts: ListenerTimeouts,

    /// Networks or single addresses of proxies in front of this one. Their `Forwarded` and `X-Forwarded-*` fields are
    /// believed for the client's address, its scheme, and the host that its Origin is compared with. Default: none,
    /// since everybody can send these headers.
    #[serde(default, deserialize_with = "networks")]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,

    /// Which addresses may connect: `addresses: { allow: [10.0.0.0/8], deny: [10.9.0.7] }`. All others are refused before TLS
    /// and before a byte of them is read. It is the address of the peer, or the one that a PROXY header announces; what
    /// `X-Forwarded-For` says is for `addresses` of a route. Default: `off`, everybody may.
    #[serde(default, deserialize_with = "none_if_off", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MapOrOff<AddressesConfig>>")]
    pub addresses: Option<Box<AddressesConfig>>,

    /// How much one connection may use.
    #[serde(default)]
    pub limits: ListenerLimits,

    /// When TCP notices that a client has vanished.
    #[serde(default)]
    pub tcp: TcpConfig,

    /// Answers every request with a redirect to https instead of serving routes. Default: routes are served.
    #[serde(default)]
    pub redirect: Option<Redirect>,
}

/// Whether WebSockets are streams of a connection of HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExtendedConnectMode {
    /// They are, where a client asks for it.
    #[default]
    On,
    /// Each has a connection of its own.
    Off,
}

/// A version of HTTP, by its name in ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum HttpProtocol {
    /// HTTP/2, RFC 9113
    #[serde(rename = "h2")]
    Http2,
    /// HTTP/1.1, RFC 9112
    #[serde(rename = "http/1.1")]
    Http11,
}

impl HttpProtocol {
    /// Returns its name in ALPN.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            HttpProtocol::Http2 => b"h2",
            HttpProtocol::Http11 => b"http/1.1",
        }
    }
}

/// TLS for clients.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// Certificates, chosen by the server name (SNI) that the client asks for; the first serves all other names.
    /// Required.
    pub certificates: Vec<CertificateConfig>,

    /// The oldest TLS version accepted. Default: "1.2", since all current browsers and libraries speak it and nothing
    /// older is safe.
    #[serde(default)]
    pub min_version: MinTlsVersion,

    /// Asks clients for a certificate of their own. Default: not asked.
    #[serde(default)]
    pub client_auth: Option<ClientAuthConfig>,
}

/// A certificate and its key, both PEM. A relative path starts at the working directory of the process.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// The certificate, followed by its intermediates. Required.
    pub cert: PathBuf,

    /// The private key. Required.
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum MinTlsVersion {
    /// TLS 1.2, RFC 5246
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3, RFC 8446
    #[serde(rename = "1.3")]
    Tls13,
}

/// Certificates that clients present.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuthConfig {
    /// The authorities (PEM) that may have signed them. Required.
    pub ca: PathBuf,

    /// `require` refuses clients without a certificate, `optional` admits them. Default: `require`, the usual reason
    /// for this section.
    #[serde(default)]
    pub mode: ClientAuthModeConfig,
}

/// What happens to a client without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthModeConfig {
    /// Refuses it.
    #[default]
    Require,
    /// Admits it; a client with a wrong certificate is still refused.
    Optional,
}

/// Whether a PROXY protocol header is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// Not expected, and not understood if one comes.
    #[default]
    Off,
    /// Read if there is one. Only for listeners that nobody but proxies can reach.
    Optional,
    /// Closes a connection without one.
    Require,
}

/// How long each step before a session may take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerTimeouts {
    /// Limits the TLS handshake (and the PROXY protocol header). Default: 10s, several round trips over the worst
    /// mobile network.
    pub tls: TimeSpan,

    /// Limits the head of a connection's first request, from when its first byte could have come; later requests have
    /// the longer of this and `keep_alive`. Default: 10s, as a head is a few packets, and a client that sends one
    /// byte at a time wants to hold connections (slowloris).
    pub headers: TimeSpan,

    /// How long a connection may wait for its next request after an answer. Default: 60s, what browsers and nginx
    /// (75s) are used to; such a connection costs 18 KB.
    pub keep_alive: TimeSpan,

    /// How long a client may take nothing of an answer to plain HTTP. Default: 60s, as nginx's `send_timeout`: a
    /// client that does not read holds its own connection and one to the server.
    pub send: OrOff<TimeSpan>,
}

/// How much one connection may use.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerLimits {
    /// The most header lines a request may have. Default: 100, far above any browser's, and what hyper parses without
    /// allocating.
    pub headers: u32,

    /// The largest head of a request. Default: 16KiB, room for large cookies; HAProxy's buffer is as large.
    pub header_bytes: ByteSize,

    /// The most connections open at once. Default: limited only by file descriptors.
    pub connections: Option<u32>,

    /// The most streams that a connection of HTTP/2 may have open at once: requests and WebSockets. More are refused, and
    /// browsers wait. Each may hold 256KiB that its server does not take yet, and 64KiB that the client does not. Default:
    /// 100, the least that RFC 9113 recommends; Chromium and Firefox have more than enough.
    pub streams: u32,

    /// How much each client may use of the listener. Default: no limit.
    pub per_client: Option<ListenerClientLimits>,
}

/// How much each client may use of a listener. A client is its address; all of one IPv6 /64 are one. `trusted_proxies` speak
/// for many, and are not limited.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerClientLimits {
    /// The most connections of one client on which nobody was let in: those in the TLS handshake, those that have sent no
    /// request yet, and those whose requests were all refused, redirected, or answered by a route without an upstream. More are closed before a byte is read. A browser opens 6 to a
    /// host at once, and many people may share one IPv4 address. Required.
    pub unauthenticated: u32,
}

/// A redirect to https for every request.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The port of https in the redirect; 443 is left out of the URL. Required.
    #[schemars(range(min = 1))]
    pub https: u16,
}

impl ServerTls {
    /// Returns the files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let certificates = self.certificates.iter().flat_map(|it| [it.cert.as_path(), it.key.as_path()]);
        certificates.chain(self.client_auth.iter().map(|auth| auth.ca.as_path()))
    }
}

impl ListenerConfig {
    /// Returns the versions of HTTP that clients may speak, best first.
    pub fn protocols(&self) -> Vec<HttpProtocol> {
        match (&self.protocols, &self.tls) {
            (Some(protocols), _) => protocols.clone(),
            (None, Some(_)) => vec![HttpProtocol::Http2, HttpProtocol::Http11],
            (None, None) => vec![HttpProtocol::Http11],
        }
    }

    /// Returns the listeners of a file that names none.
    pub(in crate::config) fn defaults() -> Vec<ListenerConfig> {
        vec![ListenerConfig {
            name: "default".to_owned(),
            bind: Bind::Tcp(([127, 0, 0, 1], 8080).into()),
            tls: None,
            protocols: None,
            extended_connect: ExtendedConnectMode::On,
            proxy_protocol: ProxyProtocol::Off,
            timeouts: ListenerTimeouts::default(),
            trusted_proxies: Vec::new(),
            addresses: None,
            limits: ListenerLimits::default(),
            tcp: TcpConfig::default(),
            redirect: None,
        }]
    }
}

impl Default for ListenerTimeouts {
    fn default() -> ListenerTimeouts {
        ListenerTimeouts {
            tls: TimeSpan::from_secs(10),
            headers: TimeSpan::from_secs(10),
            keep_alive: TimeSpan::from_secs(60),
            send: OrOff::Set(TimeSpan::from_secs(60)),
        }
    }
}

impl Default for ListenerLimits {
    fn default() -> ListenerLimits {
        ListenerLimits {
            headers: 100,
            header_bytes: ByteSize::from_kib(16),
            connections: None,
            streams: 100,
            per_client: None,
        }
    }
}
