//! The commands that the supervisor sends to a tunnel's task, and how the task handles them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::oneshot;
use tracing::info;
use tunneld_proto::error::RpcError;
use tunneld_proto::status::Desired;

use super::{Task, backoff};
use crate::failure::{Failure, FailureKind};
use crate::forward::ForwardOptions;
use crate::tunnel::machine::{Event, State};
use tunneld_config::diff::{Change, diff};
use tunneld_config::model::{Forward, Tunnel};

/// A command to one tunnel.
#[derive(Debug)]
pub enum Command {
    /// The user wants something of the tunnel.
    User(UserCommand),
    /// Something about the machine changed.
    System(SystemChange),
    /// The tunnel's configuration changed; connects again only if it has to.
    Replace(Box<Tunnel>),
    /// The configuration was read again and is the same.
    Reloaded,
    /// Stop listening on local addresses that none of `keep` uses, because another tunnel needs them.
    ReleaseListeners {
        /// The forwards of this tunnel's next configuration.
        keep: Vec<Forward>,
        /// Notified when the addresses are free.
        done: oneshot::Sender<()>,
    },
    /// Answer or cancel a prompt.
    Answer {
        /// Id of the prompt in the registry.
        id: u64,
        /// One answer per field. `None` cancels the prompt.
        answers: Option<Vec<SecretString>>,
        /// Whether the answers fit the prompt.
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    /// Close everything; the task returns.
    Stop,
}

/// What a user can want of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserCommand {
    /// Connect, and reconnect after every loss.
    Up,
    /// Close the session and the listeners, and stay down.
    Down,
    /// Connect with a new session.
    Restart,
}

impl UserCommand {
    /// The state that the tunnel is to keep from now on.
    pub fn desired(self) -> Desired {
        match self {
            Self::Up | Self::Restart => Desired::Up,
            Self::Down => Desired::Down,
        }
    }
}

/// What can change about the machine that all tunnels need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemChange {
    /// Addresses, routes or links of the machine changed.
    Network,
    /// The machine woke from sleep.
    Woke,
}

impl Command {
    /// Whether it ends the session that a tunnel with the configuration `current` is establishing.
    pub(super) fn interrupts(&self, current: &Tunnel) -> bool {
        match self {
            Self::User(UserCommand::Down | UserCommand::Restart) | Self::Stop => true,
            Self::Replace(new) => diff(current, new) == Change::Session,
            Self::User(UserCommand::Up)
            | Self::System(_)
            | Self::Reloaded
            | Self::ReleaseListeners { .. }
            | Self::Answer { .. } => false,
        }
    }
}

impl Task {
    pub(super) async fn handle_command(&mut self, command: Command) {
        match command {
            Command::User(command) => self.handle_user_command(command).await,
            Command::System(SystemChange::Network) => self.network_changed(),
            Command::System(SystemChange::Woke) => self.apply(Event::Woke),
            Command::Replace(config) => self.replace(*config).await,
            // The store that the password comes from may have a new one, although its command is the same.
            Command::Reloaded => self.forwards.forget_proxy_password(),
            Command::ReleaseListeners { keep, done } => {
                self.forwards.release_local(&keep).await;
                // Fails if the supervisor no longer waits.
                let _ = done.send(());
            }
            Command::Answer { id, answers, reply } => {
                let result = self.answer(id, answers);
                // Fails if the client has disconnected.
                let _ = reply.send(result);
            }
            // The main loop ends the task before it calls this.
            Command::Stop => {}
        }
    }

    pub(super) async fn handle_user_command(&mut self, command: UserCommand) {
        if command == UserCommand::Down {
            self.history.last_error = None;
        }
        // Before the event, which publishes the new state: a client that sees `stopped` finds the addresses free, and
        // one that sees `connecting` can connect to the listeners already.
        self.apply_forwards(command.desired()).await;
        self.apply(match command {
            UserCommand::Up => Event::WantUp,
            UserCommand::Down => Event::WantDown,
            UserCommand::Restart => Event::Restart,
        });
    }

