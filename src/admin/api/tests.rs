//! The API as curl sees it: raw HTTP on real sockets, and a desk that notes what it is asked for.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::admin::access::AdminHosts;
use crate::admin::backend::{
    AllDenied, ConfigView, DeniedSubject, DrainStatus, DrainTarget, EndpointStatus, ListenerStatus, PredecessorStatus,
    Problem, ProcessStatus, ReplyFuture, SessionView, UpgradeResult, UpstreamStatus,
};
use crate::admin::connections::{self, AdminConnection};
use crate::admin::filter::{Filter, FilterInput};
use crate::admin::health::Readiness;
use crate::admin::{AdminServer, AdminState, serve};
use crate::config::AdminToken;
use crate::net::listener::{Address, bind};
use crate::ws::close::Close;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Has some sessions, and does nothing.
#[derive(Debug, Default)]
struct Fake {
    sessions: Mutex<Vec<SessionView>>,
    asked: Mutex<Vec<String>>,
    /// A reload waits for it, where there is one.
    reload_may_end: Option<Arc<Notify>>,
    ended: Notify,
    /// There is only one answer any more.
    ending: bool,
}

impl Fake {
    fn with(count: usize) -> Fake {
        let session = |n: usize| SessionView {
            id: format!("{n:04}"),
            listener: "public".into(),
            route: if n.is_multiple_of(2) { "even" } else { "odd" }.into(),
            upstream: "app".into(),
            endpoint: "ws://10.0.0.1:9000".into(),
            client: Some(IpAddr::from([192, 0, 2, n as u8])),
            subject: (n == 3).then(|| "ann".into()),
            expires_at: None,
            opened: SystemTime::UNIX_EPOCH,
            age: Duration::from_secs(n as u64),
            idle: Duration::from_millis(1500),
            queued_bytes: n as u64,
            closing: None,
        };
        Fake { sessions: Mutex::new((0..count).map(session).collect()), ..Fake::default() }
    }

    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn chosen(&self, filter: &Filter) -> Vec<SessionView> {
        let seen = |it: &SessionView| {
            filter.matches(&FilterInput {
                route: &it.route,
                listener: &it.listener,
                upstream: &it.upstream,
                endpoint: &it.endpoint,
                client: it.client,
                subject: it.subject.as_deref(),
                age: it.age,
                idle: it.idle,
                queued: it.queued_bytes,
            })
        };
        self.sessions.lock().unwrap().iter().filter(|it| seen(it)).cloned().collect()
    }
}

impl AdminBackend for Fake {
    fn status(&self) -> ProcessStatus {
        ProcessStatus {
            version: "0.0.0",
            pid: 7,
            started: SystemTime::UNIX_EPOCH,
            uptime: Duration::from_millis(61_500),
            state: "ready",
            config: ConfigView { config: Value::Null, ..self.config() },
            sessions: 3,
            listeners: vec![ListenerStatus { name: "public".into(), address: "0.0.0.0:443".into(), draining: false }],
            upstreams: vec![UpstreamStatus {
                name: "app".into(),
                draining: true,
                endpoints: vec![EndpointStatus {
                    name: "ws://10.0.0.1:9000".into(),
                    weight: 2,
                    sessions: 3,
                    requests: 2,
                    health: "up",
                    ejected: false,
                    draining: true,
                    open: false,
                }],
            }],
            predecessors: vec![PredecessorStatus { pid: 6, sessions: 1 }],
        }
    }

    fn config(&self) -> ConfigView {
        ConfigView {
            hash: "ab".repeat(32),
            source: "/etc/wsluice.yaml".into(),
            since: SystemTime::UNIX_EPOCH,
            age: Duration::from_secs(60),
            config: json!({ "version": 1 }),
        }
    }

