//! The counters of the demo page: the proxy's metrics, added up to a few numbers.
//!
//! They are read from the registry behind `/metrics`, so the page and Prometheus cannot disagree.

use std::collections::BTreeMap;

use prometheus::Registry;
use prometheus::proto::Metric;
use serde::Serialize;

/// Sums over all routes. The field names are those of `/stats` and `/events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DemoCounters {
    /// Sessions open now.
    pub sessions_active: u64,
    /// Sessions opened since the start.
    pub sessions: u64,
    /// Text and binary messages that clients sent.
    pub messages_from_clients: u64,
    /// Text and binary messages that servers sent.
    pub messages_from_servers: u64,
    /// Bytes of frames from clients.
    pub bytes_from_clients: u64,
    /// Bytes of frames from servers.
    pub bytes_from_servers: u64,
    /// How many sessions ended with each close code that ever occurred, as the metric names it: `1000`, `4xxx`, `none`.
    pub closes: BTreeMap<String, u64>,
}

impl DemoCounters {
    /// Returns the present sums. It costs as much as a scrape.
    pub fn gather(registry: &Registry) -> DemoCounters {
        let mut sums = DemoCounters::default();
        for family in registry.gather() {
            for metric in family.get_metric() {
                sums.add(family.name(), metric);
            }
        }
        sums
    }

    fn add(&mut self, family: &str, metric: &Metric) {
        let count = metric.get_counter().get_value() as u64;
        match (family, label(metric, "direction")) {
            ("wsluice_sessions_active", _) => self.sessions_active += metric.get_gauge().get_value().max(0.0) as u64,
            ("wsluice_sessions_total", _) => self.sessions += count,
            // Control frames are in the same family but are not messages.
            ("wsluice_messages_total", _) if !matches!(label(metric, "opcode"), "text" | "binary") => {}
            ("wsluice_messages_total", "in") => self.messages_from_clients += count,
            ("wsluice_messages_total", "out") => self.messages_from_servers += count,
            ("wsluice_bytes_total", "in") => self.bytes_from_clients += count,
            ("wsluice_bytes_total", "out") => self.bytes_from_servers += count,
            ("wsluice_session_closes_total", _) if count > 0 => {
                *self.closes.entry(label(metric, "code").to_owned()).or_default() += count;
            }
            _ => {}
        }
    }
}

/// Returns a label's value; empty if the metric has no such label.
fn label<'a>(metric: &'a Metric, name: &str) -> &'a str {
    metric.get_label().iter().find(|pair| pair.name() == name).map_or("", |pair| pair.value())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is the test's failure
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::metrics::{ControlKind, Direction, EndLabels, Initiator, MessageKind, Metrics};

    #[test]
    fn the_sums_are_those_of_the_metrics_over_all_routes() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry, 1).unwrap();
        assert_eq!(DemoCounters::gather(&registry), DemoCounters::default());

        let closed = |code| EndLabels::new(Initiator::Client, Some(code), "closed");
        let chat = metrics.route("demo", "chat", "chat", &[closed(1000)]);
        let echo = metrics.route("demo-tls", "echo", "echo", &[closed(1000), closed(1001)]);
        chat.begin();
        chat.begin();
        echo.begin();
        echo.begin();
        for route in [&chat, &echo] {
            route.frames().message(Direction::In, MessageKind::Text, 5, 1);
            route.frames().message(Direction::Out, MessageKind::Binary, 5, 1);
            route.frames().message(Direction::Out, MessageKind::Text, 0, 1);
            route.frames().control(Direction::In, ControlKind::Ping, 1);
            route.frames().bytes(Direction::In, 11);
            route.frames().bytes(Direction::Out, 9);
            route.end(closed(1000), Duration::ZERO);
        }
        echo.end(closed(4321), Duration::ZERO);
        let expected = DemoCounters {
            sessions_active: 1,
            sessions: 4,
            messages_from_clients: 2,
            messages_from_servers: 4,
            bytes_from_clients: 22,
            bytes_from_servers: 18,
            closes: [("1000".to_owned(), 2), ("4xxx".to_owned(), 1)].into(),
        };
        assert_eq!(DemoCounters::gather(&registry), expected);
    }
}
