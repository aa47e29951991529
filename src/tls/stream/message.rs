//! Handshake messages after the handshake: cut out of records, and not kept.
//!
//! Of those that are allowed then, only a KeyUpdate has contents that matter, one byte. So the header and one byte are
//! kept, and the rest is counted.

use rustls::{Error, InvalidMessage};

/// The length of a message's header: type and length (RFC 8446 §4).
const HEADER: usize = 4;
/// The longest message; rustls has the same limit.
const MESSAGE_MAX: u32 = 0xffff;

/// Handshake messages (RFC 8446 §4, RFC 5246 §7.4).
pub const HELLO_REQUEST: u8 = 0;
pub const CLIENT_HELLO: u8 = 1;
pub const NEW_SESSION_TICKET: u8 = 4;
pub const KEY_UPDATE: u8 = 24;

/// A message that has arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: u8,
    /// The length of its contents.
    pub length: u32,
    /// The first byte of its contents, 0 if there is none.
    pub first: u8,
}

/// The message that is arriving.
#[derive(Debug, Default)]
pub struct MessageReader {
    /// The header and the first byte of the contents.
    start: [u8; HEADER + 1],
    /// How many of these have arrived.
    held: usize,
    /// How many bytes of the contents are missing.
    left: u32,
}

impl MessageReader {
    /// Goes on where another stopped, see [`start`](Self::start) and [`left`](Self::left). Returns `None` if they
    /// contradict each other.
    pub fn restore(start: &[u8], left: u32) -> Option<MessageReader> {
        let mut reader = MessageReader { held: start.len(), left, ..MessageReader::default() };
        reader.start.get_mut(..start.len())?.copy_from_slice(start);
        let length = reader.length();
        let fits = match start.len() {
            0..HEADER => left == 0,
            HEADER => left == length && left > 0 && left <= MESSAGE_MAX,
            _ => left < length && left > 0 && length <= MESSAGE_MAX,
        };
        fits.then_some(reader)
    }

    /// Returns true if no message has begun.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Returns the bytes held of the message.
    pub fn start(&self) -> &[u8] {
        &self.start[..self.held]
    }

    /// Returns how many bytes are missing, once the header is whole.
    pub fn left(&self) -> u32 {
        self.left
    }

    fn length(&self) -> u32 {
        u32::from_be_bytes([0, self.start[1], self.start[2], self.start[3]])
    }

    fn hold(&mut self, bytes: &mut &[u8], end: usize) -> usize {
        let count = (end - self.held).min(bytes.len());
        let (now, later) = bytes.split_at(count);
        self.start[self.held..self.held + count].copy_from_slice(now);
        self.held += count;
        *bytes = later;
        count
    }

    /// Takes bytes from the front of `bytes` up to the end of a message. Returns the message if it is whole.
    ///
    /// # Errors
    /// Fails if the message is too long.
    pub fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, Error> {
        if self.held < HEADER {
            self.hold(bytes, HEADER);
            if self.held < HEADER {
                return Ok(None);
            }
            self.left = self.length();
            if self.left > MESSAGE_MAX {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
        }
        if self.held == HEADER && self.left > 0 {
            self.left -= self.hold(bytes, HEADER + 1) as u32;
        }
        let skipped = bytes.len().min(self.left as usize);
        *bytes = &bytes[skipped..];
        self.left -= skipped as u32;
        if self.left > 0 {
            return Ok(None);
        }
        let MessageReader { start: [kind, _, _, _, first], .. } = *self;
        let message = Message { kind, length: self.length(), first };
        *self = MessageReader::default();
        Ok(Some(message))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are cut into records, and wherever the reader moves to another process.
        #[test]
        fn the_messages_do_not_depend_on_the_cuts(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..10),
            cuts in prop::collection::vec((1_usize..20, any::<bool>()), 1..20),
        ) {
            let mut bytes = vec![];
            let mut expected = vec![];
            for (kind, contents) in &messages {
                bytes.extend([*kind, 0, 0, contents.len() as u8]);
                bytes.extend(contents);
                let first = contents.first().copied().unwrap_or(0);
                expected.push(Message { kind: *kind, length: contents.len() as u32, first });
            }
            let (mut reader, mut found, mut rest) = (MessageReader::default(), vec![], &bytes[..]);
            for (size, moves) in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (mut record, later) = rest.split_at((*size).min(rest.len()));
                while !record.is_empty() {
                    found.extend(reader.take(&mut record).unwrap());
                }
                if *moves {
                    reader = MessageReader::restore(reader.start(), reader.left()).unwrap();
                }
                rest = later;
            }
            prop_assert!(reader.is_empty());
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_message_of_64_kib_is_refused_by_its_header() {
        assert!(MessageReader::default().take(&mut &[1, 0, 0xff, 0xff][..]).unwrap().is_none());
        assert!(MessageReader::default().take(&mut &[1, 1, 0, 0][..]).is_err());
        for (start, left) in
            [(&[1, 0, 0, 0][..], 0), (&[1, 0, 0, 9], 8), (&[1, 0], 1), (&[1, 0, 0, 9, 7], 9), (&[0; 6], 0)]
        {
            assert!(MessageReader::restore(start, left).is_none(), "{start:?} {left}");
        }
    }
}
