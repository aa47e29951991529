//! `wsluice upgrade`: asks a running process, by its admin listener, to give its place to a new one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{ConfigFile, environment, print};
use crate::config::{Bind, load_file};

/// The longest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long to wait for the answer: the new process has 30 s to be ready, and then the sessions move.
const ANSWER_WAIT: Duration = Duration::from_secs(120);

/// The arguments of `upgrade`.
#[derive(Debug, clap::Args)]
pub(super) struct UpgradeArguments {
    #[command(flatten)]
    config: ConfigFile,
}

/// Runs it. Returns 0 if another process has taken over.
pub(super) fn run(arguments: &UpgradeArguments) -> anyhow::Result<ExitCode> {
    let loaded = load_file(&arguments.config.config, &environment)?;
    let Some(admin) = &loaded.file.admin else {
        bail!("the configuration has no `admin` listener to ask; send USR2 to the process instead");
    };
    let token = admin.tokens().map_err(anyhow::Error::msg)?.into_iter().next();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let ask = async {
            let token = token.as_ref().map(|token| token.as_bytes());
            match &admin.bind {
                Bind::Tcp(address) => {
                    let address = reachable(*address);
                    let stream = TcpStream::connect(address).await;
                    post(stream.with_context(|| format!("nobody listens on {address}"))?, token).await
                }
                Bind::Unix(path) => {
                    let stream = UnixStream::connect(path).await;
                    post(stream.with_context(|| format!("nobody listens on {}", path.display()))?, token).await
                }
            }
        };
        timeout(ANSWER_WAIT, ask).await.unwrap_or_else(|_| bail!("no answer within {ANSWER_WAIT:?}"))
    })?;
    print(&told(&answer))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns an address to connect to for one to listen on.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    token: Option<&[u8]>,
) -> anyhow::Result<Value> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(Method::POST).uri("/api/v1/upgrade").header(HOST, "localhost");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, [b"Bearer ", token].concat());
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await;
    let (head, body) = response.context("the process has not answered")?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    connection.abort();
    let answer: Value =
        serde_json::from_slice(&body).context("the answer cannot be read: is this wsluice's admin listener?")?;
    if !head.status.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("the process has refused"));
    }
    Ok(answer)
}

/// Returns the answer for people.
fn told(answer: &Value) -> String {
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    let mut text = format!(
        "process {} has taken over; {} sessions moved in {} s\n",
        count(&answer["pid"]),
        count(&answer["moved"]),
        answer["move_seconds"].as_f64().unwrap_or_default()
    );
    for (why, sessions) in answer["stayed"].as_object().into_iter().flatten() {
        text.push_str(&format!("  {} stay in the old process: {why}\n", count(sessions)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_answer_tells_what_moved_and_what_stays() {
        let answer = json!({ "pid": 7, "moved": 3, "stayed": { "closing": 1, "refused": 2 }, "move_seconds": 0.02 });
        assert_eq!(
            told(&answer),
            "process 7 has taken over; 3 sessions moved in 0.02 s\n  1 stay in the old process: closing\n  2 stay in \
             the old process: refused\n"
        );
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        for (bind, reached) in [("0.0.0.0:9902", "127.0.0.1:9902"), ("[::]:1", "[::1]:1"), ("10.0.0.1:2", "10.0.0.1:2")]
        {
            assert_eq!(bind.parse().map(reachable), reached.parse());
        }
    }
}
