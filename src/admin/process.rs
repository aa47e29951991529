//! The desk of this process: what is in force is read, what is ordered is passed on to `control`.
//!
//! Sessions may be many, and whoever scrapes or asks for `/livez` waits for this thread: they are looked at in short walks
//! with a turn for everybody else between two, and one request at a time does so. How long a session has been idle and what
//! waits in it only it knows, so those that are shown, or chosen by that, are asked first, and given a moment to answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::desk::{
    Answer, Desk, DrainStatus, EndpointStatus, InForce, ListenerStatus, Problem, Refusal, Session, Status, Target,
    UpstreamStatus, Which,
};
use super::filter::{Filter, Seen};
use super::health::{Readiness, State};
use crate::clock;
use crate::config::Bind;
use crate::control::{Changes, Handle, Order, Refused, Trigger};
use crate::drain::{Listed, Place, Told};
use crate::health::threshold::Health;
use crate::moment::Moment;
use crate::net::listener::Address;
use crate::proxy::{outcome, request};
use crate::session::{Member, Sessions};
use crate::upstream::Upstream;
use crate::ws::close::Close;
use crate::ws::tunnel::Stopping;

/// Places of a worker that are looked at under one lock: tens of microseconds.
const STEPS: usize = 1024;
/// For sessions that were asked to tell of themselves. Each does when its worker has a moment; one that has none is shown
/// as it was.
const PATIENCE: Duration = Duration::from_millis(50);
/// Between two looks at whether they have.
const LOOK: Duration = Duration::from_millis(1);

/// This process, for its operators.
#[derive(Debug)]
pub struct Process {
    control: Handle,
    sessions: Arc<Sessions>,
    readiness: Readiness,
    started: SystemTime,
    began: Moment,
    /// Held by whoever looks at sessions.
    looking: Mutex<()>,
}

impl Process {
    /// One that has just begun.
    pub fn new(control: Handle, sessions: Arc<Sessions>, readiness: Readiness) -> Process {
        let (started, began) = (SystemTime::now(), clock::now());
        Process { control, sessions, readiness, started, began, looking: Mutex::new(()) }
    }

    /// Shows `take` the sessions that `filter` names, at most `max`, those after `after` in the order of their places; with
    /// what they tell of themselves at the moment if `fresh` or if the filter goes by it.
    async fn look(
        &self,
        filter: &Filter,
        mut after: Option<Place>,
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
                if lasting.matches(&seen(member, Told::default(), now)) {
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
    async fn ask(&self, places: &[Place]) {
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

    async fn listed(&self, id: &str) -> Option<Listed<Member>> {
        let place = id.parse().ok()?;
        self.sessions.listed(place)?;
        self.ask(&[place]).await;
        self.sessions.listed(place)
    }

    fn in_force(&self, config: Value) -> InForce {
        let in_force = self.control.in_force();
        InForce {
            hash: in_force.loaded.hash(),
            source: in_force.loaded.source.name().to_owned(),
            since: in_force.since,
            // A clock that was set back since says nothing.
            age: in_force.since.elapsed().unwrap_or_default(),
            config,
        }
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let (in_force, drains) = (self.control.in_force(), self.control.drains());
        let status = |name: &String, bind: &Bind| {
            let open = in_force.listeners.iter().find(|(open, _)| **open == **name);
            let target = Target::Listener { name: name.clone() };
            ListenerStatus {
                name: name.clone(),
                address: open.map_or_else(|| bind.to_string(), |(_, address): &(_, Address)| address.to_string()),
                draining: drains.iter().any(|drain| drain.target == target),
            }
        };
        in_force.loaded.file.listeners.iter().map(|listener| status(&listener.name, &listener.bind)).collect()
    }
}

impl Desk for Process {
    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: self.started,
            uptime: clock::now().since(self.began),
            state: match self.readiness.state() {
                State::Starting => "starting",
                State::Ready => "ready",
                State::Draining => "draining",
            },
            config: self.in_force(Value::Null),
            sessions: self.sessions.sessions(),
            listeners: self.listeners(),
            upstreams: self.control.in_force().upstreams.values().map(|upstream| upstream_status(upstream)).collect(),
            predecessors: vec![],
        }
    }

    fn config(&self) -> InForce {
        self.in_force(self.control.in_force().loaded.shown().clone())
    }

    fn drains(&self) -> Answer<'_, Vec<DrainStatus>> {
        Box::pin(async {
            let drains = self.control.drains().into_iter().map(|drain| DrainStatus {
                target: drain.target,
                time: drain.span,
                since: drain.since,
                sessions: 0,
            });
            let mut drains: Vec<DrainStatus> = drains.collect();
            if !drains.is_empty() {
                let count = |listed: Listed<Member>| {
                    let of = drains.iter_mut().filter(|drain| drain.target.has(&listed.member));
                    of.for_each(|drain| drain.sessions += 1);
                };
                self.look(&Filter::default(), None, usize::MAX, false, count).await;
            }
            drains
        })
    }

