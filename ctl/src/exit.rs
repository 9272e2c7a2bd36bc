//! How a command ends: the exit code, the error message and a hint what to do about it.

use std::error::Error;
use std::io;

use tunneld_proto::client::ClientError;
use tunneld_proto::endpoint::{ConnectError, ListenError};
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::paths::PathError;
use tunneld_proto::version::VERSION;

/// The tunnel failed, or any error without a specific code.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage, or an error in the configuration.
pub(crate) const USAGE: u8 = 2;
/// `status NAME`: a named tunnel is neither up nor idle.
pub(crate) const NOT_UP: u8 = 3;
/// No tunnel has the given name, or matches the pattern.
pub(crate) const NO_TUNNEL: u8 = 4;
/// No daemon answers at the socket.
pub(crate) const NO_DAEMON: u8 = 5;
/// The time limit of the command passed.
pub(crate) const TIMED_OUT: u8 = 6;
/// tunneld and tunnelctl have no common protocol version.
pub(crate) const VERSION_CLASH: u8 = 7;
/// Interrupted by SIGINT (128 + 2, as in shells).
pub(crate) const INTERRUPTED: u8 = 130;

/// An end of the program other than success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    /// What happened; `None` if it was reported already.
    pub(crate) message: Option<String>,
    /// Causes, outermost first; one may have several lines.
    pub(crate) causes: Vec<String>,
    /// What the user can do about it.
    pub(crate) hint: Option<String>,
}

impl Exit {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// Makes an error of wrong usage, exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// Makes an end without a message: everything was reported already.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            code,
            message: None,
            causes: Vec::new(),
            hint: None,
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends `error` and its chain of sources to the causes.
    #[must_use]
    pub(crate) fn caused_by(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    fn from_error(code: u8, error: &(dyn Error + 'static)) -> Self {
        let exit = Self::new(code, error.to_string());
        match error.source() {
            Some(source) => exit.caused_by(source),
            None => exit,
        }
    }
}

impl From<ClientError> for Exit {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Connect(error) => error.into(),
            ClientError::Rpc(error) => error.into(),
            ClientError::Hung { .. } => Self::from_error(NO_DAEMON, &error)
                .hint("see its log; if it stays like this, stop the process and run: tunnelctl up --all"),
            ClientError::Closed => Self::from_error(NO_DAEMON, &error).hint("check whether it is still running: tunnelctl status"),
            ClientError::Io(_) => Self::from_error(NO_DAEMON, &error).hint("try again: tunnelctl status"),
            ClientError::Version { .. } => Self::from_error(VERSION_CLASH, &error).hint(format!(
                "restart the daemon with tunneld {VERSION}, the version of this tunnelctl: tunnelctl shutdown, or systemctl --user restart tunneld"
            )),
            ClientError::Garbled { .. } => Self::from_error(VERSION_CLASH, &error)
                .hint("tunneld and tunnelctl have different versions: restart the daemon with the version of this tunnelctl"),
        }
    }
}

impl From<ConnectError> for Exit {
    fn from(error: ConnectError) -> Self {
        let exit = Self::from_error(NO_DAEMON, &error);
        match error {
            ConnectError::NoDaemon { .. } => {
                exit.hint("start it with tunnelctl up NAME, or run: tunneld")
            }
            ConnectError::Foreign { .. } => exit.hint(
                "give the socket of your own daemon with --socket, or run tunnelctl as that user",
            ),
            ConnectError::Io { .. } => {
                exit.hint("check that the socket belongs to you, or give another one with --socket")
            }
        }
    }
}

