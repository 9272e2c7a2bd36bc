//! Channels that the server opens for our remote forwards (RFC 4254 §7.2).

use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use super::channel::{Channel, session_ended};
use super::handle::Handle;
use crate::connection::{ChannelId, OpenRequest, RemoteListen};

/// SSH_OPEN_CONNECT_FAILED (RFC 4254 §5.1).
const CONNECT_FAILED: u32 = 2;

/// A connection that the server accepted on one of our remote forwards.
#[derive(Debug)]
pub struct IncomingChannel {
    /// The forward, as it was requested.
    pub listen: RemoteListen,
    /// The port that the server bound; 0 for a Unix socket.
    pub bound_port: u16,
    /// `address:port` of the connecting side as the server claims it: not verified, not escaped. Empty for a Unix
    /// socket.
    pub originator: String,
    /// The channel to accept or refuse. Dropping it refuses it.
    pub channel: PendingChannel,
}

/// Receives the channels that the server opens. Dropping it refuses those that still wait, and all later ones.
#[derive(Debug)]
pub struct IncomingChannels {
    requests: mpsc::Receiver<OpenRequest>,
    // Weak: a receiver alone must not keep the session open.
    handle: Weak<Handle>,
}

impl IncomingChannels {
    pub(super) fn new(requests: mpsc::Receiver<OpenRequest>, handle: &Arc<Handle>) -> Self {
        Self {
            requests,
            handle: Arc::downgrade(handle),
        }
    }

    /// Waits for the next channel. `None` after the session has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: no channel is lost.
    pub async fn recv(&mut self) -> Option<IncomingChannel> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Polled form of [`IncomingChannels::recv`]: registers the waker of `cx` if no channel waits.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<IncomingChannel>> {
        self.requests
            .poll_recv(cx)
            .map(|request| self.with_handle(request?))
    }

    /// Returns a channel that waits. `None` if there is none now, or if the session has ended.
    pub fn try_recv(&mut self) -> Option<IncomingChannel> {
        let request = self.requests.try_recv().ok()?;
        self.with_handle(request)
    }

    fn with_handle(&self, request: OpenRequest) -> Option<IncomingChannel> {
        // Strong from here on: a channel, also a pending one, keeps its session alive.
        let handle = self.handle.upgrade()?;
        Some(IncomingChannel {
            channel: PendingChannel {
                handle: Some(handle),
                id: request.channel,
            },
            listen: request.listen,
            bound_port: request.bound_port,
            originator: request.originator,
        })
    }
}

impl Drop for IncomingChannels {
    fn drop(&mut self) {
        let Some(handle) = self.handle.upgrade() else {
            return;
        };
        // Under the lock, so that no request is queued between closing and draining.
        handle.shared.submit(|state| {
            self.requests.close();
            while let Ok(request) = self.requests.try_recv() {
                state.connection.refuse_channel(
                    request.channel,
                    CONNECT_FAILED,
                    "not accepted",
                    &mut state.transport,
                );
            }
        });
    }
}

/// A channel that the server has opened and that waits for our answer.
#[derive(Debug)]
pub struct PendingChannel {
    /// `None` once it is answered.
    handle: Option<Arc<Handle>>,
    id: ChannelId,
}

impl PendingChannel {
    /// Confirms the channel to the server.
    ///
    /// # Errors
    /// `ConnectionAborted` if the session has ended.
    pub fn accept(mut self) -> io::Result<Channel> {
        // Taken, so that dropping `self` does not refuse the channel that was just accepted.
        let handle = self.handle.take().ok_or(io::ErrorKind::NotConnected)?;
        handle.shared.submit(|state| match &state.ended {
            Some(error) => Err(session_ended(error)),
            None => {
                state
                    .connection
                    .accept_channel(self.id, &mut state.transport);
                Ok(())
            }
        })?;
        Ok(Channel::new(handle, self.id))
    }

    /// Refuses the channel with a reason code of RFC 4254 §5.1 and a text.
    pub fn refuse(mut self, code: u32, text: &str) {
        self.send_refusal(code, text);
    }

    fn send_refusal(&mut self, code: u32, text: &str) {
        if let Some(handle) = self.handle.take() {
            handle.shared.submit(|state| {
                state
                    .connection
                    .refuse_channel(self.id, code, text, &mut state.transport);
            });
        }
    }
}

impl Drop for PendingChannel {
    fn drop(&mut self) {
        self.send_refusal(CONNECT_FAILED, "not accepted");
    }
}
