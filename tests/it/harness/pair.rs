//! A proxy with one open session, and both of its ends.

use super::{Conn, Handshake, Head, Proxy, RawServer, yaml};

#[derive(Debug)]
pub struct Pair {
    pub client: Conn,
    pub server: Conn,
    /// The request as the server received it.
    pub request: Head,
    /// The 101 as the client received it.
    pub response: Head,
    pub upstream: RawServer,
    pub proxy: Proxy,
}

impl Pair {
    /// Opens a session on a route with these lines.
    pub async fn open(route: &[&str]) -> Pair {
        Pair::open_with(route, &Handshake::new(), &[]).await
    }

    /// Does the same with this handshake and these header lines in the server's 101.
    pub async fn open_with(route: &[&str], handshake: &Handshake, answer: &[(&str, &str)]) -> Pair {
        let upstream = RawServer::start().await;
        let proxy = Proxy::start(&yaml(&[upstream.url()], route));
        Pair::through(proxy, upstream, handshake, answer).await
    }

    /// Does the same through this proxy.
    pub async fn through(
        proxy: Proxy,
        mut upstream: RawServer,
        handshake: &Handshake,
        answer: &[(&str, &str)],
    ) -> Pair {
        let (client, response, server, request) = session(&proxy, &mut upstream, handshake, answer).await;
        Pair { client, server, request, response, upstream, proxy }
    }

    /// Opens one more session.
    pub async fn another(&mut self) -> (Conn, Conn) {
        let (client, _, server, _) = session(&self.proxy, &mut self.upstream, &Handshake::new(), &[]).await;
        (client, server)
    }
}

async fn session(
    proxy: &Proxy,
    upstream: &mut RawServer,
    handshake: &Handshake,
    answer: &[(&str, &str)],
) -> (Conn, Head, Conn, Head) {
    let mut client = proxy.client().await;
    client.send(handshake.bytes()).await;
    let mut server = upstream.accept().await;
    let request = server.switch(answer).await;
    let response = client.head().await;
    assert_eq!(response.status(), 101, "{response:#?}");
    (client, response, server, request)
}
