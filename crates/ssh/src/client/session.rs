//! An authenticated session: opens channels and sends global requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::channel::Channel;
use super::handle::Handle;
use super::host_key_proof;
use super::state::SessionState;
use crate::connection::{ChannelTarget, GlobalReply, RemoteListen, RequestId};
use crate::error::Error;
use crate::transport::{HostKeyOffer, Negotiated};

/// What the two sides agreed on when the session was made.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// The server's identification line, such as `SSH-2.0-OpenSSH_10.0`; not escaped.
    pub ident: String,
    /// Lines that the server sent before its identification, cut to 1 KiB and not escaped.
    pub pre_banner: String,
    /// The algorithms of the first key exchange.
    pub negotiated: Negotiated,
    /// The server's host key, or the certificate that it presented.
    pub host_key: HostKeyOffer,
}

/// Why a channel was not opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The server sent CHANNEL_OPEN_FAILURE, often because the target refused the connection.
    #[error("the server refused: {text} (code {code})")]
    Refused {
        /// Reason code of RFC 4254 §5.1, such as 1 for a forbidden target or 2 for one that refused the connection.
        code: u32,
        /// The server's text, cut to 1 KiB and not escaped.
        text: String,
    },
    /// [`ConnectionConfig::max_channels`](crate::connection::ConnectionConfig::max_channels) are in use.
    #[error("too many channels")]
    TooManyChannels,
    /// No answer within [`Options::open_timeout`](super::Options::open_timeout).
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
    /// The session ended before the server answered.
    #[error("the session ended")]
    SessionEnded(#[source] Error),
}

/// Why a global request was not granted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// The server sent REQUEST_FAILURE, which has no reason.
    #[error("the server refused")]
    Refused,
    /// The server granted the request with a reply that does not fit it, or with a wrong host key signature.
    #[error("the server's reply does not fit the request")]
    InvalidReply,
    /// There is no such forward to cancel, or too many requests wait for their answers.
    #[error("the server was not asked to listen there")]
    NotListening,
    /// No answer within the time limit.
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
    /// The session ended before the server answered.
    #[error("the session ended")]
    SessionEnded(#[source] Error),
}

/// An authenticated session. Clones are handles to the same session; it ends when the last handle, channel or channel
/// half is dropped.
#[derive(Clone)]
pub struct Session {
    handle: Arc<Handle>,
    info: Arc<SessionInfo>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("ident", &self.info.ident)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(handle: Arc<Handle>, info: SessionInfo) -> Self {
        Self {
            handle,
            info: Arc::new(info),
        }
    }

    /// Returns the algorithms, identification and host key of this session.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// Returns the last round trip that a ping measured. `None` before the first answer.
    pub fn rtt(&self) -> Option<Duration> {
        self.handle
            .shared
            .with_state(|state| state.connection.rtt())
    }

    /// Returns how many messages of the server broke the protocol without ending the session: see
    /// [`Connection::violations`](crate::connection::Connection::violations).
    pub fn violations(&self) -> u64 {
        self.handle
            .shared
            .with_state(|state| state.connection.violations())
    }

