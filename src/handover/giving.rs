//! The old process gives sessions to the new one, batch by batch; `transfer` has the order.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::timeout;

use super::batch::{Outbound, pack};
use super::channel::ChannelError;
use super::message::HandoverMessage;
use super::offer::Reporter;
use super::transfer::{Giver, GiverEvent, GiverReply};

/// How long the new process may take to judge a batch: it takes milliseconds. One that takes longer hangs.
const JUDGE_WAIT: Duration = Duration::from_secs(2);
/// How long the last look for an answer takes.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// How long a message of a few bytes may wait for room.
const SEND_WAIT: Duration = Duration::from_millis(200);

/// Why a batch was not given. All its sessions are still this process's.
#[derive(Debug, thiserror::Error)]
pub enum NotGiven {
    /// It could not be packed.
    #[error("the sessions cannot be packed")]
    Pack(#[source] io::Error),
    /// It has not arrived whole.
    #[error("the new process has not received them: {0}")]
    Unreceived(String),
    /// The new process is late.
    #[error("the new process has not answered within {JUDGE_WAIT:?}")]
    Late,
    /// The new process is late and does not read: it may hold the batch unused, and nobody can tell it.
    #[error("the new process does not read")]
    Unsaid,
    /// The new process has ended, or the line is broken.
    #[error("the new process has gone")]
    Gone(#[source] ChannelError),
}

impl Reporter {
    /// Gives a batch to the new process. Returns the sessions that it refuses, by their place in the batch, with the reason;
    /// they are still this process's. All others are the new process's, which may use their sockets already: let go of them.
    ///
    /// Not cancel-safe: once polled, it must be polled to its end.
    ///
    /// # Errors
    /// See [`NotGiven`]. After [`NotGiven::Gone`] and [`NotGiven::Unsaid`] no other batch can be given.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn give(&mut self, sessions: &[Outbound<'_>]) -> Result<Vec<(u32, String)>, NotGiven> {
        let file = pack(sessions).map_err(NotGiven::Pack)?;
        let descriptors: Vec<_> =
            std::iter::once(file.as_fd()).chain(sessions.iter().flat_map(|session| session.sockets)).collect();
        self.batch += 1;
        let (batch, count) = (self.batch, sessions.len() as u32);
        let mut news = News { batch, refused: vec![], lacking: None, error: None };
        let offered = async {
            match self.channel.send(&HandoverMessage::Sessions { batch, count }, &descriptors).await {
                Ok(()) => {}
                // It may have said something before it ended.
                Err(ChannelError::Gone) => {}
                Err(error) => return news.failed(error),
            }
            news.next(self).await
        };
        let mut event = match timeout(JUDGE_WAIT, offered).await {
            Ok(event) => event,
            // This process itself may have stood still: the answer may be there.
            Err(_) => timeout(LAST_LOOK, news.next(self)).await.unwrap_or(GiverEvent::Late),
        };
        let mut state = Giver::Offered;
        loop {
            let (next, reply) = state.on(event);
            state = next;
            let message = match reply {
                GiverReply::Nothing => None,
                GiverReply::Commit => Some(HandoverMessage::Commit { batch }),
                GiverReply::Revoke => Some(HandoverMessage::Revoke { batch }),
            };
            if let Some(message) = message {
                match timeout(SEND_WAIT, self.channel.send(&message, &[])).await {
                    Ok(Ok(())) => {}
                    // Not said, so it is not committed; if it is never revoked either, the new process holds it unused.
                    Err(_) if state == Giver::Committed => return Err(NotGiven::Unsaid),
                    // If it has gone, receiving says so.
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            match state {
                Giver::Given => return Ok(news.refused),
                Giver::Kept => return Err(news.not_given(event)),
                Giver::Offered | Giver::Committed => event = news.next(self).await,
            }
        }
    }
}

/// What was said about a batch.
struct News {
    batch: u64,
    refused: Vec<(u32, String)>,
    lacking: Option<String>,
    error: Option<ChannelError>,
}

impl News {
    /// Waits for the next message about this batch. Cancel-safe.
    async fn next(&mut self, reporter: &mut Reporter) -> GiverEvent {
        loop {
            let message = match reporter.channel.receive().await {
                Ok((message, _closed)) => message,
                Err(error) => return self.failed(error),
            };
            match message {
                HandoverMessage::Judged { batch, refused } if batch == self.batch => {
                    self.refused = refused;
                    return GiverEvent::Judged;
                }
                HandoverMessage::Unreceived { reason } => {
                    self.lacking = Some(reason);
                    return GiverEvent::Unreceived;
                }
                HandoverMessage::Adopted { batch } if batch == self.batch => return GiverEvent::Adopted,
                // Of an earlier batch, or of a later build.
                _ => {}
            }
        }
    }

    fn failed(&mut self, error: ChannelError) -> GiverEvent {
        self.error = Some(error);
        GiverEvent::Gone
    }

    fn not_given(self, event: GiverEvent) -> NotGiven {
        match (event, self.lacking, self.error) {
            (GiverEvent::Unreceived, lacking, _) => NotGiven::Unreceived(lacking.unwrap_or_default()),
            (GiverEvent::Late, ..) => NotGiven::Late,
            (_, _, error) => NotGiven::Gone(error.unwrap_or(ChannelError::Gone)),
        }
    }
}
