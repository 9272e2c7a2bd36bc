//! What becomes of a connection that was accepted here: carried to its end, or told in the log.

use tracing::{debug, info};

use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::hold::{NotOpened, OpenedChannel};
use super::local_socket::LocalSocket;
use super::relay::{Ending, Relay};
use super::ssh_session::SshSession;

/// Carries an opened connection to its end.
pub(super) async fn pump<L: SshSession>(
    cell: &ForwardCell,
    near: LocalSocket,
    opened: OpenedChannel<L>,
    first_out: Vec<u8>,
) {
    let pump = Relay {
        near: &near,
        far: opened.channel,
        session: &opened.session,
        first_out,
        first_in: Vec::new(),
        counters: &cell.counters,
    };
    if pump.run().await == Ending::InOrder {
        near.close();
    }
}

/// Says in the log why a connection is not carried.
pub(super) fn tell<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    why: &NotOpened,
) {
    let (tunnel, listen) = (&context.tunnel, cell.listen());
    match why {
        NotOpened::Refused(error) => info!(tunnel, %listen, "a connection is reset: {error}"),
        NotOpened::HoldTimedOut => {
            debug!(tunnel, %listen, "a connection is reset: no session within the hold time")
        }
        NotOpened::ClientGone => debug!(tunnel, %listen, "a waiting client went away"),
        NotOpened::Evicted => debug!(tunnel, %listen, "a connection is reset: too many wait"),
    }
}
