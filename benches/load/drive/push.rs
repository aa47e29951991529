//! Fan-out: the backend sends one message to each of many connections, and again when all have it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use std::cell::Cell;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Round, Tally, Work};
use crate::client::Conn;
use crate::workload::MESSAGE_LEN;

/// The wave that is under way.
struct Wave {
    begun: Cell<Instant>,
    missing: Cell<u64>,
    arrived: Notify,
}

pub async fn drive(round: &Round<'_>) -> Result<Work> {
    let conns = round.open(round.connections(), "/push", MESSAGE_LEN).await?;
    on(round, &conns).await
}

/// Sends to these connections, which nothing has been pushed to yet.
pub async fn on(round: &Round<'_>, conns: &[Rc<Conn>]) -> Result<Work> {
    let (tally, mut tasks, count) = (Rc::new(Tally::default()), JoinSet::new(), conns.len());
    let wave = Rc::new(Wave { begun: Cell::new(Instant::now()), missing: Cell::new(0), arrived: Notify::new() });
    for conn in conns {
        let (conn, tally, wave) = (Rc::clone(conn), Rc::clone(&tally), Rc::clone(&wave));
        tasks.spawn_local(async move {
            loop {
                for _ in 0..conn.receive().await?.messages {
                    tally.done(wave.begun.get());
                    let missing = wave.missing.get().checked_sub(1).context("a message too many")?;
                    wave.missing.set(missing);
                    if missing == 0 {
                        wave.arrived.notify_one();
                    }
                }
            }
        });
    }
    let mut sequence = 0;
    roll(round, &wave, &mut tasks, count, &mut sequence, round.load.warm_up()).await.context("warming up")?;
    tally.measuring.set(true);
    let (window, before) = (round.open_window()?, tally.units.get());
    roll(round, &wave, &mut tasks, count, &mut sequence, round.load.measured()).await?;
    round.close_window(window, &tally, (tally.units.get() - before) as f64, count)
}

/// Sends whole waves, at least one, until `time` is over.
async fn roll(
    round: &Round<'_>,
    wave: &Wave,
    tasks: &mut JoinSet<Result<()>>,
    count: usize,
    sequence: &mut u64,
    time: Duration,
) -> Result<()> {
    let start = Instant::now();
    loop {
        wave.missing.set(count as u64);
        wave.begun.set(Instant::now());
        round.backend.push(*sequence)?;
        *sequence += 1;
        tokio::select! {
            () = wave.arrived.notified() => {}
            Some(ended) = tasks.join_next() => ended??,
        }
        if start.elapsed() >= time {
            return Ok(());
        }
    }
}
