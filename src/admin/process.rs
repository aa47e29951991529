//! The desk of this process: what is in force is read, what is ordered is passed on to `control`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::desk::{
    Answer, Desk, DrainStatus, EndpointStatus, InForce, ListenerStatus, Predecessor, Problem, Refusal, Session, Status,
    Target, UpstreamStatus, Which,
};
use super::filter::Filter;
use super::health::{Readiness, State};
use super::roll::{self, Roll};
use crate::clock;
use crate::config::Bind;
use crate::control::{Changes, Handle, Order, Refused, Trigger};
use crate::drain::{Listed, Place};
use crate::health::threshold::Health;
use crate::moment::Moment;
use crate::net::listener::Address;
use crate::proxy::{outcome, request};
use crate::session::{Member, Sessions};
use crate::upstream::Upstream;
use crate::ws::close::Close;
use crate::ws::tunnel::Stopping;

/// This process, for its operators.
#[derive(Debug)]
pub struct Process {
    control: Handle,
    sessions: Arc<Sessions>,
    roll: Roll,
    readiness: Readiness,
    started: SystemTime,
    began: Moment,
}

impl Process {
    /// One that has just begun.
    pub fn new(control: Handle, sessions: Arc<Sessions>, readiness: Readiness) -> Process {
        let (started, began) = (SystemTime::now(), clock::now());
        let roll = Roll::new(Arc::clone(&sessions));
        Process { control, sessions, roll, readiness, started, began }
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
        let predecessors = self.control.predecessors().into_iter();
        let predecessors = predecessors.map(|before| Predecessor { pid: before.pid, sessions: before.sessions });
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
            predecessors: predecessors.collect(),
        }
    }

    fn config(&self) -> InForce {
        self.in_force(self.control.in_force().loaded.shown())
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
                self.roll.look(&Filter::default(), None, usize::MAX, false, count).await;
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
            self.roll.look(filter, after, max, true, |listed| found.push(session(listed))).await;
            Ok(found)
        })
    }

    fn session<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Session>> {
        Box::pin(async { Some(session(self.roll.listed(id).await?)) })
    }

    fn close<'a>(&'a self, which: Which<'a>, close: Close, over: Duration) -> Answer<'a, Result<usize, Refusal>> {
        Box::pin(async move {
            let mut places = vec![];
            match which {
                Which::One(id) => places.extend(self.roll.listed(id).await.map(|listed| listed.place)),
                Which::All(filter) => {
                    self.roll.look(filter, None, usize::MAX, false, |listed| places.push(listed.place)).await;
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
            Refused::Ending => Refusal::Ending,
            refused => Refusal::Conflict(request::chain(&refused)),
        }
    }
}

fn session(listed: Listed<Member>) -> Session {
    let Listed { place, member, told, stop } = listed;
    let seen = roll::seen(&member, told, clock::now());
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
        closing: stop.map(|stop| outcome::stopping_label(&stop.why).to_owned()),
    }
}

fn upstream_status(upstream: &Upstream) -> UpstreamStatus {
    let now = clock::now();
    let endpoints = upstream.endpoints().into_iter().map(|endpoint| EndpointStatus {
        name: endpoint.name.to_string(),
        weight: endpoint.written.weight,
        sessions: endpoint.live.sessions(),
        requests: endpoint.live.requests(),
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
