//! Turns events of `tracing` into lines of the log: one JSON object each, or one readable line.
//!
//! We have a layer of our own instead of tracing-subscriber's `fmt`, because a line here must be safe whatever a peer
//! put into a field (`escape`), must not wait for the output (`sink`), has the same keys as an access line (`ts`,
//! `level`, `target`, `message`, then the fields, flat), and names each key once: the fields of an event hide those
//! of its span, those of an inner span those of an outer one. Configuring `fmt` for this would take as
//! much code.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::escape;
use super::sink::LogSink;
use super::utc::Utc;

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, for machines.
    Json,
    /// One line of text, for a person at a terminal.
    Human,
}

/// How to log.
#[derive(Clone, Debug)]
pub struct Options {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `info,wsluice::session=debug`.
    pub filter: String,
    /// The format of a line.
    pub format: Format,
    /// Colours the level in human lines.
    pub ansi: bool,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter does not parse.
    #[error("log level {filter:?} is neither a level (error, warn, info, debug, trace) nor a list of directives")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What the parser says.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A word that names neither a level nor, with `=level`, a module. The parser would take it for a module and be silent.
    #[error("log level {filter:?}: {word:?} is not a level (off, error, warn, info, debug, trace)")]
    Level {
        /// The filter as given.
        filter: String,
        /// The word in it.
        word: String,
    },
    /// Someone else already set the process's subscriber.
    #[error("the log has been started twice")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
    /// The subscriber is gone, or a panic left it unusable.
    #[error("the log is gone")]
    Gone(#[source] reload::Error),
}

/// Changes the log while it runs. Clones change the same log.
#[derive(Clone, Debug)]
pub struct Switch {
    filter: reload::Handle<EnvFilter, Registry>,
    human: Arc<AtomicBool>,
}

impl Switch {
    /// Applies a new filter; see [`Options::filter`].
    ///
    /// # Errors
    /// If it does not parse, which changes nothing.
    pub fn set_level(&self, filter: &str) -> Result<(), LoggingError> {
        self.filter.reload(parse(filter)?).map_err(LoggingError::Gone)
    }

    /// Applies a new format.
    pub fn set_format(&self, format: Format) {
        self.human.store(format == Format::Human, Ordering::Relaxed);
    }
}

/// Sends the events of the whole process to `sink`.
///
/// # Errors
/// If the filter does not parse or there is a global subscriber already.
pub fn init(options: &Options, sink: LogSink) -> Result<Switch, LoggingError> {
    let (subscriber, switch) = subscriber(options, sink)?;
    tracing::subscriber::set_global_default(subscriber).map_err(LoggingError::Twice)?;
    Ok(switch)
}

/// Makes what `init` installs; a test installs it for its own thread.
///
/// # Errors
/// If the filter does not parse.
pub fn subscriber(
    options: &Options,
    sink: LogSink,
) -> Result<(impl Subscriber + Send + Sync + use<>, Switch), LoggingError> {
    // Whether an event passes is decided once for each place in the code and cached there until the filter changes:
    // a filter that can change costs nothing where nothing is logged.
    let (layer, filter) = reload::Layer::new(parse(&options.filter)?);
    let human = Arc::new(AtomicBool::new(options.format == Format::Human));
    let lines = LineLayer { sink, human: Arc::clone(&human), ansi: options.ansi };
    Ok((Registry::default().with(layer).with(lines), Switch { filter, human }))
}

/// Parses a filter.
fn parse(written: &str) -> Result<EnvFilter, LoggingError> {
    let mut bare = written.split(',').map(str::trim).filter(|part| !part.contains(['=', '[', ']', '{', '}']));
    if let Some(word) = bare.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(LoggingError::Level { filter: written.into(), word: word.into() });
    }
    EnvFilter::builder().parse(written).map_err(|source| LoggingError::Filter { filter: written.into(), source })
}

/// The layer that turns events into lines.
struct LineLayer {
    sink: LogSink,
    human: Arc<AtomicBool>,
    ansi: bool,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = EventFields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<EventFields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = EventFields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<EventFields>() {
                fields.inherit(outer);
            }
        }
        self.sink.write_with(|line| self.write(line, Utc::now(), event.metadata(), &fields));
    }
}

impl LineLayer {
    fn write(&self, line: &mut Vec<u8>, now: Utc, metadata: &tracing::Metadata<'_>, fields: &EventFields) {
        match self.human.load(Ordering::Relaxed) {
            false => write_json(line, now, metadata, fields),
            true => write_human(line, now, metadata, fields, self.ansi),
        }
    }
}

