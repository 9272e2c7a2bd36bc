//! Many lives at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::injection::Injection;
use super::life::{Life, Stage};

/// How the lives of a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lives that went on.
    pub right: u32,
    /// Lives whose failure the kernel does not produce.
    pub impossible: u32,
    /// Daemons that refused to start with a reason.
    pub refused: u32,
    /// Lives that were wrong once and right when they were played again.
    pub wrong_once: u32,
    /// Lives that were wrong twice, and what was wrong: a line each.
    pub wrong: Vec<String>,
    /// Lives that were not played because the time was over.
    pub not_played: u32,
}

/// Plays one life per injection, `jobs` at a time, until all are played or `limit` has passed. Prints each life that is not
/// right, with its log if it was wrong.
///
/// # Errors
/// If a part of the lab fails.
pub async fn run(
    stage: Arc<Stage>,
    injections: Vec<Injection>,
    jobs: usize,
    limit: Duration,
) -> Result<Tally> {
    let deadline = Instant::now() + limit;
    let places = Arc::new(Semaphore::new(jobs));
    let mut lives = JoinSet::new();
    for injection in injections {
        let (stage, places) = (Arc::clone(&stage), Arc::clone(&places));
        lives.spawn(async move {
            let _place = places.acquire_owned().await?;
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let (first, _) = stage.play(Some(&injection)).await?;
            let second = if first.is_wrong() {
                Some(stage.play(Some(&injection)).await?.0)
            } else {
                None
            };
            anyhow::Ok(Some((injection, first, second)))
        });
    }
    let mut tally = Tally::default();
    while let Some(played) = lives.join_next().await {
        match played?? {
            None => tally.not_played += 1,
            Some((injection, first, second)) => tally.count(&injection, first, second),
        }
    }
    Ok(tally)
}

impl Tally {
    fn count(&mut self, injection: &Injection, first: Life, second: Option<Life>) {
        match (first, second) {
            (Life::Right, _) => self.right += 1,
            (Life::Impossible, _) => self.impossible += 1,
            (Life::Refused(why), _) => {
                println!("refused  {injection}  {why}");
                self.refused += 1;
            }
            (Life::Wrong { faults, log }, Some(Life::Wrong { faults: again, .. })) => {
                println!("WRONG    {injection}  {faults:?}  again: {again:?}\n{log}");
                self.wrong.push(format!("{injection}  {faults:?}"));
            }
            (Life::Wrong { faults, log }, _) => {
                println!("once     {injection}  {faults:?}\n{log}");
                self.wrong_once += 1;
            }
        }
    }
}
