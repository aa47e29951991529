//! The opening handshake, strict both ways (RFC 6455 §4).

use super::harness::{Frame, Pair};

#[tokio::test]
async fn a_message_goes_there_and_back() {
    let mut pair = Pair::open(&[]).await;
    pair.client.put(&Frame::text("hello")).await;
    pair.server.expect(&Frame::text("hello")).await;
    pair.server.put(&Frame::text("world")).await;
    pair.client.expect(&Frame::text("world")).await;
}
