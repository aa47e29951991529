//! Asks a service who may come in: one GET for each question, over connections that are kept.
//!
//! Only a 2xx lets in. It may be shared by questions that are equal to the last byte and wait at the same time, and be
//! remembered for a while where the configuration says so. Any other answer is for the client that it was asked about alone:
//! a redirect to a login may set a cookie that belongs to one browser.

mod answers;
pub mod metrics;

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Error as ClientError;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::together::Together;
use crate::base::clock;
use crate::base::error_chain::error_chain;
use crate::config::HttpUrl;
use crate::policy::recheck::KeptQuestion;
use crate::policy::subject::SUBJECT_BYTES_MAX;
use crate::telemetry::log_limiter::{LinePermit, LogLimiter};
use crate::upstream::connect::{ConnectError, Connector};
use crate::upstream::one_exchange::{self, Uncollected};
use crate::upstream::pool::{self, Pool};
use crate::upstream::request_body::RequestBody;
use answers::RememberedAnswers;
use metrics::{Asked, ServiceMetrics};

pub use answers::Identity;

/// The most questions that are with the service at once; more of them wait within their time.
const AT_ONCE_MAX: usize = 256;
/// The most questions about open sessions that are with the service at once, so that those about new ones have room.
const AGAIN_AT_ONCE_MAX: usize = 32;
/// The longest body of an answer that a client gets.
const BODY_BYTES_MAX: usize = 256 << 10;
/// The longest headers of an answer that go on to the server, all together.
const HEADERS_BYTES_MAX: usize = 16 << 10;
/// How long the end of a body is awaited that nobody reads.
const UNUSED_BODY: Duration = Duration::from_millis(500);

/// What is asked, and what becomes of the answer.
#[derive(Debug)]
pub struct ServiceSettings {
    /// Where.
    pub url: HttpUrl,
    /// How long it may take.
    pub timeout: Duration,
    /// The fields of the request that it gets; all, if there is no list.
    pub request_headers: Option<Vec<HeaderName>>,
    /// The fields of a 2xx that go on to the server.
    pub headers: Vec<HeaderName>,
    /// The field of a 2xx that names the user.
    pub subject: Option<HeaderName>,
    /// How long a 2xx is remembered, and by which fields of the request.
    pub cache: Option<(Duration, Vec<HeaderName>)>,
    /// How often it is asked again about an open session.
    pub recheck: Option<Duration>,
    /// Whether everybody is let in when it cannot be asked.
    pub allows_on_failure: bool,
}

/// A service that says who may come in.
pub struct AuthService {
    settings: ServiceSettings,
    uri: Uri,
    host: HeaderValue,
    connector: Connector,
    pool: Pool,
    at_once: Semaphore,
    again_at_once: Semaphore,
    answers: Mutex<RememberedAnswers>,
    /// Questions that are with the service.
    under_way: Arc<Together<QuestionDigest, Result<Verdict, AskError>>>,
    limiter: LogLimiter,
    metrics: ServiceMetrics,
}

/// A question as it is known again: a digest, so that no credential is kept.
type QuestionDigest = [u8; 32];

/// What the service says.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The request is let in.
    Allowed(Arc<Identity>),
    /// The client gets this.
    Denied(Response<Bytes>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It could not be connected to, or broke off.
    #[error("the auth service cannot be reached: {0}")]
    Unreachable(Arc<str>),
    /// It took too long.
    #[error("the auth service did not answer in {0:?}")]
    Timeout(Duration),
    /// It sent what is no answer to a GET.
    #[error("the auth service answered with {0}")]
    NoAnswer(http::StatusCode),
    /// It sent more than is read.
    #[error("the auth service answered with more than {} KiB", .0 >> 10)]
    TooLarge(usize),
}

impl AskError {
    fn label(&self) -> Asked {
        match self {
            AskError::Unreachable(_) => Asked::Unreachable,
            AskError::Timeout(_) => Asked::Timeout,
            AskError::NoAnswer(_) | AskError::TooLarge(_) => Asked::BadAnswer,
        }
    }
}

