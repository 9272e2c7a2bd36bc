//! Makes a session along a route: host_command, transport, key exchange, host key, login.
//!
//! All of it is one future; dropping it ends what it began, child processes included.

mod host_command;
mod transport;
mod turn;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tunneld_proto::status::Phase;
use tunneld_proto::text;
use tunneld_ssh::client::{Authenticator, Stream};

use self::transport::with_stderr;
use self::turn::server_id;
use crate::failure::{Failure, FailureKind};
use crate::session::auth;
use crate::session::auth::login::Login;
use crate::session::auth::method::{AuthContext, Unlocking};
use crate::session::connect_limiter::Work;
use crate::session::context::DialContext;
use crate::session::deadline::{PausableDeadline, Prompter};
use crate::session::handshake::{self, ExchangeError};
use crate::session::host_key::HostKeyVerifier;
use crate::session::host_key::update::HostKeyUpdater;
use crate::session::server_id::ServerId;
use crate::session::session::{Established, Session, SessionOrigin};
use crate::session::transport::proxy_command::StderrTail;
use tunneld_config::model::{Route, Via};

/// How often a connection that the server drops, because others of this daemon are not logged in yet, is made again.
const DROPPED_LIMIT: u32 = 5;

/// Delay before the first of them is made again; it doubles each time.
const DROPPED_DELAY: Duration = Duration::from_millis(250);
/// The packets of a key exchange are the first large ones, and those of post-quantum algorithms the largest.
const KEY_EXCHANGE_HINT: &str = "the server identified itself and was silent then: if it or the network is slow, raise connect_timeout; if large \
     packets are lost on the way (a VPN with a smaller MTU), lower the interface's MTU; if the server cannot cope with a \
     post-quantum key exchange, set kex_algorithms = \"-mlkem*,sntrup*\"";

/// A session that carries another, and its name for messages.
type Carrier = (String, Session);

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
    phase: Mutex<Phase>,
    context: &'a DialContext,
    /// The server of this hop, for the limit on connections to it.
    server: ServerId,
}

