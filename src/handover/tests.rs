//! Both sides of a handover in one process: what is handed over, that a failure changes nothing, and that nothing leaks.
//! `tests/it/handover.rs` uses two processes.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::future::pending;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use super::channel::Channel;
use super::message::HandoverMessage;
use super::offer::ChildProcess;
use super::steps::OldStep;
use super::*;
use crate::net::listener::{Address, Bound, adopt, bind};
use crate::upstream;
use crate::upstream::endpoint_state::{ConnectionPermit, EndpointStates};

/// The time limit of steps that must miss it.
const SHORT: Duration = Duration::from_millis(100);

fn no_sessions(_: Vec<batch::Inbound>) -> Judgement {
    panic!("nothing was to move")
}

fn loopback() -> Bound {
    bind(&"127.0.0.1:0".parse().unwrap(), 2).unwrap()
}

/// The state of a process: its sessions and metrics.
struct Process {
    states: EndpointStates,
    metrics: Metrics,
    families: upstream::metrics::Metrics,
}

impl Process {
    fn new() -> Process {
        let registry = Registry::new();
        let (metrics, families) = (Metrics::register(&registry), upstream::metrics::Metrics::register(&registry));
        Process { states: EndpointStates::default(), metrics: metrics.unwrap(), families: families.unwrap() }
    }

    fn state(&self, endpoint: &str) -> Arc<upstream::endpoint_state::EndpointState> {
        self.states.of("chat", endpoint, || self.families.endpoint("chat", endpoint, &[]))
    }

    fn session(&self, endpoint: &str) -> ConnectionPermit {
        self.state(endpoint).enter(u32::MAX).unwrap()
    }

    /// Follows the predecessors until the load has this value.
    async fn sees(&self, before: &mut Predecessors, endpoint: &str, load: u32) {
        let live = self.state(endpoint);
        let follow = async {
            while live.load() != load {
                let step = Duration::from_millis(5);
                let _ = tokio::time::timeout(step, before.follow(&self.states, &self.metrics, &no_sessions)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), follow).await.unwrap();
    }
}

/// Runs both sides of a handover in this process; the new side takes the listeners `wanted`.
async fn hand_over(
    offer: HandoverOffer,
    old: &Process,
    before: &Predecessors,
    new: &Process,
    wanted: &[&Address],
) -> (Reporter, Predecessors, Vec<Bound>) {
    let (channel, end) = Channel::pair().unwrap();
    let deadlines = Deadlines::default();
    let ours = async {
        let prepared = offer.send_over(channel, ChildProcess::none(), deadlines).await.unwrap();
        prepared.hand_over(before, &old.states, Known::default()).await.unwrap()
    };
    let theirs = async {
        let (prepared, mut inheritance) = Successor::new(end, deadlines).receive_offer().await.unwrap();
        let adopted = wanted.iter().map(|wanted| {
            let (address, inherited) = inheritance.take("any", wanted).unwrap();
            adopt(&address, inherited, 2).unwrap()
        });
        let mut adopted: Vec<Bound> = adopted.collect();
        let mut activated = prepared.ready().await.unwrap();
        activated.predecessors().show(&new.states, &new.metrics);
        adopted.iter_mut().for_each(|bound| bound.take_charge().unwrap());
        (activated.confirm(inheritance).await, adopted)
    };
    let (reporter, (before, adopted)) = tokio::join!(ours, theirs);
    (reporter, before, adopted)
}

#[tokio::test(flavor = "current_thread")]
async fn listeners_and_counts_go_over_and_no_waiting_connection_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let removed = loopback();
    let (tcp, unix) = (loopback(), bind(&Address::Unix(path.clone()), 2).unwrap());
    let mut offer = HandoverOffer::default();
    offer.add("plain", &tcp).unwrap();
    offer.add("unix", &unix).unwrap();
    offer.add("removed", &removed).unwrap();
    let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(tcp.address().tcp().unwrap()).unwrap()).collect();
    let (old, new) = (Process::new(), Process::new());
    let seats = [old.session("a"), old.session("a"), old.session("b")];
    let wanted = [tcp.address(), unix.address()];
    let (mut reporter, mut before, adopted) = hand_over(offer, &old, &Predecessors::default(), &new, &wanted).await;
    assert_eq!(new.state("a").load(), 2, "known before the first connection");
    assert_eq!(reporter.unwanted(), [removed.address().clone()]);
    unix.leave_file();
    drop((tcp, unix));
    let waiting = (0..2).flat_map(|worker| adopted[0].for_worker(worker).unwrap().into_waiting());
    assert_eq!(waiting.count(), clients.len());
    UnixStream::connect(&path).unwrap();
    drop(adopted);
    assert!(!path.exists());

    let [first, ..] = seats;
    drop(first);
    reporter.report(old.states.counts()).await.unwrap();
    new.sees(&mut before, "a", 1).await;
    // The old process opens a session that it had admitted before, on an endpoint that is new to the new process.
    let _late = old.session("late");
    reporter.report(old.states.counts()).await.unwrap();
    new.sees(&mut before, "late", 1).await;
    drop(reporter);
    new.sees(&mut before, "a", 0).await;
    assert!(before.is_empty());
}

