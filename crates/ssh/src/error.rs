//! Why a session could not be had, or ended.

use std::sync::Arc;

use crate::algorithm::Kind;
use crate::wire::Malformed;

/// Who ended the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// This side.
    Us,
    /// The server.
    Them,
}

/// Why a session could not be had, or ended. Foreign text in it is bounded, not escaped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the server said first is no SSH identification.
    #[error("the server did not identify itself as an SSH server: {0}")]
    Ident(String),
    /// The two sides share no algorithm of one kind.
    #[error("no common {}: ours are {ours}, theirs are {theirs}", kind.what())]
    NoCommon {
        /// What kind of algorithm.
        kind: Kind,
        /// Ours, parted by commas.
        ours: String,
        /// Theirs, parted by commas; cut to 1 KiB.
        theirs: String,
    },
    /// The cipher that was agreed on is open to prefix truncation, and the server has no remedy.
    #[error(
        "{cipher} without strict key exchange is open to the Terrapin attack, \
         and the server does not speak strict key exchange"
    )]
    Terrapin {
        /// The cipher.
        cipher: &'static str,
    },
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// A packet was forged, damaged, or decrypted by the wrong key.
    #[error("a packet failed its integrity check")]
    Mac,
    /// The key exchange failed.
    #[error("key exchange failed: {0}")]
    KexFailed(String),
    /// The server's host key was not accepted.
    #[error("the host key was not accepted")]
    HostKeyRejected,
    /// One side said goodbye.
    #[error("disconnected by {}: {text} (code {code})", match by { Party::Us => "us", Party::Them => "the server" })]
    Disconnected {
        /// The reason code of RFC 4253 §11.1.
        code: u32,
        /// The text, cut to 1 KiB.
        text: String,
        /// Who said it.
        by: Party,
    },
    /// The server did not do something in time.
    #[error("timed out while waiting for {0}")]
    Timeout(&'static str),
    /// The server said nothing for too long.
    #[error("nothing was heard of the server for {0:?}")]
    DeadPeer(std::time::Duration),
    /// The connection below failed.
    #[error("the connection failed")]
    Io(#[source] Arc<std::io::Error>),
    /// The connection below ended without a word.
    #[error("the connection was closed by the server")]
    Eof,
    /// A configured name is not an algorithm that we have.
    #[error("unknown {what} {name:?}: known are {known}")]
    UnknownAlgorithm {
        /// What kind of algorithm.
        what: &'static str,
        /// The name.
        name: String,
        /// What we have, parted by commas.
        known: String,
    },
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Protocol(malformed.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Foreign text, made valid and cut to a length that is safe to keep.
pub(crate) fn bounded(text: &[u8], limit: usize) -> String {
    let mut text = String::from_utf8_lossy(text.get(..limit).unwrap_or(text)).into_owned();
    while text.len() > limit {
        text.pop();
    }
    text
}
