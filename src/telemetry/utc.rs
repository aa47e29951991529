//! Wall-clock time in RFC 3339: UTC, milliseconds, `Z`. All a log needs of a calendar, without a date crate.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time that displays as `2026-11-21T08:55:03.120Z` (RFC 3339 §5.6).
#[derive(Clone, Copy, Debug)]
pub struct Utc(pub SystemTime);

impl Utc {
    /// Returns the present.
    pub fn now() -> Utc {
        Utc(SystemTime::now())
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock set before 1970 is a broken clock; the line matters more than the stamp.
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let milli = since.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// A text that is no point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a time such as `2026-11-21T08:55:03Z`")]
pub struct NoTime;

/// Reads a point in time since 1970 (RFC 3339 §5.6); a leap second counts as the next one.
impl FromStr for Utc {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Utc, NoTime> {
        read(text).map(Utc).ok_or(NoTime)
    }
}

fn read(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_at_checked(10)?;
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = time.split_at_checked(8)?;
    let end = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(end);
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let fraction = match fraction {
        "" => Duration::ZERO,
        fraction => {
            let digits = fraction.strip_prefix('.')?;
            let is_short = (1..=9).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
            Duration::from_nanos(is_short.then(|| format!("{digits:0<9}").parse().ok()).flatten()?)
        }
    };
    let (is_later, [hours, minutes]) = match zone {
        "Z" | "z" => (true, [0, 0]),
        zone => (zone.starts_with('-'), numbers(&zone[1..], ':', [2, 2])?),
    };
    let is_right = hour < 24 && minute < 60 && second <= 60 && hours < 24 && minutes < 60;
    let days = (1970..=9999).contains(&year).then(|| days(year, month, day))?;
    // There is such a day.
    if !is_right || civil(days) != (year, month, day) {
        return None;
    }
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let offset = hours * 3600 + minutes * 60;
    let seconds = if is_later { seconds + offset } else { seconds.checked_sub(offset)? };
    Some(UNIX_EPOCH + Duration::from_secs(seconds) + fraction)
}

/// Reads numbers of so many digits with `mark` between them.
fn numbers<const N: usize>(text: &str, mark: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(mark);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|digit| digit.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Returns the days from 1970-01-01 to a day of the Gregorian calendar; the inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month + 2) / 5 + day.saturating_sub(1);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

/// Returns year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Years are counted from 1 March, so that the leap day is the last of its year and the months before it follow one
/// rule: their first days are at (153 * month + 2) / 5.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days in 400 years, after which the calendar repeats
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (era, day_of_era) = (days / ERA, days % ERA);
    // A leap day every 4 years (1,461 days), less one every 100 (36,525), plus one every 400.
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / (ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 is March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, millis: u64) -> String {
        Utc(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis)).to_string()
    }

    #[test]
    fn what_is_written_is_read_again_and_what_is_no_time_is_not() {
        let since =
            |text: &str| text.parse().map(|Utc(at)| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis());
        for seconds in (0..4_000_000_000_u64).step_by(86_399 * 7) {
            assert_eq!(since(&at(seconds, 7)), Ok(u128::from(seconds) * 1000 + 7));
        }
        for (text, millis) in [
            ("2000-02-29t00:00:00z", 951_782_400_000),
            ("2000-02-29 02:30:00.5+02:30", 951_782_400_500),
            ("2000-02-28T19:00:00.000000001-05:00", 951_782_400_000),
        ] {
            assert_eq!(since(text), Ok(millis), "{text}");
        }
        for text in [
            "",
            "2000-02-29",
            "2000-02-29T00:00:00",
            "2001-02-29T00:00:00Z",
            "2000-13-01T00:00:00Z",
            "2000-00-10T00:00:00Z",
            "2000-01-00T00:00:00Z",
            "2000-01-01T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "2000-01-01T00:00:00.Z",
            "2000-01-01T00:00:00.0000000000Z",
            "2000-01-01T00:00:00+1:00",
            "+200-01-01T00:00:00Z",
            "2000-01-01T00:00:00Zx",
            "2000-01-01T00:00:0éZ",
        ] {
            assert_eq!(since(text), Err(NoTime), "{text}");
        }
    }

    #[test]
    fn known_seconds_have_their_known_dates() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_000_000_000, 999), "2001-09-09T01:46:40.999Z");
        assert_eq!(at(1_709_251_199, 0), "2024-02-29T23:59:59.000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_clock_before_1970_reads_as_its_first_second() {
        assert_eq!(Utc(UNIX_EPOCH - Duration::from_secs(1)).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn every_day_of_five_centuries_follows_the_one_before() {
        let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut expected = (1970, 1, 1);
        for days in 0..500 * 365 {
            assert_eq!(civil(days), expected, "day {days}");
            let (year, month, day) = expected;
            let last = match month {
                4 | 6 | 9 | 11 => 30,
                2 => 28 + u64::from(leap(year)),
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, day) if day == last => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }
}