impl AuthService {
    /// Creates a service that `connector` reaches.
    ///
    /// # Errors
    /// If the URL cannot be asked for; the configuration's reading has seen to it that it can.
    pub fn new(
        settings: ServiceSettings,
        connector: Connector,
        workers: usize,
        metrics: ServiceMetrics,
    ) -> Result<AuthService, http::Error> {
        // A host that was read has visible characters only.
        let host = HeaderValue::try_from(settings.url.authority()).unwrap_or(HeaderValue::from_static(""));
        Ok(AuthService {
            uri: pool::uri(settings.url.target.clone())?,
            host,
            pool: Pool::new(connector.clone(), settings.timeout, workers),
            connector,
            at_once: Semaphore::new(AT_ONCE_MAX),
            again_at_once: Semaphore::new(AGAIN_AT_ONCE_MAX),
            answers: Mutex::default(),
            under_way: Arc::default(),
            limiter: LogLimiter::default(),
            settings,
            metrics,
        })
    }

    /// Returns what it was made of.
    pub fn settings(&self) -> &ServiceSettings {
        &self.settings
    }

    /// Returns true if nothing has changed about how it is reached.
    pub fn is_reached_by(&self, connector: &Connector) -> bool {
        self.connector.has_tls_of(connector)
    }

    /// Asks about a request with these fields, those that name its client and its target included. Cancel-safe.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ask(self: &Arc<AuthService>, headers: HeaderMap) -> Result<Verdict, AskError> {
        let (question, headers) = (self.digest(&headers), Arc::new(headers));
        let joined = self.under_way.join(question, |_| {
            if let Some(identity) = self.answers().get(&question, clock::now()) {
                return Err(identity);
            }
            let (service, headers) = (Arc::clone(self), Arc::clone(&headers));
            Ok(async move { service.ask_and_remember(question, &headers).await })
        });
        let (asking, is_ours) = match joined {
            Ok(joined) => joined,
            Err(identity) => {
                self.metrics.count(Asked::Remembered);
                return Ok(Verdict::Allowed(identity));
            }
        };
        let answered = asking.await;
        match &answered {
            _ if is_ours => {}
            Ok(Verdict::Allowed(_)) => self.metrics.count(Asked::Shared),
            // It is for another client alone.
            Ok(Verdict::Denied(_)) => return self.ask_once(&headers).await,
            Err(error) => self.metrics.count(error.label()),
        }
        answered
    }

    /// Asks again about an open session. What is remembered is no answer; it is forgotten if the service does not let in any
    /// more. Cancel-safe.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ask_again(self: &Arc<AuthService>, kept: &KeptQuestion) -> Result<Verdict, AskError> {
        // It is never closed.
        let _permit = self.again_at_once.acquire().await.ok();
        let headers = kept.headers();
        let question = self.digest(&headers);
        let joined = self.under_way.join(question, |_| {
            let service = Arc::clone(self);
            Ok::<_, Infallible>(async move { service.ask_and_remember(question, &headers).await })
        });
        let (asking, is_ours) = match joined {
            Ok(joined) => joined,
            Err(never) => match never {},
        };
        let answered = asking.await;
        if matches!(answered, Ok(Verdict::Denied(_))) {
            self.answers().forget(&question);
        }
        if !is_ours {
            self.metrics.count(answered.as_ref().map_or_else(AskError::label, |_| Asked::Shared));
        }
        answered
    }

    async fn ask_and_remember(&self, question: QuestionDigest, headers: &HeaderMap) -> Result<Verdict, AskError> {
        let answered = self.ask_once(headers).await;
        if let (Ok(Verdict::Allowed(identity)), Some((time, _))) = (&answered, &self.settings.cache)
            && identity.may_be_remembered
        {
            let now = clock::now();
            self.answers().insert(question, Arc::clone(identity), now + *time, now);
        }
        answered
    }

    /// Asks, whoever asks the same.
    async fn ask_once(&self, headers: &HeaderMap) -> Result<Verdict, AskError> {
        let started = Instant::now();
        let answered = timeout(self.settings.timeout, Box::pin(self.exchange(headers))).await;
        let answered = answered.unwrap_or(Err(AskError::Timeout(self.settings.timeout)));
        match &answered {
            Ok(verdict) => {
                self.metrics.answered(started.elapsed());
                self.metrics.count(match verdict {
                    Verdict::Allowed(_) => Asked::Allowed,
                    Verdict::Denied(_) => Asked::Denied,
                });
            }
            Err(error) => {
                self.metrics.count(error.label());
                if let Some(LinePermit { suppressed }) = self.limiter.line(clock::now()) {
                    let allows = self.settings.allows_on_failure;
                    tracing::warn!(url = %self.settings.url, %error, allows, suppressed, "nobody can say who may come in");
                }
            }
        }
        answered
    }

    async fn exchange(&self, headers: &HeaderMap) -> Result<Verdict, AskError> {
        // It is never closed.
        let _permit = self.at_once.acquire().await.ok();
        let mut sent = self.pool.send(self.request(headers)).await;
        if sent.as_ref().is_err_and(pool::was_stale) {
            sent = self.pool.send_anew(self.request(headers)).await;
        }
        let (head, mut body) = sent.map_err(|error| self.unreachable(&error))?.into_parts();
        if head.status.is_informational() {
            return Err(AskError::NoAnswer(head.status));
        }
        let collecting = one_exchange::collect(&mut body, BODY_BYTES_MAX);
        if head.status.is_success() {
            // Its body is of no use; at its end the connection can be used again.
            let _ = timeout(UNUSED_BODY, collecting).await;
            return self.identity(&head.headers).map(|identity| Verdict::Allowed(Arc::new(identity)));
        }
        let bytes = collecting.await.map_err(|error| match error {
            Uncollected::TooLarge => AskError::TooLarge(BODY_BYTES_MAX),
            Uncollected::Broken(error) => AskError::Unreachable(error_chain(&error).into()),
        })?;
        Ok(Verdict::Denied(Response::from_parts(head, bytes)))
    }

    fn unreachable(&self, error: &ClientError) -> AskError {
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<ConnectError>());
        match cause {
            Some(ConnectError::Timeout) => AskError::Timeout(self.settings.timeout),
            _ => AskError::Unreachable(error_chain(error).into()),
        }
    }

    fn request(&self, headers: &HeaderMap) -> Request<RequestBody> {
        let body: RequestBody = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
        let mut request = Request::new(body);
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }

    /// What goes on of a 2xx.
    fn identity(&self, answered: &HeaderMap) -> Result<Identity, AskError> {
        let mut headers = Vec::with_capacity(self.settings.headers.len());
        let mut bytes = 0;
        for name in &self.settings.headers {
            // RFC 9110 §5.3: several lines are one list.
            let lines: Vec<&[u8]> = answered.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            let value = lines.join(b", ".as_slice());
            bytes += value.len();
            // Joined values make one.
            let Ok(mut value) = HeaderValue::from_bytes(&value) else { continue };
            if !value.is_empty() {
                value.set_sensitive(true);
                headers.push((name.clone(), value));
            }
        }
        if bytes > HEADERS_BYTES_MAX {
            return Err(AskError::TooLarge(HEADERS_BYTES_MAX));
        }
        let subject = self.settings.subject.as_ref().and_then(|name| answered.get(name));
        let subject = subject.and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let subject = subject.filter(|subject| !subject.is_empty() && subject.len() <= SUBJECT_BYTES_MAX);
        let is_private = |line: &HeaderValue| {
            let line = String::from_utf8_lossy(line.as_bytes());
            line.split(',').any(|directive| directive.trim().eq_ignore_ascii_case("no-store"))
        };
        Ok(Identity {
            headers,
            subject: subject.map(Box::from),
            may_be_remembered: !answered.get_all(CACHE_CONTROL).iter().any(is_private),
        })
    }

    /// By what a question is known again: all of its fields, or those that the configuration names and those that only we
    /// write, which name the client and the target.
    fn digest(&self, headers: &HeaderMap) -> QuestionDigest {
        let counts = |name: &HeaderName| match &self.settings.cache {
            Some((_, by)) => by.contains(name) || is_ours(name),
            None => true,
        };
        let mut context = digest::Context::new(&digest::SHA256);
        for (name, value) in headers.iter().filter(|(name, _)| counts(name)) {
            // No name has a colon, and no value a line end.
            for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\n"] {
                context.update(part);
            }
        }
        let mut question = QuestionDigest::default();
        question.copy_from_slice(context.finish().as_ref());
        question
    }

    fn answers(&self) -> MutexGuard<'_, RememberedAnswers> {
        // A panic cannot leave it half changed.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if a field of a question is written by us, and names the client or the target.
pub fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "forwarded" || name.starts_with("x-forwarded-") || name.starts_with("x-original-")
}

impl fmt::Debug for AuthService {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.debug_tuple("AuthService").field(&self.settings).finish()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests;
