//! The opening handshake: what a client offers and what a server answers (RFC 6455 §4).
//!
//! `HandshakeOffer` is read from a request and judged before an upstream is contacted. `HandshakeAnswer` is read from
//! an upstream's response and judged against the offer before the client gets an answer. The extended CONNECT of RFC 8441
//! makes the same offer as an Upgrade, without key and accept value.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD as BASE64};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Version};
use sha1::{Digest, Sha1};

use super::scanner::Rsv;

/// Reads a key. The last character before the padding holds four bits more than 16 bytes have. An example of RFC 6455
/// §4.1 does not set them to zero, and some clients send that key. The accept value is computed from the text, so the
/// key cannot be read in two ways.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));
/// Is appended to a key before it is hashed (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How many subprotocols or extensions a request may offer; far more than any client does.
const OFFERS_MAX: usize = 64;

/// A `Sec-WebSocket-Key`: 16 bytes in base64.
pub type WebSocketKey = [u8; 24];

/// A `Sec-WebSocket-Accept`: 20 bytes in base64.
pub type Accept = [u8; 28];

/// A client's valid request for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeOffer {
    /// The offered subprotocols, in the client's order of preference.
    pub subprotocols: Vec<String>,
    /// The offered extensions, in the client's order of preference.
    pub extensions: Vec<Extension>,
}

/// One extension with its parameters, as offered or accepted (RFC 6455 §9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// In lower case, such as `permessage-deflate`.
    pub name: String,
    /// Names in lower case, with their values if they have one; quoted values without their quotes.
    pub params: Vec<(String, Option<String>)>,
}

impl Extension {
    fn param(&self, name: &str) -> Option<Option<&str>> {
        self.params.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_deref())
    }
}

/// Why a request for a WebSocket is refused.
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
    /// The version is not 13, or is missing (RFC 6455 §4.4).
    #[error("only WebSocket version 13 is supported")]
    WebSocketVersion,
    /// The key must appear once and be 16 bytes in base64 (RFC 6455 §4.1).
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64, once")]
    Key,
    /// A handshake has no body: peers could disagree about what follows it.
    #[error("a WebSocket handshake has no body")]
    Body,
    /// The client has ended its direction with its request (END_STREAM): it could send nothing.
    #[error("the client has ended its direction of the stream already")]
    Ended,
    /// Subprotocols are distinct tokens (RFC 6455 §4.1).
    #[error("`Sec-WebSocket-Protocol` must be a list of distinct tokens")]
    Subprotocols,
    /// The field does not follow the grammar of RFC 6455 §9.1.
    #[error("`Sec-WebSocket-Extensions` is malformed")]
    Extensions,
}

/// The header fields of a message, whatever type holds them.
pub trait HeaderFields {
    /// Returns the values of a field, line by line.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;
}

impl HeaderFields for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

/// What an extended CONNECT asks for by its `:protocol` (RFC 8441 §4), as an extension of its head. The head itself is that
/// of a GET: to all who look at it, a WebSocket is asked for in the same way in every version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendedConnect {
    /// `websocket`.
    WebSocket,
    /// Something that we do not speak.
    Unknown,
}

impl ExtendedConnect {
    /// Reads a `:protocol`.
    pub fn of(protocol: &str) -> ExtendedConnect {
        match protocol {
            "websocket" => ExtendedConnect::WebSocket,
            _ => ExtendedConnect::Unknown,
        }
    }
}

/// Returns true if a request asks for a WebSocket, by Upgrade or by an extended CONNECT.
pub fn is_wanted(parts: &Parts) -> bool {
    match parts.extensions.get::<ExtendedConnect>() {
        Some(extended) => *extended == ExtendedConnect::WebSocket,
        None => names_websocket(&parts.headers),
    }
}

/// Returns true if `Upgrade` has the token `websocket` (RFC 9110 §7.8).
pub fn names_websocket(fields: &impl HeaderFields) -> bool {
    has_token(fields, &UPGRADE, "websocket")
}

