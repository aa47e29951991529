//! How many connections each worker ends up with: two descriptors a session, in the epoll instance of its worker.

use anyhow::{Context, Result};

use super::Round;
use crate::workload::MESSAGE_LEN;

pub async fn drive(round: &Round<'_>) -> Result<Vec<usize>> {
    let proxy = round.proxy.as_ref().context("without a proxy there are no workers")?;
    let before = proxy.watched();
    let conns = round.open(round.connections(), "/echo", MESSAGE_LEN).await?;
    let after = proxy.watched();
    drop(conns);
    // An instance that watches no session (a master's, a control thread's) is no worker.
    let grown = after.iter().enumerate().map(|(at, now)| now.saturating_sub(before.get(at).copied().unwrap_or(0)) / 2);
    let mut sessions: Vec<usize> = grown.filter(|sessions| *sessions > 0).collect();
    sessions.sort_unstable();
    Ok(sessions)
}
