//! Every round by itself, for who wants to reckon anew.

use std::fmt::Write as _;

use super::words::nanos;
use super::{Report, Round};
use crate::drive::{Fair, Memory, Outcome, Scale, Storm, Work};
use crate::workload::{Shape, Workload};

const HEAD: &str =
    "workload,proxy,round,cost,cost_unit,units,wall_s,proxy_cpu_s,rig_cpu_s,p50_us,p99_us,pss_growth_kib\n";

impl Report {
    /// A line a measured stretch; rounds that failed are not in it, the report names them.
    pub(super) fn csv(&self) -> String {
        let mut out = HEAD.to_owned();
        for Round { workload, proxy, number, outcome } in &self.rounds {
            let Ok(outcome) = outcome else { continue };
            let mut line = |part: &str, rest: String| {
                writeln!(out, "{workload}{part},{},{number},{rest}", proxy.label).unwrap_or_default();
            };
            match outcome {
                Outcome::Work(work) => line("", measured(*workload, work)),
                Outcome::Memory(Memory { idle, after_burst, total_after_close }) => {
                    line("", figure(*idle, "KiB/connection"));
                    line("/burst", figure(*after_burst, "KiB/connection"));
                    line("/closed", figure(*total_after_close, "KiB"));
                }
                Outcome::Fair(Fair { alone, beside, heavy }) => {
                    line("/alone", measured(*workload, alone));
                    line("/beside", measured(*workload, beside));
                    line("/heavy", figure(heavy / 1e6, "MB/s"));
                }
                Outcome::Scale(Scale { echo, push, connect, memory }) => {
                    for (part, shape, work) in [
                        ("/echo", Shape::Echo, echo),
                        ("/push", Shape::Push, push),
                        ("/connect", Shape::Connect, connect),
                    ] {
                        line(part, measured(Workload { shape, ..*workload }, work));
                    }
                    line("/memory", figure(*memory, "KiB/connection"));
                }
                Outcome::Storm(storm) => {
                    let Storm { work, beside, peak, refused, .. } = storm;
                    let millis = |share| beside.quantile(share).map_or(0.0, |at| nanos(at) / 1e6);
                    line("", measured(*workload, work));
                    line("/all", figure(storm.all_echoed().as_secs_f64(), "s"));
                    line("/beside-p50", figure(millis(0.5), "ms"));
                    line("/beside-p99", figure(millis(0.99), "ms"));
                    line("/beside-max", figure(millis(1.0), "ms"));
                    line("/peak", figure(*peak, "KiB"));
                    line("/refused", figure(*refused as f64, "clients"));
                }
                Outcome::Spread(sessions) => {
                    for (worker, sessions) in sessions.iter().enumerate() {
                        line(&format!("/{worker}"), figure(*sessions as f64, "sessions"));
                    }
                }
            }
        }
        out
    }
}

fn figure(value: f64, unit: &str) -> String {
    format!("{value:.4},{unit},,,,,,,")
}

fn measured(workload: Workload, work: &Work) -> String {
    let quantile = |share| work.latency.quantile(share).map_or(String::new(), |at| format!("{:.1}", nanos(at) / 1e3));
    let (unit, scale) = workload.cost_unit();
    let cost = nanos(work.proxy_cpu) / work.units / scale;
    let (wall, proxy, rig) = (work.wall.as_secs_f64(), work.proxy_cpu.as_secs_f64(), work.rig_cpu.as_secs_f64());
    let (p50, p99) = (quantile(0.5), quantile(0.99));
    format!("{cost:.4},{unit},{},{wall:.6},{proxy:.6},{rig:.6},{p50},{p99},{:.0}", work.units, work.pss_growth)
}
