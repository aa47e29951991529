//! From one process to the next: listening sockets, and how many sessions are left where.
//!
//! The old process starts the new one with one end of a line as its standard input, and says over it, with descriptors,
//! where it listens (`offer`). The new one builds everything with that (`successor`) and only then gets the word; who says
//! what when stands in `steps`. Up to the new one's last word the old one accepts and changes nothing, so the new one may
//! fail, hang or be killed wherever it likes: the old one kills what is left of it and goes on. Sockets are the same in
//! both, so no connection in a queue is lost, whoever of the two ends.
//!
//! Why not SO_REUSEPORT alone, as others do: the queue of each socket would end with its process. Why standard input: it is
//! the one descriptor that can be given to a child without `unsafe`, and without a moment in which other children get it.
//!
//! Afterwards the old process says every second what it still has (`offer`), and the new one counts that as load
//! (`predecessors`). A line is passed on when the new one becomes an old one itself.

pub mod channel;
pub mod invocation;
pub mod message;
pub mod metrics;
pub mod offer;
pub mod predecessors;
pub mod steps;
pub mod successor;
pub mod systemd;

use std::time::Duration;

pub use self::invocation::Invocation;
pub use self::metrics::{Attempt, DrainingPredecessor, Metrics};
pub use self::offer::{HandoverOffer, ReadySuccessor, Reporter, UpgradeError};
pub use self::predecessors::Predecessors;
pub use self::steps::Deadlines;
pub use self::successor::{Activated, PreparedSuccessor, SuccessionError, Successor};

/// Set for a process that is to take over: the number of the process that has started it.
pub const ENVIRONMENT: &str = "WSLUICE_HANDOVER";

/// How often an old process says what it has. Balancing long-lived sessions needs nothing quicker.
const REPORT_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
