//! The certificates of clients that a route matches.
//!
//! A route that asks for one is a door, so all here is strict: a wildcard is one label, as in certificates themselves, and a
//! certificate that has a wildcard is nobody that a wildcard means.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{HostPattern, OneOrMore, PatternError, as_string};
use crate::header::client_certificate::{AlternativeName, ClientCertificate, FINGERPRINT_BYTES, hex};

/// A certificate that a client has shown. All that is given must hold; of a list, one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientCertPattern {
    /// A name in its subjectAltName, or a list, of which it must have one: a host (`device-1.example.com`; `*.example.com` is
    /// one label more, and no wildcard of a certificate), a URI (`spiffe://example.com/device`), a mailbox or an IP
    /// address. Default: any.
    #[serde(skip_serializing_if = "OneOrMore::is_empty")]
    pub san: OneOrMore<SanPattern>,

    /// Its whole subject, or a list of subjects: `CN=device-1,O=Example`, as
    /// `openssl x509 -noout -subject -nameopt RFC2253 -in FILE` and `wsluice check --request URL --client-cert FILE` show it. Default: any.
    #[serde(skip_serializing_if = "OneOrMore::is_empty")]
    pub subject: OneOrMore<SubjectPattern>,

    /// The SHA-256 of the certificate in hex, with or without colons, or a list of them:
    /// `openssl x509 -noout -fingerprint -sha256 -in FILE` shows it. It is another one when the certificate is renewed.
    /// Default: any.
    #[serde(skip_serializing_if = "OneOrMore::is_empty")]
    pub fingerprint: OneOrMore<FingerprintPattern>,
}

impl ClientCertPattern {
    /// Returns true if the certificate is one that is asked for.
    pub fn matches(&self, certificate: &ClientCertificate) -> bool {
        self.has_name(certificate) && self.has_subject(certificate) && self.has_fingerprint(certificate)
    }

    pub(in crate::route) fn has_name(&self, certificate: &ClientCertificate) -> bool {
        let is_asked = |name: &AlternativeName| self.san.0.iter().any(|pattern| pattern.matches(name));
        self.san.is_empty() || certificate.names.iter().any(is_asked)
    }

    pub(in crate::route) fn has_subject(&self, certificate: &ClientCertificate) -> bool {
        self.subject.is_empty() || self.subject.0.iter().any(|pattern| pattern.0 == certificate.subject)
    }

    pub(in crate::route) fn has_fingerprint(&self, certificate: &ClientCertificate) -> bool {
        self.fingerprint.is_empty() || self.fingerprint.0.iter().any(|pattern| pattern.0 == certificate.fingerprint)
    }

    /// Returns true if every certificate that `other` matches is surely matched by this too.
    pub fn covers(&self, other: &ClientCertPattern) -> bool {
        fn any<T>(asked: &OneOrMore<T>, given: &OneOrMore<T>, covers: impl Fn(&T, &T) -> bool) -> bool {
            let is_asked = |one: &T| asked.0.iter().any(|ours| covers(ours, one));
            asked.is_empty() || !given.is_empty() && given.0.iter().all(is_asked)
        }
        any(&self.san, &other.san, SanPattern::covers)
            && any(&self.subject, &other.subject, PartialEq::eq)
            && any(&self.fingerprint, &other.fingerprint, PartialEq::eq)
    }

    /// Returns how many texts it has.
    pub fn len(&self) -> usize {
        self.san.0.len() + self.subject.0.len() + self.fingerprint.0.len()
    }

    /// Returns true if any certificate is meant.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Matches a name in a subjectAltName.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SanPattern {
    /// This name.
    Exact(AlternativeName),
    /// `*.example.com`: a host with one label more. Stored with the first dot.
    Below(String),
}

impl SanPattern {
    /// Returns true if the name matches.
    pub fn matches(&self, name: &AlternativeName) -> bool {
        match (self, name) {
            (SanPattern::Below(suffix), AlternativeName::Dns(name)) => {
                let label = name.strip_suffix(suffix.as_str());
                label.is_some_and(|label| !label.is_empty() && label.bytes().all(is_of_label))
            }
            (SanPattern::Below(_), _) => false,
            (SanPattern::Exact(AlternativeName::Email(asked)), AlternativeName::Email(name)) => {
                // Only the host of a mailbox has no case (RFC 5280 §7.5).
                match (asked.rsplit_once('@'), name.rsplit_once('@')) {
                    (Some((user, host)), Some((users, hosts))) => user == users && host.eq_ignore_ascii_case(hosts),
                    _ => false,
                }
            }
            (SanPattern::Exact(asked), name) => asked == name,
        }
    }

    fn covers(&self, other: &SanPattern) -> bool {
        match other {
            SanPattern::Exact(name) => self.matches(name),
            SanPattern::Below(_) => self == other,
        }
    }
}

