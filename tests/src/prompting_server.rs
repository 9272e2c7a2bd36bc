//! An SSH server in this process that asks: passwords, rounds of keyboard-interactive, one factor after another.
//!
//! OpenSSH's server asks by keyboard-interactive through PAM alone, which is the machine's and not a test's.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, MethodKind, MethodSet};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::server_forwards::FarSide;

/// One factor of a login.
#[derive(Debug, Clone)]
pub enum Factor {
    /// Nothing at all.
    Nothing,
    /// Any key or certificate whose signature is right.
    Key,
    /// This password.
    Password(&'static str),
    /// No password: whoever tries one is hung up on.
    HangsUp,
    /// These rounds of prompts.
    Keyboard(Vec<Round>),
}

/// One round of keyboard-interactive: prompt, whether it echoes, and the right answer.
#[derive(Debug, Clone)]
pub struct Round {
    /// The text above the prompts.
    pub instructions: &'static str,
    /// The prompts.
    pub prompts: Vec<(&'static str, bool, &'static str)>,
}

/// A running server.
pub struct Asking {
    dir: TempDir,
    addr: SocketAddr,
    attempts: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<Vec<std::net::TcpStream>>>,
    _tasks: JoinSet<()>,
}

impl Asking {
    /// A server that wants all of these factors, one after another.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(factors: Vec<Factor>) -> Result<Self> {
        Self::rekeying(factors, 1 << 30).await
    }

    /// The same, and the server asks for new keys after it has sent `bytes`.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn rekeying(factors: Vec<Factor>, bytes: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-asking").tempdir()?;
        for key in ["host_key", "user_key"] {
            crate::keys::generate(&dir.path().join(key), "ed25519").await?;
        }
        let key = russh::keys::load_secret_key(dir.path().join("host_key"), None)?;
        let config = Arc::new(Config {
            keys: vec![key],
            methods: MethodSet::from([method(factors.first().context("a factor")?)].as_slice()),
            auth_rejection_time: std::time::Duration::from_millis(50),
            limits: russh::Limits::new(bytes, 1 << 30, std::time::Duration::from_secs(3600)),
            max_auth_attempts: 6,
            ..Config::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let (factors, seen) = (Arc::new(factors), attempts.clone());
        let connections: Arc<Mutex<Vec<std::net::TcpStream>>> = Arc::default();
        let open = connections.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Some((stream, twin)) = twins(stream) else {
                    continue;
                };
                let Ok(end) = twin.try_clone() else { continue };
                open.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(twin);
                let handler = Login {
                    factors: factors.clone(),
                    attempts: seen.clone(),
                    at: 0,
                    round: 0,
                    wrong: false,
                    far: FarSide::default(),
                };
                let config = config.clone();
                sessions.spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, stream, handler).await {
                        let _ = session.await;
                    }
                    let _gone_already = end.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Ok(Self {
            dir,
            addr,
            attempts,
            connections,
            _tasks: tasks,
        })
    }

    /// Closes every connection, as a server does whose patience is at an end.
    pub fn hang_up(&self) {
        let connections = self.connections.lock();
        for twin in connections
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            let _gone_already = twin.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Every login attempt so far: `password right`, `keyboard wrong`, …
    pub fn attempts(&self) -> Vec<String> {
        let attempts = self.attempts.lock();
        attempts.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lines of `[tunnel.NAME]` that reach it, its host key known.
    ///
    /// # Errors
    /// Where the known_hosts file cannot be written.
    pub fn tunnel(&self, name: &str) -> Result<String> {
        let known = self.dir.path().join("known_hosts");
        let key = std::fs::read_to_string(self.dir.path().join("host_key.pub"))?;
        std::fs::write(&known, format!("[127.0.0.1]:{} {key}", self.port()))?;
        Ok(format!(
            "[tunnel.{name}]\nhost = \"someone@127.0.0.1:{}\"\nidentity_file = \"{}\"\nuser_known_hosts_file = \"{}\"\n",
            self.port(),
            self.dir.path().join("user_key").display(),
            known.display()
        ))
    }
}

/// The stream, and another handle to close it by.
fn twins(stream: TcpStream) -> Option<(TcpStream, std::net::TcpStream)> {
    let stream = stream.into_std().ok()?;
    let twin = stream.try_clone().ok()?;
    Some((TcpStream::from_std(stream).ok()?, twin))
}

fn method(factor: &Factor) -> MethodKind {
    match factor {
        Factor::Nothing => MethodKind::None,
        Factor::Key => MethodKind::PublicKey,
        Factor::Password(_) | Factor::HangsUp => MethodKind::Password,
        Factor::Keyboard(_) => MethodKind::KeyboardInteractive,
    }
}

struct Login {
    factors: Arc<Vec<Factor>>,
    attempts: Arc<Mutex<Vec<String>>>,
    at: usize,
    round: usize,
    wrong: bool,
    far: FarSide,
}

impl Login {
    fn seen(&self, what: &str, right: bool) {
        let verdict = if right { "right" } else { "wrong" };
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(format!("{what} {verdict}"));
    }

    fn passed(&mut self, right: bool) -> Auth {
        if right {
            self.at += 1;
        }
        match self.factors.get(self.at) {
            None => Auth::Accept,
            Some(next) => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from([method(next)].as_slice())),
                partial_success: right,
            },
        }
    }

    fn ask(&self, round: &Round) -> Auth {
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

impl Handler for Login {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        let right = matches!(self.factors.get(self.at), Some(Factor::Nothing));
        Ok(self.passed(right))
    }

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &russh::keys::Certificate,
    ) -> Result<Auth, Self::Error> {
        let right = matches!(self.factors.get(self.at), Some(Factor::Key));
        self.seen("certificate", right);
        Ok(self.passed(right))
    }

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, Self::Error> {
        let right =
            matches!(self.factors.get(self.at), Some(Factor::Password(p)) if *p == password);
        self.seen("password", right);
        if matches!(self.factors.get(self.at), Some(Factor::HangsUp)) {
            return Err(russh::Error::Disconnect);
        }
        Ok(self.passed(right))
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let right = matches!(self.factors.get(self.at), Some(Factor::Key));
        self.seen("key", right);
        Ok(self.passed(right))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(Factor::Keyboard(rounds)) = self.factors.get(self.at).cloned() else {
            self.seen("keyboard", false);
            return Ok(self.passed(false));
        };
        match response {
            None => (self.round, self.wrong) = (0, false),
            Some(response) => {
                let answers: Vec<Vec<u8>> = response.map(|answer| answer.to_vec()).collect();
                let round = rounds.get(self.round);
                let prompts = round
                    .map(|round| round.prompts.as_slice())
                    .unwrap_or_default();
                let wanted: Vec<&[u8]> = prompts.iter().map(|p| p.2.as_bytes()).collect();
                self.wrong |= answers != wanted;
                self.round += 1;
            }
        }
        match rounds.get(self.round) {
            Some(round) if !self.wrong => Ok(self.ask(round)),
            _ => {
                let right = !self.wrong;
                self.seen("keyboard", right);
                Ok(self.passed(right))
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
        let to = (host_to_connect, port_to_connect);
        self.far.dial(channel, to, reply).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.far.dial_unix(channel, socket_path, reply).await;
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let bound = self.far.listen(address, *port, session.handle()).await;
        *port = bound.unwrap_or(*port);
        Ok(bound.is_some())
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.far.forget(&format!("{address} {port}")))
    }

    async fn streamlocal_forward(
        &mut self,
        socket_path: &str,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.far.listen_unix(socket_path, session.handle()))
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.far.forget(socket_path))
    }
}
