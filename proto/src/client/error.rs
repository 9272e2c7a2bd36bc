//! Why a client cannot connect or call.

use crate::codec::CodecError;
use crate::endpoint::ConnectError;
use crate::error::RpcError;
use crate::version::PROTOCOLS;

/// Why connecting or a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection could not be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The daemon did not answer within the time limit.
    #[error("the daemon at {endpoint} does not answer")]
    Hung {
        /// Path of the socket or name of the pipe.
        endpoint: String,
    },
    /// The daemon closed the connection.
    #[error("the daemon has closed the connection")]
    Closed,
    /// Reading from or writing to the connection failed.
    #[error("the connection to the daemon failed")]
    Io(#[from] CodecError),
    /// Client and daemon have no common protocol version.
    #[error("the daemon supports {}, this program {}", protocol(.daemon), list(PROTOCOLS))]
    Version {
        /// Protocol versions of the daemon; empty if it did not send them.
        daemon: Vec<String>,
    },
    /// A message that does not have the expected form, or parameters that cannot be serialized.
    #[error("the answer of the daemon to {method} is not valid")]
    Garbled {
        /// The method that was called.
        method: String,
        /// Where and why parsing failed.
        source: serde_json::Error,
    },
    /// The daemon returned an error.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// Formats the versions of the daemon, which may be missing in its error.
fn protocol(versions: &[String]) -> String {
    match versions {
        [] => "another protocol".into(),
        versions => format!("protocol {}", versions.join(", ")),
    }
}

fn list(numbers: &[u32]) -> String {
    let words: Vec<_> = numbers.iter().map(u32::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_error_without_versions_says_another_protocol() {
        let text = |daemon: &[&str]| {
            let daemon = daemon.iter().map(|version| (*version).to_owned()).collect();
            ClientError::Version { daemon }.to_string()
        };
        assert_eq!(
            text(&["2", "3"]),
            "the daemon supports protocol 2, 3, this program 1"
        );
        assert_eq!(
            text(&[]),
            "the daemon supports another protocol, this program 1"
        );
    }
}
