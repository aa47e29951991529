//! The connections of the admin listener: which step each waits for, and which one gives way to a new one.
//!
//! Their number is limited. At the limit, a new connection replaces one that only waits: idle clients must not keep an
//! orchestrator from asking whether the process lives. A request that is being handled is always finished.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use prometheus::{Opts, Registry};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::telemetry::labelled::IntCounterVec;

/// The time between two log lines about connections that gave way.
const NEWS: Duration = Duration::from_secs(60);

/// The step that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwaitedStep {
    /// The client must send a complete request; waiting since then.
    Request(MonotonicTime),
    /// The client must read its response; it last read something then.
    Reading(MonotonicTime),
    /// The request is being handled.
    Ours,
}

/// Returns which connection gives way first, if any; `room` is their limit. It is the one that has owed a request for the
/// longest, unless such connections are less than half: then it is the one that has not read its response for the longest.
/// So neither kind can crowd out the other.
pub fn connection_to_drop<K: Copy>(room: usize, turns: impl Iterator<Item = (K, AwaitedStep)> + Clone) -> Option<K> {
    let silent = turns.clone().filter_map(|(key, turn)| match turn {
        AwaitedStep::Request(since) => Some((key, since)),
        AwaitedStep::Reading(_) | AwaitedStep::Ours => None,
    });
    let reading = turns.filter_map(|(key, turn)| match turn {
        AwaitedStep::Reading(since) => Some((key, since)),
        AwaitedStep::Request(_) | AwaitedStep::Ours => None,
    });
    let is_half = silent.clone().count() >= room / 2;
    let (silent, reading) = (silent.min_by_key(|(_, since)| *since), reading.min_by_key(|(_, since)| *since));
    let first = if is_half { silent.or(reading) } else { reading.or(silent) };
    first.map(|(key, _)| key)
}

/// The state of a connection, shared by its task and the accept loop.
#[derive(Debug)]
pub struct AdminConnection {
    /// The start of the wait in microseconds; 0 while the request is handled.
    since: AtomicU64,
    /// Whether it is reading a response.
    reads: AtomicBool,
}

impl AdminConnection {
    /// Creates the state of a new connection.
    pub fn new(now: MonotonicTime) -> AdminConnection {
        AdminConnection { since: AtomicU64::new(now.as_micros()), reads: AtomicBool::new(false) }
    }

    /// Returns the awaited step.
    pub fn turn(&self) -> AwaitedStep {
        match (self.since.load(Ordering::Relaxed), self.reads.load(Ordering::Relaxed)) {
            (0, _) => AwaitedStep::Ours,
            (since, false) => AwaitedStep::Request(MonotonicTime::from_micros(since)),
            (since, true) => AwaitedStep::Reading(MonotonicTime::from_micros(since)),
        }
    }

    /// Records that its request is complete.
    pub fn request_complete(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Records that the response is ready.
    pub fn response_ready(&self, now: MonotonicTime) {
        self.since.store(now.as_micros(), Ordering::Relaxed);
        self.reads.store(true, Ordering::Relaxed);
    }

    fn record_read(&self) {
        if self.reads.load(Ordering::Relaxed) {
            self.since.store(clock::now().as_micros(), Ordering::Relaxed);
        }
    }

    fn response_read(&self) {
        if self.reads.swap(false, Ordering::Relaxed) {
            self.since.store(clock::now().as_micros(), Ordering::Relaxed);
        }
    }

    /// Returns once the client has read nothing of its response for `limit`.
    pub async fn stalled(&self, limit: Duration) {
        loop {
            let now = clock::now();
            let quiet = match self.turn() {
                AwaitedStep::Reading(since) => now.since(since),
                AwaitedStep::Request(_) | AwaitedStep::Ours => Duration::ZERO,
            };
            if quiet >= limit {
                return;
            }
            // A response that begins meanwhile is checked again in time.
            tokio::time::sleep(limit - quiet).await;
        }
    }
}

/// A stream that records in its [`AdminConnection`] what the client reads.
#[derive(Debug)]
pub struct WatchedStream<T> {
    io: T,
    client: Arc<AdminConnection>,
}

impl<T> WatchedStream<T> {
    /// Wraps the stream of `client`.
    pub fn new(io: T, client: Arc<AdminConnection>) -> WatchedStream<T> {
        WatchedStream { io, client }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WatchedStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WatchedStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.client.record_read();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bytes))?;
        self.client.record_read();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when everything has been written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.client.response_read();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A request body that records in its [`AdminConnection`] when it is complete.
#[derive(Debug)]
pub struct WatchedRequestBody<B> {
    body: B,
    client: Arc<AdminConnection>,
}

impl<B: Body> WatchedRequestBody<B> {
    /// Wraps the body of a request of `client`.
    pub fn new(body: B, client: Arc<AdminConnection>) -> WatchedRequestBody<B> {
        if body.is_end_stream() {
            client.request_complete();
        }
        WatchedRequestBody { body, client }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for WatchedRequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.client.request_complete();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The metrics of admin connections.
#[derive(Clone, Debug)]
pub struct Metrics(IntCounterVec);

impl Metrics {
    /// Creates and registers `wsluice_admin_connections_dropped_total`.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let about = "Connections to the admin listener that were dropped: for others (crowded), or since they did not read (unread).";
        let dropped = IntCounterVec::new(Opts::new("wsluice_admin_connections_dropped_total", about), &["reason"])?;
        ["crowded", "unread"].iter().for_each(|reason| drop(dropped.with_label_values(&[reason])));
        registry.register(Box::new(dropped.clone()))?;
        Ok(Metrics(dropped))
    }

    /// Counts a client that did not read its response.
    pub fn unread(&self) {
        self.0.with_label_values(&["unread"]).inc();
    }
}

/// All admin connections.
#[derive(Debug)]
pub struct AdminConnections {
    room: usize,
    tasks: JoinSet<()>,
    clients: HashMap<Id, (Arc<AdminConnection>, AbortHandle)>,
    metrics: Metrics,
    crowded: Option<MonotonicTime>,
}

impl AdminConnections {
    /// Creates an empty set with this limit.
    pub fn new(room: usize, metrics: Metrics) -> AdminConnections {
        AdminConnections { room, tasks: JoinSet::new(), clients: HashMap::new(), metrics, crowded: None }
    }

