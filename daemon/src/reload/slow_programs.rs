//! Runs `ssh -G` for a reading of the configuration without letting one that hangs delay the whole reading.
//!
//! A `Match exec` command or a name server can keep `ssh -G` from answering for seconds. The reading then goes on without
//! the answer: the tunnels that need it keep their last configuration, or start later. The program continues in the
//! background, and its end asks for another reading, which uses the answer.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tunneld_platform::program::{Limits, ProgramError, ProgramFuture, ProgramOutput, RunProgram};

/// Programs that start or compute at the same time. One that has run for [`BUSY_FOR`] waits for something else than the
/// processor, and does not count any more.
const MAX_BUSY: usize = 8;
const BUSY_FOR: Duration = Duration::from_secs(1);

/// How long a reading waits for the answers of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It gives up when no program has ended for 1 s.
    Short,
    /// It waits for as long as the programs may run.
    Full,
}

impl Patience {
    fn grace(self) -> Duration {
        match self {
            Self::Short => Duration::from_secs(1),
            // Longer than any program may run: `ssh -G` has 5 s.
            Self::Full => Duration::from_secs(60),
        }
    }
}

/// Runs programs in the background. A run that has not ended when a reading gives up is joined by the next reading.
#[derive(Debug)]
pub(super) struct SlowPrograms<P> {
    programs: Arc<P>,
    state: Arc<Mutex<State>>,
    /// A run has ended that a reading has given up.
    late_answer: Arc<Notify>,
    busy: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    /// The runs of the present reading, and of earlier ones that this reading continues.
    runs: HashMap<Key, Run>,
    /// When the reading began or the last run ended, whichever is later.
    last_progress: Instant,
    /// How long the present reading waits without progress.
    grace: Duration,
    /// Dropping them kills the programs.
    tasks: JoinSet<()>,
}

impl State {
    fn give_up_at(&self) -> Instant {
        self.last_progress + self.grace
    }
}

type Key = (PathBuf, Vec<OsString>);

#[derive(Debug)]
struct Run {
    outcome: watch::Receiver<Option<Outcome>>,
    /// A reading went on without the answer.
    is_given_up: bool,
}

impl Run {
    /// Whether it will never have an outcome: its task has panicked.
    fn is_lost(&self) -> bool {
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_err()
    }
}

/// The result of a run, in a form that can be given to several readings.
#[derive(Debug, Clone)]
enum Outcome {
    Ended(ProgramOutput),
    TimedOut,
    Failed(io::ErrorKind, String),
}

impl Outcome {
    fn to_result(&self) -> Result<ProgramOutput, ProgramError> {
        match self {
            Self::Ended(output) => Ok(output.clone()),
            Self::TimedOut => Err(ProgramError::TimedOut),
            Self::Failed(kind, message) => Err(io::Error::new(*kind, message.clone()).into()),
        }
    }
}

impl From<Result<ProgramOutput, ProgramError>> for Outcome {
    fn from(result: Result<ProgramOutput, ProgramError>) -> Self {
        match result {
            Ok(output) => Self::Ended(output),
            Err(ProgramError::TimedOut | ProgramError::NotYet) => Self::TimedOut,
            Err(ProgramError::Io(error)) => Self::Failed(error.kind(), error.to_string()),
        }
    }
}

