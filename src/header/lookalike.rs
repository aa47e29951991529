//! Field names that some servers confuse with others.
//!
//! CGI and its successors (PHP, WSGI, Rack, mod_perl) pass fields on as variables, in whose names everything but
//! letters and digits is `_`: there `X_Forwarded_For`, `X.Forwarded.For` and X-Forwarded-For are one, and the first or
//! last one wins.

use std::borrow::Cow;

use super::hop_by_hop::HopByHopFields;

/// Returns the name that such a server sees for `name`, in lower case; borrowed if they are equal.
pub fn folded(name: &str) -> Cow<'_, str> {
    match is_plain(name) {
        true => Cow::Borrowed(name),
        false => Cow::Owned(name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect()),
    }
}

/// Returns true if no server confuses the name with another.
pub fn is_plain(name: &str) -> bool {
    // A table is twice as fast as the comparisons, and each name of each request is looked at.
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = 0;
        while byte < plain.len() {
            plain[byte] = (byte as u8).is_ascii_alphanumeric() || byte == b'-' as usize;
            byte += 1;
        }
        plain
    };
    name.bytes().all(|byte| PLAIN[usize::from(byte)])
}

/// Returns true if a field's name, in lower case, is not a name that the proxy writes, but may be confused with one: of
/// the forwarding fields, of those that frame a message or end at this hop, and of those of a handshake.
pub fn is_of_ours(name: &str) -> bool {
    if is_plain(name) {
        return false;
    }
    let name = folded(name);
    matches!(&*name, "content-length" | "x-real-ip" | "cdn-loop")
        || ["x-forwarded-", "sec-"].iter().any(|ours| name.starts_with(ours))
        || HopByHopFields::always(&name)
}

/// Returns true if a server may confuse the two names, in lower case.
pub fn are_alike(one: &str, other: &str) -> bool {
    // Folding keeps the length.
    one.len() == other.len() && one != other && folded(one) == folded(other)
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
        for name in
            ["transfer_encoding", "content.length", "x_real_ip", "sec_websocket-key", "keep_alive", "proxy~connection"]
        {
            assert!(is_of_ours(name), "{name}");
        }
        for name in ["transfer-encoding", "x-real-ip", "x_request_id", "api_key", "grpc.timeout"] {
            assert!(!is_of_ours(name), "{name}");
        }
        assert!(are_alike("x-user", "x_user") && !are_alike("x-user", "x-user") && !are_alike("x-user", "x_users"));
        assert!(matches!(folded("x-real-ip"), Cow::Borrowed(_)));
    }
}
