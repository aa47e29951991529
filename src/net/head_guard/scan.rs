//! Scans request heads and the lines of chunked bodies byte by byte: whether line ends are valid, which characters of a
//! target to escape, and where the next head begins. Pure logic.

use super::HeadRefusal;

/// The state between two reads.
#[derive(Debug, Default)]
pub struct Scan {
    /// Bytes of a body still to come.
    body: u64,
    after_cr: bool,
    part: Part,
    line: LineStart,
    target: TargetState,
    framing: Framing,
    /// Whether the request may be a WebSocket handshake.
    may_upgrade: bool,
    /// Whether the request line has more than two spaces.
    has_space: bool,
    /// Whether the method of the last request line is HEAD.
    is_head_request: bool,
    /// Positions of target bytes to escape, in the bytes of the last read; nearly always none.
    escapes: Vec<usize>,
}

/// What the current line is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The request line. Empty lines before it are skipped (RFC 9112 §2.2).
    #[default]
    RequestLine,
    Fields,
    /// The size of a chunk and its extensions.
    ChunkSize,
    /// The line end behind a chunk's data.
    ChunkEnd,
    Trailers,
}

/// The position in the request line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    #[default]
    Before,
    Path,
    Query,
    Behind,
}

/// What follows the current head.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Framing {
    #[default]
    NoBody,
    Length(u64),
    Chunked,
    /// Something whose end this module does not find.
    Opaque,
}

/// The result of a scan.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong so far.
    More,
    /// Nothing is wrong, and nothing more can be checked.
    Opaque,
    /// A bad byte.
    Refused {
        /// Its position in the bytes of the last read.
        at: usize,
        /// Why it is refused.
        refusal: HeadRefusal,
    },
}

impl Scan {
    /// Scans the bytes of the next read.
    pub fn scan(&mut self, bytes: &[u8]) -> Verdict {
        let mut at = 0;
        loop {
            let skipped = self.body.min((bytes.len() - at) as u64);
            self.body -= skipped;
            at += skipped as usize;
            if self.after_cr {
                match bytes.get(at) {
                    None => return Verdict::More,
                    Some(b'\n') => at += 1,
                    Some(_) => return Verdict::Refused { at, refusal: HeadRefusal::BareCr },
                }
                self.after_cr = false;
                let line = std::mem::take(&mut self.line);
                if self.end_line(line.line()) == Framing::Opaque {
                    return Verdict::Opaque;
                }
                continue;
            }
            let Some(length) = memchr::memchr3(b'\r', b'\n', 0, &bytes[at..]) else {
                self.push(at, &bytes[at..]);
                return Verdict::More;
            };
            let part = &bytes[at..at + length];
            if self.line.is_empty() && bytes[at + length..].starts_with(b"\r\n") {
                // Nearly all lines: nothing of it need be kept.
                self.begin_part(at, part);
                if self.end_line(Line::of(part)) == Framing::Opaque {
                    return Verdict::Opaque;
                }
                at += length + 2;
                continue;
            }
            self.push(at, part);
            at += length;
            match bytes[at] {
                b'\r' => self.after_cr = true,
                b'\n' => return Verdict::Refused { at, refusal: HeadRefusal::BareLf },
                _ => return Verdict::Refused { at, refusal: HeadRefusal::Nul },
            }
            at += 1;
        }
    }

