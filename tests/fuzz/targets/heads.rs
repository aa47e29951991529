//! Requests on a connection: what comes out of the guard and hyper, beside a strict reading of RFC 9112 of the same bytes.
//!
//! A request that comes out must be one that stands there, with the same method, target and body, at its place in the
//! order: what one reader takes for a body and the next for a request is how requests are smuggled.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use wsluice::header::{Host, coding, length};
use wsluice::net::head_guard::HeadGuard;
use wsluice::net::stream::Prefixed;
use wsluice::ws::handshake::names_websocket;

use super::stream::{Script, block_on};
use super::{Target, choices, pieces};

pub const TARGET: Target = Target { name: "heads", run, seeds: SEEDS, tokens: TOKENS };

/// Choices (cut), then the bytes of a connection.
const SEEDS: &[&[u8]] = &[
    b"\x02GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x03GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloHEAD /3 HTTP/1.1\r\nHost: b:80\r\nX: y\r\n\r\n",
    b"\x04POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nT: u\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x05\r\nPUT http://a/1?\xc3\xa9=<\"> HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabcGET /2 HTTP/1.0\r\n\r\n",
    b"\x06POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 28\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x07GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x04POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\nT: u\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x03POST /1 HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\nT: u\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x08POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
];
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b" :",
    b"\r\n ",
    b"\x0b",
    b"\x7f",
    b"\xa0",
    b"\xc3\xa9",
    b"\"",
    b"`",
    b"#",
    b"?",
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST ",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"HEAD ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length : 5\r\n",
    b"Content_Length: 9\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"Host: a\r\n",
    b"Host: b\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"5;a=\"\n\"\r\n",
    b"0x5\r\n",
    b"5 \r\n",
    b"ffffffffffffffff\r\n",
    b"10000000000000005\r\n",
    b"-1\r\n",
    b"X-A: b\r\n c\r\n",
    b"18446744073709551616",
    b"Upgrade: h2c\r\n",
    b"Trailer: T\r\n",
];

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    /// As far as it came.
    body: Vec<u8>,
    /// All of it did.
    whole: bool,
}

/// What comes out, as far as the proxy goes on with it.
fn served(pieces: &[&[u8]]) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(vec![]));
    let service = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: Request<Incoming>| {
            let seen = Arc::clone(&seen);
            async move { Ok::<_, Infallible>(serve(request, &seen).await) }
        })
    };
    let io = TokioIo::new(HeadGuard::new(Prefixed::new(vec![], Script::new(pieces))));
    let mut builder = http1::Builder::new();
    builder.max_header_size(16 << 10).max_buf_size(32 << 10);
    // How it ends is hyper's matter.
    let _ = block_on(builder.serve_connection(io, service));
    let seen = seen.lock().expect("no panic");
    seen.clone()
}

async fn serve(request: Request<Incoming>, seen: &Mutex<Vec<Seen>>) -> Response<Full<Bytes>> {
    let (mut parts, mut body) = request.into_parts();
    let refused = |status| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    };
    // As the proxy judges it before anybody else sees it.
    let is_judged = matches!(parts.method, Method::CONNECT | Method::TRACE)
        || coding::of_request(&parts.headers).is_err()
        || length::join_lines(&mut parts.headers).is_err()
        || Host::from_request(&parts).is_err();
    if is_judged {
        return refused(StatusCode::BAD_REQUEST);
    }
    let mut one = Seen { method: parts.method.to_string(), target: parts.uri.to_string(), body: vec![], whole: false };
    one.whole = loop {
        match body.frame().await {
            None => break true,
            Some(Ok(frame)) => one.body.extend(frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break false,
        }
    };
    let is_cut = !one.whole;
    seen.lock().expect("no panic").push(one);
    if is_cut || names_websocket(&parts.headers) { refused(StatusCode::OK) } else { Response::new(Full::default()) }
}

fn run(data: &[u8]) {
    let Some(([cut], bytes)) = choices(data) else { return };
    let whole = served(&[bytes]);
    assert_eq!(served(&pieces(bytes, cut)), whole, "cut into pieces");
    let mut reader = Reader::new(bytes);
    for one in whole {
        let read = reader.request().unwrap_or_else(|why| panic!("{one:?} comes out of what is none: {why}"));
        assert_eq!(one.method, read.method);
        let target = escaped(&read.target);
        // In absolute form its scheme is the same in any case, and it gets its path of `/` by the way.
        let is_absolute = target.contains("://");
        let alike = |other: &str| one.target == other || is_absolute && one.target.eq_ignore_ascii_case(other);
        let is_same = alike(&target) || is_absolute && (alike(&format!("{target}/")) || one.target.contains("/?"));
        assert!(is_same, "{one:?}: {target}");
        if one.whole {
            assert!(read.whole, "{one:?}: {read:?}");
            assert_eq!(one.body, read.body);
        } else {
            // hyper may find more to refuse in chunks and trailers than is looked for here.
            assert!(read.body.starts_with(&one.body), "{one:?}: {read:?}");
        }
    }
}

/// As the guard and `http` write a target.
fn escaped(target: &[u8]) -> String {
    let mut text = String::new();
    let mut is_query = false;
    for byte in target {
        is_query |= *byte == b'?';
        match byte {
            b'"' | b'<' | b'>' | 0x80.. => text.push_str(&format!("%{byte:02X}")),
            b'`' if !is_query => text.push_str("%60"),
            byte => text.push(char::from(*byte)),
        }
    }
    // A fragment is not sent on.
    text.split('#').next().unwrap_or_default().to_owned()
}

