//! The headers of frames in a byte stream (RFC 9113 §4.1), whatever pieces it comes in. Payloads are passed over.

/// What a client sends before its first frame (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADER_BYTES: usize = 9;

/// The kinds of frames that something is known of here (RFC 9113 §6).
pub mod kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// The head of a message.
    pub const HEADERS: u8 = 1;
    /// Ends a stream at once.
    pub const RST_STREAM: u8 = 3;
    /// What a side asks of the other; without a payload, it acknowledges.
    pub const SETTINGS: u8 = 4;
    /// Ends a connection, or tells that it will end.
    pub const GOAWAY: u8 = 7;
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The length of its payload.
    pub length: u32,
    /// Its kind.
    pub kind: u8,
}

/// Finds frame headers in one direction of a connection.
#[derive(Debug)]
pub struct FrameReader {
    header: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes until the next header.
    skip: u64,
}

impl FrameReader {
    /// For the direction of the server: it begins with a frame.
    pub fn of_server() -> FrameReader {
        FrameReader { header: [0; HEADER_BYTES], have: 0, skip: 0 }
    }

    /// For the direction of the client: frames come behind the preface.
    pub fn of_client() -> FrameReader {
        FrameReader { skip: PREFACE.len() as u64, ..FrameReader::of_server() }
    }

    /// Reads on, and tells of each header that is complete.
    pub fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(FrameHeader)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let amount = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                bytes = &bytes[amount..];
                self.skip -= amount as u64;
                continue;
            }
            let amount = bytes.len().min(HEADER_BYTES - self.have);
            self.header[self.have..self.have + amount].copy_from_slice(&bytes[..amount]);
            self.have += amount;
            bytes = &bytes[amount..];
            if self.have == HEADER_BYTES {
                let [high, middle, low, kind, ..] = self.header;
                let length = u32::from_be_bytes([0, high, middle, low]);
                (self.have, self.skip) = (0, length.into());
                found(FrameHeader { length, kind });
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_are_found_wherever_the_stream_is_cut(
            frames in prop::collection::vec((0u8..12, 0usize..300), 0..8),
            cuts in prop::collection::vec(1usize..50, 1..20),
        ) {
            let mut bytes = PREFACE.to_vec();
            for (kind, length) in &frames {
                bytes.extend_from_slice(&u32::try_from(*length).unwrap().to_be_bytes()[1..]);
                bytes.extend_from_slice(&[*kind, 0xff, 0, 0, 0, 1]);
                bytes.extend(std::iter::repeat_n(7, *length));
            }
            let (mut reader, mut found, mut rest) = (FrameReader::of_client(), vec![], &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (piece, left) = rest.split_at(rest.len().min(*cut));
                reader.read(piece, |header| found.push((header.kind, header.length as usize)));
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, frames);
        }
    }
}
