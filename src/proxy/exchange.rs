//! A running plain request: the body of the answer, watched so that neither side holds the connections forever.
//!
//! Three stalls end an exchange: the server sends nothing of its answer, the server reads nothing of the request's
//! body, or the client sends nothing of it. The listener, which writes the answer, watches a client that does not read.
//! An exchange holds its permits on the route and the endpoint until the answer is complete, and the request's body
//! too, if that still comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::body::{Awaited, BodyError, Upload};
use super::quota::RoutePermit;
use super::snapshot::Route;
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::upstream::answer_body::AnswerBody;
use crate::upstream::endpoint_state::{ConnectionPermit, RequestPermit};
use crate::upstream::pooled::PooledConnection;

/// How long a request's body may stand still when its answer is whole.
const LATE_BODY: Duration = Duration::from_secs(1);

/// More frames than hyper keeps of a body that nobody reads: one of data, the trailers, and the end.
const FRAMES_KEPT_MAX: usize = 4;

/// The permits of a plain request on its route and its endpoint.
#[derive(Debug)]
pub struct ExchangePermits {
    _endpoint_permit: RequestPermit,
    _route_permit: RoutePermit,
}

impl ExchangePermits {
    /// A permit that was taken for a session is a request's from now on.
    pub fn new(endpoint_permit: ConnectionPermit, route_permit: RoutePermit) -> ExchangePermits {
        ExchangePermits { _endpoint_permit: endpoint_permit.into_request(), _route_permit: route_permit }
    }
}

/// The way of the request's body beside the answer.
#[derive(Debug)]
pub struct RequestBodyProgress {
    /// How far it has come.
    pub upload: Arc<Upload>,
    /// The connection on which it goes.
    pub connection: Option<PooledConnection>,
}

impl RequestBodyProgress {
    /// When it last moved.
    pub fn moved_at(&self) -> MonotonicTime {
        let moved = self.upload.moved_at();
        self.connection.as_ref().map_or(moved, |connection| moved.max(connection.written_at()))
    }

    fn is_whole(&self) -> bool {
        self.upload.awaited() == Awaited::Nobody
    }

    fn close(&self) {
        if let Some(connection) = &self.connection {
            connection.close();
        }
    }

    /// Lets the rest of the request's body come after the answer is whole, as some servers want, while it makes progress.
    /// The permits are held until then.
    async fn finish(self, _taken: ExchangePermits) {
        while !self.is_whole() {
            let before = (self.upload.bytes(), self.moved_at());
            sleep(LATE_BODY).await;
            // Once it is whole, the connection may carry another request.
            if !self.is_whole() && before == (self.upload.bytes(), self.moved_at()) {
                return self.close();
            }
        }
    }
}

/// The body of an endpoint's answer.
pub struct RelayedBody {
    body: AnswerBody,
    sending: Option<RequestBodyProgress>,
    begun: MonotonicTime,
    /// How long the request's body may stand still.
    body_timeout: Option<Duration>,
    /// How long the server may be silent.
    answer_timeout: Option<Duration>,
    /// Since when more of the answer is waited for.
    waits_since: Option<MonotonicTime>,
    /// Only where something was waited for.
    timer: Option<Pin<Box<Sleep>>>,
    /// `None` when the exchange is over.
    taken: Option<ExchangePermits>,
}

impl RelayedBody {
    /// The `body` of an answer with these `headers`; `sending` is the request's, unless that was a handshake.
    pub fn new(
        body: AnswerBody,
        headers: &HeaderMap,
        sending: Option<RequestBodyProgress>,
        route: &Route,
        taken: ExchangePermits,
    ) -> RelayedBody {
        let timeouts = &route.body_timeouts;
        RelayedBody {
            body,
            sending,
            begun: clock::coarse(),
            body_timeout: timeouts.body,
            answer_timeout: timeouts.of_answer(headers),
            waits_since: None,
            timer: None,
            taken: Some(taken),
        }
    }

    /// When the request's body has stood still for too long, and whose fault it is then.
    fn sending_due(&self) -> Option<(MonotonicTime, BodyError)> {
        let (sending, limit) = (self.sending.as_ref()?, self.body_timeout?);
        let error = match sending.upload.awaited() {
            Awaited::Nobody => return None,
            Awaited::Client => BodyError::ClientTimeout,
            Awaited::Server => BodyError::UpstreamTimeout,
        };
        Some((sending.moved_at().max(self.begun) + limit, error))
    }

