//! Checks of a configuration that is not put in force.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::compile::{FileChecks, examine};
use super::{Controller, Loader, ReloadError, answer};
use crate::config;

/// How many checks may be under way or wait. One at a time has a thread.
const CHECKS_MAX: usize = 8;

impl Controller {
    /// Has a text checked, or the file, on a thread of its own: what takes a while keeps nobody else waiting.
    pub(super) fn check(&mut self, text: Option<String>, done: oneshot::Sender<Result<Vec<String>, ReloadError>>) {
        while self.checks.try_join_next().is_some() {}
        if self.checks.len() >= CHECKS_MAX {
            return answer(done, Err(ReloadError::Busy));
        }
        let (loader, checking) = (self.loader.clone(), Arc::clone(&self.checking));
        let patience = self.context.patience.files;
        let late = if text.is_some() { ReloadError::Busy } else { ReloadError::Unread(patience) };
        self.checks.spawn(async move {
            let checked = timeout(patience, async {
                // Its thread has it until it is through, whether or not somebody still waits.
                let mine = checking.acquire_owned().await.map_err(|_| ReloadError::Ending)?;
                let check = move || {
                    let _mine = mine;
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

/// What is wrong with a text that somebody has sent.
fn check_text(text: &str) -> Result<Vec<String>, ReloadError> {
    // Whoever may ask this may not therefore read the environment: a text could name a secret as what is wrong.
    let told = RefCell::new(BTreeSet::new());
    let env = |name: &str| {
        let value = std::env::var(name).ok()?;
        told.borrow_mut().insert(value.clone());
        Some(value)
    };
    let checked = config::load_sent("request", text, &env)
        .and_then(|loaded| Ok((examine(&loaded, FileChecks::Nowhere)?, loaded.warnings)));
    let told: Vec<String> = told.into_inner().into_iter().collect();
    let (more, warnings) = checked.map_err(|errors| errors.without(&told))?;
    let warnings = warnings.iter().map(ToString::to_string).chain(more);
    Ok(warnings.map(|warning| config::without(warning, &told)).collect())
}

/// What is wrong with the file as it is now.
fn check_file(loader: Option<&Loader>) -> Result<Vec<String>, ReloadError> {
    let loaded = (loader.ok_or(ReloadError::NoFile)?)()?;
    let warnings = examine(&loaded, FileChecks::Inside)?;
    Ok(loaded.warnings.iter().map(ToString::to_string).chain(warnings).collect())
}
