//! Parses API requests. It does nothing else, so that all refusals before an action are in one place.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;

use super::backend::{BackendError, DrainTarget, Problem};
use super::filter::{Filter, QueryParameters, Wrong};
use crate::base::file_state;
use crate::base::time::UNIX_SECONDS_MAX;
use crate::config::{FILE_BYTES_MAX, TimeSpan};
use crate::header::redact::decode;
use crate::policy::denied;
use crate::policy::subject::SUBJECT_BYTES_MAX;
use crate::telemetry::utc::Utc;
use crate::ws::close::{Close, CloseCode};

/// The path of the API.
pub const ROOT: &str = "/api/v1/";

/// The default and the largest number of sessions on a page.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
/// The longest reason of a Close (RFC 6455 §5.5: 125 bytes with the code).
const REASON_BYTES_MAX: usize = 123;
/// The default time over which a drain closes sessions: as for the drain at the end of the process.
const DRAIN_TIME: Duration = Duration::from_secs(30);
/// The longest drain; a longer time is taken for a mistake.
const TIME_MAX: TimeSpan = TimeSpan::from_secs(24 * 60 * 60);
/// The largest body of all requests but `check`.
const FORM_BYTES_MAX: u64 = 16 << 10;

/// A parsed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Returns the state of the process.
    Status,
    /// Returns the configuration in force.
    Config,
    /// Reads the configuration again.
    Reload,
    /// Starts the next process, which takes over.
    Upgrade,
    /// Checks this configuration, or the file.
    Check(Option<String>),
    /// Returns a page of sessions.
    Sessions {
        /// The sessions.
        filter: Filter,
        /// The last id of the page before.
        after: Option<String>,
        /// The most sessions on the page.
        limit: usize,
    },
    /// Returns one session.
    Session(String),
    /// Sets when the credential of a session expires.
    Expire {
        /// Its id.
        id: String,
        /// The time; `None`: never.
        at: Option<SystemTime>,
    },
    /// Closes one session.
    CloseOne {
        /// Its id.
        id: String,
        /// The Close for its client.
        close: Close,
    },
    /// Closes some sessions.
    Close {
        /// The sessions.
        filter: Filter,
        /// The Close for their clients.
        close: Close,
        /// The time over which they are closed.
        over: Duration,
    },
    /// Returns the subjects that are denied.
    AllDenied,
    /// Returns why a subject is denied.
    Denied(String),
    /// Denies a subject.
    Deny {
        /// The subject.
        subject: String,
        /// Until when; `None`: for ever.
        until: Option<SystemTime>,
        /// What is said about it; may be empty.
        reason: String,
    },
    /// Allows a subject again.
    Allow(String),
    /// Returns the drains.
    Drains,
    /// Begins a drain.
    Drain {
        /// What is drained.
        target: DrainTarget,
        /// The time over which its sessions are closed.
        time: Duration,
    },
    /// Ends a drain.
    EndDrain(DrainTarget),
}

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// The message.
    pub error: Cow<'static, str>,
    /// Mistakes in a configuration.
    pub problems: Vec<Problem>,
    /// The allowed methods, for status 405.
    pub allow: Option<&'static str>,
}

impl ApiError {
    /// Creates an error without further fields.
    pub fn new(status: StatusCode, error: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError { status, error: error.into(), problems: Vec::new(), allow: None }
    }
}

impl From<Wrong> for ApiError {
    fn from(wrong: Wrong) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, wrong.0)
    }
}

impl From<BackendError> for ApiError {
    fn from(refusal: BackendError) -> ApiError {
        let error = refusal.to_string();
        match refusal {
            BackendError::Config(problems) => {
                ApiError { problems, ..ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error) }
            }
            BackendError::Bad(_) => ApiError::new(StatusCode::BAD_REQUEST, error),
            BackendError::Unknown(_) => ApiError::new(StatusCode::NOT_FOUND, error),
            BackendError::Conflict(_) => ApiError::new(StatusCode::CONFLICT, error),
            BackendError::Ending | BackendError::Unavailable(_) => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error)
            }
        }
    }
}

