//! Makes a session along a route: host_command, transport, key exchange, host key, login.
//!
//! All of it is one future; dropping it ends what it began, child processes included.

use std::net::SocketAddr;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;

use tunneld_proto::status::Phase;
use tunneld_proto::text;
use tunneld_ssh::client::{Authenticator, Stream};

use crate::failure::{Failure, FailureKind};
use crate::session::auth;
use crate::session::auth::login::Login;
use crate::session::auth::method::AuthContext;
use crate::session::context::{DialContext, DialState};
use crate::session::deadline::{PausableDeadline, Prompter};
use crate::session::handshake;
use crate::session::host_key::HostKeyVerifier;
use crate::session::host_key::update::HostKeyUpdater;
use crate::session::session::{Established, OpenError, Session, SessionOrigin};
use crate::session::transport::proxy_command::{ProxyCommand, StderrTail};
use crate::session::transport::tcp;
use tunneld_config::env::Env;
use tunneld_config::model::{Route, Via};
use tunneld_config::ssh_config::tokens::{self, Keyword, ServerKey, TokenValues};
use tunneld_platform::subprocess;

/// Longest host name that DNS allows, in bytes.
const HOST_NAME_LIMIT: usize = 255;

/// A session that carries another, and its name for messages.
type Carrier = (String, Session);

/// An open byte stream to the SSH port.
struct Transport {
    stream: Stream,
    /// `None` unless it is a TCP connection.
    local_addr: Option<SocketAddr>,
    /// The session whose channel it is. `None` for TCP and a ProxyCommand.
    carrier: Option<Carrier>,
    /// The ProxyCommand's stderr. `None` for every other transport.
    stderr: Option<StderrTail>,
}

/// A connection to a server whose host key is accepted, before the login.
struct Connection {
    connected: Authenticator,
    /// The SHA256 fingerprint of the accepted host key.
    host_key: String,
    updater: HostKeyUpdater,
    /// As in [`Transport`].
    local_addr: Option<SocketAddr>,
    /// As in [`Transport`].
    carrier: Option<Carrier>,
    /// As in [`Transport`].
    stderr: Option<StderrTail>,
}

/// One hop of a dial: the parts that all steps need.
struct Dial<'a> {
    route: &'a Route,
    /// The host to reach: the route's, or what host_command printed.
    host: String,
    prompter: Prompter,
    phases: &'a mpsc::UnboundedSender<Phase>,
    phase: Mutex<Phase>,
    tunnel: &'a str,
    shared: &'a DialState,
}

/// Makes a session: reaches the host, exchanges keys, verifies the host key, logs in.
///
/// # Errors
/// The step that failed, with its recovery. If a deadline passed, the message names the phase.
///
/// # Cancel safety
/// Dropping the future ends all that it began, child processes included.
pub async fn dial(route: &Route, context: DialContext) -> Result<Established, Failure> {
    dial_over(route, &context, None).await
}

/// Makes a session along `route`, over `carrier` if there is one. Boxed because a jump host calls it again.
fn dial_over<'a>(
    route: &'a Route,
    context: &'a DialContext,
    carrier: Option<Carrier>,
) -> BoxFuture<'a, Result<Established, Failure>> {
    Box::pin(async move {
        // Before the deadline starts: each jump host has a connect_timeout of its own.
        let carrier = match carrier {
            Some(carrier) => Some(carrier),
            None => carrier_of(route, context).await?,
        };
        let deadline = PausableDeadline::new("connect_timeout", route.connect_timeout);
        let mut dial = Dial {
            route,
            host: route.host.clone(),
            prompter: Prompter::new(context.prompts.clone(), deadline.clone()),
            phases: &context.phases,
            phase: Mutex::new(Phase::Resolve),
            tunnel: &context.tunnel,
            shared: &context.shared,
        };
        if !route.host_command.is_empty() {
            dial.enter(Phase::HostCommand);
            let host = run_host_command(&route.host_command);
            dial.host = deadline.run("host_command", host).await?;
        }
        let doing = format!("connecting to {}", dial.destination());
        let connection = deadline.run(&doing, dial.connect(carrier)).await;
        let connection = connection.map_err(|failure| match failure.kind {
            FailureKind::Timeout => Failure {
                message: format!("{} (at {})", failure.message, dial.phase().as_str()),
                ..failure
            },
            _ => failure,
        })?;
        // The login has its own limit, as ssh's ConnectTimeout ends with the key exchange: a second factor may wait for
        // a phone, and a server that looks users up slowly is silent for long.
        let deadline = PausableDeadline::new("login_timeout", route.login_timeout);
        dial.prompter = Prompter::new(context.prompts.clone(), deadline.clone());
        dial.establish(connection, &deadline).await
    })
}

