//! Listening sockets: opened once, shared with the workers, and kept until the process releases them.
//!
//! * **TCP: one socket a worker** (SO_REUSEPORT). The kernel spreads new connections by hash, so that long-lived ones
//!   spread over the workers; one socket in many epolls would give nearly all of them to one worker. Closing one of
//!   these sockets drops what waits in its queue, which is why [`Bound`] keeps the originals and workers get
//!   duplicates: neither a worker that stops nor a reload ever closes one.
//! * **Unix: one socket for all**, since SO_REUSEPORT does not exist there.
//! * **A port in use is an error**, even if another wsluice uses it: the first socket is bound without SO_REUSEPORT
//!   and gets it only then, so two processes can never share a port.
//! * **Beside a listener of our own** ([`bind_beside`]) is the exception: when one moves from `0.0.0.0:80` to
//!   `127.0.0.1:80`, the new sockets must exist before the old ones go, or clients in between would be refused. The
//!   kernel prefers the narrower address; the wider gets the rest. It now shares with other processes of this
//!   user as well; since an address that we have bound is refused to them, such a process has another address that
//!   `0.0.0.0` includes, and keeps it.
//! * **`[::]` is IPv6 only** (as in nginx and Envoy). An address means what it says, and no peer shows up as
//!   `::ffff:10.0.0.1`, which a list of IPv4 networks would not match. For both, write two listeners.
//! * **Inherited sockets** ([`adopt`]) come from the previous process or from a service manager. Nothing that the
//!   successor does before [`Bound::take_charge`] has an effect outside: it may still fail, and the previous process
//!   goes on. Some worker accepts from every inherited socket, since the kernel gives connections to all sockets of a
//!   group.
//! * The backlog is 4096 (the kernel's own default limit, `somaxconn`); with tokio's 128 connects time out in a
//!   burst.

mod accept;
mod holder;
mod inherit;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use self::accept::ListeningSocket;
pub use self::accept::{AcceptPause, AcceptPauseReason, Acceptor, WaitingConnections};
pub use self::holder::Holder;
pub use self::inherit::{Inheritance, Inherited, Unfit, adopt};
pub use super::address::{Address, AddressError};
use super::socket::TcpOptions;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Owner and group may connect. A proxy in front joins the group, and no other user gets in; for other rights, put the
/// socket into a directory that has them.
const SOCKET_FILE_MODE: u32 = 0o660;

/// Why the process cannot listen on an address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{address} is in use by {}", in_use_by(.holder.as_ref()))]
    InUse {
        /// The address.
        address: Address,
        /// The process, if it can be found.
        holder: Option<Holder>,
    },
    /// No permission: a port below 1024, another user's directory.
    #[error("no permission to listen on {address}: {}", permission_hint(.address))]
    Denied {
        /// The address.
        address: Address,
    },
    /// The address is not one of this machine.
    #[error("{address} is not an address of this machine")]
    NotOurs {
        /// The address.
        address: Address,
    },
    /// The path holds another kind of file, which is not removed.
    #[error("cannot listen on {address}: the file exists and is not a socket")]
    NotASocket {
        /// The address.
        address: Address,
    },
    /// The directory of the socket is missing.
    #[error("cannot listen on {address}: the directory does not exist")]
    NoDirectory {
        /// The address.
        address: Address,
    },
    /// An inherited socket cannot be used.
    #[error("cannot listen on {address} with an inherited socket: {unfit}")]
    Unfit {
        /// The address.
        address: Address,
        /// What is wrong with it.
        unfit: Unfit,
    },
    /// Any other error of the system.
    #[error("cannot listen on {address}")]
    Io {
        /// The address.
        address: Address,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

fn permission_hint(address: &Address) -> &'static str {
    match address {
        Address::Tcp(_) => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        Address::Unix(_) => "the directory must be writable",
    }
}

fn in_use_by(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => holder.to_string(),
        None => "another process (an older wsluice is replaced by USR2, or ends by TERM)".to_owned(),
    }
}

impl BindError {
    fn in_use(address: &Address) -> BindError {
        BindError::InUse { address: address.clone(), holder: holder::holder(address) }
    }

