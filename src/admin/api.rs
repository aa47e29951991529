//! `/api/v1/`: the operator's API, in JSON.
//!
//! A request is authorized (`access`), parsed (`call`), and passed to the [`AdminBackend`]; nothing is done here. Each action
//! that changes something writes one log line with the target `wsluice::audit`: who, what, and the result. It is a task of
//! its own, so that it is finished and logged even if the operator has disconnected.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use prometheus::{Opts, Registry};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::access::{Access, Caller, Denied};
use super::backend::{AdminBackend, BackendError, SessionSelector};
use super::call::{ApiError, ApiPath, Call, changes};
use crate::telemetry::labelled::IntCounterVec;
use crate::telemetry::utc::Utc;

/// The time to read the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The metrics of the API.
#[derive(Clone, Debug)]
pub struct Metrics(IntCounterVec);

impl Metrics {
    /// Creates and registers `wsluice_api_requests_total`.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let about =
            "Requests to the admin API: done, not understood or possible (refused), not let in (denied), failed.";
        let requests = IntCounterVec::new(Opts::new("wsluice_api_requests_total", about), &["result"])?;
        ["done", "refused", "denied", "failed"].iter().for_each(|result| drop(requests.with_label_values(&[result])));
        registry.register(Box::new(requests.clone()))?;
        Ok(Metrics(requests))
    }

    fn answered(&self, status: StatusCode) {
        let result = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "denied",
            status if status.is_success() => "done",
            status if status.is_client_error() => "refused",
            _ => "failed",
        };
        self.0.with_label_values(&[result]).inc();
    }
}

/// The API.
#[derive(Debug)]
pub struct Api {
    backend: Arc<dyn AdminBackend>,
    access: ArcSwap<Access>,
    metrics: Metrics,
    body_timeout: Duration,
    audit: fn(&Action),
}

impl Api {
    /// Creates an API that allows requests by `access` and passes them to `backend`.
    pub fn new(backend: Arc<dyn AdminBackend>, access: Access, metrics: Metrics) -> Api {
        Api { backend, access: ArcSwap::from_pointee(access), metrics, body_timeout: BODY_TIMEOUT, audit: Action::log }
    }

    /// Returns the access rules.
    pub fn access(&self) -> arc_swap::Guard<Arc<Access>> {
        self.access.load()
    }

    /// Replaces the access rules.
    pub fn set_access(&self, access: Access) {
        self.access.store(Arc::new(access));
    }

    /// Answers a request below [`super::call::ROOT`] that came from `caller`.
    ///
    /// Cancel-safe: a change that has begun is finished and logged all the same.
    pub async fn answer<B>(self: &Arc<Api>, caller: Caller, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let answer = match self.respond(caller, &parts, body).await {
            Ok(answer) => json_answer(StatusCode::OK, &answer),
            Err(failure) => refusal(&failure),
        };
        self.metrics.answered(answer.status());
        answer
    }

    async fn respond<B>(self: &Arc<Api>, caller: Caller, parts: &Parts, body: B) -> Result<Value, ApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let token = self.access.load().judge(caller, parts, changes(&parts.method)).map_err(|denied| {
            let status = match denied {
                Denied::Token => StatusCode::UNAUTHORIZED,
                Denied::Host | Denied::Page => StatusCode::FORBIDDEN,
            };
            ApiError::new(status, denied.to_string())
        })?;
        let place = ApiPath::of(parts.uri.path())?;
        place.allows(&parts.method)?;
        let body = read(body, place.body_bytes_max(), self.body_timeout).await?;
        let call = Call::read(place, parts, &body)?;
        let Some((action, on)) = action_of(&call) else { return self.carry_out(call).await };
        let api = Arc::clone(self);
        let done = tokio::spawn(async move {
            let done = api.carry_out(call).await;
            (api.audit)(&Action { by: caller, token, action, on, done: done.clone() });
            done
        });
        done.await.unwrap_or_else(|_| {
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "this failed half-way; see the log"))
        })
    }

    async fn carry_out(&self, call: Call) -> Result<Value, ApiError> {
        let backend = &self.backend;
        Ok(match call {
            Call::Status => json(&backend.status())?,
            Call::Config => json(&backend.config())?,
            Call::Reload => backend.reload().await?,
            Call::Upgrade => json(&backend.upgrade().await?)?,
            Call::Check(text) => match backend.check(text).await {
                Ok(warnings) => json!({ "warnings": warnings }),
                Err(refusal @ BackendError::Config(_)) => {
                    return Err(ApiError { error: "the configuration is wrong".into(), ..refusal.into() });
                }
                Err(refusal) => return Err(refusal.into()),
            },
            Call::Sessions { filter, after, limit } => {
                // One more tells whether there is a page after this one.
                let mut sessions = backend.sessions(&filter, after.as_deref(), limit + 1).await?;
                let more = sessions.len() > limit;
                sessions.truncate(limit);
                let next = sessions.last().filter(|_| more).map(|last| last.id.clone());
                let mut page = json!({ "sessions": json(&sessions)? });
                if let Some(next) = next {
                    page["next"] = Value::from(next);
                }
                page
            }
            Call::Session(id) => json(&backend.session(&id).await.ok_or_else(no_session)?)?,
            Call::Expire { id, at } => json(&backend.set_expiry(&id, at).await.ok_or_else(no_session)?)?,
            Call::CloseOne { id, close } => {
                match backend.close(SessionSelector::One(&id), close, Duration::ZERO).await? {
                    0 => return Err(no_session()),
                    closing => json!({ "closing": closing }),
                }
            }
            Call::Close { filter, close, over } => {
                json!({ "closing": backend.close(SessionSelector::All(&filter), close, over).await? })
            }
            Call::AllDenied => json(&backend.all_denied())?,
            Call::Denied(subject) => json(&backend.denied(&subject).ok_or_else(|| not_denied(&subject))?)?,
            Call::Deny { subject, until, reason } => json(&backend.deny(&subject, until, &reason).await?)?,
            Call::Allow(subject) => match backend.allow(&subject).await? {
                true => json!({ "ended": true }),
                false => return Err(not_denied(&subject)),
            },
            Call::Drains => json!({ "drains": json(&backend.drains().await)? }),
            Call::Drain { target, time } => {
                json!({ "closing": backend.drain(target, time).await? })
            }
            Call::EndDrain(target) => {
                let shown = target.to_string();
                match backend.end_drain(target).await? {
                    true => json!({ "ended": true }),
                    false => return Err(ApiError::new(StatusCode::NOT_FOUND, format!("{shown} is not drained"))),
                }
            }
        })
    }
}