impl HandshakeOffer {
    /// Reads the offer of a request for a WebSocket.
    ///
    /// # Errors
    /// Returns the first rule that the request breaks.
    pub fn from_request(parts: &Parts) -> Result<HandshakeOffer, OfferError> {
        match parts.extensions.get() {
            Some(ExtendedConnect::WebSocket) => HandshakeOffer::from_extended_connect(&parts.headers),
            _ => HandshakeOffer::from_upgrade(&parts.method, parts.version, &parts.headers),
        }
    }

    /// Reads the offer of an extended CONNECT: that of an Upgrade, but without the key, which has no meaning there
    /// (RFC 8441 §5).
    ///
    /// # Errors
    /// Returns the first rule that the request breaks.
    pub fn from_extended_connect(headers: &HeaderMap) -> Result<HandshakeOffer, OfferError> {
        HandshakeOffer::read(headers, || Ok(()))
    }

    /// Reads the offer of a request for a WebSocket over HTTP/1.1.
    ///
    /// # Errors
    /// Returns the first rule that the request breaks.
    pub fn from_upgrade(method: &Method, version: Version, headers: &HeaderMap) -> Result<HandshakeOffer, OfferError> {
        if method != Method::GET {
            return Err(OfferError::Method);
        }
        if version != Version::HTTP_11 {
            return Err(OfferError::HttpVersion);
        }
        if !has_token(headers, &CONNECTION, "upgrade") {
            return Err(OfferError::Connection);
        }
        HandshakeOffer::read(headers, || if key_of(headers).is_some() { Ok(()) } else { Err(OfferError::Key) })
    }

    fn read(
        headers: &HeaderMap,
        judge_key: impl FnOnce() -> Result<(), OfferError>,
    ) -> Result<HandshakeOffer, OfferError> {
        let empty = headers.get_all(CONTENT_LENGTH).iter().all(|length| length == "0");
        if !empty || headers.contains_key(TRANSFER_ENCODING) {
            return Err(OfferError::Body);
        }
        if single(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(OfferError::WebSocketVersion);
        }
        judge_key()?;
        let subprotocols = subprotocols(headers).ok_or(OfferError::Subprotocols)?;
        let extensions = extensions(headers).ok_or(OfferError::Extensions)?;
        Ok(HandshakeOffer { subprotocols, extensions })
    }
}

/// Returns the key of a request, whose accept value the client will verify; `None` if it has not exactly one of 16 bytes.
pub fn key_of(headers: &HeaderMap) -> Option<WebSocketKey> {
    let key = WebSocketKey::try_from(single(headers, &SEC_WEBSOCKET_KEY)?.as_bytes()).ok()?;
    // The decoder needs room for the padding, too.
    (KEY_BASE64.decode_slice(key, &mut [0; 18]) == Ok(16)).then_some(key)
}

/// What a server accepted of the offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandshakeAnswer {
    /// One of the offered subprotocols, or none.
    pub subprotocol: Option<String>,
    /// The accepted extensions; each was offered.
    pub extensions: Vec<Extension>,
}

/// Why an answer that opens a WebSocket is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// RFC 6455 §4.1 requires `Connection: Upgrade`, and `Upgrade: websocket` without another protocol.
    #[error("the 101 does not upgrade to websocket")]
    Upgrade,
    /// The accept value does not match our key: the peer is no WebSocket server, or answers another request.
    #[error("the 101 has a wrong or no `Sec-WebSocket-Accept`")]
    Accept,
    /// The server chose a subprotocol that was not offered, or several.
    #[error("the server chose a subprotocol that was not offered: {0:?}")]
    Subprotocol(String),
    /// The server chose an extension that was not offered, or not with these parameters.
    #[error("the server chose an extension that was not offered: {0:?}")]
    Extension(String),
}

