//! Changes by an operator while sessions exchange messages: their clients notice nothing, or exactly what was configured.

mod certificates;
mod end;
mod reload;
mod storm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;
use wsluice::net::listener::Address;

use crate::harness::traffic::{Client, Peers, Talk, To};
use crate::harness::{Authority, value};
use crate::process::{Process, ask, put, wsluice};

/// A process with a plain listener, one with TLS, and an admin listener, before one server.
struct Site {
    process: Process,
    peers: Peers,
    authority: Authority,
    certificate: (PathBuf, PathBuf),
    dir: TempDir,
    /// The configuration written last.
    text: String,
    plain: Address,
    secure: Address,
    admin: Address,
}

/// The name in the certificate.
const NAME: &str = "chat.test";

impl Site {
    /// Starts it with these lines of configuration added.
    async fn start(more: &str) -> Site {
        Site::start_as(more, |dir, text| {
            put(&dir.join("wsluice.yaml"), text);
            dir.join("wsluice.yaml")
        })
        .await
    }

    /// Like `start`; `write` puts the configuration into a directory and returns its path.
    async fn start_as(more: &str, write: impl FnOnce(&Path, &str) -> PathBuf) -> Site {
        let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
        let (peers, certificate) = (Peers::start().await, authority.issue("own", &[NAME]));
        let text = configuration(peers.url(), &certificate, more);
        let file = write(dir.path(), &text);
        let mut process = Process::spawn(wsluice(&["run", "--config", file.to_str().unwrap()]));
        let (plain, secure, admin) = (process.listening().await, process.listening().await, process.admin().await);
        Site { process, peers, authority, certificate, dir, text, plain, secure, admin }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("wsluice.yaml")
    }

    fn plain(&self) -> To {
        To::plain(&self.plain)
    }

    fn secure(&self, config: &Arc<ClientConfig>) -> To {
        To::tls(&self.secure, NAME, config)
    }

    /// Opens a session of each kind: ws and wss, echoed and pushed.
    async fn sessions(&self, path: &str) -> Vec<Client> {
        let mut clients = vec![];
        let config = self.authority.client();
        for to in [self.plain(), self.secure(&config)] {
            for talk in [Talk::to(path), Talk::to(path).push()] {
                clients.push(Client::open(&to, &talk).await);
            }
        }
        clients
    }

    /// Returns the configuration with one text replaced.
    fn changed(&mut self, from: &str, to: &str) -> String {
        assert!(self.text.contains(from), "{from}");
        self.text = self.text.replace(from, to);
        self.text.clone()
    }

    async fn metrics(&self) -> String {
        ask(&self.admin, "/metrics").await.1
    }

    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        value(&self.metrics().await, name, labels)
    }

    /// Waits for the next log message about the result of a reload.
    async fn reloaded(&mut self, trigger: &str, message: &str) -> Value {
        loop {
            let line = self.process.message(message).await;
            if line["trigger"] == trigger {
                return line;
            }
        }
    }
}

fn configuration(endpoint: &str, (cert, key): &(PathBuf, PathBuf), more: &str) -> String {
    format!(
        r#"
workers: 2
listeners:
  - {{ name: plain, bind: "127.0.0.1:0" }}
  - {{ name: secure, bind: "127.0.0.1:0", tls: {{ certificates: [{{ cert: {cert:?}, key: {key:?} }}] }} }}
routes:
  - {{ name: one, match: {{ path: {{ prefix: /one }} }}, upstream: app }}
upstreams:
  app: {{ endpoints: ["{endpoint}"] }}
admin: {{ bind: "127.0.0.1:0" }}
{more}
"#
    )
}

/// Finishes all sessions, and fails if one has missed a message.
async fn finish(clients: Vec<Client>, peers: &Peers) {
    for client in clients {
        let report = client.finish().await;
        let other = peers.report(report.id).await;
        assert_eq!((other.sent, other.received), (report.received, report.sent), "{report:?} {other:?}");
        assert!(report.received > 0, "{report:?}");
    }
    peers.check();
}

/// Waits until each has received more messages.
async fn all_hear(clients: &[Client]) {
    for client in clients {
        client.hears(2).await;
    }
}
