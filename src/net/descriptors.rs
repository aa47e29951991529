//! Reserves the last file descriptors of the process.
//!
//! Clients can use up all descriptors. Without one, the admin listener accepts no connection, and a supervisor that
//! checks health there ends the process with all its sessions; no file can be read for a reload, and no next process
//! started. So some are reserved ([`DescriptorBounds`]): traffic runs out first, then the admin listener, and the rest
//! is for files and the handover.
//!
//! Nothing is counted: the system gives each new descriptor the lowest free number, so a descriptor with number n shows
//! that n are in use. That costs a comparison and no system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

/// The most descriptors reserved: for many connections to the admin listener, and twice as many between the bounds for
/// connections that are closed late.
const RESERVE_MAX: u64 = 256;
/// At a lower limit, an eighth of it is reserved.
const RESERVE_SHARE: u64 = 8;

/// The limit as last read; 0 before the first reading.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// The use of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorUse {
    /// Clients, and connections to endpoints.
    Traffic,
    /// Connections of clients that are held unserved until there is room.
    Waiting,
    /// The admin listener.
    Admin,
}

/// The bounds of descriptor numbers for each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorBounds {
    traffic: u64,
    waiting: u64,
    admin: u64,
}

impl DescriptorBounds {
    /// Returns the bounds for a limit.
    pub const fn of(limit: u64) -> DescriptorBounds {
        let share = limit / RESERVE_SHARE;
        let reserve = if share < RESERVE_MAX { share } else { RESERVE_MAX };
        DescriptorBounds { traffic: limit - reserve, waiting: limit - reserve / 2, admin: limit - reserve / 4 }
    }

    const fn below(self, taker: DescriptorUse) -> u64 {
        match taker {
            DescriptorUse::Traffic => self.traffic,
            DescriptorUse::Waiting => self.waiting,
            DescriptorUse::Admin => self.admin,
        }
    }
}

/// Reads the limit again: this process or another may have raised it.
pub fn reread_limit() -> DescriptorBounds {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    LIMIT.store(limit, Ordering::Relaxed);
    DescriptorBounds::of(limit)
}

/// Returns how many descriptors are reserved from traffic.
pub fn reserve() -> u64 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    limit - DescriptorBounds::of(limit).traffic
}

/// Returns true if `taker` may keep this descriptor.
pub fn is_within(fd: impl AsFd, taker: DescriptorUse) -> bool {
    let number = u64::try_from(fd.as_fd().as_raw_fd()).unwrap_or(0);
    // The limit is not read each time: if it was lowered, an error causes a new reading.
    let bounds = DescriptorBounds::of(LIMIT.load(Ordering::Relaxed));
    number < bounds.below(taker) || number < reread_limit().below(taker)
}

/// Returns a descriptor made for traffic if it may be kept, otherwise the error of a system without descriptors.
///
/// # Errors
/// Fails with EMFILE if it may not be kept.
pub fn for_traffic<T: AsFd>(made: T) -> io::Result<T> {
    if is_within(&made, DescriptorUse::Traffic) { Ok(made) } else { Err(Errno::MFILE.into()) }
}

/// Duplicates a descriptor to the lowest free number, if `taker` may use that.
///
/// # Errors
/// Fails with EMFILE if not.
pub fn lowest(of: impl AsFd, taker: DescriptorUse) -> io::Result<OwnedFd> {
    let fd = fcntl_dupfd_cloexec(of, 0)?;
    if is_within(&fd, taker) { Ok(fd) } else { Err(Errno::MFILE.into()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_eighth_is_kept_back_and_no_more_than_is_of_use() {
        for (limit, traffic, waiting, admin) in [
            (0, 0, 0, 0),
            (80, 70, 75, 78),
            (1024, 896, 960, 992),
            (1 << 20, (1 << 20) - 256, (1 << 20) - 128, (1 << 20) - 64),
        ] {
            assert_eq!(DescriptorBounds::of(limit), DescriptorBounds { traffic, waiting, admin }, "{limit}");
        }
    }

    proptest! {
        #[test]
        fn who_matters_more_has_no_less(limit in any::<u64>()) {
            let DescriptorBounds { traffic, waiting, admin } = DescriptorBounds::of(limit);
            prop_assert!(traffic <= waiting && waiting <= admin && admin <= limit);
            prop_assert!(limit < 16 || traffic < waiting);
            prop_assert!(traffic >= limit / 2);
        }
    }

    #[test]
    fn a_descriptor_of_a_usual_number_may_be_kept() {
        assert!(is_within(io::stderr(), DescriptorUse::Traffic));
        assert!(lowest(io::stderr(), DescriptorUse::Traffic).is_ok());
    }
}
