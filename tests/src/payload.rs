//! Bytes to send, and the comparison that names the first difference.

use anyhow::{Result, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One mebibyte.
pub const MIB: usize = 1024 * 1024;

/// `len` bytes that depend on `seed` alone.
pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(bytes.as_mut_slice());
    bytes
}

/// Proves that `got` is `sent`, as `cmp` does.
///
/// # Errors
/// Names the first byte that differs, or the lengths.
pub fn same(sent: &[u8], got: &[u8]) -> Result<()> {
    if sent == got {
        return Ok(());
    }
    if let Some(at) = sent.iter().zip(got).position(|(a, b)| a != b) {
        bail!(
            "byte {at} differs (sent {} bytes, got {})",
            sent.len(),
            got.len()
        );
    }
    if sent.len() != got.len() {
        bail!("sent {} bytes, got {}", sent.len(), got.len());
    }
    Ok(())
}

/// Sends `data` and closes that direction, while it reads until the other side closes; returns what came.
///
/// # Errors
/// Where either direction breaks.
pub async fn exchange<S: AsyncRead + AsyncWrite>(stream: S, data: &[u8]) -> Result<Vec<u8>> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(data).await?;
        writer.shutdown().await
    };
    let mut got = Vec::with_capacity(data.len());
    let receive = reader.read_to_end(&mut got);
    tokio::try_join!(send, receive)?;
    Ok(got)
}

/// Sends `text` and waits for the same many bytes back.
///
/// # Errors
/// Where the stream breaks or other bytes come.
pub async fn ping<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, text: &[u8]) -> Result<()> {
    stream.write_all(text).await?;
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).await?;
    same(text, &got)
}