    /// Opens a TCP connection from the server to `host:port` (RFC 4254 §7.2). The server resolves `host`, which is sent
    /// as it is. `originator` is the address and port of our client.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn open_direct_tcpip(
        &self,
        host: impl Into<Vec<u8>>,
        port: u16,
        originator: (String, u16),
    ) -> Result<Channel, OpenError> {
        self.open(&ChannelTarget::Tcp {
            host: host.into(),
            port,
            originator,
        })
        .await
    }

    /// Opens a connection to a Unix socket on the server (OpenSSH PROTOCOL §2.4).
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn open_direct_streamlocal(
        &self,
        path: impl Into<Vec<u8>>,
    ) -> Result<Channel, OpenError> {
        self.open(&ChannelTarget::Unix { path: path.into() }).await
    }

    /// Opens a channel to `target`.
    ///
    /// # Errors
    /// The server refused or did not answer in time, too many channels are open, or the session ended.
    ///
    /// # Cancel safety
    /// When the future is dropped, a channel that the server opens later is closed at once.
    pub async fn open(&self, target: &ChannelTarget) -> Result<Channel, OpenError> {
        let (opener, answer) = oneshot::channel();
        let id = self.handle.shared.submit(|state| {
            if let Some(error) = &state.ended {
                return Err(OpenError::SessionEnded(error.clone()));
            }
            let SessionState {
                connection,
                transport,
                ..
            } = state;
            let id = connection
                .open_channel(target, Instant::now().into_std(), transport)
                .ok_or(OpenError::TooManyChannels)?;
            if let Some(waiters) = state.reset_waiters(id) {
                waiters.opener = Some(opener);
            }
            Ok(id)
        })?;
        // Made before the answer: dropping it, on a timeout or a cancelled open, closes the channel.
        let channel = Channel::new(Arc::clone(&self.handle), id);
        let timeout = self.handle.options.open_timeout;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(Ok(()))) => Ok(channel),
            Ok(Ok(Err((code, text)))) => Err(OpenError::Refused { code, text }),
            Ok(Err(_)) => Err(OpenError::SessionEnded(self.handle.end_reason())),
            Err(_) => Err(OpenError::Timeout(timeout)),
        }
    }

    /// Sends a global request with `send` and waits for its reply. A forward in `undo` is cancelled if the caller goes
    /// away before it sees that the server granted it.
    async fn request(
        &self,
        timeout: Duration,
        undo: Option<&RemoteListen>,
        send: impl FnOnce(&mut SessionState) -> Option<RequestId>,
    ) -> Result<GlobalReply, RequestError> {
        let (requester, reply) = oneshot::channel();
        let id = self.handle.shared.submit(|state| {
            if let Some(error) = &state.ended {
                return Err(RequestError::SessionEnded(error.clone()));
            }
            let id = send(state).ok_or(RequestError::NotListening)?;
            // Under the same lock as the sending: the answer cannot arrive in between.
            state.pending_requests.insert(id, requester);
            Ok(id)
        })?;
        let mut pending = PendingReply {
            handle: &self.handle,
            id,
            reply,
            undo,
        };
        match tokio::time::timeout(timeout, &mut pending.reply).await {
            Ok(Ok(GlobalReply::Refused)) => Err(RequestError::Refused),
            Ok(Ok(GlobalReply::Invalid)) => Err(RequestError::InvalidReply),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(RequestError::SessionEnded(self.handle.end_reason())),
            Err(_) => Err(RequestError::Timeout(timeout)),
        }
    }

    /// Asks the server to listen (RFC 4254 §7.1). Returns the port that it bound, 0 for a Unix socket.
    ///
    /// # Errors
    /// The server refused, did not answer within [`Options::request_timeout`](super::Options::request_timeout), or the
    /// session ended.
    ///
    /// # Cancel safety
    /// When the future is dropped or times out, a forward that the server grants later is cancelled.
    pub async fn request_forward(&self, listen: &RemoteListen) -> Result<u16, RequestError> {
        let reply = self
            .request(self.handle.options.request_timeout, Some(listen), |state| {
                let SessionState {
                    connection,
                    transport,
                    ..
                } = state;
                connection.request_forward(listen, transport)
            })
            .await?;
        match reply {
            GlobalReply::Listening(port) => Ok(port),
            _ => Err(RequestError::InvalidReply),
        }
    }

    /// Asks the server to stop listening. From this call on its channels for `listen` are refused, whatever it answers. Of
    /// several forwards that requested port 0, `listen` names one by the port that was granted.
    ///
    /// # Errors
    /// [`RequestError::NotListening`] if no such forward was granted; otherwise as [`Session::request_forward`].
    pub async fn cancel_forward(&self, listen: &RemoteListen) -> Result<(), RequestError> {
        self.request(self.handle.options.request_timeout, None, |state| {
            let SessionState {
                connection,
                transport,
                ..
            } = state;
            connection.cancel_forward(listen, transport)
        })
        .await
        .map(|_| ())
    }

    /// Sends a keepalive request and returns the round trip. Any answer counts, also a refusal.
    ///
    /// # Errors
    /// [`RequestError::Timeout`] after `timeout`, or the end of the session.
    pub async fn ping(&self, timeout: Duration) -> Result<Duration, RequestError> {
        let reply = self
            .request(timeout, None, |state| {
                let SessionState {
                    connection,
                    transport,
                    ..
                } = state;
                connection.ping(Instant::now().into_std(), transport)
            })
            .await?;
        match reply {
            GlobalReply::Pong(rtt) => Ok(rtt),
            _ => Err(RequestError::InvalidReply),
        }
    }

    /// Watches the host keys that the server announces (OpenSSH PROTOCOL §2.5), as wire blobs. None of them is proven:
    /// see [`Session::prove_host_keys`].
    pub fn host_keys(&self) -> watch::Receiver<Vec<Bytes>> {
        self.handle
            .shared
            .with_state(|state| state.host_keys.subscribe())
    }

    /// Asks the server to prove that it holds all of `keys` (OpenSSH PROTOCOL §2.5).
    ///
    /// # Errors
    /// [`RequestError::InvalidReply`] if any signature is missing or wrong; otherwise as [`Session::request_forward`].
    pub async fn prove_host_keys(&self, keys: &[Bytes]) -> Result<(), RequestError> {
        let reply = self
            .request(self.handle.options.request_timeout, None, |state| {
                let SessionState {
                    connection,
                    transport,
                    ..
                } = state;
                connection.prove_host_keys(keys, transport)
            })
            .await?;
        let GlobalReply::Proof(proof) = reply else {
            return Err(RequestError::InvalidReply);
        };
        let session_id = self
            .handle
            .shared
            // The signatures cover it, so that a proof cannot be replayed from another session.
            .with_state(|state| state.transport.session_id().to_vec());
        match host_key_proof::is_valid(&session_id, keys, &proof) {
            true => Ok(()),
            false => Err(RequestError::InvalidReply),
        }
    }

    /// Waits until the session has ended and returns the reason.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&self) -> Error {
        self.handle.closed().await
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.handle.shared.ended.borrow().is_some()
    }

    /// Sends DISCONNECT and ends the session; after one second at the latest if the server does not read.
    pub async fn close(&self) {
        self.handle.close().await;
    }
}

/// A request whose caller may go away before the reply arrives, or before it has seen the reply.
struct PendingReply<'a> {
    handle: &'a Handle,
    id: RequestId,
    reply: oneshot::Receiver<GlobalReply>,
    /// The forward to cancel then.
    undo: Option<&'a RemoteListen>,
}

impl Drop for PendingReply<'_> {
    fn drop(&mut self) {
        self.handle.shared.submit(|state| {
            // No answer yet: it will still come, and a forward granted then would stay open without an owner.
            if state.pending_requests.remove(&self.id).is_some() {
                state.connection.abandon_forward(self.id);
            } else if let Ok(GlobalReply::Listening(_)) = self.reply.try_recv()
                && let Some(listen) = self.undo
            {
                // The reply was delivered, but the caller has not read it.
                state.connection.undo_forward(listen, &mut state.transport);
            }
        });
    }
}
