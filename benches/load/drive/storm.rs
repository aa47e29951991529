//! Everybody at once, as after an outage: all connects begin together, each client does what it takes to get one echo
//! and stays. Meanwhile established sessions echo at a fixed rate, through the same proxy to an endpoint of their own,
//! from a thread of their own: what delays them is the proxy.
//!
//! There are fewer cores than threads. Once all connects are under way, the clients' thread gives way to the proxy, as
//! if it were on another machine; so does the storm's backend. The thread of the established sessions goes first.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};

use super::{OPENING, Round, Storm, Tally, open, rate, run_for};
use crate::args::Admission;
use crate::backend::NOTED;
use crate::client::{Conn, Target, scratch};
use crate::frame::{Frame, Sender};
use crate::handshake::Refused;
use crate::histogram::Histogram;
use crate::machine::{Cores, Priority};
use crate::proxies::APART;
use crate::tls::{Tickets, returning};
use crate::workload::{MESSAGE_LEN, Shape};

/// Messages a second of the established sessions: enough of them for a p99, and little work.
const RATE: u32 = 1_000;

pub async fn drive(round: &Round<'_>) -> Result<Storm> {
    let resumed = round.workload.shape == Shape::StormResume;
    let target = if resumed { with_tickets(round).await? } else { round.target.clone() };
    let beside = Beside::start(round).await?;
    round.backend.take_noted();
    let window = round.open_window()?;
    let clients = Rc::new(Clients { begun: Instant::now(), echoed: RefCell::default(), refused: Cell::new(0) });
    let mut tasks = JoinSet::new();
    for _ in 0..round.connections() {
        let (target, scratch, clients) = (target.clone(), Rc::clone(&round.scratch), Rc::clone(&clients));
        tasks.spawn_local(async move {
            let conn = clients.come(Conn::open(&target, NOTED, MESSAGE_LEN, &scratch).await)?;
            if let Some(conn) = &conn {
                ensure!(conn.resumed() == resumed, "a handshake was of the wrong kind");
                conn.send(Frame::new(Sender::Client, MESSAGE_LEN).bytes()).await.context("sending")?;
                conn.message().await?;
                clients.echoed.borrow_mut().push(clients.begun.elapsed());
            }
            Ok(conn)
        });
    }
    // Tasks are first polled in their order: when this one is, all connects are under way.
    tasks.spawn_local(async {
        Priority::Low.take();
        Ok(None)
    });
    let mut open = Vec::with_capacity(round.connections());
    while let Some(ended) = tasks.join_next().await {
        open.extend(ended?.with_context(|| format!("when {} clients had echoed", clients.echoed.borrow().len()))?);
    }
    let echoed = clients.echoed.take();
    let tally = Tally::default();
    echoed.iter().for_each(|&after| tally.latency.borrow_mut().record(after));
    let work = round.close_window(window, &tally, round.connections() as f64, echoed.len())?;
    let peak = round.proxy.as_ref().map_or(Ok(0.0), crate::process::Tree::peak)?;
    let beside = beside.end()?;
    drop(open);
    if let Some(admission) = round.load.admission(round.workload) {
        check_admission(round, admission, &clients, echoed.len())?;
    } else {
        ensure!(clients.refused.get() == 0, "{} clients were refused", clients.refused.get());
    }
    Ok(Storm { work, echoed, refused: clients.refused.get(), beside, peak })
}

/// The clients of a storm.
struct Clients {
    begun: Instant,
    /// When each had its echo.
    echoed: RefCell<Vec<Duration>>,
    refused: Cell<usize>,
}

