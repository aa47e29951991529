//! The API of the binary: its responses, its effect on sessions, and who is allowed to use it.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use wsluice::net::listener::Address;

use crate::harness::{Conn, Echo, Frame, Handshake, within};
use crate::plain::{at_home, get};
use crate::process::Process;
use crate::upgrade::{ProcessChain, pid};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A process with two listeners, two routes by path, and two upstreams, each of one server.
struct Site {
    process: Process,
    listeners: [Address; 2],
    admin: Address,
    yaml: String,
    echoes: [Echo; 2],
    dir: TempDir,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Site {
    async fn start() -> Site {
        Site::with("bind: \"127.0.0.1:0\"").await
    }

    /// `{dir}` in `admin` is the directory of the site.
    async fn with(admin: &str) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let echoes = [Echo::start().await, Echo::start().await];
        let admin = admin.replace("{dir}", dir.path().to_str().unwrap());
        let yaml = format!(
            r#"
version: 1
workers: 2
watch: false
listeners:
  - {{ name: first, bind: "127.0.0.1:0" }}
  - {{ name: second, bind: "127.0.0.1:0", trusted_proxies: ["127.0.0.1"] }}
routes:
  - {{ name: one, match: {{ path: {{ prefix: /one }} }}, upstream: one }}
  - {{ name: two, match: {{ path: {{ prefix: /two }} }}, upstream: two }}
upstreams:
  one: {{ endpoints: ["{}"] }}
  two: {{ endpoints: ["{}"] }}
log: {{ format: json, access: false }}
admin: {{ {admin} }}
"#,
            echoes[0].url(),
            echoes[1].url()
        );
        let mut process = Process::start(dir.path(), &yaml);
        let listeners = [process.listening().await, process.listening().await];
        let admin = process.admin().await;
        Site { process, listeners, admin, yaml, echoes, dir }
    }

    fn write(&self, changes: &[(&str, &str)]) -> String {
        let mut text = self.yaml.clone();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        std::fs::write(self.dir.path().join("wsluice.yaml"), &text).unwrap();
        text
    }

    /// `request` is "METHOD /path below the root", and perhaps fields, each after a line break.
    async fn send(&self, request: &str, body: &str) -> Answer {
        send(&self.admin, request, body).await
    }

    async fn ask(&self, request: &str) -> Answer {
        self.send(request, "").await
    }

    /// Returns the body of a successful response.
    async fn done(&self, request: &str) -> Value {
        let Answer { status, body } = self.ask(request).await;
        assert_eq!(status, 200, "{request}: {body:#}");
        body
    }

    async fn open(&self, listener: usize, path: &str) -> Conn {
        self.open_as(listener, Handshake::to(path)).await
    }

    async fn open_as(&self, listener: usize, handshake: Handshake) -> Conn {
        let mut client = Conn::connect(&self.listeners[listener]).await;
        client.open(&handshake).await;
        // Its session is listed before it relays anything.
        echoes(&mut client, "hello").await;
        client
    }

    /// Returns the ids of the sessions that match a query, page by page.
    async fn ids(&self, query: &str) -> Vec<String> {
        let (mut ids, mut after) = (vec![], String::new());
        loop {
            let page = self.done(&format!("GET sessions?limit=2{query}{after}")).await;
            let sessions = page["sessions"].as_array().unwrap();
            assert!(sessions.len() <= 2);
            ids.extend(sessions.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return ids,
            }
        }
    }

    /// Waits until this number of sessions matches a query.
    async fn left(&self, query: &str, count: usize) {
        within("sessions", async {
            while self.ids(query).await.len() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Returns the next line of the audit log.
    async fn audited(&mut self) -> Value {
        self.process
            .line("a line of the audit", |line| {
                let value: Value = serde_json::from_str(line).ok()?;
                (value["target"] == "wsluice::audit").then_some(value)
            })
            .await
    }
}

pub async fn send(admin: &Address, request: &str, body: &str) -> Answer {
    let (line, fields) = request.split_once('\n').unwrap_or((request, ""));
    let (method, path) = line.split_once(' ').unwrap();
    let fields: String = fields.lines().map(|field| format!("{field}\r\n")).collect();
    let host = if fields.contains("Host:") { "" } else { "Host: localhost\r\n" };
    let length = body.len();
    let head = format!("{method} /api/v1/{path} HTTP/1.1\r\n{host}{fields}Content-Length: {length}\r\n\r\n{body}");
    let mut conn = Conn::connect(admin).await;
    conn.send(head).await;
    let head = conn.head().await;
    let body = conn.body(&head).await;
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&body)));
    Answer { status: head.status(), body }
}

async fn echoes(client: &mut Conn, text: &str) {
    client.put(&Frame::text(text)).await;
    client.expect(&Frame::text(text)).await;
}

