//! The lines that `ping` writes, each when its step is over.

use std::io::Write;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName};
use rustls::ProtocolVersion;

use super::target::Target;
use crate::header::visible::visible;
use crate::tls::inspect::CertificateSummary;

/// The most fields that are shown of a head.
const FIELDS_MAX: usize = 40;
/// The most characters of one value or line.
const SHOWN_MAX: usize = 200;
/// The most lines of a body.
const LINES_MAX: usize = 8;

/// Where lines go. A reader that has gone (`| head`) is no reason to stop.
pub(super) struct Report<'a> {
    out: &'a mut (dyn Write + Send),
}

impl<'a> Report<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send)) -> Report<'a> {
        Report { out }
    }

    pub(super) fn title(&mut self, target: &Target) {
        self.line(&target.with_tls(target.tls));
    }

    /// A step, how long it took, and what came of it.
    pub(super) fn step(&mut self, name: &str, took: Duration, outcome: &str) {
        let line = format!("  {name:<6}{:>10}  {outcome}", millis(took));
        self.line(line.trim_end());
    }

    /// Something more about the step above.
    pub(super) fn detail(&mut self, text: &str) {
        self.line(&format!("{:20}{text}", ""));
    }

    /// The fields of a head but some.
    pub(super) fn fields(&mut self, headers: &HeaderMap, but: &[HeaderName]) {
        for (name, value) in headers.iter().filter(|(name, _)| !but.contains(name)).take(FIELDS_MAX) {
            self.detail(&format!("{name}: {}", clipped(&String::from_utf8_lossy(value.as_bytes()))));
        }
    }

    /// The first lines of a body, if it is text.
    pub(super) fn body(&mut self, bytes: &[u8]) {
        // The end may be in the middle of a character.
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines().filter(|line| !line.trim().is_empty()).take(LINES_MAX) {
            self.detail(&format!("| {}", clipped(line)));
        }
    }

    pub(super) fn certificate(&mut self, summary: &CertificateSummary, now: SystemTime) {
        let CertificateSummary { subject, issuer, names, validity, length, fault } = summary;
        let names = if names.is_empty() { subject.clone() } else { names.join(", ") };
        self.detail(&clipped(&format!("certificate for {names}, issued by {issuer}")));
        let date = match (validity.expired_since(now), validity.begins_in(now)) {
            (Some(since), _) => format!("EXPIRED {} ago", days(since)),
            (_, Some(until)) => format!("NOT VALID before {} from now", days(until)),
            _ => format!("valid for {} more", days(validity.left(now))),
        };
        let length = if *length == 1 { "no intermediates".to_owned() } else { format!("{length} in the chain") };
        self.detail(&format!("{date}; {length}"));
        if let Some(fault) = fault {
            self.detail(&format!("the chain is broken: {}", clipped(fault)));
        }
    }

    /// Least, mean and longest time of several Pings.
    pub(super) fn summary(&mut self, times: &[Duration]) {
        let (Some(least), Some(longest)) = (times.iter().min(), times.iter().max()) else { return };
        if let Ok(count @ 2..) = u32::try_from(times.len()) {
            let mean = times.iter().sum::<Duration>() / count;
            self.detail(&format!(
                "{count} Pings: {} / {} / {} (min/avg/max)",
                millis(*least),
                millis(mean),
                millis(*longest)
            ));
        }
    }

    /// Writes a line, without characters that would steer a terminal.
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{}", visible(text)).and_then(|()| self.out.flush());
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn days(time: Duration) -> String {
    match time.as_secs() / 86_400 {
        0 => format!("{} hours", time.as_secs() / 3600),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// A stranger's text, if it is not too long, or its beginning.
fn clipped(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// The name of a version of TLS.
pub(super) fn tls_version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLS 1.3",
        ProtocolVersion::TLSv1_2 => "TLS 1.2",
        _ => "TLS",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_sends_cannot_steer_a_terminal() {
        let mut out = vec![];
        Report::new(&mut out).body(b"a\x1b[31mred\r\n\n\xff\x07end");
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("| a.[31mred\n") && text.contains("\u{fffd}.end\n"), "{text:?}");
        assert!(!text.contains(['\x1b', '\x07', '\r']));
        let mut out = vec![];
        Report::new(&mut out).body("é\n".repeat(10_000).as_bytes());
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), LINES_MAX);
        let mut out = vec![];
        Report::new(&mut out).body("é".repeat(10_000).as_bytes());
        assert!(out.len() < 3 * SHOWN_MAX);
    }
}
