//! The generator: one file per shape of load, all of them driving one proxy for one round.
//!
//! A driver opens its connections, warms up, and lets the [`Gauge`] read the proxy's clocks at both ends of the
//! measured time. It fails on the first wrong byte, lost connection or error: such a round counts for nothing.

mod bulk;
mod connect;
mod echo;
mod fair;
mod memory;
mod push;
mod rate;
mod scale;
mod spread;
mod storm;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::{JoinSet, LocalSet};

use crate::args::Load;
use crate::backend::Backend;
use crate::client::{Conn, Scratch, Target, scratch};
use crate::histogram::Histogram;
use crate::machine::Cores;
use crate::process::{Tree, own_cpu};
use crate::workload::{MESSAGE_LEN, Shape, Workload};

/// How many connections are being opened at any time: far below the backlog of 4096.
const OPENING: usize = 64;

/// How long an answer may take that is still missing when the measured time is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one round of one proxy brought.
pub enum Outcome {
    Work(Work),
    Memory(Memory),
    Fair(Fair),
    Scale(Scale),
    /// Sessions of each worker.
    Spread(Vec<usize>),
    Storm(Storm),
}

/// Many clients that have come at once.
pub struct Storm {
    /// From the first connect until the last echo; latencies are those of clients, from the first connect on.
    pub work: Work,
    /// When each client had its echo, in order.
    pub echoed: Vec<Duration>,
    /// How many were told to come again.
    pub refused: usize,
    /// Echoes of the established sessions meanwhile.
    pub beside: Histogram,
    /// The most memory of the proxy, KiB.
    pub peak: f64,
}

impl Storm {
    /// The time until the last echo.
    pub fn all_echoed(&self) -> Duration {
        self.echoed.last().copied().unwrap_or_default()
    }
}

/// Echoes by themselves and beside one heavy connection.
pub struct Fair {
    pub alone: Work,
    pub beside: Work,
    /// What the heavy one brought back in a second, bytes.
    pub heavy: f64,
}

/// Costs while many connections are open.
pub struct Scale {
    pub echo: Work,
    pub push: Work,
    pub connect: Work,
    /// KiB a connection.
    pub memory: f64,
}

/// A measured stretch of work.
#[derive(Default)]
pub struct Work {
    pub units: f64,
    pub wall: Duration,
    /// CPU time of all the proxy's processes.
    pub proxy_cpu: Duration,
    /// CPU time of generator and backend.
    pub rig_cpu: Duration,
    pub latency: Histogram,
    pub connections: usize,
    /// Growth of PSS while the connections were open, KiB.
    pub pss_growth: f64,
}

/// Growth of PSS, KiB a connection; the last one is KiB in all.
pub struct Memory {
    pub idle: f64,
    pub after_burst: f64,
    pub total_after_close: f64,
}

/// All a driver needs.
pub struct Round<'a> {
    pub workload: Workload,
    pub load: &'a Load,
    pub target: Target,
    /// Where the established sessions of a storm go, by [`APART`].
    pub apart: Target,
    pub backend: &'a Backend,
    /// `None` without a proxy.
    pub proxy: Option<Tree>,
    pub scratch: Scratch,
    pub cores: Cores,
    pss_before: f64,
}

/// Runs one round on a thread of its own, pinned to the rig's core.
pub fn run(
    workload: Workload,
    load: &Load,
    target: &Target,
    apart: &Target,
    backend: &Backend,
    proxy: Option<i32>,
    cores: Cores,
) -> Result<Outcome> {
    let round = move || {
        cores.become_rig()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async move {
            let scratch = scratch();
            // All processes of the proxy are there when a message has gone through it.
            let first = Conn::open(target, "/echo", MESSAGE_LEN, &scratch).await.context("the first connection")?;
            first.close().await.context("closing the first connection")?;
            let proxy = proxy.map(Tree::of);
            let pss_before = proxy.as_ref().map_or(Ok(0.0), Tree::pss)?;
            let (target, apart) = (target.clone(), apart.clone());
            let round = Round { workload, load, target, apart, backend, proxy, scratch, cores, pss_before };
            let driven = tokio::time::timeout(load.deadline(), round.drive());
            driven.await.context("the round did not end")?
        })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("generator".to_owned()).spawn_scoped(scope, round)?;
        thread.join().unwrap_or_else(|_| bail!("the generator panicked"))
    })
}

