//! Puts a new configuration in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compare::{ADMIN, Changes};
use crate::config::Loaded;
use crate::control::active_config::ActiveConfig;
use crate::control::background::{attend, discover};
use crate::control::compile::{Compiled, compile};
use crate::control::context::CompileContext;
use crate::control::listeners::{self, Bindings};
use crate::control::{Controller, ReloadError};

impl Controller {
    /// Puts a configuration in force.
    pub(super) async fn apply(&mut self, loaded: Loaded) -> Result<Changes, ReloadError> {
        let previous = (!self.is_suspect).then_some(&self.compiled);
        let mut compiled = compile(&loaded, &self.context, previous)?;
        let before = self.in_force.load_full();
        let mut changes = Changes::between(&before.loaded.file, &loaded.file, &self.compiled, &compiled);
        changes.warnings.extend(std::mem::take(&mut compiled.warnings));
        if changes.is_empty() {
            // A certificate may have been refused.
            commit(&self.context, &mut compiled);
            changes.workers_late = self.openings.late();
            return Ok(changes);
        }
        let door = self.door.borrow().clone();
        // First: of what listens beside another, nothing may be closed again.
        let mut admin = self.openings.bind_admin(&loaded.file, &compiled, door.as_ref())?;
        let mut bound = self.openings.bind(&compiled, door.as_ref())?;
        listeners::take_charge(listeners::all(&mut bound, &mut admin))?;
        // What is given up below is ours until then.
        self.context.own.set(self.openings.where_we_are(&bound, [admin.as_ref(), door.as_ref()]));
        // From here on nothing fails, and what does after all leaves things in the middle.
        self.is_suspect = true;
        let mut tasks = BTreeMap::new();
        discover(&mut compiled, &mut tasks, &self.context.ending).await;
        let gone: Vec<String> =
            self.tasks.keys().filter(|name| !compiled.upstreams.contains_key(*name)).cloned().collect();
        gone.iter().for_each(|name| drop(self.evictions.remove(name)));
        for name in gone.iter().chain(tasks.keys()) {
            // The old ones let go of their series before the new ones begin.
            if let Some(mut tasks) = self.tasks.remove(name) {
                tasks.shutdown().await;
            }
        }
        for (name, mut tasks) in tasks {
            let old = self.compiled.upstreams.get(&name).map_or_else(Vec::new, |old| old.upstream.endpoints());
            if let Some(upstream) = compiled.upstreams.get_mut(&name) {
                attend(upstream, &mut tasks, &self.context, &old, &mut self.evictions);
            }
            self.tasks.insert(name, tasks);
        }
        commit(&self.context, &mut compiled);
        self.openings.swap(&compiled);
        self.openings.open(bound, &compiled).await;
        for listener in self.openings.close_others(&compiled).await {
            // They would find what is in force now no more.
            self.context.sessions.last_requests(|number| number == listener.id);
        }
        changes.sessions_closing = self.retire(&compiled);
        self.compiled = compiled;
        if let Some(output) = &self.context.log {
            output.set(&loaded.file.log);
        }
        if changes.others.contains(&ADMIN) {
            self.door.send_replace(admin);
        }
        self.in_force.store(Arc::new(ActiveConfig::new(loaded, &self.compiled, &self.openings)));
        self.tell_in_force();
        self.is_suspect = false;
        changes.workers_late = self.openings.late();
        let door = self.door.borrow();
        self.context.own.set(self.openings.where_we_are(&Bindings::new(), [door.as_ref()]));
        Ok(changes)
    }

    pub(in crate::control) fn tell_in_force(&self) {
        let in_force = self.in_force.load();
        self.metrics.in_force(&in_force.loaded.hash(), in_force.since);
    }
}

pub(in crate::control) fn commit(context: &CompileContext, compiled: &mut Compiled) {
    if let Some(certificates) = compiled.certificates.take() {
        context.families.certificates.commit(certificates);
    }
}
