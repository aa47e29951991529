//! wsluice as users run it: frames judged and counted, metrics and keep-alive and idle timers on, only no access log,
//! as with the others.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::Plan;

pub(super) fn prepare(command: &mut Command, plan: &Plan<'_>) -> Result<()> {
    let config = plan.directory.join("wsluice.yaml");
    fs::write(&config, text(plan))?;
    command.arg("run").arg("--config").arg(config);
    Ok(())
}

fn text(plan: &Plan<'_>) -> String {
    let Plan { plain_port, tls_port, backend, workers, admin_port, identity, .. } = plan;
    format!(
        r#"version: 1
workers: {workers}
listeners:
  - name: plain
    bind: "127.0.0.1:{plain_port}"
  - name: tls
    bind: "127.0.0.1:{tls_port}"
    tls:
      certificates:
        - {{ cert: "{cert}", key: "{key}" }}
      min_version: "1.3"
routes:
  - name: load
    match: {{ path: {{ prefix: / }} }}
    upstream: backend
    timeouts: {{ idle: 1h }}
    keepalive: {{ ping: 30s, pong: 10s }}
upstreams:
  backend:
    balance: round_robin
    endpoints:
      - "ws://{backend}"
admin: {{ bind: "127.0.0.1:{admin_port}" }}
log: {{ level: warn, access: false }}
drain: {{ time: 1s }}
"#,
        cert = identity.cert_file().display(),
        key = identity.key_file().display(),
    )
}

/// What `cargo test --benches` holds this file to: wsluice understands it, and has nothing to remark.
pub(super) fn check_itself(plan: &Plan<'_>) -> Result<()> {
    match wsluice::config::load_str("wsluice.yaml", &text(plan), &|_| None) {
        Ok(loaded) => ensure!(loaded.warnings.is_empty(), "warnings of wsluice's configuration: {:?}", loaded.warnings),
        Err(errors) => bail!("{errors}"),
    }
    Ok(())
}
