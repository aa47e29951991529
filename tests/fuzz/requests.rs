//! Requests through the whole proxy, as bytes that are legal or not: a server sees those that a strict reading of the bytes
//! finds there, in their order, with their bodies, and each in one framing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use super::harness::{Conn, Head, RawServer};
use super::pool::body_of;
use super::targets::heads::Reader;
use super::targets::{mutate, named};
use super::{Plan, never_panicked, proxy, variable};

/// How long nothing comes before a client goes: some inputs leave the proxy waiting for the rest of a request.
const SILENCE: Duration = Duration::from_millis(20);

/// A request as the server got it.
#[derive(Debug)]
struct Got {
    head: Head,
    body: Vec<u8>,
}

async fn serve(mut conn: Conn, seen: Arc<Mutex<Vec<Got>>>) {
    while let Some(head) = conn.try_head().await {
        let text = &head.raw;
        let ends = text.windows(2).filter(|two| two == b"\r\n").count();
        let singles = text.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count();
        assert_eq!(2 * ends, singles, "a bare CR or LF goes on: {head:#?}");
        assert!(!text.contains(&0), "a NUL goes on: {head:#?}");
        assert_eq!(head.all("host").len(), 1, "{head:#?}");
        for (name, _) in &head.headers {
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{head:#?}");
        }
        // It ends a connection as it likes; what is left unread then was no whole request.
        let Some(body) = body_of(&mut conn, &head).await else { return };
        seen.lock().unwrap().push(Got { head, body });
        if conn.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// `input` with the name of this round for the host that it asks.
fn with_host(input: &[u8], host: &str) -> Vec<u8> {
    let (mut out, mut rest) = (vec![], input);
    while let Some(at) = rest.windows(9).position(|part| part == b"Host: a\r\n") {
        out.extend_from_slice(&rest[..at]);
        out.extend(format!("Host: {host}\r\n").bytes());
        rest = &rest[at + 9..];
    }
    out.extend_from_slice(rest);
    out
}

/// Each of `seen` must be one of those in `bytes`, in order.
fn judge(bytes: &[u8], seen: &[Got]) {
    let mut reader = Reader::new(bytes);
    for got in seen {
        loop {
            let read = reader.request().unwrap_or_else(|why| panic!("{got:#?} was never sent ({why})"));
            // The proxy answers some by itself.
            let method = got.head.line.split(' ').next().unwrap();
            if read.whole && read.method == method && read.body == got.body {
                break;
            }
        }
    }
}

#[test]
fn requests() {
    let plan = Plan::new();
    let target = named("heads");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (inputs, reached) = runtime.block_on(async {
        let mut server = RawServer::start().await;
        let proxy = proxy(&server, &[]);
        let seen: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (mut inputs, mut reached) = (0, 0);
        let mut connections = JoinSet::new();
        for number in plan.rounds() {
            let number = variable("WSLUICE_FUZZ_ROUND").unwrap_or(number);
            let mut random = plan.random("requests", number);
            let host = format!("round{number}");
            let input = mutate::input(&target, &mut random);
            let bytes = with_host(input.get(1..).unwrap_or_default(), &host);
            let mut client = proxy.client().await;
            let talk = async {
                for piece in bytes.chunks(random.usize(1..2000)) {
                    if client.try_send(piece).await.is_err() {
                        break;
                    }
                }
                while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, client.input.fill(&mut client.io)).await {}
            };
            tokio::pin!(talk);
            loop {
                tokio::select! {
                    () = &mut talk => break,
                    conn = server.next() => drop(connections.spawn(serve(conn.unwrap(), Arc::clone(&seen)))),
                    Some(done) = connections.join_next() => {
                        if done.is_err() {
                            panic!("WSLUICE_FUZZ_SEED={} WSLUICE_FUZZ_ROUND={number}: {}", plan.seed, bytes.escape_ascii());
                        }
                    }
                }
            }
            // What has another name may come late of an earlier round.
            let is_ours = |got: &Got| got.head.get("host") == Some(&*host);
            let seen: Vec<Got> = seen.lock().unwrap().drain(..).filter(is_ours).collect();
            let judged = std::panic::catch_unwind(|| judge(&bytes, &seen));
            if let Err(panic) = judged {
                eprintln!("WSLUICE_FUZZ_SEED={} WSLUICE_FUZZ_ROUND={number}: {}", plan.seed, bytes.escape_ascii());
                std::panic::resume_unwind(panic);
            }
            inputs += 1;
            reached += seen.len();
        }
        never_panicked(&proxy);
        (inputs, reached)
    });
    assert!(inputs < 100 || reached > 0, "nothing reaches the server");
    println!("requests: {inputs} inputs, {reached} requests reached the server");
}
