//! The access log: one line for each session when it ends, and one for each plain HTTP request.
//!
//! Lines are formatted by hand into a buffer of the thread and passed to the sink, bypassing `tracing`, since there is
//! one for each client. They share their keys with other lines (`ts`, `level`, `target`, `message`), so one parser
//! reads both. Text from peers is escaped and cut; secrets in the query are hidden (`redact`). Absent values have no
//! key in JSON, and no word in a human line.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::metrics::Initiator;
use crate::header::redact;
use crate::policy::subject::SUBJECT_BYTES_MAX;
use crate::telemetry::escape;
use crate::telemetry::logging::Format;
use crate::telemetry::sink::LogSink;
use crate::telemetry::utc::Utc;

/// Longest path and query logged; a request line may have 16 KiB.
const PATH_BYTES_MAX: usize = 2048;
/// Longest host logged: the longest DNS name.
const HOST_BYTES_MAX: usize = 255;
/// Longest user agent logged; browsers need about 120.
const USER_AGENT_BYTES_MAX: usize = 200;
/// Longest request id and subprotocol logged.
const TOKEN_BYTES_MAX: usize = 128;
/// Longest close reason: the most that a Close frame holds (RFC 6455 §5.5, less the code).
const REASON_BYTES_MAX: usize = 123;
/// Longest detail, which may quote text from a peer.
const DETAIL_BYTES_MAX: usize = 512;

/// The subject of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A session, logged when it ends.
    Session,
    /// A request that opened no session, such as a refused handshake.
    Request,
}

/// The traffic of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes relayed: of frames, headers included; of a plain request, its body.
    pub bytes: u64,
    /// Whole text messages.
    pub text: u64,
    /// Whole binary messages.
    pub binary: u64,
    /// Ping frames relayed; saturates.
    pub pings: u32,
    /// Pong frames relayed; saturates.
    pub pongs: u32,
}

/// How a session was closed.
#[derive(Clone, Copy, Debug)]
pub struct CloseRecord<'a> {
    /// The side that closed first.
    pub initiator: Initiator,
    /// The code of the first Close; none if the connection was lost without one.
    pub code: Option<u16>,
    /// Its reason, as the peer wrote it.
    pub reason: &'a str,
}

/// One line of the log.
#[derive(Clone, Debug)]
pub struct LogRecord<'a> {
    /// Its kind.
    pub kind: RecordKind,
    /// When the session or request ended; it began `duration` before.
    pub ended: SystemTime,
    /// The time from the request to the end.
    pub duration: Duration,
    /// The time from the request to our answer, if there was a handshake.
    pub handshake: Option<Duration>,
    /// The client's address; none on a Unix socket.
    pub client: Option<IpAddr>,
    /// The client's port, if the client is the peer of the connection.
    pub client_port: Option<u16>,
    /// Name of the listener.
    pub listener: &'a str,
    /// Name of the route, if one was found.
    pub route: Option<&'a str>,
    /// Name of the upstream, if one was tried.
    pub upstream: Option<&'a str>,
    /// The endpoint that answered, or failed last.
    pub endpoint: Option<&'a str>,
    /// The authority of the request.
    pub host: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The request's path, as received.
    pub path: &'a str,
    /// The request's query, without `?`; its secrets are hidden when it is written.
    pub query: Option<&'a str>,
    /// The status of the answer.
    pub status: u16,
    /// The negotiated subprotocol.
    pub subprotocol: Option<&'a str>,
    /// The compression agreed on for a session, or applied by us to an answer.
    pub compression: Option<&'static str>,
    /// The version of HTTP.
    pub http: &'static str,
    /// The version of TLS.
    pub tls: Option<&'static str>,
    /// The subject of the client's credential.
    pub subject: Option<&'a str>,
    /// The X-Request-Id that came with the request.
    pub request_id: Option<&'a str>,
    /// The User-Agent.
    pub user_agent: Option<&'a str>,
    /// From the client to the server.
    pub received: Traffic,
    /// From the server to the client.
    pub sent: Traffic,
    /// How a session was closed.
    pub close: Option<CloseRecord<'a>>,
    /// The outcome's label, as in the metrics.
    pub reason: &'static str,
    /// Details for people, such as the refused origin and the allowed ones.
    pub detail: Option<&'a str>,
    /// The number of endpoints tried.
    pub attempts: u32,
    /// How long the request waited before the first attempt: for its slot, and for an endpoint with room.
    pub waited: Duration,
    /// The result of its affinity cookie, if the upstream has one.
    pub sticky: Option<&'static str>,
}

