//! The opening handshake as a neutral pair: what a client offers and what a server answers (RFC 6455 §4).
//!
//! `Offer` is read from a request and judged before any upstream is touched; `Answer` is read from an upstream's
//! response and judged against the offer before the client is told anything. The HTTP/1.1 way (Upgrade, a key, an
//! accept value) is all there is now; the extended CONNECT of RFC 8441 has the same offer without key and accept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Version};
use sha1::{Digest, Sha1};

use super::scanner::Rsv;

/// What is appended to a key before it is hashed (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Subprotocols and extensions a request may offer; far above what any client does.
const OFFERS_MAX: usize = 64;

/// A `Sec-WebSocket-Key`: 16 bytes in base64.
pub type Key = [u8; 24];

/// A `Sec-WebSocket-Accept`: 20 bytes in base64.
pub type Accept = [u8; 28];

/// A client's wish for a WebSocket that keeps all the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The client's `Sec-WebSocket-Key`, for the accept value it will verify.
    pub key: Key,
    /// In the client's order of preference.
    pub subprotocols: Vec<String>,
    /// In the client's order of preference.
    pub extensions: Vec<Extension>,
}

/// One extension with its parameters, as offered or accepted (RFC 6455 §9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// As `permessage-deflate`, lower case.
    pub name: String,
    /// Names, lower case, with values where there are.
    pub params: Vec<(String, Option<String>)>,
}

/// A request that asks for a WebSocket and may not have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// RFC 6455 §4.1: the method must be GET.
    #[error("a WebSocket handshake must be a GET request")]
    Method,
    /// RFC 6455 §4.1: HTTP/1.1 or later.
    #[error("a WebSocket handshake needs HTTP/1.1")]
    HttpVersion,
    /// RFC 6455 §4.1: `Connection: Upgrade` must stand beside `Upgrade: websocket`.
    #[error("`Connection: Upgrade` is missing")]
    Connection,
    /// Another version than 13, or none (RFC 6455 §4.4).
    #[error("only WebSocket version 13 is supported")]
    WebSocketVersion,
    /// The key must be there once and be 16 bytes in base64 (RFC 6455 §4.1).
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64, once")]
    Key,
    /// A handshake has no body; what follows it would be taken for something else by somebody.
    #[error("a WebSocket handshake has no body")]
    Body,
    /// Subprotocols are distinct tokens (RFC 6455 §4.1).
    #[error("`Sec-WebSocket-Protocol` must be a list of distinct tokens")]
    Subprotocols,
    /// RFC 6455 §9.1.
    #[error("`Sec-WebSocket-Extensions` is malformed")]
    Extensions,
}

/// The fields of a head, in whatever form it was read.
pub trait Fields {
    /// The values of a field, line by line.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;
}

impl Fields for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

/// Whether a request wants a WebSocket at all: the `websocket` token stands in `Upgrade` (RFC 9110 §7.8).
pub fn is_wanted(fields: &impl Fields) -> bool {
    has_token(fields, &UPGRADE, "websocket")
}

impl Offer {
    /// Reads the offer of a request that wants a WebSocket over HTTP/1.1.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn from_upgrade(method: &Method, version: Version, headers: &HeaderMap) -> Result<Offer, OfferError> {
        if method != Method::GET {
            return Err(OfferError::Method);
        }
        if version != Version::HTTP_11 {
            return Err(OfferError::HttpVersion);
        }
        if !has_token(headers, &CONNECTION, "upgrade") {
            return Err(OfferError::Connection);
        }
        let empty = headers.get_all(CONTENT_LENGTH).iter().all(|length| length == "0");
        if !empty || headers.contains_key(TRANSFER_ENCODING) {
            return Err(OfferError::Body);
        }
        if single(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(OfferError::WebSocketVersion);
        }
        let key = single(headers, &SEC_WEBSOCKET_KEY).and_then(|key| Key::try_from(key.as_bytes()).ok());
        // The decoder asks for room for the padding, too.
        let key = key.filter(|key| BASE64.decode_slice(key, &mut [0; 18]) == Ok(16)).ok_or(OfferError::Key)?;
        let subprotocols = subprotocols(headers).ok_or(OfferError::Subprotocols)?;
        let extensions = extensions(headers).ok_or(OfferError::Extensions)?;
        Ok(Offer { key, subprotocols, extensions })
    }
}

/// What a server agreed to, within the offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// One of the offered, or none.
    pub subprotocol: Option<String>,
    /// Each one offered.
    pub extensions: Vec<Extension>,
}

