//! Every file in config/ does what it says: each compiles with certificates in place, and the main one is run. Those of applications:
//! `apps`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use wsluice::config::{Loaded, load_as};
use wsluice::control::compile::compile;
use wsluice::control::context::CompileContext;
use wsluice::net::listener::Address;

use crate::api;
use crate::harness::{
    Authority, Conn, Echo, Frame, Handshake, Issuer, KeyServer, KeysAnswer, Proxy, RawServer, unix, within,
};
use crate::plain::{Site, at_home, get};

/// Returns the files of config/ and config/apps/, with their text.
pub fn examples() -> Vec<(PathBuf, String)> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let folders = [config.join("apps"), config];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let mut all: Vec<_> = yaml.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    all.sort();
    all
}

pub fn example(name: &str) -> String {
    let found = examples().into_iter().find(|(path, _)| path.file_name().unwrap() == name);
    found.unwrap_or_else(|| panic!("no {name}")).1
}

/// Returns the same text with real certificates, `certs/NAME.crt` becomes one of `authority`, and a file of users.
pub fn certified(text: &str, authority: &Authority) -> String {
    let mut names: Vec<&str> = text.split("certs/").skip(1).filter_map(|rest| rest.split(".crt").next()).collect();
    names.retain(|name| !name.contains(['/', ' ', '\n']));
    names.sort_unstable();
    names.dedup();
    for name in names {
        authority.issue(name, &["chat.example.com", "localhost"]);
    }
    let users = authority.dir.path().join("users.htpasswd");
    std::fs::write(&users, crate::passwords::USERS).unwrap();
    let text = text.replace("users.htpasswd,", &format!("{},", users.display()));
    text.replace("certs/", &format!("{}/", authority.dir.path().display()))
}

/// The environment variables that the examples need.
pub fn env(name: &str) -> Option<String> {
    ["STICKY_SECRET", "ADMIN_TOKEN", "JWT_SECRET"].contains(&name).then(|| "0123456789abcdef".repeat(4))
}

fn load(path: &Path, text: &str) -> Loaded {
    load_as(path, text, &env).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_example_compiles() {
    let authority = Authority::new();
    let all = examples();
    assert!(all.len() >= 30);
    for (path, text) in all {
        let loaded = load(&path, &certified(&text, &authority));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
        let compiled = compile(&loaded, &CompileContext::for_check(), None).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(compiled.listeners.len(), loaded.file.listeners.len());
        assert_eq!(compiled.warnings, [""; 0], "{}", path.display());
    }
}

#[test]
fn an_example_without_its_certificates_says_which_are_missing() {
    let text = example("tls.yaml").replace("certs/", "/nowhere/");
    let loaded = load(Path::new("tls.yaml"), &text);
    let errors = compile(&loaded, &CompileContext::for_check(), None).unwrap_err().to_string();
    for file in ["server.crt", "example.org.crt", "clients.crt", "internal.crt", "wsluice.crt"] {
        assert!(errors.contains(&format!("/nowhere/{file}")), "{file} is missing in\n{errors}");
    }
}

/// Runs the main example on free ports, before an echo server.
struct Main {
    proxy: Proxy,
    authority: Authority,
    _echo: Echo,
}

impl Main {
    async fn start() -> Main {
        let (authority, echo) = (Authority::new(), Echo::start().await);
        let mut text = certified(&example("wsluice.yaml"), &authority);
        for (written, here) in [
            ("\"0.0.0.0:8443\"", "\"127.0.0.1:0\""),
            ("\"0.0.0.0:8080\"", "\"127.0.0.1:0\""),
            ("\"127.0.0.1:9902\"", "\"127.0.0.1:0\""),
            ("- ws://127.0.0.1:9000", &format!("- {}", echo.url())),
        ] {
            assert!(text.contains(written), "{written}");
            text = text.replace(written, here);
        }
        Main { proxy: Proxy::start(&text), authority, _echo: echo }
    }

    /// Opens a WebSocket by tokio-tungstenite, over TLS, for a page with this origin.
    async fn connect(
        &self,
        origin: Option<&str>,
    ) -> Result<tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>, tungstenite::Error>
    {
        let Address::Tcp(address) = self.proxy.listener("public") else { panic!("TCP") };
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&self.authority.client()));
        let stream = connector.connect("chat.example.com".try_into().unwrap(), stream).await.unwrap();
        let mut request = "wss://chat.example.com:8443/ws/room".into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", origin.try_into().unwrap());
        }
        let handshake = Box::pin(tokio_tungstenite::client_async(request, stream));
        within("the handshake", handshake).await.map(|(socket, _)| socket)
    }
}

