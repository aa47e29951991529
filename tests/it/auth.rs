//! Tokens: who is let in, what the server gets of it, where keys come from, and when a session ends.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use wsluice::net::listener::Address;

use crate::api::send;
use crate::harness::{
    CLOSE, Conn, Echo, Frame, Handshake, Head, Issuer, KeyServer, KeysAnswer, Proxy, RawServer, eventually, unix,
    within, yaml,
};
use crate::plain::{Site, head, ok};
use crate::process::Process;

/// The secret of tokens by [`of`].
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A token by the secret.
fn token(claims: &Value) -> String {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(&claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()).as_ref()))
}

/// A token of `subject` by the secret.
pub fn of(subject: &str) -> String {
    token(&json!({ "sub": subject, "exp": unix(60), "scope": "chat:read chat:write" }))
}

/// The lines of a route that asks for a token by the secret, with these keys beside them.
fn by_secret(more: &str) -> String {
    format!("auth: {{ jwt: {{ keys: {{ secret: {SECRET} }}, algorithms: [HS256], leeway: 0s{more} }} }}")
}

const ALL_PLACES: &str = ", from: [authorization, { query: t }, { cookie: session }, { subprotocol: bearer }]";

const CLAIMS: &str = r#"headers: { request: { set: { X-User: "{claims.sub}", X-Mail: "<{claims.email}>" } } }"#;

/// A handshake with a token in each of the places.
fn handshakes(token: &str) -> [Handshake; 5] {
    let plain = || Handshake::to("/ws?a=1");
    [
        plain().with("Authorization", &format!("Bearer {token}")),
        Handshake::to(&format!("/ws?a=1&t={token}&b=2")),
        plain().with("Cookie", &format!("a=b; session={token}")),
        plain().with("Sec-WebSocket-Protocol", &format!("chat, bearer, {token}")),
        plain().with("Sec-WebSocket-Protocol", &format!("bearer.{token}, chat")),
    ]
}

/// Opens a session of `subject`.
async fn open(proxy: &Proxy, upstream: &mut RawServer, token: &str) -> (Conn, Conn) {
    let mut client = proxy.client().await;
    client.send(Handshake::new().with("Authorization", &format!("Bearer {token}")).bytes()).await;
    let mut server = upstream.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    (client, server)
}

/// Sends a handshake that the proxy answers itself.
async fn refused(proxy: &Proxy, handshake: &Handshake) -> (Head, String) {
    let mut client = proxy.client().await;
    client.send(handshake.bytes()).await;
    let head = client.head().await;
    let body = client.body(&head).await;
    (head, String::from_utf8(body).unwrap())
}

fn bearing(token: &str) -> Handshake {
    Handshake::new().with("Authorization", &format!("Bearer {token}"))
}

#[tokio::test]
async fn a_token_lets_in_from_each_place_and_the_server_gets_its_claims_and_not_the_token() {
    let mut site = Site::start(&[&by_secret(ALL_PLACES), CLAIMS]).await;
    let claims = json!({ "sub": "ann", "exp": unix(60), "email": "a@b\r\nX-Evil: y\u{e9}" });
    let token = token(&claims);
    for handshake in handshakes(&token) {
        let handshake = handshake.with("X-User", "admin").with("X_User", "admin");
        let (mut client, mut server, seen) = site.ask(&String::from_utf8(handshake.bytes()).unwrap()).await;
        assert!(!String::from_utf8_lossy(&seen.raw).contains(&token), "{seen:#?}");
        assert_eq!(seen.get("x-user"), Some("ann"));
        assert_eq!(seen.get("x-mail"), Some("<a@b%0D%0AX-Evil:%20y%C3%A9>"));
        assert_eq!((seen.get("x-evil"), seen.get("x_user"), seen.get("authorization")), (None, None, None));
        assert!(seen.target().starts_with("/ws?a=1") && !seen.target().contains("t="), "{}", seen.target());
        assert!(seen.get("cookie").is_none_or(|cookie| cookie == "a=b"));
        let offer = seen.get("sec-websocket-protocol");
        assert!(offer.is_none_or(|offer| offer == "chat"), "{offer:?}");
        let chosen: &[(&str, &str)] = if offer.is_some() { &[("Sec-WebSocket-Protocol", "chat")] } else { &[] };
        server.send(crate::harness::switching(&seen, chosen)).await;
        let answer = client.head().await;
        assert_eq!((answer.status(), answer.get("sec-websocket-protocol")), (101, offer));
    }
    site.proxy.idle().await;
    let log = site.proxy.log_lines(5).await;
    assert!(log.iter().all(|line| line["subject"] == "ann" && !line.to_string().contains(&token[..20])), "{log:#?}");
}

