//! Handles to a session that stands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Options;
use super::channel::Channel;
use super::prove;
use super::state::{Shared, State};
use super::task::Driver;
use crate::connection::{Listen, Reply, RequestId, Target};
use crate::error::Error;
use crate::transport::{HostKeyOffer, Negotiated};

/// A server that does not listen is not waited for longer than this when we go.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a session was made of.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// The server's identification, not escaped.
    pub ident: String,
    /// The lines that came before it, cut to 1 KiB and not escaped.
    pub pre_banner: String,
    /// The algorithms.
    pub negotiated: Negotiated,
    /// The host key.
    pub host_key: HostKeyOffer,
}

/// Why a channel was not opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// The server said no.
    #[error("the server refused: {text} (code {code})")]
    Refused {
        /// RFC 4254 §5.1's reason.
        code: u32,
        /// The server's text, cut to 1 KiB and not escaped.
        text: String,
    },
    /// There are too many channels already.
    #[error("too many channels")]
    TooMany,
    /// No answer within the deadline.
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
    /// The session ended first.
    #[error("the session ended")]
    Ended(#[source] Error),
}

/// Why a request was not granted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ForwardError {
    /// The server said no.
    #[error("the server refused")]
    Refused,
    /// The server said yes to something else.
    #[error("the server's answer makes no sense")]
    Nonsense,
    /// It is not listened on.
    #[error("the server was not asked to listen there")]
    Unknown,
    /// No answer within the deadline.
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
    /// The session ended first.
    #[error("the session ended")]
    Ended(#[source] Error),
}

/// The state and the task that drives it: the task ends with the last handle.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) options: Options,
    _task: JoinSet<()>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    pub(crate) fn start(shared: Arc<Shared>, driver: Driver, options: Options) -> Arc<Self> {
        let mut task = JoinSet::new();
        task.spawn(driver);
        Arc::new(Self {
            shared,
            options,
            _task: task,
        })
    }

    /// Waits until the session has ended; why.
    pub(crate) async fn closed(&self) -> Error {
        let mut ended = self.shared.ended.subscribe();
        let error = match ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        };
        error.unwrap_or(Error::Eof)
    }

    /// Lets the last words out and ends the session, at the latest after a moment.
    pub(crate) async fn goodbye(&self) {
        self.shared.with(|state| state.closing = true);
        if tokio::time::timeout(GOODBYE, self.closed()).await.is_err() {
            self.shared.with(|state| {
                state.cut = true;
                state.kick();
            });
            self.closed().await;
        }
    }

    pub(crate) async fn close(&self) {
        self.shared.with(|state| state.transport.disconnect(11, ""));
        self.goodbye().await;
    }

    pub(crate) fn end(&self) -> Error {
        self.shared.ended.borrow().clone().unwrap_or(Error::Eof)
    }
}

