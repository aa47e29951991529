//! A redis-server on a port of its own.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::discovery::{Running, free_port};
use crate::harness::{DEADLINE, within};

/// A server that is killed when it is dropped.
pub struct RedisServer {
    dir: TempDir,
    host: &'static str,
    port: u16,
    options: Vec<String>,
    running: Option<Running>,
}

impl RedisServer {
    pub async fn start() -> RedisServer {
        RedisServer::start_at("127.0.0.1", free_port(), &[]).await
    }

    /// Starts it at this address, with more options.
    pub async fn start_at(host: &'static str, port: u16, options: &[&str]) -> RedisServer {
        let options = options.iter().map(ToString::to_string).collect();
        let mut server = RedisServer { dir: TempDir::new().unwrap(), host, port, options, running: None };
        server.restart().await;
        server
    }

    /// Starts one that speaks TLS only.
    pub async fn start_tls(cert: &Path, key: &Path, ca: &Path) -> RedisServer {
        let port = free_port();
        let (cert, key, ca) = (cert.display().to_string(), key.display().to_string(), ca.display().to_string());
        let (tls_port, plain_port) = (port.to_string(), free_port());
        let tls = ["--tls-port", &tls_port, "--tls-cert-file", &cert, "--tls-key-file", &key];
        let options = [&tls[..], &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"]].concat();
        // The plain port is for the test.
        RedisServer::start_at("127.0.0.1", plain_port, &options).await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.host, self.port)
    }

    /// Starts it without data.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", self.host, "--save", "", "--appendonly", "no"]);
        command.args(["--dir", self.dir.path().to_str().unwrap()]).args(&self.options);
        self.running = Some(Running::start(&mut command));
        within("a server that starts", async {
            while TcpStream::connect((self.host, self.port)).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// Stops it in the middle of whatever it does.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.running.as_ref().unwrap().0), signal).unwrap();
    }

    /// Returns a connection of the test.
    pub fn connection(&self) -> redis::Connection {
        let connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        connection
    }

    /// Says a command, its words separated by spaces.
    pub fn say<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query(&mut self.connection()).unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // A stopped process is killed all the same, but not waited for by its own children.
        self.kill();
    }
}
