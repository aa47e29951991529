//! Connections of HTTP/2 to one endpoint, which its WebSockets and its plain requests share.
//!
//! Each worker has its own: a connection and its streams never leave it. A request takes a place on the first connection that
//! has one, so that others become empty and close. With no place left, all who wait share a dial; one more is dialed ahead of
//! need when places run out. There are as many connections as the streams need, as with HTTP/1.1, but each carries many.
//!
//! Where TLS decides on the version, a dial may come back with HTTP/1.1. What the server turned out to speak is kept
//! ([`memory`]), so that later requests need not ask.

pub mod connection;
pub mod error;
pub mod exchange;
pub mod memory;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use http::uri::Scheme;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::connection::{BeginError, Connection, Place, STREAMS_MAX};
use self::memory::{Memory, Spoken};
use super::connect::{ConnectError, Connected, Connector, Protocol, UpstreamIo};
use super::metrics::Http2Metrics;
use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::base::worker::PerWorker;

/// The most dials of one worker at a time: a server that allows few streams on a connection needs many of these.
const DIALS_MAX: usize = 8;
/// One more connection is dialed ahead of need when less than this part of the usual places is left.
const AHEAD_PART: usize = 8;

/// What a stream is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A WebSocket.
    WebSocket,
    /// A plain request.
    Plain,
}

/// What the server has for a request.
#[derive(Debug)]
pub enum Acquired {
    /// A place for a stream.
    Stream(Place),
    /// It is to be asked by HTTP/1.1; with a connection, if one has just been made.
    Http1(Option<UpstreamIo>),
    /// It speaks HTTP/2, which is to be used, but takes no WebSockets by it.
    NoWebSockets,
}

/// The connections to one endpoint.
#[derive(Debug)]
pub struct Streams {
    workers: PerWorker<Arc<Mutex<WorkerStreams>>>,
    dialer: Dialer,
    /// The endpoint's own Host.
    pub authority: HeaderValue,
    /// The scheme of its requests.
    pub scheme: Scheme,
}

/// What one worker has.
#[derive(Debug)]
struct WorkerStreams {
    connections: Vec<Connection>,
    dials: Vec<Dial>,
    /// Numbers dials.
    dialed: u64,
    /// How many streams the last connection allowed.
    streams_usual: usize,
}

/// A dial under way.
#[derive(Debug)]
struct Dial {
    number: u64,
    /// How many wait for it.
    waiting: usize,
    told: watch::Receiver<Option<Dialed>>,
}

/// The result of a dial, for all who wait.
#[derive(Clone, Debug)]
enum Dialed {
    /// There is a connection with places.
    Streams,
    /// It speaks HTTP/1.1; the first to come may have the connection.
    Http1(Arc<Mutex<Option<UpstreamIo>>>),
    /// It failed.
    Failed(Arc<ConnectError>),
}

/// What a dial needs.
#[derive(Clone, Debug)]
struct Dialer {
    connector: Connector,
    timeout: Duration,
    memory: Arc<Memory>,
    metrics: Arc<Http2Metrics>,
}

impl Streams {
    /// Has no connection yet; each is made within `connect_timeout`. `None` if the endpoint never speaks HTTP/2.
    pub fn new(
        connector: &Connector,
        connect_timeout: Duration,
        workers: usize,
        metrics: impl FnOnce() -> Arc<Http2Metrics>,
    ) -> Option<Streams> {
        if let Protocol::Http1 = connector.protocol {
            return None;
        }
        let empty = || WorkerStreams { connections: vec![], dials: vec![], dialed: 0, streams_usual: STREAMS_MAX };
        Some(Streams {
            workers: PerWorker::new(workers, || Arc::new(Mutex::new(empty()))),
            authority: connector.authority(),
            scheme: connector.scheme(),
            dialer: Dialer {
                connector: connector.clone(),
                timeout: connect_timeout,
                memory: Arc::default(),
                metrics: metrics(),
            },
        })
    }

    /// Takes a place for a stream, on a new connection if need be.
    ///
    /// # Errors
    /// If none could be made by `deadline`.
    pub async fn acquire(&self, want: Want, deadline: Instant) -> Result<Acquired, ConnectError> {
        let worker = self.workers.get();
        let may_use_http1 = self.may_use_http1();
        if may_use_http1 {
            match (self.dialer.memory.spoken(clock::coarse()), want) {
                (Some(Spoken::Http1), _) | (Some(Spoken::PlainStreams), Want::WebSocket) => {
                    return Ok(Acquired::Http1(None));
                }
                _ => {}
            }
        }
        // Each round waits for a dial, and the deadline ends them.
        loop {
            let mut told = {
                let mut state = lock(worker);
                state.connections.retain(|connection| !connection.is_gone());
                let fits = |connection: &&Connection| want == Want::Plain || connection.takes_websockets;
                if let Some(place) = state.connections.iter().filter(fits).find_map(Connection::place) {
                    state.dial_ahead(worker, &self.dialer);
                    return Ok(Acquired::Stream(place));
                }
                let fitting = state.connections.iter().filter(fits).count();
                if fitting == 0 && !state.connections.is_empty() {
                    self.dialer.memory.learn(Spoken::PlainStreams, clock::coarse());
                    return Ok(if may_use_http1 { Acquired::Http1(None) } else { Acquired::NoWebSockets });
                }
                state.join_dial(worker, &self.dialer)
            };
            let dialed = timeout_at(deadline, told.wait_for(Option::is_some)).await;
            // A dial that ended without a word has panicked.
            let dialed = dialed.map_err(|_| ConnectError::Timeout)?.map_err(|_| ConnectError::Timeout)?.clone();
            match dialed {
                Some(Dialed::Streams) | None => {}
                Some(Dialed::Http1(io)) => {
                    let io = io.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return Ok(Acquired::Http1(io));
                }
                Some(Dialed::Failed(error)) => return Err(ConnectError::shared(error)),
            }
        }
    }

