//! The path that a server gets: without a prefix, with another, or rebuilt.

use crate::harness::{Handshake, Head};
use crate::plain::{Site, get, ok};

/// Returns the target that a server gets for `target`, by a plain request and by a handshake.
async fn sent(rewrite: &str, target: &str) -> [String; 2] {
    let mut site = Site::start(&[rewrite]).await;
    let (plain, _) = site.exchange(&get(target), &ok("")).await;
    let (_client, _server, shaken) = site.ask(&String::from_utf8(Handshake::to(target).bytes()).unwrap()).await;
    [plain, shaken].map(|head: Head| head.target().to_owned())
}

#[tokio::test]
async fn a_path_replaces_the_whole_path_and_the_query_stays() {
    let rewrite = "rewrite: { path: /ws }";
    for (target, seen) in [("/sock", "/ws"), ("/sock/a/%2e%2e/b?room=1", "/ws?room=1"), ("/", "/ws"), ("/ws?", "/ws?")]
    {
        assert_eq!(sent(rewrite, target).await, [seen, seen], "{target}");
    }
}

#[tokio::test]
async fn a_regex_puts_the_path_together_from_its_groups() {
    let rewrite = r#"rewrite: { regex: "^/room/(?<id>[^/]+)(/.*)?$", with: "/rooms/$${id}x$2" }"#;
    for (target, seen) in [
        ("/room/7", "/rooms/7x"),
        ("/room/7/join?as=ann", "/rooms/7x/join?as=ann"),
        ("/room/a%7Eb", "/rooms/a%7Ebx"),
        ("/%72oom/a%7Eb", "/rooms/a~bx"),
        ("/rooms/7", "/rooms/7"),
    ] {
        assert_eq!(sent(rewrite, target).await, [seen, seen], "{target}");
    }
}

#[tokio::test]
async fn no_way_into_another_directory_is_put_together() {
    let site = Site::start(&[r#"rewrite: { regex: "/(.*)-(.*)", with: "/public/$1$2" }"#]).await;
    for target in ["/.-./secret", "/x/.-.", "/%2e-%2E/secret", "/.-.%2Fsecret", "/.-.;x/secret"] {
        let (head, body) = site.refused(&get(target)).await;
        assert_eq!(head.status(), 400, "{target}");
        assert!(body.starts_with("path: "), "{target}: {body}");
    }
    let labels = [("listener", "plain"), ("route", "all"), ("reason", "path")];
    assert_eq!(site.proxy.metric("wsluice_rejections_total", &labels), 5.0);
}
