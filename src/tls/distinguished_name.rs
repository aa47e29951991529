//! Distinguished names as text (RFC 4514), as nginx and `openssl x509 -nameopt RFC2253` write them: the last part first,
//! `CN=device-1,O=Example`. Letters beyond ASCII stay as they are.
//!
//! A value whose encoding is not clear (a Teletex string) or whose kind is unknown is `#` and its DER in hex, so that a
//! name can always be written, and two names are never written alike.

use super::der::{OBJECT_IDENTIFIER, SEQUENCE, SET, contents, element};

/// The longest text. A name that is longer is not written at all: what is left of it could be another name.
const TEXT_BYTES_MAX: usize = 1024;

/// The most parts of a name.
const ATTRIBUTES_MAX: usize = 64;

/// The longest identifier, in bytes and in the bits of one number.
const IDENTIFIER_BYTES_MAX: usize = 32;
const NUMBER_BITS_MAX: u32 = 63;

const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const VISIBLE_STRING: u8 = 0x1a;

/// id-at-commonName (RFC 5280 appendix A.1).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The short names of RFC 4514 §3, and some more that OpenSSL writes.
const SHORT_NAMES: [(&[u8], &str); 14] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 0x04, 0x04], "SN"),
    (&[0x55, 0x04, 0x05], "serialNumber"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x09], "street"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (&[0x55, 0x04, 0x0c], "title"),
    (&[0x55, 0x04, 0x2a], "GN"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01], "emailAddress"),
];

/// A part of a name: AttributeTypeAndValue.
struct Attribute<'a> {
    kind: &'a [u8],
    tag: u8,
    value: &'a [u8],
    /// The value with its tag and length.
    der: &'a [u8],
    /// Whether it is in one set with the one before it.
    is_joined: bool,
}

impl Attribute<'_> {
    /// Returns the value if it is a text in an encoding that is clear.
    fn text(&self) -> Option<&str> {
        let text = std::str::from_utf8(self.value).ok()?;
        match self.tag {
            UTF8_STRING => Some(text),
            NUMERIC_STRING | PRINTABLE_STRING | IA5_STRING | VISIBLE_STRING => text.is_ascii().then_some(text),
            _ => None,
        }
    }

    fn write(&self, out: &mut String) -> Option<()> {
        let name = SHORT_NAMES.iter().find(|(kind, _)| *kind == self.kind).map(|(_, name)| *name);
        match name {
            Some(name) => out.push_str(name),
            None => dotted(self.kind, out)?,
        }
        out.push('=');
        match self.text().filter(|_| name.is_some()) {
            Some(text) => escape(text, out),
            None => {
                out.push('#');
                for byte in self.der {
                    push_hex(*byte, out);
                }
            }
        }
        Some(())
    }
}

/// Returns the contents of an RDNSequence as text; `None` if it cannot be read, or is too long.
pub(super) fn text(name: &[u8]) -> Option<String> {
    let attributes = attributes(name)?;
    let mut out = String::new();
    for (index, attribute) in attributes.iter().enumerate().rev() {
        if attribute.der.len() > TEXT_BYTES_MAX {
            return None;
        }
        attribute.write(&mut out)?;
        if index > 0 {
            out.push(if attribute.is_joined { '+' } else { ',' });
        }
        if out.len() > TEXT_BYTES_MAX {
            return None;
        }
    }
    Some(out)
}

/// Returns the common name in it, if there is just one and it is a text.
pub(super) fn common_name(name: &[u8]) -> Option<String> {
    let attributes = attributes(name)?;
    let mut all = attributes.iter().filter(|attribute| attribute.kind == COMMON_NAME);
    let (Some(one), None) = (all.next(), all.next()) else { return None };
    one.text().filter(|text| text.len() <= TEXT_BYTES_MAX).map(str::to_owned)
}

fn attributes(mut name: &[u8]) -> Option<Vec<Attribute<'_>>> {
    let mut all = vec![];
    while !name.is_empty() {
        let mut set = contents(&mut name, SET)?;
        let mut is_joined = false;
        // Never empty (RFC 5280 §4.1.2.4).
        loop {
            let mut pair = contents(&mut set, SEQUENCE)?;
            let kind = contents(&mut pair, OBJECT_IDENTIFIER)?;
            let der = pair;
            let (tag, value) = element(&mut pair)?;
            if !pair.is_empty() || all.len() == ATTRIBUTES_MAX {
                return None;
            }
            all.push(Attribute { kind, tag, value, der, is_joined });
            if set.is_empty() {
                break;
            }
            is_joined = true;
        }
    }
    Some(all)
}

/// Writes a value as RFC 4514 §2.4 says.
fn escape(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (at, char) in text.char_indices() {
        let is_edge = (at == 0 && matches!(char, ' ' | '#')) || (at == last && char == ' ');
        match char {
            '\0'..='\x1f' | '\x7f' => {
                out.push('\\');
                push_hex(char as u8, out);
                continue;
            }
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.push('\\'),
            _ if is_edge => out.push('\\'),
            _ => {}
        }
        out.push(char);
    }
}

