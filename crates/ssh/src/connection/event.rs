//! What a connection reports to its owner.

use bytes::Bytes;

use super::{ChannelId, GlobalReply, RemoteListen, RequestId};

/// Something that the owner of a [`Connection`](super::Connection) has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// The server confirmed a channel that we opened.
    Opened(ChannelId),
    /// The server refused a channel that we opened. Drop its reader and writer to free the number.
    OpenFailed {
        /// The channel that was refused.
        channel: ChannelId,
        /// Reason code of RFC 4254 §5.1, such as 2 for a target that refused the connection.
        code: u32,
        /// The server's text, cut to 1 KiB and not escaped.
        text: String,
    },
    /// There is something to read: bytes, EOF or a reset.
    Readable(ChannelId),
    /// The window has grown, or the channel was closed.
    Writable(ChannelId),
    /// The server opened a channel: accept or refuse it.
    Incoming(OpenRequest),
    /// The server answered a global request of ours.
    Reply(RequestId, GlobalReply),
    /// The host keys that the server announces (OpenSSH PROTOCOL §2.5), as wire blobs; nothing is proven.
    HostKeys(Vec<Bytes>),
}

/// A channel that the server opens for one of our remote forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRequest {
    /// The channel to accept or refuse.
    pub channel: ChannelId,
    /// The forward, as it was requested.
    pub listen: RemoteListen,
    /// The port that the server bound; 0 for a Unix socket.
    pub bound_port: u16,
    /// `address:port` of the connecting side as the server claims it; not escaped. Empty for a Unix socket.
    pub originator: String,
}
