//! A temporary home: the configuration, the control socket and the environment of one daemon and its clients.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::process::Command;

/// What every tunnel of the lab begins with: no ssh_config of this machine's user, and short times.
pub const DEFAULTS: &str = "[defaults]
ssh_config = false
identity_agent = \"none\"
strict_host_key_checking = \"yes\"
server_alive_interval = \"2s\"
server_alive_count_max = 3
backoff = { initial = \"1s\", max = \"2s\" }
";

/// A temporary home.
pub struct Home {
    dir: TempDir,
    vars: Vec<(OsString, OsString)>,
}

impl Home {
    /// An empty home whose `tunneld.toml` holds [`DEFAULTS`].
    ///
    /// # Errors
    /// Where the folders cannot be made.
    pub fn new() -> Result<Self> {
        let home = Self::bare()?;
        home.write("tunneld.toml", DEFAULTS)?;
        Ok(home)
    }

    /// An empty home without any configuration.
    ///
    /// # Errors
    /// Where the folders cannot be made.
    pub fn bare() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-home").tempdir()?;
        for name in ["home/.ssh", "config", "run"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700))?;
        }
        Ok(Self {
            dir,
            vars: Vec::new(),
        })
    }

    /// The same home with one more environment variable for all that runs in it.
    #[must_use]
    pub fn var(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    /// A path below the temporary folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The user's home folder.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// The configuration's folder.
    pub fn config_dir(&self) -> PathBuf {
        self.path("config")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/tunneld/control.sock")
    }

    /// Writes a file of the configuration in one step: a temporary name, then a rename.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.config_dir().join(name);
        let temporary = self.config_dir().join(format!(".{name}.tmp"));
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &path)?;
        Ok(path)
    }

    /// Takes a file of the configuration away.
    ///
    /// # Errors
    /// Where there is none.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.config_dir().join(name))?)
    }

    /// One of the project's programs, its environment cleared down to this home.
    ///
    /// # Errors
    /// Where it is not built.
    pub fn command(&self, program: &str) -> Result<Command> {
        self.command_after(&[], program)
    }

    /// The same, and these words go before it.
    ///
    /// # Errors
    /// Where it is not built.
    pub fn command_after(&self, before: &[String], program: &str) -> Result<Command> {
        let mut command = crate::process::wrapped(before, built(program)?);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("TUNNELD_CONFIG_DIR", self.config_dir())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_CONFIG_HOME", self.path("home/.config"))
            .env("LC_ALL", "C.UTF-8")
            .envs(self.vars.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path());
        Ok(command)
    }
}

/// The path of one of the project's programs, beside the test's own.
///
/// # Errors
/// Where it is not built.
pub fn built(program: &str) -> Result<PathBuf> {
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