/// A 101 that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// RFC 6455 §4.1: `Upgrade: websocket` and `Connection: Upgrade` must be there.
    #[error("the 101 does not upgrade to websocket")]
    Upgrade,
    /// The accept value does not belong to our key: not a WebSocket server, or somebody else's answer.
    #[error("the 101 has a wrong or no `Sec-WebSocket-Accept`")]
    Accept,
    /// A subprotocol that was not offered, or several.
    #[error("the 101 chose a subprotocol that was not offered: {0:?}")]
    Subprotocol(String),
    /// An extension that was not offered, or offered otherwise.
    #[error("the 101 chose an extension that was not offered: {0:?}")]
    Extension(String),
    /// A 101 has no body (RFC 9110 §15.2).
    #[error("the 101 announces a body")]
    Body,
}

impl Answer {
    /// Judges the fields of a 101 that answers `offer` and was sent `key` (RFC 6455 §4.1, end).
    ///
    /// # Errors
    /// The first rule that it breaks. The connection must then not be used any more.
    pub fn from_switching_protocols(fields: &impl Fields, key: &Key, offer: &Offer) -> Result<Answer, AnswerError> {
        if !is_wanted(fields) || fields.lines(&UPGRADE).count() != 1 {
            return Err(AnswerError::Upgrade);
        }
        if !has_token(fields, &CONNECTION, "upgrade") {
            return Err(AnswerError::Upgrade);
        }
        let announces_body = fields.lines(&CONTENT_LENGTH).next().is_some_and(|length| length != b"0");
        if announces_body || fields.lines(&TRANSFER_ENCODING).next().is_some() {
            return Err(AnswerError::Body);
        }
        if single(fields, &SEC_WEBSOCKET_ACCEPT).map(str::as_bytes) != Some(&accept_for(key)) {
            return Err(AnswerError::Accept);
        }
        let subprotocol = match joined(fields, &SEC_WEBSOCKET_PROTOCOL) {
            None => None,
            Some(chosen) if offer.subprotocols.contains(&chosen) => Some(chosen),
            Some(foreign) => return Err(AnswerError::Subprotocol(foreign)),
        };
        let refused = || AnswerError::Extension(joined(fields, &SEC_WEBSOCKET_EXTENSIONS).unwrap_or_default());
        let extensions = extensions(fields).ok_or_else(refused)?;
        for (i, extension) in extensions.iter().enumerate() {
            let twice = extensions[..i].iter().any(|before| before.name == extension.name);
            if twice || !offer.extensions.iter().any(|offered| within(extension, offered)) {
                return Err(refused());
            }
        }
        Ok(Answer { subprotocol, extensions })
    }

    /// The reserved bits that frames may use from now on.
    pub fn rsv(&self) -> Rsv {
        match &self.extensions[..] {
            [] => Rsv::None,
            [one] if one.name == DEFLATE => Rsv::Deflate,
            _ => Rsv::Any,
        }
    }
}

/// permessage-deflate (RFC 7692).
const DEFLATE: &str = "permessage-deflate";

/// Whether a server may answer `offered` with `accepted`. Of permessage-deflate the parameters are known (RFC 7692
/// §7.1): the client's window may only be limited if the client said that it can.
fn within(accepted: &Extension, offered: &Extension) -> bool {
    if accepted.name != offered.name {
        return false;
    }
    accepted.name != DEFLATE
        || accepted.params.iter().all(|(name, value)| match (name.as_str(), value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None) => true,
            ("server_max_window_bits", Some(bits)) => is_window(bits),
            ("client_max_window_bits", Some(bits)) => {
                is_window(bits) && offered.params.iter().any(|(name, _)| name == "client_max_window_bits")
            }
            _ => false,
        })
}