#[tokio::test]
async fn the_main_example_works_from_end_to_end() {
    let main = Main::start().await;
    // A client that is no browser, the page itself, and a page of a subdomain.
    for origin in [None, Some("https://chat.example.com:8443"), Some("https://app.example.com")] {
        let mut socket = main.connect(origin).await.unwrap_or_else(|error| panic!("{origin:?}: {error}"));
        for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(within("the echo", socket.next()).await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = within("the end", socket.next()).await {}
    }
    for origin in ["https://evil.example", "https://example.com.evil.example", "http://app.example.com", "null"] {
        match main.connect(Some(origin)).await {
            Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 403, "{origin}"),
            other => panic!("{origin}: {:?}", other.err()),
        }
    }
    // A message over the limit ends its session.
    let mut socket = main.connect(None).await.unwrap();
    let _ = socket.send(Message::binary(vec![0; (1 << 20) + 1])).await;
    match within("the Close", socket.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1009),
        other => panic!("{other:?}"),
    }
    drop(socket);

    let mut scrape = Conn::connect(&main.proxy.app.admin().unwrap()).await;
    let log = main.proxy.log_lines(8).await;
    // A session's line is written a moment before the session is gone.
    main.proxy.idle().await;
    scrape.send(at_home("/metrics")).await;
    let answer = scrape.head().await;
    let metrics = String::from_utf8(scrape.body(&answer).await).unwrap();
    for series in [
        r#"wsluice_sessions_total{route="chat",upstream="chat"} 4"#,
        r#"wsluice_sessions_active{listener="public",route="chat",upstream="chat"} 0"#,
        r#"wsluice_handshakes_total{code="403",http="1.1",listener="public",route="chat"} 4"#,
        r#"wsluice_rejections_total{listener="public",reason="origin",route="chat"} 4"#,
        r#"wsluice_session_closes_total{code="1009",initiator="proxy",reason="message_limit",route="chat"} 1"#,
        r#"wsluice_messages_total{direction="out",opcode="binary",route="chat"} 3"#,
    ] {
        assert!(metrics.lines().any(|line| line == series), "no {series} in\n{metrics}");
    }
    let reasons = |reason: &str| log.iter().filter(|line| line["reason"] == reason).count();
    assert_eq!((reasons("closed"), reasons("origin"), reasons("message_limit")), (3, 4, 1), "{log:#?}");
    assert!(log.iter().all(|line| line["listener"] == "public" && line["tls"] == "1.3"));

    // A client that uses http:// is redirected.
    let mut client = Conn::connect(main.proxy.listener("redirect")).await;
    client.send(get("/ws")).await;
    let answer = client.head().await;
    assert_eq!((answer.status(), answer.get("location")), (308, Some("https://example.com:8443/ws")));
}

