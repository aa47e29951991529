//! Sessions on their way: a file in memory with what they are, and their sockets beside it.
//!
//! The file goes with the packet as a descriptor, so no length of a packet limits it. It has keys of TLS in it; nobody but
//! the two processes can open it, and the reader overwrites it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use zeroize::Zeroizing;

use super::message::DESCRIPTORS_MAX;

/// The most sessions in a batch: two descriptors each, and the file.
pub const SESSIONS_MAX: usize = (DESCRIPTORS_MAX - 1) / 2;

/// The largest file: what sessions hold is bounded, so a larger one is a mistake.
const BYTES_MAX: u64 = 1 << 30;

/// A session to be sent: what it is, and its sockets, client first.
#[derive(Debug)]
pub struct Outbound<'a> {
    /// What it is, encoded by whoever knows sessions.
    pub state: &'a [u8],
    /// The sockets of client and server.
    pub sockets: [BorrowedFd<'a>; 2],
}

/// A session that has arrived.
#[derive(Debug)]
pub struct Inbound {
    /// What it is, encoded.
    pub state: Zeroizing<Vec<u8>>,
    /// The sockets of client and server.
    pub sockets: [OwnedFd; 2],
}

/// Writes the states of a batch to a new file in memory.
///
/// # Errors
/// If no memory or descriptor is left.
pub fn pack(sessions: &[Outbound<'_>]) -> io::Result<OwnedFd> {
    let bytes = sessions.iter().map(|session| session.state.len() + 4).sum();
    let mut all = Zeroizing::new(Vec::with_capacity(bytes));
    for Outbound { state, .. } in sessions {
        let length = u32::try_from(state.len()).map_err(io::Error::other)?;
        all.extend_from_slice(&length.to_le_bytes());
        all.extend_from_slice(state);
    }
    write_secret(&all)
}

/// Reads a batch of `count` sessions from the descriptors of its packet, and overwrites the file.
///
/// # Errors
/// If it is not such a batch.
pub fn unpack(count: u32, descriptors: Vec<OwnedFd>) -> io::Result<Vec<Inbound>> {
    let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut descriptors = descriptors.into_iter();
    let file = descriptors.next().ok_or_else(|| bad("no file"))?;
    if descriptors.len() != 2 * count as usize {
        return Err(bad("not two sockets for each session"));
    }
    let all = read_secret(file)?;
    let mut sessions = Vec::with_capacity(count as usize);
    let mut rest = &all[..];
    while let (Some(client), Some(server)) = (descriptors.next(), descriptors.next()) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(|| bad("too short a file"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (state, after) = after.split_at_checked(length).ok_or_else(|| bad("too short a file"))?;
        rest = after;
        sessions.push(Inbound { state: Zeroizing::new(state.to_vec()), sockets: [client, server] });
    }
    if !rest.is_empty() {
        return Err(bad("too long a file"));
    }
    Ok(sessions)
}

/// Writes bytes that nobody else may see to a new file in memory.
///
/// # Errors
/// If no memory or descriptor is left.
pub fn write_secret(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"wsluice-upgrade", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Reads such a file, and overwrites it.
///
/// # Errors
/// If it cannot be read, or is larger than anything that is sent.
pub fn read_secret(file: OwnedFd) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::from(file);
    let length = file.metadata()?.len();
    if length > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large a file"));
    }
    file.seek(SeekFrom::Start(0))?;
    // Of its size from the start: a vector that grows leaves copies behind.
    let mut all = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.read_to_end(&mut all)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&vec![0; all.len()])?;
    Ok(all)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn sockets() -> [OwnedFd; 2] {
        let (one, other) = UnixStream::pair().unwrap();
        [one.into(), other.into()]
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked_and_nothing_stays_in_the_file(
            states in prop::collection::vec(prop::collection::vec(1..=u8::MAX, 0..300), 0..20),
        ) {
            let pairs: Vec<_> = states.iter().map(|_| sockets()).collect();
            let outbound: Vec<_> = states
                .iter()
                .zip(&pairs)
                .map(|(state, [client, server])| Outbound { state, sockets: [client.as_fd(), server.as_fd()] })
                .collect();
            let file = pack(&outbound).unwrap();
            let kept = file.try_clone().unwrap();
            let descriptors = std::iter::once(file).chain(pairs.into_iter().flatten()).collect();
            let inbound = unpack(states.len() as u32, descriptors).unwrap();
            let arrived: Vec<_> = inbound.into_iter().map(|inbound| inbound.state.to_vec()).collect();
            prop_assert_eq!(arrived, states);
            let mut left = vec![];
            let mut kept = File::from(kept);
            kept.seek(SeekFrom::Start(0)).unwrap();
            kept.read_to_end(&mut left).unwrap();
            prop_assert!(left.iter().all(|byte| *byte == 0));
        }

        #[test]
        fn garbage_is_an_error_and_nothing_worse(bytes in prop::collection::vec(any::<u8>(), 0..100), count in 0..5_u32) {
            let mut file = File::from(memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap());
            file.write_all(&bytes).unwrap();
            let pairs = (0..count).flat_map(|_| sockets());
            let descriptors = std::iter::once(OwnedFd::from(file)).chain(pairs).collect();
            if let Ok(sessions) = unpack(count, descriptors) {
                prop_assert_eq!(sessions.len(), count as usize);
            }
            prop_assert!(unpack(count, vec![]).is_err());
        }
    }
}
