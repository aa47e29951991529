//! Frames through the whole proxy: both peers speak at once, in pieces of any size, one of them or both anything at all, and
//! each must get what a plain reading of RFC 6455 leaves of it, byte for byte, and then the end that belongs to it.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use wsluice::ws::Side;
use wsluice::ws::tunnel::Validation;

use super::harness::{DEADLINE, Frame, Handshake, Io, Proxy, RawServer, within};
use super::targets::model::{self, Law, Wrong};
use super::targets::tunnel::{Ended, expected};
use super::targets::{mutate, named};
use super::{Plan, never_panicked, proxy, variable};

/// What a message and a frame may have: some have more.
const LIMIT: u64 = 100_000;

/// What one peer sends, and what is to become of it.
#[derive(Debug)]
struct Speech {
    from: Side,
    bytes: Vec<u8>,
    /// By how many bytes at a time.
    piece: usize,
    /// What of it reaches the other.
    expected: Vec<u8>,
    /// Where in that is a mask that the proxy chose.
    anew: Vec<usize>,
    ended: Ended,
    /// What reaches the other ends inside of a frame.
    is_cut: bool,
}

impl Speech {
    fn new(from: Side, validation: Validation, is_legal: bool, random: &mut fastrand::Rng) -> Speech {
        let mut bytes = vec![];
        for _ in 0..random.usize(0..12) {
            say(&mut bytes, from, is_legal, random);
        }
        if !is_legal && random.u8(0..4) != 0 {
            let target = named("scanner");
            let whole = bytes.len();
            let mut tail = bytes.split_off(random.usize(0..=whole));
            for _ in 0..random.usize(1..4) {
                mutate::change(&mut tail, &target, random);
            }
            bytes.extend(tail);
        }
        // By single bytes only what is short.
        let piece = [1, 7, 100, 4096, 1 << 20][random.usize(..5)].max(bytes.len() / 300);
        let law = Law::of(from, validation, LIMIT, LIMIT);
        let (expected, anew, ended) = match validation {
            Validation::Off => (bytes.clone(), vec![], Ended::Not),
            _ => expected(&bytes, law),
        };
        let is_cut = match model::read(&bytes, law).last() {
            Some(last) if validation != Validation::Off && ended == Ended::Not => !last.whole && !last.is_control(),
            _ => false,
        };
        Speech { from, bytes, piece, expected, anew, ended, is_cut }
    }

    /// `got` with nines for the masks that the proxy chose.
    fn plain(&self, mut got: Vec<u8>) -> Vec<u8> {
        for &start in &self.anew {
            let Some(frame) = got.get_mut(start..) else { break };
            let Some(length) = frame.get(1).map(|second| usize::from(second & 127)) else { break };
            let Some(frame) = frame.get_mut(2..6 + length) else { break };
            let (key, payload) = frame.split_at_mut(4);
            payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= key[at % 4] ^ 9);
            key.fill(9);
        }
        got
    }

    /// The codes with which the proxy may end the session for a peer: for who said this, or for the one that it reaches.
    fn codes(&self, to: Side) -> Vec<u16> {
        let Ended::Wrong(wrong) = &self.ended else {
            // A client that is lost has gone away; of a server that is, the route tells.
            return vec![if to == Side::Server { 1001 } else { 1012 }];
        };
        if to == Side::Server && self.from == Side::Client {
            return vec![1001];
        }
        let code = |wrong: &Wrong| match wrong {
            // The limit is the service's: no server is told that it broke a rule of the protocol.
            Wrong::FrameLarge | Wrong::MessageLarge if to == Side::Server => 1001,
            Wrong::FrameLarge | Wrong::MessageLarge => 1009,
            Wrong::CloseReason => 1007,
            _ => 1002,
        };
        wrong.iter().map(code).collect()
    }
}

/// Appends a message in one piece or some, or control frames.
fn say(bytes: &mut Vec<u8>, from: Side, is_legal: bool, random: &mut fastrand::Rng) {
    let size = [0, 1, 5, 124, 125, 126, 127, 1000, 65_535, 65_536, 90_000][random.usize(..11)];
    let contents: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
    let small = &contents[..size.min(125)];
    let frames = match random.u8(0..20) {
        0..3 => vec![Frame::ping(small)],
        3..6 => vec![Frame::pong(small)],
        6 if !is_legal => vec![Frame::new(8, [0x03, 0xE8, b'x'][..[0, 2, 3][random.usize(..3)]].to_vec())],
        7..9 => vec![Frame::text(""); random.usize(1..300)],
        9 => vec![Frame::pong(""); random.usize(1..300)],
        _ => {
            let pieces = random.usize(1..5);
            let mut frames = vec![];
            for (index, part) in contents.chunks((size / pieces).max(1)).enumerate() {
                let opcode = if index > 0 { 0 } else { random.u8(1..3) };
                frames.push(Frame::new(opcode, part).unfinished());
                if random.bool() {
                    frames.push(Frame::ping("between"));
                }
            }
            let opcode = if frames.is_empty() { 2 } else { 0 };
            frames.push(Frame::new(opcode, ""));
            frames
        }
    };
    for frame in frames {
        bytes.extend(frame.encode((from == Side::Client).then(|| random.u32(..).to_be_bytes())));
    }
}