#[tokio::test]
async fn the_example_of_routes_routes() {
    let mut sites = vec![];
    for _ in 0..3 {
        sites.push(Site::start(&[]).await.upstream);
    }
    let [broker, chat, next] = &mut sites[..] else { panic!("three") };
    let text = example("multi-route.yaml").replace("127.0.0.1:8081", "127.0.0.1:0");
    let mut text = text.replace("0.0.0.0:8080", "127.0.0.1:0");
    for (written, here) in [
        ("ws://10.0.0.31:9001", broker.url()),
        ("ws://10.0.0.11:9000", chat.url()),
        ("      - { url: \"ws://10.0.0.12:9000\", weight: 2, max_connections: 20000 }\n", ""),
        ("ws://10.0.0.21:9000", next.url()),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let proxy = Proxy::start(&text);
    let ask = |request: String| {
        let proxy = &proxy;
        async move {
            let mut client = proxy.client().await;
            client.send(request).await;
            client
        }
    };
    let publish = "POST /publish/room/7 HTTP/1.1\r\nHost: chat\r\nContent-Length: 0\r\n\r\n";
    let mut stranger = ask(publish.to_owned()).await;
    assert_eq!(stranger.head().await.status(), 404);
    let mut inside = Conn::connect(proxy.listener("inside")).await;
    inside.send(publish).await;
    assert_eq!(chat.accept().await.head().await.target(), "/publish/room/7");
    let lines = |target: &str, more: &str| format!("GET {target} HTTP/1.1\r\nHost: chat.example.com\r\n{more}\r\n");
    let _one = ask(lines("/chat/room/7?x", "X-Debug: 1\r\n")).await;
    let request = chat.accept().await.head().await;
    assert_eq!(
        (request.target(), request.get("x-tenant"), request.get("x-debug")),
        ("/v2/room/7?x", Some("acme"), None)
    );
    let _two = ask(lines("/chat/room/7?beta", "X-Canary: 1\r\n")).await;
    assert_eq!(next.accept().await.head().await.target(), "/chat/room/7?beta");
    let _three = ask(lines("/rooms/17/socket", "")).await;
    assert_eq!(chat.accept().await.head().await.target(), "/rooms/17/socket");
    let mut four = ask(lines("/rooms/a/socket", "")).await;
    assert_eq!(four.head().await.status(), 404);
    let mqtt = Handshake::to("/mqtt").with("Origin", "https://anywhere.example").with("Sec-WebSocket-Protocol", "mqtt");
    let mut five = ask(String::from_utf8(mqtt.bytes()).unwrap()).await;
    broker.accept().await.switch(&[("Sec-WebSocket-Protocol", "mqtt")]).await;
    assert_eq!(five.head().await.status(), 101);
    // What routes have by default and by merging.
    let shown = proxy.app.control().in_force().loaded.shown();
    let of = |name: &str| shown["routes"].as_array().unwrap().iter().find(|route| route["name"] == name).unwrap();
    assert_eq!((&of("mqtt")["keepalive"]["ping"], &of("chat")["keepalive"]["ping"]), (&"25s".into(), &"25s".into()));
    assert_eq!((&of("mqtt")["timeouts"]["idle"], &of("chat")["timeouts"]["idle"]), (&"off".into(), &"30m".into()));
    let mut plain = ask("GET /mqtt HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n".to_owned()).await;
    assert_eq!(plain.head().await.status(), 426);
    let foreign = Handshake::to("/chat").set("Host", "chat.example.com");
    for (origin, status) in [(Some("https://evil.example"), 403), (None, 403)] {
        let handshake = origin.iter().fold(foreign.clone(), |handshake, origin| handshake.with("Origin", origin));
        let mut client = ask(String::from_utf8(handshake.bytes()).unwrap()).await;
        assert_eq!(client.head().await.status(), status, "{origin:?}");
    }
}

#[tokio::test]
async fn the_example_of_limits_per_client_counts_users_by_the_header_and_shuts_networks_out() {
    let echo = Echo::start().await;
    let mut text = example("limits-per-client.yaml");
    for (written, here) in [
        ("0.0.0.0:8080", "127.0.0.1:0"),
        ("trusted_proxies: [10.0.0.0/8]", "trusted_proxies: [127.0.0.1]"),
        ("ws://127.0.0.1:9000", &*echo.url()),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let proxy = Proxy::start(&text);
    let ask = async |path: &str, name: &str, value: &str| {
        let mut client = Conn::connect(proxy.address()).await;
        let status = client.ask(&Handshake::to(path).with(name, value)).await.status();
        (client, status)
    };
    let mut held = vec![];
    for user in ["ann"; 5] {
        let (client, status) = ask("/feed", "X-User", user).await;
        assert_eq!(status, 101);
        held.push(client);
    }
    for (path, name, value, expected) in [
        ("/feed", "X-User", "ann", 429),
        ("/feed", "X-User", "bob", 101),
        ("/chat", "X-User", "ann", 101),
        ("/inside", "X-Forwarded-For", "10.0.1.1", 101),
        ("/inside", "X-Forwarded-For", "10.0.9.1", 403),
        ("/inside", "X-Forwarded-For", "198.51.100.1", 403),
    ] {
        assert_eq!(ask(path, name, value).await.1, expected, "{path} {value}");
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn the_example_of_shared_limits_counts_users_over_two_instances_and_each_alone_without_its_store() {
    use crate::shared::server::RedisServer;
    if !crate::discovery::is_here("redis-server") {
        return;
    }
    let (echo, mut redis) = (Echo::start().await, RedisServer::start().await);
    let mut text = example("shared-limits.yaml");
    for (written, here) in [
        ("0.0.0.0:8080", "127.0.0.1:0"),
        ("127.0.0.1:9902", "127.0.0.1:0"),
        ("${JWT_SECRET}", crate::auth::SECRET),
        ("${REDIS_URL:-redis://127.0.0.1:6379}", &*redis.url()),
        ("timeout: 100ms", "timeout: 5s"),
        ("ws://127.0.0.1:9000", &*echo.url()),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let [one, other] = [0, 1].map(|_| Proxy::start(&text));
    let ask = async |proxy: &Proxy, user: &str| {
        let mut client = Conn::connect(proxy.address()).await;
        let token = format!("Bearer {}", crate::auth::of(user));
        let status = client.ask(&Handshake::to("/chat").with("Authorization", &token)).await.status();
        (client, status)
    };
    let mut held = vec![];
    for proxy in [&one, &other, &one, &other, &one] {
        let (client, status) = ask(proxy, "ann").await;
        assert_eq!(status, 101);
        held.push(client);
    }
    assert_eq!((ask(&other, "ann").await.1, ask(&other, "bob").await.1), (429, 101));
    let server = redis.url().replace("redis://", "");
    redis.kill();
    one.metric_becomes("wsluice_shared_store_up", &[("server", &server)], 0.0).await;
    let (_one, status) = ask(&one, "bob").await;
    assert_eq!((status, ask(&one, "bob").await.1), (101, 429), "a third of five");
}

#[tokio::test]
async fn the_example_of_tokens_lets_in_who_has_one_and_tells_the_server_who_it_is() {
    let (mut server, issuer, authority) = (RawServer::start().await, Issuer::new("a"), Authority::new());
    let keys = KeyServer::start(KeysAnswer::Body(issuer.jwks())).await;
    let secret = env("JWT_SECRET").unwrap();
    let mut text = certified(&example("jwt.yaml"), &authority);
    for (written, here) in [
        ("0.0.0.0:8443", "127.0.0.1:0"),
        ("127.0.0.1:9902", "127.0.0.1:0"),
        ("https://id.example.com/jwks.json", &keys.url),
        ("${JWT_SECRET}", &secret),
        ("ws://127.0.0.1:9000", server.url()),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let proxy = Proxy::start(&text);
    let claims = |scope| {
        let claims = serde_json::json!({ "sub": "ann", "exp": unix(60), "iss": "https://id.example.com/", "aud": "chat", "scope": scope });
        issuer.sign(&claims)
    };
    let handshake = |token: String| {
        Handshake::to("/chat")
            .set("Host", "localhost")
            .with("Sec-WebSocket-Protocol", &format!("chat, bearer, {token}"))
    };
    let enter = async || Conn::connect_tls(proxy.address(), "localhost", authority.client()).await.unwrap();
    let mut client = enter().await;
    client.send(handshake(claims("chat:read chat:write")).bytes()).await;
    let seen = server.accept().await.switch(&[("Sec-WebSocket-Protocol", "chat")]).await;
    assert_eq!((seen.get("x-user"), seen.get("sec-websocket-protocol")), (Some("ann"), Some("chat")));
    assert_eq!(client.head().await.status(), 101);
    let mut reader = enter().await;
    reader.send(handshake(claims("chat:read")).bytes()).await;
    assert_eq!(reader.head().await.status(), 403);
}

#[tokio::test]
async fn the_example_of_a_service_asks_it_and_tells_the_server_who_it_is() {
    let (mut server, mut service, authority) = (RawServer::start().await, RawServer::start().await, Authority::new());
    let mut text = certified(&example("forward-auth.yaml"), &authority);
    for (written, here) in [
        ("0.0.0.0:8443", "127.0.0.1:0"),
        ("http://127.0.0.1:4180", &*service.url().replace("ws://", "http://")),
        ("ws://127.0.0.1:9000", server.url()),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let proxy = Proxy::start(&text);
    let mut client = Conn::connect_tls(proxy.address(), "localhost", authority.client()).await.unwrap();
    client.send(Handshake::to("/ws").set("Host", "localhost").with("Cookie", "session=1").bytes()).await;
    let mut asked = service.accept().await;
    let question = asked.head().await;
    assert_eq!((question.target(), question.get("x-original-url")), ("/oauth2/auth", Some("https://localhost/ws")));
    asked.send("HTTP/1.1 202 Accepted\r\nX-Auth-Request-User: ann\r\nContent-Length: 0\r\n\r\n").await;
    let seen = server.accept().await.switch(&[]).await;
    assert_eq!((seen.get("x-auth-request-user"), seen.get("x-auth-request-email")), (Some("ann"), None));
    assert_eq!(client.head().await.status(), 101);
    // The pages of the login are the service's own.
    let mut visitor = Conn::connect_tls(proxy.address(), "localhost", authority.client()).await.unwrap();
    visitor.send("GET /oauth2/start HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(service.accept().await.head().await.target(), "/oauth2/start");
}

#[tokio::test]
async fn the_example_of_passwords_lets_in_who_has_one() {
    let (mut server, authority) = (RawServer::start().await, Authority::new());
    let mut text = certified(&example("basic.yaml"), &authority);
    for (written, here) in [("0.0.0.0:8443", "127.0.0.1:0"), ("ws://127.0.0.1:9000", server.url())] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let proxy = Proxy::start(&text);
    let handshake = || Handshake::to("/ws").set("Host", "localhost");
    let mut client = Conn::connect_tls(proxy.address(), "localhost", authority.client()).await.unwrap();
    client.send(handshake().with("Authorization", crate::passwords::ANN).bytes()).await;
    let seen = server.accept().await.switch(&[]).await;
    assert_eq!((seen.get("authorization"), seen.get("x-tool")), (None, Some("internal")));
    assert_eq!(client.head().await.status(), 101);
    let mut stranger = Conn::connect_tls(proxy.address(), "localhost", authority.client()).await.unwrap();
    stranger.send(handshake().bytes()).await;
    let refused = stranger.head().await;
    let challenge = refused.get("www-authenticate");
    assert_eq!((refused.status(), challenge), (401, Some("Basic realm=\"The tool\", charset=\"UTF-8\"")));
}

#[tokio::test]
async fn the_example_of_client_certificates_lets_devices_in_and_says_whose_they_are() {
    let (authority, mut devices, mut app) = (Authority::new(), RawServer::start().await, RawServer::start().await);
    let mut text = certified(&example("client-certificates.yaml"), &authority);
    // The authority of the clients, in place of a certificate that is none's.
    std::fs::copy(authority.ca(), authority.dir.path().join("clients.crt")).unwrap();
    for (written, here) in
        [("0.0.0.0:8443", "127.0.0.1:0"), ("ws://127.0.0.1:9001", devices.url()), ("ws://127.0.0.1:9000", app.url())]
    {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let proxy = Proxy::start(&text);
    let device = authority.issue("device", &["one.devices.example.com"]);
    let other = authority.issue("other", &["one.example.com"]);
    let connect = async |shown| {
        let config = Arc::new(crate::tls::client(&authority, crate::tls::BOTH, shown));
        Conn::connect_tls(proxy.address(), "localhost", config).await.unwrap()
    };
    let forged = Handshake::to("/devices/one").set("Host", "localhost").with("X-Client-San", "DNS:a.example");
    let mut client = connect(Some(&device)).await;
    client.send(forged.bytes()).await;
    let seen = devices.accept().await.switch(&[]).await;
    assert_eq!(seen.get("x-client-san"), Some("DNS:one.devices.example.com"));
    assert_eq!(seen.get("x-client-fingerprint").map(str::len), Some(64));
    assert_eq!(client.head().await.status(), 101);
    // Who has none is nobody, on the open route too.
    let mut stranger = connect(None).await;
    stranger.send(Handshake::to("/").set("Host", "localhost").with("X-Client-San", "DNS:a.example").bytes()).await;
    let seen = app.accept().await.switch(&[]).await;
    assert_eq!(seen.get("x-client-san"), None);
    for (shown, path) in [(None, "/devices"), (Some(&other), "/devices"), (Some(&device), "/admin")] {
        let handshake = Handshake::to(path).set("Host", "localhost");
        assert_eq!(connect(shown).await.ask(&handshake).await.status(), 403, "{path}");
    }
}

#[tokio::test]
async fn the_example_of_the_admin_api_asks_for_its_token_and_empties_a_server() {
    let echoes = [Echo::start().await, Echo::start().await];
    let token = env("ADMIN_TOKEN").unwrap();
    let mut text = example("admin.yaml");
    for (written, here) in [
        ("0.0.0.0:8080", "127.0.0.1:0"),
        ("bind: \"10.0.0.5:9902\"", "bind: \"127.0.0.1:0\""),
        ("token: \"${ADMIN_TOKEN}\"", &*format!("token: {token}")),
        ("- ws://10.0.0.11:9000", &*format!("- {}", echoes[0].url())),
        ("- ws://10.0.0.12:9000", &*format!("- {}", echoes[1].url())),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let proxy = Proxy::start(&text);
    let admin = proxy.app.admin().unwrap();
    assert_eq!(api::send(&admin, "GET status", "").await.status, 401);
    let drain = format!("drains/endpoint/chat/{}", echoes[0].url());
    let ask = async |request: String| api::send(&admin, &api::authorized(&request, &token), "").await;
    assert_eq!(ask(format!("PUT {drain}?time=5m")).await.status, 200);
    let mut clients = vec![];
    for _ in 0..3 {
        let mut client = proxy.client().await;
        client.open(&Handshake::to("/")).await;
        clients.push(client);
    }
    let status = ask("GET status".to_owned()).await.body;
    let sessions = [0, 1].map(|at| status["upstreams"][0]["endpoints"][at]["sessions"].as_u64());
    assert_eq!(sessions, [Some(0), Some(3)], "{status:#}");
    assert_eq!(ask(format!("DELETE {drain}")).await.status, 200);
}

#[tokio::test]
async fn the_example_of_reloading_does_with_each_route_what_it_says() {
    let echo = Echo::start().await;
    let text = |message: &str| {
        let mut text = example("reload.yaml").replace("16KiB", message);
        for (written, here) in [
            ("\"0.0.0.0:8080\"", "\"127.0.0.1:0\"".to_owned()),
            ("\"127.0.0.1:9902\"", "\"127.0.0.1:0\"".to_owned()),
            ("ws://10.0.0.11:9000", echo.url()),
            ("ws://10.0.0.21:9000", echo.url()),
            ("drain 60s", "drain 1s".to_owned()),
            ("delay: 5s, time: 25s", "delay: 100ms, time: 1s".to_owned()),
        ] {
            assert!(text.contains(written), "{written}");
            text = text.replace(written, &here);
        }
        text
    };
    let mut proxy = Proxy::start(&text("16KiB"));
    let mut open = vec![];
    for path in ["/games", "/chat", "/console"] {
        let mut client = proxy.client().await;
        let mut handshake = Handshake::to(path);
        if path == "/console" {
            let mut stranger = proxy.client().await;
            assert_eq!(stranger.ask(&handshake).await.status(), 403);
            handshake = handshake.with("Origin", "https://ops.example.com");
        }
        client.open(&handshake).await;
        // Its session has begun when it answers.
        client.put(&Frame::text("hello")).await;
        client.expect(&Frame::text("hello")).await;
        open.push(client);
    }
    let changes = proxy.reload(&text("32KiB")).await.unwrap();
    let mut changed = changes.routes.changed.clone();
    changed.sort();
    assert_eq!((changed, changes.sessions_closing), (["chat", "console", "games"].map(str::to_owned).to_vec(), 2));
    let [games, chat, console] = &mut open[..] else { panic!("three") };
    console.expect_closed_with(1012).await;
    chat.expect_closed_with(1012).await;
    games.put(&Frame::text("still here")).await;
    games.expect(&Frame::text("still here")).await;
    let end = games.expect_closed_with(1012);
    let (drained, _) = tokio::join!(proxy.drain(), end);
    assert_eq!(drained.left, 0);
}

/// Returns the `key=value` lines of a unit, by section.
fn unit(name: &str) -> Vec<(String, String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd").join(name);
    let (text, mut section, mut found) = (fs::read_to_string(path).unwrap(), String::new(), vec![]);
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => name.clone_into(&mut section),
            None => {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
                found.push((section.clone(), key.to_owned(), value.to_owned()));
            }
        }
    }
    found
}

/// Returns the values of a key of a unit.
fn values<'a>(unit: &'a [(String, String, String)], section: &str, key: &str) -> Vec<&'a str> {
    unit.iter().filter(|line| line.0 == section && line.1 == key).map(|line| line.2.as_str()).collect()
}

/// Parses seconds as the units write them.
fn seconds(text: &str) -> u64 {
    text.strip_suffix('s').unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[test]
fn the_systemd_units_start_reload_and_stop_what_there_is() {
    let (service, socket) = (unit("wsluice.service"), unit("wsluice.socket"));
    let one = |section: &str, key: &str| {
        let found = values(&service, section, key);
        assert_eq!(found.len(), 1, "{section} {key}");
        found[0]
    };
    // systemd.service(5), systemd.exec(5), systemd.kill(5), systemd.socket(5): systemd ignores unknown words.
    let known = "Description After Wants Requires Type NotifyAccess WatchdogSec WorkingDirectory ExecStart ExecReload \
        TimeoutStopSec Restart RestartPreventExitStatus LimitNOFILE User Group AmbientCapabilities CapabilityBoundingSet \
        RuntimeDirectory NoNewPrivileges ProtectSystem ProtectHome PrivateTmp PrivateDevices RestrictAddressFamilies \
        WantedBy ListenStream BindIPv6Only Backlog Service";
    for (section, key, _) in service.iter().chain(&socket) {
        assert!(known.split_whitespace().any(|known| known == key), "[{section}] {key}");
    }
    assert_eq!((one("Service", "Type"), one("Unit", "Requires")), ("notify", "wsluice.socket"));
    assert_eq!(values(&socket, "Socket", "Service"), ["wsluice.service"]);
    assert!(one("Service", "ExecReload").ends_with("kill -HUP $MAINPID"));

    // Its command line is valid, but its configuration is not, and it ends as the unit expects.
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("wsluice.yaml");
    fs::write(&bad, "routes: 7\n").unwrap();
    let start = one("Service", "ExecStart").replace("/etc/wsluice/wsluice.yaml", bad.to_str().unwrap());
    let words: Vec<&str> = start.split_whitespace().collect();
    assert!(words[0].ends_with("/wsluice") && words.contains(&bad.to_str().unwrap()), "{start}");
    let output = crate::process::run(&words[1..]);
    let code = output.status.code().unwrap();
    assert_eq!(one("Service", "RestartPreventExitStatus"), code.to_string(), "{output:?}");

    // It is killed only after its drain, and has the sockets of the main example.
    let main = load(Path::new("wsluice.yaml"), &example("wsluice.yaml")).file;
    let drain = (main.drain.delay.duration() + main.drain.time.duration()).as_secs();
    assert!(seconds(one("Service", "TimeoutStopSec")) > drain);
    let binds: Vec<String> = main.listeners.iter().map(|listener| listener.bind.to_string()).collect();
    assert_eq!(values(&socket, "Socket", "ListenStream"), binds);
}

#[tokio::test]
async fn the_example_for_clients_as_they_are_takes_them_as_they_are() {
    let mut server = RawServer::start().await;
    let mut text = example("real-clients.yaml").replace("0.0.0.0:8080", "127.0.0.1:0");
    for port in ["9001", "9002", "5173"] {
        let written = format!("ws://127.0.0.1:{port}");
        assert!(text.contains(&written), "{written}");
        text = text.replace(&written, server.url());
    }
    let proxy = Proxy::start(&text);
    let open = async |server: &mut RawServer, path: &str, origin: Option<&str>| {
        let mut handshake = Handshake::to(path);
        if let Some(origin) = origin {
            handshake = handshake.with("Origin", origin);
        }
        let mut client = proxy.client().await;
        client.send(handshake.bytes()).await;
        let mut upstream = server.accept().await;
        upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101, "{path} {origin:?}");
        (client, upstream)
    };
    for origin in [None, Some("file://"), Some("https://device.example/ws")] {
        let (mut client, mut upstream) = open(&mut server, "/devices", origin).await;
        client.send(Frame::pong("as paho-mqtt does").plain()).await;
        upstream.expect(&Frame::pong("as paho-mqtt does")).await;
    }
    let (mut client, upstream) = open(&mut server, "/chat", None).await;
    drop(upstream);
    assert_eq!(client.expect_closed_with(1012).await, "upstream lost");
    let (mut client, upstream) = open(&mut server, "/", None).await;
    drop(upstream);
    client.expect_end().await;
}

#[tokio::test]
async fn the_example_of_actions_does_what_it_says() {
    let mut chat = RawServer::start().await;
    let mut text = example("actions.yaml");
    for (written, here) in [("0.0.0.0:8080", "127.0.0.1:0"), ("ws://10.0.0.11:9000", chat.url())] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, here);
    }
    let proxy = Proxy::start(&text);
    for (target, sent) in [("/sock?room=7", "/ws?room=7"), ("/room/7/join", "/v2/rooms/7-join")] {
        let mut client = proxy.client().await;
        client.send(Handshake::to(target).bytes()).await;
        let seen = chat.accept().await.switch(&[]).await;
        assert_eq!(seen.target(), sent);
        let answer = client.head().await;
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.get("x-request-id"), seen.get("x-request-id"));
        if target.starts_with("/sock") {
            assert_eq!((seen.get("x-real-ip"), seen.get("x-original-path")), (Some("127.0.0.1"), Some("/sock")));
            assert!(seen.get("x-request-id").is_some());
        }
    }
    let ask = async |target: &str, host: &str| {
        let mut client = proxy.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let head = client.head().await;
        let body = client.body(&head).await;
        (head, String::from_utf8(body).unwrap())
    };
    let (head, body) = ask("/healthz", "a").await;
    assert_eq!((head.status(), body.as_str()), (200, "ok\n"));
    let (head, _) = ask("/old/room/7?x", "a").await;
    assert_eq!((head.status(), head.get("location")), (308, Some("/rooms/7?x")));
    let (head, _) = ask("/any?x=1", "old.example.com").await;
    assert_eq!((head.status(), head.get("location")), (302, Some("https://chat.example.com/any?x=1")));
    let (head, body) = ask("/games/7", "a").await;
    assert_eq!((head.status(), head.get("retry-after")), (503, Some("600")));
    assert!(body.contains("Back soon"), "{body}");
    drop(chat);
    let (head, body) = ask("/room/7/join", "a\r\nAccept: text/html").await;
    assert!(head.status() == 502 && body.contains("Not reachable"), "{head:?} {body}");
}

#[tokio::test]
async fn the_example_of_one_file_for_each_application_puts_them_together() {
    let (chat, metrics) = (Echo::start().await, Echo::start().await);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    for (name, written, here) in
        [("chat.yaml", "ws://10.0.0.11:9000", chat.url()), ("metrics.yaml", "ws://10.0.0.21:9000", metrics.url())]
    {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/conf.d").join(name);
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains(written), "{written}");
        fs::write(dir.path().join("conf.d").join(name), text.replace(written, &here)).unwrap();
    }
    let text = example("include.yaml").replace("0.0.0.0:8080", "127.0.0.1:0").replace("path: /healthz", "path: /");
    let loaded = load(&dir.path().join("wsluice.yaml"), &text);
    let route = |index: usize| (loaded.file.routes[index].name.as_str(), loaded.file.routes[index].keepalive.ping);
    assert_eq!(route(0).0, "chat");
    assert_eq!((route(0).1.to_string(), route(1).1.to_string()), ("25s".to_owned(), "50s".to_owned()));
    let checks = ["chat", "metrics"].map(|name| loaded.file.upstreams[name].health.is_some());
    assert_eq!(checks, [true, false]);
    let mut process = crate::process::Process::start(dir.path(), &(text + "log: { format: json }\nworkers: 1\n"));
    let address = process.listening().await;
    for (host, status) in [("chat.example.com", 101), ("metrics.example.com", 101), ("example.com", 404)] {
        let mut client = Conn::connect(&address).await;
        assert_eq!(client.ask(&Handshake::to("/").set("Host", host)).await.status(), status, "{host}");
    }
}

#[tokio::test]
async fn the_example_for_plain_http_compresses_pages_and_bounds_uploads() {
    let mut server = RawServer::start().await;
    let text = example("plain-http.yaml").replace("0.0.0.0:8080", "127.0.0.1:0");
    let proxy = Proxy::start(&text.replace("http://127.0.0.1:3000", &server.url().replace("ws://", "http://")));
    for (path, coding) in [("/", Some("br")), ("/api/me", None)] {
        let mut client = proxy.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip, br\r\n\r\n")).await;
        let mut upstream = server.accept().await;
        upstream.head().await;
        let body = "<p>hello</p>".repeat(1000);
        let length = body.len();
        upstream
            .send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        let answer = client.head().await;
        assert_eq!((answer.status(), answer.get("content-encoding")), (200, coding), "{path}");
        // The connection is kept, and the next request would go there.
        drop(upstream);
    }
    for (request, status) in [
        ("POST /api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10485761\r\n\r\n", 413),
        ("GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", 426),
    ] {
        let mut client = proxy.client().await;
        client.send(request).await;
        assert_eq!(client.head().await.status(), status, "{request}");
    }
}

#[tokio::test]
async fn the_least_example_takes_sessions_to_its_one_server() {
    let echo = Echo::start().await;
    let text = example("minimal.yaml");
    assert!(text.contains("127.0.0.1:8080") && text.contains("ws://127.0.0.1:9000"));
    let proxy =
        Proxy::start(&text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("ws://127.0.0.1:9000", &echo.url()));
    let mut client = proxy.client().await;
    assert_eq!(client.open(&Handshake::to("/any?thing")).await.status(), 101);
    client.put(&Frame::text("hello")).await;
    client.expect(&Frame::text("hello")).await;
}
