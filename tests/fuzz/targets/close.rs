//! The body of a Close frame: what a peer says, and what we say.

use std::borrow::Cow;

use wsluice::ws::close::{Close, CloseBody, CloseCode, CloseError};

use super::{Target, model};

pub const TARGET: Target = Target {
    name: "close",
    run,
    seeds: &[
        b"",
        b"\x03\xe8",
        b"\x03\xe8bye",
        b"\x03\xf3\xc3\xa9\xe2\x82\xac",
        b"\x0f\xa0\xf0\x9f\xa6\x80",
        b"\x03\xee",
    ],
    tokens: &[
        b"\xe2\x82\xac",
        b"\xf0\x9f\xa6\x80",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\x03\xed",
        b"\x13\x87",
        b"\x13\x88",
    ],
};

fn run(data: &[u8]) {
    match (CloseBody::parse(data), model::wrong_close(data)) {
        (Ok(body), None) => {
            assert_eq!(body.code.map(|code| code.0), data.first_chunk().map(|code| u16::from_be_bytes(*code)));
            assert_eq!(body.reason.as_bytes(), data.get(2..).unwrap_or_default());
        }
        (Err(CloseError::Truncated), Some(model::Wrong::CloseShort))
        | (Err(CloseError::Code(_)), Some(model::Wrong::CloseCode))
        | (Err(CloseError::Reason), Some(model::Wrong::CloseReason)) => {}
        (found, wrong) => panic!("{found:?}, and it is wrong by {wrong:?}"),
    }
    // What we say ourselves, an operator's words among it, fits a frame and reads back.
    let Some((code, reason)) = data.split_first_chunk() else { return };
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.is_sendable() {
        return;
    }
    let reason = String::from_utf8_lossy(reason).into_owned();
    let (body, length) = Close { code: Some(code), reason: Cow::Owned(reason.clone()) }.body();
    let read = CloseBody::parse(&body[..length]).expect("our own Close is legal");
    assert_eq!(read.code, Some(code));
    assert!(reason.starts_with(&*read.reason) && (read.reason.len() == reason.len() || read.reason.len() > 119));
}