    fn due(&self) -> Option<(MonotonicTime, BodyError)> {
        let silence = self.waits_since.zip(self.answer_timeout);
        let silence = silence.map(|(since, limit)| (since + limit, BodyError::UpstreamTimeout));
        [silence, self.sending_due()].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The answer is over, whole or not.
    fn end(&mut self, is_whole: bool) {
        self.timer = None;
        let (Some(taken), Some(sending)) = (self.taken.take(), self.sending.take()) else { return };
        if is_whole && !sending.is_whole() {
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(sending.finish(taken))),
                // The process ends.
                Err(_) => sending.close(),
            }
        } else if !is_whole {
            sending.close();
        }
    }

    /// Ready when something has stood still for too long.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        // Twice at most: a timer that has fired is set for a time to come.
        loop {
            let Some((at, error)) = self.due() else { return Poll::Pending };
            let left = at.since(clock::now());
            if left.is_zero() {
                return Poll::Ready(error);
            }
            let until = Instant::now() + left;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            // One that fires too early only looks again; so a frame costs no timer.
            if timer.is_elapsed() || timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            std::task::ready!(timer.as_mut().poll(cx));
        }
    }
}

impl hyper::body::Body for RelayedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.taken.is_none() {
            return Poll::Ready(None);
        }
        let failed = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waits_since = None;
                match this.sending_due().filter(|(at, _)| *at <= clock::coarse()) {
                    None => {
                        if this.body.is_end_stream() {
                            this.end(true);
                        }
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Some((_, error)) => error,
                }
            }
            Poll::Ready(None) => {
                this.end(true);
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                let too_large = this.sending.as_ref().and_then(|sending| sending.upload.too_large());
                too_large.map_or(BodyError::Cut(error), BodyError::TooLarge)
            }
            Poll::Pending => {
                this.waits_since.get_or_insert_with(clock::coarse);
                std::task::ready!(this.poll_due(cx))
            }
        };
        this.end(false);
        Poll::Ready(Some(Err(failed)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RelayedBody {
    fn drop(&mut self) {
        if self.taken.is_some() {
            let is_whole = has_arrived(&mut self.body);
            self.end(is_whole);
        }
    }
}

/// Reads what has come of `body` and returns true if that was its end. Then its connection is not its own any more: it may
/// carry another exchange already, which must not be closed with this one.
fn has_arrived(body: &mut AnswerBody) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..FRAMES_KEPT_MAX {
        if body.is_end_stream() {
            return true;
        }
        match Pin::new(&mut *body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None) => return true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
        }
    }
    false
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_nobody_has_read_has_arrived_with_its_last_byte() {
        // hyper reads the end of a chunked answer when its last chunk was taken.
        for (answer, last, taken) in [
            ("Content-Length: 3\r\n\r\nab", "c", 0),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "0\r\n\r\n", 1),
            ("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\n", "X-Sum: 1\r\n\r\n", 1),
        ] {
            for is_last_there in [false, true] {
                let (ours, mut theirs) = tokio::io::duplex(1024);
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
                let connection = tokio::spawn(connection);
                let sent = format!("HTTP/1.1 200 OK\r\n{answer}{}", if is_last_there { last } else { "" });
                let serving = async {
                    theirs.read_exact(&mut [0; "GET / HTTP/1.1".len()]).await.unwrap();
                    theirs.write_all(sent.as_bytes()).await.unwrap();
                };
                let request = http::Request::get("/").body(Empty::<Bytes>::new()).unwrap();
                let (response, ()) = tokio::join!(sender.send_request(request), serving);
                let mut body = AnswerBody::Http1(response.unwrap().into_body());
                for _ in 0..taken {
                    body.frame().await.unwrap().unwrap();
                }
                if is_last_there {
                    // Another exchange may begin.
                    sender.ready().await.unwrap();
                }
                assert_eq!(has_arrived(&mut body), is_last_there, "{answer:?}");
                connection.abort();
            }
        }
    }
}
