//! From rounds to rows: medians, and ratios to the baseline within each round.

mod csv;
mod plot;
mod table;
mod words;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::args::Args;
use crate::drive::{Memory, Outcome, Work};
use crate::histogram::Histogram;
use crate::machine::Cores;
use crate::proxies::{Kind, Program};
use crate::stats::{Quartiles, median, quartiles};
use crate::workload::{Shape, Workload};

use table::Table;
use words::{dash, figure, nanos, quartiles_text, time};

/// PSS a connection says nothing when few connections share what the process has anyway.
const CONNECTIONS_FOR_PSS: usize = 256;

pub struct Report {
    head: Vec<String>,
    proxies: Vec<Proxy>,
    baseline: String,
    rate: f64,
    rounds: Vec<Round>,
}

/// Who was measured.
#[derive(Clone, PartialEq)]
struct Proxy {
    kind: Kind,
    label: String,
}

impl Proxy {
    fn of(program: &Program) -> Proxy {
        Proxy { kind: program.kind, label: program.label.clone() }
    }
}

struct Round {
    workload: Workload,
    proxy: Proxy,
    number: usize,
    outcome: Result<Outcome>,
}

/// One proxy under one workload.
struct Row {
    workload: Workload,
    proxy: Proxy,
    cost: Option<f64>,
    ratio: Option<Quartiles>,
}

impl Report {
    pub fn new(args: &Args, programs: &[Program], cores: &Cores) -> Report {
        let mut head = vec![format!(
            "{} rounds of {} s, {} worker(s), {}; {}",
            args.rounds,
            args.load.seconds,
            args.load.workers,
            cores.describe(),
            machine_line()
        )];
        head.extend(programs.iter().map(|program| format!("{}: {}", program.label, program.version)));
        if args.quick {
            head.push("quick: a smoke test, the figures mean nothing".to_owned());
        }
        let proxies = programs.iter().map(Proxy::of).collect();
        Report { head, proxies, baseline: args.baseline.clone(), rate: f64::from(args.load.rate), rounds: Vec::new() }
    }

    pub fn add(&mut self, workload: Workload, program: &Program, number: usize, outcome: Result<Outcome>) {
        self.rounds.push(Round { workload, proxy: Proxy::of(program), number, outcome });
    }

    pub fn failures(&self) -> usize {
        self.rounds.iter().filter(|round| round.outcome.is_err()).count()
    }

    /// The report for a terminal.
    pub fn text(&self) -> String {
        self.render(Table::text, "")
    }