impl From<RpcError> for Exit {
    fn from(error: RpcError) -> Self {
        let (code, hint) = match error.data.kind {
            ErrorKind::TunnelNotFound => (NO_TUNNEL, "list all tunnels: tunnelctl status"),
            ErrorKind::Config | ErrorKind::InvalidParams => (USAGE, "correct it and try again"),
            ErrorKind::TunnelExists => (
                USAGE,
                "choose another name with --name, or start that one: tunnelctl up NAME",
            ),
            ErrorKind::Timeout => (TIMED_OUT, "the daemon keeps trying, see: tunnelctl status"),
            ErrorKind::UnsupportedProtocol | ErrorKind::UnknownMethod => (
                VERSION_CLASH,
                "tunneld and tunnelctl have different versions: restart the daemon with the version of this tunnelctl",
            ),
            ErrorKind::Busy => (
                NO_DAEMON,
                "close other clients of the daemon, or try again soon",
            ),
            ErrorKind::Stopping => (
                NO_DAEMON,
                "wait until the daemon has stopped, then run: tunnelctl up NAME",
            ),
            ErrorKind::NotUp => (FAILED, "start the tunnel first: tunnelctl up NAME"),
            ErrorKind::OpenFailed => (
                FAILED,
                "check that the SSH server can reach this host and port",
            ),
            _ => (FAILED, "see: tunnelctl status, and tunnelctl logs"),
        };
        let RpcError { message, data, .. } = error;
        // The first cause of `tunnel_failed` is the kind of the failure, which is for programs.
        let skipped = usize::from(data.kind == ErrorKind::TunnelFailed);
        let causes = data.causes.into_iter().skip(skipped);
        // A configuration error is rendered with its message as the first line; the message is printed once.
        let repeated = format!("error: {message}");
        let causes = causes.map(|cause| match cause.strip_prefix(&repeated) {
            Some(rest) => rest.trim_start_matches('\n').to_owned(),
            None => cause,
        });
        Self {
            code,
            causes: causes
                .filter(|cause| !message.contains(cause.as_str()))
                .collect(),
            message: Some(message),
            hint: Some(data.hint.unwrap_or_else(|| hint.to_owned())),
        }
    }
}

impl From<PathError> for Exit {
    fn from(error: PathError) -> Self {
        Self::from_error(USAGE, &error).hint(error.hint())
    }
}

impl From<ListenError> for Exit {
    fn from(error: ListenError) -> Self {
        Self::from_error(NO_DAEMON, &error).hint(error.hint())
    }
}

/// Errors of writing to stdout. A closed pipe is not an error: the reader has what it wanted (`tunnelctl status | head`).
impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::new(FAILED, "writing the output failed")
                .caused_by(&error)
                .hint("check that there is space where the output goes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_exit_code_and_a_hint() {
        for (kind, code) in [
            (ErrorKind::TunnelFailed, 1),
            (ErrorKind::NotUp, 1),
            (ErrorKind::OpenFailed, 1),
            (ErrorKind::Internal, 1),
            (ErrorKind::Other("new".into()), 1),
            (ErrorKind::Config, 2),
            (ErrorKind::InvalidParams, 2),
            (ErrorKind::TunnelExists, 2),
            (ErrorKind::TunnelNotFound, 4),
            (ErrorKind::Busy, 5),
            (ErrorKind::Stopping, 5),
            (ErrorKind::Timeout, 6),
            (ErrorKind::UnsupportedProtocol, 7),
        ] {
            let exit = Exit::from(RpcError::new(kind.clone(), "m"));
            assert_eq!(exit.code, code, "{kind}");
            assert!(exit.hint.is_some(), "{kind}");
        }
    }

    #[test]
    fn the_hint_of_the_daemon_replaces_the_general_one() {
        let exit = Exit::from(RpcError::new(ErrorKind::NotUp, "m").hint("do that"));
        assert_eq!(exit.hint.as_deref(), Some("do that"));
    }

    #[test]
    fn a_cause_that_repeats_the_message_is_left_out() {
        let fault = "error: port: 0 is no port\n --> tunnel db".to_owned();
        let error = RpcError::new(ErrorKind::Config, "port: 0 is no port").causes([fault.clone()]);
        assert_eq!(Exit::from(error).causes, [" --> tunnel db"]);
        let several = RpcError::new(ErrorKind::Config, "2 faults").causes([fault.clone()]);
        assert_eq!(Exit::from(several).causes, [fault]);
    }

    #[test]
    fn no_daemon_exits_with_5_and_the_cause() {
        let source = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let endpoint = "/s".to_owned();
        let exit = Exit::from(ClientError::from(ConnectError::NoDaemon {
            endpoint,
            source,
        }));
        assert_eq!(
            (exit.code, exit.causes.as_slice()),
            (5, &["no such file".to_owned()][..])
        );
        assert!(exit.hint.is_some());
        assert_eq!(
            Exit::from(ClientError::Hung {
                endpoint: "/s".into()
            })
            .code,
            5
        );
        let clash = ClientError::Version {
            daemon: vec!["2".into()],
        };
        assert_eq!(Exit::from(clash).code, 7);
    }

    #[test]
    fn a_closed_pipe_is_not_an_error_but_a_full_disk_is() {
        assert_eq!(
            Exit::from(io::Error::from(io::ErrorKind::BrokenPipe)),
            Exit::silent(0)
        );
        assert_eq!(
            Exit::from(io::Error::from(io::ErrorKind::StorageFull)).code,
            1
        );
    }
}
