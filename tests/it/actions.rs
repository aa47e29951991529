//! Routes that answer by themselves: redirects and configured answers.

use std::fs;

use crate::harness::{Frame, Handshake, Head, Proxy, RawServer, yaml};
use crate::plain::{get, head};

/// Starts a proxy with these routes, no upstream, and these lines in its listener.
fn start(listener: &str, routes: &str) -> Proxy {
    Proxy::start(&format!(
        "workers: 1\nlisteners:\n  - {{ name: plain, bind: \"127.0.0.1:0\"{listener} }}\nroutes:\n{routes}\nupstreams: {{}}\n"
    ))
}

/// Sends a request; returns the answer's head and body.
async fn ask(proxy: &Proxy, request: &str) -> (Head, String) {
    let mut client = proxy.client().await;
    client.send(request).await;
    let head = client.head().await;
    let body = if head.status() == 204 { vec![] } else { client.body(&head).await };
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn a_redirect_leads_where_the_route_says() {
    let proxy = start(
        "",
        r#"
  - { name: all, match: { path: { prefix: /all } }, redirect: "https://new.example{request.target}" }
  - { name: old, match: { path: { prefix: /old } }, rewrite: { strip_prefix: /old }, redirect: { to: "/new{rewrite.target}", status: 308 } }
  - { name: one, match: { path: { prefix: /one } }, redirect: { to: "https://new.example/", status: 301 } }
  - { name: login, match: { path: { prefix: /app } }, redirect: { to: "/login?next={request.target}", status: 303 } }
  - { name: here, match: { path: { prefix: /here } }, redirect: { to: "{request.scheme}://{request.host}:8443{request.path}", status: 307 } }
"#,
    );
    for (target, status, location) in [
        ("/all/a?b=c", 302, "https://new.example/all/a?b=c"),
        ("/x/../all//%7E", 302, "https://new.example/all//~"),
        ("/old/a/b?c", 308, "/new/a/b?c"),
        ("/old", 308, "/new/"),
        ("/old//evil.example", 308, "/new//evil.example"),
        ("/one/a?b", 301, "https://new.example/"),
        ("/app/a?b=c&d", 303, "/login?next=%2Fapp%2Fa%3Fb%3Dc%26d"),
        ("/here/a?b", 307, "http://example.com:8443/here/a"),
    ] {
        let (head, body) = ask(&proxy, &get(target)).await;
        assert_eq!((head.status(), head.get("location")), (status, Some(location)), "{target}");
        assert_eq!((head.get("content-length"), body.as_str()), (Some("0"), ""), "{target}");
        let shaken = ask(&proxy, &String::from_utf8(Handshake::to(target).bytes()).unwrap()).await.0;
        assert_eq!((shaken.status(), shaken.get("location")), (status, Some(location)), "{target}");
        assert_eq!(shaken.get("connection"), Some("close"));
    }
    let of = |route| [("route", route), ("method", "GET"), ("http", "1.1"), ("code", "3xx")];
    assert_eq!(proxy.metric("wsluice_http_requests_total", &of("all")), 2.0);
    let handshakes = [("listener", "plain"), ("route", "all"), ("http", "1.1"), ("code", "302")];
    assert_eq!(proxy.metric("wsluice_handshakes_total", &handshakes), 2.0);
    let log = proxy.log_lines(16).await;
    assert!(log.iter().all(|line| line["reason"] == "redirect" && line["upstream"].is_null()), "{log:#?}");
}

#[tokio::test]
async fn an_answer_is_what_the_route_says() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("down.html");
    fs::write(&page, "<h1>Back soon</h1>").unwrap();
    let proxy = start(
        "",
        &format!(
            r#"
  - {{ name: health, match: {{ path: {{ exact: /healthz }} }}, respond: {{ body: "ok\n" }} }}
  - {{ name: nothing, match: {{ path: {{ exact: /nothing }} }}, respond: {{ status: 204 }} }}
  - name: json
    match: {{ path: {{ exact: /json }} }}
    respond: {{ status: 404, body: '{{{{"path":"{{request.path}}","query":"{{request.query}}"}}' }}
    headers: {{ response: {{ set: {{ Content-Type: application/json }} }} }}
  - name: html
    match: {{ path: {{ exact: /html }} }}
    respond: {{ body: "<a title='{{request.query}}'>{{route.name}}</a>" }}
    headers: {{ response: {{ set: {{ Content-Type: text/html }} }} }}
  - name: down
    respond: {{ status: 503, file: {page:?} }}
    headers: {{ response: {{ set: {{ Retry-After: "600" }} }} }}
"#
        ),
    );
    for (target, status, media_type, body) in [
        ("/healthz", 200, Some("text/plain; charset=utf-8"), "ok\n"),
        ("/nothing", 204, None, ""),
        ("/json?\"a\\", 404, Some("application/json"), r#"{"path":"/json","query":"%22a%5C"}"#),
        ("/html?'><&", 200, Some("text/html"), "<a title='&#39;%3E%3C&amp;'>html</a>"),
        ("/chat", 503, Some("text/html; charset=utf-8"), "<h1>Back soon</h1>"),
    ] {
        let (answer, text) = ask(&proxy, &get(target)).await;
        assert_eq!(
            (answer.status(), answer.get("content-type"), text.as_str()),
            (status, media_type, body),
            "{target}"
        );
        let mut client = proxy.client().await;
        client.send(head(&[&format!("HEAD {target} HTTP/1.1"), "Host: a"])).await;
        let only = client.head().await;
        assert_eq!((only.status(), only.get("content-type")), (status, media_type), "{target}");
        assert_eq!(only.get("content-length"), answer.get("content-length"), "{target}");
        // Nothing follows the head: the next answer comes at once.
        client.send(get("/healthz")).await;
        assert_eq!(client.head().await.status(), 200);
    }
    let mut handshake = proxy.client().await;
    let answer = handshake.ask(&Handshake::to("/chat")).await;
    assert_eq!((answer.status(), answer.get("retry-after")), (503, Some("600")));
    let labels = [("listener", "plain"), ("route", "down"), ("http", "1.1"), ("code", "503")];
    assert_eq!(proxy.metric("wsluice_handshakes_total", &labels), 1.0);
}

#[tokio::test]
async fn a_page_is_read_again_when_it_changes_and_stays_while_it_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("down.txt");
    fs::write(&page, "first").unwrap();
    let routes = format!("  - {{ name: down, respond: {{ status: 503, file: {page:?} }} }}\n");
    let mut proxy = start("", &routes);
    let text = proxy.yaml();
    assert!(proxy.reload(&text).await.unwrap().is_empty());
    fs::write(&page, "second").unwrap();
    assert_eq!(proxy.reload(&text).await.unwrap().routes.changed, ["down"]);
    assert_eq!(ask(&proxy, &get("/")).await.1, "second");
    fs::remove_file(&page).unwrap();
    let changes = proxy.reload(&text).await.unwrap();
    assert!(changes.is_empty() && changes.warnings[0].contains("cannot be read"), "{changes:?}");
    assert_eq!(ask(&proxy, &get("/")).await.1, "second");
    // A missing file is an error.
    let refused = proxy.reload(&text.replace("down.txt", "gone.txt")).await.unwrap_err().to_string();
    assert!(refused.contains("routes[0].respond.file") && refused.contains("cannot be read"), "{refused}");
    fs::write(dir.path().join("gone.txt"), vec![b'x'; (1 << 20) + 1]).unwrap();
    let refused = proxy.reload(&text.replace("down.txt", "gone.txt")).await.unwrap_err().to_string();
    assert!(refused.contains("larger than 1048576 bytes"), "{refused}");
}

