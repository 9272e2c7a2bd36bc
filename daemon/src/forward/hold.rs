//! Keeps a new connection waiting while its session is away, and opens its channel as soon as one stands.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::local_socket::LocalSocket;
use super::ssh_session::{SshSession, Target};
use crate::session::OpenError;

/// A connection that goes on.
pub(super) struct OpenedChannel<L: SshSession> {
    /// The session that carries it.
    pub(super) session: L,
    /// Its far end.
    pub(super) channel: L::Channel,
}

/// Why a connection does not go on.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// The far side said no, or nothing.
    Refused(OpenError),
    /// No session came in time.
    HoldTimedOut,
    /// The client went away.
    ClientGone,
    /// Too many newer ones wait too.
    Evicted,
}

/// Opens a channel to the target for the connection at `client`, over the session of the moment or the next one that comes
/// within the hold time. Only time without a session counts.
pub(super) async fn open_channel<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    client: &LocalSocket,
    target: &Target,
) -> Result<OpenedChannel<L>, NotOpened> {
    let mut remaining = context.options.borrow().hold;
    loop {
        let session = match context.live_session() {
            Some(session) => session,
            None => wait_for_session(context, cell, client, &mut remaining).await?,
        };
        let opened = tokio::select! {
            biased;
            opened = session.open(target, client.peer()) => opened,
            () = client.failed() => return Err(NotOpened::ClientGone),
        };
        match opened {
            Ok(channel) => return Ok(OpenedChannel { session, channel }),
            // It is on its way out; the word of its end may come a moment later.
            Err(OpenError::SessionLost(_)) => session.closed().await,
            Err(error) => return Err(NotOpened::Refused(error)),
        }
    }
}

async fn wait_for_session<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    client: &LocalSocket,
    remaining: &mut Duration,
) -> Result<L, NotOpened> {
    if remaining.is_zero() {
        return Err(NotOpened::HoldTimedOut);
    }
    let ticket = context.held.enter();
    let _held = cell.count_held();
    let since = Instant::now();
    let mut session = context.session.subscribe();
    let live = async {
        let found = session
            .wait_for(|session| session.as_ref().is_some_and(|session| !session.is_closed()));
        found.await.ok().and_then(|session| session.clone())
    };
    let result = tokio::select! {
        biased;
        () = ticket.evicted() => Err(NotOpened::Evicted),
        found = timeout(*remaining, live) => match found {
            Ok(Some(session)) => Ok(session),
            Ok(None) | Err(_) => Err(NotOpened::HoldTimedOut),
        },
        () = client.gone() => Err(NotOpened::ClientGone),
    };
    *remaining = remaining.saturating_sub(since.elapsed());
    result
}
