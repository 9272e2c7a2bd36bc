//! The time limits of a dial, which pause while a person is asked, and the prompter that pauses them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::{Failure, FailureKind};
use crate::prompt::{PromptCancelled, PromptRequest, PromptSender};
use crate::session::connect_limiter::ConnectPermit;

/// Longest limit that is counted; a deadline centuries ahead would overflow the clock.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The deadline that `connect_timeout` or `login_timeout` sets. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct PausableDeadline {
    /// The configuration key that sets the limit.
    key: &'static str,
    limit: Duration,
    clock: Arc<watch::Sender<Clock>>,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    deadline: Instant,
    /// How many pauses are open, and when the first of them began. `None` while the clock runs.
    paused: Option<(usize, Instant)>,
}

impl PausableDeadline {
    /// A clock that does not run, for the time before the first limit begins.
    pub(super) fn unlimited() -> Self {
        Self::new("connect_timeout", LONGEST)
    }

    /// Starts the clock; `limit`, which the configuration key `key` sets, is at most one day.
    pub(super) fn new(key: &'static str, limit: Duration) -> Self {
        let deadline = Instant::now() + limit.min(LONGEST);
        Self {
            key,
            limit,
            clock: Arc::new(watch::Sender::new(Clock {
                deadline,
                paused: None,
            })),
        }
    }

    /// Runs `work` until it is done or the deadline has passed. `doing` begins the error message.
    ///
    /// # Errors
    /// What `work` fails with, or `Timeout`.
    pub(super) async fn run<T, E: From<Failure>>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::pin!(work);
        let mut clock = self.clock.subscribe();
        loop {
            let now = *clock.borrow_and_update();
            let expired = async {
                match now.paused {
                    Some(_) => std::future::pending().await,
                    None => tokio::time::sleep_until(now.deadline).await,
                }
            };
            tokio::select! {
                // The work goes first: a result that is ready counts, even if the deadline has passed too.
                biased;
                done = &mut work => return done,
                // A pause began or ended: the time to wait for has changed.
                _ = clock.changed() => {}
                () = expired => return Err(self.timed_out(doing).into()),
            }
        }
    }

    fn timed_out(&self, doing: &str) -> Failure {
        Failure::new(
            FailureKind::Timeout,
            format!("{doing} took longer than {:?}", self.limit),
        )
        .hint(format!(
            "if the network or the host is slow, raise {}",
            self.key
        ))
    }

    /// Stops the clock until the returned guard is dropped. Pauses may overlap.
    pub(super) fn pause(&self) -> PauseGuard {
        self.clock.send_modify(|clock| {
            clock.paused = Some(match clock.paused {
                Some((count, since)) => (count + 1, since),
                None => (1, Instant::now()),
            });
        });
        PauseGuard(self.clone())
    }
}

/// The clock of the deadline is stopped while this exists.
pub(super) struct PauseGuard(PausableDeadline);

impl Drop for PauseGuard {
    fn drop(&mut self) {
        self.0.clock.send_modify(|clock| match clock.paused {
            Some((1, since)) => {
                clock.deadline += since.elapsed();
                clock.paused = None;
            }
            Some((count, since)) => clock.paused = Some((count - 1, since)),
            None => {}
        });
    }
}

/// Sends prompts to the user; the deadline of the dial is paused while one is open.
#[derive(Clone, Debug)]
pub(super) struct Prompter {
    sender: PromptSender,
    deadline: PausableDeadline,
    permit: ConnectPermit,
}

impl Prompter {
    /// Makes a prompter for a dial that holds `permit`.
    pub(super) fn new(
        sender: &PromptSender,
        permit: &ConnectPermit,
        deadline: PausableDeadline,
    ) -> Self {
        Self {
            sender: sender.clone(),
            deadline,
            permit: permit.clone(),
        }
    }

    /// The sender itself, for prompts after the dial, which has no deadline then.
    pub(super) fn sender(&self) -> &PromptSender {
        &self.sender
    }

    /// Sends `request` and waits for one answer per field, for as long as the user takes.
    ///
    /// # Errors
    /// The prompt was cancelled.
    pub(super) async fn ask(
        &self,
        request: PromptRequest,
    ) -> Result<Vec<SecretString>, PromptCancelled> {
        let _pause = self.deadline.pause();
        self.sender.ask(request).await
    }

    /// Sends a request that has one field and waits for its answer.
    ///
    /// # Errors
    /// The prompt was cancelled.
    pub(super) async fn ask_one(
        &self,
        request: PromptRequest,
    ) -> Result<SecretString, PromptCancelled> {
        self.ask(request)
            .await?
            .into_iter()
            .next()
            .ok_or(PromptCancelled)
    }

    /// Runs `work` that does not depend on the server: a person touches a security key, a key is being derived. The
    /// deadline is paused, and other tunnels are not held up.
    pub(super) async fn wait_beside<T>(&self, work: impl Future<Output = T>) -> T {
        let _pause = self.deadline.pause();
        self.permit.release_if_slow(work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_moves_the_deadline() {
        let deadline = PausableDeadline::new("connect_timeout", Duration::from_secs(10));
        let start = Instant::now();
        let pausing = deadline.clone();
        let work = async move {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let pause = pausing.pause();
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(pause);
            std::future::pending::<Result<(), Failure>>().await
        };
        let failure = deadline.run("waiting", work).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert_eq!(start.elapsed().as_secs(), 110);
    }
}
