//! The way to a daemon: one that runs, or one that is started.

use std::ffi::OsString;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use tunneld_proto::client::{Client, ClientError};
use tunneld_proto::endpoint::{ConnectError, Endpoint};
use tunneld_proto::paths::Env;
use tunneld_proto::version::VERSION;

use crate::cli::Global;
use crate::exit::{Exit, FAILED, NO_DAEMON};
use crate::output::Ui;

const NAME: &str = "tunnelctl";
const UNIT: &str = "tunneld.service";
/// How long a daemon that was started may take until it answers.
const START: Duration = Duration::from_secs(30);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// How much of a dead daemon's log is shown.
const TAIL: u64 = 4096;

/// What every command has at hand.
#[derive(Debug)]
pub(crate) struct Context {
    /// What stood on the command line for all of them.
    pub(crate) global: Global,
    /// Where things are.
    pub(crate) env: Env,
    /// Where to print.
    pub(crate) ui: Ui,
}

impl Context {
    fn endpoint(&self) -> Result<Endpoint, Exit> {
        let endpoint = Endpoint::resolve(self.global.socket.as_deref(), &self.env)?;
        for note in endpoint.notes() {
            self.ui.mention(note);
        }
        Ok(endpoint)
    }

    /// Connects to the daemon that runs.
    pub(crate) async fn connect(&self) -> Result<Client, Exit> {
        let endpoint = self.endpoint()?;
        match Client::connect(&endpoint, NAME).await {
            Ok(client) => Ok(self.greeted(client)),
            Err(err) => {
                let absent = is_absent(&err);
                let exit = Exit::from(err);
                Err(if absent && self.unit().is_some() {
                    exit.hint("start it: systemctl --user start tunneld")
                } else {
                    exit
                })
            }
        }
    }

    /// Connects to the daemon that runs, or starts one.
    pub(crate) async fn connect_or_start(&self) -> Result<Client, Exit> {
        let endpoint = self.endpoint()?;
        match Client::connect(&endpoint, NAME).await {
            Ok(client) => Ok(self.greeted(client)),
            Err(err) if is_absent(&err) => self.start(&endpoint).await,
            Err(err) => Err(err.into()),
        }
    }

    fn greeted(&self, client: Client) -> Client {
        let version = &client.welcome().version;
        if version != VERSION {
            self.ui.mention(format!(
                "the daemon is tunneld {version}, this is tunnelctl {VERSION}"
            ));
        }
        client
    }

    async fn start(&self, endpoint: &Endpoint) -> Result<Client, Exit> {
        if let Some(unit) = self.unit() {
            self.ui.mention(format!("starting {}", unit.display()));
            match start_unit()? {
                Started::Unit => return self.wait_for(endpoint, None).await,
                Started::NoManager(why) => self
                    .ui
                    .mention(format!("no service manager answers: {why}")),
            }
        }
        let mut run = self.spawn(endpoint)?;
        let client = self.wait_for(endpoint, Some(&mut run)).await?;
        self.ui.say(format!(
            "started tunneld, pid {}; its log is {}",
            client.welcome().pid,
            run.log.display()
        ));
        Ok(client)
    }

    /// The installed unit; none where a place of its own was asked for, which the unit knows nothing of.
    fn unit(&self) -> Option<PathBuf> {
        let own_place = self.global.socket.is_some()
            || self.global.config_dir.is_some()
            || self.env.tunneld_socket.is_some()
            || self.env.tunneld_config_dir.is_some();
        if own_place || !cfg!(target_os = "linux") {
            return None;
        }
        unit_paths(&self.env)
            .into_iter()
            .find(|path| path.is_file())
    }

    fn spawn(&self, endpoint: &Endpoint) -> Result<Detached, Exit> {
        endpoint.prepare()?;
        let log = endpoint.beside("log");
        let program = program("tunneld")?;
        let mut args: Vec<OsString> = vec!["--socket".into(), endpoint.path().into()];
        if let Some(dir) = &self.global.config_dir {
            args.extend(["--config-dir".into(), self.env.absolute(dir)?.into()]);
        }
        args.extend(["--log-file".into(), log.clone().into()]);
        let mut command = detached(&program, &args)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let log_from = std::fs::metadata(&log).map_or(0, |meta| meta.len());
        let child = command.spawn().map_err(|err| not_run(&program, &err))?;
        Ok(Detached {
            child,
            log,
            log_from,
        })
    }

