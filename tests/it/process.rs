//! The binary as a process: a test starts it, reads its log, and sends it signals; its end ends the process.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use wsluice::net::listener::Address;

use crate::harness::{Conn, eventually, within};

/// Returns the command of the binary, without variables of the test's environment that it would read.
pub fn wsluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsluice"));
    command.args(arguments).env_remove("WSLUICE_CONFIG").stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    wsluice(arguments).output().unwrap()
}

/// Returns its output, stdout then stderr.
pub fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// A running binary whose lines are read as they come. Dropping it kills it.
pub struct Process {
    child: Child,
    log: UnboundedReceiver<String>,
    /// The lines of the log so far.
    pub seen: Vec<String>,
}

impl Process {
    /// Starts it with this configuration, from a file in `dir`.
    pub fn start(dir: &Path, yaml: &str) -> Process {
        let file = dir.join("wsluice.yaml");
        std::fs::write(&file, yaml).unwrap();
        Process::spawn(wsluice(&["run", "--config", file.to_str().unwrap()]))
    }

    pub fn spawn(mut command: Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, log) = unbounded_channel();
        let lines = |output: Box<dyn Read + Send>, sender: UnboundedSender<String>| {
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

    /// Waits for the next line for which `check` returns a value, and skips those before.
    pub async fn line<T>(&mut self, what: &str, mut check: impl FnMut(&str) -> Option<T>) -> T {
        within(what, async {
            loop {
                let line = self.log.recv().await;
                let line = line.unwrap_or_else(|| panic!("it ended without {what}: {:#?}", self.seen));
                let found = check(&line);
                self.seen.push(line);
                if let Some(found) = found {
                    return found;
                }
            }
        })
        .await
    }

    /// Waits for the next line with this message.
    pub async fn message(&mut self, message: &str) -> Value {
        self.line(message, |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            value["message"].as_str().is_some_and(|found| found.starts_with(message)).then_some(value)
        })
        .await
    }

    /// Waits for the next listener in the log, and returns its address.
    pub async fn listening(&mut self) -> Address {
        address(&self.message("listening").await)
    }

    /// Returns the address of the admin listener, which is logged after the others.
    pub async fn admin(&mut self) -> Address {
        address(&self.message("admin: ").await)
    }

    /// Returns its process id, for /proc.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Returns its exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns true while it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end. Returns all lines that were not read yet.
    pub async fn end(&mut self) -> ExitStatus {
        let status = eventually("the end of the process", || self.child.try_wait().unwrap()).await;
        while let Some(line) = within("the end of its output", self.log.recv()).await {
            self.seen.push(line);
        }
        status
    }

    /// Returns all lines of the access log so far.
    pub fn access(&mut self) -> Vec<Value> {
        while let Ok(line) = self.log.try_recv() {
            self.seen.push(line);
        }
        let values = self.seen.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        values.filter(|value| value["target"] == "access").collect()
    }
}

/// Replaces a file atomically, as editors do.
pub fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Sends a GET to the admin listener. Returns status and body.
pub async fn ask(admin: &Address, path: &str) -> (u16, String) {
    let mut conn = Conn::connect(admin).await;
    conn.send(crate::plain::at_home(path)).await;
    let head = conn.head().await;
    (head.status(), String::from_utf8(conn.body(&head).await).unwrap())
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the address in a log line about a listener.
pub fn address(line: &Value) -> Address {
    let text = line["address"].as_str().unwrap();
    match text.parse::<SocketAddr>() {
        Ok(address) => Address::Tcp(address),
        Err(_) => Address::Unix(text.strip_prefix("unix:").unwrap().into()),
    }
}
