//! Local forwards (`ssh -L`) and the listening half of dynamic ones (`ssh -D`) and of DNS forwards: binds the address, accepts connections and
//! serves each in its own task. A listener belongs to the tunnel and not to a session: while the tunnel reconnects the
//! port stays bound, so that clients are held instead of refused and no other program can take the port.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{BoxFuture, MaybeDone, OptionFuture, maybe_done};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::bind::PortKind;
use super::context::ForwardContext;
use super::counters::CountGuard;
use super::dns::{QuerySender, Resolver, receive_datagrams, serve_client};
use super::dynamic;
use super::forward_state::ForwardCell;
use super::hold;
use super::listener::ForwardListener;
use super::local_socket::LocalSocket;
use super::relay::Relay;
use super::retry::retry_delays;
use super::ssh_session::{ChannelTarget, SshSession};
use tunneld_config::model::Forward;
use tunneld_platform::fd_reserve::{self, FdUse, SpareFd};

/// The pause after an `accept` that failed for a reason that may persist, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds the forward's address and records the result in `cell`. Returns `None` if it could not be bound.
///
/// With `may_unlink`, and if the configuration allows it, a Unix socket that another process listens on is removed first.
pub(super) async fn bind<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    may_unlink: bool,
) -> Option<ForwardListener> {
    let mut forwarding = context.options.borrow().forwarding.clone();
    forwarding.unlink_socket &= may_unlink;
    let kind = match &cell.forward {
        Forward::Dns { .. } => PortKind::TcpAndUdp,
        Forward::Local { .. } | Forward::Dynamic { .. } | Forward::Remote { .. } => PortKind::Tcp,
    };
    match ForwardListener::bind(cell.listen(), kind, &forwarding).await {
        Ok(listener) => {
            let addr = listener.bound_addr().clone();
            info!(tunnel = context.tunnel, listen = addr.listen, "listening");
            if addr.exposed {
                warn!(
                    tunnel = context.tunnel,
                    listen = addr.listen,
                    "EXPOSED: other machines can reach this forward"
                );
            }
            record_listening(context, cell, &listener);
            Some(listener)
        }
        Err(failure) => {
            // A retry that fails in the same way is not logged again.
            if cell.failure().as_ref() != Some(&failure) {
                warn!(
                    tunnel = context.tunnel,
                    "{failure}; retrying in the background"
                );
            }
            cell.set_failed(failure);
            None
        }
    }
}

/// The first attempt to bind a forward's address, finished or not.
pub(super) type FirstBind = Pin<Box<MaybeDone<BoxFuture<'static, Option<ForwardListener>>>>>;

