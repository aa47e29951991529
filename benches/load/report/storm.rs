//! The storms: what is compared, their table, and their plot: when how many clients had their echo, and below it what
//! this did to the established sessions and to memory.

use std::fmt::Write as _;
use std::time::Duration;

use super::plot::{INK, MARGIN, PALE, WIDTH, colour, escaped, text};
use super::table::Table;
use super::words::{cell, dash, figure, nanos, time};
use super::{Proxy, Report};
use crate::drive::{Outcome, Storm};
use crate::histogram::Histogram;
use crate::stats::{Quartiles, median};
use crate::workload::{Shape, Workload};

/// A figure of a storm, which is compared.
pub(super) struct Measure {
    /// What it is and its unit, as in the tables.
    pub(super) unit: &'static str,
    pick: fn(&Storm) -> Option<f64>,
}

pub(super) const MEASURES: [Measure; 4] = [
    Measure { unit: "s until all echoed", pick: |storm| Some(storm.all_echoed().as_secs_f64()) },
    Measure { unit: "ms, p99 beside", pick: |storm| Some(nanos(storm.beside.quantile(0.99)?) / 1e6) },
    Measure { unit: "MiB at the peak", pick: |storm| (storm.peak > 0.0).then_some(storm.peak / 1024.0) },
    Measure {
        unit: "µs CPU/client",
        pick: |storm| (storm.peak > 0.0).then(|| nanos(storm.work.proxy_cpu) / storm.work.units / 1e3),
    },
];

fn storm_of(outcome: &Outcome) -> Option<&Storm> {
    match outcome {
        Outcome::Storm(storm) => Some(storm),
        _ => None,
    }
}

/// Steps of a curve.
const STEPS: usize = 200;

impl Report {
    /// The median of a measure, and its ratio to the baseline's.
    pub(super) fn storm_compared(
        &self,
        workload: Workload,
        label: &str,
        measure: &Measure,
    ) -> (Option<f64>, Option<Quartiles>) {
        self.compared(workload, label, |_, outcome| storm_of(outcome).and_then(measure.pick))
    }

    fn storms(&self, workload: Workload, label: &str) -> Vec<&Storm> {
        self.rounds_of(workload, label).filter_map(|round| storm_of(round.outcome.as_ref().ok()?)).collect()
    }

    pub(super) fn storm_table(&self) -> Table {
        let mut table = Table::new(&[
            "workload",
            "proxy",
            "clients",
            "refused",
            "all echoed",
            "client p50",
            "client p99",
            "beside p50",
            "beside p99",
            "beside max",
            "peak memory",
            "µs CPU/client",
        ]);
        for workload in self.workloads() {
            for Proxy { label, .. } in &self.proxies {
                let storms = self.storms(workload, label);
                if storms.is_empty() {
                    continue;
                }
                let (mut clients, mut beside) = (Histogram::default(), Histogram::default());
                for storm in &storms {
                    clients.add(&storm.work.latency);
                    beside.add(&storm.beside);
                }
                let quantile = |of: &Histogram, share| of.quantile(share).map_or_else(dash, time);
                let compared = |measure: &Measure, unit: &str| {
                    let (of_it, ratio) = self.storm_compared(workload, label, measure);
                    of_it.map_or_else(dash, |of_it| cell(of_it, ratio).replacen(' ', &format!(" {unit} "), 1))
                };
                let [all, _, peak, cpu] = &MEASURES;
                let some = |pick: fn(&Storm) -> usize| {
                    let counts: Vec<f64> = storms.iter().map(|storm| pick(storm) as f64).collect();
                    median(&counts).map_or_else(dash, |count| format!("{count:.0}"))
                };
                table.add(vec![
                    workload.to_string(),
                    label.clone(),
                    some(|storm| storm.echoed.len()),
                    some(|storm| storm.refused),
                    compared(all, "s"),
                    quantile(&clients, 0.5),
                    quantile(&clients, 0.99),
                    quantile(&beside, 0.5),
                    quantile(&beside, 0.99),
                    quantile(&beside, 1.0),
                    compared(peak, "MiB"),
                    compared(cpu, "µs"),
                ]);
            }
        }
        table
    }

