//! Looks a name up by DNS, with its TTL: as the system would (/etc/hosts, search domains, servers), or at one server.
//!
//! If DNS does not know the name, the system looks it up in its other sources (/etc/nsswitch.conf: mDNS, containers of
//! this machine, LDAP).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Instant;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;

use super::known::{LookupAnswer, LookupError, by_preference};
use super::system;
use crate::net::dns::resolver;

/// Looks `name` up at `server`; without one, as the system would.
pub(super) async fn ask(name: &str, server: Option<SocketAddr>) -> Result<LookupAnswer, LookupError> {
    let known = dns(name, server).await;
    match (known, server) {
        // There is no /etc/resolv.conf, or DNS does not know the name.
        (None | Some(Err(LookupError::NotFound(_))), None) => system::ask(name).await,
        (None, Some(_)) => Err(LookupError::Failed(format!("{name} is no name for DNS").into())),
        (Some(answer), _) => answer,
    }
}

async fn dns(name: &str, server: Option<SocketAddr>) -> Option<Result<LookupAnswer, LookupError>> {
    // Parsed as written: other parsers refuse an underscore.
    let asked = Name::from_ascii(name).ok()?;
    let resolver = resolver(server).ok()?;
    let found = match resolver.lookup_ip(asked).await {
        Ok(found) => found,
        Err(error) => return Some(Err(trouble(name, &error))),
    };
    let ttl = found.valid_until().saturating_duration_since(Instant::now());
    let addresses: Vec<IpAddr> = found.iter().collect();
    Some(match addresses.is_empty() {
        true => Err(LookupError::NotFound(format!("{name} has no address").into())),
        false => Ok(by_preference(addresses, has_way, ttl)),
    })
}

/// Returns true if this machine has a route and an address towards it; sends nothing.
fn has_way(to: SocketAddr) -> bool {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    // Any port but 0, which is invalid.
    UdpSocket::bind(any).is_ok_and(|socket| socket.connect((to.ip(), 9)).is_ok())
}

fn trouble(name: &str, error: &NetError) -> LookupError {
    let text = format!("{name}: {error}").into();
    match error {
        NetError::Timeout => LookupError::Timeout(text),
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain | ResponseCode::NoError => LookupError::NotFound(text),
            _ => LookupError::Failed(text),
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::NXDomain)) => LookupError::NotFound(text),
        _ => LookupError::Failed(text),
    }
}
