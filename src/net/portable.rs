//! Connections that go on in another process: what must be written down of one, and its socket.
//!
//! A connection is taken apart into a state, which can be serialized, and a descriptor; the other process, or this one if
//! nothing comes of it, puts both together again. Nothing is lost in between: what the peer sends meanwhile waits in the
//! socket.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, UnixStream};

use super::stream::Stream;
use super::transport::Transport;

/// A connection that can be taken apart and put together again.
pub trait Portable: Sized {
    /// What must be known of it besides its socket.
    type State;

    /// Returns why it cannot be taken apart now; `None` if it can.
    fn obstacle(&self) -> Option<Obstacle>;

    /// Takes it apart.
    ///
    /// # Errors
    /// If it is not portable or its socket is no longer usable. It is then lost.
    fn into_parts(self) -> io::Result<(Self::State, OwnedFd)>;

    /// Puts it together, in the runtime of the calling thread.
    ///
    /// # Errors
    /// If the runtime cannot watch the socket, or the state is not one of such a connection.
    ///
    /// # Panics
    /// Outside of a runtime.
    fn from_parts(state: Self::State, socket: OwnedFd) -> io::Result<Self>;
}

/// Why a connection cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The state of its TLS cannot be written down.
    Tls,
    /// It shares a socket with others.
    Shared,
}

/// A protocol over a [`Stream`] whose state can be written down.
pub trait PortableLayer: Sized {
    /// What must be known of it besides the stream.
    type State;

    /// Returns true if it can be written down now.
    fn is_portable(&self) -> bool;

    /// Separates it from the stream.
    ///
    /// # Errors
    /// If it is not portable. It is then lost.
    fn into_layer(self) -> io::Result<(Self::State, Stream)>;

    /// Puts it over the stream again.
    ///
    /// # Errors
    /// If the state is not one of such a layer.
    fn over(state: Self::State, stream: Stream) -> io::Result<Self>;
}

/// The kind of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketKind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// A Unix socket.
    Unix,
}

impl Portable for Stream {
    type State = SocketKind;

    fn obstacle(&self) -> Option<Obstacle> {
        None
    }

    fn into_parts(self) -> io::Result<(SocketKind, OwnedFd)> {
        Ok(match self {
            Stream::Tcp(stream) => (SocketKind::Tcp, stream.into_std()?.into()),
            Stream::Unix(stream) => (SocketKind::Unix, stream.into_std()?.into()),
        })
    }

    fn from_parts(kind: SocketKind, socket: OwnedFd) -> io::Result<Stream> {
        Ok(match kind {
            SocketKind::Tcp => Stream::Tcp(TcpStream::from_std(socket.into())?),
            SocketKind::Unix => Stream::Unix(UnixStream::from_std(socket.into())?),
        })
    }
}

/// The state of a connection with or without TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransportState<T> {
    /// A plain socket.
    Plain(SocketKind),
    /// TLS over a socket.
    Tls(SocketKind, T),
}

impl<T: PortableLayer> Portable for Transport<T> {
    type State = TransportState<T::State>;

    fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Transport::Plain(stream) => stream.obstacle(),
            Transport::Tls(layer) => (!layer.is_portable()).then_some(Obstacle::Tls),
            Transport::Multiplexed(_) => Some(Obstacle::Shared),
        }
    }

    fn into_parts(self) -> io::Result<(TransportState<T::State>, OwnedFd)> {
        match self {
            Transport::Plain(stream) => {
                let (kind, socket) = stream.into_parts()?;
                Ok((TransportState::Plain(kind), socket))
            }
            Transport::Tls(layer) => {
                let (state, stream) = layer.into_layer()?;
                let (kind, socket) = stream.into_parts()?;
                Ok((TransportState::Tls(kind, state), socket))
            }
            Transport::Multiplexed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn from_parts(state: TransportState<T::State>, socket: OwnedFd) -> io::Result<Transport<T>> {
        Ok(match state {
            TransportState::Plain(kind) => Transport::Plain(Stream::from_parts(kind, socket)?),
            TransportState::Tls(kind, state) => {
                Transport::Tls(Box::new(T::over(state, Stream::from_parts(kind, socket)?)?))
            }
        })
    }
}
