//! Closes the sessions of routes that a reload has changed or removed, as their `on_change` says.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::OnChange;
use crate::control::Controller;
use crate::control::compile::{Compiled, CompiledRoute};
use crate::control::evict::sweep;
use crate::session::registry::SessionId;
use crate::session::stop::StopReason;
use crate::session::{RouteSessions, SessionEntry};

impl Controller {
    /// Closes sessions whose route has changed or is gone, as `on_change` of the new route says, or of the old one if it is
    /// gone. Returns how many.
    pub(super) fn close_changed_routes(&mut self, compiled: &Compiled) -> usize {
        let mut count = 0;
        self.sweeps.retain(|_, sweeping| {
            while sweeping.try_join_next().is_some() {}
            !sweeping.is_empty()
        });
        // The sweep goes on for a while; it must not close sessions of a configuration that comes meanwhile.
        let later = RouteSessions::next_number();
        for (name, old) in &self.compiled.routes {
            let new = compiled.routes.get(name);
            let listeners = |route: &CompiledRoute| -> Vec<Arc<RouteSessions>> {
                route.action.listeners().iter().map(|handles| Arc::clone(&handles.sessions)).collect()
            };
            let kept: Vec<Arc<RouteSessions>> = new.map_or_else(Vec::new, listeners);
            let is_changed = new.is_none_or(|new| !new.written.is_like(&old.written));
            // If the route has not changed, only its sessions on listeners that are gone are closed.
            let gone: Option<HashSet<Arc<str>>> = (!is_changed).then(|| {
                let there: HashSet<&str> = kept.iter().map(|sessions| &*sessions.listener).collect();
                let old = old.action.listeners().iter().map(|handles| &handles.sessions.listener);
                old.filter(|listener| !there.contains(&***listener)).cloned().collect()
            });
            if gone.as_ref().is_some_and(HashSet::is_empty) {
                continue;
            }
            let span = match new.map_or(&old.written, |new| &new.written).on_change {
                OnChange::Keep => continue,
                OnChange::Drain(span) => span.duration(),
                OnChange::Close => Duration::ZERO,
            };
            let route = name.clone();
            let select = move |_: SessionId, member: &SessionEntry| {
                *member.route.route == *route
                    && member.route.number < later
                    && !kept.iter().any(|kept| Arc::ptr_eq(kept, &member.route))
                    && gone.as_ref().is_none_or(|gone| gone.contains(&member.route.listener))
            };
            let handshake = old.written.timeouts.handshake.duration();
            let (sweep, stopping) = sweep::begin(&self.context.sessions, select, span, StopReason::Reload);
            count += stopping;
            if stopping > 0 {
                tracing::info!(
                    route = name,
                    sessions = stopping,
                    ?span,
                    "closing the sessions of a route that has changed"
                );
            }
            // A handshake under way may still open a session.
            let late = handshake + 3 * sweep::INTERVAL;
            let sweeping = self.sweeps.entry(name.clone()).or_default();
            if is_changed {
                // This sweep covers the earlier ones.
                *sweeping = JoinSet::new();
            }
            sweeping.spawn(async move { drop(timeout(late, sweep.sweep_late()).await) });
        }
        count
    }
}
