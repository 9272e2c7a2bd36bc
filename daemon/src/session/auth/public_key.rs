//! The method `publickey` (RFC 4252 §7): offers one identity after the other, and signs with the one that the server
//! accepts.

use crate::failure::Failure;
use crate::session::auth::history::AuthHistory;
use crate::session::auth::identities::{Identities, Identity, OFFER_LIMIT};
use crate::session::auth::login::{Login, Offer, OfferOutcome, Reply, SignError};
use crate::session::auth::method::{AuthContext, Credential, MethodOutcome, prompt_cancelled};
use crate::session::auth::signature_algorithm::signature_algorithms;
use crate::session::auth::signer::IdentitySigner;

/// The state of the method over its attempts.
pub(crate) struct PublicKey<'a> {
    context: &'a AuthContext<'a>,
    /// `None` until the first step: an agent is not contacted for a server that accepts passwords only.
    identities: Option<Identities>,
    /// Offers made in this login, over all its steps: the server counts all of them.
    offers: usize,
}

impl<'a> PublicKey<'a> {
    pub(crate) fn new(context: &'a AuthContext<'a>) -> Self {
        Self {
            context,
            identities: None,
            offers: 0,
        }
    }

    /// Allows each identity once more.
    pub(crate) fn start_over(&mut self) {
        self.identities = None;
    }

    /// Offers identities until the server replies to one.
    pub(crate) async fn step(
        &mut self,
        login: &mut Login,
        history: &mut AuthHistory,
    ) -> Result<MethodOutcome, Failure> {
        let cancelled = || prompt_cancelled(self.context.destination, "the passphrase");
        loop {
            let Some(mut identity) = self.next_identity(history).await else {
                return Ok(MethodOutcome::Exhausted);
            };
            if self.offers >= OFFER_LIMIT {
                history.notes.push(self.drop_identities());
                return Ok(MethodOutcome::Exhausted);
            }
            let blob = match identity.public_blob(self.context).await {
                Ok(blob) => blob,
                Err(SignError::PromptCancelled) => return Err(cancelled()),
                Err(SignError::Unable(why)) => {
                    history.notes.push(why);
                    continue;
                }
            };
            match self.offer(login, &identity, blob).await? {
                Some(OfferOutcome::Replied(reply)) => {
                    let to = Credential::PublicKey(identity.to_string());
                    return Ok(MethodOutcome::Replied { reply, to });
                }
                Some(OfferOutcome::NotSigned(SignError::PromptCancelled)) => {
                    return Err(cancelled());
                }
                Some(OfferOutcome::NotSigned(SignError::Unable(why))) => {
                    history.agent_unavailable |= identity.is_in_agent();
                    history
                        .notes
                        .push(format!("the server accepts {identity}, but: {why}"));
                }
                None => history.notes.push(format!(
                    "{identity}: the server and pubkey_accepted_algorithms have no signature algorithm in common"
                )),
            }
        }
    }

    /// Offers one identity with each algorithm in turn until the server accepts it. `None` if there is no algorithm.
    async fn offer(
        &mut self,
        login: &mut Login,
        identity: &Identity,
        blob: Vec<u8>,
    ) -> Result<Option<OfferOutcome>, Failure> {
        let allowed = &self.context.auth.pubkey_algorithms;
        let server = login.signature_algorithms();
        let mut last = None;
        for algorithm in signature_algorithms(&blob, allowed, server.as_deref()) {
            let offer = Offer {
                algorithm,
                blob: blob.clone(),
            };
            let mut signer = IdentitySigner::new(identity, &offer, self.context);
            self.offers += 1;
            let outcome = login.public_key(&offer, &mut signer).await?;
            let is_rejected = matches!(
                outcome,
                OfferOutcome::Replied(Reply::Failure { partial: false, .. })
            );
            last = Some(outcome);
            if !is_rejected {
                break;
            }
        }
        Ok(last)
    }

    async fn next_identity(&mut self, history: &mut AuthHistory) -> Option<Identity> {
        if self.identities.is_none() {
            let mut identities = Identities::load(self.context).await;
            for note in identities.notes.drain(..) {
                // After a partial success the same files are read again.
                if !history.notes.contains(&note) {
                    tracing::info!(tunnel = self.context.tunnel, "{note}");
                    history.notes.push(note);
                }
            }
            history.agent_unavailable |= identities.agent_unavailable;
            history.agent_try_again |= identities.agent_try_again;
            history.unreadable = std::mem::take(&mut identities.unreadable);
            self.identities = Some(identities);
        }
        self.identities.as_mut()?.list.pop_front()
    }

    /// Drops the identities that are left, and returns the note about them. One more is in the caller's hand.
    fn drop_identities(&mut self) -> String {
        let left = self
            .identities
            .as_mut()
            .map_or(0, |identities| identities.list.drain(..).count());
        format!(
            "{} more keys were not offered, because servers end the login after {OFFER_LIMIT}: name the right one \
             with identity_file and identities_only",
            left + 1
        )
    }
}
