//! Listens at the far side and brings each connection from there to this one: `ssh -R`. What the far side says never chooses
//! where a connection leads: the configuration does, or with reverse SOCKS the client behind the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::connect::connect;
use super::context::{ForwardContext, MAX_CONNECTIONS};
use super::dynamic::{self, ClientRequest};
use super::forward_state::{BoundAddr, ForwardCell, is_exposed};
use super::local::retry_delays;
use super::relay::{Ending, Relay};
use super::ssh_session::{IncomingChannel, SshSession};
use crate::dynamic::{ConnectReply, ConnectRequest, Host};
use crate::failure::{Failure, FailureKind};
use tunneld_config::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use tunneld_config::model::Forward;

/// How long the server may take to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest pause between two: a port that a session of ours held, which died unseen, is free at a time of the
/// server's own, and asking is one message.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// One session, as the remote forwards use it.
pub(super) struct AttachedSession<L> {
    /// The session.
    pub(super) session: L,
    /// Ends all that is asked of it.
    pub(super) cancel: CancellationToken,
    /// What is being given up: a forward at the same place is asked for after that.
    pub(super) cancellations: TaskTracker,
}

impl<L: SshSession> AttachedSession<L> {
    pub(super) fn new(session: L) -> Self {
        let cancellations = TaskTracker::new();
        cancellations.close();
        Self {
            session,
            cancel: CancellationToken::new(),
            cancellations,
        }
    }

    /// Asks for a forward until it is granted, beside everything else; `answered` hears when the first answer came.
    pub(super) fn request_with_retries(
        &self,
        context: &Arc<ForwardContext<L>>,
        cell: &Arc<ForwardCell>,
        removed: &CancellationToken,
    ) -> oneshot::Receiver<()> {
        let (answered, first_answer) = oneshot::channel();
        let (session, cancellations) = (self.session.clone(), self.cancellations.clone());
        let (task_context, cell) = (Arc::clone(context), Arc::clone(cell));
        let (session_ended, removed) = (self.cancel.clone(), removed.clone());
        context.spawn(async move {
            let asked = async {
                cancellations.wait().await;
                if request_once(&task_context, &session, &cell).await {
                    return;
                }
                drop(answered);
                for delay in retry_delays() {
                    tokio::time::sleep(delay.min(MAX_RETRY_DELAY)).await;
                    if request_once(&task_context, &session, &cell).await {
                        return;
                    }
                }
            };
            tokio::select! {
                () = asked => {}
                () = session_ended.cancelled() => {}
                () = removed.cancelled() => {}
            }
        });
        first_answer
    }

    /// Gives a forward up.
    pub(super) fn cancel_forward(&self, context: &ForwardContext<L>, listen: &ListenAddr) {
        let (session, listen, tunnel) =
            (self.session.clone(), listen.clone(), context.tunnel.clone());
        let (kill, session_ended) = (context.kill.clone(), self.cancel.clone());
        self.cancellations.spawn(async move {
            let cancelled = tokio::select! {
                cancelled = timeout(REPLY_TIMEOUT, session.cancel_forward(&listen)) => cancelled,
                () = kill.cancelled() => return,
                () = session_ended.cancelled() => return,
            };
            match cancelled {
                Ok(Ok(())) => debug!(tunnel, %listen, "the server listens there no more"),
                Ok(Err(failure)) => warn!(tunnel, %listen, "cannot give the remote forward up: {failure}"),
                Err(_) => warn!(tunnel, %listen, "cannot give the remote forward up: no answer within {REPLY_TIMEOUT:?}"),
            }
        });
    }
}

/// Asks once, and writes down how that went.
async fn request_once<L: SshSession>(
    context: &ForwardContext<L>,
    session: &L,
    cell: &ForwardCell,
) -> bool {
    let listen = cell.listen();
    let answer = timeout(REPLY_TIMEOUT, session.request_forward(listen)).await;
    let failure = match answer {
        Ok(Ok(port)) => {
            let place = granted_addr(listen, port);
            info!(
                tunnel = context.tunnel,
                listen = place.listen,
                "the server listens"
            );
            cell.set_listening(place);
            return true;
        }
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new(
            FailureKind::RemoteForwardRefused,
            format!("asked the server to listen on {listen}: no answer within {REPLY_TIMEOUT:?}"),
        ),
    };
    // The end of the session is told elsewhere, and no trouble of this forward.
    if session.is_closed() {
        return false;
    }
    if cell.failure().as_ref() != Some(&failure) {
        warn!(tunnel = context.tunnel, "{failure}; trying again");
    }
    cell.set_failed(failure);
    false
}

/// Where the server listens now.
fn granted_addr(listen: &ListenAddr, bound: u16) -> BoundAddr {
    let real = match listen {
        ListenAddr::Tcp { bind, .. } => ListenAddr::Tcp {
            bind: bind.clone(),
            port: bound,
        },
        ListenAddr::Unix(path) => ListenAddr::Unix(path.clone()),
    };
    BoundAddr {
        listen: match &real {
            // The server decides which addresses its localhost has.
            ListenAddr::Tcp {
                bind: BindAddr::Loopback,
                port,
            } => format!("localhost:{port}"),
            other => other.to_string(),
        },
        port: bound,
        exposed: is_exposed(&real),
    }
}