impl<P: RunProgram + 'static> SlowPrograms<P> {
    /// Runs the programs with `programs`.
    pub(super) fn new(programs: P) -> Arc<Self> {
        Arc::new(Self {
            programs: Arc::new(programs),
            state: Arc::new(Mutex::new(State {
                runs: HashMap::new(),
                last_progress: Instant::now(),
                grace: Patience::Short.grace(),
                tasks: JoinSet::new(),
            })),
            late_answer: Arc::default(),
            busy: Arc::new(Semaphore::new(MAX_BUSY)),
        })
    }

    /// Returns the run of `program`, which it starts unless it runs already or has ended in this reading.
    fn join(&self, key: &Key, limits: Limits) -> watch::Receiver<Option<Outcome>> {
        let mut state = lock(&self.state);
        if let Some(run) = state.runs.get(key)
            && !run.is_lost()
        {
            return run.outcome.clone();
        }
        let (ended, outcome) = watch::channel(None);
        let run = Run {
            outcome: outcome.clone(),
            is_given_up: false,
        };
        state.runs.insert(key.clone(), run);
        while state.tasks.try_join_next().is_some() {}
        let (programs, busy) = (Arc::clone(&self.programs), Arc::clone(&self.busy));
        let (shared, late_answer) = (Arc::clone(&self.state), Arc::clone(&self.late_answer));
        let key = key.clone();
        state.tasks.spawn(async move {
            let outcome = run_in_turn(&*programs, &key, limits, &busy).await;
            let mut state = lock(&shared);
            state.last_progress = Instant::now();
            let _ = ended.send(Some(outcome));
            // No entry: a reading that asked for new answers has dropped the run.
            if state.runs.get(&key).is_some_and(|run| run.is_given_up) {
                late_answer.notify_one();
            }
        });
        outcome
    }

    async fn wait(&self, key: Key, limits: Limits) -> Result<ProgramOutput, ProgramError> {
        let mut outcome = self.join(&key, limits);
        loop {
            if let Some(outcome) = &*outcome.borrow() {
                return outcome.to_result();
            }
            let give_up_at = lock(&self.state).give_up_at();
            tokio::select! {
                changed = outcome.changed() => if changed.is_err() {
                    // A newer reading has dropped the run, or it panicked.
                    return Err(ProgramError::NotYet);
                },
                () = sleep_until(give_up_at) => {
                    let mut state = lock(&self.state);
                    if state.give_up_at() <= Instant::now() && outcome.borrow().is_none() {
                        if let Some(run) = state.runs.get_mut(&key) {
                            run.is_given_up = true;
                        }
                        return Err(ProgramError::NotYet);
                    }
                }
            }
        }
    }
}

impl<P> SlowPrograms<P> {
    /// Begins a reading. With `anew`, the answers of earlier readings do not count, because something may have changed
    /// since; else it continues the earlier reading, and uses what has arrived meanwhile.
    pub(super) fn begin_reading(&self, anew: bool, patience: Patience) {
        let mut state = lock(&self.state);
        if anew {
            state.runs.clear();
            state.tasks = JoinSet::new();
        }
        state.last_progress = Instant::now();
        state.grace = patience.grace();
    }

    /// Ends a reading. The answers are kept only while a program has not ended: the next reading then needs all of them.
    pub(super) fn end_reading(&self) {
        let mut state = lock(&self.state);
        let is_over = |run: &Run| run.outcome.borrow().is_some() || run.is_lost();
        if state.runs.values().all(is_over) {
            state.runs.clear();
        }
    }

    /// Waits until a program has ended that a reading did not wait for. Cancel-safe.
    pub(super) async fn late_answer(&self) {
        self.late_answer.notified().await;
    }
}

impl<P: RunProgram + 'static> RunProgram for SlowPrograms<P> {
    fn run<'a>(
        &'a self,
        program: &'a Path,
        arguments: &'a [OsString],
        limits: Limits,
    ) -> ProgramFuture<'a> {
        Box::pin(self.wait((program.to_owned(), arguments.to_owned()), limits))
    }
}

