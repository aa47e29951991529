//! Puts a new configuration in force: binds sockets, swaps what has changed, and closes what is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compare::{ADMIN, Changes};
use crate::config::{Finding, Loaded};
use crate::control::active_config::ActiveConfig;
use crate::control::background::{start_discovery, start_tasks};
use crate::control::compile::{Compiled, compile};
use crate::control::context::CompileContext;
use crate::control::listeners::{self, Bindings};
use crate::control::{Controller, ReloadError};

impl Controller {
    /// Puts a configuration in force, or changes nothing and returns why.
    pub(super) async fn apply(&mut self, loaded: Loaded) -> Result<Changes, ReloadError> {
        let previous = (!self.reload_interrupted).then_some(&self.compiled);
        let mut compiled = compile(&loaded, &self.context, previous)?;
        let before = self.in_force.load_full();
        let mut changes = Changes::between(&before.loaded.file, &loaded.file, &self.compiled, &compiled);
        changes.warnings.extend(loaded.warnings.iter().map(Finding::summary));
        changes.warnings.extend(std::mem::take(&mut compiled.warnings));
        if changes.is_empty() {
            // Commits certificate files that were refused, for the metrics.
            commit_certificates(&self.context, &mut compiled);
            changes.workers_late = self.listeners.late();
            return Ok(changes);
        }
        let current = self.admin.borrow().clone();
        // Bind the admin listener first: of sockets that share an address, none may be closed again.
        let mut admin = self.listeners.bind_admin(&loaded.file, &compiled, current.as_ref())?;
        let mut bound = self.listeners.bind(&compiled, current.as_ref())?;
        listeners::take_charge(listeners::all_sockets(&mut bound, &mut admin))?;
        // Addresses that are given up below are ours until then.
        self.context.own.set(self.listeners.all_addresses(&bound, [admin.as_ref(), current.as_ref()]));
        // From here on nothing should fail; a panic leaves the change half done.
        self.reload_interrupted = true;
        let mut tasks = BTreeMap::new();
        compiled.fetch_keys();
        compiled.start_sharing(&self.context, self.compiled.store.as_ref()).await;
        start_discovery(&mut compiled, &mut tasks, &self.context.ending).await;
        let gone: Vec<String> =
            self.tasks.keys().filter(|name| !compiled.upstreams.contains_key(*name)).cloned().collect();
        gone.iter().for_each(|name| drop(self.evictions.remove(name)));
        for name in gone.iter().chain(tasks.keys()) {
            // The old tasks must drop their metric series before the new ones start.
            if let Some(mut tasks) = self.tasks.remove(name) {
                tasks.shutdown().await;
            }
        }
        for (name, mut tasks) in tasks {
            let old = self.compiled.upstreams.get(&name).map_or_else(Vec::new, |old| old.upstream.endpoints());
            if let Some(upstream) = compiled.upstreams.get_mut(&name) {
                start_tasks(upstream, &mut tasks, &self.context, &old, &mut self.evictions);
            }
            self.tasks.insert(name, tasks);
        }
        commit_certificates(&self.context, &mut compiled);
        self.listeners.swap(&compiled);
        self.listeners.open(bound, &compiled).await;
        for listener in self.listeners.close_others(&compiled).await {
            // The configuration in force has no route for their requests any more.
            self.context.sessions.last_requests(|number| number == listener.id);
        }
        changes.sessions_closing = self.close_changed_routes(&compiled);
        self.compiled = compiled;
        if let Some(output) = &self.context.log {
            output.set(&loaded.file.log);
        }
        if changes.others.contains(&ADMIN) {
            self.admin.send_replace(admin);
        }
        self.in_force.store(Arc::new(ActiveConfig::new(loaded, &self.compiled, &self.listeners)));
        self.record_in_force();
        self.reload_interrupted = false;
        changes.workers_late = self.listeners.late();
        let current = self.admin.borrow();
        self.context.own.set(self.listeners.all_addresses(&Bindings::new(), [current.as_ref()]));
        Ok(changes)
    }

    pub(in crate::control) fn record_in_force(&self) {
        let in_force = self.in_force.load();
        self.metrics.in_force(&in_force.loaded.hash(), in_force.since);
    }
}

pub(in crate::control) fn commit_certificates(context: &CompileContext, compiled: &mut Compiled) {
    if let Some(certificates) = compiled.certificates.take() {
        context.families.certificates.commit(certificates);
    }
}
