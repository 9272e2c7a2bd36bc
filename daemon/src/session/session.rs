//! A live session: channels to the server's side, remote forwards, and why it ended.
//!
//! Adds to the library's session what only the daemon knows: the login, the session that carries this one, and errors
//! as [`Failure`]. Channels are the library's own types.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tunneld_proto::text;
use tunneld_ssh::Error;
use tunneld_ssh::client;
use tunneld_ssh::transport::HostKey;

use crate::failure::{Failure, FailureKind};
use crate::session::host_key::plain_key;
use crate::session::host_key::update::HostKeyUpdater;
use crate::session::incoming::{self, Incoming, RequestedForwards, to_wire};
use crate::session::ssh_error::failure_of;
use tunneld_config::addr::ListenAddr;
use tunneld_keys::known_hosts;

pub use tunneld_ssh::client::{Channel, ChannelReader, ChannelWriter};

/// How long a session that ended waits for the reason of its carrier. The carrier ends first, so its reason is known
/// within a moment or not at all.
const CARRIER_END_TIMEOUT: Duration = Duration::from_millis(100);

/// SSH_OPEN_RESOURCE_SHORTAGE (RFC 4254 §5.1).
const RESOURCE_SHORTAGE: u32 = 4;

/// A new session, and the connections that the server will open over it.
pub struct Established {
    /// The session.
    pub session: Session,
    /// Connections to remote forwards. If the queue is full, the library refuses further ones: a slow receiver must not
    /// stall the session.
    pub incoming: mpsc::Receiver<Incoming>,
}

/// A live session; clones are handles to the same one. It ends when the last handle and the last channel are dropped.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    client: client::Session,
    info: SessionInfo,
    forwards: Arc<RequestedForwards>,
    /// The session that carries this one, with its name for messages. Held so that it lives as long as this one.
    carrier: Option<(String, Session)>,
    over_proxy_command: bool,
    _tasks: JoinSet<()>,
}

/// What a session was made of. All text is escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The host that was dialled: the output of `host_command`, if the route has one.
    pub host: String,
    /// The server's identification, such as `SSH-2.0-OpenSSH_9.2`.
    pub server: String,
    /// The key exchange method.
    pub kex: String,
    /// The cipher of what is sent.
    pub cipher: String,
    /// The MAC of what is sent. `None` if the cipher authenticates by itself.
    pub mac: Option<String>,
    /// Algorithm and SHA256 fingerprint of the host key.
    pub host_key: String,
    /// The login methods that succeeded, with the key that was used.
    pub auth: String,
    /// The local address of the TCP connection. `None` over a jump host, a tunnel or a ProxyCommand.
    pub local_addr: Option<SocketAddr>,
}

/// What the dial knows of a session before it exists.
pub(super) struct SessionOrigin {
    pub(super) host: String,
    pub(super) auth: String,
    pub(super) local_addr: Option<SocketAddr>,
    /// The session that carries the new one, with its name for messages.
    pub(super) carrier: Option<(String, Session)>,
    pub(super) over_proxy_command: bool,
}

/// Why the server did not open a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The server refused.
    #[error("the server refused: {text} (code {code})")]
    Refused {
        /// Reason code of RFC 4254 §5.1: 1 prohibited, 2 connect failed, 3 unknown channel type, 4 resource shortage.
        code: u32,
        /// The server's text, escaped.
        text: String,
    },
    /// The server did not answer within this time.
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
    /// The session ended first; holds the reason.
    #[error("the session ended: {0}")]
    SessionLost(String),
    /// The host was not sent to the server: it is empty, longer than 255 bytes, or has control characters.
    #[error(
        "the host is not a host name: it is empty, longer than 255 bytes, or has control characters"
    )]
    InvalidHost,
}

/// Longest host that is sent to a server, in bytes: the longest name of DNS. A request beyond the largest packet would
/// end the whole session.
const HOST_LIMIT: usize = 255;

fn is_valid_host(host: &[u8]) -> bool {
    let has_control = host.iter().any(u8::is_ascii_control);
    (1..=HOST_LIMIT).contains(&host.len()) && !has_control
}

