//! From rounds to rows: medians, and ratios to the baseline within each round.

mod csv;
mod plot;
mod storm;
mod table;
mod tables;
mod words;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::args::Args;
use crate::drive::{Fair, Memory, Outcome, Scale, Storm, Work};
use crate::machine::Cores;
use crate::proxies::{Kind, Program};
use crate::stats::{Quartiles, median, quartiles};
use crate::workload::Workload;

use table::Table;
use words::{dash, figure, nanos, time};

/// Where in the Markdown the tables of all figures begin.
const EVERY_FIGURE: &str = "\n## Every figure\n";

/// PSS a connection says nothing when few connections share what the process has anyway.
const CONNECTIONS_FOR_PSS: usize = 256;

pub struct Report {
    head: Vec<String>,
    proxies: Vec<Proxy>,
    baseline: String,
    rate: f64,
    /// `--connections`, if given.
    connections: Option<usize>,
    publish: bool,
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
        let (rounds, seconds) = (args.rounds, args.load.seconds);
        let fewer = Workload::all().into_iter().map(|workload| args.rounds(workload)).min().filter(|few| *few < rounds);
        let fewer = fewer.map_or_else(String::new, |few| format!(" ({few} of memory, fair, scale, spread and storm)"));
        let mut head = vec![
            format!("{}: {}", today(), machine_line()),
            format!(
                "{rounds} interleaved rounds{fewer} of {seconds} s, {} worker(s), {}",
                args.load.workers,
                cores.describe(),
            ),
        ];
        if args.publish {
            head.push("made with `cargo bench --bench load -- --publish`".to_owned());
        }
        head.extend(programs.iter().map(|program| format!("{}: {}", program.label, program.version)));
        if args.quick {
            head.push("quick: a smoke test, the figures mean nothing".to_owned());
        }
        let proxies = programs.iter().map(Proxy::of).collect();
        Report {
            head,
            proxies,
            baseline: args.baseline.clone(),
            rate: f64::from(args.load.rate),
            connections: args.load.connections,
            publish: args.publish,
            rounds: Vec::new(),
        }
    }

    pub fn add(&mut self, workload: Workload, program: &Program, number: usize, outcome: Result<Outcome>) {
        self.rounds.push(Round { workload, proxy: Proxy::of(program), number, outcome });
    }

    pub fn failures(&self) -> usize {
        self.rounds.iter().filter(|round| round.outcome.is_err()).count()
    }

    /// The report for a terminal.
    pub fn text(&self) -> String {
        self.render(Table::text, "", "")
    }

    /// The report for a repository: what compares first, up to [`EVERY_FIGURE`], for a README to quote.
    fn markdown(&self) -> String {
        self.render(Table::markdown, "  ", EVERY_FIGURE)
    }

    /// Writes the report in all its forms, and says which files these are.
    pub fn write(&self, directory: &Path) -> Result<Vec<&'static str>> {
        let svg = ("load.svg", plot::svg(&self.rows(), &self.baseline, &self.head));
        let mut files = if self.publish {
            vec![("load.md", self.markdown()), ("load.csv", self.csv()), svg]
        } else {
            vec![("report.txt", self.text()), ("report.md", self.markdown()), ("rounds.csv", self.csv()), svg]
        };
        files.extend(self.storm_svg().map(|svg| ("storm.svg", svg)));
        for (name, content) in &files {
            let path = directory.join(name);
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }

    fn render(&self, form: fn(&Table) -> String, line_end: &str, every_figure: &str) -> String {
        let mut out: String = self.head.iter().map(|line| format!("{line}{line_end}\n")).collect();
        let summary = self.summary();
        if !summary.is_empty() {
            let baseline = &self.baseline;
            write!(out, "\nCost, in brackets its ratio to {baseline}'s in the same round:\n\n{}", form(&summary))
                .unwrap_or_default();
        }
        write!(out, "{every_figure}").unwrap_or_default();
        let tables = [
            self.work_table(),
            self.memory_table(),
            self.fair_table(),
            self.scale_table(),
            self.spread_table(),
            self.storm_table(),
        ];
        for table in tables.iter().filter(|table| !table.is_empty()) {
            write!(out, "\n{}", form(table)).unwrap_or_default();
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
        let (cost, ratio) = self.compared(workload, &proxy.label, |kind, outcome| cost(workload, kind, outcome));
        Row { workload, proxy: proxy.clone(), cost, ratio }
    }

    /// The median of a figure, and how it compares to the baseline's within each round.
    fn compared(
        &self,
        workload: Workload,
        label: &str,
        pick: impl Fn(Kind, &Outcome) -> Option<f64>,
    ) -> (Option<f64>, Option<Quartiles>) {
        let figures = |label: &str| -> Vec<(usize, f64)> {
            let of_round = |round: &Round| pick(round.proxy.kind, round.outcome.as_ref().ok()?);
            self.rounds_of(workload, label).filter_map(|round| Some((round.number, of_round(round)?))).collect()
        };
        let (ours, base) = (figures(label), figures(&self.baseline));
        let ratio_in = |&(number, figure): &(usize, f64)| {
            let (_, base) = base.iter().find(|(other, _)| *other == number)?;
            (*base > 0.0).then(|| figure / base)
        };
        let ratios: Vec<f64> = ours.iter().filter_map(ratio_in).collect();
        let ours: Vec<f64> = ours.into_iter().map(|(_, figure)| figure).collect();
        (median(&ours), quartiles(&ratios))
    }

    fn rounds_of(&self, workload: Workload, label: &str) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(move |round| round.workload == workload && round.proxy.label == label)
    }
}

