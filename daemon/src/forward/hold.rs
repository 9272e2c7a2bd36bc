//! Opens the channel for a connection that was accepted here. While the tunnel has no session the connection is held:
//! the client waits, up to the `hold` time, instead of being refused.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::local_socket::LocalSocket;
use super::ssh_session::{ChannelTarget, SshSession};
use crate::session::OpenError;

/// A channel and the session that carries it.
pub(super) struct OpenedChannel<S: SshSession> {
    pub(super) session: S,
    pub(super) channel: S::Channel,
}

/// Why no channel was opened for a connection.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// The server refused the channel or did not answer.
    Refused(OpenError),
    /// No session was established within the hold time.
    HoldTimedOut,
    /// No session will come without the user: the tunnel has failed.
    TunnelFailed,
    /// The client closed or reset its connection while it waited.
    ClientGone,
    /// Too many connections are held and this was the oldest.
    Evicted,
}

impl NotOpened {
    /// Logs why the connection is not served: a refusal at `info`, the other reasons at `debug`.
    pub(super) fn log<S: SshSession>(&self, context: &ForwardContext<S>, cell: &ForwardCell) {
        let (tunnel, listen) = (&context.tunnel, cell.listen());
        match self {
            Self::Refused(error) => info!(tunnel, %listen, "connection reset: {error}"),
            Self::HoldTimedOut => {
                debug!(tunnel, %listen, "connection reset: no session within the hold time");
            }
            Self::TunnelFailed => {
                debug!(tunnel, %listen, "connection reset: the tunnel has failed");
            }
            Self::ClientGone => {
                debug!(tunnel, %listen, "the client closed its connection while it waited");
            }
            Self::Evicted => {
                debug!(tunnel, %listen, "connection reset: too many newer connections are held");
            }
        }
    }
}

/// Opens a channel to `target` for `client`, over the current session or the next one within the hold time.
///
/// Only time without a session counts against `hold`, because `hold` limits how long a client waits for a reconnect; how
/// long the server may take to open a channel is the session's limit. The time is summed over all waits of a connection,
/// so a session that is lost again and again cannot hold a client for longer than `hold`.
pub(super) async fn open_channel<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    client: &LocalSocket,
    target: &ChannelTarget,
) -> Result<OpenedChannel<S>, NotOpened> {
    // One budget for all waits: a session that dies while the channel opens must not start the time again.
    let mut remaining = context.options.borrow().hold;
    loop {
        let session = match context.live_session() {
            Some(session) => session,
            None => wait_for_session(context, cell, client, &mut remaining).await?,
        };
        let opened = tokio::select! {
            biased;
            opened = session.open(target, client.peer()) => opened,
            () = client.wait_for_reset() => return Err(NotOpened::ClientGone),
        };
        match opened {
            Ok(channel) => return Ok(OpenedChannel { session, channel }),
            // `live_session` may return a dying session until its end is published; without this wait the loop would
            // spin on it.
            Err(OpenError::SessionLost(_)) => session.closed().await,
            Err(error) => {
                match &error {
                    OpenError::Refused { code, text } => cell.record_refusal(Some(*code), text),
                    other => cell.record_refusal(None, &other.to_string()),
                }
                return Err(NotOpened::Refused(error));
            }
        }
    }
}

/// Waits for a live session for at most `remaining`, and subtracts the time spent.
async fn wait_for_session<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    client: &LocalSocket,
    remaining: &mut Duration,
) -> Result<S, NotOpened> {
    if remaining.is_zero() {
        return Err(NotOpened::HoldTimedOut);
    }
    let mut expected = context.session_expected.subscribe();
    if !*expected.borrow_and_update() {
        return Err(NotOpened::TunnelFailed);
    }
    let ticket = cell.held.enter();
    let _held = cell.count_held();
    let since = Instant::now();
    let mut sessions = context.session.subscribe();
    let live = async {
        let found = sessions.wait_for(|session| session.as_ref().is_some_and(|s| !s.is_closed()));
        found.await.ok().and_then(|session| session.clone())
    };
    let result = tokio::select! {
        biased;
        () = ticket.evicted() => Err(NotOpened::Evicted),
        found = timeout(*remaining, live) => match found {
            Ok(Some(session)) => Ok(session),
            // `None` would mean that the sender was dropped, but `context` owns it.
            Ok(None) | Err(_) => Err(NotOpened::HoldTimedOut),
        },
        // An error would mean that the sender was dropped, but `context` owns it.
        _ = expected.wait_for(|expected| !expected) => Err(NotOpened::TunnelFailed),
        () = client.wait_until_abandoned() => Err(NotOpened::ClientGone),
    };
    *remaining = remaining.saturating_sub(since.elapsed());
    result
}
