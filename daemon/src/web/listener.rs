//! Listens on `http_listen`, and on another address as soon as the configuration says so.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tunneld_config::addr::ListenAddr;
use tunneld_config::model::{DaemonConfig, Forwarding};

use super::site::{Site, Sources};
use crate::forward::{ForwardListener, LocalSocket};

/// Clients that are served at the same time. Further ones wait in the kernel's queue.
const MAX_CLIENTS: usize = 64;
/// How long a client may take for the header section of a request, and be idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last: a client that does not read its answer must not keep its place.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
/// Delay after a failed bind or accept.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The task that serves `http_listen`.
pub struct HttpListen {
    sources: Sources,
    config: watch::Receiver<DaemonConfig>,
}

impl HttpListen {
    /// Creates the task. `config` has `[daemon]` as it is in force.
    pub fn new(sources: Sources, config: watch::Receiver<DaemonConfig>) -> Self {
        Self { sources, config }
    }

    /// Serves until `stopping` is cancelled.
    pub async fn run(mut self, stopping: CancellationToken) {
        loop {
            let config = self.config.borrow_and_update().clone();
            let serve = serve(&self.sources, &config);
            tokio::select! {
                () = stopping.cancelled() => return,
                () = serve => {}
                changed = changed(&mut self.config, &config) => if !changed {
                    return;
                },
            }
        }
    }
}

/// Waits until the keys of `http_listen` differ from those in `config`. Returns false if the daemon stops.
async fn changed(receiver: &mut watch::Receiver<DaemonConfig>, config: &DaemonConfig) -> bool {
    let differs =
        |new: &DaemonConfig| new.http_listen != config.http_listen || new.metrics != config.metrics;
    receiver.wait_for(differs).await.is_ok()
}

/// Serves on the address of `config`. Never returns; a caller that drops it ends all connections.
async fn serve(sources: &Sources, config: &DaemonConfig) {
    let Some(address) = &config.http_listen else {
        return std::future::pending().await;
    };
    let listener = bind(address).await;
    let bound = listener.bound_addr();
    tracing::info!(listen = bound.listen, "http_listen: listening");
    if bound.exposed {
        tracing::warn!(
            listen = bound.listen,
            "EXPOSED: other machines can read the names and states of tunnels at http_listen"
        );
    }
    let is_tcp = matches!(address, ListenAddr::Tcp { .. });
    let site = Arc::new(Site {
        sources: sources.clone(),
        loopback_port: (is_tcp && !bound.exposed).then_some(bound.port),
        has_metrics: config.metrics,
    });
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok(socket) => {
                let site = Arc::clone(&site);
                clients.spawn(async move {
                    let _place = place;
                    let _ =
                        tokio::time::timeout(CONNECTION_LIMIT, serve_client(socket, site)).await;
                });
            }
            Err(error) => {
                tracing::debug!("http_listen: cannot accept a client: {error}");
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Binds the address, as soon as that is possible.
async fn bind(address: &ListenAddr) -> ForwardListener {
    let options = Forwarding {
        exit_on_failure: false,
        unlink_socket: false,
        socket_mask: 0o177,
        max_connections: 0,
        permit_remote_open: Vec::new(),
        proxy_login: None,
    };
    let mut logged = None;
    loop {
        match ForwardListener::bind(address, &options).await {
            Ok(listener) => return listener,
            Err(failure) if logged.as_ref() == Some(&failure) => {}
            Err(failure) => {
                tracing::warn!("http_listen: {failure}; retrying in the background");
                logged = Some(failure);
            }
        }
        sleep(RETRY_DELAY).await;
    }
}

async fn serve_client(socket: LocalSocket, site: Arc<Site>) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let answer = site.answer(request.method(), request.uri().path(), request.headers());
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket.closing_in_order()), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("http_listen: a client's connection ended: {error}");
    }
}
