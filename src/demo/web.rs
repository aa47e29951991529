//! The demo's web server: the page, the counters as JSON, and the same once a second as server-sent events.
//!
//! It is ordinary HTTP/1.1 by hyper and knows nothing of the proxy, so that the page, its style and script, and the
//! event stream show plain HTTP passing through. Script and style are files of their own: thereby the content security
//! policy needs no exception for inline code.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use super::DemoCounters;

const EVENT_PERIOD: Duration = Duration::from_secs(1);
/// Also how long an idle keep-alive connection is held; the proxy keeps some open.
const HEADERS_TIME: Duration = Duration::from_secs(60);
/// The smallest that hyper allows; requests to this server are tiny.
const BUFFER_BYTES: usize = 8 << 10;
/// Own files and own origin only: `connect-src 'self'` covers ws and wss to the same host and port as well.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

type PageBody = BoxBody<Bytes, Infallible>;

/// What the web server serves, shared by its connections.
pub struct Web {
    counters: Box<dyn Fn() -> DemoCounters + Send + Sync>,
}

impl Web {
    /// A server that shows these counters.
    pub fn new(counters: impl Fn() -> DemoCounters + Send + Sync + 'static) -> Web {
        Web { counters: Box::new(counters) }
    }

    /// Serves one connection to its end.
    pub async fn serve(self: Arc<Web>, stream: TcpStream) -> Result<(), hyper::Error> {
        let service = service_fn(|request| {
            let response = Arc::clone(&self).answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIME)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .await
    }

    fn answer(self: Arc<Web>, request: &Request<Incoming>) -> Response<PageBody> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD here\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/" => file("text/html; charset=utf-8", include_str!("page.html")),
            "/page.css" => file("text/css; charset=utf-8", include_str!("page.css")),
            "/page.js" => file("text/javascript; charset=utf-8", include_str!("page.js")),
            "/stats" => respond(StatusCode::OK, "application/json", full(self.json() + "\n")),
            "/events" => respond(StatusCode::OK, "text/event-stream", self.events()),
            _ => text(
                StatusCode::NOT_FOUND,
                "the demo has /, /stats and /events; sockets at /echo, /clock, /heartbeat\n",
            ),
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(&(self.counters)()).expect("counters are numbers under string keys")
    }

    /// One event at once, then one a second, until the reader has gone.
    fn events(self: Arc<Web>) -> PageBody {
        let mut ticks = interval(EVENT_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = stream::unfold((self, ticks), |(web, mut ticks)| async move {
            ticks.tick().await;
            let event = format!("data: {}\n\n", web.json());
            Some((Ok(Frame::data(Bytes::from(event))), (web, ticks)))
        });
        // `boxed` of http-body-util wants Sync, which the timer is.
        BodyExt::boxed(StreamBody::new(events))
    }
}

fn file(content_type: &'static str, content: &'static str) -> Response<PageBody> {
    respond(StatusCode::OK, content_type, full(content))
}

fn text(status: StatusCode, text: &'static str) -> Response<PageBody> {
    respond(status, "text/plain; charset=utf-8", full(text))
}

fn full(content: impl Into<Bytes>) -> PageBody {
    Full::new(content.into()).boxed()
}

fn respond(status: StatusCode, content_type: &'static str, body: PageBody) -> Response<PageBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Not kept: the next demo may be another version, and its counters begin anew.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