fn push_hex(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Writes an object identifier in numbers (X.690 §8.19).
fn dotted(identifier: &[u8], out: &mut String) -> Option<()> {
    if identifier.is_empty() || identifier.len() > IDENTIFIER_BYTES_MAX {
        return None;
    }
    let (mut number, mut bits, mut is_first) = (0_u64, 0, true);
    for byte in identifier {
        // The shortest form only.
        if bits == 0 && *byte == 0x80 {
            return None;
        }
        bits += 7;
        if bits > NUMBER_BITS_MAX {
            return None;
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if std::mem::take(&mut is_first) {
            let root = (number / 40).min(2);
            out.push_str(&format!("{root}.{}", number - root * 40));
        } else {
            out.push_str(&format!(".{number}"));
        }
        (number, bits) = (0, 0);
    }
    // An end in the middle of a number.
    (bits == 0).then_some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::process::Command;

    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::super::x509::Parts;
    use super::*;

    fn subject(parts: &[(DnType, DnValue)]) -> (Option<String>, Option<String>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        parts.iter().for_each(|(kind, value)| params.distinguished_name.push(kind.clone(), value.clone()));
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let name = Parts::of(made.der()).unwrap().subject;
        (text(name.der()), common_name(name.der()))
    }

    #[test]
    fn a_name_is_written_as_others_write_it() {
        use DnType::{CommonName, CountryName, CustomDnType, OrganizationName};
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        for (parts, written, cn) in [
            (vec![], Some(""), None),
            (
                vec![(CountryName, utf8("DE")), (OrganizationName, utf8("Ex, Inc")), (CommonName, utf8("device-1"))],
                Some(r"CN=device-1,O=Ex\, Inc,C=DE"),
                Some("device-1"),
            ),
            (vec![(CommonName, utf8("Müller"))], Some("CN=Müller"), Some("Müller")),
            (vec![(CommonName, utf8(" #a\r\n\0\x7f "))], Some(r"CN=\ #a\0D\0A\00\7F\ "), Some(" #a\r\n\0\x7f ")),
            (vec![(CommonName, utf8("#a=b"))], Some(r"CN=\#a=b"), Some("#a=b")),
            (vec![(CommonName, utf8(r#"a+"<>;\"#))], Some(r#"CN=a\+\"\<\>\;\\"#), Some(r#"a+"<>;\"#)),
            (vec![(CommonName, utf8(""))], Some("CN="), Some("")),
            (vec![(CommonName, utf8(" "))], Some(r"CN=\ "), Some(" ")),
            (vec![(CommonName, DnValue::BmpString("é".try_into().unwrap()))], Some("CN=#1E0200E9"), None),
            (vec![(CustomDnType(vec![1, 2, 840, 99999]), utf8("a"))], Some("1.2.840.99999=#0C0161"), None),
            (vec![(CustomDnType(vec![2, 999, 3]), utf8("a"))], Some("2.999.3=#0C0161"), None),
            (vec![(CommonName, utf8(&"a".repeat(1022)))], None, Some(&*"a".repeat(1022))),
            (vec![(CommonName, utf8(&"a".repeat(60_000)))], None, None),
        ] {
            let (text, common_name) = subject(&parts);
            assert_eq!((text.as_deref(), common_name.as_deref()), (written, cn));
        }
    }

    /// Returns what OpenSSL makes of a subject: its certificate, and how it writes the name.
    fn of_openssl(subject: &str) -> Option<(Vec<u8>, String)> {
        let run = |arguments: &[&str]| Some(Command::new("openssl").args(arguments).output().ok()?.stdout);
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("k");
        let file = dir.path().join("c");
        let (key, file) = (key.to_str().unwrap(), file.to_str().unwrap());
        let new = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-utf8",
            "-multivalue-rdn",
        ];
        run(&[&new[..], &["-keyout", key, "-out", file, "-outform", "DER", "-subj", subject]].concat())?;
        let shown = run(&["x509", "-in", file, "-inform", "DER", "-noout", "-subject", "-nameopt", "RFC2253"])?;
        let shown = String::from_utf8(shown).unwrap();
        let name = shown.trim_end_matches('\n').strip_prefix("subject=").unwrap_or(&shown).to_owned();
        Some((std::fs::read(file).unwrap(), name))
    }

    #[test]
    fn openssl_writes_the_same() {
        for subject in [
            "/CN=device-1",
            "/C=DE/ST=Bayern/L=Here/street=A 1/O=Ex, Inc/OU=a\\+b/CN=x",
            "/DC=com/DC=example/UID=ann+CN=Ann/emailAddress=ann@example.com",
            "/CN=a/CN=b/serialNumber=17/title=Dr/GN=A/SN=B",
            "/CN= a;b<c>\"d #",
            "/businessCategory=x/CN=a",
        ] {
            let Some((der, shown)) = of_openssl(subject) else {
                eprintln!("skipped: openssl is not installed");
                return;
            };
            let written = text(Parts::of(&der).unwrap().subject.der()).unwrap();
            if subject.contains("businessCategory") {
                // A kind that only OpenSSL has a name for.
                assert_eq!(written, "CN=a,2.5.4.15=#0C0178");
            } else {
                assert_eq!(written, shown, "{subject}");
            }
        }
    }

    #[test]
    fn a_name_that_is_not_der_is_none() {
        for name in [
            &[0x31, 0][..],
            &[0x31, 2, 0x30, 0],
            &[0x30, 0],
            // Something behind the value.
            &[0x31, 12, 0x30, 10, 6, 3, 0x55, 4, 3, 12, 1, b'a', 5, 0],
            // Identifiers that end early, or are not in the shortest form.
            &[0x31, 9, 0x30, 7, 6, 2, 0x55, 0x84, 12, 1, b'a'],
            &[0x31, 10, 0x30, 8, 6, 3, 0x55, 0x80, 4, 12, 1, b'a'],
        ] {
            assert_eq!(text(name), None, "{name:x?}");
        }
    }
}
