//! An SSH server in this process that prompts its user: for passwords, for rounds of keyboard-interactive, and for
//! several factors in a row. It allows every forward.
//!
//! OpenSSH's server prompts by keyboard-interactive only through PAM, which is configured per machine and not per test.

use std::borrow::Cow;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, MethodKind, MethodSet};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::server_dir::ServerDir;
use crate::server_forwards::ServerForwards;

/// One factor of a login.
#[derive(Debug, Clone)]
pub enum AuthFactor {
    /// The method `none` succeeds.
    None,
    /// Any key or certificate with a valid signature.
    PublicKey,
    /// This password.
    Password(&'static str),
    /// This password, and the server is silent for this long before it replies: a slow directory, or a second factor
    /// that waits for a phone.
    SlowPassword(&'static str, Duration),
    /// No password is right: the server disconnects when it gets one.
    DisconnectOnPassword,
    /// Keyboard-interactive with these rounds, one after another.
    KeyboardInteractive(Vec<PromptRound>),
}

/// One round of keyboard-interactive (RFC 4256 §3.2).
#[derive(Debug, Clone)]
pub struct PromptRound {
    /// The text that the client shows above the prompts.
    pub instructions: &'static str,
    /// Each prompt: its text, whether the client may echo the answer, and the right answer.
    pub prompts: Vec<(&'static str, bool, &'static str)>,
}

/// A running server. It ends with all its connections on drop.
pub struct PromptingServer {
    dir: ServerDir,
    addr: SocketAddr,
    attempts: Attempts,
    connections: Connections,
    _tasks: JoinSet<()>,
}

/// The login attempts so far.
type Attempts = Arc<Mutex<Vec<String>>>;
/// A second handle of each accepted connection, to close it by.
type Connections = Arc<Mutex<Vec<std::net::TcpStream>>>;

/// Effectively never, within a test.
const NO_REKEY_BYTES: usize = 1 << 30;

impl PromptingServer {
    /// Starts a server that requires all of these factors, one after another.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(factors: Vec<AuthFactor>) -> Result<Self> {
        Self::start_with_rekey_limit(factors, NO_REKEY_BYTES).await
    }

    /// Same as [`Self::start`], and the server rekeys after it has sent `rekey_bytes`.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_with_rekey_limit(
        factors: Vec<AuthFactor>,
        rekey_bytes: usize,
    ) -> Result<Self> {
        let dir = ServerDir::new("lab-prompting").await?;
        dir.generate_host_key().await?;
        let host_key = russh::keys::load_secret_key(dir.path("host_key"), None)?;
        let first = factors.first().context("no factor")?;
        let config = Arc::new(Config {
            keys: vec![host_key],
            methods: MethodSet::from([method(first)].as_slice()),
            // russh's default of a second per rejection would only slow the tests.
            auth_rejection_time: Duration::from_millis(50),
            limits: russh::Limits::new(rekey_bytes, NO_REKEY_BYTES, Duration::from_secs(3600)),
            max_auth_attempts: 6,
            ..Config::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (attempts, connections) = (Attempts::default(), Connections::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(
            listener,
            config,
            Arc::new(factors),
            attempts.clone(),
            connections.clone(),
        ));
        Ok(Self {
            dir,
            addr,
            attempts,
            connections,
            _tasks: tasks,
        })
    }

    /// Closes every connection, like a server whose login grace time is over.
    pub fn disconnect_all(&self) {
        for connection in lock(&self.connections).drain(..) {
            let _closed_already = connection.shutdown(Shutdown::Both);
        }
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Every login attempt so far, in order: `password right`, `keyboard wrong`, …
    pub fn attempts(&self) -> Vec<String> {
        lock(&self.attempts).clone()
    }

    /// The table `[tunnel.NAME]` that connects to this server; its host key is in known_hosts.
    ///
    /// # Errors
    /// If the known_hosts file cannot be written.
    pub fn tunnel_toml(&self, name: &str) -> Result<String> {
        self.dir.tunnel_toml(name, "someone", self.port())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    listener: TcpListener,
    config: Arc<Config>,
    factors: Arc<Vec<AuthFactor>>,
    attempts: Attempts,
    connections: Connections,
) {
    let mut sessions = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let Some((stream, handle)) = with_close_handle(stream) else {
            continue;
        };
        let Ok(at_end) = handle.try_clone() else {
            continue;
        };
        lock(&connections).push(handle);
        let handler = LoginHandler {
            factors: factors.clone(),
            attempts: attempts.clone(),
            factor_index: 0,
            round_index: 0,
            answered_wrong: false,
            forwards: ServerForwards::default(),
        };
        let config = config.clone();
        sessions.spawn(async move {
            if let Ok(session) = russh::server::run_stream(config, stream, handler).await {
                let _ = session.await;
            }
            // The other handle keeps the connection open, so the end of the session does not close it.
            let _closed_already = at_end.shutdown(Shutdown::Both);
        });
    }
}

/// Returns the stream and a second handle of its socket. `None` if the system has no descriptor left.
fn with_close_handle(stream: TcpStream) -> Option<(TcpStream, std::net::TcpStream)> {
    let stream = stream.into_std().ok()?;
    let handle = stream.try_clone().ok()?;
    Some((TcpStream::from_std(stream).ok()?, handle))
}

fn method(factor: &AuthFactor) -> MethodKind {
    match factor {
        AuthFactor::None => MethodKind::None,
        AuthFactor::PublicKey => MethodKind::PublicKey,
        AuthFactor::Password(_)
        | AuthFactor::SlowPassword(..)
        | AuthFactor::DisconnectOnPassword => MethodKind::Password,
        AuthFactor::KeyboardInteractive(_) => MethodKind::KeyboardInteractive,
    }
}

/// The state of one connection.
struct LoginHandler {
    factors: Arc<Vec<AuthFactor>>,
    attempts: Attempts,
    /// The factor that is required next.
    factor_index: usize,
    /// The round of keyboard-interactive that the next answers are for.
    round_index: usize,
    /// Whether an answer of an earlier round was wrong; the client learns it only after the last round.
    answered_wrong: bool,
    forwards: ServerForwards,
}

impl LoginHandler {
    fn factor(&self) -> Option<&AuthFactor> {
        self.factors.get(self.factor_index)
    }

    fn record(&self, method: &str, right: bool) {
        let verdict = if right { "right" } else { "wrong" };
        lock(&self.attempts).push(format!("{method} {verdict}"));
    }

    /// Goes on to the next factor if this one was `right`, and returns the reply.
    fn reply(&mut self, right: bool) -> Auth {
        if right {
            self.factor_index += 1;
        }
        match self.factor() {
            None => Auth::Accept,
            Some(next) => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from([method(next)].as_slice())),
                partial_success: right,
            },
        }
    }

    fn prompt(round: &PromptRound) -> Auth {
        let prompts = round.prompts.iter();
        Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Borrowed(round.instructions),
            prompts: prompts
                .map(|(prompt, echo, _)| (Cow::Borrowed(*prompt), *echo))
                .collect(),
        }
    }
}

