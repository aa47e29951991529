//! Tests of listening sockets as a client and the kernel see them.

use std::collections::HashSet;
use std::net::TcpStream as StdTcpStream;
use std::os::unix::net::UnixStream as StdUnixStream;

use std::time::Duration;

use super::*;
use crate::net::stream::{PeerAddr, Stream};

fn loopback() -> Address {
    "127.0.0.1:0".parse().unwrap()
}

fn connect(bound: &Bound) -> StdTcpStream {
    StdTcpStream::connect(bound.address().tcp().unwrap()).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn port_zero_is_resolved_once_and_shared_by_all_workers() {
    let bound = bind(&loopback(), 3).unwrap();
    assert_ne!(bound.address().tcp().unwrap().port(), 0);
    let ports: HashSet<_> = bound.sockets.iter().map(|s| s.local_addr().unwrap().as_socket().unwrap().port()).collect();
    assert_eq!((bound.sockets.len(), ports.len()), (3, 1));
}

#[tokio::test(flavor = "current_thread")]
async fn connections_spread_over_the_workers() {
    const CONNECTIONS: usize = 400;
    let bound = bind(&loopback(), 2).unwrap();
    let (mut first, mut second) = (bound.for_worker(0).unwrap(), bound.for_worker(1).unwrap());
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(&bound)).collect();
    let mut counts = [0, 0];
    let mut accepted = Vec::new();
    for _ in 0..CONNECTIONS {
        tokio::select! {
            result = first.accept() => { counts[0] += 1; accepted.push(result.unwrap()) }
            result = second.accept() => { counts[1] += 1; accepted.push(result.unwrap()) }
        }
    }
    // Binomial around 200 with deviation 10: outside of 100..300 there is no spreading.
    assert!((100..300).contains(&counts[0]), "{counts:?}");
    let accepted_from: HashSet<_> = accepted.iter().map(|(_, peer)| peer.to_string()).collect();
    assert!(clients.iter().all(|client| accepted_from.contains(&client.local_addr().unwrap().to_string())));
}

#[test]
fn a_port_in_use_is_an_error_even_if_a_wsluice_uses_it() {
    let bound = bind(&loopback(), 2).unwrap();
    let error = bind(bound.address(), 2).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    let address = bound.address().clone();
    drop(bound);
    bind(&address, 2).unwrap();

    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = bind(&Address::Tcp(other.local_addr().unwrap()), 1).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn an_address_of_another_machine_is_an_error() {
    // 192.0.2.0/24 is for documentation (RFC 5737).
    let error = bind(&"192.0.2.1:0".parse().unwrap(), 1).unwrap_err();
    assert!(matches!(error, BindError::NotOurs { .. }), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn accepted_sockets_inherit_what_the_listener_has() {
    let bound = bind(&loopback(), 1).unwrap();
    let mut acceptor = bound.for_worker(0).unwrap();
    let _client = connect(&bound);
    let (Stream::Tcp(stream), _) = acceptor.accept().await.unwrap() else { panic!("TCP") };
    assert!(stream.nodelay().unwrap());
    let socket = SockRef::from(&stream);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(120));
}

#[test]
fn the_ipv6_wildcard_leaves_ipv4_alone() {
    let Ok(v6) = bind(&"[::]:0".parse().unwrap(), 2) else {
        return; /* no IPv6 on this machine */
    };
    let port = v6.address().tcp().unwrap().port();
    assert!(v6.sockets.iter().all(|socket| socket.only_v6().unwrap()));
    StdTcpStream::connect(("::1", port)).unwrap();
    bind(&format!("0.0.0.0:{port}").parse().unwrap(), 1).unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_worker_that_stops_loses_no_waiting_connection() {
    let bound = bind(&loopback(), 1).unwrap();
    let acceptor = bound.for_worker(0).unwrap();
    let client = connect(&bound);
    drop(acceptor);
    let (_, peer) = bound.for_worker(0).unwrap().accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap().into());
}

fn unix(directory: &tempfile::TempDir) -> (Address, PathBuf) {
    let path = directory.path().join("x.sock");
    (Address::Unix(path.clone()), path)
}

#[tokio::test(flavor = "current_thread")]
async fn a_unix_socket_is_shared_by_all_workers_and_its_file_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (address, path) = unix(&directory);
    let bound = bind(&address, 2).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_FILE_MODE);
    for worker in 0..2 {
        let _client = StdUnixStream::connect(&path).unwrap();
        let (stream, peer) = bound.for_worker(worker).unwrap().accept().await.unwrap();
        assert_eq!(peer, PeerAddr::Unix);
        assert!(matches!(stream, Stream::Unix(_)));
    }
    drop(bound);
    assert!(!path.exists());
}