fn write_json(line: &mut Vec<u8>, now: Utc, metadata: &tracing::Metadata<'_>, fields: &EventFields) {
    let _ = write!(line, r#"{{"ts":"{now}","level":"{}","target":""#, level(*metadata.level()));
    line.extend_from_slice(metadata.target().as_bytes());
    line.extend_from_slice(br#"","message":"#);
    escape::json_string(line, &fields.message);
    for (name, value) in &fields.named {
        line.push(b',');
        // The keys above are ours; a field of the same name keeps its value under a longer one.
        let taken = matches!(*name, "ts" | "level" | "target");
        let _ = write!(line, r#""{name}{}":"#, if taken { "_" } else { "" });
        match value {
            FieldValue::Text(text) => escape::json_string(line, text),
            FieldValue::Bare(text) => line.extend_from_slice(text.as_bytes()),
        }
    }
    line.push(b'}');
}

fn write_human(line: &mut Vec<u8>, now: Utc, metadata: &tracing::Metadata<'_>, fields: &EventFields, ansi: bool) {
    let (colour, plain) = match (ansi, *metadata.level()) {
        (false, _) => ("", ""),
        (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
        (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
        (true, Level::INFO) => ("\x1b[32m", "\x1b[0m"),
        (true, _) => ("\x1b[2m", "\x1b[0m"),
    };
    let _ = write!(line, "{now} {colour}{:5}{plain} ", metadata.level().as_str());
    escape::human_text(line, &fields.message);
    for (name, value) in &fields.named {
        let _ = write!(line, " {name}=");
        match value {
            FieldValue::Text(text) => escape::human_word(line, text),
            FieldValue::Bare(text) => line.extend_from_slice(text.as_bytes()),
        }
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The fields of an event or a span, in the order given.
#[derive(Debug, Default)]
struct EventFields {
    message: String,
    named: Vec<(&'static str, FieldValue)>,
}

#[derive(Clone, Debug)]
enum FieldValue {
    /// Quoted and escaped.
    Text(String),
    /// A number or a boolean, written without quotes.
    Bare(String),
}

impl EventFields {
    fn set(&mut self, field: &Field, value: FieldValue) {
        match (field.name(), value) {
            ("message", FieldValue::Text(text) | FieldValue::Bare(text)) => self.message = text,
            (name, value) => {
                let name = name.strip_prefix("r#").unwrap_or(name);
                match self.named.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, old)) => *old = value,
                    None => self.named.push((name, value)),
                }
            }
        }
    }

    /// Adds the fields that only `outer` has.
    fn inherit(&mut self, outer: &EventFields) {
        for (name, value) in &outer.named {
            if !self.named.iter().any(|(known, _)| known == name) {
                self.named.push((name, value.clone()));
            }
        }
    }
}

impl Visit for EventFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.set(field, FieldValue::Text(text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, FieldValue::Text(value.into()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.set(field, FieldValue::Text(text));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, FieldValue::Bare(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, FieldValue::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, FieldValue::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON cannot express infinity and NaN (RFC 8259 §6).
        let text = value.to_string();
        self.set(field, if value.is_finite() { FieldValue::Bare(text) } else { FieldValue::Text(text) });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::io::{self, Read};
    use std::time::{Duration, UNIX_EPOCH};

    use tracing::{debug, error, info, info_span, warn};

    use super::*;

    /// What `events` log under `filter`, the time stamps cut off.
    fn log(format: Format, filter: &str, events: impl FnOnce()) -> Vec<String> {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = LogSink::new(writer).unwrap();
        let options = Options { filter: filter.into(), format, ansi: false };
        tracing::subscriber::with_default(subscriber(&options, sink.clone()).unwrap().0, events);
        assert!(sink.flush(Duration::from_secs(20)));
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let stamp = Utc(UNIX_EPOCH).to_string().len();
        text.lines()
            .map(|line| match format {
                Format::Human => line[stamp + 1..].to_owned(),
                Format::Json => line.replacen(&line[7..7 + stamp], "T", 1),
            })
            .collect()
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        let lines = log(Format::Json, "info", || {
            info!(target: "wsluice::server", listener = "public", port = 8443u16, tls = true, ratio = 0.5, "listening");
            warn!(target: "wsluice::server", nan = f64::NAN, level = 3, "odd\nnames");
            debug!("not at this level");
        });
        assert_eq!(
            lines,
            [
                r#"{"ts":"T","level":"info","target":"wsluice::server","message":"listening","listener":"public","port":8443,"tls":true,"ratio":0.5}"#,
                r#"{"ts":"T","level":"warn","target":"wsluice::server","message":"odd\nnames","nan":"NaN","level_":3}"#,
            ]
        );
        assert!(lines.iter().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[test]
    fn the_fields_of_spans_follow_and_the_inner_one_wins() {
        let events = || {
            let _listener = info_span!("listener", listener = "public", peer = "outer").entered();
            let connection = info_span!("connection", peer = "10.0.0.1", route = tracing::field::Empty);
            let _entered = connection.clone().entered();
            connection.record("route", "chat");
            info!(target: "t", "hello");
        };
        assert_eq!(log(Format::Human, "info", events), ["INFO  hello peer=10.0.0.1 route=chat listener=public"]);
        assert_eq!(
            log(Format::Json, "info", events),
            [
                r#"{"ts":"T","level":"info","target":"t","message":"hello","peer":"10.0.0.1","route":"chat","listener":"public"}"#
            ]
        );
    }

    #[test]
    fn a_stranger_cannot_write_a_line_of_his_own() {
        let hostile = "x\n2026-11-21T00:00:00.000Z INFO  all is well\u{1b}[2J\u{9b}31m";
        let events = || error!(target: "t", path = hostile, shown = %hostile, debug = ?hostile, "refused {hostile}");
        for format in [Format::Json, Format::Human] {
            let lines = log(format, "info", events);
            assert_eq!(lines.len(), 1);
            assert!(!lines[0].chars().any(char::is_control), "{lines:?}");
        }
    }

    #[test]
    fn an_error_tells_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("no upstream")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("refused"));
        let lines = log(Format::Human, "info", || {
            error!(error = &error as &(dyn std::error::Error + 'static), "failed");
        });
        assert_eq!(lines, [r#"ERROR failed error="no upstream: refused""#]);
    }

    #[test]
    fn directives_choose_by_module_and_nonsense_is_refused() {
        let lines = log(Format::Human, "warn,wsluice::session=debug", || {
            debug!(target: "wsluice::session", "kept");
            info!(target: "wsluice::server", "left out");
        });
        assert_eq!(lines, ["DEBUG kept"]);
        let refuse = |filter: &str| {
            let options = Options { filter: filter.into(), format: Format::Json, ansi: false };
            subscriber(&options, LogSink::new(io::sink()).unwrap()).err().map(|error| error.to_string())
        };
        assert!(refuse("wsluice=loud").unwrap().contains("neither a level"));
        assert!(refuse("inof").unwrap().contains(r#""inof" is not a level"#));
        assert_eq!(refuse("off"), None);
    }
    #[test]
    fn level_and_look_change_while_it_runs_and_a_bad_level_changes_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = LogSink::new(writer).unwrap();
        let options = Options { filter: "info".into(), format: Format::Json, ansi: false };
        let (subscriber, switch) = subscriber(&options, sink.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let tell = |step: u32| {
                debug!(target: "t", step, "detail");
                info!(target: "t", step, "news");
            };
            tell(0);
            switch.set_level("debug").unwrap();
            tell(1);
            assert!(matches!(switch.set_level("deubg"), Err(LoggingError::Level { .. })));
            assert!(matches!(switch.set_level("t=loud"), Err(LoggingError::Filter { .. })));
            tell(2);
            switch.set_level("warn,t=info").unwrap();
            switch.set_format(Format::Human);
            tell(3);
            switch.set_level("off").unwrap();
            tell(4);
        });
        assert!(matches!(switch.set_level("info"), Err(LoggingError::Gone(_))));
        assert!(sink.flush(Duration::from_secs(20)));
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let stamp = Utc(UNIX_EPOCH).to_string().len();
        let lines: Vec<&str> =
            text.lines().map(|line| line.find("\"message\":").map_or(&line[stamp..], |at| &line[at..])).collect();
        assert_eq!(
            lines,
            [
                r#""message":"news","step":0}"#,
                r#""message":"detail","step":1}"#,
                r#""message":"news","step":1}"#,
                r#""message":"detail","step":2}"#,
                r#""message":"news","step":2}"#,
                " INFO  news step=3",
            ]
        );
    }
}
