//! The process as a whole: threads, logs, and its end.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::value::{BadValue, Scalar, TimeSpan, as_scalar};

/// No machine has more cores; a larger number is a slip (a port in the wrong place).
const WORKERS_MAX: u16 = 1024;

/// How many threads relay traffic: `auto`, or a number from 1 to 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// One per core that this process may use.
    #[default]
    Auto,
    /// This many, at least 1.
    Count(u16),
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The lowest level logged: `error`, `warn`, `info`, `debug`, `trace`, `off`, or per module, as in
    /// `info,wsluice::tls=debug`. Default: `info`, which is quiet about connections that end as expected.
    pub level: LogLevel,

    /// `json` (one object a line), `human`, or `auto`. Default: `auto`, which is `human` on a terminal and otherwise
    /// `json`.
    pub format: LogFormat,

    /// Whether each request and each session writes one line when it ends. Default: true, since without it nobody can
    /// tell afterwards who closed a connection and why.
    pub access: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `human` on a terminal, otherwise `json`.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For reading.
    Human,
}

/// The lowest level logged, as text that tracing-subscriber's `EnvFilter` accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

/// How connections end when the process stops.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// How long `/readyz` answers 503 before the listeners stop accepting, so that a load balancer in front notices
    /// first: a little more than its check interval times the failures it waits for. It comes before `time`. Default:
    /// 0s, as not everybody has one.
    pub delay: TimeSpan,

    /// How long sessions have to end after TERM. They are closed (code 1012) a few at a time over this time, so that
    /// the clients do not all reconnect at once. Default: 30s, what most supervisors wait before they kill.
    pub time: TimeSpan,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: LogLevel("info".to_owned()), format: LogFormat::Auto, access: true }
    }
}

impl Default for DrainConfig {
    fn default() -> DrainConfig {
        DrainConfig { delay: TimeSpan::ZERO, time: TimeSpan::from_secs(30) }
    }
}

impl LogLevel {
    /// Returns the text, for `EnvFilter`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for Workers {
    const EXPECTED: &'static str = "`auto` or a number of threads";

    fn from_number(number: u64) -> Option<Workers> {
        u16::try_from(number).ok().filter(|n| (1..=WORKERS_MAX).contains(n)).map(Workers::Count)
    }
}

impl FromStr for Workers {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Workers, BadValue> {
        match text {
            "auto" => Ok(Workers::Auto),
            text => text.parse().ok().and_then(Workers::from_number).ok_or_else(|| {
                let help = format!("write `auto`, or a number from 1 to {WORKERS_MAX}");
                BadValue::new(format!("`{text}` is not a number of threads"), help)
            }),
        }
    }
}

impl Scalar for LogLevel {
    const EXPECTED: &'static str = "a level such as `info`, or `info,wsluice::tls=debug`";
}

impl FromStr for LogLevel {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<LogLevel, BadValue> {
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let help =
            "write `error`, `warn`, `info`, `debug`, `trace` or `off`, or add modules: `info,wsluice::tls=debug`";
        // EnvFilter takes a lone word for the name of a module and logs all of it: `level: inof` would mean
        // `inof=trace`.
        let word = |part: &&str| !part.contains(['=', '[', ']', '}']) && !levels.contains(part);
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if let Some(word) = parts.iter().find(|part| word(part)) {
            let help = crate::config::read::suggest::did_you_mean(word, &levels).unwrap_or_else(|| help.to_owned());
            return Err(BadValue::new(format!("`{word}` is not a log level"), help));
        }
        // It does not take spaces either.
        let filter = parts.join(",");
        match tracing_subscriber::EnvFilter::builder().parse(&filter) {
            Ok(_) => Ok(LogLevel(filter)),
            Err(_) => Err(BadValue::new(format!("`{text}` is not a log filter"), help)),
        }
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Workers::Auto => out.write_str("auto"),
            Workers::Count(count) => count.fmt(out),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

as_scalar!(Workers, "Workers", {
    "type": ["string", "integer"],
    "pattern": r"^auto$|\$\{",
    "minimum": 1,
    "maximum": WORKERS_MAX,
});

as_scalar!(LogLevel, "LogLevel", { "type": "string", "examples": ["error", "warn", "info", "debug", "trace", "off"] });

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_module() {
        for good in ["info", "off", "info,wsluice::tls=debug", "warn, wsluice=trace", "[session]=debug"] {
            good.parse::<LogLevel>().unwrap();
        }
        let bad = "inof".parse::<LogLevel>().unwrap_err();
        assert_eq!((bad.problem.as_str(), bad.help.as_str()), ("`inof` is not a log level", "did you mean `info`?"));
        assert_eq!("".parse::<LogLevel>().unwrap_err().problem, "`` is not a log level");
        assert_eq!("wsluice=loud".parse::<LogLevel>().unwrap_err().problem, "`wsluice=loud` is not a log filter");
    }

    #[test]
    fn workers_are_auto_or_at_least_one() {
        assert_eq!("auto".parse::<Workers>().unwrap(), Workers::Auto);
        assert_eq!("4".parse::<Workers>().unwrap(), Workers::Count(4));
        for text in ["0", "-1", "8443", "many"] {
            text.parse::<Workers>().unwrap_err();
        }
    }
}
