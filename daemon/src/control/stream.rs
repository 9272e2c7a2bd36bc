//! `connect`: the client's connection as a byte stream through the tunnel's SSH session.
//!
//! Each direction ends separately: EOF in one is passed on, and the other one goes on (RFC 4254 §5.3).

use std::io;

use tokio::io::{
    AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf, copy_buf, sink,
    split,
};
use tokio_util::sync::CancellationToken;

/// Bytes buffered in each direction, in addition to the channel's own window.
const BUFFER: usize = 64 * 1024;

/// Copies bytes between the client and the channel until both directions have ended, `client_gone` completes, or the
/// daemon stops.
///
/// If the server closes the channel in order, the client reads EOF while its connection stays open. If the session is
/// lost or the channel is aborted, the connection is closed.
pub(super) async fn relay<L, C>(
    local: L,
    channel: C,
    client_gone: impl Future<Output = ()>,
    stopped: &CancellationToken,
) where
    L: AsyncRead + AsyncWrite + Unpin,
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (local_reader, local_writer) = split(local);
    let (channel_reader, channel_writer) = split(channel);
    let local_to_channel = copy_to_channel(local_reader, channel_writer);
    let channel_to_local = copy(channel_reader, local_writer);
    tokio::select! {
        ended = async { tokio::try_join!(local_to_channel, channel_to_local) } => {
            if let Err(error) = ended {
                tracing::debug!("a byte stream through a tunnel was aborted: {error}");
            }
        }
        () = client_gone => {}
        () = stopped.cancelled() => {}
    }
}

async fn copy<R, W>(from: ReadHalf<R>, mut to: WriteHalf<W>) -> io::Result<()>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    copy_buf(&mut BufReader::with_capacity(BUFFER, from), &mut to).await?;
    to.shutdown().await
}

async fn copy_to_channel<R, W>(from: ReadHalf<R>, mut to: WriteHalf<W>) -> io::Result<()>
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let mut from = BufReader::with_capacity(BUFFER, from);
    match copy_buf(&mut from, &mut to).await {
        Ok(_) => to.shutdown().await,
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Err(error),
        // The server has closed the channel in order. What the client still sends is discarded until its EOF: closing
        // the connection now could destroy data that the client has not read yet.
        Err(_) => copy_buf(&mut from, &mut sink()).await.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    /// Returns the outer ends of a relay (client, server), the token that reports the client as gone, and the relay.
    fn relay_between_pipes() -> (
        DuplexStream,
        DuplexStream,
        CancellationToken,
        impl Future<Output = ()>,
    ) {
        let ((client, local), (server, channel)) = (duplex(1024), duplex(1024));
        let gone = CancellationToken::new();
        let client_gone = gone.clone().cancelled_owned();
        let relaying =
            async move { relay(local, channel, client_gone, &CancellationToken::new()).await };
        (client, server, gone, relaying)
    }

    #[tokio::test]
    async fn each_direction_ends_separately() {
        let (mut client, mut server, _gone, relaying) = relay_between_pipes();
        let talk = async {
            client.write_all(b"request").await.unwrap();
            client.shutdown().await.unwrap();
            let mut request = Vec::new();
            server.read_to_end(&mut request).await.unwrap();
            server.write_all(&request).await.unwrap();
            drop(server);
            let mut reply = Vec::new();
            client.read_to_end(&mut reply).await.unwrap();
            assert_eq!(reply, b"request");
        };
        tokio::join!(relaying, talk);
    }

    #[tokio::test]
    async fn the_connection_stays_open_until_the_client_closes_it() {
        let (mut client, server, _gone, relaying) = relay_between_pipes();
        let talk = async {
            drop(server);
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
            // Still accepted, and discarded.
            client.write_all(&[0; 4096]).await.unwrap();
            drop(client);
        };
        tokio::join!(relaying, talk);
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_the_relay_although_the_server_has_not_closed() {
        let (client, _server, gone, relaying) = relay_between_pipes();
        drop(client);
        gone.cancel();
        relaying.await;
    }
}
