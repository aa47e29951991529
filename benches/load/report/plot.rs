//! The ratios as bars: a group a workload, ws on the left and wss on the right, a bar a proxy, a whisker from the lower to
//! the upper quartile, and a line where the baseline is. Shorter is better.
//!
//! The picture brings its own white ground: it is shown on pages whose colour nobody knows.

use std::fmt::Write as _;

use super::words::{dash, figure};
use super::{Proxy, Row};
use crate::proxies::Kind;
use crate::workload::{Shape, Transport};

pub(super) const WIDTH: f64 = 960.0;
pub(super) const MARGIN: f64 = 24.0;
/// Names of the workloads.
const NAMES: f64 = 124.0;
/// Between the panels, and room for the figure of the longest bar.
const BETWEEN: f64 = 44.0;
const PANEL: f64 = (WIDTH - 2.0 * MARGIN - NAMES - 2.0 * BETWEEN) / 2.0;
const BAR: f64 = 12.0;
const STEP: f64 = 15.0;
const GROUP_GAP: f64 = 16.0;
const LINE: f64 = 15.0;

/// A bar that is longer is cut, and says so.
const RATIO_MAX: f64 = 2.5;

pub(super) const INK: &str = "#24292f";
pub(super) const PALE: &str = "#6e7781";

pub fn svg(rows: &[Row], baseline: &str, head: &[String]) -> String {
    let bars: Vec<&Row> = rows.iter().filter(|row| row.ratio.is_some() && row.proxy.label != baseline).collect();
    let (mut shapes, mut proxies): (Vec<Shape>, Vec<&Proxy>) = (Vec::new(), Vec::new());
    for row in &bars {
        if !shapes.contains(&row.workload.shape) {
            shapes.push(row.workload.shape);
        }
        if !proxies.contains(&&row.proxy) {
            proxies.push(&row.proxy);
        }
    }
    let longest = bars.iter().filter_map(|row| Some(row.ratio?.high)).fold(1.2, f64::max).min(RATIO_MAX);
    let group = proxies.len() as f64 * STEP;
    let top = 112.0;
    let bottom = top + shapes.len() as f64 * (group + GROUP_GAP);
    let height = bottom + 38.0 + head.len() as f64 * LINE;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"Helvetica,Arial,sans-serif\" font-size=\"12\">\n\
         <title>Cost of a unit of work, {baseline} = 1</title>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"#fff\" stroke=\"#d0d7de\"/>\n",
        WIDTH - 1.0,
        height - 1.0,
    );
    let title = format!("What a unit of work costs, {} = 1. Shorter is better.", escaped(baseline));
    text(&mut out, (MARGIN, 34.0), "start", &format!("fill=\"{INK}\" font-size=\"17\" font-weight=\"bold\""), &title);
    legend(&mut out, &proxies);
    for transport in [Transport::Ws, Transport::Wss] {
        let left = MARGIN + NAMES + if transport == Transport::Ws { 0.0 } else { PANEL + BETWEEN };
        let panel = Panel { left, longest };
        panel.axis(&mut out, top, bottom, transport);
        for (place, shape) in (0..).zip(&shapes) {
            let y = top + f64::from(place) * (group + GROUP_GAP) + GROUP_GAP / 2.0;
            let here = |row: &&Row| row.workload.shape == *shape && row.workload.transport == transport;
            for row in bars.iter().copied().filter(here) {
                let order = proxies.iter().position(|proxy| **proxy == row.proxy).unwrap_or(0);
                panel.bar(&mut out, row, y + order as f64 * STEP);
            }
        }
    }
    for (place, shape) in (0..).zip(&shapes) {
        let y = top + f64::from(place) * (group + GROUP_GAP) + GROUP_GAP / 2.0 + group / 2.0;
        let bold = format!("fill=\"{INK}\" font-size=\"13\" font-weight=\"bold\"");
        text(&mut out, (MARGIN, y), "start", &bold, &shape.to_string());
        text(
            &mut out,
            (MARGIN, y + 14.0),
            "start",
            &format!("fill=\"{PALE}\" font-size=\"11\""),
            shape_unit(rows, *shape),
        );
    }
    for (number, line) in (0..).zip(head) {
        let at = (MARGIN, bottom + 40.0 + f64::from(number) * LINE);
        text(&mut out, at, "start", &format!("fill=\"{PALE}\" font-size=\"11\""), &escaped(line));
    }
    out + "</svg>\n"
}

