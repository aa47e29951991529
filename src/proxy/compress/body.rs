//! A body that is compressed on its way.
//!
//! It shares its thread with sessions, so it works in turns: after [`TURN_BYTES`] of input the task gives way to all
//! others, however fast the server sends and the client reads. What a server has sent of an answer without a length
//! is flushed when nothing more comes at once, so that an answer that comes in parts arrives in parts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as _, Frame};

use super::encoder::Encoder;
use crate::base::worker::yield_to_all;
use crate::proxy::body::{Body, BodyError};

/// The most input that is compressed in one turn: less than a millisecond's work for the slowest encoder.
pub const TURN_BYTES: usize = 16 << 10;
/// The most input that an encoder is given at a time.
const STEP_BYTES: usize = 8 << 10;
/// Output is sent in pieces of at least this, but for the last.
const OUTPUT_BYTES_MIN: usize = 8 << 10;

/// The compressed form of a body.
pub struct CompressedBody {
    body: Body,
    encoder: Encoder,
    /// It comes in parts that are not to wait for each other.
    is_streamed: bool,
    /// What is not compressed yet.
    input: Bytes,
    /// Compressed since the last turn began.
    worked: usize,
    /// Something was taken in that has not come out.
    is_dirty: bool,
    /// The body is at its end.
    is_finished: bool,
    trailers: Option<Frame<Bytes>>,
}

impl CompressedBody {
    pub fn new(body: Body, encoder: Encoder, is_streamed: bool) -> CompressedBody {
        CompressedBody {
            body,
            encoder,
            is_streamed,
            input: Bytes::new(),
            worked: 0,
            is_dirty: false,
            is_finished: false,
            trailers: None,
        }
    }

    fn output(&mut self, bytes_min: usize) -> Option<Frame<Bytes>> {
        (self.encoder.output_bytes() >= bytes_min).then(|| Frame::data(self.encoder.take_output()))
    }

    /// Compresses a step of the input.
    fn step(&mut self) -> io::Result<()> {
        let step = self.input.split_to(self.input.len().min(STEP_BYTES));
        self.worked += step.len();
        self.is_dirty = true;
        self.encoder.write(&step)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.is_finished = true;
        self.encoder.finish()
    }

    /// Takes in the next frame of the body, or its end.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.input = data,
                Err(trailers) => {
                    self.trailers = Some(trailers);
                    self.finish().map_err(BodyError::Compression)?;
                }
            },
            // Without its end, so that the client sees that it is not whole.
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => self.finish().map_err(BodyError::Compression)?,
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::body::Body for CompressedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if this.is_finished {
                let rest = this.output(1).or_else(|| this.trailers.take());
                return Poll::Ready(rest.map(Ok));
            }
            if !this.input.is_empty() {
                if this.worked >= TURN_BYTES {
                    this.worked = 0;
                    yield_to_all(cx);
                    return Poll::Pending;
                }
                if let Err(error) = this.step() {
                    return Poll::Ready(Some(Err(BodyError::Compression(error))));
                }
                if let Some(frame) = this.output(OUTPUT_BYTES_MIN) {
                    return Poll::Ready(Some(Ok(frame)));
                }
                continue;
            }
            match this.poll_input(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => {
                    this.worked = 0;
                    if !this.is_streamed || !std::mem::take(&mut this.is_dirty) {
                        return Poll::Pending;
                    }
                    if let Err(error) = this.encoder.flush() {
                        return Poll::Ready(Some(Err(BodyError::Compression(error))));
                    }
                    // The body wakes us when there is more.
                    return this.output(1).map_or(Poll::Pending, |frame| Poll::Ready(Some(Ok(frame))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_finished && self.encoder.output_bytes() == 0 && self.trailers.is_none()
    }
}