    fn drains(&self) -> ReplyFuture<'_, Vec<DrainStatus>> {
        let target = DrainTarget::Endpoint { upstream: "app".into(), endpoint: "ws://10.0.0.1:9000".into() };
        let drain = DrainStatus { target, time: Duration::from_secs(60), since: SystemTime::UNIX_EPOCH, sessions: 3 };
        Box::pin(async { vec![drain] })
    }

    fn all_denied(&self) -> AllDenied {
        AllDenied { denied: self.denied("ann").into_iter().collect(), shared: true }
    }

    fn denied(&self, subject: &str) -> Option<DeniedSubject> {
        let (subject, since) = (subject.to_owned(), SystemTime::UNIX_EPOCH);
        (subject == "ann").then(|| DeniedSubject { subject, until: None, since, reason: "spam".into() })
    }

    fn deny<'a>(
        &'a self,
        subject: &'a str,
        until: Option<SystemTime>,
        reason: &'a str,
    ) -> ReplyFuture<'a, Result<DeniedSubject, BackendError>> {
        self.note(format!("deny {subject} {reason:?}"));
        let (ending, subject, reason) = (self.ending, subject.to_owned(), reason.to_owned());
        Box::pin(async move {
            match ending {
                true => Err(BackendError::Unavailable("the shared store is away".into())),
                false => Ok(DeniedSubject { subject, until, since: SystemTime::UNIX_EPOCH, reason }),
            }
        })
    }

    fn allow<'a>(&'a self, subject: &'a str) -> ReplyFuture<'a, Result<bool, BackendError>> {
        self.note(format!("allow {subject}"));
        Box::pin(async move { Ok(subject == "ann") })
    }

    fn reload(&self) -> ReplyFuture<'_, Result<Value, BackendError>> {
        Box::pin(async {
            self.note("reload");
            if self.ending {
                return Err(BackendError::Ending);
            }
            if let Some(may_end) = &self.reload_may_end {
                may_end.notified().await;
            }
            self.note("reloaded");
            self.ended.notify_one();
            Ok(json!({ "routes": { "changed": ["chat"] } }))
        })
    }

    fn upgrade(&self) -> ReplyFuture<'_, Result<UpgradeResult, BackendError>> {
        Box::pin(async {
            self.note("upgrade");
            let stayed = [("closing".to_owned(), 1)].into();
            Ok(UpgradeResult { pid: 7, moved: 3, stayed, took: Duration::from_millis(20) })
        })
    }

    fn check(&self, text: Option<String>) -> ReplyFuture<'_, Result<Vec<String>, BackendError>> {
        Box::pin(async move {
            self.note(format!("check {:?}", text.as_deref().map(str::len)));
            match text.as_deref() {
                Some("bad") => Err(BackendError::Config(vec![Problem {
                    file: None,
                    key: "routes[0].upstream".into(),
                    line: Some(3),
                    column: Some(15),
                    message: "there is no upstream `caht`".into(),
                    help: Some("did you mean `chat`?".into()),
                }])),
                Some(_) => Ok(vec!["a warning".into()]),
                None => Err(BackendError::Conflict("there is no file to read again".into())),
            }
        })
    }

    fn sessions<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a str>,
        max: usize,
    ) -> ReplyFuture<'a, Result<Vec<SessionView>, BackendError>> {
        Box::pin(async move {
            if after.is_some_and(|after| after.len() != 4) {
                return Err(BackendError::Bad("`after` is not the id of a session".into()));
            }
            let mut chosen = self.chosen(filter);
            chosen.retain(|it| after.is_none_or(|after| *it.id > *after));
            chosen.truncate(max);
            Ok(chosen)
        })
    }

    fn session<'a>(&'a self, id: &'a str) -> ReplyFuture<'a, Option<SessionView>> {
        Box::pin(async move { self.sessions.lock().unwrap().iter().find(|it| it.id == id).cloned() })
    }

    fn set_expiry<'a>(&'a self, id: &'a str, expires_at: Option<SystemTime>) -> ReplyFuture<'a, Option<SessionView>> {
        Box::pin(async move {
            self.note(format!("expire {id} {expires_at:?}"));
            let session = self.session(id).await?;
            Some(SessionView { expires_at, ..session })
        })
    }

    fn close<'a>(
        &'a self,
        which: SessionSelector<'a>,
        close: Close,
        over: Duration,
    ) -> ReplyFuture<'a, Result<usize, BackendError>> {
        Box::pin(async move {
            let shown = describe(&close);
            let (what, count) = match which {
                SessionSelector::One(id) => {
                    (id.to_owned(), self.sessions.lock().unwrap().iter().filter(|it| it.id == id).count())
                }
                SessionSelector::All(filter) => (filter.to_string(), self.chosen(filter).len()),
            };
            self.note(format!("close {what} {shown} {over:?}"));
            Ok(count)
        })
    }

    fn drain(&self, target: DrainTarget, time: Duration) -> ReplyFuture<'_, Result<usize, BackendError>> {
        Box::pin(async move {
            self.note(format!("drain {target} {time:?}"));
            match target {
                DrainTarget::Route { name } if name == "nowhere" => {
                    Err(BackendError::Unknown("there is no route `nowhere`".into()))
                }
                _ => Ok(3),
            }
        })
    }

    fn end_drain(&self, target: DrainTarget) -> ReplyFuture<'_, Result<bool, BackendError>> {
        Box::pin(async move {
            self.note(format!("end {target}"));
            match &target {
                DrainTarget::Listener { .. } => {
                    Err(BackendError::Conflict("0.0.0.0:443 is in use by another process".into()))
                }
                target => Ok(*target != DrainTarget::Route { name: "nowhere".into() }),
            }
        })
    }
}