    /// Waits until the daemon that was started answers.
    async fn wait_for(
        &self,
        endpoint: &Endpoint,
        mut run: Option<&mut Detached>,
    ) -> Result<Client, Exit> {
        let deadline = Instant::now() + START;
        // One that ends may have met another that was started at the same moment, and which answers soon.
        let mut ended = None;
        loop {
            match Client::connect(endpoint, NAME).await {
                Ok(client) => return Ok(self.greeted(client)),
                // Its first reading of the configuration may take longer than a greeting has time.
                Err(err) if !is_absent(&err) && !matches!(err, ClientError::Hung { .. }) => {
                    return Err(err.into());
                }
                Err(_) => {}
            }
            let now = Instant::now();
            if let Some(run) = run.as_deref_mut() {
                let over = ended.is_some_and(|at: Instant| now > at + Duration::from_secs(1));
                match run.child.try_wait() {
                    Ok(Some(status)) if over => return Err(run.died(&status.to_string())),
                    Ok(Some(_)) => ended = ended.or(Some(now)),
                    _ => {}
                }
            }
            if now > deadline {
                let log = run.map(|run| run.log.display().to_string());
                let hint = log.map_or("see: journalctl --user -u tunneld".into(), |log| {
                    format!("see {log}")
                });
                let message = format!("tunneld was started and does not answer at {endpoint}");
                return Err(Exit::new(NO_DAEMON, message).hint(hint));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn is_absent(err: &ClientError) -> bool {
    matches!(err, ClientError::Connect(ConnectError::NoDaemon { .. }))
}

/// A daemon that was started without a service manager.
struct Detached {
    child: Child,
    log: PathBuf,
    /// The log's length before it.
    log_from: u64,
}

impl Detached {
    fn died(&self, status: &str) -> Exit {
        let exit = Exit::new(
            NO_DAEMON,
            format!("tunneld was started and has ended ({status})"),
        );
        let exit = Exit {
            causes: self.last_words().unwrap_or_default(),
            ..exit
        };
        exit.hint(format!(
            "prove the configuration with: tunnelctl check; the log is {}",
            self.log.display()
        ))
    }

    fn last_words(&self) -> io::Result<Vec<String>> {
        let mut file = std::fs::File::open(&self.log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(
            self.log_from.max(length.saturating_sub(TAIL)).min(length),
        ))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(5);
        Ok(lines
            .iter()
            .skip(from)
            .map(|line| (*line).to_owned())
            .collect())
    }
}

enum Started {
    Unit,
    NoManager(String),
}

fn start_unit() -> Result<Started, Exit> {
    let output = match Command::new("systemctl")
        .args(["--user", "start", UNIT])
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) => output,
        Err(err) => return Ok(Started::NoManager(err.to_string())),
    };
    if output.status.success() {
        return Ok(Started::Unit);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // In a container, or behind su, the unit may be there and the manager not.
    if said.contains("connect to bus") || said.contains("not been booted") {
        return Ok(Started::NoManager(said));
    }
    let exit = Exit {
        causes: vec![said],
        ..Exit::new(NO_DAEMON, "systemctl --user start tunneld failed")
    };
    Err(exit.hint("see: systemctl --user status tunneld, and journalctl --user -u tunneld"))
}

/// Where systemd looks for a user's units.
fn unit_paths(env: &Env) -> Vec<PathBuf> {
    let config = env
        .xdg_config_home
        .as_ref()
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute());
    let home = env.home.clone();
    let config = config.or_else(|| home.clone().map(|home| home.join(".config")));
    let data = home.map(|home| home.join(".local/share/systemd/user"));
    let fixed = [
        "/etc/systemd/user",
        "/run/systemd/user",
        "/usr/local/lib/systemd/user",
        "/usr/lib/systemd/user",
    ];
    config
        .map(|config| config.join("systemd/user"))
        .into_iter()
        .chain(data)
        .chain(fixed.map(PathBuf::from))
        .map(|dir| dir.join(UNIT))
        .collect()
}

/// The program that stands beside this one, else the one in PATH: looked for here, because who starts it detached
/// hears nothing of its absence.
pub(crate) fn program(name: &str) -> Result<PathBuf, Exit> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(&file))
        .find(|file| may_run(file))
        .ok_or_else(|| not_run(Path::new(name), &io::ErrorKind::NotFound.into()))
}

