//! The end of a session: told once, with its first cause, and heard by everyone who waits for it.
//! Telling and cutting are two things, so that a session can say goodbye after it has told its channels.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::failure::{Failure, FailureKind};

/// Why and whether a session has ended.
#[derive(Debug, Default)]
pub(super) struct End {
    cause: OnceLock<Failure>,
    told: CancellationToken,
    cut: CancellationToken,
}

impl End {
    /// Tells why the session ends; the first word stands.
    pub(super) fn tell(&self, cause: Failure) {
        let _the_first_stands = self.cause.set(cause);
        self.told.cancel();
    }

    /// Tells it, and takes the wire away.
    pub(super) fn cut(&self, cause: Failure) {
        self.tell(cause);
        self.cut.cancel();
    }

    /// The cause, once there is one.
    pub(super) fn cause(&self) -> Option<Failure> {
        self.cause.get().cloned()
    }

    /// Waits for the end.
    pub(super) async fn wait(&self) -> Failure {
        self.told.cancelled().await;
        self.cause()
            .unwrap_or_else(|| Failure::new(FailureKind::Internal, "the session ended unexplained"))
    }

    /// Whether it has been told.
    pub(super) fn is_told(&self) -> bool {
        self.told.is_cancelled()
    }

    /// Resolves when the end is told.
    pub(super) fn told(&self) -> WaitForCancellationFutureOwned {
        self.told.clone().cancelled_owned()
    }

    /// Resolves when the wire is taken away.
    pub(super) fn cut_off(&self) -> WaitForCancellationFutureOwned {
        self.cut.clone().cancelled_owned()
    }
}

/// Cuts a session that is being made when its maker is dropped.
pub(super) struct CutOnDrop(Option<Arc<End>>);

impl CutOnDrop {
    /// Guards `end`.
    pub(super) fn new(end: Arc<End>) -> Self {
        Self(Some(end))
    }

    /// The session stands: it may live on.
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if let Some(end) = &self.0 {
            end.cut(Failure::new(
                FailureKind::Disconnected,
                "the connection attempt was given up",
            ));
        }
    }
}
