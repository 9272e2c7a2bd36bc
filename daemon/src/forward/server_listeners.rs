//! Where the tunnels of this daemon have servers listen for remote forwards, to explain a refusal: the server only says no.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tunneld_config::addr::ListenAddr;
use tunneld_config::overlap;

use crate::failure::Failure;

/// How long a server may keep a port for a session that it does not know to be dead: without ClientAliveInterval, sshd
/// learns of it by TCP keepalives, which Linux sends after two hours and for eleven minutes.
const MAX_HELD: Duration = Duration::from_secs(3 * 3600);

/// What the tunnels of the daemon have servers listen on. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ServerListeners(Arc<Mutex<Vec<ServerListener>>>);

#[derive(Debug)]
struct ServerListener {
    /// Names the server by its host key: tunnels may reach it by different addresses.
    server: String,
    /// With the port that the server bound.
    listen: ListenAddr,
    tunnel: String,
    /// When the session ended. `None` while it is live.
    ended: Option<Instant>,
}

impl ServerListeners {
    /// Records that `server` listens on `listen` for `tunnel`.
    pub(super) fn granted(&self, server: &str, listen: ListenAddr, tunnel: &str) {
        let mut all = self.0.lock();
        all.retain(|old| {
            let is_old = old.ended.is_some_and(|at| at.elapsed() >= MAX_HELD);
            // What the server grants now, it holds for no earlier session any more.
            let is_replaced = old.server == server && overlap(&old.listen, &listen);
            !is_old && !is_replaced
        });
        all.push(ServerListener {
            server: server.to_owned(),
            listen,
            tunnel: tunnel.to_owned(),
            ended: None,
        });
    }

    /// Records that `server` no longer listens on `listen`.
    pub(super) fn cancelled(&self, server: &str, listen: &ListenAddr) {
        let mut all = self.0.lock();
        all.retain(|old| old.server != server || old.listen != *listen);
    }

    /// Records that the session of `tunnel` has ended. Its server may not know that yet.
    pub(super) fn session_ended(&self, tunnel: &str) {
        let mut all = self.0.lock();
        for of_session in all.iter_mut().filter(|each| each.tunnel == tunnel) {
            of_session.ended.get_or_insert_with(Instant::now);
        }
    }

    /// Adds to the refusal of `listen` by `server` who of this daemon has the address there. Unchanged if none has.
    pub(super) fn explain(
        &self,
        failure: Failure,
        server: &str,
        listen: &ListenAddr,
        tunnel: &str,
    ) -> Failure {
        let all = self.0.lock();
        let holder = all.iter().find(|each| {
            each.server == server
                && overlap(&each.listen, listen)
                && each.ended.is_none_or(|at| at.elapsed() < MAX_HELD)
        });
        let message = &failure.message;
        match holder {
            None => failure,
            Some(ServerListener { ended: Some(_), tunnel, .. }) => Failure {
                message: format!("{message}: it may still hold the address for an earlier session of the tunnel {tunnel}"),
                ..failure
            }
            .hint(
                "tunneld tries again at least every 5 s until the server gives the address up, which sshd does once it \
                 knows that the session is dead: ClientAliveInterval in its sshd_config shortens that",
            ),
            Some(other) if other.tunnel == tunnel => Failure {
                message: format!("{message}: another forward of this tunnel listens there"),
                ..failure
            }
            .hint("change the address of one of the two"),
            Some(ServerListener { tunnel, .. }) => Failure {
                message: format!("{message}: the tunnel {tunnel} of this daemon listens there"),
                ..failure
            }
            .hint("change the address of one of the two, or take that tunnel down; tunnelctl status lists them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tunneld_config::addr::BindAddr;

    use super::*;
    use crate::failure::FailureKind;

    fn tcp(port: u16) -> ListenAddr {
        ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_names_the_tunnel_that_has_the_address_or_had_it() {
        let listeners = ServerListeners::default();
        let explained = |server: &str, port| {
            let refused = Failure::new(FailureKind::RemoteForwardRefused, "no");
            listeners.explain(refused, server, &tcp(port), "b").message
        };
        listeners.granted("s", tcp(1), "a");
        listeners.granted("s", tcp(2), "a");
        assert_eq!(
            explained("s", 1),
            "no: the tunnel a of this daemon listens there"
        );
        assert_eq!(explained("other", 1), "no");
        assert_eq!(explained("s", 3), "no");
        listeners.cancelled("s", &tcp(2));
        assert_eq!(explained("s", 2), "no");
        listeners.session_ended("a");
        let earlier = "no: it may still hold the address for an earlier session of the tunnel a";
        assert_eq!(explained("s", 1), earlier);
        tokio::time::advance(MAX_HELD).await;
        assert_eq!(explained("s", 1), "no");
        listeners.granted("s", tcp(1), "b");
        assert_eq!(
            explained("s", 1),
            "no: another forward of this tunnel listens there"
        );
    }
}
