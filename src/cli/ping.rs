//! `wsluice ping`: reads its arguments and reports its failure.

use std::path::PathBuf;
use std::process::ExitCode;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::arguments::{field, field_value, token};
use super::parse;
use crate::base::error_chain::error_chain;
use crate::config::TimeSpan;
use crate::header::visible::visible;
use crate::ping::{ConnectTo, PingOptions, Target, ping};

/// The arguments of `ping`.
#[derive(Debug, clap::Args)]
pub(super) struct PingArguments {
    /// The WebSocket, as a browser would name it: wss://chat.example.com/ws
    #[arg(value_name = "URL", value_parser = parse::<Target>)]
    target: Target,
    /// The web page that asks: https://app.example.com
    #[arg(long, value_name = "ORIGIN", value_parser = field_value)]
    origin: Option<HeaderValue>,
    /// A subprotocol to offer; may be given several times, the best first.
    #[arg(long = "subprotocol", value_name = "NAME", value_parser = token)]
    subprotocols: Vec<String>,
    /// A further header, such as 'Authorization: Bearer …'; may be given several times.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Where to connect instead of the URL's host: a server that DNS does not name yet.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse::<ConnectTo>)]
    connect: Option<ConnectTo>,
    /// The authorities (PEM) to trust in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Accept any certificate.
    #[arg(long)]
    insecure: bool,
    /// How many Pings to send, a second apart.
    #[arg(long, short, value_name = "N", default_value_t = 1)]
    count: u32,
    /// The limit of each step.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::<TimeSpan>)]
    timeout: TimeSpan,
}

/// Runs it. Returns 0 if every step went well, 1 otherwise.
pub(super) fn run(arguments: PingArguments) -> anyhow::Result<ExitCode> {
    let PingArguments { target, origin, subprotocols, headers, connect, ca, insecure, count, timeout } = arguments;
    let headers: HeaderMap = headers.into_iter().collect();
    let timeout = timeout.duration();
    let options = PingOptions { target, connect, origin, subprotocols, headers, ca, insecure, count, timeout };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(Box::pin(ping(&options, &mut std::io::stdout())));
    // A look-up that hangs is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            // The server has chosen parts of both.
            let (error, advice) = (error_chain(&error).to_string(), error.advice());
            super::complain(&format!("wsluice: {}\n  try: {}\n", visible(&error), visible(&advice)));
            Ok(ExitCode::FAILURE)
        }
    }
}
