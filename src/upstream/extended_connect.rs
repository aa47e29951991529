//! The WebSocket handshake with an endpoint by a stream: an extended CONNECT (RFC 8441).
//!
//! A 200 opens; there is no key and no accept value. Any other answer is an ordinary one, and goes back to the client.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL};
use http::{Request, Response, StatusCode};

use super::connect::UpstreamIo;
use super::handshake::{HandshakeError, HandshakeReply, Switched, agree};
use super::server_stream::ServerStream;
use super::streams::connection::Place;
use super::streams::error::StreamError;
use super::streams::exchange::answer_of;
use crate::header::hop_by_hop;
use crate::http2::stream::H2Stream;
use crate::net::transport::Transport;
use crate::ws::handshake::{HandshakeAnswer, HandshakeOffer};

/// Sends `request`, an extended CONNECT, and reads the answer. The caller sets the deadline.
///
/// Cancel-safe: dropping it resets the stream.
///
/// # Errors
/// See [`HandshakeError`]; the client has no answer yet.
pub async fn open(
    place: Place,
    request: Request<()>,
    offer: &HandshakeOffer,
) -> Result<HandshakeReply<UpstreamIo>, HandshakeError> {
    let Place { mut sender, permit } = place;
    let was_used = permit.was_used();
    let of_stream = |error| StreamError::of(error, was_used);
    let (answering, mut stream) = sender.send_request(request, false).map_err(of_stream)?;
    drop(sender);
    let answer = answering.await.map_err(of_stream)?;
    permit.answered();
    if answer.status() != StatusCode::OK {
        // Nothing else is asked on this stream. It fails only if the server has reset it, as the body will tell.
        let _ = stream.send_data(Bytes::new(), true);
        return Ok(HandshakeReply::Refused(answer_of(answer, Arc::new(permit))));
    }
    let (parts, recv): (http::response::Parts, _) = Response::into_parts(answer);
    let accepted = HandshakeAnswer::from_extended_connect(&parts.headers, offer)?;
    let headers = passed_on(parts.headers, &accepted);
    let stalls = permit.metrics().stalls.clone();
    let io = Transport::Multiplexed(Box::new(ServerStream::new(H2Stream::new(stream, recv, stalls, permit))));
    Ok(HandshakeReply::Switched(Switched { io, answer: accepted, headers, early: vec![] }))
}

/// Returns the fields of a 200 that are meant for the client: without those of this hop and those that the proxy writes.
fn passed_on(mut received: HeaderMap, answer: &HandshakeAnswer) -> HeaderMap {
    let mut agreed = HeaderMap::new();
    // Its values come from values.
    let _ = agree(&received, answer, &mut agreed);
    hop_by_hop::strip(&mut received);
    for name in [SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, CONTENT_LENGTH] {
        received.remove(name);
    }
    received.extend(agreed);
    received
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_200_are_passed_on_as_those_of_a_101() {
        let mut response = Response::builder();
        for (name, value) in [
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-protocol", "chat"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("sec-websocket-accept", "x"),
            ("content-length", "0"),
            ("keep-alive", "timeout=5"),
            ("x-server", "1"),
            ("x-server", "2"),
        ] {
            response = response.header(name, value);
        }
        let headers = response.body(()).unwrap().into_parts().0.headers;
        let answer = HandshakeAnswer { subprotocol: Some("chat".into()), extensions: vec![] };
        let mut fields: Vec<_> = passed_on(headers, &answer)
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                "sec-websocket-extensions: permessage-deflate",
                "sec-websocket-protocol: chat",
                "x-server: 1",
                "x-server: 2"
            ]
        );
    }
}
