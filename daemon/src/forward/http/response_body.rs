//! The body of an origin's response on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;

/// An origin's body.
pub(super) struct OriginBody {
    body: Incoming,
    /// Keeps a request body that the origin did not want pending until this body has been read: an error of the one
    /// would end the connection that carries the other.
    _unwanted: Option<oneshot::Sender<()>>,
}

impl OriginBody {
    pub(super) fn new(body: Incoming, unwanted: Option<oneshot::Sender<()>>) -> Self {
        Self {
            body,
            _unwanted: unwanted,
        }
    }
}

impl Body for OriginBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