/// A path of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiPath {
    /// `status`
    Status,
    /// `config`
    Config,
    /// `reload`
    Reload,
    /// `upgrade`
    Upgrade,
    /// `check`
    Check,
    /// `sessions`
    Sessions,
    /// `sessions/close`
    Close,
    /// `sessions/ID`
    Session(String),
    /// `denied`
    AllDenied,
    /// `denied/SUBJECT`
    Denied(String),
    /// `drains`
    Drains,
    /// `drains/KIND/NAME`
    Drain(DrainTarget),
}

impl ApiPath {
    /// Parses `path`, which begins with [`ROOT`].
    ///
    /// # Errors
    /// If there is no such path.
    pub fn of(path: &str) -> Result<ApiPath, ApiError> {
        let nothing = || {
            let there = "status, config, reload, upgrade, check, sessions, sessions/close, sessions/ID, denied, denied/SUBJECT, \
                         drains, drains/listener/NAME, drains/route/NAME, drains/upstream/NAME and drains/endpoint/UPSTREAM/ENDPOINT";
            ApiError::new(StatusCode::NOT_FOUND, format!("not found; below {ROOT} there are {there}"))
        };
        let rest = path.strip_prefix(ROOT).ok_or_else(nothing)?;
        // The name of an endpoint is a URL, with its slashes encoded or not.
        let name = |text: &str| match text {
            "" => Err(nothing()),
            // In a path, a plus stands for itself.
            text => Ok(decode(&text.replace('+', "%2B")).into_owned()),
        };
        let whole = |text: &str| if text.contains('/') { Err(nothing()) } else { name(text) };
        let place = match rest.split_once('/').unwrap_or((rest, "")) {
            // The URL of an endpoint may end like that.
            _ if rest.ends_with('/') && !rest.starts_with("drains/endpoint/") => return Err(nothing()),
            ("status", "") => ApiPath::Status,
            ("config", "") => ApiPath::Config,
            ("reload", "") => ApiPath::Reload,
            ("upgrade", "") => ApiPath::Upgrade,
            ("check", "") => ApiPath::Check,
            ("sessions", "") => ApiPath::Sessions,
            ("sessions", "close") => ApiPath::Close,
            ("sessions", id) => ApiPath::Session(whole(id)?),
            ("denied", "") => ApiPath::AllDenied,
            ("denied", subject) => ApiPath::Denied(name(subject)?),
            ("drains", "") => ApiPath::Drains,
            ("drains", target) => {
                let (kind, target) = target.split_once('/').ok_or_else(nothing)?;
                ApiPath::Drain(match kind {
                    "listener" => DrainTarget::Listener { name: whole(target)? },
                    "route" => DrainTarget::Route { name: whole(target)? },
                    "upstream" => DrainTarget::Upstream { name: whole(target)? },
                    "endpoint" => {
                        let (upstream, endpoint) = target.split_once('/').ok_or_else(nothing)?;
                        DrainTarget::Endpoint { upstream: name(upstream)?, endpoint: name(endpoint)? }
                    }
                    _ => return Err(nothing()),
                })
            }
            _ => return Err(nothing()),
        };
        Ok(place)
    }

