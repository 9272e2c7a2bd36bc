//! The body of `/events`: the control protocol's own lines, as a client of the control socket gets them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::task::JoinSet;

use crate::control::{self, ControlContext};

/// Bytes between the daemon and the browser that may wait. A browser that reads too slowly misses events, and gets a new
/// snapshot, as every slow client of the control socket.
const BUFFER: usize = 256 * 1024;
/// Bytes of one frame.
const FRAME: usize = 16 * 1024;

/// What the page asks for: the state, every change, and the log.
const REQUESTS: &str = concat!(
    r#"{"jsonrpc":"2.0","id":"hello","method":"hello","params":{"client":"web page","protocol":[1]}}"#,
    "\n",
    r#"{"jsonrpc":"2.0","id":"snapshot","method":"events.subscribe","params":{}}"#,
    "\n",
    r#"{"jsonrpc":"2.0","id":"log","method":"log.tail","params":{"follow":true}}"#,
    "\n"
);

/// The lines of one viewer. Dropping it ends the subscription.
pub(super) struct EventBody {
    lines: DuplexStream,
    is_dropped: Arc<AtomicBool>,
    /// Serves the other end of `lines`. Aborted on drop.
    _served: JoinSet<()>,
    /// Counts the viewer until it is dropped.
    _viewer: Arc<()>,
}

impl EventBody {
    /// Subscribes. `viewer` is kept until the browser has gone.
    pub(super) async fn new(context: &Arc<ControlContext>, viewer: Arc<()>) -> Self {
        let (mut lines, server) = tokio::io::duplex(BUFFER);
        let is_dropped = Arc::new(AtomicBool::new(false));
        let hung_up = Arc::clone(&is_dropped);
        let mut served = JoinSet::new();
        served.spawn(control::serve_stream(
            server,
            Arc::clone(context),
            move || hung_up.load(Ordering::Relaxed),
        ));
        // Fits the empty buffer.
        let _ = lines.write_all(REQUESTS.as_bytes()).await;
        Self {
            lines,
            is_dropped,
            _served: served,
            _viewer: viewer,
        }
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut bytes = vec![0; FRAME];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.lines).poll_read(cx, &mut buffer))?;
        let length = buffer.filled().len();
        if length == 0 {
            return Poll::Ready(None);
        }
        bytes.truncate(length);
        Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::Relaxed);
    }
}