impl Handler for LoginHandler {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        // Not recorded: every client begins with `none`, to learn the methods.
        let right = matches!(self.factor(), Some(AuthFactor::None));
        Ok(self.reply(right))
    }

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &russh::keys::Certificate,
    ) -> Result<Auth, Self::Error> {
        let right = matches!(self.factor(), Some(AuthFactor::PublicKey));
        self.record("certificate", right);
        Ok(self.reply(right))
    }

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, Self::Error> {
        let right = matches!(
            self.factor(),
            Some(AuthFactor::Password(p) | AuthFactor::SlowPassword(p, _)) if *p == password
        );
        self.record("password", right);
        if let Some(AuthFactor::SlowPassword(_, silence)) = self.factor() {
            tokio::time::sleep(*silence).await;
        }
        if matches!(self.factor(), Some(AuthFactor::DisconnectOnPassword)) {
            return Err(russh::Error::Disconnect);
        }
        Ok(self.reply(right))
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let right = matches!(self.factor(), Some(AuthFactor::PublicKey));
        self.record("key", right);
        Ok(self.reply(right))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(AuthFactor::KeyboardInteractive(rounds)) = self.factor().cloned() else {
            self.record("keyboard", false);
            return Ok(self.reply(false));
        };
        match response {
            // The start of an attempt.
            None => (self.round_index, self.answered_wrong) = (0, false),
            Some(response) => {
                let answers: Vec<Vec<u8>> = response.map(|answer| answer.to_vec()).collect();
                let round = rounds.get(self.round_index);
                let prompts = round
                    .map(|round| round.prompts.as_slice())
                    .unwrap_or_default();
                let expected: Vec<&[u8]> = prompts.iter().map(|p| p.2.as_bytes()).collect();
                self.answered_wrong |= answers != expected;
                self.round_index += 1;
            }
        }
        match rounds.get(self.round_index) {
            Some(round) if !self.answered_wrong => Ok(Self::prompt(round)),
            _ => {
                let right = !self.answered_wrong;
                self.record("keyboard", right);
                Ok(self.reply(right))
            }
        }
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let target = (host_to_connect, port_to_connect);
        self.forwards.connect_tcp(channel, target, reply).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.forwards
            .connect_unix(channel, socket_path, reply)
            .await;
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let client = session.handle();
        let bound = self.forwards.listen_tcp(address, *port, client).await;
        *port = bound.unwrap_or(*port);
        Ok(bound.is_some())
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.forwards.cancel(&format!("{address} {port}")))
    }

    async fn streamlocal_forward(
        &mut self,
        socket_path: &str,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.forwards.listen_unix(socket_path, session.handle()))
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.forwards.cancel(socket_path))
    }
}
