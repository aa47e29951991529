//! Hands over from one process to the next: listening sockets, live sessions, and the number of those that remain.
//!
//! The old process starts the new one with one end of a channel as its standard input, and sends it its listening sockets
//! (`offer`). The new one builds everything with them (`successor`), and only then is told to take over; `steps` has the
//! order of messages. Until the new one's last message the old one keeps accepting and changes nothing, so the new one may
//! fail, hang or be killed at any point: the old one kills it and goes on. Both processes share the same sockets, so no
//! queued connection is lost, whichever of them ends.
//!
//! Why not just SO_REUSEPORT, as others do: the queue of each socket would end with its process. Why standard input: it is
//! the only descriptor that can be passed to a child without `unsafe` and without a moment in which other children get it.
//!
//! Afterwards the old process gives its sessions, batch by batch (`transfer` has the order, `giving` and `predecessors` the
//! two sides). Those that remain it reports every second (`offer`), and the new one counts them as load (`predecessors`). The channel is passed on when the new process is replaced itself.

pub mod batch;
pub mod channel;
pub mod giving;
pub mod invocation;
pub mod message;
pub mod metrics;
pub mod offer;
pub mod predecessors;
pub mod steps;
pub mod successor;
pub mod systemd;
pub mod transfer;

use std::time::Duration;

pub use self::giving::NotGiven;
pub use self::invocation::Invocation;
pub use self::metrics::{Attempt, DrainingPredecessor, Metrics};
pub use self::offer::{HandoverOffer, Known, ReadySuccessor, Reporter, UpgradeError};
pub use self::predecessors::{Judgement, Predecessors};
pub use self::steps::Deadlines;
pub use self::successor::{Activated, PreparedSuccessor, SuccessionError, Successor};

/// The variable set for a process that takes over: the id of the process that has started it.
pub const ENVIRONMENT: &str = "WSLUICE_HANDOVER";

/// How often an old process reports its sessions. Balancing long-lived sessions needs nothing faster.
const REPORT_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