    /// Returns true if HTTP/1.1 may be spoken instead.
    pub fn may_use_http1(&self) -> bool {
        self.dialer.connector.may_use_http1()
    }

    /// Records that the server wants WebSockets, or everything, by HTTP/1.1.
    pub fn wants_http1(&self, want: Want) {
        let spoken = match want {
            Want::WebSocket => Spoken::PlainStreams,
            Want::Plain => Spoken::Http1,
        };
        self.dialer.memory.learn(spoken, clock::coarse());
    }
}

impl WorkerStreams {
    /// Joins a dial whose connection will have a place, or begins one.
    fn join_dial(&mut self, worker: &Arc<Mutex<WorkerStreams>>, dialer: &Dialer) -> watch::Receiver<Option<Dialed>> {
        let is_last = self.dials.len() == DIALS_MAX;
        match self.dials.iter_mut().min_by_key(|dial| dial.waiting) {
            Some(dial) if is_last || dial.waiting < self.streams_usual => {
                dial.waiting += 1;
                dial.told.clone()
            }
            _ => self.dial(worker, dialer, 1),
        }
    }

    /// Begins a dial when places run out, unless one is under way.
    fn dial_ahead(&mut self, worker: &Arc<Mutex<WorkerStreams>>, dialer: &Dialer) {
        let left: usize = self.connections.iter().map(|connection| connection.room().1).sum();
        if self.dials.is_empty() && left < self.streams_usual.div_ceil(AHEAD_PART) {
            self.dial(worker, dialer, 0);
        }
    }

    fn dial(
        &mut self,
        worker: &Arc<Mutex<WorkerStreams>>,
        dialer: &Dialer,
        waiting: usize,
    ) -> watch::Receiver<Option<Dialed>> {
        self.dialed += 1;
        let (tell, told) = watch::channel(None);
        let number = self.dialed;
        self.dials.push(Dial { number, waiting, told: told.clone() });
        // Nobody's request: those who wait may give up.
        let under_way = UnderWay { worker: Arc::clone(worker), number };
        let dialer = dialer.clone();
        tokio::spawn(async move {
            let dialed = match dialer.dial().await {
                Ok(NewConnection::Streams(connection)) => {
                    let mut state = lock(&under_way.worker);
                    state.streams_usual = connection.room().0.max(1);
                    state.connections.push(connection);
                    Dialed::Streams
                }
                Ok(NewConnection::Http1(io)) => Dialed::Http1(Arc::new(Mutex::new(io))),
                Err(error) => Dialed::Failed(Arc::new(error)),
            };
            drop(under_way);
            tell.send_replace(Some(dialed));
        });
        told
    }
}

/// A dial that others may join until this is dropped.
struct UnderWay {
    worker: Arc<Mutex<WorkerStreams>>,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.worker).dials.retain(|dial| dial.number != self.number);
    }
}

/// What a dial brings.
enum NewConnection {
    Streams(Connection),
    Http1(Option<UpstreamIo>),
}

impl Dialer {
    async fn dial(&self) -> Result<NewConnection, ConnectError> {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let io = match self.connector.connect_by_protocol(deadline).await? {
            Connected::Http1(io) => {
                self.memory.learn(Spoken::Http1, clock::coarse());
                return Ok(NewConnection::Http1(Some(io)));
            }
            Connected::Http2(io) => io,
        };
        match Connection::begin(io, &self.metrics, deadline).await {
            Ok(connection) => {
                self.metrics.connected(started.elapsed());
                let spoken = if connection.takes_websockets { Spoken::Streams } else { Spoken::PlainStreams };
                self.memory.learn(spoken, clock::coarse());
                Ok(NewConnection::Streams(connection))
            }
            Err(BeginError::Timeout) => Err(ConnectError::Timeout),
            // What it agreed to, it cannot do; HTTP/1.1 may be better.
            Err(error) if self.connector.may_use_http1() => {
                tracing::debug!(error = %error_chain(&error), "a server that agreed on HTTP/2 is asked by HTTP/1.1");
                self.memory.learn(Spoken::Http1, clock::coarse());
                Ok(NewConnection::Http1(None))
            }
            Err(error) => Err(ConnectError::Http2(Box::new(error))),
        }
    }
}

fn lock(worker: &Mutex<WorkerStreams>) -> MutexGuard<'_, WorkerStreams> {
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}
