//! Connects to the daemon, and starts one if the command needs it and none is running.

mod launch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tunneld_proto::client::{Client, ClientError};
use tunneld_proto::endpoint::{ConnectError, Endpoint};
use tunneld_proto::message::{DaemonStatus, method};
use tunneld_proto::paths::Env;
use tunneld_proto::version::VERSION;

use crate::cli::Global;
use crate::exit::{Exit, NO_DAEMON};
use crate::output::Ui;
use crate::output::line::{Line, Style};
use launch::{LaunchedDaemon, UnitStart, start_unit, unit_paths};
pub(crate) use launch::{find_program, not_started, run_detached};

/// Name of this program in `hello`, in front of its version.
const CLIENT_NAME: &str = "tunnelctl";
/// How long a started daemon may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two attempts to connect to a started daemon.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long attempts go on after the started daemon has exited, see [`Context::wait_for`]. A daemon whose socket file was
/// removed makes it again within this time.
const EXIT_GRACE: Duration = Duration::from_secs(3);

/// What every command needs: global options, environment, output.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) env: Env,
    pub(crate) ui: Ui,
}

impl Context {
    fn endpoint(&self) -> Result<Endpoint, Exit> {
        let endpoint = Endpoint::resolve(self.global.socket.as_deref(), &self.env)?;
        for note in endpoint.notes() {
            self.ui.verbose(note);
        }
        Ok(endpoint)
    }

    /// Connects to the running daemon; exit 5 if there is none.
    pub(crate) async fn connect(&self) -> Result<Client, Exit> {
        let endpoint = self.endpoint()?;
        match Client::connect(&endpoint, CLIENT_NAME).await {
            Ok(client) => self.check_config_dir(self.check_version(client)).await,
            Err(err) => {
                let no_daemon = is_no_daemon(&err);
                let exit = Exit::from(err);
                Err(if no_daemon && self.installed_unit().is_some() {
                    exit.hint("start it: systemctl --user start tunneld")
                } else {
                    exit
                })
            }
        }
    }

    /// Connects to the running daemon; starts one if there is none.
    pub(crate) async fn connect_or_start(&self) -> Result<Client, Exit> {
        let endpoint = self.endpoint()?;
        match Client::connect(&endpoint, CLIENT_NAME).await {
            Ok(client) => self.check_config_dir(self.check_version(client)).await,
            Err(err) if is_no_daemon(&err) => self.start(&endpoint).await,
            Err(err) => Err(err.into()),
        }
    }

    /// With `--verbose`, says that the versions differ. The protocol is compatible, so this is not an error.
    fn check_version(&self, client: Client) -> Client {
        let version = &client.welcome().version;
        if version != VERSION {
            self.ui.verbose(format!(
                "the daemon is tunneld {version}, this is tunnelctl {VERSION}"
            ));
        }
        client
    }

    /// Says that `--config-dir` has no effect on a daemon that runs with another folder.
    async fn check_config_dir(&self, mut client: Client) -> Result<Client, Exit> {
        let Some(dir) = self.global.config_dir.as_deref() else {
            return Ok(client);
        };
        let status: DaemonStatus = client
            .call(method::DAEMON_STATUS, &serde_json::Value::Null)
            .await?;
        let resolved = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        if resolved(&self.env.absolute(dir)?) != resolved(Path::new(&status.config_dir)) {
            self.ui.info(Line::of(Style::Warn, "note").and(format!(
                ": --config-dir is ignored; the running daemon reads {}",
                status.config_dir
            )));
        }
        Ok(client)
    }

    async fn start(&self, endpoint: &Endpoint) -> Result<Client, Exit> {
        if let Some(unit) = self.installed_unit() {
            self.ui.verbose(format!("starting {}", unit.display()));
            match start_unit()? {
                UnitStart::Started => return self.wait_for(endpoint, None).await,
                UnitStart::NoManager(reason) => self
                    .ui
                    .verbose(format!("the service manager does not answer: {reason}")),
            }
        }
        let dir = self.global.config_dir.as_deref();
        let config_dir = dir.map(|dir| self.env.absolute(dir)).transpose()?;
        let mut daemon = LaunchedDaemon::spawn(endpoint, config_dir.as_deref())?;
        let client = self.wait_for(endpoint, Some(&mut daemon)).await?;
        self.ui.info(format!(
            "started tunneld (pid {}), log file {}",
            client.welcome().pid,
            daemon.log.display()
        ));
        Ok(client)
    }

    /// Returns the installed systemd unit; `None` if an own socket or configuration directory is given, because the
    /// unit would start a daemon with the default ones.
    fn installed_unit(&self) -> Option<PathBuf> {
        // The unit starts the daemon with the default paths, which would not be the one that the user means.
        let is_customized = self.global.socket.is_some()
            || self.global.config_dir.is_some()
            || self.env.tunneld_socket.is_some()
            || self.env.tunneld_config_dir.is_some();
        if is_customized || !cfg!(target_os = "linux") {
            return None;
        }
        unit_paths(&self.env)
            .into_iter()
            .find(|path| path.is_file())
    }

    /// Connects again and again until the started daemon answers. `daemon` is `None` for one that systemd started.
    async fn wait_for(
        &self,
        endpoint: &Endpoint,
        mut daemon: Option<&mut LaunchedDaemon>,
    ) -> Result<Client, Exit> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut exited_at = None;
        loop {
            match Client::connect(endpoint, CLIENT_NAME).await {
                Ok(client) => return Ok(self.check_version(client)),
                // A hung daemon is tolerated here: the first reading of the configuration may take longer than the
                // time limit of `hello`.
                Err(err) if !is_no_daemon(&err) && !matches!(err, ClientError::Hung { .. }) => {
                    return Err(err.into());
                }
                Err(_) => {}
            }
            let now = Instant::now();
            if let Some(daemon) = daemon.as_deref_mut() {
                // The daemon also exits if another one, started at the same moment, was faster; that one answers soon.
                let is_over = exited_at.is_some_and(|at: Instant| now > at + EXIT_GRACE);
                match daemon.child.try_wait() {
                    Ok(Some(status)) if is_over => return Err(daemon.exited(&status.to_string())),
                    Ok(Some(_)) => exited_at = exited_at.or(Some(now)),
                    _ => {}
                }
            }
            if now > deadline {
                let log = daemon.map(|daemon| daemon.log.display().to_string());
                let hint = log.map_or("see: journalctl --user -u tunneld".into(), |log| {
                    format!("see {log}")
                });
                let message = format!("tunneld was started but does not answer at {endpoint}");
                return Err(Exit::new(NO_DAEMON, message).hint(hint));
            }
            // Polled: there is no event for a socket that another process will create.
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn is_no_daemon(err: &ClientError) -> bool {
    matches!(err, ClientError::Connect(ConnectError::NoDaemon { .. }))
}
