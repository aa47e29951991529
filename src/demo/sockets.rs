//! The demo's WebSocket servers, written as if there were no proxy.
//!
//! `echo` sends back what it gets, `clock` speaks first, `heartbeat` pings. Each is one function over an accepted
//! stream; `servers` accepts, and limits connections. Sizes are bounded here, since a server that
//! trusts the proxy in front of it for its own memory would be a poor example.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::telemetry::utc::Utc;

/// The subprotocols of `echo`; it takes the first of the client's offers that is one of them.
const SUBPROTOCOLS: [&str; 3] = ["chat", "echo.v1", "json"];
/// Four times the limit of the demo's routes, so that the proxy's limit is reached first.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// tungstenite allocates this at once and for each connection; its default is 128 KiB.
const READ_BUFFER_BYTES: usize = 8 << 10;
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const CLOCK_PERIOD: Duration = Duration::from_secs(1);
const PING_PERIOD: Duration = Duration::from_secs(5);
/// RFC 6455 §5.5: a control frame carries 125 bytes, two of which are the code.
const REASON_BYTES_MAX: usize = 123;

type Socket = WebSocketStream<TcpStream>;

/// Sends each text and binary message back. The text `close CODE REASON` makes it close with that code and reason.
pub async fn echo(stream: TcpStream) -> Result<(), Error> {
    let mut socket = accept(stream).await?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => match close_command(&text) {
                Some(Ok(frame)) => socket.close(Some(frame)).await?,
                Some(Err(hint)) => socket.send(Message::text(hint)).await?,
                None => socket.send(Message::Text(text)).await?,
            },
            Message::Binary(bytes) => socket.send(Message::Binary(bytes)).await?,
            // Pongs and the answering Close are tungstenite's work, done by the next read.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }
    Ok(())
}

/// Sends the time once a second, beginning at once; what the client says is read and dropped.
pub async fn clock(stream: TcpStream) -> Result<(), Error> {
    let mut socket = accept(stream).await?;
    let mut ticks = every(CLOCK_PERIOD, Duration::ZERO);
    for tick in 0u64.. {
        tokio::select! {
            _ = ticks.tick() => {
                let time = Utc::now().to_string();
                socket.send(Message::text(json!({ "time": time, "tick": tick }).to_string())).await?;
            }
            message = socket.next() => if ended(message)? { break },
        }
    }
    Ok(())
}

/// Pings every five seconds and tells the client, as text, how long the Pong took and how many never came.
pub async fn heartbeat(stream: TcpStream) -> Result<(), Error> {
    let mut socket = accept(stream).await?;
    let mut ticks = every(PING_PERIOD, Duration::ZERO);
    let (mut sequence, mut missed) = (0u64, 0u64);
    let mut waiting: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                missed += u64::from(waiting.is_some());
                sequence += 1;
                waiting = Some(Instant::now());
                socket.send(Message::Ping(sequence.to_be_bytes().to_vec().into())).await?;
            }
            message = socket.next() => match message {
                Some(Ok(Message::Pong(payload))) if *payload == sequence.to_be_bytes() => {
                    let Some(sent) = waiting.take() else { continue };
                    let milliseconds = (sent.elapsed().as_secs_f64() * 1e6).round() / 1e3;
                    let report = json!({ "ping": sequence, "round_trip_ms": milliseconds, "missed": missed });
                    socket.send(Message::text(report.to_string())).await?;
                }
                other => if ended(other)? { break },
            },
        }
    }
    Ok(())
}

/// The opening handshake, under a deadline. An offered subprotocol that is known is taken, others are passed over in
/// silence, which a browser takes for a refusal (RFC 6455 §4.1, last rule).
async fn accept(stream: TcpStream) -> Result<Socket, Error> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    #[expect(clippy::result_large_err, reason = "tungstenite's callback is declared so")]
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        if let Some(name) = choose_subprotocol(request.headers()) {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        }
        Ok(response)
    };
    let handshake = accept_hdr_async_with_config(stream, choose, Some(config));
    timeout(HANDSHAKE_TIME, handshake).await.map_err(|_| Error::Io(std::io::ErrorKind::TimedOut.into()))?
}

/// Returns the first of the client's offers that we support; offers may stand in several header lines (RFC 6455 §11.3.4).
fn choose_subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    let mut offers = lines.flat_map(|line| line.split(',')).map(str::trim);
    offers.find_map(|offer| SUBPROTOCOLS.into_iter().find(|known| *known == offer))
}

/// Parses `close CODE REASON`. Returns `None` for any other text, and an explanation if code or reason cannot be sent.
fn close_command(text: &str) -> Option<Result<CloseFrame, &'static str>> {
    let rest = text.strip_prefix("close ")?;
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let Some(code) = code.parse::<u16>().ok().map(CloseCode::from).filter(|code| code.is_allowed()) else {
        return Some(Err("usage: close CODE REASON, with a code of 1000-1003, 1007-1014 or 3000-4999"));
    };
    if reason.len() > REASON_BYTES_MAX {
        return Some(Err("a close reason has at most 123 bytes"));
    }
    Some(Ok(CloseFrame { code, reason: reason.into() }))
}

/// Whether a server that does not listen should stop now.
fn ended(message: Option<Result<Message, Error>>) -> Result<bool, Error> {
    match message {
        Some(Ok(_)) => Ok(false),
        Some(Err(error)) => Err(error),
        None => Ok(true),
    }
}

/// Creates a timer that does not catch up after a stall: a burst of stale times is useless.
fn every(period: Duration, first: Duration) -> Interval {
    let mut interval = interval_at(tokio::time::Instant::now() + first, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is the test's failure
mod tests {
    use super::*;

    #[test]
    fn a_close_command_is_taken_only_with_a_code_that_may_be_sent() {
        let frame = close_command("close 4001 some reason").unwrap().unwrap();
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "some reason"));
        let frame = close_command("close 1000").unwrap().unwrap();
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1000, ""));
        for refused in ["close 1006", "close 1005 x", "close 999", "close 5000", "close soon", "close 65536"] {
            assert!(close_command(refused).unwrap().is_err(), "{refused}");
        }
        assert!(close_command(&format!("close 4000 {}", "x".repeat(124))).unwrap().is_err());
        assert!(close_command("closed").is_none() && close_command("close").is_none());
    }

    #[test]
    fn the_client_s_order_of_subprotocols_decides() {
        let mut headers = HeaderMap::new();
        assert_eq!(choose_subprotocol(&headers), None);
        headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("graphql-ws"));
        assert_eq!(choose_subprotocol(&headers), None);
        headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mqtt , echo.v1, chat"));
        assert_eq!(choose_subprotocol(&headers), Some("echo.v1"));
    }
}
