//! The connection to the origin of a proxied request: a channel that hyper speaks HTTP/1.1 over.
//!
//! Each client connection has at most one, for the destination of its last request. It is never shared between clients:
//! NTLM and other logins are bound to a connection, and a pool would give one client the login of another.

use std::sync::Arc;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::counted_channel::CountedChannel;
use super::request_body::RequestBody;
use crate::dynamic::http::request::Destination;
use crate::forward::context::ForwardContext;
use crate::forward::counters::Counters;
use crate::forward::hold::OpenedChannel;
use crate::forward::ssh_session::SshSession;

/// The longest header section that is accepted from a client or an origin, in bytes. Kerberos tickets fill tens of KiB.
pub(super) const MAX_HEAD: usize = 128 * 1024;
/// Header fields in one message.
pub(super) const MAX_HEADERS: usize = 500;

/// A connection to an origin that can take the next request.
pub(super) struct Upstream<S> {
    pub(super) destination: Destination,
    pub(super) session: S,
    pub(super) sender: SendRequest<RequestBody>,
}

impl<S: SshSession> Upstream<S> {
    /// Starts HTTP on an open channel. The connection's task ends when the sender is dropped and the last response has
    /// been read.
    ///
    /// # Errors
    /// The channel has ended.
    pub(super) async fn start(
        context: &ForwardContext<S>,
        counters: Arc<Counters>,
        destination: Destination,
        opened: OpenedChannel<S>,
    ) -> hyper::Result<Self> {
        let io = TokioIo::new(CountedChannel {
            channel: opened.channel,
            counters,
        });
        // Origins are lenient with each other's mistakes and so are browsers; a proxy that is not breaks pages.
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD)
            .handshake(io)
            .await?;
        context.spawn(async move {
            // Its errors reach the request that was under way.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self {
            destination,
            session: opened.session,
            sender,
        })
    }

    /// Returns whether the next request to `destination` can use this connection. Waits for the end of the previous
    /// exchange.
    pub(super) async fn is_usable_for(&mut self, destination: &Destination) -> bool {
        self.destination == *destination
            && !self.session.is_closed()
            && self.sender.ready().await.is_ok()
    }
}
