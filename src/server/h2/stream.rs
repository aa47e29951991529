//! One stream of a connection: a plain request and its answer, or a session.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::EXPECT;
use http::{Method, Request, Response, StatusCode};

use super::super::DownstreamIo;
use super::super::metrics::ConnectionError;
use super::super::moving::LiveSession;
use super::shared::Shared;
use super::{answer, request};
use crate::header::trailers::Announced;
use crate::http2::body::{ReceivedBody, SendError, send};
use crate::http2::stream::H2Stream;
use crate::net::transport::Transport;
use crate::proxy::body;
use crate::proxy::outcome::Failure;
use crate::proxy::upgrade::PendingUpgrade;
use crate::proxy::{Proxy, ProxyResponse};
use crate::session::SessionEntry;
use crate::session::registry::Guard;
use crate::upstream::request_body::RequestBody;
use crate::ws::handshake::{ExtendedConnect, OfferError};

/// A session whose answer is on its way.
type Opened = (Box<PendingUpgrade>, DownstreamIo, Guard<SessionEntry>);

/// Begins the session.
pub(super) fn begin((pending, io, guard): Opened) -> Option<LiveSession> {
    Some(pending.begin((io, vec![]), guard))
}

/// Handles the request of a stream. Returns `None` once it is answered, unless it has opened a session.
pub(super) async fn serve(
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<bytes::Bytes>,
) -> Option<Opened> {
    let (mut parts, recv) = request.into_parts();
    let judged = request::neutralise(&mut parts);
    let method = parts.method.clone();
    let is_connect = method == Method::CONNECT || parts.extensions.get::<ExtendedConnect>().is_some();
    // RFC 9110 §10.1.1: the client waits for it.
    if parts.headers.contains_key(EXPECT) && !is_connect && !recv.is_end_stream() {
        let mut go_on = Response::new(());
        *go_on.status_mut() = StatusCode::CONTINUE;
        let _ = respond.send_informational(go_on);
    }
    let (tunnel, body) = if is_connect {
        (Some(recv), body::of_request(http_body_util::Empty::new()))
    } else {
        (None, body::of_request(ReceivedBody::new(recv, &parts.headers)))
    };
    let proxy = shared.listener.proxy.load_full();
    let failure = match judged {
        Err(error) => Some(Failure::Malformed(error.to_string())),
        Ok(()) if tunnel.as_ref().is_some_and(RecvStream::is_end_stream) => Some(Failure::Offer(OfferError::Ended)),
        Ok(()) if parts.headers.len() > shared.settings.limits.headers as usize => Some(Failure::HeadTooLarge),
        Ok(()) => None,
    };
    let answered = match failure {
        Some(failure) => ProxyResponse::Http(proxy.refuse(&shared.downstream, &failure)),
        // If it is cancelled, its record is written when it is dropped.
        None => handled(&proxy, &shared, Request::from_parts(parts, body), &mut respond).await?,
    };
    match (answered, tunnel) {
        (ProxyResponse::Session(mut pending), Some(recv)) => {
            let head = answer::opening(pending.take_headers());
            // The client may be gone already.
            let send = respond.send_response(head, false).ok()?;
            let stalls = shared.settings.metrics.http2.stalls.clone();
            let (guard, session) = shared.enter();
            let io = Transport::Multiplexed(Box::new(H2Stream::new(send, recv, stalls, session)));
            Some((pending, io, guard))
        }
        // It cannot be: there is no session without an extended CONNECT.
        (ProxyResponse::Session(_), None) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            None
        }
        (ProxyResponse::Http(response), _) => {
            let (head, body) = answer::of(&method, response);
            let announced = Announced::of(head.headers());
            let mut stream = respond.send_response(head, body.is_none()).ok()?;
            if let Some(body) = body {
                let limit = shared.settings.timeouts.send.duration();
                let stalls = shared.settings.metrics.http2.stalls.clone();
                let sent = send(&mut stream, body, &announced, limit, stalls).await;
                if let Err(SendError::Timeout) = sent {
                    shared.settings.metrics.error(ConnectionError::SendTimeout);
                }
            }
            None
        }
    }
}

/// Handles a request until it is answered, or the client resets its stream.
async fn handled(
    proxy: &Arc<Proxy>,
    shared: &Shared,
    request: Request<RequestBody>,
    respond: &mut SendResponse<bytes::Bytes>,
) -> Option<ProxyResponse> {
    let mut handling = pin!(proxy.handle(&shared.downstream, request));
    poll_fn(|cx| {
        if let Poll::Ready(answered) = handling.as_mut().poll(cx) {
            return Poll::Ready(Some(answered));
        }
        respond.poll_reset(cx).map(|_| None)
    })
    .await
}
