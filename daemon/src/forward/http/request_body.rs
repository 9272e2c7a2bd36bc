//! The body of a request on its way to the origin. If the client waits for a 100 response (`Expect: 100-continue`), the
//! body is not read before the origin has sent its own: hyper sends 100 to the client as soon as the body is read, which
//! would start an upload that the origin may be about to refuse.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

/// How long the origin may take to send 100. Then the body is sent anyway, as an origin of HTTP/1.0 never sends it
/// (RFC 9110 §10.1.1: a client must not wait indefinitely).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client's body, possibly behind a gate.
pub(super) struct RequestBody {
    body: Incoming,
    gate: Option<Gate>,
}

/// Keeps the body back. The sender says to continue; if it is dropped, the origin has answered without the body.
struct Gate {
    continued: oneshot::Receiver<()>,
    timeout: Pin<Box<Sleep>>,
}

/// The origin answered before the client sent the body, so nobody reads it any more.
#[derive(Debug)]
pub(super) struct NotWanted;

impl fmt::Display for NotWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the origin answered without reading the body")
    }
}

impl std::error::Error for NotWanted {}

impl RequestBody {
    /// Returns a body that can be read at once.
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, gate: None }
    }

    /// Returns a body that can be read when `continued` has received, or after [`CONTINUE_TIMEOUT`].
    pub(super) fn gated(body: Incoming, continued: oneshot::Receiver<()>) -> Self {
        let gate = Gate {
            continued,
            timeout: Box::pin(sleep(CONTINUE_TIMEOUT)),
        };
        Self {
            body,
            gate: Some(gate),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(gate) = &mut self.gate {
            match Pin::new(&mut gate.continued).poll(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Some(Err(NotWanted.into()))),
                Poll::Pending => ready!(gate.timeout.as_mut().poll(cx)),
            }
            self.gate = None;
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
