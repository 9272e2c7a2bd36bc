//! Asks `ssh -G`, the one reader of ssh_config that is right about Match, Include and CanonicalizeHostname.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunneld_proto::text::escape;

use crate::command::last_words;
use crate::config::destination::{Destination, check_host, check_user};

/// CanonicalizeHostname asks DNS and `Match exec` runs commands; neither may take for ever.
const LIMIT: Duration = Duration::from_secs(5);
/// More than any answer has.
const LONGEST: u64 = 1 << 20;
/// How many are asked at once.
const AT_ONCE: usize = 8;

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
pub struct Question {
    /// Which files are read.
    pub files: Files,
    /// About whom.
    pub to: Destination,
    /// The jump host that it is reached over whatever the files say, as ssh says `-J` for each hop but the nearest.
    pub over: Option<Destination>,
}

type Answer = Result<Arc<str>, QueryError>;

/// Asks, and remembers the answers for as long as it lives: one load.
#[derive(Debug)]
pub struct Query {
    ssh: PathBuf,
    answers: Mutex<HashMap<Question, Arc<OnceCell<Answer>>>>,
    turns: Semaphore,
}

impl Query {
    /// Asks this program.
    pub fn new(ssh: PathBuf) -> Self {
        Self {
            ssh,
            answers: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// What ssh would do to reach this destination, as `ssh -G` prints it.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, question: &Question) -> Answer {
        for named in [Some(&question.to), question.over.as_ref()]
            .into_iter()
            .flatten()
        {
            check_host(&named.host).map_err(QueryError::Unfit)?;
            if let Some(user) = &named.user {
                check_user(user).map_err(QueryError::Unfit)?;
            }
        }
        let cell = {
            // Held for the look-up alone, no await under it.
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(answers.entry(question.clone()).or_default())
        };
        cell.get_or_init(|| async {
            let Ok(_turn) = self.turns.acquire().await else {
                return Err(QueryError::Failed("it is too late to ask".to_owned()));
            };
            run(&self.ssh, question).await.map(Arc::from)
        })
        .await
        .clone()
    }
}

async fn run(ssh: &Path, question: &Question) -> Result<String, QueryError> {
    let mut command = Command::new(ssh);
    command
        .args(arguments(question))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => QueryError::Absent,
        _ => QueryError::Failed(error.to_string()),
    })?;
    let group = child.id();
    match timeout(LIMIT, output(&mut child)).await {
        Ok(result) => result,
        Err(_) => {
            kill_group(group);
            // Reaps it; the signal cannot be refused.
            let _ = timeout(LIMIT, child.wait()).await;
            Err(QueryError::Timeout)
        }
    }
}

async fn output(child: &mut Child) -> Result<String, QueryError> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = CancellationToken::new();
    let answering = async {
        if let Some(stdout) = stdout {
            stdout.take(LONGEST).read_to_end(&mut out).await?;
        }
        let status = child.wait().await;
        ended.cancel();
        status
    };
    let complaining = async {
        if let Some(stderr) = stderr {
            // What `Match exec` has left in the background may hold it open.
            last_words(stderr, &mut err, &ended).await;
        }
    };
    let (status, ()) = tokio::join!(answering, complaining);
    let failed = |error: std::io::Error| QueryError::Failed(error.to_string());
    let status = status.map_err(failed)?;
    if !status.success() {
        let told: Vec<String> = String::from_utf8_lossy(&err)
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(escape)
            .collect();
        return Err(QueryError::Refused(match told.is_empty() {
            true => status.to_string(),
            false => told.join("; "),
        }));
    }
    String::from_utf8(out).map_err(|_| QueryError::Failed("its answer is no UTF-8".to_owned()))
}

fn arguments(question: &Question) -> Vec<OsString> {
    let Question { files, to, over } = question;
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

/// Ends ssh and what its `Match exec` has started.
#[cfg(unix)]
fn kill_group(group: Option<u32>) {
    let group = group
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // Gone already is as good.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}
#[cfg(not(unix))]
fn kill_group(_group: Option<u32>) {}
