//! Asks `ssh -G`, the one reader of ssh_config that is exact about Match, Include and CanonicalizeHostname.

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

use crate::addr::Destination;
use crate::parse::destination::{check_host, check_user};

/// How long `ssh -G` may run: CanonicalizeHostname asks DNS and `Match exec` runs commands, which may hang.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of output that are read: 1 MiB, far more than ssh prints.
const MAX_OUTPUT: u64 = 1 << 20;

/// Why `ssh -G` has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The program does not exist.
    #[error("the ssh program was not found")]
    NotFound,
    /// ssh refuses to run for this user, who is not in the user database.
    #[error("ssh does not run for uid {0}, which the user database does not have")]
    UnknownUser(u32),
    /// ssh refused the configuration; with what it printed.
    #[error("ssh -G: {0}")]
    Refused(String),
    /// ssh did not end in time.
    #[error("ssh -G did not answer within {}s: a `Match exec` command or a name server hangs", TIMEOUT.as_secs())]
    Timeout,
    /// ssh still runs. Its answer counts in a later reading.
    #[error("ssh -G has not answered yet: a `Match exec` command or a name server is slow")]
    NotYet,
    /// ssh could not be run, or its output could not be used.
    #[error("ssh -G could not be run: {0}")]
    Failed(String),
    /// The host or the user has characters that are unsafe on a command line.
    #[error("{0}")]
    UnsafeDestination(String),
}

/// Which files ssh reads, by its option `-F`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConfigFiles {
    /// `~/.ssh/config` and the system's: no `-F`.
    Usual,
    /// Only this file: `-F PATH`.
    Only(PathBuf),
    /// No file at all (`-F none`): prints ssh's built-in values.
    Nothing,
}

/// One question for `ssh -G`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SshGQuery {
    /// Which files are read for the answer.
    pub files: ConfigFiles,
    /// The destination that is asked about.
    pub destination: Destination,
    /// A jump host that replaces what the files say, as ssh passes `-J` for each hop but the nearest; `None` to leave
    /// it to the files.
    pub jump: Option<Destination>,
}

/// The text that `ssh -G` printed, or why there is none.
pub type QueryResult = Result<Arc<str>, QueryError>;

type SharedResult = Shared<BoxFuture<'static, QueryResult>>;

/// Asks `ssh -G`, each question once: caches the answers for its own lifetime, which is one load of the configuration.
pub struct SshG {
    ssh: Arc<Path>,
    programs: Arc<dyn RunProgram>,
    results: Mutex<HashMap<SshGQuery, SharedResult>>,
}

impl fmt::Debug for SshG {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshG").field("ssh", &self.ssh).finish()
    }
}

impl SshG {
    /// Asks the program at the path `ssh`, which `programs` runs.
    pub fn new(ssh: &Path, programs: Arc<dyn RunProgram>) -> Self {
        Self {
            ssh: ssh.into(),
            programs,
            results: Mutex::default(),
        }
    }

    /// Returns what `ssh -G` prints about a destination.
    ///
    /// # Errors
    /// Why `ssh -G` gave no answer.
    ///
    /// # Cancel safety
    /// If the future is dropped, another caller with the same question continues the run; without one, the program is
    /// killed when `self` is dropped.
    pub async fn ask(&self, query: &SshGQuery) -> QueryResult {
        for destination in [Some(&query.destination), query.jump.as_ref()]
            .into_iter()
            .flatten()
        {
            check_host(&destination.host).map_err(QueryError::UnsafeDestination)?;
            if let Some(user) = &destination.user {
                check_user(user).map_err(QueryError::UnsafeDestination)?;
            }
        }
        let result = {
            // Locked for the look-up only, never across an await.
            let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
            let start = || {
                let (ssh, programs) = (Arc::clone(&self.ssh), Arc::clone(&self.programs));
                let arguments = arguments(query);
                async move { run(&ssh, &*programs, &arguments).await }
                    .boxed()
                    .shared()
            };
            results.entry(query.clone()).or_insert_with(start).clone()
        };
        result.await
    }
}

async fn run(ssh: &Path, programs: &dyn RunProgram, arguments: &[OsString]) -> QueryResult {
    let limits = Limits {
        time: TIMEOUT,
        stdout: MAX_OUTPUT,
    };
    match programs.run(ssh, arguments, limits).await {
        Ok(output) => parse_output(output),
        Err(ProgramError::TimedOut) => Err(QueryError::Timeout),
        Err(ProgramError::NotYet) => Err(QueryError::NotYet),
        Err(ProgramError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err(QueryError::NotFound)
        }
        Err(ProgramError::Io(error)) => Err(QueryError::Failed(error.to_string())),
    }
}

fn parse_output(output: ProgramOutput) -> QueryResult {
    if !output.status.success() {
        let stderr: Vec<String> = String::from_utf8_lossy(&output.stderr)
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(escape)
            .collect();
        return Err(QueryError::Refused(match stderr.is_empty() {
            true => output.status.to_string(),
            false => stderr.join("; "),
        }));
    }
    String::from_utf8(output.stdout)
        .map(Arc::from)
        .map_err(|_| QueryError::Failed("its output is not UTF-8".to_owned()))
}

fn arguments(query: &SshGQuery) -> Vec<OsString> {
    let SshGQuery {
        files,
        destination,
        jump,
    } = query;
    // With -N, as no session is wanted: without it ssh refuses ForkAfterAuthentication for want of a command.
    let mut arguments: Vec<OsString> = vec!["-G".into(), "-T".into(), "-N".into()];
    match files {
        ConfigFiles::Usual => {}
        ConfigFiles::Only(path) => arguments.extend(["-F".into(), path.into()]),
        ConfigFiles::Nothing => arguments.extend(["-F".into(), "none".into()]),
    }
    if let Some(jump) = jump {
        arguments.extend(["-J".into(), jump.to_string().into()]);
    }
    if let Some(port) = destination.port {
        arguments.extend(["-p".into(), port.to_string().into()]);
    }
    if let Some(user) = &destination.user {
        arguments.extend(["-l".into(), user.into()]);
    }
    // After `--` a host cannot be taken for an option.
    arguments.extend(["--".into(), OsString::from(&destination.host)]);
    arguments
}
