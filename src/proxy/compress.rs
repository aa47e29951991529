//! Compression of plain HTTP answers: which, with what, and what their fields say then (RFC 9110 §8.4).
//!
//! An answer is left as it is where compressing it would change what it means: a part of something (206), one that
//! somebody has compressed or signed, one that must not be transformed. An event stream is left, too: each event would
//! be flushed by itself, and the encoder's memory held for as long as the stream lasts.

mod body;
#[cfg(feature = "compression")]
mod encoder;
#[cfg(not(feature = "compression"))]
#[path = "compress/no_encoder.rs"]
mod encoder;

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName,
    HeaderValue, VARY,
};
use http::{Method, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use self::body::CompressedBody;
use self::encoder::Encoder;
use super::body::{Body, is_event_stream};
use crate::header::content_coding::{ContentCoding, preferred};
use crate::header::media_type::{self, MediaTypePattern};

/// Fields with a digest of the content (RFC 9530, RFC 1864), which would be wrong.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// What a route compresses.
#[derive(Clone, Debug)]
pub struct Compression {
    /// The codings, the preferred one first.
    pub codings: Vec<ContentCoding>,
    /// Shorter answers are left as they are.
    pub bytes_min: u64,
    /// The media types.
    pub types: Vec<MediaTypePattern>,
}

/// What of a request decides how its answer is compressed.
#[derive(Clone, Copy, Debug)]
pub struct RequestedCoding {
    coding: Option<ContentCoding>,
    is_head: bool,
}

impl Compression {
    /// Returns what a request wants. Called before its fields are changed.
    ///
    /// A compressed answer has no length, and with HTTP/1.0 it would end with the connection: a client could not tell one
    /// that was cut from one that is whole. So it is left as it is there.
    pub fn requested_coding(&self, method: &Method, version: Version, headers: &HeaderMap) -> RequestedCoding {
        let coding = preferred(headers, &self.codings);
        let coding = coding.filter(|_| !forbids_transform(headers) && version != Version::HTTP_10);
        RequestedCoding { coding, is_head: *method == Method::HEAD }
    }

    /// Compresses an answer, if it may be and is worth it. Returns it with the coding that was applied.
    pub fn apply(
        &self,
        mut response: Response<Body>,
        requested: RequestedCoding,
    ) -> (Response<Body>, Option<ContentCoding>) {
        if !self.concerns(&response) {
            return (response, None);
        }
        // It is another answer to another Accept-Encoding (RFC 9110 §12.5.5), even if this one is left as it is.
        vary(response.headers_mut());
        let Some(coding) = requested.coding.filter(|_| !requested.is_head && !response.body().is_end_stream()) else {
            return (response, None);
        };
        let is_streamed = response.body().size_hint().exact().is_none();
        let Some(encoder) = Encoder::new(coding) else { return (response, None) };
        encoded(response.headers_mut(), coding);
        let response = response.map(|body| CompressedBody::new(body, encoder, is_streamed).boxed_unsync());
        (response, Some(coding))
    }

    /// Returns true if an answer may be compressed for a client that wants it.
    fn concerns(&self, response: &Response<Body>) -> bool {
        let (status, headers) = (response.status(), response.headers());
        let is_whole = !status.is_informational()
            && !matches!(
                status,
                StatusCode::NO_CONTENT
                    | StatusCode::RESET_CONTENT
                    | StatusCode::PARTIAL_CONTENT
                    | StatusCode::NOT_MODIFIED
            )
            && !headers.contains_key(CONTENT_RANGE);
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        is_whole
            && !headers.contains_key(CONTENT_ENCODING)
            && !DIGESTS.iter().any(|name| headers.contains_key(name))
            && !forbids_transform(headers)
            && !is_event_stream(headers)
            && length.is_none_or(|length| length >= self.bytes_min)
            && media_type::of(headers).is_some_and(|it| self.types.iter().any(|pattern| pattern.matches(it)))
    }
}

/// `no-transform` (RFC 9111 §5.2.1.6, §5.2.2.6).
fn forbids_transform(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let mut directives = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

fn vary(headers: &mut HeaderMap) {
    let mut names = headers.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let is_there = names.any(|name| {
        let name = name.trim_ascii();
        name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding")
    });
    if !is_there {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Changes the fields of an answer that is compressed with `coding`.
fn encoded(headers: &mut HeaderMap, coding: ContentCoding) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    headers.remove(CONTENT_LENGTH);
    // Ranges are of the content as it was.
    headers.remove(ACCEPT_RANGES);
    // RFC 9110 §8.8.1: not the same bytes each time, so only a weak validator.
    let strong = headers.get(ETAG).map(HeaderValue::as_bytes).filter(|tag| tag.starts_with(b"\""));
    if let Some(weak) = strong.and_then(|tag| HeaderValue::from_bytes(&[b"W/", tag].concat()).ok()) {
        headers.insert(ETAG, weak);
    }
}

#[cfg(all(test, feature = "compression"))]
mod tests;