impl Round<'_> {
    async fn drive(&self) -> Result<Outcome> {
        match self.workload.shape {
            Shape::Echo => echo::drive(self).await.map(Outcome::Work),
            Shape::Rate => rate::drive(self).await.map(Outcome::Work),
            Shape::Up => bulk::up(self).await.map(Outcome::Work),
            Shape::Down => bulk::down(self).await.map(Outcome::Work),
            Shape::Push => push::drive(self).await.map(Outcome::Work),
            Shape::Connect => connect::drive(self, connect::Session::Full).await.map(Outcome::Work),
            Shape::Resume => connect::drive(self, connect::Session::Resumed).await.map(Outcome::Work),
            Shape::Memory => memory::drive(self).await.map(Outcome::Memory),
            Shape::Fair => fair::drive(self).await.map(Outcome::Fair),
            Shape::Scale(_) => scale::drive(self).await.map(Outcome::Scale),
            Shape::Spread => spread::drive(self).await.map(Outcome::Spread),
            Shape::Storm | Shape::StormResume | Shape::StormAdmission => storm::drive(self).await.map(Outcome::Storm),
        }
    }

    /// How many connections this workload of many has.
    fn connections(&self) -> usize {
        self.load.connections(self.workload)
    }

    /// Opens connections to one path of the backend.
    async fn open(&self, count: usize, path: &'static str, len: usize) -> Result<Vec<Rc<Conn>>> {
        open(&self.target, &self.scratch, count, path, len).await
    }

    /// Reads the clocks.
    fn open_window(&self) -> Result<Window> {
        Ok(Window { start: Instant::now(), proxy_cpu: self.proxy_cpu()?, rig_cpu: own_cpu() })
    }

    /// Reads them again; `tally` is what was done in between.
    fn close_window(&self, window: Window, tally: &Tally, units: f64, connections: usize) -> Result<Work> {
        let wall = window.start.elapsed();
        let (proxy_cpu, rig_cpu) = (self.proxy_cpu()? - window.proxy_cpu, own_cpu() - window.rig_cpu);
        let pss_growth = self.pss()? - self.pss_before;
        let latency = tally.latency.take();
        Ok(Work { units, wall, proxy_cpu, rig_cpu, latency, connections, pss_growth })
    }

    fn proxy_cpu(&self) -> Result<Duration> {
        self.proxy.as_ref().map_or(Ok(Duration::ZERO), Tree::cpu)
    }

    fn pss(&self) -> Result<f64> {
        self.proxy.as_ref().map_or(Ok(0.0), Tree::pss)
    }

    /// Lets `tasks`, which go on until [`Tally::stopping`], warm up and then run for the measured time.
    async fn measure(&self, tally: &Tally, tasks: &mut JoinSet<Result<()>>, connections: usize) -> Result<Work> {
        run_for(tasks, self.load.warm_up()).await?;
        tally.measuring.set(true);
        let (window, before) = (self.open_window()?, tally.units.get());
        run_for(tasks, self.load.measured()).await?;
        let units = (tally.units.get() - before) as f64;
        tally.measuring.set(false);
        tally.stopping.set(true);
        self.close_window(window, tally, units, connections)
    }
}

/// Opens connections to one path of the backend, a few at a time.
async fn open(
    target: &Target,
    scratch: &Scratch,
    count: usize,
    path: &'static str,
    len: usize,
) -> Result<Vec<Rc<Conn>>> {
    let mut opening = JoinSet::new();
    let left = Rc::new(Cell::new(count));
    for _ in 0..OPENING.min(count) {
        let (target, scratch, left) = (target.clone(), Rc::clone(scratch), Rc::clone(&left));
        opening.spawn_local(async move {
            let mut conns = Vec::new();
            while left.get() > 0 {
                left.set(left.get() - 1);
                conns.push(Rc::new(Conn::open(&target, path, len, &scratch).await?));
            }
            anyhow::Ok(conns)
        });
    }
    let mut conns = Vec::with_capacity(count);
    while let Some(opened) = opening.join_next().await {
        conns.extend(opened?.with_context(|| format!("opening connection {} of {count}", conns.len()))?);
    }
    Ok(conns)
}

struct Window {
    start: Instant,
    proxy_cpu: Duration,
    rig_cpu: Duration,
}

/// What the tasks of a round have done, and whether it counts yet.
#[derive(Default)]
struct Tally {
    units: Cell<u64>,
    measuring: Cell<bool>,
    stopping: Cell<bool>,
    latency: RefCell<Histogram>,
}

impl Tally {
    /// One unit is done that began (or should have begun) at `since`.
    fn done(&self, since: Instant) {
        self.units.set(self.units.get() + 1);
        if self.measuring.get() {
            self.latency.borrow_mut().record(since.elapsed());
        }
    }
}

/// Lets each task finish what it has begun: a message that was lost on the way would not be missed otherwise.
async fn finish(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(PATIENCE, all).await {
        Ok(ended) => ended,
        Err(_) => bail!("{} connections wait in vain for an answer", tasks.len()),
    }
}

/// Waits; a task that ends meanwhile has failed.
async fn run_for(tasks: &mut JoinSet<Result<()>>, time: Duration) -> Result<()> {
    match tokio::time::timeout(time, tasks.join_next()).await {
        Err(_) => Ok(()),
        Ok(None) => bail!("nothing was running"),
        Ok(Some(ended)) => ended?.and_then(|()| bail!("a connection's task ended")),
    }
}
