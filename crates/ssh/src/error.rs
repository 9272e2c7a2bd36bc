//! Why a session could not be established, or has ended.

use std::sync::Arc;

use crate::algorithm::Kind;
use crate::wire::Malformed;

/// The side that ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// This side ended it, on request of the caller.
    Client,
    /// The server ended it, by DISCONNECT or by closing the stream.
    Server,
}

/// Why a session could not be established, or has ended. Text from the server in it is bounded, but not escaped.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server's first lines are not an SSH identification (RFC 4253 §4.2).
    #[error("the server did not identify itself as an SSH server: {0}")]
    Ident(String),
    /// The connection ended before the server identified itself. Holds what the server sent until then, at most 1 KiB:
    /// usually the reason, such as "Exceeded MaxStartups".
    #[error("the server closed the connection after sending: {0}")]
    ClosedEarly(String),
    /// The two sides have no algorithm of one kind in common.
    #[error("no common {}: ours are {ours}, theirs are {theirs}", kind.label())]
    NoCommonAlgorithm {
        /// What the algorithm is for.
        kind: Kind,
        /// Our names, separated by commas.
        ours: String,
        /// The server's names, separated by commas and cut to 1 KiB.
        theirs: String,
    },
    /// The negotiated cipher is open to prefix truncation (CVE-2023-48795), and the server has no strict key exchange.
    #[error(
        "{cipher} without strict key exchange is open to the Terrapin attack, \
         and the server does not support strict key exchange"
    )]
    Terrapin {
        /// Name of the cipher that was negotiated.
        cipher: &'static str,
    },
    /// The server broke the protocol; the text names the rule.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// A packet was forged, damaged, or decrypted with the wrong key.
    #[error("a packet failed its integrity check")]
    Mac,
    /// The key exchange failed: an invalid public value, group, host key or signature.
    #[error("key exchange failed: {0}")]
    KexFailed(String),
    /// The server's host key is an RSA key with fewer bits than are accepted.
    #[error("the server's RSA host key has {bits} bits; at least {required} are required")]
    ShortHostKey {
        /// Its length.
        bits: usize,
        /// The least that is accepted.
        required: usize,
    },
    /// The caller did not accept the server's host key.
    #[error("the host key was not accepted")]
    HostKeyRejected,
    /// One side sent DISCONNECT, or closed the session.
    #[error(
        "disconnected by {}: {text} (code {code})",
        match by { Party::Client => "us", Party::Server => "the server" }
    )]
    Disconnected {
        /// Reason code of RFC 4253 §11.1, such as 2 for a protocol error or 11 for an end on request.
        code: u32,
        /// Text of the DISCONNECT message, cut to 1 KiB and not escaped.
        text: String,
        /// The side that sent it.
        by: Party,
    },
    /// The server exceeded a time limit; names what was waited for.
    #[error("timed out while waiting for {0}")]
    Timeout(&'static str),
    /// No byte was received from the server for this time.
    #[error("nothing was received from the server for {0:?}")]
    DeadPeer(std::time::Duration),
    /// Reading or writing the underlying stream failed.
    #[error("the connection failed")]
    Io(#[source] Arc<std::io::Error>),
    /// The underlying stream ended without a DISCONNECT.
    #[error("the connection was closed by the server")]
    Eof,
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Protocol(malformed.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        // Shared, because every handle of the session gets the same error.
        Self::Io(Arc::new(error))
    }
}

/// Converts text from the server to UTF-8 of at most `limit` bytes.
pub(crate) fn bounded(text: &[u8], limit: usize) -> String {
    let mut text = String::from_utf8_lossy(text.get(..limit).unwrap_or(text)).into_owned();
    // A replacement character is longer than the byte that it replaces.
    while text.len() > limit {
        text.pop();
    }
    text
}
