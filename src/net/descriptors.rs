//! The last descriptors of the process, and who may take them.
//!
//! Clients can have as many as there are. When none is left, the admin listener takes no connection either, and whoever
//! asks there whether we live ends us with all our sessions; no file is read for a reload, and no next process started. So
//! some are kept back ([`DescriptorBounds`]): traffic ends first, then the admin listener, and the rest is for files and the handover.
//!
//! Nothing is counted: the system gives each new descriptor the lowest number that is free, so who gets the number n knows
//! that n are taken. That costs a comparison and no system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

/// What is kept back at most. A crowd at the admin listener, and twice as much between the lines for those that let go late.
const RESERVE_MAX: u64 = 256;
/// At a lower limit, its eighth part.
const RESERVE_SHARE: u64 = 8;

/// As it was read last; 0: not yet.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Who takes a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// Clients, and connections to endpoints.
    Traffic,
    /// Connections of clients that are held and not served until there is room.
    Waiting,
    /// The admin listener.
    Admin,
}

/// Which numbers the takers may have: those below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorBounds {
    traffic: u64,
    waiting: u64,
    admin: u64,
}

impl DescriptorBounds {
    /// Those of a limit.
    pub const fn of(limit: u64) -> DescriptorBounds {
        let share = limit / RESERVE_SHARE;
        let reserve = if share < RESERVE_MAX { share } else { RESERVE_MAX };
        DescriptorBounds { traffic: limit - reserve, waiting: limit - reserve / 2, admin: limit - reserve / 4 }
    }

    const fn below(self, taker: Taker) -> u64 {
        match taker {
            Taker::Traffic => self.traffic,
            Taker::Waiting => self.waiting,
            Taker::Admin => self.admin,
        }
    }
}

/// Reads the limit again: it may have been raised, by us or from outside.
pub fn look_again() -> DescriptorBounds {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    LIMIT.store(limit, Ordering::Relaxed);
    DescriptorBounds::of(limit)
}

/// How many are kept back from traffic.
pub fn reserve() -> u64 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    limit - DescriptorBounds::of(limit).traffic
}

/// Whether `taker` may keep the descriptor that it got.
pub fn is_within(fd: impl AsFd, taker: Taker) -> bool {
    let number = u64::try_from(fd.as_fd().as_raw_fd()).unwrap_or(0);
    // The limit is not asked for each time: when it was lowered there will be an error that has it read again.
    let lines = DescriptorBounds::of(LIMIT.load(Ordering::Relaxed));
    number < lines.below(taker) || number < look_again().below(taker)
}

/// The same for a descriptor that was made for traffic, as an error: as if the system had had none.
///
/// # Errors
/// EMFILE if it may not be kept.
pub fn for_traffic<T: AsFd>(made: T) -> io::Result<T> {
    if is_within(&made, Taker::Traffic) { Ok(made) } else { Err(Errno::MFILE.into()) }
}

/// Another descriptor of the same file, with the lowest number that is free, if `taker` may have that.
///
/// # Errors
/// EMFILE if not.
pub fn lowest(of: impl AsFd, taker: Taker) -> io::Result<OwnedFd> {
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
        assert!(is_within(io::stderr(), Taker::Traffic));
        assert!(lowest(io::stderr(), Taker::Traffic).is_ok());
    }
}
