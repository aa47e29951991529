//! Large messages one way: what a byte costs.
//!
//! The receiving end counts, and says so when all has arrived; the clock is read after that.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::{Round, Tally, Work};
use crate::client::Conn;
use crate::frame::{Frame, Sender};
use crate::workload::BULK_LEN;

pub async fn up(round: &Round<'_>) -> Result<Work> {
    let conns = round.open(round.load.bulk_connections, "/sink", BULK_LEN).await?;
    let mut streams: Vec<_> = conns.into_iter().map(|conn| (conn, 0)).collect();
    send_all(&mut streams, round.load.warm_up()).await.context("warming up")?;
    let window = round.open_window()?;
    let messages = send_all(&mut streams, round.load.measured()).await?;
    round.close_window(window, &Tally::default(), (messages * BULK_LEN as u64) as f64, streams.len())
}

/// Sends on all connections for `time`, from the sequence number each is at; returns how many messages have arrived.
async fn send_all(streams: &mut Vec<(Rc<Conn>, u64)>, time: Duration) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for (conn, first) in streams.drain(..) {
        tasks.spawn_local(async move {
            let (mut frame, mut sequence, start) = (Frame::new(Sender::Client, BULK_LEN), first, Instant::now());
            while start.elapsed() < time {
                frame.stamp(sequence);
                if let Err(error) = conn.send(frame.bytes()).await {
                    // What the backend found wrong is in its Close frame.
                    conn.listen().await?;
                    return Err(error).context("sending");
                }
                sequence += 1;
            }
            conn.say("end").await?;
            let (_, count) = conn.listen().await?;
            ensure!(count == sequence.to_string(), "sent {sequence} messages, {count} arrived");
            Ok((conn, sequence, sequence - first))
        });
    }
    let mut messages = 0;
    while let Some(ended) = tasks.join_next().await {
        let (conn, sequence, sent) = ended??;
        messages += sent;
        streams.push((conn, sequence));
    }
    Ok(messages)
}

pub async fn down(round: &Round<'_>) -> Result<Work> {
    let mut conns = round.open(round.load.bulk_connections, "/source", BULK_LEN).await?;
    receive_all(&mut conns, round.load.warm_up()).await.context("warming up")?;
    let window = round.open_window()?;
    let messages = receive_all(&mut conns, round.load.measured()).await?;
    round.close_window(window, &Tally::default(), (messages * BULK_LEN as u64) as f64, conns.len())
}

async fn receive_all(conns: &mut Vec<Rc<Conn>>, time: Duration) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for conn in conns.drain(..) {
        tasks.spawn_local(async move {
            conn.say(&format!("go {}", time.as_millis())).await?;
            let (messages, count) = conn.listen().await?;
            ensure!(count == messages.to_string(), "{messages} messages have arrived of {count}");
            Ok((conn, messages))
        });
    }
    let mut messages = 0;
    while let Some(ended) = tasks.join_next().await {
        let (conn, received) = ended??;
        messages += received;
        conns.push(conn);
    }
    Ok(messages)
}
