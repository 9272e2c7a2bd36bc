//! Maps errors of the SSH library to [`Failure`]: its kind, the text for the user and the hint.

use std::io;

use tunneld_proto::text;
use tunneld_ssh::Error;
use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::error::Party;

use crate::failure::{Failure, FailureKind};

/// Describes why a connection or a session ended. Text of the server is escaped.
pub(super) fn failure_of(error: &Error) -> Failure {
    let shown = || text::escape(&error.to_string());
    match error {
        Error::Eof => Failure::new(
            FailureKind::Disconnected,
            "the server closed the connection",
        ),
        Error::Disconnected {
            text,
            by: Party::Server,
            ..
        } => Failure::new(
            FailureKind::Disconnected,
            format!("the server closed the connection: {}", text::escape(text)),
        ),
        Error::Disconnected {
            by: Party::Client, ..
        } => Failure::new(FailureKind::Disconnected, "tunneld closed the session"),
        Error::DeadPeer(after) => Failure::new(
            FailureKind::DeadPeer,
            format!("the server sent nothing for {after:?}"),
        ),
        Error::Timeout(_) => Failure::new(FailureKind::Timeout, shown()),
        // ETIMEDOUT on an open connection comes from TCP's retransmissions or keepalives: the server is gone.
        Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Failure::new(
            FailureKind::DeadPeer,
            "the network no longer acknowledges what is sent",
        ),
        Error::Io(error) => Failure::new(
            FailureKind::Disconnected,
            format!("the connection broke: {}", text::escape(&error.to_string())),
        ),
        Error::NoCommonAlgorithm { kind, theirs, .. } => {
            Failure::new(FailureKind::NoCommonAlgorithm, shown())
                .hint(no_common_hint(*kind, theirs))
        }
        Error::Terrapin { .. } => Failure::new(FailureKind::Protocol, shown())
            .hint("update the server, or set ciphers to aes128-gcm@openssh.com,aes256-ctr"),
        Error::Ident(_) => Failure::new(FailureKind::Protocol, shown())
            .hint("check the host and the port: what answers there is not an SSH server"),
        _ => Failure::new(FailureKind::Protocol, shown()),
    }
}

/// How the user can allow an algorithm that the server offers in `theirs`, a comma-separated list.
fn no_common_hint(kind: Kind, theirs: &str) -> String {
    let key = match kind {
        Kind::Kex => "kex_algorithms",
        Kind::HostKey => "host_key_algorithms",
        Kind::Cipher => "ciphers",
        Kind::Mac => "macs",
        Kind::Compression => "compression",
    };
    match theirs.split(',').find_map(|name| kind.find(name)) {
        Some(name) => format!(
            "update the server; until then, if its old algorithm is good enough: {key} = \"+{name}\""
        ),
        None => "update the server: tunneld has none of its algorithms".to_owned(),
    }
}
