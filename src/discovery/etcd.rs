//! Endpoints from etcd v3: the value of each key below a prefix is one endpoint.
//!
//! The protocol is the JSON gateway that every etcd since 3.4 serves on its client port: plain HTTP/1.1, no gRPC, no
//! protobuf compiler. A round is: log in, if there is a user; load the prefix, at one revision; watch it from the
//! next revision on. When anything fails, the next round begins, with the next server, and with a load: that is one
//! request, it cannot miss what happened in between, and it is right even after a compaction or when the cluster was
//! restored from a backup with smaller revisions, where resuming a watch is not.
//!
//! A silent watch may be a dead watch. A progress notification would tell, but comes every ten minutes, and cannot be
//! requested over HTTP/1.1. So the prefix is checked now and then over a connection of its own: whether it has as
//! many keys as we know and none that is newer. That also shows how fresh our view is.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{Backoff, DiscoveryError, DiscoveryErrorKind, EndpointSink};
use crate::base::error_chain::error_chain;
use crate::base::file_state;
use crate::config::{ENDPOINTS_MAX, EndpointConfig, load_endpoint};
use crate::upstream::connect::{ConnectError, Connector};
use crate::upstream::one_exchange::{self, OpenConnection, Uncollected};

/// One request with its answer, the connection included.
const REQUEST: Duration = Duration::from_secs(5);

/// Between two checks of a watch.
const CHECK: Duration = Duration::from_secs(10);

/// A burst of events (a deployment, a lost lease) becomes one list: after this much quiet, ...
const QUIET: Duration = Duration::from_millis(50);

/// ... or, if it does not end, after this long.
const BURST: Duration = Duration::from_millis(500);

/// The largest answer. 10,000 endpoints with long keys, in base64, are some 5 MB.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// How many keys or events one answer may have. A load is refused above `ENDPOINTS_MAX` in words of its own.
const ITEMS_MAX: usize = 2 * ENDPOINTS_MAX;

/// The most memory of all keys.
const KEYS_BYTES_MAX: usize = 4 << 20;

/// How much of a key is shown.
const KEY_CHARS_SHOWN: usize = 200;

/// A login's token, which is seldom more than a signed JWT.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Loads and watches a prefix.
#[derive(Debug)]
pub struct Etcd {
    /// The members of the cluster, at least one.
    pub servers: Vec<EtcdMember>,
    /// The prefix of the keys.
    pub prefix: String,
    /// User and password.
    pub login: Option<Login>,
}

/// One member.
#[derive(Clone, Debug)]
pub struct EtcdMember {
    /// Host and port, for the `Host` header and for messages.
    pub authority: String,
    /// How connections to it are made.
    pub connector: Connector,
}

/// The login.
#[derive(Clone)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The keys as we know them.
#[derive(Debug, Default)]
struct View {
    keys: BTreeMap<Vec<u8>, KnownKey>,
    /// All of what happened until then is in it.
    revision: i64,
}

/// One key as we know it.
#[derive(Debug)]
struct KnownKey {
    /// A hash of the value: ten thousand values could be of any length.
    value: [u8; 32],
    /// The endpoint in the value, or the last one it had.
    endpoint: Option<EndpointConfig>,
}

/// A connection to one server with one request under way; dropping it closes the connection.
struct EtcdExchange {
    body: Incoming,
    _connection: OpenConnection,
}

/// The gateway's answers; its numbers are strings, as in protobuf's JSON.
#[derive(Deserialize)]
struct EtcdHeader {
    #[serde(deserialize_with = "number", default)]
    revision: i64,
}

#[derive(Deserialize)]
struct Range {
    header: EtcdHeader,
    #[serde(deserialize_with = "bounded", default)]
    kvs: Vec<KeyValue>,
    #[serde(deserialize_with = "number", default)]
    count: i64,
}

#[derive(Deserialize)]
struct KeyValue {
    #[serde(deserialize_with = "base64_bytes")]
    key: Vec<u8>,
    #[serde(deserialize_with = "number", default)]
    mod_revision: i64,
    #[serde(deserialize_with = "base64_bytes", default)]
    value: Vec<u8>,
}

