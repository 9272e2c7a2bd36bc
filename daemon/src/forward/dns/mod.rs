//! DNS forwards (`dns_listen`): clients ask over UDP (`datagrams`) and TCP (`client`), and one task per forward (`resolver`)
//! asks the server at the far side over one SSH channel that stays open (RFC 7766). The messages are in [`crate::dns`].
//!
//! Every query gets an answer within [`QUERY_TIMEOUT`]: SERVFAIL if there is no better one. A client that gets none waits
//! for 5 seconds and longer, and asks again and again.

mod client;
mod datagrams;
mod resolver;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

pub(super) use self::client::serve_client;
pub(super) use self::datagrams::receive_datagrams;
pub(super) use self::resolver::Resolver;
use super::counters::CountGuard;
use crate::dns::Query;

/// How long a query may take, the wait for a session included. The resolver of glibc gives up after 5 seconds: the answer
/// has to be there before.
const QUERY_TIMEOUT: Duration = Duration::from_millis(4500);
/// Queries that wait for the resolver to take them. It takes them at once, so that they wait only while it is not scheduled.
const QUEUE_LEN: usize = 256;

/// Sends queries to the resolver of a forward.
pub(super) type QuerySender = mpsc::Sender<ClientQuery>;

/// A query and where its answer goes.
pub(super) struct ClientQuery {
    query: Query,
    client: IpAddr,
    reply: ReplyPath,
}

/// Where an answer goes.
enum ReplyPath {
    /// To a client over UDP.
    Datagram {
        socket: Arc<UdpSocket>,
        peer: SocketAddr,
        /// A query over UDP counts as a connection until it is answered.
        _counted: CountGuard,
    },
    /// To the task of a client over TCP.
    Stream(mpsc::Sender<StreamAnswer>),
}

/// An answer for a client over TCP.
struct StreamAnswer {
    message: Vec<u8>,
    /// The answer's share of the memory that answers may use until they are written. `None` for short ones that are made
    /// here.
    _memory: Option<OwnedSemaphorePermit>,
}
