//! What the API asks the rest of the process for: snapshots to read, and orders that somebody else carries out.
//!
//! Everything that `/api/v1/` can do goes through [`AdminBackend`]; nothing in `admin` changes anything by itself. Each method
//! answers when it is done. Dropping an answer that is waited for takes nothing back: an order that was given is carried
//! out.

use std::fmt;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::filter::Filter;
pub use crate::control::DrainTarget;
use crate::telemetry::utc::Utc;
use crate::ws::close::Close;

/// An answer that takes a while.
pub type ReplyFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever knows and rules the process.
pub trait AdminBackend: fmt::Debug + Send + Sync {
    /// How it stands.
    fn status(&self) -> ProcessStatus;

    /// The configuration in force.
    fn config(&self) -> ConfigView;

    /// Drains that an operator has begun and not ended.
    fn drains(&self) -> ReplyFuture<'_, Vec<DrainStatus>>;

    /// Reads the configuration again and puts it in force. Tells what has changed.
    fn reload(&self) -> ReplyFuture<'_, Result<Value, OrderError>>;

    /// Says what is wrong with this text as a configuration, or with the file as it is now. The good answer is what an
    /// operator should know all the same.
    fn check(&self, text: Option<String>) -> ReplyFuture<'_, Result<Vec<String>, OrderError>>;

    /// At most `max` of the sessions that `filter` names, in the order of their ids, those after `after`. A session that is
    /// there all along is in exactly one page of those that follow each other, whatever comes and goes meanwhile.
    ///
    /// `Err` if `after` is no id.
    fn sessions<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a str>,
        max: usize,
    ) -> ReplyFuture<'a, Result<Vec<SessionView>, OrderError>>;

    /// The session of this id, if it is there.
    fn session<'a>(&'a self, id: &'a str) -> ReplyFuture<'a, Option<SessionView>>;

    /// Has sessions close with `close` for the client, evenly over `over`. Tells how many there are.
    fn close<'a>(
        &'a self,
        which: Which<'a>,
        close: Close,
        over: Duration,
    ) -> ReplyFuture<'a, Result<usize, OrderError>>;

    /// Lets no new sessions in at `target`, and closes those that are there, evenly over `time`. Tells how many there are;
    /// `None` if there is no such target.
    fn drain(&self, target: DrainTarget, time: Duration) -> ReplyFuture<'_, Result<Option<usize>, OrderError>>;

    /// Lets sessions in again, and keeps those that were to go and have not. Tells whether it was drained.
    fn end_drain(&self, target: DrainTarget) -> ReplyFuture<'_, Result<bool, OrderError>>;
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The configuration is wrong; the one before stays.
    #[error("the configuration is refused; the one in force stays")]
    Config(Vec<Problem>),
    /// What was asked for does not make sense.
    #[error("{0}")]
    Bad(String),
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
    /// The process is going.
    #[error("the process is shutting down")]
    Ending,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, as `routes[0].upstream`; empty for the whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Which sessions are closed.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// The one of this id.
    One(&'a str),
    /// All that a filter names.
    All(&'a Filter),
}

/// A drain, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct DrainStatus {
    /// Of what.
    #[serde(flatten)]
    pub target: DrainTarget,
    /// Over how long its sessions are closed.
    #[serde(rename = "time_seconds", serialize_with = "seconds")]
    pub time: Duration,
    /// Since when.
    #[serde(serialize_with = "utc")]
    pub since: SystemTime,
    /// Sessions that are still there.
    pub sessions: usize,
}

/// The configuration in force.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigView {
    /// See [`crate::config::Loaded::hash`].
    pub hash: String,
    /// What it was read from: the path of a file, or `command line`.
    pub source: String,
    /// Since when.
    #[serde(serialize_with = "utc")]
    pub since: SystemTime,
    /// For how long.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// See [`crate::config::Loaded::shown`]. Not in the status.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub config: Value,
}

/// How the process stands.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessStatus {
    /// Of this program.
    pub version: &'static str,
    /// Of this process.
    pub pid: u32,
    /// When it began.
    #[serde(serialize_with = "utc")]
    pub started: SystemTime,
    /// For how long it has run.
    #[serde(rename = "uptime_seconds", serialize_with = "seconds")]
    pub uptime: Duration,
    /// `starting`, `ready` or `draining`.
    pub state: &'static str,
    /// The configuration in force, without what it says.
    pub config: ConfigView,
    /// Sessions that are open.
    pub sessions: usize,
    /// Where clients connect.
    pub listeners: Vec<ListenerStatus>,
    /// Where they are sent.
    pub upstreams: Vec<UpstreamStatus>,
    /// Processes before this one, after an upgrade, that still have sessions.
    pub predecessors: Vec<PredecessorStatus>,
}

/// A listener, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it is bound; while it is drained, where it is to be.
    pub address: String,
    /// Whether an operator drains it: nobody listens there.
    pub draining: bool,
}

/// An upstream, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// Whether an operator drains it: requests are refused.
    pub draining: bool,
    /// Its servers.
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointStatus {
    /// Its name, as in metrics.
    pub name: String,
    /// Its share of new sessions, as written.
    pub weight: u16,
    /// Sessions on it, those being opened and those of predecessors included.
    pub sessions: u32,
    /// Plain HTTP requests under way on it.
    pub requests: u32,
    /// What its health check says: `up`, `down`, or `unknown`.
    pub health: &'static str,
    /// Whether it is left out for failing live traffic.
    pub ejected: bool,
    /// Whether it is being emptied, by the configuration or an operator.
    pub draining: bool,
    /// Whether new sessions may come to it at all: it is not drained, and its weight is not 0.
    pub open: bool,
}

/// A process before this one, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct PredecessorStatus {
    /// Its number.
    pub pid: u32,
    /// Sessions that it still has, as it last said.
    pub sessions: u32,
}

/// A session, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct SessionView {
    /// Names it in this process.
    pub id: String,
    /// The listener it came by.
    pub listener: String,
    /// Its route.
    pub route: String,
    /// The upstream it is on.
    pub upstream: String,
    /// The endpoint it is on.
    pub endpoint: String,
    /// The client's address, if it can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// When it opened.
    #[serde(serialize_with = "utc")]
    pub opened: SystemTime,
    /// For how long it has been open.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// For how long no data passed.
    #[serde(rename = "idle_seconds", serialize_with = "seconds")]
    pub idle: Duration,
    /// Bytes that wait for a peer to take them.
    pub queued_bytes: u64,
    /// Why it is being closed, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closing: Option<String>,
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    // Milliseconds are as exact as anybody can use them.
    to.serialize_f64(time.as_millis() as f64 / 1000.0)
}

fn utc<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Utc(*at))
}
