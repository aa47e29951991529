//! The accept loops of one worker, started and stopped by commands.
//!
//! The sockets belong to the sender of the commands ([`Bound`]); a worker has duplicates, so ending its loop closes no
//! listening socket. It acknowledges a command by dropping its `done`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Listener;
use super::moving::{self, Arrival};
use crate::net::listener::{Acceptor, Bound};
use crate::session::Sessions;

/// The time between two attempts to open a worker's socket when no descriptor is left.
const REOPEN_DELAY: Duration = Duration::from_secs(1);

/// A command to a worker.
#[derive(Debug)]
pub enum AcceptCommand {
    /// Starts accepting connections of a listener.
    Accept {
        /// The id of this binding, for [`AcceptCommand::Stop`].
        binding_id: u64,
        /// The listener.
        listener: Arc<Listener>,
        /// Its sockets.
        bound: Arc<Bound>,
        /// Dropped once connections are accepted.
        done: mpsc::Sender<()>,
    },
    /// Lets a session of the process before go on.
    Adopt(Box<Arrival>),
    /// Stops accepting.
    Stop {
        /// The id of the binding.
        binding_id: u64,
        /// What to do with connections that wait in the queue.
        waiting: PendingConnections,
        /// Dropped once no more are accepted.
        done: mpsc::Sender<()>,
    },
}

/// What to do with connections that wait on a socket when accepting stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingConnections {
    /// Accept them first: the socket is about to be closed, which would reset them.
    Accept,
    /// Leave them to others that accept on the socket.
    Leave,
}

/// A running accept loop. It ends when `stop` is used or dropped.
struct AcceptLoop {
    stop: oneshot::Sender<PendingConnections>,
    task: JoinHandle<()>,
}

/// Runs the commands of worker `index` until their sender is dropped.
pub async fn run(index: usize, mut commands: mpsc::UnboundedReceiver<AcceptCommand>, sessions: Arc<Sessions>) {
    let mut loops: HashMap<u64, AcceptLoop> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            AcceptCommand::Accept { binding_id, listener, bound, done } => {
                let (stop, stopped) = oneshot::channel();
                let task = accept(index, listener, bound, Arc::clone(&sessions), done, stopped);
                loops.insert(binding_id, AcceptLoop { stop, task: tokio::spawn(task) });
            }
            AcceptCommand::Adopt(arrival) => moving::arrive(arrival, &sessions),
            AcceptCommand::Stop { binding_id, waiting, done } => {
                let Some(AcceptLoop { stop, task }) = loops.remove(&binding_id) else { continue };
                // It may have ended by itself.
                let _ = stop.send(waiting);
                // An error is a panic of the loop, which has ended it as well.
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
    let port = bound.address().tcp().map(|address| address.port());
    drop(bound);
    super::run(listener, port, acceptor, sessions, stopped).await;
}

/// Opens a worker's socket of a listener. Without a free descriptor it retries; the command counts as done meanwhile.
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
        sleep(REOPEN_DELAY).await;
    }
}
