//! What a login has tried so far, and the failure that follows from it.

use std::path::PathBuf;

use tunneld_proto::text;

use crate::failure::{Failure, FailureKind};
use crate::session::auth::method::{AuthContext, Credential};

/// The record of one login.
#[derive(Debug, Default)]
pub(crate) struct AuthHistory {
    /// What the server has accepted, each with another method required besides.
    pub(crate) succeeded: Vec<Credential>,
    /// What the server has rejected, in order.
    pub(crate) rejected: Vec<Credential>,
    /// What could not be tried and why, with the remedy. Escaped.
    pub(crate) notes: Vec<String>,
    /// Configured key files and certificates that cannot be read now.
    pub(crate) unreadable: Vec<PathBuf>,
    /// The methods that the server accepts now.
    pub(crate) accepted_methods: Vec<String>,
    /// Whether a command that should give a password or an answer failed.
    pub(crate) command_failed: bool,
    /// Whether the agent gave no key or no signature, which it may give later.
    pub(crate) agent_unavailable: bool,
    /// Whether the agent could not be asked because a system call failed.
    pub(crate) agent_try_again: bool,
}

impl AuthHistory {
    /// All that succeeded, for `status`.
    pub(crate) fn succeeded(&self) -> String {
        let all: Vec<String> = self.succeeded.iter().map(Credential::to_string).collect();
        all.join(" + ")
    }

    /// The failure when no method is left to try.
    pub(crate) fn exhausted(&self, context: &AuthContext<'_>) -> Failure {
        let destination = context.destination;
        let mut details = String::new();
        if !self.succeeded.is_empty() {
            details = format!("; accepted so far: {}", self.succeeded());
        }
        for note in &self.notes {
            details = format!("{details}; {note}");
        }
        if self.rejected.is_empty() {
            let (kind, hint) = self.no_credentials(context.tunnel);
            let accepted = match self.accepted_methods.is_empty() {
                true => "no further method".to_owned(),
                false => text::escape(&self.accepted_methods.join(", ")),
            };
            return Failure::new(
                kind,
                format!(
                    "{destination}: no usable key or password; the server accepts: {accepted}{details}"
                ),
            )
            .hint(hint);
        }
        let only_keys = self
            .rejected
            .iter()
            .all(|credential| matches!(credential, Credential::PublicKey(_)));
        Failure::new(
            FailureKind::AuthRefused,
            format!(
                "{destination}: {}{}{details}",
                self.rejections(),
                self.other_methods()
            ),
        )
        .hint(match only_keys {
            true => "check the user, and that the key is in the account's authorized_keys on the server",
            false => {
                "check the user and the password or code, and whether the account is locked on the server"
            }
        })
    }

    /// What the server rejected, in words: `the password was rejected 3 times`.
    fn rejections(&self) -> String {
        let mut keys = Vec::new();
        let (mut passwords, mut answers) = (0, 0);
        for credential in &self.rejected {
            match credential {
                Credential::PublicKey(key) => keys.push(key.as_str()),
                Credential::Password => passwords += 1,
                Credential::KeyboardInteractive => answers += 1,
            }
        }
        let mut parts = Vec::new();
        match keys.as_slice() {
            [] => {}
            [key] => parts.push(format!("the key {key} was rejected")),
            keys => parts.push(format!(
                "{} keys were rejected: {}",
                keys.len(),
                keys.join(", ")
            )),
        }
        for (what, times) in [
            ("the password was rejected", passwords),
            ("the keyboard-interactive answer was rejected", answers),
        ] {
            match times {
                0 => {}
                1 => parts.push(what.to_owned()),
                times => parts.push(format!("{what} {times} times")),
            }
        }
        parts.join("; ")
    }

    /// The methods that the server accepts besides those that it rejected. Empty if there are none.
    fn other_methods(&self) -> String {
        let was_rejected = |method: &str| {
            self.rejected.iter().any(|credential| {
                method
                    == match credential {
                        Credential::PublicKey(_) => "publickey",
                        Credential::Password => "password",
                        Credential::KeyboardInteractive => "keyboard-interactive",
                    }
            })
        };
        let others: Vec<&str> = self
            .accepted_methods
            .iter()
            .map(String::as_str)
            .filter(|method| !was_rejected(method))
            .collect();
        match others.is_empty() {
            true => String::new(),
            false => format!(
                "; the server also accepts: {}",
                text::escape(&others.join(", "))
            ),
        }
    }

