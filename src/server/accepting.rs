//! The accept loops of one worker: begun and ended while it runs, as it is ordered.
//!
//! The sockets belong to who gives the orders ([`Bound`]); a worker has duplicates of them, and ending its loop closes no
//! listening socket. What it answers, by dropping the `done` of an order, is that the order has been carried out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Listener;
use crate::net::listener::{Acceptor, Bound};
use crate::session::Sessions;

/// Between two attempts to open a worker's end of a listener, when no descriptor is left.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// What a worker is told.
#[derive(Debug)]
pub enum AcceptCommand {
    /// Accept connections for a listener.
    Accept {
        /// Names this opening in [`AcceptCommand::Stop`].
        opening: u64,
        /// What becomes of them.
        listener: Arc<Listener>,
        /// Where they come from.
        bound: Arc<Bound>,
        /// Dropped when connections are accepted.
        done: mpsc::Sender<()>,
    },
    /// Accept no more of them.
    Stop {
        /// Of which opening.
        opening: u64,
        /// What becomes of those that have come and were not accepted yet.
        waiting: PendingConnections,
        /// Dropped when none will be.
        done: mpsc::Sender<()>,
    },
}

/// What becomes of connections that wait on a socket on which nobody accepts any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingConnections {
    /// They are accepted first: the socket is about to be closed, which would reset them.
    Accept,
    /// They are left to others who accept on it.
    Leave,
}

/// A loop at work. It ends when `stop` is sent to or dropped.
struct AcceptLoop {
    stop: oneshot::Sender<PendingConnections>,
    task: JoinHandle<()>,
}

/// Does what worker `index` is told until nobody can tell it anything any more.
pub async fn run(index: usize, mut orders: mpsc::UnboundedReceiver<AcceptCommand>, sessions: Arc<Sessions>) {
    let mut loops: HashMap<u64, AcceptLoop> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            AcceptCommand::Accept { opening, listener, bound, done } => {
                let (stop, stopped) = oneshot::channel();
                let task = accept(index, listener, bound, Arc::clone(&sessions), done, stopped);
                loops.insert(opening, AcceptLoop { stop, task: tokio::spawn(task) });
            }
            AcceptCommand::Stop { opening, waiting, done } => {
                let Some(AcceptLoop { stop, task }) = loops.remove(&opening) else { continue };
                // It may have ended by itself.
                let _ = stop.send(waiting);
                // An error would be a panic of the loop, which has ended it as well.
                let _ = task.await;
                drop(done);
            }
        }
    }
}

/// Accepts until it is stopped.
async fn accept(
    index: usize,
    listener: Arc<Listener>,
    bound: Arc<Bound>,
    sessions: Arc<Sessions>,
    done: mpsc::Sender<()>,
    mut stopped: oneshot::Receiver<PendingConnections>,
) {
    let acceptor = tokio::select! {
        acceptor = open(index, &listener, &bound, done) => acceptor,
        _ = &mut stopped => return,
    };
    drop(bound);
    super::run(listener, acceptor, sessions, stopped).await;
}

/// A worker's end of a listener. When no descriptor is left it is waited for one, but not by who gave the order.
async fn open(index: usize, listener: &Listener, bound: &Bound, done: mpsc::Sender<()>) -> Acceptor {
    let mut is_first = true;
    let mut done = Some(done);
    loop {
        match bound.for_worker(index) {
            Ok(acceptor) => return acceptor,
            Err(error) if is_first => {
                is_first = false;
                tracing::error!(listener = %listener.name, %error, "a worker cannot accept connections yet");
            }
            Err(_) => {}
        }
        drop(done.take());
        sleep(OPEN_AGAIN).await;
    }
}
