//! The embedded demo: what `wsluice` alone puts behind, and in front of, a real proxy so that one can be seen working.
//!
//! It owns backends, a certificate, a page and a configuration, and no proxy code: `app` starts the proxy from
//! [`demo_config`]'s text as it does from a file. Counters come in as a closure, because what they count is measured
//! below, by the proxy, and shown here.

mod certificate;
mod config;
mod servers;
mod sockets;
mod web;

use std::collections::BTreeMap;

use serde::Serialize;

pub use certificate::{Certificate, CertificateError};
pub use config::{Addresses, demo_config};
pub use servers::{Servers, start};

/// What the page shows of the running proxy, summed over its routes. The names are those of `/stats` and `/events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Sessions open now.
    pub sessions_active: u64,
    /// Sessions opened since the start.
    pub sessions: u64,
    /// Text and binary messages that clients sent.
    pub messages_from_clients: u64,
    /// Text and binary messages that servers sent.
    pub messages_from_servers: u64,
    /// Payload bytes from clients.
    pub bytes_from_clients: u64,
    /// Payload bytes from servers.
    pub bytes_from_servers: u64,
    /// How many sessions ended with each close code; codes as text, since JSON knows no other keys.
    pub closes: BTreeMap<String, u64>,
}

/// What is printed once the proxy listens: where to look, and what to type next.
pub fn banner(addresses: &Addresses) -> String {
    let Addresses { plain, tls, admin } = addresses;
    format!(
        r#"wsluice demo: a proxy in front of three small WebSocket servers and a web server, all in this process

  Open in a browser   https://{tls}/   (certificate made just now; accept it once)
                 or   http://{plain}/
  Sockets             /echo  /nap (echo, ends after 10 s of silence)  /clock  /heartbeat   by ws:// or wss://
  Metrics             http://{admin}/metrics   (also /livez, /readyz)

Try next, in another terminal:
  npx wscat -c ws://{plain}/clock
  python3 -m websockets ws://{plain}/echo          say: close 4001 bye
  curl -i http://{plain}/echo                      no WebSocket handshake: 426
  curl -i -H 'Origin: https://evil.example' -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
       -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' http://{plain}/echo
                                                           a foreign page: 403
  curl -s http://{admin}/metrics | grep wsluice_
  wsluice proxy --listen 127.0.0.1:8082 --to http://127.0.0.1:3000      your own server, no file
  wsluice run --config FILE                                your own configuration

Ctrl-C drains: each session gets a Close with 1012 before this process ends. Twice ends at once.
"#
    )
}
