//! Drains by an operator: a part of the process takes no new sessions, and its sessions are closed.
//!
//! A drain lasts until the operator ends it or the process ends; reloads do not change it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::sweep;
use crate::base::clock;
use crate::control::compile::Compiled;
use crate::control::context::CompileContext;
use crate::control::error::ReloadError;
use crate::control::listeners::Listeners;
use crate::proxy::quota::RouteQuota;
use crate::server::Listener;
use crate::session::registry::SessionId;
use crate::session::stop::StopReason;
use crate::session::{SessionEntry, Sessions};
use crate::upstream::endpoint_state::EndpointState;
use crate::upstream::entry::Gate;

/// What is drained, by its name in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DrainTarget {
    /// A listener: it accepts no connections; its requests finish.
    Listener {
        /// Its name.
        name: String,
    },
    /// A route: its requests are refused with 503.
    Route {
        /// Its name.
        name: String,
    },
    /// An upstream: requests for it are refused with 503.
    Upstream {
        /// Its name.
        name: String,
    },
    /// An endpoint: requests go to the others.
    Endpoint {
        /// The upstream's name.
        upstream: String,
        /// Its URL, as in metrics.
        endpoint: String,
    },
}

impl fmt::Display for DrainTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrainTarget::Listener { name } => write!(f, "listener {name}"),
            DrainTarget::Route { name } => write!(f, "route {name}"),
            DrainTarget::Upstream { name } => write!(f, "upstream {name}"),
            DrainTarget::Endpoint { upstream, endpoint } => write!(f, "endpoint {endpoint} of upstream {upstream}"),
        }
    }
}

impl DrainTarget {
    /// Returns the reason with which its sessions are closed.
    fn why(&self) -> StopReason {
        match self {
            DrainTarget::Listener { .. } => StopReason::ListenerDrain,
            DrainTarget::Route { .. } => StopReason::RouteDrain,
            DrainTarget::Upstream { .. } => StopReason::UpstreamDrain,
            DrainTarget::Endpoint { .. } => StopReason::EndpointDrain,
        }
    }

    /// Returns true if a session belongs to it.
    pub fn has(&self, member: &SessionEntry) -> bool {
        match self {
            DrainTarget::Listener { name } => *member.route.listener == **name,
            DrainTarget::Route { name } => *member.route.route == **name,
            DrainTarget::Upstream { name } => member.route.upstream.name == *name,
            DrainTarget::Endpoint { upstream, endpoint } => {
                member.route.upstream.name == *upstream && member.endpoint_state.endpoint() == endpoint
            }
        }
    }
}

/// A drain, for others to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainProgress {
    /// What is drained.
    pub target: DrainTarget,
    /// The time over which its sessions are closed.
    pub span: Duration,
    /// When it began.
    pub since: SystemTime,
}

/// All drains that have begun and not been ended.
#[derive(Debug)]
pub struct Drains {
    sessions: Arc<Sessions>,
    drains: BTreeMap<DrainTarget, RunningDrain>,
    published: watch::Sender<Vec<DrainProgress>>,
}

#[derive(Debug)]
struct RunningDrain {
    span: Duration,
    since: SystemTime,
    gate: DrainGate,
    sweep: JoinHandle<()>,
}

/// What the drain keeps closed.
#[derive(Debug)]
enum DrainGate {
    Listener(#[expect(dead_code, reason = "kept, so that the same listener is opened again")] Arc<Listener>),
    Route(Arc<RouteQuota>),
    Upstream(Arc<Gate>),
    Endpoint(Arc<EndpointState>),
}

impl DrainGate {
    fn set_open(&self, open: bool) {
        match self {
            DrainGate::Listener(_) => {}
            DrainGate::Route(room) => room.set_open(open),
            DrainGate::Upstream(gate) => gate.set_open(open),
            DrainGate::Endpoint(live) => live.set_open(open, clock::now()),
        }
    }
}

impl Drop for RunningDrain {
    fn drop(&mut self) {
        self.sweep.abort();
    }
}

impl Drains {
    /// Creates an empty list, and the receiver of its changes.
    pub fn new(sessions: Arc<Sessions>) -> (Drains, watch::Receiver<Vec<DrainProgress>>) {
        let (published, seen) = watch::channel(vec![]);
        (Drains { sessions, drains: BTreeMap::new(), published }, seen)
    }

    /// Begins a drain, or begins it again with another span. Returns the number of sessions to close; `None` if the
    /// configuration has no such target.
    pub async fn begin(
        &mut self,
        target: DrainTarget,
        span: Duration,
        compiled: &Compiled,
        listeners: &mut Listeners,
        context: &CompileContext,
    ) -> Option<usize> {
        let gate = match &target {
            DrainTarget::Listener { name } => {
                let listener = listeners.pause(name).await?;
                self.sessions.stop_requests(listener.id, clock::now(), &target.why());
                DrainGate::Listener(listener)
            }
            DrainTarget::Route { name } => {
                compiled.routes.get(name)?;
                DrainGate::Route(context.quotas.of(name))
            }
            DrainTarget::Upstream { name } => {
                DrainGate::Upstream(Arc::clone(&compiled.upstreams.get(name)?.upstream.gate))
            }
            DrainTarget::Endpoint { upstream, endpoint } => {
                let endpoints = compiled.upstreams.get(upstream)?.upstream.endpoints();
                let found = endpoints.iter().find(|it| *it.name == **endpoint)?;
                DrainGate::Endpoint(Arc::clone(&found.state))
            }
        };
        gate.set_open(false);
        self.drains.remove(&target);
        self.cancel_stops(&target);
        let select = {
            let target = target.clone();
            move |_: SessionId, member: &SessionEntry| target.has(member)
        };
        let (sweep, count) = sweep::begin(&self.sessions, select, span, target.why());
        let drain = RunningDrain { span, since: SystemTime::now(), gate, sweep: tokio::spawn(sweep.sweep_late()) };
        self.drains.insert(target, drain);
        self.publish();
        Some(count)
    }

    /// Ends a drain: sessions that have not been closed yet stay, and new ones are let in. Returns false if there was none.
    ///
    /// # Errors
    /// If a listener's address is in use by now; it stays drained.
    pub async fn end(
        &mut self,
        target: &DrainTarget,
        listeners: &mut Listeners,
        compiled: &Compiled,
    ) -> Result<bool, ReloadError> {
        if !self.drains.contains_key(target) {
            return Ok(false);
        }
        if let DrainTarget::Listener { name } = target {
            listeners.resume(name, compiled).await?;
        }
        if let Some(drain) = self.drains.remove(target) {
            drain.gate.set_open(true);
        }
        self.cancel_stops(target);
        self.publish();
        Ok(true)
    }

    fn cancel_stops(&self, target: &DrainTarget) {
        let why = target.why();
        self.sessions.cancel_stop(|member, notice| *notice == why && target.has(member), clock::now());
    }

    /// Returns all drains.
    pub fn all(&self) -> Vec<DrainProgress> {
        let progress = |(target, drain): (&DrainTarget, &RunningDrain)| DrainProgress {
            target: target.clone(),
            span: drain.span,
            since: drain.since,
        };
        self.drains.iter().map(progress).collect()
    }

    fn publish(&self) {
        self.published.send_replace(self.all());
    }
}
