//! What workers and the thread of a store both see.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{mpsc, watch};

use super::answer::Question;
use super::deny_list::{DenyList, Order};
use super::holdings::Holdings;
use super::metrics::StoreMetrics;
use crate::config::RedisConfig;
use crate::upstream::connect::Connector;

/// What both see.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) written: RedisConfig,
    pub(super) connector: Connector,
    /// Whether the last answer came in time and was none of an error.
    pub(super) is_up: AtomicBool,
    /// Becomes true once it is known whether it answers.
    pub(super) settled: watch::Sender<bool>,
    /// Becomes true when it is to end.
    pub(super) stopped: watch::Sender<bool>,
    /// Becomes true when it has.
    pub(super) ended: watch::Sender<bool>,
    pub(super) holdings: Arc<Holdings>,
    pub(super) denied: Arc<DenyList>,
    pub(super) metrics: StoreMetrics,
}

/// The ends of the queues on the side of the thread.
#[derive(Debug)]
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a build with Redis reads them"))]
pub(super) struct Queues {
    pub(super) questions: mpsc::Receiver<Question>,
    pub(super) orders: mpsc::Receiver<Order>,
}
