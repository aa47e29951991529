//! The 101 that opens a session (RFC 6455 §4.2.2).

use http::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, UPGRADE};

use crate::header::field_line;
use crate::ws::handshake::{Accept, WebSocketKey, accept_for};

/// Returns the head of the 101 for a client whose key is `key`, with the `headers` that pass on from the upstream's, as it
/// is written. The names are spelled as in RFC 6455: some clients compare them case-sensitively.
pub(super) fn head(headers: &HeaderMap, key: &WebSocketKey) -> Vec<u8> {
    const START: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
    let mut head = Vec::with_capacity(START.len() + size_of::<Accept>() + "\r\n\r\n".len() + fields);
    head.extend_from_slice(START);
    head.extend_from_slice(&accept_for(key));
    head.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        if matches!(*name, UPGRADE | CONNECTION | SEC_WEBSOCKET_ACCEPT) {
            continue;
        }
        field_line::append(&mut head, name.as_str(), value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}
