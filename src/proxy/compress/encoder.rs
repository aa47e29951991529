//! The encoders of the content codings: bytes in, compressed bytes out, none of it waits.
//!
//! The levels are those at which a core still makes several hundred megabits a second; a proxy that shares its threads
//! with sessions has no time for the best. The windows are small enough that an answer takes at most three megabytes
//! (brotli; zstd 1.5, gzip 0.3), whatever its length.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::GzEncoder;

use crate::header::content_coding::ContentCoding;

/// Between the default of nginx (1) and that of zlib (6), which takes several times as long for some percent.
const GZIP_LEVEL: u32 = 3;
/// From 5 on, brotli takes several times as long for a few percent; 11 is for files that are compressed once.
const BROTLI_QUALITY: u32 = 4;
/// 256 KiB.
const BROTLI_WINDOW_BITS: u32 = 18;
/// The default of zstd.
const ZSTD_LEVEL: i32 = 3;
/// 256 KiB; browsers take up to 8 MiB (RFC 8878 §3.1.1.1.2).
const ZSTD_WINDOW_BITS: u32 = 18;
/// The buffer between brotli and its output.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// An encoder of one answer. After [`finish`](Encoder::finish) it takes no more.
pub enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Finished(Vec<u8>),
}

impl Encoder {
    /// Creates an encoder. `None` if there is no memory for it.
    pub fn new(coding: ContentCoding) -> Option<Encoder> {
        Some(match coding {
            ContentCoding::Gzip => Encoder::Gzip(GzEncoder::new(vec![], flate2::Compression::new(GZIP_LEVEL))),
            ContentCoding::Br => {
                let params = brotli::enc::BrotliEncoderParams {
                    quality: BROTLI_QUALITY as i32,
                    lgwin: BROTLI_WINDOW_BITS as i32,
                    ..Default::default()
                };
                let writer = brotli::CompressorWriter::with_params(vec![], BROTLI_BUFFER_BYTES, &params);
                Encoder::Brotli(Box::new(writer))
            }
            ContentCoding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(vec![], ZSTD_LEVEL).ok()?;
                encoder.window_log(ZSTD_WINDOW_BITS).ok()?;
                Encoder::Zstd(encoder)
            }
        })
    }

    /// Takes bytes in.
    ///
    /// # Errors
    /// If the encoder fails, which it does only on a bug of its own.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer().write_all(bytes)
    }

    /// Puts out all that was taken in, so that the client can read it.
    ///
    /// # Errors
    /// As [`write`](Encoder::write).
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }

    /// Puts out the rest and the end.
    ///
    /// # Errors
    /// As [`write`](Encoder::write).
    pub fn finish(&mut self) -> io::Result<()> {
        let output = match std::mem::replace(self, Encoder::Finished(vec![])) {
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Brotli(encoder) => encoder.into_inner(),
            Encoder::Zstd(encoder) => encoder.finish()?,
            Encoder::Finished(output) => output,
        };
        *self = Encoder::Finished(output);
        Ok(())
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Encoder::Gzip(encoder) => encoder,
            Encoder::Brotli(encoder) => encoder,
            Encoder::Zstd(encoder) => encoder,
            Encoder::Finished(output) => output,
        }
    }

    /// Returns the number of bytes that can be taken.
    pub fn output_bytes(&self) -> usize {
        match self {
            Encoder::Gzip(encoder) => encoder.get_ref().len(),
            Encoder::Brotli(encoder) => encoder.get_ref().len(),
            Encoder::Zstd(encoder) => encoder.get_ref().len(),
            Encoder::Finished(output) => output.len(),
        }
    }

    /// Takes what was put out so far.
    pub fn take_output(&mut self) -> Bytes {
        let output = match self {
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Finished(output) => output,
        };
        std::mem::take(output).into()
    }
}
