//! The load bench: wsluice, nginx and HAProxy under the same load, in interleaved rounds, with one command.
//!
//! ```sh
//! cargo bench --bench load                      # everything but `scale`, `spread` and `storm`, about ten minutes
//! cargo bench --bench load -- echo memory-wss   # some of it
//! cargo bench --bench load -- --quick           # does the rig work?
//! ```
//!
//! How it measures and what the figures mean stands in `benches/README.md`.

mod args;
mod backend;
mod client;
mod drive;
mod floor;
mod frame;
mod handshake;
mod histogram;
mod machine;
mod process;
mod proxies;
mod report;
mod stats;
mod tls;
mod workload;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::args::Args;
use crate::backend::Backend;
use crate::client::Target;
use crate::drive::Outcome;
use crate::machine::{Cores, Priority};
use crate::proxies::{Behind, Kind, Program};
use crate::report::Report;
use crate::tls::Identity;
use crate::workload::{Shape, Transport, Workload};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(floor::COMMAND) {
        return exit_code(floor::run(std::env::args().skip(1)));
    }
    // Without `--bench`, cargo is testing: the rig's own parts are held to what they promise, and nothing is measured.
    let benching = std::env::args().any(|arg| arg == "--bench" || arg == "--quick" || arg == "--help");
    exit_code(if benching { measure(Args::parse().settled()) } else { check_itself() })
}

fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: Args) -> Result<()> {
    let everything = args.publish && args.workloads.is_empty();
    let workloads = if everything { Workload::all() } else { Workload::named(&args.workloads)? };
    let found: Vec<_> = args.proxies.iter().map(|&kind| (kind, Program::find(kind, args.wsluice.as_deref()))).collect();
    for (kind, _) in found.iter().filter(|(_, program)| program.is_none()) {
        eprintln!("load: {kind} is not installed and left out");
    }
    let mut programs: Vec<Program> = found.into_iter().filter_map(|(_, program)| program).collect();
    for versus in &args.versus {
        programs.push(Program::versus(versus)?);
    }
    ensure!(!programs.is_empty(), "none of the proxies is here");
    for (at, program) in programs.iter().enumerate() {
        ensure!(programs[..at].iter().all(|other| other.label != program.label), "two are called {}", program.label);
    }
    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let rig = Rig::start(&args)?;
    let mut report = Report::new(&args, &programs, &rig.cores);
    for together in workloads.chunk_by(|one, other| one.goes_with(*other)) {
        let rounds = together.first().map_or(0, |&workload| args.rounds(workload));
        for round in 1..=rounds {
            for &workload in together {
                for program in in_turn(&programs, round) {
                    if let Some(why) = rig.pointless(workload, program.kind) {
                        if round == 1 {
                            eprintln!("load: {workload} {}: left out: {why}", program.label);
                        }
                        continue;
                    }
                    let outcome = rig.round(workload, program);
                    let said = report::in_short(workload, program, &outcome);
                    eprintln!("load: {workload} round {round}/{rounds} {said}");
                    report.add(workload, program, round, outcome);
                }
            }
        }
    }
    print!("{}", report.text());
    let written = report.write(&args.out)?;
    eprintln!("load: {} are in {}", written.join(", "), args.out.display());
    match report.failures() {
        0 => Ok(()),
        failures => bail!("{failures} rounds have failed"),
    }
}

/// Each round begins with another proxy: whatever a place in the order brings, everybody has it.
fn in_turn(programs: &[Program], round: usize) -> impl Iterator<Item = &Program> {
    programs.iter().cycle().skip(round % programs.len()).take(programs.len())
}

/// Endpoints of a storm's upstream.
const STORM_ENDPOINTS: usize = 3;

/// What is there all the time.
struct Rig<'a> {
    args: &'a Args,
    cores: Cores,
    identity: Identity,
    backend: Backend,
    /// The three endpoints of a storm, and that of the sessions which are there already.
    storm: Backend,
    apart: Backend,
    descriptors: u64,
}

