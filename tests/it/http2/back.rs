//! HTTP/2 to servers: sessions and pages as streams that share connections.

mod connections;
mod plain;
mod sessions;

use super::super::harness::{
    Conn, H2Client, H2Server, H2ServerConn, H2ServerSession, H2Session, Handshake, Io, Proxy, within,
};
use super::both;
use tokio::net::TcpStream;
use wsluice::net::listener::Address;

/// The labels of the upstream.
const APP: [(&str, &str); 1] = [("upstream", "app")];

/// A client's version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    H1,
    H2,
}

const FRONTS: [Front; 2] = [Front::H1, Front::H2];

/// A configuration with this `protocol` towards its endpoints, and both towards clients.
fn config(protocol: &str, endpoints: &[&str], route: &[&str]) -> String {
    both(endpoints, route).replace("{ endpoints:", &format!("{{ protocol: {protocol}, endpoints:"))
}

/// A client's end of a session.
struct Client {
    conn: Conn,
    /// Of HTTP/2.
    session: Option<H2Session>,
    head: Vec<(String, String)>,
}

impl Client {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }
}

/// A proxy, as clients of one version see it.
struct Entrance {
    proxy: Proxy,
    front: Front,
    client: H2Client,
}

impl Entrance {
    async fn new(front: Front, yaml: &str) -> Entrance {
        let proxy = Proxy::start(yaml);
        // A session that is not read holds up no other at the client either.
        let Address::Tcp(address) = proxy.address() else { panic!("TCP alone") };
        let stream = within("connect", TcpStream::connect(address)).await.unwrap();
        let client =
            H2Client::with(h2::client::Builder::new().initial_connection_window_size(1 << 20), stream, "http").await;
        Entrance { proxy, front, client }
    }

    /// Asks for a session.
    ///
    /// # Errors
    /// Status and body of another answer.
    async fn try_open(&mut self, target: &str, more: &[(&str, &str)]) -> Result<Client, (u16, String)> {
        if self.front == Front::H1 {
            let mut handshake = Handshake::to(target);
            handshake.headers.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            let mut conn = self.proxy.client().await;
            let head = conn.ask(&handshake).await;
            if head.status() != 101 {
                let body = conn.body(&head).await;
                return Err((head.status(), String::from_utf8(body).unwrap()));
            }
            return Ok(Client { conn, session: None, head: head.headers });
        }
        let opened = self.client.try_open(target, more).await;
        let mut session = opened
            .map_err(|answer| (answer.status().as_u16(), String::from_utf8(answer.into_body().to_vec()).unwrap()))?;
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let head = session.head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let nothing = Conn::client(Io::Duplex(tokio::io::duplex(1).0));
        let conn = std::mem::replace(&mut session.conn, nothing);
        Ok(Client { conn, session: Some(session), head })
    }

    async fn open(&mut self, target: &str, more: &[(&str, &str)]) -> Client {
        self.try_open(target, more).await.unwrap_or_else(|answer| panic!("refused: {answer:?}"))
    }
}

/// A proxy in front of a server, to which it speaks HTTP/2 alone.
struct Site {
    entrance: Entrance,
    server: H2Server,
}

impl Site {
    async fn new(front: Front, route: &[&str]) -> Site {
        Site::of(front, H2Server::start().await, route).await
    }

    async fn of(front: Front, server: H2Server, route: &[&str]) -> Site {
        let entrance = Entrance::new(front, &config("h2", &[server.url()], route)).await;
        Site { entrance, server }
    }

    fn proxy(&self) -> &Proxy {
        &self.entrance.proxy
    }

    /// Opens a session on a new connection to the server.
    async fn open(&mut self) -> (Client, H2ServerSession, H2ServerConn) {
        let Site { entrance, server } = self;
        let (client, (session, conn)) = tokio::join!(entrance.open("/", &[]), async {
            let mut conn = server.accept().await;
            (conn.open(&[]).await, conn)
        });
        (client, session, conn)
    }

    /// Opens a session on this connection to the server.
    async fn open_on(&mut self, conn: &mut H2ServerConn) -> (Client, H2ServerSession) {
        tokio::join!(self.entrance.open("/", &[]), conn.open(&[]))
    }
}