impl HandshakeAnswer {
    /// Judges the fields of a 101 that answers `offer`, sent with `key` (RFC 6455 §4.1, end).
    ///
    /// Accepts what can be read in one way only: a Content-Length or Transfer-Encoding, since a 1xx always ends at its
    /// empty line (RFC 9112 §6.3); fields without a value; a repeated line, token or subprotocol.
    ///
    /// # Errors
    /// Returns the first rule that the 101 breaks. The connection must not be used again.
    pub fn from_switching_protocols(
        fields: &impl HeaderFields,
        key: &WebSocketKey,
        offer: &HandshakeOffer,
    ) -> Result<HandshakeAnswer, AnswerError> {
        // A 101 names the new protocol (RFC 9110 §7.8): a second one would be spoken inside it, or instead of it.
        let is_websocket = |token: &[u8]| token.eq_ignore_ascii_case(b"websocket");
        if !names_websocket(fields) || !tokens(fields, &UPGRADE).all(is_websocket) {
            return Err(AnswerError::Upgrade);
        }
        if !has_token(fields, &CONNECTION, "upgrade") {
            return Err(AnswerError::Upgrade);
        }
        if single(fields, &SEC_WEBSOCKET_ACCEPT).map(str::as_bytes) != Some(&accept_for(key)) {
            return Err(AnswerError::Accept);
        }
        HandshakeAnswer::read(fields, offer)
    }

    /// Judges the fields of a 200 that answers `offer`, sent by an extended CONNECT (RFC 8441 §5.1): as those of a 101, but
    /// the status alone says that it is open.
    ///
    /// # Errors
    /// Returns the first rule that the 200 breaks.
    pub fn from_extended_connect(
        fields: &impl HeaderFields,
        offer: &HandshakeOffer,
    ) -> Result<HandshakeAnswer, AnswerError> {
        HandshakeAnswer::read(fields, offer)
    }

    fn read(fields: &impl HeaderFields, offer: &HandshakeOffer) -> Result<HandshakeAnswer, AnswerError> {
        let mut chosen = tokens(fields, &SEC_WEBSOCKET_PROTOCOL);
        let subprotocol = match chosen.next() {
            None => None,
            Some(first) => {
                let offered = offer.subprotocols.iter().find(|offered| offered.as_bytes() == first);
                match offered.filter(|_| chosen.all(|again| again == first)) {
                    Some(offered) => Some(offered.clone()),
                    None => return Err(AnswerError::Subprotocol(joined(fields, &SEC_WEBSOCKET_PROTOCOL))),
                }
            }
        };
        let refused = || AnswerError::Extension(joined(fields, &SEC_WEBSOCKET_EXTENSIONS));
        let extensions = extensions(fields).ok_or_else(refused)?;
        for (i, extension) in extensions.iter().enumerate() {
            let twice = extensions[..i].iter().any(|before| before.name == extension.name);
            if twice || !offer.extensions.iter().any(|offered| within(extension, offered)) {
                return Err(refused());
            }
        }
        Ok(HandshakeAnswer { subprotocol, extensions })
    }

    /// Returns true if messages may be compressed by permessage-deflate.
    pub fn is_deflated(&self) -> bool {
        self.extensions.iter().any(|extension| extension.name == DEFLATE)
    }

    /// Returns the reserved bits that frames may use from now on.
    pub fn rsv(&self) -> Rsv {
        match &self.extensions[..] {
            [] => Rsv::None,
            [one] if one.name == DEFLATE => Rsv::Deflate,
            _ => Rsv::Any,
        }
    }
}

/// The name of permessage-deflate (RFC 7692).
pub const DEFLATE: &str = "permessage-deflate";

/// Returns true if a server may answer `offered` with `accepted`. Checks the parameters of permessage-deflate (RFC 7692
/// §7.1); those of other extensions are up to the peers.
fn within(accepted: &Extension, offered: &Extension) -> bool {
    accepted.name == offered.name && (accepted.name != DEFLATE || deflate_within(accepted, offered))
}

