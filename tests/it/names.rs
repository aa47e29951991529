//! Endpoints written as host names.

use crate::harness::{Echo, Frame, Handshake, Proxy};
use crate::plain::get;

#[tokio::test]
async fn sessions_plain_requests_and_checks_share_the_look_ups_of_a_name() {
    let echo = Echo::start().await;
    let url = echo.url().replace("127.0.0.1", "localhost");
    assert!(url.contains("localhost"), "{url}");
    let proxy = Proxy::start(&format!(
        "workers: 2\nlisteners: [{{ name: l, bind: '127.0.0.1:0' }}]\nroutes: [{{ name: r, upstream: u }}]\n\
         upstreams: {{ u: {{ endpoints: ['{url}'], health: {{ tcp: {{ every: 100ms, timeout: 100ms, fall: 1000 }} }} }} }}\n"
    ));
    proxy.metric_becomes("wsluice_endpoint_up", &[("endpoint", &url), ("upstream", "u")], 1.0).await;
    for turn in 0..20 {
        let mut client = proxy.client().await;
        client.open(&Handshake::to("/chat")).await;
        client.put(&Frame::text("there")).await;
        client.expect(&Frame::text("there")).await;
        // The echo is no server for plain requests; the test only needs to reach it.
        let mut client = proxy.client().await;
        client.send(get("/plain")).await;
        assert_ne!(client.head().await.status(), 503, "{turn}");
    }
    let found = proxy.metric("wsluice_name_lookups_total", &[("result", "found")]);
    assert!((1.0..20.0).contains(&found), "{found} look-ups");
    for result in ["not_found", "timeout", "failed", "exhausted"] {
        assert_eq!(proxy.metric("wsluice_name_lookups_total", &[("result", result)]), 0.0, "{result}");
    }
}
