//! A web page of one sentence, and the smallest client that can read it, straight and through SOCKS.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves `sentence` on a free loopback port for as long as `tasks` live.
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
                    clients.spawn(timeout(PATIENCE, answer(stream, sentence)));
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
pub(crate) async fn get(address: SocketAddr) -> anyhow::Result<()> {
    let read = async { request(TcpStream::connect(address).await?, &address.to_string()).await };
    timeout(PATIENCE, read).await.context("no answer in time")?
}

/// Reads the page at `host:port` through the SOCKS 5 proxy at `proxy`, which resolves the name (RFC 1928).
pub(crate) async fn get_by_socks(proxy: SocketAddr, host: &str, port: u16) -> anyhow::Result<()> {
    let read = async {
        let mut stream = TcpStream::connect(proxy).await?;
        stream.write_all(&[5, 1, 0]).await?;
        let mut method = [0; 2];
        stream.read_exact(&mut method).await?;
        ensure!(method == [5, 0], "the proxy asks for a login");
        let mut ask = vec![5, 1, 0, 3, u8::try_from(host.len())?];
        ask.extend_from_slice(host.as_bytes());
        ask.extend_from_slice(&port.to_be_bytes());
        stream.write_all(&ask).await?;
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await?;
        let [_, code, _, kind] = reply;
        ensure!(code == 0, "the proxy refuses with code {code}");
        let rest = match kind {
            1 => 6,
            4 => 18,
            _ => bail!("the proxy answers with an address of kind {kind}"),
        };
        stream.read_exact(&mut vec![0; rest]).await?;
        request(stream, host).await
    };
    timeout(PATIENCE, read).await.context("no answer in time")?
}

async fn request(mut stream: TcpStream, host: &str) -> anyhow::Result<()> {
    let ask = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    ensure!(reply.starts_with("HTTP/1.1 200"), "no page but {reply:?}");
    Ok(())
}
