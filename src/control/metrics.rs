//! Metrics of reloads and of the configuration in force.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntGauge, Opts, Registry};

use crate::base::labels::variant_labels;
use crate::telemetry::counters::{Counters, seconds};
use crate::telemetry::labelled::{IntCounterVec, IntGaugeVec};

/// What caused a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A HUP signal.
    Signal,
    /// A change of the file, or of one that it names.
    Watch,
    /// A request to the admin API.
    Api,
}

variant_labels! {
    Trigger {
        Signal => "signal",
        Watch => "watch",
        Api => "api",
    }
}

/// The result of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// Another configuration is in force.
    Done,
    /// Another configuration is in force, except on a worker that hangs.
    Late,
    /// The file is the same as the configuration in force.
    Unchanged,
    /// It was refused: the old one stays.
    Refused,
}

variant_labels! {
    Reloaded {
        Done => "done",
        Late => "late",
        Unchanged => "unchanged",
        Refused => "refused",
    }
}

/// The metrics of `control`. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    reloads: Arc<Counters<(Trigger, Reloaded)>>,
    successful: IntGauge,
    loaded: Gauge,
    info: IntGaugeVec,
    /// The hash in the series of `info`.
    hash: Arc<Mutex<Option<String>>>,
}

impl Metrics {
    /// Creates and registers the metrics.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let reloads = IntCounterVec::new(
            Opts::new(
                "wsluice_config_reloads_total",
                "Reloads of the configuration, by who asked and what became of it.",
            ),
            &["trigger", "result"],
        )?;
        let successful = IntGauge::new(
            "wsluice_config_last_reload_successful",
            "Whether the configuration in force is what its file last said: 0 while a file is refused.",
        )?;
        // A time and not an age: a query computes the age at its own moment.
        let loaded = Gauge::new(
            "wsluice_config_loaded_timestamp_seconds",
            "When the configuration in force was put in force, in Unix time.",
        )?;
        let info = IntGaugeVec::new(
            Opts::new(
                "wsluice_config_info",
                "1 for the hash of the configuration in force: instances can be compared.",
            ),
            &["hash"],
        )?;
        registry.register(Box::new(reloads.clone()))?;
        registry.register(Box::new(successful.clone()))?;
        registry.register(Box::new(loaded.clone()))?;
        registry.register(Box::new(info.clone()))?;
        let all: Vec<_> = Trigger::ALL.into_iter().flat_map(|by| Reloaded::ALL.map(|result| (by, result))).collect();
        let make = move |&(by, result): &(Trigger, Reloaded)| reloads.with_label_values(&[by.label(), result.label()]);
        let reloads = Arc::new(Counters::new(&all, make));
        Ok(Metrics { reloads, successful, loaded, info, hash: Arc::default() })
    }

    /// Records the configuration in force: at the start, and after each reload that has changed it.
    pub fn in_force(&self, hash: &str, since: SystemTime) {
        let mut current = self.hash.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_deref() != Some(hash) {
            if let Some(old) = current.replace(hash.to_owned()) {
                // An error means that there is no such series, which is fine.
                let _ = self.info.remove_label_values(&[&old]);
            }
            self.info.with_label_values(&[hash]).set(1);
        }
        self.loaded.set(seconds(since.duration_since(UNIX_EPOCH).unwrap_or_default()));
        self.successful.set(1);
    }

    /// Counts a reload. One that changes the configuration calls [`in_force`](Self::in_force) as well.
    pub fn reloaded(&self, by: Trigger, result: Reloaded) {
        self.reloads.inc((by, result));
        self.successful.set(i64::from(result != Reloaded::Refused));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::exposition::encode;

    #[test]
    fn one_hash_is_in_force_and_a_refused_file_is_told_until_a_good_one_comes() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let has = |line: &str| {
            let text = encode(&registry).unwrap();
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        };
        has(r#"wsluice_config_reloads_total{result="refused",trigger="watch"} 0"#);
        metrics.in_force("aa", UNIX_EPOCH + Duration::from_secs(1000));
        has("wsluice_config_last_reload_successful 1");
        metrics.reloaded(Trigger::Watch, Reloaded::Refused);
        has("wsluice_config_last_reload_successful 0");
        has(r#"wsluice_config_info{hash="aa"} 1"#);
        // Put back as it was.
        metrics.reloaded(Trigger::Watch, Reloaded::Unchanged);
        has("wsluice_config_last_reload_successful 1");
        metrics.reloaded(Trigger::Signal, Reloaded::Done);
        metrics.in_force("bb", UNIX_EPOCH + Duration::from_millis(2_000_500));
        has(r#"wsluice_config_info{hash="bb"} 1"#);
        has("wsluice_config_loaded_timestamp_seconds 2000.5");
        has(r#"wsluice_config_reloads_total{result="refused",trigger="watch"} 1"#);
        has(r#"wsluice_config_reloads_total{result="unchanged",trigger="watch"} 1"#);
        has(r#"wsluice_config_reloads_total{result="done",trigger="signal"} 1"#);
        assert!(!encode(&registry).unwrap().contains("\"aa\""), "one configuration is in force");
    }
}
