//! A connection on which nobody has been let in yet.

use std::sync::{Mutex, PoisonError};

use crate::policy::clients::ClientPlace;

/// The place of such a connection among those of its client, where these are limited. Dropping it returns the place.
#[derive(Debug)]
pub struct Newcomer(Mutex<Option<ClientPlace>>);

impl Newcomer {
    /// Makes one.
    pub fn new(place: ClientPlace) -> Newcomer {
        Newcomer(Mutex::new(Some(place)))
    }

    /// Returns the place: a request has been let in.
    pub fn let_in(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
