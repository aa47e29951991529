//! The channel between two processes: packets with descriptors, over a pair of SOCK_SEQPACKET sockets.
//!
//! A packet arrives whole or not at all, so the next reader, even another process that was given this end, starts at the
//! beginning of a message. An end belongs to no runtime: it registers with the one it is used in for the duration of a call.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::message::{BYTES_MAX, DESCRIPTORS_MAX, HandoverMessage, MessageError, decode, encode};

/// One end of the channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other process has ended, or has closed its end.
    #[error("the other process has gone")]
    Gone,
    /// The packet is not a message. Its descriptors are closed.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// Another error of the system.
    #[error("the line to the other process failed")]
    Io(#[source] io::Error),
}

impl ChannelError {
    fn of(error: io::Error) -> ChannelError {
        match Errno::from_io_error(&error) {
            Some(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => ChannelError::Gone,
            _ => ChannelError::Io(error),
        }
    }
}

impl Channel {
    /// Creates a channel and returns both ends. A child inherits neither unless it is passed to it.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Channel(one), Channel(other)))
    }

    /// Wraps an end that was received; returns `None` if it is not one.
    pub fn adopt(end: OwnedFd) -> Option<Channel> {
        let is_packets = sockopt::socket_type(&end) == Ok(SocketType::SEQPACKET);
        let is_unix = sockopt::socket_domain(&end) == Ok(AddressFamily::UNIX);
        (is_packets && is_unix).then_some(Channel(end))
    }

    /// Returns the end as a descriptor.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sends a message with descriptors, which stay open here. Waits while the peer is behind with reading. Cancel-safe: the
    /// message is sent whole or not at all.
    ///
    /// # Errors
    /// See [`ChannelError`].
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn send(
        &mut self,
        message: &HandoverMessage,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let packet = encode(message, descriptors.len())?;
        let end = self.registered().map_err(ChannelError::Io)?;
        let sent = end.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
                debug_assert!(fits, "encode allows no more");
            }
            Ok(sendmsg(&end, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?)
        });
        sent.await.map(drop).map_err(ChannelError::of)
    }

    /// Receives the next message with its descriptors, none of which a child inherits. Cancel-safe.
    ///
    /// # Errors
    /// See [`ChannelError`]; descriptors of an invalid packet are closed.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn receive(&mut self) -> Result<(HandoverMessage, Vec<OwnedFd>), ChannelError> {
        let end = self.registered().map_err(ChannelError::Io)?;
        let came = end.async_io(Interest::READABLE, || match receive(end.as_fd()) {
            // The peer has closed with unread data; the error comes once, before the peer's own last messages.
            Err(Errno::CONNRESET) => Ok(receive(end.as_fd())?),
            came => Ok(came?),
        });
        let (packet, descriptors, truncated) = came.await.map_err(ChannelError::of)?;
        if packet.is_empty() {
            return Err(ChannelError::Gone);
        }
        if truncated {
            return Err(MessageError::TooLong(BYTES_MAX + 1).into());
        }
        Ok((decode(&packet, descriptors.len())?, descriptors))
    }

    /// Registers a copy with the runtime. `UnixDatagram` is tokio's type for packets; it is used only to wait.
    fn registered(&self) -> io::Result<UnixDatagram> {
        UnixDatagram::from_std(self.0.try_clone()?.into())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Receives a packet with its descriptors. Returns true as well if it was too long.
fn receive(end: BorrowedFd<'_>) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>, bool)> {
    let mut packet = vec![0; BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(end, &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    // Take them out in any case: unused ones are closed with the vector.
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    packet.truncate(received.bytes);
    Ok((packet, descriptors, received.flags.contains(ReturnFlags::TRUNC)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    fn raw(end: &Channel, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        sendmsg(end, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// Returns a descriptor, and the other end, which notices when all copies of it are closed.
    fn watched() -> (OwnedFd, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (one.into(), other)
    }

    /// Waits a little: a child that another test starts has a copy until its exec.
    fn is_closed(other: &mut UnixStream) -> bool {
        other.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        matches!(other.read(&mut [0]), Ok(0))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn as_many_descriptors_as_go_with_one_message_arrive_and_no_child_has_them() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let (descriptor, mut end) = watched();
        let all = [descriptor.as_fd(); DESCRIPTORS_MAX];
        one.send(&HandoverMessage::Take, &all).await.unwrap();
        one.send(&HandoverMessage::Ready, &[]).await.unwrap();
        drop(descriptor);
        let (message, came) = other.receive().await.unwrap();
        assert_eq!((message, came.len()), (HandoverMessage::Take, DESCRIPTORS_MAX));
        assert!(came.iter().all(|descriptor| fcntl_getfd(descriptor).unwrap() == FdFlags::CLOEXEC));
        UnixStream::from(came.into_iter().next().unwrap()).write_all(b"x").unwrap();
        end.read_exact(&mut [0]).unwrap();
        assert_eq!(other.receive().await.unwrap().0, HandoverMessage::Ready);
        assert!(is_closed(&mut end));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn descriptors_with_what_is_no_message_are_closed() {
        let good = encode(&HandoverMessage::Ready, 0).unwrap();
        let long = [&encode(&HandoverMessage::Ready, 1).unwrap()[..], &[b' '; BYTES_MAX]].concat();
        for bytes in [&b"nonsense"[..], b"wsl\x02\0\x01{}", &good, &long] {
            let (one, mut other) = Channel::pair().unwrap();
            let (descriptor, mut end) = watched();
            raw(&one, bytes, &[descriptor.as_fd()]);
            drop(descriptor);
            assert!(matches!(other.receive().await, Err(ChannelError::Message(_))));
            assert!(is_closed(&mut end));
            // And the channel still works.
            raw(&one, &good, &[]);
            assert_eq!(other.receive().await.unwrap().0, HandoverMessage::Ready);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_said_before_the_end_is_heard() {
        let (mut one, mut other) = Channel::pair().unwrap();
        one.send(&HandoverMessage::Ready, &[]).await.unwrap();
        // The end that closes has unread data, which resets the channel.
        other.send(&HandoverMessage::Take, &[]).await.unwrap();
        drop(one);
        assert_eq!(other.receive().await.unwrap().0, HandoverMessage::Ready);
        assert!(matches!(other.receive().await, Err(ChannelError::Gone)));
        assert!(matches!(other.send(&HandoverMessage::Take, &[]).await, Err(ChannelError::Gone)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_does_not_read_is_waited_for_and_nothing_is_said_by_halves() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let long = HandoverMessage::Refused { reason: "x".repeat(BYTES_MAX / 2) };
        let mut said = 0;
        let wait = std::time::Duration::from_millis(50);
        while tokio::time::timeout(wait, one.send(&long, &[])).await.is_ok() {
            said += 1;
            assert!(said < 1000, "there must be an end to what the kernel keeps");
        }
        for _ in 0..said {
            assert_eq!(other.receive().await.unwrap().0, long);
        }
        one.send(&HandoverMessage::Ready, &[]).await.unwrap();
        assert_eq!(other.receive().await.unwrap().0, HandoverMessage::Ready);
    }

    #[test]
    fn only_a_socket_of_packets_is_a_line() {
        assert!(Channel::adopt(Channel::pair().unwrap().0.into_descriptor()).is_some());
        assert!(Channel::adopt(watched().0).is_none());
        assert!(Channel::adopt(File::open("/dev/null").unwrap().into()).is_none());
    }
}