impl Clients {
    /// Who is told when to come again has had an answer.
    fn come(&self, opened: Result<Conn>) -> Result<Option<Conn>> {
        match opened {
            Ok(conn) => Ok(Some(conn)),
            Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.retry_after > 0) => {
                self.refused.set(self.refused.get() + 1);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What `admission` promises. No delay can break it: a handshake comes to an endpoint after it was admitted, never before.
fn check_admission(round: &Round<'_>, admission: Admission, clients: &Clients, echoed: usize) -> Result<()> {
    let (per_second, burst) = (f64::from(admission.per_second), f64::from(admission.burst()));
    let mut noted = round.backend.take_noted();
    noted.sort_unstable();
    for (count, at) in (1..).zip(&noted) {
        let after = at.saturating_duration_since(clients.begun).as_secs_f64();
        // The bucket is full when the storm begins; one more for what is rounded.
        let may = burst + per_second * after + 1.0;
        ensure!(
            f64::from(count) <= may,
            "{count} handshakes at the endpoints after {after:.3} s, {may:.0} may be there"
        );
    }
    ensure!(noted.len() == echoed, "{} handshakes at the endpoints, {echoed} echoes", noted.len());
    let all = round.connections();
    let waiting = (admission.per_second * Admission::WAIT) as usize;
    ensure!(echoed >= waiting.min(all), "{echoed} clients were served, and {waiting} may wait");
    ensure!(echoed + clients.refused.get() == all, "{echoed} served, {} refused, of {all}", clients.refused.get());
    Ok(())
}

/// A target whose clients have been here before: each resumes a TLS session of its own.
async fn with_tickets(round: &Round<'_>) -> Result<Target> {
    let wanted = round.connections();
    let tickets = Tickets::new(wanted);
    let tls = returning(round.target.tls.as_ref().context("only TLS sessions are resumed")?, &tickets);
    let target = Target { tls: Some(tls), ..round.target };
    let mut tasks = JoinSet::new();
    for _ in 0..OPENING {
        let (target, scratch, tickets) = (target.clone(), Rc::clone(&round.scratch), Arc::clone(&tickets));
        tasks.spawn_local(async move {
            // A ticket comes before the answer to the request.
            for _ in 0..wanted {
                if tickets.len() >= wanted {
                    break;
                }
                Conn::open(&target, "/echo", MESSAGE_LEN, &scratch).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended?.context("collecting tickets")?;
    }
    ensure!(tickets.len() == wanted, "{} tickets for {wanted} clients", tickets.len());
    tickets.use_them();
    Ok(target)
}

/// The established sessions, on a thread of their own.
struct Beside {
    end: oneshot::Sender<()>,
    thread: JoinHandle<Result<Histogram>>,
}

impl Beside {
    /// Returns when they have echoed for a while, and are being measured.
    async fn start(round: &Round<'_>) -> Result<Beside> {
        let (end, ended) = oneshot::channel();
        let (ready, begun) = oneshot::channel();
        let (target, cores, count) = (round.apart.clone(), round.cores, round.load.busy_connections);
        let warm_up = round.load.warm_up();
        let thread = std::thread::Builder::new().name("established".to_owned()).spawn(move || {
            Priority::High.take();
            established(&target, cores, count, warm_up, ready, ended)
        })?;
        let beside = Beside { end, thread };
        match begun.await {
            Ok(()) => Ok(beside),
            Err(_) => bail!(beside.end().err().unwrap_or_else(|| anyhow::anyhow!("they have ended"))),
        }
    }

    /// Their latencies.
    fn end(self) -> Result<Histogram> {
        // If nobody listens, the thread has failed and says why.
        let _ = self.end.send(());
        self.thread.join().unwrap_or_else(|_| bail!("they panicked")).context("the established sessions")
    }
}

fn established(
    target: &Target,
    cores: Cores,
    count: usize,
    warm_up: Duration,
    ready: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
) -> Result<Histogram> {
    cores.become_rig()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let conns = open(target, &scratch(), count, APART, MESSAGE_LEN).await?;
        let (tally, mut tasks) = (Rc::new(Tally::default()), JoinSet::new());
        let under_way = rate::start(conns, RATE, &tally, &mut tasks)?;
        run_for(&mut tasks, warm_up).await?;
        tally.measuring.set(true);
        let _ = ready.send(());
        tokio::select! {
            Some(failed) = tasks.join_next() => failed??,
            _ = ended => {}
        }
        tally.stopping.set(true);
        rate::until_all_are_back(&under_way, &mut tasks).await?;
        Ok(tally.latency.take())
    })
}
