//! Background tasks of upstreams: discovery, health checks, and moving sessions.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::compile::{Compiled, CompiledUpstream, UpstreamTasks};
use super::context::CompileContext;
use super::evict::eviction;
use crate::base::clock;
use crate::probe;
use crate::telemetry::panics;
use crate::upstream::endpoint::Endpoint;

/// How often a wait checks whether the process is ending.
const END_POLL: Duration = Duration::from_millis(50);
/// How long to wait for the first endpoints of a discovery.
const FIRST_ENDPOINTS_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of evictions, by the upstream's name.
pub type EvictionStates = BTreeMap<String, Arc<Mutex<eviction::EvictionState>>>;

/// Starts the discovery of new upstreams, and waits a while for the first endpoints of those that have none.
pub async fn start_discovery(compiled: &mut Compiled, tasks: &mut BTreeMap<String, JoinSet<()>>, ending: &AtomicBool) {
    let mut first = JoinSet::new();
    for (name, CompiledUpstream { upstream, background, .. }) in &mut compiled.upstreams {
        let Some(background) = background else { continue };
        let tasks = tasks.entry(name.clone()).or_default();
        if let Some(discovery) = background.discovery.take() {
            tasks.spawn(discovery.task);
            if upstream.endpoints().is_empty() {
                let upstream = discovery.upstream;
                first.spawn(async move {
                    if timeout(FIRST_ENDPOINTS_TIMEOUT, discovery.first).await.is_err() {
                        tracing::warn!(%upstream, "no endpoints: discovery has not found any yet");
                    }
                });
            }
        }
    }
    // A process that is ending needs no endpoints, and must not wait for them.
    while !ending.load(Ordering::Relaxed) {
        if let Ok(None) = timeout(END_POLL, first.join_next()).await {
            return;
        }
    }
}

/// Starts the background tasks of an upstream. `old` are the endpoints that it had before.
pub fn start_tasks(
    compiled: &mut CompiledUpstream,
    tasks: &mut JoinSet<()>,
    context: &CompileContext,
    old: &[Arc<Endpoint>],
    evictions: &mut EvictionStates,
) {
    let Some(UpstreamTasks { check, eviction: policy, .. }) = compiled.background.take() else { return };
    let upstream = &compiled.upstream;
    if !old.is_empty() {
        let endpoints = upstream.endpoints();
        let known: HashSet<_> = old.iter().map(|old| Arc::as_ptr(&old.state)).collect();
        let is_new = |endpoint: &&Arc<Endpoint>| !known.contains(&Arc::as_ptr(&endpoint.state));
        endpoints.iter().filter(is_new).for_each(|endpoint| endpoint.state.joined(clock::now()));
    }
    match check {
        Some(check) => {
            drop(tasks.spawn(probe::watch::run(Arc::clone(upstream), check, context.families.probe.clone())))
        }
        // Without a check, nothing else would ever clear the result of an earlier one.
        None => upstream.endpoints().iter().for_each(|endpoint| endpoint.state.unchecked(clock::now())),
    }
    if policy.is_none() {
        evictions.remove(&upstream.name);
    }
    if let Some(policy) = policy {
        let (upstream, sessions) = (Arc::clone(upstream), Arc::clone(&context.sessions));
        let replacing = Arc::clone(&context.replacing);
        let state = evictions
            .entry(upstream.name.clone())
            .or_insert_with(|| Arc::new(Mutex::new(eviction::EvictionState::new(old))));
        let state = Arc::clone(state);
        tasks.spawn(async move {
            let run = || {
                let replacing = Arc::clone(&replacing);
                let is_replacing = move || replacing.load(Ordering::Relaxed);
                eviction::run(Arc::clone(&upstream), Arc::clone(&sessions), policy, Arc::clone(&state), is_replacing)
            };
            panics::keep(panics::PanicSite::Control, "moving sessions", run).await;
        });
    }
}
