//! The interface between the API and the rest of the process: snapshots to read, and actions that others carry out.
//!
//! Everything that `/api/v1/` can do goes through [`AdminBackend`]; nothing in `admin` changes anything by itself. Each method
//! returns when its work is done. Dropping its future takes nothing back: an action that was requested is carried out.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::filter::Filter;
pub use crate::control::DrainTarget;
use crate::telemetry::utc::Utc;
use crate::ws::close::Close;

/// The future of a reply.
pub type ReplyFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the API can read and do.
pub trait AdminBackend: fmt::Debug + Send + Sync {
    /// Returns the state of the process.
    fn status(&self) -> ProcessStatus;

    /// Returns the configuration in force.
    fn config(&self) -> ConfigView;

    /// Returns the drains that have begun and not been ended.
    fn drains(&self) -> ReplyFuture<'_, Vec<DrainStatus>>;

    /// Reads the configuration again and puts it in force. Returns what has changed.
    fn reload(&self) -> ReplyFuture<'_, Result<Value, BackendError>>;

    /// Starts the next process, and returns what became of the sessions once it has taken over.
    fn upgrade(&self) -> ReplyFuture<'_, Result<UpgradeResult, BackendError>>;

    /// Checks this text as a configuration, or the file as it is now if there is none. Returns warnings, or the mistakes as
    /// an error.
    fn check(&self, text: Option<String>) -> ReplyFuture<'_, Result<Vec<String>, BackendError>>;

    /// Returns at most `max` sessions that match `filter`, in the order of their ids, beginning after `after`. A session that
    /// stays open is on exactly one of successive pages, whatever else opens and ends meanwhile.
    ///
    /// Returns an error if `after` is not an id, or if the filter has a name that neither the configuration nor an open
    /// session has.
    fn sessions<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a str>,
        max: usize,
    ) -> ReplyFuture<'a, Result<Vec<SessionView>, BackendError>>;

    /// Returns the session of this id, if it is open.
    fn session<'a>(&'a self, id: &'a str) -> ReplyFuture<'a, Option<SessionView>>;

    /// Sets when a session is closed because its credential expires; `None`: never. Returns the session as it is then, if it is
    /// open.
    fn set_expiry<'a>(&'a self, id: &'a str, expires_at: Option<SystemTime>) -> ReplyFuture<'a, Option<SessionView>>;

    /// Closes sessions, evenly over `over`, with `close` for the client. Returns how many.
    ///
    /// Returns an error if the filter has a name that neither the configuration nor an open session has.
    fn close<'a>(
        &'a self,
        which: SessionSelector<'a>,
        close: Close,
        over: Duration,
    ) -> ReplyFuture<'a, Result<usize, BackendError>>;

    /// Returns the subjects that are denied now.
    fn all_denied(&self) -> AllDenied;

    /// Returns why a subject is denied, if it is now.
    fn denied(&self, subject: &str) -> Option<DeniedSubject>;

    /// Denies a subject until a moment: closes its sessions and refuses new ones, on all instances that share the list.
    ///
    /// Returns an error if there are too many, or if the list cannot be changed now.
    fn deny<'a>(
        &'a self,
        subject: &'a str,
        until: Option<SystemTime>,
        reason: &'a str,
    ) -> ReplyFuture<'a, Result<DeniedSubject, BackendError>>;

    /// Allows a subject again. Returns false if it was not denied.
    ///
    /// Returns an error if the list cannot be changed now.
    fn allow<'a>(&'a self, subject: &'a str) -> ReplyFuture<'a, Result<bool, BackendError>>;

    /// Refuses new sessions on `target` and closes the existing ones, evenly over `time`. Returns how many.
    ///
    /// Returns an error if there is no such target.
    fn drain(&self, target: DrainTarget, time: Duration) -> ReplyFuture<'_, Result<usize, BackendError>>;

    /// Ends a drain: lets new sessions in and keeps those that have not been closed. Returns false if there was none.
    ///
    /// Returns an error if there is no such target.
    fn end_drain(&self, target: DrainTarget) -> ReplyFuture<'_, Result<bool, BackendError>>;
}

/// The outcome of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpgradeResult {
    /// The process that has taken over.
    pub pid: u32,
    /// How many sessions have gone to it.
    pub moved: usize,
    /// How many have stayed in this process, by the reason.
    pub stayed: BTreeMap<String, usize>,
    /// How long the move of the sessions took.
    #[serde(rename = "move_seconds", serialize_with = "seconds")]
    pub took: Duration,
}

/// Why an action is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The configuration is wrong; the one in force stays.
    #[error("the configuration is refused; the one in force stays")]
    Config(Vec<Problem>),
    /// The request makes no sense.
    #[error("{0}")]
    Bad(String),
    /// It names something that is not there.
    #[error("{0}")]
    Unknown(String),
    /// It is not possible in the present state.
    #[error("{0}")]
    Conflict(String),
    /// It is not possible now.
    #[error("{0}")]
    Unavailable(String),
    /// The process is shutting down.
    #[error("the process is shutting down")]
    Ending,
}

