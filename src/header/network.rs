//! Parses networks as people write them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// The bits of an IPv6 address before a mapped IPv4 address (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Parses a network, or an address as a network of one. Peers with an IPv4 address mapped into IPv6 are compared as
/// IPv4, and so is a network: `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
///
/// Returns `None` if it is neither, or a mapped IPv4 network wider than all of IPv4, which would match nothing.
pub fn parse(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let IpNet::V6(v6) = net else { return Some(net) };
    match v6.addr().to_ipv4_mapped() {
        None => Some(net),
        Some(v4) => Some(IpNet::V4(Ipv4Net::new(v4, v6.prefix_len().checked_sub(MAPPED_BITS)?).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_is_read_as_what_it_means() {
        for (text, net) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("fd00::/8", Some("fd00::/8")),
            ("::1", Some("::1/128")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::FFFF:a00:0/104", Some("10.0.0.0/8")),
            ("::ffff:10.1.2.3", Some("10.1.2.3/32")),
            ("::ffff:0:0/96", Some("0.0.0.0/0")),
            ("::ffff:10.0.0.0/90", None),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("ten", None),
        ] {
            assert_eq!(parse(text).map(|net| net.to_string()).as_deref(), net, "{text}");
        }
    }
}