#[tokio::test(flavor = "current_thread")]
async fn more_sockets_than_go_with_one_message_arrive_as_one_listener() {
    let bound = bind(&"127.0.0.1:0".parse().unwrap(), 300).unwrap();
    let mut offer = HandoverOffer::default();
    offer.add("wide", &bound).unwrap();
    let (old, new) = (Process::new(), Process::new());
    let (reporter, _, adopted) = hand_over(offer, &old, &Predecessors::default(), &new, &[bound.address()]).await;
    assert_eq!((reporter.unwanted().len(), adopted[0].descriptors().len()), (0, 300));
}

#[tokio::test(flavor = "current_thread")]
async fn through_twenty_upgrades_no_count_is_lost_whoever_ends_first() {
    let mut now = Process::new();
    let mut before = Predecessors::default();
    let mut old = vec![];
    for generation in 0..20 {
        let seat = now.session("a");
        let next = Process::new();
        let (reporter, heard, _) = hand_over(HandoverOffer::default(), &now, &before, &next, &[]).await;
        // The ends that the one in the middle had are closed with it; the new one has its own.
        before = heard;
        old.push((std::mem::replace(&mut now, next), reporter, seat));
        assert_eq!((before.len(), now.state("a").load()), (generation + 1, generation as u32 + 1));
    }
    // From the middle, from the first, from the last: each is heard by the one that is left.
    for index in [10, 0, 17] {
        let (process, mut reporter, seat) = old.remove(index);
        let _second = process.session("a");
        reporter.report(process.states.counts()).await.unwrap();
        let all = old.len() as u32 + 2;
        now.sees(&mut before, "a", all).await;
        drop((reporter, seat));
        now.sees(&mut before, "a", all - 2).await;
    }
    assert_eq!(before.len(), 17);
    drop(old);
    now.sees(&mut before, "a", 0).await;
    assert!(before.is_empty());
}

/// A socket in an offer, and the other end, which sees when the last copy of it is closed.
fn watched_offer() -> (HandoverOffer, Bound, Address) {
    let bound = loopback();
    let mut offer = HandoverOffer::default();
    offer.add("plain", &bound).unwrap();
    let address = bound.address().clone();
    (offer, bound, address)
}

