//! Every round by itself, for who wants to reckon anew.

use std::fmt::Write as _;

use super::words::nanos;
use super::{Report, Round, cost};
use crate::drive::Outcome;

impl Report {
    /// Rounds that failed are not in it; the report names them.
    pub(super) fn csv(&self) -> String {
        let mut out =
            "workload,proxy,round,cost,cost_unit,units,wall_s,proxy_cpu_s,rig_cpu_s,p50_us,p99_us,pss_growth_kib\n"
                .to_owned();
        for Round { workload, proxy, number, outcome } in &self.rounds {
            let Ok(outcome) = outcome else { continue };
            let cost = cost(*workload, proxy.kind, outcome).map_or_else(String::new, |cost| format!("{cost:.4}"));
            write!(out, "{workload},{},{number},{cost},{}", proxy.label, workload.cost_unit().0).unwrap_or_default();
            if let Outcome::Work(work) = outcome {
                let quantile =
                    |share| work.latency.quantile(share).map_or(String::new(), |at| format!("{:.1}", nanos(at) / 1e3));
                let (wall, proxy, rig) =
                    (work.wall.as_secs_f64(), work.proxy_cpu.as_secs_f64(), work.rig_cpu.as_secs_f64());
                let (p50, p99) = (quantile(0.5), quantile(0.99));
                write!(out, ",{},{wall:.6},{proxy:.6},{rig:.6},{p50},{p99},{:.0}", work.units, work.pss_growth)
                    .unwrap_or_default();
            } else {
                out.push_str(",,,,,,,");
            }
            out.push('\n');
        }
        out
    }
}
