//! The registry in Prometheus's text format.

use prometheus::{Registry, TextEncoder};

/// The media type of [`encode`]'s text, as the exposition format names it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns all metrics of `registry`, sorted by name.
///
/// # Errors
/// If a collector returns a family that breaks the format; a bug, found by the first scrape.
pub fn encode(registry: &Registry) -> prometheus::Result<String> {
    let mut text = String::with_capacity(32 << 10);
    TextEncoder::new().encode_utf8(&registry.gather(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use prometheus::{IntCounter, IntGauge};

    use super::*;

    #[test]
    fn families_come_sorted_with_help_and_type() {
        let registry = Registry::new();
        let requests = IntCounter::new("b_total", "Second.").unwrap();
        registry.register(Box::new(requests.clone())).unwrap();
        registry.register(Box::new(IntGauge::new("a", "First.").unwrap())).unwrap();
        requests.inc_by(3);
        assert_eq!(
            encode(&registry).unwrap(),
            "# HELP a First.\n# TYPE a gauge\na 0\n# HELP b_total Second.\n# TYPE b_total counter\nb_total 3\n"
        );
    }
}