impl FromStr for SanPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<SanPattern, PatternError> {
        let is_visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible {
            return Err(PatternError::San(text.to_owned()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(SanPattern::Exact(AlternativeName::Ip(address)));
        }
        if is_uri(text) {
            return Ok(SanPattern::Exact(AlternativeName::Uri(text.to_owned())));
        }
        if text.contains('@') {
            return Ok(SanPattern::Exact(AlternativeName::Email(text.to_owned())));
        }
        match text.parse::<HostPattern>()? {
            HostPattern::Any => Err(PatternError::SanAny),
            HostPattern::Exact(name) => Ok(SanPattern::Exact(AlternativeName::Dns(name))),
            HostPattern::Below(suffix) => Ok(SanPattern::Below(suffix)),
        }
    }
}

/// Returns true for what a label of a host may have, in lower case.
fn is_of_label(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
}

/// Returns true for a scheme with something behind it that is no port.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !rest.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for SanPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SanPattern::Below(suffix) => write!(f, "*{suffix}"),
            SanPattern::Exact(AlternativeName::Ip(address)) => address.fmt(f),
            SanPattern::Exact(
                AlternativeName::Dns(name) | AlternativeName::Email(name) | AlternativeName::Uri(name),
            ) => f.write_str(name),
        }
    }
}

as_string!(SanPattern, "SanPattern", {
    "type": "string",
    "description": "A host, `*.example.com` for one label more, a URI, a mailbox or an IP address.",
    "examples": ["*.devices.example.com", "spiffe://example.com/device"]
});

/// A subject, as RFC 4514 writes names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectPattern(String);

impl FromStr for SubjectPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<SubjectPattern, PatternError> {
        let wrong = || PatternError::Subject(text.to_owned());
        let (kind, value) = text.split_once('=').ok_or_else(wrong)?;
        let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
        // OpenSSL's own style is `CN = a`.
        if !is_kind || value.starts_with(' ') {
            return Err(wrong());
        }
        unescape(text).map(SubjectPattern).ok_or_else(wrong)
    }
}

/// Puts letters beyond ASCII in the place of their bytes in hex, as which OpenSSL and nginx show them: `M\C3\BCller`.
fn unescape(text: &str) -> Option<String> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let pair = tail.get(..2).filter(|pair| pair.iter().all(u8::is_ascii_hexdigit));
        let pair = pair.and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(beyond @ 0x80..) => {
                out.push(beyond);
                rest = &tail[2..];
            }
            _ => {
                let (&escaped, tail) = tail.split_first()?;
                out.extend([byte, escaped]);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).ok()
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_string!(SubjectPattern, "SubjectPattern", {
    "type": "string",
    "description": "The whole subject of a certificate (RFC 4514).",
    "examples": ["CN=device-1,O=Example"]
});

/// The SHA-256 of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintPattern([u8; FINGERPRINT_BYTES]);

impl FromStr for FingerprintPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<FingerprintPattern, PatternError> {
        let wrong = || PatternError::Fingerprint(text.to_owned());
        let digits: String = match text.contains(':') {
            true if text.split(':').all(|pair| pair.len() == 2) => text.split(':').collect(),
            true => return Err(wrong()),
            false => text.to_owned(),
        };
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_hex && digits.len() == 40 {
            return Err(PatternError::FingerprintSha1);
        }
        if !is_hex || digits.len() != 2 * FINGERPRINT_BYTES {
            return Err(wrong());
        }
        let mut bytes = [0; FINGERPRINT_BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
        }
        Ok(FingerprintPattern(bytes))
    }
}

impl fmt::Display for FingerprintPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        hex(&self.0, &mut text);
        f.write_str(&text)
    }
}