    /// Returns its methods.
    fn methods(&self) -> &'static str {
        match self {
            ApiPath::Status | ApiPath::Config | ApiPath::Sessions | ApiPath::AllDenied | ApiPath::Drains => "GET, HEAD",
            ApiPath::Reload | ApiPath::Upgrade | ApiPath::Check | ApiPath::Close => "POST",
            ApiPath::Session(_) => "GET, HEAD, PATCH, DELETE",
            ApiPath::Denied(_) => "GET, HEAD, PUT, DELETE",
            ApiPath::Drain(_) => "PUT, DELETE",
        }
    }

    /// Checks that it has this method.
    ///
    /// # Errors
    /// If not, with the allowed methods.
    pub fn allows(&self, method: &Method) -> Result<(), ApiError> {
        let methods = self.methods();
        if methods.split(", ").any(|one| one == method.as_str()) {
            return Ok(());
        }
        let failure = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("here only {methods}"));
        Err(ApiError { allow: Some(methods), ..failure })
    }

    /// Returns the largest allowed body.
    pub fn body_bytes_max(&self) -> u64 {
        match self {
            ApiPath::Check => FILE_BYTES_MAX,
            _ => FORM_BYTES_MAX,
        }
    }
}

/// Returns true if a method may change something.
pub fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

impl Call {
    /// Parses the request to `place`, whose method has been checked.
    ///
    /// # Errors
    /// If it cannot be parsed.
    pub fn read(place: ApiPath, request: &Parts, body: &[u8]) -> Result<Call, ApiError> {
        let query = request.uri.query().unwrap_or_default();
        let mut parameters = match place {
            // Its body is a configuration.
            ApiPath::Check => QueryParameters::parse(query, "")?,
            _ => QueryParameters::parse(query, &form(kind(&request.headers)?, body)?)?,
        };
        let parameters_of = &mut parameters;
        let call = match (place, &request.method) {
            (ApiPath::Status, _) => Call::Status,
            (ApiPath::Config, _) => Call::Config,
            (ApiPath::Reload, _) => Call::Reload,
            (ApiPath::Upgrade, _) => Call::Upgrade,
            (ApiPath::Check, _) => Call::Check(configuration(body)?),
            (ApiPath::Sessions, _) => {
                let filter = Filter::take(parameters_of)?;
                let after = parameters_of.word("after")?;
                let such_as = format!("a number from 1 to {PAGE_MAX}");
                let read = |text: &str| text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                let limit = parameters_of.read("limit", &such_as, read)?.unwrap_or(PAGE);
                Call::Sessions { filter, after, limit }
            }
            (ApiPath::Session(id), &Method::PATCH) => Call::Expire { id, at: expiry(parameters_of)? },
            (ApiPath::Session(id), &Method::DELETE) => Call::CloseOne { id, close: close(parameters_of)? },
            (ApiPath::Session(id), _) => Call::Session(id),
            (ApiPath::Close, _) => {
                let filter = Filter::take(parameters_of)?;
                let close = close(parameters_of)?;
                let over = time(parameters_of, "over")?.unwrap_or_default();
                let all = parameters_of.read("all", "`true`", |text| (text == "true").then_some(()))?.is_some();
                match (filter.is_all(), all) {
                    (true, false) => {
                        return Err(Wrong("say which sessions, or `all=true`".to_owned()).into());
                    }
                    (false, true) => {
                        return Err(Wrong("`all=true` and a filter contradict each other".to_owned()).into());
                    }
                    _ => Call::Close { filter, close, over },
                }
            }
            (ApiPath::AllDenied, _) => Call::AllDenied,
            (ApiPath::Denied(subject), _) if subject.len() > SUBJECT_BYTES_MAX => {
                return Err(Wrong(format!("a subject has at most {SUBJECT_BYTES_MAX} bytes")).into());
            }
            (ApiPath::Denied(subject), &Method::PUT) => {
                Call::Deny { subject, until: until(parameters_of)?, reason: reason(parameters_of)? }
            }
            (ApiPath::Denied(subject), &Method::DELETE) => Call::Allow(subject),
            (ApiPath::Denied(subject), _) => Call::Denied(subject),
            (ApiPath::Drains, _) => Call::Drains,
            (ApiPath::Drain(target), &Method::DELETE) => Call::EndDrain(target),
            (ApiPath::Drain(target), _) => {
                Call::Drain { target, time: time(parameters_of, "time")?.unwrap_or(DRAIN_TIME) }
            }
        };
        parameters.finish()?;
        Ok(call)
    }
}

