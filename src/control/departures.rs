//! Gives the sessions of this process to the next one.
//!
//! Sessions are ordered to leave a batch at a time, so that each stands still for milliseconds only. What they report is
//! encoded and given (`handover::giving`); then each gets its verdict. Sessions that cannot go are closed in their own time, with
//! 1012. Handshakes that are still under way may open more sessions, which follow.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use crate::base::{allocator, clock};
use crate::handover::batch::{Outbound, SESSIONS_MAX};
use crate::handover::{NotGiven, Reporter};
use crate::server::moving::{Departure, Departures, MovingState, Parcel, Verdict};
use crate::session::registry::{MoveOrder, SessionId};
use crate::session::stop::StopReason;
use crate::session::{Immovable, Sessions};
use crate::upstream::endpoint_state::EndpointStates;

/// The version of what is written of a session. Another one is refused: the session stays where it is.
const VERSION: u16 = 4;

/// How long a batch waits for its sessions to report. They do in a moment, unless their worker hangs.
const REPORT_WAIT: Duration = Duration::from_millis(500);
/// How long to wait for the tasks of sessions that have left.
const LEAVE_WAIT: Duration = Duration::from_millis(500);
/// How often the new process may fail to take a batch: each time, some sessions stand still for a while.
const FAILURES_MAX: u32 = 3;
/// The pause before sessions are offered again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The time between two looks for sessions that have opened late.
const LATE_EVERY: Duration = Duration::from_millis(500);

/// A session as it travels, without its sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Luggage<S = MovingState> {
    /// That of its route ([`RouteConfig::fingerprint`](crate::config::RouteConfig::fingerprint)).
    pub(super) fingerprint: [u8; 16],
    /// What it is.
    pub(super) state: S,
}

/// Reads what [`Move`] has written.
///
/// # Errors
/// If it is of another version, or none of ours; for the log of the old process.
pub(super) fn unpack(bytes: &[u8]) -> Result<Luggage, String> {
    let Some((version, rest)) = bytes.split_first_chunk() else { return Err("a session without a version".into()) };
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("the session is of version {version}, this build reads {VERSION}"));
    }
    postcard::from_bytes(rest).map_err(|error| format!("the session cannot be read: {error}"))
}

fn pack(state: &MovingState, fingerprint: [u8; 16]) -> Result<Zeroizing<Vec<u8>>, String> {
    let luggage = Luggage { fingerprint, state };
    postcard::to_extend(&luggage, VERSION.to_le_bytes().to_vec())
        .map(Zeroizing::new)
        .map_err(|error| format!("the session cannot be written: {error}"))
}

/// What became of the sessions at an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MoveReport {
    /// How many have gone to the next process.
    pub moved: usize,
    /// How many have stayed, by the reason.
    pub stayed: BTreeMap<String, usize>,
    /// How long it took.
    #[serde(skip)]
    pub took: Duration,
}

/// The move of all sessions to the next process.
pub(super) struct Move {
    pub(super) reporter: Reporter,
    pub(super) sessions: Arc<Sessions>,
    pub(super) states: EndpointStates,
    /// The fingerprints of the routes, by name.
    pub(super) fingerprints: BTreeMap<String, [u8; 16]>,
    /// The time over which sessions that cannot go are closed.
    pub(super) span: Duration,
    /// Those that cannot go.
    stay: HashSet<SessionId>,
    report: MoveReport,
    /// How many batches were not taken.
    failures: u32,
    /// Nothing more can be given.
    is_over: bool,
}

struct Ready {
    id: SessionId,
    // Dropped before the verdict.
    parcel: Arc<Parcel>,
    state: Zeroizing<Vec<u8>>,
    verdict: oneshot::Sender<Verdict>,
}

impl Move {
    pub(super) fn new(
        reporter: Reporter,
        sessions: Arc<Sessions>,
        states: EndpointStates,
        fingerprints: BTreeMap<String, [u8; 16]>,
        span: Duration,
    ) -> Move {
        let is_over = !reporter.takes_sessions();
        Move {
            reporter,
            sessions,
            states,
            fingerprints,
            span,
            stay: HashSet::new(),
            report: MoveReport::default(),
            failures: 0,
            is_over,
        }
    }

    /// Moves all sessions, tells `done` what became of them, and then those that open late; reports the remaining ones all
    /// along. Runs until the process ends or the next one has gone.
    pub(super) async fn run(mut self, done: impl FnOnce(MoveReport)) {
        let begun = Instant::now();
        if self.is_over {
            self.keep_all("the new process is of a build that takes none");
        }
        let mut failures = 0;
        self.pass().await;
        while self.failures > failures && !self.is_over {
            failures = self.failures;
            tokio::time::sleep(AGAIN_AFTER).await;
            self.pass().await;
        }
        self.report.took = begun.elapsed();
        let MoveReport { moved, stayed, took } = &self.report;
        let what = if *moved == 0 && !stayed.is_empty() { "no session has" } else { "the sessions have" };
        tracing::info!(moved, ?stayed, ?took, "{what} moved to the next process");
        let told = self.reporter.moved(self.states.counts()).await;
        done(self.report.clone());
        if told.is_err() {
            return;
        }
        while !self.is_over {
            let more = async {
                tokio::time::sleep(LATE_EVERY).await;
                self.reporter.report(self.states.counts()).await
            };
            if more.await.is_err() {
                break;
            }
            self.pass().await;
        }
        let states = self.states.clone();
        self.reporter.run(&states).await;
    }

