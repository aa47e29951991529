//! Names of fields that some servers take for others.
//!
//! CGI and its heirs (PHP, WSGI, Rack, mod_perl) hand fields on as variables, in whose names all that is no letter or digit
//! is `_`: there `X_Forwarded_For`, `X.Forwarded.For` and X-Forwarded-For are one, and whoever comes first or last wins.

use std::borrow::Cow;

/// What `name`, in lower case, is to such a server; borrowed if that is itself.
pub fn folded(name: &str) -> Cow<'_, str> {
    match is_plain(name) {
        true => Cow::Borrowed(name),
        false => Cow::Owned(name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect()),
    }
}

/// Whether no server takes the name for another.
pub fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_letter_or_digit_is_a_dash() {
        for name in ["x_forwarded_for", "x.forwarded.for", "x-forwarded_for", "x~forwarded!for", "x-forwarded-for"] {
            assert_eq!(folded(name), "x-forwarded-for", "{name}");
            assert_eq!(is_plain(name), name == "x-forwarded-for");
        }
        assert!(matches!(folded("x-real-ip"), Cow::Borrowed(_)));
    }
}
