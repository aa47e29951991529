//! The model as text.

use std::fmt::Write as _;

use crate::import::report::Summary;
use crate::import::yaml::{Block, write_comments};

/// Writes everything. `has_no_log` is true where nginx writes no access log at all.
pub(super) fn write(
    path: &str,
    head: &[String],
    listeners: &[Block],
    routes: &[Block],
    upstreams: &[(String, Block)],
    has_no_log: bool,
    summary: &Summary,
) -> String {
    let path: String = path.chars().flat_map(char::escape_debug).collect();
    let mut out = format!("# From {path} by `wsluice import nginx`: {}.\n", summary.sentence());
    let guards = summary.lost.iter().filter(|lost| lost.is_guard);
    let guards: Vec<String> = guards.map(|lost| format!("  {lost}")).collect();
    if !guards.is_empty() {
        out.push_str("# Who may come in, look at these first:\n");
        write_comments(&guards, "", &mut out);
    }
    out.push_str(
        "# nginx looks at no Origin. wsluice lets in pages of the same origin; others are named in `origins` of a route.\n",
    );
    if !head.is_empty() {
        out.push_str("#\n");
        write_comments(head, "", &mut out);
    }
    out.push_str("version: 1\n\nlisteners:\n");
    listeners.iter().for_each(|listener| listener.write_item(&mut out));
    out.push_str("\nroutes:\n");
    for (index, route) in routes.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        route.write_item(&mut out);
    }
    out.push_str(if upstreams.is_empty() { "\nupstreams: {}\n" } else { "\nupstreams:\n" });
    for (name, upstream) in upstreams {
        upstream.write_named(name, &mut out);
    }
    if has_no_log {
        let _ = writeln!(out, "\nlog: {{ access: false }}");
    }
    out
}
