//! A login over russh.

use std::time::Duration;

use russh::client::{AuthResult, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::key::parse_public_key;
use russh::keys::{Certificate, HashAlg};
use russh::{MethodSet, SendError, Signer};
use secrecy::{ExposeSecret as _, SecretString};

use super::login::{Challenge, Login, Offer, Reply, Sign, SignError, Signed};
use super::russh_client::{Connected, lock};
use crate::failure::{Failure, FailureKind};

/// russh wants the signature behind the data that was signed.
struct Appends<'a, S>(&'a mut S);

enum NotSigned {
    Gone,
    Why(SignError),
}

impl From<SendError> for NotSigned {
    fn from(_: SendError) -> Self {
        Self::Gone
    }
}

impl<S: Sign> Signer for Appends<'_, S> {
    type Error = NotSigned;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        _: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, NotSigned> {
        let signature = self.0.sign(&data).await.map_err(NotSigned::Why)?;
        let len = u32::try_from(signature.len())
            .map_err(|_| NotSigned::Why(SignError::Unable("the signature is too long".into())))?;
        data.extend(len.to_be_bytes());
        data.extend(signature);
        Ok(data)
    }
}

impl Connected {
    /// A failure that is none of the server's is the connection's end.
    async fn lost(&self) -> Failure {
        // The handler tells the cause in the same moment; it is worth the wait.
        let told = tokio::time::timeout(Duration::from_secs(1), self.shared.end.wait());
        let failure = told
            .await
            .unwrap_or_else(|_| Failure::new(FailureKind::Disconnected, "the connection was lost"));
        Failure {
            message: format!("while logging in: {}", failure.message),
            ..failure
        }
    }

    async fn reply(&self, methods: MethodSet, partial: bool) -> Result<Reply, Failure> {
        if methods.is_empty() && !partial && (self.handle.is_closed() || self.shared.end.is_told())
        {
            return Err(self.lost().await);
        }
        Ok(Reply::Failure {
            methods: methods.iter().map(String::from).collect(),
            partial,
        })
    }

    async fn result(&self, result: AuthResult) -> Result<Reply, Failure> {
        match result {
            AuthResult::Success => Ok(Reply::Success),
            AuthResult::Failure {
                remaining_methods,
                partial_success,
            } => self.reply(remaining_methods, partial_success).await,
        }
    }

    async fn challenge(
        &self,
        response: Result<KeyboardInteractiveAuthResponse, russh::Error>,
    ) -> Result<Challenge, Failure> {
        let Ok(response) = response else {
            return Err(self.lost().await);
        };
        Ok(match response {
            KeyboardInteractiveAuthResponse::Success => Challenge::Over(Reply::Success),
            KeyboardInteractiveAuthResponse::Failure {
                remaining_methods,
                partial_success,
            } => Challenge::Over(self.reply(remaining_methods, partial_success).await?),
            KeyboardInteractiveAuthResponse::InfoRequest {
                name,
                instructions,
                prompts,
            } => Challenge::Prompts {
                name,
                instructions,
                prompts: prompts
                    .into_iter()
                    .map(|prompt| (prompt.prompt, prompt.echo))
                    .collect(),
            },
        })
    }
}

fn hash_of(algorithm: &str) -> Option<HashAlg> {
    if algorithm.starts_with("rsa-sha2-512") {
        Some(HashAlg::Sha512)
    } else if algorithm.starts_with("rsa-sha2-256") {
        Some(HashAlg::Sha256)
    } else {
        None
    }
}

impl Login for Connected {
    async fn none(&mut self) -> Result<Reply, Failure> {
        match self.handle.authenticate_none(self.user.clone()).await {
            Ok(result) => self.result(result).await,
            Err(_) => Err(self.lost().await),
        }
    }

    async fn signature_algorithms(&mut self) -> Option<Vec<String>> {
        // russh tells only the best for RSA, which is what it is asked for.
        match self.handle.best_supported_rsa_hash().await {
            Ok(Some(Some(HashAlg::Sha256))) => Some(vec!["rsa-sha2-256".into()]),
            Ok(Some(None)) => Some(vec!["ssh-rsa".into()]),
            _ => None,
        }
    }

    async fn public_key(
        &mut self,
        offer: &Offer,
        signer: &mut impl Sign,
    ) -> Result<Signed, Failure> {
        let unable = |what: &str| Ok(Signed::NotSigned(SignError::Unable(what.into())));
        let hash = hash_of(&offer.algorithm);
        let mut signer = Appends(signer);
        let user = self.user.clone();
        let result = if offer.algorithm.contains("-cert-v01@") {
            let Ok(certificate) = Certificate::from_bytes(&offer.blob) else {
                return unable("the certificate cannot be read");
            };
            self.handle
                .authenticate_certificate_with(user, certificate, hash, &mut signer)
                .await
        } else {
            let Ok(key) = parse_public_key(&offer.blob) else {
                return unable("the key cannot be read");
            };
            self.handle
                .authenticate_publickey_with(user, key, hash, &mut signer)
                .await
        };
        match result {
            Ok(result) => self.result(result).await.map(Signed::Replied),
            Err(NotSigned::Why(why)) => Ok(Signed::NotSigned(why)),
            Err(NotSigned::Gone) => Err(self.lost().await),
        }
    }

    async fn password(&mut self, password: &SecretString) -> Result<Reply, Failure> {
        let user = self.user.clone();
        match self
            .handle
            .authenticate_password(user, password.expose_secret())
            .await
        {
            Ok(result) => self.result(result).await,
            Err(_) => Err(self.lost().await),
        }
    }

    async fn interactive(&mut self) -> Result<Challenge, Failure> {
        let user = self.user.clone();
        let response = self
            .handle
            .authenticate_keyboard_interactive_start(user, None)
            .await;
        self.challenge(response).await
    }

    async fn answer(&mut self, answers: Vec<SecretString>) -> Result<Challenge, Failure> {
        let answers = answers
            .iter()
            .map(|answer| answer.expose_secret().to_owned())
            .collect();
        let response = self
            .handle
            .authenticate_keyboard_interactive_respond(answers)
            .await;
        self.challenge(response).await
    }

    fn banner(&mut self) -> String {
        std::mem::take(&mut *lock(&self.shared.banner))
            .trim_end()
            .to_owned()
    }
}
