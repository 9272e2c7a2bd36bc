//! Listens on this side and brings each connection to the far one: `ssh -L`, and the first half of `ssh -D`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::carry::{pump, tell};
use super::context::{ForwardContext, MAX_CONNECTIONS};
use super::counters::CountGuard;
use super::dynamic;
use super::forward_state::ForwardCell;
use super::hold;
use super::listener::ForwardListener;
use super::local_socket::LocalSocket;
use super::reserved_fd::{self, ReservedFd};
use super::ssh_session::{SshSession, Target};
use tunneld_config::model::Forward;

/// How long after each failure an address or a remote forward is tried again; the last for ever.
pub(super) const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];
/// A pause after an accept that failed for a reason that may last.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The delays between tries.
pub(super) fn retry_delays() -> impl Iterator<Item = Duration> {
    let last = RETRY_DELAYS.last().copied().unwrap_or_default();
    RETRY_DELAYS.into_iter().chain(std::iter::repeat(last))
}

/// Takes the forward's address, and writes down how that went. Where another's socket stands in the way it is removed
/// only if the configuration and `unlink` say so.
pub(super) async fn bind<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    unlink: bool,
) -> Option<ForwardListener> {
    let mut options = context.options.borrow().clone();
    options.forwarding.unlink_socket &= unlink;
    match ForwardListener::bind(&context.tunnel, cell.listen(), &options).await {
        Ok(listener) => {
            let place = listener.bound_addr().clone();
            info!(tunnel = context.tunnel, listen = place.listen, "listening");
            if place.exposed {
                warn!(
                    tunnel = context.tunnel,
                    listen = place.listen,
                    "EXPOSED: other machines can reach this forward"
                );
            }
            cell.set_listening(place);
            Some(listener)
        }
        Err(failure) => {
            // The same trouble again is no news.
            if cell.failure().as_ref() != Some(&failure) {
                warn!(tunnel = context.tunnel, "{failure}; trying again");
            }
            cell.set_failed(failure);
            None
        }
    }
}

/// Serves one forward until it is cancelled: goes on trying for its address, then takes connections.
/// Its end gives the address up.
pub(super) async fn serve<L: SshSession>(
    context: Arc<ForwardContext<L>>,
    cell: Arc<ForwardCell>,
    first: Option<ForwardListener>,
    cancel: CancellationToken,
) {
    let work = async {
        let mut listener = first;
        let mut unlink = true;
        loop {
            let bound = match listener {
                Some(bound) => bound,
                None => bind_with_retries(&context, &cell, unlink).await,
            };
            tokio::select! {
                () = take(&context, &cell, &cancel, &bound) => {}
                () = bound.path_lost() => {}
            }
            warn!(
                tunnel = context.tunnel,
                listen = %cell.listen(),
                "the socket's file was taken away: listening anew"
            );
            drop(bound);
            // Two that took it from each other would do so for ever.
            unlink = false;
            listener = bind(&context, &cell, unlink).await;
        }
    };
    // Never done by itself.
    let _: Option<()> = cancel.run_until_cancelled(work).await;
}

async fn bind_with_retries<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    unlink: bool,
) -> ForwardListener {
    let mut delays = retry_delays();
    loop {
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
        if let Some(listener) = bind(context, cell, unlink).await {
            return listener;
        }
    }
}

/// Takes connections for ever.
async fn take<L: SshSession>(
    context: &Arc<ForwardContext<L>>,
    cell: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    listener: &ForwardListener,
) {
    let mut spare = ReservedFd::new();
    loop {
        match listener.accept().await {
            Ok(socket) => admit(context, cell, cancel, socket),
            Err(error) if reserved_fd::is_exhausted(&error) => {
                context.warn_throttled("no file descriptors are left: new connections are closed; raise the limit (ulimit -n, LimitNOFILE=)");
                if !spare.with_one_freed(|| listener.accept_now()) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            // The client's own undoing, between its knock and our accept.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                context.warn_throttled(&format!(
                    "cannot accept a connection on {}: {error}",
                    cell.listen()
                ));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Lets a connection in, where there is room for it; else it is reset at once.
fn admit<L: SshSession>(
    context: &Arc<ForwardContext<L>>,
    cell: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    socket: LocalSocket,
) {
    if reserved_fd::is_in_reserve(&socket) {
        context.warn_throttled("few file descriptors are left: new connections are closed; raise the limit (ulimit -n, LimitNOFILE=)");
        return;
    }
    let Some(place) = context.try_acquire_connection() else {
        context.warn_throttled(&format!(
            "more than {MAX_CONNECTIONS} connections: new ones are closed"
        ));
        return;
    };
    let counted = cell.count_connection();
    let (cell, cancel) = (Arc::clone(cell), cancel.clone());
    context.spawn(serve_connection(
        Arc::clone(context),
        cell,
        cancel,
        socket,
        (place, counted),
    ));
}

/// Serves one connection to its end, and keeps its place until then.
async fn serve_connection<L: SshSession>(
    context: Arc<ForwardContext<L>>,
    cell: Arc<ForwardCell>,
    cancel: CancellationToken,
    socket: LocalSocket,
    _kept: (OwnedSemaphorePermit, CountGuard),
) {
    match &cell.forward {
        Forward::Dynamic { .. } => dynamic::serve(&context, &cell, &cancel, socket).await,
        Forward::Local { to, .. } => {
            carry(&context, &cell, &cancel, socket, &Target::from(to)).await;
        }
        Forward::Remote { .. } => {}
    }
}

async fn carry<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    cancel: &CancellationToken,
    near: LocalSocket,
    target: &Target,
) {
    let opened = cancel.run_until_cancelled(hold::open_channel(context, cell, &near, target));
    match opened.await {
        Some(Ok(opened)) => pump(cell, near, opened, Vec::new()).await,
        Some(Err(why)) => tell(context, cell, &why),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of_val;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::*;
    use crate::forward::ForwardOptions;
    use crate::session::Session;
    use tunneld_config::addr::{BindAddr, ListenAddr};
    use tunneld_config::model::Forwarding;

    #[tokio::test]
    async fn a_connection_that_waits_costs_little_memory() {
        let changed = Arc::new(Notify::new());
        let options = ForwardOptions {
            hold: Duration::from_secs(1),
            forwarding: Forwarding {
                exit_on_failure: false,
                unlink_socket: false,
                socket_mask: 0o177,
                permit_remote_open: vec![],
            },
        };
        let context = Arc::new(ForwardContext::<Session>::new(
            "t",
            options,
            Arc::clone(&changed),
        ));
        let listen = ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port: 0,
        };
        let cell = Arc::new(ForwardCell::new(Forward::Dynamic { listen }, changed));
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(door.local_addr().unwrap()).await;
        let kept = (
            context.try_acquire_connection().unwrap(),
            cell.count_connection(),
        );
        let (token, near) = (CancellationToken::new(), near.unwrap().into());
        let served = serve_connection(Arc::clone(&context), cell, token, near, kept);
        let once = size_of_val(&served);
        assert!(once < 4096, "{once}");
        let around = size_of_val(&context.guard(served));
        assert!(around < 1024, "{around}");
    }
}
