//! Listens on this side and brings each connection to the far one: `ssh -L`, and the first half of `ssh -D`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::carry::{pump, tell};
use super::context::{CONNECTIONS, ForwardContext};
use super::counters::Counted;
use super::dynamic;
use super::forward_state::ForwardCell;
use super::hold;
use super::listener::Listener;
use super::local_socket::Socket;
use super::reserved_fd::{self, ReservedFd};
use super::ssh_session::{SshSession, Target};
use tunneld_config::model::Forward;

/// How long after each failure an address or a remote forward is tried again; the last for ever.
pub(super) const RETRIES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];
/// A pause after an accept that failed for a reason that may last.
const BREATH: Duration = Duration::from_millis(50);

/// The delays between tries.
pub(super) fn retries() -> impl Iterator<Item = Duration> {
    let last = RETRIES.last().copied().unwrap_or_default();
    RETRIES.into_iter().chain(std::iter::repeat(last))
}

/// Takes the forward's address, and writes down how that went. Where another's socket stands in the way it is removed
/// only if the configuration and `unlink` say so.
pub(super) async fn bind<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    unlink: bool,
) -> Option<Listener> {
    let mut options = ground.options.borrow().clone();
    options.forwarding.unlink_socket &= unlink;
    match Listener::bind(&ground.tunnel, facts.listen(), &options).await {
        Ok(listener) => {
            let place = listener.place().clone();
            info!(tunnel = ground.tunnel, listen = place.listen, "listening");
            if place.exposed {
                warn!(
                    tunnel = ground.tunnel,
                    listen = place.listen,
                    "EXPOSED: other machines can reach this forward"
                );
            }
            facts.listens(place);
            Some(listener)
        }
        Err(failure) => {
            // The same trouble again is no news.
            if facts.failure().as_ref() != Some(&failure) {
                warn!(tunnel = ground.tunnel, "{failure}; trying again");
            }
            facts.fails(failure);
            None
        }
    }
}

/// Serves one forward until it is cancelled: goes on trying for its address, then takes connections.
/// Its end gives the address up.
pub(super) async fn serve<L: SshSession>(
    ground: Arc<ForwardContext<L>>,
    facts: Arc<ForwardCell>,
    first: Option<Listener>,
    cancel: CancellationToken,
) {
    let work = async {
        let mut listener = first;
        let mut unlink = true;
        loop {
            let bound = match listener {
                Some(bound) => bound,
                None => bind_later(&ground, &facts, unlink).await,
            };
            tokio::select! {
                () = take(&ground, &facts, &cancel, &bound) => {}
                () = bound.lost() => {}
            }
            warn!(
                tunnel = ground.tunnel,
                listen = %facts.listen(),
                "the socket's file was taken away: listening anew"
            );
            drop(bound);
            // Two that took it from each other would do so for ever.
            unlink = false;
            listener = bind(&ground, &facts, unlink).await;
        }
    };
    // Never done by itself.
    let _: Option<()> = cancel.run_until_cancelled(work).await;
}

async fn bind_later<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    unlink: bool,
) -> Listener {
    let mut delays = retries();
    loop {
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
        if let Some(listener) = bind(ground, facts, unlink).await {
            return listener;
        }
    }
}

/// Takes connections for ever.
async fn take<L: SshSession>(
    ground: &Arc<ForwardContext<L>>,
    facts: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    listener: &Listener,
) {
    let mut spare = ReservedFd::new();
    loop {
        match listener.accept().await {
            Ok(socket) => admit(ground, facts, cancel, socket),
            Err(error) if reserved_fd::is_exhausted(&error) => {
                ground.complain("no file descriptors are left: new connections are closed; raise the limit (ulimit -n, LimitNOFILE=)");
                if !spare.lend(|| listener.accept_now()) {
                    tokio::time::sleep(BREATH).await;
                }
            }
            // The client's own undoing, between its knock and our accept.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                ground.complain(&format!(
                    "cannot accept a connection on {}: {error}",
                    facts.listen()
                ));
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Lets a connection in, where there is room for it; else it is reset at once.
fn admit<L: SshSession>(
    ground: &Arc<ForwardContext<L>>,
    facts: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    socket: Socket,
) {
    if reserved_fd::is_reserved(&socket) {
        ground.complain("few file descriptors are left: new connections are closed; raise the limit (ulimit -n, LimitNOFILE=)");
        return;
    }
    let Some(place) = ground.place() else {
        ground.complain(&format!(
            "more than {CONNECTIONS} connections: new ones are closed"
        ));
        return;
    };
    let counted = facts.connection();
    let (facts, cancel) = (Arc::clone(facts), cancel.clone());
    ground.spawn(serve_one(
        Arc::clone(ground),
        facts,
        cancel,
        socket,
        (place, counted),
    ));
}

/// Serves one connection to its end, and keeps its place until then.
async fn serve_one<L: SshSession>(
    ground: Arc<ForwardContext<L>>,
    facts: Arc<ForwardCell>,
    cancel: CancellationToken,
    socket: Socket,
    _kept: (OwnedSemaphorePermit, Counted),
) {
    match &facts.forward {
        Forward::Dynamic { .. } => dynamic::serve(&ground, &facts, &cancel, socket).await,
        Forward::Local { to, .. } => {
            carry(&ground, &facts, &cancel, socket, &Target::from(to)).await;
        }
        Forward::Remote { .. } => {}
    }
}

async fn carry<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    cancel: &CancellationToken,
    near: Socket,
    target: &Target,
) {
    let opened = cancel.run_until_cancelled(hold::open(ground, facts, &near, target));
    match opened.await {
        Some(Ok(opened)) => pump(facts, near, opened, Vec::new()).await,
        Some(Err(why)) => tell(ground, facts, &why),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of_val;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::*;
    use crate::forward::Options;
    use crate::session::Session;
    use tunneld_config::addr::{BindAddr, ListenAddr};
    use tunneld_config::model::Forwarding;

    #[tokio::test]
    async fn a_connection_that_waits_costs_little_memory() {
        let changed = Arc::new(Notify::new());
        let options = Options {
            hold: Duration::from_secs(1),
            forwarding: Forwarding {
                exit_on_failure: false,
                unlink_socket: false,
                socket_mask: 0o177,
                permit_remote_open: vec![],
            },
        };
        let ground = Arc::new(ForwardContext::<Session>::new(
            "t",
            options,
            Arc::clone(&changed),
        ));
        let listen = ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port: 0,
        };
        let facts = Arc::new(ForwardCell::new(Forward::Dynamic { listen }, changed));
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(door.local_addr().unwrap()).await;
        let kept = (ground.place().unwrap(), facts.connection());
        let (token, near) = (CancellationToken::new(), near.unwrap().into());
        let served = serve_one(Arc::clone(&ground), facts, token, near, kept);
        let once = size_of_val(&served);
        assert!(once < 4096, "{once}");
        let around = size_of_val(&ground.guard(served));
        assert!(around < 1024, "{around}");
    }
}
