//! The [`AdminBackend`] of this process: reads its state, and passes actions on to `control`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::backend::{
    AdminBackend, AllDenied, BackendError, ConfigView, DeniedSubject, DrainStatus, DrainTarget, EndpointStatus,
    ListenerStatus, PredecessorStatus, Problem, ProcessStatus, ReplyFuture, SessionSelector, SessionView,
    UpgradeResult, UpstreamStatus,
};
use super::filter::Filter;
use super::health::{Lifecycle, Readiness};
use super::names::KnownNames;
use super::session_list::{self, SessionList};
use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::base::time::MonotonicTime;
use crate::config::Bind;
use crate::control::{Changes, ControlHandle, ControlRequest, MoveReport, ReloadError, Trigger, Upgraded};
use crate::health::threshold::Health;
use crate::net::listener::Address;
use crate::policy::denied::DeniedEntry;
use crate::session::registry::{Listed, SessionId};
use crate::session::stop::StopReason;
use crate::session::{SessionEntry, Sessions};
use crate::shared::deny_list::{DenyError, DenyList};
use crate::upstream::Upstream;
use crate::ws::close::Close;

/// The backend of this process.
#[derive(Debug)]
pub struct ProcessBackend {
    control: ControlHandle,
    sessions: Arc<Sessions>,
    list: SessionList,
    denied: Arc<DenyList>,
    readiness: Readiness,
    started: SystemTime,
    began: MonotonicTime,
}

impl ProcessBackend {
    /// Creates the backend of a process that has just started.
    pub fn new(
        control: ControlHandle,
        sessions: Arc<Sessions>,
        denied: Arc<DenyList>,
        readiness: Readiness,
    ) -> ProcessBackend {
        let (started, began) = (SystemTime::now(), clock::now());
        let list = SessionList::new(Arc::clone(&sessions));
        ProcessBackend { control, sessions, list, denied, readiness, started, began }
    }

    fn in_force(&self, config: Value) -> ConfigView {
        let in_force = self.control.in_force();
        ConfigView {
            hash: in_force.loaded.hash(),
            source: in_force.loaded.source.name().to_owned(),
            since: in_force.since,
            // Zero if the clock was set back meanwhile.
            age: in_force.since.elapsed().unwrap_or_default(),
            config,
        }
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let (in_force, drains) = (self.control.in_force(), self.control.drains());
        let status = |name: &String, bind: &Bind| {
            let open = in_force.listeners.iter().find(|(open, _)| **open == **name);
            let target = DrainTarget::Listener { name: name.clone() };
            ListenerStatus {
                name: name.clone(),
                address: open.map_or_else(|| bind.to_string(), |(_, address): &(_, Address)| address.to_string()),
                draining: drains.iter().any(|drain| drain.target == target),
            }
        };
        in_force.loaded.file.listeners.iter().map(|listener| status(&listener.name, &listener.bind)).collect()
    }

    /// Looks up the names of a filter. Returns it with its endpoint named as in metrics; an error if a name is neither in the
    /// configuration nor in an open session, as that of a route is which a reload has removed.
    async fn look_up(&self, written: &Filter) -> Result<Filter, BackendError> {
        let in_force = self.control.in_force();
        let (filter, missing) = KnownNames(&in_force).filter(written);
        for name in missing {
            if !self.has_session(&name.alone).await {
                return Err(BackendError::Unknown(name.message));
            }
        }
        Ok(filter)
    }

    /// Returns why a target cannot be drained that the configuration does not have. If it still has sessions, nothing new can
    /// come to it, and closing them is another call.
    async fn unknown_target(&self, target: &DrainTarget, wrong: String) -> BackendError {
        let filter = match target.clone() {
            DrainTarget::Listener { name } => Filter { listener: Some(name), ..Filter::default() },
            DrainTarget::Route { name } => Filter { route: Some(name), ..Filter::default() },
            DrainTarget::Upstream { name } => Filter { upstream: Some(name), ..Filter::default() },
            DrainTarget::Endpoint { upstream, endpoint } => {
                Filter { upstream: Some(upstream), endpoint: Some(endpoint), ..Filter::default() }
            }
        };
        if self.has_session(&filter).await {
            let parameters = filter.to_string().replace(' ', "&");
            return BackendError::Unknown(format!(
                "there is no {target} any more, so it takes no new sessions; move those it has with `POST \
                 sessions/close?{parameters}&code=1012&over=5m`"
            ));
        }
        BackendError::Unknown(wrong)
    }

    async fn has_session(&self, filter: &Filter) -> bool {
        let mut found = false;
        self.list.for_each(filter, None, 1, false, |_| found = true).await;
        found
    }
}