impl LogRecord<'_> {
    /// Appends the record as one JSON object, without a line end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let _ = write!(out, r#"{{"ts":"{}","level":"info","target":"access","message":"#, Utc(self.ended));
        out.extend_from_slice(match self.kind {
            RecordKind::Session => br#""session""#,
            RecordKind::Request => br#""request""#,
        });
        let mut keys = Keys { out };
        keys.plain("start", format_args!("\"{}\"", Utc(self.started())));
        keys.plain("duration_ms", Millis(self.duration));
        if let Some(handshake) = self.handshake {
            keys.plain("handshake_ms", Millis(handshake));
        }
        if let Some(client) = self.client {
            keys.plain("client", format_args!("\"{client}\""));
        }
        if let Some(port) = self.client_port {
            keys.plain("client_port", port);
        }
        keys.text("listener", self.listener);
        keys.optional("route", self.route);
        keys.optional("upstream", self.upstream);
        keys.optional("endpoint", self.endpoint);
        keys.text("host", escape::cut(self.host, HOST_BYTES_MAX));
        keys.text("method", escape::cut(self.method, TOKEN_BYTES_MAX));
        keys.text("path", &self.target());
        keys.plain("status", self.status);
        keys.optional("subprotocol", self.subprotocol.map(|token| escape::cut(token, TOKEN_BYTES_MAX)));
        keys.optional("compression", self.compression);
        keys.text("http", self.http);
        keys.optional("tls", self.tls);
        keys.optional("subject", self.subject.map(|subject| escape::cut(subject, SUBJECT_BYTES_MAX)));
        keys.optional("request_id", self.request_id.map(|id| escape::cut(id, TOKEN_BYTES_MAX)));
        keys.optional("user_agent", self.user_agent.map(|agent| escape::cut(agent, USER_AGENT_BYTES_MAX)));
        keys.plain("bytes_in", self.received.bytes);
        keys.plain("bytes_out", self.sent.bytes);
        if self.kind == RecordKind::Session {
            for (way, text, binary, pings, pongs) in [
                (&self.received, "text_in", "binary_in", "pings_in", "pongs_in"),
                (&self.sent, "text_out", "binary_out", "pings_out", "pongs_out"),
            ] {
                keys.plain(text, way.text);
                keys.plain(binary, way.binary);
                keys.plain(pings, way.pings);
                keys.plain(pongs, way.pongs);
            }
        }
        if let Some(close) = &self.close {
            keys.text("close_initiator", close.initiator.label());
            if let Some(code) = close.code {
                keys.plain("close_code", code);
            }
            if !close.reason.is_empty() {
                keys.text("close_reason", escape::cut(close.reason, REASON_BYTES_MAX));
            }
        }
        keys.text("reason", self.reason);
        keys.optional("detail", self.detail.map(|detail| escape::cut(detail, DETAIL_BYTES_MAX)));
        keys.plain("attempts", self.attempts);
        if !self.waited.is_zero() {
            keys.plain("waited_ms", Millis(self.waited));
        }
        keys.optional("sticky", self.sticky);
        out.push(b'}');
    }

    /// Appends the record as a line for people, without a line end.
    pub fn write_human(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            RecordKind::Session => "session",
            RecordKind::Request => "request",
        };
        let _ = write!(out, "{} {kind} ", Utc(self.ended));
        match (self.client, self.client_port) {
            (Some(IpAddr::V6(client)), Some(port)) => drop(write!(out, "[{client}]:{port}")),
            (Some(client), Some(port)) => drop(write!(out, "{client}:{port}")),
            (Some(client), None) => drop(write!(out, "{client}")),
            (None, _) => out.push(b'-'),
        }
        out.push(b' ');
        escape::human_word(out, escape::cut(self.method, TOKEN_BYTES_MAX));
        out.push(b' ');
        let address = format!("{}{}", escape::cut(self.host, HOST_BYTES_MAX), self.target());
        escape::human_word(out, &address);
        let _ = write!(out, " {} {} {}ms", self.status, self.reason, Millis(self.duration));

        let mut words = Words { out };
        words.text("listener", self.listener);
        words.optional("route", self.route);
        words.optional("upstream", self.upstream);
        words.optional("endpoint", self.endpoint);
        if self.attempts > 1 {
            words.plain("attempts", self.attempts);
        }
        if !self.waited.is_zero() {
            words.plain("waited", format_args!("{}ms", Millis(self.waited)));
        }
        words.optional("sticky", self.sticky);
        words.optional("http", Some(self.http).filter(|version| *version != "1.1"));
        words.optional("tls", self.tls);
        words.optional("subject", self.subject.map(|subject| escape::cut(subject, SUBJECT_BYTES_MAX)));
        words.optional("subprotocol", self.subprotocol.map(|token| escape::cut(token, TOKEN_BYTES_MAX)));
        words.optional("compression", self.compression);
        words.optional("request_id", self.request_id.map(|id| escape::cut(id, TOKEN_BYTES_MAX)));
        for (name, way) in [("in", &self.received), ("out", &self.sent)] {
            match self.kind {
                RecordKind::Session => words.plain(name, format_args!("{}msg/{}B", way.text + way.binary, way.bytes)),
                RecordKind::Request => words.plain(name, format_args!("{}B", way.bytes)),
            }
        }
        if let Some(close) = &self.close {
            match close.code {
                Some(code) => words.plain("close", format_args!("{}:{code}", close.initiator.label())),
                None => words.plain("close", close.initiator.label()),
            }
            if !close.reason.is_empty() {
                words.text("said", escape::cut(close.reason, REASON_BYTES_MAX));
            }
        }
        words.optional("detail", self.detail.map(|detail| escape::cut(detail, DETAIL_BYTES_MAX)));
    }

    fn started(&self) -> SystemTime {
        self.ended.checked_sub(self.duration).unwrap_or(self.ended)
    }

    /// Returns path and query as they may be logged.
    fn target(&self) -> String {
        let mut target = String::from(escape::cut(self.path, PATH_BYTES_MAX));
        if let Some(query) = self.query {
            target.push('?');
            target.push_str(&redact::query(query));
        }
        target.truncate(target.floor_char_boundary(PATH_BYTES_MAX));
        target
    }
}

