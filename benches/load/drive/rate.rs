//! Open loop: messages leave when they are due, evenly spaced, whether or not earlier ones are back.
//!
//! A saturated proxy takes many events per wake-up; at a modest fixed rate each message pays for its own, which is what
//! a proxy does most of its life. Latency counts from the instant a message was due, so a stall is seen by every
//! message that it delays. tokio's timers tick in milliseconds: a thread of its own sleeps until each message is due.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{PATIENCE, Round, Tally, Work, run_for};
use crate::client::Conn;
use crate::frame::{Frame, Sender};
use crate::machine::sleep_exactly;
use crate::workload::MESSAGE_LEN;

/// Messages that may be under way before the round is given up.
const BEHIND_MAX: usize = 100_000;

pub async fn drive(round: &Round<'_>) -> Result<Work> {
    let conns = round.open(round.load.busy_connections, "/echo", MESSAGE_LEN).await?;
    let (tally, mut tasks, count) = (Rc::new(Tally::default()), JoinSet::new(), conns.len());
    let under_way = start(conns, round.load.rate, &tally, &mut tasks)?;
    let work = round.measure(&tally, &mut tasks, count).await?;
    until_all_are_back(&under_way, &mut tasks).await?;
    Ok(work)
}

/// Starts echoing on these connections, so many messages a second over all of them, until [`Tally::stopping`]. Returns how
/// many are under way.
pub fn start(
    conns: Vec<Rc<Conn>>,
    rate: u32,
    tally: &Rc<Tally>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<Rc<Cell<u64>>> {
    let (mut lanes, under_way) = (Vec::with_capacity(conns.len()), Rc::new(Cell::new(0u64)));
    for conn in conns {
        let due = Rc::new(RefCell::new(VecDeque::new()));
        lanes.push((Rc::clone(&conn), Rc::clone(&due)));
        let (tally, under_way) = (Rc::clone(tally), Rc::clone(&under_way));
        tasks.spawn_local(async move {
            loop {
                for _ in 0..conn.receive().await?.messages {
                    tally.done(due.borrow_mut().pop_front().context("an answer to nothing")?);
                    under_way.set(under_way.get() - 1);
                }
            }
        });
    }
    let mut ticks = start_clock(rate)?;
    let (stopping, sent) = (Rc::clone(tally), Rc::clone(&under_way));
    tasks.spawn_local(async move {
        let mut frame = Frame::new(Sender::Client, MESSAGE_LEN);
        let turns = (0u64..).flat_map(|sequence| (0..lanes.len()).map(move |lane| (sequence, lane)));
        for (sequence, lane) in turns {
            let at = ticks.recv().await.context("the clock has stopped")?;
            if stopping.stopping.get() {
                // The others go on until the last answer is there.
                std::future::pending::<()>().await;
            }
            let (conn, due) = &lanes[lane];
            sent.set(sent.get() + 1);
            due.borrow_mut().push_back(at);
            frame.stamp(sequence);
            conn.send(frame.bytes()).await.context("sending")?;
            ensure!(ticks.len() < BEHIND_MAX, "the messages pile up: the rate is too high for this machine");
        }
        Ok(())
    });
    Ok(under_way)
}

pub async fn until_all_are_back(under_way: &Cell<u64>, tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    let over = Instant::now();
    while under_way.get() > 0 {
        ensure!(over.elapsed() < PATIENCE, "{} messages have not come back", under_way.get());
        run_for(tasks, Duration::from_millis(2)).await?;
    }
    Ok(())
}

/// Sends the instant at which each message is due, when it is due, until the receiver is dropped.
fn start_clock(rate: u32) -> Result<mpsc::UnboundedReceiver<Instant>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let period = Duration::from_secs(1) / rate.max(1);
    std::thread::Builder::new().name("clock".to_owned()).spawn(move || {
        // Late by up to 50 µs otherwise, which the latencies would show; nothing is wrong with them but that.
        let _slack = sleep_exactly();
        let mut due = Instant::now();
        loop {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                return;
            }
            due += period;
        }
    })?;
    Ok(receiver)
}
