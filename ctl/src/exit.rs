//! How a command ends: what is said, what to do about it, and the exit code.

use std::error::Error;
use std::io;

use tunneld_proto::client::ClientError;
use tunneld_proto::endpoint::{ConnectError, ListenError};
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::paths::PathError;
use tunneld_proto::version::VERSION;

/// The tunnel did not do it.
pub(crate) const FAILED: u8 = 1;
/// Usage or configuration.
pub(crate) const USAGE: u8 = 2;
/// Some named tunnel is neither up nor idle.
pub(crate) const NOT_UP: u8 = 3;
/// No such tunnel.
pub(crate) const NO_TUNNEL: u8 = 4;
/// No daemon.
pub(crate) const NO_DAEMON: u8 = 5;
/// Timed out.
pub(crate) const TIMED_OUT: u8 = 6;
/// Protocol version.
pub(crate) const VERSION_CLASH: u8 = 7;
/// Interrupted, as shells count it.
pub(crate) const INTERRUPTED: u8 = 130;

/// An end other than success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code.
    pub(crate) code: u8,
    /// What happened; none where all has been said.
    pub(crate) message: Option<String>,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do now.
    pub(crate) hint: Option<String>,
}

impl Exit {
    /// An end with a message.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// An end about which all has been said.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            code,
            message: None,
            causes: Vec::new(),
            hint: None,
        }
    }

    /// The same with what to do now.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with the causes below `error`.
    #[must_use]
    pub(crate) fn caused_by(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    fn of(code: u8, error: &(dyn Error + 'static)) -> Self {
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
            ClientError::Hung { .. } => Self::of(NO_DAEMON, &error)
                .hint("see its log; if it stays so, stop that process and run: tunnelctl up --all"),
            ClientError::Closed => Self::of(NO_DAEMON, &error).hint("see whether it still runs: tunnelctl status"),
            ClientError::Io(_) => Self::of(NO_DAEMON, &error).hint("try again: tunnelctl status"),
            ClientError::Version { .. } => Self::of(VERSION_CLASH, &error).hint(format!(
                "restart the daemon with the tunneld that belongs to this tunnelctl ({VERSION}): tunnelctl shutdown, or systemctl --user restart tunneld"
            )),
            ClientError::Garbled { .. } => Self::of(VERSION_CLASH, &error)
                .hint("tunneld and tunnelctl differ: restart the daemon with the tunneld that belongs to this tunnelctl"),
        }
    }
}

impl From<ConnectError> for Exit {
    fn from(error: ConnectError) -> Self {
        let exit = Self::of(NO_DAEMON, &error);
        match error {
            ConnectError::NoDaemon { .. } => {
                exit.hint("start it with tunnelctl up NAME, or run: tunneld")
            }
            ConnectError::Foreign { .. } => exit
                .hint("give your own daemon's socket with --socket, or run tunnelctl as that user"),
            ConnectError::Io { .. } => {
                exit.hint("see that the socket is yours, or give another with --socket")
            }
        }
    }
}

impl From<RpcError> for Exit {
    fn from(error: RpcError) -> Self {
        let (code, hint) = match error.data.kind {
            ErrorKind::TunnelNotFound => (NO_TUNNEL, "tunnelctl status shows all there are"),
            ErrorKind::Config | ErrorKind::InvalidParams => (USAGE, "correct it and try again"),
            ErrorKind::TunnelExists => (
                USAGE,
                "choose another name with --name, or start that one: tunnelctl up NAME",
            ),
            ErrorKind::Timeout => (TIMED_OUT, "it goes on trying: see tunnelctl status"),
            ErrorKind::UnsupportedProtocol | ErrorKind::UnknownMethod => (
                VERSION_CLASH,
                "restart the daemon with the tunneld that belongs to this tunnelctl",
            ),
            ErrorKind::Busy => (NO_DAEMON, "close some of its clients, or try again soon"),
            ErrorKind::Stopping => (
                NO_DAEMON,
                "wait until it has stopped, then run: tunnelctl up NAME",
            ),
            ErrorKind::NotUp => (FAILED, "bring the tunnel up first: tunnelctl up NAME"),
            ErrorKind::OpenFailed => (FAILED, "see that the far end reaches that host and port"),
            _ => (FAILED, "see tunnelctl status and tunnelctl logs"),
        };
        let RpcError { message, data, .. } = error;
        // A failure leads its causes with its kind, and often repeats the message.
        let lead = usize::from(data.kind == ErrorKind::TunnelFailed);
        let causes = data.causes.into_iter().skip(lead);
        // A fault of the configuration is rendered with the message in front.
        let own = format!("error: {message}");
        let causes = causes.map(|cause| match cause.strip_prefix(&own) {
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
        Self::of(USAGE, &error).hint(error.hint())
    }
}

impl From<ListenError> for Exit {
    fn from(error: ListenError) -> Self {
        Self::of(NO_DAEMON, &error).hint(error.hint())
    }
}

/// Failures of our own stdout: a closed pipe has heard enough, and is no error.
impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::new(FAILED, "writing the output failed")
                .caused_by(&error)
                .hint("see that the place it is written to has room"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_contracts_codes_and_every_error_a_hint() {
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
    fn the_daemons_hint_goes_before_ours() {
        let exit = Exit::from(RpcError::new(ErrorKind::NotUp, "m").hint("do that"));
        assert_eq!(exit.hint.as_deref(), Some("do that"));
    }

    #[test]
    fn what_the_message_says_is_not_said_twice() {
        let fault = "error: port: 0 is no port\n --> tunnel db".to_owned();
        let error = RpcError::new(ErrorKind::Config, "port: 0 is no port").causes([fault.clone()]);
        assert_eq!(Exit::from(error).causes, [" --> tunnel db"]);
        let several = RpcError::new(ErrorKind::Config, "2 faults").causes([fault.clone()]);
        assert_eq!(Exit::from(several).causes, [fault]);
    }

    #[test]
    fn no_daemon_is_five_with_the_cause() {
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
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
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