/// A mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, such as `routes[0].upstream`; empty for the whole file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The name of the file, if it is one that the configuration includes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
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

/// The sessions to close.
#[derive(Clone, Copy, Debug)]
pub enum SessionSelector<'a> {
    /// The session of this id.
    One(&'a str),
    /// All sessions that match a filter.
    All(&'a Filter),
}

/// A drain.
#[derive(Clone, Debug, Serialize)]
pub struct DrainStatus {
    /// What is drained.
    #[serde(flatten)]
    pub target: DrainTarget,
    /// The time over which its sessions are closed.
    #[serde(rename = "time_seconds", serialize_with = "seconds")]
    pub time: Duration,
    /// When it began.
    #[serde(serialize_with = "utc")]
    pub since: SystemTime,
    /// The sessions that are still open.
    pub sessions: usize,
}

/// All subjects that are denied.
#[derive(Clone, Debug, Serialize)]
pub struct AllDenied {
    /// Each of them, by its name.
    pub denied: Vec<DeniedSubject>,
    /// Whether all instances have the same list.
    pub shared: bool,
}

/// A subject that is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeniedSubject {
    /// The subject.
    pub subject: String,
    /// Until when; for ever if there is none.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "utc_if_any")]
    pub until: Option<SystemTime>,
    /// Since when.
    #[serde(serialize_with = "utc")]
    pub since: SystemTime,
    /// What was said about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// The configuration in force.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigView {
    /// See [`crate::config::Loaded::hash`].
    pub hash: String,
    /// What it was read from: the path of a file, or `command line`.
    pub source: String,
    /// When it was put in force.
    #[serde(serialize_with = "utc")]
    pub since: SystemTime,
    /// For how long it has been in force.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// See [`crate::config::Loaded::shown`]. Left out in the status.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub config: Value,
}

/// The state of the process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessStatus {
    /// The version of the program.
    pub version: &'static str,
    /// The process id.
    pub pid: u32,
    /// When the process started.
    #[serde(serialize_with = "utc")]
    pub started: SystemTime,
    /// How long it has run.
    #[serde(rename = "uptime_seconds", serialize_with = "seconds")]
    pub uptime: Duration,
    /// `starting`, `ready` or `draining`.
    pub state: &'static str,
    /// The configuration in force, without its text.
    pub config: ConfigView,
    /// The number of open sessions.
    pub sessions: usize,
    /// The listeners.
    pub listeners: Vec<ListenerStatus>,
    /// The upstreams.
    pub upstreams: Vec<UpstreamStatus>,
    /// Earlier processes that still have sessions after an upgrade.
    pub predecessors: Vec<PredecessorStatus>,
}

/// The state of a listener.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// The bound address; while it is drained, the configured one.
    pub address: String,
    /// Whether an operator drains it, so that it does not listen.
    pub draining: bool,
}

/// The state of an upstream.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// Whether an operator drains it, so that requests are refused.
    pub draining: bool,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// The state of an endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointStatus {
    /// Its name, as in metrics.
    pub name: String,
    /// Its configured share of new sessions.
    pub weight: u16,
    /// Its sessions, those being opened and those of earlier processes included.
    pub sessions: u32,
    /// Its plain HTTP requests under way.
    pub requests: u32,
    /// The result of its health check: `up`, `down`, or `unknown`.
    pub health: &'static str,
    /// Whether it is ejected because live traffic failed: sessions go to others while these can take them.
    pub ejected: bool,
    /// Whether it is drained, by the configuration or an operator.
    pub draining: bool,
    /// Whether it may get new sessions at all: it is not drained and its weight is not 0.
    pub open: bool,
}

/// An earlier process.
#[derive(Clone, Debug, Serialize)]
pub struct PredecessorStatus {
    /// Its process id.
    pub pid: u32,
    /// The sessions it still has, as last reported.
    pub sessions: u32,
}

/// A session.
#[derive(Clone, Debug, Serialize)]
pub struct SessionView {
    /// Its id, unique in this process.
    pub id: String,
    /// Its listener.
    pub listener: String,
    /// Its route.
    pub route: String,
    /// Its upstream.
    pub upstream: String,
    /// Its endpoint.
    pub endpoint: String,
    /// The client's address, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// The subject of the client's credential, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it is closed because its credential expires, if it is.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "utc_if_any")]
    pub expires_at: Option<SystemTime>,
    /// When it opened.
    #[serde(serialize_with = "utc")]
    pub opened: SystemTime,
    /// How long it has been open.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// How long no data has passed.
    #[serde(rename = "idle_seconds", serialize_with = "seconds")]
    pub idle: Duration,
    /// Bytes that wait for a peer to take them.
    pub queued_bytes: u64,
    /// Why it is being closed, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closing: Option<String>,
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    // Milliseconds are exact enough.
    to.serialize_f64(time.as_millis() as f64 / 1000.0)
}

fn utc_if_any<S: Serializer>(at: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Utc(at.unwrap_or(SystemTime::UNIX_EPOCH)))
}

fn utc<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Utc(*at))
}
