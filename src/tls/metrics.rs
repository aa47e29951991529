//! Metrics of certificates: counters and alarms.

use std::collections::BTreeMap;

use prometheus::{Opts, Registry};

use crate::telemetry::labelled::{IntCounterVec, IntGaugeVec};

/// The user of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reader {
    Listener(String),
    Upstream(String),
}

/// The state of a file for one of its users, after a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FileStatus {
    /// The expiry of a served certificate, in seconds since the Unix epoch.
    pub expiry: Option<i64>,
    /// Whether it replaced another.
    pub replaced: bool,
    /// Whether it was refused, for a new reason.
    pub refused: bool,
    /// Whether an older one is kept in its place, whenever the new one was refused.
    pub kept_old: bool,
}

/// The statuses by reader and file.
pub(super) type FileStatuses = BTreeMap<(Reader, String), FileStatus>;

/// The metric families.
#[derive(Debug, Clone)]
pub struct Metrics {
    expiry: IntGaugeVec,
    listener: CertificateFamilies,
    upstream: CertificateFamilies,
}

#[derive(Debug, Clone)]
struct CertificateFamilies {
    reloads: IntCounterVec,
    stale: IntGaugeVec,
}

const REPLACED: &str = "replaced";
const KEPT_OLD: &str = "kept_old";

impl Metrics {
    /// Creates and registers the families.
    ///
    /// # Errors
    /// Fails if one of the names is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let metrics = Metrics {
            expiry: IntGaugeVec::new(
                Opts::new(
                    "wsluice_tls_certificate_expiry_timestamp_seconds",
                    "When a certificate we serve expires, in seconds since the Unix epoch.",
                ),
                &["listener", "certificate"],
            )?,
            listener: CertificateFamilies {
                reloads: IntCounterVec::new(
                    Opts::new(
                        "wsluice_tls_certificate_reloads_total",
                        "Changed files of a listener's certificates: those replaced, and refusals that kept the old one.",
                    ),
                    &["listener", "certificate", "result"],
                )?,
                stale: IntGaugeVec::new(
                    Opts::new(
                        "wsluice_tls_certificate_stale",
                        "1 while a listener's certificate is kept since its file has become bad.",
                    ),
                    &["listener", "certificate"],
                )?,
            },
            upstream: CertificateFamilies {
                reloads: IntCounterVec::new(
                    Opts::new(
                        "wsluice_upstream_tls_certificate_reloads_total",
                        "Changed files of an upstream's certificates: those replaced, and refusals that kept the old one.",
                    ),
                    &["upstream", "certificate", "result"],
                )?,
                stale: IntGaugeVec::new(
                    Opts::new(
                        "wsluice_upstream_tls_certificate_stale",
                        "1 while an upstream's certificate or authority is kept since its file has become bad.",
                    ),
                    &["upstream", "certificate"],
                )?,
            },
        };
        registry.register(Box::new(metrics.expiry.clone()))?;
        for families in [&metrics.listener, &metrics.upstream] {
            registry.register(Box::new(families.reloads.clone()))?;
            registry.register(Box::new(families.stale.clone()))?;
        }
        Ok(metrics)
    }

    /// Counts the events of `new`, and removes the series that only `old` has.
    pub(super) fn put(&self, new: &FileStatuses, old: &FileStatuses) {
        for ((reader, file), status) in new {
            let (families, name) = self.of(reader);
            for (result, counted) in [(REPLACED, status.replaced), (KEPT_OLD, status.refused)] {
                // Created even if nothing is counted: a rate needs the zero before the first event.
                families.reloads.with_label_values(&[name, file, result]).inc_by(counted.into());
            }
            families.stale.with_label_values(&[name, file]).set(status.kept_old.into());
            if let Some(expiry) = status.expiry {
                self.expiry.with_label_values(&[name, file]).set(expiry);
            }
        }
        for ((reader, file), status) in old {
            let now = new.get(&(reader.clone(), file.clone()));
            let (families, name) = self.of(reader);
            // It does not matter whether it existed.
            if status.expiry.is_some() && now.is_none_or(|now| now.expiry.is_none()) {
                let _ = self.expiry.remove_label_values(&[name, file]);
            }
            if now.is_none() {
                let _ = families.reloads.remove_label_values(&[name, file, REPLACED]);
                let _ = families.reloads.remove_label_values(&[name, file, KEPT_OLD]);
                let _ = families.stale.remove_label_values(&[name, file]);
            }
        }
    }

    fn of<'a>(&self, reader: &'a Reader) -> (&CertificateFamilies, &'a str) {
        match reader {
            Reader::Listener(name) => (&self.listener, name),
            Reader::Upstream(name) => (&self.upstream, name),
        }
    }
}
