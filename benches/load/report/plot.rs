//! The ratios as bars: one group a workload, a bar a proxy, a whisker from the lower to the upper quartile, and a line
//! where the baseline is. Shorter is better.

use std::fmt::Write as _;

use super::Row;
use super::words::figure;
use crate::proxies::Kind;
use crate::workload::Workload;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 190.0;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;
const LINE: f64 = 16.0;

pub fn svg(rows: &[Row], baseline: &str, head: &[String]) -> String {
    let bars: Vec<&Row> = rows.iter().filter(|row| row.ratio.is_some()).collect();
    let most = bars.iter().filter_map(|row| Some(row.ratio?.high)).fold(1.2, f64::max);
    let x = |ratio: f64| LEFT + ratio / most * (WIDTH - LEFT - RIGHT);
    let top = 44.0 + head.len() as f64 * LINE;
    let (mut body, mut y, mut last) = (String::new(), top, None);
    for row in &bars {
        if last != Some(row.workload) {
            y += if last.is_some() { GAP } else { 0.0 };
            last = Some(row.workload);
            text(&mut body, LEFT - 8.0, y + BAR - 2.0, "end", "bold", &row.workload.to_string());
        }
        bar(&mut body, row, y, x);
        y += BAR + 2.0;
    }
    let bottom = y + 6.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>Cost compared with {baseline}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        height = bottom + 24.0,
    );
    let title = format!("Proxy cost per unit of work, {baseline} = 1 (shorter is better)");
    text(&mut out, 12.0, 22.0, "start", "bold", &title);
    for (number, line) in head.iter().enumerate() {
        text(&mut out, 12.0, 40.0 + number as f64 * LINE, "start", "normal", line);
    }
    let step = if most > 3.0 { 1.0 } else { 0.25 };
    for tick in (0..).map(|tick| f64::from(tick) * step).take_while(|tick| *tick <= most) {
        let (at, stroke) = (x(tick), if tick == 1.0 { "#444" } else { "#e4e4e4" });
        writeln!(out, "<path d=\"M{at:.1} {top:.1}V{bottom:.1}\" stroke=\"{stroke}\"/>").unwrap_or_default();
        text(&mut out, at, bottom + 14.0, "middle", "normal", &tick.to_string());
    }
    out + &body + "</svg>\n"
}

fn bar(out: &mut String, row: &Row, y: f64, x: impl Fn(f64) -> f64) {
    let (Some(ratio), Some(cost)) = (row.ratio, row.cost) else { return };
    let (start, end, middle) = (x(0.0), x(ratio.median), y + BAR / 2.0);
    let (low, high) = (x(ratio.low), x(ratio.high));
    writeln!(
        out,
        "<rect x=\"{start:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\n\
         <path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v6M{high:.1} {:.1}v6\" stroke=\"#222\"/>",
        end - start,
        colour(row.proxy.kind),
        middle - 3.0,
        middle - 3.0,
    )
    .unwrap_or_default();
    let (unit, _) = Workload::cost_unit(row.workload);
    let label = format!("{} {:.2} ({} {unit})", row.proxy.label, ratio.median, figure(cost));
    text(out, end.max(high) + 6.0, y + BAR - 3.0, "start", "normal", &label);
}

/// Told apart by everybody (Okabe and Ito's palette).
fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Wsluice => "#0072b2",
        Kind::Nginx => "#009e73",
        Kind::Haproxy => "#e69f00",
        Kind::Direct => "#999999",
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, weight: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\">{content}</text>")
        .unwrap_or_default();
}
