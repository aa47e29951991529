//! What a DNS server answers, by a real socket: to questions for addresses and for SRV records.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use wsluice::config::{EndpointUrl, IpFamily, Scheme};
use wsluice::discovery::dns::Dns;

use super::stream::block_on;
use super::{Target, choices};

pub const TARGET: Target = Target { name: "dns", run, seeds: SEEDS, tokens: TOKENS };

/// Choices (question, flags, how many answers), then what stands behind the question.
const SEEDS: &[&[u8]] = &[
    b"\x00\x80\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x01",
    b"\x01\x80\x02\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x05\x00\x04\x01b\xc0\x0c\x01b\xc0\x0c\x00\x1c\x00\x01\x00\x00\x00\x05\x00\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
    b"\x02\x80\x02\xc0\x0c\x00\x21\x00\x01\x00\x00\x00\x05\x00\x08\x00\x01\x00\x02\x1f\x90\xc0\x0c\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x02",
    b"\x03\x82\x01\xc0\x0c\x00\x01\x00\x01\x7f\xff\xff\xff\x00\x04\x7f\x00\x00\x01",
    b"\x00\x83\x00",
];
const TOKENS: &[&[u8]] = &[
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\xc0\x20",
    b"\xff\xff",
    b"\x00",
    b"\x00\x01\x00\x01",
    b"\x00\x1c\x00\x01",
    b"\x00\x21\x00\x01",
    b"\x00\x05\x00\x01",
    b"\x00\x06\x00\x01",
    b"\x00\x29\x10\x00",
    b"\x00\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\x00\x04\x0a\x00\x00\x03",
    b"\x01a",
    b"\x3faaaa",
    b"\x80",
    b"\x00\x08\x00\x00\x00\x00\x00\x00\xc0\x0c",
    b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x01",
];

fn run(data: &[u8]) {
    let Some(([kind, flags, answers], behind)) = choices(data) else { return };
    let is_srv = kind & 2 != 0;
    let found = block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let dns = Dns {
            name: "a.test.".into(),
            port: (!is_srv).then_some(4711),
            scheme: if kind & 1 == 0 { Scheme::Ws } else { Scheme::Wss },
            family: [IpFamily::Any, IpFamily::Ipv4, IpFamily::Ipv6][usize::from(kind >> 2) % 3],
            server: Some(socket.local_addr().expect("an address")),
            every: Duration::from_secs(1),
        };
        tokio::select! {
            found = dns.once() => found,
            () = serve(&socket, flags, answers, behind) => unreachable!("it serves for ever"),
        }
    });
    let Ok(found) = found else { return };
    assert!(!found.is_empty() && found.len() <= 10_000);
    for endpoint in found {
        let EndpointUrl::Tcp { tls, host, port } = &endpoint.url else { panic!("{endpoint:?}") };
        assert_eq!(*tls, kind & 1 != 0, "an answer does not choose the scheme");
        // Nothing but what stands in the answer.
        let stands = |bytes: &[u8]| behind.windows(bytes.len()).any(|part| part == bytes);
        match host.parse::<IpAddr>().expect("an address") {
            IpAddr::V4(ip) => assert!(stands(&ip.octets()), "{ip}"),
            IpAddr::V6(ip) => assert!(stands(&ip.octets()), "{ip}"),
        }
        assert!(if is_srv { stands(&port.to_be_bytes()) && *port != 0 } else { *port == 4711 }, "{port}");
        assert!(endpoint.weight > 0, "{endpoint:?} would get nobody");
    }
}

/// Answers each question so, and once more by the letter: there is no such name. What the first was no answer to ends with
/// the second.
async fn serve(socket: &UdpSocket, flags: u8, answers: u8, behind: &[u8]) {
    let mut question = [0; 1500];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
        let question = &question[..length];
        // Its name ends with an empty label; then come type and class.
        let Some(end) = question.iter().skip(12).position(|byte| *byte == 0).map(|at| 12 + at + 5) else { continue };
        let (id, asked) = (&question[..2], &question[12..end]);
        // The low bits of `flags` are the code, and its upper ones say what else there is.
        let second = if flags & 0x40 == 0 { 0x81 } else { 0x83 };
        let header = [second, 0x80 | flags & 0xF, 0, 1, 0, answers, 0, 0, 0, u8::from(flags & 0x20 != 0)];
        let hostile = [id, &header, asked, behind].concat();
        let none = [id, &[0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0], asked].concat();
        for packet in [hostile, none] {
            // One that is too large is not sent.
            let _ = socket.send_to(&packet, from).await;
        }
    }
}