#[tokio::test]
async fn plain_requests_need_a_token_too_and_what_is_refused_costs_the_server_nothing() {
    let mut site = Site::start(&[&by_secret(ALL_PLACES), CLAIMS]).await;
    let token = of("ann");
    let bearer = format!("Authorization: Bearer {token}");
    let (seen, answer) =
        site.exchange(&head(&["GET /page HTTP/1.1", "Host: example.com", &bearer, "X-User: root"]), &ok("hi")).await;
    assert_eq!((seen.get("x-user"), seen.get("authorization"), answer.status()), (Some("ann"), None, 200));
    let (answer, body) = site.refused(&head(&["GET /page?t=secret&x=1 HTTP/1.1", "Host: example.com"])).await;
    assert_eq!((answer.status(), answer.get("www-authenticate").unwrap().contains("invalid_token")), (401, true));
    assert!(body.starts_with("token_invalid: "), "{body}");
    let log = site.proxy.log_lines(2).await;
    assert!(!format!("{log:?}").contains("secret"), "a parameter of any name is hidden: {log:#?}");
    assert_eq!(log[1]["path"], "/page?t=***&x=1");
    assert_eq!(site.upstream.connections().await, 1);
}

#[tokio::test]
async fn who_offers_only_a_token_gets_an_answer_that_was_offered() {
    let mut site = Site::start(&[&by_secret(ALL_PLACES)]).await;
    let token = of("ann");
    for (offer, answered) in [
        (format!("bearer, {token}"), Some("bearer".to_owned())),
        (format!("bearer.{token}"), Some(format!("bearer.{token}"))),
        (format!("chat, bearer, {token}"), None),
    ] {
        let handshake = Handshake::new().with("Sec-WebSocket-Protocol", &offer);
        let (mut client, mut server, seen) = site.ask(&String::from_utf8(handshake.bytes()).unwrap()).await;
        server.send(crate::harness::switching(&seen, &[])).await;
        let answer = client.head().await;
        assert_eq!(answer.get("sec-websocket-protocol"), answered.as_deref(), "{offer}");
    }
    site.proxy.idle().await;
    assert!(site.proxy.log_lines(3).await.iter().all(|line| !line.to_string().contains(&token[..20])));
    // A server cannot choose what it was not offered.
    let handshake = Handshake::new().with("Sec-WebSocket-Protocol", &format!("bearer, {token}"));
    let (mut client, mut server, seen) = site.ask(&String::from_utf8(handshake.bytes()).unwrap()).await;
    server.send(crate::harness::switching(&seen, &[("Sec-WebSocket-Protocol", "bearer")])).await;
    assert_eq!(client.head().await.status(), 502);
}

#[tokio::test]
async fn a_token_goes_on_where_the_route_says_so() {
    let more = format!("{ALL_PLACES}, forward: true");
    let mut site = Site::start(&[&by_secret(&more)]).await;
    let (token, other) = (of("ann"), of("bob"));
    for (index, handshake) in handshakes(&token).into_iter().enumerate() {
        // Another token in a later place, which nobody has looked at.
        let handshake = if index == 2 { handshake } else { handshake.with("Cookie", &format!("session={other}")) };
        let (_client, _server, seen) = site.ask(&String::from_utf8(handshake.bytes()).unwrap()).await;
        let raw = String::from_utf8_lossy(&seen.raw).into_owned();
        if index < 3 {
            assert!(raw.contains(&token), "{index}: {raw}");
            assert!(!raw.contains(&other), "{index}: {raw}");
        } else {
            // The cookie comes before the offer, and counts.
            assert!(raw.contains(&other) && !raw.contains(&token), "{index}: {raw}");
        }
    }
    let handshake = Handshake::new().with("Sec-WebSocket-Protocol", &format!("bearer, {token}"));
    let (_client, _server, seen) = site.ask(&String::from_utf8(handshake.bytes()).unwrap()).await;
    assert_eq!(seen.get("authorization"), Some(&*format!("Bearer {token}")));
    assert_eq!(seen.get("sec-websocket-protocol"), None);
}

