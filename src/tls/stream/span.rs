//! A range of bytes in a buffer.

use crate::net::pool::{self, Buffer};

/// Bytes that wait in a buffer: received and not decrypted, or encrypted and not sent.
#[derive(Debug)]
pub struct ByteSpan {
    buffer: Buffer,
    start: u32,
    end: u32,
}

impl ByteSpan {
    /// Holds the first `length` bytes of `buffer`.
    pub fn new(buffer: Buffer, length: usize) -> ByteSpan {
        debug_assert!(length <= buffer.len());
        ByteSpan { buffer, start: 0, end: length as u32 }
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start as usize..self.end as usize]
    }

    /// Returns the bytes, to decrypt them in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize..self.end as usize]
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns the size of the buffer.
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Returns the room after the bytes.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end as usize..]
    }

    /// Adds `count` bytes that were written into the [`room`](Self::room).
    pub fn add(&mut self, count: usize) {
        self.end += count as u32;
        debug_assert!(self.end as usize <= self.buffer.len());
    }

    /// Drops the first `count` bytes.
    pub fn advance(&mut self, count: usize) {
        self.start += count as u32;
        debug_assert!(self.start <= self.end);
    }

    /// Moves the bytes to the front of the buffer, so that all room is after them.
    pub fn compact(&mut self) {
        self.buffer.copy_within(self.start as usize..self.end as usize, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }

    /// Replaces a buffer that is more than twice as large as its bytes, since they may wait for long.
    pub fn shrink(&mut self) {
        if self.capacity() > 2 * self.len() {
            *self = ByteSpan::new(pool::copy_of(self.bytes()), self.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::pool::BufferSize;

    #[test]
    fn bytes_move_and_shrink_without_changing() {
        let mut buffer = pool::take(BufferSize::Small);
        buffer[..6].copy_from_slice(b"abcdef");
        let mut span = ByteSpan::new(buffer, 6);
        span.advance(2);
        span.compact();
        assert_eq!(span.bytes(), b"cdef");
        assert_eq!(span.room().len(), BufferSize::Small.bytes() - 4);
        span.room()[0] = b'g';
        span.add(1);
        span.advance(1);
        span.shrink();
        assert_eq!((span.bytes(), span.capacity()), (b"defg".as_slice(), 4));
        assert_eq!(pool::free(BufferSize::Small), 1);
        span.advance(1);
        span.shrink();
        assert_eq!((span.bytes(), span.capacity()), (b"efg".as_slice(), 4));
    }
}
