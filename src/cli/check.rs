//! `wsluice check`: reports all mistakes of a file, or what becomes of one request.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::arguments::{field, field_value, token};
use super::{ConfigFile, complain, environment, parse, print};
use crate::config::{ConfigErrors, Loaded, load_file};
use crate::control::compile::{FileChecks, examine};
use crate::explain::{AskedRequest, ExplainError, explain};
use crate::header::client_certificate::ClientCertificate;
use crate::ping::Target;
use crate::tls::client_certificate;

/// The arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    asked: AskedArguments,
}

/// A request to ask about.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What becomes of a request")]
struct AskedArguments {
    /// Tell what becomes of a request: a WebSocket handshake (ws, wss) or a plain request (http, https).
    #[arg(long, value_name = "URL", value_parser = parse::<Target>)]
    request: Option<Target>,
    /// The web page that asks: https://app.example.com
    #[arg(long, value_name = "ORIGIN", value_parser = field_value, requires = "request")]
    origin: Option<HeaderValue>,
    /// A subprotocol that it offers; may be given several times, the best first.
    #[arg(long = "subprotocol", value_name = "NAME", value_parser = token, requires = "request")]
    subprotocols: Vec<String>,
    /// A further header, such as 'X-Forwarded-For: 192.0.2.1'; may be given several times.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = field, requires = "request")]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The method of a plain request.
    #[arg(long, value_name = "METHOD", default_value = "GET", requires = "request")]
    method: Method,
    /// The address that it comes from.
    #[arg(long, value_name = "ADDRESS", default_value = "192.0.2.1", requires = "request")]
    client: IpAddr,
    /// The listener that it comes to, where the URL's port and scheme do not tell.
    #[arg(long, value_name = "NAME", requires = "request")]
    listener: Option<String>,
    /// A certificate that the client shows (PEM; its key is not needed).
    #[arg(long, value_name = "FILE", requires = "request")]
    client_cert: Option<PathBuf>,
}

/// Runs it. Returns 0 if the file is good, whatever becomes of the request, and 1 otherwise.
pub(super) fn run(arguments: CheckArguments) -> ExitCode {
    let path = &arguments.config.config;
    let loaded = match load_file(path, &environment) {
        Ok(loaded) => loaded,
        Err(errors) => return refused(&errors),
    };
    let done = match arguments.asked {
        AskedArguments { request: None, .. } => check(&loaded),
        AskedArguments {
            request: Some(target),
            origin,
            subprotocols,
            headers,
            method,
            client,
            listener,
            client_cert,
        } => {
            let certificate = match client_cert.as_deref().map(certificate).transpose() {
                Ok(certificate) => certificate,
                Err(error) => {
                    complain(&format!("wsluice: {error:#}\n"));
                    return ExitCode::FAILURE;
                }
            };
            let headers: HeaderMap = headers.into_iter().collect();
            let is_handshake = !target.is_http;
            let asked = AskedRequest {
                target,
                is_handshake,
                method,
                origin,
                subprotocols,
                headers,
                client,
                listener,
                certificate,
            };
            explain(&loaded, &asked).map(|explanation| explanation.to_string())
        }
    };
    match done {
        Ok(text) => match print(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("wsluice: {error:#}\n"));
                ExitCode::FAILURE
            }
        },
        Err(ExplainError::Config(errors)) => refused(&errors),
        Err(error) => {
            complain(&format!("wsluice: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Reads a client's certificate.
fn certificate(file: &Path) -> anyhow::Result<Arc<ClientCertificate>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let read = client_certificate::from_pem(&text);
    read.map(Arc::new).with_context(|| format!("{} has no certificate in PEM", file.display()))
}

fn refused(errors: &ConfigErrors) -> ExitCode {
    complain(&format!("{errors}\n"));
    ExitCode::FAILURE
}

/// Reports all mistakes of a file and of the files that it names.
fn check(loaded: &Loaded) -> Result<String, ExplainError> {
    for warning in &loaded.warnings {
        complain(&format!("{warning}\n\n"));
    }
    for warning in examine(loaded, FileChecks::Inside)? {
        complain(&format!("warning: {warning}\n\n"));
    }
    let Loaded { file, source, .. } = loaded;
    let counts = [
        (file.listeners.len(), "listener"),
        (file.routes.len(), "route"),
        (file.upstreams.len(), "upstream"),
        (source.included().len(), "included file"),
    ];
    let counts = counts.iter().filter(|(n, what)| *n > 0 || *what != "included file");
    let counted: Vec<String> =
        counts.map(|(n, what)| format!("{n} {what}{}", if *n == 1 { "" } else { "s" })).collect();
    Ok(format!("{}: ok: {}\n", source.name(), counted.join(", ")))
}
