//! Names and passwords: who is let in, what the server gets of them, and what becomes of a file that changes.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::harness::{Handshake, Proxy, RawServer, yaml};
use crate::plain::{head, ok};

/// ann with the password `hunter2`, as htpasswd writes it.
pub const USERS: &str = "# people\nann:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

/// What ann sends: `ann:hunter2`.
pub const ANN: &str = "Basic YW5uOmh1bnRlcjI=";

fn basic(text: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(text))
}

/// A proxy before one server, and its file of users.
struct Locked {
    proxy: Proxy,
    upstream: RawServer,
    dir: tempfile::TempDir,
    text: String,
}

impl Locked {
    async fn start(more: &str) -> Locked {
        let (dir, upstream) = (tempfile::tempdir().unwrap(), RawServer::start().await);
        let file = dir.path().join("users");
        std::fs::write(&file, USERS).unwrap();
        let auth = format!("auth: {{ basic: {{ file: {}{more} }} }}", file.display());
        let text = yaml(&[upstream.url()], &[&auth]);
        Locked { proxy: Proxy::start(&text), upstream, dir, text }
    }

    /// The status that a handshake with this `Authorization` gets if the proxy answers it itself, its challenge, and its reason.
    async fn refused(&self, lines: &[&str]) -> (u16, Option<String>, String) {
        let mut client = self.proxy.client().await;
        let handshake = lines.iter().fold(Handshake::new(), |handshake, line| handshake.with("Authorization", line));
        client.send(handshake.bytes()).await;
        let answer = client.head().await;
        let body = String::from_utf8(client.body(&answer).await).unwrap();
        let challenge = answer.get("www-authenticate").map(str::to_owned);
        (answer.status(), challenge, body.split(':').next().unwrap().to_owned())
    }

    async fn rewrite(&mut self, users: &str) -> Vec<String> {
        std::fs::write(self.dir.path().join("users"), users).unwrap();
        self.proxy.reload(&self.text).await.unwrap().warnings
    }
}

#[tokio::test]
async fn a_name_and_a_password_let_in_and_the_server_gets_neither_unless_it_is_to() {
    for (more, sent) in [("", None), (", forward: true", Some(ANN))] {
        let mut locked = Locked::start(more).await;
        let mut client = locked.proxy.client().await;
        client.send(Handshake::new().with("Authorization", ANN).bytes()).await;
        let server = {
            let mut server = locked.upstream.accept().await;
            assert_eq!(server.switch(&[]).await.get("authorization"), sent);
            server
        };
        assert_eq!(client.head().await.status(), 101);
        let mut page = locked.proxy.client().await;
        page.send(head(&[
            "GET / HTTP/1.1",
            "Host: example.com",
            &format!("Authorization: {}", ANN.replace("Basic", "bAsIc")),
        ]))
        .await;
        let mut other = locked.upstream.accept().await;
        assert_eq!(other.head().await.get("authorization").is_some(), sent.is_some());
        other.send(ok("hi")).await;
        assert_eq!(page.head().await.status(), 200);
        drop((client, server, page));
        let log = locked.proxy.log_lines(2).await;
        assert!(log.iter().all(|line| line["subject"] == json!("ann")), "{log:#?}");
        assert!(!format!("{log:?}").contains("YW5u"), "{log:#?}");
    }
}

#[tokio::test]
async fn each_reason_to_refuse_a_password_has_its_status_and_its_challenge() {
    let mut locked = Locked::start(", realm: 'The \"tool\"'").await;
    let challenge = r#"Basic realm="The \"tool\"", charset="UTF-8""#;
    for (lines, status, reason) in [
        (vec![], 401, "basic_missing"),
        (vec!["Bearer abc".to_owned()], 401, "basic_missing"),
        (vec![basic("ann:wrong")], 401, "basic_wrong"),
        (vec![basic("ann:")], 401, "basic_wrong"),
        (vec![basic("bob:hunter2")], 401, "basic_wrong"),
        (vec![basic("Ann:hunter2")], 401, "basic_wrong"),
        (vec![basic("ann")], 401, "basic_malformed"),
        (vec!["Basic !".to_owned()], 401, "basic_malformed"),
        (vec![basic("ann:hunter2\n")], 401, "basic_malformed"),
        (vec![basic(&format!("ann:{}", "x".repeat(4000)))], 401, "basic_malformed"),
        (vec![ANN.to_owned(), ANN.to_owned()], 400, "basic_malformed"),
        (vec![ANN.to_owned(), "Bearer x".to_owned()], 400, "basic_malformed"),
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (found, told, why) = locked.refused(&lines).await;
        assert_eq!((found, told.as_deref(), &*why), (status, Some(challenge), reason), "{lines:?}");
    }
    let log = format!("{:?}", locked.proxy.log_lines(12).await);
    assert!(!log.contains("hunter2") && !log.contains("YW5u") && !log.contains("$2y$"), "{log}");
    assert_eq!(locked.upstream.connections().await, 0);
}

#[tokio::test]
async fn a_file_of_users_is_read_again_and_a_bad_one_leaves_the_last() {
    let mut locked = Locked::start("").await;
    let lets_ann_in = async |locked: &mut Locked| {
        let mut client = locked.proxy.client().await;
        client.send(Handshake::new().with("Authorization", ANN).bytes()).await;
        locked.upstream.accept().await.switch(&[]).await;
        client.head().await.status() == 101
    };
    assert!(lets_ann_in(&mut locked).await);
    let warnings = locked.rewrite("ann:{SHA}abc\n").await;
    assert!(warnings[0].contains("what was read of it before stays in force"), "{warnings:?}");
    assert!(!warnings[0].contains("abc"), "{warnings:?}");
    assert!(lets_ann_in(&mut locked).await);
    // Another password, and then nobody: what was remembered is forgotten.
    let other = USERS.replace(
        "$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.",
        "$2b$04$abcdefghijklmnopqrstuukt5gEdxhyYU8q7nPVxOXoWsXfLuYbs6",
    );
    assert_eq!(locked.rewrite(&other).await, [""; 0]);
    assert_eq!(locked.refused(&[ANN]).await.2, "basic_wrong");
    assert_eq!(locked.rewrite("# nobody\n").await, [""; 0]);
    assert_eq!(locked.refused(&[ANN]).await.2, "basic_wrong");
    assert_eq!(locked.rewrite(USERS).await, [""; 0]);
    assert!(lets_ann_in(&mut locked).await);
}