/// Returns the content type of a body, if any; an error if there are several.
fn kind(headers: &HeaderMap) -> Result<Option<&HeaderValue>, ApiError> {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    match (kinds.next(), kinds.next()) {
        (kind, None) => Ok(kind),
        (_, Some(_)) => Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "there are several Content-Type fields")),
    }
}

/// Returns the parameters in a form body.
fn form(kind: Option<&HeaderValue>, body: &[u8]) -> Result<String, ApiError> {
    if body.is_empty() {
        return Ok(String::new());
    }
    let bad = |error: &'static str| ApiError::new(StatusCode::BAD_REQUEST, error);
    let text = std::str::from_utf8(body).map_err(|_| bad("the body is not text"))?;
    let kind = kind.map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
        return Ok(text.to_owned());
    }
    if kind.eq_ignore_ascii_case(b"application/json") {
        let wrong = || bad("the body is not a JSON object of strings, numbers and booleans");
        let Ok(Value::Object(entries)) = serde_json::from_str(text) else { return Err(wrong()) };
        let pairs: Result<Vec<String>, ApiError> = entries
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => Ok(format!("{}={}", encode(&name), encode(&text))),
                Value::Number(number) => Ok(format!("{}={number}", encode(&name))),
                Value::Bool(value) => Ok(format!("{}={value}", encode(&name))),
                Value::Null | Value::Array(_) | Value::Object(_) => Err(wrong()),
            })
            .collect();
        return Ok(pairs?.join("&"));
    }
    let error = "send parameters in the query, as application/x-www-form-urlencoded or as application/json";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
}

/// Percent-encodes a text, so that decoding returns it.
fn encode(text: &str) -> String {
    let mark = |c: char| match c {
        '%' | '&' | '=' | '+' | ' ' | '\n' => format!("%{:02X}", c as u32),
        c => c.to_string(),
    };
    text.chars().map(mark).collect()
}

fn configuration(body: &[u8]) -> Result<Option<String>, ApiError> {
    if body.is_empty() {
        return Ok(None);
    }
    let text = file_state::text(body.to_vec()).map_err(|error| Wrong(format!("the configuration {error}")))?;
    Ok(Some(text))
}

fn close(from: &mut QueryParameters) -> Result<Close, Wrong> {
    let sendable = |text: &str| text.parse().ok().map(CloseCode).filter(|code| code.is_sendable());
    let such_as = "a close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999";
    let code = from.read("code", such_as, sendable)?.unwrap_or(CloseCode::POLICY_VIOLATION);
    let reason = match from.text("reason") {
        None => Cow::Borrowed("closed by operator"),
        Some(reason) if reason.len() > REASON_BYTES_MAX => {
            let bytes = reason.len();
            return Err(Wrong(format!("`reason` has at most {REASON_BYTES_MAX} bytes, this one {bytes}")));
        }
        Some(reason) if reason.contains(char::is_control) => {
            return Err(Wrong("`reason` has control characters".to_owned()));
        }
        Some(reason) => Cow::Owned(reason),
    };
    Ok(Close { code: Some(code), reason })
}

/// How a moment is written.
const SUCH_AS: &str =
    "a time such as `2026-11-21T08:55:03Z`, the seconds since 1970 as in the `exp` of a token, or `never`";

/// Reads when a credential expires.
fn expiry(from: &mut QueryParameters) -> Result<Option<SystemTime>, Wrong> {
    moment(from, "expires_at")?.ok_or_else(|| Wrong(format!("`expires_at` is missing: {SUCH_AS}")))
}

/// Reads until when a subject is denied; for ever, if nothing is said.
fn until(from: &mut QueryParameters) -> Result<Option<SystemTime>, Wrong> {
    match moment(from, "until")?.flatten() {
        Some(until) if until <= SystemTime::now() => Err(Wrong("`until` is over already".to_owned())),
        until => Ok(until),
    }
}