pub fn authorized(request: &str, token: &str) -> String {
    format!("{request}\nAuthorization: Bearer {token}")
}

// ---- what is told

#[tokio::test]
async fn the_status_tells_of_everything_that_runs() {
    let mut site = Site::start().await;
    let _clients = [site.open(0, "/one").await, site.open(1, "/one").await];
    let status = site.done("GET status").await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], site.process.pid());
    assert_eq!((&status["state"], &status["sessions"]), (&json!("ready"), &json!(2)));
    assert!(status["uptime_seconds"].as_f64().unwrap() < 600.0);
    let config = &status["config"];
    let file = site.dir.path().join("wsluice.yaml");
    assert_eq!(config["source"], file.to_str().unwrap());
    assert_eq!(config["hash"].as_str().unwrap().len(), 64);
    assert!(config.get("config").is_none() && config["age_seconds"].as_f64().unwrap() < 600.0);
    let addresses = site.listeners.each_ref().map(ToString::to_string);
    let listener = |name, address: &str| json!({ "name": name, "address": address, "draining": false });
    assert_eq!(status["listeners"], json!([listener("first", &addresses[0]), listener("second", &addresses[1])]));
    let endpoint = |at: usize, sessions: usize| {
        json!({
            "name": site.echoes[at].url(), "weight": 1, "sessions": sessions, "requests": 0, "health": "unknown",
            "ejected": false, "draining": false, "open": true,
        })
    };
    let upstream = |name, endpoint| json!({ "name": name, "draining": false, "endpoints": [endpoint] });
    assert_eq!(status["upstreams"], json!([upstream("one", endpoint(0, 2)), upstream("two", endpoint(1, 0))]));
    // The metrics show the same hash.
    let mut scrape = Conn::connect(&site.admin).await;
    scrape.send(at_home("/metrics")).await;
    let head = scrape.head().await;
    let metrics = String::from_utf8(scrape.body(&head).await).unwrap();
    assert!(metrics.contains(&format!("wsluice_config_info{{hash={}}} 1\n", config["hash"])), "{metrics}");
    assert!(metrics.contains("wsluice_api_requests_total{result=\"done\"} 1\n"), "{metrics}");
    // A read is not in the audit log.
    site.done("POST reload").await;
    assert_eq!(site.audited().await["action"], "reload");
}

#[tokio::test]
async fn the_configuration_is_shown_without_its_secrets() {
    let site = Site::with(&format!("bind: \"127.0.0.1:0\", token: {TOKEN}")).await;
    site.write(&[("  one: {", "  one: { sticky: { cookie: a, secrets: [\"fedcba9876543210fedcba9876543210\"] },")]);
    assert_eq!(site.ask(&authorized("POST reload", TOKEN)).await.status, 200);
    let answer = site.ask(&authorized("GET config", TOKEN)).await;
    let config = &answer.body["config"];
    assert_eq!(config["admin"]["token"], "***", "{config:#}");
    assert_eq!(config["upstreams"]["one"]["sticky"]["secrets"], json!(["***"]));
    assert_eq!(config["routes"][0]["on_change"], "keep", "defaults are filled in");
    let all = answer.body.to_string();
    assert!(!all.contains(TOKEN) && !all.contains("fedcba"), "{all}");
}

// ---- reload and check

