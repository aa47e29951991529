//! TLS connections as a layer that can go on in another process.

use std::io;

#[cfg(not(feature = "tls-tokio"))]
use super::ClientStream;
use super::{ServerStream, TlsState};
use crate::net::portable::PortableLayer;
use crate::net::stream::Stream;

macro_rules! portable {
    ($stream:ty) => {
        impl PortableLayer for $stream {
            type State = TlsState;

            fn is_portable(&self) -> bool {
                self.may_move()
            }

            fn into_layer(self) -> io::Result<(TlsState, Stream)> {
                self.into_state().map_err(io::Error::other)
            }

            fn over(state: TlsState, stream: Stream) -> io::Result<Self> {
                Self::restore(state, stream).map_err(io::Error::other)
            }
        }
    };
}

portable!(ServerStream);
// By tokio-rustls both are one type.
#[cfg(not(feature = "tls-tokio"))]
portable!(ClientStream);
