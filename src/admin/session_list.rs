//! The roll of all sessions: who is there, and what each tells of itself.
//!
//! Sessions may be many, and whoever scrapes or asks for `/livez` waits for this thread: they are looked at in short walks
//! with a turn for everybody else between two, and one request at a time does so. How long a session has been idle and what
//! waits in it only it knows, so those that are shown, or chosen by that, are asked first, and given a moment to answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::filter::{Filter, FilterInput};
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::session::registry::{Listed, SessionId, SessionReport};
use crate::session::{Member, Sessions};

/// Places of a worker that are looked at under one lock: tens of microseconds.
const STEPS: usize = 1024;
/// For sessions that were asked to tell of themselves. Each does when its worker has a moment; one that has none is shown
/// as it was.
const PATIENCE: Duration = Duration::from_millis(50);
/// Between two looks at whether they have.
const LOOK: Duration = Duration::from_millis(1);

/// All sessions of the process.
#[derive(Debug)]
pub struct SessionList {
    sessions: Arc<Sessions>,
    /// Held by whoever looks.
    looking: Mutex<()>,
}

impl SessionList {
    /// Of these.
    pub fn new(sessions: Arc<Sessions>) -> SessionList {
        SessionList { sessions, looking: Mutex::new(()) }
    }

    /// Shows `take` the sessions that `filter` names, at most `max`, those after `after` in the order of their places; with
    /// what they tell of themselves at the moment if `fresh` or if the filter goes by it.
    pub async fn look(
        &self,
        filter: &Filter,
        mut after: Option<SessionId>,
        max: usize,
        fresh: bool,
        mut take: impl FnMut(Listed<Member>),
    ) {
        let _turn = self.looking.lock().await;
        let (lasting, is_momentary) = (filter.lasting(), filter.is_momentary());
        let mut left = max;
        while left > 0 {
            let (mut found, now) = (vec![], clock::now());
            let mut rest = self.sessions.walk(after, STEPS, |place, member| {
                if lasting.matches(&seen(member, SessionReport::default(), now)) {
                    found.push(place);
                }
            });
            if !is_momentary && found.len() > left {
                // Who is not shown need not be asked.
                found.truncate(left);
                rest = found.last().copied();
            }
            if fresh || is_momentary {
                self.ask(&found).await;
            }
            let now = clock::now();
            for listed in found.into_iter().filter_map(|place| self.sessions.listed(place)) {
                if left > 0 && filter.matches(&seen(&listed.member, listed.told, now)) {
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

    /// Has them tell of themselves, and waits a moment for it.
    async fn ask(&self, places: &[SessionId]) {
        self.sessions.ask_at(places.iter().copied());
        let deadline = Instant::now() + PATIENCE;
        let mut left = places.iter().copied().peekable();
        while let Some(place) = left.peek() {
            if self.sessions.has_told(*place) {
                left.next();
            } else if Instant::now() < deadline {
                sleep(LOOK).await;
            } else {
                return;
            }
        }
    }

    /// The session of this id, with what it tells of itself at the moment; `None` if it has gone.
    pub async fn listed(&self, id: &str) -> Option<Listed<Member>> {
        let place = id.parse().ok()?;
        self.sessions.listed(place)?;
        self.ask(&[place]).await;
        self.sessions.listed(place)
    }
}

/// What a filter looks at.
pub fn seen(member: &Member, told: SessionReport, now: MonotonicTime) -> FilterInput<'_> {
    let age = now.since(member.opened);
    FilterInput {
        route: &member.route.route,
        listener: &member.route.listener,
        upstream: &member.route.upstream.name,
        endpoint: member.live.endpoint(),
        client: member.client,
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
    use crate::session::registry::{Guard, SessionRegistry};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct ReportRequest(AtomicUsize);

    impl Wake for ReportRequest {
        fn wake(self: Arc<ReportRequest>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `count` sessions, all of which were quiet from their start on.
    fn sessions(count: usize, asked: &Arc<ReportRequest>) -> (SessionList, Vec<Guard<Member>>) {
        let text = "routes: [{ name: all, upstream: app }]\nupstreams: { app: { endpoints: ['ws://127.0.0.1:1'] } }";
        let loaded = load_str("test", text, &|_| None).unwrap();
        let compiled = compile(&loaded, &CompileContext::for_check(), None).unwrap();
        let route = Arc::clone(&compiled.routes["all"].route.listeners[0].sessions);
        let live = Arc::clone(&compiled.upstreams["app"].upstream.endpoints()[0].live);
        let (all, opened) = (SessionRegistry::new(2), clock::now());
        let waker = Waker::from(Arc::clone(asked));
        let session = |_| {
            let guard = all.enter(1);
            guard.join(Member { route: Arc::clone(&route), live: Arc::clone(&live), client: None, opened }, opened);
            guard.look(&Context::from_waker(&waker), SessionReport { data_at: Some(opened), queued: 0 });
            guard
        };
        let guards = (0..count).map(session).collect();
        (SessionList::new(all), guards)
    }

    #[tokio::test]
    async fn others_have_their_turns_while_all_sessions_are_looked_at() {
        let asked = Arc::default();
        let (roll, _guards) = sessions(20 * STEPS, &asked);
        let (turns, mut count) = (Cell::new(0), 0);
        let filter = Filter { route: Some("all".into()), ..Filter::default() };
        let look = roll.look(&filter, None, usize::MAX, false, |_| count += 1);
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
        assert_eq!(count, 20 * STEPS);
        assert!(turns.get() >= 19, "{} turns", turns.get());
        assert_eq!(asked.0.load(Ordering::Relaxed), 0, "none was asked for what was not wanted");
    }

    #[tokio::test]
    async fn only_who_is_shown_is_asked_and_who_does_not_answer_is_not_waited_for() {
        let asked = Arc::default();
        let (roll, guards) = sessions(3000, &asked);
        let mut shown = vec![];
        roll.look(&Filter::default(), None, 10, true, |listed| shown.push(listed.place)).await;
        assert_eq!((shown.len(), asked.0.load(Ordering::Relaxed)), (10, 10));
        let last = shown[9];
        shown.clear();
        roll.look(&Filter::default(), Some(last), 2000, true, |listed| shown.push(listed.place)).await;
        assert_eq!((shown.len(), asked.0.load(Ordering::Relaxed)), (2000, 2010));
        shown.dedup();
        assert!(shown.len() == 2000 && !shown.contains(&last));
        // By what none of them says of itself.
        let filter = Filter { queued_at_least: Some("1B".parse().unwrap()), ..Filter::default() };
        roll.look(&filter, None, 10, false, |_| panic!("nothing waits in any")).await;
        drop(guards);
        roll.look(&Filter::default(), None, 10, true, |_| panic!("none is left")).await;
    }
}