    fn reload(&self) -> Answer<'_, Result<Value, Refusal>> {
        Box::pin(async {
            let changes: Changes = self.control.reload(Trigger::Api).await?;
            Ok(serde_json::to_value(changes).unwrap_or_default())
        })
    }

    fn check(&self, text: Option<String>) -> Answer<'_, Result<Vec<String>, Refusal>> {
        Box::pin(async {
            let checked = self.control.ask(|done| Order::Check { text, done }).await;
            Ok(checked.ok_or(Refusal::Ending)??)
        })
    }

    fn sessions<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a str>,
        max: usize,
    ) -> Answer<'a, Result<Vec<Session>, Refusal>> {
        Box::pin(async move {
            let after: Option<Place> =
                after.map(str::parse).transpose().map_err(|error| Refusal::Bad(format!("`after`: {error}")))?;
            let mut found = vec![];
            self.look(filter, after, max, true, |listed| found.push(session(listed))).await;
            Ok(found)
        })
    }

    fn session<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Session>> {
        Box::pin(async { Some(session(self.listed(id).await?)) })
    }

    fn close<'a>(&'a self, which: Which<'a>, close: Close, over: Duration) -> Answer<'a, Result<usize, Refusal>> {
        Box::pin(async move {
            let mut places = vec![];
            match which {
                Which::One(id) => places.extend(self.listed(id).await.map(|listed| listed.place)),
                Which::All(filter) => {
                    self.look(filter, None, usize::MAX, false, |listed| places.push(listed.place)).await;
                }
            }
            let count = places.len();
            let why = Stopping::Operator(Arc::new(close));
            self.control.ask(|done| Order::Close { places, span: over, why, done }).await.ok_or(Refusal::Ending)?;
            Ok(count)
        })
    }

    fn drain(&self, target: Target, time: Duration) -> Answer<'_, Result<Option<usize>, Refusal>> {
        Box::pin(async move {
            let begun = self.control.ask(|done| Order::Drain { target, span: time, done }).await;
            begun.ok_or(Refusal::Ending)
        })
    }

    fn end_drain(&self, target: Target) -> Answer<'_, Result<bool, Refusal>> {
        Box::pin(async {
            let ended = self.control.ask(|done| Order::EndDrain { target, done }).await;
            Ok(ended.ok_or(Refusal::Ending)??)
        })
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        match refused {
            Refused::Config(errors) => {
                let problem = |finding: &crate::config::Finding| Problem {
                    key: finding.path.clone(),
                    line: finding.line,
                    column: finding.col,
                    message: finding.message.clone(),
                    help: finding.help.clone(),
                };
                Refusal::Config(errors.findings().iter().map(problem).collect())
            }
            refused @ (Refused::Bind { .. } | Refused::NoFile) => Refusal::Conflict(request::chain(&refused)),
            Refused::Ending => Refusal::Ending,
        }
    }
}

/// What a filter looks at.
fn seen(member: &Member, told: Told, now: Moment) -> Seen<'_> {
    let age = now.since(member.opened);
    Seen {
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

fn session(listed: Listed<Member>) -> Session {
    let Listed { place, member, told, stop } = listed;
    let seen = seen(&member, told, clock::now());
    Session {
        id: place.to_string(),
        listener: seen.listener.to_owned(),
        route: seen.route.to_owned(),
        upstream: seen.upstream.to_owned(),
        endpoint: seen.endpoint.to_owned(),
        client: seen.client,
        opened: SystemTime::now() - seen.age,
        age: seen.age,
        idle: seen.idle,
        queued_bytes: seen.queued,
        closing: stop.map(|stop| outcome::stopping(&stop.why).1.to_owned()),
    }
}

fn upstream_status(upstream: &Upstream) -> UpstreamStatus {
    let now = clock::now();
    let endpoints = upstream.endpoints().into_iter().map(|endpoint| EndpointStatus {
        name: endpoint.name.to_string(),
        weight: endpoint.written.weight,
        sessions: endpoint.live.load(),
        health: match endpoint.live.health() {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
        },
        ejected: endpoint.live.outlier.is_out(now),
        draining: endpoint.written.drain.is_some() || !endpoint.live.is_open(),
        open: endpoint.takes_sessions(),
    });
    UpstreamStatus { name: upstream.name.clone(), draining: !upstream.gate.is_open(), endpoints: endpoints.collect() }
}
