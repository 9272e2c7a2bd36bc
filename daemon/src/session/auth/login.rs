//! One login over the SSH library (RFC 4252, RFC 4256): sends single requests and returns the server's replies.
//! Which method is tried with what is decided in `auth`.

use secrecy::{ExposeSecret as _, SecretString};
use tunneld_proto::text;
use tunneld_ssh::Error;
use tunneld_ssh::auth::{AuthResult, InfoRequest};
use tunneld_ssh::client::{AuthError, Authenticator, Signer};

use crate::failure::{Failure, FailureKind};
use crate::session::ssh_error::{failure_of, last_words};

/// The server's reply to an authentication request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The user is logged in.
    Success,
    /// The request was rejected, or another method is required besides.
    Failure {
        /// The methods that can continue.
        methods: Vec<String>,
        /// Whether this method succeeded and another is required besides.
        partial: bool,
    },
    /// The password is right but has expired. Holds the server's text, which is not escaped.
    ChangePassword(String),
}

/// The server's reply within keyboard-interactive.
#[derive(Debug)]
pub(crate) enum Challenge {
    /// The method has ended.
    Ended(Reply),
    /// The server sends prompts. The text is not escaped.
    InfoRequest(InfoRequest),
}

/// A key that is offered to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The signature algorithm, such as `rsa-sha2-512` or `ssh-ed25519-cert-v01@openssh.com`.
    pub(crate) algorithm: String,
    /// The public key or certificate, in the wire format.
    pub(crate) blob: Vec<u8>,
}

/// Why a key did not sign although the server accepts it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignError {
    /// The user cancelled the prompt for the passphrase.
    #[error("the prompt was cancelled")]
    PromptCancelled,
    /// This key cannot sign; another may. Holds the reason, escaped.
    #[error("{0}")]
    Unable(String),
}

/// The result of offering a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OfferOutcome {
    /// The server replied to the offer or to the signature.
    Replied(Reply),
    /// The server accepts the key, but there is no signature. Nothing was sent.
    NotSigned(SignError),
}

/// A connection that is not logged in yet. In every method, a lost connection is an error and never a rejection.
pub(crate) struct Login {
    connected: Authenticator,
    /// Bytes of the server's banner that [`Login::banner`] has returned.
    banner_read: usize,
    /// Whether a request with a credential, or for a challenge, was sent.
    sent_credential: bool,
    /// Length of the banner before the first credential. What follows is about this login.
    greeting_length: usize,
}

impl Login {
    pub(crate) fn new(connected: Authenticator) -> Self {
        Self {
            connected,
            banner_read: 0,
            sent_credential: false,
            greeting_length: 0,
        }
    }

    /// Whether something was sent that the server may count as an attempt to log in.
    pub(crate) fn sent_credential(&self) -> bool {
        self.sent_credential
    }

    /// The connection, to be turned into a session after the login has succeeded.
    pub(crate) fn into_connected(self) -> Authenticator {
        self.connected
    }

    /// Sends the method `none`. Its failure lists the methods of the server (RFC 4252 §5.2).
    pub(crate) async fn none(&mut self) -> Result<Reply, Failure> {
        let result = self.connected.none().await;
        let result = result.map_err(|error| lost(&error))?;
        self.greeting_length = self.connected.banner().len();
        reply(result)
    }

    /// What the server has sent in banners since the first credential, such as the text of pam_nologin: one line,
    /// escaped. Empty if it sent nothing.
    pub(crate) fn last_words(&self) -> String {
        let banner = self.connected.banner();
        last_words(banner.get(self.greeting_length..).unwrap_or_default())
    }

    /// The signature algorithms that the server accepts (RFC 8308 `server-sig-algs`). `None` if it has not sent them.
    pub(crate) fn signature_algorithms(&self) -> Option<Vec<String>> {
        self.connected.server_sig_algs()
    }

    /// Offers a key, and calls `signer` only if the server accepts it: signing may ask a person.
    pub(crate) async fn public_key(
        &mut self,
        offer: &Offer,
        signer: &mut dyn Signer,
    ) -> Result<OfferOutcome, Failure> {
        self.sent_credential = true;
        let offered = self
            .connected
            .public_key(&offer.algorithm, &offer.blob, signer);
        match offered.await {
            Ok(result) => reply(result).map(OfferOutcome::Replied),
            Err(AuthError::Session(error)) => Err(lost(&error)),
            Err(AuthError::Signer(error)) => {
                let why = match error.downcast::<SignError>() {
                    Ok(why) => *why,
                    Err(other) => SignError::Unable(text::escape(&other.to_string())),
                };
                Ok(OfferOutcome::NotSigned(why))
            }
        }
    }

    /// Sends a password; with a new one in reply to [`Reply::ChangePassword`].
    pub(crate) async fn password(
        &mut self,
        password: &SecretString,
        new: Option<&SecretString>,
    ) -> Result<Reply, Failure> {
        self.sent_credential = true;
        let new = new.map(|new| new.expose_secret());
        let result = self.connected.password(password.expose_secret(), new).await;
        reply(result.map_err(|error| lost(&error))?)
    }

    /// Starts keyboard-interactive.
    pub(crate) async fn keyboard_interactive(&mut self) -> Result<Challenge, Failure> {
        self.sent_credential = true;
        challenge(self.connected.keyboard_interactive("").await)
    }

    /// Answers the prompts of the last [`Challenge`], one answer per prompt.
    pub(crate) async fn answer(
        &mut self,
        answers: Vec<SecretString>,
    ) -> Result<Challenge, Failure> {
        let answers: Vec<&str> = answers
            .iter()
            .map(|answer| answer.expose_secret())
            .collect();
        challenge(self.connected.info_response(&answers).await)
    }

    /// Waits until the server ends the connection. For use while a person is asked, when no request is under way.
    pub(crate) async fn closed(&self) -> Failure {
        lost(&self.connected.closed().await)
    }

    /// What the server has sent in banners since the last call, escaped line by line. Empty if it sent nothing.
    pub(crate) fn banner(&mut self) -> String {
        let whole = self.connected.banner();
        let unread = whole.get(self.banner_read..).unwrap_or_default();
        self.banner_read = whole.len();
        let lines = unread.lines().map(|line| text::escape(line.trim_end()));
        lines.collect::<Vec<_>>().join("\n").trim().to_owned()
    }
}

fn lost(error: &Error) -> Failure {
    let failure = failure_of(error);
    Failure {
        message: format!("while logging in: {}", failure.message),
        ..failure
    }
}

fn reply(result: AuthResult) -> Result<Reply, Failure> {
    match result {
        AuthResult::Success => Ok(Reply::Success),
        AuthResult::Failure { remaining, partial } => Ok(Reply::Failure {
            methods: remaining,
            partial,
        }),
        AuthResult::PasswordChangeRequest(message) => Ok(Reply::ChangePassword(message)),
        _ => Err(Failure::new(
            FailureKind::Protocol,
            "while logging in: the server sent a reply to a request that was not made",
        )),
    }
}

fn challenge(result: Result<AuthResult, Error>) -> Result<Challenge, Failure> {
    match result.map_err(|error| lost(&error))? {
        AuthResult::InfoRequest(prompts) => Ok(Challenge::InfoRequest(prompts)),
        result => reply(result).map(Challenge::Ended),
    }
}
