//! A proxy with its log and its metrics, and peers that check every byte that reaches them.
//!
//! [`Proxy`] runs the whole application in this process. [`Conn`] is one end of a connection, a client's or a server's:
//! it writes anything, legal or not, and reads strictly, so that any illegal byte of the proxy fails the test.
//! [`RawServer`] returns a `Conn` for each connection that it accepts; [`Echo`] is a WebSocket server by
//! tokio-tungstenite. [`Pair`] is all of it with one session open; [`traffic`] is many sessions that send all the time.
#![allow(dead_code, unused_imports, reason = "one harness for all stories")]

mod conn;
mod echo;
mod frame;
mod h2;
mod h2_server;
mod head;
mod io;
mod issuer;
mod scripted_server;
mod pair;
mod proxy;
mod series;
mod server;
mod tls;
pub mod traffic;

pub use conn::{Conn, Reader, Writer, switching};
pub use echo::Echo;
pub use frame::{BINARY, CLOSE, CONTINUATION, Event, Frame, PING, PONG, TEXT};
pub use h2::{H2Client, H2Session, whole};
pub use h2_server::{H2Server, H2ServerConn, H2ServerSession, H2ServerStream};
pub use head::{Handshake, Head, KEY, accept_for};
pub use io::Io;
pub use issuer::{Issuer, KeyServer, KeysAnswer, unix};
pub use pair::Pair;
pub use proxy::{Proxy, in_turn, yaml};
pub use scripted_server::{Behavior, ScriptedServer};
pub use series::{series, value};
pub use server::RawServer;
pub use tls::Authority;

use std::time::Duration;

/// The deadline of a test that hangs. Long, because two cores may be busy with a hundred tests.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for an event that must come.
#[track_caller]
pub fn within<T>(what: &str, event: impl Future<Output = T>) -> impl Future<Output = T> {
    let at = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, event).await {
            Ok(value) => value,
            Err(_) => panic!("{what}: nothing within {DEADLINE:?} (waited for at {at})"),
        }
    }
}

/// Polls `check` until it returns a value: for state that another thread updates.
pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(value) = check() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}
