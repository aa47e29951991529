//! Plain HTTP by hand: heads written byte by byte, and bodies and trailers read the same way.

use crate::harness::{Conn, Head, Proxy, RawServer, yaml};

/// Joins lines into a head.
pub fn head(lines: &[&str]) -> String {
    format!("{}\r\n\r\n", lines.join("\r\n"))
}

/// A minimal GET.
pub fn get(target: &str) -> String {
    head(&[&format!("GET {target} HTTP/1.1"), "Host: example.com"])
}

/// A minimal GET for this host.
pub fn at_home(target: &str) -> String {
    head(&[&format!("GET {target} HTTP/1.1"), "Host: localhost"])
}

/// A 200 with this body.
pub fn ok(body: &str) -> String {
    head(&["HTTP/1.1 200 OK", &format!("Content-Length: {}", body.len())]) + body
}

/// One line, without its end.
pub async fn line(conn: &mut Conn) -> String {
    let mut line = vec![];
    while !line.ends_with(b"\r\n") {
        line.extend(conn.read_exact(1).await);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).unwrap()
}

/// One chunk; an empty one is the last.
pub async fn chunk(conn: &mut Conn) -> Vec<u8> {
    let size = usize::from_str_radix(&line(conn).await, 16).unwrap();
    let chunk = conn.read_exact(size).await;
    if size > 0 {
        assert_eq!(line(conn).await, "");
    }
    chunk
}

/// A chunked body, and the lines of its trailer.
pub async fn chunked(conn: &mut Conn) -> (Vec<u8>, Vec<String>) {
    let mut body = vec![];
    loop {
        let chunk = chunk(conn).await;
        if chunk.is_empty() {
            break;
        }
        body.extend(chunk);
    }
    let mut trailer = vec![];
    loop {
        match line(conn).await {
            line if line.is_empty() => return (body, trailer),
            line => trailer.push(line),
        }
    }
}

/// A proxy before one server.
pub struct Site {
    pub proxy: Proxy,
    pub upstream: RawServer,
}

impl Site {
    /// One route with these lines.
    pub async fn start(route: &[&str]) -> Site {
        let upstream = RawServer::start().await;
        Site { proxy: Proxy::start(&yaml(&[upstream.url()], route)), upstream }
    }

    /// The same with these lines of the listener.
    pub async fn with_listener(listener: &[&str]) -> Site {
        let upstream = RawServer::start().await;
        let proxy = Proxy::start(&with_listener(&yaml(&[upstream.url()], &[]), listener));
        Site { proxy, upstream }
    }

    /// Sends `request` on a new connection and reads its head on the server's side.
    pub async fn ask(&mut self, request: &str) -> (Conn, Conn, Head) {
        let mut client = self.proxy.client().await;
        client.send(request).await;
        let mut server = self.upstream.accept().await;
        let head = server.head().await;
        (client, server, head)
    }

    /// Does the same and answers; returns the request and the answer's head as they arrived.
    pub async fn exchange(&mut self, request: &str, answer: &str) -> (Head, Head) {
        let (mut client, mut server, request) = self.ask(request).await;
        server.send(answer).await;
        let answer = client.head().await;
        (request, answer)
    }

    /// Sends `request`, which the proxy answers itself; returns status and body.
    pub async fn refused(&self, request: &str) -> (Head, String) {
        let mut client = self.proxy.client().await;
        client.send(request).await;
        let head = client.head().await;
        let body = client.body(&head).await;
        (head, String::from_utf8(body).unwrap())
    }
}

/// Returns the harness's `yaml` with these lines in its listener.
pub fn with_listener(yaml: &str, lines: &[&str]) -> String {
    let plain = r#"{ name: plain, bind: "127.0.0.1:0" }"#;
    assert!(yaml.contains(plain));
    let more: String = lines.iter().map(|line| format!(", {line}")).collect();
    yaml.replace(plain, &format!(r#"{{ name: plain, bind: "127.0.0.1:0"{more} }}"#))
}
