//! Finds the configuration directory, and the environment variables that decide about paths.
//!
//! The functions take the environment as an argument, so that tests do not change that of the process; only
//! [`Env::from_process`] reads the real one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The part of the environment that decides about paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// `HOME`, else the home directory of the passwd entry.
    pub home: Option<PathBuf>,
    /// Working directory; `None` if it was deleted.
    pub cwd: Option<PathBuf>,
    /// `TUNNELD_SOCKET`: path of the control socket.
    pub tunneld_socket: Option<OsString>,
    /// `TUNNELD_CONFIG_DIR`: path of the configuration directory.
    pub tunneld_config_dir: Option<OsString>,
    /// `XDG_RUNTIME_DIR`: private directory of the login session, holds the control socket.
    pub xdg_runtime_dir: Option<OsString>,
    /// `XDG_CONFIG_HOME`: parent of the default configuration directory.
    pub xdg_config_home: Option<OsString>,
    /// `APPDATA` on Windows: parent of the default configuration directory.
    pub appdata: Option<OsString>,
    /// `LOCALAPPDATA` on Windows: parent of the state directory.
    pub local_appdata: Option<OsString>,
    /// Parent of the runtime directories of all users: `/run/user`.
    pub run_user: PathBuf,
}

impl Env {
    /// Reads the environment of this process; an empty variable counts as unset.
    pub fn from_process() -> Self {
        // Empty counts as unset, as in the XDG Base Directory Specification.
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            cwd: std::env::current_dir().ok(),
            tunneld_socket: var("TUNNELD_SOCKET"),
            tunneld_config_dir: var("TUNNELD_CONFIG_DIR"),
            xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
            xdg_config_home: var("XDG_CONFIG_HOME"),
            appdata: var("APPDATA"),
            local_appdata: var("LOCALAPPDATA"),
            run_user: PathBuf::from("/run/user"),
        }
    }

    /// Returns the home directory.
    ///
    /// # Errors
    /// If it is unknown or not absolute.
    pub fn home(&self) -> Result<&Path, PathError> {
        match &self.home {
            None => Err(PathError::NoHome),
            // A relative home would put the socket under whatever directory the program was started in.
            Some(home) if home.is_relative() => Err(PathError::RelativeHome(home.clone())),
            Some(home) => Ok(home),
        }
    }

    /// Makes `path` absolute, from the working directory.
    ///
    /// # Errors
    /// If `path` is relative and the working directory does not exist.
    pub fn absolute(&self, path: &Path) -> Result<PathBuf, PathError> {
        if path.is_absolute() {
            return Ok(path.to_owned());
        }
        let cwd = self
            .cwd
            .as_ref()
            .ok_or_else(|| PathError::NoCwd(path.to_owned()))?;
        Ok(cwd.join(path))
    }
}

/// Why a path cannot be determined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The home directory is unknown.
    #[error("the home directory is unknown")]
    NoHome,
    /// `HOME` is a relative path.
    #[error("HOME is not an absolute path: {}", .0.display())]
    RelativeHome(PathBuf),
    /// A relative path, but no working directory.
    #[error("{} is relative, and the working directory does not exist", .0.display())]
    NoCwd(PathBuf),
    /// A variable that Windows sets for every user is missing.
    #[error("the environment variable {0} is not set")]
    NoVariable(&'static str),
    /// The SID of the user, which is part of the name of the pipe, cannot be determined.
    #[error("the security identifier (SID) of the user cannot be determined: {0}")]
    NoSid(String),
    /// The path is too long for a Unix socket.
    #[error("the path of the control socket has {} bytes, but the system allows {max}: {}", .path.as_os_str().len(), .path.display())]
    TooLong {
        /// The path that is too long.
        path: PathBuf,
        /// Longest allowed path, in bytes.
        max: usize,
    },
    /// The directory of the control socket cannot be examined now.
    #[error("the runtime directory {} cannot be examined: {why}", .path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The words of the system.
        why: String,
    },
    /// The path has no parent directory or no file name.
    #[error("{} cannot be a control socket: it has no file name", .0.display())]
    NoFileName(PathBuf),
}

impl PathError {
    /// Returns what the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoHome | Self::RelativeHome(_) => {
                "set HOME to the absolute path of the home directory"
            }
            Self::NoCwd(_) => "give an absolute path, or change to a directory that exists",
            Self::NoVariable(_) => "log in again, or set the variable",
            Self::NoSid(_) => "give the name of the pipe with --socket",
            Self::TooLong { .. } => "give a shorter path with --socket or TUNNELD_SOCKET",
            Self::Unreadable { .. } => {
                "try again; if the cause stays, see the file system, or name another socket with --socket"
            }
            Self::NoFileName(_) => {
                "give the path of a socket, such as ~/.local/state/tunneld/run/control.sock"
            }
        }
    }
}

/// Returns the configuration directory: `explicit` (`--config-dir`), else `$TUNNELD_CONFIG_DIR`, else
/// `$XDG_CONFIG_HOME/tunneld`, else `~/.config/tunneld`; `%APPDATA%\tunneld` on Windows.
///
/// # Errors
/// If no absolute path results.
pub fn config_dir(explicit: Option<&Path>, env: &Env) -> Result<PathBuf, PathError> {
    if let Some(dir) = explicit.or(env.tunneld_config_dir.as_deref().map(Path::new)) {
        return env.absolute(dir);
    }
    if cfg!(windows) {
        let appdata = env
            .appdata
            .as_ref()
            .ok_or(PathError::NoVariable("APPDATA"))?;
        return Ok(Path::new(appdata).join("tunneld"));
    }
    // The XDG Base Directory Specification: relative values are ignored.
    match env.xdg_config_home.as_deref().map(Path::new) {
        Some(dir) if dir.is_absolute() => Ok(dir.join("tunneld")),
        _ => Ok(env.home()?.join(".config").join("tunneld")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn env() -> Env {
        Env {
            home: Some("/home/u".into()),
            cwd: Some("/here".into()),
            ..Env::default()
        }
    }

    #[test]
    fn the_configuration_directory_is_found_in_the_documented_order() {
        let mut env = env();
        let dir =
            |explicit: Option<&str>, env: &Env| config_dir(explicit.map(Path::new), env).unwrap();
        assert_eq!(dir(None, &env), Path::new("/home/u/.config/tunneld"));
        env.xdg_config_home = Some("relative".into());
        assert_eq!(dir(None, &env), Path::new("/home/u/.config/tunneld"));
        env.xdg_config_home = Some("/xdg".into());
        assert_eq!(dir(None, &env), Path::new("/xdg/tunneld"));
        env.tunneld_config_dir = Some("/own".into());
        assert_eq!(dir(None, &env), Path::new("/own"));
        assert_eq!(dir(Some("there"), &env), Path::new("/here/there"));
    }

    #[test]
    fn without_a_home_directory_the_error_says_why() {
        let none = Env::default();
        assert_eq!(config_dir(None, &none), Err(PathError::NoHome));
        let relative = Env {
            home: Some("u".into()),
            ..Env::default()
        };
        assert_eq!(
            config_dir(None, &relative),
            Err(PathError::RelativeHome("u".into()))
        );
    }
}
