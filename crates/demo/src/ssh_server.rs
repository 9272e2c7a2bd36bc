//! The demo's SSH server: one key logs in, connections go to loopback alone, and the line can be cut.
//!
//! The only file beside `session` that names the SSH library: it is the other end, which tunneld has no use for.

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

/// A name that this server alone knows.
pub(crate) const FAR_HOST: &str = "web.demo";

/// The running server; its drop ends it.
pub(crate) struct SshServer {
    address: SocketAddr,
    cuts: watch::Sender<()>,
    _accepting: JoinSet<()>,
}

/// What all connections share.
struct Shared {
    user_key: PublicKey,
    page: SocketAddr,
    /// The port of the remote forward: the same one again after a cut.
    remote_port: AtomicU16,
}

impl SshServer {
    /// Listens on a free loopback port; `page` is what [`FAR_HOST`] leads to.
    pub(crate) async fn start(
        host_key: PrivateKey,
        user_key: PublicKey,
        page: SocketAddr,
    ) -> std::io::Result<Self> {
        let config = Arc::new(Config {
            keys: vec![host_key],
            nodelay: true,
            // The first look at what logins there are needs no penalty.
            auth_rejection_time_initial: Some(Duration::ZERO),
            ..Config::default()
        });
        let shared = Arc::new(Shared {
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

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection that stands.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<Config>,
    shared: Arc<Shared>,
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

/// One connection: the library gets a pipe, so that the socket stays in a hand that can cut it.
async fn serve(
    mut stream: TcpStream,
    config: Arc<Config>,
    shared: Arc<Shared>,
    mut cuts: watch::Receiver<()>,
) {
    cuts.mark_unchanged();
    let (near, mut far) = tokio::io::duplex(256 * 1024);
    let connection = Connection {
        shared,
        tasks: JoinSet::new(),
        listening: None,
    };
    let session = run_stream(config, near, connection);
    let carried = async {
        let (session, _) = tokio::join!(
            async { session.await.ok()?.await.ok() },
            tokio::io::copy_bidirectional(&mut stream, &mut far)
        );
        session
    };
    tokio::select! {
        _ = carried => {}
        _ = cuts.changed() => {}
    }
    // A reset, as a broken line gives it.
    let _ = stream.set_zero_linger();
}

/// The far side of one connection.
struct Connection {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    listening: Option<JoinSet<()>>,
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = key.public_key.key_data() == self.shared.user_key.key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
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
            (FAR_HOST, Ok(80)) => Some(self.shared.page),
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
                    carry(channel, stream).await;
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
        let wanted = match *port {
            0 => self.shared.remote_port.load(Ordering::Relaxed),
            port => u16::try_from(port).unwrap_or_default(),
        };
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).await else {
            return Ok(false);
        };
        let bound = listener.local_addr()?.port();
        self.shared.remote_port.store(bound, Ordering::Relaxed);
        *port = bound.into();
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(
            listener,
            session.handle(),
            address.to_owned(),
            bound.into(),
        ));
        self.listening = Some(tasks);
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        _: &str,
        _: u32,
        _: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.listening.take().is_some())
    }
}

/// Passes what connects to the listener on to the client.
async fn forward(listener: TcpListener, handle: Handle, address: String, port: u32) {
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, peer)) = listener.accept() => {
                let (handle, address) = (handle.clone(), address.clone());
                carried.spawn(async move {
                    let ip = peer.ip().to_string();
                    let open = handle.channel_open_forwarded_tcpip(address, port, ip, peer.port().into());
                    if let Ok(channel) = open.await {
                        carry(channel, stream).await;
                    }
                });
            }
            Some(_) = carried.join_next() => {}
        }
    }
}

async fn carry(channel: Channel<Msg>, mut stream: TcpStream) {
    let mut channel = channel.into_stream();
    // Either end may go at any time.
    let _ = tokio::io::copy_bidirectional(&mut channel, &mut stream).await;
}
