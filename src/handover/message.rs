//! The messages of a handover and their encoding: one message per packet.
//!
//! A packet is three magic bytes, the version, the number of descriptors (two bytes, big-endian), and JSON. Both processes
//! may be different builds, so unknown fields are ignored and an unknown kind is [`HandoverMessage::Unknown`]. Only an
//! incompatible change gets another version, which is refused as a whole. So later builds can hand over more, such as live
//! sessions, with new kinds that today's builds ignore.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::net::listener::{Address, FileId};
use crate::upstream::endpoint_state::EndpointKey;

/// The version that this build writes and accepts.
pub const VERSION: u8 = 1;
/// The longest packet: less than half of a socket's default buffer, which must hold a whole packet.
pub const BYTES_MAX: usize = 64 * 1024;
/// The most descriptors that the kernel passes with one packet (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;

const MARK: [u8; 3] = *b"wsl";
const HEAD_BYTES: usize = 6;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HandoverMessage {
    /// Old to new: a listener with its sockets, in several messages if they do not fit into one.
    Listener {
        /// Its name.
        name: String,
        /// Its address.
        address: Address,
        /// The file of a Unix socket, if the new process must remove it at its end.
        #[serde(default)]
        file: Option<FileId>,
    },
    /// Old to new: the offer is complete; the new process builds everything.
    Offered {
        /// The id of the old process.
        pid: u32,
        /// Its version, for the log.
        #[serde(default)]
        version: String,
        /// How often the service has been upgraded, this time included.
        #[serde(default)]
        upgrades: u64,
        /// Whether it will give its sessions to the new process.
        #[serde(default)]
        moves: bool,
    },
    /// New to old: everything is built, nothing is accepted yet.
    Ready,
    /// New to old: the new process refuses to take over.
    Refused {
        /// The reason, for the log.
        #[serde(default)]
        reason: String,
    },
    /// Old to new: an earlier process that still drains, with the end of its channel.
    Predecessor {
        /// Its process id.
        pid: u32,
    },
    /// The sessions of a process, at least on endpoints where they have changed. The process is the one last named by
    /// [`HandoverMessage::Predecessor`] on this channel, or else the sender.
    Counts {
        /// The present numbers; 0 where none are left.
        sessions: Vec<Count>,
    },
    /// Old to new: something that the old process knows and the new one should; `control` reads and writes it.
    Known {
        /// What it is.
        what: serde_json::Value,
    },
    /// Old to new: secrets that the new process goes on with, in a file in memory; `control` reads and writes them.
    Secrets,
    /// Old to new: the new process may accept.
    Take,
    /// New to old: the new process accepts, and the old one stops.
    Taken {
        /// Listeners that the new process does not have: the old one serves the connections that wait there.
        #[serde(default)]
        unwanted: Vec<Address>,
        /// Whether it takes sessions.
        #[serde(default)]
        takes_sessions: bool,
    },
    /// Old to new: sessions, as a file in memory ([`pack`](super::batch::pack)) and two sockets of each.
    Sessions {
        /// The number of the batch, counted from 1.
        batch: u64,
        /// How many.
        count: u32,
    },
    /// New to old: the batch has been read, and can be taken.
    Judged {
        /// The number of the batch.
        batch: u64,
        /// The sessions that cannot be taken, by their place in the batch, and why.
        #[serde(default)]
        refused: Vec<(u32, String)>,
    },
    /// New to old: a batch has arrived incomplete.
    Unreceived {
        /// What was lacking, for the log.
        #[serde(default)]
        reason: String,
    },
    /// Old to new: the new process may take the batch.
    Commit {
        /// The number of the batch.
        batch: u64,
    },
    /// Old to new: the old process keeps the batch.
    Revoke {
        /// The number of the batch.
        batch: u64,
    },
    /// New to old: from now on the new process reads and writes the sockets of the batch.
    Adopted {
        /// The number of the batch.
        batch: u64,
    },
    /// Old to new: all sessions that can go have gone.
    Moved,
    /// A message of a later build.
    #[serde(other)]
    Unknown,
}

/// The number of sessions on an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The upstream's name.
    pub upstream: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// Its sessions, those being opened included.
    pub sessions: u32,
}

/// Why a packet is not a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is not from wsluice.
    #[error("not a message of wsluice")]
    Foreign,
    /// It is from an incompatible build.
    #[error("version {0} of the handover, this build has {VERSION}")]
    Version(u8),
    /// Descriptors were lost, which happens at the limit of open files.
    #[error("{announced} descriptors were sent, {came} came (raise the limit of open files)")]
    Descriptors {
        /// The number sent.
        announced: usize,
        /// The number received.
        came: usize,
    },
    /// It is too long.
    #[error("a message of {0} bytes, at most {BYTES_MAX} are allowed")]
    TooLong(usize),
    /// It has too many descriptors.
    #[error("{0} descriptors, at most {DESCRIPTORS_MAX} go with one message")]
    TooMany(usize),
    /// It is not valid JSON.
    #[error("the message cannot be read")]
    Json(#[from] serde_json::Error),
}

