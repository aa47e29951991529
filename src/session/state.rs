//! A session written down, to go on in another process.
//!
//! Everything that a session is stands in [`SessionState`], and nowhere else: taking a session apart names each of its fields,
//! so whoever gives it one more must say here what becomes of it. Names stand for what both processes have: listener, route,
//! upstream and endpoint. Points in time stay as they are, since all processes of a machine have the same monotonic clock.
//! What is counted in shared places (permits, gauges, the registry) is not written down but taken anew.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use super::relay::{Relay, RelayState};
use super::stop::StopNotice;
use super::{
    Live, RouteSessions, Session, SessionClient, SessionCounts, SessionEntry, SessionRecord, SessionResources,
};
use crate::base::labels::variant_labels;
use crate::base::time::MonotonicTime;
use crate::net::portable::{Obstacle, Portable};
use crate::net::transport::RelayIo;
use crate::policy::clients::HeaderDigest;
use crate::policy::recheck::PendingRecheck;
use crate::session::registry::Guard;
use crate::upstream::endpoint_state::EndpointState;
use crate::ws::tunnel::TunnelSettings;

/// Why a session stays in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Immovable {
    /// Its closing handshake has begun.
    Closing,
    /// The state of its TLS cannot be written down.
    Tls,
    /// It is a stream of a connection that others share.
    Shared,
}

variant_labels! {
    Immovable {
        Closing => "closing",
        Tls => "tls",
        Shared => "http2",
    }
}

/// A session without its sockets. `C` and `S` are the states of its connections to the client and to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState<C, S> {
    relay: RelayState,
    client: C,
    server: S,
    /// What its log line will say; absent if it is not logged.
    record: Option<Box<SessionRecord>>,
    /// When and why it was asked to stop.
    stops: Vec<StopNotice>,
    /// Its client.
    client_identity: SessionClient,
    /// The header that has told its client, where clients are told by one.
    header_client: Option<HeaderDigest>,
    /// When its credential expires.
    expires: Option<MonotonicTime>,
    /// What a service is asked about it again, and when.
    recheck: Option<PendingRecheck>,
    /// Name of its listener.
    pub listener: Arc<str>,
    /// Name of its route.
    pub route: Arc<str>,
    /// Name of its upstream.
    pub upstream: Arc<str>,
    /// Name of its endpoint.
    pub endpoint: Arc<str>,
}

impl<C, S> SessionState<C, S> {
    /// See [`Tunnel::share_settings`](crate::ws::tunnel::Tunnel::share_settings).
    pub fn share_settings(&mut self, settings: &Arc<TunnelSettings>) -> &Arc<TunnelSettings> {
        self.relay.share_settings(settings)
    }

    /// Returns when and why it was asked to stop.
    pub fn stops(&self) -> &[StopNotice] {
        &self.stops
    }

    /// Returns its client.
    pub fn client(&self) -> &SessionClient {
        &self.client_identity
    }

    /// Returns the header that has told its client, where clients are told by one.
    pub fn header_client(&self) -> Option<HeaderDigest> {
        self.header_client
    }

    /// Returns when its credential expires.
    pub fn expires(&self) -> Option<MonotonicTime> {
        self.expires
    }

    /// Takes out what a service is asked about it again, and when.
    pub fn take_recheck(&mut self) -> Option<PendingRecheck> {
        self.recheck.take()
    }

    /// Asks it to stop at this time too.
    pub fn add_stop(&mut self, stop: StopNotice) {
        self.stops.push(stop);
    }

    /// Returns its description for the registry.
    pub fn entry(&self, route: Arc<RouteSessions>, endpoint_state: Arc<EndpointState>) -> SessionEntry {
        let client = self.client_identity.clone();
        SessionEntry { route, endpoint_state, client, opened: self.relay.tunnel().opened() }
    }

    /// Returns when data last passed.
    pub fn data_at(&self) -> MonotonicTime {
        self.relay.tunnel().data_at()
    }
}

/// What stays of a session that was taken apart. Dropping it releases its places.
#[derive(Debug)]
pub struct Parked<H> {
    route: Arc<RouteSessions>,
    guard: Guard<SessionEntry>,
    resources: H,
}

impl<H> Parked<H> {
    /// Makes it of places that were taken for a session which comes from another process. The session counts as open from
    /// now on.
    pub fn new(route: Arc<RouteSessions>, guard: Guard<SessionEntry>, resources: H) -> Parked<H> {
        route.metrics.arrived();
        Parked { route, guard, resources }
    }

    /// Counts the session as gone to another process.
    pub fn left(self) {
        self.route.metrics.left();
    }
}

/// A session that was taken apart: its state, its sockets (client, server), and what stays here.
pub type Apart<C, S, H> = (SessionState<C, S>, [OwnedFd; 2], Parked<H>);

