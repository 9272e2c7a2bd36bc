//! Maps errors of the SSH library to [`Failure`]: its kind, the text for the user and the hint.

use std::io;

use tunneld_proto::text;
use tunneld_ssh::Error;
use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::error::Party;

use crate::failure::{Failure, FailureKind};
use tunneld_config::parse::values::RSA_BITS;

/// Describes why a connection or a session ended. Text of the server is escaped.
pub(super) fn failure_of(error: &Error) -> Failure {
    let shown = || text::escape(&error.to_string());
    match error {
        Error::Eof => Failure::new(
            FailureKind::Disconnected,
            "the server closed the connection",
        ),
        Error::ClosedEarly(text) => closed_early(text),
        Error::Disconnected {
            text,
            by: Party::Server,
            ..
        } => Failure::new(
            FailureKind::Disconnected,
            format!("the server closed the connection: {}", last_words(text)),
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
        Error::ShortHostKey { bits, .. } => {
            let failure = Failure::new(FailureKind::NoCommonAlgorithm, shown());
            match RSA_BITS.contains(&i64::try_from(*bits).unwrap_or(0)) {
                true => failure.hint(format!(
                    "give the server a longer key; until then, if its short key is good enough: \
                     required_rsa_size = {bits}"
                )),
                false => failure.hint("give the server a longer key"),
            }
        }
        Error::Terrapin { .. } => Failure::new(FailureKind::Protocol, shown())
            .hint("update the server, or set ciphers to aes128-gcm@openssh.com,aes256-ctr"),
        Error::Ident(_) => Failure::new(FailureKind::Protocol, shown())
            .hint("check the host and the port: what answers there is not an SSH server"),
        _ => Failure::new(FailureKind::Protocol, shown()),
    }
}

/// Describes a connection that ended before the server identified itself; `text` is what it sent.
fn closed_early(text: &str) -> Failure {
    let words = last_words(text);
    // sshd's texts for MaxStartups, and since 9.8 for PerSourcePenalties. It sends no reason code this early.
    let for_a_while = ["Not allowed at this time", "Exceeded MaxStartups"];
    if for_a_while.iter().any(|sentence| text.contains(sentence)) {
        return Failure::new(
            FailureKind::NotAllowedNow,
            format!("the server does not accept connections from this address now: {words}"),
        )
        .hint(
            "wait: tunneld tries again. If it stays, check MaxStartups and PerSourcePenalties in the server's \
             sshd_config, and whether logins from here are refused",
        );
    }
    Failure::new(
        FailureKind::Protocol,
        format!("the server closed the connection after sending: {words}"),
    )
    .hint("the server's words are the reason, or the host or port is not that of an SSH server")
}

/// Whether an early end of a connection can come from too many others that are not logged in: sshd's MaxStartups closes
/// without a word, or with a sentence in newer versions. The sentence for PerSourcePenalties does not count: waiting for other
/// logins does not end a penalty.
pub(super) fn may_be_overload(error: &Error) -> bool {
    match error {
        Error::Eof => true,
        Error::Io(error) => error.kind() == io::ErrorKind::ConnectionReset,
        Error::ClosedEarly(text) => text.contains("Exceeded MaxStartups"),
        _ => false,
    }
}

/// How many characters of a server's text an error shows.
const LAST_WORDS_LIMIT: usize = 300;

/// The text of a server as part of an error: one line, escaped, at most 300 characters.
pub(super) fn last_words(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let escaped = text::escape(&line);
    match escaped.char_indices().nth(LAST_WORDS_LIMIT) {
        Some((end, _)) => format!("{}…", escaped.get(..end).unwrap_or_default()),
        None => escaped,
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