#[tokio::test]
async fn a_route_that_becomes_a_redirect_lets_go_of_its_sessions_as_it_says() {
    for (on_change, stays) in [("keep", true), ("close", false)] {
        let mut server = RawServer::start().await;
        let mut proxy = Proxy::start(&yaml(&[server.url()], &[]));
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        let mut upstream = server.accept().await;
        upstream.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
        client.put(&Frame::text("hello")).await;
        upstream.expect(&Frame::text("hello")).await;
        let text = proxy
            .yaml()
            .replace("upstream: app", &format!("on_change: {on_change}\n    redirect: https://new.example/"));
        let changes = proxy.reload(&text).await.unwrap();
        assert_eq!(
            (changes.routes.changed.as_slice(), changes.sessions_closing),
            (&["all".to_owned()][..], usize::from(!stays))
        );
        assert_eq!(ask(&proxy, &get("/")).await.0.status(), 302);
        if stays {
            upstream.put(&Frame::text("still here")).await;
            client.expect(&Frame::text("still here")).await;
        } else {
            client.expect_closed_with(1012).await;
        }
        // And back.
        let text = proxy.yaml().replace("redirect: https://new.example/", "upstream: app");
        assert!(proxy.reload(&text).await.is_ok());
        let mut client = proxy.client().await;
        client.send(Handshake::new().bytes()).await;
        server.accept().await.switch(&[]).await;
        assert_eq!(client.head().await.status(), 101);
    }
}
