//! The embedded demo: servers, a page and a configuration around a real proxy, to see it work.
//!
//! It owns backends, a certificate, a page and a configuration, and no proxy code: `app` starts the proxy from
//! [`demo_config`]'s text as it does from a file. Counters come in as a closure, [`DemoCounters::gather`] over
//! the proxy's registry, since that registry is `app`'s.

mod certificate;
mod config;
mod counters;
mod servers;
mod sockets;
mod web;

pub use certificate::{CertificateError, DemoCertificate};
pub use config::{DemoAddresses, demo_config};
pub use counters::DemoCounters;
pub use servers::{DemoServers, start};

/// What runs behind the proxy: said by the banner and by the help of the command line.
pub const SERVERS: &str = "three small WebSocket servers and a web server";

/// What is printed once the proxy listens: where to look, and what to type next.
pub fn banner(addresses: &DemoAddresses) -> String {
    let DemoAddresses { plain, tls, admin } = addresses.reachable();
    format!(
        r#"wsluice demo: a proxy in front of {SERVERS}, all in this process

  Open in a browser   https://{tls}/   (certificate made just now; accept it once)
                 or   http://{plain}/
  Sockets             /echo  /nap (the same server, ends after 10 s of silence)  /clock  /heartbeat   by ws:// or wss://
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
