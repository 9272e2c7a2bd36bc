//! A temporary home: the configuration, the control socket and the environment of one daemon and its clients.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::process::Command;

/// The defaults of every tunnel in the lab. They ignore the ssh_config and the agent of the user who runs the
/// tests, and shorten keepalives and retries so that tests of failures take seconds.
pub const DEFAULTS: &str = "[defaults]
ssh_config = false
identity_agent = \"none\"
strict_host_key_checking = \"yes\"
server_alive_interval = \"2s\"
server_alive_count_max = 3
backoff = { initial = \"1s\", max = \"2s\" }
";

/// A temporary home, removed on drop.
pub struct Home {
    dir: TempDir,
    vars: Vec<(OsString, OsString)>,
}

impl Home {
    /// Creates an empty home whose `tunneld.toml` contains [`DEFAULTS`].
    ///
    /// # Errors
    /// If the folders cannot be created.
    pub fn new() -> Result<Self> {
        let home = Self::without_config()?;
        home.write("tunneld.toml", DEFAULTS)?;
        Ok(home)
    }

    /// Creates an empty home without any configuration file.
    ///
    /// # Errors
    /// If the folders cannot be created.
    pub fn without_config() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-home").tempdir()?;
        for name in ["home/.ssh", "config", "run"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path)?;
            // tunneld refuses folders that other users can write to.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700))?;
        }
        Ok(Self {
            dir,
            vars: Vec::new(),
        })
    }

    /// Adds an environment variable to every program that is started in this home from now on.
    #[must_use]
    pub fn with_var(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    /// A path below the temporary folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Does not remove the temporary folder on drop. Returns its path.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }

    /// The folder that programs see as `HOME`.
    pub fn user_dir(&self) -> PathBuf {
        self.path("home")
    }

    /// The folder of the configuration files.
    pub fn config_dir(&self) -> PathBuf {
        self.path("config")
    }

    /// The path of the control socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/tunneld/control.sock")
    }

    /// Writes a configuration file atomically, with a temporary name and a rename: the daemon watches the folder
    /// and must not read half a file. Returns the path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.config_dir().join(name);
        let temporary = self.config_dir().join(format!(".{name}.tmp"));
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &path)?;
        Ok(path)
    }

    /// Removes a configuration file.
    ///
    /// # Errors
    /// If the file does not exist.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.config_dir().join(name))?)
    }

    /// A command that runs one of the project's programs with the environment of this home and nothing else.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn command(&self, program: &str) -> Result<Command> {
        self.command_with_prefix(&[], program)
    }

    /// Same as [`Self::command`], run by the command `prefix`, such as `nsenter`.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn command_with_prefix(&self, prefix: &[String], program: &str) -> Result<Command> {
        let mut command = crate::process::command_with_prefix(prefix, program_path(program)?);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.user_dir())
            .env("TUNNELD_CONFIG_DIR", self.config_dir())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_CONFIG_HOME", self.path("home/.config"))
            .env("LC_ALL", "C.UTF-8")
            .envs(self.vars.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path());
        Ok(command)
    }
}

/// The path of one of the project's programs, in the folder that cargo builds them to.
///
/// # Errors
/// If the program is not built.
pub fn program_path(program: &str) -> Result<PathBuf> {
    // The test itself is target/PROFILE/deps/suite-HASH.
    let exe = std::env::current_exe()?;
    let deps = exe.parent().context("the test has no folder")?;
    let path = deps.parent().unwrap_or(deps).join(program);
    if !path.exists() {
        bail!(
            "{} is missing; run `cargo build --workspace --bins` first, or tests/run",
            path.display()
        );
    }
    Ok(path)
}
