//! The files of config/apps/ take what the clients of their applications send: path, subprotocols and origin as the real ones have
//! them. The applications themselves are driven by tests/apps/.

use std::collections::BTreeSet;

use crate::examples::{certified, env, example, examples};
use crate::harness::{Authority, Conn, Frame, Handshake, Proxy, RawServer};
use crate::plain::{get, ok};

/// A file of config/apps/ with all listeners on free ports, before this server.
fn app(name: &str, authority: &Authority, server: &str) -> String {
    let mut text = certified(&example(name), authority).replace("${STICKY_SECRET}", &env("STICKY_SECRET").unwrap());
    text = text.replace("${ADMIN_TOKEN}", &env("ADMIN_TOKEN").unwrap());
    let lines = text.lines().map(|line| match line.trim_start().split_once(": ") {
        Some(("endpoints", _)) => format!("    endpoints: [\"{server}\"]"),
        Some(("bind", _)) => "    bind: \"127.0.0.1:0\"".to_owned(),
        Some(("admin", _)) => String::new(),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What the applications' clients send: file, route, target, and the subprotocols they offer; `None` for plain HTTP.
const APPS: [(&str, &str, &str, Option<&str>); 27] = [
    ("socketio", "socketio", "/socket.io/?EIO=4&transport=polling&t=abc", None),
    ("socketio", "socketio", "/socket.io/?EIO=4&transport=websocket&sid=abc", Some("")),
    ("socketio", "pages", "/", None),
    ("socketio-hash", "socketio", "/socket.io/?EIO=4&transport=websocket", Some("")),
    ("socketio-hash", "pages", "/", None),
    ("mqtt", "mqtt", "/mqtt", Some("mqtt")),
    ("mqtt", "mqtt", "/mqtt", Some("mqttv3.1")),
    ("jupyter", "jupyter", "/jupyter/lab", None),
    (
        "jupyter",
        "jupyter",
        "/jupyter/api/kernels/1a2b/channels?session_id=3c4d",
        Some("v1.kernel.websocket.jupyter.org"),
    ),
    ("jupyter", "jupyter", "/jupyter/terminals/websocket/1", Some("")),
    ("vite", "development", "/?token=abc", Some("vite-hmr")),
    ("vite", "development", "/ws", Some("")),
    ("vite", "development", "/_next/webpack-hmr?id=abc", Some("")),
    ("phoenix", "sockets", "/live/websocket?_csrf_token=abc&vsn=2.0.0", Some("")),
    ("phoenix", "sockets", "/socket/websocket?vsn=2.0.0", Some("phoenix, base64url.bearer.phx.YWJj")),
    ("phoenix", "pages", "/live/longpoll?vsn=2.0.0", None),
    ("actioncable", "cable", "/cable", Some("actioncable-v1-json, actioncable-unsupported")),
    ("actioncable", "pages", "/", None),
    ("signalr", "hub", "/chatHub/negotiate?negotiateVersion=1", None),
    ("signalr", "hub", "/chatHub?id=abc", Some("")),
    ("graphql", "subscriptions", "/graphql", Some("graphql-transport-ws")),
    ("graphql", "queries", "/graphql?query=%7Blength%7D", None),
    ("novnc", "screen", "/websockify", Some("")),
    ("novnc", "screen", "/websockify", Some("binary")),
    ("novnc", "page", "/vnc.html", None),
    ("node-red", "node-red", "/comms", Some("")),
    ("home-assistant", "home-assistant", "/api/websocket", Some("")),
];

#[tokio::test]
async fn each_application_has_its_sessions_and_pages_from_its_own_origin_and_no_other() {
    let (authority, mut server) = (Authority::new(), RawServer::start().await);
    for (name, route, target, subprotocols) in APPS {
        let case = format!("{name}: {target} {subprotocols:?}");
        let proxy = Proxy::start(&app(&format!("{name}.yaml"), &authority, server.url()));
        let connect =
            async || Conn::connect_tls(proxy.address(), "chat.example.com", authority.client()).await.unwrap();
        let mut client = connect().await;
        let Some(offer) = subprotocols else {
            client.send(get(target)).await;
            let mut upstream = server.accept().await;
            assert_eq!(upstream.head().await.target(), target, "{case}");
            upstream.send(ok("page")).await;
            let answer = client.head().await;
            let sticky = answer.get("set-cookie").is_some_and(|cookie| cookie.contains("_server="));
            assert_eq!((answer.status(), sticky), (200, ["socketio", "signalr"].contains(&name)), "{case}");
            assert_eq!(proxy.log_lines(1).await[0]["route"], route, "{case}");
            continue;
        };
        let mut handshake = Handshake::to(target).set("Host", "chat.example.com");
        let mut answer = vec![];
        if let Some(chosen) = offer.split(", ").next().filter(|chosen| !chosen.is_empty()) {
            handshake = handshake.with("Sec-WebSocket-Protocol", offer);
            answer.push(("Sec-WebSocket-Protocol", chosen));
        }
        if name != "mqtt" {
            let foreign = handshake.clone().with("Origin", "https://evil.example");
            assert_eq!(connect().await.ask(&foreign).await.status(), 403, "{case}");
        }
        client.send(handshake.with("Origin", "https://chat.example.com").bytes()).await;
        let mut upstream = server.accept().await;
        assert_eq!(upstream.switch(&answer).await.target(), target, "{case}");
        assert_eq!(client.head().await.status(), 101, "{case}");
        client.put(&Frame::binary(vec![7; 70_000])).await;
        upstream.expect(&Frame::binary(vec![7; 70_000])).await;
        client.put(&Frame::close(1000, "")).await;
        upstream.expect_closed_with(1000).await;
        client.expect_closed_with(1000).await;
        assert_eq!(proxy.log_lines(1).await.last().unwrap()["route"], route, "{case}");
    }
    let named: BTreeSet<_> = APPS.iter().map(|(name, ..)| format!("{name}.yaml")).collect();
    for (path, _) in examples().iter().filter(|(path, _)| path.parent().unwrap().ends_with("apps")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(named.contains(name) || name.starts_with("behind-"), "{name} has no client here");
    }
}

#[tokio::test]
async fn behind_nginx_and_the_load_balancers_of_clouds_the_client_is_who_they_say() {
    let (authority, mut server) = (Authority::new(), RawServer::start().await);
    for (name, listener, subnet, forwarded) in [
        ("behind-nginx.yaml", "nginx", "127.0.0.1", "203.0.113.7"),
        ("behind-cloud.yaml", "alb", "10.0.0.0/16", "203.0.113.7"),
        ("behind-cloud.yaml", "google", "35.191.0.0/16", "10.1.2.3, 203.0.113.7, 203.0.113.80"),
    ] {
        let text = app(name, &authority, server.url());
        assert!(text.contains(subnet), "{name}: {subnet}");
        let proxy = Proxy::start(&text.replace(subnet, "127.0.0.1"));
        let mut client = Conn::connect(proxy.listener(listener)).await;
        let handshake = Handshake::to("/ws").set("Host", "chat.example.com").with("Origin", "https://chat.example.com");
        client.send(handshake.with("X-Forwarded-For", forwarded).with("X-Forwarded-Proto", "https").bytes()).await;
        server.accept().await.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101, "{listener}");
        drop(client);
        assert_eq!(proxy.log_lines(1).await[0]["client"], "203.0.113.7", "{listener}");
        if listener == "alb" {
            let mut stranger = Conn::connect(proxy.listener("nlb")).await;
            let _ = stranger.try_send(get("/")).await;
            stranger.expect_end().await;
        }
    }
}