/// How an attempt ends when the other side does this.
async fn fails(deadlines: Deadlines, theirs: impl AsyncFnOnce(Channel)) -> UpgradeError {
    let (offer, bound, address) = watched_offer();
    let (old, before) = (Process::new(), Predecessors::default());
    let (channel, end) = Channel::pair().unwrap();
    let ours = async {
        let prepared = offer.send_over(channel, ChildProcess::none(), deadlines).await?;
        prepared.hand_over(&before, &old.states, Known::default()).await
    };
    let theirs = async {
        theirs(end).await;
        pending::<()>().await
    };
    let ended = tokio::select! { ended = ours => ended.unwrap_err(), () = theirs => unreachable!() };
    // As if nothing had happened.
    TcpStream::connect(address.tcp().unwrap()).unwrap();
    let waiting = (0..2).flat_map(|worker| bound.for_worker(worker).unwrap().into_waiting());
    assert_eq!(waiting.count(), 1);
    drop(bound);
    // A child that another test starts just now has a copy until its exec.
    let is_refused = || match TcpStream::connect(address.tcp().unwrap()) {
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Ok(_) => {
            std::thread::sleep(Duration::from_millis(5));
            false
        }
    };
    assert!((0..1000).any(|_| is_refused()), "a copy is open somewhere");
    ended
}

#[tokio::test(flavor = "current_thread")]
async fn whatever_the_new_one_does_the_old_one_has_all_it_had() {
    let long = Deadlines::default();
    let inventory = async |end| Successor::new(end, Deadlines::default()).receive_offer().await.unwrap();
    let endings = [
        fails(long, async |end| drop(end)).await,
        fails(long, async |end| drop(inventory(end).await)).await,
        fails(long, async |end| inventory(end).await.0.refuse("the certificate is bad").await).await,
        fails(Deadlines { ready: SHORT, ..long }, async |end| {
            let _held = inventory(end).await;
            pending().await
        })
        .await,
        fails(long, async |end| drop(inventory(end).await.0.ready().await.unwrap())).await,
        fails(Deadlines { taken: SHORT, ..long }, async |end| {
            let _held = inventory(end).await.0.ready().await.unwrap();
            pending().await
        })
        .await,
        fails(long, async |mut end| {
            end.send(&HandoverMessage::Taken { unwanted: vec![], takes_sessions: true }, &[]).await.unwrap();
            pending().await
        })
        .await,
        fails(long, async |end| {
            let sent = rustix::net::send(&end, b"wsl\x09\0\0{}", rustix::net::SendFlags::empty());
            assert_eq!(sent.unwrap(), 8);
        })
        .await,
    ];
    let labels = endings.each_ref().map(|error| error.attempt().label());
    let expected = ["not_ready", "not_ready", "refused", "timeout", "died", "timeout", "refused", "refused"];
    assert_eq!(labels, expected, "{endings:?}");
    assert!(endings[2].to_string().contains("the certificate is bad"));
    let steps = [&endings[3], &endings[5]].map(|error| match error {
        UpgradeError::Timeout { step, after } => (*step, *after),
        other => panic!("{other:?}"),
    });
    assert_eq!(steps, [(OldStep::Ready, SHORT), (OldStep::Taken, SHORT)]);
    assert!(matches!(&endings[7], UpgradeError::Unintelligible(message::MessageError::Version(9))));
}

#[tokio::test(flavor = "current_thread")]
async fn noise_of_the_new_one_is_refused_and_nothing_of_it_is_kept() {
    let long = Deadlines::default();
    let noise = async |bytes: &[u8]| {
        fails(long, async |end| {
            assert_eq!(rustix::net::send(&end, bytes, rustix::net::SendFlags::empty()).unwrap(), bytes.len());
            pending().await
        })
        .await
    };
    let deep = [b"wsl\x01\0\0".as_slice(), &[b'['; 60_000]].concat();
    for (bytes, expected) in [(b"garbage".as_slice(), "refused"), (&deep, "refused"), (b"", "not_ready")] {
        assert_eq!(noise(bytes).await.attempt().label(), expected);
    }
    let chatty = HandoverMessage::Refused { reason: "x".repeat(60_000) };
    let UpgradeError::Refused(reason) = noise(&message::encode(&chatty, 0).unwrap()).await else { panic!("refused") };
    assert_eq!(reason.len(), offer::REASON_CHARS_MAX);

    let (mut kept, given) = UnixStream::pair().unwrap();
    let descriptors = fails(Deadlines { ready: SHORT, ..long }, async |mut end| {
        for _ in 0..100 {
            end.send(&HandoverMessage::Unknown, &[given.as_fd(); message::DESCRIPTORS_MAX]).await.unwrap();
        }
        drop(given);
        pending().await
    });
    assert!(matches!(descriptors.await, UpgradeError::Timeout { step: OldStep::Ready, .. }));
    // A child that another test starts just now has a copy until its exec.
    kept.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(std::io::Read::read(&mut kept, &mut [0]).unwrap(), 0, "a copy is open somewhere");
}