impl AdminBackend for ProcessBackend {
    fn status(&self) -> ProcessStatus {
        let predecessors = self.control.predecessors().into_iter();
        let predecessors = predecessors.map(|before| PredecessorStatus { pid: before.pid, sessions: before.sessions });
        ProcessStatus {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            started: self.started,
            uptime: clock::now().since(self.began),
            state: match self.readiness.state() {
                Lifecycle::Starting => "starting",
                Lifecycle::Ready => "ready",
                Lifecycle::Draining => "draining",
            },
            config: self.in_force(Value::Null),
            sessions: self.sessions.sessions(),
            listeners: self.listeners(),
            upstreams: self.control.in_force().upstreams.values().map(|upstream| upstream_status(upstream)).collect(),
            predecessors: predecessors.collect(),
        }
    }

    fn config(&self) -> ConfigView {
        self.in_force(self.control.in_force().loaded.shown())
    }

    fn drains(&self) -> ReplyFuture<'_, Vec<DrainStatus>> {
        Box::pin(async {
            let drains = self.control.drains().into_iter().map(|drain| DrainStatus {
                target: drain.target,
                time: drain.span,
                since: drain.since,
                sessions: 0,
            });
            let mut drains: Vec<DrainStatus> = drains.collect();
            if !drains.is_empty() {
                let count = |listed: Listed<SessionEntry>| {
                    let of = drains.iter_mut().filter(|drain| drain.target.has(&listed.member));
                    of.for_each(|drain| drain.sessions += 1);
                };
                self.list.for_each(&Filter::default(), None, usize::MAX, false, count).await;
            }
            drains
        })
    }

    fn reload(&self) -> ReplyFuture<'_, Result<Value, BackendError>> {
        Box::pin(async {
            let changes: Changes = self.control.reload(Trigger::Api).await?;
            Ok(serde_json::to_value(changes).unwrap_or_default())
        })
    }

    fn upgrade(&self) -> ReplyFuture<'_, Result<UpgradeResult, BackendError>> {
        Box::pin(async {
            let Upgraded { successor: pid, sessions } = self.control.upgrade().await?;
            // If they are not to move, all of them stay, by the configuration.
            let MoveReport { moved, stayed, took } = sessions.unwrap_or_else(|| MoveReport {
                stayed: [("on_upgrade".to_owned(), self.sessions.sessions())].into(),
                ..MoveReport::default()
            });
            Ok(UpgradeResult { pid, moved, stayed, took })
        })
    }

    fn check(&self, text: Option<String>) -> ReplyFuture<'_, Result<Vec<String>, BackendError>> {
        Box::pin(async {
            let checked = self.control.request(|done| ControlRequest::Check { text, done }).await;
            Ok(checked.ok_or(BackendError::Ending)??)
        })
    }

    fn sessions<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a str>,
        max: usize,
    ) -> ReplyFuture<'a, Result<Vec<SessionView>, BackendError>> {
        Box::pin(async move {
            let after: Option<SessionId> =
                after.map(str::parse).transpose().map_err(|error| BackendError::Bad(format!("`after`: {error}")))?;
            let filter = match after {
                None => self.look_up(filter).await?,
                // The first page has looked up its names; since then the last session of one may have ended.
                Some(_) => KnownNames(&self.control.in_force()).filter(filter).0,
            };
            let mut found = vec![];
            self.list.for_each(&filter, after, max, true, |listed| found.push(session(listed))).await;
            Ok(found)
        })
    }

    fn session<'a>(&'a self, id: &'a str) -> ReplyFuture<'a, Option<SessionView>> {
        Box::pin(async { Some(session(self.list.listed(id).await?)) })
    }

    fn set_expiry<'a>(&'a self, id: &'a str, expires_at: Option<SystemTime>) -> ReplyFuture<'a, Option<SessionView>> {
        Box::pin(async move {
            let id: SessionId = id.parse().ok()?;
            // One that is over is now.
            let left = expires_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
            if !self.sessions.set_expiry(id, left.map(|left| clock::now() + left)) {
                return None;
            }
            Some(session(self.list.listed(&id.to_string()).await?))
        })
    }

    fn close<'a>(
        &'a self,
        which: SessionSelector<'a>,
        close: Close,
        over: Duration,
    ) -> ReplyFuture<'a, Result<usize, BackendError>> {
        Box::pin(async move {
            let mut ids = vec![];
            match which {
                SessionSelector::One(id) => ids.extend(self.list.listed(id).await.map(|listed| listed.id)),
                SessionSelector::All(filter) => {
                    let filter = self.look_up(filter).await?;
                    self.list.for_each(&filter, None, usize::MAX, false, |listed| ids.push(listed.id)).await;
                }
            }
            let count = ids.len();
            let why = StopReason::Operator(Arc::new(close));
            self.control
                .request(|done| ControlRequest::Close { sessions: ids, span: over, why, done })
                .await
                .ok_or(BackendError::Ending)?;
            Ok(count)
        })
    }

    fn all_denied(&self) -> AllDenied {
        let denied = self.denied.entries().into_iter().map(|(subject, entry)| denied_subject(subject, entry));
        AllDenied { denied: denied.collect(), shared: self.denied.is_shared() }
    }

    fn denied(&self, subject: &str) -> Option<DeniedSubject> {
        Some(denied_subject(subject.to_owned(), self.denied.entry(subject)?))
    }

    fn deny<'a>(
        &'a self,
        subject: &'a str,
        until: Option<SystemTime>,
        reason: &'a str,
    ) -> ReplyFuture<'a, Result<DeniedSubject, BackendError>> {
        Box::pin(async move {
            let millis = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            let until = until.map(|until| u64::try_from(millis(until)).unwrap_or(u64::MAX));
            let entry = self.denied.deny(subject, until, reason).await?;
            Ok(denied_subject(subject.to_owned(), entry))
        })
    }

    fn allow<'a>(&'a self, subject: &'a str) -> ReplyFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move { Ok(self.denied.allow(subject).await?) })
    }

    fn drain(&self, target: DrainTarget, time: Duration) -> ReplyFuture<'_, Result<usize, BackendError>> {
        Box::pin(async move {
            let (target, wrong) = KnownNames(&self.control.in_force()).target(target);
            if let Some(wrong) = wrong {
                return Err(self.unknown_target(&target, wrong).await);
            }
            let shown = target.to_string();
            let begun = self.control.request(|done| ControlRequest::Drain { target, span: time, done }).await;
            // It may have been removed in between.
            begun.ok_or(BackendError::Ending)?.ok_or_else(|| BackendError::Unknown(format!("there is no {shown}")))
        })
    }

    fn end_drain(&self, target: DrainTarget) -> ReplyFuture<'_, Result<bool, BackendError>> {
        Box::pin(async {
            let (target, wrong) = KnownNames(&self.control.in_force()).target(target);
            // The drain of a route that a reload has removed can be ended as well.
            let is_drained = self.control.drains().iter().any(|drain| drain.target == target);
            if let Some(wrong) = wrong.filter(|_| !is_drained) {
                return Err(BackendError::Unknown(wrong));
            }
            let ended = self.control.request(|done| ControlRequest::EndDrain { target, done }).await;
            Ok(ended.ok_or(BackendError::Ending)??)
        })
    }
}