impl<C, S, H> Session<C, S, H>
where
    C: AsyncRead + AsyncWrite + RelayIo + Portable + Unpin,
    S: AsyncRead + AsyncWrite + RelayIo + Portable + Unpin,
    H: SessionResources,
{
    /// Returns the guard of its entry in the registry.
    pub fn guard(&self) -> Option<&Guard<SessionEntry>> {
        self.0.as_ref().map(|live| &live.guard)
    }

    /// Returns why it cannot go to another process now; `None` if it can.
    pub fn stays(&self) -> Option<Immovable> {
        let Some(Live { relay, .. }) = &self.0 else { return Some(Immovable::Closing) };
        let (client, server) = relay.connections();
        if relay.tunnel().is_closing() && !relay.tunnel().is_half_closed() {
            return Some(Immovable::Closing);
        }
        client.obstacle().or_else(|| server.obstacle()).map(|obstacle| match obstacle {
            Obstacle::Tls => Immovable::Tls,
            Obstacle::Shared => Immovable::Shared,
        })
    }

    /// Takes it apart between two polls: its state, its sockets (client, server), and what stays here. What is left is
    /// empty: it has no end and leaves no log line.
    ///
    /// # Errors
    /// If one of the connections cannot be taken apart: the session is then lost.
    pub fn take_apart(&mut self) -> io::Result<Apart<C::State, S::State, H>> {
        let Some(live) = self.0.take() else { return Err(io::ErrorKind::NotConnected.into()) };
        let Live { relay, guard, resources } = live;
        let (relay, client, server, observer) = relay.into_parts();
        let SessionCounts { route, record } = observer;
        let parked = Parked { route, guard, resources };
        let apart = || Ok::<_, io::Error>((client.into_parts()?, server.into_parts()?));
        let ((client, client_socket), (server, server_socket)) = match apart() {
            Ok(parts) => parts,
            Err(error) => {
                parked.left();
                return Err(error);
            }
        };
        let Parked { route, guard, resources } = &parked;
        let state = SessionState {
            relay,
            client,
            server,
            record,
            // An end of the old process is none of the session.
            stops: guard.stops().into_iter().filter(|stop| !stop.why.is_of_process()).collect(),
            client_identity: guard.member().map_or(SessionClient::Address(None), |member| member.client),
            header_client: resources.header_client(),
            expires: guard.expires(),
            recheck: resources.recheck(),
            listener: Arc::clone(&route.listener),
            route: Arc::clone(&route.route),
            upstream: route.upstream.name.as_str().into(),
            endpoint: resources.endpoint_state().endpoint().into(),
        };
        Ok((state, [client_socket, server_socket], parked))
    }

    /// Puts it together in this process, with the places that it has here. The registry's entry has joined.
    ///
    /// # Errors
    /// If a connection cannot be put together: the session is then lost.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn from_parts(
        state: SessionState<C::State, S::State>,
        [client_socket, server_socket]: [OwnedFd; 2],
        parked: Parked<H>,
    ) -> io::Result<Self> {
        let SessionState {
            relay,
            client,
            server,
            record,
            // They are asked in the registry.
            stops: _,
            expires: _,
            client_identity: _,
            // Counted anew, and asked anew.
            header_client: _,
            recheck: _,
            listener: _,
            route: _,
            upstream: _,
            endpoint: _,
        } = state;
        let together = || Ok((C::from_parts(client, client_socket)?, S::from_parts(server, server_socket)?));
        let (client, server) = match together() {
            Ok(connections) => connections,
            Err(error) => {
                parked.left();
                return Err(error);
            }
        };
        let Parked { route, guard, resources } = parked;
        let relay = Relay::from_parts(relay, client, server, SessionCounts { route, record });
        Ok(Session(Some(Live { relay, guard, resources })))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::task::Poll;
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::net::UnixStream;
    use tokio::time::{Instant, sleep_until};

    use super::*;
    use crate::base::clock;
    use crate::net::portable::TransportState;
    use crate::net::stream::Stream;
    use crate::net::transport::Transport;
    use crate::session::metrics::Initiator;
    use crate::session::registry::SessionRegistry;
    use crate::session::stop::StopReason;
    use crate::session::{CloseActions, ClosePolicy};
    use crate::tls::ServerStream;
    use crate::ws::Side;
    use crate::ws::close::{Close, CloseCode};
    use crate::ws::frame::Opcode;
    use crate::ws::scanner::{EndedMessage, Rsv, Violation};
    use crate::ws::tunnel::{End, Farewell, Observer, RateLimit, Tunnel};

    type Plain = Transport<ServerStream>;

    /// Counts bytes and messages of each side.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    struct Counts([(usize, u32); 2]);

    impl Observer for Counts {
        fn bytes(&mut self, from: Side, bytes: usize) {
            self.0[from as usize].0 += bytes;
        }
        fn message(&mut self, from: Side, _: EndedMessage, count: u32) {
            self.0[from as usize].1 += count;
        }
        fn control(&mut self, _: Side, _: Opcode, _: u32) {}
        fn delayed(&mut self, _: Side) {}
        fn tolerated(&mut self, _: Side, _: Violation) {}
        fn pinged(&mut self, _: Side) {}
        fn round_trip(&mut self, _: Side, _: Duration) {}
    }

    impl ClosePolicy for Counts {
        fn closing(&self, _: &End, _: Option<&StopReason>) -> CloseActions {
            let close = || Farewell::Close(Close::new(CloseCode::GOING_AWAY, ""));
            CloseActions { client: close(), server: close(), initiator: Initiator::Proxy, reason: "" }
        }
    }

    /// A frame of this length, fragments and control frames among them.
    fn frame(from: Side, kind: u8, length: usize) -> Vec<u8> {
        let first = [0x82, 0x81, 0x8a][usize::from(kind) % 3];
        let length = if first == 0x8a { length % 126 } else { length };
        let mask = if from == Side::Client { 0x80 } else { 0 };
        let mut frame = vec![first];
        match length {
            0..=125 => frame.push(mask | length as u8),
            126..=65535 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if mask != 0 {
            frame.extend([0; 4]);
        }
        frame.extend((0..length).map(|at| b'a' + (at % 23) as u8));
        frame
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A peer sends this many bytes.
        Send(bool, usize),
        /// A peer reads this many.
        Read(bool, usize),
        /// The session goes to another process.
        Move,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<bool>(), 1..9_usize).prop_map(|(client, count)| Step::Send(client, count)),
            (any::<bool>(), 1..200_000_usize).prop_map(|(client, count)| Step::Send(client, count)),
            (any::<bool>(), 1..300_000_usize).prop_map(|(client, count)| Step::Read(client, count)),
            Just(Step::Move),
            Just(Step::Move),
        ]
    }

    /// A peer: what it has yet to send, and what it has received.
    struct Peer {
        socket: UnixStream,
        unsent: Vec<u8>,
        received: Vec<u8>,
    }

    impl Peer {
        fn send(&mut self, count: usize) {
            let count = count.min(self.unsent.len());
            if count > 0
                && let Ok(sent) = self.socket.try_write(&self.unsent[..count])
            {
                self.unsent.drain(..sent);
            }
        }

        fn read(&mut self, count: usize) {
            let mut buffer = vec![0; count];
            if let Ok(read) = self.socket.try_read(&mut buffer) {
                self.received.extend_from_slice(&buffer[..read]);
            }
        }
    }

    /// Sends frames both ways through a relay that moves at the steps which say so. Returns what arrived.
    async fn run(settings: TunnelSettings, frames: [Vec<u8>; 2], steps: Vec<Step>) -> ([Vec<u8>; 2], Counts) {
        let ((client, near), (server, far)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let [from_client, from_server] = frames;
        let mut client = Peer { socket: client, unsent: from_client, received: vec![] };
        let mut server = Peer { socket: server, unsent: from_server, received: vec![] };
        let expected = [client.unsent.len(), server.unsent.len()];
        let plain = |socket: UnixStream| Plain::Plain(Stream::from(socket));
        let tunnel = Tunnel::new(Arc::new(settings), Rsv::None, [1, 2], clock::now());
        let mut relay = Relay::new(tunnel, (plain(near), vec![]), (plain(far), vec![]), Counts::default());
        let guard = SessionRegistry::<()>::new(1).enter(1);
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut steps = steps.into_iter();
        for round in 0..100_000 {
            match steps.next() {
                Some(Step::Send(true, count)) => client.send(count),
                Some(Step::Send(false, count)) => server.send(count),
                Some(Step::Read(true, count)) => client.read(count),
                Some(Step::Read(false, count)) => server.read(count),
                Some(Step::Move) => {
                    let (state, client, server, counts) = relay.into_parts();
                    let written = postcard::to_allocvec(&state).unwrap();
                    let read: RelayState = postcard::from_bytes(&written).unwrap();
                    assert_eq!(read, state);
                    let [client, server] = [client, server].map(|connection| {
                        let (TransportState::Plain(kind), socket) = connection.into_parts().unwrap() else { panic!() };
                        let written = postcard::to_allocvec(&kind).unwrap();
                        Plain::from_parts(TransportState::Plain(postcard::from_bytes(&written).unwrap()), socket)
                            .unwrap()
                    });
                    relay = Relay::from_parts(read, client, server, counts);
                }
                // The rest, as fast as it goes.
                None => {
                    for peer in [&mut client, &mut server] {
                        peer.send(1 << 16);
                        peer.read(1 << 18);
                    }
                }
            }
            let poll = poll_fn(|cx| Poll::Ready(relay.poll(cx, Pin::as_mut(&mut timer), &guard))).await;
            assert!(poll.is_pending(), "it has ended");
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            }
            if [server.received.len(), client.received.len()] == expected {
                break;
            }
        }
        let counts = relay.observer().clone();
        ([server.received, client.received], counts)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn whenever_a_session_moves_every_byte_arrives_once_and_in_order(
            client in prop::collection::vec((any::<u8>(), prop_oneof![0..300_usize, 0..200_000_usize]), 1..12),
            server in prop::collection::vec((any::<u8>(), prop_oneof![0..300_usize, 0..200_000_usize]), 1..12),
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let all = |from: Side, frames: &[(u8, usize)]| -> Vec<u8> {
                frames.iter().flat_map(|(kind, length)| frame(from, *kind, *length)).collect()
            };
            let frames = [all(Side::Client, &client), all(Side::Server, &server)];
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (arrived, counts) = runtime.block_on(run(TunnelSettings::UNLIMITED, frames.clone(), steps));
            prop_assert!(arrived == frames, "{} and {} bytes of {} and {}", arrived[0].len(), arrived[1].len(), frames[0].len(), frames[1].len());
            let data = |frames: &[(u8, usize)]| frames.iter().filter(|(kind, _)| kind % 3 != 2).count() as u32;
            prop_assert_eq!(counts, Counts([(frames[0].len(), data(&client)), (frames[1].len(), data(&server))]));
        }
    }

    /// A session at a fixed moment: half a header, bytes that wait, a record of the log, a stop.
    fn sample() -> SessionState<u8, u8> {
        use crate::session::{Quoted, RequestInfo, Texts};
        let at = MonotonicTime::from_micros(1_000_000);
        let rate = RateLimit::new(None, None, crate::ws::tunnel::Exceeding::Delay);
        let settings = TunnelSettings {
            idle: Some(Duration::from_secs(300)),
            control_per_second: Some(1000),
            rates: [Some(rate), None],
            ..TunnelSettings::UNLIMITED
        };
        let tunnel = Tunnel::new(Arc::new(settings), Rsv::None, [3, 4], at);
        let (client, server) = UnixStream::pair().unwrap();
        let [client, server] = [client, server].map(|socket| Plain::Plain(Stream::from(socket)));
        let relay = Relay::new(tunnel, (client, vec![0x81, 0xfe, 1]), (server, vec![]), Counts::default());
        let texts =
            Texts::new(&Quoted { host: "a", path: "/b", query: Some(""), request_id: None, user_agent: Some("c") });
        let cookie = (http::header::COOKIE, http::HeaderValue::from_static("a=1"));
        let question = crate::policy::recheck::KeptQuestion::of(&[cookie].into_iter().collect());
        let record = SessionRecord {
            traffic: Default::default(),
            request_info: RequestInfo {
                client: None,
                client_port: Some(7),
                http: http::Version::HTTP_11,
                tls: Some("1.3"),
                texts,
            },
            endpoint: "ws://e".into(),
            subprotocol: Some("chat".into()),
            is_deflated: true,
            requested: at,
            attempts: 1,
            waited_micros: 5,
            returned: Some(crate::balance::sticky::Returned::Hit),
        };
        SessionState {
            relay: relay.into_parts().0,
            client: 1,
            server: 2,
            record: Some(Box::new(record)),
            stops: vec![StopNotice { at, by: None, why: StopReason::Rebalance }],
            client_identity: SessionClient::Authenticated(Box::new(crate::session::AuthenticatedClient {
                address: "192.0.2.1".parse().ok(),
                subject: "ann".into(),
            })),
            header_client: Some(HeaderDigest::of(b"ann")),
            expires: Some(at),
            recheck: Some(PendingRecheck { question, due: at }),
            listener: "l".into(),
            route: "r".into(),
            upstream: "u".into(),
            endpoint: "ws://e".into(),
        }
    }

    /// If this fails, what is written of a session has changed: raise `VERSION` in `control/departures.rs`, and put the
    /// new bytes here. Otherwise two builds would take one for the other.
    #[tokio::test]
    async fn what_is_written_of_a_session_is_what_its_version_says() {
        let written = postcard::to_allocvec(&sample()).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &written);
        let hex: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((written.len(), hex.as_str()), (255, "dca2e6b879dcac38"));
        assert_eq!(postcard::from_bytes::<SessionState<u8, u8>>(&written).unwrap(), sample());
    }
}