/// Binds the forward's address as [`bind`] does, as far as that needs no waiting. The caller has to await the rest: the
/// search for the program that has the address reads all of /proc, and a name has to be looked up.
pub(super) async fn first_bind<S: SshSession>(
    context: &Arc<ForwardContext<S>>,
    cell: &Arc<ForwardCell>,
) -> FirstBind {
    let (context, cell) = (Arc::clone(context), Arc::clone(cell));
    let bind: BoxFuture<'static, _> = Box::pin(async move { bind(&context, &cell, true).await });
    let mut first = Box::pin(maybe_done(bind));
    poll_fn(|cx| {
        let _ = first.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
    first
}

/// Records in `cell` that `listener` accepts connections, and which of its addresses it could not bind.
fn record_listening<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    listener: &ForwardListener,
) {
    let addr = listener.bound_addr().clone();
    match listener.unbound_failure() {
        None => cell.set_listening(addr),
        Some(failure) => {
            if cell.set_partly_listening(addr, failure.clone()) {
                warn!(
                    tunnel = context.tunnel,
                    "{failure}; the forward listens on its other address, retrying in the background"
                );
            }
        }
    }
}

/// Serves one forward until `cancel` is cancelled: binds its address if `first` fails, retrying until that succeeds, and
/// accepts connections. `bound` is dropped when `first` has succeeded or failed. The address is free again when this returns.
pub(super) async fn serve<S: SshSession>(
    context: Arc<ForwardContext<S>>,
    cell: Arc<ForwardCell>,
    mut first: FirstBind,
    bound: oneshot::Sender<()>,
    cancel: CancellationToken,
) {
    let (resolver, queries) = Resolver::new(&context, &cell).unzip();
    // Boxed, so that the tasks of other forwards do not make room for it.
    let resolver = OptionFuture::from(resolver.map(|resolver| Box::pin(resolver.run())));
    let work = async {
        first.as_mut().await;
        let mut listener = first.as_mut().take_output().flatten();
        drop(bound);
        let mut may_unlink = true;
        loop {
            let mut bound = match listener {
                Some(bound) => bound,
                None => bind_with_retries(&context, &cell, may_unlink).await,
            };
            accept_until_path_lost(&context, &cell, &cancel, &mut bound, queries.as_ref()).await;
            warn!(
                tunnel = context.tunnel,
                listen = %cell.listen(),
                "the file of the Unix socket was removed or replaced; binding it again"
            );
            drop(bound);
            // Another process may have removed our file to bind its own. If both kept unlinking, the path would change
            // owners forever; this side waits until the path is free.
            may_unlink = false;
            listener = bind(&context, &cell, may_unlink).await;
        }
    };
    // Both loop forever, so that only `cancel` ends them.
    let work = async {
        tokio::select! {
            () = work => {}
            Some(()) = resolver => {}
        }
    };
    cancel.run_until_cancelled(work).await;
}

/// Accepts connections until the file of a Unix socket is lost. Tries meanwhile to bind the addresses that are missing.
async fn accept_until_path_lost<S: SshSession>(
    context: &Arc<ForwardContext<S>>,
    cell: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    bound: &mut ForwardListener,
    queries: Option<&QuerySender>,
) {
    let mut delays = retry_delays();
    loop {
        let sockets = bound.datagram_sockets();
        let delay = async {
            if bound.is_partial() {
                tokio::time::sleep(delays.next().unwrap_or_default()).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = accept_loop(context, cell, cancel, bound, queries) => {}
            () = receive_datagrams(context, cell, &sockets, queries) => {}
            () = bound.path_lost() => return,
            () = delay => {
                bound.bind_unbound().await;
                record_listening(context, cell, bound);
            }
        }
    }
}

async fn bind_with_retries<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    may_unlink: bool,
) -> ForwardListener {
    let mut delays = retry_delays();
    loop {
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
        if let Some(listener) = bind(context, cell, may_unlink).await {
            return listener;
        }
    }
}

/// Accepts connections forever. Never waits for a connection's own work, which would delay all later clients.
async fn accept_loop<S: SshSession>(
    context: &Arc<ForwardContext<S>>,
    cell: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    listener: &ForwardListener,
    queries: Option<&QuerySender>,
) {
    let mut spare = SpareFd::new();
    loop {
        match listener.accept().await {
            Ok(socket) => admit(context, cell, cancel, socket, queries),
            // EMFILE or ENFILE: the connection stays in the kernel's queue and the listener stays readable. Accepting
            // it with the spare descriptor and resetting it lets the client know and keeps this loop from spinning.
            Err(error) if fd_reserve::is_exhausted(&error) => {
                context.warn_throttled(&format!(
                    "no file descriptors are left: new connections are reset; {}",
                    fd_reserve::REMEDY
                ));
                if !spare.with_one_freed(|| listener.accept_now()) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            // The client gave up between its connect and this accept; the listener itself is fine.
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

/// Spawns the task of a new connection. If a limit is reached the connection is reset, by dropping `socket`.
fn admit<S: SshSession>(
    context: &Arc<ForwardContext<S>>,
    cell: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    socket: LocalSocket,
    queries: Option<&QuerySender>,
) {
    if let Err(error) = fd_reserve::check(&*socket.sock(), FdUse::Connection) {
        context.warn_throttled(&format!(
            "{error}: new connections are reset; {}",
            fd_reserve::REMEDY
        ));
        return;
    }
    let Some(counted) = context.try_count_connection(cell) else {
        return;
    };
    let (cell, cancel) = (Arc::clone(cell), cancel.clone());
    context.spawn(serve_connection(
        Arc::clone(context),
        cell,
        cancel,
        socket,
        queries.cloned(),
        counted,
    ));
}

/// Serves one connection to its end. `_counted` keeps it counted until then.
async fn serve_connection<S: SshSession>(
    context: Arc<ForwardContext<S>>,
    cell: Arc<ForwardCell>,
    cancel: CancellationToken,
    client: LocalSocket,
    queries: Option<QuerySender>,
    _counted: CountGuard,
) {
    match &cell.forward {
        Forward::Dynamic { .. } => dynamic::serve(&context, &cell, &cancel, client).await,
        Forward::Local { to, .. } => {
            serve_local(&context, &cell, &cancel, client, &ChannelTarget::from(to)).await;
        }
        Forward::Dns { .. } => {
            if let Some(queries) = queries {
                // Boxed: its future is larger than those of the other kinds.
                Box::pin(serve_client(&cell, client, queries)).await;
            }
        }
        Forward::Remote { .. } => {}
    }
}

/// Opens a channel to `target` and relays. `cancel` ends only the opening: when a forward is removed, connections that
/// are relayed already continue to their own end.
async fn serve_local<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    cancel: &CancellationToken,
    client: LocalSocket,
    target: &ChannelTarget,
) {
    let opening = hold::open_channel(context, cell, &client, target);
    match cancel.run_until_cancelled(opening).await {
        Some(Ok(opened)) => {
            let relay = Relay {
                local: client,
                channel: opened.channel,
                session: &opened.session,
                first_to_channel: Vec::new(),
                first_to_local: Vec::new(),
                counters: &cell.counters,
            };
            relay.run().await;
        }
        Some(Err(reason)) => reason.log(context, cell),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of_val;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::*;
    use crate::forward::context::ForwardOptions;
    use crate::session::Session;
    use tunneld_config::addr::{BindAddr, ListenAddr};
    use tunneld_config::model::Forwarding;

    #[tokio::test]
    async fn the_task_of_a_held_connection_is_small() {
        let changed = Arc::new(Notify::new());
        let options = ForwardOptions {
            hold: Duration::from_secs(1),
            forwarding: Forwarding {
                exit_on_failure: false,
                unlink_socket: false,
                socket_mask: 0o177,
                max_connections: tunneld_config::model::DEFAULT_MAX_CONNECTIONS,
                permit_remote_open: vec![],
                proxy_login: None,
            },
        };
        let context = Arc::new(ForwardContext::<Session>::new(
            "t",
            options,
            Arc::clone(&changed),
            crate::forward::ServerListeners::default(),
        ));
        let listen = ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port: 0,
        };
        let cell = Arc::new(ForwardCell::new(Forward::Dynamic { listen }, changed));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let counted = context.try_count_connection(&cell).unwrap();
        let (cancel, client) = (CancellationToken::new(), client.unwrap().into());
        let served = serve_connection(Arc::clone(&context), cell, cancel, client, None, counted);
        let size = size_of_val(&served);
        assert!(size < 4096, "{size} bytes");
        let guarded = size_of_val(&context.guard(served));
        assert!(guarded < 1024, "{guarded} bytes");
    }
}