impl From<ReloadError> for BackendError {
    fn from(refused: ReloadError) -> BackendError {
        match refused {
            ReloadError::Config(errors) => {
                let problem = |finding: &crate::config::Finding| Problem {
                    key: finding.path.clone(),
                    file: (finding.file != errors.name()).then(|| finding.file.clone()),
                    line: finding.line,
                    column: finding.col,
                    message: finding.message.clone(),
                    help: finding.help.clone(),
                };
                BackendError::Config(errors.findings().iter().map(problem).collect())
            }
            ReloadError::Ending => BackendError::Ending,
            refused => BackendError::Conflict(error_chain(&refused)),
        }
    }
}

impl From<DenyError> for BackendError {
    fn from(refused: DenyError) -> BackendError {
        match refused {
            DenyError::Full(_) => BackendError::Conflict(refused.to_string()),
            DenyError::Away(_) => BackendError::Unavailable(refused.to_string()),
        }
    }
}

fn denied_subject(subject: String, entry: DeniedEntry) -> DeniedSubject {
    let at = |millis: u64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    DeniedSubject {
        subject,
        until: entry.until.and_then(at),
        since: at(entry.since).unwrap_or(SystemTime::UNIX_EPOCH),
        reason: entry.reason.into(),
    }
}

fn session(listed: Listed<SessionEntry>) -> SessionView {
    let Listed { id, member, report, stop, expires } = listed;
    let now = clock::now();
    let filter_input = session_list::filter_input(&member, report, now);
    SessionView {
        id: id.to_string(),
        listener: filter_input.listener.to_owned(),
        route: filter_input.route.to_owned(),
        upstream: filter_input.upstream.to_owned(),
        endpoint: filter_input.endpoint.to_owned(),
        client: filter_input.client,
        subject: filter_input.subject.map(str::to_owned),
        expires_at: expires.and_then(|at| SystemTime::now().checked_add(at.since(now))),
        opened: SystemTime::now() - filter_input.age,
        age: filter_input.age,
        idle: filter_input.idle,
        queued_bytes: filter_input.queued,
        closing: stop.map(|stop| stop.why.label().to_owned()),
    }
}

fn upstream_status(upstream: &Upstream) -> UpstreamStatus {
    let now = clock::now();
    let endpoints = upstream.endpoints().into_iter().map(|endpoint| EndpointStatus {
        name: endpoint.name.to_string(),
        weight: endpoint.written.weight,
        sessions: endpoint.state.sessions(),
        requests: endpoint.state.requests(),
        health: match endpoint.state.health() {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
        },
        ejected: endpoint.state.outlier.is_out(now),
        draining: endpoint.written.drain.is_some() || !endpoint.state.is_open(),
        open: endpoint.takes_sessions(),
    });
    UpstreamStatus { name: upstream.name.clone(), draining: !upstream.gate.is_open(), endpoints: endpoints.collect() }
}
