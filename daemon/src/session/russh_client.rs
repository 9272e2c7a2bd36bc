//! The SSH client over russh: key exchange, login, channels, forwards, liveness. Of the session's rooms only those
//! named `russh_*` know the library's protocol side. What the far side opens is refused unless an active remote
//! forward asked for it, and is handed on without waiting.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::{ChannelId, ChannelOpenFailure, Disconnect};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::end::{CutOnDrop, End};
use super::host_key::Judge;
use super::russh_channel::{self, Reader, Writer};
use super::russh_forwards::{Forwards, Opened};
use super::russh_handler::{self, Hears};
use super::russh_terms;
use super::wire::{Carrier, Gauge, Wire};
use super::{Established, Incoming, OpenError, Session, SessionInfo};
use crate::addr::{Bind, Listen};
use crate::config::model::{Crypto, Liveness};
use crate::failure::{Failure, FailureKind};
use crate::text;

/// How long a channel open, a global request, and a goodbye may take.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// How many opened connections wait for the floor above.
const INCOMING: usize = 128;

/// What a key exchange agreed on.
#[derive(Debug, Clone, Default)]
pub(super) struct Agreed {
    pub(super) kex: String,
    pub(super) cipher: String,
    pub(super) mac: Option<String>,
    pub(super) host_key: String,
}

/// What the session's tasks and handles share. No lock in it is ever held across an await.
pub(super) struct Shared {
    pub(super) end: Arc<End>,
    tasks: TaskTracker,
    closing: Mutex<HashMap<ChannelId, CancellationToken>>,
    /// The last refusal's text by its code: russh tells the opener the code alone.
    refusals: Mutex<HashMap<u32, String>>,
    pub(super) forwards: Mutex<Forwards>,
    pub(super) agreed: Mutex<Agreed>,
    pub(super) banner: Mutex<String>,
    rtt: Mutex<Option<Duration>>,
}

/// A lock whose holder panicked guards plain data that is still whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(end: Arc<End>) -> Self {
        Self {
            end,
            tasks: TaskTracker::new(),
            closing: Mutex::default(),
            refusals: Mutex::default(),
            forwards: Mutex::default(),
            agreed: Mutex::default(),
            banner: Mutex::default(),
            rtt: Mutex::default(),
        }
    }

    /// Runs `work` as long as the session lives.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let told = self.end.cut_off();
        self.tasks.spawn_on(
            async move {
                tokio::select! {
                    () = work => {}
                    () = told => {}
                }
            },
            &runtime,
        );
    }

    /// A channel has come to be.
    pub(super) fn know_channel(&self, id: ChannelId) -> CancellationToken {
        lock(&self.closing).entry(id).or_default().clone()
    }

    /// The far side closed a channel.
    pub(super) fn close_channel(&self, id: ChannelId) {
        if let Some(token) = lock(&self.closing).remove(&id) {
            token.cancel();
        }
    }

    /// Nobody here holds the channel any more.
    pub(super) fn forget_channel(&self, id: ChannelId) {
        lock(&self.closing).remove(&id);
    }

    fn channel_token(&self, id: ChannelId) -> CancellationToken {
        lock(&self.closing).get(&id).cloned().unwrap_or_else(|| {
            let closed_already = CancellationToken::new();
            closed_already.cancel();
            closed_already
        })
    }

    /// Why the far side opened no channel.
    pub(super) fn note_refusal(&self, code: u32, why: &str) {
        let mut refusals = lock(&self.refusals);
        if refusals.len() < 16 {
            refusals.insert(code, text::escape(why));
        }
    }

    fn refusal(&self, failure: &ChannelOpenFailure) -> OpenError {
        let code = failure.code();
        let text = lock(&self.refusals).remove(&code);
        let text = text.filter(|text| !text.is_empty()).unwrap_or_else(|| {
            match code {
                1 => "administratively prohibited",
                2 => "connect failed",
                3 => "unknown channel type",
                4 => "resource shortage",
                _ => "no reason given",
            }
            .to_owned()
        });
        OpenError::Refused { code, text }
    }

    /// Ends this session when the one that carries it ends, and tells that one's cause.
    fn end_with(&self, name: String, carrier: Session) {
        let end = Arc::clone(&self.end);
        self.spawn(async move {
            let cause = carrier.closed().await;
            end.cut(Failure {
                message: format!("{name}: {}", cause.message),
                ..cause
            });
        });
    }

    fn session_lost(&self) -> OpenError {
        let why = match self.end.cause() {
            Some(cause) => cause.message,
            None => "the connection was lost".to_owned(),
        };
        OpenError::SessionLost(why)
    }

    fn lost(&self) -> Failure {
        self.end
            .cause()
            .unwrap_or_else(|| Failure::new(FailureKind::Disconnected, "the connection was lost"))
    }
}