    /// The plot; `None` without a storm that compares.
    pub(super) fn storm_svg(&self) -> Option<String> {
        let shown = |workload: &Workload| workload.shape.is_storm() && workload.shape != Shape::StormAdmission;
        let workloads: Vec<Workload> = self.workloads().into_iter().filter(shown).collect();
        let curves = |workload| -> Vec<Curve<'_>> {
            self.proxies.iter().filter_map(|proxy| Curve::of(proxy, &self.storms(workload, &proxy.label))).collect()
        };
        let panels: Vec<(Workload, Vec<Curve<'_>>)> =
            workloads.into_iter().map(|workload| (workload, curves(workload))).collect();
        let drawn = panels.iter().any(|(_, curves)| !curves.is_empty());
        drawn.then(|| svg(&panels, &self.head))
    }
}

/// What a panel shows of one proxy: medians over the rounds.
struct Curve<'a> {
    proxy: &'a Proxy,
    /// Seconds until each share of the clients had echoed, in [`STEPS`] equal steps.
    seconds: Vec<f64>,
    /// p99 of the established sessions, ms.
    beside: f64,
    /// MiB.
    peak: f64,
}

impl<'a> Curve<'a> {
    fn of(proxy: &'a Proxy, storms: &[&Storm]) -> Option<Curve<'a>> {
        let at = |storm: &Storm, step: usize| {
            let last = storm.echoed.len().checked_sub(1)?;
            storm.echoed.get(last * step / STEPS).map(Duration::as_secs_f64)
        };
        let of_step = |step| median(&storms.iter().filter_map(|storm| at(storm, step)).collect::<Vec<_>>());
        let seconds = (0..=STEPS).map(of_step).collect::<Option<Vec<f64>>>()?;
        let middle = |measure: &Measure| {
            median(&storms.iter().filter_map(|storm| (measure.pick)(storm)).collect::<Vec<_>>()).unwrap_or(0.0)
        };
        let [_, beside, peak, _] = &MEASURES;
        Some(Curve { proxy, seconds, beside: middle(beside), peak: middle(peak) })
    }
}

/// What a bar shows of a proxy.
type Figure = fn(&Curve<'_>) -> f64;

const TOP: f64 = 112.0;
const HEIGHT: f64 = 200.0;
const BETWEEN: f64 = 48.0;
const BAR: f64 = 12.0;
const STEP: f64 = 16.0;
const LINE: f64 = 15.0;

fn svg(panels: &[(Workload, Vec<Curve<'_>>)], head: &[String]) -> String {
    let left = MARGIN + 34.0;
    let width = (WIDTH - left - MARGIN - BETWEEN * (panels.len() as f64 - 1.0)) / panels.len() as f64;
    let most = panels.iter().map(|(_, curves)| curves.len()).max().unwrap_or(0) as f64;
    let bars = TOP + HEIGHT + 62.0;
    let block = 24.0 + most * STEP + 14.0;
    let bottom = bars + 2.0 * block;
    let height = bottom + 16.0 + head.len() as f64 * LINE;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"Helvetica,Arial,sans-serif\" font-size=\"12\">\n\
         <title>Everybody connects at once</title>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"#fff\" stroke=\"#d0d7de\"/>\n",
        WIDTH - 1.0,
        height - 1.0,
    );
    let style = format!("fill=\"{INK}\" font-size=\"17\" font-weight=\"bold\"");
    text(
        &mut out,
        (MARGIN, 34.0),
        "start",
        &style,
        "Everybody connects at once: share of the clients that have their echo, by time",
    );
    legend(&mut out, panels);
    for (place, (workload, curves)) in panels.iter().enumerate() {
        let left = left + place as f64 * (width + BETWEEN);
        let bold = format!("fill=\"{INK}\" font-size=\"13\" font-weight=\"bold\"");
        text(&mut out, (left, TOP - 16.0), "start", &bold, &workload.to_string());
        draw_curves(&mut out, left, width, curves);
        let both: [(&str, Figure); 2] = [
            ("p99 of established sessions' echo meanwhile, ms", |curve| curve.beside),
            ("peak memory, MiB", |curve| curve.peak),
        ];
        for (row, (title, pick)) in both.into_iter().enumerate() {
            draw_bars(&mut out, (left, bars + row as f64 * block), width, title, curves, pick);
        }
    }
    for (number, line) in (0..).zip(head) {
        let at = (MARGIN, bottom + 4.0 + f64::from(number) * LINE);
        text(&mut out, at, "start", &format!("fill=\"{PALE}\" font-size=\"11\""), &escaped(line));
    }
    out + "</svg>\n"
}

fn legend(out: &mut String, panels: &[(Workload, Vec<Curve<'_>>)]) {
    let mut shown: Vec<&Proxy> = Vec::new();
    let mut x = MARGIN;
    for curve in panels.iter().flat_map(|(_, curves)| curves) {
        if shown.contains(&curve.proxy) {
            continue;
        }
        shown.push(curve.proxy);
        let (label, fill) = (&curve.proxy.label, colour(curve.proxy));
        writeln!(out, "<rect x=\"{x:.1}\" y=\"50\" width=\"14\" height=\"12\" rx=\"2\" fill=\"{fill}\"/>")
            .unwrap_or_default();
        text(out, (x + 20.0, 60.5), "start", &format!("fill=\"{INK}\""), &escaped(label));
        x += 48.0 + label.chars().count() as f64 * 6.4;
    }
}

fn draw_curves(out: &mut String, left: f64, width: f64, curves: &[Curve<'_>]) {
    let longest = curves.iter().filter_map(|curve| curve.seconds.last().copied()).fold(0.0, f64::max);
    let tick = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0].into_iter().find(|tick| longest / tick <= 6.0);
    let tick = tick.unwrap_or(20.0);
    let end = (longest / tick).ceil().max(1.0) * tick;
    let x = |seconds: f64| left + seconds / end * width;
    let y = |share: f64| TOP + (1.0 - share) * HEIGHT;
    let pale = format!("fill=\"{PALE}\" font-size=\"11\"");
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        writeln!(out, "<path d=\"M{left:.1} {:.1}h{width:.1}\" stroke=\"#eaeef2\"/>", y(share)).unwrap_or_default();
        text(out, (left - 5.0, y(share) + 4.0), "end", &pale, &format!("{:.0} %", share * 100.0));
    }
    for seconds in (0u32..).map(|number| f64::from(number) * tick).take_while(|seconds| *seconds <= end + tick / 2.0) {
        writeln!(out, "<path d=\"M{:.1} {TOP:.1}v{HEIGHT:.1}\" stroke=\"#eaeef2\"/>", x(seconds)).unwrap_or_default();
        let digits = if tick < 0.1 { 2 } else { usize::from(tick < 1.0) };
        text(out, (x(seconds), TOP + HEIGHT + 15.0), "middle", &pale, &format!("{seconds:.digits$}"));
    }
    text(out, (left + width / 2.0, TOP + HEIGHT + 31.0), "middle", &pale, "seconds since the first connect");
    for curve in curves {
        let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
        for (step, seconds) in (0u32..).zip(&curve.seconds) {
            write!(path, "L{:.1} {:.1}", x(*seconds), y(f64::from(step) / STEPS as f64)).unwrap_or_default();
        }
        writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>", colour(curve.proxy))
            .unwrap_or_default();
    }
}

fn draw_bars(out: &mut String, (left, top): (f64, f64), width: f64, title: &str, curves: &[Curve<'_>], pick: Figure) {
    text(out, (left, top), "start", &format!("fill=\"{INK}\" font-size=\"12\" font-weight=\"bold\""), title);
    let longest = curves.iter().map(pick).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    for (place, curve) in (0u32..).zip(curves) {
        let (y, value) = (top + 10.0 + f64::from(place) * STEP, pick(curve));
        // The figure has its room.
        let bar = (value / longest * (width - 40.0)).max(1.0);
        writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{}\"/>",
            colour(curve.proxy)
        )
        .unwrap_or_default();
        text(
            out,
            (left + bar + 5.0, y + BAR - 2.0),
            "start",
            &format!("fill=\"{INK}\" font-size=\"11\""),
            &figure(value),
        );
    }
}