impl Rig<'_> {
    fn start(args: &Args) -> Result<Rig<'_>> {
        let cores = Cores::new(args.cores())?;
        let descriptors = machine::raise_descriptors()?;
        proxies::end_with_us()?;
        let backend = Backend::start(cores, 1, Priority::Usual)?;
        let storm = Backend::start(cores, STORM_ENDPOINTS, Priority::Low)?;
        let apart = Backend::start(cores, 1, Priority::High)?;
        Ok(Rig { args, cores, identity: Identity::generate()?, backend, storm, apart, descriptors })
    }

    /// Why a round of this proxy would say nothing.
    fn pointless(&self, workload: Workload, kind: Kind) -> Option<String> {
        let connections = self.args.load.connections(workload) + self.args.load.beside(workload);
        match kind {
            Kind::Nginx | Kind::Haproxy | Kind::Floor | Kind::Direct if workload.shape == Shape::StormAdmission => {
                Some("it admits every handshake at once".to_owned())
            }
            Kind::Direct if workload.transport == Transport::Wss => Some("the backend speaks no TLS".to_owned()),
            Kind::Direct if matches!(workload.shape, Shape::Memory | Shape::Scale(_) | Shape::Spread) => {
                Some("no proxy".to_owned())
            }
            Kind::Nginx | Kind::Haproxy | Kind::Floor
                if self.args.publish && matches!(workload.shape, Shape::Scale(_)) =>
            {
                Some("published for wsluice alone".to_owned())
            }
            Kind::Floor if self.args.load.workers(workload) > 1 => Some("it has one thread".to_owned()),
            Kind::Haproxy if connections > proxies::HAPROXY_CONNECTIONS_MAX => Some("more than its maxconn".to_owned()),
            // Both ends of the rig, and both sides of a proxy, are in one process.
            _ if connections as u64 * 2 + 200 > self.descriptors => {
                Some(format!("{connections} connections need more than {} descriptors", self.descriptors))
            }
            _ => None,
        }
    }

    fn round(&self, workload: Workload, program: &Program) -> Result<Outcome> {
        let load = &self.args.load;
        let backend = if workload.shape.is_storm() { &self.storm } else { &self.backend };
        let apart = workload.shape.is_storm().then(|| self.apart.addr());
        let behind = Behind { endpoints: backend.addrs().to_vec(), apart, admission: load.admission(workload) };
        let running = program.start(&behind, load.workers(workload), &self.identity, self.cores)?;
        let tls = if workload.transport == Transport::Wss { Some(self.identity.client()?) } else { None };
        let (addr, apart) = match &running {
            None => (backend.addr(), self.apart.addr()),
            Some(running) if tls.is_some() => (running.tls(), running.tls()),
            Some(running) => (running.plain(), running.plain()),
        };
        let pid = running.as_ref().map(proxies::Running::pid);
        let (target, apart) = (Target { addr, tls: tls.clone() }, Target { addr: apart, tls });
        let outcome = drive::run(workload, load, &target, &apart, backend, pid, self.cores);
        let said = running.as_ref().map(proxies::Running::output).unwrap_or_default();
        match outcome {
            Err(error) if !said.is_empty() => Err(error.context(format!("{} said {said:?}", program.label))),
            outcome => outcome,
        }
    }
}

/// `--help` ends with what there is to measure.
fn help_of_workloads() -> String {
    let lines =
        Workload::all().into_iter().map(|workload| format!("  {:<16}{}", workload.to_string(), workload.about()));
    format!("Workloads:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// What `cargo test --benches` runs: each part by itself, and every workload once without a proxy. A storm needs one.
fn check_itself() -> Result<()> {
    histogram::check_itself();
    stats::check_itself();
    frame::check_itself();
    process::check_itself()?;
    let args = Args::parse_from(["load", "--quick", "--no-pin", "--proxies", "direct"]).settled();
    let direct = Program::find(Kind::Direct, None).context("there is always no proxy")?;
    let rig = Rig::start(&args)?;
    proxies::check_itself(&rig.identity)?;
    let floor = Program::find(Kind::Floor, None).context("this executable is gone")?;
    let wsluice = Program::find(Kind::Wsluice, None).context("wsluice has not been built")?;
    for workload in Workload::all() {
        let programs = [&direct, &floor, &wsluice].into_iter();
        for program in programs.filter(|program| program.kind != Kind::Wsluice || workload.shape.is_storm()) {
            if rig.pointless(workload, program.kind).is_none() {
                rig.round(workload, program).with_context(|| format!("{workload} {}", program.label))?;
            }
        }
    }
    Ok(())
}
