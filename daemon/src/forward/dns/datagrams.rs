//! DNS over UDP: receives the datagrams of clients, and sends answers that fit.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use super::{ClientQuery, QuerySender, ReplyPath};
use crate::dns::{ExtendedError, MAX_QUERY_LEN, Query, QueryOutcome, ResponseCode, fit_datagram};
use crate::forward::context::ForwardContext;
use crate::forward::counters::Counters;
use crate::forward::forward_state::ForwardCell;
use crate::forward::ssh_session::SshSession;

/// The pause after a failed receive, whose cause may persist.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);
/// The longest datagram of IPv4, in bytes of payload.
const MAX_DATAGRAM: usize = 65_507;
/// The longest answer to another machine, in bytes, whatever it asks for: longer datagrams are fragmented on the way, and
/// fragments get lost or forged (RFC 9715).
const MAX_REMOTE_DATAGRAM: usize = 1232;

/// Receives queries on `sockets` and passes them to the resolver, for ever. Without sockets it only waits.
pub(in crate::forward) async fn receive_datagrams<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    sockets: &[Arc<UdpSocket>],
    queries: Option<&QuerySender>,
) {
    let Some(queries) = queries else {
        return std::future::pending().await;
    };
    // One byte more than a query may have, so that a longer one is not taken for a whole one.
    let mut buffer = vec![0; MAX_QUERY_LEN + 1];
    loop {
        let (socket, received) = poll_fn(|cx| poll_receive(sockets, cx, &mut buffer)).await;
        match received {
            Ok((len, peer)) => {
                let message = buffer.get(..len).unwrap_or_default();
                take_query(context, cell, socket, peer, message, queries).await;
            }
            // Windows reports here that an earlier answer found no listener.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => {
                context.warn_throttled(&format!(
                    "cannot receive DNS queries on {}: {error}",
                    cell.listen()
                ));
                tokio::time::sleep(RECEIVE_PAUSE).await;
            }
        }
    }
}

type Received<'a> = (&'a Arc<UdpSocket>, io::Result<(usize, SocketAddr)>);

/// Receives from the first socket that has a datagram. Registers the task with all of them if none has one.
fn poll_receive<'a>(
    sockets: &'a [Arc<UdpSocket>],
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<Received<'a>> {
    for socket in sockets {
        let mut into = ReadBuf::new(buffer);
        if let Poll::Ready(received) = socket.poll_recv_from(cx, &mut into) {
            let len = into.filled().len();
            return Poll::Ready((socket, received.map(|peer| (len, peer))));
        }
    }
    Poll::Pending
}

async fn take_query<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    socket: &Arc<UdpSocket>,
    peer: SocketAddr,
    message: &[u8],
    queries: &QuerySender,
) {
    let query = match Query::parse(message) {
        QueryOutcome::Forward(query) => query,
        QueryOutcome::Answer(answer) => return send(socket, peer, &answer, &cell.counters),
        QueryOutcome::Ignore => return,
    };
    let Some(counted) = context.try_count_connection(cell) else {
        let why = ExtendedError::network("tunneld: too many queries at a time");
        let answer = query.error(ResponseCode::ServerFailure, Some(why));
        return send(socket, peer, &answer, &cell.counters);
    };
    let query = ClientQuery {
        query,
        client: peer.ip(),
        reply: ReplyPath::Datagram {
            socket: Arc::clone(socket),
            peer,
            _counted: counted,
        },
    };
    // The resolver ends only together with this future.
    let _ = queries.send(query).await;
}

/// Sends an answer, shortened to what the client takes.
pub(super) fn send_answer(
    socket: &UdpSocket,
    peer: SocketAddr,
    query: &Query,
    answer: Vec<u8>,
    counters: &Counters,
) {
    let longest = if peer.ip().to_canonical().is_loopback() {
        MAX_DATAGRAM
    } else {
        MAX_REMOTE_DATAGRAM
    };
    let answer = fit_datagram(answer, query.datagram_size().min(longest));
    send(socket, peer, &answer, counters);
}

/// Sends a datagram without waiting. One that cannot be sent is lost, as any datagram may be: the client asks again.
fn send(socket: &UdpSocket, peer: SocketAddr, message: &[u8], counters: &Counters) {
    if socket.try_send_to(message, peer).is_ok() {
        counters.add_in(message.len());
    }
}
