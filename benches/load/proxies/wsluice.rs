//! wsluice as users run it: frames judged and counted, metrics and keep-alive and idle timers on, only no access log,
//! as with the others.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::{APART, Plan};
use crate::args::Admission;

pub(super) fn prepare(command: &mut Command, plan: &Plan<'_>) -> Result<()> {
    let config = plan.directory.join("wsluice.yaml");
    fs::write(&config, text(plan))?;
    command.arg("run").arg("--config").arg(config);
    Ok(())
}

fn text(plan: &Plan<'_>) -> String {
    let Plan { plain_port, tls_port, behind, workers, admin_port, identity, .. } = plan;
    let mut routes = route("load", "/", "load");
    let mut upstreams = upstream("load", &behind.endpoints);
    if let Some(Admission { per_second }) = behind.admission {
        let wait = Admission::WAIT;
        upstreams += &format!("    admission: {{ rate: {per_second}/s, wait: {wait}s }}\n");
    }
    if let Some(apart) = behind.apart {
        routes.insert_str(0, &route("apart", APART, "apart"));
        upstreams += &upstream("apart", &[apart]);
    }
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
{routes}upstreams:
{upstreams}admin: {{ bind: "127.0.0.1:{admin_port}" }}
log: {{ level: warn, access: false }}
drain: {{ time: 1s }}
"#,
        cert = identity.cert_file().display(),
        key = identity.key_file().display(),
    )
}

fn route(name: &str, prefix: &str, upstream: &str) -> String {
    format!(
        r#"  - name: {name}
    match: {{ path: {{ prefix: {prefix} }} }}
    upstream: {upstream}
    timeouts: {{ idle: 1h }}
    keepalive: {{ ping: 30s, pong: 10s }}
"#
    )
}

fn upstream(name: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: String = endpoints.iter().map(|endpoint| format!("      - \"ws://{endpoint}\"\n")).collect();
    format!("  {name}:\n    balance: round_robin\n    endpoints:\n{endpoints}")
}

/// What `cargo test --benches` holds this file to: wsluice understands it, and has nothing to remark.
pub(super) fn check_itself(plan: &Plan<'_>) -> Result<()> {
    match wsluice::config::load_str("wsluice.yaml", &text(plan), &|_| None) {
        Ok(loaded) => ensure!(loaded.warnings.is_empty(), "warnings of wsluice's configuration: {:?}", loaded.warnings),
        Err(errors) => bail!("{errors}"),
    }
    Ok(())
}
