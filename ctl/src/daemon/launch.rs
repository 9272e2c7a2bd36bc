//! Finds and starts tunneld: through systemd if its user unit is installed, else detached from the terminal.

use std::ffi::OsString;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tunneld_proto::endpoint::Endpoint;
use tunneld_proto::paths::Env;

use crate::exit::{Exit, FAILED, NO_DAEMON};

const UNIT: &str = "tunneld.service";
/// How much of the log of a daemon that exited is read, in bytes.
const LOG_TAIL_BYTES: u64 = 4096;
/// How many of its last lines are shown.
const LOG_TAIL_LINES: usize = 5;

/// A daemon that was started without a service manager.
pub(super) struct LaunchedDaemon {
    pub(super) child: Child,
    pub(super) log: PathBuf,
    /// Length of the log before the start, in bytes: what follows is from this daemon.
    log_start: u64,
}

impl LaunchedDaemon {
    /// Starts tunneld detached from the terminal, with its log beside the socket.
    pub(super) fn spawn(endpoint: &Endpoint, config_dir: Option<&Path>) -> Result<Self, Exit> {
        endpoint.prepare()?;
        let log = endpoint.beside("log");
        let program = find_program("tunneld")?;
        let mut args: Vec<OsString> = vec!["--socket".into(), endpoint.path().into()];
        if let Some(dir) = config_dir {
            args.extend(["--config-dir".into(), dir.into()]);
        }
        args.extend(["--log-file".into(), log.clone().into()]);
        let mut command = detached(&program, &args)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let log_start = std::fs::metadata(&log).map_or(0, |meta| meta.len());
        let child = command.spawn().map_err(|err| not_started(&program, &err))?;
        Ok(Self {
            child,
            log,
            log_start,
        })
    }

    /// The error for a daemon that has exited; its causes are the last lines of its log.
    pub(super) fn exited(&self, status: &str) -> Exit {
        let exit = Exit::new(
            NO_DAEMON,
            format!("tunneld was started but has exited ({status})"),
        );
        let exit = Exit {
            causes: self.last_log_lines().unwrap_or_default(),
            ..exit
        };
        exit.hint(format!(
            "check the configuration: tunnelctl check; the log file is {}",
            self.log.display()
        ))
    }

    fn last_log_lines(&self) -> io::Result<Vec<String>> {
        let mut file = std::fs::File::open(&self.log)?;
        let length = file.metadata()?.len();
        let start = self.log_start.max(length.saturating_sub(LOG_TAIL_BYTES));
        file.seek(SeekFrom::Start(start.min(length)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(LOG_TAIL_LINES);
        Ok(lines
            .iter()
            .skip(skipped)
            .map(|line| (*line).to_owned())
            .collect())
    }
}

/// Outcome of [`start_unit`].
pub(super) enum UnitStart {
    Started,
    /// systemd could not be reached, for this reason; the daemon has to be started without it.
    NoManager(String),
}

/// Starts the user unit through systemctl.
pub(super) fn start_unit() -> Result<UnitStart, Exit> {
    let output = match Command::new("systemctl")
        .args(["--user", "start", UNIT])
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) => output,
        Err(err) => return Ok(UnitStart::NoManager(err.to_string())),
    };
    if output.status.success() {
        return Ok(UnitStart::Started);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if is_no_manager(&stderr) {
        return Ok(UnitStart::NoManager(stderr));
    }
    let exit = Exit {
        causes: vec![stderr],
        ..Exit::new(NO_DAEMON, "systemctl --user start tunneld failed")
    };
    Err(exit.hint("see: systemctl --user status tunneld, and journalctl --user -u tunneld"))
}

/// Returns whether systemctl failed because it cannot reach a service manager: in a container or after `su` the unit file
/// may exist without one. systemctl has no exit code for this, so its message decides.
fn is_no_manager(stderr: &str) -> bool {
    stderr.contains("connect to bus") || stderr.contains("not been booted")
}

/// Returns the paths at which systemd looks for the user unit (systemd.unit(5)).
pub(super) fn unit_paths(env: &Env) -> Vec<PathBuf> {
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

/// Finds a program in the directory of this one, else in PATH. It is searched here and not by the operating system because
/// the detached start could not report that it is missing.
pub(crate) fn find_program(name: &str) -> Result<PathBuf, Exit> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(&file))
        .find(|file| is_executable(file))
        .ok_or_else(|| {
            Exit::new(
                NO_DAEMON,
                format!("{name} was not found beside tunnelctl or in PATH"),
            )
            .hint(format!(
                "install {name} beside tunnelctl, or add its directory to PATH"
            ))
        })
}

fn is_executable(file: &Path) -> bool {
    #[cfg(unix)]
    let allowed = |meta: &std::fs::Metadata| {
        use std::os::unix::fs::PermissionsExt as _;
        meta.permissions().mode() & 0o111 != 0
    };
    #[cfg(not(unix))]
    let allowed = |_: &std::fs::Metadata| true;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && allowed(&meta))
}

/// The error for a program that cannot be started.
pub(crate) fn not_started(program: &Path, err: &io::Error) -> Exit {
    let code = if err.kind() == io::ErrorKind::NotFound {
        NO_DAEMON
    } else {
        FAILED
    };
    Exit::new(code, format!("starting {} failed", program.display()))
        .caused_by(err)
        .hint("install tunneld again, beside tunnelctl")
}

/// Builds a command that survives the terminal: `tunnelctl run-detached` creates a new session, then executes the program.
/// The extra process is needed because `Command` cannot call setsid(2) without unsafe code.
#[cfg(unix)]
fn detached(program: &Path, args: &[OsString]) -> Result<Command, Exit> {
    let own = std::env::current_exe().map_err(|err| not_started(program, &err))?;
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

/// Executes `argv` in a new session; returns only if that fails.
#[cfg(unix)]
pub(crate) fn run_detached(argv: &[OsString]) -> Exit {
    use std::os::unix::process::CommandExt as _;
    let Some((program, args)) = argv.split_first() else {
        return Exit::usage("no program given");
    };
    // Fails only for the leader of a process group; that process is detached already.
    let _ = rustix::process::setsid();
    let err = Command::new(program).args(args).exec();
    not_started(Path::new(program), &err)
}

#[cfg(not(unix))]
pub(crate) fn run_detached(_argv: &[OsString]) -> Exit {
    Exit::usage("run-detached is not needed on this system").hint("start the program directly")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn units_are_searched_in_the_home_directory_first() {
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
    fn only_log_lines_of_the_daemon_that_exited_are_shown() {
        let dir = tempfile::TempDir::new().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "old\nnew 1\nnew 2\n").unwrap();
        let daemon = LaunchedDaemon {
            child: Command::new(std::env::current_exe().unwrap())
                .arg("--list")
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
            log,
            log_start: 4,
        };
        let exit = daemon.exited("exit status: 2");
        assert_eq!(
            (exit.code, exit.causes),
            (5, vec!["new 1".to_owned(), "new 2".to_owned()])
        );
        assert!(exit.hint.unwrap().contains("tunnelctl check"));
        let LaunchedDaemon { mut child, .. } = daemon;
        child.wait().unwrap();
    }
}
