//! Tests of one `Bound`'s sockets in the hands of another, as between two processes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socket2::SockRef;

use super::*;
use crate::net::listener::{Acceptor, bind};
use crate::net::stream::Stream;

fn loopback() -> Address {
    "127.0.0.1:0".parse().unwrap()
}

fn tcp(bound: &Bound) -> TcpStream {
    TcpStream::connect(bound.address().tcp().unwrap()).unwrap()
}

/// The sockets that a process leaves to the next one: the same, under other descriptors.
fn left_by(bound: &Bound) -> Inherited {
    let sockets = bound.descriptors().map(|socket| socket.try_clone_to_owned().unwrap()).collect();
    Inherited { sockets, file: bound.file() }
}

fn one(socket: impl AsFd) -> Inherited {
    Inherited { sockets: vec![socket.as_fd().try_clone_to_owned().unwrap()], file: None }
}

async fn accept(acceptor: &mut Acceptor) -> Stream {
    tokio::time::timeout(Duration::from_secs(10), acceptor.accept()).await.unwrap().unwrap().0
}

#[tokio::test(flavor = "current_thread")]
async fn a_connection_that_waits_is_served_by_the_heir() {
    let old = bind(&loopback(), 2).unwrap();
    let clients: Vec<_> = (0..40).map(|_| tcp(&old)).collect();
    let mut new = adopt(old.address(), left_by(&old), 2).unwrap();
    assert_eq!(new.descriptors().len(), 2);
    new.take_charge().unwrap();
    drop(old);
    let (mut first, mut second) = (new.for_worker(0).unwrap(), new.for_worker(1).unwrap());
    for _ in &clients {
        tokio::select! { _ = accept(&mut first) => {} _ = accept(&mut second) => {} }
    }
    assert_eq!(first.into_waiting().count() + second.into_waiting().count(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn no_socket_is_left_without_a_worker_when_there_are_fewer_of_them() {
    const CONNECTIONS: usize = 200;
    let old = bind(&loopback(), 5).unwrap();
    let address = old.address().clone();
    let new = adopt(&address, left_by(&old), 2).unwrap();
    drop(old);
    let (mut first, mut second) = (new.for_worker(0).unwrap(), new.for_worker(1).unwrap());
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| tcp(&new)).collect();
    let mut counts = [0; 2];
    for _ in &clients {
        tokio::select! { _ = accept(&mut first) => counts[0] += 1, _ = accept(&mut second) => counts[1] += 1 }
    }
    // Three fifths and two fifths, with a deviation of 7.
    assert!((60..180).contains(&counts[0]), "{counts:?}");
    assert_eq!(counts[0] + counts[1], CONNECTIONS);
}

#[tokio::test(flavor = "current_thread")]
async fn the_missing_ones_of_a_group_are_opened_and_take_nothing_before_they_may() {
    let old = bind(&loopback(), 1).unwrap();
    let mut new = adopt(old.address(), left_by(&old), 3).unwrap();
    assert_eq!((new.sockets.len(), new.descriptors().len()), (3, 1));
    // All go to the one socket that both have: the successor may still fail without losing a connection.
    let before: Vec<_> = (0..60).map(|_| tcp(&old)).collect();
    assert_eq!(old.for_worker(0).unwrap().into_waiting().count(), before.len());

    new.take_charge().unwrap();
    new.take_charge().unwrap();
    assert_eq!(new.descriptors().len(), 3);
    let mut acceptors: Vec<_> = (0..3).map(|index| new.for_worker(index).unwrap()).collect();
    let after: Vec<_> = (0..60).map(|_| tcp(&new)).collect();
    let [first, second, third] = &mut acceptors[..] else { panic!("three") };
    let mut counts = [0; 3];
    for _ in &after {
        tokio::select! {
            _ = accept(first) => counts[0] += 1,
            _ = accept(second) => counts[1] += 1,
            _ = accept(third) => counts[2] += 1,
        }
    }
    assert!(counts.iter().all(|count| *count > 3), "{counts:?}");
}

#[tokio::test(flavor = "current_thread")]
#[should_panic(expected = "take_charge comes first")]
async fn a_socket_that_does_not_listen_yet_is_given_to_no_worker() {
    let old = bind(&loopback(), 1).unwrap();
    let new = adopt(old.address(), left_by(&old), 2).unwrap();
    let _ = new.for_worker(0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_single_socket_of_no_group_is_shared_and_gets_our_options() {
    let systemd = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(systemd.local_addr().unwrap());
    let inherited = one(&systemd);
    // As a descriptor arrives through exec.
    fcntl_setfd(&inherited.sockets[0], FdFlags::empty()).unwrap();
    let new = adopt(&address, inherited, 3).unwrap();
    assert_eq!(new.sockets.len(), 1);
    assert!(new.sockets[0].nonblocking().unwrap());
    assert_eq!(fcntl_getfd(&new.sockets[0]).unwrap(), FdFlags::CLOEXEC);
    for worker in 0..3 {
        let _client = tcp(&new);
        let mut acceptor = new.for_worker(worker).unwrap();
        let Stream::Tcp(stream) = accept(&mut acceptor).await else { panic!("TCP") };
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }
}

#[test]
fn what_is_not_the_listening_socket_of_the_address_is_refused() {
    let unfit = |address: &Address, inherited| match adopt(address, inherited, 1) {
        Err(BindError::Unfit { unfit, .. }) => unfit,
        other => panic!("{other:?}"),
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(unfit(&address, one(&other)), Unfit::Elsewhere(other.local_addr().unwrap().to_string()));
    assert_eq!(unfit(&address, Inherited::default()), Unfit::None);
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(unfit(&address, one(&client)), Unfit::NotListening);
    assert_eq!(unfit(&address, one(UdpSocket::bind("127.0.0.1:0").unwrap())), Unfit::NotListening);
    assert_eq!(unfit(&address, one(std::fs::File::open("/dev/null").unwrap())), Unfit::NotListening);
    let directory = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(directory.path().join("x.sock")).unwrap();
    assert!(matches!(unfit(&address, one(&unix)), Unfit::Elsewhere(_)));

    if let Ok(both) = TcpListener::bind("[::]:0") {
        let address = Address::Tcp(both.local_addr().unwrap());
        assert_eq!(unfit(&address, one(&both)), Unfit::DualStack);
    }
}

fn echo_once(path: &Path, listener: &UnixListener) {
    let mut client = UnixStream::connect(path).unwrap();
    listener.accept().unwrap().0.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn the_file_of_a_unix_socket_belongs_to_one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let address = Address::Unix(path.clone());
    let old = bind(&address, 1).unwrap();
    // A successor that fails leaves the file in place.
    drop(adopt(&address, left_by(&old), 2).unwrap());
    assert!(path.exists());

    let mut new = adopt(&address, left_by(&old), 2).unwrap();
    new.take_charge().unwrap();
    old.leave_file();
    drop(old);
    assert!(path.exists());
    UnixStream::connect(&path).unwrap();

    // Likewise for the next one: a file that another process has put there meanwhile is not removed.
    let mut last = adopt(&address, left_by(&new), 1).unwrap();
    last.take_charge().unwrap();
    new.leave_file();
    drop(new);
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(last);
    echo_once(&path, &other);
}

#[test]
fn the_file_of_a_service_manager_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let systemd = UnixListener::bind(&path).unwrap();
    let mut new = adopt(&Address::Unix(path.clone()), one(&systemd), 1).unwrap();
    new.take_charge().unwrap();
    assert_eq!(new.file(), None);
    drop(new);
    systemd.set_nonblocking(false).unwrap();
    echo_once(&path, &systemd);
}

#[test]
fn who_asks_gets_what_was_left_to_him() {
    let mut inheritance = Inheritance::default();
    let sockets: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let at = |index: usize| Address::Tcp(sockets[index].local_addr().unwrap());
    inheritance.add(Some("plain"), at(0), one(&sockets[0]));
    inheritance.add(Some("plain"), at(0), one(&sockets[0]));
    inheritance.add(Some("tls"), at(1), one(&sockets[1]));
    inheritance.add_socket(OwnedFd::from(sockets[2].try_clone().unwrap())).unwrap();
    assert_eq!(inheritance.add_socket(UdpSocket::bind("127.0.0.1:0").unwrap().into()), Err(Unfit::NotListening));

    // By address whatever the name is; by name if the port is left open.
    assert!(inheritance.take("new", &loopback()).is_none());
    assert!(inheritance.take("tls", &"[::1]:0".parse().unwrap()).is_none());
    assert_eq!(inheritance.take("tls", &loopback()).unwrap().0, at(1));
    assert!(inheritance.take("tls", &loopback()).is_none());
    let (address, inherited) = inheritance.take("renamed", &at(0)).unwrap();
    assert_eq!((address, inherited.sockets.len()), (at(0), 2));
    assert_eq!(inheritance.left().collect::<Vec<_>>(), [&at(2)]);
    assert!(inheritance.take("any", &at(2)).is_some());
    assert_eq!(inheritance.left().len(), 0);
}
