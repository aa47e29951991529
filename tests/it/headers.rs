//! The table in config/BEHAVIOUR.md of what servers get is true, line by line.

use std::fs;
use std::path::Path;

use crate::harness::{Handshake, Head, Proxy, RawServer, yaml};
use crate::plain::{Site, head, ok, with_listener};

/// A line of the table; `None` stands for nothing.
struct Row {
    name: String,
    sends: Option<String>,
    of_client: Option<String>,
    of_proxy: Option<String>,
}

fn table() -> Vec<Row> {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/BEHAVIOUR.md")).unwrap();
    let (_, table) = document.split_once("<!-- headers: begin -->").unwrap();
    let (table, _) = table.split_once("<!-- headers: end -->").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let read = |line: &str| {
        let cells: Vec<Option<String>> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| {
                cell.trim().strip_prefix('`')?.split_once('`').map(|(text, _)| text.replace("CLIENT", "127.0.0.1"))
            })
            .collect();
        let [Some(name), sends, of_client, of_proxy] = cells.as_slice() else { panic!("{line}") };
        Row { name: name.clone(), sends: sends.clone(), of_client: of_client.clone(), of_proxy: of_proxy.clone() }
    };
    rows.map(read).collect()
}

/// What the server gets of a plain request and of a handshake with these fields.
async fn seen(listener: &[&str], fields: &[(String, String)]) -> [Head; 2] {
    let server = RawServer::start().await;
    let proxy = Proxy::start(&with_listener(&yaml(&[server.url()], &[]), listener));
    let mut site = Site { proxy, upstream: server };
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let lines: Vec<&str> = ["GET / HTTP/1.1"].into_iter().chain(lines.iter().map(String::as_str)).collect();
    let (plain, _) = site.exchange(&head(&lines), &ok("")).await;
    let handshake = fields.iter().fold(Handshake::new(), |handshake, (name, value)| handshake.set(name, value));
    let mut client = site.proxy.client().await;
    client.send(handshake.bytes()).await;
    let shaken = site.upstream.accept().await.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);
    [plain, shaken]
}

#[tokio::test]
async fn servers_get_what_the_table_says() {
    let rows = table();
    assert!(rows.len() > 15, "{}", rows.len());
    let fields: Vec<(String, String)> =
        rows.iter().filter_map(|row| Some((row.name.clone(), row.sends.clone()?))).collect();
    for (listener, is_trusted) in [(&[][..], false), (&["trusted_proxies: [127.0.0.1]"], true)] {
        for head in seen(listener, &fields).await {
            for row in &rows {
                let expected = if is_trusted { &row.of_proxy } else { &row.of_client };
                if row.name == "CDN-Loop" {
                    let hops = head.all(&row.name).join(", ");
                    let (before, ours) = hops.split_once(", ").unwrap();
                    assert!(before == "other" && ours.len() == 16, "{hops}");
                    continue;
                }
                assert_eq!(head.get(&row.name), expected.as_deref(), "{}, trusted: {is_trusted}", row.name);
            }
            // Nothing that is not in the table, besides what a handshake is made of.
            for (name, _) in &head.headers {
                let is_of_handshake =
                    name.starts_with("sec-websocket-") || ["connection", "upgrade"].contains(&&**name);
                let is_in_table = rows.iter().any(|row| row.name.eq_ignore_ascii_case(name));
                assert!(is_of_handshake || is_in_table, "{name} is not in the table");
            }
        }
    }
}
