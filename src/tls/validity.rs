//! The period in which a certificate is valid.
//!
//! webpki checks validity but does not return it, and the operator needs a warning in advance.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::der::element;

/// The period in which a certificate is valid, in seconds of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: i64,
    /// Last second.
    pub not_after: i64,
}

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl Validity {
    /// Parses the contents of a certificate's Validity (RFC 5280 §4.1.2.5).
    pub(super) fn read(mut contents: &[u8]) -> Option<Validity> {
        Some(Validity { not_before: time(&mut contents)?, not_after: time(&mut contents)? })
    }

    /// Returns how long ago it ended at `now`, if it has.
    pub fn expired_since(&self, now: SystemTime) -> Option<Duration> {
        positive(unix(now) - self.not_after)
    }

    /// Returns how long it is still valid at `now`; zero if it has expired.
    pub fn left(&self, now: SystemTime) -> Duration {
        positive(self.not_after - unix(now)).unwrap_or_default()
    }

    /// Returns how long until it begins at `now`, if it has not.
    pub fn begins_in(&self, now: SystemTime) -> Option<Duration> {
        positive(self.not_before - unix(now))
    }
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn positive(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// Parses UTCTime `YYMMDDHHMMSSZ` (years 1950 to 2049) or GeneralizedTime `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
fn time(der: &mut &[u8]) -> Option<i64> {
    let (tag, text) = element(der)?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = number(text, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => number(text, 4)?,
        _ => return None,
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let sane = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    (sane && rest == b"Z").then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(text: &[u8], digits: usize) -> Option<(i64, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let digit = |value: i64, byte: &u8| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'));
    Some((number.iter().try_fold(0, digit)?, rest))
}

/// Returns the days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that the leap
/// day is their last; 719468 days lie between 0000-03-01 and the epoch.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(from: (i32, u8, u8), to: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn it_is_read_in_both_forms_of_time() {
        // Seconds by `date -u -d 2000-02-29 +%s` and so on; from 2050 on GeneralizedTime is used.
        let validity = Validity::of(&certificate((2000, 2, 29), (2049, 12, 31))).unwrap();
        assert_eq!(validity, Validity { not_before: 951_782_400, not_after: 2_524_521_600 });
        let validity = Validity::of(&certificate((1975, 1, 1), (4096, 1, 1))).unwrap();
        assert_eq!(validity, Validity { not_before: 157_766_400, not_after: 67_090_118_400 });
    }

    #[test]
    fn it_tells_what_is_over_and_what_has_not_begun() {
        let validity = Validity { not_before: 100, not_after: 200 };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(validity.begins_in(at(99)), Some(Duration::from_secs(1)));
        assert_eq!((validity.begins_in(at(100)), validity.expired_since(at(200))), (None, None));
        assert_eq!(validity.expired_since(at(203)), Some(Duration::from_secs(3)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
            let _ = Validity::of(&bytes);
            static GOOD: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| certificate((2000, 1, 1), (2030, 1, 1)));
            let mut damaged = GOOD.clone();
            let at = cut % damaged.len();
            damaged[at] = bytes.first().copied().unwrap_or(0xff);
            let _ = Validity::of(&damaged);
            prop_assert_eq!(Validity::of(&GOOD[..at]), None);
        }
    }
}