/// Reads why a subject is denied.
fn reason(from: &mut QueryParameters) -> Result<String, Wrong> {
    match from.text("reason").unwrap_or_default() {
        reason if reason.len() > denied::REASON_BYTES_MAX => {
            Err(Wrong(format!("`reason` has at most {} bytes, this one {}", denied::REASON_BYTES_MAX, reason.len())))
        }
        reason if reason.contains(char::is_control) => Err(Wrong("`reason` has control characters".to_owned())),
        reason => Ok(reason),
    }
}

/// Reads a moment, or `never`.
fn moment(from: &mut QueryParameters, name: &'static str) -> Result<Option<Option<SystemTime>>, Wrong> {
    let read = |text: &str| match text {
        "never" => Some(None),
        text => {
            let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite());
            let at = seconds.map(|seconds| {
                Duration::try_from_secs_f64(seconds).ok().filter(|since| since.as_secs() <= UNIX_SECONDS_MAX)
            });
            match at {
                Some(since) => since.map(|since| Some(UNIX_EPOCH + since)),
                None => text.parse::<Utc>().ok().map(|Utc(at)| Some(at)),
            }
        }
    };
    from.read(name, SUCH_AS, read)
}

fn time(from: &mut QueryParameters, name: &'static str) -> Result<Option<Duration>, Wrong> {
    match from.value::<TimeSpan>(name)? {
        Some(time) if time > TIME_MAX => Err(Wrong(format!("`{name}` is at most {TIME_MAX}"))),
        time => Ok(time.map(TimeSpan::duration)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    fn read(method: &str, path: &str, kind: &str, body: &str) -> Result<Call, (u16, String)> {
        let request = http::Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind).body(()).unwrap();
        let request = request.into_parts().0;
        let place = ApiPath::of(request.uri.path()).and_then(|place| place.allows(&request.method).map(|()| place));
        let call = place.and_then(|place| Call::read(place, &request, body.as_bytes()));
        call.map_err(|failure| (failure.status.as_u16(), failure.error.into_owned()))
    }

    fn ask(method: &str, path: &str) -> Result<Call, (u16, String)> {
        read(method, path, "", "")
    }

    #[test]
    fn each_call_has_its_path_and_method() {
        let operator = Close::new(CloseCode::POLICY_VIOLATION, "closed by operator");
        let endpoint = DrainTarget::Endpoint { upstream: "app".into(), endpoint: "ws://10.0.0.1:9000".into() };
        let chat = Filter { route: Some("chat".into()), ..Filter::default() };
        for (method, path, call) in [
            ("GET", "/api/v1/status", Call::Status),
            ("HEAD", "/api/v1/config", Call::Config),
            ("POST", "/api/v1/reload", Call::Reload),
            ("POST", "/api/v1/upgrade", Call::Upgrade),
            ("POST", "/api/v1/check", Call::Check(None)),
            ("GET", "/api/v1/sessions", Call::Sessions { filter: Filter::default(), after: None, limit: 100 }),
            (
                "GET",
                "/api/v1/sessions?limit=1000&route=chat&after=0-1-2",
                Call::Sessions { filter: chat.clone(), after: Some("0-1-2".into()), limit: 1000 },
            ),
            ("GET", "/api/v1/sessions/0-1-2", Call::Session("0-1-2".into())),
            ("DELETE", "/api/v1/sessions/0-1-2", Call::CloseOne { id: "0-1-2".into(), close: operator.clone() }),
            (
                "DELETE",
                "/api/v1/sessions/0-1-2?code=4001&reason=go+away%21",
                Call::CloseOne { id: "0-1-2".into(), close: Close::new(CloseCode(4001), "go away!") },
            ),
            (
                "POST",
                "/api/v1/sessions/close?route=chat&over=1m&reason=",
                Call::Close {
                    filter: chat,
                    close: Close::new(CloseCode::POLICY_VIOLATION, ""),
                    over: Duration::from_secs(60),
                },
            ),
            (
                "POST",
                "/api/v1/sessions/close?all=true",
                Call::Close { filter: Filter::default(), close: operator, over: Duration::ZERO },
            ),
            ("GET", "/api/v1/drains", Call::Drains),
            (
                "PUT",
                "/api/v1/drains/listener/public?time=1h",
                Call::Drain {
                    target: DrainTarget::Listener { name: "public".into() },
                    time: Duration::from_secs(3600),
                },
            ),
            (
                "PUT",
                "/api/v1/drains/route/chat",
                Call::Drain { target: DrainTarget::Route { name: "chat".into() }, time: Duration::from_secs(30) },
            ),
            ("DELETE", "/api/v1/drains/upstream/app", Call::EndDrain(DrainTarget::Upstream { name: "app".into() })),
            ("DELETE", "/api/v1/drains/endpoint/app/ws://10.0.0.1:9000", Call::EndDrain(endpoint.clone())),
            ("DELETE", "/api/v1/drains/endpoint/app/ws%3A%2F%2F10.0.0.1%3A9000", Call::EndDrain(endpoint)),
            (
                "DELETE",
                "/api/v1/drains/endpoint/app/unix:/run/a+b.sock",
                Call::EndDrain(DrainTarget::Endpoint { upstream: "app".into(), endpoint: "unix:/run/a+b.sock".into() }),
            ),
        ] {
            assert_eq!(ask(method, path), Ok(call), "{method} {path}");
        }
    }

    #[test]
    fn parameters_may_stand_in_a_form_or_an_object() {
        let path = "/api/v1/sessions/close?route=a%26b";
        let filter = Filter { route: Some("a&b".into()), ..Filter::default() };
        let close = Close::new(CloseCode(4001), "50% + ü = x&y");
        let wanted = Call::Close { filter, close, over: Duration::from_secs(5) };
        let form = "code=4001&reason=50%25+%2B+%C3%BC+%3D+x%26y&over=5s\n";
        assert_eq!(read("POST", path, "application/x-www-form-urlencoded", form), Ok(wanted.clone()));
        let json = r#"{"code": 4001, "reason": "50% + ü = x&y", "over": "5s"}"#;
        assert_eq!(read("POST", path, "application/json; charset=utf-8", json), Ok(wanted));
        for (kind, body, status) in [
            ("application/json", "[1]", 400),
            ("application/json", "{", 400),
            ("application/json", r#"{"code": null}"#, 400),
            ("text/plain", "code=4001", 415),
            ("", "code=4001", 415),
            ("application/x-www-form-urlencoded", "route=b", 400),
        ] {
            assert_eq!(read("POST", path, kind, body).unwrap_err().0, status, "{kind} {body}");
        }
    }

    #[test]
    fn of_two_kinds_of_a_body_none_is_guessed() {
        let request = http::Request::builder().method("POST").uri("/api/v1/sessions/close");
        let request = request.header(CONTENT_TYPE, "application/json").header(CONTENT_TYPE, "text/plain").body(());
        let failure = Call::read(ApiPath::Close, &request.unwrap().into_parts().0, b"{}").unwrap_err();
        assert_eq!(failure.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn when_a_credential_expires_is_said_in_either_notation() {
        let expire = |at| Ok(Call::Expire { id: "1".into(), at });
        let at = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (body, is) in [
            (r#"{ "expires_at": 1000000000 }"#, Some(at)),
            (r#"{ "expires_at": 1000000000.5 }"#, Some(at + Duration::from_millis(500))),
            (r#"{ "expires_at": "2001-09-09T01:46:40Z" }"#, Some(at)),
            (r#"{ "expires_at": "2001-09-09T03:46:40+02:00" }"#, Some(at)),
            (r#"{ "expires_at": "never" }"#, None),
        ] {
            assert_eq!(read("PATCH", "/api/v1/sessions/1", "application/json", body), expire(is), "{body}");
        }
    }

    #[test]
    fn a_configuration_is_taken_as_it_is() {
        let yaml = "routes: [] # a&b=c\n";
        assert_eq!(read("POST", "/api/v1/check", "text/yaml", yaml), Ok(Call::Check(Some(yaml.into()))));
        assert_eq!(ApiPath::Check.body_bytes_max(), FILE_BYTES_MAX);
    }

    #[test]
    fn what_is_not_understood_is_refused_in_the_proper_words() {
        let long = format!("/api/v1/sessions/1?reason={}", "x".repeat(124));
        for (method, path, status, error) in [
            ("GET", "/api/v1/", 404, "not found; below /api/v1/ there are status, "),
            ("GET", "/api/v1/sessions/", 404, "not found"),
            ("GET", "/api/v1/sessions/a/b", 404, "not found"),
            ("PUT", "/api/v1/drains/route", 404, "not found"),
            ("PUT", "/api/v1/drains/route/", 404, "not found"),
            ("PUT", "/api/v1/drains/router/a", 404, "not found"),
            ("PUT", "/api/v1/drains/endpoint/app", 404, "not found"),
            ("GET", "/api/v1/status/", 404, "not found"),
            ("POST", "/api/v1/status", 405, "here only GET, HEAD"),
            ("GET", "/api/v1/reload", 405, "here only POST"),
            ("GET", "/api/v1/upgrade", 405, "here only POST"),
            ("GET", "/api/v1/sessions/close", 405, "here only POST"),
            ("POST", "/api/v1/sessions/1", 405, "here only GET, HEAD, PATCH, DELETE"),
            ("PATCH", "/api/v1/sessions/1", 400, "`expires_at` is missing: a time such as"),
            ("PATCH", "/api/v1/sessions/1?expires_at=soon", 400, "`expires_at` is not a time such as"),
            ("PATCH", "/api/v1/sessions/1?expires_at=-1", 400, "`expires_at` is not a time such as"),
            ("PATCH", "/api/v1/sessions/1?expires_at=1e300", 400, "`expires_at` is not a time such as"),
            ("PATCH", "/api/v1/sessions/1?expires_at=inf", 400, "`expires_at` is not a time such as"),
            ("PATCH", "/api/v1/sessions/1?expires_at=never&subject=x", 400, "`subject` is no parameter"),
            ("GET", "/api/v1/status?a=b", 400, "`a` is no parameter; there are none here"),
            ("GET", "/api/v1/sessions?limit=0", 400, "`limit` is not a number from 1 to 1000"),
            ("GET", "/api/v1/sessions?limit=1001", 400, "`limit` is not a number from 1 to 1000"),
            ("POST", "/api/v1/sessions/close", 400, "say which sessions, or `all=true`"),
            ("POST", "/api/v1/sessions/close?all=false", 400, "`all` is not `true`"),
            ("POST", "/api/v1/sessions/close?all=true&route=a", 400, "`all=true` and a filter contradict each other"),
            ("POST", "/api/v1/sessions/close?rout=a", 400, "say which sessions, or `all=true`"),
            ("POST", "/api/v1/sessions/close?route=a&over=25h", 400, "`over` is at most 1d"),
            ("DELETE", "/api/v1/sessions/1?code=1006", 400, "`code` is not a close code: 1000 to 1003, "),
            ("DELETE", "/api/v1/sessions/1?code=70000", 400, "`code` is not a close code: 1000 to 1003, "),
            ("DELETE", &long, 400, "`reason` has at most 123 bytes, this one 124"),
            ("DELETE", "/api/v1/sessions/1?reason=a%0Ab", 400, "`reason` has control characters"),
            ("PUT", "/api/v1/drains/route/a?time=5", 400, "`time`: `5` has no unit"),
        ] {
            let (is, said) = ask(method, path).unwrap_err();
            assert!(is == status && said.starts_with(error), "{method} {path}: {is} {said}");
        }
    }
}
