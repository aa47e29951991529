//! Bytes in a part of a buffer.

use crate::net::pool::{self, Buffer};

/// Bytes that wait in a buffer: what came and is not decrypted, or what is encrypted and not sent.
#[derive(Debug)]
pub struct ByteSpan {
    buffer: Buffer,
    start: u32,
    end: u32,
}

impl ByteSpan {
    /// The first `length` bytes of `buffer`.
    pub fn new(buffer: Buffer, length: usize) -> ByteSpan {
        debug_assert!(length <= buffer.len());
        ByteSpan { buffer, start: 0, end: length as u32 }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start as usize..self.end as usize]
    }

    /// The bytes, to be decrypted in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize..self.end as usize]
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// How large the buffer is.
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// The room behind the bytes.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end as usize..]
    }

    /// Takes in `count` bytes that were put into the [`room`](Self::room).
    pub fn add(&mut self, count: usize) {
        self.end += count as u32;
        debug_assert!(self.end as usize <= self.buffer.len());
    }

    /// Drops the first `count` bytes.
    pub fn advance(&mut self, count: usize) {
        self.start += count as u32;
        debug_assert!(self.start <= self.end);
    }

    /// Moves the bytes to the front of the buffer, so that all its room is behind them.
    pub fn compact(&mut self) {
        self.buffer.copy_within(self.start as usize..self.end as usize, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }

    /// Gives a buffer back that is more than twice as large as its bytes: they may wait for long.
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