/// What a connection is made with.
pub(super) struct Terms<'a> {
    pub(super) crypto: &'a Crypto,
    /// Host key algorithms, best first, certificates among them.
    pub(super) host_key_algorithms: &'a [String],
    pub(super) liveness: &'a Liveness,
    pub(super) user: &'a str,
    pub(super) tunnel: &'a str,
}

/// A connection with its keys exchanged and its host key approved.
pub(super) struct Connected {
    pub(super) handle: Handle<Hears>,
    pub(super) shared: Arc<Shared>,
    pub(super) user: String,
    gauge: Arc<Gauge>,
    incoming: mpsc::Receiver<Incoming>,
    liveness: Liveness,
    tunnel: String,
    guard: CutOnDrop,
}

/// Exchanges keys over `carrier`; `judge` says whether the host key is trusted.
pub(super) async fn connect(
    carrier: Box<dyn Carrier>,
    terms: &Terms<'_>,
    judge: Judge,
) -> Result<Connected, Failure> {
    let config = Arc::new(russh_terms::config(terms)?);
    let end = Arc::new(End::default());
    let guard = CutOnDrop::new(Arc::clone(&end));
    let (wire, gauge) = Wire::new(carrier, &end);
    let shared = Arc::new(Shared::new(end));
    let (sender, incoming) = mpsc::channel(INCOMING);
    let hears = Hears::new(Arc::clone(&shared), judge, sender, terms.tunnel);
    let handle = client::connect_stream(config, wire, hears)
        .await
        .map_err(|error| russh_handler::handshake_failure(error, &shared, &gauge))?;
    Ok(Connected {
        handle,
        shared,
        user: terms.user.to_owned(),
        gauge,
        incoming,
        liveness: terms.liveness.clone(),
        tunnel: terms.tunnel.to_owned(),
        guard,
    })
}

impl Connected {
    /// The logged-in session. It keeps alive, and ends with, the session that it goes `over`.
    pub(super) fn establish(
        self,
        auth: String,
        local_addr: Option<SocketAddr>,
        over: Option<(String, Session)>,
    ) -> Established {
        let agreed = lock(&self.shared.agreed).clone();
        let info = SessionInfo {
            server: self.gauge.identification().unwrap_or_default().to_owned(),
            kex: agreed.kex,
            cipher: agreed.cipher,
            mac: agreed.mac,
            host_key: agreed.host_key,
            auth,
            local_addr,
        };
        let keep = over.map(|(name, session)| {
            self.shared.end_with(name, session.clone());
            session
        });
        let client = Client(Arc::new(Inner {
            handle: Arc::new(self.handle),
            shared: self.shared,
            info,
            _keep: keep,
        }));
        client.watch(self.gauge, &self.liveness, &self.tunnel);
        self.guard.disarm();
        Established {
            session: Session(client),
            incoming: self.incoming,
        }
    }
}

struct Inner {
    handle: Arc<Handle<Hears>>,
    shared: Arc<Shared>,
    info: SessionInfo,
    _keep: Option<Session>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.end.cut(Failure::new(
            FailureKind::Disconnected,
            "the session was closed here",
        ));
    }
}

/// A handle to a live session.
#[derive(Clone)]
pub(super) struct Client(Arc<Inner>);

impl Client {
    pub(super) fn info(&self) -> &SessionInfo {
        &self.0.info
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        *lock(&self.0.shared.rtt)
    }

    pub(super) fn end(&self) -> &End {
        &self.0.shared.end
    }