#[tokio::test(flavor = "current_thread")]
async fn a_failed_attempt_leaves_the_predecessors_with_the_old_one() {
    let (first, second, third) = (Process::new(), Process::new(), Process::new());
    let seat = first.session("a");
    let (mut reporter, mut before, _) =
        hand_over(HandoverOffer::default(), &first, &Predecessors::default(), &second, &[]).await;
    let (channel, end) = Channel::pair().unwrap();
    let ours = async {
        let prepared =
            HandoverOffer::default().send_over(channel, ChildProcess::none(), Deadlines::default()).await.unwrap();
        prepared.hand_over(&before, &second.states, Known::default()).await
    };
    let theirs = async {
        let (prepared, _) = Successor::new(end, Deadlines::default()).receive_offer().await.unwrap();
        drop(prepared.ready().await.unwrap());
    };
    let (failed, ()) = tokio::join!(ours, theirs);
    assert_eq!(failed.unwrap_err().attempt(), Attempt::Died);
    let more = first.session("a");
    reporter.report(first.states.counts()).await.unwrap();
    second.sees(&mut before, "a", 2).await;
    // And the next attempt takes them along.
    let (_second, mut before, _) = hand_over(HandoverOffer::default(), &second, &before, &third, &[]).await;
    assert_eq!(third.state("a").load(), 2);
    drop((seat, more));
    reporter.report(first.states.counts()).await.unwrap();
    third.sees(&mut before, "a", 0).await;
    assert_eq!(before.len(), 2);
}

#[tokio::test(flavor = "current_thread")]
async fn the_new_one_ends_when_the_old_one_does_not_keep_to_the_order() {
    let error = async |theirs: &dyn Fn(OwnedFd), ready: bool| {
        let (channel, end) = Channel::pair().unwrap();
        theirs(channel.into_descriptor());
        match Successor::new(end, Deadlines { ready: SHORT, taken: SHORT }).receive_offer().await {
            Err(error) => error,
            Ok((prepared, _)) if ready => prepared.ready().await.unwrap_err(),
            Ok(_) => panic!("there is no inventory"),
        }
    };
    let say = |end: &OwnedFd, messages: &[HandoverMessage]| {
        for message in messages {
            let packet = message::encode(message, 0).unwrap();
            rustix::net::send(end, &packet, rustix::net::SendFlags::empty()).unwrap();
        }
    };
    let offered = HandoverMessage::Offered { pid: 1, version: String::new(), upgrades: 1, moves: false };
    let gone = error(&|_end| {}, false).await;
    assert!(matches!(gone, SuccessionError::Gone(steps::NewStep::Offer)), "{gone:?}");
    let early = error(&|end| say(&end, &[HandoverMessage::Take]), false).await;
    assert!(matches!(early, SuccessionError::OutOfTurn(steps::NewStep::Offer)), "{early:?}");
    let held = std::cell::RefCell::new(vec![]);
    let hangs = |messages: &[HandoverMessage], end: OwnedFd| {
        say(&end, messages);
        held.borrow_mut().push(end);
    };
    let late = error(&|end| hangs(&[], end), false).await;
    assert!(matches!(late, SuccessionError::Timeout(steps::NewStep::Offer)), "{late:?}");
    let late = error(&|end| hangs(std::slice::from_ref(&offered), end), true).await;
    assert!(matches!(late, SuccessionError::Timeout(steps::NewStep::Take)), "{late:?}");
    let twice = error(&|end| hangs(&[offered.clone(), offered.clone()], end), true).await;
    assert!(matches!(twice, SuccessionError::OutOfTurn(steps::NewStep::Take)), "{twice:?}");
}