    /// Returns, once, the positions of bytes to escape in the last scan.
    pub fn take_escapes(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.escapes)
    }

    /// Returns true if the current or last request line has a space in its target.
    pub fn has_space_in_target(&self) -> bool {
        self.has_space
    }

    /// Returns true if the method of the current or last request is HEAD.
    pub fn is_head_request(&self) -> bool {
        self.is_head_request || self.part == Part::RequestLine && self.line.kept().starts_with(b"HEAD ")
    }

    /// Adds a part of a line that starts `at` this position, and whose end is not there yet.
    fn push(&mut self, at: usize, part: &[u8]) {
        self.begin_part(at, part);
        self.line.push(part);
    }

    /// Looks at a part that is about to be added to the line.
    fn begin_part(&mut self, at: usize, part: &[u8]) {
        if self.part != Part::RequestLine {
            return;
        }
        if self.line.is_empty() && !part.is_empty() {
            (self.has_space, self.is_head_request) = (false, false);
        }
        self.walk_target(at, part);
    }

    fn walk_target(&mut self, at: usize, part: &[u8]) {
        for (offset, byte) in part.iter().enumerate() {
            match (self.target, byte) {
                (TargetState::Before, b' ') => self.target = TargetState::Path,
                (TargetState::Before, _) => {}
                (TargetState::Path | TargetState::Query, b' ') => self.target = TargetState::Behind,
                (TargetState::Path, b'?') => self.target = TargetState::Query,
                // A target must not contain them (RFC 3986 §2), hyper refuses some, and no parser reads one as a
                // delimiter: escaped they mean the same. Other forbidden characters pass hyper; a path is escaped where
                // it is read, and a query is passed on unchanged.
                (TargetState::Path | TargetState::Query, b'"' | b'<' | b'>' | 0x80..) | (TargetState::Path, b'`') => {
                    self.escapes.push(at + offset);
                }
                (TargetState::Path | TargetState::Query, _) => {}
                (TargetState::Behind, byte) => self.has_space |= *byte == b' ',
            }
        }
    }

    /// Adds a whole line. Returns `Opaque` if what follows it cannot be followed.
    fn end_line(&mut self, line: Line<'_>) -> Framing {
        match self.part {
            Part::RequestLine if line.is_empty() => {}
            Part::RequestLine => {
                self.part = Part::Fields;
                self.is_head_request = line.kept.starts_with(b"HEAD ");
                self.framing = if line.is_connect() { Framing::Opaque } else { Framing::NoBody };
            }
            Part::Fields if line.is_empty() => return self.end_head(),
            Part::Fields => {
                self.may_upgrade |= line.may_upgrade();
                if let Some(framing) = line.framing() {
                    let same = self.framing == Framing::NoBody || self.framing == framing;
                    self.framing = if same { framing } else { Framing::Opaque };
                }
            }
            Part::ChunkSize => match line.chunk_size() {
                Some(0) => self.part = Part::Trailers,
                Some(size) => (self.body, self.part) = (size, Part::ChunkEnd),
                None => return Framing::Opaque,
            },
            Part::ChunkEnd if line.is_empty() => self.part = Part::ChunkSize,
            Part::ChunkEnd => return Framing::Opaque,
            Part::Trailers if line.is_empty() => self.part = Part::RequestLine,
            Part::Trailers => {}
        }
        Framing::NoBody
    }

    fn end_head(&mut self) -> Framing {
        // A handshake with a body is refused, and its connection ends: no frames follow it.
        let framing = match self.framing {
            Framing::NoBody | Framing::Length(0) if self.may_upgrade => Framing::Opaque,
            framing => framing,
        };
        *self = Scan {
            has_space: self.has_space,
            is_head_request: self.is_head_request,
            escapes: std::mem::take(&mut self.escapes),
            ..Scan::default()
        };
        match framing {
            Framing::Length(length) => self.body = length,
            Framing::Chunked => self.part = Part::ChunkSize,
            Framing::NoBody | Framing::Opaque => {}
        }
        framing
    }
}

/// The start of a line: enough for `Content-Length: 18446744073709551615`.
#[derive(Debug)]
struct LineStart {
    bytes: [u8; LineStart::KEPT],
    /// The length of the whole line, at most one more than is kept.
    length: usize,
}

impl Default for LineStart {
    fn default() -> LineStart {
        LineStart { bytes: [0; LineStart::KEPT], length: 0 }
    }
}

impl LineStart {
    const KEPT: usize = 40;

