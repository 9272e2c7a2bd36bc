//! Bytes to send through a forward, and comparisons that report the first difference.

use anyhow::{Result, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One mebibyte, in bytes.
pub const MIB: usize = 1024 * 1024;

/// Returns `len` random bytes. The same `seed` gives the same bytes, so that a failure can be reproduced.
pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(bytes.as_mut_slice());
    bytes
}

/// Checks that the received bytes are the sent ones.
///
/// # Errors
/// Names the first byte that differs, or the lengths: the bytes themselves are too many for a message.
pub fn same(sent: &[u8], received: &[u8]) -> Result<()> {
    if sent == received {
        return Ok(());
    }
    if let Some(at) = sent.iter().zip(received).position(|(a, b)| a != b) {
        bail!(
            "byte {at} differs (sent {} bytes, received {})",
            sent.len(),
            received.len()
        );
    }
    if sent.len() != received.len() {
        bail!("sent {} bytes, received {}", sent.len(), received.len());
    }
    Ok(())
}

/// Sends `data` and half-closes, while it reads to the end of file. Returns the received bytes.
///
/// # Errors
/// If either direction fails.
pub async fn exchange<S: AsyncRead + AsyncWrite>(stream: S, data: &[u8]) -> Result<Vec<u8>> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(data).await?;
        writer.shutdown().await
    };
    let mut received = Vec::with_capacity(data.len());
    let receive = reader.read_to_end(&mut received);
    // Both at once: an echo that is not read stops reading, and a large `data` would never be sent.
    tokio::try_join!(send, receive)?;
    Ok(received)
}

/// Sends `text` and waits until the same bytes come back.
///
/// # Errors
/// If the stream fails or other bytes come back.
pub async fn ping<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, text: &[u8]) -> Result<()> {
    stream.write_all(text).await?;
    let mut received = vec![0; text.len()];
    stream.read_exact(&mut received).await?;
    same(text, &received)
}
