//! What a client's certificate says of it, as routes and variables see it: read once, when the connection begins.
//!
//! Who signed it for whom stands in its subject and its names; an authority lets others choose parts of them. So values
//! are written in a way that one percent-decoding gives back: no two certificates have one value by a `%` or a comma.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

/// The length of a fingerprint.
pub const FINGERPRINT_BYTES: usize = 32;

/// A certificate that a client has shown, and that was verified. What it does not say, or says in a way that cannot be
/// read, is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The SHA-256 of all of it.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    /// Its subject, as RFC 4514 writes names.
    pub subject: String,
    /// The common name in its subject, if there is just one.
    pub common_name: String,
    /// Its issuer, as its subject.
    pub issuer: String,
    /// Its serial number, in hex.
    pub serial: String,
    /// Its subjectAltName, in its order.
    pub names: Vec<AlternativeName>,
}

/// A name in a subjectAltName (RFC 5280 §4.2.1.6). Texts are visible ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    /// A host, in lower case.
    Dns(String),
    /// A mailbox.
    Email(String),
    /// A URI.
    Uri(String),
    /// An address.
    Ip(IpAddr),
}

/// As OpenSSL shows it: `DNS:a.example`.
impl fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AlternativeName::Dns(name) => write!(f, "DNS:{name}"),
            AlternativeName::Email(name) => write!(f, "email:{name}"),
            AlternativeName::Uri(name) => write!(f, "URI:{name}"),
            AlternativeName::Ip(address) => write!(f, "IP:{address}"),
        }
    }
}

/// What of a certificate a variable stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificatePart {
    /// Its subject.
    Subject,
    /// The common name in its subject.
    CommonName,
    /// Its issuer.
    Issuer,
    /// Its serial number.
    Serial,
    /// Its fingerprint.
    Fingerprint,
    /// All names in its subjectAltName, each with its kind.
    Names,
    /// The hosts among them.
    Dns,
    /// The URIs among them.
    Uri,
}

impl ClientCertificate {
    /// Writes a part of it. `%` is `%25`, and a comma inside one of several names is `%2C`.
    pub fn write(&self, part: CertificatePart, out: &mut String) {
        match part {
            CertificatePart::Subject => escape(&self.subject, &['%'], out),
            CertificatePart::CommonName => escape(&self.common_name, &['%'], out),
            CertificatePart::Issuer => escape(&self.issuer, &['%'], out),
            CertificatePart::Serial => out.push_str(&self.serial),
            CertificatePart::Fingerprint => hex(&self.fingerprint, out),
            CertificatePart::Names => list(self.names.iter().map(ToString::to_string), out),
            CertificatePart::Dns => list(self.names.iter().filter_map(AlternativeName::dns), out),
            CertificatePart::Uri => list(self.names.iter().filter_map(AlternativeName::uri), out),
        }
    }
}

impl AlternativeName {
    /// Returns the host that it is.
    pub fn dns(&self) -> Option<&str> {
        if let AlternativeName::Dns(name) = self { Some(name) } else { None }
    }

    /// Returns the URI that it is.
    pub fn uri(&self) -> Option<&str> {
        if let AlternativeName::Uri(name) = self { Some(name) } else { None }
    }
}

/// Writes bytes in hex, in lower case.
pub fn hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
}

fn list<T: AsRef<str>>(names: impl Iterator<Item = T>, out: &mut String) {
    for (index, name) in names.enumerate() {
        if index > 0 {
            out.push(',');
        }
        escape(name.as_ref(), &['%', ','], out);
    }
}

fn escape(text: &str, special: &[char], out: &mut String) {
    for char in text.chars() {
        match char {
            '%' | ',' if special.contains(&char) => out.push_str(if char == '%' { "%25" } else { "%2C" }),
            char => out.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(certificate: &ClientCertificate, part: CertificatePart) -> String {
        let mut out = String::new();
        certificate.write(part, &mut out);
        out
    }

    #[test]
    fn no_two_certificates_have_one_value() {
        let names = vec![
            AlternativeName::Dns("a.example".to_owned()),
            AlternativeName::Uri("spiffe://a/b,DNS:admin.example".to_owned()),
            AlternativeName::Uri("spiffe://a/%2C".to_owned()),
            AlternativeName::Email("ann@a.example".to_owned()),
            AlternativeName::Ip(IpAddr::from([10, 0, 0, 7])),
        ];
        let certificate = ClientCertificate {
            subject: r"CN=a%20b,O=c\, d".to_owned(),
            common_name: "a%20b".to_owned(),
            serial: "0A".to_owned(),
            names,
            ..ClientCertificate::default()
        };
        for (part, value) in [
            (CertificatePart::Subject, r"CN=a%2520b,O=c\, d"),
            (CertificatePart::CommonName, "a%2520b"),
            (CertificatePart::Issuer, ""),
            (CertificatePart::Serial, "0A"),
            (CertificatePart::Fingerprint, &"00".repeat(32)),
            (
                CertificatePart::Names,
                "DNS:a.example,URI:spiffe://a/b%2CDNS:admin.example,URI:spiffe://a/%252C,email:ann@a.example,IP:10.0.0.7",
            ),
            (CertificatePart::Dns, "a.example"),
            (CertificatePart::Uri, "spiffe://a/b%2CDNS:admin.example,spiffe://a/%252C"),
        ] {
            assert_eq!(written(&certificate, part), value, "{part:?}");
        }
    }
}
