//! What becomes of a connection that was accepted here: carried to its end, or told in the log.

use tracing::{debug, info};

use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::hold::{NotOpened, Opened};
use super::local_socket::Socket;
use super::relay::{Ending, Relay};
use super::ssh_session::SshSession;

/// Carries an opened connection to its end.
pub(super) async fn pump<L: SshSession>(
    facts: &ForwardCell,
    near: Socket,
    opened: Opened<L>,
    first_out: Vec<u8>,
) {
    let pump = Relay {
        near: &near,
        far: opened.channel,
        link: &opened.link,
        first_out,
        first_in: Vec::new(),
        counters: &facts.counters,
    };
    if pump.run().await == Ending::InOrder {
        near.close();
    }
}

/// Says in the log why a connection is not carried.
pub(super) fn tell<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    why: &NotOpened,
) {
    let (tunnel, listen) = (&ground.tunnel, facts.listen());
    match why {
        NotOpened::Refused(error) => info!(tunnel, %listen, "a connection is reset: {error}"),
        NotOpened::HoldTimedOut => {
            debug!(tunnel, %listen, "a connection is reset: no session within the hold time")
        }
        NotOpened::ClientGone => debug!(tunnel, %listen, "a waiting client went away"),
        NotOpened::Evicted => debug!(tunnel, %listen, "a connection is reset: too many wait"),
    }
}