#[derive(Deserialize)]
struct WatchedPrefix {
    result: Option<WatchResponse>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct WatchResponse {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    cancel_reason: String,
    #[serde(deserialize_with = "bounded", default)]
    events: Vec<WatchEvent>,
}

#[derive(Deserialize)]
struct WatchEvent {
    #[serde(rename = "type", default)]
    kind: EventKind,
    kv: KeyValue,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventKind {
    #[default]
    Put,
    Delete,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// Reads a list of bounded length: in memory it takes several times its size as text.
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Bounded<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {ITEMS_MAX}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = vec![];
            while let Some(item) = list.next_element()? {
                if items.len() == ITEMS_MAX {
                    return Err(serde::de::Error::invalid_length(items.len() + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    from.deserialize_seq(Bounded(PhantomData))
}

fn base64_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(from)?;
    BASE64_STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
}

impl Etcd {
    /// Runs until it is dropped, which may happen at any time.
    pub async fn run(self, mut outlet: EndpointSink) {
        let mut backoff = Backoff::default();
        let mut view = View::default();
        // Not all proxies on one member.
        let first = fastrand::usize(..self.servers.len().max(1));
        for server in self.servers.iter().cycle().skip(first) {
            let mut loaded = false;
            let trouble = Box::pin(self.round(server, &mut view, &mut outlet, &mut loaded)).await;
            if loaded {
                backoff.reset();
            }
            match trouble {
                // Not worth a word: the next round is right.
                None => continue,
                Some(trouble) => outlet.failed(&trouble),
            }
            sleep(backoff.after_failure(fastrand::f64())).await;
        }
    }

    /// Loads and watches by one server, until that fails: for a reason, or because the watch missed something.
    async fn round(
        &self,
        server: &EtcdMember,
        view: &mut View,
        outlet: &mut EndpointSink,
        loaded: &mut bool,
    ) -> Option<DiscoveryError> {
        let mut client = EtcdClient { server, token: None };
        if let Some(login) = &self.login
            && let Err(trouble) = client.log_in(login).await
        {
            return Some(trouble);
        }
        if let Err(trouble) = self.load(&client, view, outlet).await {
            return Some(trouble);
        }
        *loaded = true;
        view.tell(outlet);
        self.watch(&client, view, outlet).await.err()
    }

    /// Returns the keys' range: from the prefix to the first key greater than all that begin with it.
    fn range(&self) -> Value {
        let key = self.prefix.as_bytes();
        json!({ "key": BASE64_STANDARD.encode(key), "range_end": BASE64_STANDARD.encode(range_end(key)) })
    }

    async fn load(
        &self,
        client: &EtcdClient<'_>,
        view: &mut View,
        outlet: &mut EndpointSink,
    ) -> Result<(), DiscoveryError> {
        let mut request = self.range();
        request["limit"] = json!(ENDPOINTS_MAX + 1);
        let range: Range = client.call("/v3/kv/range", &request).await?;
        view.load(range, outlet)
    }

    /// Follows the prefix from the view on. `Ok` when the view has to be loaded anew.
    async fn watch(
        &self,
        client: &EtcdClient<'_>,
        view: &mut View,
        outlet: &mut EndpointSink,
    ) -> Result<(), DiscoveryError> {
        let mut create = self.range();
        create["start_revision"] = json!((view.revision + 1).to_string());
        let mut watch = client.open("/v3/watch", &json!({ "create_request": create }), None).await?;
        let mut lines = JsonLines::default();
        let mut check = Instant::now() + CHECK.mul_f64(0.5 + 0.5 * fastrand::f64());
        // When the first and the last event came that the outlet does not know of.
        let mut burst: Option<(Instant, Instant)> = None;
        loop {
            let tell = burst.map(|(first, last)| (first + BURST).min(last + QUIET));
            tokio::select! {
                frame = watch.body.frame() => {
                    let bytes = match frame {
                        None => return Err(server_gone(client, "ended the watch")),
                        Some(Err(error)) => return Err(server_gone(client, &format!("broke the watch off: {error}"))),
                        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                    };
                    for line in lines.push(&bytes)? {
                        if view.hear(&line, &client.server.authority, outlet)? {
                            let now = Instant::now();
                            burst = Some((burst.map_or(now, |(first, _)| first), now));
                        }
                    }
                }
                () = sleep_until(tell.unwrap_or(check)), if tell.is_some_and(|tell| tell < check) => {
                    burst = None;
                    view.tell(outlet);
                }
                () = sleep_until(check) => {
                    // Not raced with the watch: events wait in the socket for the moment this takes.
                    match self.is_current(client, view).await {
                        Ok(true) => {}
                        Ok(false) => return Ok(()),
                        // A token does not hold for ever: the next round begins with a login.
                        Err(trouble) if trouble.reason == DiscoveryErrorKind::Denied && client.token.is_some() => return Ok(()),
                        Err(trouble) => return Err(trouble),
                    }
                    burst = None;
                    view.tell(outlet);
                    check = Instant::now() + CHECK;
                }
            }
        }
    }

    /// Returns true if the view has all keys, and none of them is newer. An event under way makes that false too;
    /// then the prefix is loaded once more than needed.
    async fn is_current(&self, client: &EtcdClient<'_>, view: &View) -> Result<bool, DiscoveryError> {
        let mut request = self.range();
        request["keys_only"] = json!(true);
        request["limit"] = json!(1);
        request["min_mod_revision"] = json!((view.revision + 1).to_string());
        let range: Range = client.call("/v3/kv/range", &request).await?;
        let same = usize::try_from(range.count) == Ok(view.keys.len()) && range.kvs.is_empty();
        Ok(same && range.header.revision >= view.revision)
    }
}

impl View {
    /// Takes the answer to a load in: all keys there are.
    fn load(&mut self, range: Range, outlet: &mut EndpointSink) -> Result<(), DiscoveryError> {
        if range.kvs.len() > ENDPOINTS_MAX {
            return Err(too_many(range.kvs.len()));
        }
        let mut old = std::mem::take(&mut self.keys);
        for kv in range.kvs {
            let last = old.remove(&kv.key);
            let (key, known) = read(kv, last, outlet);
            self.keys.insert(key, known);
        }
        self.revision = range.header.revision;
        Ok(())
    }

    /// Takes a line of the watch in, which `server` wrote. Says whether something happened.
    fn hear(&mut self, line: &[u8], server: &str, outlet: &mut EndpointSink) -> Result<bool, DiscoveryError> {
        let watched: WatchedPrefix = understand(line)?;
        let Some(result) = watched.result.filter(|_| watched.error.is_none()) else {
            return Err(DiscoveryError::new(DiscoveryErrorKind::Server, format!("{server}: {}", shown(line))));
        };
        if result.canceled {
            // Compacted, most likely. What was lost is in the next load; a wait, so as not to go in circles.
            let why = if result.cancel_reason.is_empty() { "compacted" } else { &*result.cancel_reason };
            return Err(DiscoveryError::new(DiscoveryErrorKind::Server, format!("the watch was cancelled: {why}")));
        }
        if result.events.is_empty() {
            return Ok(false);
        }
        self.apply(result.events, outlet)?;
        Ok(true)
    }

    fn apply(&mut self, events: Vec<WatchEvent>, outlet: &mut EndpointSink) -> Result<(), DiscoveryError> {
        for WatchEvent { kind, kv } in events {
            self.revision = self.revision.max(kv.mod_revision);
            let last = self.keys.remove(&kv.key);
            if kind == EventKind::Put {
                let (key, known) = read(kv, last, outlet);
                self.keys.insert(key, known);
            }
        }
        match self.keys.len() {
            len if len > ENDPOINTS_MAX => Err(too_many(len)),
            _ if self.keys.keys().map(Vec::len).sum::<usize>() > KEYS_BYTES_MAX => Err(DiscoveryError::new(
                DiscoveryErrorKind::TooLarge,
                format!("the keys take more than {KEYS_BYTES_MAX} bytes"),
            )),
            _ => Ok(()),
        }
    }

    fn endpoints(&self) -> Vec<EndpointConfig> {
        self.keys.values().filter_map(|known| known.endpoint.clone()).collect()
    }

    fn tell(&self, outlet: &mut EndpointSink) {
        outlet.list(self.endpoints());
    }
}

/// The view of a prefix built from answers, without a server: for tests with hostile ones (`tests/fuzz`).
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct EtcdReplay {
    view: View,
    lines: JsonLines,
}

#[doc(hidden)]
impl EtcdReplay {
    /// Takes in the answer to a load.
    ///
    /// # Errors
    /// As a round ends then.
    pub fn load(&mut self, answer: &[u8], outlet: &mut EndpointSink) -> Result<(), DiscoveryError> {
        self.view.load(understand(answer)?, outlet)
    }

    /// Takes in the next answer of the watch.
    ///
    /// # Errors
    /// As a round ends then.
    pub fn watch(&mut self, bytes: &[u8], outlet: &mut EndpointSink) -> Result<(), DiscoveryError> {
        for line in self.lines.push(bytes)? {
            self.view.hear(&line, "server", outlet)?;
        }
        Ok(())
    }

    /// Returns the endpoints known now.
    pub fn endpoints(&self) -> Vec<EndpointConfig> {
        self.view.endpoints()
    }
}

/// Reads the endpoint of a key. A value that is not an endpoint is reported once, and the previous one stays.
fn read(kv: KeyValue, last: Option<KnownKey>, outlet: &mut EndpointSink) -> (Vec<u8>, KnownKey) {
    let KeyValue { key, value: text, .. } = kv;
    let value = hash(&text);
    if let Some(known) = last.as_ref().filter(|known| known.value == value) {
        return (key, KnownKey { value, endpoint: known.endpoint.clone() });
    }
    let name: String = String::from_utf8_lossy(&key).chars().take(KEY_CHARS_SHOWN).collect();
    let endpoint = match file_state::text(text) {
        Ok(text) => load_endpoint(&name, &text).map_err(|errors| errors.to_string()),
        Err(error) => Err(format!("{name} {error}")),
    };
    let endpoint = match endpoint {
        Ok(endpoint) => Some(endpoint),
        Err(problem) => {
            outlet.flawed(&DiscoveryError::new(DiscoveryErrorKind::Malformed, problem));
            last.and_then(|known| known.endpoint)
        }
    };
    (key, KnownKey { value, endpoint })
}

fn hash(value: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, value).as_ref());
    hash
}

fn too_many(keys: usize) -> DiscoveryError {
    DiscoveryError::new(DiscoveryErrorKind::TooLarge, format!("{keys} keys, more than {ENDPOINTS_MAX}"))
}

/// Returns the first key after all that begin with `prefix`; `\0` means "to the end" (etcd's `range_end`).
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// One server, and the token it gave us.
struct EtcdClient<'a> {
    server: &'a EtcdMember,
    token: Option<String>,
}

impl EtcdClient<'_> {
    async fn log_in(&mut self, login: &Login) -> Result<(), DiscoveryError> {
        let request = json!({ "name": login.user, "password": login.password });
        let Token { token } = self.call("/v3/auth/authenticate", &request).await?;
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Err(DiscoveryError::new(
                DiscoveryErrorKind::Malformed,
                format!("{}: no usable token", self.server.authority),
            ));
        }
        self.token = Some(token);
        Ok(())
    }

