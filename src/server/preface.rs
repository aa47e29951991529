//! Tells HTTP/2 from HTTP/1.1 on a plain listener that speaks both: HTTP/2 with prior knowledge begins with its preface
//! (RFC 9113 §3.4), which is no request of HTTP/1.1.

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::metrics::ConnectionError;
use crate::config::HttpProtocol;
use crate::http2::frame::PREFACE;
use crate::net::stream::{Prefixed, Stream};

/// Reads as much as it takes to tell, by `deadline`. Returns what was read, the stream, and the version.
///
/// # Errors
/// What is counted if nothing can be told.
pub(super) async fn tell(
    stream: Prefixed<Stream>,
    deadline: Instant,
) -> Result<(Vec<u8>, Stream, HttpProtocol), ConnectionError> {
    let (mut early, mut stream) = stream.into_parts();
    loop {
        let known = early.len().min(PREFACE.len());
        if early[..known] != PREFACE[..known] {
            return Ok((early, stream, HttpProtocol::Http11));
        }
        if known == PREFACE.len() {
            return Ok((early, stream, HttpProtocol::Http2));
        }
        let read = timeout_at(deadline, stream.read_buf(&mut early)).await;
        let count = read.map_err(|_| ConnectionError::HeaderTimeout)?.map_err(|_| ConnectionError::Io)?;
        if count == 0 {
            // The beginning of a preface, or of nothing.
            return Ok((early, stream, HttpProtocol::Http11));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    async fn told(pieces: &[&[u8]]) -> (Vec<u8>, HttpProtocol) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let telling = tell(Prefixed::from(Stream::from(ours)), Instant::now() + Duration::from_secs(20));
        let writing = async {
            for piece in pieces {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            theirs.shutdown().await.unwrap();
        };
        let (told, ()) = tokio::join!(telling, writing);
        let (mut early, mut stream, protocol) = told.unwrap();
        stream.read_to_end(&mut early).await.unwrap();
        (early, protocol)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_preface_is_known_in_any_pieces_and_nothing_is_lost() {
        for cut in 0..PREFACE.len() {
            let (one, two) = PREFACE.split_at(cut);
            assert_eq!(told(&[one, two, b"rest"]).await, ([PREFACE, b"rest"].concat(), HttpProtocol::Http2), "{cut}");
            let broken = [one, b"!"].concat();
            assert_eq!(told(&[&broken]).await, (broken.clone(), HttpProtocol::Http11), "{cut}");
            assert_eq!(told(&[one]).await, (one.to_vec(), HttpProtocol::Http11), "{cut}");
        }
        assert_eq!(told(&[b"PRI /x HTTP/1.1\r\n\r\n"]).await.1, HttpProtocol::Http11);
    }
}