/// Displays a span in milliseconds, with three decimal places.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

/// The members of a JSON object, after the first ones. The names are fixed and need no escaping.
struct Keys<'a> {
    out: &'a mut Vec<u8>,
}

impl Keys<'_> {
    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Adds a value whose display is valid JSON.
    fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        let _ = write!(self.out, "{value}");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        escape::json_string(self.out, value);
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }
}

/// The `name=value` words of a human line.
struct Words<'a> {
    out: &'a mut Vec<u8>,
}

impl Words<'_> {
    fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.out, " {name}={value}");
    }

    fn text(&mut self, name: &str, value: &str) {
        let _ = write!(self.out, " {name}=");
        escape::human_word(self.out, value);
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }
}

/// The destination of the lines, and their format. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct AccessLog {
    output: Option<(LogSink, Format)>,
}

impl AccessLog {
    /// Writes to `sink`.
    pub fn new(sink: LogSink, format: Format) -> AccessLog {
        AccessLog { output: Some((sink, format)) }
    }

    /// Writes nothing.
    pub fn off() -> AccessLog {
        AccessLog { output: None }
    }

    /// Returns true if records are written; callers skip costly records otherwise.
    pub fn is_on(&self) -> bool {
        self.output.is_some()
    }

    /// Returns true if records go to the same place in the same format in `other`.
    pub fn is_like(&self, other: &AccessLog) -> bool {
        let format = |log: &AccessLog| log.output.as_ref().map(|(_, format)| *format);
        format(self) == format(other)
    }

