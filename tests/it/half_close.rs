//! Half-close: the end of one direction is not the end of the other, and loses nothing that was on its way.

use super::harness::{Frame, Pair};

#[tokio::test]
async fn a_clients_fin_behind_its_last_frame_still_delivers_the_reply() {
    let mut pair = Pair::open(&[]).await;
    pair.client.put(&Frame::text("question")).await;
    pair.client.finish().await;
    pair.server.expect(&Frame::text("question")).await;
    pair.server.put(&Frame::text("answer")).await;
    assert_eq!(pair.server.expect_close().await.0, Some(1001));
    pair.client.expect(&Frame::text("answer")).await;
    pair.server.put(&Frame::close(1001, "")).await;
    pair.server.finish().await;
    pair.server.expect_end().await;
    assert_eq!(pair.client.expect_close().await.0, Some(1001));
    pair.client.expect_end().await;
}

#[tokio::test]
async fn a_servers_fin_without_close_is_told_behind_all_its_frames() {
    let mut pair = Pair::open(&["on_upstream_lost: { close: 1012 }"]).await;
    let large = Frame::binary(vec![4; 300_000]);
    let (_reader, mut writer) = pair.server.split();
    let sent = large.clone();
    let sending = tokio::spawn(async move {
        writer.put(&sent).await.unwrap();
        writer.put(&Frame::text("last")).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut writer.io).await.unwrap();
        writer
    });
    assert!(pair.client.frame().await == large);
    pair.client.expect(&Frame::text("last")).await;
    assert_eq!(pair.client.expect_closed_with(1012).await, "upstream lost");
    drop(sending.await.unwrap());
    drop(pair.client);
    pair.proxy.idle().await;
}

#[tokio::test]
async fn a_fin_behind_a_close_is_how_it_should_be() {
    let mut pair = Pair::open(&[]).await;
    pair.client.put(&Frame::close(1000, "done")).await;
    pair.client.finish().await;
    pair.server.expect(&Frame::close(1000, "done")).await;
    pair.server.put(&Frame::text("one more")).await;
    pair.server.put(&Frame::close(1000, "")).await;
    pair.server.finish().await;
    pair.client.expect(&Frame::text("one more")).await;
    pair.client.expect(&Frame::close(1000, "")).await;
    pair.client.expect_end().await;
    pair.server.expect_end().await;
    let log = pair.proxy.log_lines(1).await;
    assert_eq!((&log[0]["reason"], &log[0]["close_code"]), (&"closed".into(), &1000.into()));
}

#[tokio::test]
async fn a_server_that_closes_and_ends_at_once_waits_for_no_one() {
    let mut pair = Pair::open(&[]).await;
    pair.server.put(&Frame::close(1001, "restart")).await;
    drop(pair.server);
    // The client's answer cannot be delivered; its stream still ends.
    assert_eq!(pair.client.expect_closed_with(1001).await, "restart");
    drop(pair.client);
    pair.proxy.idle().await;
    let log = pair.proxy.log_lines(1).await;
    assert_eq!((&log[0]["close_initiator"], &log[0]["close_code"]), (&"server".into(), &1001.into()));
}

#[tokio::test]
async fn a_client_that_ends_without_a_word_right_after_the_101_is_lost() {
    let mut pair = Pair::open(&[]).await;
    pair.client.finish().await;
    pair.server.expect_closed_with(1001).await;
    // The server's Close answers ours, and goes on to the client, which may still read.
    assert_eq!(pair.client.expect_close().await.0, Some(1001));
    pair.client.expect_end().await;
    pair.proxy.idle().await;
}