struct Running {
    addr: SocketAddr,
    backend: Arc<Fake>,
    registry: Registry,
    _stop: oneshot::Sender<()>,
    _task: JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
struct Answered {
    status: u16,
    head: String,
    body: Value,
}

fn api(backend: &Arc<Fake>, token: Option<&str>, registry: &Registry) -> Api {
    let tokens: Vec<AdminToken> = token.iter().map(|token| token.parse().unwrap()).collect();
    Api::new(
        Arc::clone(backend) as Arc<dyn AdminBackend>,
        Access::new(&tokens, AdminHosts::default()),
        Metrics::register(registry).unwrap(),
    )
}

fn start(address: &Address, backend: Fake, token: Option<&str>) -> Running {
    let (backend, registry) = (Arc::new(backend), Registry::new());
    let bound = bind(address, 1).unwrap();
    let addr = bound.address().tcp().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let acceptor = bound.for_worker(0).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let api = Some(Arc::new(api(&backend, token, &registry)));
    let metrics = connections::Metrics::register(&registry).unwrap();
    let state = AdminState { registry: registry.clone(), readiness: Readiness::new(), api, metrics };
    let task = tokio::spawn(async move {
        serve(acceptor, state, async move { drop(stopped.await) }).await;
        drop(bound);
    });
    Running { addr, backend, registry, _stop: stop, _task: task }
}

fn on_loopback(backend: Fake, token: Option<&str>) -> Running {
    start(&"127.0.0.1:0".parse().unwrap(), backend, token)
}

async fn exchange(io: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> Answered {
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
    Answered { status, head: head.to_owned(), body }
}

impl Running {
    /// `request` is "METHOD /path", and perhaps further fields, each after a line break.
    async fn send(&self, request: &str, body: &str) -> Answered {
        let (line, fields) = request.split_once('\n').unwrap_or((request, ""));
        let fields: String = fields.lines().map(|field| format!("{field}\r\n")).collect();
        let host = if fields.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\n{host}{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        exchange(&mut TcpStream::connect(self.addr).await.unwrap(), &head).await
    }

    async fn ask(&self, request: &str) -> Answered {
        self.send(request, "").await
    }

    fn counted(&self, result: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == "wsluice_api_requests_total").unwrap();
        let mut metrics = family.get_metric().iter();
        metrics.find(|metric| metric.get_label()[0].value() == result).unwrap().get_counter().get_value()
    }
}

#[tokio::test]
async fn the_state_of_things_is_told_in_json() {
    let admin = on_loopback(Fake::with(0), None);
    let answer = admin.ask("GET /api/v1/status").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json") && answer.head.contains("cache-control: no-store"));
    let config = json!({
        "hash": "ab".repeat(32), "source": "/etc/wsluice.yaml", "since": "1970-01-01T00:00:00.000Z", "age_seconds": 60.0,
    });
    let endpoint = json!({
        "name": "ws://10.0.0.1:9000", "weight": 2, "sessions": 3, "requests": 2, "health": "up", "ejected": false, "draining": true,
        "open": false,
    });
    let status = json!({
        "version": "0.0.0", "pid": 7, "started": "1970-01-01T00:00:00.000Z", "uptime_seconds": 61.5, "state": "ready",
        "config": config, "sessions": 3,
        "listeners": [{ "name": "public", "address": "0.0.0.0:443", "draining": false }],
        "upstreams": [{ "name": "app", "draining": true, "endpoints": [endpoint] }],
        "predecessors": [{ "pid": 6, "sessions": 1 }],
    });
    assert_eq!(answer.body, status);
    assert_eq!(admin.ask("GET /api/v1/config").await.body["config"], json!({ "version": 1 }));
    let drain = json!({
        "kind": "endpoint", "upstream": "app", "endpoint": "ws://10.0.0.1:9000",
        "time_seconds": 60.0, "since": "1970-01-01T00:00:00.000Z", "sessions": 3,
    });
    assert_eq!(admin.ask("GET /api/v1/drains").await.body, json!({ "drains": [drain] }));
    let head = admin.ask("HEAD /api/v1/status").await;
    assert_eq!((head.status, head.body), (200, Value::Null));
    assert_eq!(admin.counted("done"), 4.0);
    assert_eq!(admin.backend.asked(), [""; 0], "nothing was ordered");
}

#[tokio::test]
async fn sessions_come_in_pages_that_churn_does_not_disturb() {
    let admin = on_loopback(Fake::with(10), None);
    let (mut seen, mut after) = (vec![], String::new());
    for page in 0.. {
        let answer = admin.ask(&format!("GET /api/v1/sessions?route=odd&limit=2{after}")).await;
        let sessions = answer.body["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 2);
        seen.extend(sessions.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
        if page == 0 {
            // The one the next page begins after, and one that was seen.
            admin.backend.sessions.lock().unwrap().retain(|it| it.id != "0003" && it.id != "0001");
        }
        match answer.body.get("next") {
            Some(next) => after = format!("&after={}", next.as_str().unwrap()),
            None => break,
        }
    }
    assert_eq!(seen, ["0001", "0003", "0005", "0007", "0009"]);
    let one = admin.ask("GET /api/v1/sessions/0004").await;
    let session = json!({
        "id": "0004", "listener": "public", "route": "even", "upstream": "app", "endpoint": "ws://10.0.0.1:9000",
        "client": "192.0.2.4", "opened": "1970-01-01T00:00:00.000Z", "age_seconds": 4.0, "idle_seconds": 1.5, "queued_bytes": 4,
    });
    assert_eq!((one.status, one.body), (200, session));
    assert_eq!(admin.ask("GET /api/v1/sessions/0001").await.status, 404);
    assert_eq!(admin.ask("GET /api/v1/sessions?after=x").await.status, 400);
    assert_eq!(admin.ask("GET /api/v1/sessions?client=192.0.2.4").await.body["sessions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn orders_reach_the_desk_as_they_were_meant() {
    let admin = on_loopback(Fake::with(4), None);
    for (request, body, answer) in [
        ("POST /api/v1/reload", "", json!({ "routes": { "changed": ["chat"] } })),
        ("POST /api/v1/upgrade", "", json!({ "pid": 7, "moved": 3, "stayed": { "closing": 1 }, "move_seconds": 0.02 })),
        ("DELETE /api/v1/sessions/0001?code=4001&reason=bye", "", json!({ "closing": 1 })),
        ("POST /api/v1/sessions/close?route=even&over=30s", "", json!({ "closing": 2 })),
        ("POST /api/v1/sessions/close\nContent-Type: application/json", r#"{"all": true}"#, json!({ "closing": 4 })),
        (
            "PUT /api/v1/drains/endpoint/app/ws://10.0.0.1:9000\nContent-Type: application/x-www-form-urlencoded",
            "time=1m",
            json!({ "closing": 3 }),
        ),
        ("DELETE /api/v1/drains/upstream/app", "", json!({ "ended": true })),
        (
            "PUT /api/v1/denied/https://idp/ann%2F1?until=4102444800&reason=too+loud",
            "",
            json!({
                "subject": "https://idp/ann/1", "until": "2100-01-01T00:00:00.000Z", "since": "1970-01-01T00:00:00.000Z",
                "reason": "too loud",
            }),
        ),
        ("DELETE /api/v1/denied/ann", "", json!({ "ended": true })),
    ] {
        let answered = admin.send(request, body).await;
        assert_eq!((answered.status, answered.body), (200, answer), "{request}");
    }
    let operator = r#"1008 "closed by operator""#;
    assert_eq!(
        admin.backend.asked(),
        [
            "reload".to_owned(),
            "reloaded".to_owned(),
            "upgrade".to_owned(),
            r#"close 0001 4001 "bye" 0ns"#.to_owned(),
            format!("close route=even {operator} 30s"),
            format!("close all {operator} 0ns"),
            "drain endpoint ws://10.0.0.1:9000 of upstream app 60s".to_owned(),
            "end upstream app".to_owned(),
            r#"deny https://idp/ann/1 "too loud""#.to_owned(),
            "allow ann".to_owned(),
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_done_says_why() {
    let admin = on_loopback(Fake::with(1), None);
    for (request, status, error) in [
        ("DELETE /api/v1/sessions/0009", 404, "there is no such session; it may have ended"),
        ("PUT /api/v1/drains/route/nowhere", 404, "there is no route `nowhere`"),
        ("DELETE /api/v1/drains/route/nowhere", 404, "route nowhere is not drained"),
        ("DELETE /api/v1/drains/listener/public", 409, "0.0.0.0:443 is in use by another process"),
        ("POST /api/v1/check", 409, "there is no file to read again"),
        ("GET /api/v1/nothing", 404, "not found; below /api/v1/ there are "),
        ("POST /api/v1/sessions/close", 400, "say which sessions, or `all=true`"),
        ("GET /api/v1/denied/bob", 404, "\"bob\" is not denied"),
        ("DELETE /api/v1/denied/bob", 404, "\"bob\" is not denied"),
        ("PUT /api/v1/denied/bob?until=1", 400, "`until` is over already"),
        ("PUT /api/v1/denied/bob?until=soon", 400, "`until`"),
        ("PUT /api/v1/denied/bob?reason=%07", 400, "`reason` has control characters"),
        ("PUT /api/v1/denied", 405, "here only GET, HEAD"),
        ("PATCH /api/v1/status", 405, "here only GET, HEAD"),
    ] {
        let answer = admin.ask(request).await;
        let said = answer.body["error"].as_str().unwrap();
        assert!(answer.status == status && said.starts_with(error), "{request}: {answer:?}");
    }
    assert!(admin.ask("PATCH /api/v1/status").await.head.contains("allow: GET, HEAD\r\n"));
    let long = admin.ask(&format!("PUT /api/v1/denied/{}", "x".repeat(256))).await;
    assert_eq!((long.status, &long.body["error"]), (400, &json!("a subject has at most 255 bytes")));
    assert_eq!(admin.counted("refused"), 16.0);
    let ending = on_loopback(Fake { ending: true, ..Fake::default() }, None);
    let answer = ending.ask("POST /api/v1/reload").await;
    assert_eq!((answer.status, &answer.body["error"]), (503, &json!("the process is shutting down")));
    let answer = ending.ask("PUT /api/v1/denied/ann").await;
    assert_eq!((answer.status, &answer.body["error"]), (503, &json!("the shared store is away")));
    assert_eq!(ending.counted("failed"), 2.0);
}

#[tokio::test]
async fn a_configuration_is_checked_without_being_used() {
    let admin = on_loopback(Fake::with(0), None);
    let good = admin.send("POST /api/v1/check\nContent-Type: text/yaml", "good: 1").await;
    assert_eq!((good.status, good.body), (200, json!({ "warnings": ["a warning"] })));
    let bad = admin.send("POST /api/v1/check", "bad").await;
    let problem = json!({
        "key": "routes[0].upstream", "line": 3, "column": 15,
        "message": "there is no upstream `caht`", "help": "did you mean `chat`?",
    });
    assert_eq!((bad.status, bad.body), (422, json!({ "error": "the configuration is wrong", "problems": [problem] })));
    assert_eq!(admin.backend.asked(), ["check Some(7)", "check Some(3)"]);
}

#[tokio::test]
async fn a_body_has_its_bounds() {
    let admin = on_loopback(Fake::with(0), None);
    let answer = admin.send("POST /api/v1/check", &"#".repeat(1 << 20)).await;
    assert_eq!(answer.status, 200, "the largest configuration there is");
    let answer = admin.send("POST /api/v1/check", &"#".repeat((1 << 20) + 1)).await;
    assert_eq!((answer.status, &answer.body["error"]), (413, &json!("the body is larger than 1048576 bytes")));
    let form = "POST /api/v1/reload\nContent-Type: application/x-www-form-urlencoded";
    assert_eq!(admin.send(form, &"&".repeat((16 << 10) + 1)).await.status, 413);
    assert_eq!(admin.backend.asked(), ["check Some(1048576)"]);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let (backend, registry) = (Arc::new(Fake::with(0)), Registry::new());
    let api = Some(Arc::new(Api { body_timeout: Duration::from_millis(20), ..api(&backend, None, &registry) }));
    let metrics = connections::Metrics::register(&registry).unwrap();
    let service = AdminServer::new(AdminState { registry, readiness: Readiness::new(), api, metrics });
    let (_stop, stopped) = tokio::sync::watch::channel(());
    let caller = Caller::Unix { uid: None, pid: None };
    let client = Arc::new(AdminConnection::new(crate::base::clock::now()));
    tokio::spawn(crate::admin::connection(ours, caller, client, Arc::new(service), stopped));
    let head = "POST /api/v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf";
    let answer = exchange(&mut theirs, head).await;
    assert_eq!((answer.status, &answer.body["error"]), (408, &json!("the body did not come in time")));
    assert_eq!(backend.asked(), [""; 0]);
}

#[tokio::test]
async fn only_the_token_opens_where_there_is_one() {
    let admin = on_loopback(Fake::with(1), Some(TOKEN));
    let authorized =
        |request: &str, token: &str| format!("{request}\nAuthorization: Bearer {token}\nHost: any.example.com");
    assert_eq!(admin.ask(&authorized("GET /api/v1/status", TOKEN)).await.status, 200);
    for request in [
        "GET /api/v1/status",
        "GET /api/v1/config",
        "POST /api/v1/reload",
        "DELETE /api/v1/sessions/0000",
        "GET /api/v1/x",
    ] {
        for denied in [admin.ask(request).await, admin.ask(&authorized(request, &TOKEN[1..])).await] {
            assert_eq!(denied.status, 401, "{request}");
            assert!(denied.head.contains("www-authenticate: Bearer realm=\"wsluice\"\r\n"), "{}", denied.head);
        }
    }
    assert_eq!((admin.counted("denied"), admin.backend.asked()), (10.0, vec![]));
    // Probes and scrapers have no token.
    for path in ["/livez", "/metrics"] {
        let mut io = TcpStream::connect(admin.addr).await.unwrap();
        io.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[tokio::test]
async fn pages_in_a_browser_of_this_machine_are_kept_out() {
    let admin = on_loopback(Fake::with(1), None);
    let rebound = admin.ask("GET /api/v1/sessions\nHost: evil.example.com:9902").await;
    assert_eq!(rebound.status, 403);
    for from in ["Origin: https://evil.example.com", "Origin: null", "Sec-Fetch-Site: cross-site"] {
        for request in
            ["POST /api/v1/sessions/close?all=true", "PUT /api/v1/drains/route/a", "DELETE /api/v1/sessions/0000"]
        {
            let answer = admin.ask(&format!("{request}\n{from}")).await;
            assert_eq!((answer.status, &answer.body["error"]), (403, &json!("web pages may not change anything here")));
        }
    }
    // What a browser asks before it sends more than a form could.
    assert_eq!(admin.ask("OPTIONS /api/v1/reload\nOrigin: https://evil.example.com").await.status, 403);
    assert_eq!(admin.backend.asked(), [""; 0]);
}

#[tokio::test]
async fn a_unix_socket_needs_no_name_and_tells_who_is_there() {
    let place = tempfile::tempdir().unwrap();
    let path: PathBuf = place.path().join("admin.sock");
    let admin = start(&Address::Unix(path.clone()), Fake::with(0), None);
    let mut io = UnixStream::connect(&path).await.unwrap();
    let request = "POST /api/v1/reload HTTP/1.1\r\nHost: wsluice\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(&mut io, request).await.status, 200);
    assert_eq!(admin.backend.asked(), ["reload", "reloaded"]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let caller = Caller::of(&ours.into(), crate::net::stream::PeerAddr::Unix);
    let (uid, pid) = (rustix::process::getuid().as_raw(), rustix::process::getpid());
    assert_eq!(caller.to_string(), format!("unix uid={uid} pid={}", pid.as_raw_nonzero()));
    drop(theirs);
}

/// What was written down; only one test looks.
static AUDITED: Mutex<Vec<Action>> = Mutex::new(Vec::new());

#[tokio::test]
async fn every_action_is_written_down_with_who_asked() {
    let (backend, registry) = (Arc::new(Fake::with(3)), Registry::new());
    let audit = |action: &Action| AUDITED.lock().unwrap().push(action.clone());
    let api = Arc::new(Api { audit, ..api(&backend, Some(TOKEN), &registry) });
    let caller = Caller::Unix { uid: Some(1000), pid: Some(7) };
    for (method, path, token) in [
        ("POST", "/api/v1/sessions/close?route=even&over=5s", TOKEN),
        ("PUT", "/api/v1/drains/route/nowhere", TOKEN),
        // What changes nothing, and what is not let in or not understood, is no action.
        ("GET", "/api/v1/status", TOKEN),
        ("POST", "/api/v1/check", TOKEN),
        ("POST", "/api/v1/reload", "another token than this"),
        ("POST", "/api/v1/reload?now", TOKEN),
    ] {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        api.answer(caller, request.body(Full::<Bytes>::default()).unwrap()).await;
    }
    let [closed, drained] = AUDITED.lock().unwrap().clone().try_into().unwrap();
    assert_eq!((closed.by, closed.token, closed.action), (caller, Some(1), "close"));
    assert_eq!(closed.on, r#"sessions route=even with 1008 "closed by operator" over 5s"#);
    assert_eq!(closed.done, Ok(json!({ "closing": 2 })));
    assert_eq!((drained.action, drained.on.as_str()), ("drain", "route nowhere over 30s"));
    assert_eq!(drained.done.unwrap_err().error, "there is no route `nowhere`");
}

#[tokio::test]
async fn an_order_is_carried_out_also_when_the_operator_goes_away() {
    let may_end = Arc::new(Notify::new());
    let admin = on_loopback(Fake { reload_may_end: Some(Arc::clone(&may_end)), ..Fake::default() }, None);
    let mut io = TcpStream::connect(admin.addr).await.unwrap();
    io.write_all(b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    while admin.backend.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(io);
    // Answered on another connection: the first one is gone by then.
    admin.ask("GET /api/v1/status").await;
    may_end.notify_one();
    tokio::time::timeout(Duration::from_secs(10), admin.backend.ended.notified()).await.unwrap();
    assert_eq!(admin.backend.asked(), ["reload", "reloaded"]);
}