    /// Writes one line; never waits for the output.
    pub fn write(&self, record: &LogRecord<'_>) {
        let Some((sink, format)) = &self.output else { return };
        sink.write_with(|line| match format {
            Format::Json => record.write_json(line),
            Format::Human => record.write_human(line),
        });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::io::{self, Read};
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn session() -> LogRecord<'static> {
        LogRecord {
            kind: RecordKind::Session,
            ended: UNIX_EPOCH + Duration::from_millis(1_795_251_303_120),
            duration: Duration::from_micros(61_234_567),
            handshake: Some(Duration::from_micros(3_040)),
            client: Some("2001:db8::7".parse().unwrap()),
            client_port: Some(50123),
            listener: "public",
            route: Some("chat"),
            upstream: Some("backend"),
            endpoint: Some("ws://10.0.0.11:9000"),
            host: "chat.example.com",
            method: "GET",
            path: "/ws/room",
            query: Some("id=7&access_token=s3cret"),
            status: 101,
            subprotocol: Some("chat.v2"),
            compression: Some("permessage-deflate"),
            http: "2",
            tls: Some("1.3"),
            subject: None,
            request_id: Some("r-1"),
            user_agent: Some("Mozilla/5.0 (X11)"),
            received: Traffic { bytes: 5000, text: 10, binary: 2, pings: 0, pongs: 1 },
            sent: Traffic { bytes: 70_000, text: 300, binary: 0, pings: 1, pongs: 0 },
            close: Some(CloseRecord { initiator: Initiator::Client, code: Some(1000), reason: "bye now" }),
            reason: "closed",
            detail: None,
            attempts: 2,
            waited: Duration::from_micros(12_500),
            sticky: Some("hit"),
        }
    }

