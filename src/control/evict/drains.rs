//! Drains that an operator has begun, of a part of the process: no new sessions there, and those that are there sent away.
//!
//! They last until the operator ends them, whatever is reloaded meanwhile, and no longer than the process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::sweep;
use crate::base::clock;
use crate::control::compile::Compiled;
use crate::control::context::CompileContext;
use crate::control::error::ReloadError;
use crate::control::listeners::Openings;
use crate::proxy::quota::RouteQuota;
use crate::server::Listener;
use crate::session::registry::SessionId;
use crate::session::stop::StopReason;
use crate::session::{Member, Sessions};
use crate::upstream::endpoint_state::EndpointState;
use crate::upstream::entry::Gate;

/// What is drained, by its name in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DrainTarget {
    /// No connections are accepted there; its requests finish.
    Listener {
        /// Its name.
        name: String,
    },
    /// Its requests are refused with 503.
    Route {
        /// Its name.
        name: String,
    },
    /// Requests that it would get are refused with 503.
    Upstream {
        /// Its name.
        name: String,
    },
    /// Requests go to the others.
    Endpoint {
        /// Name of the upstream.
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
    /// Why its sessions are closed.
    fn why(&self) -> StopReason {
        match self {
            DrainTarget::Listener { .. } => StopReason::ListenerDrain,
            DrainTarget::Route { .. } => StopReason::RouteDrain,
            DrainTarget::Upstream { .. } => StopReason::UpstreamDrain,
            DrainTarget::Endpoint { .. } => StopReason::EndpointDrain,
        }
    }

    /// Whether a session is on it.
    pub fn has(&self, member: &Member) -> bool {
        match self {
            DrainTarget::Listener { name } => *member.route.listener == **name,
            DrainTarget::Route { name } => *member.route.route == **name,
            DrainTarget::Upstream { name } => member.route.upstream.name == *name,
            DrainTarget::Endpoint { upstream, endpoint } => {
                member.route.upstream.name == *upstream && member.live.endpoint() == endpoint
            }
        }
    }
}

/// A drain as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainProgress {
    /// Of what.
    pub target: DrainTarget,
    /// Over how long its sessions are closed.
    pub span: Duration,
    /// Since when.
    pub since: SystemTime,
}

/// All that are under way or done, and not ended.
#[derive(Debug)]
pub struct Drains {
    sessions: Arc<Sessions>,
    drains: BTreeMap<DrainTarget, RunningDrain>,
    shown: watch::Sender<Vec<DrainProgress>>,
}

#[derive(Debug)]
struct RunningDrain {
    span: Duration,
    since: SystemTime,
    door: DrainGate,
    sweep: JoinHandle<()>,
}

/// What is kept shut.
#[derive(Debug)]
enum DrainGate {
    Listener(#[expect(dead_code, reason = "held, so that it is the same when it is opened again")] Arc<Listener>),
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
    /// None yet; and where they are shown.
    pub fn new(sessions: Arc<Sessions>) -> (Drains, watch::Receiver<Vec<DrainProgress>>) {
        let (shown, seen) = watch::channel(vec![]);
        (Drains { sessions, drains: BTreeMap::new(), shown }, seen)
    }

    /// Begins one, or begins it again with another span. Returns how many sessions there are to go; `None`: the
    /// configuration has no such target.
    pub async fn begin(
        &mut self,
        target: DrainTarget,
        span: Duration,
        compiled: &Compiled,
        openings: &mut Openings,
        context: &CompileContext,
    ) -> Option<usize> {
        let door = match &target {
            DrainTarget::Listener { name } => {
                let listener = openings.shut(name).await?;
                self.sessions.stop_requests(listener.id, clock::now(), &target.why());
                DrainGate::Listener(listener)
            }
            DrainTarget::Route { name } => {
                compiled.routes.get(name)?;
                DrainGate::Route(context.rooms.of(name))
            }
            DrainTarget::Upstream { name } => {
                DrainGate::Upstream(Arc::clone(&compiled.upstreams.get(name)?.upstream.gate))
            }
            DrainTarget::Endpoint { upstream, endpoint } => {
                let endpoints = compiled.upstreams.get(upstream)?.upstream.endpoints();
                let found = endpoints.iter().find(|it| *it.name == **endpoint)?;
                DrainGate::Endpoint(Arc::clone(&found.live))
            }
        };
        door.set_open(false);
        self.drains.remove(&target);
        self.relent(&target);
        let select = {
            let target = target.clone();
            move |_: SessionId, member: &Member| target.has(member)
        };
        let (sweep, count) = sweep::begin(&self.sessions, select, span, target.why());
        let drain = RunningDrain { span, since: SystemTime::now(), door, sweep: tokio::spawn(sweep.go_on()) };
        self.drains.insert(target, drain);
        self.show();
        Some(count)
    }

    /// Ends one: sessions that were to go and have not are kept, and new ones are let in. Returns whether there was one.
    ///
    /// # Errors
    /// If the address of a listener is taken by now; it stays drained.
    pub async fn end(
        &mut self,
        target: &DrainTarget,
        openings: &mut Openings,
        compiled: &Compiled,
    ) -> Result<bool, ReloadError> {
        if !self.drains.contains_key(target) {
            return Ok(false);
        }
        if let DrainTarget::Listener { name } = target {
            openings.let_in(name, compiled).await?;
        }
        if let Some(drain) = self.drains.remove(target) {
            drain.door.set_open(true);
        }
        self.relent(target);
        self.show();
        Ok(true)
    }

    fn relent(&self, target: &DrainTarget) {
        let why = target.why();
        self.sessions.relent(|member, told| *told == why && target.has(member), clock::now());
    }

    fn show(&self) {
        let shown = self.drains.iter().map(|(target, drain)| DrainProgress {
            target: target.clone(),
            span: drain.span,
            since: drain.since,
        });
        self.shown.send_replace(shown.collect());
    }
}
