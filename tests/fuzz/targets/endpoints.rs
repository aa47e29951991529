//! Lists of endpoints that programs write: a file, a value of etcd.

use std::collections::HashSet;

use serde_json::Value;
use wsluice::config::{ENDPOINTS_MAX, EndpointConfig, Scheme, load_endpoint, load_endpoints};

use super::config::judge;
use super::{Target, choices};

pub const TARGET: Target = Target {
    name: "endpoints",
    run,
    seeds: &[
        b"\x00- ws://10.0.0.11:9000\n- {url: \"wss://b:1\", weight: 2, max_connections: 5, zone: a, priority: 1}\n",
        b"\x01[{\"targets\": [\"10.0.0.1:80\", \"b:81\"], \"labels\": {\"__wsluice_weight__\": \"3\", \"env\": \"x\"}}]",
        b"\x00ws://a", b"\x00{url: 'unix:/run/a.sock', weight: 0}", b"\x00[]", b"\x01- targets: []\n",
    ],
    tokens: &[
        b"- ", b"\n", b": ", b", ", b"[", b"]", b"{", b"}", b"\"", b"'", b"&a ", b"*a", b"!!x ", b"---\n", b"targets: ", b"labels: ", b"url: ", b"weight: ", b"max_connections: 0",
        b"__wsluice_weight__: \"1\"", b"__wsluice_zone__: z", b"__wsluice_x__: y", b"ws://", b"wss://", b"http://", b"unix:", b"tcp://", b"a:1", b":0", b":65536", b"[::1]:1",
        b"a@b", b"/path", b"?q", b"#f", b"%41", b"\xc3\xa9", b"65536", b"-1", b"1.5", b"null", b"\0", b"ws://10.0.0.11:9000",
    ],
};

fn run(data: &[u8]) {
    let Some(([kind], text)) = choices(data) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let scheme = if kind & 1 == 0 { Scheme::Ws } else { Scheme::Wss };
    match load_endpoints("list", text, scheme) {
        Ok(endpoints) => {
            assert!(endpoints.len() <= ENDPOINTS_MAX);
            let distinct: HashSet<_> = endpoints.iter().map(|endpoint| &endpoint.url).collect();
            assert_eq!(distinct.len(), endpoints.len(), "an endpoint stands twice");
            let written: Vec<Value> = endpoints.iter().map(written).collect();
            let written = Value::from(written).to_string();
            let again =
                load_endpoints("again", &written, scheme).unwrap_or_else(|errors| panic!("{written}: {errors}"));
            assert_eq!(again, endpoints, "{written}");
        }
        Err(errors) => judge(text, &errors),
    }
    match load_endpoint("one", text) {
        Ok(endpoint) => {
            let url = endpoint.url.to_string();
            let again = load_endpoint("again", &serde_json::to_string(&url).expect("text")).map(|again| again.url);
            assert_eq!(again.as_ref().map_err(ToString::to_string), Ok(&endpoint.url), "{url}");
        }
        Err(errors) => judge(text, &errors),
    }
}

/// As somebody would write it: what is not there is left out.
pub(super) fn written(endpoint: &EndpointConfig) -> Value {
    let mut value = serde_json::to_value(endpoint).expect("an endpoint is JSON");
    value.as_object_mut().expect("a map").retain(|_, value| !value.is_null());
    value
}