/// The figure that is compared: CPU time per unit, or memory per connection.
fn cost(workload: Workload, kind: Kind, outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Work(work) if kind != Kind::Direct && work.units > 0.0 => {
            Some(nanos(work.proxy_cpu) / work.units / workload.cost_unit().1)
        }
        Outcome::Memory(memory) => Some(memory.idle),
        Outcome::Work(_) | Outcome::Fair(_) | Outcome::Scale(_) | Outcome::Spread(_) | Outcome::Storm(_) => None,
    }
}

/// One line for who watches.
pub fn in_short(workload: Workload, program: &Program, outcome: &Result<Outcome>) -> String {
    let label = &program.label;
    match outcome {
        Err(error) => format!("{label}: FAILED: {error:#}"),
        Ok(Outcome::Spread(sessions)) => format!("{label}: {sessions:?}"),
        Ok(Outcome::Storm(storm)) => {
            let Storm { work, echoed, refused, beside, peak } = storm;
            let (p99, max) =
                (beside.quantile(0.99).map_or_else(dash, time), beside.quantile(1.0).map_or_else(dash, time));
            let refused = if *refused > 0 { format!(", {refused} refused") } else { String::new() };
            format!(
                "{label}: {} clients in {}{refused}, p99 {p99} (max {max}) beside, peak {:.1} MiB, {:.2} s of CPU",
                echoed.len(),
                time(storm.all_echoed()),
                peak / 1024.0,
                work.proxy_cpu.as_secs_f64(),
            )
        }
        Ok(Outcome::Memory(Memory { idle, after_burst, .. })) => {
            format!("{label}: {} KiB idle, {} after a burst", figure(*idle), figure(*after_burst))
        }
        Ok(Outcome::Fair(Fair { alone, beside, .. })) => {
            let p99 = |work: &Work| work.latency.quantile(0.99).map_or_else(dash, time);
            format!("{label}: p99 {} alone, {} beside a heavy one", p99(alone), p99(beside))
        }
        Ok(Outcome::Scale(Scale { echo, memory, .. })) => {
            let echo = figure(nanos(echo.proxy_cpu) / echo.units / 1e3);
            format!("{label}: {echo} µs/echo, {} KiB/connection", figure(*memory))
        }
        Ok(outcome) => {
            let cost = cost(workload, program.kind, outcome).map_or_else(dash, figure);
            format!("{label}: {cost} {}", workload.cost_unit().0)
        }
    }
}

/// The day, in UTC.
fn today() -> String {
    let now = wsluice::telemetry::utc::Utc::now().to_string();
    now.split('T').next().unwrap_or_default().to_owned()
}

fn machine_line() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map_or("unknown CPU", |it| it.1);
    format!("{}, Linux {}", model.trim(), read("/proc/sys/kernel/osrelease").trim())
}
