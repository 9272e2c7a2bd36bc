//! Many lives at once, and what they prove together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::injection::Injection;
use super::judge::Verdict;
use super::life::{Life, Stage};

/// How often a life that was wrong is played again.
const REPLAYS: u32 = 3;
/// A run fails if more than one in this many lives was wrong once: 0.2 %.
const ONCE_IN: u32 = 500;

/// How the lives of a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lives that went on.
    pub right: u32,
    /// Lives whose failure hit the watcher, so that only `tunnelctl reload` read the changed file.
    pub reloaded_by_command: u32,
    /// Lives in which the call was not made that often, so that nothing failed.
    pub not_hit: u32,
    /// Lives whose failure the kernel does not produce.
    pub impossible: u32,
    /// Lives in which the dynamic loader could not load the program.
    pub not_loaded: u32,
    /// Daemons that refused to start with one clear line.
    pub refused: u32,
    /// Lives that were wrong once and right in each replay, and what was wrong: a line each.
    pub wrong_once: Vec<String>,
    /// Lives that were wrong again, and what was wrong: a line each.
    pub wrong: Vec<String>,
    /// Lives that were not played because the time was over.
    pub not_played: u32,
    /// Streams through a remote forward that ended in order too early, in all lives, replays included.
    pub short_streams: usize,
}

/// Plays one life per injection, `jobs` at a time, until all are played or `limit` has passed. Prints each life that is not
/// right, with its folder if it was wrong.
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
            let mut played = Vec::new();
            if Instant::now() < deadline {
                played.push(stage.play(Some(&injection)).await?);
                let wrong = played.iter().any(|life| life.faults().is_some());
                for _ in 0..if wrong { REPLAYS } else { 0 } {
                    played.push(stage.play(Some(&injection)).await?);
                }
            }
            anyhow::Ok((injection, played))
        });
    }
    let mut tally = Tally::default();
    while let Some(played) = lives.join_next().await {
        let (injection, played) = played??;
        tally.count(&injection.to_string(), &played);
    }
    Ok(tally)
}

impl Tally {
    /// Adds a life and its replays.
    fn count(&mut self, injection: &str, played: &[Life]) {
        let Some(first) = played.first() else {
            self.not_played += 1;
            return;
        };
        self.short_streams += played.iter().map(|life| life.short_streams).sum::<usize>();
        match &first.verdict {
            Verdict::Right => self.right += 1,
            Verdict::NotHit => self.not_hit += 1,
            Verdict::Impossible => self.impossible += 1,
            Verdict::NotLoaded => self.not_loaded += 1,
            Verdict::ReloadedByCommand => {
                println!("reload   {injection}");
                self.reloaded_by_command += 1;
            }
            Verdict::Refused(line) => {
                println!("refused  {injection}  {line}");
                self.refused += 1;
            }
            Verdict::Wrong(faults) => {
                let line = format!("{injection}  {faults:?}");
                let wrong: Vec<&Life> = played
                    .iter()
                    .filter(|life| life.faults().is_some())
                    .collect();
                let word = if wrong.len() > 1 { "WRONG" } else { "once" };
                println!("{word:<8} {line}");
                for life in &wrong {
                    println!("         {:?} in {:?}", life.faults(), life.folder);
                }
                match wrong.len() {
                    1 => self.wrong_once.push(line),
                    _ => self.wrong.push(line),
                }
            }
        }
    }

    /// The lives that were played, without replays.
    fn played(&self) -> usize {
        let counts = [
            self.right,
            self.reloaded_by_command,
            self.not_hit,
            self.impossible,
            self.not_loaded,
            self.refused,
        ];
        let counts = counts.into_iter().map(|count| count as usize);
        counts.sum::<usize>() + self.wrong.len() + self.wrong_once.len()
    }

    /// Returns why the run has failed; `None` if it has not.
    pub fn failure(&self) -> Option<String> {
        let (wrong, once) = (self.wrong.len(), self.wrong_once.len());
        let too_often = once * ONCE_IN as usize > self.played();
        (wrong > 0 || too_often).then(|| {
            format!(
                "of {} lives {wrong} were wrong again, {once} once",
                self.played()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(verdict: Verdict) -> Life {
        Life {
            verdict,
            short_streams: 1,
            trace: String::new(),
            folder: None,
        }
    }

    fn wrong() -> Life {
        life(Verdict::Wrong(vec!["a fault".into()]))
    }

    #[test]
    fn a_life_that_is_wrong_in_any_replay_fails_the_run() {
        let right = || life(Verdict::Right);
        let mut tally = Tally {
            right: 10_000,
            ..Tally::default()
        };
        tally.count("x", &[wrong(), right(), right(), right()]);
        assert_eq!((tally.wrong_once.len(), tally.failure()), (1, None));
        assert_eq!(tally.short_streams, 4);
        tally.count("x", &[wrong(), right(), right(), wrong()]);
        assert_eq!(tally.wrong.len(), 1);
        assert!(tally.failure().is_some());
    }

    #[test]
    fn more_than_two_in_a_thousand_lives_that_were_wrong_once_fail_the_run() {
        let mut tally = Tally {
            right: 999,
            ..Tally::default()
        };
        tally.count("x", &[wrong(), life(Verdict::Right)]);
        assert_eq!(tally.failure(), None);
        tally.count("x", &[wrong(), life(Verdict::Right)]);
        assert_eq!(tally.failure(), None);
        tally.count("x", &[wrong(), life(Verdict::Right)]);
        assert!(tally.failure().is_some());
    }
}
