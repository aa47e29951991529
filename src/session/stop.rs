//! Why and when a session is asked to stop.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::labels::labels;
use crate::base::time::MonotonicTime;
use crate::ws::close::Close;

/// Why the proxy ends a session that is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The process shuts down.
    Drain,
    /// Its endpoint has more than its share of the sessions; another has less.
    Rebalance,
    /// Its endpoint is drained.
    EndpointDrain,
    /// Its endpoint fails its health check.
    EndpointDown,
    /// A reload changed or removed its route, which does not keep sessions of the old one.
    Reload,
    /// Its listener is drained.
    ListenerDrain,
    /// Its route is drained.
    RouteDrain,
    /// Its upstream is drained.
    UpstreamDrain,
    /// Another process takes over from this one.
    Upgrade,
    /// An operator closes it, with this Close for the client.
    Operator(Arc<Close>),
}

labels! {
    StopReason {
        StopReason::Drain => "drain",
        StopReason::Rebalance => "rebalance",
        StopReason::EndpointDrain => "endpoint_drain",
        StopReason::EndpointDown => "endpoint_down",
        StopReason::Reload => "reload",
        StopReason::ListenerDrain => "listener_drain",
        StopReason::RouteDrain => "route_drain",
        StopReason::UpstreamDrain => "upstream_drain",
        StopReason::Upgrade => "upgrade",
        StopReason::Operator(_) => "operator",
    }
}

impl StopReason {
    /// Returns true if it stops the session because its process ends.
    pub const fn is_of_process(&self) -> bool {
        matches!(self, StopReason::Drain | StopReason::Upgrade)
    }
}

/// When a session should stop, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopNotice {
    /// From this time on: in the next pause.
    pub at: MonotonicTime,
    /// The latest time, if it has no pause before; `None`: the tunnel's own bound.
    pub by: Option<MonotonicTime>,
    /// The reason.
    pub why: StopReason,
}