#[test]
fn the_results_of_upgrades_are_a_closed_set_that_is_shown_from_the_start() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    metrics.attempted(Attempt::Timeout);
    metrics.inherited(3);
    let text = crate::telemetry::exposition::encode(&registry).unwrap();
    for attempt in Attempt::ALL {
        let count = u8::from(attempt == Attempt::Timeout);
        let line = format!("wsluice_upgrades_total{{result=\"{}\"}} {count}", attempt.label());
        assert!(text.contains(&line), "{line}");
    }
    assert!(text.contains("wsluice_inherited_listeners 3"));
}

/// A session of a test: the other ends of its two sockets, and what is sent of it.
struct Travelling {
    peers: [UnixStream; 2],
    sockets: [OwnedFd; 2],
    state: Vec<u8>,
}

fn travelling(count: usize) -> Vec<Travelling> {
    let session = |number: usize| {
        let ((client, near), (server, far)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        Travelling { peers: [client, server], sockets: [near.into(), far.into()], state: vec![number as u8; number] }
    };
    (0..count).map(session).collect()
}

fn outbound(sessions: &[Travelling]) -> Vec<batch::Outbound<'_>> {
    let each = sessions.iter().map(|Travelling { sockets: [client, server], state, .. }| batch::Outbound {
        state,
        sockets: [client.as_fd(), server.as_fd()],
    });
    each.collect()
}

#[tokio::test(flavor = "current_thread")]
async fn sessions_go_over_with_their_sockets_and_those_that_are_refused_stay() {
    let (old, new) = (Process::new(), Process::new());
    let seats: Vec<_> = (0..4).map(|_| old.session("a")).collect();
    let (mut reporter, mut before, _) =
        hand_over(HandoverOffer::default(), &old, &Predecessors::default(), &new, &[]).await;
    assert!(reporter.takes_sessions());
    let sessions = travelling(4);
    let running = std::rc::Rc::new(std::cell::RefCell::new(vec![]));
    let judge = |inbound: Vec<batch::Inbound>| {
        let running = std::rc::Rc::clone(&running);
        let start = move || {
            let taken = inbound.into_iter().filter(|inbound| inbound.state.len() != 2);
            running.borrow_mut().extend(taken);
            vec![("chat".to_owned(), "a".to_owned()); 3]
        };
        Judgement { refused: vec![(2, "no room".into())], start: Box::new(start) }
    };
    let theirs = async {
        loop {
            let _ = tokio::time::timeout(SHORT, before.follow(&new.states, &new.metrics, &judge)).await;
            if !running.borrow().is_empty() {
                return new.state("a").load();
            }
        }
    };
    let (given, load) = tokio::join!(async { reporter.give(&outbound(&sessions)).await }, theirs);
    assert_eq!(given.unwrap(), [(2, "no room".to_owned())]);
    assert_eq!(load, 1, "what has come is not counted with the old process any more");
    for inbound in running.borrow_mut().drain(..) {
        let number = inbound.state.len();
        assert_eq!(*inbound.state, vec![number as u8; number]);
        for (socket, mut peer) in inbound.sockets.into_iter().zip(&sessions[number].peers) {
            std::io::Write::write_all(&mut UnixStream::from(socket), &[number as u8]).unwrap();
            let mut heard = [9];
            std::io::Read::read_exact(&mut peer, &mut heard).unwrap();
            assert_eq!(heard, [number as u8]);
        }
    }
    drop(seats);
}

