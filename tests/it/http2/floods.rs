//! Floods of frames end with ENHANCE_YOUR_CALM and a counter, and hold no memory.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wsluice::http2::frame::PREFACE;
use wsluice::net::listener::Address;

use super::super::harness::{Proxy, RawServer, within};
use super::both;

const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://example.com/` in HPACK, without a table.
fn request() -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84];
    block.extend([0x01, 11]);
    block.extend(b"example.com");
    block
}

/// Sends `flood` again and again until the proxy ends the connection, and returns the code of its last GOAWAY.
async fn code_for(proxy: &Proxy, beginning: &[u8], mut flood: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> u32 {
    let Address::Tcp(address) = proxy.address() else { panic!("TCP") };
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    to.write_all(&[PREFACE, &frame(4, 0, 0, &[]), beginning].concat()).await.unwrap();
    let flooding = tokio::spawn(async move {
        for round in 0..40_000 {
            if to.write_all(&flood(round)).await.is_err() {
                return;
            }
        }
        panic!("40,000 passed");
    });
    let mut all = vec![];
    // A reset may come before the end.
    let _ = within("the end", from.read_to_end(&mut all)).await;
    let (mut codes, mut rest) = (vec![], &all[..]);
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        if rest[3] == GOAWAY && rest.len() >= 9 + length {
            codes.push(u32::from_be_bytes(rest[13..17].try_into().unwrap()));
        }
        rest = &rest[rest.len().min(9 + length)..];
    }
    within("the flood", flooding).await.unwrap();
    *codes.last().unwrap_or(&u32::MAX)
}

#[tokio::test]
async fn floods_are_ended_and_counted() {
    let server = RawServer::start().await;
    let proxy = Proxy::start(&both(&[server.url()], &["match: { hosts: [nobody.test] }"]));
    let open = frame(1, 4, 1, &request());
    type Flood = Box<dyn FnMut(u32) -> Vec<u8> + Send>;
    let floods: Vec<(&str, Vec<u8>, Flood)> = vec![
        ("SETTINGS", vec![], Box::new(|_| frame(4, 0, 0, &[]))),
        ("PING", vec![], Box::new(|_| frame(6, 0, 0, &[0; 8]))),
        ("PRIORITY", vec![], Box::new(|_| frame(2, 0, 3, &[0, 0, 0, 0, 1]))),
        ("WINDOW_UPDATE", vec![], Box::new(|_| frame(8, 0, 0, &[0, 0, 0, 1]))),
        ("unknown frames", vec![], Box::new(|_| frame(0xee, 0, 0, &[]))),
        ("empty DATA", open.clone(), Box::new(|_| frame(0, 0, 1, &[]))),
        ("CONTINUATION", frame(1, 0, 1, &request()), Box::new(|_| frame(9, 0, 1, &[]))),
        (
            "streams opened and reset",
            vec![],
            Box::new(|round| {
                let stream = 2 * round + 1;
                [frame(1, 4, stream, &request()), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
            }),
        ),
    ];
    for (nth, (what, beginning, flood)) in floods.into_iter().enumerate() {
        let code = code_for(&proxy, &beginning, flood).await;
        // A reset may overtake the GOAWAY, since the client never stops sending.
        assert!(code == ENHANCE_YOUR_CALM || code == u32::MAX || what == "CONTINUATION", "{what}: {code}");
        let flooded = [("listener", "plain"), ("reason", "http2_flood")];
        let broken = [("listener", "plain"), ("reason", "http2_protocol")];
        let counted = || {
            let one = proxy.metric("wsluice_connection_errors_total", &flooded);
            one + proxy.metric("wsluice_connection_errors_total", &broken)
        };
        super::super::harness::eventually(what, || (counted() >= (nth + 1) as f64).then_some(())).await;
    }
    proxy.idle().await;
}