#[tokio::test]
async fn each_reason_to_refuse_has_its_status_its_challenge_and_its_count() {
    let more = format!("{ALL_PLACES}, audience: chat, require: {{ scope: chat:write }}");
    let mut site = Site::start(&[&by_secret(&more)]).await;
    let claims = |change: &dyn Fn(&mut Value)| {
        let mut claims = json!({ "sub": "ann", "exp": unix(60), "aud": "chat", "scope": "chat:write" });
        change(&mut claims);
        token(&claims)
    };
    let good = claims(&|_| {});
    let none = format!("{}.{}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), good.split('.').nth(1).unwrap());
    let doubled = |name: &str, value: &str| Handshake::new().with(name, value).with(name, value);
    for (handshake, status, reason, challenge) in [
        (Handshake::new(), 401, "token_missing", "Bearer"),
        (Handshake::new().with("Authorization", "Basic YTpi"), 401, "token_missing", "Bearer"),
        (bearing("x"), 401, "token_invalid", "invalid_token"),
        (bearing(&none), 401, "token_invalid", "invalid_token"),
        (bearing(&good[..good.len() - 2]), 401, "token_invalid", "invalid_token"),
        (bearing(&claims(&|claims| claims["exp"] = json!(unix(-1)))), 401, "token_expired", "invalid_token"),
        (bearing(&claims(&|claims| claims["aud"] = json!("other"))), 401, "token_invalid", "invalid_token"),
        (bearing(&claims(&|claims| claims["scope"] = json!("chat:read"))), 403, "token_claim", "scope=\"chat:write\""),
        (doubled("Authorization", &format!("Bearer {good}")), 400, "token_invalid", "invalid_request"),
        (doubled("Cookie", &format!("session={good}")), 400, "token_invalid", "invalid_request"),
        (Handshake::to(&format!("/?t={good}&t={good}")), 400, "token_invalid", "invalid_request"),
        // The origin comes first, and what is no handshake before all.
        (Handshake::new().with("Origin", "https://evil.example"), 403, "origin", ""),
        (Handshake::new().set("Sec-WebSocket-Key", "x"), 400, "handshake", ""),
    ] {
        let before = site
            .proxy
            .metric("wsluice_rejections_total", &[("listener", "plain"), ("route", "all"), ("reason", reason)]);
        let (head, body) = refused(&site.proxy, &handshake).await;
        assert_eq!(head.status(), status, "{handshake:?}: {body}");
        assert!(body.starts_with(&format!("{reason}: ")), "{body}");
        assert!(head.get("www-authenticate").unwrap_or_default().contains(challenge), "{head:#?}");
        assert_eq!(head.get("connection"), Some("close"));
        let after = site
            .proxy
            .metric("wsluice_rejections_total", &[("listener", "plain"), ("route", "all"), ("reason", reason)]);
        assert_eq!(after, before + 1.0, "{reason}");
    }
    let text = format!("{:?}", site.proxy.log_lines(13).await);
    assert!(!text.contains(&good[..30]) && !text.contains(&none[..30]), "{text}");
    assert_eq!(site.upstream.connections().await, 0);
}

/// A proxy whose keys are at this URL.
async fn by_url(url: &str, more: &str) -> Site {
    let auth = format!(r#"auth: {{ jwt: {{ keys: {{ url: "{url}" }}, algorithms: [ES256]{more} }} }}"#);
    Site::start(&[&auth, CLAIMS]).await
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_and_again_when_a_token_names_a_new_one() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let keys = KeyServer::start(KeysAnswer::Body(old.jwks())).await;
    let mut site = by_url(&keys.url, "").await;
    open(&site.proxy, &mut site.upstream, &old.token("ann")).await;
    keys.set(KeysAnswer::Body(json!({ "keys": [old.jwk(), new.jwk()] }).to_string()));
    // Many at once, of both keys: none is refused, and they wait for one fetch.
    let mut clients = vec![];
    for index in 0..20 {
        let mut client = site.proxy.client().await;
        client.send(bearing(&if index % 2 == 0 { &new } else { &old }.token("ann")).bytes()).await;
        clients.push(client);
    }
    for _ in 0..20 {
        site.upstream.accept().await.switch(&[]).await;
    }
    for mut client in clients {
        assert_eq!(client.head().await.status(), 101);
    }
    assert_eq!(keys.asked(), 2);
    keys.set(KeysAnswer::Body(new.jwks()));
    // Keys that nobody has are asked for a few times, and then no more.
    for index in 0..20 {
        let (head, body) = refused(&site.proxy, &bearing(&Issuer::new(&format!("no{index}")).token("eve"))).await;
        assert_eq!((head.status(), body.starts_with("token_invalid: ")), (401, true), "{body}");
    }
    assert!((3..=6).contains(&keys.asked()), "asked {} times", keys.asked());
    // The old key was withdrawn.
    assert_eq!(refused(&site.proxy, &bearing(&old.token("ann"))).await.0.status(), 401);
    open(&site.proxy, &mut site.upstream, &new.token("ann")).await;
    let url = [("url", keys.url.as_str())];
    assert_eq!((site.proxy.metric("wsluice_jwks_up", &url), site.proxy.metric("wsluice_jwks_keys", &url)), (1.0, 1.0));
}

#[tokio::test]
async fn the_last_keys_stay_whatever_becomes_of_their_server() {
    let issuer = Issuer::new("a");
    let keys = KeyServer::start(KeysAnswer::Body(issuer.jwks())).await;
    let mut site = by_url(&keys.url, "").await;
    open(&site.proxy, &mut site.upstream, &issuer.token("ann")).await;
    let key = issuer.jwk();
    let many: Vec<Value> = (0..10_000).map(|_| key.clone()).collect();
    for (answer, result) in [
        (KeysAnswer::Gone, "unreachable"),
        (KeysAnswer::Body(json!({ "keys": many }).to_string()), "too_large"),
        (KeysAnswer::Endless, "too_large"),
    ] {
        let count = || site.proxy.metric("wsluice_jwks_fetches_total", &[("url", &keys.url), ("result", result)]);
        let before = count();
        keys.set(answer);
        // A token of another key makes it ask again; once that has failed, it goes on by itself.
        let (head, _) = refused(&site.proxy, &bearing(&Issuer::new("b").token("eve"))).await;
        assert_eq!(head.status(), 401);
        eventually(&format!("a fetch that is {result}"), || (count() > before).then_some(())).await;
        assert_eq!(site.proxy.metric("wsluice_jwks_up", &[("url", &keys.url)]), 0.0);
        open(&site.proxy, &mut site.upstream, &issuer.token("ann")).await;
    }
}

#[tokio::test]
async fn without_keys_nobody_is_let_in_and_told_to_come_back() {
    for answer in
        [KeysAnswer::Status(500), KeysAnswer::Status(302), KeysAnswer::Body("<html>".into()), KeysAnswer::Gone]
    {
        let keys = KeyServer::start(answer).await;
        let mut site = by_url(&keys.url, "").await;
        let issuer = Issuer::new("a");
        let (head, body) = refused(&site.proxy, &bearing(&issuer.token("ann"))).await;
        assert_eq!((head.status(), body.starts_with("no_keys: ")), (503, true), "{body}");
        assert!(head.get("retry-after").is_some());
        // And it recovers by itself.
        keys.set(KeysAnswer::Body(issuer.jwks()));
        site.proxy.metric_becomes("wsluice_jwks_up", &[("url", &keys.url)], 1.0).await;
        open(&site.proxy, &mut site.upstream, &issuer.token("ann")).await;
    }
}

#[tokio::test]
async fn who_comes_before_the_first_keys_waits_for_them() {
    let issuer = Issuer::new("a");
    let keys = KeyServer::start(KeysAnswer::Slow(issuer.jwks())).await;
    let mut site = by_url(&keys.url, "").await;
    let mut client = site.proxy.client().await;
    client.send(bearing(&issuer.token("ann")).bytes()).await;
    keys.asked_for(1).await;
    keys.go_on();
    site.upstream.accept().await.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(keys.asked(), 1);
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_and_a_bad_one_leaves_the_last() {
    let (one, two) = (Issuer::new("one"), Issuer::new("two"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, one.jwks()).unwrap();
    let mut upstream = RawServer::start().await;
    let auth = format!("auth: {{ jwt: {{ keys: {{ file: {} }}, algorithms: [ES256] }} }}", file.display());
    let text = yaml(&[upstream.url()], &[&auth]);
    let mut proxy = Proxy::start(&text);
    let (mut client, mut server) = open(&proxy, &mut upstream, &one.token("ann")).await;
    for (content, lets_in, refuses) in
        [(two.jwks(), &two, &one), ("{".to_owned(), &two, &one), (one.jwks(), &one, &two)]
    {
        std::fs::write(&file, &content).unwrap();
        let changes = proxy.reload(&text).await.unwrap();
        assert_eq!(changes.warnings.is_empty(), content != "{", "{:?}", changes.warnings);
        open(&proxy, &mut upstream, &lets_in.token("ann")).await;
        assert_eq!(refused(&proxy, &bearing(&refuses.token("ann"))).await.0.status(), 401);
    }
    // Who was in stays in.
    client.put(&Frame::text("still here")).await;
    assert_eq!(server.frame().await.payload, b"still here");
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_the_server_hears_of_it() {
    let issuer = Issuer::new("a");
    let keys = KeyServer::start(KeysAnswer::Body(issuer.jwks())).await;
    let mut site = by_url(&keys.url, ", leeway: 1s").await;
    let begun = Instant::now();
    // At most a second less by the fraction that `exp` does not have.
    let token = issuer.sign(&json!({ "sub": "ann", "exp": unix(2) }));
    let (mut client, mut server) = open(&site.proxy, &mut site.upstream, &token).await;
    let close = within("the Close", client.frame()).await;
    let took = begun.elapsed();
    assert_eq!((close.opcode, close.close_body()), (CLOSE, (Some(4401), "credential expired".to_owned())));
    assert!(took >= Duration::from_millis(1900), "{took:?} is too early");
    client.put(&Frame::close(4401, "")).await;
    assert_eq!(server.frame().await.close_body().0, Some(1001));
    server.put(&Frame::close(1001, "")).await;
    drop((client, server));
    let log = site.proxy.log_lines(1).await;
    assert_eq!(
        (&log[0]["reason"], &log[0]["close_code"], &log[0]["subject"]),
        (&json!("credential_expired"), &json!(4401), &json!("ann"))
    );
    let metrics = site.proxy.metrics();
    let counted = |line: &&str| line.contains(r#"reason="credential_expired""#) && line.contains(r#"code="4xxx""#);
    let line = metrics.lines().find(|line| line.starts_with("wsluice_session_closes_total{") && counted(line));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
}

#[tokio::test]
async fn a_route_may_close_with_another_code_or_keep_its_sessions() {
    let mut upstream = RawServer::start().await;
    let close = Proxy::start(&yaml(&[upstream.url()], &[&by_secret(", on_expiry: { close: 1008 }")]));
    let keep = Proxy::start(&yaml(&[upstream.url()], &[&by_secret(", on_expiry: keep")]));
    let short = token(&json!({ "sub": "ann", "exp": unix(2) }));
    let (mut kept, mut server) = open(&keep, &mut upstream, &short).await;
    let (mut closed, _server) = open(&close, &mut upstream, &short).await;
    assert_eq!(within("the Close", closed.frame()).await.close_body().0, Some(1008));
    kept.put(&Frame::text("still here")).await;
    assert_eq!(server.frame().await.payload, b"still here");
}

/// A process before an echo server, by the secret.
async fn process(dir: &std::path::Path, echo: &Echo) -> (Process, [Address; 2]) {
    let text = yaml(&[&echo.url()], &[&by_secret("")]) + "admin: { bind: \"127.0.0.1:0\" }\nlog: { access: false }\n";
    let mut process = Process::start(dir, &text);
    let listener = process.listening().await;
    let admin = process.admin().await;
    (process, [listener, admin])
}

async fn enter(to: &Address, token: &str) -> Conn {
    let mut client = Conn::connect(to).await;
    client.open(&bearing(token)).await;
    echoes(&mut client).await;
    client
}

async fn echoes(client: &mut Conn) {
    client.put(&Frame::text("hello")).await;
    client.expect(&Frame::text("hello")).await;
}

#[tokio::test]
async fn an_operator_finds_sessions_by_subject_moves_their_end_and_closes_those_of_one_only() {
    let (dir, echo) = (tempfile::tempdir().unwrap(), Echo::start().await);
    let (_process, [listener, admin]) = process(dir.path(), &echo).await;
    let mut anns = [enter(&listener, &of("ann")).await, enter(&listener, &of("ann")).await];
    let mut bob = enter(&listener, &of("bob")).await;
    let sessions = send(&admin, "GET sessions?subject=ann", "").await.body["sessions"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 2);
    let expires: Vec<_> = sessions.as_array().unwrap().iter().map(|it| it["expires_at"].as_str().unwrap()).collect();
    assert!(sessions.as_array().unwrap().iter().all(|it| it["subject"] == "ann"), "{sessions:#}");
    assert!(expires.iter().all(|at| at.starts_with("20") && at.ends_with('Z')), "{expires:?}");
    // Prolonged, and ended at once.
    let id = send(&admin, "GET sessions?subject=bob", "").await.body["sessions"][0]["id"].as_str().unwrap().to_owned();
    let json = "\nContent-Type: application/json";
    let patch = format!("PATCH sessions/{id}{json}");
    let later = send(&admin, &patch, r#"{ "expires_at": "2100-01-01T00:00:00Z" }"#).await;
    assert_eq!((later.status, later.body["subject"].as_str()), (200, Some("bob")));
    assert!(
        later.body["expires_at"].as_str().unwrap().starts_with("2099-12-31T23:59:59")
            || later.body["expires_at"].as_str().unwrap().starts_with("2100-01-01T00:00:00"),
        "{}",
        later.body
    );
    let never = send(&admin, &patch, r#"{ "expires_at": "never" }"#).await;
    assert_eq!((never.status, never.body.get("expires_at")), (200, None));
    echoes(&mut bob).await;
    assert_eq!(send(&admin, "PATCH sessions/0-7f-7f?expires_at=never", "").await.status, 404);
    assert_eq!(send(&admin, &patch, r#"{ "expires_at": "soon" }"#).await.status, 400);
    // All of one subject, and nobody else.
    let closed = send(&admin, "POST sessions/close?subject=ann&code=4403&reason=revoked", "").await;
    assert_eq!(closed.body, json!({ "closing": 2 }));
    for ann in &mut anns {
        let close = within("the Close", ann.frame()).await;
        assert_eq!(close.close_body(), (Some(4403), "revoked".to_owned()));
    }
    echoes(&mut bob).await;
    assert_eq!(send(&admin, &patch, r#"{ "expires_at": 1000000000 }"#).await.status, 200);
    assert_eq!(within("the Close", bob.frame()).await.close_body().0, Some(4401));
}

#[tokio::test]
async fn the_end_of_a_session_can_be_moved_before_it_comes() {
    let (dir, echo) = (tempfile::tempdir().unwrap(), Echo::start().await);
    let (_process, [listener, admin]) = process(dir.path(), &echo).await;
    let short = unix(3);
    let mut kept = enter(&listener, &token(&json!({ "sub": "ann", "exp": short }))).await;
    let mut other = enter(&listener, &token(&json!({ "sub": "bob", "exp": short }))).await;
    let id = send(&admin, "GET sessions?subject=ann", "").await.body["sessions"][0]["id"].as_str().unwrap().to_owned();
    let later = unix(60);
    assert_eq!(send(&admin, &format!("PATCH sessions/{id}?expires_at={later}"), "").await.status, 200);
    assert_eq!(within("the Close", other.frame()).await.close_body().0, Some(4401));
    // Its time was the same.
    echoes(&mut kept).await;
}
