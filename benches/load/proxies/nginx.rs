//! nginx: one worker process, WebSocket proxying as its manual describes it.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::{APART, Plan};

pub(super) fn prepare(command: &mut Command, plan: &Plan<'_>) -> Result<()> {
    let Plan { plain_port, tls_port, behind, workers, identity, directory, .. } = plan;
    let servers: String = behind.endpoints.iter().map(|endpoint| format!(" server {endpoint};")).collect();
    let (mut upstreams, mut locations) = (format!("    upstream load {{{servers} }}\n"), location("/", "load"));
    if let Some(apart) = behind.apart {
        upstreams += &format!("    upstream apart {{ server {apart}; }}\n");
        locations += &location(APART, "apart");
    }
    let config = directory.join("nginx.conf");
    let (cert, key, dir) = (identity.cert_file(), identity.key_file(), directory.display());
    // worker_connections counts both sides of a tunnel; when fewer than a sixteenth are free, nginx closes clients that
    // have not sent their request yet, so there are a fifth more than descriptors. Each costs memory from the start.
    // Buffers stay at their defaults (4 KiB): users have those.
    let text = format!(
        r#"daemon off;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid "{dir}/nginx.pid";
error_log stderr error;
events {{ worker_connections 24000; }}
http {{
    access_log off;
    client_body_temp_path "{dir}/body";
    proxy_temp_path "{dir}/proxy";
    fastcgi_temp_path "{dir}/fastcgi";
    uwsgi_temp_path "{dir}/uwsgi";
    scgi_temp_path "{dir}/scgi";
{upstreams}    server {{
        listen 127.0.0.1:{plain_port} backlog=4096;
        listen 127.0.0.1:{tls_port} ssl backlog=4096;
        ssl_certificate "{cert}";
        ssl_certificate_key "{key}";
        ssl_protocols TLSv1.3;
        ssl_session_tickets on;
        tcp_nodelay on;
{locations}    }}
}}
"#,
        cert = cert.display(),
        key = key.display(),
    );
    fs::write(&config, text)?;
    command.arg("-p").arg(directory).arg("-c").arg(config).arg("-e").arg("stderr");
    Ok(())
}

/// What its manual says of WebSockets.
fn location(path: &str, upstream: &str) -> String {
    format!(
        r#"        location {path} {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
"#
    )
}