/// Encodes a message that is sent with this number of descriptors.
///
/// # Errors
/// If it is too long.
pub fn encode(message: &HandoverMessage, descriptors: usize) -> Result<Vec<u8>, MessageError> {
    let count = u16::try_from(descriptors).ok().filter(|_| descriptors <= DESCRIPTORS_MAX);
    let [high, low] = count.ok_or(MessageError::TooMany(descriptors))?.to_be_bytes();
    let mut packet = vec![MARK[0], MARK[1], MARK[2], VERSION, high, low];
    serde_json::to_writer(&mut packet, message)?;
    if packet.len() > BYTES_MAX {
        return Err(MessageError::TooLong(packet.len()));
    }
    Ok(packet)
}

/// Decodes a packet that came with this number of descriptors.
///
/// # Errors
/// See [`MessageError`].
pub fn decode(packet: &[u8], descriptors: usize) -> Result<HandoverMessage, MessageError> {
    let Some((&[m0, m1, m2, version, high, low], json)) = packet.split_first_chunk::<HEAD_BYTES>() else {
        return Err(MessageError::Foreign);
    };
    if [m0, m1, m2] != MARK {
        return Err(MessageError::Foreign);
    }
    if version != VERSION {
        return Err(MessageError::Version(version));
    }
    if packet.len() > BYTES_MAX {
        return Err(MessageError::TooLong(packet.len()));
    }
    let announced = usize::from(u16::from_be_bytes([high, low]));
    if announced != descriptors {
        return Err(MessageError::Descriptors { announced, came: descriptors });
    }
    Ok(serde_json::from_slice(json)?)
}

