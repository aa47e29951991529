//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;

use crate::proxies::Kind;
use crate::workload::{Shape, Transport, Workload};

/// Measures wsluice beside nginx and HAProxy: what each message, byte and connection costs them.
#[derive(Parser, Debug)]
#[command(name = "load", bin_name = "cargo bench --bench load --", after_help = crate::help_of_workloads())]
pub struct Args {
    /// Workloads (`echo-ws`), shapes (`echo`) or transports (`wss`); all but `scale`, `spread` and `storm` if none is named
    pub workloads: Vec<String>,

    /// Who is measured; those that are not installed are left out
    #[arg(long, value_delimiter = ',', default_value = "wsluice,nginx,haproxy,floor")]
    pub proxies: Vec<Kind>,

    /// Whom the ratios compare with: a proxy, or a label of `--versus`
    #[arg(long, default_value = "nginx")]
    pub baseline: String,

    /// Interleaved rounds: A B C A B C …
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// The wsluice to measure [default: the one cargo has just built]
    #[arg(long)]
    pub wsluice: Option<PathBuf>,

    /// A further wsluice in the same rounds, say the one before a change (may be repeated)
    #[arg(long, value_name = "LABEL=PATH")]
    pub versus: Vec<Versus>,

    #[command(flatten)]
    pub load: Load,

    /// Core of the proxy (with one worker)
    #[arg(long, default_value_t = 1)]
    pub proxy_core: usize,

    /// Core of the generator and the backend
    #[arg(long, default_value_t = 0)]
    pub rig_core: usize,

    /// Leave placing to the scheduler
    #[arg(long)]
    pub no_pin: bool,

    /// Where report.txt, report.md, rounds.csv, load.svg and storm.svg go
    #[arg(long, default_value = "target/load")]
    pub out: PathBuf,

    /// The report goes into benches/results, which the README quotes; every workload if none is named. So that it takes a quarter
    /// of an hour, those that do not end in a ratio have three rounds, and `scale` is for wsluice alone
    #[arg(long, conflicts_with = "quick")]
    pub publish: bool,

    /// A smoke test in about a minute: one short round with few connections; the figures mean nothing
    #[arg(long)]
    pub quick: bool,

    /// What cargo adds when it runs a bench
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A wsluice to compare with, and what to call it.
#[derive(Debug, Clone)]
pub struct Versus {
    pub label: String,
    pub path: PathBuf,
}

impl FromStr for Versus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Versus, Self::Err> {
        match text.split_once('=') {
            Some((label, path)) if !label.is_empty() && !path.is_empty() => {
                Ok(Versus { label: label.to_owned(), path: PathBuf::from(path) })
            }
            _ => Err("expected LABEL=PATH"),
        }
    }
}

/// How much load, of whatever shape.
#[derive(clap::Args, Debug, Clone)]
pub struct Load {
    /// Measured time of a round
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,

    /// Worker threads (or processes) of each proxy
    #[arg(long, default_value_t = 1)]
    pub workers: usize,

    /// Connections of push, memory, scale, spread and storm [default: 5,000 (push-wss 4,000), scale 1,000 to 9,500, spread 9,500,
    /// storm 9,000]
    #[arg(long)]
    pub connections: Option<usize>,

    /// Connections of echo and rate, and the established ones of storm
    #[arg(long, default_value_t = 64)]
    pub busy_connections: usize,

    /// Connections of up and down
    #[arg(long, default_value_t = 4)]
    pub bulk_connections: usize,

    /// Connections that are made at the same time in connect and resume
    #[arg(long, default_value_t = 16)]
    pub connecting: usize,

    /// Messages a second of rate
    #[arg(long, default_value_t = 10_000)]
    pub rate: u32,
}

/// How many handshakes reach an upstream.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    pub per_second: u32,
}

impl Admission {
    /// Seconds that a handshake may wait.
    pub const WAIT: u32 = 1;

    /// How many pass at once after a pause: what wsluice takes if it is told nothing.
    pub fn burst(self) -> u32 {
        (self.per_second / 10).max(1)
    }
}

impl Load {
    pub fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Caches, allocators and clocks get used to it.
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs_f64((self.seconds / 5.0).min(0.5))
    }

    /// How many connections a workload of many has; 0 for one of few.
    pub fn connections(&self, workload: Workload) -> usize {
        let default = match (workload.shape, workload.transport) {
            (Shape::Push, Transport::Wss) => 4_000,
            (Shape::Push | Shape::Memory, _) => 5_000,
            (Shape::Scale(connections), _) => connections,
            (Shape::Spread, _) => 9_500,
            (shape, _) if shape.is_storm() => 9_000,
            _ => return 0,
        };
        self.connections.unwrap_or(default)
    }

    /// How many more connections are there at the same time.
    pub fn beside(&self, workload: Workload) -> usize {
        if workload.shape.is_storm() { self.busy_connections } else { 0 }
    }

    /// How many workers each proxy has: one says nothing of how connections spread, nor of how a storm is shared.
    pub fn workers(&self, workload: Workload) -> usize {
        let several = workload.shape == Shape::Spread || workload.shape.is_storm();
        if several { self.workers.max(2) } else { self.workers }
    }

    /// What the upstream of a workload admits.
    pub fn admission(&self, workload: Workload) -> Option<Admission> {
        let third = || u32::try_from(self.connections(workload) / 3).unwrap_or(u32::MAX).max(1);
        (workload.shape == Shape::StormAdmission).then(|| Admission { per_second: third() })
    }

    /// A round that takes longer hangs.
    pub fn deadline(&self) -> Duration {
        self.measured() * 3 + Duration::from_secs(60)
    }
}

impl Args {
    /// Puts `--quick` into effect.
    pub fn settled(mut self) -> Args {
        if self.quick {
            self.rounds = 1;
            self.load.seconds = 0.15;
            self.load.connections.get_or_insert(100);
            self.load.busy_connections = 8;
            self.load.rate = self.load.rate.min(1_000);
        }
        if self.publish {
            self.out = PathBuf::from("benches/results");
        }
        self
    }

    /// How often a workload is run.
    pub fn rounds(&self, workload: Workload) -> usize {
        match workload.shape {
            // What they tell is a growth, a delay, a share, or bytes that differ by a hundredth.
            Shape::Memory | Shape::Fair | Shape::Scale(_) | Shape::Spread if self.publish => self.rounds.min(3),
            // A round takes ten seconds for each proxy.
            shape if shape.is_storm() && self.publish => self.rounds.min(3),
            _ => self.rounds,
        }
    }

    pub fn cores(&self) -> Option<(usize, usize)> {
        (!self.no_pin).then_some((self.proxy_core, self.rig_core))
    }
}
