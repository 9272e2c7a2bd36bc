//! What a life does with the daemon's forwards: bytes there and back until a deadline.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::judge::{Fault, FaultKind, ShortStream};
use crate::socks::{self, Destination};

/// Bytes of one exchange: more than one SSH packet.
const PAYLOAD: usize = 20_000;
/// How long one attempt may take before the next one starts.
const ATTEMPT: Duration = Duration::from_secs(6);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A way through the daemon to the echo server.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// A local or a remote forward. Of a remote one, sshd itself ends connections in order when its session dies.
    Forward { remote: bool },
    /// A dynamic forward, and the port of the echo server.
    Socks(u16),
}

/// Sends bytes until the same come back; errors are tried again until `limit` has passed. Adds each stream through a remote
/// forward that ended in order too early to `short_streams`.
///
/// # Errors
/// What was wrong: stuck until the limit, other bytes, or a short stream of a local forward that ended in order.
pub(super) async fn echo(
    way: Way,
    port: u16,
    limit: Duration,
    short_streams: &mut Vec<ShortStream>,
) -> Result<(), Fault> {
    let deadline = Instant::now() + limit;
    let data = crate::payload::random(u64::from(port), PAYLOAD);
    let mut last;
    loop {
        let from = SystemTime::now();
        let attempt = timeout(ATTEMPT, exchange(way, port, &data)).await;
        last = match attempt {
            Ok(Ok(received)) if received == data => return Ok(()),
            Ok(Ok(received)) if data.starts_with(&received) => {
                let short = format!(
                    "an end in order after {} of {PAYLOAD} bytes",
                    received.len()
                );
                if matches!(way, Way::Forward { remote: false } | Way::Socks(_)) {
                    return Err(Fault::new(FaultKind::Wrong, short));
                }
                short_streams.push(ShortStream {
                    from,
                    to: SystemTime::now(),
                    text: format!("a stream of the remote forward: {short}"),
                });
                short
            }
            Ok(Ok(_)) => return Err(Fault::new(FaultKind::Wrong, "other bytes")),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no end".to_owned(),
        };
        if Instant::now() >= deadline {
            return Err(Fault::new(FaultKind::Stopped, format!("stuck: {last}")));
        }
        sleep(PAUSE).await;
    }
}

async fn exchange(way: Way, port: u16, data: &[u8]) -> anyhow::Result<Vec<u8>> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stream = match way {
        Way::Forward { .. } => TcpStream::connect(address).await?,
        Way::Socks(target) => {
            let here = Destination::Ip([127, 0, 0, 1].into());
            let answer = socks::connect_v5(address, &here, target).await?;
            answer.map_err(|code| anyhow::anyhow!("SOCKS reply {code}"))?
        }
    };
    let (mut reader, mut writer) = stream.into_split();
    let send = async {
        writer.write_all(data).await?;
        writer.shutdown().await
    };
    let mut received = Vec::new();
    let (sent, read) = tokio::join!(send, reader.read_to_end(&mut received));
    read?;
    if received != data {
        // A failed write is a reset, which the reader may see as an end.
        sent?;
    }
    Ok(received)
}
