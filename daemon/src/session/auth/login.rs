//! What a transport can do towards a login (RFC 4252, RFC 4256): the line between `auth`, which decides what is
//! tried, and the SSH library, which carries it out.

use std::future::Future;

use secrecy::SecretString;

use crate::failure::Failure;

/// The server's answer to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Logged in.
    Success,
    /// Not, or not yet.
    Failure {
        /// The methods that can continue.
        methods: Vec<String>,
        /// Whether this method was right and another is wanted besides.
        partial: bool,
    },
    /// The password is right and has expired; the server's words, escaped.
    ChangePassword(String),
}

/// The server's answer within keyboard-interactive.
#[derive(Debug)]
pub(crate) enum Challenge {
    /// It is over.
    Over(Reply),
    /// It asks.
    Prompts {
        /// What it calls itself.
        name: String,
        /// What it says above the prompts.
        instructions: String,
        /// The prompts, each with whether the answer may be seen.
        prompts: Vec<(String, bool)>,
    },
}

/// A key that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The signature algorithm, such as `rsa-sha2-512` or `ssh-ed25519-cert-v01@openssh.com`.
    pub(crate) algorithm: String,
    /// The key or certificate.
    pub(crate) blob: Vec<u8>,
}

/// Why a key that the server would take did not sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignError {
    /// A person was asked and did not answer.
    PromptCancelled,
    /// It cannot; the next key may.
    Unable(String),
}

/// What came of offering a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signed {
    /// The server's word.
    Replied(Reply),
    /// The server would take the key, which did not sign.
    NotSigned(SignError),
}

/// Signs what the server wants signed once it would take a key.
pub(crate) trait Sign: Send {
    /// The signature as it goes on the wire, algorithm name first.
    fn sign(&mut self, data: &[u8]) -> impl Future<Output = Result<Vec<u8>, SignError>> + Send;
}

/// A connection that is not logged in yet. A lost connection is an error, never a refusal.
pub(crate) trait Login: Send {
    /// Asks which methods there are.
    fn none(&mut self) -> impl Future<Output = Result<Reply, Failure>> + Send;

    /// The signature algorithms that the server says it takes; none where it does not say.
    fn signature_algorithms(&mut self) -> Option<Vec<String>>;

    /// Offers a key, and signs with it if the server would take it.
    fn public_key(
        &mut self,
        offer: &Offer,
        signer: &mut impl Sign,
    ) -> impl Future<Output = Result<Signed, Failure>> + Send;

    /// Tries a password; with a new one after [`Reply::ChangePassword`].
    fn password(
        &mut self,
        password: &SecretString,
        new: Option<&SecretString>,
    ) -> impl Future<Output = Result<Reply, Failure>> + Send;

    /// Begins keyboard-interactive.
    fn interactive(&mut self) -> impl Future<Output = Result<Challenge, Failure>> + Send;

    /// Answers its prompts.
    fn answer(
        &mut self,
        answers: Vec<SecretString>,
    ) -> impl Future<Output = Result<Challenge, Failure>> + Send;

    /// Waits until the server ends the connection, while nothing is asked of it.
    fn closed(&self) -> impl Future<Output = Failure> + Send;

    /// What the server has said in banners since it was last asked, escaped.
    fn banner(&mut self) -> String;
}
