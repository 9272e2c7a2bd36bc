//! The tunnel whose session carries this one's connection (`proxy_jump = "tunnel:NAME"`).

use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tunneld_proto::message::{Event, EventBody};
use tunneld_proto::status::TunnelStatus;

use crate::failure::{Failure, FailureKind};
use crate::session::Session;
use crate::tunnel::registry::StatusRegistry;

/// Watches the carrying tunnel from the start of a dial, so that a wait can end when the carrier has a new session.
pub(super) struct Carrier {
    name: String,
    registry: StatusRegistry,
    events: broadcast::Receiver<Event>,
    /// When the carrier's last known session was established. `None` if it had no session.
    last_session: Option<Timestamp>,
}

impl Carrier {
    pub(super) fn new(name: &str, registry: &StatusRegistry) -> Self {
        // Before the look-up, so that no change falls between the two.
        let events = registry.subscribe().1;
        Self {
            name: name.to_owned(),
            registry: registry.clone(),
            events,
            last_session: registry.status(name).as_ref().and_then(session_since),
        }
    }

    /// Waits until the carrier has a session other than the last known one.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn new_session(&mut self) {
        loop {
            let since = match self.events.recv().await.map(|event| event.body) {
                Ok(EventBody::Tunnel { tunnel }) if tunnel.name == self.name => {
                    session_since(&tunnel)
                }
                Ok(_) => None,
                // The missed events may have been about the carrier.
                Err(RecvError::Lagged(_)) => self
                    .registry
                    .status(&self.name)
                    .as_ref()
                    .and_then(session_since),
                Err(RecvError::Closed) => std::future::pending().await,
            };
            if since.is_some() && since != self.last_session {
                self.last_session = since;
                return;
            }
        }
    }
}

fn session_since(tunnel: &TunnelStatus) -> Option<Timestamp> {
    tunnel.session.as_ref().map(|session| session.since)
}

/// Returns the live session of the tunnel `name`.
///
/// # Errors
/// A failure of kind `proxy` if that tunnel has no live session.
pub(super) fn session_of(name: &str, registry: &StatusRegistry) -> Result<Session, Failure> {
    registry
        .session(name)
        // The registry may still show a session that has just ended.
        .filter(|session| !session.is_closed())
        .ok_or_else(|| {
            Failure::new(
                FailureKind::Proxy,
                format!("waiting for tunnel {name}, which carries this one"),
            )
            .hint(format!("run: tunnelctl up {name}"))
        })
}
