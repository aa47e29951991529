//! Lists sessions, with what each reports of itself.
//!
//! There may be many, and scrapes and `/livez` share this thread: the list is walked in short steps that yield in between,
//! and for one request at a time. Only the session itself knows how long it has been idle and how much it has queued, so
//! sessions that are shown, or filtered by that, are asked first and get a moment to answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::filter::{Filter, FilterInput};
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::session::registry::{Listed, SessionId, SessionReport};
use crate::session::{SessionEntry, Sessions};

/// The entries of a worker that are walked under one lock: tens of microseconds.
const STEP: usize = 1024;
/// How long to wait for reports. A session reports when its worker gets to it; one that has not is shown with its last
/// report.
const PATIENCE: Duration = Duration::from_millis(50);
/// The time between two checks whether they have reported.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// All sessions of the process.
#[derive(Debug)]
pub struct SessionList {
    sessions: Arc<Sessions>,
    /// Held while a request walks the list.
    turn: Mutex<()>,
}

impl SessionList {
    /// Creates a list of these sessions.
    pub fn new(sessions: Arc<Sessions>) -> SessionList {
        SessionList { sessions, turn: Mutex::new(()) }
    }

    /// Calls `take` for the sessions that match `filter`, at most `max`, in the order of their ids and beginning after
    /// `after`. They report first if `fresh`, or if the filter needs it.
    pub async fn for_each(
        &self,
        filter: &Filter,
        mut after: Option<SessionId>,
        max: usize,
        fresh: bool,
        mut take: impl FnMut(Listed<SessionEntry>),
    ) {
        let _turn = self.turn.lock().await;
        let (static_conditions, needs_report) = (filter.static_conditions(), filter.needs_report());
        let mut left = max;
        while left > 0 {
            let (mut found, now) = (vec![], clock::now());
            let mut rest = self.sessions.walk(after, STEP, |place, member| {
                if static_conditions.matches(&filter_input(member, SessionReport::default(), now)) {
                    found.push(place);
                }
            });
            if !needs_report && found.len() > left {
                // A session that is not shown need not report.
                found.truncate(left);
                rest = found.last().copied();
            }
            if fresh || needs_report {
                self.ask(&found).await;
            }
            let now = clock::now();
            for listed in found.into_iter().filter_map(|place| self.sessions.listed(place)) {
                if left > 0 && filter.matches(&filter_input(&listed.member, listed.report, now)) {
                    left -= 1;
                    take(listed);
                }
            }
            if rest.is_none() {
                return;
            }
            after = rest;
            yield_now().await;
        }
    }

    /// Asks sessions to report, and waits a moment for it.
    async fn ask(&self, ids: &[SessionId]) {
        self.sessions.request_reports_at(ids.iter().copied());
        let deadline = Instant::now() + PATIENCE;
        let mut left = ids.iter().copied().peekable();
        while let Some(place) = left.peek() {
            if self.sessions.has_reported(*place) {
                left.next();
            } else if Instant::now() < deadline {
                sleep(POLL_INTERVAL).await;
            } else {
                return;
            }
        }
    }

    /// Returns the session of this id with a fresh report; `None` if it has ended.
    pub async fn listed(&self, id: &str) -> Option<Listed<SessionEntry>> {
        let place = id.parse().ok()?;
        self.sessions.listed(place)?;
        self.ask(&[place]).await;
        self.sessions.listed(place)
    }
}

/// Returns what a filter matches against.
pub fn filter_input(member: &SessionEntry, told: SessionReport, now: MonotonicTime) -> FilterInput<'_> {
    let age = now.since(member.opened);
    FilterInput {
        route: &member.route.route,
        listener: &member.route.listener,
        upstream: &member.route.upstream.name,
        endpoint: member.endpoint_state.endpoint(),
        client: member.client.address(),
        subject: member.client.subject(),
        age,
        // The relay's clock may be a tick behind.
        idle: told.data_at.map_or(age, |at| now.since(at).min(age)),
        queued: u64::from(told.queued),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::config::load_str;
    use crate::control::compile::compile;
    use crate::control::context::CompileContext;
    use crate::session::SessionClient;
    use crate::session::registry::{Guard, SessionRegistry};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct ReportRequest(AtomicUsize);

    impl Wake for ReportRequest {
        fn wake(self: Arc<ReportRequest>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Creates `count` sessions that have been quiet since their start.
    fn sessions(count: usize, asked: &Arc<ReportRequest>) -> (SessionList, Vec<Guard<SessionEntry>>) {
        let text = "routes: [{ name: all, upstream: app }]\nupstreams: { app: { endpoints: ['ws://127.0.0.1:1'] } }";
        let loaded = load_str("test", text, &|_| None).unwrap();
        let compiled = compile(&loaded, &CompileContext::for_check(), None).unwrap();
        let route = Arc::clone(&compiled.routes["all"].action.listeners()[0].sessions);
        let live = Arc::clone(&compiled.upstreams["app"].upstream.endpoints()[0].state);
        let (all, opened) = (SessionRegistry::new(2), clock::now());
        let waker = Waker::from(Arc::clone(asked));
        let session = |_| {
            let guard = all.enter(1);
            guard.join(
                SessionEntry {
                    route: Arc::clone(&route),
                    endpoint_state: Arc::clone(&live),
                    client: SessionClient::Address(None),
                    opened,
                },
                opened,
            );
            guard.poll_stop(&Context::from_waker(&waker), SessionReport { data_at: Some(opened), queued: 0 });
            guard
        };
        let guards = (0..count).map(session).collect();
        (SessionList::new(all), guards)
    }

    #[tokio::test]
    async fn others_have_their_turns_while_all_sessions_are_looked_at() {
        let asked = Arc::default();
        let (list, _guards) = sessions(20 * STEP, &asked);
        let (turns, mut count) = (Cell::new(0), 0);
        let filter = Filter { route: Some("all".into()), ..Filter::default() };
        let look = list.for_each(&filter, None, usize::MAX, false, |_| count += 1);
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                yield_now().await;
            }
        };
        tokio::select! {
            () = look => {}
            () = others => {}
        }
        assert_eq!(count, 20 * STEP);
        assert!(turns.get() >= 19, "{} turns", turns.get());
        assert_eq!(asked.0.load(Ordering::Relaxed), 0, "none was asked for what was not wanted");
    }

    #[tokio::test]
    async fn only_who_is_shown_is_asked_and_who_does_not_answer_is_not_waited_for() {
        let asked = Arc::default();
        let (list, guards) = sessions(3000, &asked);
        let mut shown = vec![];
        list.for_each(&Filter::default(), None, 10, true, |listed| shown.push(listed.id)).await;
        assert_eq!((shown.len(), asked.0.load(Ordering::Relaxed)), (10, 10));
        let last = shown[9];
        shown.clear();
        list.for_each(&Filter::default(), Some(last), 2000, true, |listed| shown.push(listed.id)).await;
        assert_eq!((shown.len(), asked.0.load(Ordering::Relaxed)), (2000, 2010));
        shown.dedup();
        assert!(shown.len() == 2000 && !shown.contains(&last));
        // No session matches this filter.
        let filter = Filter { queued_at_least: Some("1B".parse().unwrap()), ..Filter::default() };
        list.for_each(&filter, None, 10, false, |_| panic!("nothing waits in any")).await;
        drop(guards);
        list.for_each(&Filter::default(), None, 10, true, |_| panic!("none is left")).await;
    }
}