/// As much of a line the guard looks at; what is longer it leaves to hyper.
const GUARD_KEEPS: usize = 40;

/// Reads requests off bytes, by the letter.
pub struct Reader<'a> {
    rest: &'a [u8],
    /// LF alone ends no line. In and behind a body whose end the guard leaves to hyper it does.
    is_strict: bool,
    /// Nothing may come out behind what was read.
    is_last: bool,
}

/// A request that stands there.
#[derive(Debug, Default)]
pub struct Read {
    pub method: String,
    pub target: Vec<u8>,
    pub body: Vec<u8>,
    /// All of its body is there.
    pub whole: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, is_strict: true, is_last: false }
    }

    fn line(&mut self) -> Result<&'a [u8], &'static str> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or("a line without its end")?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        match line.strip_suffix(b"\r") {
            Some(line) => Ok(line),
            None if !self.is_strict => Ok(line),
            None => Err("LF without CR"),
        }
    }

    /// The next request, or why there is none.
    pub fn request(&mut self) -> Result<Read, &'static str> {
        let is_token = |text: &[u8]| {
            !text.is_empty()
                && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
        };
        if self.is_last {
            return Err("the connection is to end");
        }
        let mut first = self.line()?;
        while first.is_empty() {
            first = self.line()?;
        }
        let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
        let [method, target, version] = words[..] else { return Err("no request line") };
        if !is_token(method) || target.is_empty() || target.iter().any(|byte| *byte < b' ' || *byte == 127) {
            return Err("a bad method or target");
        }
        if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") {
            return Err("a bad version");
        }
        let (mut lengths, mut codings, mut is_opaque) = (vec![], vec![], method == b"CONNECT");
        let mut may_upgrade = false;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or("a field without a colon")?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            // A folded line begins with a blank, which is no token either.
            if !is_token(name) {
                return Err("a bad name");
            }
            if value.iter().any(|byte| *byte < b' ' && *byte != b'\t' || *byte == 127) {
                return Err("a control in a value");
            }
            if name.eq_ignore_ascii_case(b"content-length") {
                lengths.push(value);
                is_opaque |= line.len() > GUARD_KEEPS;
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                codings.push(value);
                is_opaque |= line.len() > GUARD_KEEPS;
            } else if name.eq_ignore_ascii_case(b"upgrade") {
                let has_websocket = || value.windows(9).any(|word| word.eq_ignore_ascii_case(b"websocket"));
                may_upgrade |= line.len() > GUARD_KEEPS || has_websocket();
            }
        }
        let mut read =
            Read { method: String::from_utf8_lossy(method).into_owned(), target: target.to_vec(), ..Read::default() };
        if !codings.is_empty() {
            if codings.len() > 1 || !codings[0].eq_ignore_ascii_case(b"chunked") {
                return Err("a coding");
            }
            if version == b"HTTP/1.0" {
                return Err("a coding in HTTP/1.0");
            }
            // RFC 9112 §6.1: with a length beside it, it is the last.
            self.is_last = !lengths.is_empty();
            self.is_strict &= !is_opaque && lengths.is_empty();
            read.whole = self.chunks(&mut read.body)?;
            return Ok(read);
        }
        let mut length = None;
        for item in lengths.iter().flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii) {
            let number = std::str::from_utf8(item).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let number: u64 = number.and_then(|text| text.parse().ok()).ok_or("a bad length")?;
            if length.replace(number).is_some_and(|other| other != number) {
                return Err("two lengths");
            }
            // The guard reads one number; what else is a length is left to hyper.
            is_opaque |= item.len() != lengths[0].len();
        }
        let length = length.unwrap_or(0);
        self.is_strict &= !(is_opaque || may_upgrade && length == 0);
        let there = usize::try_from(length).unwrap_or(usize::MAX).min(self.rest.len());
        read.whole = there as u64 == length;
        read.body = self.rest[..there].to_vec();
        self.rest = &self.rest[there..];
        Ok(read)
    }

    /// Chunks and trailers; false if they end before their end. What is wrong with them is hyper's to find: what it has
    /// handed out before is the same.
    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<bool, &'static str> {
        loop {
            let Some(end) = self.rest.windows(2).position(|two| two == b"\r\n") else { return Ok(false) };
            let line = &self.rest[..end];
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let tail = line[digits..].trim_ascii_start();
            self.is_strict &= line.len() - tail.len() < GUARD_KEEPS;
            let size = std::str::from_utf8(&line[..digits]).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
            let (Some(size), true) = (size, tail.is_empty() || tail.starts_with(b";")) else { return Ok(false) };
            if line.contains(&b'\n') || line.contains(&b'\r') {
                return Ok(false);
            }
            self.rest = &self.rest[end + 2..];
            if size == 0 {
                break;
            }
            let there = usize::try_from(size).unwrap_or(usize::MAX).min(self.rest.len());
            body.extend_from_slice(&self.rest[..there]);
            self.rest = &self.rest[there..];
            let Some(rest) = self.rest.strip_prefix(b"\r\n") else { return Ok(false) };
            self.rest = rest;
        }
        loop {
            let Ok(line) = self.line() else { return Ok(false) };
            if line.is_empty() {
                return Ok(true);
            }
        }
    }
}
