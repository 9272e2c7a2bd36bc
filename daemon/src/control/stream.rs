//! `connect`: the connection as a byte stream through a tunnel's session. Each direction ends alone.

use std::io;

use tokio::io::{
    AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf, copy_buf, sink,
    split,
};
use tokio_util::sync::CancellationToken;

/// What is on its way in each direction at the most, besides the channel's own window.
const BUFFER: usize = 64 * 1024;

/// Carries bytes both ways until both have ended, the client is `gone`, or the daemon stops.
///
/// Where the far side has ended in order, the client is told so by the end of what it reads while the connection
/// stays; where the session or the channel was lost, the connection is closed at once.
pub(super) async fn carry<N, F>(
    near: N,
    far: F,
    gone: impl Future<Output = ()>,
    stopped: &CancellationToken,
) where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    let (near_reader, near_writer) = split(near);
    let (far_reader, far_writer) = split(far);
    let up = up(near_reader, far_writer);
    let down = pass(far_reader, near_writer);
    tokio::select! {
        carried = async { tokio::try_join!(up, down) } => {
            if let Err(error) = carried {
                tracing::debug!("a stream through a tunnel ended early: {error}");
            }
        }
        () = gone => {}
        () = stopped.cancelled() => {}
    }
}

async fn pass<R, W>(from: ReadHalf<R>, mut to: WriteHalf<W>) -> io::Result<()>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    copy_buf(&mut BufReader::with_capacity(BUFFER, from), &mut to).await?;
    to.shutdown().await
}

/// Once the far side takes nothing any more, what the client still sends is nobody's, and its end is waited for.
async fn up<R, W>(from: ReadHalf<R>, mut to: WriteHalf<W>) -> io::Result<()>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let mut from = BufReader::with_capacity(BUFFER, from);
    match copy_buf(&mut from, &mut to).await {
        Ok(_) => to.shutdown().await,
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Err(error),
        Err(_) => copy_buf(&mut from, &mut sink()).await.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    /// The two far ends of a stream that is carried, and what ends it from without.
    fn scene() -> (
        DuplexStream,
        DuplexStream,
        CancellationToken,
        impl Future<Output = ()>,
    ) {
        let ((client, near), (server, far)) = (duplex(1024), duplex(1024));
        let gone = CancellationToken::new();
        let left = gone.clone().cancelled_owned();
        let carried = async move { carry(near, far, left, &CancellationToken::new()).await };
        (client, server, gone, carried)
    }

    #[tokio::test]
    async fn each_direction_ends_alone() {
        let (mut client, mut server, _gone, carried) = scene();
        let talk = async {
            client.write_all(b"ask").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = Vec::new();
            server.read_to_end(&mut asked).await.unwrap();
            server.write_all(&asked).await.unwrap();
            drop(server);
            let mut told = Vec::new();
            client.read_to_end(&mut told).await.unwrap();
            assert_eq!(told, b"ask");
        };
        tokio::join!(carried, talk);
    }

    #[tokio::test]
    async fn the_connection_stays_until_the_client_has_seen_the_end() {
        let (mut client, server, _gone, carried) = scene();
        let talk = async {
            drop(server);
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
            // Still taken, and nobody's.
            client.write_all(&[0; 4096]).await.unwrap();
            drop(client);
        };
        tokio::join!(carried, talk);
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_it_although_the_far_side_goes_on() {
        let (client, _server, gone, carried) = scene();
        drop(client);
        gone.cancel();
        carried.await;
    }
}
