//! The time that a dial may take, which stands still while a person is asked, and the desk at which they are.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::{Failure, FailureKind};
use crate::prompt::{PromptCancelled, PromptRequest, PromptSender};

/// What is left of `connect_timeout`. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct PausableDeadline {
    whole: Duration,
    clock: Arc<watch::Sender<Clock>>,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    deadline: Instant,
    /// How many people are being waited for, and since when.
    paused: Option<(usize, Instant)>,
}

impl PausableDeadline {
    /// The whole of it, beginning now.
    pub(super) fn new(whole: Duration) -> Self {
        let deadline = Instant::now() + whole.min(Duration::from_secs(86_400));
        Self {
            whole,
            clock: Arc::new(watch::Sender::new(Clock {
                deadline,
                paused: None,
            })),
        }
    }

    /// Runs `work` as long as there is time.
    pub(super) async fn spend<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::pin!(work);
        let mut clock = self.clock.subscribe();
        loop {
            let now = *clock.borrow_and_update();
            let over = async {
                match now.paused {
                    Some(_) => std::future::pending().await,
                    None => tokio::time::sleep_until(now.deadline).await,
                }
            };
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = clock.changed() => {}
                () = over => return Err(self.spent(doing)),
            }
        }
    }

    fn spent(&self, doing: &str) -> Failure {
        Failure::new(
            FailureKind::Timeout,
            format!("{doing} took longer than {:?}", self.whole),
        )
        .hint("a slow network or host: raise connect_timeout")
    }

    /// Stops the clock until the pause is dropped.
    pub(super) fn pause(&self) -> Pause {
        self.clock.send_modify(|clock| {
            clock.paused = Some(match clock.paused {
                Some((count, since)) => (count + 1, since),
                None => (1, Instant::now()),
            });
        });
        Pause(self.clone())
    }
}

/// The clock stands still while this lives.
pub(super) struct Pause(PausableDeadline);

impl Drop for Pause {
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

/// Where a dial asks a person, off its clock.
#[derive(Clone, Debug)]
pub(super) struct Prompter {
    asker: PromptSender,
    budget: PausableDeadline,
}

impl Prompter {
    /// A desk whose questions do not cost `budget`.
    pub(super) fn new(asker: PromptSender, budget: PausableDeadline) -> Self {
        Self { asker, budget }
    }

    /// The line to the person, for what costs no dial anything.
    pub(super) fn asker(&self) -> &PromptSender {
        &self.asker
    }

    /// Asks.
    pub(super) async fn ask(
        &self,
        question: PromptRequest,
    ) -> Result<Vec<SecretString>, PromptCancelled> {
        let _pause = self.budget.pause();
        self.asker.ask(question).await
    }

    /// Asks for one thing.
    pub(super) async fn ask_one(
        &self,
        question: PromptRequest,
    ) -> Result<SecretString, PromptCancelled> {
        self.ask(question)
            .await?
            .into_iter()
            .next()
            .ok_or(PromptCancelled)
    }

    /// Stops the dial's clock for something else that a person does, such as touching a security key.
    pub(super) fn pause(&self) -> Pause {
        self.budget.pause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_does_not_cost() {
        let budget = PausableDeadline::new(Duration::from_secs(10));
        let begun = Instant::now();
        let pausing = budget.clone();
        let work = async move {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let pause = pausing.pause();
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(pause);
            std::future::pending::<Result<(), Failure>>().await
        };
        let failure = budget.spend("waiting", work).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert_eq!(begun.elapsed().as_secs(), 110);
    }
}
