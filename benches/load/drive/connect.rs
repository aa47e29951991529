//! Whole lives: connect, TLS handshake, upgrade, one echo, close handshake; a few at a time, over and over.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::task::JoinSet;

use super::{Round, Tally, Work, finish};
use crate::client::Conn;
use crate::frame::{Frame, Sender};
use crate::workload::MESSAGE_LEN;

/// Whether TLS sessions are new each time or continue the last one.
#[derive(Clone, Copy, PartialEq)]
pub enum Session {
    Full,
    Resumed,
}

pub async fn drive(round: &Round<'_>, session: Session) -> Result<Work> {
    let (tally, mut tasks, count) = (Rc::new(Tally::default()), JoinSet::new(), round.load.connecting);
    for _ in 0..count {
        let (tally, scratch, mut target) = (Rc::clone(&tally), Rc::clone(&round.scratch), round.target.clone());
        if session == Session::Resumed {
            // Tickets are used once (RFC 8446 §C.4): each task keeps its own.
            let mut config = ClientConfig::clone(target.tls.as_ref().context("only TLS sessions are resumed")?);
            config.resumption = Resumption::in_memory_sessions(4);
            target.tls = Some(Arc::new(config));
        }
        tasks.spawn_local(async move {
            let frame = Frame::new(Sender::Client, MESSAGE_LEN);
            for number in 0u64.. {
                let begun = Instant::now();
                let conn = Conn::open(&target, "/echo", MESSAGE_LEN, &scratch).await?;
                conn.send(frame.bytes()).await.context("sending")?;
                conn.message().await?;
                let resumed = conn.resumed();
                conn.close().await.context("closing")?;
                tally.done(begun);
                ensure!(
                    resumed == (session == Session::Resumed && number > 0),
                    "handshake {number} was of the wrong kind"
                );
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