    fn new(address: &Address, source: io::Error) -> BindError {
        if source.kind() == io::ErrorKind::AddrInUse {
            return BindError::in_use(address);
        }
        let address = address.clone();
        match (source.kind(), &address) {
            (io::ErrorKind::PermissionDenied, _) => BindError::Denied { address },
            (io::ErrorKind::AddrNotAvailable, _) => BindError::NotOurs { address },
            (io::ErrorKind::NotFound, Address::Unix(_)) => BindError::NoDirectory { address },
            _ => BindError::Io { address, source },
        }
    }
}

/// An address with all its listening sockets. Except after [`bind_beside`], connections are accepted into the backlog
/// from the moment it exists. Dropping it and every [`Acceptor`] ends that, and removes the file of a Unix socket.
///
/// It owns plain sockets and is independent of a runtime, so that it can also be built from inherited ones ([`adopt`]).
#[derive(Debug)]
pub struct Bound {
    address: Address,
    sockets: Vec<Socket>,
    /// How many of the sockets listen; the others are bound, and wait for [`Bound::take_charge`].
    listening: usize,
    workers: usize,
    file: Option<SocketFile>,
}

/// Opens all sockets of `address` for `workers` workers.
///
/// # Errors
/// Fails if the address is in use, not permitted, or not of this machine.
///
/// # Panics
/// If `workers` is 0.
pub fn bind(address: &Address, workers: usize) -> Result<Bound, BindError> {
    assert!(workers > 0, "at least one worker");
    match address {
        Address::Tcp(_) => {
            let bound = bind_tcp(address, workers, First::Alone).and_then(|mut bound| {
                bound.take_charge()?;
                Ok(bound)
            });
            bound.map_err(|source| BindError::new(address, source))
        }
        Address::Unix(path) => bind_unix(address, path, workers),
    }
}

/// Does the same if this process has already bound an overlapping address ([`Address::overlaps`]). The new sockets take
/// no connections before [`Bound::take_charge`]: until then they can be dropped without effect.
///
/// # Errors
/// Fails if the address is not permitted or not of this machine; a Unix socket cannot be bound twice to the same path.
///
/// # Panics
/// If `workers` is 0.
pub fn bind_beside(address: &Address, workers: usize) -> Result<Bound, BindError> {
    assert!(workers > 0, "at least one worker");
    match address {
        Address::Tcp(_) => bind_tcp(address, workers, First::Beside).map_err(|source| BindError::new(address, source)),
        Address::Unix(path) => bind_unix(address, path, workers),
    }
}

/// Whether other sockets may be bound to the first socket's port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// It must be the only one.
    Alone,
    /// There are others, and they are of this process.
    Beside,
}

/// Creates a TCP socket and sets everything that it needs before it is bound.
fn tcp_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for the TIME_WAIT of old connections.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    for_accepted(&socket)?;
    Ok(socket)
}

/// Sets the options that every accepted socket inherits; see [`Bound::set_tcp`].
fn for_accepted(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    TcpOptions::default().replace(&SockRef::from(socket))
}

/// Binds sockets that do not listen yet.
fn bind_tcp(address: &Address, workers: usize, first_finds: First) -> io::Result<Bound> {
    let addr = address.tcp().ok_or(io::ErrorKind::InvalidInput)?;
    let first = tcp_socket(addr)?;
    if first_finds == First::Beside {
        first.set_reuse_port(true)?;
    }
    first.bind(&SockAddr::from(addr))?;
    first.set_reuse_port(true)?;
    let actual = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        let socket = tcp_socket(addr)?;
        socket.set_reuse_port(true)?;
        socket.bind(&actual)?;
        sockets.push(socket);
    }
    let addr = actual.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(Bound { address: Address::Tcp(addr), listening: 0, sockets, workers, file: None })
}

