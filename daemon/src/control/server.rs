//! Accepts control clients, limits their number, and makes the socket again if its file disappears.
//!
//! The peer check itself (only the daemon's own user and root) is part of [`Listener::accept`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tunneld_platform::fd_reserve;
use tunneld_proto::endpoint::{AcceptError, ListenError, Listener, Stream};
use tunneld_proto::error::{ErrorKind, RpcError};

use super::connection;
use super::context::ControlContext;
use super::outbox::reply_line;

/// Clients that may be connected at the same time. Those that have not said hello do not count against a new one.
const MAX_CLIENTS: usize = 64;
/// Interval at which the socket's file is checked. Shorter than the time for which `tunnelctl up` keeps trying.
const SOCKET_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed accept. Without free file descriptors the next accept would fail at once too, and the loop
/// would use a whole core.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);
/// Interval at which failed accepts are logged. Without free file descriptors each attempt fails.
const ACCEPT_WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Time in which a client that is refused must take its error.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(200);
/// Time in which clients must take their last messages after the tunnels have stopped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves clients until `context.stopped` is cancelled. Removes the socket, and returns when every client has got its
/// last messages or `CLOSE_TIMEOUT` has passed.
pub async fn serve(mut listener: Listener, context: Arc<ControlContext>) {
    let mut clients = Clients::default();
    let mut socket_check = interval(SOCKET_CHECK_INTERVAL);
    socket_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rebind_failed = false;
    let mut accept_failures = AcceptFailures::default();
    loop {
        tokio::select! {
            () = context.stopped.cancelled() => break,
            accepted = listener.accept() => {
                if let Err(error) = admit(accepted, &mut clients, &context).await {
                    accept_failures.log(&error);
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
            Some(ended) = clients.tasks.join_next() => log_panic(ended),
            _ = socket_check.tick() => {
                rebind_failed = rebind_if_missing(&mut listener, rebind_failed, &context);
            }
        }
    }
    // Dropping the listener unlinks the socket: new clients find no daemon while the last ones are served.
    drop(listener);
    let _ = timeout(CLOSE_TIMEOUT, async {
        while let Some(ended) = clients.tasks.join_next().await {
            log_panic(ended);
        }
    })
    .await;
    clients.tasks.shutdown().await;
}

/// Serves a client, or turns it away.
///
/// # Errors
/// The operating system's error if the client could not be accepted.
async fn admit(
    accepted: Result<Stream, AcceptError>,
    clients: &mut Clients,
    context: &Arc<ControlContext>,
) -> io::Result<()> {
    let mut stream = match accepted {
        Ok(stream) => stream,
        // The peer check: a client that may send commands can run programs as the daemon's user, through hooks and
        // ProxyCommand.
        Err(AcceptError::Foreign { uid }) => {
            tracing::warn!("a client of uid {uid} was refused on the control socket");
            return Ok(());
        }
        Err(AcceptError::Io(error)) => return Err(error),
    };
    if !clients.make_room() {
        let message = format!("too many clients: {MAX_CLIENTS} are connected already");
        let error = RpcError::new(ErrorKind::Busy, message).hint("end one of them, or try again");
        // The send buffer of a new socket is empty and takes the line at once.
        let line = reply_line(Value::Null, Err(error));
        let _ = timeout(REFUSAL_TIMEOUT, stream.write_all(&line)).await;
        return Ok(());
    }
    let hangup = stream.hangup()?;
    let context = context.clone();
    let greeted = Arc::new(AtomicBool::new(false));
    let is_greeted = Arc::clone(&greeted);
    let task = clients.tasks.spawn(async move {
        let _count = ClientCount::new(&context);
        connection::serve(stream, context.clone(), is_greeted, move || {
            hangup.is_hung_up()
        })
        .await;
    });
    clients.in_order.push_back(Client { task, greeted });
    Ok(())
}

/// The connected clients.
#[derive(Default)]
struct Clients {
    tasks: JoinSet<()>,
    /// Oldest first. Those that have ended are removed when room is needed.
    in_order: VecDeque<Client>,
}

struct Client {
    task: AbortHandle,
    /// Whether it has sent a valid `hello`.
    greeted: Arc<AtomicBool>,
}

impl Clients {
    /// Makes room for one more client: ends the oldest one that has not said hello, if there are [`MAX_CLIENTS`]. Programs
    /// that connect and say nothing must not keep others out. Returns whether there is room.
    fn make_room(&mut self) -> bool {
        self.in_order.retain(|client| !client.task.is_finished());
        if self.in_order.len() < MAX_CLIENTS {
            return true;
        }
        let mut clients = self.in_order.iter();
        let silent = clients.position(|client| !client.greeted.load(Ordering::Relaxed));
        let silent = silent.and_then(|index| self.in_order.remove(index));
        if let Some(client) = &silent {
            client.task.abort();
        }
        silent.is_some()
    }
}

/// Limits how often a failed accept is logged.
#[derive(Default)]
struct AcceptFailures {
    last_logged: Option<Instant>,
}

impl AcceptFailures {
    fn log(&mut self, error: &io::Error) {
        let now = Instant::now();
        let is_due = self
            .last_logged
            .is_none_or(|last| now.duration_since(last) >= ACCEPT_WARN_INTERVAL);
        if is_due {
            self.last_logged = Some(now);
            let remedy = match fd_reserve::is_exhausted(error) {
                true => format!("; {}", fd_reserve::REMEDY),
                false => String::new(),
            };
            tracing::warn!("cannot accept a control client: {error}{remedy}");
        }
    }
}

/// RAII guard that counts one client in [`ControlContext::client_count`].
struct ClientCount(Arc<ControlContext>);

impl ClientCount {
    fn new(context: &Arc<ControlContext>) -> Self {
        context.client_count.fetch_add(1, Ordering::Relaxed);
        Self(context.clone())
    }
}

impl Drop for ClientCount {
    fn drop(&mut self) {
        self.0.client_count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a bug in tunneld ended the connection of a control client: {error}");
    }
}

/// Makes the socket again if its file was deleted or replaced, for example because the runtime folder was removed at a
/// logout. Returns whether that failed; a failure is logged only if the last attempt did not fail already.
///
/// Stops the daemon if another one has the lock, because a new login made a new runtime folder: clients reach only the
/// other one, which needs the ports of this one.
fn rebind_if_missing(
    listener: &mut Listener,
    failed_before: bool,
    context: &ControlContext,
) -> bool {
    if listener.is_in_place() {
        return false;
    }
    match listener.rebind() {
        Ok(()) => {
            tracing::warn!(
                "the control socket {} was missing and was made again",
                listener.endpoint()
            );
            false
        }
        Err(error @ ListenError::Running { .. }) => {
            tracing::error!("the control socket belongs to another daemon; stopping: {error}");
            context.stopping.cancel();
            true
        }
        Err(error) => {
            if !failed_before {
                let error = anyhow::Error::new(error);
                tracing::error!(
                    "the control socket is missing and cannot be made again: {error:#}"
                );
            }
            true
        }
    }
}
