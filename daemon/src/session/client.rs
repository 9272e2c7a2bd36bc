//! The SSH core of our own (`tunneld-ssh`) as the session uses it: what is offered, how the core's errors are told,
//! how its handles look from above.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tunneld_proto::text;
use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::client::{self as ssh_client, Options, RequestError, Stream};
use tunneld_ssh::connection;
use tunneld_ssh::error::Party;
use tunneld_ssh::transport::{HostKey, HostKeyOffer};
use tunneld_ssh::{Config, Error};

use crate::failure::{Failure, FailureKind};
use crate::session::host_key::update::HostKeyUpdater;
use crate::session::host_key::{HostKeyVerifier, plain_key};
use crate::session::{
    Channel, Established, Incoming, OpenError, PendingChannel, Session, SessionInfo,
};
use tunneld_config::addr::{BindAddr, ListenAddr};
use tunneld_config::model::{Crypto, Route};
use tunneld_keys::known_hosts;

/// How long after a session its carrier's end is looked for: it was told a moment before.
const TELLING: Duration = Duration::from_millis(100);

/// A connection whose keys are exchanged and whose host key is trusted.
pub(super) struct Connected {
    pub(super) core: ssh_client::Authenticator,
    /// How much of the banner has been told.
    pub(super) told: usize,
    updates: HostKeyUpdater,
}

/// Exchanges keys over `stream` and has the host key judged.
pub(super) async fn connect(
    stream: Stream,
    route: &Route,
    trust: HostKeyVerifier,
    at_host_key: impl FnOnce(),
) -> Result<Connected, Failure> {
    let config = config(&route.crypto, &trust.algorithms())?;
    let options = Options {
        keepalive: route
            .liveness
            .interval
            .map(|interval| (interval, route.liveness.count_max)),
        // The whole dial has its deadline: these only must not come before it.
        handshake_timeout: route.connect_timeout.saturating_mul(2),
        auth_timeout: route.connect_timeout.saturating_mul(2),
        ..Options::default()
    };
    let updates = trust.updates();
    let mut untrusted = None;
    let judge = async |offer: HostKeyOffer| {
        at_host_key();
        match trust.judge(&offer).await {
            Ok(()) => true,
            Err(failure) => {
                untrusted = Some(failure);
                false
            }
        }
    };
    let done = ssh_client::handshake(stream, Arc::new(config), options, &route.user, judge).await;
    match (done, untrusted) {
        (_, Some(failure)) => Err(failure),
        (Ok(core), None) => Ok(Connected {
            core,
            told: 0,
            updates,
        }),
        (Err(error), None) => Err(failure_of(&error)),
    }
}

fn config(crypto: &Crypto, host_keys: &[String]) -> Result<Config, Failure> {
    let compression: &[&str] = match crypto.compression {
        true => &["zlib@openssh.com", "none"],
        false => &["none"],
    };
    Ok(Config {
        kex: choose("kex_algorithms", Kind::Kex, &crypto.kex)?,
        host_keys: choose("host_key_algorithms", Kind::HostKey, host_keys)?,
        ciphers: choose("ciphers", Kind::Cipher, &crypto.ciphers)?,
        macs: choose("macs", Kind::Mac, &crypto.macs)?,
        compression: compression.to_vec(),
        rekey_bytes: crypto.rekey.bytes,
        rekey_time: crypto.rekey.time,
        ..Config::default()
    })
}

/// Those of `wanted` that we have; what ssh has besides (`umac-…`, `sntrup761…`) falls away. Nothing wanted is the default.
fn choose(key: &str, kind: Kind, wanted: &[String]) -> Result<Vec<&'static str>, Failure> {
    if wanted.is_empty() {
        return Ok(kind.defaults().to_vec());
    }
    let found: Vec<&'static str> = wanted.iter().filter_map(|name| kind.find(name)).collect();
    if found.is_empty() {
        let known: Vec<&str> = kind.known().collect();
        return Err(Failure::new(
            FailureKind::Config,
            format!(
                "{key}: there is no {} of the name {}",
                kind.label(),
                text::escape(&wanted.join(","))
            ),
        )
        .hint(format!("known are {}", known.join(", "))));
    }
    Ok(found)
}

