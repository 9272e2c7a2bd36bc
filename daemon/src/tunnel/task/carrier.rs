//! The tunnel whose session carries this one's (`proxy_jump = "tunnel:NAME"`): what waits for it need not sleep on.

use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tunneld_proto::message::{Event, EventBody};
use tunneld_proto::status::TunnelStatus;

use crate::failure::{Failure, FailureKind};
use crate::session::Session;
use crate::tunnel::registry::StatusRegistry;

/// The carrier, as it stood at the last dial.
pub(super) struct Carrier {
    name: String,
    board: StatusRegistry,
    events: broadcast::Receiver<Event>,
    /// Since when its session stands that is known already.
    seen: Option<Timestamp>,
}

impl Carrier {
    pub(super) fn new(name: &str, board: &StatusRegistry) -> Self {
        // Heard from before the look, so that nothing is missed between them.
        let events = board.subscribe().1;
        Self {
            name: name.to_owned(),
            board: board.clone(),
            events,
            seen: board.status(name).as_ref().and_then(since),
        }
    }

    /// Waits until it has a session that it had not before.
    pub(super) async fn stands_anew(&mut self) {
        loop {
            let told = match self.events.recv().await.map(|event| event.body) {
                Ok(EventBody::Tunnel { tunnel }) if tunnel.name == self.name => since(&tunnel),
                Ok(_) => None,
                Err(RecvError::Lagged(_)) => self.board.status(&self.name).as_ref().and_then(since),
                Err(RecvError::Closed) => std::future::pending().await,
            };
            if told.is_some() && told != self.seen {
                self.seen = told;
                return;
            }
        }
    }
}

fn since(tunnel: &TunnelStatus) -> Option<Timestamp> {
    tunnel.session.as_ref().map(|session| session.since)
}

/// The session of the tunnel `name`.
pub(super) fn session_of(name: &str, board: &StatusRegistry) -> Result<Session, Failure> {
    board
        .session(name)
        .filter(|session| !session.is_closed())
        .ok_or_else(|| {
            Failure::new(
                FailureKind::Proxy,
                format!("the tunnel {name}, over whose session this one goes, is not up"),
            )
            .hint(format!("run: tunnelctl up {name}"))
        })
}
