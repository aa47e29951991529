//! What a request passes on its way to an endpoint: the pace of the upstream, the line for a seat, and the cookie that leads
//! back. `EntryPolicy` is what the configuration says of it, `Gate` is what is known while the process runs; the way itself is
//! `proxy::entry`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::queue::Queue;
use crate::balance::sticky::Sticky;
use crate::policy::bucket::{AdmissionRate, Bucket};

/// How requests get to the endpoints of one upstream.
#[derive(Debug, Default)]
pub struct EntryPolicy {
    /// How many handshakes in a second.
    pub admission: Option<AdmissionRate>,
    /// Who may wait when all endpoints are full.
    pub queue: Option<QueueLimits>,
    /// How clients come back to the endpoint they had.
    pub sticky: Option<Sticky>,
}

/// How many may wait, and how long each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// At a time.
    pub length: usize,
    /// At most.
    pub wait: Duration,
}

/// The live state of the way in. As that of an endpoint it belongs to the upstream, by name, and not to a configuration.
#[derive(Debug, Default)]
pub struct Gate {
    /// What was let through.
    pub bucket: Bucket,
    /// Who waits for a seat.
    pub queue: Arc<Queue>,
    closed: AtomicBool,
}

impl Gate {
    /// Whether requests are let in: not while the upstream is drained.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Lets requests in, or no more.
    pub fn set_open(&self, open: bool) {
        self.closed.store(!open, Ordering::Relaxed);
    }
}
