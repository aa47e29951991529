//! Reads PEM as found in practice: with a byte order mark, indented by a template, with Windows line ends, with text
//! around and between, with the labels of old tools. RFC 7468 §2 wants parsers to be lenient about white space;
//! pki_types accepts only lines that begin at the margin, so this module moves them there.

use std::borrow::Cow;

use rustls::pki_types::pem::Error;

use crate::base::file_state::{self, BYTE_ORDER_MARK};

/// Old labels and their present names (RFC 7468 §5.1), as in their lines.
const OLD_LABELS: [&[u8]; 2] = [b" X509 CERTIFICATE-----", b" X.509 CERTIFICATE-----"];
const LABEL: &[u8] = b" CERTIFICATE-----";

/// Normalises PEM for a parser.
///
/// # Errors
/// Returns the kind of the text if it is not PEM.
pub(super) fn normal(text: &[u8]) -> Result<Cow<'_, [u8]>, file_state::NotText> {
    if file_state::is_utf16(text) {
        return Err(file_state::NotText::Utf16);
    }
    let mark = BYTE_ORDER_MARK.as_bytes();
    let is_normal = |line: &[u8]| {
        !line.starts_with(mark)
            && !line.first().is_some_and(u8::is_ascii_whitespace)
            && !OLD_LABELS.iter().any(|label| line.ends_with(label))
    };
    if text.split(|&byte| byte == b'\n').all(|line| is_normal(line.trim_ascii_end())) {
        return Ok(Cow::Borrowed(text));
    }
    let mut normal = Vec::with_capacity(text.len());
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.strip_prefix(mark).unwrap_or(line).trim_ascii();
        match OLD_LABELS.iter().find_map(|label| line.strip_suffix(*label)) {
            Some(start) => normal.extend([start, LABEL].concat()),
            None => normal.extend(line),
        }
        normal.push(b'\n');
    }
    Ok(Cow::Owned(normal))
}

/// What a file should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Certificate,
    Key,
}

/// Describes a file that does not hold what it should.
pub(super) fn instead(text: &[u8], wanted: Wanted) -> &'static str {
    let has = |part: &[u8]| contains(text, part);
    let is_key = has(b"PRIVATE KEY-----");
    match wanted {
        _ if text.trim_ascii().is_empty() => ": it is empty",
        _ if text[0] == 0x30 => {
            ": it looks like DER; convert it to PEM (openssl x509 or openssl pkey, -inform der -in IN -out OUT)"
        }
        _ if has_escaped_ends(text) => ": its line breaks are written as `\\n`; put real ones in their place",
        Wanted::Certificate if has(b"BEGIN TRUSTED CERTIFICATE-----") => {
            ", only OpenSSL's own kind; convert it (openssl x509 -in IN -out OUT)"
        }
        _ if has(b"CERTIFICATE REQUEST-----") => ", only a request for one, which an authority has to sign first",
        _ if has(b"BEGIN PKCS7-----") => ", only PKCS #7; convert it (openssl pkcs7 -print_certs -in IN -out OUT)",
        Wanted::Certificate if is_key => ", only a private key: are `cert` and `key` swapped?",
        Wanted::Key if has(b"BEGIN OPENSSH PRIVATE KEY-----") => {
            ", only one of OpenSSH; convert a copy of it (ssh-keygen -p -m PEM -f COPY)"
        }
        Wanted::Key if has(b"BEGIN CERTIFICATE-----") => ", only certificates: are `cert` and `key` swapped?",
        Wanted::Key if has(b"PUBLIC KEY-----") => ", only a public one",
        _ if has(b"-----BEGIN") => {
            " that can be read: lines such as -----BEGIN CERTIFICATE----- or -----BEGIN PRIVATE KEY----- stand alone"
        }
        _ => ": a PEM file has lines such as -----BEGIN CERTIFICATE----- or -----BEGIN PRIVATE KEY-----",
    }
}

/// Returns a parser's message without the text that it quotes.
pub(super) const fn fault(error: &Error) -> &'static str {
    match error {
        Error::MissingSectionEnd { .. } => {
            "a section has no line -----END …-----, or its lines stand on one: each line stands by itself"
        }
        Error::IllegalSectionStart { .. } => "a line -----BEGIN …----- does not stand alone",
        Error::Base64Decode(_) => "what is between BEGIN and END is not Base64",
        Error::SectionTooLarge => "a section is too large",
        _ => "it cannot be read",
    }
}

/// Returns true if all is on one line, as from JSON or an environment variable.
pub(super) fn has_escaped_ends(text: &[u8]) -> bool {
    contains(text, b"-----\\n")
}

pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::super::error::TlsError;
    use super::super::identity::Identity;
    use super::super::test_certificates::Ca;
    use super::*;

    fn utf16(text: &str, mark: bool, big: bool) -> Vec<u8> {
        let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    }

    #[test]
    fn certificates_and_keys_are_read_as_people_have_them() {
        let (cert, key) = Ca::new().sign(&["a.example"], |_| {});
        let each_line = |text: &str, change: fn(&str) -> String| text.lines().map(change).collect::<String>();
        let change = |text: &str| {
            [
                format!("\u{feff}{text}"),
                format!("\u{feff}Bag Attributes\n  friendlyName: x\n\u{feff}{text}junk after it"),
                each_line(text, |line| format!("{line}\r\n")),
                each_line(text, |line| format!("    {line}\n")),
                each_line(text, |line| format!("\t{line} \r\n")),
                each_line(text, |line| format!("{line}\n\n")),
                text.trim_end().to_owned(),
                text.replace(" CERTIFICATE", " X509 CERTIFICATE"),
            ]
        };
        for (cert, key) in change(&cert).iter().zip(&change(&key)) {
            Identity::from_pem("x", cert.as_bytes(), key.as_bytes()).unwrap_or_else(|error| panic!("{cert}: {error}"));
            // Both in one file, in either order.
            for both in [format!("{cert}\n{key}"), format!("{key}\n{cert}")] {
                Identity::from_pem("x", both.as_bytes(), both.as_bytes())
                    .unwrap_or_else(|error| panic!("{both}: {error}"));
            }
        }
    }

    #[test]
    fn what_is_none_is_told_by_what_it_is() {
        let (cert, key) = Ca::new().sign(&["a.example"], |_| {});
        let labelled = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n").into_bytes();
        let told = |cert: &[u8], key: &[u8]| Identity::from_pem("x", cert, key).unwrap_err().to_string();
        for (text, words) in [
            (b"".to_vec(), "it is empty"),
            (b" \r\n".to_vec(), "it is empty"),
            (utf16(&cert, true, false), "UTF-16"),
            (utf16(&cert, true, true), "UTF-16"),
            (utf16(&cert, false, false), "UTF-16"),
            (key.clone().into_bytes(), "only a private key: are `cert` and `key` swapped?"),
            (labelled("CERTIFICATE REQUEST"), "only a request for one"),
            (labelled("TRUSTED CERTIFICATE"), "OpenSSL's own kind"),
            (labelled("PKCS7"), "only PKCS #7"),
            (cert.replace('\n', "\\n").into_bytes(), "line breaks are written as"),
            (format!("cert: {cert}").into_bytes(), "stand alone"),
            (CertificateDer::from_pem_slice(cert.as_bytes()).unwrap().to_vec(), "it looks like DER"),
            (b"hello".to_vec(), "a PEM file has lines such as"),
        ] {
            let error = told(&text, key.as_bytes());
            assert!(error.contains(words) && error.starts_with("x "), "{words}: {error}");
        }
        for (text, words) in [
            (utf16(&key, true, false), "UTF-16"),
            (cert.clone().into_bytes(), "only certificates: are `cert` and `key` swapped?"),
            (labelled("OPENSSH PRIVATE KEY"), "only one of OpenSSH"),
            (labelled("PUBLIC KEY"), "only a public one"),
            (key.replace('\n', "\\n").into_bytes(), "line breaks are written as"),
            (format!("key: {key}").into_bytes(), "stand alone"),
        ] {
            let error = told(cert.as_bytes(), &text);
            assert!(error.contains(words) && error.starts_with("x "), "{words}: {error}");
        }
        let cut = &cert[..cert.len() - 10];
        assert!(matches!(Identity::from_pem("x", cut.as_bytes(), key.as_bytes()), Err(TlsError::Pem { .. })));
    }

    #[test]
    fn nothing_of_a_key_is_in_an_error_however_it_is_spoilt() {
        let (cert, key) = Ca::new().sign(&["a.example"], |_| {});
        let line = key.lines().nth(1).unwrap();
        for spoilt in [
            key.replace('\n', " "),
            key.replace('\n', ""),
            key.replacen("-----\n", "-----", 1),
            key.replace("-----END", "-----FIN"),
            key.replace(line, &format!("{line}!")),
            key.replace(line, &format!("-----{line}")),
            key.replace("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY"),
        ] {
            for error in [
                Identity::from_pem("x", cert.as_bytes(), spoilt.as_bytes()).unwrap_err(),
                Identity::from_pem("x", spoilt.as_bytes(), key.as_bytes()).unwrap_err(),
            ] {
                let mut texts = vec![error.to_string(), format!("{error:?}")];
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    texts.push(error.to_string());
                    cause = error.source();
                }
                for text in texts {
                    // As text, and as the numbers of its bytes.
                    let numbers = line.bytes().take(3).map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
                    assert!(!text.contains(&line[..8]) && !text.contains(&numbers), "{text}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(normal) = normal(&bytes) {
                let _ = (instead(&normal, Wanted::Certificate), instead(&normal, Wanted::Key));
            }
        }
    }
}
