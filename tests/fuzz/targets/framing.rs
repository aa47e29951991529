//! Content-Length, Transfer-Encoding and Connection: what a message says of its own frame, and what ends at this hop.

use wsluice::header::{coding, hop_by_hop, length, trailers};

use super::{Target, fields};

pub const TARGET: Target = Target {
    name: "framing",
    run,
    seeds: &[
        b"Transfer-Encoding: chunked\n",
        b"Content-Length: 5, 5\nContent-Length: 5\nHost: a\n",
        b"Connection: close, X-A, content-length\nX-A: b\nContent-Length: 3\nTE: trailers\n",
        b"Transfer-Encoding: gzip\nTransfer-Encoding: chunked\nContent-Length: 1\nTrailer: A, Host\n",
    ],
    tokens: &[
        b"Transfer-Encoding: ",
        b"Content-Length: ",
        b"Connection: ",
        b"Trailer: ",
        b"TE: ",
        b"chunked",
        b"gzip",
        b"identity",
        b", ",
        b",",
        b";",
        b";q=1",
        b"\n",
        b" ",
        b"\t",
        b"0",
        b"5",
        b"+5",
        b"-1",
        b"0x5",
        b"18446744073709551615",
        b"18446744073709551616",
        b"CHUNKED",
        b"\xff",
        b"close",
        b"keep-alive",
        b"Host",
        b"Forwarded",
        b"X-Forwarded-For",
        b"X-A: b\n",
        b"Cookie",
    ],
};

fn run(data: &[u8]) {
    let headers = fields(data);
    let lines = |name| headers.get_all(name).iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>();
    let codings = lines("transfer-encoding");
    let is_chunked = matches!(&codings[..], [line] if line.trim_ascii().eq_ignore_ascii_case(b"chunked"));
    assert_eq!(coding::of_request(&headers).is_ok(), codings.is_empty() || is_chunked, "{codings:?}");

    let mut settled = headers.clone();
    let items: Vec<Vec<u8>> = lines("content-length")
        .iter()
        .flat_map(|line| line.split(|byte| *byte == b',').map(|item| item.trim_ascii().to_vec()).collect::<Vec<_>>())
        .collect();
    let number = |item: &Vec<u8>| -> Option<u64> {
        let text = std::str::from_utf8(item).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        text.parse().ok()
    };
    let numbers: Option<Vec<u64>> = items.iter().map(number).collect();
    let one = numbers.filter(|numbers| numbers.windows(2).all(|two| two[0] == two[1]));
    assert_eq!(length::join_lines(&mut settled).is_ok(), one.is_some(), "{items:?}");
    if let Some(&length) = one.as_ref().and_then(|numbers| numbers.first()) {
        let sent: Vec<_> = settled.get_all("content-length").iter().collect();
        assert!(matches!(sent[..], [line] if number(&line.as_bytes().to_vec()) == Some(length)), "{sent:?}");
    }

    let mut passed = headers.clone();
    hop_by_hop::strip(&mut passed);
    for name in ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"] {
        assert!(!passed.contains_key(name), "{name} passes");
    }
    assert!(codings.is_empty() || !passed.contains_key("content-length"), "two framings pass");
    // Who the client is and whom it asks for is not the client's to take out (`Connection: X-Real-IP`).
    for name in ["host", "forwarded", "x-forwarded-for", "x-real-ip", "cookie", "authorization"] {
        assert_eq!(passed.contains_key(name), headers.contains_key(name), "{name}");
    }
    // What passes is what came.
    assert!(passed.iter().all(|(name, value)| headers.get_all(name).iter().any(|line| line == value)));
    let mut again = passed.clone();
    hop_by_hop::strip(&mut again);
    assert_eq!(again, passed);

    let mut told = headers.clone();
    trailers::keep_allowed(&mut told, |_| true);
    for line in told.get_all("trailer") {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty())
        {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            assert!(trailers::may_pass(&name), "a trailer {name} is announced");
            assert!(!["host", "cookie", "content-length", "x-forwarded-for", "authorization"].contains(&&*name));
        }
    }
}
