//! What a process knows beside its configuration, told to the next one: drains that an operator has begun, how endpoints
//! stand, who is denied, and the keys of TLS tickets.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::compile::Compiled;
use super::context::CompileContext;
use super::evict::drains::{DrainProgress, DrainTarget, Drains};
use super::listeners::Listeners;
use crate::base::clock;
use crate::handover::Known;
use crate::policy::denied::DeniedEntry;
use crate::shared::deny_list::DenyList;
use crate::tls::certificates::{Certificates, ListenerTickets};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::endpoint_state::KnownStanding;

/// How many denied subjects fit in one message, however long and strange their names are.
const DENIED_AT_ONCE: usize = 16;

/// One thing that is known. A later build may know more kinds, which this one passes over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Fact {
    /// A drain that has not been ended.
    Drain { target: DrainTarget, span: Duration },
    /// How an endpoint stands.
    Endpoint { upstream: String, endpoint: String, standing: KnownStanding },
    /// Some of the subjects that are denied, and the version of the store that the list is of.
    Denied { of: Option<u64>, entries: Vec<(String, DeniedEntry)> },
}

/// Returns all that is known.
pub(super) fn all(compiled: &Compiled, drains: &[DrainProgress], context: &CompileContext) -> Known {
    let now = clock::now();
    let drains = drains.iter().map(|drain| Fact::Drain { target: drain.target.clone(), span: drain.span });
    let endpoints = compiled.upstreams.values().flat_map(|compiled| {
        let upstream = &compiled.upstream;
        let known = |endpoint: &Arc<Endpoint>| {
            let standing = endpoint.state.known(now)?;
            Some(Fact::Endpoint { upstream: upstream.name.clone(), endpoint: endpoint.name.to_string(), standing })
        };
        upstream.endpoints().iter().filter_map(known).collect::<Vec<_>>()
    });
    let (of, denied) = context.shared.denied.known();
    let denied = denied.chunks(DENIED_AT_ONCE).map(|entries| Fact::Denied { of, entries: entries.to_vec() });
    let facts = drains.chain(endpoints).chain(denied).filter_map(|fact| serde_json::to_value(fact).ok()).collect();
    let tickets = context.families.certificates.ticket_keys();
    let secrets = if tickets.is_empty() { Vec::new() } else { postcard::to_allocvec(&tickets).unwrap_or_default() };
    Known { facts, secrets: Zeroizing::new(secrets) }
}

/// Goes on with the keys of TLS tickets, so that clients resume. To be called when the certificates are in force.
pub(super) fn take_tickets(known: &Known, certificates: &Certificates) {
    if known.secrets.is_empty() {
        return;
    }
    match postcard::from_bytes::<Vec<ListenerTickets>>(&known.secrets) {
        Ok(tickets) => certificates.adopt_ticket_keys(&tickets),
        // Of another build: clients make a full handshake.
        Err(error) => tracing::warn!(%error, "the keys of tickets of the process before are not understood"),
    }
}

/// Takes over how endpoints stand. To be called before the first connection is accepted.
pub(super) fn take_standings(known: &Known, compiled: &Compiled) {
    let now = clock::now();
    for fact in &known.facts {
        let Ok(Fact::Endpoint { upstream, endpoint, standing }) = Fact::deserialize(fact) else { continue };
        let Some(compiled) = compiled.upstreams.get(&upstream) else { continue };
        let endpoints = compiled.upstream.endpoints();
        if let Some(found) = endpoints.iter().find(|found| *found.name == *endpoint) {
            found.state.go_on_with(standing, now);
        }
    }
}

/// Goes on with the list of denied subjects, unless the store of all instances was read already.
pub(super) fn take_denied(known: &Known, denied: &DenyList) {
    let (mut version, mut all) = (None, vec![]);
    for fact in &known.facts {
        if let Ok(Fact::Denied { of, entries }) = Fact::deserialize(fact) {
            version = of;
            all.extend(entries.into_iter().map(|(subject, entry)| (subject.into_boxed_str(), entry)));
        }
    }
    if !all.is_empty() {
        denied.adopt(version, all);
    }
}

/// Goes on with drains. Those of which the configuration has no target any more are over.
pub(super) async fn take_drains(
    known: &Known,
    drains: &mut Drains,
    compiled: &Compiled,
    listeners: &mut Listeners,
    context: &CompileContext,
) {
    for fact in &known.facts {
        let Ok(Fact::Drain { target, span }) = Fact::deserialize(fact) else { continue };
        let shown = target.to_string();
        match drains.begin(target, span, compiled, listeners, context).await {
            Some(_) => tracing::info!(target = shown, "the drain goes on that was begun in the process before"),
            None => tracing::warn!(target = shown, "a drain of the process before has no target any more"),
        }
    }
}