/// Checks that an answer keeps within its offer: a peer that offered to keep no context, or a small window, could not
/// decode what needs more. The server may limit itself further, and the client only if the client allowed it.
fn deflate_within(accepted: &Extension, offered: &Extension) -> bool {
    let is_known = |(i, (name, value)): (usize, &(String, Option<String>))| {
        let is_first = !accepted.params[..i].iter().any(|(before, _)| before == name);
        is_first
            && match (name.as_str(), value.as_deref()) {
                ("server_no_context_takeover" | "client_no_context_takeover", None) => true,
                ("server_max_window_bits" | "client_max_window_bits", Some(bits)) => window(bits).is_some(),
                _ => false,
            }
    };
    // An offer that cannot be read sets no bound.
    let bound = |name| offered.param(name).flatten().and_then(window);
    let answered = |name| accepted.param(name).flatten().and_then(window);
    let keeps_context = accepted.param("server_no_context_takeover").is_none();
    accepted.params.iter().enumerate().all(is_known)
        && !(keeps_context && offered.param("server_no_context_takeover").is_some())
        && bound("server_max_window_bits")
            .is_none_or(|most| answered("server_max_window_bits").is_some_and(|bits| bits <= most))
        && answered("client_max_window_bits").is_none_or(|bits| {
            offered.param("client_max_window_bits").is_some()
                && bound("client_max_window_bits").is_none_or(|most| bits <= most)
        })
}

/// Parses a window in bits, from 8 to 15 and without leading zeros (RFC 7692 §7.1.2).
fn window(bits: &str) -> Option<u8> {
    // `parse` alone would accept `+8` and `08`.
    bits.parse().ok().filter(|_| !bits.starts_with(['+', '0'])).filter(|bits| (8..=15).contains(bits))
}

/// Returns the `Sec-WebSocket-Key` for 16 random bytes.
pub fn key(random: [u8; 16]) -> WebSocketKey {
    let mut key = WebSocketKey::default();
    // Cannot fail: 16 bytes are 24 characters.
    let _ = BASE64.encode_slice(random, &mut key);
    key
}

/// Returns the accept value for `key` (RFC 6455 §4.2.2).
pub fn accept_for(key: &[u8]) -> Accept {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = Accept::default();
    // Cannot fail: 20 bytes are 28 characters.
    let _ = BASE64.encode_slice(digest, &mut accept);
    accept
}

/// Returns the offered subprotocols; `None` if one is not a token or is repeated, or if there are too many.
pub fn subprotocols(fields: &impl HeaderFields) -> Option<Vec<String>> {
    let mut all: Vec<String> = vec![];
    for line in fields.lines(&SEC_WEBSOCKET_PROTOCOL) {
        // Empty elements of a list are ignored (RFC 9110 §5.6.1.2).
        for token in text(line)?.split(',').map(str::trim).filter(|token| !token.is_empty()) {
            if !is_token(token) || all.iter().any(|before| before == token) || all.len() == OFFERS_MAX {
                return None;
            }
            all.push(token.to_owned());
        }
    }
    Some(all)
}

/// Returns all extensions of the header lines; `None` if one is malformed, or if there are too many.
fn extensions(fields: &impl HeaderFields) -> Option<Vec<Extension>> {
    let mut all = vec![];
    for line in once(fields, &SEC_WEBSOCKET_EXTENSIONS) {
        for element in split_outside_quotes(text(line)?, ',')?.into_iter().filter(|text| !text.is_empty()) {
            if all.len() == OFFERS_MAX {
                return None;
            }
            all.push(extension(element)?);
        }
    }
    Some(all)
}

/// Returns the lines of a field, without empty and repeated ones.
pub fn once<'a>(fields: &'a impl HeaderFields, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = move || fields.lines(name).map(<[u8]>::trim_ascii);
    lines()
        .enumerate()
        .filter(move |(i, line)| !line.is_empty() && !lines().take(*i).any(|before| before == *line))
        .map(|(_, line)| line)
}

fn extension(text: &str) -> Option<Extension> {
    let mut parts = split_outside_quotes(text, ';')?.into_iter();
    let name = parts.next().filter(|name| is_token(name))?.to_ascii_lowercase();
    let params = parts.filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = match part.split_once('=') {
            None => (part, None),
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start())?)),
        };
        is_token(name).then(|| (name.to_ascii_lowercase(), value))
    });
    Some(Extension { name, params: params.collect::<Option<_>>()? })
}

