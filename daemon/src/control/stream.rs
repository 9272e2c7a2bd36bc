//! `connect`: the connection as a byte stream through a tunnel's session. Each direction ends alone.

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio_util::sync::CancellationToken;

/// What is on its way in each direction at the most, besides the channel's own window.
const BUFFER: usize = 64 * 1024;

/// Carries bytes both ways until both have ended, or the daemon stops.
pub(super) async fn carry<N, F>(mut near: N, mut far: F, stopped: &CancellationToken)
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        carried = copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER) => {
            if let Err(error) = carried {
                tracing::debug!("a stream through a tunnel ended early: {error}");
            }
        }
        () = stopped.cancelled() => {}
    }
}