fn bind_unix(address: &Address, path: &Path, workers: usize) -> Result<Bound, BindError> {
    let failed = |source| BindError::new(address, source);
    remove_if_stale(address, path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
    let id = FileId::of(path).map_err(failed)?;
    let file = SocketFile { path: path.to_owned(), id, ours: AtomicBool::new(true) };
    // Before `listen`: nobody can connect until the permissions are set.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_FILE_MODE)).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    Ok(Bound { address: address.clone(), sockets: vec![socket], listening: 1, workers, file: Some(file) })
}

/// Removes the file of a process that did not end orderly. Only connecting shows whether it is such a file.
fn remove_if_stale(address: &Address, path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::new(address, source);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { address: address.clone() });
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // Fails with EAGAIN instead of waiting if the backlog of a living listener is full.
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(error)),
        Ok(()) | Err(_) => Err(BindError::in_use(address)),
    }
}

/// Identifies a file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Returns the file that has this name now; a symbolic link itself, not its target.
    ///
    /// # Errors
    /// Fails if there is none.
    pub fn of(path: &Path) -> io::Result<FileId> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(FileId { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// The file of a Unix socket, removed at the end unless another one replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: FileId,
    ours: AtomicBool,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.ours.load(Ordering::Relaxed) && FileId::of(&self.path).is_ok_and(|id| id == self.id) {
            // A failure does not matter; the next start removes the file as stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// Returns the address, with the port that the system chose if the configured one is 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the acceptor of worker `index`. Call it on that worker, within its runtime. It may be called again after
    /// the worker has dropped its acceptor, which neither closes the socket nor loses a waiting connection.
    ///
    /// With more sockets than workers, each worker takes its share, so that none is left without one.
    ///
    /// # Errors
    /// Fails if no descriptor is left.
    ///
    /// # Panics
    /// Outside of a runtime, and before [`Bound::take_charge`] if sockets do not listen yet.
    pub fn for_worker(&self, index: usize) -> io::Result<Acceptor> {
        // A socket registered before it listens looks closed to the runtime for ever.
        assert!(self.listening == self.sockets.len(), "take_charge comes first");
        let count = self.sockets.len();
        // Fewer sockets than workers: some are shared.
        let mine = (index % self.workers.min(count)..count).step_by(self.workers);
        let listeners = mine.map(|index| {
            let socket = self.sockets[index].try_clone()?;
            Ok(match self.address {
                Address::Tcp(_) => ListeningSocket::Tcp(TcpListener::from_std(socket.into())?),
                Address::Unix(_) => ListeningSocket::Unix(UnixListener::from_std(socket.into())?),
            })
        });
        Ok(Acceptor::new(listeners.collect::<io::Result<_>>()?))
    }

    /// Sets these options for all connections accepted from now on; Linux copies them from the listening socket. Does
    /// nothing for a Unix socket.
    ///
    /// # Errors
    /// Fails if the system refuses one.
    pub fn set_tcp(&self, options: TcpOptions) -> io::Result<()> {
        match self.address {
            Address::Tcp(_) => self.sockets.iter().try_for_each(|socket| options.replace(&SockRef::from(socket))),
            Address::Unix(_) => Ok(()),
        }
    }

    /// Takes full ownership: sockets opened beside the inherited ones, or by [`bind_beside`], now take connections too,
    /// and the file of an inherited Unix socket is removed at the end. Does nothing the second time, or for sockets of
    /// [`bind`].
    ///
    /// # Errors
    /// Fails if the system does not let a socket listen.
    pub fn take_charge(&mut self) -> io::Result<()> {
        for socket in &self.sockets[self.listening..] {
            socket.listen(BACKLOG)?;
            self.listening += 1;
        }
        if let Some(file) = &self.file {
            file.ours.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Keeps the file of a Unix socket when this is dropped: another process owns it now.
    pub fn leave_file(&self) {
        if let Some(file) = &self.file {
            file.ours.store(false, Ordering::Relaxed);
        }
    }

    /// Returns all its listening sockets, to pass them to another process.
    pub fn descriptors(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.sockets[..self.listening].iter().map(Socket::as_fd)
    }

    /// Returns the file of a Unix socket, if it is removed at the end.
    pub fn file(&self) -> Option<FileId> {
        self.file.as_ref().map(|file| file.id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