/// Reads a parameter's value. RFC 6455 §9.1 requires a token, quoted or not; but the other end judges the values of an
/// unknown extension, so here it is enough to find where the value ends.
fn unquoted(value: &str) -> Option<String> {
    let Some(rest) = value.strip_prefix('"') else {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        return (!value.is_empty() && value.bytes().all(is_plain)).then(|| value.to_owned());
    };
    let (mut text, mut chars) = (String::with_capacity(rest.len()), rest.chars());
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(text),
            '\\' => text.push(chars.next()?),
            other => text.push(other),
        }
    }
}

/// Splits a list; returns `None` if a quote is not closed.
fn split_outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text
        .split(|c: char| {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = quoted,
                '"' => quoted = !quoted,
                _ => return c == separator && !quoted,
            }
            false
        })
        .map(str::trim)
        .collect();
    (!quoted).then_some(parts)
}

/// Returns true if `text` is a token (RFC 9110 §5.6.2), as subprotocols are.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Returns a value if it is text: visible ASCII, spaces and tabs.
fn text(line: &[u8]) -> Option<&str> {
    let is_text = line.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(line).ok().filter(|_| is_text)
}

fn has_token(fields: &impl HeaderFields, name: &HeaderName, token: &str) -> bool {
    tokens(fields, name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// Returns the items of a list over all its lines, without empty ones (RFC 9110 §5.6.1.2).
fn tokens<'a>(fields: &'a impl HeaderFields, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let items = fields.lines(name).flat_map(|line| line.split(|byte| *byte == b','));
    items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// Returns the value of a field that must appear exactly once.
fn single<'a>(fields: &'a impl HeaderFields, name: &'a HeaderName) -> Option<&'a str> {
    let mut lines = fields.lines(name);
    let first = text(lines.next()?)?;
    lines.next().is_none().then_some(first.trim())
}

/// Joins all lines of a field.
fn joined(fields: &impl HeaderFields, name: &HeaderName) -> String {
    let lines: Vec<_> = fields.lines(name).map(String::from_utf8_lossy).collect();
    lines.join(", ")
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

    fn offer(change: &[(&'static str, Option<&str>)]) -> Result<HandshakeOffer, OfferError> {
        HandshakeOffer::from_upgrade(&Method::GET, Version::HTTP_11, &request(change))
    }

    #[test]
    fn the_example_of_section_1_3() {
        assert_eq!(&accept_for(SAMPLE_KEY.as_bytes()), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(key_of(&request(&[])).unwrap(), SAMPLE_KEY.as_bytes());
    }

    #[test]
    fn each_rule_of_section_4_is_kept() {
        let plain = request(&[]);
        assert_eq!(HandshakeOffer::from_upgrade(&Method::POST, Version::HTTP_11, &plain), Err(OfferError::Method));
        assert_eq!(HandshakeOffer::from_upgrade(&Method::GET, Version::HTTP_10, &plain), Err(OfferError::HttpVersion));
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
    fn an_extended_connect_makes_the_same_offer_without_a_key() {
        let bare: [(&'static str, Option<&str>); 3] =
            [("connection", None), ("upgrade", None), ("sec-websocket-key", None)];
        let offer = |change: &[(&'static str, Option<&str>)]| {
            HandshakeOffer::from_extended_connect(&request(&[&bare, change].concat()))
        };
        assert_eq!(offer(&[("sec-websocket-protocol", Some("a, b"))]).unwrap().subprotocols, ["a", "b"]);
        for (name, value, expected) in [
            ("sec-websocket-version", None, OfferError::WebSocketVersion),
            ("sec-websocket-version", Some("8"), OfferError::WebSocketVersion),
            ("content-length", Some("5"), OfferError::Body),
            ("sec-websocket-protocol", Some("a, a"), OfferError::Subprotocols),
            ("sec-websocket-extensions", Some(";"), OfferError::Extensions),
        ] {
            assert_eq!(offer(&[(name, value)]), Err(expected), "{name}: {value:?}");
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers = request(&bare);
        assert!(!is_wanted(&parts));
        parts.extensions.insert(ExtendedConnect::of("connect-udp"));
        assert!(!is_wanted(&parts) && HandshakeOffer::from_request(&parts).is_err());
        parts.extensions.insert(ExtendedConnect::of("websocket"));
        assert!(is_wanted(&parts) && HandshakeOffer::from_request(&parts).is_ok());
    }

    #[test]
    fn a_key_is_sixteen_bytes_whatever_its_last_bits_say() {
        for key in ["AQIDBAUGBwgJCgsMDQ4PEC==", "AQIDBAUGBwgJCgsMDQ4PEA==", "dGhlIHNhbXBsZSBub25jZf=="] {
            assert_eq!(key_of(&request(&[("sec-websocket-key", Some(key))])).unwrap(), key.as_bytes(), "{key}");
            assert!(offer(&[("sec-websocket-key", Some(key))]).is_ok(), "{key}");
        }
        for key in
            ["AQIDBAUGBwgJCgsMDQ4P", "AQIDBAUGBwgJCgsMDQ4PEBE=", "AQIDBAUGBwgJCgsMDQ4PEC=", "AQIDBAUGBwgJCgsMDQ4PEC"]
        {
            assert_eq!(offer(&[("sec-websocket-key", Some(key))]), Err(OfferError::Key), "{key}");
        }
    }

    #[test]
    fn parameters_of_unknown_extensions_are_theirs() {
        for (text, name, value) in [
            (r#"bbf-usp-protocol; b="os::012345-ABC""#, "bbf-usp-protocol", Some("os::012345-ABC")),
            (r#"a; b="c d, e; f""#, "a", Some("c d, e; f")),
            (r#"a; b="c\"d\\""#, "a", Some("c\"d\\")),
            (r#"a; b="""#, "a", Some("")),
            ("a; b=os::1", "a", Some("os::1")),
            ("a; b = c", "a", Some("c")),
            ("a; b;", "a", None),
        ] {
            let offer = offer(&[("sec-websocket-extensions", Some(text))]).unwrap();
            assert_eq!(offer.extensions.len(), 1, "{text}");
            assert_eq!(offer.extensions[0].name, name, "{text}");
            assert_eq!(offer.extensions[0].params, [("b".to_owned(), value.map(str::to_owned))], "{text}");
            let agreed = answer(&offer, &[("sec-websocket-extensions", Some(r#"A; x="y::z""#))]);
            assert_eq!(agreed.is_ok(), name == "a", "{text}");
        }
        for text in [r#"a; b="c"#, r#"a; b="c\""#, r#"a; b=c"d""#, r#"a; b="c"d"#, "a; b=", "a; b=c d", "a b", "; a=1"]
        {
            let refused = offer(&[("sec-websocket-extensions", Some(text))]);
            assert_eq!(refused, Err(OfferError::Extensions), "{text}");
        }
    }

    #[test]
    fn a_header_that_must_be_single_is_refused_twice() {
        for (name, expected) in
            [("sec-websocket-key", OfferError::Key), ("sec-websocket-version", OfferError::WebSocketVersion)]
        {
            let mut map = request(&[]);
            let value = map.get(name).unwrap().clone();
            map.append(HeaderName::from_static(name), value);
            assert_eq!(HandshakeOffer::from_upgrade(&Method::GET, Version::HTTP_11, &map), Err(expected));
        }
    }

    #[test]
    fn only_the_websocket_token_is_a_wish() {
        assert!(names_websocket(&headers(&[("upgrade", "websocket")])));
        assert!(names_websocket(&headers(&[("upgrade", "h2c"), ("upgrade", "WebSocket")])));
        assert!(!names_websocket(&headers(&[("upgrade", "h2c")])));
        assert!(!names_websocket(&headers(&[("upgrade", "websocket2")])));
        assert!(!names_websocket(&headers(&[])));
    }

    fn answer(offer: &HandshakeOffer, change: &[(&'static str, Option<&str>)]) -> Result<HandshakeAnswer, AnswerError> {
        let mut map = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ]);
        for (name, _) in change {
            map.remove(*name);
        }
        for (name, value) in change {
            if let Some(value) = value {
                map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
        }
        HandshakeAnswer::from_switching_protocols(&map, &SAMPLE_KEY.as_bytes().try_into().unwrap(), offer)
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
        assert_eq!(answer(&offer, &[("upgrade", Some("websocket, h2c"))]), Err(AnswerError::Upgrade));
        for foreign in ["other", "chat, superchat", "Chat", "chat, chat, other"] {
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
    fn what_can_be_read_in_one_way_only_is_forgiven() {
        let offer = offer(&[
            ("sec-websocket-protocol", Some("chat, superchat")),
            ("sec-websocket-extensions", Some("permessage-deflate")),
        ])
        .unwrap();
        let (plain, chat) = (answer(&offer, &[]).unwrap(), Some("chat"));
        for odd in [
            &[("transfer-encoding", Some("chunked"))][..],
            &[("content-length", Some("3"))],
            &[("content-length", Some("3")), ("transfer-encoding", Some("chunked"))],
            &[("sec-websocket-protocol", Some(""))],
            &[("sec-websocket-protocol", Some(" , "))],
            &[("sec-websocket-extensions", Some(""))],
            &[("upgrade", Some("WebSocket")), ("upgrade", Some("websocket"))],
            &[("upgrade", Some("websocket, websocket"))],
            &[("connection", Some("keep-alive, UPGRADE"))],
            &[("connection", Some("Upgrade")), ("connection", Some("Upgrade"))],
        ] {
            assert_eq!(answer(&offer, odd), Ok(plain.clone()), "{odd:?}");
        }
        for said in [&["chat", "chat"][..], &["chat, chat"], &["", "chat"], &[" chat ,", ""]] {
            let lines: Vec<_> = said.iter().map(|value| ("sec-websocket-protocol", Some(*value))).collect();
            assert_eq!(answer(&offer, &lines).unwrap().subprotocol.as_deref(), chat, "{said:?}");
        }
        let line = ("sec-websocket-extensions", Some("permessage-deflate"));
        assert_eq!(answer(&offer, &[line, line]).unwrap().extensions.len(), 1);
        let chosen =
            answer(&offer, &[("sec-websocket-protocol", Some("chat")), ("sec-websocket-protocol", Some("superchat"))]);
        assert_eq!(chosen, Err(AnswerError::Subprotocol("chat, superchat".into())));
    }

    #[test]
    fn an_offer_of_deflate_bounds_its_answer() {
        for (offered, accepted, is_within) in [
            ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=10", true),
            ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=9", true),
            ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=11", false),
            ("permessage-deflate; server_max_window_bits=10", "permessage-deflate", false),
            (
                "permessage-deflate; server_max_window_bits=10, permessage-deflate",
                "permessage-deflate; server_max_window_bits=11",
                true,
            ),
            ("permessage-deflate; server_no_context_takeover", "permessage-deflate", false),
            ("permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover", true),
            ("permessage-deflate; client_no_context_takeover", "permessage-deflate", true),
            ("permessage-deflate", "permessage-deflate; client_no_context_takeover; server_no_context_takeover", true),
            ("permessage-deflate", "permessage-deflate; server_max_window_bits=9", true),
            ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=10", true),
            ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=11", false),
            ("permessage-deflate; client_max_window_bits=10", "permessage-deflate", true),
            ("permessage-deflate; client_max_window_bits", "permessage-deflate; client_max_window_bits=15", true),
            ("permessage-deflate", "permessage-deflate; server_max_window_bits=08", false),
            ("permessage-deflate", "permessage-deflate; server_max_window_bits=+9", false),
            ("permessage-deflate", "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9", false),
            ("permessage-deflate", "permessage-deflate; server_no_context_takeover=1", false),
        ] {
            let offer = offer(&[("sec-websocket-extensions", Some(offered))]).unwrap();
            let answered = answer(&offer, &[("sec-websocket-extensions", Some(accepted))]);
            assert_eq!(answered.is_ok(), is_within, "{accepted} for {offered}");
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