#[tokio::test(flavor = "current_thread")]
async fn whenever_the_new_process_ends_before_it_has_taken_them_the_old_one_keeps_its_sessions() {
    // How far it comes before it ends.
    for steps in 0..4 {
        let (old, new) = (Process::new(), Process::new());
        let (mut reporter, before, _) =
            hand_over(HandoverOffer::default(), &old, &Predecessors::default(), &new, &[]).await;
        let sessions = travelling(3);
        let mut end = before.each.into_iter().next().unwrap().into_channel();
        let theirs = async {
            if steps >= 1 {
                let (message, _sockets) = end.receive().await.unwrap();
                assert!(matches!(message, HandoverMessage::Sessions { batch: 1, count: 3 }));
            }
            if steps >= 2 {
                end.send(&HandoverMessage::Judged { batch: 1, refused: vec![] }, &[]).await.unwrap();
            }
            if steps >= 3 {
                assert_eq!(end.receive().await.unwrap().0, HandoverMessage::Commit { batch: 1 });
            }
            drop(end);
        };
        let (given, ()) = tokio::join!(async { reporter.give(&outbound(&sessions)).await }, theirs);
        assert!(matches!(given, Err(NotGiven::Gone(_))), "{steps}: {given:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_process_that_takes_them_and_ends_has_taken_them() {
    let (old, new) = (Process::new(), Process::new());
    let (mut reporter, before, _) =
        hand_over(HandoverOffer::default(), &old, &Predecessors::default(), &new, &[]).await;
    let mut end = before.each.into_iter().next().unwrap().into_channel();
    let theirs = async {
        end.receive().await.unwrap();
        end.send(&HandoverMessage::Judged { batch: 1, refused: vec![] }, &[]).await.unwrap();
        end.receive().await.unwrap();
        end.send(&HandoverMessage::Adopted { batch: 1 }, &[]).await.unwrap();
        drop(end);
    };
    let sessions = travelling(1);
    let (given, ()) = tokio::join!(async { reporter.give(&outbound(&sessions)).await }, theirs);
    assert_eq!(given.unwrap(), []);
}

#[tokio::test(flavor = "current_thread")]
async fn a_process_that_hangs_does_not_get_them_later() {
    let (old, new) = (Process::new(), Process::new());
    let (mut reporter, mut before, _) =
        hand_over(HandoverOffer::default(), &old, &Predecessors::default(), &new, &[]).await;
    let mut sessions = travelling(2);
    let given = reporter.give(&outbound(&sessions)).await;
    assert!(matches!(given, Err(NotGiven::Late)), "{given:?}");
    // It wakes up, and finds the batch and its revocation.
    let judged = std::cell::Cell::new(0);
    let judge = |inbound: Vec<batch::Inbound>| {
        judged.set(judged.get() + inbound.len());
        Judgement { refused: vec![], start: Box::new(move || panic!("{} were revoked", inbound.len())) }
    };
    for _ in 0..10 {
        let _ = tokio::time::timeout(SHORT / 10, before.follow(&new.states, &new.metrics, &judge)).await;
    }
    assert_eq!(judged.get(), 2);
    // No copy of their sockets is left there.
    let Travelling { peers: [mut client, _], sockets, .. } = sessions.remove(0);
    drop(sockets);
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_batch_that_its_receiver_has_let_go_of_stays_with_its_sender() {
    let (old, new) = (Process::new(), Process::new());
    let (mut reporter, mut before, _) =
        hand_over(HandoverOffer::default(), &old, &Predecessors::default(), &new, &[]).await;
    // It knows of no such batch, as after it was let go of.
    reporter.channel.send(&HandoverMessage::Commit { batch: 7 }, &[]).await.unwrap();
    let follow = async { before.follow(&new.states, &new.metrics, &no_sessions).await };
    let answer = tokio::select! {
        answer = reporter.channel.receive() => answer.unwrap().0,
        () = follow => unreachable!(),
    };
    assert!(matches!(answer, HandoverMessage::Unreceived { .. }), "{answer:?}");
    let mut end = before.each.into_iter().next().unwrap().into_channel();
    let sessions = travelling(2);
    let theirs = async {
        end.receive().await.unwrap();
        end.send(&HandoverMessage::Judged { batch: 1, refused: vec![] }, &[]).await.unwrap();
        end.receive().await.unwrap();
        end.send(&answer, &[]).await.unwrap();
        end
    };
    let (given, _end) = tokio::join!(async { reporter.give(&outbound(&sessions)).await }, theirs);
    assert!(matches!(given, Err(NotGiven::Unreceived(_))), "{given:?}");
}
