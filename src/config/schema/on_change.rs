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

/// How long the sessions that cannot move have, unless `move` says.
const DRAIN_OF_MOVE: TimeSpan = TimeSpan::from_secs(600);

/// What happens to the sessions of a process when another one has taken over: `move`, `keep`, `drain 10m` or `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUpgrade {
    /// Gives them to the other process. Those that cannot go are closed evenly over this time, which is not zero.
    Move(TimeSpan),
    /// The old process does this with them.
    Stay(OnChange),
}

impl Default for OnUpgrade {
    fn default() -> OnUpgrade {
        OnUpgrade::Move(DRAIN_OF_MOVE)
    }
}

impl Scalar for OnUpgrade {
    const EXPECTED: &'static str = "`move`, `keep`, `close`, or `drain` and a time such as `drain 10m`";
}

impl FromStr for OnUpgrade {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<OnUpgrade, BadValue> {
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("move"), None, _) => Ok(OnUpgrade::default()),
            (Some("move"), Some(time), None) => match time.parse::<TimeSpan>()? {
                TimeSpan::ZERO => Err(BadValue::new(
                    format!("`{text}` leaves no time to the sessions that cannot move"),
                    "write `move`, or a time above 0s, such as `move 10m`",
                )),
                time => Ok(OnUpgrade::Move(time)),
            },
            (Some("move"), ..) => Err(BadValue::new(
                "only a time may follow `move`",
                "write `move`, or `move 10m` to say how long the sessions that cannot move have",
            )),
            (Some(word), None, _) if crate::config::read::suggest::nearest(word, &["move"]).is_some() => {
                Err(BadValue::new(format!("`{text}` is not a way to upgrade"), "did you mean `move`?"))
            }
            _ => text.parse().map(OnUpgrade::Stay),
        }
    }
}

impl fmt::Display for OnUpgrade {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            OnUpgrade::Move(DRAIN_OF_MOVE) => out.write_str("move"),
            OnUpgrade::Move(time) => write!(out, "move {time}"),
            OnUpgrade::Stay(change) => change.fmt(out),
        }
    }
}

as_scalar!(OnUpgrade, "OnUpgrade", {
    "description": "`move`, `keep`, `close`, or `drain` and a time.",
    "type": "string",
    "pattern": r"^ *(move( +([0-9]+(d|h|m|s|ms))+)?|keep|close|drain +([0-9]+(d|h|m|s|ms))+) *$|\$\{",
    "examples": ["move", "move 30m", "keep", "drain 10m", "close"],
});

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_moves_sessions_or_does_what_a_change_does() {
        let minutes = |minutes: u64| TimeSpan::from_secs(60 * minutes);
        for (text, right, shown) in [
            ("move", OnUpgrade::Move(minutes(10)), "move"),
            (" move  10m ", OnUpgrade::Move(minutes(10)), "move"),
            ("move 1h", OnUpgrade::Move(minutes(60)), "move 1h"),
            ("keep", OnUpgrade::Stay(OnChange::Keep), "keep"),
            ("close", OnUpgrade::Stay(OnChange::Close), "close"),
            ("drain 5m", OnUpgrade::Stay(OnChange::Drain(minutes(5))), "drain 5m"),
        ] {
            let read = text.parse::<OnUpgrade>().unwrap();
            assert_eq!((read, read.to_string().as_str()), (right, shown));
        }
        for (text, hint) in
            [("move 0s", "above 0s"), ("move 1m 2m", "move 10m"), ("moves", "`move`"), ("drain", "drain 60s")]
        {
            let bad = text.parse::<OnUpgrade>().unwrap_err();
            assert!(format!("{bad:?}").contains(hint), "{text}: {bad:?}");
        }
    }

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
