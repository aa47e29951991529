//! Checks that a chain is complete: each certificate issued by the next (RFC 5246 §7.4.2), and all of them valid now.
//!
//! Most browsers repair a chain that is out of order or has a gap, most libraries do not: it "works" until the first
//! client of the other kind connects. RFC 8446 §4.4.2 allows any order with TLS 1.3, so a broken chain causes a warning
//! and, if a good certificate is active, that one is kept; it does not prevent a start.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};

use super::x509::Parts;

/// What is wrong with a chain. Positions count from 1, the server's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainFault {
    /// The certificate after this one is not its issuer.
    OutOfOrder {
        /// The place of the certificate whose issuer should follow.
        position: usize,
        /// Its subject.
        subject: String,
        /// Its issuer.
        issuer: String,
        /// Where the issuer's certificate is instead; `None` if it is missing.
        found: Option<usize>,
    },
    /// A self-signed certificate with needless others after it.
    NothingToFollow {
        /// Its position.
        position: usize,
        /// Its subject.
        subject: String,
    },
    /// The next certificate has the issuer's name, but another key.
    NotSigned {
        /// The place of the certificate with the signature.
        position: usize,
        /// Its subject.
        subject: String,
        /// The issuer it names.
        issuer: String,
    },
    /// An intermediate certificate that cannot be parsed.
    Unreadable {
        /// Its position.
        position: usize,
    },
    /// The certificate of its issuer, which was in the chain until now, is missing.
    Alone {
        /// The issuer.
        issuer: String,
    },
    /// An intermediate that has expired.
    Expired {
        /// Its position.
        position: usize,
        /// Its subject.
        subject: String,
        /// How long ago.
        since: Duration,
    },
    /// An intermediate that is not valid yet.
    NotYetValid {
        /// Its position.
        position: usize,
        /// Its subject.
        subject: String,
        /// How long from now.
        until: Duration,
    },
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChainFault::OutOfOrder { position, subject, issuer, found: Some(found) } => write!(
                f,
                "certificate {position} ({subject}) must be followed by the one that issued it ({issuer}), which is certificate {found}"
            ),
            ChainFault::OutOfOrder { position, subject, issuer, found: None } => write!(
                f,
                "certificate {position} ({subject}) must be followed by the one that issued it ({issuer}), which is missing"
            ),
            ChainFault::NothingToFollow { position, subject } => {
                write!(f, "certificate {position} ({subject}) is self-signed and needs none after it: remove those")
            }
            ChainFault::NotSigned { position, subject, issuer } => write!(
                f,
                "certificate {position} ({subject}) was not signed with the key of the one after it, though that is named {issuer}: is it of another generation?"
            ),
            ChainFault::Unreadable { position } => write!(f, "certificate {position} cannot be parsed"),
            ChainFault::Alone { issuer } => {
                write!(f, "certificate 1 must be followed by the intermediate {issuer}, as in the one in force")
            }
            ChainFault::Expired { position, subject, since } => {
                write!(f, "certificate {position} ({subject}) has expired, {} ago", days(since))
            }
            ChainFault::NotYetValid { position, subject, until } => {
                write!(f, "certificate {position} ({subject}) is not valid yet, only in {}", days(until))
            }
        }
    }
}

