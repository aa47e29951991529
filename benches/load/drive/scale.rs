//! Does it grow? Cost of a message and of a connection while so many connections are open, of which a fixed number is
//! busy; and their memory. A proxy whose work is for the active ones only costs the same each time.

use anyhow::Result;

use super::memory::{echo_once, settled};
use super::{Round, Scale, connect, echo, push};
use crate::workload::MESSAGE_LEN;

pub async fn drive(round: &Round<'_>) -> Result<Scale> {
    let (all, busy) = (round.connections(), round.load.busy_connections);
    let idle = round.open(all.saturating_sub(2 * busy), "/echo", MESSAGE_LEN).await?;
    let echoing = round.open(busy, "/echo", MESSAGE_LEN).await?;
    let pushed = round.open(busy, "/push", MESSAGE_LEN).await?;
    echo_once(&idle, MESSAGE_LEN).await?;
    let memory = settled(round).await? / all as f64;
    let echo = echo::on(round, &echoing, 0).await?;
    let push = push::on(round, &pushed).await?;
    let connect = connect::drive(round, connect::Session::Full).await?;
    drop(idle);
    Ok(Scale { echo, push, connect, memory })
}
