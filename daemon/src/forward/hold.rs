//! Keeps a new connection waiting while its session is away, and opens its channel as soon as one stands.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::local_socket::Socket;
use super::ssh_session::{SshSession, Target};
use crate::session::OpenError;

/// A connection that goes on.
pub(super) struct Opened<L: SshSession> {
    /// The session that carries it.
    pub(super) link: L,
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

/// Opens a channel to the target for the connection at `near`, over the session of the moment or the next one that comes
/// within the hold time. Only time without a session counts.
pub(super) async fn open<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    near: &Socket,
    target: &Target,
) -> Result<Opened<L>, NotOpened> {
    let mut left = ground.options.borrow().hold;
    loop {
        let link = match ground.live() {
            Some(link) => link,
            None => wait(ground, facts, near, &mut left).await?,
        };
        let opened = tokio::select! {
            biased;
            opened = link.open(target, near.peer()) => opened,
            () = near.failed() => return Err(NotOpened::ClientGone),
        };
        match opened {
            Ok(channel) => return Ok(Opened { link, channel }),
            // It is on its way out; the word of its end may come a moment later.
            Err(OpenError::SessionLost(_)) => link.closed().await,
            Err(error) => return Err(NotOpened::Refused(error)),
        }
    }
}

async fn wait<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    near: &Socket,
    left: &mut Duration,
) -> Result<L, NotOpened> {
    if left.is_zero() {
        return Err(NotOpened::HoldTimedOut);
    }
    let seat = ground.held.enter();
    let _held = facts.hold();
    let since = Instant::now();
    let mut link = ground.link.subscribe();
    let live = async {
        let found = link.wait_for(|link| link.as_ref().is_some_and(|link| !link.is_closed()));
        found.await.ok().and_then(|link| link.clone())
    };
    let result = tokio::select! {
        biased;
        () = seat.ousted() => Err(NotOpened::Evicted),
        found = timeout(*left, live) => match found {
            Ok(Some(link)) => Ok(link),
            Ok(None) | Err(_) => Err(NotOpened::HoldTimedOut),
        },
        () = near.gone() => Err(NotOpened::ClientGone),
    };
    *left = left.saturating_sub(since.elapsed());
    result
}
