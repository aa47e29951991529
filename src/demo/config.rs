//! The demo's configuration, as YAML that goes through the same loader as a user's file.
//!
//! The demo is `wsluice run` with this text and nothing else, so it is also the first example configuration that a newcomer
//! reads.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::{DemoCertificate, DemoServers};

/// The addresses of the demo. The defaults are documented; the command line may name others, and the caller chooses others
/// for the defaults if they are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoAddresses {
    /// Plain HTTP and ws.
    pub plain: SocketAddr,
    /// HTTPS and wss.
    pub tls: SocketAddr,
    /// Metrics and health.
    pub admin: SocketAddr,
}

impl Default for DemoAddresses {
    fn default() -> DemoAddresses {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        DemoAddresses { plain: loopback(8080), tls: loopback(8443), admin: loopback(9902) }
    }
}

impl DemoAddresses {
    /// Returns the addresses to connect to from this machine: loopback for those that listen on all.
    pub fn reachable(self) -> DemoAddresses {
        let reach = |mut address: SocketAddr| {
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            address
        };
        DemoAddresses { plain: reach(self.plain), tls: reach(self.tls), admin: reach(self.admin) }
    }
}

/// Returns the YAML text of a proxy in front of `servers`.
pub fn demo_config(servers: &DemoServers, certificate: &DemoCertificate, addresses: DemoAddresses) -> String {
    let DemoAddresses { plain, tls, admin } = addresses;
    let DemoServers { echo, clock, heartbeat, web, .. } = servers;
    let (cert, key) = (quoted(&certificate.cert()), quoted(&certificate.key()));
    format!(
        r#"version: 1
listeners:
  - name: demo
    bind: "{plain}"
  - name: demo-tls
    bind: "{tls}"
    tls:
      certificates:
        - {{ cert: {cert}, key: {key} }}
routes:
  - name: echo
    match: {{ path: {{ exact: /echo }} }}
    upstream: echo
    timeouts: {{ idle: 5m }}
    limits: {{ message: 1MiB }}
    http: reject
  - name: nap                               # the same server, but a session that says nothing is soon ended
    match: {{ path: {{ exact: /nap }} }}
    upstream: echo
    timeouts: {{ idle: 10s }}
    limits: {{ message: 1MiB }}
    http: reject
  - name: clock
    match: {{ path: {{ exact: /clock }} }}
    upstream: clock
    limits: {{ message: 64KiB }}
    http: reject
  - name: heartbeat
    match: {{ path: {{ exact: /heartbeat }} }}
    upstream: heartbeat
    keepalive: {{ ping: 10s, pong: 5s }}
    limits: {{ message: 64KiB }}
    http: reject
  - name: web                               # the page, its counters and their event stream: plain HTTP
    match: {{ path: {{ prefix: / }} }}
    upstream: web
    http: proxy
upstreams:
  echo: {{ endpoints: ["ws://{echo}"] }}
  clock: {{ endpoints: ["ws://{clock}"] }}
  heartbeat: {{ endpoints: ["ws://{heartbeat}"] }}
  web: {{ endpoints: ["http://{web}"] }}
admin: {{ bind: "{admin}" }}
log: {{ level: info, format: human }}
drain: {{ time: 3s }}
"#
    )
}

/// Returns a path as a double-quoted YAML scalar; a JSON string is one (YAML 1.2 §1.3).
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is the test's failure
mod tests {
    use super::*;
    use crate::config::{Bind, EndpointUrl, load_str};
    use crate::demo::{DemoCounters, start};

    #[tokio::test]
    async fn the_loader_takes_the_text_and_finds_nothing_to_warn_of() {
        let servers = start(DemoCounters::default).unwrap();
        let certificate = DemoCertificate::create().unwrap();
        let text = demo_config(&servers, &certificate, DemoAddresses::default());
        let loaded = load_str("demo", &text, &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(loaded.warnings.is_empty());
        let [plain, tls] = &loaded.file.listeners[..] else { panic!("two listeners") };
        assert_eq!(plain.bind, Bind::Tcp(DemoAddresses::default().plain));
        assert_eq!(tls.tls.as_ref().unwrap().certificates[0].key, certificate.key());
        let EndpointUrl::Tcp { tls, port, .. } = &loaded.file.upstreams["web"].endpoints[0].url else { panic!("tcp") };
        assert_eq!((*tls, *port), (false, servers.web.port()));
    }

    #[test]
    fn a_path_with_quotes_stays_one_scalar() {
        let path = Path::new("/tmp/a \"b\": {c}\\d/demo.crt");
        let value: serde_yaml::Value = serde_yaml::from_str(&format!("{{ cert: {} }}", quoted(path))).unwrap();
        assert_eq!(value["cert"].as_str().unwrap(), path.to_str().unwrap());
    }
}
