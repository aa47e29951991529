//! Reloads: reads the configuration again, puts it in force, and reports the result.

mod apply;
mod compare;
mod changed_routes;

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

pub(super) use apply::commit_certificates;
pub use compare::{Changed, Changes};

use super::metrics::{Reloaded, Trigger};
use super::{Controller, ReloadError, answer};
use crate::base::file_state::observe;
use crate::config::{ConfigErrors, Loaded};
use crate::handover::systemd::Notification;

/// Reads the configuration again.
pub type Loader = Arc<dyn Fn() -> Result<Loaded, ConfigErrors> + Send + Sync>;

pub(super) type Read = Result<Loaded, ConfigErrors>;

/// A reload whose files are being read.
pub(super) struct PendingReload {
    pub(super) trigger: Trigger,
    pub(super) done: oneshot::Sender<Result<Changes, ReloadError>>,
    pub(super) read: JoinHandle<Result<Read, ReloadError>>,
}

impl Controller {
    /// Puts the configuration in force after its files were read, unless an upgrade has begun meanwhile.
    pub(super) async fn finish_reload(
        &mut self,
        trigger: Trigger,
        done: oneshot::Sender<Result<Changes, ReloadError>>,
        read: Result<Read, ReloadError>,
    ) {
        match self.upgrades.allow_changes() {
            Ok(()) => answer(done, self.reload(trigger, read).await),
            // The service manager knows of the upgrade, and is told nothing more about this reload.
            Err(refused) => {
                tracing::warn!(trigger = trigger.label(), reason = %refused, "the reload is dropped");
                answer(done, Err(refused));
            }
        }
    }

    async fn reload(&mut self, trigger: Trigger, read: Result<Read, ReloadError>) -> Result<Changes, ReloadError> {
        let done = self.apply_or_renew(read).await;
        match &done {
            Ok(changes) if !changes.workers_late.is_empty() => self.metrics.reloaded(trigger, Reloaded::Late),
            Ok(changes) if changes.is_empty() => self.metrics.reloaded(trigger, Reloaded::Unchanged),
            Ok(_) => self.metrics.reloaded(trigger, Reloaded::Done),
            // The file is not to blame.
            Err(ReloadError::NoFile | ReloadError::Ending | ReloadError::Upgrading | ReloadError::Replaced(_)) => {}
            Err(_) => self.metrics.reloaded(trigger, Reloaded::Refused),
        }
        let trigger = trigger.label();
        match &done {
            Ok(changes) if changes.is_empty() => {
                tracing::info!(trigger, "configuration read again: nothing has changed");
                self.warn(&changes.warnings);
            }
            Ok(changes) => {
                tracing::info!(
                    trigger,
                    listeners = %changes.listeners, routes = %changes.routes, upstreams = %changes.upstreams,
                    others = changes.others.join(", "), sessions_closing = changes.sessions_closing,
                    workers_late = changes.workers_late.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
                    "configuration reloaded"
                );
                self.warn(&changes.warnings);
            }
            Err(error) => {
                tracing::error!(trigger, %error, "the new configuration is refused, the one before stays in force");
            }
        }
        match &done {
            Ok(_) => self.notify_ready(),
            Err(_) => {
                let status = "the configuration as it is now is refused, the one before stays in force";
                self.notifier.notify(&[Notification::Ready, Notification::Status(status)]);
            }
        }
        done
    }

    /// Logs warnings, except those that the configuration before had as well: a file that was written just before the start
    /// is read again at once, and would bring each a second time.
    fn warn(&mut self, warnings: &[String]) {
        let new = warnings.iter().filter(|warning| !self.warned.contains(*warning));
        new.for_each(|warning| tracing::warn!("{warning}"));
        self.warned = warnings.iter().cloned().collect();
    }

    async fn apply_or_renew(&mut self, read: Result<Read, ReloadError>) -> Result<Changes, ReloadError> {
        let done = match read? {
            Ok(loaded) => self.apply(loaded).await,
            Err(errors) => Err(errors.into()),
        };
        if let Err(ReloadError::Config(_)) = done {
            // A mistake in the file must not hold up renewed certificates: read them for the configuration in force.
            let loaded = self.in_force.load().loaded.clone();
            match self.apply(loaded).await {
                Ok(changes) if changes.is_empty() => {}
                Ok(changes) => {
                    tracing::info!(listeners = %changes.listeners, upstreams = %changes.upstreams, "renewed files of the configuration in force");
                }
                Err(error) => tracing::error!(%error, "the files that the configuration names cannot be renewed"),
            }
        }
        done
    }

    /// Starts reading the configuration files.
    pub(super) fn start_reading(&self) -> Result<JoinHandle<Result<Read, ReloadError>>, ReloadError> {
        let loader = Arc::clone(self.loader.as_ref().ok_or(ReloadError::NoFile)?);
        let (hanging, patience) = (Arc::clone(&self.hanging), self.context.wait_limits.files);
        Ok(tokio::spawn(async move {
            let late = |_| ReloadError::Unread(patience);
            let mut hanging = hanging.lock().await;
            // Wait for an earlier read that hangs instead of starting another, so that repeated reloads use one thread.
            if let Some(before) = &mut *hanging {
                let _ = timeout(patience, before).await.map_err(late)?;
                *hanging = None;
            }
            // On a blocking thread: a network file system may hang, and a large file takes a while.
            let mut reading = spawn_blocking(move || {
                let read = loader()?;
                // Compiling reads the files that it names, and must not hang: make sure here that they can be read.
                read.file.files().iter().for_each(|file| drop(observe(file)));
                Ok(read)
            });
            match timeout(patience, &mut reading).await {
                Ok(read) => read.map_err(|_| ReloadError::Ending),
                Err(elapsed) => {
                    *hanging = Some(reading);
                    Err(late(elapsed))
                }
            }
        }))
    }
}

/// Waits for the files of the pending reload. Cancel-safe.
pub(super) async fn files_read(reading: &mut Option<PendingReload>) -> Result<Read, ReloadError> {
    match reading {
        Some(reading) => (&mut reading.read).await.unwrap_or(Err(ReloadError::Ending)),
        None => std::future::pending().await,
    }
}
