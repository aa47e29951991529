//! The limits of single clients for all instances together: asked of the shared store, once a handshake.
//!
//! One question is about both, the pace and the sessions: before the token is judged, unless that is what tells the client. So
//! the place of a session is taken a little earlier than that of an instance alone; it is given back if the request fails later. A
//! client that was told when to come back is refused without a question until then.
//!
//! Sessions are counted here, too, whatever the store says: if it is away, the share of this instance is judged by that.

use super::outcome::Failure;
use super::quota::{ClientBy, ClientLimits, ClientPermit, SharedPass};
use super::request::RoutedRequest;
use super::request_log::RequestLog;
use super::shared_limits::SharedLimits;
use crate::base::clock;
use crate::config::OnSharedFailure;
use crate::policy::clients::ClientHash;
use crate::shared::holdings::SharedPlace;
use crate::shared::metrics::Fallback;
use crate::shared::{Ask, Away, SharedStore, Verdict};

/// When it is known who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before its token is judged.
    Early,
    /// After that.
    Late,
}

impl ClientLimits {
    /// Returns true if the store is asked at this moment.
    pub(super) fn is_shared_at(&self, moment: Moment) -> bool {
        let is_known_early = self.by != ClientBy::Subject;
        self.shared.is_some() && is_known_early == (moment == Moment::Early)
    }

    /// Asks the store whether the client of a request may open one more session. Leaves its place with the request.
    ///
    /// # Errors
    /// If it may not.
    pub(super) async fn ask_store(&self, request: &mut RoutedRequest, log: &RequestLog) -> Result<(), Failure> {
        let Some(SharedLimits { store, route, refused }) = &self.shared else { return Ok(()) };
        let (key, header) = self.key_of(request, log);
        let (client, local) = (key.digest(route), key.hash(&self.clients.key));
        if let Some(wait) = refused.wait(client, clock::now()) {
            store.metrics().waiting();
            return Err(Failure::ClientRate(wait));
        }
        let shared = self.sessions.map(|_| store.holdings().enter(client));
        let sessions_max = match store.ask(Ask { client, pace: self.handshakes, sessions: self.sessions }).await {
            Ok(Verdict::Allowed) => u32::MAX,
            Ok(Verdict::TooFast(wait)) => {
                let now = clock::now();
                refused.remember(client, now + wait, now);
                return Err(Failure::ClientRate(wait));
            }
            Ok(Verdict::TooMany) => return Err(Failure::ClientSessions),
            Err(away) => {
                shared.iter().for_each(SharedPlace::tell);
                self.without_store(store, local, away)?
            }
        };
        let permit = match shared {
            Some(shared) => {
                let place = self.clients.sessions.enter(local, sessions_max).ok_or(Failure::ClientSessions)?;
                Some(ClientPermit { place, header, shared: Some(shared) })
            }
            None => None,
        };
        request.shared = Some(Box::new(SharedPass { permit }));
        Ok(())
    }

    /// Judges the pace of a client without the store, as is configured, and returns how many sessions it may have here.
    fn without_store(&self, store: &SharedStore, client: ClientHash, away: Away) -> Result<u32, Failure> {
        let settings = store.written();
        match settings.on_failure {
            OnSharedFailure::Allow => {
                store.metrics().fell_back(Fallback::Allow);
                Ok(u32::MAX)
            }
            OnSharedFailure::Deny => {
                store.metrics().fell_back(Fallback::Deny);
                Err(Failure::SharedStore(away))
            }
            OnSharedFailure::Local => {
                store.metrics().fell_back(Fallback::Local);
                if let Some(pace) = self.handshakes {
                    let taken = self.clients.rates.take(client, pace.share(settings.instances), clock::now());
                    taken.map_err(|exceeded| Failure::ClientRate(exceeded.after))?;
                }
                Ok(self.sessions.map_or(u32::MAX, |limit| share(limit, settings.instances)))
            }
        }
    }
}

/// Returns the share of one instance: at least one, unless there is none.
fn share(limit: u32, instances: u32) -> u32 {
    (limit / instances.max(1)).max(limit.min(1))
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn the_share_of_an_instance_is_at_least_one_place() {
        for (limit, instances, each) in [(10, 1, 10), (10, 3, 3), (2, 3, 1), (0, 3, 0), (10, 0, 10)] {
            assert_eq!(share(limit, instances), each);
        }
    }
}