/// The same words as everywhere, for an error of the core.
pub(super) fn failure_of(error: &Error) -> Failure {
    let shown = || text::escape(&error.to_string());
    match error {
        Error::Eof => Failure::new(
            FailureKind::Disconnected,
            "the server closed the connection",
        ),
        Error::Disconnected {
            text,
            by: Party::Server,
            ..
        } => Failure::new(
            FailureKind::Disconnected,
            format!("the server closed the connection: {}", text::escape(text)),
        ),
        Error::Disconnected {
            by: Party::Client, ..
        } => Failure::new(FailureKind::Disconnected, "the session was closed here"),
        Error::DeadPeer(after) => Failure::new(
            FailureKind::DeadPeer,
            format!("nothing was heard from the server for {after:?}"),
        ),
        Error::Timeout(_) => Failure::new(FailureKind::Timeout, shown()),
        Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Failure::new(
            FailureKind::DeadPeer,
            "the network acknowledged nothing any more",
        ),
        Error::Io(error) => Failure::new(
            FailureKind::Disconnected,
            format!("the connection broke: {}", text::escape(&error.to_string())),
        ),
        Error::NoCommonAlgorithm { kind, theirs, .. } => {
            Failure::new(FailureKind::NoCommonAlgorithm, shown()).hint(in_common(*kind, theirs))
        }
        Error::Terrapin { .. } => Failure::new(FailureKind::Protocol, shown())
            .hint("update the server, or set ciphers to aes128-gcm@openssh.com,aes256-ctr"),
        Error::Ident(_) => Failure::new(FailureKind::Protocol, shown())
            .hint("check that host and port are an SSH server's, and what answers there"),
        _ => Failure::new(FailureKind::Protocol, shown()),
    }
}

/// How to come to share an algorithm with a server that has `theirs`.
fn in_common(kind: Kind, theirs: &str) -> String {
    let key = match kind {
        Kind::Kex => "kex_algorithms",
        Kind::HostKey => "host_key_algorithms",
        Kind::Cipher => "ciphers",
        Kind::Mac => "macs",
        Kind::Compression => "compression",
    };
    match theirs.split(',').find_map(|name| kind.find(name)) {
        Some(name) => format!(
            "update the server; until then, if its old algorithm is good enough: {key} = \"+{name}\""
        ),
        None => "update the server: tunneld has none of its algorithms".to_owned(),
    }
}

impl Connected {
    /// The logged-in session. It keeps alive, and ends with, the session that it goes `over`.
    pub(super) fn establish(
        self,
        host: &str,
        auth: String,
        local_addr: Option<SocketAddr>,
        over: Option<(String, Session)>,
        by_command: bool,
    ) -> Result<Established, Failure> {
        let (core, from_core) = self
            .core
            .into_session()
            .map_err(|error| failure_of(&error))?;
        let info = info(core.info(), host, auth, local_addr);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (sender, incoming) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(pass_on(from_core, sender, Arc::clone(&asked)));
        let certified = matches!(core.info().host_key.key, HostKey::Certificate(_));
        if self.updates.wanted() && !certified {
            tasks.spawn(self.updates.heed(core.clone()));
        }
        let session = Session(Arc::new(Client {
            core,
            info,
            asked,
            over,
            by_command,
            _tasks: tasks,
        }));
        Ok(Established { session, incoming })
    }
}

fn info(
    core: &ssh_client::SessionInfo,
    host: &str,
    auth: String,
    local_addr: Option<SocketAddr>,
) -> SessionInfo {
    let agreed = &core.negotiated;
    SessionInfo {
        host: host.to_owned(),
        server: text::escape(&core.ident),
        kex: agreed.kex.to_owned(),
        cipher: agreed.cipher_out.to_owned(),
        mac: agreed.mac_out.map(str::to_owned),
        host_key: format!(
            "{} {}",
            agreed.host_key,
            known_hosts::fingerprint(&plain_key(&core.host_key))
        ),
        auth,
        local_addr,
    }
}

/// The forwards that were asked for, in the core's words and in ours.
type PendingPrompt = Mutex<Vec<(connection::RemoteListen, ListenAddr)>>;

/// A holder that panicked left a list that is still whole. Never held across an await.
fn lock(asked: &PendingPrompt) -> MutexGuard<'_, Vec<(connection::RemoteListen, ListenAddr)>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass_on(
    mut from_core: ssh_client::IncomingChannels,
    to: mpsc::Sender<Incoming>,
    asked: Arc<PendingPrompt>,
) {
    while let Some(incoming) = from_core.recv().await {
        let ours = |(core, _): &&(connection::RemoteListen, ListenAddr)| *core == incoming.listen;
        let listen = lock(&asked).iter().find(ours).map(|(_, ours)| ours.clone());
        let Some(listen) = listen else {
            // Cancelled meanwhile.
            incoming.channel.refuse(1, "not listening");
            continue;
        };
        let passed = to.send(Incoming {
            listen,
            port: incoming.bound_port,
            originator: text::escape(&incoming.originator),
            channel: PendingChannel(incoming.channel),
        });
        if passed.await.is_err() {
            return;
        }
    }
}

/// A live session.
pub(super) struct Client {
    core: ssh_client::Session,
    info: SessionInfo,
    asked: Arc<PendingPrompt>,
    over: Option<(String, Session)>,
    /// Whether a ProxyCommand carries it.
    by_command: bool,
    _tasks: JoinSet<()>,
}

impl Client {
    pub(super) fn info(&self) -> &SessionInfo {
        &self.info
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.core.rtt()
    }

