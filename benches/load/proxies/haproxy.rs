//! HAProxy: one process, one thread, HTTP mode with a tunnel timeout.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::{APART, Plan};

/// Its `maxconn` needs two descriptors a connection and some more, within the usual hard limit of 20,000.
pub const CONNECTIONS_MAX: usize = 9_600;

pub(super) fn prepare(command: &mut Command, plan: &Plan<'_>) -> Result<()> {
    let Plan { plain_port, tls_port, behind, workers, identity, directory, .. } = plan;
    let servers: String =
        (0..).zip(&behind.endpoints).map(|(at, endpoint)| format!("    server s{at} {endpoint}\n")).collect();
    let (rule, apart) = behind.apart.map_or_else(Default::default, |apart| {
        let rule = format!("    use_backend apart if {{ path_beg {APART} }}\n");
        (rule, format!("\nbackend apart\n    server one {apart}\n"))
    });
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
{rule}    default_backend echo

backend echo
{servers}{apart}"#,
        bundle = identity.bundle_file().display(),
    );
    fs::write(&config, text)?;
    command.arg("-db").arg("-f").arg(config);
    Ok(())
}
