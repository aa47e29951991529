//! Sessions that come from the process before: which of them can go on here, and where.
//!
//! The configuration of this process decides. A session needs its listener, its route on that listener, and its upstream;
//! without one of them it is refused, and the old process closes it in its own time. If the route has changed, `on_change`
//! of the new one says what becomes of the session, as at a reload. An endpoint that is gone is left to eviction
//! (`drain_removed`).

use std::sync::Arc;
use std::time::Duration;

use super::background::EvictionStates;
use super::compile::Compiled;
use super::context::CompileContext;
use super::departures::{self, Luggage};
use super::evict::denied;
use super::listeners::Listeners;
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::config::OnChange;
use crate::handover::Judgement;
use crate::handover::batch::Inbound;
use crate::net::descriptors::{DescriptorUse, is_within};
use crate::proxy::recheck::PlannedRecheck;
use crate::proxy::snapshot::RouteAction;
use crate::proxy::upgrade::SessionPermits;
use crate::server::moving::{Arrival, Parcel};
use crate::session::stop::{StopNotice, StopReason};
use crate::upstream::endpoint_state::EndpointKey;
use crate::ws::tunnel::{QUIET_WAIT, TunnelSettings};

/// What this process has, to judge sessions by.
pub(super) struct Destination<'a> {
    pub(super) compiled: &'a Compiled,
    pub(super) listeners: &'a Listeners,
    pub(super) context: &'a CompileContext,
    pub(super) evictions: &'a EvictionStates,
}

/// A session that can go on here, before it takes its places.
struct Accepted {
    arrival: Box<dyn FnOnce() -> Option<Box<Arrival>>>,
    endpoint: EndpointKey,
}

impl Destination<'_> {
    /// Judges a batch.
    pub(super) fn judge(&self, sessions: Vec<Inbound>) -> Judgement {
        let (mut refused, mut accepted) = (vec![], vec![]);
        // Sessions under settings that no route has any more share them at least with their neighbours.
        let mut before = None;
        // The old process has the time for them that this one does not have.
        let is_ending = self.context.sessions.is_draining();
        for (place, inbound) in (0..).zip(sessions) {
            let judged = match is_ending {
                true => Err("the new process is ending itself".to_owned()),
                false => self.accept(inbound, &mut before),
            };
            match judged {
                Ok(session) => accepted.push(session),
                Err(why) => {
                    self.context.families.handover.refused();
                    refused.push((place, why));
                }
            }
        }
        let workers = self.listeners.worker_senders();
        let start = move || {
            let mut endpoints = Vec::with_capacity(accepted.len());
            for Accepted { arrival, endpoint } in accepted {
                endpoints.push(endpoint);
                match arrival() {
                    Some(arrival) => workers.adopt(arrival),
                    None => tracing::error!("a session that has come finds no place, and is lost"),
                }
            }
            endpoints
        };
        Judgement { refused, start: Box::new(start) }
    }

    /// Finds the places of a session.
    fn accept(&self, inbound: Inbound, before: &mut Option<Arc<TunnelSettings>>) -> Result<Accepted, String> {
        let Inbound { state, sockets } = inbound;
        // This process may have a lower limit, or need some of its descriptors for other things.
        if !sockets.iter().all(|socket| is_within(socket, DescriptorUse::Traffic)) {
            return Err("no file descriptors are left for it: raise the limit of open files".into());
        }
        let Luggage { fingerprint, mut state } = departures::unpack(&state)?;
        let listener = self
            .listeners
            .by_name(&state.listener)
            .ok_or_else(|| format!("there is no listener `{}` any more", state.listener))?;
        let compiled = self
            .compiled
            .routes
            .get(&*state.route)
            .ok_or_else(|| format!("there is no route `{}` any more", state.route))?;
        let RouteAction::Forward(route) = &compiled.action else {
            return Err(format!("the route `{}` forwards nothing any more", state.route));
        };
        if *route.upstream_name != *state.upstream {
            return Err(format!("the route `{}` has another upstream now", state.route));
        }
        let handles = route.listeners.iter().find(|handles| handles.sessions.listener == state.listener);
        let sessions = handles.map(|handles| Arc::clone(&handles.sessions)).ok_or_else(|| {
            format!("the route `{}` is not on the listener `{}` any more", state.route, state.listener)
        })?;
        let upstream = &route.upstream;
        let states = &self.context.states;
        let metrics = || self.context.families.upstream.endpoint(&upstream.name, &state.endpoint, &[]);
        let endpoint_state = states.of(&upstream.name, &state.endpoint, metrics);
        if !upstream.endpoints().iter().any(|endpoint| Arc::ptr_eq(&endpoint.state, &endpoint_state))
            && let Some(evictions) = self.evictions.get(&upstream.name)
        {
            super::evict::eviction::add_removed(evictions, &endpoint_state);
        }
        if let Some(before) = &*before {
            state.share_settings(before);
        }
        *before = Some(Arc::clone(state.share_settings(&route.tunnel)));
        if fingerprint != compiled.written.fingerprint() {
            let now = clock::now();
            let stop = match compiled.written.on_change {
                OnChange::Keep => None,
                OnChange::Drain(span) => Some(within(now, span.duration())),
                OnChange::Close => Some(StopNotice { at: now, by: None, why: StopReason::Reload }),
            };
            stop.into_iter().for_each(|stop| state.add_stop(stop));
        }
        if state.client().subject().is_some_and(|subject| self.context.shared.denied.denies(subject)) {
            state.add_stop(denied::stop_now());
        }
        let endpoint = (upstream.name.clone(), state.endpoint.to_string());
        let (quota, destination) = (Arc::clone(&route.quota), Arc::clone(route));
        // Its places are taken when it is sure to come, and whatever the limits: it was counted in the old process.
        let arrival = Box::new(move || {
            let endpoint_permit = endpoint_state.enter(u32::MAX)?;
            let route_permit = quota.enter(usize::MAX)?;
            let client_permit = destination
                .client_limits
                .as_ref()
                .and_then(|limits| limits.readmit(state.client(), state.header_client()));
            let pending = state.take_recheck();
            let service = destination.auth.as_ref().and_then(|auth| auth.service.as_ref());
            let planned = |(service, pending)| PlannedRecheck { service: Arc::clone(service), pending };
            let recheck = service.zip(pending).map(planned);
            let permits = SessionPermits::new(endpoint_permit, route_permit, client_permit);
            let parcel = Parcel { state, sockets };
            Some(Box::new(Arrival { parcel, listener, route: sessions, endpoint_state, permits, recheck }))
        });
        Ok(Accepted { arrival, endpoint })
    }
}

/// Returns a stop at a random moment of `span`.
fn within(now: MonotonicTime, span: Duration) -> StopNotice {
    let paced = span - QUIET_WAIT.min(span / 2);
    StopNotice { at: now + paced.mul_f64(fastrand::f64()), by: Some(now + span), why: StopReason::Reload }
}
