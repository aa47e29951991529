//! Why a stream of a server has failed, and whether the server may have acted on its request.

use h2::Reason;

/// Why a request on a stream got no answer.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It was surely not processed (RFC 9113 §8.7): the server has refused the stream, or goes away and says that it did not
    /// look at it.
    #[error("the server takes no more requests on this connection")]
    Refused(#[source] h2::Error),
    /// The server has reset the stream.
    #[error("the server reset the stream ({0})")]
    Reset(Reason),
    /// The connection was lost, or broken by an error of the protocol.
    #[error("the connection was lost before the answer")]
    Lost {
        /// What h2 says.
        #[source]
        error: h2::Error,
        /// It had carried an answer before: mostly the server has closed it as unused.
        was_used: bool,
    },
}

impl StreamError {
    /// Reads an error of a stream that was to carry a request.
    pub fn of(error: h2::Error, was_used: bool) -> StreamError {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) if error.is_reset() => StreamError::Refused(error),
            // h2 gives this to streams above the last one that the server has looked at, and to those that come later.
            _ if error.is_go_away() && error.is_remote() => StreamError::Refused(error),
            Some(reason) if error.is_reset() => StreamError::Reset(reason),
            _ => StreamError::Lost { error, was_used },
        }
    }

    /// Returns true if the server did nothing with the request.
    pub const fn is_unprocessed(&self) -> bool {
        matches!(self, StreamError::Refused(_))
    }

    /// Returns true if the request failed on a connection that was used before, as it was lost: only an idempotent request
    /// may be sent again (RFC 9110 §9.2.2).
    pub const fn was_stale(&self) -> bool {
        matches!(self, StreamError::Lost { was_used: true, .. })
    }

    /// Returns true if the server wants the request by HTTP/1.1 (RFC 9113 §7).
    pub fn wants_http1(&self) -> bool {
        matches!(self, StreamError::Reset(Reason::HTTP_1_1_REQUIRED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_says_whether_the_request_was_looked_at() {
        // Made here, and not by a server; its kind is that of no reset.
        let lost = StreamError::of(Reason::PROTOCOL_ERROR.into(), true);
        assert!(!lost.is_unprocessed() && lost.was_stale() && !lost.wants_http1());
        assert!(!StreamError::of(Reason::PROTOCOL_ERROR.into(), false).was_stale());
        let wants = StreamError::Reset(Reason::HTTP_1_1_REQUIRED);
        assert!(wants.wants_http1() && !wants.is_unprocessed() && !wants.was_stale());
        assert_eq!(
            StreamError::Reset(Reason::CANCEL).to_string(),
            "the server reset the stream (stream no longer needed)"
        );
    }
}
