//! An SSH session on tokio: one task owns the socket, and handles share its state.
//!
//! Reading never waits for writing, nor for the consumer of a channel. Buffers are bounded: 256 KiB of sealed
//! output (twice that while a batch is being written) and one receive window per channel.
//!
//! The order is [`handshake`] → [`Authenticator`] → [`Session`] → [`Channel`]:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use tokio::io::AsyncWriteExt;
//! use tunneld_ssh::Config;
//! use tunneld_ssh::auth::AuthResult;
//! use tunneld_ssh::client::{self, Options};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tcp = tokio::net::TcpStream::connect("server.example:22").await?;
//! let config = Arc::new(Config::default());
//! let mut authenticator = client::handshake(tcp, config, Options::default(), "alice", |offer| async move {
//!     // Compare `offer.plain_key()` with known_hosts here.
//!     offer.algorithm == "ssh-ed25519"
//! })
//! .await?;
//! if authenticator.password("secret", None).await? == AuthResult::Success {
//!     let (session, _incoming) = authenticator.into_session()?;
//!     let origin = ("127.0.0.1".to_owned(), 50000);
//!     let mut channel = session.open_direct_tcpip("db.internal", 5432, origin).await?;
//!     channel.write_all(b"hello").await?;
//! }
//! # Ok(())
//! # }
//! ```

mod authenticator;
mod channel;
mod dispatch;
mod handle;
mod handshake;
mod host_key_proof;
mod incoming;
mod options;
mod session;
mod signer;
mod state;
mod stream;
mod task;
mod wake;

pub use authenticator::{AuthError, Authenticator};
pub use channel::{Channel, ChannelReader, ChannelWriter};
pub use handshake::handshake;
pub use incoming::{IncomingChannel, IncomingChannels, PendingChannel};
pub use options::Options;
pub use session::{OpenError, RequestError, Session, SessionInfo};
pub use signer::{SignFuture, Signer, SignerError};
pub use stream::{AsyncStream, Stream};

pub use crate::transport::{HostKey, HostKeyOffer};

#[cfg(test)]
mod tests;
