//! Lets clients in: the user's own and root's, so many at once. Looks after the socket while it is at it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tunneld_proto::endpoint::{AcceptError, Listener, Stream};
use tunneld_proto::error::{ErrorKind, RpcError};

use super::outbox::reply_line;
use super::{Context, connection};

/// Clients at once.
const CLIENTS: usize = 64;
/// How often is looked whether the socket still stands where clients look for it.
const LOOK: Duration = Duration::from_secs(5);
/// A pause after a failed accept: without free file descriptors it would fail again at once.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the clients may take to hear the last words.
const PARTING: Duration = Duration::from_secs(1);

/// Serves clients until `context.stopped`; then the socket is gone and every client has been told.
pub async fn serve(mut listener: Listener, context: Arc<Context>) {
    let mut clients = JoinSet::new();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            () = context.stopped.cancelled() => break,
            accepted = listener.accept() => admit(accepted, &mut clients, &context).await,
            Some(ended) = clients.join_next() => note(ended),
            _ = look.tick() => told = keep_in_place(&mut listener, told),
        }
    }
    // Its drop unlinks the socket.
    drop(listener);
    let _ = timeout(PARTING, async {
        while let Some(ended) = clients.join_next().await {
            note(ended);
        }
    })
    .await;
    clients.shutdown().await;
}

async fn admit(
    accepted: Result<Stream, AcceptError>,
    clients: &mut JoinSet<()>,
    context: &Arc<Context>,
) {
    let mut stream = match accepted {
        Ok(stream) => stream,
        Err(AcceptError::Foreign { uid }) => {
            tracing::warn!("user {uid} tried to command this daemon and was refused");
            return;
        }
        Err(AcceptError::Io(error)) => return accept_failed(&error).await,
    };
    if clients.len() >= CLIENTS {
        let message = format!("{CLIENTS} clients are connected already");
        let error = RpcError::new(ErrorKind::Busy, message).hint("end some of them, or try again");
        // Fresh and empty, the socket takes this at once.
        let line = reply_line(Value::Null, Err(error));
        let _ = timeout(PAUSE, stream.write_all(&line)).await;
        return;
    }
    let hangup = match stream.hangup() {
        Ok(hangup) => hangup,
        Err(error) => return accept_failed(&error).await,
    };
    let context = context.clone();
    clients.spawn(async move {
        let _counted = Counted::new(&context);
        connection::serve(stream, context.clone(), move || hangup.is_hung_up()).await;
    });
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!("cannot accept a control client: {error}");
    sleep(PAUSE).await;
}

/// A client in `daemon.status`, for as long as it is there.
struct Counted(Arc<Context>);

impl Counted {
    fn new(context: &Arc<Context>) -> Self {
        context.clients.fetch_add(1, Ordering::Relaxed);
        Self(context.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a defect of tunneld ended a control client's connection: {error}");
    }
}

/// Binds again where the socket was deleted or replaced; whether a failure was told already.
fn keep_in_place(listener: &mut Listener, told: bool) -> bool {
    if listener.is_in_place() {
        return false;
    }
    match listener.rebind() {
        Ok(()) => {
            tracing::warn!(
                "the control socket {} was gone and is back",
                listener.endpoint()
            );
            false
        }
        Err(error) => {
            if !told {
                let error = anyhow::Error::new(error);
                tracing::error!("the control socket is gone and cannot be made again: {error:#}");
            }
            true
        }
    }
}