    fn refused() -> LogRecord<'static> {
        LogRecord {
            kind: RecordKind::Request,
            handshake: None,
            duration: Duration::from_micros(85),
            client: None,
            client_port: None,
            upstream: None,
            endpoint: None,
            query: None,
            status: 403,
            subprotocol: None,
            compression: None,
            http: "1.1",
            tls: None,
            request_id: None,
            user_agent: None,
            received: Traffic::default(),
            sent: Traffic { bytes: 40, ..Traffic::default() },
            close: None,
            reason: "origin",
            detail: Some("origin https://evil.example is not among: same-origin"),
            attempts: 0,
            waited: Duration::ZERO,
            sticky: None,
            ..session()
        }
    }

    fn json(record: &LogRecord<'_>) -> String {
        let mut out = Vec::new();
        record.write_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn human(record: &LogRecord<'_>) -> String {
        let mut out = Vec::new();
        record.write_human(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_session_is_one_json_object() {
        assert_eq!(
            json(&session()),
            concat!(
                r#"{"ts":"2026-11-21T08:55:03.120Z","level":"info","target":"access","message":"session","#,
                r#""start":"2026-11-21T08:54:01.885Z","duration_ms":61234.567,"handshake_ms":3.040,"#,
                r#""client":"2001:db8::7","client_port":50123,"listener":"public","route":"chat","#,
                r#""upstream":"backend","endpoint":"ws://10.0.0.11:9000","host":"chat.example.com","method":"GET","#,
                r#""path":"/ws/room?id=7&access_token=***","status":101,"subprotocol":"chat.v2","compression":"permessage-deflate","http":"2","tls":"1.3","#,
                r#""request_id":"r-1","user_agent":"Mozilla/5.0 (X11)","bytes_in":5000,"bytes_out":70000,"#,
                r#""text_in":10,"binary_in":2,"pings_in":0,"pongs_in":1,"#,
                r#""text_out":300,"binary_out":0,"pings_out":1,"pongs_out":0,"#,
                r#""close_initiator":"client","close_code":1000,"close_reason":"bye now","#,
                r#""reason":"closed","attempts":2,"waited_ms":12.500,"sticky":"hit"}"#
            )
        );
    }

    #[test]
    fn a_refused_request_says_what_was_refused() {
        assert_eq!(
            json(&refused()),
            concat!(
                r#"{"ts":"2026-11-21T08:55:03.120Z","level":"info","target":"access","message":"request","#,
                r#""start":"2026-11-21T08:55:03.119Z","duration_ms":0.085,"listener":"public","route":"chat","#,
                r#""host":"chat.example.com","method":"GET","path":"/ws/room","status":403,"http":"1.1","#,
                r#""bytes_in":0,"bytes_out":40,"reason":"origin","#,
                r#""detail":"origin https://evil.example is not among: same-origin","attempts":0}"#
            )
        );
    }

    #[test]
    fn people_read_the_same_in_one_line() {
        assert_eq!(
            human(&session()),
            concat!(
                "2026-11-21T08:55:03.120Z session [2001:db8::7]:50123 GET ",
                "chat.example.com/ws/room?id=7&access_token=*** 101 closed 61234.567ms ",
                "listener=public route=chat upstream=backend endpoint=ws://10.0.0.11:9000 attempts=2 waited=12.500ms ",
                "sticky=hit http=2 tls=1.3 subprotocol=chat.v2 compression=permessage-deflate request_id=r-1 in=12msg/5000B out=300msg/70000B close=client:1000 said=\"bye now\""
            )
        );
        assert_eq!(
            human(&refused()),
            concat!(
                "2026-11-21T08:55:03.120Z request - GET chat.example.com/ws/room 403 origin 0.085ms ",
                "listener=public route=chat in=0B out=40B ",
                "detail=\"origin https://evil.example is not among: same-origin\""
            )
        );
    }

    #[test]
    fn a_lost_connection_has_no_code() {
        let close = Some(CloseRecord { initiator: Initiator::Server, code: None, reason: "" });
        let record = LogRecord { close, reason: "upstream_lost", ..session() };
        assert!(json(&record).contains(r#""close_initiator":"server","reason":"upstream_lost""#));
        assert!(human(&record).ends_with(" close=server"));
    }

    #[test]
    fn what_peers_send_is_cut() {
        let long = "ä".repeat(5000);
        let close = Some(CloseRecord { initiator: Initiator::Client, code: Some(4000), reason: &long });
        let record = LogRecord {
            host: &long,
            path: &long,
            query: Some(&long),
            user_agent: Some(&long),
            request_id: Some(&long),
            detail: Some(&long),
            close,
            ..session()
        };
        assert!(json(&record).len() < 2048 + 255 + 200 + 128 + 123 + 512 + 1000);
        assert!(human(&record).len() < 2048 + 255 + 128 + 123 + 512 + 1000);
    }

    #[test]
    fn the_log_writes_to_its_sink_or_not_at_all() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = LogSink::new(writer).unwrap();
        let log = AccessLog::new(sink.clone(), Format::Human);
        assert!(log.is_on() && !AccessLog::off().is_on());
        log.write(&session());
        AccessLog::off().write(&session());
        log.write(&refused());
        assert!(sink.flush(Duration::from_secs(20)));
        drop((log, sink));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{}\n{}\n", human(&session()), human(&refused())));
    }

    proptest! {
        #[test]
        fn no_peer_can_write_a_second_line_or_a_second_key(text in any::<String>()) {
            let hostile = format!("{text}\r\n\",\"status\":200,\"x\":\"\u{1b}[2J\u{9b}m\u{202e} status=200");
            let close = Some(CloseRecord { initiator: Initiator::Client, code: Some(1000), reason: &hostile });
            let record = LogRecord {
                host: &hostile, method: &hostile, path: &hostile, query: Some(&hostile), subprotocol: Some(&hostile),
                request_id: Some(&hostile), user_agent: Some(&hostile), detail: Some(&hostile), close, ..refused()
            };
            let (json, human) = (json(&record), human(&record));
            prop_assert!(!json.chars().chain(human.chars()).any(char::is_control));
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&object["status"], 403);
            prop_assert!(!object.contains_key("x"));
            prop_assert_eq!(json.matches(r#""status":"#).count(), 1, "a key is written once");
        }
    }
}