fn no_session() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is no such session; it may have ended")
}

fn not_denied(subject: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("{subject:?} is not denied"))
}

/// Returns the action and its object, if the call changes anything.
fn action_of(call: &Call) -> Option<(&'static str, String)> {
    match call {
        Call::Status
        | Call::Config
        | Call::Check(_)
        | Call::Sessions { .. }
        | Call::Session(_)
        | Call::AllDenied
        | Call::Denied(_)
        | Call::Drains => None,
        Call::Reload => Some(("reload", String::new())),
        Call::Upgrade => Some(("upgrade", String::new())),
        Call::Expire { id, at } => {
            let at = at.map_or_else(|| "never".to_owned(), |at| format!("at {}", Utc(at)));
            Some(("expire", format!("session {id} {at}")))
        }
        Call::CloseOne { id, close } => Some(("close", format!("session {id} with {}", describe(close)))),
        Call::Close { filter, close, over } => {
            Some(("close", format!("sessions {filter} with {} over {over:?}", describe(close))))
        }
        Call::Deny { subject, until, reason } => {
            let until = until.map_or_else(|| "for ever".to_owned(), |until| format!("until {}", Utc(until)));
            Some(("deny", format!("subject {subject:?} {until}: {reason:?}")))
        }
        Call::Allow(subject) => Some(("allow", format!("subject {subject:?}"))),
        Call::Drain { target, time } => Some(("drain", format!("{target} over {time:?}"))),
        Call::EndDrain(target) => Some(("end_drain", target.to_string())),
    }
}

fn describe(close: &crate::ws::close::Close) -> String {
    let code = close.code.map_or_else(String::new, |code| code.to_string());
    format!("{code} {:?}", close.reason)
}

/// An action of an operator and its result, for the audit log.
#[derive(Clone, Debug)]
struct Action {
    /// Who asked for it.
    by: Caller,
    /// The index of the token used, from 1.
    token: Option<usize>,
    /// The action.
    action: &'static str,
    /// Its object.
    on: String,
    /// The response.
    done: Result<Value, ApiError>,
}

impl Action {
    /// Writes the log line.
    fn log(&self) {
        let Action { by, token, action, on, done } = self;
        let on = (!on.is_empty()).then_some(on);
        match done {
            Ok(answer) => {
                tracing::info!(target: "wsluice::audit", %by, token, action, on, result = %answer, "done for an operator");
            }
            Err(ApiError { status, error, .. }) => {
                let status = status.as_u16();
                tracing::info!(target: "wsluice::audit", %by, token, action, on, status, %error, "not done for an operator");
            }
        }
    }
}

/// Reads the whole body, within limits of size and time.
async fn read<B>(body: B, bytes_max: u64, time: Duration) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limited = pin!(Limited::new(body, usize::try_from(bytes_max).unwrap_or(usize::MAX)));
    match timeout(time, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let error = format!("the body is larger than {bytes_max} bytes");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error))
        }
        Ok(Err(_)) => Err(ApiError::new(StatusCode::BAD_REQUEST, "the body cannot be read")),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(|error| {
        tracing::warn!(%error, "an answer of the API cannot be written");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written; see the log")
    })
}

fn refusal(failure: &ApiError) -> Response<Full<Bytes>> {
    let ApiError { status, error, problems, allow } = failure;
    let mut answer = json!({ "error": error });
    if let (false, Ok(problems)) = (problems.is_empty(), serde_json::to_value(problems)) {
        answer["problems"] = problems;
    }
    let mut response = json_answer(*status, &answer);
    if let Some(allow) = allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    if *status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"wsluice\""));
    }
    response
}

/// Builds a JSON response that people can read too: indented, with a final line break.
fn json_answer(status: StatusCode, answer: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(format!("{answer:#}\n").into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