/// Displays a duration in days.
pub(super) fn days(duration: &Duration) -> String {
    match duration.as_secs() / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Returns the first break in the chain. A last certificate that is not a root is no break: clients trust its issuer.
pub(super) fn order(
    chain: &[CertificateDer<'_>],
    algorithms: &[&'static dyn SignatureVerificationAlgorithm],
) -> Option<ChainFault> {
    chain.windows(2).enumerate().find_map(|(index, pair)| {
        let position = index + 1;
        let Some(this) = Parts::of(&pair[0]) else { return Some(ChainFault::Unreadable { position }) };
        let Some(next) = Parts::of(&pair[1]) else { return Some(ChainFault::Unreadable { position: position + 1 }) };
        let (subject, issuer) = (this.subject.to_string(), this.issuer.to_string());
        if this.is_self_issued() {
            return Some(ChainFault::NothingToFollow { position, subject });
        }
        if this.issuer != next.subject {
            let is_issuer = |other: &CertificateDer<'_>| Parts::of(other).is_some_and(|it| it.subject == this.issuer);
            let found = chain.iter().position(is_issuer).map(|index| index + 1);
            return Some(ChainFault::OutOfOrder { position, subject, issuer, found });
        }
        // All algorithms of TLS are known; clients judge the others (SHA-1, DSA).
        let forged = this.is_signed_by(&next, algorithms) == Some(false);
        forged.then_some(ChainFault::NotSigned { position, subject, issuer })
    })
}

/// Returns the first intermediate that is not valid at `now`. Skips the server's own certificate and roots, since
/// clients use their own copy of a root.
pub(super) fn dates(chain: &[CertificateDer<'_>], now: SystemTime) -> Option<ChainFault> {
    chain.iter().enumerate().skip(1).find_map(|(index, certificate)| {
        let parts = Parts::of(certificate).filter(|parts| !parts.is_self_issued())?;
        let (position, subject) = (index + 1, || parts.subject.to_string());
        if let Some(since) = parts.validity.expired_since(now) {
            return Some(ChainFault::Expired { position, subject: subject(), since });
        }
        let until = parts.validity.begins_in(now)?;
        Some(ChainFault::NotYetValid { position, subject: subject(), until })
    })
}

/// Returns a fault if `new` comes without its issuer's certificate, which `old` has: a renewal that forgot the
/// intermediates.
///
/// Judges only a certificate that comes alone. A longer chain may end earlier than before: a root signed by an older
/// one is left out once clients know it.
pub(super) fn alone(new: &[CertificateDer<'_>], old: &[CertificateDer<'_>]) -> Option<ChainFault> {
    let [alone] = new else { return None };
    let alone = Parts::of(alone).filter(|parts| !parts.is_self_issued())?;
    let mut intermediates = old.iter().skip(1).filter_map(|it| Parts::of(it)).filter(|it| !it.is_self_issued());
    let missing = intermediates.any(|it| it.subject == alone.issuer);
    missing.then(|| ChainFault::Alone { issuer: alone.issuer.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::provider;
    use super::super::test_certificates::Ca;
    use super::*;

    fn fault(chain: &[&CertificateDer<'static>]) -> Option<String> {
        let chain: Vec<_> = chain.iter().map(|it| (*it).clone()).collect();
        order(&chain, provider().signature_verification_algorithms.all).map(|fault| fault.to_string())
    }

    #[test]
    fn a_break_in_the_chain_is_named_with_what_would_mend_it() {
        let root = Ca::named("root");
        let middle = root.intermediate("middle", |_| {});
        let low = middle.intermediate("low", |_| {});
        let (root_der, middle_der, low_der) = (root.der(), middle.der(), low.der());
        let leaf =
            &low.certify(&["a.example"], |params| params.distinguished_name.push(rcgen::DnType::CommonName, "leaf"));
        for good in [
            &[leaf][..],
            &[leaf, low_der],
            &[leaf, low_der, middle_der],
            &[leaf, low_der, middle_der, root_der],
            &[root_der],
        ] {
            assert_eq!(fault(good), None);
        }
        let (another_low, nonsense) = (root.intermediate("low", |_| {}), CertificateDer::from(b"x".to_vec()));
        for (bad, expected) in [
            (
                &[leaf, middle_der, low_der][..],
                "certificate 1 (`leaf`) must be followed by the one that issued it (`low`), which is certificate 3",
            ),
            (
                &[leaf, middle_der],
                "certificate 1 (`leaf`) must be followed by the one that issued it (`low`), which is missing",
            ),
            (
                &[leaf, low_der, root_der],
                "certificate 2 (`low`) must be followed by the one that issued it (`middle`), which is missing",
            ),
            (
                &[leaf, another_low.der()],
                "certificate 1 (`leaf`) was not signed with the key of the one after it, though that is named `low`: is it of another generation?",
            ),
            (&[root_der, leaf], "certificate 1 (`root`) is self-signed and needs none after it: remove those"),
            (
                &[leaf, leaf],
                "certificate 1 (`leaf`) must be followed by the one that issued it (`low`), which is missing",
            ),
            (&[leaf, &nonsense], "certificate 2 cannot be parsed"),
        ] {
            assert_eq!(fault(bad).as_deref(), Some(expected));
        }
    }

    #[test]
    fn intermediates_expire_roots_do_not_matter() {
        let year = |year: u64| UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_557_600);
        let root = Ca::named("root");
        let middle = root.intermediate("middle", |params| {
            params.not_before = rcgen::date_time_ymd(2010, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        });
        let leaf = middle.certify(&["a.example"], |_| {});
        let chain = [leaf, middle.der().clone(), root.der().clone()];
        assert_eq!(dates(&chain, year(2015)), None);
        assert!(matches!(dates(&chain, year(2030)), Some(ChainFault::Expired { position: 2, .. })));
        assert!(matches!(dates(&chain, year(2005)), Some(ChainFault::NotYetValid { position: 2, .. })));
        // The root of these tests is valid until 4096.
        assert_eq!(dates(&[chain[0].clone(), chain[2].clone()], year(5000)), None);
    }

    #[test]
    fn a_renewal_that_forgot_its_intermediates_is_noticed() {
        let root = Ca::named("root");
        let middle = root.intermediate("middle", |_| {});
        let leaf = |of: &Ca| of.certify(&["a.example"], |_| {});
        let low = middle.intermediate("low", |_| {});
        let whole = [leaf(&low), low.der().clone(), middle.der().clone(), root.der().clone()];
        assert_eq!(alone(&[leaf(&low)], &whole), Some(ChainFault::Alone { issuer: "`low`".to_owned() }));
        // A chain may end earlier, and another CA has other intermediates.
        for fine in [&[leaf(&low), low.der().clone()][..], &[leaf(&root)], &[leaf(&Ca::named("other"))]] {
            assert_eq!(alone(fine, &whole), None);
        }
    }
}
