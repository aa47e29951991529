//! Admission to an upstream: its rate, its queue for a permit, and its affinity cookie. `EntryPolicy` is the configured
//! part, `Gate` the live state; `proxy::entry` applies both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::queue::Queue;
use crate::balance::sticky::Sticky;
use crate::policy::bucket::{AdmissionRate, Bucket};

/// How requests are admitted to the endpoints of one upstream.
#[derive(Debug, Default)]
pub struct EntryPolicy {
    /// The rate of handshakes.
    pub admission: Option<AdmissionRate>,
    /// The queue used while all endpoints are full.
    pub queue: Option<QueueLimits>,
    /// The affinity cookie.
    pub sticky: Option<Sticky>,
}

/// The length of the queue and the longest wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// The most requests at a time.
    pub length: usize,
    /// The longest wait of a request.
    pub wait: Duration,
}

/// The live state of admission. It belongs to the upstream, by name, and not to a configuration.
#[derive(Debug, Default)]
pub struct Gate {
    /// The bucket of admitted handshakes.
    pub bucket: Bucket,
    /// The queue for a permit.
    pub queue: Arc<Queue>,
    closed: AtomicBool,
}

impl Gate {
    /// Returns true if requests are admitted: not while the upstream is drained.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Opens or closes it for requests.
    pub fn set_open(&self, open: bool) {
        self.closed.store(!open, Ordering::Relaxed);
    }
}
