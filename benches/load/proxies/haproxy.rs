//! HAProxy: one process, one thread, HTTP mode with a tunnel timeout.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::Plan;

/// Its `maxconn` needs two descriptors a connection and some more, within the usual hard limit of 20,000.
pub const CONNECTIONS_MAX: usize = 8_000;

pub(super) fn prepare(command: &mut Command, plan: &Plan<'_>) -> Result<()> {
    let Plan { plain_port, tls_port, backend, workers, identity, directory, .. } = plan;
    let config = directory.join("haproxy.cfg");
    let text = format!(
        r#"global
    nbthread {workers}
    maxconn {CONNECTIONS_MAX}
    ssl-default-bind-options ssl-min-ver TLSv1.3

defaults
    mode http
    maxconn {CONNECTIONS_MAX}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h

frontend public
    bind 127.0.0.1:{plain_port} backlog 4096
    bind 127.0.0.1:{tls_port} backlog 4096 ssl crt {bundle}
    default_backend echo

backend echo
    server one {backend}
"#,
        bundle = identity.bundle_file().display(),
    );
    fs::write(&config, text)?;
    command.arg("-db").arg("-f").arg(config);
    Ok(())
}
