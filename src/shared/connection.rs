//! One connection to the store: opened over a connection of ours, and closed with it.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, Value};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::answer::Away;
use super::scripts;
use crate::base::error_chain::error_chain;
use crate::config::RedisUrl;
use crate::upstream::connect::{ConnectError, Connector};

/// Why the store does not answer.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(super) struct StoreError {
    pub(super) away: Away,
    detail: String,
}

impl StoreError {
    pub(super) fn new(away: Away, detail: impl Into<String>) -> StoreError {
        StoreError { away, detail: detail.into() }
    }

    pub(super) fn late() -> StoreError {
        StoreError::new(Away::Timeout, "there was no answer in time")
    }

    fn unexpected(what: &str) -> StoreError {
        StoreError::new(Away::Error, format!("the answer is not what was asked for: {what}"))
    }
}

impl From<ConnectError> for StoreError {
    fn from(error: ConnectError) -> StoreError {
        let away = if matches!(error, ConnectError::Timeout) { Away::Timeout } else { Away::Unreachable };
        StoreError::new(away, error_chain(&error))
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> StoreError {
        let text = error.to_string();
        // Before Redis 7, the error of a command stands within that of its script.
        let says = |code: &str| error.code() == Some(code) || text.contains(&format!("-{code} "));
        let away = match () {
            () if error.is_timeout() => Away::Timeout,
            () if error.is_io_error() || error.is_connection_dropped() => Away::Unreachable,
            () if error.kind() == ErrorKind::AuthenticationFailed => Away::Denied,
            () if ["NOAUTH", "WRONGPASS", "NOPERM"].into_iter().any(says) => Away::Denied,
            () if says("OOM") => Away::Full,
            () if says("READONLY") => Away::ReadOnly,
            () if says("LOADING") => Away::Loading,
            () => Away::Error,
        };
        StoreError::new(away, text)
    }
}

/// The digests by which the store knows our scripts.
#[derive(Clone, Debug)]
pub(super) struct Scripts {
    pub(super) enter: String,
    pub(super) tell: String,
    pub(super) beat: String,
    pub(super) list: String,
    pub(super) deny: String,
    pub(super) allow: String,
}

/// A connection, which ends when this is dropped.
pub(super) struct Connection {
    link: MultiplexedConnection,
    /// Reads and writes.
    driver: JoinSet<()>,
    pub(super) scripts: Scripts,
}

impl Connection {
    /// Connects, logs in, and makes the store know our scripts, all by `deadline`.
    pub(super) async fn open(
        connector: &Connector,
        url: &RedisUrl,
        deadline: Instant,
    ) -> Result<Connection, StoreError> {
        let stream = connector.connect(deadline).await?;
        let mut info = RedisConnectionInfo::default()
            .set_db(url.database.into())
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        if let Some(user) = &url.user {
            info = info.set_username(user);
        }
        if let Some(password) = &url.password {
            info = info.set_password(password);
        }
        // Time limits are those of whoever asks.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&info, stream, config);
        let (link, drive) = timeout_at(deadline, opened).await.map_err(|_| StoreError::late())??;
        let mut driver = JoinSet::new();
        driver.spawn(drive);
        let load = |script: &str| {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(script);
            command
        };
        let all =
            [scripts::ENTER, scripts::TELL, scripts::BEAT, scripts::LIST, scripts::DENY, scripts::ALLOW].map(load);
        let loaded = timeout_at(deadline, send(link.clone(), &all)).await.map_err(|_| StoreError::late())??;
        let mut digests = loaded.into_iter().map(text);
        let mut next = || digests.next().unwrap_or_else(|| Err(StoreError::unexpected("a script has no digest")));
        let scripts =
            Scripts { enter: next()?, tell: next()?, beat: next()?, list: next()?, deny: next()?, allow: next()? };
        Ok(Connection { link, driver, scripts })
    }

    /// Returns a sender of commands, which go out in the order in which their futures are first polled.
    pub(super) fn sender(&self) -> Sender {
        Sender(self.link.clone())
    }

    /// Returns when it is broken. Cancel-safe.
    pub(super) async fn broken(&mut self) {
        let _ = self.driver.join_next().await;
    }
}

/// Sends commands on a connection.
#[derive(Clone)]
pub(super) struct Sender(MultiplexedConnection);

impl Sender {
    /// Sends commands at once, and returns their answers, of which none is an error.
    pub(super) async fn send(self, commands: &[Cmd]) -> Result<Vec<Value>, StoreError> {
        send(self.0, commands).await
    }
}

async fn send(mut link: MultiplexedConnection, commands: &[Cmd]) -> Result<Vec<Value>, StoreError> {
    let mut pipeline = redis::Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command.clone());
    }
    let answers = link.send_packed_commands(&pipeline, 0, commands.len()).await?;
    if answers.len() != commands.len() {
        return Err(StoreError::unexpected("there are too few"));
    }
    answers.into_iter().map(|answer| Ok(answer.extract_error()?)).collect()
}

/// Returns the command that runs a script.
pub(super) fn run(script: &str, keys: &[String]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

/// Reads a number of the store.
pub(super) fn number(value: &Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| StoreError::unexpected("a negative number")),
        _ => Err(StoreError::unexpected("no number")),
    }
}

/// Reads a text.
pub(super) fn text(value: Value) -> Result<String, StoreError> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| StoreError::unexpected("no text")),
        Value::SimpleString(text) => Ok(text),
        _ => Err(StoreError::unexpected("no text")),
    }
}

/// Reads a list.
pub(super) fn list(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(StoreError::unexpected("no list")),
    }
}
