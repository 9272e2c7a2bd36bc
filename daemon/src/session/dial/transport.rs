//! The byte stream of one hop: a TCP connection, a channel of the session that carries it, or a ProxyCommand.

use std::net::{IpAddr, SocketAddr};

use tunneld_proto::status::Phase;
use tunneld_proto::text;
use tunneld_ssh::client::Stream;

use super::{Carrier, Dial};
use crate::failure::{Failure, FailureKind};
use crate::session::connect_limiter::Work;
use crate::session::deadline::PausableDeadline;
use crate::session::session::{OpenError, Session};
use crate::session::transport::proxy_command::{ProxyCommand, StderrTail};
use crate::session::transport::tcp;
use tunneld_config::env::Env;
use tunneld_config::model::Via;
use tunneld_config::ssh_config::tokens::{self, Keyword, ServerKey, TokenValues};

/// An open byte stream to the SSH port.
pub(super) struct Transport {
    pub(super) stream: Stream,
    /// `None` unless it is a TCP connection.
    pub(super) local_addr: Option<SocketAddr>,
    /// The session whose channel it is. `None` for TCP and a ProxyCommand.
    pub(super) carrier: Option<Carrier>,
    /// The ProxyCommand's stderr. `None` for every other transport.
    pub(super) stderr: Option<StderrTail>,
}

impl Dial<'_> {
    /// Opens the stream over `carrier`, if there is one, or as the route says. The clock of `deadline` is stopped while
    /// the dial waits for its turn.
    pub(super) async fn open_transport(
        &self,
        carrier: Option<Carrier>,
        deadline: &PausableDeadline,
    ) -> Result<Transport, Failure> {
        if let Some((name, session)) = carrier {
            return self.open_channel(name, session).await;
        }
        if let Via::Command(template) = &self.route.via {
            self.take_work_slot(Work::Program, deadline).await;
            return self.start_proxy_command(template);
        }
        self.enter(Phase::Resolve);
        let route = self.route;
        // An address needs no name server, and must not wait for those of others.
        let slot = match self.host.parse::<IpAddr>() {
            Ok(_) => None,
            Err(_) => {
                let lookups = self.context.shared.limiter.lookups();
                Some(lookups.acquire(self.context.priority).await)
            }
        };
        let addresses = tcp::resolve(&self.host, route.port, route.address_family, slot).await?;
        self.enter(Phase::Tcp);
        let (stream, local_addr) = tcp::connect(addresses, route).await?;
        Ok(Transport {
            stream: stream.into(),
            local_addr,
            carrier: None,
            stderr: None,
        })
    }

    /// Opens a channel over the carrier. The name of the host is resolved at the carrier's server.
    async fn open_channel(&self, name: String, session: Session) -> Result<Transport, Failure> {
        self.enter(Phase::Proxy);
        let port = self.route.port;
        let opened = session.open_direct_tcpip(&self.host, port, None).await;
        let channel = opened.map_err(|error| {
            let target = text::escape(&format!("{}:{port}", self.host));
            let failure = Failure::new(
                FailureKind::Proxy,
                format!("{name}: opening {target} from there: {error}"),
            );
            match error {
                OpenError::Refused { code: 1, .. } => failure.hint(
                    "that server forbids it: check AllowTcpForwarding and PermitOpen in its sshd_config, and the \
                     options of the key in authorized_keys",
                ),
                _ => failure,
            }
        })?;
        Ok(Transport {
            stream: Stream::other(channel),
            local_addr: None,
            carrier: Some((name, session)),
            stderr: None,
        })
    }

    fn start_proxy_command(&self, template: &str) -> Result<Transport, Failure> {
        self.enter(Phase::Proxy);
        let command = self.expand(template)?;
        let (proxy, stderr) =
            ProxyCommand::start(&command, &self.context.tunnel).map_err(|error| {
                Failure::new(
                    FailureKind::Proxy,
                    format!("starting proxy_command: {error}"),
                )
            })?;
        Ok(Transport {
            stream: Stream::other(proxy),
            local_addr: None,
            carrier: None,
            stderr: Some(stderr),
        })
    }

    /// Expands the tokens of a ProxyCommand (ssh_config(5), TOKENS). In one pass, so that a value that contains `%` is
    /// not expanded again.
    fn expand(&self, template: &str) -> Result<String, Failure> {
        let route = self.route;
        let env = Env::from_process();
        let facts = TokenValues {
            env: &env,
            alias: &route.alias,
            host: &self.host,
            port: route.port,
            user: &route.user,
            key_alias: route.host_keys.alias.as_deref().unwrap_or(&route.alias),
            jump: "",
        };
        tokens::expand(Keyword::Proxy, template, &facts, &ServerKey::default())
            .map_err(|error| Failure::new(FailureKind::Config, format!("proxy_command: {error}")))
    }
}

/// Adds to a failure what the ProxyCommand wrote to stderr. Unchanged if there is no ProxyCommand.
pub(super) async fn with_stderr(failure: Failure, stderr: Option<StderrTail>) -> Failure {
    let Some(stderr) = stderr else {
        return failure;
    };
    let (kind, hint) = match failure.kind {
        // With no SSH server at the other end of the stream, the command is to blame and not the protocol.
        FailureKind::Disconnected | FailureKind::Protocol => {
            let hint = "run proxy_command by hand: it must print the identification of an SSH server, SSH-2.0-…";
            (FailureKind::Proxy, Some(hint.to_owned()))
        }
        kind => (kind, failure.hint),
    };
    let stderr = text::escape(&stderr.drain_stderr().await);
    let message = match stderr.is_empty() {
        true => format!("over proxy_command: {}", failure.message),
        false => format!(
            "over proxy_command: {} (its stderr: {stderr})",
            failure.message
        ),
    };
    Failure {
        kind,
        message,
        hint,
    }
}