    /// Sends one request and reads its whole answer.
    async fn call<T: DeserializeOwned>(&self, path: &str, request: &Value) -> Result<T, DiscoveryError> {
        let deadline = Instant::now() + REQUEST;
        let mut exchange = self.open(path, request, Some(deadline)).await?;
        let collected = timeout_at(deadline, collect(&mut exchange.body, ANSWER_BYTES_MAX));
        let answer = collected.await.map_err(|_| self.late(path))?.map_err(|trouble| self.of_server(trouble))?;
        understand(&answer).map_err(|trouble| self.of_server(trouble))
    }

    /// Sends a request on a connection of its own and waits for a good answer to begin.
    async fn open(
        &self,
        path: &str,
        request: &Value,
        deadline: Option<Instant>,
    ) -> Result<EtcdExchange, DiscoveryError> {
        let deadline = deadline.unwrap_or_else(|| Instant::now() + REQUEST);
        let authority = &self.server.authority;
        let mut builder = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            builder = builder.header(header::AUTHORIZATION, token);
        }
        let body = Full::new(Bytes::from(request.to_string()));
        let request = builder
            .body(body)
            .map_err(|error| DiscoveryError::new(DiscoveryErrorKind::Malformed, error.to_string()))?;
        let stream = self.server.connector.connect(deadline).await.map_err(|error| {
            let reason = if matches!(error, ConnectError::Timeout) {
                DiscoveryErrorKind::Timeout
            } else {
                DiscoveryErrorKind::Unreachable
            };
            DiscoveryError::new(reason, format!("{authority}: {}", error_chain(&error)))
        })?;
        let broken = |error: hyper::Error| {
            DiscoveryError::new(DiscoveryErrorKind::Unreachable, format!("{authority}: {}", error_chain(&error)))
        };
        let answered = timeout_at(deadline, one_exchange::send(stream, request)).await;
        let (response, connection) = answered.map_err(|_| self.late(path))?.map_err(broken)?;
        let (head, mut body) = response.into_parts();
        if head.status == StatusCode::OK {
            return Ok(EtcdExchange { body, _connection: connection });
        }
        let told = timeout(REQUEST, collect(&mut body, 64 << 10)).await.ok().and_then(Result::ok).unwrap_or_default();
        let reason = match head.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => DiscoveryErrorKind::Denied,
            // With 400 too: "authentication failed", and "user name is empty" where there should be a login.
            StatusCode::BAD_REQUEST if ["auth", "user name"].iter().any(|words| shown(&told).contains(words)) => {
                DiscoveryErrorKind::Denied
            }
            StatusCode::NOT_FOUND => DiscoveryErrorKind::NotFound,
            _ => DiscoveryErrorKind::Server,
        };
        Err(DiscoveryError::new(reason, format!("{authority}{path}: {}: {}", head.status, shown(&told))))
    }

    fn late(&self, path: &str) -> DiscoveryError {
        DiscoveryError::new(
            DiscoveryErrorKind::Timeout,
            format!("{}{path}: no answer in {REQUEST:?}", self.server.authority),
        )
    }

    fn of_server(&self, trouble: DiscoveryError) -> DiscoveryError {
        DiscoveryError { detail: format!("{}: {}", self.server.authority, trouble.detail), ..trouble }
    }
}

