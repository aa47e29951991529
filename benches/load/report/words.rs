//! How figures are written.

use std::time::Duration;

use crate::stats::Quartiles;

pub(super) fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

pub(super) fn dash() -> String {
    "–".to_owned()
}

/// Three digits that count.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub(super) fn quartiles_text(Quartiles { low, median, high }: Quartiles) -> String {
    format!("{median:.2} [{low:.2}–{high:.2}]")
}

pub(super) fn time(duration: Duration) -> String {
    match nanos(duration) / 1e3 {
        micros @ 1000.0.. => format!("{} ms", figure(micros / 1e3)),
        micros => format!("{micros:.0} µs"),
    }
}

/// A cost, and in brackets how it compares.
pub(super) fn cell(cost: f64, ratio: Option<Quartiles>) -> String {
    let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({:.2})", ratio.median));
    figure(cost) + &ratio
}
