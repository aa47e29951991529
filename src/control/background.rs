//! What is done for an upstream apart from any client: telling its endpoints, checking them, moving sessions off them.

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

/// How often it is looked whether the process is going, while something else is waited for.
const END_LOOK: Duration = Duration::from_millis(50);
/// How long the first endpoints of a discovery are waited for.
const FIRST_ENDPOINTS: Duration = Duration::from_secs(5);

/// What is under way for the sessions of each upstream, by its name.
pub type EvictionStates = BTreeMap<String, Arc<Mutex<eviction::EvictionState>>>;

/// Begins the discoveries of upstreams that are new, and waits a while for the first endpoints of those that have none.
pub async fn discover(compiled: &mut Compiled, tasks: &mut BTreeMap<String, JoinSet<()>>, ending: &AtomicBool) {
    let mut first = JoinSet::new();
    for (name, CompiledUpstream { upstream, background, .. }) in &mut compiled.upstreams {
        let Some(background) = background else { continue };
        let tasks = tasks.entry(name.clone()).or_default();
        if let Some(discovery) = background.discovery.take() {
            tasks.spawn(discovery.task);
            if upstream.endpoints().is_empty() {
                let upstream = discovery.upstream;
                first.spawn(async move {
                    if timeout(FIRST_ENDPOINTS, discovery.first).await.is_err() {
                        tracing::warn!(%upstream, "no endpoints: discovery has told none yet");
                    }
                });
            }
        }
    }
    // Whoever is going needs no endpoints, and must not wait for them.
    while !ending.load(Ordering::Relaxed) {
        if let Ok(None) = timeout(END_LOOK, first.join_next()).await {
            return;
        }
    }
}

/// Begins what is done for an upstream apart from any client. `old` are the endpoints that it had before.
pub fn attend(
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
        let known: HashSet<_> = old.iter().map(|old| Arc::as_ptr(&old.live)).collect();
        let is_new = |endpoint: &&Arc<Endpoint>| !known.contains(&Arc::as_ptr(&endpoint.live));
        endpoints.iter().filter(is_new).for_each(|endpoint| endpoint.live.joined(clock::now()));
    }
    match check {
        Some(check) => {
            drop(tasks.spawn(probe::watch::run(Arc::clone(upstream), check, context.families.probe.clone())))
        }
        // What a check has found that is no more would never be found otherwise.
        None => upstream.endpoints().iter().for_each(|endpoint| endpoint.live.unchecked(clock::now())),
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
