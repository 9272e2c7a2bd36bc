//! The HTTP proxy of a dynamic forward: CONNECT, `http://` requests in absolute-form, upgrades such as WebSocket, and the
//! pages of the proxy itself. hyper speaks HTTP on both sides; the rules are in [`crate::dynamic::http`].
//!
//! One task serves one client. CONNECT and upgrades leave hyper and end up in the same [`Relay`] as every other
//! connection. A client that sends a request while the tunnel is away is held like any other.

mod answer;
mod client_stream;
mod counted_channel;
mod exchange;
mod request_body;
mod response_body;
mod upstream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::client_stream::ClientStream;
use self::counted_channel::CountedChannel;
use self::upstream::{MAX_HEAD, MAX_HEADERS, Upstream};
use super::admission::Ticket;
use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::hold::OpenedChannel;
use super::local_socket::LocalSocket;
use super::relay::Relay;
use super::ssh_session::SshSession;

/// How long a client may take to send the header section of a request, and how long a connection may be idle between
/// two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the rest of a rejected request is read and discarded. Closing a socket with unread data resets it, and the
/// client might then never see the response (RFC 9112 §9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of the proxy.
struct ProxyClient<S: SshSession> {
    context: Arc<ForwardContext<S>>,
    cell: Arc<ForwardCell>,
    /// Ends requests that wait for a session or a channel.
    cancel: CancellationToken,
    socket: Arc<LocalSocket>,
    /// The connection to the origin of the last request. `None` before the first, and while a request uses it.
    upstream: Mutex<Option<Upstream<S>>>,
    /// What the connection becomes when hyper has sent the response that accepts it.
    accepted: Mutex<Option<Accepted<S>>>,
    /// Its place among the clients that have not sent a complete request. `None` from the first one on.
    ticket: Mutex<Option<Ticket>>,
}

/// A connection that becomes a byte stream.
enum Accepted<S: SshSession> {
    /// By CONNECT.
    Connect {
        client: OnUpgrade,
        opened: OpenedChannel<S>,
    },
    /// By a 101 response of the origin.
    Upgrade {
        client: OnUpgrade,
        upstream: OnUpgrade,
        session: S,
    },
}

/// Why a client gets no response: its connection is reset.
#[derive(Debug, thiserror::Error)]
#[error("the client is gone, or its connection is reset")]
struct NoResponse;

/// Serves a client whose first bytes, `first`, are the beginning of an HTTP request.
pub(super) async fn serve<S: SshSession>(
    context: &Arc<ForwardContext<S>>,
    cell: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    socket: LocalSocket,
    first: Vec<u8>,
    ticket: Ticket,
) {
    let evicted = ticket.eviction();
    let socket = Arc::new(socket);
    let client = Arc::new(ProxyClient {
        context: Arc::clone(context),
        cell: Arc::clone(cell),
        cancel: cancel.clone(),
        socket: Arc::clone(&socket),
        upstream: Mutex::new(None),
        accepted: Mutex::new(None),
        ticket: Mutex::new(Some(ticket)),
    });
    let finished = tokio::select! {
        finished = run(&client, first) => finished,
        // Only while the first head is incomplete: clients that send a few bytes must not shut others out. The client is
        // reset.
        () = evicted.cancelled() => return,
    };
    let accepted = client.accepted.lock().take();
    // The upstream connection and the other handles of the socket end here.
    drop(client);
    match accepted {
        Some(accepted) => {
            // Only the handle inside hyper's upgraded connection is left then.
            drop(socket);
            relay(cell, accepted).await;
        }
        None => end(socket, finished).await,
    }
}

/// Speaks HTTP with the client until the connection ends or becomes a byte stream.
async fn run<S: SshSession>(client: &Arc<ProxyClient<S>>, first: Vec<u8>) -> hyper::Result<()> {
    let io = TokioIo::new(ClientStream {
        socket: Arc::clone(&client.socket),
        first,
    });
    let service = service_fn(|request| {
        let client = Arc::clone(client);
        client.ticket.lock().take();
        async move { client.handle(request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        // A `Date` of ours would hide that the origin sent none.
        .auto_date_header(false)
        .preserve_header_case(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        // A client may end its side after the request, as with `nc -N`, and still gets the response.
        .half_close(true)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        finished = connection.as_mut() => return finished,
        () = client.cancel.cancelled() => {}
    }
    // The forward is removed: an exchange that is under way may finish, as relayed connections may.
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Closes the connection in order where the client has a complete response, and resets it where it does not.
async fn end(socket: Arc<LocalSocket>, finished: hyper::Result<()>) {
    let in_order = match &finished {
        Ok(()) => true,
        // hyper has answered an invalid request itself; an idle client or one that left half a request needs no answer.
        Err(error) => error.is_parse() || error.is_timeout() || error.is_incomplete_message(),
    };
    if let Err(error) = &finished {
        debug!("an HTTP client's connection ended: {error}");
    }
    // Another handle can only be left after a bug; then the connection is reset.
    if let Ok(socket) = Arc::try_unwrap(socket)
        && in_order
    {
        let _ = socket.shutdown_write();
        let _ = timeout(LINGER_TIMEOUT, discard(&socket)).await;
        socket.close();
    }
}

async fn discard(socket: &LocalSocket) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        socket.readable().await?;
        match socket.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Relays a connection that has left HTTP.
async fn relay<S: SshSession>(cell: &ForwardCell, accepted: Accepted<S>) {
    match accepted {
        Accepted::Connect { client, opened } => {
            let Some((local, first)) = client_stream(client).await else {
                return;
            };
            let relay = Relay {
                local,
                channel: opened.channel,
                session: &opened.session,
                first_to_channel: first,
                first_to_local: Vec::new(),
                counters: &cell.counters,
            };
            relay.run().await;
        }
        Accepted::Upgrade {
            client,
            upstream,
            session,
        } => {
            let Some((local, first)) = client_stream(client).await else {
                return;
            };
            let Some((channel, first_from_origin)) = channel::<S>(upstream).await else {
                return;
            };
            let relay = Relay {
                local,
                channel,
                session: &session,
                first_to_channel: first,
                first_to_local: first_from_origin,
                counters: &cell.counters,
            };
            relay.run().await;
        }
    }
}

/// Returns the client's socket and what the client has sent behind its request. `None` if the connection ended before
/// the response was sent.
async fn client_stream(upgrade: OnUpgrade) -> Option<(LocalSocket, Vec<u8>)> {
    let Parts { io, read_buf, .. } = upgrade
        .await
        .ok()?
        .downcast::<TokioIo<ClientStream>>()
        .ok()?;
    let ClientStream { socket, mut first } = io.into_inner();
    // hyper reads ahead, so its buffer is older than what it left in the stream.
    first.splice(..0, read_buf);
    Some((Arc::try_unwrap(socket).ok()?, first))
}

/// Returns the channel to the origin and what the origin has sent behind its 101 response.
async fn channel<S: SshSession>(upgrade: OnUpgrade) -> Option<(S::Channel, Vec<u8>)> {
    let Parts { io, read_buf, .. } = upgrade
        .await
        .ok()?
        .downcast::<TokioIo<CountedChannel<S::Channel>>>()
        .ok()?;
    Some((io.into_inner().channel, read_buf.to_vec()))
}