/// A standing session; clones are handles to the same one. It ends when the last handle, channel or half of
/// one is dropped.
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
    pub(crate) fn new(handle: Arc<Handle>, info: SessionInfo) -> Self {
        Self {
            handle,
            info: Arc::new(info),
        }
    }

    /// What it was made of.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// The last measured round trip.
    pub fn rtt(&self) -> Option<Duration> {
        self.handle.shared.drive(|state| state.connection.rtt())
    }

    /// How often the server did what it must not: see [`crate::connection::Connection::offences`].
    pub fn offences(&self) -> u64 {
        self.handle
            .shared
            .drive(|state| state.connection.offences())
    }

    /// Opens a connection from the server to `host:port` (RFC 4254 §7.2). The host is sent as it is.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open_direct_tcpip(
        &self,
        host: impl Into<Vec<u8>>,
        port: u16,
        originator: (String, u16),
    ) -> Result<Channel, OpenError> {
        self.open(&Target::Tcp {
            host: host.into(),
            port,
            originator,
        })
        .await
    }

    /// Opens a connection to a Unix socket on the server (OpenSSH PROTOCOL §2.4).
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open_direct_streamlocal(
        &self,
        path: impl Into<Vec<u8>>,
    ) -> Result<Channel, OpenError> {
        self.open(&Target::Unix { path: path.into() }).await
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, target: &Target) -> Result<Channel, OpenError> {
        let (sender, answer) = oneshot::channel();
        let id = self.handle.shared.with(|state| {
            if let Some(error) = &state.ended {
                return Err(OpenError::Ended(error.clone()));
            }
            let State {
                connection,
                transport,
                ..
            } = state;
            let id = connection
                .open(target, Instant::now().into_std(), transport)
                .ok_or(OpenError::TooMany)?;
            if let Some(slot) = state.make_slot(id) {
                slot.opener = Some(sender);
            }
            Ok(id)
        })?;
        // From here on, dropping it closes what may come.
        let channel = Channel::new(Arc::clone(&self.handle), id);
        let deadline = self.handle.options.open;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(Ok(()))) => Ok(channel),
            Ok(Ok(Err((code, text)))) => Err(OpenError::Refused { code, text }),
            Ok(Err(_)) => Err(OpenError::Ended(self.handle.end())),
            Err(_) => Err(OpenError::Timeout(deadline)),
        }
    }

    async fn ask(
        &self,
        deadline: Duration,
        undo: Option<&Listen>,
        ask: impl FnOnce(&mut State) -> Option<RequestId>,
    ) -> Result<Reply, ForwardError> {
        let (sender, answer) = oneshot::channel();
        let id = self.handle.shared.with(|state| {
            if let Some(error) = &state.ended {
                return Err(ForwardError::Ended(error.clone()));
            }
            let id = ask(state).ok_or(ForwardError::Unknown)?;
            state.requests.insert(id, sender);
            Ok(id)
        })?;
        let mut asked = Asked {
            handle: &self.handle,
            id,
            answer,
            undo,
        };
        match tokio::time::timeout(deadline, &mut asked.answer).await {
            Ok(Ok(Reply::Refused)) => Err(ForwardError::Refused),
            Ok(Ok(Reply::Nonsense)) => Err(ForwardError::Nonsense),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(ForwardError::Ended(self.handle.end())),
            Err(_) => Err(ForwardError::Timeout(deadline)),
        }
    }

    /// Asks the server to listen; the port really bound, 0 for a Unix socket. Given up on, a forward that is
    /// granted later is cancelled.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn request_forward(&self, listen: &Listen) -> Result<u16, ForwardError> {
        let reply = self
            .ask(self.handle.options.request, Some(listen), |state| {
                let State {
                    connection,
                    transport,
                    ..
                } = state;
                connection.request_forward(listen, transport)
            })
            .await?;
        match reply {
            Reply::Listening(port) => Ok(port),
            _ => Err(ForwardError::Nonsense),
        }
    }

    /// Asks the server to listen no more. From now on its channels are refused, whatever it says.
    ///
    /// # Errors
    /// What it said.
    pub async fn cancel_forward(&self, listen: &Listen) -> Result<(), ForwardError> {
        self.ask(self.handle.options.request, None, |state| {
            let State {
                connection,
                transport,
                ..
            } = state;
            connection.cancel_forward(listen, transport)
        })
        .await
        .map(|_| ())
    }

    /// Asks for a sign of life; the round trip.
    ///
    /// # Errors
    /// That there is none within the deadline, or the session's end.
    pub async fn ping(&self, deadline: Duration) -> Result<Duration, ForwardError> {
        let reply = self
            .ask(deadline, None, |state| {
                let State {
                    connection,
                    transport,
                    ..
                } = state;
                connection.ping(Instant::now().into_std(), transport)
            })
            .await?;
        match reply {
            Reply::Pong(rtt) => Ok(rtt),
            _ => Err(ForwardError::Nonsense),
        }
    }

    /// The host keys that the server tells of (OpenSSH PROTOCOL §2.5), as wire blobs; none of them proven.
    pub fn host_keys(&self) -> watch::Receiver<Vec<Bytes>> {
        self.handle
            .shared
            .drive(|state| state.host_keys.subscribe())
    }

    /// Asks the server to prove that it holds these host keys (OpenSSH PROTOCOL §2.5): all of them, or none.
    ///
    /// # Errors
    /// Why it is not proven; [`ForwardError::Nonsense`] where a signature is wrong.
    pub async fn prove_host_keys(&self, keys: &[Bytes]) -> Result<(), ForwardError> {
        let reply = self
            .ask(self.handle.options.request, None, |state| {
                let State {
                    connection,
                    transport,
                    ..
                } = state;
                connection.prove_host_keys(keys, transport)
            })
            .await?;
        let Reply::Proof(proof) = reply else {
            return Err(ForwardError::Nonsense);
        };
        let session_id = self
            .handle
            .shared
            .drive(|state| state.transport.session_id().to_vec());
        match prove::holds(&session_id, keys, &proof) {
            true => Ok(()),
            false => Err(ForwardError::Nonsense),
        }
    }

    /// Waits until the session has ended; why.
    pub async fn closed(&self) -> Error {
        self.handle.closed().await
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.handle.shared.ended.borrow().is_some()
    }

    /// Ends it in order, or at once where the server does not listen.
    pub async fn close(&self) {
        self.handle.close().await;
    }
}

/// A request whose asker may go before the answer comes, or before it has seen it.
struct Asked<'a> {
    handle: &'a Handle,
    id: RequestId,
    answer: oneshot::Receiver<Reply>,
    /// What is not to be listened on then.
    undo: Option<&'a Listen>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.handle.shared.with(|state| {
            if state.requests.remove(&self.id).is_some() {
                state.connection.abandon_forward(self.id);
            } else if let Ok(Reply::Listening(_)) = self.answer.try_recv()
                && let Some(listen) = self.undo
            {
                state.connection.undo_forward(listen, &mut state.transport);
            }
        });
    }
}
