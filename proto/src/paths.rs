//! Where things are: what of the environment decides it, and the configuration directory.
//!
//! The functions take the environment as an argument; only [`Env::from_process`] reads the real one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The part of the environment that decides where things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// The home directory; of the passwd entry where `HOME` is not set.
    pub home: Option<PathBuf>,
    /// The directory that relative paths start from.
    pub cwd: Option<PathBuf>,
    /// `TUNNELD_SOCKET`.
    pub tunneld_socket: Option<OsString>,
    /// `TUNNELD_CONFIG_DIR`.
    pub tunneld_config_dir: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<OsString>,
    /// `APPDATA`, on Windows.
    pub appdata: Option<OsString>,
    /// `LOCALAPPDATA`, on Windows.
    pub local_appdata: Option<OsString>,
    /// The folder of the users' runtime folders: `/run/user`.
    pub run_user: PathBuf,
}

impl Env {
    /// This process's environment; empty variables count as unset.
    pub fn from_process() -> Self {
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

    /// The home directory, which must be absolute.
    ///
    /// # Errors
    /// Where there is none, or it is relative.
    pub fn home(&self) -> Result<&Path, PathError> {
        match &self.home {
            None => Err(PathError::NoHome),
            Some(home) if home.is_relative() => Err(PathError::RelativeHome(home.clone())),
            Some(home) => Ok(home),
        }
    }

    /// `path` made absolute from the working directory.
    ///
    /// # Errors
    /// Where it is relative and there is no working directory (it may have been deleted).
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

/// Why a place cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No home directory.
    #[error("the home directory is not known")]
    NoHome,
    /// `HOME` is relative.
    #[error("HOME is {}, which is not an absolute path", .0.display())]
    RelativeHome(PathBuf),
    /// A relative path without a working directory.
    #[error("{} is relative, and the working directory does not exist", .0.display())]
    NoCwd(PathBuf),
    /// Windows without the variable.
    #[error("the environment variable {0} is not set")]
    NoVariable(&'static str),
    /// The user's SID cannot be had.
    #[error("the user's security identifier cannot be had: {0}")]
    NoSid(String),
    /// A Unix socket's path has a limit.
    #[error("the control socket's path is {} bytes long, and the system allows {max}: {}", .path.as_os_str().len(), .path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// No directory to stand in, or no name.
    #[error("{} cannot be a control socket: it names no file", .0.display())]
    NoFileName(PathBuf),
}

impl PathError {
    /// What to do now.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoHome | Self::RelativeHome(_) => {
                "set HOME to the home directory's absolute path"
            }
            Self::NoCwd(_) => "give an absolute path, or go to a directory that exists",
            Self::NoVariable(_) => "log in again, or set it",
            Self::NoSid(_) => "give the pipe's name with --socket",
            Self::TooLong { .. } => "give a shorter path with --socket or TUNNELD_SOCKET",
            Self::NoFileName(_) => {
                "give the path of a socket, such as ~/.local/state/tunneld/run/control.sock"
            }
        }
    }
}

/// The configuration directory: `explicit` (`--config-dir`), else `$TUNNELD_CONFIG_DIR`, else
/// `$XDG_CONFIG_HOME/tunneld`, else `~/.config/tunneld`; `%APPDATA%\tunneld` on Windows.
///
/// # Errors
/// Where none of them leads to an absolute path.
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
    // The XDG specification has relative values ignored.
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
    fn the_configuration_directory_is_found_in_order() {
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
    fn without_a_home_the_reason_is_told() {
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