/// Takes what the far side opens until the session ends. Never waits for a connection.
pub(super) async fn serve_incoming<L: SshSession>(
    context: Arc<ForwardContext<L>>,
    session: L,
    session_ended: CancellationToken,
    mut incoming: mpsc::Receiver<L::Incoming>,
) {
    while let Some(Some(incoming_channel)) =
        session_ended.run_until_cancelled(incoming.recv()).await
    {
        let cell = find_forward(
            &context.remotes.borrow(),
            incoming_channel.listen(),
            incoming_channel.port(),
        );
        let Some(cell) = cell else {
            context.warn_throttled(
                "the server opened a connection for a forward that is not asked for; refused",
            );
            continue;
        };
        let Some(place) = context.try_acquire_connection() else {
            context.warn_throttled(&format!(
                "more than {MAX_CONNECTIONS} connections: new ones are refused"
            ));
            continue;
        };
        let counted = cell.count_connection();
        let (task_context, session) = (Arc::clone(&context), session.clone());
        context.spawn(async move {
            let _kept = (place, counted);
            let Forward::Remote { to, .. } = &cell.forward else {
                return;
            };
            match to {
                Some(to) => {
                    serve_fixed::<L>(&task_context, &cell, &session, to, incoming_channel).await
                }
                None => {
                    serve_reverse_socks::<L>(&task_context, &cell, &session, incoming_channel).await
                }
            }
        });
    }
}

/// The forward that a connection belongs to. Several may have asked for any port: then the port tells.
fn find_forward(
    remotes: &[Arc<ForwardCell>],
    listen: &ListenAddr,
    port: u16,
) -> Option<Arc<ForwardCell>> {
    let mut alike = remotes.iter().filter(|cell| cell.listen() == listen);
    let by_port = alike
        .clone()
        .find(|cell| cell.bound_addr().is_some_and(|place| place.port == port));
    by_port.or_else(|| alike.next()).cloned()
}

async fn serve_fixed<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    session: &L,
    to: &Endpoint,
    incoming_channel: L::Incoming,
) {
    let connected = tokio::select! {
        connected = connect(to) => connected,
        () = session.closed() => return,
    };
    let near = match connected {
        Ok(near) => near,
        Err(error) => {
            info!(tunnel = context.tunnel, listen = %cell.listen(), "a connection is refused: cannot connect to {to}: {error}");
            return incoming_channel.refuse(&refusal_text(&error)).await;
        }
    };
    let Ok(far) = incoming_channel.accept().await else {
        return;
    };
    let pump = Relay {
        near: &near,
        far,
        session,
        first_out: Vec::new(),
        first_in: Vec::new(),
        counters: &cell.counters,
    };
    if pump.run().await == Ending::InOrder {
        near.close();
    }
}

/// What the far side is told; the address stays with us.
fn refusal_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection refused".to_owned(),
        io::ErrorKind::TimedOut => "Connection timed out".to_owned(),
        _ => "connect failed".to_owned(),
    }
}

async fn serve_reverse_socks<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    session: &L,
    incoming_channel: L::Incoming,
) {
    let Ok(mut far) = incoming_channel.accept().await else {
        return;
    };
    let client_request = tokio::select! {
        client_request = dynamic::handshake(&context.handshaking, &mut far) => client_request,
        () = session.closed() => return,
    };
    let Some(ClientRequest { request, payload }) = client_request else {
        return;
    };
    let connected = tokio::select! {
        connected = connect_if_permitted(context, &request) => connected,
        () = session.closed() => return,
    };
    match connected {
        Ok(near) => {
            if far
                .write_all(&request.encode_reply(ConnectReply::Granted))
                .await
                .is_err()
            {
                return near.close();
            }
            let pump = Relay {
                near: &near,
                far,
                session,
                first_out: Vec::new(),
                first_in: payload,
                counters: &cell.counters,
            };
            if pump.run().await == Ending::InOrder {
                near.close();
            }
        }
        Err(error) => {
            debug!(tunnel = context.tunnel, listen = %cell.listen(), "a request of reverse SOCKS failed: {error}");
            let answer = request.encode_reply(ConnectReply::from_io_error(&error));
            if far.write_all(&answer).await.is_ok() {
                // The channel's CLOSE follows; its EOF only makes the answer's end plain.
                let _ = far.shutdown().await;
            }
        }
    }
}

async fn connect_if_permitted<L: SshSession>(
    context: &ForwardContext<L>,
    request: &ConnectRequest,
) -> io::Result<super::local_socket::LocalSocket> {
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
        let why = "permit_remote_open does not name it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    connect(&Endpoint::Tcp(to)).await
}

/// ssh_config's PermitRemoteOpen: names are compared as they are written, `*` stands for any host or port.
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
    fn only_what_is_permitted_is_dialled() {
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
