//! Does one heavy connection starve the others of its worker? Echoes by themselves, then beside a connection on which
//! bulk messages go to the backend and come back, as fast as they can.
//!
//! Generator and backend have to carry the heavy one too, and on one core: compare with `direct` and with the others.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::{Fair, Round, echo};
use crate::client::Conn;
use crate::frame::{Frame, Sender};
use crate::workload::{BULK_LEN, MESSAGE_LEN};

pub async fn drive(round: &Round<'_>) -> Result<Fair> {
    let conns = round.open(round.load.busy_connections, "/echo", MESSAGE_LEN).await?;
    let alone = echo::on(round, &conns, 0).await?;
    let heavy = Heavy::start(Conn::open(&round.target, "/echo", BULK_LEN, &round.scratch).await?);
    let (start, before) = (Instant::now(), heavy.received.get());
    let beside = echo::on(round, &conns, 0).await?;
    let bytes = ((heavy.received.get() - before) * BULK_LEN as u64) as f64;
    let heavy = Heavy::end(heavy).await.map(|()| bytes / start.elapsed().as_secs_f64())?;
    ensure!(heavy > 0.0, "the heavy connection brought nothing back");
    Ok(Fair { alone, beside, heavy })
}

/// A connection that never waits for anybody.
struct Heavy {
    received: Rc<Cell<u64>>,
    stopping: Rc<Cell<bool>>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<()>>,
}

impl Heavy {
    fn start(conn: Conn) -> Heavy {
        let (conn, received, stopping) = (Rc::new(conn), Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (sending, count, stop) = (Rc::clone(&conn), Rc::clone(&received), Rc::clone(&stopping));
        let sender = spawn_local(async move {
            let mut frame = Frame::new(Sender::Client, BULK_LEN);
            for sequence in 0.. {
                if stop.get() {
                    sending.say("end").await?;
                    return Ok(sequence);
                }
                frame.stamp(sequence);
                sending.send(frame.bytes()).await.context("sending bulk")?;
                // The generator's own echoes are not to wait for it.
                yield_now().await;
            }
            Ok(0)
        });
        let receiver = spawn_local(async move {
            loop {
                let got = conn.receive().await?;
                count.set(count.get() + got.messages);
                if got.note.is_some() {
                    return Ok(());
                }
                yield_now().await;
            }
        });
        Heavy { received, stopping, sender, receiver }
    }

    /// Lets what is under way come back.
    async fn end(self) -> Result<()> {
        self.stopping.set(true);
        // If either fails, the other may wait for ever.
        let (sent, ()) = tokio::try_join!(async { self.sender.await? }, async { self.receiver.await? })?;
        ensure!(self.received.get() == sent, "sent {sent} bulk messages, {} came back", self.received.get());
        Ok(())
    }
}