impl Session {
    /// Turns a connection whose login has succeeded into a session.
    ///
    /// # Errors
    /// The connection ended meanwhile.
    pub(super) fn start(
        connected: client::Authenticator,
        updater: HostKeyUpdater,
        origin: SessionOrigin,
    ) -> Result<Established, Failure> {
        let (client, client_incoming) = connected
            .into_session()
            .map_err(|error| failure_of(&error))?;
        let forwards = Arc::new(RequestedForwards::default());
        // One entry suffices: the library has a queue of its own and refuses when that is full.
        let (sender, incoming) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(incoming::translate(
            client_incoming,
            sender,
            Arc::clone(&forwards),
        ));
        // ssh_config(5), UpdateHostKeys: only if the host was authenticated by a plain key and not by a certificate.
        let certified = matches!(client.info().host_key.key, HostKey::Certificate(_));
        if updater.is_enabled() && !certified {
            tasks.spawn(updater.run(client.clone()));
        }
        let session = Session(Arc::new(Inner {
            info: info(client.info(), origin.host, origin.auth, origin.local_addr),
            client,
            forwards,
            carrier: origin.carrier,
            over_proxy_command: origin.over_proxy_command,
            _tasks: tasks,
        }));
        Ok(Established { session, incoming })
    }

    /// What the session was made of.
    pub fn info(&self) -> &SessionInfo {
        &self.0.info
    }

    /// The last measured round-trip time. `None` before the first measurement.
    pub fn rtt(&self) -> Option<Duration> {
        self.0.client.rtt()
    }

    /// How often the server broke a rule of the protocol that the session tolerates.
    pub fn offences(&self) -> u64 {
        self.0.client.violations()
    }

    /// Opens a connection from the server to `host:port` (RFC 4254 §7.2). `originator` is the client that the
    /// connection is for.
    ///
    /// # Errors
    /// The server refuses or does not answer, or the session ends.
    pub async fn open_direct_tcpip(
        &self,
        host: impl AsRef<[u8]>,
        port: u16,
        originator: Option<SocketAddr>,
    ) -> Result<Channel, OpenError> {
        if !is_valid_host(host.as_ref()) {
            return Err(OpenError::InvalidHost);
        }
        // RFC 4254 requires an originator; one that has none (a jump, a Unix socket) is local.
        let originator = match originator {
            Some(address) => (address.ip().to_string(), address.port()),
            None => ("127.0.0.1".to_owned(), 0),
        };
        let opened = self
            .0
            .client
            .open_direct_tcpip(host.as_ref(), port, originator);
        opened.await.map_err(open_error)
    }

    /// Opens a connection from the server to a Unix socket there (OpenSSH PROTOCOL §2.4).
    ///
    /// # Errors
    /// The server refuses or does not answer, or the session ends.
    pub async fn open_direct_streamlocal(
        &self,
        path: impl AsRef<[u8]>,
    ) -> Result<Channel, OpenError> {
        let opened = self.0.client.open_direct_streamlocal(path.as_ref());
        opened.await.map_err(open_error)
    }

    /// Asks the server to listen (RFC 4254 §7.1). Returns the port that it bound; 0 for a Unix socket.
    ///
    /// # Errors
    /// The server refuses or does not answer, or the session ends.
    pub async fn request_forward(&self, listen: &ListenAddr) -> Result<u16, Failure> {
        let requested = to_wire(listen);
        // Before the request: the server may open a connection before its answer arrives.
        self.0.forwards.insert(requested.clone(), listen.clone());
        let bound = self.0.client.request_forward(&requested).await;
        bound.map_err(|error| {
            self.0.forwards.remove(&requested);
            let shown = text::escape(&listen.to_string());
            let failure = request_failure(&error, &format!("the remote forward on {shown}"));
            match (&error, listen) {
                (client::RequestError::Refused, ListenAddr::Unix(_)) => failure.hint(format!(
                    "an earlier session may have left the file {shown} on the server: remove it there, or set \
                     StreamLocalBindUnlink yes in its sshd_config. Else its folder is missing or not writable, or \
                     AllowStreamLocalForwarding forbids it"
                )),
                _ => failure,
            }
        })
    }

    /// Asks the server to stop listening on `listen`, where it bound `bound_port` (0 if that is not known). Succeeds if the
    /// server was not listening.
    ///
    /// # Errors
    /// The server refuses or does not answer, or the session ends.
    pub async fn cancel_forward(
        &self,
        listen: &ListenAddr,
        bound_port: u16,
    ) -> Result<(), Failure> {
        self.0.forwards.remove(&to_wire(listen));
        // Several forwards may have requested port 0 on the same address.
        let bound = to_wire(&listen.clone().with_bound_port(bound_port));
        match self.0.client.cancel_forward(&bound).await {
            Ok(()) | Err(client::RequestError::NotListening) => Ok(()),
            Err(error) => {
                let shown = text::escape(&listen.to_string());
                let what = format!("cancelling the remote forward on {shown}");
                Err(request_failure(&error, &what))
            }
        }
    }

