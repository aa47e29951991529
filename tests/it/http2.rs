//! HTTP/2 to clients and to servers: pages and WebSockets as streams of one connection (RFC 9113, RFC 8441).

mod back;
mod floods;
mod going;
mod matrix;
mod requests;

use super::harness::{Authority, H2Client, H2Session, Proxy, RawServer, yaml};

/// The labels of the listener.
const PLAIN: [(&str, &str); 1] = [("listener", "plain")];

/// A configuration whose listener speaks both versions in plain text.
fn both(endpoints: &[&str], route: &[&str]) -> String {
    let plain = r#"{ name: plain, bind: "127.0.0.1:0" }"#;
    let both = r#"{ name: plain, bind: "127.0.0.1:0", protocols: [h2, http/1.1] }"#;
    yaml(endpoints, route).replace(plain, both)
}

/// The same by TLS, where nothing has to be said.
fn by_tls(authority: &Authority, endpoints: &[&str], route: &[&str]) -> String {
    let (cert, key) = authority.issue("front", &["localhost"]);
    let tls = format!(
        r#"{{ name: plain, bind: "127.0.0.1:0", tls: {{ certificates: [{{ cert: {:?}, key: {:?} }}] }} }}"#,
        cert, key
    );
    yaml(endpoints, route).replace(r#"{ name: plain, bind: "127.0.0.1:0" }"#, &tls)
}

/// A proxy, a client of HTTP/2, and a server of HTTP/1.1.
struct Site {
    client: H2Client,
    server: RawServer,
    proxy: Proxy,
}

impl Site {
    async fn new(route: &[&str]) -> Site {
        let server = RawServer::start().await;
        let proxy = Proxy::start(&both(&[server.url()], route));
        let client = H2Client::connect(proxy.address()).await;
        Site { client, server, proxy }
    }

    /// Opens a session, and returns both of its ends.
    async fn open(&mut self) -> (H2Session, super::harness::Conn) {
        let (client, server) = tokio::join!(self.client.open("/", &[]), async {
            let mut server = self.server.accept().await;
            server.switch(&[]).await;
            server
        });
        (client, server)
    }
}
