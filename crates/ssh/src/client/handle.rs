//! The shared owner of one session: its state, its options and its task.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;

use super::options::Options;
use super::state::{HandshakeState, SessionPhase, SessionState, SharedSession};
use super::task::SessionTask;
use super::wake::store_waker;
use crate::error::Error;

/// SSH_DISCONNECT_BY_APPLICATION (RFC 4253 §11.1).
const BY_APPLICATION: u32 = 11;
/// Time that a server gets to read our DISCONNECT before the socket is closed without it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Owns the session's task, which is aborted when the last `Arc<Handle>` is dropped.
pub(super) struct Handle {
    pub(super) shared: Arc<SharedSession>,
    pub(super) options: Options,
    _task: JoinSet<()>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    /// Spawns `session_task` on the current runtime.
    pub(super) fn start(
        shared: Arc<SharedSession>,
        session_task: SessionTask,
        options: Options,
    ) -> Arc<Self> {
        // A set of one: dropping it aborts the task, which a plain join handle does not.
        let mut tasks = JoinSet::new();
        tasks.spawn(session_task);
        Arc::new(Self {
            shared,
            options,
            _task: tasks,
        })
    }

    /// Waits until `take` finds what it looks for in the handshake state.
    pub(super) async fn wait_for<T>(
        &self,
        timeout: Duration,
        what: &'static str,
        mut take: impl FnMut(&mut HandshakeState) -> Option<T>,
    ) -> Result<T, Error> {
        let found = poll_fn(|cx| {
            self.shared.with_state(|state| {
                let SessionState { phase, ended, .. } = state;
                if let SessionPhase::Handshake(handshake) = phase {
                    // Before the error: an answer that arrived before the end of the session still counts.
                    if let Some(found) = take(handshake) {
                        return Poll::Ready(Ok(found));
                    }
                    store_waker(&mut handshake.waker, cx.waker());
                }
                match ended {
                    Some(error) => Poll::Ready(Err(error.clone())),
                    None => Poll::Pending,
                }
            })
        });
        match tokio::time::timeout(timeout, found).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout(what)),
        }
    }

    /// Waits until the session has ended and returns the reason.
    pub(super) async fn closed(&self) -> Error {
        let mut ended = self.shared.ended.subscribe();
        let error = match ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        };
        error.unwrap_or(Error::Eof)
    }

    /// Flushes what is already sealed, then ends the session; after [`GOODBYE_TIMEOUT`] without flushing.
    pub(super) async fn flush_and_end(&self) {
        self.shared.submit(|state| state.close_when_flushed = true);
        if tokio::time::timeout(GOODBYE_TIMEOUT, self.closed())
            .await
            .is_err()
        {
            self.shared.submit(|state| {
                // The server reads nothing: flushing would wait for ever.
                state.abort = true;
                state.wake_task();
            });
            self.closed().await;
        }
    }

    /// Sends DISCONNECT and ends the session.
    pub(super) async fn close(&self) {
        self.shared
            .submit(|state| state.transport.disconnect(BY_APPLICATION, ""));
        self.flush_and_end().await;
    }

    /// Returns why the session has ended. [`Error::Eof`] while it has not.
    pub(super) fn end_reason(&self) -> Error {
        self.shared.ended.borrow().clone().unwrap_or(Error::Eof)
    }
}