    /// Takes over a changed configuration. Connects again only if the destination or the login changed.
    pub(super) async fn replace(&mut self, config: Tunnel) {
        let change = diff(&self.config, &config);
        self.forwards.forget_proxy_password();
        self.config = Arc::new(config);
        self.machine
            .set_backoff(backoff(&self.config.route.liveness));
        self.apply_forwards(self.machine.state().desired()).await;
        // A live session stays when the change concerns the next dial alone. A dial under way or waiting starts again:
        // it may be waiting for exactly this change, such as a longer `connect_timeout`.
        let live = matches!(self.machine.state(), State::Up { .. });
        if change == Change::Session || (change == Change::DialPolicy && !live) {
            info!(
                tunnel = self.config.name,
                "the configuration changed: connecting again"
            );
            self.apply(Event::RouteChanged);
        }
        self.publish();
    }

    /// Takes over what a refresh resolved.
    pub(super) async fn take_refreshed(&mut self, mut current: Tunnel) {
        // A refresh resolves one tunnel and does not know that its file has errors now. The reload that knows it set this.
        current.stale_file.clone_from(&self.config.stale_file);
        if *self.config == current {
            return;
        }
        info!(
            tunnel = current.name,
            "ssh_config has changed for this tunnel"
        );
        self.replace(current).await;
    }

    /// Starts or stops the listeners. They depend on what the user wants, not on the session: while a session is lost,
    /// new connections are held.
    pub(super) async fn apply_forwards(&mut self, desired: Desired) {
        let options = ForwardOptions {
            hold: self.config.life.hold,
            forwarding: self.config.forwarding.clone(),
        };
        match desired {
            Desired::Up => {
                self.forwards
                    .reconcile(&self.config.forwards, options)
                    .await
            }
            Desired::Down => {
                // The forwards stay in the status, without listeners.
                self.forwards.set_desired(&self.config.forwards).await;
                self.forwards.close(Duration::ZERO).await;
            }
        }
    }

    /// Ends a session whose local address no longer exists; otherwise lets the machine decide.
    fn network_changed(&mut self) {
        let lost_address = self
            .activity
            .live()
            .and_then(|live| live.session.info().local_addr)
            .filter(|addr| !has_local_addr(*addr));
        match (lost_address, self.machine.live_epoch()) {
            // No packet can reach the session any more. A probe would take until its timeout to find that out.
            (Some(addr), Some(epoch)) => {
                let why = Failure::new(
                    FailureKind::NetworkChanged,
                    format!("the session's local address {} is gone", addr.ip()),
                );
                self.on_session_lost(epoch, why);
            }
            _ => self.apply(Event::NetworkChanged),
        }
    }
}

/// Whether the machine has the address. True if the system cannot tell.
fn has_local_addr(mut addr: SocketAddr) -> bool {
    // Only the port changes: a link-local address needs its scope id.
    addr.set_port(0);
    UdpSocket::bind(addr)
        .err()
        .is_none_or(|error| !is_address_missing(&error))
}

fn is_address_missing(error: &io::Error) -> bool {
    // Linux reports ENODEV for the scope of an interface that does not exist.
    #[cfg(unix)]
    if rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NODEV) {
        return true;
    }
    error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6};

    use super::*;

    #[test]
    fn an_address_counts_as_gone_only_if_the_system_says_so() {
        assert!(has_local_addr("[::1]:22".parse().unwrap()));
        assert!(has_local_addr("127.0.0.1:22".parse().unwrap()));
        assert!(!has_local_addr("192.0.2.1:22".parse().unwrap()));
        let link_local: Ipv6Addr = "fe80::dead:beef".parse().unwrap();
        let scoped = |scope| SocketAddr::V6(SocketAddrV6::new(link_local, 22, 0, scope));
        assert!(
            !has_local_addr(scoped(1)),
            "not an address of the first interface"
        );
        assert!(
            !has_local_addr(scoped(u32::MAX)),
            "there is no such interface"
        );
        assert!(
            has_local_addr(scoped(0)),
            "without a scope the system cannot tell"
        );
    }
}
