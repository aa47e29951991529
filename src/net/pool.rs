//! A pool of buffers, lent for one read.
//!
//! A waiting connection holds no buffer; one that reads takes one, and as soon as it is empty the next connection of
//! the same worker gets it, still warm in the cache. So a worker needs about as many buffers as it has connections
//! under back-pressure, not as it has connections.
//!
//! Each thread has its own lists: no lock, no atomic. A buffer may be dropped on another thread; it then joins that
//! thread's list. The lists are bounded (`BufferSize::kept`); the rest goes back to the allocator.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// The sizes of buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BufferSize {
    /// 16 KiB: the messages of most connections, many at once.
    Small,
    /// 64 KiB: a few TLS records, each 16 KiB and up to 261 bytes (RFC 5246 §6.2.3, RFC 8446 §5.2).
    Medium,
    /// 256 KiB: bulk data. A larger one no longer saves calls per MiB noticeably.
    Large,
}

impl BufferSize {
    /// All sizes, smallest first.
    pub const ALL: [BufferSize; 3] = [BufferSize::Small, BufferSize::Medium, BufferSize::Large];

    /// Returns the number of bytes of such a buffer.
    pub const fn bytes(self) -> usize {
        match self {
            BufferSize::Small => 16 * 1024,
            BufferSize::Medium => 64 * 1024,
            BufferSize::Large => 256 * 1024,
        }
    }

    /// Returns the next larger size; the largest stays what it is.
    pub const fn grown(self) -> BufferSize {
        match self {
            BufferSize::Small => BufferSize::Medium,
            BufferSize::Medium | BufferSize::Large => BufferSize::Large,
        }
    }

    /// Returns the next smaller size; the smallest stays what it is.
    pub const fn shrunk(self) -> BufferSize {
        match self {
            BufferSize::Small | BufferSize::Medium => BufferSize::Small,
            BufferSize::Large => BufferSize::Medium,
        }
    }

    /// Returns how many free buffers of this size a thread keeps: at most 1 + 1 + 2 MiB together.
    const fn kept(self) -> usize {
        match self {
            BufferSize::Small => 64,
            BufferSize::Medium => 16,
            BufferSize::Large => 8,
        }
    }

    fn of(bytes: usize) -> Option<BufferSize> {
        BufferSize::ALL.into_iter().find(|size| size.bytes() == bytes)
    }
}

thread_local! {
    static FREE: RefCell<[Vec<Box<[u8]>>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

/// A buffer on loan; dropping it returns it. It still holds the last user's data.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
}

/// Lends a buffer of `size`.
pub fn take(size: BufferSize) -> Buffer {
    let free = FREE.try_with(|free| free.borrow_mut()[size as usize].pop()).ok().flatten();
    Buffer { bytes: free.unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice()) }
}

/// Lends the smallest buffer that holds `bytes`. More than the largest size is allocated, and freed after use.
pub fn take_at_least(bytes: usize) -> Buffer {
    match BufferSize::ALL.into_iter().find(|size| size.bytes() >= bytes) {
        Some(size) => take(size),
        None => Buffer { bytes: vec![0; bytes].into_boxed_slice() },
    }
}

/// Copies `bytes` into memory of exactly their length, for bytes that may wait for long. The memory is freed after use,
/// not pooled.
pub fn copy_of(bytes: &[u8]) -> Buffer {
    Buffer { bytes: bytes.into() }
}

/// Returns how many free buffers of `size` the calling thread keeps now.
pub fn free(size: BufferSize) -> usize {
    FREE.with(|free| free.borrow()[size as usize].len())
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let Some(size) = BufferSize::of(bytes.len()) else { return };
        // A thread that is ending has no list any more; the buffer is freed.
        let _ = FREE.try_with(|free| {
            let list = &mut free.borrow_mut()[size as usize];
            if list.len() < size.kept() {
                list.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_lent_again() {
        let first = take(BufferSize::Small);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(free(BufferSize::Small), 1);
        assert_eq!(take(BufferSize::Small).as_ptr(), address);
        assert_eq!(take(BufferSize::Medium).len(), 64 * 1024);
    }

    #[test]
    fn a_thread_keeps_a_bounded_number() {
        for size in BufferSize::ALL {
            drop((0..size.kept() + 3).map(|_| take(size)).collect::<Vec<_>>());
            assert_eq!(free(size), size.kept());
        }
    }

    #[test]
    fn a_buffer_for_n_bytes_holds_n_bytes() {
        for (bytes, expected) in [(0, 16 << 10), (16 << 10, 16 << 10), ((16 << 10) + 1, 64 << 10), (300_000, 300_000)] {
            assert_eq!(take_at_least(bytes).len(), expected);
        }
        assert_eq!(free(BufferSize::Large), 0);
    }

    #[test]
    fn a_copy_takes_no_more_than_its_bytes() {
        let copy = copy_of(b"abc");
        assert_eq!(&copy[..], b"abc");
        drop(copy);
        assert!(BufferSize::ALL.into_iter().all(|size| free(size) == 0));
    }
}
