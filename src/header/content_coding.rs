//! Content codings: which one a client wants for an answer (RFC 9110 §12.5.3).

use http::header::{ACCEPT_ENCODING, HeaderMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::weight::weight;

/// A coding that answers can be compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContentCoding {
    /// Zstandard (RFC 8878).
    Zstd,
    /// Brotli (RFC 7932).
    Br,
    /// gzip (RFC 1952).
    Gzip,
}

impl ContentCoding {
    /// Returns its name in fields.
    pub const fn name(self) -> &'static str {
        match self {
            ContentCoding::Zstd => "zstd",
            ContentCoding::Br => "br",
            ContentCoding::Gzip => "gzip",
        }
    }

    fn is(self, name: &[u8]) -> bool {
        // RFC 9110 §8.4.1.3: `x-gzip` is the same.
        name.eq_ignore_ascii_case(self.name().as_bytes())
            || (self == ContentCoding::Gzip && name.eq_ignore_ascii_case(b"x-gzip"))
    }
}

/// Returns the coding among `ours` that the client likes best; of those it likes as much as another, the first. `None` if it
/// takes none of them, likes the answer better as it is, or says nothing: then many clients could not read it.
pub fn preferred(headers: &HeaderMap, ours: &[ContentCoding]) -> Option<ContentCoding> {
    let lines = headers.get_all(ACCEPT_ENCODING).iter();
    let items: Vec<(&[u8], u16)> =
        lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).filter_map(item).collect();
    let quality_of = |is: &dyn Fn(&[u8]) -> bool| items.iter().find(|(name, _)| is(name)).map(|(_, quality)| *quality);
    let others = quality_of(&|name| name == b"*");
    let identity = quality_of(&|name| name.eq_ignore_ascii_case(b"identity"));
    let mut best: Option<(ContentCoding, u16)> = None;
    for coding in ours {
        let quality = quality_of(&|name| coding.is(name)).or(others).unwrap_or(0);
        if quality > best.map_or(0, |(_, best)| best) {
            best = Some((*coding, quality));
        }
    }
    best.filter(|(_, quality)| identity.is_none_or(|identity| *quality >= identity)).map(|(coding, _)| coding)
}

/// Parses a coding with its quality in thousandths. `None` for an empty or malformed one, which counts as not there.
fn item(text: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = text.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let quality = match parts.next() {
        None => 1000,
        Some(parameter) => weight(parameter)?,
    };
    parts.next().is_none().then_some((name, quality))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::ContentCoding::{Br, Gzip, Zstd};
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn the_client_chooses_and_at_a_tie_the_configuration() {
        let ours = &[Zstd, Br, Gzip];
        for (lines, chosen) in [
            (&[][..], None),
            (&[""], None),
            (&["gzip"], Some(Gzip)),
            (&["GZIP"], Some(Gzip)),
            (&["x-gzip"], Some(Gzip)),
            (&["gzip, deflate, br, zstd"], Some(Zstd)),
            (&["gzip, deflate, br"], Some(Br)),
            (&["gzip", "br"], Some(Br)),
            (&["gzip;q=1.0, br;q=0.9"], Some(Gzip)),
            (&["gzip ; q=0.5 , br;Q=0.501"], Some(Br)),
            (&["*"], Some(Zstd)),
            (&["zstd;q=0, *"], Some(Br)),
            (&["*;q=0, gzip"], Some(Gzip)),
            (&["*;q=0"], None),
            (&["gzip;q=0"], None),
            (&["gzip;q=0.000"], None),
            (&["identity"], None),
            (&["identity, gzip;q=0.5"], None),
            (&["identity;q=0.5, gzip"], Some(Gzip)),
            (&["identity;q=0, gzip;q=0.1"], Some(Gzip)),
            (&["identity;q=0"], None),
            (&["deflate, compress"], None),
            (&["gzip;q=2"], None),
            (&["gzip;q=1.001"], None),
            (&["gzip;q=0.1234, br"], Some(Br)),
            (&["gzip;q=, br;q=x, zstd;level=1"], None),
            (&["gzip;q=1;q=0"], None),
            (&[",, gzip ,"], Some(Gzip)),
        ] {
            assert_eq!(preferred(&headers(lines), ours), chosen, "{lines:?}");
        }
        assert_eq!(preferred(&headers(&["gzip, br, zstd"]), &[Gzip, Br]), Some(Gzip));
        assert_eq!(preferred(&headers(&["gzip"]), &[]), None);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_offered_and_named_or_covered(line in "[ -~]{0,40}|(gzip|br|zstd|identity|\\*)(;q=[01](\\.[0-9]{0,3})?)?(, (gzip|br|\\*))?") {
            if let Some(coding) = preferred(&headers(&[&line]), &[Br, Gzip]) {
                prop_assert!(coding == Br || coding == Gzip);
                let text = line.to_ascii_lowercase();
                prop_assert!(text.contains(coding.name()) || text.contains('*'));
            }
        }
    }
}
