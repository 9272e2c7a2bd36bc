//! The signing seam of public-key authentication: a key in memory, an agent, a hardware token.

use std::future::Future;
use std::pin::Pin;

/// Why a signer produced no signature.
pub type SignerError = Box<dyn std::error::Error + Send + Sync>;

/// A pending signature. Resolves to the signature blob of RFC 4253 §6.6: algorithm name, then the signature.
pub type SignFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, SignerError>> + Send + 'a>>;

/// Signs authentication requests with one key.
pub trait Signer: Send {
    /// Signs `data` with `algorithm`. For a certificate, `algorithm` is that of the certified key, such as
    /// `ssh-ed25519`.
    fn sign<'a>(&'a mut self, algorithm: &'a str, data: &'a [u8]) -> SignFuture<'a>;
}
