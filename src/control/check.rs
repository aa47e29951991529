//! Checks a configuration without putting it in force.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::compile::{FileChecks, examine};
use super::{Controller, Loader, ReloadError, answer};
use crate::config;

/// The most checks that may run or wait. One at a time runs, on a thread of its own.
const CHECKS_MAX: usize = 8;

impl Controller {
    /// Checks a text, or the file if there is none, on a thread of its own, so that nothing else waits for it.
    pub(super) fn check(&mut self, text: Option<String>, done: oneshot::Sender<Result<Vec<String>, ReloadError>>) {
        while self.checks.try_join_next().is_some() {}
        if self.checks.len() >= CHECKS_MAX {
            return answer(done, Err(ReloadError::Busy));
        }
        let (loader, check_permit) = (self.loader.clone(), Arc::clone(&self.check_permit));
        let patience = self.context.wait_limits.files;
        let late = if text.is_some() { ReloadError::Busy } else { ReloadError::Unread(patience) };
        self.checks.spawn(async move {
            let checked = timeout(patience, async {
                // The thread keeps the permit until it is done, even if the check has timed out.
                let permit = check_permit.acquire_owned().await.map_err(|_| ReloadError::Ending)?;
                let check = move || {
                    let _permit = permit;
                    match text {
                        Some(text) => check_text(&text),
                        None => check_file(loader.as_ref()),
                    }
                };
                spawn_blocking(check).await.unwrap_or(Err(ReloadError::Ending))
            });
            answer(done, checked.await.unwrap_or(Err(late)));
        });
    }
}

/// Checks a configuration that an operator has sent.
fn check_text(text: &str) -> Result<Vec<String>, ReloadError> {
    // The sender may not read the environment: a text could make an error message quote a secret. Values are cut out.
    let secrets = RefCell::new(BTreeSet::new());
    let env = |name: &str| {
        let value = std::env::var(name).ok()?;
        secrets.borrow_mut().insert(value.clone());
        Some(value)
    };
    let checked = config::load_sent("request", text, &env)
        .and_then(|loaded| Ok((examine(&loaded, FileChecks::Nowhere)?, loaded.warnings)));
    let secrets: Vec<String> = secrets.into_inner().into_iter().collect();
    let (more, warnings) = checked.map_err(|errors| errors.without(&secrets))?;
    let warnings = warnings.iter().map(ToString::to_string).chain(more);
    Ok(warnings.map(|warning| config::without(warning, &secrets)).collect())
}

/// Checks the file as it is now.
fn check_file(loader: Option<&Loader>) -> Result<Vec<String>, ReloadError> {
    let loaded = (loader.ok_or(ReloadError::NoFile)?)()?;
    let warnings = examine(&loaded, FileChecks::Inside)?;
    Ok(loaded.warnings.iter().map(ToString::to_string).chain(warnings).collect())
}