    /// Gives all sessions that are there and have not stayed.
    async fn pass(&mut self) {
        if self.is_over {
            return;
        }
        let mut left = self.sessions.session_ids(|id, _| !self.stay.contains(&id));
        // Workers take their sessions apart at the same time, and each in the order in which they came: neighbours in memory go
        // together, and leave whole pages.
        SessionId::take_turns(&mut left);
        for ids in left.chunks(SESSIONS_MAX) {
            let ready = self.gather(ids).await;
            if ready.is_empty() {
                continue;
            }
            self.give(ready).await;
            if self.is_over {
                return;
            }
        }
    }

    /// Orders sessions to leave, and returns those that are ready.
    async fn gather(&mut self, ids: &[SessionId]) -> Vec<Ready> {
        let (departures, mut reports): (Departures, _) = mpsc::unbounded_channel();
        self.sessions.order(ids.iter().copied(), &MoveOrder::new(departures));
        let deadline = Instant::now() + REPORT_WAIT;
        let mut ready = vec![];
        // It ends when each has reported or ended. Whoever is late finds nobody, and stays until the next pass.
        while let Ok(Some(report)) = timeout_at(deadline, reports.recv()).await {
            match report {
                Departure::Stays { id, why } => self.stays(id, why.label(), why != Immovable::Closing),
                Departure::Ready { id, parcel, verdict } => {
                    let fingerprint = self.fingerprints.get(&*parcel.state.route).copied().unwrap_or_default();
                    match pack(&parcel.state, fingerprint) {
                        Ok(state) => ready.push(Ready { id, parcel, state, verdict }),
                        Err(error) => {
                            tracing::error!(%error, "a session cannot move");
                            drop(parcel);
                            let _ = verdict.send(Verdict::Stays);
                            self.stays(id, "unwritable", true);
                        }
                    }
                }
            }
        }
        ready
    }

    /// Gives a batch, and tells each session what has become of it.
    async fn give(&mut self, ready: Vec<Ready>) {
        let outbound: Vec<Outbound<'_>> = ready
            .iter()
            .map(|Ready { parcel, state, .. }| {
                let [client, server] = &parcel.sockets;
                Outbound { state, sockets: [client.as_fd(), server.as_fd()] }
            })
            .collect();
        let given = self.reporter.give(&outbound).await;
        drop(outbound);
        let refused: BTreeMap<u32, String> = match given {
            Ok(refused) => refused.into_iter().collect(),
            Err(error) => {
                for Ready { parcel, verdict, .. } in ready {
                    drop(parcel);
                    let _ = verdict.send(Verdict::Stays);
                }
                self.failures += 1;
                let is_broken = matches!(error, NotGiven::Gone(_) | NotGiven::Unsaid);
                let error_text = crate::base::error_chain::error_chain(&error);
                if is_broken || self.failures >= FAILURES_MAX {
                    tracing::error!(error = error_text, "no session moves any more: those that are left end here");
                    self.keep_all(not_given(&error));
                } else {
                    // The new process may be busy, or be replaced itself just now.
                    tracing::warn!(error = error_text, "some sessions have not moved: another attempt follows");
                }
                return;
            }
        };
        let (gone, mut all_gone) = mpsc::channel(1);
        for (place, Ready { id, parcel, verdict, .. }) in (0..).zip(ready) {
            drop(parcel);
            match refused.get(&place) {
                None => {
                    let _ = verdict.send(Verdict::Left(gone.clone()));
                    self.report.moved += 1;
                }
                Some(why) => {
                    tracing::info!(session = %id, %why, "a session cannot move: it ends here");
                    let _ = verdict.send(Verdict::Stays);
                    self.stays(id, "refused", true);
                }
            }
        }
        // So that the next count does not have them.
        drop(gone);
        let _ = timeout(LEAVE_WAIT, all_gone.recv()).await;
        // The new process takes as much at the same time.
        allocator::give_back();
    }

    /// Notes a session that cannot go. If it goes `on`, it is closed in its own time.
    fn stays(&mut self, id: SessionId, why: &str, goes_on: bool) {
        self.stay.insert(id);
        *self.report.stayed.entry(why.to_owned()).or_default() += 1;
        if goes_on {
            self.sessions.spread_over([id], clock::now(), self.span, fastrand::f64, &StopReason::Upgrade);
        }
    }

    /// Notes that no session can go any more.
    fn keep_all(&mut self, why: &str) {
        self.is_over = true;
        let left = self.sessions.session_ids(|id, _| !self.stay.contains(&id));
        if !left.is_empty() {
            *self.report.stayed.entry(why.to_owned()).or_default() += left.len();
        }
        self.sessions.spread_over(left, clock::now(), self.span, fastrand::f64, &StopReason::Upgrade);
    }
}

/// Returns a word for why a batch was not given.
const fn not_given(error: &NotGiven) -> &'static str {
    match error {
        NotGiven::Pack(_) => "no_memory",
        NotGiven::Unreceived(_) => "unreceived",
        NotGiven::Late | NotGiven::Unsaid => "late",
        NotGiven::Gone(_) => "successor_gone",
    }
}