    /// Declares a silent peer dead, and asks it for signs of life before that.
    fn watch(&self, gauge: Arc<Gauge>, liveness: &Liveness, tunnel: &str) {
        let Some(interval) = liveness.interval.filter(|interval| !interval.is_zero()) else {
            return;
        };
        let limit = interval * liveness.count_max.max(1);
        // With one lost sign meaning death, a sign must be asked for before it is due.
        let asking = if liveness.count_max > 1 {
            interval
        } else {
            interval / 2
        };
        let handle = Arc::downgrade(&self.0.handle);
        let shared = Arc::downgrade(&self.0.shared);
        self.0.shared.spawn(async move {
            loop {
                tokio::time::sleep(asking).await;
                let Some(handle) = handle.upgrade() else {
                    return;
                };
                let begun = tokio::time::Instant::now();
                if handle.send_ping().await.is_err() {
                    return;
                }
                drop(handle);
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                *lock(&shared.rtt) = Some(begun.elapsed());
            }
        });
        let shared = Arc::downgrade(&self.0.shared);
        let tunnel = tunnel.to_owned();
        self.0.shared.spawn(async move {
            loop {
                let left = limit.saturating_sub(gauge.silence());
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.max(Duration::from_millis(10))).await;
            }
            tracing::info!(tunnel, "the server has been silent for {limit:?}");
            if let Some(shared) = shared.upgrade() {
                shared.end.cut(Failure::new(
                    FailureKind::DeadPeer,
                    format!("nothing was heard from the server for {limit:?}"),
                ));
            }
        });
    }

    async fn open(
        &self,
        opening: impl Future<Output = Result<russh::Channel<Msg>, russh::Error>> + Send + 'static,
    ) -> Result<(Reader, Writer), OpenError> {
        let shared = &self.0.shared;
        if shared.end.is_told() {
            return Err(shared.session_lost());
        }
        let (sender, opened) = oneshot::channel();
        let held = Arc::clone(shared);
        // A task of its own, so that a channel that opens too late is closed and not lost.
        shared.spawn(async move {
            let done = opening.await.map(|channel| {
                let token = held.channel_token(channel.id());
                russh_channel::halves(channel, token, held)
            });
            let _too_late = sender.send(done);
        });
        let opened = tokio::select! {
            opened = timeout(OPEN_LIMIT, opened) => opened,
            _ = shared.end.wait() => return Err(shared.session_lost()),
        };
        match opened {
            Ok(Ok(Ok(halves))) => Ok(halves),
            Ok(Ok(Err(russh::Error::ChannelOpenFailure(failure)))) => Err(shared.refusal(&failure)),
            Ok(_) => Err(shared.session_lost()),
            Err(_) => Err(OpenError::Timeout(OPEN_LIMIT)),
        }
    }

    pub(super) async fn open_direct_tcpip(
        &self,
        host: &str,
        port: u16,
        originator: Option<SocketAddr>,
    ) -> Result<(Reader, Writer), OpenError> {
        let handle = Arc::clone(&self.0.handle);
        let host = host.to_owned();
        let (from, from_port) = match originator {
            Some(address) => (address.ip().to_string(), u32::from(address.port())),
            None => ("127.0.0.1".to_owned(), 0),
        };
        self.open(async move {
            handle
                .channel_open_direct_tcpip(host, u32::from(port), from, from_port)
                .await
        })
        .await
    }

    pub(super) async fn open_direct_streamlocal(
        &self,
        path: &str,
    ) -> Result<(Reader, Writer), OpenError> {
        let handle = Arc::clone(&self.0.handle);
        let path = path.to_owned();
        self.open(async move { handle.channel_open_direct_streamlocal(path).await })
            .await
    }

    /// A global request, bounded in time.
    async fn request<T>(
        &self,
        what: &str,
        asking: impl Future<Output = Result<T, russh::Error>>,
    ) -> Result<T, Failure> {
        let shared = &self.0.shared;
        let answered = tokio::select! {
            answered = timeout(REQUEST_LIMIT, asking) => answered,
            lost = shared.end.wait() => return Err(lost),
        };
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(russh::Error::RequestDenied)) => Err(Failure::new(
                FailureKind::RemoteForwardRefused,
                format!("the server refused {what}"),
            )
            .hint(
                "its port may be taken (by an older session of this tunnel too), or sshd's AllowTcpForwarding, \
                 AllowStreamLocalForwarding, GatewayPorts or PermitListen forbid it",
            )),
            Ok(Err(_)) => Err(shared.lost()),
            Err(_) => Err(Failure::new(
                FailureKind::RemoteForwardRefused,
                format!("the server did not answer to {what} within {REQUEST_LIMIT:?}"),
            )),
        }
    }

    pub(super) async fn request_forward(&self, listen: &Listen) -> Result<u16, Failure> {
        let forwards = &self.0.shared.forwards;
        lock(forwards).ask(listen);
        let asked = self.ask_forward(listen).await;
        let waiting = lock(forwards).answered(listen, asked.as_ref().ok().copied());
        for (found, opened) in waiting {
            opened.pass_on(found, &self.0.shared);
        }
        asked
    }

    async fn ask_forward(&self, listen: &Listen) -> Result<u16, Failure> {
        let what = format!("to listen on {}", text::escape(&listen.to_string()));
        let handle = &self.0.handle;
        match listen {
            Listen::Tcp { bind, port } => {
                let asking = handle.tcpip_forward(bind_text(bind), u32::from(*port));
                let bound = self.request(&what, asking).await?;
                if *port != 0 {
                    return Ok(*port);
                }
                u16::try_from(bound)
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or_else(|| {
                        Failure::new(
                            FailureKind::RemoteForwardRefused,
                            format!("the server granted {what} and told no port"),
                        )
                    })
            }
            Listen::Unix(path) => {
                let asking = handle.streamlocal_forward(path.to_string_lossy());
                self.request(&what, asking).await.map(|()| 0)
            }
        }
    }

    pub(super) async fn cancel_forward(&self, listen: &Listen) -> Result<(), Failure> {
        let Some(bound) = lock(&self.0.shared.forwards).cancel(listen) else {
            return Ok(());
        };
        let what = format!("to listen on {} no more", text::escape(&listen.to_string()));
        let handle = &self.0.handle;
        match listen {
            Listen::Tcp { bind, .. } => {
                let asking = handle.cancel_tcpip_forward(bind_text(bind), u32::from(bound));
                self.request(&what, asking).await
            }
            Listen::Unix(path) => {
                let asking = handle.cancel_streamlocal_forward(path.to_string_lossy());
                self.request(&what, asking).await
            }
        }
    }

    pub(super) async fn ping(&self, deadline: Duration) -> Result<Duration, Failure> {
        let shared = &self.0.shared;
        let begun = tokio::time::Instant::now();
        let answered = tokio::select! {
            answered = timeout(deadline, self.0.handle.send_ping()) => answered,
            lost = shared.end.wait() => return Err(lost),
        };
        match answered {
            Ok(Ok(())) if !shared.end.is_told() => {
                let rtt = begun.elapsed();
                *lock(&shared.rtt) = Some(rtt);
                Ok(rtt)
            }
            Ok(_) => Err(shared.lost()),
            Err(_) => Err(Failure::new(
                FailureKind::DeadPeer,
                format!("the server gave no sign of life within {deadline:?}"),
            )),
        }
    }

    pub(super) async fn close(&self) {
        let shared = &self.0.shared;
        shared.end.tell(Failure::new(
            FailureKind::Disconnected,
            "the session was closed here",
        ));
        let goodbye = self
            .0
            .handle
            .disconnect(Disconnect::ByApplication, "closed", "");
        let done = timeout(GOODBYE_LIMIT, async {
            if goodbye.await.is_ok() {
                while !self.0.handle.is_closed() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        let _in_order_or_not = done.await;
        shared.end.cut(shared.lost());
    }
}

fn bind_text(bind: &Bind) -> &str {
    match bind {
        Bind::Loopback => "localhost",
        Bind::Any => "",
        Bind::Host(host) => host,
    }
}

/// Takes a channel that the far side opened.
pub(super) async fn accept(opened: Opened, shared: &Arc<Shared>) -> Option<(Reader, Writer)> {
    if shared.end.is_told() {
        return None;
    }
    let Opened { channel, reply, .. } = opened;
    let token = shared.know_channel(channel.id());
    reply.accept().await;
    Some(russh_channel::halves(channel, token, Arc::clone(shared)))
}

/// Refuses a channel that the far side opened.
pub(super) async fn refuse(opened: Opened) {
    opened.reply.reject(ChannelOpenFailure::ConnectFailed).await;
}
