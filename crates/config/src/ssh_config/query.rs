//! Asks `ssh -G`, the one reader of ssh_config that is right about Match, Include and CanonicalizeHostname.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tunneld_platform::program::{Limits, ProgramError, ProgramOutput, RunProgram};
use tunneld_proto::text::escape;

use crate::parse::destination::{Destination, check_host, check_user};

/// CanonicalizeHostname asks DNS and `Match exec` runs commands; neither may take for ever.
const LIMIT: Duration = Duration::from_secs(5);
/// More than any answer has.
const LONGEST: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no such program.
    #[error("there is no ssh program to ask")]
    Absent,
    /// It does not like the configuration.
    #[error("ssh -G: {0}")]
    Refused(String),
    /// It took too long.
    #[error("ssh -G did not answer within {}s: a `Match exec` or a name server hangs", LIMIT.as_secs())]
    Timeout,
    /// It could not be run.
    #[error("ssh -G could not be run: {0}")]
    Failed(String),
    /// The host or the user is nothing that may stand on a command line.
    #[error("{0}")]
    Unfit(String),
}

/// Which files ssh reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Files {
    /// `~/.ssh/config` and the system's.
    Usual,
    /// This one alone.
    One(PathBuf),
    /// None at all.
    None,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SshGQuery {
    /// Which files are read.
    pub files: Files,
    /// About whom.
    pub to: Destination,
    /// The jump host that it is reached over whatever the files say, as ssh says `-J` for each hop but the nearest.
    pub over: Option<Destination>,
}

/// The text that `ssh -G` printed, or why there is none.
pub type Answer = Result<Arc<str>, QueryError>;

type SharedAnswer = Shared<BoxFuture<'static, Answer>>;

/// Asks `ssh -G`, and caches the answers for as long as it lives: one load of the configuration.
pub struct SshG {
    ssh: Arc<Path>,
    programs: Arc<dyn RunProgram>,
    answers: Mutex<HashMap<SshGQuery, SharedAnswer>>,
}

impl fmt::Debug for SshG {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("ssh", &self.ssh).finish()
    }
}

impl SshG {
    /// Asks the program at the path `ssh`, which `programs` runs.
    pub fn new(ssh: &Path, programs: Arc<dyn RunProgram>) -> Self {
        Self {
            ssh: ssh.into(),
            programs,
            answers: Mutex::default(),
        }
    }

    /// What ssh would do to reach this destination, as `ssh -G` prints it.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, question: &SshGQuery) -> Answer {
        for named in [Some(&question.to), question.over.as_ref()]
            .into_iter()
            .flatten()
        {
            check_host(&named.host).map_err(QueryError::Unfit)?;
            if let Some(user) = &named.user {
                check_user(user).map_err(QueryError::Unfit)?;
            }
        }
        let answer = {
            // Locked for the look-up alone, never across an await.
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let run = || {
                let (ssh, programs) = (Arc::clone(&self.ssh), Arc::clone(&self.programs));
                let arguments = arguments(question);
                async move { run(&ssh, &*programs, &arguments).await }
                    .boxed()
                    .shared()
            };
            answers.entry(question.clone()).or_insert_with(run).clone()
        };
        answer.await
    }
}

async fn run(ssh: &Path, programs: &dyn RunProgram, arguments: &[OsString]) -> Answer {
    let limits = Limits {
        time: LIMIT,
        stdout: LONGEST,
    };
    match programs.run(ssh, arguments, limits).await {
        Ok(output) => read(output),
        Err(ProgramError::TimedOut) => Err(QueryError::Timeout),
        Err(ProgramError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err(QueryError::Absent)
        }
        Err(ProgramError::Io(error)) => Err(QueryError::Failed(error.to_string())),
    }
}

fn read(output: ProgramOutput) -> Answer {
    if !output.status.success() {
        let told: Vec<String> = String::from_utf8_lossy(&output.stderr)
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(escape)
            .collect();
        return Err(QueryError::Refused(match told.is_empty() {
            true => output.status.to_string(),
            false => told.join("; "),
        }));
    }
    String::from_utf8(output.stdout)
        .map(Arc::from)
        .map_err(|_| QueryError::Failed("its answer is no UTF-8".to_owned()))
}

fn arguments(question: &SshGQuery) -> Vec<OsString> {
    let SshGQuery { files, to, over } = question;
    // No session is meant: without -N, ForkAfterAuthentication and its like are refused for want of a command.
    let mut arguments: Vec<OsString> = vec!["-G".into(), "-T".into(), "-N".into()];
    match files {
        Files::Usual => {}
        Files::One(path) => arguments.extend(["-F".into(), path.into()]),
        Files::None => arguments.extend(["-F".into(), "none".into()]),
    }
    if let Some(over) = over {
        arguments.extend(["-J".into(), over.to_string().into()]);
    }
    if let Some(port) = to.port {
        arguments.extend(["-p".into(), port.to_string().into()]);
    }
    if let Some(user) = &to.user {
        arguments.extend(["-l".into(), user.into()]);
    }
    arguments.extend(["--".into(), OsString::from(&to.host)]);
    arguments
}