    /// The kind and the hint when there was nothing to send to the server. A command or an agent may work later, so the
    /// tunnel retries; keys that are missing or unusable need the user.
    fn no_credentials(&self, tunnel: &str) -> (FailureKind, String) {
        if !self.unreadable.is_empty() {
            let hint = "tunneld tries again until it can read the file that the error names; if the cause stays, fix \
                        the file or its mode";
            return (FailureKind::Unreadable, hint.to_owned());
        }
        if self.agent_try_again {
            let hint = "tunneld tries again; if the cause stays, see the limit of open files: LimitNOFILE=, ulimit -n";
            return (FailureKind::Unreadable, hint.to_owned());
        }
        if self.command_failed {
            let hint = "run the command by hand, as the user and in the environment of tunneld";
            return (FailureKind::Command, hint.to_owned());
        }
        if self.agent_unavailable {
            let hint = "start or unlock the agent that tunneld uses (identity_agent) and load the key into it; or set \
                        identity_file or password_command";
            return (FailureKind::Agent, hint.to_owned());
        }
        let only_kerberos = !self.accepted_methods.is_empty()
            && self
                .accepted_methods
                .iter()
                .all(|method| method.starts_with("gssapi"));
        if only_kerberos {
            let hint = "the server accepts Kerberos (GSSAPI) alone, which this version of tunneld does not have; keys and \
                        passwords cannot help: ask its administrator for another method";
            return (FailureKind::NoCredentials, hint.to_owned());
        }
        let hint = match self.notes.is_empty() {
            true => {
                "set identity_file, load a key into the agent that tunneld uses (identity_agent), or set \
                 password_command"
                    .to_owned()
            }
            false => format!(
                "fix the keys that the error names, then run `tunnelctl up {}`; or set another identity_file, \
                 identity_agent or password_command",
                text::escape(tunnel)
            ),
        };
        (FailureKind::NoCredentials, hint)
    }
}

/// The failure when the server accepts one method after the other without end.
pub(crate) fn too_many_steps(destination: &str, limit: usize) -> Failure {
    Failure::new(
        FailureKind::AuthRefused,
        format!("{destination}: the server accepted {limit} methods and requires yet another"),
    )
}

/// Turns the disconnect that sshd sends after MaxAuthTries into a rejection; every other failure stays as it is. As a
/// lost connection it would be retried at once, with the same keys.
pub(crate) fn map_max_auth_tries(
    failure: Failure,
    history: &AuthHistory,
    destination: &str,
) -> Failure {
    if !is_max_auth_tries(&failure) {
        return failure;
    }
    let rejected = match history.rejected.is_empty() {
        true => String::new(),
        false => format!("; {}", history.rejections()),
    };
    Failure::new(
        FailureKind::AuthRefused,
        format!(
            "{destination}: the server ended the login: too many authentication failures{rejected}"
        ),
    )
    .hint("offer fewer keys: name the right one with identity_file and identities_only")
}

/// Whether the server ended the login because of MaxAuthTries. Only the server's text says so: the reason code is the
/// same as for other ends (sshd sends 2, SSH_DISCONNECT_PROTOCOL_ERROR).
fn is_max_auth_tries(failure: &Failure) -> bool {
    failure.kind == FailureKind::Disconnected
        && failure.message.contains("Too many authentication failures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_counted_by_method() {
        let key = |name: &str| Credential::PublicKey(name.to_owned());
        let history = |rejected: &[Credential]| AuthHistory {
            rejected: rejected.to_vec(),
            accepted_methods: vec!["publickey".into(), "password".into()],
            ..AuthHistory::default()
        };
        let passwords = history(&[const { Credential::Password }; 3]);
        assert_eq!(passwords.rejections(), "the password was rejected 3 times");
        assert_eq!(
            passwords.other_methods(),
            "; the server also accepts: publickey"
        );
        let mixed = history(&[key("A"), key("B"), Credential::Password]);
        assert_eq!(
            mixed.rejections(),
            "2 keys were rejected: A, B; the password was rejected"
        );
        assert_eq!(mixed.other_methods(), "");
        assert_eq!(history(&[key("A")]).rejections(), "the key A was rejected");
    }
}
