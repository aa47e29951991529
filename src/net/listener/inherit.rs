//! Listening sockets opened by another process: kept by address until a listener adopts them.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;

use socket2::{SockAddr, Socket, Type};

use super::{BindError, Bound, FileId, SocketFile, for_accepted, tcp_socket};
use crate::net::address::Address;

/// The listening sockets of one address, as another process passes them on.
#[derive(Debug, Default)]
pub struct Inherited {
    /// One or more; they stay open in the other process too.
    pub sockets: Vec<OwnedFd>,
    /// The file of a Unix socket, if the other process leaves its removal to this one.
    pub file: Option<FileId>,
}

/// Why an inherited socket cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// There is no socket.
    None,
    /// It is not a socket, not a stream, or does not listen.
    NotListening,
    /// It listens somewhere else.
    Elsewhere(String),
    /// It is bound to `[::]` and takes IPv4 as well.
    DualStack,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::None => f.write_str("there is none"),
            Unfit::NotListening => f.write_str("it is not a listening stream socket"),
            Unfit::Elsewhere(address) => write!(f, "it listens on {address}"),
            Unfit::DualStack => f.write_str("it takes IPv4 as well (set BindIPv6Only=ipv6-only in the socket unit)"),
        }
    }
}

/// Takes over inherited sockets, instead of opening them with [`bind`](super::bind).
///
/// * As many as workers, or more: each belongs to some worker.
/// * Fewer, and of a group (SO_REUSEPORT): the missing ones are opened in the same group; they take connections from
///   [`Bound::take_charge`] on. If they cannot be opened (the group belongs to another user, as that of a service
///   manager does; the port needs rights that we lack), the workers share the existing ones.
/// * Fewer, and of no group: the workers share them.
///
/// # Errors
/// Fails if one of them does not listen on `address`, or the system refuses an option. They are then closed in this
/// process.
///
/// # Panics
/// If `workers` is 0.
pub fn adopt(address: &Address, inherited: Inherited, workers: usize) -> Result<Bound, BindError> {
    assert!(workers > 0, "at least one worker");
    let unfit = |unfit| BindError::Unfit { address: address.clone(), unfit };
    let failed = |source| BindError::new(address, source);
    let mut sockets: Vec<Socket> = inherited.sockets.into_iter().map(Socket::from).collect();
    if sockets.is_empty() {
        return Err(unfit(Unfit::None));
    }
    for socket in &sockets {
        examine(socket, address).map_err(unfit)?;
        socket.set_nonblocking(true).map_err(failed)?;
        socket.set_cloexec(true).map_err(failed)?;
        if address.tcp().is_some() {
            for_accepted(socket).map_err(failed)?;
        }
    }
    let listening = sockets.len();
    if let Address::Tcp(addr) = address
        && sockets.iter().all(|socket| socket.reuse_port().unwrap_or(false))
    {
        while sockets.len() < workers {
            let socket = tcp_socket(*addr).map_err(failed)?;
            socket.set_reuse_port(true).map_err(failed)?;
            match socket.bind(&SockAddr::from(*addr)) {
                Ok(()) => sockets.push(socket),
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                    break;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
    let file = match (address, inherited.file) {
        (Address::Unix(path), Some(id)) => Some(SocketFile { path: path.clone(), id, ours: AtomicBool::new(false) }),
        _ => None,
    };
    Ok(Bound { address: address.clone(), sockets, listening, workers, file })
}

fn examine(socket: &Socket, address: &Address) -> Result<(), Unfit> {
    // Each of these fails for a descriptor that is not a socket.
    if socket.r#type().ok() != Some(Type::STREAM) || !socket.is_listener().unwrap_or(false) {
        return Err(Unfit::NotListening);
    }
    match own_address(socket) {
        Some(own) if own == *address => {}
        Some(own) => return Err(Unfit::Elsewhere(own.to_string())),
        None => return Err(Unfit::Elsewhere("an address of another kind".to_owned())),
    }
    let is_any_v6 = address.tcp().is_some_and(|addr| addr.is_ipv6() && addr.ip().is_unspecified());
    if is_any_v6 && !socket.only_v6().unwrap_or(false) {
        return Err(Unfit::DualStack);
    }
    Ok(())
}

/// Returns the address a socket is bound to; `None` if it is not a socket, or a configuration cannot express the
/// address.
fn own_address(socket: &Socket) -> Option<Address> {
    let addr = socket.local_addr().ok()?;
    addr.as_socket().map(Address::Tcp).or_else(|| Some(Address::Unix(addr.as_pathname()?.to_owned())))
}

/// Inherited sockets that no listener has adopted yet. Dropping it closes them.
#[derive(Debug, Default)]
pub struct Inheritance {
    left: Vec<(Option<String>, Address, Inherited)>,
}

impl Inheritance {
    /// Adds the sockets of `address`, and its file if known. They belong to the listener `name`, if it had one.
    pub fn add(&mut self, name: Option<&str>, address: Address, inherited: Inherited) {
        let same = self.left.iter_mut().find(|(known, at, _)| known.as_deref() == name && *at == address);
        match same {
            Some((_, _, known)) => {
                known.sockets.extend(inherited.sockets);
                known.file = known.file.or(inherited.file);
            }
            None => self.left.push((name.map(str::to_owned), address, inherited)),
        }
    }

    /// Adds a socket without a name, by the address it listens on.
    ///
    /// # Errors
    /// Fails if the socket does not listen, or listens on an address that a configuration cannot express; it is then
    /// closed.
    pub fn add_socket(&mut self, socket: OwnedFd) -> Result<(), Unfit> {
        let socket = Socket::from(socket);
        if socket.r#type().ok() != Some(Type::STREAM) || !socket.is_listener().unwrap_or(false) {
            return Err(Unfit::NotListening);
        }
        let Some(address) = own_address(&socket) else {
            return Err(Unfit::Elsewhere("an address of another kind".to_owned()));
        };
        self.add(None, address, Inherited { sockets: vec![socket.into()], file: None });
        Ok(())
    }

    /// Returns the sockets for the listener `name` on `wanted`, and their exact address: for port 0 the port that the
    /// listener of this name had on the same IP address.
    pub fn take(&mut self, name: &str, wanted: &Address) -> Option<(Address, Inherited)> {
        let is_any_port = wanted.tcp().is_some_and(|addr| addr.port() == 0);
        let fits = |(known, at, _): &(Option<String>, Address, Inherited)| match (wanted, at) {
            (Address::Tcp(wanted), Address::Tcp(at)) if is_any_port => {
                wanted.ip() == at.ip() && known.as_deref() == Some(name)
            }
            _ => at == wanted,
        };
        let index = self.left.iter().position(fits)?;
        let (_, address, inherited) = self.left.swap_remove(index);
        Some((address, inherited))
    }

    /// Returns the addresses that no listener has adopted.
    pub fn left(&self) -> impl ExactSizeIterator<Item = &Address> {
        self.left.iter().map(|(_, address, _)| address)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