#[test]
fn a_unix_socket_in_use_is_an_error_and_a_stale_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (address, path) = unix(&directory);
    let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(bind(&address, 1), Err(BindError::InUse { .. })));
    drop(living);
    assert!(path.exists());
    let bound = bind(&address, 1).unwrap();
    StdUnixStream::connect(&path).unwrap();
    // Another process takes the path: its file must not be removed.
    fs::remove_file(&path).unwrap();
    let successor = bind(&address, 1).unwrap();
    drop(bound);
    assert!(path.exists());
    drop(successor);
    assert!(!path.exists());
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (address, path) = unix(&directory);
    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&address, 1), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let nowhere = Address::Unix(directory.path().join("missing/x.sock"));
    assert!(matches!(bind(&nowhere, 1), Err(BindError::NoDirectory { .. })));
}

#[tokio::test(flavor = "current_thread")]
async fn beside_one_of_our_own_nothing_is_refused_and_nobody_else_gets_in() {
    let wide = bind(&"0.0.0.0:0".parse().unwrap(), 2).unwrap();
    let narrow: Address = format!("127.0.0.1:{}", wide.address().tcp().unwrap().port()).parse().unwrap();
    assert!(matches!(bind(&narrow, 2), Err(BindError::InUse { .. })));
    let mut beside = bind_beside(&narrow, 2).unwrap();
    let to_narrow = || StdTcpStream::connect(narrow.tcp().unwrap()).unwrap();
    let mut old = [wide.for_worker(0).unwrap(), wide.for_worker(1).unwrap()];
    let client = to_narrow();
    let [first, second] = &mut old;
    // It does not listen yet, so the other gets all connections.
    let peer = tokio::select! { it = first.accept() => it.unwrap().1, it = second.accept() => it.unwrap().1 };
    assert_eq!(peer, client.local_addr().unwrap().into());
    beside.take_charge().unwrap();
    let mut new = [beside.for_worker(0).unwrap(), beside.for_worker(1).unwrap()];
    let client = to_narrow();
    let [first, second] = &mut new;
    let peer = tokio::select! { it = first.accept() => it.unwrap().1, it = second.accept() => it.unwrap().1 };
    assert_eq!(peer, client.local_addr().unwrap().into());
    drop((old, wide));
    // And back, while the narrow one is in place.
    let wide: Address = format!("0.0.0.0:{}", narrow.tcp().unwrap().port()).parse().unwrap();
    for address in [&wide, &narrow] {
        assert!(matches!(bind(address, 1), Err(BindError::InUse { .. })), "{address}");
    }
    let mut back = bind_beside(&wide, 2).unwrap();
    back.take_charge().unwrap();
    drop((new, beside));
    let client = to_narrow();
    let mut acceptors = [back.for_worker(0).unwrap(), back.for_worker(1).unwrap()];
    let [first, second] = &mut acceptors;
    let peer = tokio::select! { it = first.accept() => it.unwrap().1, it = second.accept() => it.unwrap().1 };
    assert_eq!(peer, client.local_addr().unwrap().into());
    // Another program, whether or not it asks to share the port.
    let other = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = Address::Tcp((std::net::Ipv4Addr::LOCALHOST, other.local_addr().unwrap().port()).into());
    assert!(matches!(bind_beside(&taken, 1), Err(BindError::InUse { .. })));
}

#[tokio::test(flavor = "current_thread")]
async fn what_waits_is_taken_before_a_socket_is_closed_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let (address, path) = unix(&directory);
    let (tcp, unix) = (bind(&loopback(), 1).unwrap(), bind(&address, 1).unwrap());
    let clients: Vec<_> = (0..50).map(|_| connect(&tcp)).collect();
    let acceptor = tcp.for_worker(0).unwrap();
    let taken: HashSet<_> = acceptor.into_waiting().map(|(_, peer)| peer).collect();
    assert!(clients.iter().all(|client| taken.contains(&client.local_addr().unwrap().into())));
    assert_eq!(taken.len(), 50);
    assert_eq!(tcp.for_worker(0).unwrap().into_waiting().count(), 0);

    let _clients: Vec<_> = (0..3).map(|_| StdUnixStream::connect(&path).unwrap()).collect();
    let mut waiting = unix.for_worker(0).unwrap().into_waiting();
    let (Some((Stream::Unix(first), PeerAddr::Unix)), 2) = (waiting.next(), waiting.by_ref().count()) else {
        panic!("three Unix connections")
    };
    // The socket is usable: it belongs to the runtime, and is not blocking.
    first.writable().await.unwrap();
    assert_eq!(first.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}
