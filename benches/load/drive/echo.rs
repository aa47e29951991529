//! Closed loop: a connection sends its next message when the last one is back, so the proxy is always busy.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::{Round, Tally, Work, finish};
use crate::client::Conn;
use crate::frame::{Frame, Sender};
use crate::workload::MESSAGE_LEN;

pub async fn drive(round: &Round<'_>) -> Result<Work> {
    let conns = round.open(round.load.busy_connections, "/echo", MESSAGE_LEN).await?;
    on(round, &conns, 0).await
}

/// Echoes on these connections, from message `first`.
pub async fn on(round: &Round<'_>, conns: &[Rc<Conn>], first: u64) -> Result<Work> {
    let (tally, mut tasks, count) = (Rc::new(Tally::default()), JoinSet::new(), conns.len());
    for conn in conns {
        conn.expect(MESSAGE_LEN, first);
        let (conn, tally) = (Rc::clone(conn), Rc::clone(&tally));
        tasks.spawn_local(async move {
            let mut frame = Frame::new(Sender::Client, MESSAGE_LEN);
            for sequence in first.. {
                frame.stamp(sequence);
                let sent = Instant::now();
                conn.send(frame.bytes()).await.context("sending")?;
                conn.message().await?;
                tally.done(sent);
                if tally.stopping.get() {
                    break;
                }
            }
            Ok(())
        });
    }
    let work = round.measure(&tally, &mut tasks, count).await?;
    finish(&mut tasks).await?;
    Ok(work)
}