/// One end of a session.
struct End {
    read: ReadHalf<Io>,
    write: WriteHalf<Io>,
    early: Vec<u8>,
}

impl End {
    fn new(conn: super::harness::Conn) -> End {
        let early = conn.input.rest().to_vec();
        let (read, write) = tokio::io::split(conn.io);
        End { read, write, early }
    }
}

/// When a peer ends its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// When it has said all.
    AtOnce,
    /// When both have got all that was said to them.
    Together,
    /// When it is told to: by a Close, which it answers, or the end of what is said to it.
    Last,
}

/// Speaks and listens. Gives what came, and whether its stream ended in order.
///
/// It answers a Close where frames are judged at all (`is_judged`).
async fn take_part(
    end: End,
    own: &Speech,
    other: &Speech,
    (leaves, is_judged): (Leaves, bool),
    ready: &[Notify; 2],
) -> (Vec<u8>, bool) {
    let End { mut read, mut write, early: mut got } = end;
    let told = Notify::new();
    let speaking = async {
        for piece in own.bytes.chunks(own.piece) {
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        match leaves {
            Leaves::AtOnce => {}
            Leaves::Last => {
                told.notified().await;
                if is_judged {
                    let mask = (own.from == Side::Client).then_some([1, 2, 3, 4]);
                    let _ = write.write_all(&Frame::new(8, "").encode(mask)).await;
                }
            }
            Leaves::Together => {
                ready[other.from as usize].notified().await;
                told.notified().await;
            }
        }
        let _ = write.shutdown().await;
    };
    let listening = async {
        let mut is_told = false;
        loop {
            let has_all = got.len() >= other.expected.len();
            let is_due = match leaves {
                Leaves::Last => {
                    has_all && (got.len() > other.expected.len() || matches!(other.ended, Ended::Closed(_)))
                }
                _ => has_all,
            };
            if is_due && !is_told {
                is_told = true;
                ready[own.from as usize].notify_one();
                told.notify_one();
            }
            match within("more, or an end", read.read_buf(&mut got)).await {
                Ok(0) => {
                    told.notify_one();
                    ready[own.from as usize].notify_one();
                    return (got, true);
                }
                Ok(_) => {}
                Err(_) => {
                    told.notify_one();
                    ready[own.from as usize].notify_one();
                    return (got, false);
                }
            }
        }
    };
    let ((), heard) = tokio::join!(speaking, listening);
    heard
}

/// How the two behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manners {
    /// Both keep the rules and leave together: each gets everything.
    Good,
    /// This one says anything and leaves; the other keeps the rules and stays until it is told.
    Bad(Side),
    /// Both say anything and leave.
    Worse,
}

async fn session(proxy: &Proxy, server: &mut RawServer, validation: Validation, random: &mut fastrand::Rng) {
    let mut client = proxy.client().await;
    client.send(Handshake::to("/x").bytes()).await;
    let mut server = server.accept().await;
    server.switch(&[]).await;
    assert_eq!(client.head().await.status(), 101);

    let manners =
        [Manners::Good, Manners::Bad(Side::Client), Manners::Bad(Side::Server), Manners::Worse][random.usize(..4)];
    let speech = |side: Side, random: &mut fastrand::Rng| {
        let is_legal = manners == Manners::Good || manners == Manners::Bad(side.other());
        Speech::new(side, validation, is_legal, random)
    };
    let (from_client, from_server) = (speech(Side::Client, random), speech(Side::Server, random));
    let leaves = |side| {
        let leaves = match manners {
            Manners::Good => Leaves::Together,
            Manners::Bad(bad) if bad != side => Leaves::Last,
            _ => Leaves::AtOnce,
        };
        (leaves, validation != Validation::Off)
    };
    let ready = [Notify::new(), Notify::new()];
    let ((at_client, client_whole), (at_server, server_whole)) = tokio::join!(
        take_part(End::new(client), &from_client, &from_server, leaves(Side::Client), &ready),
        take_part(End::new(server), &from_server, &from_client, leaves(Side::Server), &ready),
    );
    let told = |side: Side, said: &Speech, own: &Speech, got: Vec<u8>, is_whole| {
        judge(&Judged { to: side, manners, validation, said, own, got: &said.plain(got), is_whole });
    };
    told(Side::Server, &from_client, &from_server, at_server, server_whole);
    told(Side::Client, &from_server, &from_client, at_client, client_whole);
}

/// What one peer has got.
struct Judged<'a> {
    to: Side,
    manners: Manners,
    validation: Validation,
    /// What the other said.
    said: &'a Speech,
    /// What it said itself.
    own: &'a Speech,
    got: &'a [u8],
    /// Its stream ended in order.
    is_whole: bool,
}