    pub(super) fn offences(&self) -> u64 {
        self.core.violations()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    pub(super) async fn close(&self) {
        self.core.close().await;
    }

    /// Why it ended; the cause of the session that carried it, where that was the cause.
    pub(super) async fn closed(&self) -> Failure {
        let error = self.core.closed().await;
        if let (Some((name, carrier)), Error::Io(_) | Error::Eof | Error::DeadPeer(_)) =
            (&self.over, &error)
            && let Ok(cause) = tokio::time::timeout(TELLING, Box::pin(carrier.closed())).await
        {
            return Failure {
                message: format!("{name}: {}", cause.message),
                ..cause
            };
        }
        let failure = failure_of(&error);
        // Session Manager's plugin prints that it ends, into the stream.
        match failure.kind {
            FailureKind::Protocol if self.by_command => Failure {
                kind: FailureKind::Proxy,
                message: format!(
                    "proxy_command gave something else than SSH, as some do when they end: {}",
                    failure.message
                ),
                ..failure
            },
            _ => failure,
        }
    }

    pub(super) async fn open_direct_tcpip(
        &self,
        host: &[u8],
        port: u16,
        originator: Option<SocketAddr>,
    ) -> Result<Channel, OpenError> {
        let originator = match originator {
            Some(address) => (address.ip().to_string(), address.port()),
            None => ("127.0.0.1".to_owned(), 0),
        };
        let opened = self.core.open_direct_tcpip(host, port, originator).await;
        opened.map(Channel).map_err(open_error)
    }

    pub(super) async fn open_direct_streamlocal(&self, path: &[u8]) -> Result<Channel, OpenError> {
        let opened = self.core.open_direct_streamlocal(path).await;
        opened.map(Channel).map_err(open_error)
    }

    pub(super) async fn request_forward(&self, listen: &ListenAddr) -> Result<u16, Failure> {
        let wire = on_wire(listen);
        {
            let mut asked = lock(&self.asked);
            asked.retain(|(core, _)| *core != wire);
            asked.push((wire.clone(), listen.clone()));
        }
        let granted = self.core.request_forward(&wire).await;
        granted.map_err(|error| {
            lock(&self.asked).retain(|(core, _)| *core != wire);
            let shown = text::escape(&listen.to_string());
            forward_failure(&error, &format!("the remote forward on {shown}"))
        })
    }

    pub(super) async fn cancel_forward(&self, listen: &ListenAddr) -> Result<(), Failure> {
        let wire = on_wire(listen);
        lock(&self.asked).retain(|(core, _)| *core != wire);
        match self.core.cancel_forward(&wire).await {
            Ok(()) | Err(RequestError::NotListening) => Ok(()),
            Err(error) => {
                let shown = text::escape(&listen.to_string());
                Err(forward_failure(
                    &error,
                    &format!("the end of the remote forward on {shown}"),
                ))
            }
        }
    }

    pub(super) async fn ping(&self, deadline: Duration) -> Result<Duration, Failure> {
        self.core.ping(deadline).await.map_err(|error| match error {
            RequestError::Timeout(_) => Failure::new(
                FailureKind::DeadPeer,
                format!("the server gave no sign of life within {deadline:?}"),
            ),
            error => forward_failure(&error, "a sign of life"),
        })
    }
}

fn open_error(error: ssh_client::OpenError) -> OpenError {
    match error {
        ssh_client::OpenError::Refused { code, text } => {
            let text = match text.is_empty() {
                true => format!("no reason given (code {code})"),
                false => text::escape(&text),
            };
            OpenError::Refused { code, text }
        }
        ssh_client::OpenError::TooManyChannels => OpenError::Refused {
            code: 4,
            text: "too many connections are open already".into(),
        },
        ssh_client::OpenError::Timeout(after) => OpenError::Timeout(after),
        ssh_client::OpenError::SessionEnded(error) => {
            OpenError::SessionLost(failure_of(&error).message)
        }
    }
}

fn forward_failure(error: &RequestError, what: &str) -> Failure {
    let refused = |how: String| Failure::new(FailureKind::RemoteForwardRefused, how);
    match error {
        RequestError::SessionEnded(error) => failure_of(error),
        RequestError::Refused => refused(format!("the server refused {what}")).hint(
            "its port may be taken (by an older session of this tunnel too), or sshd's AllowTcpForwarding, \
             AllowStreamLocalForwarding, GatewayPorts or PermitListen forbid it",
        ),
        RequestError::Timeout(after) => {
            refused(format!("asked for {what}, the server did not answer within {after:?}"))
        }
        RequestError::InvalidReply | RequestError::NotListening => {
            refused(format!("asked for {what}: {error}"))
        }
    }
}

fn on_wire(listen: &ListenAddr) -> connection::RemoteListen {
    match listen {
        ListenAddr::Tcp { bind, port } => connection::RemoteListen::Tcp {
            address: match bind {
                BindAddr::Loopback => "localhost".to_owned(),
                BindAddr::Any => String::new(),
                BindAddr::Host(host) if host == "*" => String::new(),
                BindAddr::Host(host) => host.clone(),
            },
            port: *port,
        },
        ListenAddr::Unix(path) => connection::RemoteListen::Unix {
            path: path.as_os_str().as_encoded_bytes().to_vec(),
        },
    }
}