fn server_gone(client: &EtcdClient<'_>, what: &str) -> DiscoveryError {
    DiscoveryError::new(DiscoveryErrorKind::Unreachable, format!("{} {what}", client.server.authority))
}

async fn collect(body: &mut Incoming, bytes_max: usize) -> Result<Bytes, DiscoveryError> {
    one_exchange::collect(body, bytes_max).await.map_err(|error| match error {
        Uncollected::TooLarge => {
            DiscoveryError::new(DiscoveryErrorKind::TooLarge, format!("an answer of more than {bytes_max} bytes"))
        }
        Uncollected::Broken(error) => DiscoveryError::new(DiscoveryErrorKind::Unreachable, error_chain(&error)),
    })
}

fn understand<T: DeserializeOwned>(json: &[u8]) -> Result<T, DiscoveryError> {
    serde_json::from_slice(json)
        .map_err(|error| DiscoveryError::new(DiscoveryErrorKind::Malformed, format!("{error} in {}", shown(json))))
}

/// Cuts an answer to what fits into a line of the log.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().chars().take(200).collect()
}

/// A stream cut into lines: the gateway writes one JSON object a line.
#[derive(Debug, Default)]
struct JsonLines {
    rest: BytesMut,
}

impl JsonLines {
    /// Returns the lines that `bytes` complete.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<Bytes>, DiscoveryError> {
        let mut lines = vec![];
        let mut start = self.rest.len();
        self.rest.extend_from_slice(bytes);
        while let Some(end) = memchr::memchr(b'\n', &self.rest[start..]) {
            let line = self.rest.split_to(start + end + 1).freeze();
            if !line.trim_ascii().is_empty() {
                lines.push(line);
            }
            start = 0;
        }
        match self.rest.len() > ANSWER_BYTES_MAX {
            true => Err(DiscoveryError::new(
                DiscoveryErrorKind::TooLarge,
                format!("an event of more than {ANSWER_BYTES_MAX} bytes"),
            )),
            false => Ok(lines),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_greater_key() {
        assert_eq!(range_end(b"/a/"), b"/a0");
        assert_eq!(range_end(b"a\xff\xff"), b"b");
        assert_eq!(range_end(b"\xff"), b"\0");
        assert_eq!(range_end(b""), b"\0");
    }

    #[test]
    fn the_gateways_answers_are_understood() {
        let range: Range = understand(
            br#"{"header":{"cluster_id":"1","revision":"7","raft_term":"2"},"kvs":[{"key":"L2Ev","create_revision":"2",
            "mod_revision":"5","version":"1","value":"d3M6Ly9h"}],"count":"1"}"#,
        )
        .unwrap();
        assert_eq!((range.header.revision, range.count), (7, 1));
        assert_eq!((&*range.kvs[0].key, &*range.kvs[0].value), (&b"/a/"[..], &b"ws://a"[..]));
        // Nothing is left out that is zero or empty.
        let none: Range = understand(br#"{"header":{"revision":"1"}}"#).unwrap();
        assert_eq!((none.kvs.len(), none.count), (0, 0));
        let event: WatchedPrefix = understand(
            br#"{"result":{"header":{"revision":"9"},"events":[{"kv":{"key":"L2Ev","value":"YQ=="}},
            {"type":"DELETE","kv":{"key":"L2Ev","mod_revision":"9"}}]}}"#,
        )
        .unwrap();
        let kinds: Vec<_> = event.result.unwrap().events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Put, EventKind::Delete]);
        let compacted: WatchedPrefix = understand(br#"{"result":{"canceled":true,"compact_revision":"5"}}"#).unwrap();
        assert!(compacted.result.unwrap().canceled);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_arrive(text in "[ab\n]{0,40}", cut in 0_usize..40) {
            let whole = JsonLines::default().push(text.as_bytes()).unwrap();
            let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
            let mut lines = JsonLines::default();
            let mut parts = lines.push(one).unwrap();
            parts.extend(lines.push(two).unwrap());
            prop_assert_eq!(whole, parts);
        }
    }
}