fn is_window(bits: &str) -> bool {
    matches!(bits, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

/// A `Sec-WebSocket-Key` of these 16 random bytes.
pub fn key(random: [u8; 16]) -> Key {
    let mut key = Key::default();
    // Cannot fail: 16 bytes are 24 characters.
    let _ = BASE64.encode_slice(random, &mut key);
    key
}

/// The accept value that answers `key` (RFC 6455 §4.2.2).
pub fn accept_for(key: &[u8]) -> Accept {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = Accept::default();
    // Cannot fail: 20 bytes are 28 characters.
    let _ = BASE64.encode_slice(digest, &mut accept);
    accept
}

/// The subprotocols a request offers: `None` if one is no token, stands twice, or there are too many.
pub fn subprotocols(fields: &impl Fields) -> Option<Vec<String>> {
    let mut all: Vec<String> = vec![];
    for line in fields.lines(&SEC_WEBSOCKET_PROTOCOL) {
        // Empty elements of a list count for nothing (RFC 9110 §5.6.1.2).
        for token in text(line)?.split(',').map(str::trim).filter(|token| !token.is_empty()) {
            if !is_token(token) || all.iter().any(|before| before == token) || all.len() == OFFERS_MAX {
                return None;
            }
            all.push(token.to_owned());
        }
    }
    Some(all)
}

/// All extensions of the header lines: `None` if malformed or too many.
fn extensions(fields: &impl Fields) -> Option<Vec<Extension>> {
    let mut all = vec![];
    for line in fields.lines(&SEC_WEBSOCKET_EXTENSIONS) {
        for element in split_outside_quotes(text(line)?, ',')?.into_iter().filter(|text| !text.is_empty()) {
            if all.len() == OFFERS_MAX {
                return None;
            }
            all.push(extension(element)?);
        }
    }
    Some(all)
}

fn extension(text: &str) -> Option<Extension> {
    let mut parts = split_outside_quotes(text, ';')?.into_iter();
    let name = parts.next().filter(|name| is_token(name))?.to_ascii_lowercase();
    let params = parts.map(|part| {
        let (name, value) = match part.split_once('=') {
            None => (part, None),
            Some((name, value)) => {
                let value = value.trim();
                let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
                // A quoted value must be a token when unquoted (RFC 6455 §9.1).
                (name.trim(), Some(bare).filter(|bare| is_token(bare)).map(str::to_owned).map(Some)?)
            }
        };
        is_token(name).then(|| (name.to_ascii_lowercase(), value))
    });
    Some(Extension { name, params: params.collect::<Option<_>>()? })
}

/// Splits a list; `None` if a quote is not closed.
fn split_outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let mut quoted = false;
    let parts = text
        .split(|c: char| {
            quoted ^= c == '"';
            c == separator && !quoted
        })
        .map(str::trim)
        .collect();
    (!quoted).then_some(parts)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A value, if it is text: visible ASCII, spaces and tabs.
fn text(line: &[u8]) -> Option<&str> {
    let is_text = line.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(line).ok().filter(|_| is_text)
}

fn has_token(fields: &impl Fields, name: &HeaderName, token: &str) -> bool {
    fields
        .lines(name)
        .filter_map(text)
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The value of a header that must stand exactly once.
fn single<'a>(fields: &'a impl Fields, name: &'a HeaderName) -> Option<&'a str> {
    let mut lines = fields.lines(name);
    let first = text(lines.next()?)?;
    lines.next().is_none().then_some(first.trim())
}

/// All lines of a header in one, if there are any.
fn joined(fields: &impl Fields, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> = fields.lines(name).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn request(change: &[(&'static str, Option<&str>)]) -> HeaderMap {
        let mut map = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", SAMPLE_KEY),
        ]);
        for (name, value) in change {
            map.remove(*name);
            if let Some(value) = value {
                map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
        }
        map
    }

    fn offer(change: &[(&'static str, Option<&str>)]) -> Result<Offer, OfferError> {
        Offer::from_upgrade(&Method::GET, Version::HTTP_11, &request(change))
    }

    #[test]
    fn the_example_of_section_1_3() {
        assert_eq!(&accept_for(SAMPLE_KEY.as_bytes()), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(offer(&[]).unwrap().key, SAMPLE_KEY.as_bytes());
    }

    #[test]
    fn each_rule_of_section_4_is_kept() {
        let plain = request(&[]);
        assert_eq!(Offer::from_upgrade(&Method::POST, Version::HTTP_11, &plain), Err(OfferError::Method));
        assert_eq!(Offer::from_upgrade(&Method::GET, Version::HTTP_10, &plain), Err(OfferError::HttpVersion));
        let cases: [(&'static str, Option<&str>, OfferError); 17] = [
            ("connection", None, OfferError::Connection),
            ("connection", Some("keep-alive"), OfferError::Connection),
            ("connection", Some("xupgrade"), OfferError::Connection),
            ("sec-websocket-version", None, OfferError::WebSocketVersion),
            ("sec-websocket-version", Some("8"), OfferError::WebSocketVersion),
            ("sec-websocket-version", Some("13, 8"), OfferError::WebSocketVersion),
            ("sec-websocket-key", None, OfferError::Key),
            ("sec-websocket-key", Some(""), OfferError::Key),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ"), OfferError::Key),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZXh4"), OfferError::Key),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZ!=="), OfferError::Key),
            ("content-length", Some("5"), OfferError::Body),
            ("transfer-encoding", Some("chunked"), OfferError::Body),
            ("sec-websocket-protocol", Some("a b"), OfferError::Subprotocols),
            ("sec-websocket-protocol", Some("a, a"), OfferError::Subprotocols),
            ("sec-websocket-extensions", Some("permessage-deflate; x=\"y"), OfferError::Extensions),
            ("sec-websocket-extensions", Some(";"), OfferError::Extensions),
        ];
        for (name, value, expected) in cases {
            assert_eq!(offer(&[(name, value)]), Err(expected), "{name}: {value:?}");
        }
        assert!(offer(&[("content-length", Some("0"))]).is_ok());
    }

    #[test]
    fn a_header_that_must_be_single_is_refused_twice() {
        for (name, expected) in
            [("sec-websocket-key", OfferError::Key), ("sec-websocket-version", OfferError::WebSocketVersion)]
        {
            let mut map = request(&[]);
            let value = map.get(name).unwrap().clone();
            map.append(HeaderName::from_static(name), value);
            assert_eq!(Offer::from_upgrade(&Method::GET, Version::HTTP_11, &map), Err(expected));
        }
    }

    #[test]
    fn only_the_websocket_token_is_a_wish() {
        assert!(is_wanted(&headers(&[("upgrade", "websocket")])));
        assert!(is_wanted(&headers(&[("upgrade", "h2c"), ("upgrade", "WebSocket")])));
        assert!(!is_wanted(&headers(&[("upgrade", "h2c")])));
        assert!(!is_wanted(&headers(&[("upgrade", "websocket2")])));
        assert!(!is_wanted(&headers(&[])));
    }

    fn answer(offer: &Offer, change: &[(&'static str, Option<&str>)]) -> Result<Answer, AnswerError> {
        let mut map = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ]);
        for (name, value) in change {
            map.remove(*name);
            if let Some(value) = value {
                map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
        }
        Answer::from_switching_protocols(&map, &SAMPLE_KEY.as_bytes().try_into().unwrap(), offer)
    }

    #[test]
    fn an_answer_stays_within_the_offer() {
        let offer = offer(&[
            ("sec-websocket-protocol", Some("chat, superchat")),
            ("sec-websocket-extensions", Some("permessage-deflate; client_max_window_bits, x-own; a=\"1\"")),
        ])
        .unwrap();
        assert_eq!(answer(&offer, &[]).unwrap().rsv(), Rsv::None);
        let chosen = answer(&offer, &[("sec-websocket-protocol", Some("superchat"))]).unwrap();
        assert_eq!(chosen.subprotocol.as_deref(), Some("superchat"));
        for accepted in [
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=12",
            "Permessage-Deflate; server_max_window_bits=\"10\"",
        ] {
            let answer = answer(&offer, &[("sec-websocket-extensions", Some(accepted))]).unwrap();
            assert_eq!(answer.rsv(), Rsv::Deflate, "{accepted}");
        }
        assert_eq!(answer(&offer, &[("sec-websocket-extensions", Some("x-own"))]).unwrap().rsv(), Rsv::Any);

        assert_eq!(answer(&offer, &[("sec-websocket-accept", None)]), Err(AnswerError::Accept));
        assert_eq!(
            answer(&offer, &[("sec-websocket-accept", Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOO="))]),
            Err(AnswerError::Accept)
        );
        assert_eq!(answer(&offer, &[("upgrade", None)]), Err(AnswerError::Upgrade));
        assert_eq!(answer(&offer, &[("upgrade", Some("h2c"))]), Err(AnswerError::Upgrade));
        assert_eq!(answer(&offer, &[("upgrade", Some("h2c, foo"))]), Err(AnswerError::Upgrade));
        assert_eq!(answer(&offer, &[("connection", Some("close"))]), Err(AnswerError::Upgrade));
        assert_eq!(answer(&offer, &[("content-length", Some("3"))]), Err(AnswerError::Body));
        for foreign in ["other", "chat, superchat", "Chat", ""] {
            let refused = answer(&offer, &[("sec-websocket-protocol", Some(foreign))]);
            assert_eq!(refused, Err(AnswerError::Subprotocol(foreign.into())));
        }
        for foreign in [
            "x-other",
            "permessage-deflate, permessage-deflate",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; unknown",
            "permessage-deflate; client_max_window_bits",
        ] {
            let refused = answer(&offer, &[("sec-websocket-extensions", Some(foreign))]);
            assert_eq!(refused, Err(AnswerError::Extension(foreign.into())), "{foreign}");
        }
    }

    #[test]
    fn the_clients_window_is_only_limited_with_its_leave() {
        let offer = offer(&[("sec-websocket-extensions", Some("permessage-deflate"))]).unwrap();
        let limited =
            answer(&offer, &[("sec-websocket-extensions", Some("permessage-deflate; client_max_window_bits=9"))]);
        assert!(matches!(limited, Err(AnswerError::Extension(_))));
    }

    proptest! {
        #[test]
        fn any_header_text_is_read_or_refused(text in "[ -~]{0,60}") {
            let _ = offer(&[("sec-websocket-protocol", Some(&text))]);
            let _ = offer(&[("sec-websocket-extensions", Some(&text))]);
        }
    }
}