fn judge(judged: &Judged<'_>) {
    let Judged { to, manners, validation, said, own, got, is_whole } = *judged;
    let same = got.iter().zip(&said.expected).take_while(|(one, other)| one == other).count();
    let what = || {
        let behind = &got[same..];
        let (all, behind) = (said.expected.len(), &behind[..behind.len().min(40)]);
        format!(
            "{validation:?}, {manners:?}: the {to:?} got {} bytes, {same} of {all} as they were said, then {behind:02x?} \
             (in order: {is_whole}); what was said ended so: {:?}, in a frame: {}; its own: {:?}",
            got.len(),
            said.ended,
            said.is_cut,
            own.ended,
        )
    };
    let (before, code) = last_close(to, &said.expected, got).unwrap_or_else(|| panic!("{}", what()));
    let is_all = before == said.expected.len();
    let is_good = manners == Manners::Good || manners == Manners::Bad(to.other());
    if is_good {
        // It was there to the end, so all that was said has come.
        assert!(is_all && is_whole, "{}", what());
    }
    if validation == Validation::Off {
        assert_eq!(code, None, "{}", what());
        return;
    }
    match (manners, code) {
        // It ends as the table has it.
        (Manners::Bad(bad), _) if bad != to => match (&said.ended, said.is_cut) {
            (Ended::Closed(_), _) | (_, true) => assert_eq!(code, None, "{}", what()),
            _ => assert!(code.is_some_and(|code| said.codes(to).contains(&code)), "{}: {code:?}", what()),
        },
        // It is told what it did wrong.
        (Manners::Bad(_), _) if matches!(own.ended, Ended::Wrong(_)) => {
            assert!(code.is_some_and(|code| own.codes(to).contains(&code)), "{}: {code:?}", what());
        }
        (_, Some(code)) => {
            let allowed = [said.codes(to), own.codes(to), vec![1000, 1001]].concat();
            assert!(allowed.contains(&code), "{}: {code}", what());
        }
        (_, None) => {}
    }
}

/// How much of `said` is in `got`, and the code of the Close behind it, if there is one; `None` if there is anything else.
fn last_close(to: Side, said: &[u8], got: &[u8]) -> Option<(usize, Option<u16>)> {
    if said.starts_with(got) {
        return Some((got.len(), None));
    }
    let header = if to == Side::Client { 2 } else { 6 };
    // A Close may begin as what was said goes on.
    (0..got.len()).rev().take(header + 126).find_map(|at| {
        let frame = &got[at..];
        let (&first, &second) = (frame.first()?, frame.get(1)?);
        let length = usize::from(second & 127);
        if first != 0x88
            || frame.len() != header + length
            || (second >= 128) != (to == Side::Server)
            || !said.starts_with(&got[..at])
        {
            return None;
        }
        let mut body = frame[header..].to_vec();
        if to == Side::Server {
            body.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= frame[2 + at % 4]);
        }
        assert_eq!(model::wrong_close(&body), None, "{body:02x?}");
        // An answer to a Close without a code has none either.
        Some((at, Some(body.first_chunk().map_or(1000, |code| u16::from_be_bytes(*code)))))
    })
}

#[test]
fn frames() {
    let plan = Plan::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sessions = runtime.block_on(async {
        let mut kinds = vec![];
        for (name, validation) in
            [("strict", Validation::Strict), ("lenient", Validation::Lenient), ("off", Validation::Off)]
        {
            let server = RawServer::start().await;
            let mut route = vec![format!("validate: {name}")];
            if validation != Validation::Off {
                route.push("on_upstream_lost: { close: 1012 }".to_owned());
                route.push(format!("limits: {{ message: {LIMIT}B, frame: {LIMIT}B }}"));
            }
            let route: Vec<&str> = route.iter().map(String::as_str).collect();
            let proxy = proxy(&server, &route);
            kinds.push((server, proxy, validation));
        }
        let mut sessions = 0;
        for number in plan.rounds() {
            let number = variable("WSLUICE_FUZZ_ROUND").unwrap_or(number);
            for (server, proxy, validation) in &mut kinds {
                let mut random = plan.random("frames", number);
                let session = AssertUnwindSafe(session(proxy, server, *validation, &mut random)).catch_unwind();
                let done = tokio::time::timeout(2 * DEADLINE, session).await;
                if !matches!(done, Ok(Ok(()))) {
                    eprintln!(
                        "again: WSLUICE_FUZZ_SEED={} WSLUICE_FUZZ_ROUND={number} cargo test --test fuzz frames",
                        plan.seed
                    );
                }
                match done.expect("a session that ends") {
                    Ok(()) => sessions += 1,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        }
        for (_, proxy, _) in &kinds {
            proxy.idle().await;
            never_panicked(proxy);
        }
        sessions
    });
    println!("frames: {sessions} sessions");
}