#[tokio::test]
async fn a_reload_tells_what_it_changed_or_why_it_was_refused() {
    let mut site = Site::start().await;
    let mut client = site.open(0, "/one").await;
    let before = site.done("GET status").await["config"]["hash"].clone();
    site.write(&[("prefix: /two", "prefix: /zwei"), ("name: two, match", "name: two, on_change: close, match")]);
    let changes = site.done("POST reload").await;
    assert_eq!(changes["routes"], json!({ "added": [], "changed": ["two"], "removed": [] }));
    let line = site.audited().await;
    assert_eq!((&line["action"], &line["level"]), (&json!("reload"), &json!("info")), "{line}");
    assert!(line["by"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert!(line["result"].as_str().unwrap().contains("\"changed\":[\"two\"]"), "{line}");
    let _two = site.open(0, "/zwei").await;
    assert_ne!(site.done("GET status").await["config"]["hash"], before);

    site.write(&[("upstream: two", "upstream: too")]);
    let Answer { status, body } = site.ask("POST reload").await;
    assert_eq!(status, 422);
    let problem = &body["problems"][0];
    assert_eq!((&problem["key"], &problem["line"]), (&json!("routes[1].upstream"), &json!(10)), "{body:#}");
    assert!(problem["message"].as_str().unwrap().contains("too"), "{body:#}");
    let line = site.audited().await;
    assert_eq!((&line["status"], &line["action"]), (&json!(422), &json!("reload")), "{line}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let third = format!("  - {{ name: third, bind: \"{}\" }}\nroutes:", taken.local_addr().unwrap());
    site.write(&[("routes:", &third)]);
    let Answer { status, body } = site.ask("POST reload").await;
    assert!(status == 409 && body["error"].as_str().unwrap().starts_with("listener third: "), "{body}");
    echoes(&mut client, "undisturbed").await;
}

#[tokio::test]
async fn a_check_says_what_is_wrong_and_changes_nothing() {
    let mut site = Site::start().await;
    let before = site.done("GET config").await["hash"].clone();
    assert_eq!(site.done("POST check").await, json!({ "warnings": [] }));
    let text = site.write(&[("upstream: two", "upstream: too")]);
    for body in ["", &text] {
        let Answer { status, body } = site.send("POST check", body).await;
        assert_eq!((status, &body["error"]), (422, &json!("the configuration is wrong")));
        assert_eq!(body["problems"][0]["help"], "did you mean `two`?", "{body:#}");
    }
    let certificate = "tls: { certificates: [{ cert: /nowhere/a.crt, key: /nowhere/a.key }] }";
    let text = site.yaml.replace("name: first,", &format!("name: first, {certificate},"));
    // This permission allows neither looking for files nor reading the environment.
    let Answer { status, body } = site.send("POST check", &text).await;
    assert!(status == 200 && body["warnings"][0].as_str().unwrap().contains("were not looked at"), "{body:#}");
    let Answer { status, body } = site.send("POST check", "a: &a b\nc: *a\n").await;
    assert_eq!((status, &body["problems"][0]["line"]), (422, &json!(2)), "{body:#}");
    let home = std::env::var("PATH").unwrap();
    let text = site.yaml.replace("name: first,", "name: \"${PATH}\",");
    let Answer { status, body } = site.send("POST check", &text).await;
    assert!(status == 422 && !body.to_string().contains(&home), "{body:#}");
    assert!(body["problems"][0]["message"].as_str().unwrap().contains("${PATH}"), "{body:#}");
    assert_eq!(site.done("GET config").await["hash"], before);
    let _still = site.open(0, "/two").await;
    site.done("POST sessions/close?route=one").await;
    assert_eq!(site.audited().await["action"], "close", "a check is nothing that is written down");
}

// ---- sessions

#[tokio::test]
async fn sessions_are_found_by_each_of_their_marks() {
    let site = Site::start().await;
    let two = site.open(0, "/two").await;
    let mut ones = vec![site.open(0, "/one").await, site.open(1, "/one").await];
    let far = Handshake::to("/one").with("X-Forwarded-For", "192.0.2.7");
    ones.push(site.open_as(1, far).await);
    let all = site.ids("").await;
    assert_eq!(all.len(), 4);
    let url = site.echoes[1].url().replace(':', "%3A").replace('/', "%2F");
    for (query, count) in [
        ("&route=one", 3),
        ("&route=two", 1),
        ("&listener=second", 2),
        ("&upstream=two", 1),
        (&*format!("&endpoint={url}"), 1),
        (&*format!("&endpoint={}", site.echoes[0].url()), 3),
        ("&client=192.0.2.0/24", 1),
        ("&client=192.0.2.7", 1),
        ("&client=127.0.0.1", 3),
        ("&older_than=1h", 0),
        ("&younger_than=1h", 4),
        ("&idle_for=1h", 0),
        ("&idle_for=0s&route=one", 3),
        ("&queued_at_least=1B", 0),
        ("&route=one&listener=second&client=192.0.2.7", 1),
    ] {
        assert_eq!(site.ids(query).await.len(), count, "{query}");
    }
    let page = site.done("GET sessions?route=two").await;
    let session = &page["sessions"][0];
    for (key, value) in [
        ("listener", "first"),
        ("route", "two"),
        ("upstream", "two"),
        ("endpoint", &*site.echoes[1].url()),
        ("client", "127.0.0.1"),
    ] {
        assert_eq!(session[key], value, "{session:#}");
    }
    assert!(session["age_seconds"].as_f64() >= session["idle_seconds"].as_f64(), "{session:#}");
    let one = site.done(&format!("GET sessions/{}", session["id"].as_str().unwrap())).await;
    assert_eq!(one["opened"].as_str().unwrap()[..10], session["opened"].as_str().unwrap()[..10]);
    // A closed session is no longer listed, and its id names no other.
    drop(two);
    site.left("&route=two", 0).await;
    let _next = site.open(0, "/two").await;
    assert_eq!(site.ask(&format!("GET sessions/{}", session["id"].as_str().unwrap())).await.status, 404);
    assert_eq!(site.ask("GET sessions?after=x").await.status, 400);
    assert_eq!(site.ask("GET sessions?rout=one").await.status, 400);
}

#[tokio::test]
async fn what_only_a_session_knows_is_as_it_is_at_the_moment() {
    let site = Site::start().await;
    let mut busy = site.open(0, "/one").await;
    let quiet = site.open(0, "/two").await;
    // Data passes on one of them until the other has been quiet for noticeably longer.
    within("idle", async {
        while site.ids("&idle_for=300ms").await.len() != 1 {
            echoes(&mut busy, "busy").await;
        }
    })
    .await;
    echoes(&mut busy, "busy").await;
    let page = site.done("GET sessions?idle_for=300ms").await;
    assert_eq!(page["sessions"][0]["route"], "two", "{page:#}");
    drop(quiet);
    // The answer is not read: it waits in the proxy once the sockets are full.
    let (_reader, mut writer) = busy.split();
    let flood = tokio::spawn(async move { while writer.put(&Frame::binary(vec![7; 60_000])).await.is_ok() {} });
    let session = within("bytes that wait", async {
        loop {
            let page = site.done("GET sessions?queued_at_least=1000B").await;
            if let Some(session) = page["sessions"].get(0) {
                return session.clone();
            }
        }
    })
    .await;
    assert!(session["route"] == "one" && session["queued_bytes"].as_u64() >= Some(1000), "{session:#}");
    flood.abort();
}

#[tokio::test]
async fn pages_show_whoever_stays_once_while_others_come_and_go() {
    let site = Site::start().await;
    let mut goers = vec![];
    let mut stayers = vec![];
    for _ in 0..6 {
        goers.push(site.open(0, "/two").await);
        stayers.push(site.open(0, "/one").await);
    }
    let here: Vec<String> = site.ids("&route=one").await;
    assert_eq!(here.len(), 6);
    let (mut seen, mut after) = (vec![], String::new());
    loop {
        let page = site.done(&format!("GET sessions?limit=3{after}")).await;
        let ids = page["sessions"].as_array().unwrap().iter();
        seen.extend(ids.map(|it| it["id"].as_str().unwrap().to_owned()));
        drop(goers.pop());
        let _new = site.open(1, "/two").await;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    for id in here {
        assert_eq!(seen.iter().filter(|seen| **seen == id).count(), 1, "{id} of {seen:?}");
    }
}

#[tokio::test]
async fn sessions_are_closed_one_by_one_and_by_what_they_are() {
    let mut site = Site::start().await;
    let mut first = site.open(0, "/one").await;
    let ids = site.ids("").await;
    assert_eq!(site.done(&format!("DELETE sessions/{}", ids[0])).await, json!({ "closing": 1 }));
    assert_eq!(first.expect_closed_with(1008).await, "closed by operator");
    let line = site.audited().await;
    assert_eq!(line["on"], format!("session {} with 1008 \"closed by operator\"", ids[0]));
    assert_eq!(line["result"], r#"{"closing":1}"#);
    // A client sees its end a moment before the counters do.
    site.left("", 0).await;

    let mut first = site.open(0, "/one").await;
    let mut others = [site.open(1, "/one").await, site.open(0, "/two").await, site.open(1, "/two").await];
    let close = site.send(
        "POST sessions/close\nContent-Type: application/json",
        r#"{"listener": "first", "route": "one", "code": 4001, "reason": "see you at example.net"}"#,
    );
    assert_eq!(close.await.body, json!({ "closing": 1 }));
    assert_eq!(first.expect_closed_with(4001).await, "see you at example.net");
    site.left("", 3).await;
    for client in &mut others {
        echoes(client, "still here").await;
    }
    let line = site.audited().await;
    assert_eq!(line["on"], "sessions route=one listener=first with 4001 \"see you at example.net\" over 0ns");
    for (query, status) in
        [("", 400), ("?route=nowhere", 404), ("?route=two&all=true", 400), ("?route=two&code=1005", 400)]
    {
        assert_eq!(site.ask(&format!("POST sessions/close{query}")).await.status, status, "{query}");
    }
    let [mut one, mut two, mut three] = others;
    // By a filter only they match, over a time.
    assert_eq!(site.done("POST sessions/close?idle_for=0s&route=two&over=1s").await, json!({ "closing": 2 }));
    for client in [&mut two, &mut three] {
        client.expect_closed_with(1008).await;
    }
    site.left("", 1).await;
    assert_eq!(site.done("POST sessions/close?all=true&code=3000").await, json!({ "closing": 1 }));
    assert_eq!(one.expect_closed_with(3000).await, "closed by operator");
    site.left("", 0).await;
    assert_eq!(site.ask("DELETE sessions/0-0-0").await.status, 404);
}

// ---- drains

#[tokio::test]
async fn a_route_and_an_upstream_are_drained_and_let_in_again() {
    let mut site = Site::start().await;
    for (target, kind, reason) in [
        ("route/one", "route", "this service is moved, please reconnect"),
        ("upstream/one", "upstream", "the servers are taken out of service, please reconnect"),
    ] {
        let (mut one, mut two) = (site.open(0, "/one").await, site.open(0, "/two").await);
        assert_eq!(site.done(&format!("PUT drains/{target}?time=1s")).await, json!({ "closing": 1 }));
        assert_eq!(one.expect_closed_with(1012).await, reason);
        let mut refused = Conn::connect(&site.listeners[0]).await;
        assert_eq!(refused.ask(&Handshake::to("/one")).await.status(), 503);
        echoes(&mut two, "undisturbed").await;
        let drains = site.done("GET drains").await;
        let drain = &drains["drains"][0];
        assert_eq!((&drain["kind"], &drain["name"]), (&json!(kind), &json!("one")), "{drains:#}");
        assert_eq!((&drain["time_seconds"], drains["drains"].as_array().unwrap().len()), (&json!(1.0), 1));
        assert_eq!(site.done("GET status").await["upstreams"][0]["draining"], kind == "upstream");
        assert_eq!(site.done(&format!("DELETE drains/{target}")).await, json!({ "ended": true }));
        let one = site.open(0, "/one").await;
        assert_eq!(site.done("GET drains").await, json!({ "drains": [] }));
        assert_eq!(site.ask(&format!("DELETE drains/{target}")).await.status, 404);
        let line = site.audited().await;
        assert_eq!((&line["action"], &line["on"]), (&json!("drain"), &json!(format!("{kind} one over 1s"))), "{line}");
        assert_eq!(site.audited().await["action"], "end_drain");
        assert_eq!(site.audited().await["status"], 404);
        // The next target must not count these.
        drop((one, two));
        site.left("", 0).await;
    }
    let error = json!({ "error": "there is no route `nowhere`; there is `one`, `two`" });
    assert_eq!(site.ask("PUT drains/route/nowhere").await.body, error);
}

#[tokio::test]
async fn an_endpoint_that_is_drained_gets_no_sessions_until_that_is_over() {
    let site = Site::start().await;
    let both = format!("[\"{}\", \"{}\"]", site.echoes[0].url(), site.echoes[1].url());
    site.write(&[(
        &format!("one: {{ endpoints: [\"{}\"]", site.echoes[0].url()),
        &format!("one: {{ endpoints: {both}"),
    )]);
    site.done("POST reload").await;
    let mut clients = [site.open(0, "/one").await, site.open(0, "/one").await];
    let url = site.echoes[0].url();
    // Its slashes need no escape. First over a span in which it can be observed, then over a short one.
    assert_eq!(site.done(&format!("PUT drains/endpoint/one/{url}?time=1h")).await, json!({ "closing": 1 }));
    let page = site.done(&format!("GET sessions?endpoint={url}")).await;
    assert_eq!(page["sessions"][0]["closing"], "endpoint_drain", "{page:#}");
    assert_eq!(site.done("GET drains").await["drains"][0]["sessions"], 1);
    assert_eq!(site.done(&format!("PUT drains/endpoint/one/{url}?time=1s")).await, json!({ "closing": 1 }));
    let [one, two] = &mut clients;
    let reason = tokio::select! {
        reason = one.expect_closed_with(1012) => reason,
        reason = two.expect_closed_with(1012) => reason,
    };
    assert_eq!(reason, "this server is taken out of service, please reconnect");
    let status = site.done("GET status").await;
    let endpoint = &status["upstreams"][0]["endpoints"][0];
    assert_eq!((&endpoint["draining"], &endpoint["open"]), (&json!(true), &json!(false)), "{endpoint:#}");
    site.left(&format!("&endpoint={url}"), 0).await;
    for _ in 0..3 {
        let _client = site.open(0, "/one").await;
        assert_eq!(site.ids(&format!("&endpoint={url}")).await.len(), 0);
    }
    assert_eq!(site.done(&format!("DELETE drains/endpoint/one/{url}")).await, json!({ "ended": true }));
    let _client = site.open(0, "/one").await;
    assert_eq!(site.ids(&format!("&endpoint={url}")).await.len(), 1, "the one with fewer sessions");
}

#[tokio::test]
async fn an_endpoint_is_known_by_its_url_however_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("echo.sock");
    let at_socket = Echo::start_unix(&socket);
    let site = Site::start().await;
    let port = site.echoes[0].url().rsplit_once(':').unwrap().1.to_owned();
    site.write(&[
        (&format!("[\"{}\"]", site.echoes[0].url()), &format!("[\"http://LOCALHOST:{port}\"]")),
        (&format!("[\"{}\"]", site.echoes[1].url()), &format!("[\"{}\"]", at_socket.url())),
    ]);
    site.done("POST reload").await;
    let (mut client, _two) = (site.open(0, "/one").await, site.open(0, "/two").await);
    for spelling in ["http://LOCALHOST:PORT", "ws://localhost:PORT", "HTTP://localhost:PORT/", "localhost:PORT"] {
        let url = spelling.replace("PORT", &port);
        assert_eq!(site.ids(&format!("&endpoint={url}")).await.len(), 1, "{url}");
        assert_eq!(site.ids(&format!("&upstream=one&endpoint={url}")).await.len(), 1, "{url}");
        assert_eq!(site.done(&format!("PUT drains/endpoint/one/{url}?time=1h")).await["closing"], 1, "{url}");
        assert_eq!(site.done("GET drains").await["drains"][0]["endpoint"], format!("ws://localhost:{port}"));
        assert_eq!(site.done(&format!("DELETE drains/endpoint/one/{url}")).await, json!({ "ended": true }), "{url}");
    }
    let url = at_socket.url();
    assert_eq!(site.ids(&format!("&endpoint={url}")).await.len(), 1, "{url}");
    assert_eq!(site.done(&format!("PUT drains/endpoint/two/{url}?time=1h")).await["closing"], 1, "{url}");
    let closed = site.done(&format!("POST sessions/close?endpoint=http://localhost:{port}&code=4001")).await;
    assert_eq!(closed, json!({ "closing": 1 }));
    client.expect_closed_with(4001).await;
}

#[tokio::test]
async fn a_name_that_is_not_there_is_an_error_that_tells_the_nearest() {
    let site = Site::start().await;
    let mut client = site.open(0, "/one").await;
    let (url, tls) = (site.echoes[0].url(), site.echoes[0].url().replace("ws://", "https://"));
    let near = |what: &str, name: &str| format!("there is no {what}; did you mean `{name}`?");
    for (request, error) in [
        ("GET sessions?route=ones", near("route `ones`", "one")),
        ("GET sessions?listener=frist", near("listener `frist`", "first")),
        ("GET sessions?upstream=twoo", near("upstream `twoo`", "two")),
        (&*format!("GET sessions?endpoint={tls}"), near(&format!("endpoint `{tls}`"), &url)),
        ("POST sessions/close?route=ones&client=127.0.0.1", near("route `ones`", "one")),
        ("PUT drains/listener/frist", near("listener `frist`", "first")),
        ("DELETE drains/upstream/twoo", near("upstream `twoo`", "two")),
        (&format!("PUT drains/endpoint/oone/{url}"), near("upstream `oone`", "one")),
        (&format!("DELETE drains/endpoint/one/{tls}"), near(&format!("endpoint `{tls}` of upstream `one`"), &url)),
    ] {
        let Answer { status, body } = site.ask(request).await;
        assert_eq!((status, &body["error"]), (404, &json!(error)), "{request}");
    }
    let Answer { status, body } = site.ask("PUT drains/endpoint/one/ftp://x").await;
    assert!(status == 404 && body["error"].as_str().unwrap().contains("is not a scheme"), "{body}");
    let Answer { status, body } = site.ask("GET sessions?upstrem=one").await;
    assert!(status == 400 && body["error"].as_str().unwrap().contains("did you mean `upstream`?"), "{body}");
    echoes(&mut client, "undisturbed").await;
}

#[tokio::test]
async fn a_name_that_only_open_sessions_have_is_no_error() {
    let site = Site::start().await;
    let mut client = site.open(0, "/one").await;
    let url = site.echoes[0].url();
    site.done("PUT drains/route/one?time=1h").await;
    site.write(&[
        ("name: one,", "name: eins,"),
        ("upstream: one", "upstream: eins"),
        ("\n  one: {", "\n  eins: {"),
        (&*url, &*site.echoes[1].url()),
    ]);
    site.done("POST reload").await;
    for query in
        ["&route=one".to_owned(), "&upstream=one".to_owned(), format!("&endpoint={}", url.replace("ws:", "http:"))]
    {
        assert_eq!(site.ids(&query).await.len(), 1, "{query}");
    }
    let Answer { status, body } = site.ask("PUT drains/upstream/one").await;
    assert_eq!(status, 404);
    assert!(body["error"].as_str().unwrap().contains("`POST sessions/close?upstream=one&code=1012&over=5m`"), "{body}");
    // Its drain began before the reload.
    assert_eq!(site.done("DELETE drains/route/one").await, json!({ "ended": true }));
    assert_eq!(site.done("POST sessions/close?route=one&code=4002").await, json!({ "closing": 1 }));
    client.expect_closed_with(4002).await;
    within("the end of the last session of that name", async {
        while site.ask("GET sessions?route=one").await.status != 404 {}
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_is_drained_is_closed_and_opened_again() {
    let mut site = Site::start().await;
    // An address that it can use again.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.write(&[("name: second, bind: \"127.0.0.1:0\"", &format!("name: second, bind: \"{free}\""))]);
    site.done("POST reload").await;
    site.listeners[1] = Address::Tcp(free);
    let (mut second, mut first) = (site.open(1, "/one").await, site.open(0, "/one").await);
    assert_eq!(site.done("PUT drains/listener/second?time=1s").await, json!({ "closing": 1 }));
    assert_eq!(second.expect_closed_with(1012).await, "this address is taken out of service, please reconnect");
    assert!(std::net::TcpStream::connect(free).is_err(), "nobody listens there");
    let listener = json!({ "name": "second", "address": free.to_string(), "draining": true });
    assert_eq!(site.done("GET status").await["listeners"][1], listener);
    // Another process has its address for a while.
    let taken = TcpListener::bind(free).unwrap();
    let Answer { status, body } = site.ask("DELETE drains/listener/second").await;
    assert!(status == 409 && body["error"].as_str().unwrap().contains("is in use by "), "{body}");
    drop(taken);
    // A process that another test starts at this moment may have the socket, too, until it runs.
    within("the address", async { while site.ask("DELETE drains/listener/second").await.status != 200 {} }).await;
    let _second = site.open(1, "/one").await;
    echoes(&mut first, "undisturbed").await;
}

// ---- who is let in

#[tokio::test]
async fn a_token_is_needed_where_one_is_set_and_a_reload_takes_another() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let mut site = Site::with(&format!("bind: \"127.0.0.1:0\", token_file: {:?}", file.to_str().unwrap())).await;
    let other = "fedcba9876543210fedcba9876543210";
    for request in ["GET status", "GET sessions", "POST reload", "GET nothing"] {
        for denied in [site.ask(request).await, site.ask(&authorized(request, other)).await] {
            assert_eq!(denied.status, 401, "{request}");
        }
    }
    assert_eq!(site.ask(&authorized("GET status", TOKEN)).await.status, 200);
    // Metrics and health need no token.
    for path in ["/metrics", "/livez", "/readyz"] {
        let mut conn = Conn::connect(&site.admin).await;
        conn.send(at_home(path)).await;
        assert_eq!(conn.head().await.status(), 200);
    }
    // The file has new settings; the address stays, and so does a kept connection.
    let mut kept = Conn::connect(&site.admin).await;
    kept.send(get("/livez")).await;
    let head = kept.head().await;
    kept.body(&head).await;
    std::fs::write(&file, other).unwrap();
    let answer = site.ask(&authorized("POST reload", TOKEN)).await;
    assert_eq!((answer.status, &answer.body["others"]), (200, &json!(["admin"])), "{answer:?}");
    let line = site.audited().await;
    assert_eq!(line["token"], 1, "{line}");
    let opens = async |site: &Site, token: &str| site.ask(&authorized("GET status", token)).await.status;
    within("the new token", async { while opens(&site, other).await != 200 {} }).await;
    assert_eq!(opens(&site, TOKEN).await, 401);
    kept.send(get("/livez")).await;
    assert_eq!(kept.head().await.status(), 200);
    // An invalid one fails the reload, and the old one still works.
    std::fs::write(&file, "short").unwrap();
    let answer = site.ask(&authorized("POST reload", other)).await;
    assert_eq!((answer.status, &answer.body["problems"][0]["key"]), (422, &json!("admin.token_file")), "{answer:?}");
    assert!(!answer.body.to_string().contains("short"), "{answer:?}");
    assert_eq!(opens(&site, other).await, 200);
    assert_eq!(site.audited().await["status"], 422);
    // The log contains nothing of it.
    let seen = site.process.seen.join("\n");
    assert!(!seen.contains(TOKEN) && !seen.contains(other), "{seen}");
}

#[tokio::test]
async fn without_a_token_web_pages_are_kept_out() {
    let site = Site::start().await;
    let mut client = site.open(0, "/one").await;
    for (request, status) in [
        ("GET sessions\nHost: evil.example.com:9902", 403),
        ("POST sessions/close?all=true\nHost: evil.example.com", 403),
        ("POST sessions/close?all=true\nOrigin: https://evil.example.com", 403),
        ("POST sessions/close?all=true\nOrigin: null", 403),
        ("PUT drains/route/one\nSec-Fetch-Site: cross-site", 403),
        ("GET status\nHost: 127.0.0.1:9902", 200),
        ("GET status\nHost: [::1]:9902", 200),
    ] {
        assert_eq!(site.ask(request).await.status, status, "{request}");
    }
    echoes(&mut client, "nothing was done").await;
}

#[tokio::test]
async fn by_a_unix_socket_the_log_tells_whose_process_it_was() {
    let mut site = Site::with("bind: \"unix:{dir}/admin.sock\"").await;
    let Address::Unix(path) = &site.admin else { panic!("{}", site.admin) };
    let path = path.clone();
    // By a real curl if there is one, as in the README.
    let by_curl = Path::new("/usr/bin/curl").exists();
    if by_curl {
        let output = Command::new("/usr/bin/curl")
            .args(["--silent", "--show-error", "--fail-with-body", "-X", "POST", "--unix-socket"])
            .arg(&path)
            .arg("http://localhost/api/v1/reload")
            .output();
        let output = tokio::task::spawn_blocking(move || output).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["routes"]["changed"], json!([]));
    } else {
        // Any host: no browser speaks to such a socket.
        site.done("POST reload\nHost: anything.example").await;
    }
    let line = site.audited().await;
    let uid = rustix::process::getuid().as_raw();
    let by = line["by"].as_str().unwrap();
    assert!(by.starts_with(&format!("unix uid={uid} pid=")), "{line}");
    if !by_curl {
        assert!(by.ends_with(&format!("pid={}", std::process::id())), "{line}");
    }
}

// ---- the README

#[tokio::test]
async fn each_curl_of_the_readme_does_what_it_says() {
    let curl = Path::new("/usr/bin/curl");
    if !curl.exists() {
        return eprintln!("there is no curl here");
    }
    let readme = include_str!("../../README.md");
    let section = readme.split("## Operating by the API").nth(1).unwrap();
    let block = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let mut site = Site::start().await;
    let (old, url) = (site.yaml.clone(), site.echoes[0].url());
    site.yaml = old.replace("name: one,", "name: chat,").replace("upstream: one", "upstream: chat");
    site.yaml = site.yaml.replace("\n  one: {", "\n  chat: {");
    site.write(&[]);
    std::fs::write(site.dir.path().join("new.yaml"), &site.yaml).unwrap();
    site.done("POST reload").await;
    let mut clients = [site.open(0, "/one").await, site.open(0, "/one").await];
    let mut id = String::new();
    let Site { process, admin, dir, .. } = site;
    let mut chain = ProcessChain::new(process);
    let mut lines = block.lines();
    let api = lines.next().unwrap().replace("127.0.0.1:9902", &admin.to_string());
    let mut answers = vec![];
    for line in lines.filter(|line| line.starts_with("curl ")) {
        let line = line.replace("ws://127.0.0.1:9000", &url).replace("0-1f-3a", &id);
        let line = line.replacen("curl ", "curl --silent --show-error --fail-with-body ", 1);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{api}\n{line}")).current_dir(&dir);
        let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{line}\n{text}"));
        if line.contains("$api/upgrade") {
            chain.pids.push(pid(answer["pid"].as_u64().unwrap().try_into().unwrap()));
            // A session is listed once its worker has it, which may be a moment after the old process has answered. Its id
            // is one of the new process.
            let arrived = async {
                loop {
                    let page = send(&admin, "GET sessions", "").await.body;
                    if let Some([first, _]) = page["sessions"].as_array().map(Vec::as_slice) {
                        break first["id"].as_str().unwrap().to_owned();
                    }
                }
            };
            id = within("the sessions that have moved", arrived).await;
        }
        answers.push(answer);
    }
    let [
        status,
        config,
        check,
        reload,
        upgrade,
        page,
        next,
        session,
        prolonged,
        closed,
        none,
        nobodys,
        denied,
        all_denied,
        allowed,
        drained,
        drains,
        ended,
    ] = &answers[..]
    else {
        panic!("{answers:#?}")
    };
    assert_eq!((&status["sessions"], &config["config"]["version"]), (&json!(2), &json!(1)));
    assert_eq!((&check["warnings"], &reload["sessions_closing"]), (&json!([]), &json!(0)));
    assert_eq!((&upgrade["moved"], &upgrade["stayed"]), (&json!(2), &json!({})));
    let count = |page: &Value| page["sessions"].as_array().map(Vec::len);
    assert_eq!((count(page), count(next), &session["id"]), (Some(2), Some(1), &json!(id)));
    let expires = prolonged["expires_at"].as_str().unwrap();
    assert!(expires.starts_with("2099-12-31T1"), "{expires}");
    assert_eq!((closed, none), (&json!({ "closing": 1 }), &json!({ "closing": 0 })));
    assert_eq!(nobodys, none);
    assert_eq!((&denied["subject"], &denied["reason"]), (&json!("ann"), &json!("spam")));
    assert_eq!((all_denied, allowed), (&json!({ "denied": [denied], "shared": false }), &json!({ "ended": true })));
    // The closed one may still be there, until its client has answered.
    assert!(drained["closing"].as_u64().is_some_and(|count| count == 1 || count == 2), "{drained}");
    assert_eq!((&drains["drains"][0]["endpoint"], ended), (&json!(url), &json!({ "ended": true })));
    // The drain may have closed the other one meanwhile.
    let [one, two] = &mut clients;
    let close = tokio::select! {
        close = one.expect_close() => close,
        close = two.expect_close() => close,
    };
    let close = match close {
        (Some(1012), _) => tokio::select! {
            close = one.expect_close() => close,
            close = two.expect_close() => close,
        },
        close => close,
    };
    assert_eq!(close, (Some(4001), "please log in again".to_owned()));
}