as_string!(FingerprintPattern, "FingerprintPattern", {
    "type": "string",
    "description": "The SHA-256 of a certificate in hex, with or without colons.",
    "pattern": "^([0-9A-Fa-f]{64}|([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2})$"
});
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::super::tests::from_yaml;
    use super::*;
    use crate::base::error_chain::error_chain;

    fn san(text: &str) -> SanPattern {
        text.parse().unwrap()
    }

    fn dns(name: &str) -> AlternativeName {
        AlternativeName::Dns(name.to_owned())
    }

    #[test]
    fn a_wildcard_is_a_label_and_nothing_else() {
        for name in
            ["a/b.example.com", "*.example.com", "a.b.example.com", ".example.com", "a@b.example.com", "é.example.com"]
        {
            assert!(!san("*.example.com").matches(&dns(name)), "{name}");
        }
        assert!(san("*.example.com").matches(&dns("_a-1.example.com")));
    }

    #[test]
    fn a_name_matches_exactly_or_one_label_below() {
        let (email, uri) =
            (|text: &str| AlternativeName::Email(text.into()), |text: &str| AlternativeName::Uri(text.into()));
        let ip = |text: &str| AlternativeName::Ip(text.parse().unwrap());
        for (pattern, yes, no) in [
            (
                "A.example.com",
                vec![dns("a.example.com")],
                vec![dns("b.example.com"), uri("a.example.com"), email("a.example.com")],
            ),
            (
                "*.example.com",
                vec![dns("a.example.com"), dns("a-1.example.com")],
                vec![
                    dns("example.com"),
                    dns(".example.com"),
                    dns("a.b.example.com"),
                    dns("*.example.com"),
                    dns("a*.example.com"),
                    dns("aexample.com"),
                    email("a.example.com"),
                ],
            ),
            (
                "spiffe://a/b",
                vec![uri("spiffe://a/b")],
                vec![uri("spiffe://a/b/"), uri("spiffe://A/b"), dns("spiffe://a/b")],
            ),
            ("urn:uuid:1", vec![uri("urn:uuid:1")], vec![uri("urn:uuid:2")]),
            ("Ann@a.example", vec![email("Ann@A.example")], vec![email("ann@a.example"), email("Ann@b@a.example")]),
            ("10.0.0.7", vec![ip("10.0.0.7")], vec![ip("10.0.0.8"), dns("10.0.0.7")]),
            ("::1", vec![ip("::1")], vec![ip("::2")]),
        ] {
            for name in &yes {
                assert!(san(pattern).matches(name), "{pattern} {name}");
            }
            for name in &no {
                assert!(!san(pattern).matches(name), "{pattern} {name}");
            }
            assert_eq!(san(&san(pattern).to_string()), san(pattern));
        }
        assert!(san("*.b").covers(&san("a.b")) && san("*.b").covers(&san("*.b")));
        assert!(!san("*.b").covers(&san("*.a.b")) && !san("a.b").covers(&san("*.b")));
    }

    #[test]
    fn what_can_match_nothing_says_what_would_be_right() {
        let error = |text: &str| error_chain(&text.parse::<SanPattern>().unwrap_err());
        assert_eq!(
            error("a b"),
            "`a b` is not a name in a certificate: write a host, `*.` and a host, a URI, a mailbox or an IP address"
        );
        assert_eq!(error("*"), "`*` is no name in a certificate: for any certificate write `client_cert: {}`");
        assert!(error("a.b:8443").contains("has a port"));
        assert!(error("a*.b").contains("`*` stands alone for any host, or as the first label"));
        for text in ["device-1", "", "CN = a, O = b", "/CN=a/O=b", "=a", r"CN=\ff", r"CN=a\"] {
            let error = text.parse::<SubjectPattern>().unwrap_err().to_string();
            assert!(error.contains("is not a subject: write all of it"), "{error}");
        }
        let sha1 = "ab".repeat(20);
        assert!(sha1.parse::<FingerprintPattern>().unwrap_err().to_string().contains("-sha256"));
        for text in ["", "ab", &"zz".repeat(32), &"ab".repeat(33), &"a:b".repeat(20)] {
            assert!(text.parse::<FingerprintPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_subject_is_the_same_however_it_is_shown() {
        let subject = |text: &str| text.parse::<SubjectPattern>().unwrap();
        assert_eq!(subject(r"CN=M\C3\BCller,O=a\, b").0, r"CN=Müller,O=a\, b");
        assert_eq!(subject("CN=Müller").to_string(), "CN=Müller");
        // An escaped backslash, and a control.
        assert_eq!(subject(r"CN=\\C3\0A").0, r"CN=\\C3\0A");
    }

    #[test]
    fn a_fingerprint_is_read_with_colons_and_without() {
        let (plain, colons) = ("0aF1".repeat(16), ["0A", "f1"].repeat(16).join(":"));
        let [one, other] = [plain, colons].map(|text| text.parse::<FingerprintPattern>().unwrap());
        assert_eq!((&one, one.to_string()), (&other, "0af1".repeat(16)));
    }

    #[test]
    fn all_that_is_given_must_hold() {
        let certificate = ClientCertificate {
            subject: "CN=a".to_owned(),
            names: vec![dns("a.example"), AlternativeName::Uri("spiffe://a".to_owned())],
            ..ClientCertificate::default()
        };
        let zero = "00".repeat(32);
        let pattern = |yaml: &str| from_yaml::<ClientCertPattern>(yaml).unwrap();
        for (yaml, is_matched) in [
            ("{}".to_owned(), true),
            ("{ san: a.example }".to_owned(), true),
            ("{ san: [b.example, 'spiffe://a'] }".to_owned(), true),
            ("{ san: b.example }".to_owned(), false),
            ("{ subject: CN=a }".to_owned(), true),
            ("{ subject: CN=b }".to_owned(), false),
            (format!("{{ fingerprint: '{zero}' }}"), true),
            (format!("{{ fingerprint: ['{}'] }}", "01".repeat(32)), false),
            (format!("{{ san: '*.example', subject: [CN=b, CN=a], fingerprint: '{zero}' }}"), true),
            (format!("{{ san: '*.example', subject: CN=b, fingerprint: '{zero}' }}"), false),
        ] {
            assert_eq!(pattern(&yaml).matches(&certificate), is_matched, "{yaml}");
            let again = serde_yaml::to_string(&pattern(&yaml)).unwrap();
            assert_eq!(pattern(&again), pattern(&yaml), "{again}");
        }
        // A certificate of which nothing could be read is any certificate, and no other.
        let unread = ClientCertificate::default();
        assert!(pattern("{}").matches(&unread) && !pattern("{ san: '*.example' }").matches(&unread));
    }
}
