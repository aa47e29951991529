//! The names in a certificate's subjectAltName (RFC 5280 §4.2.1.6): hosts, mailboxes, URIs and addresses.
//!
//! All are read, or none: somebody who can put an odd name beside others must not be able to hide one or to change where
//! it ends. Names of other kinds (directories, users of Windows) are passed over.

use std::net::IpAddr;

use super::der::{SEQUENCE, contents, element};
use crate::header::client_certificate::AlternativeName;

/// The most names, of all kinds.
const NAMES_MAX: usize = 100;

/// The most bytes of all names that are read: a header may say all of them.
const BYTES_MAX: usize = 4096;

const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;
/// otherName, x400Address, directoryName, ediPartyName and registeredID.
const OTHERS: [u8; 5] = [0xa0, 0xa3, 0xa4, 0xa5, 0x88];

/// Reads the value of the extension; `None` if one of the names cannot be read, or there are too many.
pub(super) fn read(mut extension: &[u8]) -> Option<Vec<AlternativeName>> {
    let mut list = contents(&mut extension, SEQUENCE)?;
    if !extension.is_empty() {
        return None;
    }
    let (mut names, mut count, mut bytes) = (vec![], 0, 0);
    while !list.is_empty() {
        let (tag, value) = element(&mut list)?;
        count += 1;
        if count > NAMES_MAX {
            return None;
        }
        if OTHERS.contains(&tag) {
            continue;
        }
        bytes += value.len();
        if bytes > BYTES_MAX {
            return None;
        }
        names.push(match tag {
            DNS => AlternativeName::Dns(text(value)?.to_ascii_lowercase()),
            EMAIL => AlternativeName::Email(text(value)?.to_owned()),
            URI => AlternativeName::Uri(text(value)?.to_owned()),
            IP => AlternativeName::Ip(address(value)?),
            _ => return None,
        });
    }
    Some(names)
}

/// Returns a text of visible ASCII: none of these names has spaces or controls.
fn text(value: &[u8]) -> Option<&str> {
    let is_visible = !value.is_empty() && value.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(value).ok().filter(|_| is_visible)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The extension with these names, each with its tag.
    fn extension(names: &[(u8, &[u8])]) -> Vec<u8> {
        let mut list = vec![];
        for (tag, value) in names {
            list.push(*tag);
            list.extend(length(value.len()));
            list.extend(*value);
        }
        [&[SEQUENCE][..], &length(list.len()), &list].concat()
    }

    fn length(length: usize) -> Vec<u8> {
        match length {
            0..0x80 => vec![length as u8],
            0x80..0x100 => vec![0x81, length as u8],
            _ => [&[0x82][..], &(length as u16).to_be_bytes()].concat(),
        }
    }

    #[test]
    fn all_names_are_read_or_none() {
        let good: &[(u8, &[u8])] = &[
            (DNS, b"A.Example"),
            (0xa0, b"whatever"),
            (EMAIL, b"Ann@a.example"),
            (URI, b"spiffe://a/b"),
            (IP, &[10, 0, 0, 7]),
            (IP, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ];
        let shown = |names: &[(u8, &[u8])]| {
            read(&extension(names)).map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let all = ["DNS:a.example", "email:Ann@a.example", "URI:spiffe://a/b", "IP:10.0.0.7", "IP:::1"];
        assert_eq!(shown(good), Some(all.map(str::to_owned).to_vec()));
        assert_eq!(shown(&[]), Some(vec![]));
        for bad in [
            (DNS, &b"admin.example\0.evil.example"[..]),
            (DNS, b""),
            (DNS, b"a b"),
            (DNS, "é.example".as_bytes()),
            (URI, b"a:\r\nX-Admin: 1"),
            (IP, &[10, 0, 0]),
            (IP, &[10, 0, 0, 0, 255, 0, 0, 0]),
            (0x8c, b"a"),
        ] {
            assert_eq!(shown(&[good, &[bad]].concat()), None, "{bad:?}");
        }
        assert_eq!(read(&[&extension(good)[..], &[5, 0]].concat()), None);
    }

    #[test]
    fn too_many_names_are_none() {
        assert_eq!(read(&extension(&[(DNS, &b"a"[..]); NAMES_MAX])).map(|names| names.len()), Some(NAMES_MAX));
        assert_eq!(read(&extension(&[(DNS, &b"a"[..]); NAMES_MAX + 1])), None);
        assert_eq!(read(&extension(&[(0xa0, &b"a"[..]); NAMES_MAX + 1])), None);
        assert!(read(&extension(&[(URI, &[b'a'; BYTES_MAX])])).is_some());
        assert_eq!(read(&extension(&[(URI, &[b'a'; BYTES_MAX]), (DNS, b"a")])), None);
    }
}
