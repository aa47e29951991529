//! What is asked of a store, what it answers, and why there may be no answer.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::base::labels::variant_labels;
use crate::policy::bucket::AdmissionRate;
use crate::policy::clients::ClientDigest;

/// Why there is no answer. The closed set is a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// It could not be connected to, or the connection broke.
    Unreachable,
    /// It took too long.
    Timeout,
    /// Too many questions wait already.
    Busy,
    /// It has no memory left.
    Full,
    /// It is a replica.
    ReadOnly,
    /// It does not let us in, or not do this.
    Denied,
    /// It is still loading its data.
    Loading,
    /// It answers with another error.
    Error,
}

variant_labels! {
    Away {
        Unreachable => "unreachable",
        Timeout => "timeout",
        Busy => "busy",
        Full => "full",
        ReadOnly => "read_only",
        Denied => "denied",
        Loading => "loading",
        Error => "error",
    }
}

/// What is asked about a client that opens a session.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The client.
    pub client: ClientDigest,
    /// How fast it may open them, if that is limited.
    pub pace: Option<AdmissionRate>,
    /// How many it may have, if that is limited. The place of this one is taken already.
    pub sessions: Option<u32>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It has opened too many; the next after this time.
    TooFast(Duration),
    /// It has as many as it may have.
    TooMany,
}

/// A question on its way.
#[derive(Debug)]
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a build with Redis reads it"))]
pub(super) struct Question {
    pub(super) ask: Ask,
    pub(super) reply: oneshot::Sender<Result<Verdict, Away>>,
}
