//! The application under test, with its log and metrics.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::Registry;
use serde_json::Value;
use wsluice::app::{App, Drained};
use wsluice::config::load_str;
use wsluice::control::context::LogOutput;
use wsluice::control::{Changes, ProcessOrigin, ReloadError, Trigger};
use wsluice::net::listener::Address;
use wsluice::telemetry::exposition;
use wsluice::telemetry::logging::Format;
use wsluice::telemetry::sink::LogSink;

use super::{Conn, eventually, series, within};

/// Returns a configuration with a plain listener `plain` on a free port and one route `all` to `endpoints`, with more lines
/// for the route.
pub fn yaml(endpoints: &[&str], route: &[&str]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|url| format!("{url:?}")).collect();
    let route: String = route.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        r#"
version: 1
workers: 1
listeners:
  - {{ name: plain, bind: "127.0.0.1:0" }}
routes:
  - name: all
    upstream: app
{route}
upstreams:
  app: {{ endpoints: [{}] }}
"#,
        endpoints.join(", ")
    )
}

/// Like [`yaml`], with endpoints that take turns.
pub fn in_turn(endpoints: &[&str], route: &[&str]) -> String {
    yaml(endpoints, route).replace("{ endpoints:", "{ balance: round_robin, endpoints:")
}

/// A running proxy. Dropping it ends its sessions and waits for its threads.
#[derive(Debug)]
pub struct Proxy {
    pub app: App,
    sink: LogSink,
    lines: Arc<Mutex<Vec<u8>>>,
    /// The text that a reload reads.
    yaml: Arc<Mutex<String>>,
    listeners: Vec<(Arc<str>, Address)>,
}

/// Collects the lines of the log.
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Proxy {
    /// Starts a proxy with this configuration.
    #[track_caller]
    pub fn start(yaml: &str) -> Proxy {
        Proxy::start_as(yaml, Format::Json)
    }

    /// Like [`Proxy::start`], with this format of the access log.
    #[track_caller]
    pub fn start_as(yaml: &str, format: Format) -> Proxy {
        Proxy::start_from(ProcessOrigin::default(), yaml, format)
    }

    /// Like [`Proxy::start_as`], with inherited sockets and the like.
    #[track_caller]
    pub fn start_from(origin: ProcessOrigin, yaml: &str, format: Format) -> Proxy {
        let loaded = load_str("test.yaml", yaml, &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = LogSink::new(Lines(Arc::clone(&lines))).unwrap();
        let output = LogOutput { sink: sink.clone(), terminal: format == Format::Human, switch: None };
        let yaml = Arc::new(Mutex::new(yaml.to_owned()));
        let loader = {
            let yaml = Arc::clone(&yaml);
            Arc::new(move || load_str("test.yaml", &yaml.lock().unwrap(), &|_| None))
        };
        let app = App::start_from(origin, loaded, Some(loader), Registry::new(), output).unwrap();
        let listeners = app.listeners();
        Proxy { app, sink, lines, yaml, listeners }
    }

    /// Activates another configuration.
    pub async fn reload(&mut self, yaml: &str) -> Result<Changes, ReloadError> {
        yaml.clone_into(&mut self.yaml.lock().unwrap());
        let changes = within("reload", self.app.control().reload(Trigger::Api)).await;
        self.listeners = self.app.listeners();
        changes
    }

    /// Returns the configuration that it read last.
    pub fn yaml(&self) -> String {
        self.yaml.lock().unwrap().clone()
    }

    /// Returns the address of the first listener.
    pub fn address(&self) -> &Address {
        &self.listeners[0].1
    }

    /// Returns the address of a listener.
    pub fn listener(&self, name: &str) -> &Address {
        let found = self.listeners.iter().find(|(found, _)| &**found == name);
        &found.unwrap_or_else(|| panic!("no listener {name}")).1
    }

    /// Connects a client to the first listener.
    pub async fn client(&self) -> Conn {
        Conn::connect(self.address()).await
    }

    /// Returns the metrics in the text format.
    pub fn metrics(&self) -> String {
        exposition::encode(self.app.registry()).unwrap()
    }

    /// Returns the value of the series with this name and all of its labels in any order; `None` if there is none.
    pub fn series(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        series(&self.metrics(), name, labels)
    }

    /// Like [`Proxy::series`], but 0 if there is no such series.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).unwrap_or(0.0)
    }

    /// Waits until a series has this value.
    pub async fn metric_becomes(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} becoming {value}");
        eventually(&what, || (self.metric(name, labels) == value).then_some(())).await;
    }

    /// Waits until no connection and no session is left.
    pub async fn idle(&self) {
        eventually("the end of all connections", || (self.app.active() == 0).then_some(())).await;
    }

    /// Returns the lines of the access log so far.
    pub fn log_text(&self) -> Vec<String> {
        assert!(self.sink.flush(Duration::from_secs(10)), "the log does not get written");
        let bytes = self.lines.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    /// Returns the access log so far, as JSON.
    pub fn log(&self) -> Vec<Value> {
        self.log_text().iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    /// Waits for the first `count` lines of the access log.
    pub async fn log_lines(&self, count: usize) -> Vec<Value> {
        let what = format!("{count} lines in the access log");
        eventually(&what, || Some(self.log()).filter(|log| log.len() >= count)).await
    }

    /// Drains, as after TERM.
    pub async fn drain(&mut self) -> Drained {
        self.app.drain().await
    }
}
