//! Sessions that go to the next process, and sessions that come from the one before.
//!
//! A session that is ordered to leave takes itself apart in its own task ([`Departure`]) and waits for the verdict. Its
//! sockets are not touched meanwhile, and its places (permits, gauges, the registry) are kept. If the other process takes it,
//! the task ends without an end of the session; otherwise it is put together again and goes on. A session that arrives
//! ([`Arrival`]) gets its places here first, and its task on one of the workers.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{ConnectionSlot, DownstreamIo, Listener, connection};
use crate::net::portable::Portable;
use crate::proxy::recheck::PlannedRecheck;
use crate::proxy::upgrade::SessionPermits;
use crate::session::registry::{Guard, SessionId};
use crate::session::{Immovable, Parked, RouteSessions, Session, SessionState, Sessions};
use crate::upstream::connect::UpstreamIo;
use crate::upstream::endpoint_state::EndpointState;

/// A session of this process.
pub(super) type LiveSession = Session<DownstreamIo, UpstreamIo, SessionPermits>;

/// A session written down.
pub type MovingState = SessionState<<DownstreamIo as Portable>::State, <UpstreamIo as Portable>::State>;

/// A session that was taken apart.
#[derive(Debug)]
pub struct Parcel {
    /// What it is.
    pub state: MovingState,
    /// Its sockets: the client's and the server's.
    pub sockets: [OwnedFd; 2],
}

/// What becomes of a session that is ready to leave.
#[derive(Debug)]
pub enum Verdict {
    /// The other process has it. The sender is dropped once its places are free.
    Left(mpsc::Sender<()>),
    /// It goes on here.
    Stays,
}

/// What a session reports that was ordered to leave. One that ends meanwhile reports nothing.
#[derive(Debug)]
pub enum Departure {
    /// It is ready. It waits for the verdict; if that is dropped, it stays. Drop the parcel before the verdict is given.
    Ready {
        /// Its entry in the registry.
        id: SessionId,
        /// What it is; its task has the other half of the `Arc`.
        parcel: Arc<Parcel>,
        /// Where it waits.
        verdict: oneshot::Sender<Verdict>,
    },
    /// It cannot leave now.
    Stays {
        /// Its entry in the registry.
        id: SessionId,
        /// The reason.
        why: Immovable,
    },
}

/// Where sessions report; what a `MoveOrder` of this server holds.
pub type Departures = mpsc::UnboundedSender<Departure>;

/// Does what a session is ordered. Returns true if it has left; then its end is not one.
pub(super) async fn leave(session: &mut LiveSession) -> bool {
    let Some(guard) = session.guard() else { return true };
    let (id, order) = (guard.id(), guard.take_order());
    let Some(departures) = order.as_ref().and_then(|order| order.report_to::<Departures>()).cloned() else {
        return false;
    };
    drop(order);
    if let Some(why) = session.stays() {
        let _ = departures.send(Departure::Stays { id, why });
        return false;
    }
    let (state, sockets, parked) = match session.take_apart() {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!(%error, "a session could not be taken apart, and is lost");
            return true;
        }
    };
    let parcel = Arc::new(Parcel { state, sockets });
    let (verdict, told) = oneshot::channel();
    // If nobody waits for it any more, the verdict is dropped with it.
    let _ = departures.send(Departure::Ready { id, parcel: Arc::clone(&parcel), verdict });
    drop(departures);
    if let Ok(Verdict::Left(gone)) = told.await {
        parked.left();
        drop(gone);
        return true;
    }
    let Some(Parcel { state, sockets }) = Arc::into_inner(parcel) else {
        tracing::error!("a session that stays is still held by its mover, and is lost");
        parked.left();
        return true;
    };
    match begun(LiveSession::from_parts(state, sockets, parked)) {
        Some(stayed) => {
            *session = stayed;
            false
        }
        None => true,
    }
}

/// A session from the process before, with its places in this one.
#[derive(Debug)]
pub struct Arrival {
    /// The session.
    pub parcel: Parcel,
    /// Its listener.
    pub listener: Arc<Listener>,
    /// Its route, as of this process's configuration.
    pub route: Arc<RouteSessions>,
    /// Its endpoint.
    pub endpoint_state: Arc<EndpointState>,
    /// Its permits.
    pub permits: SessionPermits,
    /// What a service is asked about it again.
    pub recheck: Option<PlannedRecheck>,
}

/// Lets a session go on, on the calling worker.
pub(super) fn arrive(arrival: Box<Arrival>, sessions: &Arc<Sessions>) {
    let guard = sessions.enter(arrival.listener.id);
    let slot = ConnectionSlot::take_anyway(&arrival.listener);
    let before = std::future::ready(Some((arrival, guard)));
    tokio::spawn(connection(before, settle, slot));
}

/// Takes the last places of a session that arrives, and puts it together.
fn settle((arrival, guard): (Box<Arrival>, Guard<crate::session::SessionEntry>)) -> Option<LiveSession> {
    let Arrival { parcel, listener: _, route, endpoint_state, permits, recheck } = *arrival;
    let Parcel { state, sockets } = parcel;
    guard.join(state.entry(Arc::clone(&route), endpoint_state), state.data_at());
    guard.add_stops(state.stops().to_vec());
    guard.set_expiry(state.expires());
    let permits = permits.rechecked(recheck, &guard);
    begun(LiveSession::from_parts(state, sockets, Parked::new(route, guard, permits)))
}

fn begun(session: std::io::Result<LiveSession>) -> Option<LiveSession> {
    session.inspect_err(|error| tracing::error!(%error, "a session could not be put together, and is lost")).ok()
}