fn may_run(file: &Path) -> bool {
    #[cfg(unix)]
    let allowed = |meta: &std::fs::Metadata| {
        use std::os::unix::fs::PermissionsExt as _;
        meta.permissions().mode() & 0o111 != 0
    };
    #[cfg(not(unix))]
    let allowed = |_: &std::fs::Metadata| true;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && allowed(&meta))
}

/// The error of a program that cannot be run.
pub(crate) fn not_run(program: &Path, err: &io::Error) -> Exit {
    let code = if err.kind() == io::ErrorKind::NotFound {
        NO_DAEMON
    } else {
        FAILED
    };
    Exit::new(code, format!("running {} failed", program.display()))
        .caused_by(err)
        .hint("install tunneld beside tunnelctl, or put it into PATH")
}

/// A command that outlives the terminal: this program makes a session of its own, then becomes the other.
#[cfg(unix)]
fn detached(program: &Path, args: &[OsString]) -> Result<Command, Exit> {
    let own = std::env::current_exe().map_err(|err| not_run(program, &err))?;
    let mut command = Command::new(own);
    command
        .arg("run-detached")
        .arg(program)
        .args(args)
        .current_dir("/");
    Ok(command)
}

#[cfg(not(unix))]
fn detached(program: &Path, args: &[OsString]) -> Result<Command, Exit> {
    let mut command = Command::new(program);
    command.args(args);
    #[cfg(windows)]
    {
        use std::os::windows::process::CommandExt as _;
        const DETACHED_PROCESS: u32 = 0x8;
        const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
        command.creation_flags(DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP);
    }
    Ok(command)
}

/// Becomes `argv` in a session of its own; comes back only where that fails.
#[cfg(unix)]
pub(crate) fn run_detached(argv: &[OsString]) -> Exit {
    use std::os::unix::process::CommandExt as _;
    let Some((program, args)) = argv.split_first() else {
        return Exit::usage("no program is given");
    };
    // Refused only to the leader of a process group, which needs none.
    let _ = rustix::process::setsid();
    let err = Command::new(program).args(args).exec();
    not_run(Path::new(program), &err)
}

#[cfg(not(unix))]
pub(crate) fn run_detached(_argv: &[OsString]) -> Exit {
    Exit::usage("this system starts detached programs without help").hint("run the program itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn units_are_looked_for_at_home_first() {
        let env = Env {
            home: Some("/home/u".into()),
            ..Env::default()
        };
        let paths = unit_paths(&env);
        assert_eq!(
            paths[0],
            Path::new("/home/u/.config/systemd/user/tunneld.service")
        );
        assert!(paths.contains(&"/usr/lib/systemd/user/tunneld.service".into()));
        let moved = Env {
            xdg_config_home: Some("/xdg".into()),
            ..env
        };
        assert_eq!(
            unit_paths(&moved)[0],
            Path::new("/xdg/systemd/user/tunneld.service")
        );
    }

    #[test]
    fn a_dead_daemons_own_words_are_shown_and_no_older_ones() {
        let dir = tempfile::TempDir::new().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "old\nnew 1\nnew 2\n").unwrap();
        let run = Detached {
            child: Command::new(std::env::current_exe().unwrap())
                .arg("--list")
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
            log,
            log_from: 4,
        };
        let exit = run.died("exit status: 2");
        assert_eq!(
            (exit.code, exit.causes),
            (5, vec!["new 1".to_owned(), "new 2".to_owned()])
        );
        assert!(exit.hint.unwrap().contains("tunnelctl check"));
        let Detached { mut child, .. } = run;
        child.wait().unwrap();
    }
}