    /// Sends a request that the server must answer, and returns the round-trip time.
    ///
    /// # Errors
    /// `DeadPeer` if no answer arrives within `limit`, else why the session ended.
    pub async fn ping(&self, limit: Duration) -> Result<Duration, Failure> {
        self.0
            .client
            .ping(limit)
            .await
            .map_err(|error| match error {
                client::RequestError::Timeout(_) => Failure::new(
                    FailureKind::DeadPeer,
                    format!("the server did not answer a keepalive within {limit:?}"),
                ),
                error => request_failure(&error, "a keepalive"),
            })
    }

    /// Waits until the session has ended and returns why. Any number of callers may wait.
    ///
    /// If the session that carries this one is the cause, its reason is returned, with its name.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn closed(&self) -> Failure {
        let error = self.0.client.closed().await;
        // Only these can come from the carrier: any other error was found in the data itself.
        if let (Some((name, carrier)), Error::Io(_) | Error::Eof | Error::DeadPeer(_)) =
            (&self.0.carrier, &error)
            && let Ok(cause) =
                tokio::time::timeout(CARRIER_END_TIMEOUT, Box::pin(carrier.closed())).await
        {
            return Failure {
                message: format!("{name}: {}", cause.message),
                ..cause
            };
        }
        let failure = failure_of(&error);
        match failure.kind {
            // When it ends, the plugin of AWS Session Manager prints a message into the stream.
            FailureKind::Protocol if self.0.over_proxy_command => Failure {
                kind: FailureKind::Proxy,
                message: format!(
                    "proxy_command wrote something that is not SSH, as some commands do when they end: {}",
                    failure.message
                ),
                ..failure
            },
            _ => failure,
        }
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.0.client.is_closed()
    }

    /// Ends the session with SSH_MSG_DISCONNECT and waits until that is sent, for a short time at most if the server
    /// does not read.
    pub async fn close(&self) {
        self.0.client.close().await;
    }
}

fn info(
    client: &client::SessionInfo,
    host: String,
    auth: String,
    local_addr: Option<SocketAddr>,
) -> SessionInfo {
    let negotiated = &client.negotiated;
    let fingerprint = known_hosts::fingerprint(&plain_key(&client.host_key));
    SessionInfo {
        host,
        server: text::escape(&client.ident),
        kex: negotiated.kex.to_owned(),
        cipher: negotiated.cipher_out.to_owned(),
        mac: negotiated.mac_out.map(str::to_owned),
        host_key: format!("{} {fingerprint}", negotiated.host_key),
        auth,
        local_addr,
    }
}

fn open_error(error: client::OpenError) -> OpenError {
    match error {
        client::OpenError::Refused { code, text } => {
            let text = match text.is_empty() {
                true => "no reason given".to_owned(),
                false => text::escape(&text),
            };
            OpenError::Refused { code, text }
        }
        client::OpenError::TooManyChannels => OpenError::Refused {
            code: RESOURCE_SHORTAGE,
            text: "too many connections are open already".into(),
        },
        client::OpenError::Timeout(after) => OpenError::Timeout(after),
        client::OpenError::SessionEnded(error) => {
            OpenError::SessionLost(failure_of(&error).message)
        }
    }
}

fn request_failure(error: &client::RequestError, what: &str) -> Failure {
    let refused = |message: String| Failure::new(FailureKind::RemoteForwardRefused, message);
    match error {
        client::RequestError::SessionEnded(error) => failure_of(error),
        client::RequestError::Refused => refused(format!("the server refused {what}")).hint(
            "its port may be taken (by an older session of this tunnel too), or sshd's AllowTcpForwarding, \
             GatewayPorts or PermitListen forbid it",
        ),
        client::RequestError::Timeout(after) => {
            refused(format!("{what}: the server did not answer within {after:?}"))
        }
        client::RequestError::InvalidReply | client::RequestError::NotListening => {
            refused(format!("{what}: {error}"))
        }
    }
}
