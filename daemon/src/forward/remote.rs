//! Remote forwards (`ssh -R`): has the server listen and records where it does (RFC 4254 §7.1). The connections that the
//! server then opens are served in `incoming`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::context::ForwardContext;
use super::forward_state::{BoundAddr, ForwardCell, is_exposed};
use super::retry::retry_delays;
use super::ssh_session::SshSession;
use crate::failure::{Failure, FailureKind};
use tunneld_config::addr::{BindAddr, ListenAddr};

/// How long the server may take to answer one request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest delay between two requests for the same forward. The port may still be held by an earlier session of this
/// tunnel that the server has not noticed to be dead. The server decides when that ends, and a request is one message, so
/// this is shorter than the delay between attempts to bind a local address.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The current session, as the remote forwards use it.
pub(super) struct AttachedSession<S> {
    session: S,
    /// Cancels everything that runs for this session. Cancelled when the session is lost or replaced.
    pub(super) cancel: CancellationToken,
    /// The cancellations of removed forwards that the server has not answered.
    cancellations: TaskTracker,
}

impl<S: SshSession> AttachedSession<S> {
    pub(super) fn new(session: S) -> Self {
        let cancellations = TaskTracker::new();
        // `wait` returns only on a closed tracker, and a closed one still accepts tasks.
        cancellations.close();
        Self {
            session,
            cancel: CancellationToken::new(),
            cancellations,
        }
    }

    /// Requests a forward in the background, again and again until the server grants it, the session ends or `removed` is
    /// cancelled. The returned receiver completes (with an error) when the first request has been answered.
    pub(super) fn request_with_retries(
        &self,
        context: &Arc<ForwardContext<S>>,
        cell: &Arc<ForwardCell>,
        removed: &CancellationToken,
    ) -> oneshot::Receiver<()> {
        let (answered, first_answer) = oneshot::channel();
        let (session, cancellations) = (self.session.clone(), self.cancellations.clone());
        let (request_context, cell) = (Arc::clone(context), Arc::clone(cell));
        let (session_ended, removed) = (self.cancel.clone(), removed.clone());
        context.spawn(async move {
            let granted = async {
                // The new forward may have the address of one that is being cancelled: the server would refuse it.
                cancellations.wait().await;
                if request_once(&request_context, &session, &cell).await {
                    return;
                }
                drop(answered);
                for delay in retry_delays() {
                    tokio::time::sleep(delay.min(MAX_RETRY_DELAY)).await;
                    if request_once(&request_context, &session, &cell).await {
                        return;
                    }
                }
            };
            tokio::select! {
                () = granted => {}
                () = session_ended.cancelled() => {}
                () = removed.cancelled() => {}
            }
        });
        first_answer
    }

    /// Asks the server in the background to stop listening on `listen`. A failure is only logged: the forward is removed
    /// here, so channels that the server still opens for it are refused.
    pub(super) fn cancel_forward(
        &self,
        context: &ForwardContext<S>,
        listen: &ListenAddr,
        bound_port: u16,
    ) {
        let (session, listen) = (self.session.clone(), listen.clone());
        let listeners = context.listeners.clone();
        let tunnel = context.tunnel.clone();
        let (kill, session_ended) = (context.kill.clone(), self.cancel.clone());
        self.cancellations.spawn(async move {
            let answer = tokio::select! {
                answer = timeout(REPLY_TIMEOUT, session.cancel_forward(&listen, bound_port)) => answer,
                () = kill.cancelled() => return,
                () = session_ended.cancelled() => return,
            };
            match answer {
                Ok(Ok(())) => {
                    listeners.cancelled(&session.server(), &listen.clone().with_bound_port(bound_port));
                    debug!(tunnel, %listen, "the server stopped listening");
                }
                Ok(Err(failure)) => warn!(tunnel, %listen, "the remote forward could not be cancelled: {failure}"),
                Err(_) => warn!(tunnel, %listen, "the remote forward could not be cancelled: no answer within {REPLY_TIMEOUT:?}"),
            }
        });
    }
}

/// Requests a forward once and records the result in `cell`. Returns whether the server granted it.
async fn request_once<S: SshSession>(
    context: &ForwardContext<S>,
    session: &S,
    cell: &ForwardCell,
) -> bool {
    let listen = cell.listen();
    let answer = timeout(REPLY_TIMEOUT, session.request_forward(listen)).await;
    let failure = match answer {
        Ok(Ok(port)) => {
            let addr = granted_addr(listen, port);
            info!(
                tunnel = context.tunnel,
                listen = addr.listen,
                "the server listens"
            );
            let bound = listen.clone().with_bound_port(port);
            context
                .listeners
                .granted(&session.server(), bound, &context.tunnel);
            cell.set_listening(addr);
            // A channel of this forward may have arrived before the grant.
            context.remotes.send_modify(|_| {});
            return true;
        }
        Ok(Err(failure)) if failure.kind == FailureKind::RemoteForwardRefused => context
            .listeners
            .explain(failure, &session.server(), listen, &context.tunnel),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new(
            FailureKind::RemoteForwardRefused,
            format!(
                "the server did not answer the request to listen on {listen} within {REPLY_TIMEOUT:?}"
            ),
        ),
    };
    // The request failed because the session ended. The tunnel reports that; the forward becomes pending, not failed.
    if session.is_closed() {
        return false;
    }
    if cell.failure().as_ref() != Some(&failure) {
        warn!(
            tunnel = context.tunnel,
            "{failure}; retrying in the background"
        );
    }
    cell.set_failed(failure);
    false
}

/// Returns the address that the server listens on, given the `port` it granted (0 for a Unix socket).
fn granted_addr(listen: &ListenAddr, port: u16) -> BoundAddr {
    let granted = listen.clone().with_bound_port(port);
    BoundAddr {
        listen: match &granted {
            // Shown by name: the server decides which addresses its localhost has.
            ListenAddr::Tcp {
                bind: BindAddr::Loopback,
                port,
            } => format!("localhost:{port}"),
            other => other.to_string(),
        },
        port,
        exposed: is_exposed(&granted),
    }
}
