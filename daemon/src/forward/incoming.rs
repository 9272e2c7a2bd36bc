//! Connections that the server opens for remote forwards (`ssh -R`): finds the forward, connects from this machine and
//! relays. What the server sends never chooses the destination: the configuration does, or, with reverse SOCKS, the
//! client behind the connection within the limits of `permit_remote_open`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::connect::connect;
use super::context::ForwardContext;
use super::dynamic::{self, ClientRequest};
use super::forward_state::ForwardCell;
use super::local_socket::LocalSocket;
use super::relay::Relay;
use super::ssh_session::{IncomingChannel, SshSession};
use crate::dynamic::{ConnectReply, ConnectRequest, Host};
use tunneld_config::addr::{Endpoint, HostPort, ListenAddr};
use tunneld_config::model::Forward;

/// Channels of one session that may wait until the server has granted their forward. Further ones are refused.
const MAX_WAITING_FOR_GRANT: usize = 64;
/// How long a channel waits for the grant of its forward. The server sends both within a moment, in either order.
const GRANT_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the channels that the server opens until `session_ended` is cancelled. Each gets its own task: a wait here
/// would fill the queue, and the session refuses channels that the queue has no room for.
pub(super) async fn serve_incoming<S: SshSession>(
    context: Arc<ForwardContext<S>>,
    session: S,
    session_ended: CancellationToken,
    mut incoming: mpsc::Receiver<S::Incoming>,
) {
    let waiting = Arc::new(Semaphore::new(MAX_WAITING_FOR_GRANT));
    while let Some(Some(channel)) = session_ended.run_until_cancelled(incoming.recv()).await {
        let found = find_forward(&context.remotes.borrow(), channel.listen(), channel.port());
        match found {
            Found::Forward(cell) => admit(&context, &session, cell, channel),
            Found::NotGrantedYet => {
                let Ok(permit) = Arc::clone(&waiting).try_acquire_owned() else {
                    context.warn_throttled(
                        "the server opens many connections before it has granted their forward; they are refused",
                    );
                    continue;
                };
                let (waiting_context, session) = (Arc::clone(&context), session.clone());
                context.spawn(async move {
                    let _permit = permit;
                    let (listen, port) = (channel.listen().clone(), channel.port());
                    let granted = wait_for_grant(&waiting_context, &session, &listen, port);
                    if let Some(cell) = granted.await {
                        admit(&waiting_context, &session, cell, channel);
                    }
                });
            }
            Found::NotRequested => warn_not_requested(&context),
        }
    }
}

fn warn_not_requested<S: SshSession>(context: &ForwardContext<S>) {
    context.warn_throttled(
        "the server opened a connection for a forward that was not requested; it is refused",
    );
}

/// Spawns the task that serves a channel. If a limit is reached the channel is refused, by dropping it.
fn admit<S: SshSession>(
    context: &Arc<ForwardContext<S>>,
    session: &S,
    cell: Arc<ForwardCell>,
    channel: S::Incoming,
) {
    let Some(counted) = context.try_count_connection(&cell) else {
        return;
    };
    let (connection_context, session) = (Arc::clone(context), session.clone());
    context.spawn(async move {
        let _counted = counted;
        let Forward::Remote { to, .. } = &cell.forward else {
            return;
        };
        let context = &connection_context;
        match to {
            Some(to) => serve_fixed(context, &cell, &session, to, channel).await,
            None => serve_reverse_socks(context, &cell, &session, channel).await,
        }
    });
}

/// The forward that a channel belongs to.
enum Found {
    Forward(Arc<ForwardCell>),
    /// A forward with this address waits for the server's answer: the channel's port may turn out to be its port.
    NotGrantedYet,
    /// No forward has this address and port.
    NotRequested,
}

/// Finds the forward of a channel by the port that the server chose for it. Several forwards may have requested port 0
/// on the same address, and a channel may arrive before the reply that grants its forward is recorded. Such a channel is
/// never given to another of them: its client would reach the wrong target.
fn find_forward(remotes: &[Arc<ForwardCell>], listen: &ListenAddr, port: u16) -> Found {
    let mut found = Found::NotRequested;
    for cell in remotes.iter().filter(|cell| cell.listen() == listen) {
        match cell.bound_addr() {
            Some(addr) if addr.port == port => return Found::Forward(Arc::clone(cell)),
            Some(_) => {}
            None => found = Found::NotGrantedYet,
        }
    }
    found
}

/// Waits until the server has answered the request of the channel's forward. `None`, which refuses the channel, if the
/// port is none of the granted ones, or if there is no answer within [`GRANT_TIMEOUT`].
async fn wait_for_grant<S: SshSession>(
    context: &ForwardContext<S>,
    session: &S,
    listen: &ListenAddr,
    port: u16,
) -> Option<Arc<ForwardCell>> {
    let mut remotes = context.remotes.subscribe();
    let decided = async {
        loop {
            let found = find_forward(&remotes.borrow_and_update(), listen, port);
            match found {
                Found::Forward(cell) => return Some(cell),
                Found::NotRequested => {
                    warn_not_requested(context);
                    return None;
                }
                Found::NotGrantedYet => remotes.changed().await.ok()?,
            }
        }
    };
    tokio::select! {
        decided = timeout(GRANT_TIMEOUT, decided) => decided.ok().flatten(),
        () = session.closed() => None,
    }
}