/// Makes a session: reaches the host, exchanges keys, verifies the host key, logs in.
///
/// # Errors
/// The step that failed, with its recovery. If a deadline passed, the message names the phase.
///
/// # Cancel safety
/// Dropping the future ends all that it began, child processes included.
pub async fn dial(route: &Route, context: DialContext) -> Result<Established, Failure> {
    let dial = dial_over(route, &context, None);
    context.permit.lease(dial).await
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
        let mut dial = Dial {
            route,
            host: route.host.clone(),
            prompter: Prompter::new(
                &context.prompts,
                &context.permit,
                PausableDeadline::unlimited(),
            ),
            phase: Mutex::new(Phase::Resolve),
            context,
            server: server_id(route, carrier.as_ref()),
        };
        if !route.host_command.is_empty() {
            dial.host = dial.ask_host_command().await?;
        }
        let mut turn = dial.take_login_turn().await;
        let connection = dial.connect_in_turn(carrier).await?;
        if turn.must_wait() {
            turn = dial.wait_before_login(turn).await;
        }
        // The login has its own limit, as ssh's ConnectTimeout ends with the key exchange: a second factor may wait for
        // a phone, and a server that looks users up slowly is silent for long.
        let deadline = PausableDeadline::new("login_timeout", route.login_timeout);
        dial.prompter = Prompter::new(&context.prompts, &context.permit, deadline.clone());
        let established = dial.establish(connection, &deadline).await;
        match &established {
            Ok(_) => {
                context.shared.limiter.note_login(&dial.server);
                turn.accepted();
            }
            // A server may close the connection instead of answering, after too many attempts.
            Err(failure)
                if matches!(
                    failure.kind,
                    FailureKind::AuthRefused | FailureKind::Disconnected
                ) =>
            {
                turn.refused();
            }
            Err(_) => {}
        }
        // For a jump host: the next hop is another server.
        context.permit.release();
        established
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
        context.phases.report(Phase::Proxy);
        let hop_context = DialContext {
            phases: context.phases.for_jump_host(),
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

impl Dial<'_> {
    fn enter(&self, phase: Phase) {
        if let Ok(mut current) = self.phase.lock() {
            *current = phase;
        }
        self.context.phases.report(phase);
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

    fn connect_deadline(&self) -> PausableDeadline {
        PausableDeadline::new("connect_timeout", self.route.connect_timeout)
    }

    /// Waits for the server's turn and connects. A server that drops the connection because of others of this daemon is
    /// tried again, with fewer at a time.
    async fn connect_in_turn(&mut self, carrier: Option<Carrier>) -> Result<Connection, Failure> {
        let limiter = &self.context.shared.limiter;
        let mut delay = DROPPED_DELAY;
        for dropped in 0.. {
            self.take_server_slot().await?;
            let deadline = self.connect_deadline();
            self.prompter = Prompter::new(
                &self.context.prompts,
                &self.context.permit,
                deadline.clone(),
            );
            let doing = format!("connecting to {}", self.destination());
            let connected = deadline.run(&doing, self.connect(carrier.clone(), &deadline));
            let error = match connected.await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let by_load = error.dropped_early && limiter.note_dropped(&self.server);
            if !by_load || dropped == DROPPED_LIMIT {
                // Before the slot is given back, so that no other dial slips in between.
                limiter.note_failure(&self.server, &error.failure);
                return Err(self.at_phase(error.failure));
            }
            self.context.permit.release();
            self.enter(Phase::Queued);
            tokio::time::sleep(delay.mul_f64(1.0 + rand::random::<f64>())).await;
            delay *= 2;
        }
        // Not reached: the loop ends by itself after `DROPPED_LIMIT`.
        Err(Failure::new(
            FailureKind::Internal,
            "the connection was dropped too often",
        ))
    }

    /// Adds to a failure of the connect deadline in which phase it passed, and what helps if the server identified itself
    /// and was silent then.
    fn at_phase(&self, failure: Failure) -> Failure {
        if failure.kind != FailureKind::Timeout {
            return failure;
        }
        let phase = self.phase();
        let hint = match phase {
            Phase::Kex => Some(KEY_EXCHANGE_HINT.to_owned()),
            _ => failure.hint,
        };
        Failure {
            message: format!("{} (at {})", failure.message, phase.as_str()),
            hint,
            ..failure
        }
    }

    /// Reaches the host, exchanges keys and verifies the host key.
    async fn connect(
        &self,
        carrier: Option<Carrier>,
        deadline: &PausableDeadline,
    ) -> Result<Connection, ExchangeError> {
        let transport = self.open_transport(carrier, deadline).await?;
        let verifier = HostKeyVerifier::new(
            self.route,
            &self.host,
            &self.prompter,
            &self.context.tunnel,
            &self.context.shared.known_hosts,
        )
        .await?;
        let updater = verifier.updater();
        let exchanged = self.exchange_keys(transport.stream, verifier, deadline);
        let (connected, host_key) = match exchanged.await {
            Ok(connected) => connected,
            // A ProxyCommand that fails says why on stderr; the SSH library only sees the end of the stream.
            Err(error) => {
                return Err(ExchangeError {
                    failure: with_stderr(error.failure, transport.stderr).await,
                    ..error
                });
            }
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
        deadline: &PausableDeadline,
    ) -> Result<(Authenticator, String), ExchangeError> {
        self.enter(Phase::Kex);
        // Only now: a server that is silent until then must not hold up others.
        let on_host_key = async || {
            self.context.shared.limiter.open_server(&self.server);
            self.take_work_slot(Work::Handshake, deadline).await;
            self.enter(Phase::HostKey);
        };
        let (connected, host_key) =
            handshake::connect(stream, self.route, verifier, on_host_key).await?;
        let limiter = &self.context.shared.limiter;
        limiter
            .login_budgets()
            .note_ident(&self.server, &connected.info().ident);
        let tunnel = &self.context.tunnel;
        for (index, line) in connected.info().pre_banner.lines().enumerate() {
            let said = "before the identification the server sent";
            // Some servers send dozens of lines, at each dial. A failure has the last of them in its text.
            if index < 3 {
                tracing::info!(tunnel, "{said}: {}", text::escape(line));
            } else {
                tracing::debug!(tunnel, "{said}: {}", text::escape(line));
            }
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
        let unlocking = Unlocking::default();
        let context = AuthContext {
            auth: &self.route.auth,
            prompter: &self.prompter,
            destination: &destination,
            host_key,
            min_rsa_bits: self.route.host_keys.min_rsa_bits,
            tunnel: &self.context.tunnel,
            unlocked_keys: &self.context.shared.unlocked_keys,
            signatures: &self.context.shared.signatures,
            unlocking: &unlocking,
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
            Err(failure) => Err(unlocking.explain(failure)),
        }
    }
}
