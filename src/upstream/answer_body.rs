//! The body of an endpoint's answer, whatever version of HTTP it comes by.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::streams::connection::StreamPermit;
use crate::http2::body::ReceivedBody;

/// A body as it comes.
#[derive(Debug)]
pub enum AnswerBody {
    /// On a connection of HTTP/1.1.
    Http1(Incoming),
    /// On a stream. Dropping it before its end resets the stream.
    Http2(ReceivedBody, Arc<StreamPermit>),
}

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum AnswerBodyError {
    /// On a connection of HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// On a stream.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerBodyError>>> {
        match self.get_mut() {
            AnswerBody::Http1(body) => Pin::new(body).poll_frame(cx).map_err(AnswerBodyError::Http1),
            AnswerBody::Http2(body, _) => Pin::new(body).poll_frame(cx).map_err(AnswerBodyError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Http1(body) => body.is_end_stream(),
            AnswerBody::Http2(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Http1(body) => body.size_hint(),
            AnswerBody::Http2(body, _) => body.size_hint(),
        }
    }
}