/// Runs the program when fewer than [`MAX_BUSY`] are busy.
async fn run_in_turn(
    programs: &impl RunProgram,
    (program, arguments): &Key,
    limits: Limits,
    busy: &Semaphore,
) -> Outcome {
    // Never closed; without a permit the program would only start early.
    let permit = busy.acquire().await.ok();
    let mut run = programs.run(program, arguments, limits);
    tokio::select! {
        result = &mut run => return result.into(),
        () = sleep(BUSY_FOR) => drop(permit),
    }
    run.await.into()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program whose first argument is the number of milliseconds that it runs.
    #[derive(Debug, Clone, Default)]
    struct Sleeps(Arc<Mutex<Vec<String>>>);

    impl RunProgram for Sleeps {
        fn run<'a>(
            &'a self,
            _: &'a Path,
            arguments: &'a [OsString],
            limits: Limits,
        ) -> ProgramFuture<'a> {
            Box::pin(async move {
                let text = arguments[0].to_str().unwrap().to_owned();
                self.0.lock().unwrap().push(text.clone());
                let time = Duration::from_millis(text.parse().unwrap());
                sleep(time.min(limits.time)).await;
                match time > limits.time {
                    true => Err(ProgramError::TimedOut),
                    false => Err(io::Error::new(io::ErrorKind::NotFound, text).into()),
                }
            })
        }
    }

    const LIMITS: Limits = Limits {
        time: Duration::from_secs(5),
        stdout: 1,
    };

    async fn ask(programs: &SlowPrograms<Sleeps>, millis: u32) -> String {
        let argument = [OsString::from(millis.to_string())];
        let asked = programs.run(Path::new("ssh"), &argument, LIMITS);
        asked.await.unwrap_err().to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_given_up_and_its_answer_is_used_by_the_next_reading() {
        let ran = Sleeps::default();
        let programs = SlowPrograms::new(ran.clone());
        programs.begin_reading(true, Patience::Short);
        let start = Instant::now();
        let (quick, slow) = tokio::join!(ask(&programs, 10), ask(&programs, 3000));
        assert_eq!((quick.as_str(), slow.as_str()), ("10", "has not ended yet"));
        assert_eq!(start.elapsed(), Duration::from_millis(1010));
        programs.end_reading();
        programs.late_answer().await;
        assert_eq!(start.elapsed(), Duration::from_millis(3000));
        programs.begin_reading(false, Patience::Short);
        let (quick, slow) = tokio::join!(ask(&programs, 10), ask(&programs, 3000));
        assert_eq!((quick.as_str(), slow.as_str()), ("10", "3000"));
        assert_eq!(start.elapsed(), Duration::from_millis(3000));
        assert_eq!(ran.0.lock().unwrap().len(), 2, "neither was asked again");
        programs.end_reading();
        // All have ended: the next reading asks again.
        programs.begin_reading(false, Patience::Short);
        assert_eq!(ask(&programs, 10).await, "10");
        assert_eq!(ran.0.lock().unwrap().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn two_slow_programs_do_not_ask_for_readings_for_ever() {
        let programs = SlowPrograms::new(Sleeps::default());
        programs.begin_reading(true, Patience::Short);
        tokio::join!(ask(&programs, 2500), ask(&programs, 4000));
        programs.end_reading();
        programs.late_answer().await;
        programs.begin_reading(false, Patience::Short);
        let (first, second) = tokio::join!(ask(&programs, 2500), ask(&programs, 4000));
        assert_eq!(
            (first.as_str(), second.as_str()),
            ("2500", "has not ended yet")
        );
        programs.end_reading();
        programs.late_answer().await;
        programs.begin_reading(false, Patience::Short);
        let (first, second) = tokio::join!(ask(&programs, 2500), ask(&programs, 4000));
        assert_eq!((first.as_str(), second.as_str()), ("2500", "4000"));
        programs.end_reading();
        let more = tokio::time::timeout(Duration::from_secs(60), programs.late_answer());
        assert!(more.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_four_that_hang_do_not_delay_the_answer_of_another() {
        let programs = SlowPrograms::new(Sleeps::default());
        programs.begin_reading(true, Patience::Short);
        let start = Instant::now();
        let hanging = futures_util::future::join_all((0..24).map(|n| ask(&programs, 60_000 + n)));
        tokio::join!(hanging, ask(&programs, 10));
        programs.end_reading();
        programs.late_answer().await;
        programs.begin_reading(false, Patience::Short);
        assert_eq!(ask(&programs, 10).await, "10");
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }

    /// A program whose first run panics.
    #[derive(Debug, Default)]
    struct PanicsOnce(std::sync::atomic::AtomicBool);

    impl RunProgram for PanicsOnce {
        fn run<'a>(&'a self, _: &'a Path, _: &'a [OsString], _: Limits) -> ProgramFuture<'a> {
            let is_first = !self.0.swap(true, std::sync::atomic::Ordering::Relaxed);
            Box::pin(async move {
                assert!(!is_first, "the first run panics");
                Err(io::Error::new(io::ErrorKind::NotFound, "answered").into())
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_panicked_is_run_again_by_the_next_reading() {
        let programs = SlowPrograms::new(PanicsOnce::default());
        for expected in ["has not ended yet", "answered"] {
            programs.begin_reading(false, Patience::Short);
            let asked = programs.run(Path::new("ssh"), &[], LIMITS);
            assert_eq!(asked.await.unwrap_err().to_string(), expected);
            programs.end_reading();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_anew_kills_what_runs_and_asks_again() {
        let ran = Sleeps::default();
        let programs = SlowPrograms::new(ran.clone());
        programs.begin_reading(true, Patience::Short);
        ask(&programs, 3000).await;
        programs.end_reading();
        programs.begin_reading(true, Patience::Short);
        ask(&programs, 3000).await;
        assert_eq!(ran.0.lock().unwrap().len(), 2);
    }
}
