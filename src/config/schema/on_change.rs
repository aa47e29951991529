//! What happens to sessions when something under them changes: a route in the file, or the binary.

use std::fmt;
use std::str::FromStr;

use crate::config::value::{BadValue, Scalar, TimeSpan, as_scalar};

/// What happens to sessions when something under them changes: `keep`, `drain 60s` or `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// Leaves them as they began.
    Keep,
    /// Closes them evenly over this time, which is not zero.
    Drain(TimeSpan),
    /// Closes them at once.
    Close,
}

impl Scalar for OnChange {
    const EXPECTED: &'static str = "`keep`, `close`, or `drain` and a time such as `drain 60s`";
}

impl FromStr for OnChange {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<OnChange, BadValue> {
        let help = "write `keep`, `drain 60s` or `close`";
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("keep"), None, _) => Ok(OnChange::Keep),
            (Some("close"), None, _) => Ok(OnChange::Close),
            (Some("drain"), Some(time), None) => match time.parse::<TimeSpan>()? {
                TimeSpan::ZERO => {
                    Err(BadValue::new(format!("`{text}` leaves no time"), "write `close`, or a time above 0s"))
                }
                time => Ok(OnChange::Drain(time)),
            },
            (Some("drain"), None, _) => Err(BadValue::new("`drain` needs a time", "write one after it: `drain 60s`")),
            (Some(word @ ("keep" | "close")), Some(_), _) => Err(BadValue::new(
                format!("nothing may follow `{word}`"),
                format!("write `{word}` alone, or `drain 60s`"),
            )),
            (Some(word), None, _) if word.parse::<TimeSpan>().is_ok() => {
                Err(BadValue::new(format!("`{text}` is a time alone"), format!("write `drain {word}`")))
            }
            (word, ..) => {
                let meant =
                    word.and_then(|word| crate::config::read::suggest::nearest(word, &["keep", "close", "drain"]));
                let help = match meant {
                    Some("drain") => "did you mean `drain 60s`?".to_owned(),
                    Some(word) => format!("did you mean `{word}`?"),
                    None => help.to_owned(),
                };
                Err(BadValue::new(format!("`{text}` is not `keep`, `drain` and a time, or `close`"), help))
            }
        }
    }
}

impl fmt::Display for OnChange {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            OnChange::Keep => out.write_str("keep"),
            OnChange::Drain(time) => write!(out, "drain {time}"),
            OnChange::Close => out.write_str("close"),
        }
    }
}

as_scalar!(OnChange, "OnChange", {
    "description": "`keep`, `close`, or `drain` and a time.",
    "type": "string",
    "pattern": r"^ *(keep|close|drain +([0-9]+(d|h|m|s|ms))+) *$|\$\{",
    "examples": ["keep", "drain 60s", "close"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_word_or_a_word_and_a_time() {
        for (text, right) in [
            ("keep", OnChange::Keep),
            ("close", OnChange::Close),
            ("drain 60s", OnChange::Drain(TimeSpan::from_secs(60))),
            ("drain  1h30m", OnChange::Drain(TimeSpan::from_secs(5400))),
        ] {
            let read = text.parse::<OnChange>().unwrap();
            assert_eq!(read, right);
            assert_eq!(read.to_string().parse::<OnChange>().unwrap(), right);
        }
    }

    #[test]
    fn what_it_is_not_says_what_would_be_right() {
        for (text, problem, help) in [
            ("", "`` is not `keep`, `drain` and a time, or `close`", "write `keep`, `drain 60s` or `close`"),
            ("drain", "`drain` needs a time", "write one after it: `drain 60s`"),
            ("drain 0s", "`drain 0s` leaves no time", "write `close`, or a time above 0s"),
            ("drain 60", "`60` has no unit", "write a duration such as `250ms`, `30s`, `5m`, `1h30m` or `7d`"),
            (
                "drain 1m 30s",
                "`drain 1m 30s` is not `keep`, `drain` and a time, or `close`",
                "did you mean `drain 60s`?",
            ),
            ("close 5s", "nothing may follow `close`", "write `close` alone, or `drain 60s`"),
            ("60s", "`60s` is a time alone", "write `drain 60s`"),
            ("kep", "`kep` is not `keep`, `drain` and a time, or `close`", "did you mean `keep`?"),
        ] {
            let bad = text.parse::<OnChange>().unwrap_err();
            assert_eq!((bad.problem.as_str(), bad.help.as_str()), (problem, help), "{text}");
        }
    }
}