/// Returns the messages that report the sessions a process has `now`, and zeros for endpoints where it only had some
/// `before`. Each message is valid by itself: if one is lost, some numbers are old, but none is wrong.
pub fn counts(now: &HashMap<EndpointKey, u32>, before: &HashMap<EndpointKey, u32>) -> Vec<HandoverMessage> {
    // The header and the JSON around the list take far less than the remaining eighth.
    const LIST_BYTES: usize = BYTES_MAX / 8 * 7;
    let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name, &0));
    let (mut messages, mut sessions, mut bytes) = (vec![], vec![], 0);
    for ((upstream, endpoint), count) in now.iter().chain(gone) {
        let count = Count { upstream: upstream.clone(), endpoint: endpoint.clone(), sessions: *count };
        let Ok(length) = serde_json::to_vec(&count).map(|json| json.len() + 1) else { continue };
        if length > LIST_BYTES {
            continue;
        }
        if bytes + length > LIST_BYTES {
            messages.push(HandoverMessage::Counts { sessions: std::mem::take(&mut sessions) });
            bytes = 0;
        }
        bytes += length;
        sessions.push(count);
    }
    if !sessions.is_empty() {
        messages.push(HandoverMessage::Counts { sessions });
    }
    messages
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(json: &str) -> Vec<u8> {
        [b"wsl\x01\0\0", json.as_bytes()].concat()
    }

    fn message() -> impl Strategy<Value = HandoverMessage> {
        let count = (".*", ".*", any::<u32>());
        let count = count.prop_map(|(upstream, endpoint, sessions)| Count { upstream, endpoint, sessions });
        prop_oneof![
            (".*", (any::<std::net::IpAddr>(), any::<u16>())).prop_map(|(name, addr)| HandoverMessage::Listener {
                name,
                address: Address::Tcp(addr.into()),
                file: None
            }),
            (any::<u32>(), ".*", any::<u64>()).prop_map(|(pid, version, upgrades)| HandoverMessage::Offered {
                pid,
                version,
                upgrades,
                moves: true
            }),
            ".*".prop_map(|reason| HandoverMessage::Refused { reason }),
            any::<u32>().prop_map(|pid| HandoverMessage::Predecessor { pid }),
            prop::collection::vec(count, 0..20).prop_map(|sessions| HandoverMessage::Counts { sessions }),
            Just(HandoverMessage::Ready),
            ".*".prop_map(|text| HandoverMessage::Known { what: text.into() }),
            Just(HandoverMessage::Take),
            Just(HandoverMessage::Taken { unwanted: vec![Address::Unix("/x".into())], takes_sessions: true }),
            (any::<u64>(), any::<u32>()).prop_map(|(batch, count)| HandoverMessage::Sessions { batch, count }),
            (any::<u64>(), prop::collection::vec((any::<u32>(), ".*"), 0..9))
                .prop_map(|(batch, refused)| HandoverMessage::Judged { batch, refused }),
            ".*".prop_map(|reason| HandoverMessage::Unreceived { reason }),
            any::<u64>().prop_map(|batch| HandoverMessage::Commit { batch }),
            any::<u64>().prop_map(|batch| HandoverMessage::Revoke { batch }),
            any::<u64>().prop_map(|batch| HandoverMessage::Adopted { batch }),
            Just(HandoverMessage::Moved),
            Just(HandoverMessage::Secrets),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message(), descriptors in 0..=DESCRIPTORS_MAX) {
            let packet = encode(&message, descriptors).unwrap();
            prop_assert_eq!(decode(&packet, descriptors).unwrap(), message);
            prop_assert!(decode(&packet, descriptors + 1).is_err());
        }

        #[test]
        fn garbage_is_an_error_and_nothing_worse(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes, 0).is_err());
            // Behind a head that is right, too; what serde makes of it is its business, so long as it ends.
            let _ = decode(&[b"wsl\x01\0\0", &bytes[..]].concat(), 0);
        }

        #[test]
        fn a_packet_that_was_cut_or_changed_is_not_another_message(
            message in message(), cut in any::<prop::sample::Index>(), flip in 1..=255u8,
        ) {
            let packet = encode(&message, 0).unwrap();
            let at = cut.index(packet.len());
            prop_assert!(decode(&packet[..at], 0).is_err());
            let mut changed = packet.clone();
            changed[at] ^= flip;
            // A changed byte may still be a message of the same length, but never one with descriptors or of a version.
            match decode(&changed, 0) {
                Ok(_) => prop_assert!(at >= HEAD_BYTES),
                Err(MessageError::Version(_)) => prop_assert_eq!(at, 3),
                Err(MessageError::Descriptors { .. }) => prop_assert!(at == 4 || at == 5),
                Err(_) => {}
            }
        }

        #[test]
        fn counts_in_parts_say_the_same_as_in_one(
            now in prop::collection::hash_map((0..4u8, 0..10u8), 1..9u32, 0..30),
            before in prop::collection::hash_map((0..4u8, 0..10u8), 1..9u32, 0..30),
            width in prop_oneof![Just(1), Just(5000), Just(30_000)],
        ) {
            let named = |counts: HashMap<(u8, u8), u32>| -> HashMap<EndpointKey, u32> {
                let name = |(u, e)| (format!("u{u}"), format!("ws://{e}:{}", "x".repeat(width)));
                counts.into_iter().map(|(key, count)| (name(key), count)).collect()
            };
            let (now, before) = (named(now), named(before));
            let mut known = before.clone();
            for message in counts(&now, &before) {
                let packet = encode(&message, 0).unwrap();
                let HandoverMessage::Counts { sessions } = decode(&packet, 0).unwrap() else { panic!("counts") };
                for count in sessions {
                    known.insert((count.upstream, count.endpoint), count.sessions);
                }
            }
            known.retain(|_, count| *count > 0);
            prop_assert_eq!(known, now);
        }
    }

    #[test]
    fn later_builds_are_understood_as_far_as_they_go() {
        let known = decode(&packet(r#"{"kind":"offered","pid":5,"colour":"red"}"#), 0).unwrap();
        assert_eq!(known, HandoverMessage::Offered { pid: 5, version: String::new(), upgrades: 0, moves: false });
        let unknown = decode(&packet(r#"{"kind":"session","state":{"x":[1,2]}}"#), 0).unwrap();
        assert_eq!(unknown, HandoverMessage::Unknown);
        assert!(matches!(decode(b"wsl\x02\0\0{}", 0), Err(MessageError::Version(2))));
        assert!(matches!(decode(b"GET / HTTP/1.1", 0), Err(MessageError::Foreign)));
        assert!(matches!(
            decode(&packet(r#"{"kind":"ready"}"#), 1),
            Err(MessageError::Descriptors { announced: 0, came: 1 })
        ));
    }

    #[test]
    fn what_does_not_fit_is_not_sent() {
        let long = HandoverMessage::Refused { reason: "x".repeat(BYTES_MAX) };
        assert!(matches!(encode(&long, 0), Err(MessageError::TooLong(_))));
        assert!(matches!(encode(&HandoverMessage::Ready, DESCRIPTORS_MAX + 1), Err(MessageError::TooMany(254))));
    }
}
