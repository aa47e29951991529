//! Which addresses may connect or ask: networks that are allowed, and networks that are not.
//!
//! Deny wins over allow, whatever the order and the length of prefixes. If networks are allowed, all others are refused. An
//! IPv4 address mapped into IPv6 is judged as IPv4. A client whose address is not known is refused: what hides it (fields that
//! contradict each other) would otherwise be a way round `deny`.
//!
//! Networks are joined into ranges beforehand, so that a list of thousands costs one binary search.

use std::net::IpAddr;

use ipnet::IpNet;

/// Who may come, by address.
#[derive(Clone, Debug)]
pub struct AddressRules {
    /// If set, nobody else may.
    allow: Option<Ranges>,
    deny: Ranges,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressDenial {
    /// It is in a network that is denied.
    #[error("{0} is in a network of `deny`")]
    Denied(IpAddr),
    /// Networks are allowed, and it is in none of them.
    #[error("{0} is in no network of `allow`")]
    NotAllowed(IpAddr),
    /// Nobody knows it, so nobody can say that it is not denied.
    #[error("the client's address is not known")]
    Unknown,
}

impl AddressRules {
    /// Creates rules. Without `allow`, everybody may come who is not denied.
    pub fn new(allow: Option<&[IpNet]>, deny: &[IpNet]) -> AddressRules {
        AddressRules { allow: allow.map(Ranges::new), deny: Ranges::new(deny) }
    }

    /// Judges an address, if it is known.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(&self, address: Option<IpAddr>) -> Result<(), AddressDenial> {
        let address = address.ok_or(AddressDenial::Unknown)?.to_canonical();
        if self.deny.contains(address) {
            return Err(AddressDenial::Denied(address));
        }
        match &self.allow {
            Some(allow) if !allow.contains(address) => Err(AddressDenial::NotAllowed(address)),
            _ => Ok(()),
        }
    }
}

/// Networks as ranges, each sorted and apart from the next.
#[derive(Clone, Debug)]
struct Ranges {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Ranges {
    fn new(networks: &[IpNet]) -> Ranges {
        let (mut v4, mut v6) = (vec![], vec![]);
        // What lies within another is taken out.
        for network in IpNet::aggregate(&networks.iter().map(IpNet::trunc).collect()) {
            match network {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        Ranges { v4: v4.into(), v6: v6.into() }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => is_within(&self.v4, u32::from(address)),
            IpAddr::V6(address) => is_within(&self.v6, u128::from(address)),
        }
    }
}

fn is_within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;
    use crate::header::network;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| network::parse(text).unwrap()).collect()
    }

    #[test]
    fn deny_wins_and_what_is_allowed_shuts_others_out() {
        let (allow, deny) = (["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"], ["10.9.0.0/16", "2001:db8:bad::/48"]);
        let (allow, deny) = (networks(&allow), networks(&deny));
        let both = AddressRules::new(Some(&allow), &deny);
        let only_deny = AddressRules::new(None, &deny);
        for (address, with_both, without_allow) in [
            ("10.1.2.3", true, true),
            ("10.9.2.3", false, false),
            ("::ffff:10.9.2.3", false, false),
            ("::ffff:10.1.2.3", true, true),
            ("192.0.2.7", true, true),
            ("192.0.2.8", false, true),
            ("2001:db8::1", true, true),
            ("2001:db8:bad::1", false, false),
            ("2001:db9::1", false, true),
            ("::1", false, true),
        ] {
            let address = Some(address.parse::<IpAddr>().unwrap());
            assert_eq!(both.judge(address).is_ok(), with_both, "{address:?}");
            assert_eq!(only_deny.judge(address).is_ok(), without_allow, "{address:?}");
        }
        assert_eq!([&both, &only_deny].map(|rules| rules.judge(None)), [Err(AddressDenial::Unknown); 2]);
        let all = networks(&["0.0.0.0/0", "::/0"]);
        let nobody = AddressRules::new(Some(&allow), &all);
        assert!(nobody.judge("10.1.2.3".parse().ok()).is_err() && nobody.judge("2001:db8::1".parse().ok()).is_err());
    }

    fn network() -> impl Strategy<Value = IpNet> {
        // Few bits, so that they overlap.
        prop_oneof![
            (0_u32..64, 0_u8..=6).prop_map(|(top, bits)| IpNet::V4(Ipv4Net::new((top << 26).into(), bits).unwrap())),
            (0_u128..64, 0_u8..=6).prop_map(|(top, bits)| IpNet::V6(Ipv6Net::new((top << 122).into(), bits).unwrap())),
        ]
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        ]
    }

    proptest! {
        #[test]
        fn ranges_say_what_the_networks_say_one_by_one(
            allow in prop::option::of(prop::collection::vec(network(), 1..8)),
            deny in prop::collection::vec(network(), 0..8),
            addresses in prop::collection::vec(address(), 1..50),
        ) {
            let rules = AddressRules::new(allow.as_deref(), &deny);
            for address in addresses {
                let canonical = address.to_canonical();
                let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&canonical));
                let expected = !is_in(&deny) && allow.as_deref().is_none_or(is_in);
                prop_assert_eq!(rules.judge(Some(address)).is_ok(), expected);
            }
        }
    }
}
