//! The head of a handshake, as a client offers and as a server answers it.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, Method, Version};
use wsluice::ws::handshake::{HandshakeAnswer, HandshakeOffer, accept_for, key, key_of, names_websocket};

use super::{Target, choices, fields};

pub const TARGET: Target = Target { name: "handshake", run, seeds: SEEDS, tokens: TOKENS };

/// Choices (method and version), the fields of a request, an empty line, those of an answer.
const SEEDS: &[&[u8]] = &[
    b"\x00Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n",
    b"\x00Upgrade: WebSocket\nConnection: keep-alive, Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\nSec-WebSocket-Protocol: chat, superchat\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; server_max_window_bits=10, x-own; a=\"b\\\"c,;\"\n\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: =\nSec-WebSocket-Protocol: chat\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9; client_max_window_bits=\"12\"\n",
    b"\x00Upgrade: h2c, websocket\nConnection: upgrade, http2-settings\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nContent-Length: 0\nSec-WebSocket-Protocol: a\nSec-WebSocket-Protocol: b,,c\n\nUpgrade: websocket, websocket\nConnection: Upgrade\nSec-WebSocket-Accept: =\nSec-WebSocket-Protocol: b, b\n",
];
const TOKENS: &[&[u8]] = &[
    b"\n",
    b"\n\n",
    b": ",
    b", ",
    b",",
    b"; ",
    b"=",
    b"\"",
    b"\\",
    b"Upgrade: ",
    b"websocket",
    b"Connection: ",
    b"upgrade",
    b"Sec-WebSocket-Protocol: ",
    b"Sec-WebSocket-Extensions: ",
    b"Sec-WebSocket-Key: ",
    b"Sec-WebSocket-Version: 13\n",
    b"Sec-WebSocket-Accept: =\n",
    b"Content-Length: 1\n",
    b"Content-Length: 0\n",
    b"Transfer-Encoding: chunked\n",
    b"permessage-deflate",
    b"server_no_context_takeover",
    b"client_no_context_takeover",
    b"server_max_window_bits=",
    b"client_max_window_bits",
    b"=8",
    b"=15",
    b"=16",
    b"=08",
    b"chat",
    b"a",
    b"x-own",
    b"\t",
    b"\xff",
    b"dGhlIHNhbXBsZSBub25jZQ==",
];

/// The items of a list, as any server reads them that knows nothing of quotes.
fn items(fields: &HeaderMap, name: &str) -> Vec<String> {
    let lines = fields.get_all(name).into_iter().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let items = lines.flat_map(|line| line.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>());
    items.filter(|item| !item.is_empty()).collect()
}

fn says(fields: &HeaderMap, name: &str, word: &str) -> bool {
    items(fields, name).iter().any(|item| item.eq_ignore_ascii_case(word))
}

fn run(data: &[u8]) {
    if let Some(random) = data.first_chunk::<16>() {
        // A key of ours is 16 bytes in base64, and its answer 20.
        let key = key(*random);
        assert_eq!(STANDARD_NO_PAD.decode(&key[..22]).as_deref(), Ok(&random[..]));
        assert!(key.ends_with(b"==") && accept_for(&key).ends_with(b"="));
    }
    let Some(([kind], text)) = choices(data) else { return };
    let cut = text.windows(2).position(|two| two == b"\n\n").unwrap_or(text.len());
    let (request, answer) = (fields(&text[..cut]), fields(&text[cut..]));
    let method = if kind & 1 == 0 { Method::GET } else { Method::POST };
    let version = if kind & 2 == 0 { Version::HTTP_11 } else { Version::HTTP_10 };

    assert_eq!(names_websocket(&request), says(&request, "upgrade", "websocket"));
    let Ok(offer) = HandshakeOffer::from_upgrade(&method, version, &request) else { return };
    // What RFC 6455 §4.2.1 asks for.
    assert_eq!((method, version), (Method::GET, Version::HTTP_11));
    assert!(says(&request, "connection", "upgrade"));
    assert!(!request.contains_key("transfer-encoding"));
    assert!(request.get_all("content-length").iter().all(|length| length == "0"));
    let only = |name| request.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect::<Vec<_>>();
    assert_eq!(only("sec-websocket-version"), [b"13"]);
    let key = key_of(&request).expect("an offer has a key");
    assert_eq!(only("sec-websocket-key"), [&key[..]]);
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    assert!(key[..22].iter().all(is_base64) && &key[22..] == b"==");
    assert_eq!(offer.subprotocols, items(&request, "sec-websocket-protocol"));
    let distinct: HashSet<&String> = offer.subprotocols.iter().collect();
    assert_eq!(distinct.len(), offer.subprotocols.len(), "a subprotocol stands twice");
    assert!(offer.subprotocols.len() <= 64 && offer.extensions.len() <= 64);
    let has_gap = |text: &str| text.is_empty() || text.contains([' ', '\t', ',', ';', '"', '=']);
    for extension in &offer.extensions {
        let names = std::iter::once(&extension.name).chain(extension.params.iter().map(|(name, _)| name));
        names.for_each(|name| assert!(!has_gap(name) && *name == name.to_ascii_lowercase(), "{name:?}"));
    }

    let accept = accept_for(&key);
    let mut answer = answer;
    if answer.get("sec-websocket-accept").is_some_and(|value| value == "=") {
        answer.insert("sec-websocket-accept", http::HeaderValue::from_bytes(&accept).expect("base64"));
    }
    let Ok(agreed) = HandshakeAnswer::from_switching_protocols(&answer, &key, &offer) else { return };
    assert!(says(&answer, "connection", "upgrade"));
    let upgrade = items(&answer, "upgrade");
    assert!(!upgrade.is_empty() && upgrade.iter().all(|item| item.eq_ignore_ascii_case("websocket")), "{upgrade:?}");
    assert_eq!(answer.get_all("sec-websocket-accept").iter().collect::<Vec<_>>(), [&accept[..]]);
    let chosen = items(&answer, "sec-websocket-protocol");
    assert!(chosen.iter().all(|item| agreed.subprotocol.as_ref() == Some(item)), "{chosen:?}");
    assert!(agreed.subprotocol.iter().all(|one| offer.subprotocols.contains(one)));
    for extension in &agreed.extensions {
        assert!(offer.extensions.iter().any(|offered| offered.name == extension.name), "{extension:?}");
        let same = agreed.extensions.iter().filter(|other| other.name == extension.name).count();
        assert_eq!(same, 1, "{extension:?} twice");
    }
}
