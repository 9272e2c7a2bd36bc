//! The login (RFC 4252): which methods are tried in which order, until one succeeds or none is left.
//!
//! Each method has a file of its own; `login` sends the requests, `history` words the failure. A lost connection is
//! never reported as a rejection, and a cancelled prompt uses up no attempt at the server.

pub(crate) mod agent;
mod history;
mod identities;
pub(crate) mod key_file;
mod keyboard_interactive;
pub(crate) mod login;
pub(crate) mod method;
mod password;
pub(crate) mod pending_signatures;
mod public_key;
mod signature_algorithm;
mod signer;
pub(crate) mod unlocked_keys;

use std::path::Path;

use tunneld_proto::text;

use crate::failure::{Failure, FailureKind};
use crate::session::auth::history::{AuthHistory, map_max_auth_tries};
use crate::session::auth::keyboard_interactive::KeyboardInteractive;
use crate::session::auth::login::{Login, Reply};
use crate::session::auth::method::{AuthContext, Credential, MethodOutcome};
use crate::session::auth::password::Password;
use crate::session::auth::public_key::PublicKey;

/// Methods in a row that the server may accept and still require another.
const STEP_LIMIT: usize = 6;

/// Lines of the server's banner that are logged.
const BANNER_LINES: usize = 64;

/// Adds what the server said in this login to a failure that the server decided: it may name the cause (an expired
/// account, a machine that is starting).
fn with_last_words(failure: Failure, words: &str) -> Failure {
    let is_of_server = matches!(
        failure.kind,
        FailureKind::Disconnected | FailureKind::AuthRefused
    );
    match is_of_server && !words.is_empty() && !failure.message.contains(words) {
        true => Failure {
            message: format!("{}; the server said: {words}", failure.message),
            ..failure
        },
        false => failure,
    }
}

/// Ends a login that asks the user, once a configured key can be read that could not be read at its beginning.
fn readable_again(path: &Path) -> Failure {
    let path = text::escape(&path.to_string_lossy());
    Failure::new(
        FailureKind::Unreadable,
        format!("{path} can be read now: logging in again"),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    PublicKey,
    Password,
    KeyboardInteractive,
}

impl Method {
    /// `None` for a method that tunneld does not have, such as `gssapi-with-mic`.
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "publickey" => Some(Self::PublicKey),
            "password" => Some(Self::Password),
            "keyboard-interactive" => Some(Self::KeyboardInteractive),
            _ => None,
        }
    }
}

struct Authentication<'a> {
    login: &'a mut Login,
    context: &'a AuthContext<'a>,
    history: AuthHistory,
    public_key: PublicKey<'a>,
    password: Password<'a>,
    keyboard_interactive: KeyboardInteractive<'a>,
    exhausted: Vec<Method>,
}

/// Logs in. Returns the methods that succeeded, for `status`: `publickey ED25519 SHA256:… (agent, me@here)`.
///
/// # Errors
/// The server rejected all that could be tried, there was nothing to try, a prompt was cancelled, or the connection
/// was lost.
pub(crate) async fn log_in(
    login: &mut Login,
    context: &AuthContext<'_>,
) -> Result<String, Failure> {
    let mut authentication = Authentication {
        login,
        context,
        history: AuthHistory::default(),
        public_key: PublicKey::new(context),
        password: Password::new(context),
        keyboard_interactive: KeyboardInteractive::new(context),
        exhausted: Vec::new(),
    };
    let result = authentication.run().await;
    let Authentication { login, history, .. } = authentication;
    // What a prompt has not shown already; also after a failure, since the banner may name the cause.
    for line in login.banner().lines().take(BANNER_LINES) {
        tracing::info!(tunnel = context.tunnel, "the server's banner: {line}");
    }
    result.map_err(|failure| {
        let failure = map_max_auth_tries(failure, &history, context.destination);
        with_last_words(failure, &login.last_words())
    })
}

impl Authentication<'_> {
    async fn run(&mut self) -> Result<String, Failure> {
        // RFC 4252 §5.2: the failure of `none` lists the methods of the server.
        match self.login.none().await? {
            Reply::Success => return Ok("none".into()),
            Reply::Failure { methods, .. } => self.history.accepted_methods = methods,
            Reply::ChangePassword(_) => {}
        }
        while self.history.succeeded.len() < STEP_LIMIT {
            let Some(method) = self.next_method() else {
                return Err(self.history.exhausted(self.context));
            };
            match self.step(method).await? {
                MethodOutcome::Exhausted => self.exhausted.push(method),
                MethodOutcome::CommandFailed(why) => {
                    self.history.command_failed = true;
                    self.history.notes.push(why);
                    self.exhausted.push(method);
                }
                MethodOutcome::Replied { reply, to } => {
                    if self.take_reply(method, reply, to) {
                        return Ok(self.history.succeeded());
                    }
                }
            }
        }
        Err(history::too_many_steps(
            self.context.destination,
            STEP_LIMIT,
        ))
    }

    /// The first method in the order of PreferredAuthentications that the server accepts and that is not exhausted.
    /// The list is read anew for each step, because it changes with each reply of the server.
    fn next_method(&self) -> Option<Method> {
        let accepted = &self.history.accepted_methods;
        let preferred = &self.context.auth.preferred;
        preferred
            .iter()
            .filter(|name| accepted.contains(name))
            .filter_map(|name| Method::from_name(name))
            .find(|method| !self.exhausted.contains(method))
    }

    async fn step(&mut self, method: Method) -> Result<MethodOutcome, Failure> {
        let unreadable = match method {
            Method::PublicKey => Vec::new(),
            Method::Password | Method::KeyboardInteractive => self.history.unreadable.clone(),
        };
        let step = async {
            match method {
                Method::PublicKey => {
                    return self.public_key.step(self.login, &mut self.history).await;
                }
                Method::Password => self.password.step(self.login).await,
                Method::KeyboardInteractive => self.keyboard_interactive.step(self.login).await,
            }
        };
        tokio::select! {
            biased;
            outcome = step => outcome,
            // The user may not be there to answer. With the key, the next dial needs no answer.
            path = key_file::readable_again(&unreadable) => Err(readable_again(&path)),
        }
    }

    /// Records the server's reply. Returns whether the user is logged in.
    fn take_reply(&mut self, method: Method, reply: Reply, to: Credential) -> bool {
        match reply {
            Reply::Success => {
                self.history.succeeded.push(to);
                return true;
            }
            // Only a password can expire, and the method `password` replies to that by itself.
            Reply::ChangePassword(_) => self.exhausted.push(method),
            Reply::Failure { methods, partial } => {
                self.history.accepted_methods = methods;
                if partial {
                    self.history.succeeded.push(to);
                    self.start_over();
                } else {
                    self.history.rejected.push(to);
                }
            }
        }
        false
    }

    /// Allows each method again: after a partial success the server may require the same method with another
    /// credential (sshd's `AuthenticationMethods publickey,publickey`).
    fn start_over(&mut self) {
        self.exhausted.clear();
        self.public_key.start_over();
        self.password = Password::new(self.context);
        self.keyboard_interactive = KeyboardInteractive::new(self.context);
    }
}