    /// Adds a connection and spawns its `task`.
    pub fn enter(&mut self, client: Arc<AdminConnection>, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.clients.insert(handle.id(), (client, handle));
    }

    /// Waits until a connection has ended. Returns `None` if there is none. Cancel-safe.
    pub async fn next_ended(&mut self) -> Option<Id> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.clients.remove(&id);
        Some(id)
    }

    /// Makes room for one more, if a connection can give way. It has ended when this returns.
    pub async fn make_room(&mut self) {
        while self.clients.len() >= self.room && self.give_way().await {}
    }

    /// Ends a connection to free its descriptor. Returns false if all of them have a request that is being handled.
    pub async fn give_way(&mut self) -> bool {
        let turns = self.clients.iter().map(|(id, (client, _))| (*id, client.turn()));
        let Some(first) = connection_to_drop(self.room, turns) else { return false };
        let now = clock::now();
        self.metrics.0.with_label_values(&["crowded"]).inc();
        if self.crowded.replace(now).is_none_or(|last| now.since(last) >= NEWS) {
            let connections = self.clients.len();
            tracing::warn!(
                connections,
                "too many connections to the admin listener: those that have waited longest are dropped"
            );
        }
        if let Some((_, task)) = self.clients.get(&first) {
            task.abort();
        }
        // Its task ends at its next wait.
        while let Some(next_ended) = self.next_ended().await {
            if next_ended == first {
                break;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(room: usize, turns: &[AwaitedStep]) -> Option<usize> {
        connection_to_drop(room, turns.iter().copied().enumerate())
    }

    #[test]
    fn who_owes_a_request_for_the_longest_gives_way_unless_few_do() {
        let (asks, reads) = (
            |at| AwaitedStep::Request(MonotonicTime::from_micros(at)),
            |at| AwaitedStep::Reading(MonotonicTime::from_micros(at)),
        );
        assert_eq!(first(4, &[AwaitedStep::Ours, AwaitedStep::Ours]), None);
        assert_eq!(first(4, &[]), None);
        assert_eq!(first(4, &[asks(3), asks(2), reads(1), AwaitedStep::Ours]), Some(1));
        assert_eq!(first(4, &[asks(1), reads(9), reads(8), reads(10)]), Some(2), "answers are the crowd");
        assert_eq!(
            first(4, &[asks(1), AwaitedStep::Ours, AwaitedStep::Ours, AwaitedStep::Ours]),
            Some(0),
            "there is nobody else"
        );
        assert_eq!(first(1, &[reads(5)]), Some(0));
    }

    #[test]
    fn a_connection_waits_for_its_client_except_while_a_request_is_handled() {
        let at = MonotonicTime::from_micros;
        let client = AdminConnection::new(at(5));
        assert_eq!(client.turn(), AwaitedStep::Request(at(5)));
        client.record_read();
        assert_eq!(client.turn(), AwaitedStep::Request(at(5)), "half a request is none");
        client.request_complete();
        assert_eq!(client.turn(), AwaitedStep::Ours);
        client.response_ready(at(9));
        assert_eq!(client.turn(), AwaitedStep::Reading(at(9)));
        client.record_read();
        assert!(matches!(client.turn(), AwaitedStep::Reading(since) if since > at(9)));
        client.response_read();
        assert!(matches!(client.turn(), AwaitedStep::Request(since) if since > at(9)));
    }
}
