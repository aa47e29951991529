//! The tables: a short one that compares, and one for each kind of outcome with all its figures.

use super::storm::MEASURES;
use super::words::{cell, dash, figure, nanos, quartiles_text, time};
use super::{CONNECTIONS_FOR_PSS, Report, Table};
use crate::drive::{Fair, Memory, Outcome, Scale, Work};
use crate::histogram::Histogram;
use crate::proxies::Kind;
use crate::stats::median;
use crate::workload::{Shape, Workload};

impl Report {
    /// A line a workload and a column a proxy: its cost, in brackets the ratio to the baseline's.
    pub(super) fn summary(&self) -> Table {
        let labels: Vec<String> = self.proxies.iter().map(|proxy| proxy.label.clone()).collect();
        let columns = ["workload", "unit"].into_iter().chain(labels.iter().map(String::as_str)).collect::<Vec<_>>();
        let mut table = Table::new(&columns);
        for workload in self.workloads() {
            for measure in MEASURES.iter().filter(|_| workload.shape.is_storm()) {
                let cells = labels.iter().map(|label| {
                    let (figure, ratio) = self.storm_compared(workload, label, measure);
                    figure.map_or_else(dash, |figure| cell(figure, ratio))
                });
                table.add([workload.to_string(), measure.unit.to_owned()].into_iter().chain(cells).collect());
            }
            let rows: Vec<_> = self.proxies.iter().map(|proxy| self.row(workload, proxy)).collect();
            if rows.iter().all(|row| row.cost.is_none()) {
                continue;
            }
            let cells = rows.iter().map(|row| row.cost.map_or_else(dash, |cost| cell(cost, row.ratio)));
            table.add([workload.to_string(), workload.cost_unit().0.to_owned()].into_iter().chain(cells).collect());
        }
        table
    }

    /// Figures of the rounds of one proxy that `pick` finds something in.
    fn picked<'a, T>(&'a self, workload: Workload, label: &str, pick: impl Fn(&'a Outcome) -> Option<T>) -> Vec<T> {
        self.rounds_of(workload, label).filter_map(|round| pick(round.outcome.as_ref().ok()?)).collect()
    }

    pub(super) fn work_table(&self) -> Table {
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
            let works: Vec<&Work> = self.picked(row.workload, &row.proxy.label, |outcome| match outcome {
                Outcome::Work(work) => Some(work),
                _ => None,
            });
            if works.is_empty() {
                continue;
            }
            let mut latency = Histogram::default();
            works.iter().for_each(|work| latency.add(&work.latency));
            let quantile = |share| latency.quantile(share).map_or_else(dash, time);
            let (unit, scale) = row.workload.cost_unit();
            let rig = of(&works, |work| nanos(work.rig_cpu) / work.units / scale);
            let many =
                works.iter().all(|work| work.connections >= CONNECTIONS_FOR_PSS) && row.proxy.kind != Kind::Direct;
            let pss = of(&works, |work| work.pss_growth / work.connections as f64).filter(|_| many);
            let busy =
                of(&works, |work| nanos(work.proxy_cpu) / nanos(work.wall)).filter(|_| row.proxy.kind != Kind::Direct);
            table.add(vec![
                row.workload.to_string(),
                row.proxy.label,
                row.cost.map_or_else(dash, figure),
                unit.to_owned(),
                row.ratio.map_or_else(dash, quartiles_text),
                busy.map_or_else(dash, |share| format!("{:.0} %", share * 100.0)),
                of(&works, |work| work.units / work.wall.as_secs_f64())
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

    pub(super) fn memory_table(&self) -> Table {
        let ratio = format!("× {} [quartiles]", self.baseline);
        let mut table =
            Table::new(&["workload", "proxy", "idle KiB/conn", &ratio, "after 16-KiB echo", "kept after close, KiB"]);
        for row in self.rows() {
            let memories: Vec<&Memory> = self.picked(row.workload, &row.proxy.label, |outcome| match outcome {
                Outcome::Memory(memory) => Some(memory),
                _ => None,
            });
            if memories.is_empty() {
                continue;
            }
            table.add(vec![
                row.workload.to_string(),
                row.proxy.label,
                row.cost.map_or_else(dash, figure),
                row.ratio.map_or_else(dash, quartiles_text),
                of(&memories, |memory| memory.after_burst).map_or_else(dash, figure),
                of(&memories, |memory| memory.total_after_close).map_or_else(dash, |kib| format!("{kib:.0}")),
            ]);
        }
        table
    }

    pub(super) fn spread_table(&self) -> Table {
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

    pub(super) fn fair_table(&self) -> Table {
        let mut table = Table::new(&[
            "workload",
            "proxy",
            "echoes alone",
            "p50",
            "p99",
            "beside a heavy one",
            "p50",
            "p99",
            "the heavy one, both ways",
        ]);
        for row in self.rows() {
            let rounds = self.picked(row.workload, &row.proxy.label, |outcome| match outcome {
                Outcome::Fair(fair) => Some(fair),
                _ => None,
            });
            if rounds.is_empty() {
                continue;
            }
            let mut cells = vec![row.workload.to_string(), row.proxy.label];
            let parts: [fn(&Fair) -> &Work; 2] = [|fair| &fair.alone, |fair| &fair.beside];
            for part in parts {
                let mut latency = Histogram::default();
                rounds.iter().for_each(|fair| latency.add(&part(fair).latency));
                let per_second = of(&rounds, |fair| part(fair).units / part(fair).wall.as_secs_f64());
                cells.push(per_second.map_or_else(dash, |per_second| format!("{per_second:.0} /s")));
                cells.extend([0.5, 0.99].map(|share| latency.quantile(share).map_or_else(dash, time)));
            }
            let heavy = of(&rounds, |fair| fair.heavy / 1e6);
            cells.push(heavy.map_or_else(dash, |heavy| format!("{heavy:.0} MB/s")));
            table.add(cells);
        }
        table
    }

    pub(super) fn scale_table(&self) -> Table {
        let columns = ["workload", "proxy", "connections", "µs/echo", "µs/push", "µs/connection", "KiB/connection"];
        let mut table = Table::new(&columns);
        for row in self.rows() {
            let rounds = self.picked(row.workload, &row.proxy.label, |outcome| match outcome {
                Outcome::Scale(scale) => Some(scale),
                _ => None,
            });
            let Shape::Scale(connections) = row.workload.shape else { continue };
            if rounds.is_empty() {
                continue;
            }
            let cost = |part: fn(&Scale) -> &Work| {
                of(&rounds, |scale| nanos(part(scale).proxy_cpu) / part(scale).units / 1e3).map_or_else(dash, figure)
            };
            table.add(vec![
                row.workload.to_string(),
                row.proxy.label,
                self.connections.unwrap_or(connections).to_string(),
                cost(|scale| &scale.echo),
                cost(|scale| &scale.push),
                cost(|scale| &scale.connect),
                of(&rounds, |scale| scale.memory).map_or_else(dash, figure),
            ]);
        }
        table
    }
}

/// The median of a figure over rounds.
fn of<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Option<f64> {
    median(&rounds.iter().map(figure).collect::<Vec<_>>())
}
