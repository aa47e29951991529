//! What an endpoint answers to a handshake, as bytes: however they are cut, the same is made of them.

use wsluice::upstream::handshake::{HandshakeError, HandshakeReply, open};
use wsluice::upstream::request_head::RequestHead;
use wsluice::ws::handshake::{Extension, HandshakeAnswer, HandshakeOffer, accept_for};

use super::stream::{Script, block_on};
use super::{Target, choices, pieces};

pub const TARGET: Target = Target { name: "switching", run, seeds: SEEDS, tokens: TOKENS };

/// Choices (cut), then the bytes of an answer. Its key is that of RFC 6455 §1.3.
const SEEDS: &[&[u8]] = &[
    b"\x02HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02hi",
    b"\x03HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: a=b\r\nServer: x\r\n\r\n",
    b"\x04HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nContent-Length: 5\r\n\r\n\x89\x00",
    b"\x05HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    b"\x06HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
];
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b"HTTP/1.1 101 \r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0 ",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\n",
    b"Connection: Sec-WebSocket-Accept\r\n",
    b"Upgrade: h2c\r\n",
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
    b"Sec-WebSocket-Protocol: ",
    b"chat",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"X: y\r\n",
    b": ",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n",
];

/// What was made of it.
#[derive(Debug, PartialEq, Eq)]
enum Made {
    Switched { answer: HandshakeAnswer, headers: Vec<(String, Vec<u8>)>, behind: Vec<u8> },
    Refused(u16),
    Failed(&'static str),
}

fn make(pieces: &[&[u8]]) -> Made {
    let deflate = Extension { name: "permessage-deflate".into(), params: vec![] };
    let key = *b"dGhlIHNhbXBsZSBub25jZQ==";
    let offer = HandshakeOffer { subprotocols: vec!["chat".into(), "a".into()], extensions: vec![deflate] };
    let mut head = RequestHead::new("/", None, Some(b"example.com")).end();
    block_on(async {
        match open(Script::new(pieces), &mut head, &key, &offer).await {
            Ok(HandshakeReply::Switched(switched)) => {
                let headers =
                    switched.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
                let behind = [switched.early, switched.io.unread()].concat();
                Made::Switched { answer: switched.answer, headers: headers.collect(), behind }
            }
            Ok(HandshakeReply::Refused(response)) => Made::Refused(response.status().as_u16()),
            Err(HandshakeError::TooLong) => Made::Failed("too long"),
            Err(error) => Made::Failed(error.label()),
        }
    })
}

fn run(data: &[u8]) {
    let Some(([cut], bytes)) = choices(data) else { return };
    let whole = make(&[bytes]);
    let cut = make(&pieces(bytes, cut));
    // An answer that is never whole may be found wrong before or where it ends.
    let alike = matches!((&whole, &cut), (Made::Failed(_), Made::Failed(_))) || whole == cut;
    assert!(alike, "whole it is {whole:?}, in pieces {cut:?}");
    let Made::Switched { answer, headers, behind } = whole else { return };
    assert!(bytes.ends_with(&behind), "what follows the 101 goes on as it came");
    let head = &bytes[..bytes.len() - behind.len()];
    assert!(head.ends_with(b"\n"));
    let accept = accept_for(b"dGhlIHNhbXBsZSBub25jZQ==");
    assert!(head.windows(accept.len()).any(|text| text == accept), "a false 101");
    assert!(answer.subprotocol.iter().all(|one| one == "chat" || one == "a"));
    for (name, value) in headers {
        // What frames a message or belongs to this hop is ours to say.
        let of_hop =
            ["connection", "upgrade", "content-length", "transfer-encoding", "keep-alive", "sec-websocket-accept"];
        assert!(!of_hop.contains(&&*name), "{name} passes");
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{name}: {value:?}");
    }
}