/// Connects to the configured target, then accepts the channel: the server's client sees a refused connection, not one
/// that opens and closes, if the target cannot be reached.
async fn serve_fixed<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    session: &S,
    to: &Endpoint,
    channel: S::Incoming,
) {
    let connected = tokio::select! {
        connected = connect(to) => connected,
        () = session.closed() => return,
    };
    let target = match connected {
        Ok(target) => target,
        Err(error) => {
            info!(tunnel = context.tunnel, listen = %cell.listen(), "connection refused: cannot connect to {to}: {error}");
            cell.record_refusal(None, &format!("cannot connect to {to}: {error}"));
            return channel.refuse(refusal_text(&error)).await;
        }
    };
    let Ok(channel) = channel.accept().await else {
        return;
    };
    let relay = Relay {
        local: target,
        channel,
        session,
        first_to_channel: Vec::new(),
        first_to_local: Vec::new(),
        counters: &cell.counters,
    };
    relay.run().await;
}

/// Returns the text of the refusal that is sent to the server. It does not contain the target's address, which is
/// nothing that the server needs to know.
fn refusal_text(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection refused",
        io::ErrorKind::TimedOut => "Connection timed out",
        _ => "connect failed",
    }
}

/// Serves a client of reverse SOCKS. The channel is accepted first because the client's request arrives over it.
async fn serve_reverse_socks<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    session: &S,
    channel: S::Incoming,
) {
    let Ok(mut channel) = channel.accept().await else {
        return;
    };
    // `proxy_user` protects the ports of this machine; who may use the server's port is the server's affair.
    let finished = tokio::select! {
        finished = dynamic::handshake::<S>(&cell.handshaking, &mut channel, None) => finished,
        () = session.closed() => return,
    };
    // HTTP is for browsers on this side; like ssh, reverse forwards speak SOCKS alone.
    let Some(ClientRequest::Socks { request, payload }) = finished else {
        return;
    };
    let connected = tokio::select! {
        connected = connect_if_permitted(context, &request) => connected,
        () = session.closed() => return,
    };
    match connected {
        Ok(target) => {
            let granted = request.encode_reply(ConnectReply::Granted);
            if channel.write_all(&granted).await.is_err() {
                return target.close();
            }
            let relay = Relay {
                local: target,
                channel,
                session,
                first_to_channel: Vec::new(),
                first_to_local: payload,
                counters: &cell.counters,
            };
            relay.run().await;
        }
        Err(error) => {
            debug!(tunnel = context.tunnel, listen = %cell.listen(), "a request of reverse SOCKS failed: {error}");
            let reply = request.encode_reply(ConnectReply::from_io_error(&error));
            if channel.write_all(&reply).await.is_ok() {
                // The drop of the channel sends CLOSE; EOF before it marks the reply as complete.
                let _ = channel.shutdown().await;
            }
        }
    }
}

async fn connect_if_permitted<S: SshSession>(
    context: &ForwardContext<S>,
    request: &ConnectRequest,
) -> io::Result<LocalSocket> {
    let host = match &request.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => String::from_utf8(name.clone())
            .map_err(|_| io::Error::new(io::ErrorKind::NotFound, "the name is not UTF-8"))?,
    };
    let to = HostPort {
        host,
        port: request.port,
    };
    let permitted = is_permitted(&context.options.borrow().forwarding.permit_remote_open, &to);
    if !permitted {
        let message = "the destination is not in permit_remote_open";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    connect(&Endpoint::Tcp(to)).await
}

/// Returns whether `permits` allows the destination; an empty list allows all. As ssh_config's `PermitRemoteOpen`: names
/// are compared as written and not resolved, `*` matches any host or any port, `any` allows all.
fn is_permitted(permits: &[String], to: &HostPort) -> bool {
    permits.is_empty()
        || permits.iter().any(|permit| {
            let Some((host, port)) = permit.rsplit_once(':') else {
                return permit == "any";
            };
            let host = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .unwrap_or(host);
            (host == "*" || host.eq_ignore_ascii_case(&to.host))
                && (port == "*" || port.parse() == Ok(to.port))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_permitted_destinations_are_connected_to() {
        let to = |host: &str, port| HostPort {
            host: host.to_owned(),
            port,
        };
        let permits = |all: &[&str]| all.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        assert!(is_permitted(&[], &to("anywhere", 1)));
        assert!(is_permitted(&permits(&["any"]), &to("anywhere", 1)));
        assert!(!is_permitted(&permits(&["none"]), &to("anywhere", 1)));
        let some = permits(&["db:5432", "[::1]:*", "*:443"]);
        assert!(is_permitted(&some, &to("DB", 5432)));
        assert!(!is_permitted(&some, &to("db", 5433)));
        assert!(is_permitted(&some, &to("::1", 7)));
        assert!(is_permitted(&some, &to("x", 443)));
        assert!(!is_permitted(&some, &to("db.evil", 5432)));
    }
}