    fn push(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.length.min(LineStart::KEPT)..];
        let amount = bytes.len().min(room.len());
        room[..amount].copy_from_slice(&bytes[..amount]);
        self.length = (self.length + bytes.len()).min(LineStart::KEPT + 1);
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn kept(&self) -> &[u8] {
        &self.bytes[..self.length.min(LineStart::KEPT)]
    }

    fn line(&self) -> Line<'_> {
        Line { kept: self.kept(), length: self.length }
    }
}

/// A whole line, of which only the start is looked at.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// Its first bytes, at most [`LineStart::KEPT`].
    kept: &'a [u8],
    /// The length of the whole line, at most one more than is kept.
    length: usize,
}

impl Line<'_> {
    fn of(bytes: &[u8]) -> Line<'_> {
        let length = bytes.len().min(LineStart::KEPT + 1);
        Line { kept: &bytes[..length.min(LineStart::KEPT)], length }
    }

    fn is_empty(self) -> bool {
        self.length == 0
    }

    fn is_connect(self) -> bool {
        self.kept.starts_with(b"CONNECT ")
    }

    /// Returns what the field says about the body, if it determines that (RFC 9112 §6.3).
    fn framing(self) -> Option<Framing> {
        let colon = memchr::memchr(b':', self.kept)?;
        let (name, value) = (&self.kept[..colon], &self.kept[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = value.trim_ascii();
            let digits = self.length <= LineStart::KEPT && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|value| value.parse().ok());
            Some(length.map_or(Framing::Opaque, Framing::Length))
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_chunked = self.length <= LineStart::KEPT && value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            Some(if is_chunked { Framing::Chunked } else { Framing::Opaque })
        } else {
            None
        }
    }

    /// Returns true if frames may follow what has this field and no body.
    fn may_upgrade(self) -> bool {
        const UPGRADE: &[u8] = b"upgrade:";
        let is_upgrade = self.kept.get(..UPGRADE.len()).is_some_and(|name| name.eq_ignore_ascii_case(UPGRADE));
        let has_websocket = || self.kept.windows(9).any(|word| word.eq_ignore_ascii_case(b"websocket"));
        is_upgrade && (self.length > LineStart::KEPT || has_websocket())
    }

    /// Returns the size that a chunk's first line states (RFC 9112 §7.1), if it is one that hyper reads too.
    fn chunk_size(self) -> Option<u64> {
        let digits = self.kept.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let blanks = self.kept[digits..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let is_over = match self.kept.get(digits + blanks) {
            Some(byte) => *byte == b';',
            None => self.length <= LineStart::KEPT,
        };
        let size = std::str::from_utf8(&self.kept[..digits]).ok()?;
        u64::from_str_radix(size, 16).ok().filter(|_| is_over)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &[u8] = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";

    fn scan_all(chunks: &[&[u8]]) -> Verdict {
        let (mut scan, mut before) = (Scan::default(), 0);
        for chunk in chunks {
            match scan.scan(chunk) {
                Verdict::More => before += chunk.len(),
                Verdict::Opaque => return Verdict::Opaque,
                Verdict::Refused { at, refusal } => return Verdict::Refused { at: before + at, refusal },
            }
        }
        Verdict::More
    }

    #[test]
    fn bodies_are_skipped_and_the_next_head_is_watched() {
        let post = b"POST / HTTP/1.1\r\nCONTENT-length:  7 \r\n\r\n\n\0\rbody".as_slice();
        let [h2c, with_body] = [
            "GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\n\n\r\n0\r\n\r\n",
        ];
        for first in [HEAD, post, &HEAD[2..], h2c.as_bytes(), with_body.as_bytes()] {
            let at = first.len() + 3;
            assert_eq!(scan_all(&[first, b"GET\n"]), Verdict::Refused { at, refusal: HeadRefusal::BareLf });
        }
        assert_eq!(scan_all(&[post]), Verdict::More);
    }

    #[test]
    fn where_the_next_head_cannot_be_told_nothing_is_watched() {
        for head in [
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: h2c, WebSocket\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: a, b, c, d, e, f, g, h, i, j, k, l, m, n, websocket\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding:                         chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:                                5\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(scan_all(&[head.as_bytes(), b"\n\0\r"]), Verdict::Opaque, "{head}");
            // But the head itself is checked to its end.
            let bad = head.replace("\r\n\r\n", "\r\n\n");
            assert!(matches!(scan_all(&[bad.as_bytes()]), Verdict::Refused { .. }), "{bad}");
        }
    }

    #[test]
    fn chunks_are_followed_to_the_next_head() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\ntransfer-Encoding: Chunked\r\n\r\n";
        let (zeros, extension) = ("0".repeat(37), "a".repeat(50));
        for body in [
            "0\r\n\r\n",
            "1\r\n\n\r\n0\r\n\r\n",
            "00c\r\nGET / HTTP/1\r\n0\r\n\r\n",
            "9;x=\"y\" \r\n0\r\n\r\n0\r\n\0\r\n2 \t\r\n\r\n\r\n0\r\n0 ; a\r\nX: GET / <\r\nHEAD \r\n\r\n",
            &format!("{zeros}1\r\na\r\n{zeros}0;{extension}\r\nX: {extension}\r\n\r\n"),
        ] {
            let all = format!("{head}{body}");
            assert_eq!(scan_all(&[all.as_bytes()]), Verdict::More, "{body}");
            assert_eq!(escapes(&[all.as_bytes(), b"GET /< HTTP"]), [all.len() + 5], "{body}");
            let refused = Verdict::Refused { at: all.len() + 14, refusal: HeadRefusal::BareLf };
            assert_eq!(scan_all(&[all.as_bytes(), b"GET / HTTP/1.1\n"]), refused, "{body}");
        }
        for (body, at, refusal) in [
            ("1\na\r\n0\r\n\r\n", 1, HeadRefusal::BareLf),
            ("1;a\n\r\na\r\n0\r\n\r\n", 3, HeadRefusal::BareLf),
            ("1\ra\r\n0\r\n\r\n", 2, HeadRefusal::BareCr),
            ("1;\0\r\na\r\n0\r\n\r\n", 2, HeadRefusal::Nul),
            ("1\r\na\n0\r\n\r\n", 4, HeadRefusal::BareLf),
            ("0\r\n\nX: y\r\n\r\n", 3, HeadRefusal::BareLf),
            ("0\r\nX: y\n\r\n\r\n", 7, HeadRefusal::BareLf),
            ("0\r\nX: y\r\n\n", 9, HeadRefusal::BareLf),
        ] {
            let refused = Verdict::Refused { at: head.len() + at, refusal };
            assert_eq!(scan_all(&[head.as_bytes(), body.as_bytes()]), refused, "{}", body.escape_debug());
        }
        for body in
            ["\r\n", "x\r\n", "1 1\r\n", "-1\r\n", "+1\r\n", "10000000000000000\r\n", "1\r\nab\r\n", &zeros.repeat(2)]
        {
            assert_eq!(scan_all(&[head.as_bytes(), body.as_bytes(), b"\r\n\n"]), Verdict::Opaque, "{body}");
        }
    }

    /// Returns the bytes of `chunks` that are to be escaped, with their positions in the whole.
    fn escapes(chunks: &[&[u8]]) -> Vec<usize> {
        let (mut scan, mut before, mut all) = (Scan::default(), 0, vec![]);
        for chunk in chunks {
            let verdict = scan.scan(chunk);
            all.extend(scan.take_escapes().iter().map(|at| before + at));
            if verdict != Verdict::More {
                break;
            }
            before += chunk.len();
        }
        all
    }

    #[test]
    fn only_what_a_target_may_not_have_is_escaped() {
        for (head, escaped) in [
            ("GET /a?b=\"c\"<d> HTTP/1.1\r\nHost: \"a\"\r\n\r\n", "\"\"<>"),
            ("GET /\"<>`{|}^?`{|}^ HTTP/1.1\r\n\r\n", "\"<>`"),
            ("\r\nGET /\u{e9}?\u{20ac} HTTP/1.1\r\n\r\n", "\u{e9}\u{20ac}"),
            ("GET http://a\"/ HTTP/1.1\r\n\r\n", "\""),
            ("\"GET\" / HTTP/1.1\"\r\n\r\n", ""),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\"<>GET /\" HTTP/1.1\r\n\r\n", "\""),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\"<>\r\n0\r\n\r\nGET /\" HTTP/1.1\r\n\r\n",
                "\"",
            ),
            ("GET / HTTP/1.1\r\n\r\nGET /< HTTP/1.1\r\n\r\n", "<"),
        ] {
            let bytes = head.as_bytes();
            let found: Vec<u8> = escapes(&[bytes]).into_iter().map(|at| bytes[at]).collect();
            assert_eq!(found, escaped.as_bytes(), "{head}");
        }
    }

    #[test]
    fn of_a_bad_request_line_it_is_known_what_is_wrong() {
        let scanned = |bytes: &[u8]| {
            let mut scan = Scan::default();
            scan.scan(bytes);
            scan
        };
        assert!(scanned(b"GET /a b HTTP/1.1\r\n\r\n").has_space_in_target());
        assert!(!scanned(b"GET /a b HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n").has_space_in_target());
        assert!(!scanned(b"GET /a HTTP/1.1\r\nX: a b c d\r\n\r\n").has_space_in_target());
        for (head, is_head_request) in [
            ("HEAD / HTTP/1.1\r\n\r\n", true),
            ("HEAD /a", true),
            ("HEADS / HTTP/1.1\r\n", false),
            ("HEAD / HTTP/1.1\r\n\r\nGET /", false),
            ("GET / HTTP/1.1\r\nX: HEAD / \r\n\r\n", false),
        ] {
            assert_eq!(scanned(head.as_bytes()).is_head_request(), is_head_request, "{head}");
        }
    }

    #[test]
    fn each_forbidden_byte_is_found_where_it_stands() {
        let cases: [(&[u8], usize, HeadRefusal); 8] = [
            (b"\nGET", 0, HeadRefusal::BareLf),
            (b"GET / HTTP/1.1\nHost: a\n\n", 14, HeadRefusal::BareLf),
            (b"GET / HTTP/1.1\r\nA: b\n\r\n", 20, HeadRefusal::BareLf),
            (b"GET / HTTP/1.1\r\nA: b\r\n\n", 22, HeadRefusal::BareLf),
            (b"GET / HTTP/1.1\r\nA: b\rc\r\n", 21, HeadRefusal::BareCr),
            (b"GET / HTTP/1.1\r\r\n", 15, HeadRefusal::BareCr),
            (b"GET /\0 HTTP/1.1\r\n", 5, HeadRefusal::Nul),
            (b"GET / HTTP/1.1\r\0", 15, HeadRefusal::BareCr),
        ];
        for (bytes, at, refusal) in cases {
            assert_eq!(scan_all(&[bytes]), Verdict::Refused { at, refusal }, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(
            text in "[a\r\n\0]{0,40}|([a ?\"]{0,9}\r\n){0,5}|((a|Content-Length: ?[0-9]{1,2}|Upgrade: websocket|Upgrade: a|CONNECT )?\r\n){0,8}[\r\n\0a]{0,40}|a\r\nTransfer-Encoding: chunked\r\n\r\n((0{0,40}[0-3]|[0-3];|a|0 )?\r\n[a<]{0,3}){0,8}[\r\n\0a]{0,9}",
            cut in 0usize..80,
        ) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let singles: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(scan_all(&[bytes]), scan_all(&singles));
            prop_assert_eq!(scan_all(&[bytes]), scan_all(&[&bytes[..cut], &bytes[cut..]]));
            prop_assert_eq!(escapes(&[bytes]), escapes(&singles));
            prop_assert_eq!(escapes(&[bytes]), escapes(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
