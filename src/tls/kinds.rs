//! Both kinds of TLS stream behind one trait, for tests of their common behaviour.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::{stream, tokio_stream};

pub trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Io for S {}

/// A kind of TLS stream.
pub trait Kind {
    type Server<S: Io>: Io;
    type Client<S: Io>: Io;

    fn accept<S: Io>(config: ServerConfig, io: S) -> impl Future<Output = io::Result<Self::Server<S>>>;

    fn connect<S: Io>(
        config: ClientConfig,
        name: ServerName<'static>,
        io: S,
    ) -> impl Future<Output = io::Result<Self::Client<S>>>;
}

/// The stream of this crate, on rustls' unbuffered interface.
pub struct Own;

impl Kind for Own {
    type Server<S: Io> = stream::ServerStream<S>;
    type Client<S: Io> = stream::ClientStream<S>;

    async fn accept<S: Io>(config: ServerConfig, io: S) -> io::Result<Self::Server<S>> {
        stream::ServerStream::accept(Arc::new(config), stream::Incoming::new(&[]), io).await
    }

    async fn connect<S: Io>(config: ClientConfig, name: ServerName<'static>, io: S) -> io::Result<Self::Client<S>> {
        stream::ClientStream::connect(Arc::new(config), name, io).await
    }
}

/// The stream of tokio-rustls.
pub struct TokioRustls;

impl Kind for TokioRustls {
    type Server<S: Io> = tokio_stream::ServerStream<S>;
    type Client<S: Io> = tokio_stream::ClientStream<S>;

    async fn accept<S: Io>(config: ServerConfig, io: S) -> io::Result<Self::Server<S>> {
        tokio_stream::ServerStream::accept(Arc::new(config), tokio_stream::Incoming::new(&[]), io).await
    }

    async fn connect<S: Io>(config: ClientConfig, name: ServerName<'static>, io: S) -> io::Result<Self::Client<S>> {
        tokio_stream::ClientStream::connect(Arc::new(config), name, io).await
    }
}

/// A stream that reads and writes random amounts, and sometimes none at first.
pub struct Cut {
    pub io: DuplexStream,
    pub random: fastrand::Rng,
    /// The most that it reads or writes at once.
    pub most: usize,
}

impl Cut {
    fn pauses(&mut self, cx: &mut Context<'_>) -> bool {
        let pause = self.random.u8(..4) == 0;
        if pause {
            cx.waker().wake_by_ref();
        }
        pause
    }

    fn at_random(&mut self) -> usize {
        let most = self.most;
        self.random.usize(1..=most)
    }
}

impl AsyncRead for Cut {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pauses(cx) {
            return Poll::Pending;
        }
        let most = self.at_random();
        let mut some = buf.take(most);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut some))?;
        let count = some.filled().len();
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.pauses(cx) {
            return Poll::Pending;
        }
        let most = self.at_random().min(buf.len());
        Pin::new(&mut self.io).poll_write(cx, &buf[..most])
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Makes one test per kind of stream of each function.
macro_rules! with_both_kinds {
    ($($test:ident,)*) => {
        mod own {
            use crate::tls::kinds::Own;
            $(#[tokio::test(flavor = "current_thread")]
            async fn $test() {
                super::$test::<Own>().await;
            })*
        }
        mod by_tokio_rustls {
            use crate::tls::kinds::TokioRustls;
            $(#[tokio::test(flavor = "current_thread")]
            async fn $test() {
                super::$test::<TokioRustls>().await;
            })*
        }
    };
}
pub(crate) use with_both_kinds;
