//! External servers, started on free ports and stopped with the test.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{DEADLINE, within};

/// A process that is killed when it is dropped.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Running {
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        // An error means that it has already ended.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns whether `program` is installed. Without it a test prints so and does nothing; CI installs it.
pub fn is_here(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// Returns a port that is free for TCP and UDP, or was a moment ago.
pub fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until the port accepts connections.
pub async fn listens(port: u16) {
    within("a server that starts", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// dnsmasq, which answers only for `test.`, with the configured hosts.
pub struct Dnsmasq {
    dir: TempDir,
    port: u16,
    /// More options, as `--srv-host=…`.
    pub options: Vec<String>,
    running: Option<Running>,
}

impl Dnsmasq {
    pub async fn start(hosts: &str, options: &[&str]) -> Dnsmasq {
        let options = options.iter().map(ToString::to_string).collect();
        let mut dnsmasq = Dnsmasq { dir: TempDir::new().unwrap(), port: free_port(), options, running: None };
        std::fs::write(dnsmasq.dir.path().join("hosts"), hosts).unwrap();
        dnsmasq.restart().await;
        dnsmasq
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it, or restarts it if it runs.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"]);
        command.args(["--bind-interfaces", "--listen-address=127.0.0.1", "--local=/test/"]);
        command.arg(format!("--port={}", self.port));
        command.arg(format!("--addn-hosts={}", self.dir.path().join("hosts").display()));
        // Otherwise it changes to a user who may not read the file.
        if rustix::process::geteuid().is_root() {
            command.arg("--user=root");
        }
        self.running = Some(Running::start(command.args(&self.options)));
        listens(self.port).await;
    }

    /// Kills it.
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// Sets the hosts from now on.
    pub fn hosts(&self, hosts: &str) {
        std::fs::write(self.dir.path().join("hosts"), hosts).unwrap();
        let pid = self.running.as_ref().unwrap().0.id();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::HUP).unwrap();
    }
}

/// One etcd, a cluster of its own.
pub struct EtcdServer {
    dir: TempDir,
    port: u16,
    peer_port: u16,
    running: Option<Running>,
    /// Sets the user, once there are users.
    pub token: Option<String>,
}

impl EtcdServer {
    pub async fn start() -> EtcdServer {
        let dir = TempDir::new().unwrap();
        let mut server = EtcdServer { dir, port: free_port(), peer_port: free_port(), running: None, token: None };
        server.restart().await;
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it with its stored data, or restarts it if it runs.
    pub async fn restart(&mut self) {
        self.kill();
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.dir.path()).args(["--name", "test", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("test={peer}")]);
        self.running = Some(Running::start(&mut command));
        listens(self.port).await;
        within("an etcd that has a leader", async {
            while self.try_post("/v3/kv/range", &json!({ "key": "AA==" })).await.is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Kills it.
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// Deletes all its data.
    pub async fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("member")).unwrap();
        self.restart().await;
    }

    pub async fn post(&self, path: &str, request: Value) -> Value {
        let answer = self.try_post(path, &request).await;
        answer.unwrap_or_else(|| panic!("etcd does not like {path} {request}"))
    }

    async fn try_post(&self, path: &str, request: &Value) -> Option<Value> {
        tokio::time::timeout(DEADLINE, async {
            let mut stream = TcpStream::connect(self.address()).await.ok()?;
            let body = request.to_string();
            let token = self.token.iter().map(|token| format!("Authorization: {token}\r\n")).collect::<String>();
            let length = body.len();
            // HTTP/1.0: the answer comes whole, and then the connection ends.
            let head = format!("POST {path} HTTP/1.0\r\nHost: etcd\r\n{token}Content-Length: {length}\r\n\r\n{body}");
            stream.write_all(head.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            head.split(' ').nth(1).filter(|status| *status == "200")?;
            serde_json::from_str(body).ok()
        })
        .await
        .ok()?
    }

    pub async fn put(&self, key: &str, value: &str) -> i64 {
        self.put_with(key, value, None).await
    }

    /// Writes a key, with a lease if given; returns the revision.
    pub async fn put_with(&self, key: &str, value: &str, lease: Option<&str>) -> i64 {
        let (key, value) = (BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(value));
        let mut request = json!({ "key": key, "value": value });
        if let Some(lease) = lease {
            request["lease"] = json!(lease);
        }
        let answer = self.post("/v3/kv/put", request).await;
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    pub async fn delete(&self, key: &str) {
        self.post("/v3/kv/deleterange", json!({ "key": BASE64_STANDARD.encode(key) })).await;
    }

    /// Creates a lease of this many seconds.
    pub async fn lease(&self, seconds: u32) -> String {
        let answer = self.post("/v3/lease/grant", json!({ "TTL": seconds.to_string() })).await;
        answer["ID"].as_str().unwrap().to_owned()
    }
}

/// Writes a file in one step, as tools should.
pub fn put_in_place(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}
