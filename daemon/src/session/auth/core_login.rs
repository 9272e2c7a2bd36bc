//! A login over the SSH core.

use secrecy::{ExposeSecret as _, SecretString};
use tunneld_proto::text;
use tunneld_ssh::auth::AuthResult;
use tunneld_ssh::client::{AuthError, SignFuture, Signer};
use tunneld_ssh::{Error, auth};

use crate::failure::{Failure, FailureKind};
use crate::session::auth::login::{Challenge, Login, Offer, Reply, Sign, SignError, Signed};
use crate::session::client::{Connected, failure_of};

/// Signs for the core, and keeps why it could not.
struct Keeps<'a, S> {
    signer: &'a mut S,
    why: Option<SignError>,
}

impl<S: Sign> Signer for Keeps<'_, S> {
    fn sign<'a>(&'a mut self, _algorithm: &'a str, data: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async {
            self.signer.sign(data).await.map_err(|why| {
                self.why = Some(why);
                "not signed".into()
            })
        })
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
        AuthResult::PasswordChangeRequest(said) => Ok(Reply::ChangePassword(text::escape(&said))),
        _ => Err(Failure::new(
            FailureKind::Protocol,
            "while logging in: the server answered what was not asked",
        )),
    }
}

fn challenge(result: Result<AuthResult, Error>) -> Result<Challenge, Failure> {
    match result.map_err(|error| lost(&error))? {
        AuthResult::InfoRequest(auth::InfoRequest {
            name,
            instruction,
            prompts,
        }) => Ok(Challenge::Prompts {
            name,
            instructions: instruction,
            prompts: prompts
                .into_iter()
                .map(|prompt| (prompt.text, prompt.echo))
                .collect(),
        }),
        result => reply(result).map(Challenge::Over),
    }
}

impl Login for Connected {
    async fn none(&mut self) -> Result<Reply, Failure> {
        reply(self.core.none().await.map_err(|error| lost(&error))?)
    }

    fn signature_algorithms(&mut self) -> Option<Vec<String>> {
        self.core.server_sig_algs()
    }

    async fn public_key(
        &mut self,
        offer: &Offer,
        signer: &mut impl Sign,
    ) -> Result<Signed, Failure> {
        let mut keeps = Keeps { signer, why: None };
        let offered = self
            .core
            .public_key(&offer.algorithm, &offer.blob, &mut keeps);
        match offered.await {
            Ok(result) => reply(result).map(Signed::Replied),
            Err(AuthError::Session(error)) => Err(lost(&error)),
            Err(AuthError::Signer(error)) => {
                let why = || SignError::Unable(text::escape(&error.to_string()));
                Ok(Signed::NotSigned(keeps.why.unwrap_or_else(why)))
            }
        }
    }

    async fn password(
        &mut self,
        password: &SecretString,
        new: Option<&SecretString>,
    ) -> Result<Reply, Failure> {
        let new = new.map(|new| new.expose_secret());
        let result = self.core.password(password.expose_secret(), new).await;
        reply(result.map_err(|error| lost(&error))?)
    }

    async fn interactive(&mut self) -> Result<Challenge, Failure> {
        challenge(self.core.keyboard_interactive("").await)
    }

    async fn answer(&mut self, answers: Vec<SecretString>) -> Result<Challenge, Failure> {
        let answers: Vec<&str> = answers
            .iter()
            .map(|answer| answer.expose_secret())
            .collect();
        challenge(self.core.info_response(&answers).await)
    }

    async fn closed(&self) -> Failure {
        lost(&self.core.closed().await)
    }

    fn banner(&mut self) -> String {
        let whole = self.core.banner();
        let fresh = whole.get(self.told..).unwrap_or_default();
        self.told = whole.len();
        let lines = fresh.lines().map(|line| text::escape(line.trim_end()));
        lines.collect::<Vec<_>>().join("\n").trim().to_owned()
    }
}
