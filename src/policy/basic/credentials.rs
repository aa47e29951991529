//! A name and a password as a request brings them.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use zeroize::Zeroizing;

use super::denial::{BasicDenial, CREDENTIALS_BYTES_MAX, CredentialsFlaw};
use super::hash::Password;

/// A name and a password. They are wiped when dropped, and never shown.
#[derive(Clone)]
pub struct Credentials {
    /// `NAME:PASSWORD`.
    text: Zeroizing<String>,
    /// Where the colon is.
    colon: usize,
}

impl Credentials {
    /// Returns those of a request.
    ///
    /// # Errors
    /// If there are none, or if they cannot be read in one way only.
    pub fn of(headers: &HeaderMap) -> Result<Credentials, BasicDenial> {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Err(BasicDenial::Missing),
            (Some(_), Some(_)) => Err(BasicDenial::Several),
            (Some(line), None) => {
                let encoded = after_scheme(line.as_bytes()).ok_or(BasicDenial::Missing)?;
                Ok(Credentials::decode(encoded)?)
            }
        }
    }

    fn decode(encoded: &[u8]) -> Result<Credentials, CredentialsFlaw> {
        if encoded.len() > CREDENTIALS_BYTES_MAX {
            return Err(CredentialsFlaw::Long);
        }
        // It never grows: what it would leave behind is not wiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(CREDENTIALS_BYTES_MAX));
        BASE64_STANDARD.decode_vec(encoded, &mut bytes).map_err(|_| CredentialsFlaw::Base64)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| CredentialsFlaw::Charset)?;
        if text.contains(char::is_control) {
            return Err(CredentialsFlaw::Control);
        }
        // RFC 7617 §2: a name has none, a password may.
        let colon = text.find(':').ok_or(CredentialsFlaw::Colon)?;
        Ok(Credentials { text: Zeroizing::new(text.to_owned()), colon })
    }

    /// Returns the name.
    pub fn user(&self) -> &str {
        &self.text[..self.colon]
    }

    /// Returns the password as bcrypt reads it.
    pub fn password(&self) -> Password {
        Password::new(self.password_text())
    }

    /// Returns the password as it was sent.
    pub fn password_text(&self) -> &str {
        &self.text[self.colon + 1..]
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("Credentials(…)")
    }
}

/// Returns what follows the scheme `Basic`, in any case (RFC 9110 §11.1); `None` if it is another one.
fn after_scheme(line: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = line.trim_ascii().split_at_checked(5)?;
    let is_whole = rest.first().is_none_or(|byte| *byte == b' ');
    (is_whole && scheme.eq_ignore_ascii_case(b"basic")).then(|| rest.trim_ascii_start())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&[u8]]) -> Result<(String, String), BasicDenial> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(line).unwrap());
        }
        let found = Credentials::of(&headers)?;
        assert_eq!(format!("{found:?}"), "Credentials(…)");
        Ok((found.user().to_owned(), found.password_text().to_owned()))
    }

    fn basic(text: &[u8]) -> Vec<u8> {
        format!("Basic {}", BASE64_STANDARD.encode(text)).into_bytes()
    }

    #[test]
    fn a_name_and_a_password_are_read_as_rfc_7617_has_them() {
        for (line, user, password) in [
            // Of RFC 7617 §2 and §2.1.
            (&b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="[..], "Aladdin", "open sesame"),
            (b"Basic dGVzdDoxMjPCow==", "test", "123£"),
            (b"bASIC   dGVzdDoxMjPCow==  ", "test", "123£"),
            (&basic(b"ann:a:b:"), "ann", "a:b:"),
            (&basic(b"ann:"), "ann", ""),
            (&basic(b":"), "", ""),
            (&basic(b"bob smith: x "), "bob smith", " x "),
        ] {
            assert_eq!(of(&[line]).unwrap(), (user.to_owned(), password.to_owned()));
        }
    }

    #[test]
    fn what_cannot_be_read_in_one_way_is_refused() {
        let long = basic(&[b'a'; CREDENTIALS_BYTES_MAX]);
        let flawed = BasicDenial::Malformed;
        for (lines, denial) in [
            (&[][..], BasicDenial::Missing),
            (&[b"Bearer abc".as_slice()], BasicDenial::Missing),
            (&[b"Basics dGVzdDoxMjPCow=="], BasicDenial::Missing),
            (&[b"Basi"], BasicDenial::Missing),
            (&[b""], BasicDenial::Missing),
            (&[b"Basic dGVzdDoxMjPCow==", b"Basic dGVzdDoxMjPCow=="], BasicDenial::Several),
            (&[b"Basic dGVzdDoxMjPCow==", b"Bearer abc"], BasicDenial::Several),
            (&[b"Basic"], flawed(CredentialsFlaw::Colon)),
            (&[b"Basic dGVzdDoxMjPCow==, Basic dGVzdDoxMjPCow=="], flawed(CredentialsFlaw::Base64)),
            (&[b"Basic dGVzdDoxMjPCow"], flawed(CredentialsFlaw::Base64)),
            // The bits that are left over are not 0.
            (&[b"Basic dGVzdDoxMjPCox=="], flawed(CredentialsFlaw::Base64)),
            (&[b"Basic dGVzdDox MjPCow=="], flawed(CredentialsFlaw::Base64)),
            (&[b"Basic dGVzdDoxMjPCow_="], flawed(CredentialsFlaw::Base64)),
            (&[&basic(b"nobody")], flawed(CredentialsFlaw::Colon)),
            (&[&basic(b"caf\xe9:1")], flawed(CredentialsFlaw::Charset)),
            (&[&basic(b"ann\0:1")], flawed(CredentialsFlaw::Control)),
            (&[&basic(b"ann:1\r\n")], flawed(CredentialsFlaw::Control)),
            (&[&basic(b"ann:\x7f")], flawed(CredentialsFlaw::Control)),
            (&[&long], flawed(CredentialsFlaw::Long)),
        ] {
            assert_eq!(of(lines).unwrap_err(), denial, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_sent_is_what_is_read(user in "[^:\\p{Cc}]{0,40}", password in "\\P{Cc}{0,80}") {
            prop_assert_eq!(of(&[&basic(format!("{user}:{password}").as_bytes())]).unwrap(), (user, password));
        }

        #[test]
        fn no_line_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for line in [&b""[..], b"Basic "].map(|scheme| [scheme, &bytes].concat()) {
                if let Some(encoded) = after_scheme(&line) {
                    let _ = Credentials::decode(encoded);
                }
            }
        }
    }
}
