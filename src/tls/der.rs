//! Elements of DER (X.690): a tag, a length in its shortest form, contents.

/// A tag.
pub const INTEGER: u8 = 0x02;
/// A tag.
pub const BIT_STRING: u8 = 0x03;
/// A tag.
pub const SEQUENCE: u8 = 0x30;
/// A tag.
pub const SET: u8 = 0x31;
/// A tag.
pub const BOOLEAN: u8 = 0x01;
/// A tag.
pub const OCTET_STRING: u8 = 0x04;
/// A tag.
pub const OBJECT_IDENTIFIER: u8 = 0x06;

/// Splits one element off the front; returns its tag and contents.
pub fn element<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // The long form; no certificate needs more than four bytes of length.
        let bytes = usize::from(first & 0x7f);
        if !(1..=4).contains(&bytes) {
            return None;
        }
        let (length, rest) = rest.split_at_checked(bytes)?;
        let length = length.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
        if length < 0x80 || length >> (8 * (bytes - 1)) == 0 {
            return None;
        }
        (length, rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some((tag, contents))
}

/// Splits one element with the tag `expected` off the front; returns its contents.
pub fn contents<'a>(der: &mut &'a [u8], expected: u8) -> Option<&'a [u8]> {
    let (tag, contents) = element(der)?;
    (tag == expected).then_some(contents)
}

/// Splits a bit string of whole bytes off the front, as keys and signatures are.
pub fn bits<'a>(der: &mut &'a [u8]) -> Option<&'a [u8]> {
    contents(der, BIT_STRING)?.strip_prefix(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_one_form() {
        let length = |der: &[u8]| element(&mut &*[der, &[0; 300]].concat()).map(|(_, contents)| contents.len());
        for (der, expected) in [
            (&[4, 0][..], Some(0)),
            (&[4, 0x7f], Some(0x7f)),
            (&[4, 0x81, 0x80], Some(0x80)),
            (&[4, 0x81, 0x7f], None),
            (&[4, 0x82, 0, 0x80], None),
            (&[4, 0x82, 1, 0], Some(0x100)),
            (&[4, 0x83, 0, 1, 0], None),
            (&[4, 0x80], None),
            (&[4, 0x85, 1, 0, 0, 0, 0], None),
            (&[4, 0x84, 0xff, 0xff, 0xff, 0xff], None),
        ] {
            assert_eq!(length(der), expected, "{der:x?}");
        }
    }
}