fn shape_unit(rows: &[Row], shape: Shape) -> &'static str {
    let row = rows.iter().find(|row| row.workload.shape == shape);
    match row.map(|row| row.workload.cost_unit().0) {
        Some("KiB/connection") => "memory, connection",
        Some("ns/byte") => "CPU, byte",
        Some("µs/message") => "CPU, message",
        Some("µs/connection") => "CPU, connection",
        _ => "CPU, round trip",
    }
}

fn legend(out: &mut String, proxies: &[&Proxy]) {
    let mut x = MARGIN;
    for proxy in proxies {
        let label = match proxy.kind {
            Kind::Floor => "floor: epoll forwarder without HTTP, the limit",
            _ => &proxy.label,
        };
        writeln!(out, "<rect x=\"{x:.1}\" y=\"50\" width=\"14\" height=\"12\" rx=\"2\" fill=\"{}\"/>", colour(proxy))
            .unwrap_or_default();
        text(out, (x + 20.0, 60.5), "start", &format!("fill=\"{INK}\""), &escaped(label));
        x += 48.0 + label.chars().count() as f64 * 6.4;
    }
}

/// One of the two halves.
struct Panel {
    left: f64,
    longest: f64,
}

impl Panel {
    fn x(&self, ratio: f64) -> f64 {
        self.left + ratio.min(self.longest) / self.longest * PANEL
    }

    fn axis(&self, out: &mut String, top: f64, bottom: f64, transport: Transport) {
        let bold = format!("fill=\"{INK}\" font-size=\"13\" font-weight=\"bold\"");
        text(out, (self.left, top - 16.0), "start", &bold, &transport.to_string());
        let step = if self.longest > 1.6 { 0.5 } else { 0.25 };
        for tick in (0..).map(|tick| f64::from(tick) * step).take_while(|tick| *tick <= self.longest) {
            let (x, one) = (self.x(tick), tick == 1.0);
            let stroke = if one { "stroke=\"#57606a\" stroke-width=\"1.5\"" } else { "stroke=\"#eaeef2\"" };
            writeln!(out, "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" {stroke}/>").unwrap_or_default();
            let style = format!("fill=\"{}\" font-size=\"11\"", if one { INK } else { PALE });
            text(out, (x, bottom + 15.0), "middle", &style, &tick.to_string());
        }
    }

    fn bar(&self, out: &mut String, row: &Row, y: f64) {
        let Some(ratio) = row.ratio else { return };
        let (start, end, middle) = (self.x(0.0), self.x(ratio.median), y + BAR / 2.0);
        let (low, high) = (self.x(ratio.low), self.x(ratio.high));
        writeln!(
            out,
            "<rect x=\"{start:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{}\"/>\n\
             <path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v6M{high:.1} {:.1}v6\" stroke=\"{INK}\"/>",
            (end - start).max(1.0),
            colour(&row.proxy),
            middle - 3.0,
            middle - 3.0,
        )
        .unwrap_or_default();
        let cut = if ratio.median > self.longest { "→ " } else { "" };
        let digits = if ratio.median < 0.1 { 3 } else { 2 };
        // Written on white, so that the baseline's line does not run through it.
        let label = format!("{cut}{:.digits$}", ratio.median);
        let at = (end.max(high) + 5.0, y + BAR - 2.0);
        let style =
            format!("fill=\"{INK}\" font-size=\"11\" paint-order=\"stroke\" stroke=\"#fff\" stroke-width=\"3\"");
        text(out, at, "start", &style, &label);
        let cost = row.cost.map_or_else(dash, figure);
        writeln!(out, "<!-- {} {}: {cost} {} -->", row.workload, escaped(&row.proxy.label), row.workload.cost_unit().0)
            .unwrap_or_default();
    }
}

/// Told apart by everybody (Okabe and Ito's palette).
pub(super) fn colour(proxy: &Proxy) -> &'static str {
    match proxy.kind {
        Kind::Wsluice if proxy.label == Kind::Wsluice.to_string() => "#0072b2",
        // A wsluice to compare with.
        Kind::Wsluice => "#56b4e9",
        Kind::Nginx => "#009e73",
        Kind::Haproxy => "#e69f00",
        Kind::Floor | Kind::Direct => "#afb8c1",
    }
}

pub(super) fn escaped(content: &str) -> String {
    content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(super) fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, style: &str, content: &str) {
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{content}</text>")
        .unwrap_or_default();
}