    /// Writes the report in all its forms.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let files = [
            ("report.txt", self.text()),
            ("report.md", self.render(Table::markdown, "  ")),
            ("rounds.csv", self.csv()),
            ("load.svg", plot::svg(&self.rows(), &self.baseline, &self.head)),
        ];
        for (name, content) in files {
            let path = directory.join(name);
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    fn render(&self, form: fn(&Table) -> String, line_end: &str) -> String {
        let mut out: String = self.head.iter().map(|line| format!("{line}{line_end}\n")).collect();
        for table in [self.work_table(), self.memory_table(), self.spread_table()] {
            if !table.is_empty() {
                write!(out, "\n{}", form(&table)).unwrap_or_default();
            }
        }
        for round in &self.rounds {
            if let Err(error) = &round.outcome {
                let Round { workload, proxy: Proxy { label, .. }, number, .. } = round;
                write!(out, "\nFAILED: {workload} {label} round {number}: {error:#}{line_end}\n").unwrap_or_default();
            }
        }
        out
    }

    fn workloads(&self) -> Vec<Workload> {
        let mut workloads: Vec<Workload> = Vec::new();
        for round in &self.rounds {
            if !workloads.contains(&round.workload) {
                workloads.push(round.workload);
            }
        }
        workloads
    }

    fn rows(&self) -> Vec<Row> {
        let pairs =
            self.workloads().into_iter().flat_map(|workload| self.proxies.iter().map(move |proxy| (workload, proxy)));
        pairs.map(|(workload, proxy)| self.row(workload, proxy)).collect()
    }

    fn row(&self, workload: Workload, proxy: &Proxy) -> Row {
        let costs = self.costs(workload, &proxy.label);
        let base = self.costs(workload, &self.baseline);
        let ratio_in = |&(number, cost): &(usize, f64)| {
            let (_, base) = base.iter().find(|(other, _)| *other == number)?;
            (*base > 0.0).then(|| cost / base)
        };
        let ratios: Vec<f64> = costs.iter().filter_map(ratio_in).collect();
        let costs: Vec<f64> = costs.into_iter().map(|(_, cost)| cost).collect();
        Row { workload, proxy: proxy.clone(), cost: median(&costs), ratio: quartiles(&ratios) }
    }

    /// Round number and cost, of the rounds that count.
    fn costs(&self, workload: Workload, label: &str) -> Vec<(usize, f64)> {
        let cost_of = |round: &Round| cost(workload, round.proxy.kind, round.outcome.as_ref().ok()?);
        self.rounds_of(workload, label).filter_map(|round| Some((round.number, cost_of(round)?))).collect()
    }

    fn rounds_of(&self, workload: Workload, label: &str) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(move |round| round.workload == workload && round.proxy.label == label)
    }

    fn works(&self, workload: Workload, label: &str) -> Vec<&Work> {
        let work = |round| match round {
            &Round { outcome: Ok(Outcome::Work(ref work)), .. } => Some(work),
            _ => None,
        };
        self.rounds_of(workload, label).filter_map(work).collect()
    }

    fn work_table(&self) -> Table {
        let ratio = format!("× {} [quartiles]", self.baseline);
        let columns = [
            "workload",
            "proxy",
            "CPU/unit",
            "unit",
            &ratio,
            "busy",
            "throughput",
            "p50",
            "p99",
            "PSS/conn",
            "rig CPU/unit",
        ];
        let mut table = Table::new(&columns);
        for row in self.rows() {
            let works = self.works(row.workload, &row.proxy.label);
            if works.is_empty() {
                continue;
            }
            let mut latency = Histogram::default();
            works.iter().for_each(|work| latency.add(&work.latency));
            let quantile = |share| latency.quantile(share).map_or_else(dash, time);
            let (unit, scale) = row.workload.cost_unit();
            let of = |figure: &dyn Fn(&Work) -> f64| median(&works.iter().map(|work| figure(work)).collect::<Vec<_>>());
            let rig = of(&|work| nanos(work.rig_cpu) / work.units / scale);
            let many =
                works.iter().all(|work| work.connections >= CONNECTIONS_FOR_PSS) && row.proxy.kind != Kind::Direct;
            let pss = of(&|work| work.pss_growth / work.connections as f64).filter(|_| many);
            let busy = of(&|work| nanos(work.proxy_cpu) / nanos(work.wall)).filter(|_| row.proxy.kind != Kind::Direct);
            table.add(vec![
                row.workload.to_string(),
                row.proxy.label,
                row.cost.map_or_else(dash, figure),
                unit.to_owned(),
                row.ratio.map_or_else(dash, quartiles_text),
                busy.map_or_else(dash, |share| format!("{:.0} %", share * 100.0)),
                of(&|work| work.units / work.wall.as_secs_f64())
                    .map_or_else(dash, |per| self.throughput(row.workload, per)),
                quantile(0.5),
                quantile(0.99),
                pss.map_or_else(dash, |kib| format!("{} KiB", figure(kib))),
                rig.map_or_else(dash, figure),
            ]);
        }
        table
    }

    /// An open loop that was not kept up with says so: its other figures are not comparable.
    fn throughput(&self, workload: Workload, per_second: f64) -> String {
        let (unit, scale) = workload.throughput_unit();
        let late = workload.shape == Shape::Rate && per_second < 0.98 * self.rate;
        format!("{:.0} {unit}{}", per_second / scale, if late { " (behind)" } else { "" })
    }

    fn memory_table(&self) -> Table {
        let ratio = format!("× {} [quartiles]", self.baseline);
        let mut table =
            Table::new(&["workload", "proxy", "idle KiB/conn", &ratio, "after 16-KiB echo", "kept after close, KiB"]);
        for row in self.rows() {
            let memory = |round| match round {
                &Round { outcome: Ok(Outcome::Memory(ref memory)), .. } => Some(memory),
                _ => None,
            };
            let memories: Vec<&Memory> = self.rounds_of(row.workload, &row.proxy.label).filter_map(memory).collect();
            let of =
                |figure: fn(&Memory) -> f64| median(&memories.iter().map(|memory| figure(memory)).collect::<Vec<_>>());
            if memories.is_empty() {
                continue;
            }
            table.add(vec![
                row.workload.to_string(),
                row.proxy.label,
                row.cost.map_or_else(dash, figure),
                row.ratio.map_or_else(dash, quartiles_text),
                of(|memory| memory.after_burst).map_or_else(dash, figure),
                of(|memory| memory.total_after_close).map_or_else(dash, |kib| format!("{kib:.0}")),
            ]);
        }
        table
    }

    fn spread_table(&self) -> Table {
        let mut table = Table::new(&["workload", "proxy", "round", "sessions of each worker", "most / mean"]);
        for round in &self.rounds {
            let Ok(Outcome::Spread(sessions)) = &round.outcome else { continue };
            let mean = sessions.iter().sum::<usize>() as f64 / sessions.len().max(1) as f64;
            let most = sessions.iter().max().copied().unwrap_or(0) as f64;
            table.add(vec![
                round.workload.to_string(),
                round.proxy.label.clone(),
                round.number.to_string(),
                format!("{sessions:?}"),
                format!("{:.2}", most / mean.max(1.0)),
            ]);
        }
        table
    }
}

/// The figure that is compared: CPU time per unit, or memory per connection.
fn cost(workload: Workload, kind: Kind, outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Work(work) if kind != Kind::Direct && work.units > 0.0 => {
            Some(nanos(work.proxy_cpu) / work.units / workload.cost_unit().1)
        }
        Outcome::Memory(memory) => Some(memory.idle),
        Outcome::Work(_) | Outcome::Spread(_) => None,
    }
}

/// One line for who watches.
pub fn in_short(workload: Workload, program: &Program, outcome: &Result<Outcome>) -> String {
    let label = &program.label;
    match outcome {
        Err(error) => format!("{label}: FAILED: {error:#}"),
        Ok(Outcome::Spread(sessions)) => format!("{label}: {sessions:?}"),
        Ok(Outcome::Memory(Memory { idle, after_burst, .. })) => {
            format!("{label}: {} KiB idle, {} after a burst", figure(*idle), figure(*after_burst))
        }
        Ok(outcome) => {
            let cost = cost(workload, program.kind, outcome).map_or_else(dash, figure);
            format!("{label}: {cost} {}", workload.cost_unit().0)
        }
    }
}

fn machine_line() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map_or("unknown CPU", |it| it.1);
    format!("{}, Linux {}", model.trim(), read("/proc/sys/kernel/osrelease").trim())
}
