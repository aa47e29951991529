//! An echo server by tokio-tungstenite: a peer that keeps RFC 6455 in its own way.

use std::path::Path;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_tungstenite::accept_async;

/// Echoes every message.
#[derive(Debug)]
pub struct Echo {
    url: String,
    task: JoinHandle<()>,
}

impl Echo {
    pub async fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Echo { url, task }
    }

    /// Listens on a Unix socket.
    pub fn start_unix(path: &Path) -> Echo {
        let listener = UnixListener::bind(path).unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Echo { url: format!("unix:{}", path.display()), task }
    }

    /// Returns it as an endpoint of a configuration.
    pub fn url(&self) -> String {
        self.url.clone()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}
