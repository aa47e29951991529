//! When keys are fetched again.

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

/// How long keys are fresh whose server says nothing.
const FRESH: Duration = Duration::from_secs(600);
/// A server that says less is asked no more often.
const FRESH_MIN: Duration = Duration::from_secs(30);
/// A key that was withdrawn must not be trusted for longer.
const FRESH_MAX: Duration = Duration::from_secs(24 * 3600);

/// Returns how long to wait after an answer with these fields; `chance` is from 0 to 1. The keys are still fresh then, for as
/// long as a server that is away for a while may need.
pub(super) fn next_fetch(headers: &HeaderMap, chance: f64) -> Duration {
    let fresh = max_age(headers).unwrap_or(FRESH).clamp(FRESH_MIN, FRESH_MAX);
    // Not all instances at once.
    fresh.mul_f64(0.7 + 0.1 * chance)
}

/// Returns the `max-age` of a Cache-Control (RFC 9111 §5.2.2), 0 if nothing may be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    let directives = lines.flat_map(|line| line.split(',')).map(str::trim);
    let mut age = None;
    for directive in directives {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") && age.is_none() {
            age = value.trim_matches('"').parse().ok().map(Duration::from_secs);
        }
    }
    age
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_again_while_they_are_fresh() {
        for (line, least, most) in [
            ("", 420, 480),
            ("max-age=3600", 2520, 2880),
            ("public, Max-Age=\"100\", max-age=7", 70, 80),
            ("max-age=0", 21, 24),
            ("max-age=5, no-store", 21, 24),
            ("max-age=99999999999", 60_480, 69_120),
            ("max-age=-1", 420, 480),
            ("max-age=99999999999999999999999", 420, 480),
            ("no-cache", 21, 24),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, line.parse().unwrap())]);
            let [first, last] = [0.0, 1.0].map(|chance| next_fetch(&headers, chance).as_secs_f64().round() as u64);
            assert_eq!((first, last), (least, most), "{line}");
        }
    }
}