/// The session that `route` goes over. `None` for TCP and a ProxyCommand.
async fn carrier_of(route: &Route, context: &DialContext) -> Result<Option<Carrier>, Failure> {
    match &route.via {
        Via::Jump(hops) => dial_jump_hosts(hops, context).await.map(Some),
        Via::Tunnel(name) => {
            let name = format!("tunnel {}", text::escape(name));
            match context.carrier.clone() {
                Some(session) => Ok(Some((name, session))),
                None => Err(Failure::new(
                    FailureKind::Proxy,
                    format!("{name}, which carries this one, is not up"),
                )),
            }
        }
        _ => Ok(None),
    }
}

/// Dials the jump hosts, each over the one before, and returns the session with the last.
async fn dial_jump_hosts(hops: &[Route], context: &DialContext) -> Result<Carrier, Failure> {
    let mut carrier: Option<Carrier> = None;
    for hop in hops {
        let name = format!("jump host {}", text::escape(&hop.alias));
        // Fails only if the tunnel has dropped this dial.
        let _ = context.phases.send(Phase::Proxy);
        // The phases of a hop would be taken for the tunnel's own: for the tunnel, all of it is `Proxy`.
        let hop_context = DialContext {
            phases: mpsc::unbounded_channel().0,
            ..context.clone()
        };
        let established = dial_over(hop, &hop_context, carrier.take()).await;
        let established = established.map_err(|failure| Failure {
            message: format!("{name}: {}", failure.message),
            ..failure
        })?;
        carrier = Some((name, established.session));
    }
    carrier.ok_or_else(|| Failure::new(FailureKind::Config, "proxy_jump names no host"))
}

/// Runs host_command and returns the host that it prints in its first line.
async fn run_host_command(argv: &[String]) -> Result<String, Failure> {
    let failed = |why: String| {
        Failure::new(FailureKind::HostCommand, format!("host_command: {why}"))
            .hint("run the command by hand: its first line of output must be the host")
    };
    let output = subprocess::first_line(argv).await.map_err(failed)?;
    let host = output.expose_secret().trim();
    // `aws --output text` prints None and `jq -r` prints null while a machine has no address yet.
    if matches!(host, "None" | "null") {
        return Err(failed(format!(
            "it printed {host}: the host does not exist yet"
        )));
    }
    // The host goes into a ProxyCommand's command line: only what cannot be an option or shell syntax is accepted.
    let forbidden = |c: char| !(c.is_ascii_alphanumeric() || ".-_:%".contains(c));
    if host.is_empty()
        || host.len() > HOST_NAME_LIMIT
        || host.starts_with('-')
        || host.contains(forbidden)
    {
        return Err(failed(format!(
            "it printed {:?}, which is not a host name or address",
            text::escape(host)
        )));
    }
    Ok(host.to_owned())
}

