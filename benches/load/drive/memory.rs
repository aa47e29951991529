//! What a connection that says nothing costs, and whether a burst leaves something behind.
//!
//! The proxy is a fresh process. PSS is read when it no longer moves: a proxy may give memory back a little later.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::{Memory, Round};
use crate::client::Conn;
use crate::frame::{Frame, Sender};
use crate::workload::{BURST_LEN, MESSAGE_LEN};

/// How many connections echo at the same time.
const AT_A_TIME: usize = 256;

/// PSS has settled when it moved by less than this share within [`PAUSE`].
const STILL: f64 = 0.002;
const PAUSE: Duration = Duration::from_millis(500);
const PAUSES_MAX: usize = 12;

pub async fn drive(round: &Round<'_>) -> Result<Memory> {
    let proxy = round.proxy.as_ref().context("without a proxy there is no memory to read")?;
    let watched_before: usize = proxy.watched().iter().sum();
    let conns = round.open(round.connections(), "/echo", MESSAGE_LEN).await?;
    let count = conns.len() as f64;
    echo_once(&conns, MESSAGE_LEN).await?;
    let idle = settled(round).await? / count;
    echo_once(&conns, BURST_LEN).await?;
    let after_burst = settled(round).await? / count;
    close_all(conns).await?;
    let mut left = usize::MAX;
    for _ in 0..PAUSES_MAX {
        left = proxy.watched().iter().sum::<usize>().saturating_sub(watched_before);
        if left == 0 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    ensure!(left == 0, "all connections are closed, but the proxy still watches {left} sockets more than before");
    let total_after_close = settled(round).await?;
    Ok(Memory { idle, after_burst, total_after_close })
}

pub async fn echo_once(conns: &[Rc<Conn>], len: usize) -> Result<()> {
    for some in conns.chunks(AT_A_TIME) {
        let mut tasks = JoinSet::new();
        for conn in some.iter().map(Rc::clone) {
            tasks.spawn_local(async move {
                conn.expect(len, 0);
                conn.send(Frame::new(Sender::Client, len).bytes()).await?;
                conn.message().await
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
    }
    Ok(())
}

async fn close_all(conns: Vec<Rc<Conn>>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for conn in conns.into_iter().filter_map(Rc::into_inner) {
        tasks.spawn_local(conn.close());
        if tasks.len() == AT_A_TIME {
            tasks.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Growth of PSS, once it is still.
pub async fn settled(round: &Round<'_>) -> Result<f64> {
    let mut last = round.pss()?;
    for _ in 0..PAUSES_MAX {
        tokio::time::sleep(PAUSE).await;
        let now = round.pss()?;
        if (now - last).abs() <= last * STILL {
            return Ok(now - round.pss_before);
        }
        last = now;
    }
    Ok(last - round.pss_before)
}
