//! Signs with an identity, and adds keys from files to the agent (AddKeysToAgent).

use secrecy::ExposeSecret as _;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;
use tunneld_ssh::client::{SignFuture, Signer};

use crate::prompt::PromptRequest;
use crate::session::auth::agent::Agent;
use crate::session::auth::identities::{Identity, KeyHolder};
use crate::session::auth::login::{Offer, SignError};
use crate::session::auth::method::AuthContext;
use tunneld_config::model::AddKeysToAgent;
use tunneld_keys::PrivateKey;
use tunneld_keys::private_key;

/// Signs for one offer of one identity.
pub(crate) struct IdentitySigner<'a> {
    identity: Identity,
    /// The algorithm of the offer; for a certificate that of the certificate, which an agent expects.
    algorithm: String,
    context: &'a AuthContext<'a>,
}

impl<'a> IdentitySigner<'a> {
    pub(crate) fn new(identity: &Identity, offer: &Offer, context: &'a AuthContext<'a>) -> Self {
        Self {
            identity: identity.clone(),
            algorithm: offer.algorithm.clone(),
            context,
        }
    }

    /// Returns the signature in the wire format, algorithm name first.
    async fn signature(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        match self.identity.holder() {
            KeyHolder::Agent(agent) => {
                let mut agent = agent.lock().await;
                // The agent may wait for a person, who touches a security key or consents.
                let sign = agent.sign(self.identity.signing_key(), data, &self.algorithm);
                let signed = self.context.prompter.wait_beside(sign).await;
                signed.map_err(SignError::Unable)
            }
            KeyHolder::File(file) => {
                let mut file = file.lock().await;
                let key = file.unlock(self.context).await?;
                let signed = tunneld_keys::sign(&key, data, &self.algorithm)
                    .map_err(|why| SignError::Unable(text::escape(&why)))?;
                self.add_to_agent(&key, &file.shown()).await;
                Ok(signed)
            }
        }
    }

    /// Adds the key to the agent if AddKeysToAgent says so. A failure is logged and does not hinder the login.
    async fn add_to_agent(&self, key: &PrivateKey, path: &str) {
        let (confirm, lifetime) = match self.context.auth.add_keys_to_agent {
            AddKeysToAgent::Never => return,
            AddKeysToAgent::Ask if !self.user_allows_adding(path).await => return,
            AddKeysToAgent::Ask => (false, None),
            AddKeysToAgent::Always { confirm, lifetime } => (confirm, lifetime),
        };
        let (Ok(Some(mut agent)), Some(encoded)) = (
            Agent::connect(&self.context.auth.agent, self.context.signatures).await,
            private_key::agent_encoding(key),
        ) else {
            return;
        };
        if let Err(why) = agent.add(&encoded, path, confirm, lifetime).await {
            tracing::warn!("adding the key {path} to the agent: {why}");
        }
    }

    /// A cancelled prompt counts as no.
    async fn user_allows_adding(&self, path: &str) -> bool {
        let request = PromptRequest {
            kind: PromptKind::KeyboardInteractive,
            host: self.context.destination.to_owned(),
            note: String::new(),
            text: format!("Add the key {path} to the agent of this machine?"),
            fields: vec![PromptField {
                label: "yes/no: ".into(),
                echo: true,
            }],
            fingerprint: None,
            server: None,
        };
        let answer = self.context.prompter.ask_one(request).await;
        answer.is_ok_and(|answer| answer.expose_secret().trim().eq_ignore_ascii_case("yes"))
    }
}

impl Signer for IdentitySigner<'_> {
    fn sign<'a>(&'a mut self, _algorithm: &'a str, data: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async { Ok(self.signature(data).await?) })
    }
}
