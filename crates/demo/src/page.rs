//! A web page of one sentence, and a minimal client that reads it directly or through SOCKS 5.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest time for one request, on either side.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves `sentence` on a free loopback port until `tasks` is dropped. Returns the address.
pub(crate) async fn serve(
    sentence: &'static str,
    tasks: &mut JoinSet<()>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    clients.spawn(timeout(REQUEST_TIMEOUT, answer(stream, sentence)));
                }
                Some(_) = clients.join_next() => {}
            }
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream, sentence: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 16 * 1024 {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let body = format!("{sentence}\n");
    let length = body.len();
    let reply = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads the page at `address`.
///
/// # Errors
/// An error if the status is not 200 or the answer takes longer than [`REQUEST_TIMEOUT`].
pub(crate) async fn get(address: SocketAddr) -> anyhow::Result<()> {
    let read = async { request(TcpStream::connect(address).await?, &address.to_string()).await };
    timeout(REQUEST_TIMEOUT, read)
        .await
        .context("no answer in time")?
}

/// Reads the page at `host:port` through the SOCKS 5 proxy at `proxy`, which resolves the name (RFC 1928).
pub(crate) async fn get_by_socks(proxy: SocketAddr, host: &str, port: u16) -> anyhow::Result<()> {
    let read = async {
        let mut stream = TcpStream::connect(proxy).await?;
        // Greeting: version 5, one method, no authentication.
        stream.write_all(&[5, 1, 0]).await?;
        let mut method = [0; 2];
        stream.read_exact(&mut method).await?;
        ensure!(method == [5, 0], "the proxy requires authentication");
        let mut connect = vec![5, 1, 0, 3, u8::try_from(host.len())?];
        connect.extend_from_slice(host.as_bytes());
        connect.extend_from_slice(&port.to_be_bytes());
        stream.write_all(&connect).await?;
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await?;
        let [_, code, _, kind] = reply;
        ensure!(code == 0, "the proxy refused with code {code}");
        // The bound address and port follow; their length depends on the address type.
        let rest = match kind {
            1 => 6,
            4 => 18,
            _ => bail!("the proxy replied with the unknown address type {kind}"),
        };
        stream.read_exact(&mut vec![0; rest]).await?;
        request(stream, host).await
    };
    timeout(REQUEST_TIMEOUT, read)
        .await
        .context("no answer in time")?
}

async fn request(mut stream: TcpStream, host: &str) -> anyhow::Result<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    ensure!(
        reply.starts_with("HTTP/1.1 200"),
        "expected the page, got {reply:?}"
    );
    Ok(())
}