impl Dial<'_> {
    fn enter(&self, phase: Phase) {
        if let Ok(mut current) = self.phase.lock() {
            *current = phase;
        }
        // Fails only if the tunnel is about to drop this dial.
        let _ = self.phases.send(phase);
    }

    fn phase(&self) -> Phase {
        self.phase.lock().map_or(Phase::Unknown, |phase| *phase)
    }

    /// `user@host:port`, escaped.
    fn destination(&self) -> String {
        let port = self.route.port;
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        text::escape(&format!("{}@{host}:{port}", self.route.user))
    }

    /// Reaches the host, exchanges keys and verifies the host key.
    async fn connect(&self, carrier: Option<Carrier>) -> Result<Connection, Failure> {
        let transport = self.open_transport(carrier).await?;
        let verifier = HostKeyVerifier::new(
            self.route,
            &self.host,
            &self.prompter,
            self.tunnel,
            &self.shared.known_hosts,
        )
        .await?;
        let updater = verifier.updater();
        let (connected, host_key) = match self.exchange_keys(transport.stream, verifier).await {
            Ok(connected) => connected,
            // A ProxyCommand that fails says why on stderr; the SSH library only sees the end of the stream.
            Err(failure) => return Err(with_stderr(failure, transport.stderr).await),
        };
        Ok(Connection {
            connected,
            host_key,
            updater,
            local_addr: transport.local_addr,
            carrier: transport.carrier,
            stderr: transport.stderr,
        })
    }

    /// Logs in and starts the session.
    async fn establish(
        &self,
        connection: Connection,
        deadline: &PausableDeadline,
    ) -> Result<Established, Failure> {
        let login = self.log_in(connection.connected, &connection.host_key, deadline);
        let (connected, auth) = match login.await {
            Ok(logged_in) => logged_in,
            Err(failure) => return Err(with_stderr(failure, connection.stderr).await),
        };
        let origin = SessionOrigin {
            host: self.host.clone(),
            auth,
            local_addr: connection.local_addr,
            carrier: connection.carrier,
            over_proxy_command: connection.stderr.is_some(),
        };
        Session::start(connected, connection.updater, origin)
    }

    /// Exchanges keys. Returns the connection and the fingerprint of the accepted host key.
    async fn exchange_keys(
        &self,
        stream: Stream,
        verifier: HostKeyVerifier,
    ) -> Result<(Authenticator, String), Failure> {
        self.enter(Phase::Kex);
        let on_host_key = || self.enter(Phase::HostKey);
        let (connected, host_key) =
            handshake::connect(stream, self.route, verifier, on_host_key).await?;
        for line in connected.info().pre_banner.lines() {
            tracing::info!(
                tunnel = self.tunnel,
                "before the identification the server sent: {}",
                text::escape(line)
            );
        }
        Ok((connected, host_key))
    }

    /// Logs in before the deadline. Returns the connection and how the login succeeded, for `status`.
    async fn log_in(
        &self,
        connected: Authenticator,
        host_key: &str,
        deadline: &PausableDeadline,
    ) -> Result<(Authenticator, String), Failure> {
        self.enter(Phase::Auth);
        let destination = self.destination();
        let context = AuthContext {
            auth: &self.route.auth,
            prompter: &self.prompter,
            destination: &destination,
            host_key,
            tunnel: self.tunnel,
            unlocked_keys: &self.shared.unlocked_keys,
        };
        let mut login = Login::new(connected);
        let doing = format!("logging in to {destination}");
        let result = deadline
            .run(&doing, auth::log_in(&mut login, &context))
            .await;
        match result {
            Ok(how) => Ok((login.into_connected(), how)),
            // The server may count what it has received as a failed login, and each further one may send another request
            // to a phone: retried slowly.
            Err(failure) if failure.kind == FailureKind::Timeout && login.sent_credential() => {
                Err(Failure {
                    kind: FailureKind::AuthRefused,
                    hint: Some(
                        "confirm the login at the second factor in time, or raise login_timeout"
                            .to_owned(),
                    ),
                    ..failure
                })
            }
            Err(failure) => Err(failure),
        }
    }

    async fn open_transport(&self, carrier: Option<Carrier>) -> Result<Transport, Failure> {
        if let Some((name, session)) = carrier {
            return self.open_channel(name, session).await;
        }
        if let Via::Command(template) = &self.route.via {
            return self.start_proxy_command(template);
        }
        self.enter(Phase::Resolve);
        let route = self.route;
        let addresses = tcp::resolve(&self.host, route.port, route.address_family).await?;
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
        let (proxy, stderr) = ProxyCommand::start(&command, self.tunnel).map_err(|error| {
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
async fn with_stderr(failure: Failure, stderr: Option<StderrTail>) -> Failure {
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
