//! Which answers are compressed, what their fields say, and that what comes out is what went in.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::VecDeque;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use hyper::body::Frame;
use proptest::prelude::*;

use super::*;
use crate::config::HttpCompression;
use crate::proxy::body::{self, BodyError};

const ALL: [ContentCoding; 3] = [ContentCoding::Zstd, ContentCoding::Br, ContentCoding::Gzip];

fn compression() -> Compression {
    let HttpCompression { encodings, min_bytes, types } = HttpCompression::default();
    Compression { codings: encodings, bytes_min: min_bytes.bytes(), types }
}

fn unpacked(coding: ContentCoding, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    match coding {
        ContentCoding::Gzip => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut out)),
        ContentCoding::Br => drop(brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out)),
        ContentCoding::Zstd => drop(zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out)),
    }
    out
}

/// Gives its frames one by one; `None` is a pause.
struct Script(VecDeque<Option<Frame<Bytes>>>);

impl hyper::body::Body for Script {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.0.pop_front() {
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

#[derive(Default)]
struct Turns(AtomicUsize);

impl Wake for Turns {
    fn wake(self: Arc<Turns>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn script(parts: Vec<Option<Vec<u8>>>) -> Body {
    Script(parts.into_iter().map(|part| part.map(|part| Frame::data(part.into()))).collect()).boxed_unsync()
}

/// Reads a body to its end; gives its frames, how often it gave way, and the trailers.
fn read(mut body: Body) -> (Vec<Bytes>, usize, Option<HeaderMap>) {
    let turns = Arc::<Turns>::default();
    let waker = Waker::from(Arc::clone(&turns));
    let (mut frames, mut pauses, mut trailers) = (vec![], 0, None);
    loop {
        match Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => frames.push(data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Poll::Ready(Some(Err(error))) => panic!("{error}"),
            Poll::Ready(None) => return (frames, pauses, trailers),
            Poll::Pending => pauses += 1,
        }
    }
}

fn compressed(coding: ContentCoding, parts: Vec<Option<Vec<u8>>>, is_streamed: bool) -> Body {
    CompressedBody::new(script(parts), Encoder::new(coding).unwrap(), is_streamed).boxed_unsync()
}

fn answer(status: u16, fields: &[(&str, &str)], bytes: usize) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(body::full(vec![b'x'; bytes])).unwrap()
}

fn request(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

#[test]
fn only_what_gains_by_it_and_stays_the_same_is_compressed() {
    let html = ("content-type", "text/html; charset=utf-8");
    let length = ("content-length", "5000");
    let gzip = [("accept-encoding", "gzip")];
    let is_compressed = |method: Method, asked: &[(&str, &str)], status, fields: &[(&str, &str)]| {
        let compression = compression();
        let wanted = compression.requested_coding(&method, Version::HTTP_11, &request(asked));
        let (response, coding) = compression.apply(answer(status, fields, 5000), wanted);
        let varies = response.headers().get_all(VARY).iter().any(|value| value == "Accept-Encoding");
        assert_eq!(coding.is_some(), response.headers().get(CONTENT_ENCODING).is_some_and(|it| it == "gzip"));
        (coding.is_some(), varies)
    };
    assert_eq!(is_compressed(Method::GET, &gzip, 200, &[html]), (true, true));
    assert_eq!(is_compressed(Method::POST, &gzip, 404, &[html, length]), (true, true));
    // It would be compressed for another client.
    assert_eq!(is_compressed(Method::GET, &[], 200, &[html]), (false, true));
    assert_eq!(is_compressed(Method::HEAD, &gzip, 200, &[html]), (false, true));
    let asked = [gzip[0], ("cache-control", "no-transform")];
    assert_eq!(is_compressed(Method::GET, &asked, 200, &[html]), (false, true));
    for (status, fields) in [
        (204, &[html][..]),
        (205, &[html]),
        (206, &[html, ("content-range", "bytes 0-4999/9000")]),
        (304, &[html]),
        (200, &[html, ("content-range", "bytes 0-4999/9000")]),
        (200, &[html, ("content-encoding", "br")]),
        (200, &[html, ("content-encoding", "identity")]),
        (200, &[html, ("cache-control", "public, No-Transform")]),
        (200, &[html, ("content-digest", "sha-256=:AA==:")]),
        (200, &[html, ("content-md5", "AA==")]),
        (200, &[html, ("content-length", "1023")]),
        (200, &[("content-type", "image/png")]),
        (200, &[("content-type", "application/zip")]),
        (200, &[("content-type", "text/event-stream")]),
        (200, &[("content-type", "TEXT/Event-Stream; charset=utf-8")]),
        (200, &[]),
    ] {
        assert_eq!(is_compressed(Method::GET, &gzip, status, fields), (false, false), "{status} {fields:?}");
    }
    for media_type in ["application/json", "application/ld+json", "image/svg+xml", "TEXT/css", "application/wasm"] {
        assert!(is_compressed(Method::GET, &gzip, 200, &[("content-type", media_type)]).0, "{media_type}");
    }
}

#[test]
fn the_fields_say_what_was_done() {
    let compression = compression();
    let wanted = compression.requested_coding(&Method::GET, Version::HTTP_11, &request(&[("accept-encoding", "br")]));
    let fields = |fields: &[(&str, &str)]| {
        let fields = [&[("content-type", "text/css")], fields].concat();
        compression.apply(answer(200, &fields, 5000), wanted).0.headers().clone()
    };
    let headers =
        fields(&[("content-length", "5000"), ("etag", "\"a\""), ("accept-ranges", "bytes"), ("vary", "Origin")]);
    assert!(headers[CONTENT_ENCODING] == "br" && headers[ETAG] == "W/\"a\"", "{headers:?}");
    assert!(!headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(ACCEPT_RANGES), "{headers:?}");
    let vary = |headers: &HeaderMap| {
        headers.get_all(VARY).iter().map(|it| it.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(vary(&headers), ["Origin", "Accept-Encoding"]);
    assert_eq!(fields(&[("etag", "W/\"a\"")])[ETAG], "W/\"a\"");
    assert_eq!(vary(&fields(&[("vary", "*")])), ["*"]);
    assert_eq!(vary(&fields(&[("vary", "origin, ACCEPT-encoding")])), ["origin, ACCEPT-encoding"]);
}

#[test]
fn an_answer_that_comes_in_parts_arrives_in_parts() {
    for coding in ALL {
        let parts = vec![Some(b"first ".to_vec()), None, Some(b"second ".to_vec()), None, Some(b"last".to_vec())];
        let (came, ..) = read(compressed(coding, parts.clone(), true));
        assert_eq!(unpacked(coding, &came.concat()), b"first second last", "{coding:?}");
        assert_eq!(unpacked(coding, &came[0]), b"first ", "{coding:?}");
        assert_eq!(unpacked(coding, &came[..2].concat()), b"first second ", "{coding:?}");
        // Where the length is known, more will come soon.
        let (came, ..) = read(compressed(coding, parts, false));
        assert_eq!(came.len(), 1, "{coding:?}");
        assert_eq!(unpacked(coding, &came.concat()), b"first second last", "{coding:?}");
    }
}

#[test]
fn others_have_their_turn_however_large_an_answer_is() {
    for coding in ALL {
        let (came, pauses, _) = read(compressed(coding, vec![Some(vec![b'x'; 1 << 20])], false));
        assert!(pauses + 1 >= (1 << 20) / super::body::TURN_BYTES, "{coding:?}: {pauses}");
        assert_eq!(unpacked(coding, &came.concat()).len(), 1 << 20, "{coding:?}");
    }
}

#[test]
fn trailers_come_after_all_that_was_compressed() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("7"));
    for coding in ALL {
        let frames = [Frame::data(Bytes::from_static(b"text")), Frame::trailers(trailers.clone())];
        let body = Script(frames.into_iter().map(Some).collect()).boxed_unsync();
        let (came, _, found) = read(CompressedBody::new(body, Encoder::new(coding).unwrap(), false).boxed_unsync());
        assert_eq!((unpacked(coding, &came.concat()), found), (b"text".to_vec(), Some(trailers.clone())), "{coding:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_comes_out_is_what_went_in(
        sizes in prop::collection::vec(prop::option::of(0_usize..70_000), 0..8), seed: u8, is_streamed: bool, coding in 0_usize..3,
    ) {
        let byte = |at: usize| (at as u8).wrapping_mul(seed) ^ (at >> 9) as u8;
        let parts: Vec<_> = sizes.iter().map(|size| size.map(|size| (0..size).map(byte).collect::<Vec<u8>>())).collect();
        let whole: Vec<u8> = parts.iter().flatten().flatten().copied().collect();
        let (came, ..) = read(compressed(ALL[coding], parts, is_streamed));
        prop_assert_eq!(unpacked(ALL[coding], &came.concat()), whole);
    }
}

#[test]
fn with_http_1_0_an_answer_is_left_with_its_length() {
    let compression = compression();
    let fields = request(&[("accept-encoding", "gzip")]);
    for (version, coding) in [(Version::HTTP_11, true), (Version::HTTP_10, false)] {
        let requested = compression.requested_coding(&Method::GET, version, &fields);
        assert_eq!(requested.coding.is_some(), coding, "{version:?}");
    }
}
