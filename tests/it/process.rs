//! The binary as a process: started, listened to, sent signals, and ended with the test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wsluice::net::listener::Address;

use crate::harness::DEADLINE;

/// The binary, with nothing of the test's environment that it would read.
pub fn wsluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsluice"));
    command.args(arguments).env_remove("WSLUICE_CONFIG").stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    wsluice(arguments).output().unwrap()
}

/// What it wrote, stdout then stderr.
pub fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// A running binary whose lines are read as they come. Dropping it kills it.
pub struct Process {
    child: Child,
    log: Receiver<String>,
    /// Lines of the log so far.
    pub seen: Vec<String>,
}

impl Process {
    /// Runs with this configuration, out of a file in `dir`.
    pub fn start(dir: &Path, yaml: &str) -> Process {
        let file = dir.join("wsluice.yaml");
        std::fs::write(&file, yaml).unwrap();
        Process::spawn(wsluice(&["run", "--config", file.to_str().unwrap()]))
    }

    pub fn spawn(mut command: Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, log) = channel();
        let lines = |output: Box<dyn Read + Send>, sender: std::sync::mpsc::Sender<String>| {
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        };
        lines(Box::new(child.stderr.take().unwrap()), sender.clone());
        lines(Box::new(child.stdout.take().unwrap()), sender);
        Process { child, log, seen: vec![] }
    }

    /// The next line for which `check` gives something; those before it count as seen.
    #[track_caller]
    pub fn line<T>(&mut self, what: &str, mut check: impl FnMut(&str) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.log.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = check(&line);
                    self.seen.push(line);
                    if let Some(found) = found {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} within {DEADLINE:?}: {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended without {what}: {:#?}", self.seen),
            }
        }
    }

    /// The next line of JSON with this message.
    #[track_caller]
    pub fn message(&mut self, message: &str) -> Value {
        self.line(message, |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            value["message"].as_str().is_some_and(|found| found.starts_with(message)).then_some(value)
        })
    }

    /// The address of the next listener that the log tells of.
    #[track_caller]
    pub fn listening(&mut self) -> Address {
        address(&self.message("listening"))
    }

    /// The address of the admin listener, told after those of the others.
    #[track_caller]
    pub fn admin(&mut self) -> Address {
        address(&self.message("admin: "))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its end, and all lines that were not yet seen.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end: {:#?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        };
        // Both pipes are closed, so this ends.
        self.seen.extend(self.log.iter());
        status
    }

    /// All lines so far that are an access line.
    pub fn access(&mut self) -> Vec<Value> {
        self.seen.extend(self.log.try_iter());
        let values = self.seen.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        values.filter(|value| value["target"] == "access").collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(line: &Value) -> Address {
    let text = line["address"].as_str().unwrap();
    match text.parse::<SocketAddr>() {
        Ok(address) => Address::Tcp(address),
        Err(_) => Address::Unix(text.strip_prefix("unix:").unwrap().into()),
    }
}
