//! What a tunnel is told, and what it does upon that.

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
use crate::forward::Options;
use crate::tunnel::machine::{Event, State};
use tunneld_config::diff::{Change, diff};
use tunneld_config::model::{Forward, Tunnel};

/// What a tunnel is told.
#[derive(Debug)]
pub enum Command {
    /// Come up and stay up.
    Up,
    /// Go down and stay down.
    Down,
    /// Make a new session.
    Restart,
    /// The configuration has changed.
    Replace(Box<Tunnel>),
    /// Listen no more on this side where none of these forwards does: another tunnel will.
    GiveUp {
        /// The forwards of the coming configuration.
        wanted: Vec<Forward>,
        /// Told once the addresses are free.
        done: oneshot::Sender<()>,
    },
    /// The machine's network has changed.
    NetworkChanged,
    /// The machine has woken.
    Woke,
    /// A prompt is answered; the reply says whether the answer fits.
    Answer {
        /// The prompt's id.
        id: u64,
        /// One answer a field; none to cancel.
        answers: Option<Vec<SecretString>>,
        /// Whether it fits.
        reply: oneshot::Sender<Result<(), RpcError>>,
    },
    /// End everything; the task returns.
    Stop,
}

impl Command {
    /// Whether it ends the making of a session for `spec` that is under way.
    pub(super) fn interrupts(&self, spec: &Tunnel) -> bool {
        match self {
            Self::Down | Self::Restart | Self::Stop => true,
            Self::Replace(new) => diff(spec, new) == Change::Session,
            Self::Up
            | Self::NetworkChanged
            | Self::Woke
            | Self::GiveUp { .. }
            | Self::Answer { .. } => false,
        }
    }
}

impl Task {
    pub(super) async fn obey(&mut self, command: Command) {
        match command {
            Command::Up => {
                self.desired = Desired::Up;
                self.apply_forwards().await;
                self.step(Event::WantUp);
            }
            Command::Down => {
                self.desired = Desired::Down;
                self.facts.last_error = None;
                // Whoever hears that it has stopped finds nobody at its addresses.
                self.apply_forwards().await;
                self.step(Event::WantDown);
            }
            Command::Restart => {
                self.desired = Desired::Up;
                self.apply_forwards().await;
                self.step(Event::Restart);
            }
            Command::Replace(spec) => self.replace(*spec).await,
            Command::GiveUp { wanted, done } => {
                self.forwards.give_up(&wanted).await;
                // Who asked may not have waited.
                let _ = done.send(());
            }
            Command::NetworkChanged => self.network_changed(),
            Command::Woke => self.step(Event::Woke),
            Command::Answer { id, answers, reply } => {
                let fits = self.answer(id, answers);
                // The one who answered may be gone already.
                let _ = reply.send(fits);
            }
            // The loop takes it before it comes here.
            Command::Stop => {}
        }
    }

    pub(super) async fn replace(&mut self, spec: Tunnel) {
        let what = diff(&self.spec, &spec);
        self.spec = Arc::new(spec);
        self.machine.set_backoff(backoff(&self.spec.route.liveness));
        self.apply_forwards().await;
        // A live session stays when only the next dial is concerned. A dial under way or waiting starts over: it may
        // be waiting for just this, such as a longer `connect_timeout`.
        let live = matches!(self.machine.state(), State::Up { .. });
        if what == Change::Session || (what == Change::DialPolicy && !live) {
            info!(
                tunnel = self.spec.name,
                "the configuration changed: connecting again"
            );
            self.step(Event::RouteChanged);
        }
        self.publish();
    }

    /// What ssh_config says of it by now.
    pub(super) async fn take(&mut self, mut fresh: Tunnel) {
        fresh.stale_file.clone_from(&self.spec.stale_file);
        if *self.spec == fresh {
            return;
        }
        info!(
            tunnel = fresh.name,
            "ssh_config says something else than before"
        );
        self.replace(fresh).await;
    }

    /// Listeners stand while the tunnel is wanted, whatever its session does.
    pub(super) async fn apply_forwards(&mut self) {
        let options = Options {
            hold: self.spec.life.hold,
            forwarding: self.spec.forwarding.clone(),
        };
        match self.desired {
            Desired::Up => self.forwards.apply(&self.spec.forwards, options).await,
            Desired::Down => {
                self.forwards.declare(&self.spec.forwards).await;
                self.forwards.close(Duration::ZERO).await;
            }
        }
    }

    fn network_changed(&mut self) {
        let gone = self.session.as_ref().and_then(|live| {
            let addr = live.session.info().local_addr?;
            (!is_ours(addr)).then_some((live.epoch, addr.ip()))
        });
        match gone {
            Some((epoch, ip)) => {
                let why = Failure::new(
                    FailureKind::NetworkChanged,
                    format!("the address {ip} of the session is gone"),
                );
                self.lost(epoch, why);
            }
            None => self.step(Event::NetworkChanged),
        }
    }
}

/// Whether this machine still bears the address; what cannot be told counts as that.
fn is_ours(mut addr: SocketAddr) -> bool {
    // The scope of a link-local address stays.
    addr.set_port(0);
    UdpSocket::bind(addr)
        .err()
        .is_none_or(|error| !is_absent(&error))
}

fn is_absent(error: &io::Error) -> bool {
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
    fn an_address_is_gone_only_where_the_system_says_so() {
        assert!(is_ours("[::1]:22".parse().unwrap()));
        assert!(is_ours("127.0.0.1:22".parse().unwrap()));
        assert!(!is_ours("192.0.2.1:22".parse().unwrap()));
        let link_local: Ipv6Addr = "fe80::dead:beef".parse().unwrap();
        let scoped = |scope| SocketAddr::V6(SocketAddrV6::new(link_local, 22, 0, scope));
        assert!(!is_ours(scoped(1)), "not an address of the first interface");
        assert!(!is_ours(scoped(u32::MAX)), "there is no such interface");
        assert!(is_ours(scoped(0)), "without a scope nothing can be told");
    }
}
