//! What the login methods share: their context, their outcome, and the failures that more than one can have.

use std::fmt;

use parking_lot::Mutex;

use crate::failure::{Failure, FailureKind};
use crate::prompt::{AskingServer, ServerText};
use crate::session::auth::login::Reply;
use crate::session::auth::pending_signatures::PendingSignatures;
use crate::session::auth::unlocked_keys::UnlockedKeys;
use crate::session::deadline::Prompter;
use tunneld_config::model::Auth;

/// What a login is made with.
#[derive(Clone, Copy)]
pub(crate) struct AuthContext<'a> {
    pub(crate) auth: &'a Auth,
    pub(crate) prompter: &'a Prompter,
    /// `user@host:port`, escaped.
    pub(crate) destination: &'a str,
    /// The SHA256 fingerprint of the server's accepted host key.
    pub(crate) host_key: &'a str,
    /// RequiredRSASize: the bits that an RSA key of the user must have. `None` for no limit.
    pub(crate) min_rsa_bits: Option<u32>,
    /// The tunnel's name, for the log.
    pub(crate) tunnel: &'a str,
    pub(crate) unlocked_keys: &'a UnlockedKeys,
    pub(crate) signatures: &'a PendingSignatures,
    /// The key that is being unlocked.
    pub(crate) unlocking: &'a Unlocking,
}

/// The name of the key that is being unlocked, escaped. `None` while none is.
#[derive(Debug, Default)]
pub(crate) struct Unlocking(Mutex<Option<String>>);

impl Unlocking {
    /// Adds to a failure that the server did not wait until a key was unlocked.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let key = self.0.lock().take();
        match (key, &failure.kind) {
            (Some(key), FailureKind::Disconnected) => Failure {
                message: format!(
                    "{}, while the key {key} was still being unlocked",
                    failure.message
                ),
                hint: Some(format!(
                    "tunneld continues to unlock it, and uses it for the next login; `ssh-keygen -p -a 100 -f {key}` \
                     makes it faster to unlock"
                )),
                ..failure
            },
            _ => failure,
        }
    }
}

impl AuthContext<'_> {
    /// Runs the derivation of the key `shown`. The deadline is paused and other tunnels are not held up: how long it
    /// takes is the choice of the key's owner.
    pub(crate) async fn while_unlocking<T>(
        &self,
        shown: &str,
        derivation: impl Future<Output = T>,
    ) -> T {
        *self.unlocking.0.lock() = Some(shown.to_owned());
        let result = self.prompter.wait_beside(derivation).await;
        // Not reached if the login ends first: the name then explains why.
        *self.unlocking.0.lock() = None;
        result
    }

    /// The server as the one that asks, with the texts that it sent.
    pub(crate) fn asking_server(&self, banner: &str, instructions: &str) -> AskingServer {
        AskingServer {
            host_key: self.host_key.to_owned(),
            banner: ServerText::new(banner),
            instructions: ServerText::new(instructions),
        }
    }
}

/// The result of one step of a method.
pub(crate) enum MethodOutcome {
    /// The server replied to a credential.
    Replied { reply: Reply, to: Credential },
    /// The method has nothing more to try.
    Exhausted,
    /// The command that should give the answer failed. Holds the key of the configuration and the reason.
    CommandFailed(String),
}

/// What was sent to the server in one attempt. Displayed as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A key, as [`fmt::Display`] of its identity shows it: type, fingerprint, origin.
    PublicKey(String),
    Password,
    KeyboardInteractive,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicKey(key) => write!(f, "publickey {key}"),
            Self::Password => f.write_str("password"),
            Self::KeyboardInteractive => f.write_str("keyboard-interactive"),
        }
    }
}

/// Turns a connection that the server closed in reply to a password or code into a rejection.
///
/// Some servers count wrong passwords and close the connection instead of replying. As a lost connection this would be
/// retried at once, and the account would soon be locked; a rejection is retried slowly.
pub(crate) fn disconnect_is_rejection<T>(
    answer: Result<T, Failure>,
    context: &AuthContext<'_>,
) -> Result<T, Failure> {
    answer.map_err(|failure| match failure.kind {
        FailureKind::Disconnected => Failure::new(
            FailureKind::AuthRefused,
            format!(
                "{}: the password or code was not accepted: {}",
                context.destination, failure.message
            ),
        )
        .hint("check the user and the password or code, or the output of password_command and answers"),
        _ => failure,
    })
}

/// The failure for a prompt that the user cancelled. `what` is what the prompt asked for.
pub(crate) fn prompt_cancelled(destination: &str, what: &str) -> Failure {
    Failure::new(
        FailureKind::NotAnswered,
        format!("{destination}: the prompt for {what} was not answered"),
    )
    .hint("run `tunnelctl up` to be asked again")
}
