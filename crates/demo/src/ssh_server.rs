//! The demo's SSH server: it accepts one key, forwards to loopback addresses only, and can cut its connections.
//!
//! It uses russh, because `tunneld-ssh` has no server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use russh::keys::{PrivateKey, PublicKey};
use russh::server::{Auth, Config, Handle, Handler, Msg, Session, VerifiedPublicKey, run_stream};
use russh::{Channel, ChannelOpenFailure};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Host name that only this server resolves: the page behind it.
pub(crate) const PAGE_HOST: &str = "web.demo";

/// Running server; dropping it closes the listener and all connections.
pub(crate) struct SshServer {
    address: SocketAddr,
    /// A change cuts all connections.
    cuts: watch::Sender<()>,
    _accepting: JoinSet<()>,
}

/// State shared by all connections.
struct ServerState {
    user_key: PublicKey,
    page: SocketAddr,
    /// Port of the last remote forward, 0 before the first. A client that asks for any port gets this one again, so that
    /// the address shown to the user stays valid after a cut.
    remote_port: AtomicU16,
}

impl SshServer {
    /// Starts to listen on a free loopback port. `page` is the address of [`PAGE_HOST`].
    pub(crate) async fn start(
        host_key: PrivateKey,
        user_key: PublicKey,
        page: SocketAddr,
    ) -> std::io::Result<Self> {
        let config = Arc::new(Config {
            keys: vec![host_key],
            nodelay: true,
            // A client's first request asks for the methods (`none`, RFC 4252 §5.2) and is always rejected: without
            // delay, or every login would be slow.
            auth_rejection_time_initial: Some(Duration::ZERO),
            ..Config::default()
        });
        let shared = Arc::new(ServerState {
            user_key,
            page,
            remote_port: AtomicU16::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let cuts = watch::Sender::new(());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, config, shared, cuts.clone()));
        Ok(Self {
            address,
            cuts,
            _accepting: accepting,
        })
    }

    /// Returns the address of the listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections that are open now.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<Config>,
    shared: Arc<ServerState>,
    cuts: watch::Sender<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let connection = serve(stream, config.clone(), shared.clone(), cuts.subscribe());
                connections.spawn(connection);
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection. russh gets a pipe and not the socket itself, so that the socket can be reset from here.
async fn serve(
    mut stream: TcpStream,
    config: Arc<Config>,
    shared: Arc<ServerState>,
    mut cuts: watch::Receiver<()>,
) {
    cuts.mark_unchanged();
    let (ssh_end, mut socket_end) = tokio::io::duplex(256 * 1024);
    let connection = ServerConnection {
        shared,
        tasks: JoinSet::new(),
        remote_forward: None,
    };
    let session = run_stream(config, ssh_end, connection);
    let relaying = async {
        let (session, _) = tokio::join!(
            async { session.await.ok()?.await.ok() },
            tokio::io::copy_bidirectional(&mut stream, &mut socket_end)
        );
        session
    };
    tokio::select! {
        _ = relaying => {}
        _ = cuts.changed() => {}
    }
    // With SO_LINGER 0 the close sends RST instead of FIN, as after a broken network path.
    let _ = stream.set_zero_linger();
}

/// Handler of one connection.
struct ServerConnection {
    shared: Arc<ServerState>,
    tasks: JoinSet<()>,
    /// Task of the remote forward; `None` if there is none.
    remote_forward: Option<JoinSet<()>>,
}

impl Handler for ServerConnection {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let accepted = key.public_key.key_data() == self.shared.user_key.key_data();
        Ok(if accepted {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: russh::server::ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let target = match (host, u16::try_from(port)) {
            (PAGE_HOST, Ok(80)) => Some(self.shared.page),
            ("127.0.0.1" | "localhost", Ok(port)) => Some((Ipv4Addr::LOCALHOST, port).into()),
            _ => None,
        };
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(async move {
            let Some(target) = target else {
                return reply
                    .reject(ChannelOpenFailure::AdministrativelyProhibited)
                    .await;
            };
            match TcpStream::connect(target).await {
                Ok(stream) => {
                    reply.accept().await;
                    relay(channel, stream).await;
                }
                Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let requested = match *port {
            0 => self.shared.remote_port.load(Ordering::Relaxed),
            port => u16::try_from(port).unwrap_or_default(),
        };
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, requested)).await else {
            return Ok(false);
        };
        let bound = listener.local_addr()?.port();
        self.shared.remote_port.store(bound, Ordering::Relaxed);
        *port = bound.into();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_remote_forward(
            listener,
            session.handle(),
            address.to_owned(),
            bound.into(),
        ));
        self.remote_forward = Some(tasks);
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        _: &str,
        _: u32,
        _: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.remote_forward.take().is_some())
    }
}

/// Accepts connections of a remote forward and opens a channel to the client for each.
async fn serve_remote_forward(listener: TcpListener, handle: Handle, address: String, port: u32) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, peer)) = listener.accept() => {
                let (handle, address) = (handle.clone(), address.clone());
                connections.spawn(async move {
                    let ip = peer.ip().to_string();
                    let open = handle.channel_open_forwarded_tcpip(address, port, ip, peer.port().into());
                    if let Ok(channel) = open.await {
                        relay(channel, stream).await;
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(channel: Channel<Msg>, mut stream: TcpStream) {
    let mut channel = channel.into_stream();
    // An error is normal: either side may disconnect at any time.
    let _ = tokio::io::copy_bidirectional(&mut channel, &mut stream).await;
}
