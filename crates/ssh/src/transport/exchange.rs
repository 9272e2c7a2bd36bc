//! One key exchange, from our KEXINIT to the new keys: RFC 4253 §7 to §9.

use std::time::Instant;

use bytes::Bytes;
use russh::keys::ssh_key;
use zeroize::Zeroizing;

use super::cipher::{CipherSpec, Opener, Sealer, Way};
use super::limits::Patience;
use super::mac::MacSpec;
use super::negotiate::Agreement;
use super::{HostKey, HostKeyOffer, Negotiated};
use crate::error::Error;
use crate::kex::{self, Fill, KeyMaterial, Method, Outcome, Step};
use crate::signature::{self, Certificate, Refused};
use crate::wire::Writer;

/// The two identifications and our first message: what the exchange hash begins with.
pub(super) struct Greeting<'a> {
    pub(super) our_ident: &'a str,
    pub(super) their_ident: &'a str,
}

/// A key exchange under way.
pub(super) struct Exchange {
    /// Our KEXINIT.
    pub(super) ours: Vec<u8>,
    /// Its sequence number.
    number: u32,
    /// The server's, once it came.
    pub(super) theirs: Bytes,
    pub(super) stage: Stage,
    /// How long the server may take.
    pub(super) patience: Patience,
}

pub(super) enum Stage {
    /// Our KEXINIT was sent.
    Init,
    /// The method runs.
    Method(Box<(Agreement, Method)>),
    /// The caller looks at the host key.
    HostKey(Box<Keys>),
    /// Our NEWKEYS was sent, and theirs is to come.
    NewKeys(Box<(Negotiated, Opener)>),
}

/// New keys, and what they are for.
pub(super) struct Keys {
    pub(super) negotiated: Negotiated,
    pub(super) material: KeyMaterial,
}

impl Exchange {
    pub(super) fn new(ours: Vec<u8>, number: u32, patience: Patience) -> Self {
        Self {
            ours,
            number,
            theirs: Bytes::new(),
            stage: Stage::Init,
            patience,
        }
    }

    /// When the server has taken too long; a person who looks at the host key has no deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::HostKey(_) => None,
            _ => self.patience.deadline(),
        }
    }

    /// Whether the server's KEXINIT came.
    pub(super) fn server_began(&self) -> bool {
        !matches!(self.stage, Stage::Init)
    }

    /// Whether our NEWKEYS is still to be sent, so that we may send nothing but our exchange.
    pub(super) fn holds_output(&self) -> bool {
        !matches!(self.stage, Stage::NewKeys(_))
    }

    /// Whether the message of this sequence number is of the exchange: up to our NEWKEYS nothing else is sent.
    pub(super) fn sent(&self, number: u32) -> bool {
        self.holds_output() && number.wrapping_sub(self.number) < 1 << 31
    }

    /// Gives one of the server's messages to the method.
    pub(super) fn on_message(&mut self, payload: &[u8], fill: Fill<'_>) -> Result<Reply, Error> {
        let Stage::Method(method) = &mut self.stage else {
            return Err(Error::Protocol(
                "a message of a key exchange that does not run".to_owned(),
            ));
        };
        let (agreement, method) = &mut **method;
        if std::mem::take(&mut agreement.skip_guess) {
            return Ok(Reply::Nothing);
        }
        Ok(match method.on_message(payload, fill)? {
            Step::Send(payload) => Reply::Send(payload),
            Step::Done(outcome) => Reply::Done(Box::new((agreement.negotiated.clone(), outcome))),
        })
    }

    /// Computes the exchange hash and verifies the host key's signature over it.
    pub(super) fn finish(
        &self,
        greeting: &Greeting<'_>,
        negotiated: Negotiated,
        outcome: Outcome,
        session_id: &[u8],
    ) -> Result<(Keys, HostKeyOffer), Error> {
        let hash = kex::hash_of(negotiated.kex);
        let mut head = Vec::new();
        head.string(greeting.our_ident);
        head.string(greeting.their_ident);
        head.string(&self.ours);
        head.string(&self.theirs);
        head.string(&outcome.host_key);
        let exchange_hash = hash.over(&[&head, &outcome.fields, &outcome.secret]);
        let offer = verify_host_key(negotiated.host_key, &outcome, &exchange_hash)?;
        let session_id = if session_id.is_empty() {
            exchange_hash.to_vec()
        } else {
            session_id.to_vec()
        };
        let keys = Keys {
            negotiated,
            material: KeyMaterial {
                hash,
                secret: outcome.secret,
                exchange_hash,
                session_id,
            },
        };
        Ok((keys, offer))
    }
}

/// What follows from one of the server's messages.
pub(super) enum Reply {
    Nothing,
    Send(Vec<u8>),
    Done(Box<(Negotiated, Outcome)>),
}

impl Keys {
    pub(super) fn sealer(&self) -> Result<Sealer, Error> {
        let negotiated = &self.negotiated;
        spec(negotiated.cipher_out)?.sealer(
            negotiated.mac_out.and_then(MacSpec::of),
            &self.material,
            Way::Out,
        )
    }

    pub(super) fn opener(&self) -> Result<Opener, Error> {
        let negotiated = &self.negotiated;
        spec(negotiated.cipher_in)?.opener(
            negotiated.mac_in.and_then(MacSpec::of),
            &self.material,
            Way::In,
        )
    }
}

pub(super) fn spec(cipher: &str) -> Result<CipherSpec, Error> {
    CipherSpec::of(cipher).ok_or_else(|| Error::KexFailed(format!("no cipher {cipher}")))
}

/// Verifies the signature over the exchange hash, and of a certificate its authority's.
fn verify_host_key(
    algorithm: &'static str,
    outcome: &Outcome,
    exchange_hash: &Zeroizing<Vec<u8>>,
) -> Result<HostKeyOffer, Error> {
    let refused = |refused: Refused| Error::KexFailed(format!("the host key: {refused}"));
    let blob = &outcome.host_key;
    let plain_algorithm = signature::plain_type(algorithm);
    let (key, plain) = match &plain_algorithm {
        None => {
            let key =
                ssh_key::PublicKey::from_bytes(blob).map_err(|_| refused(Refused::Malformed))?;
            (HostKey::Plain(key), blob.clone())
        }
        Some(_) => {
            let sha1 = algorithm.starts_with("ssh-rsa");
            let certificate = Certificate::read(blob, sha1).map_err(refused)?;
            let plain = certificate
                .key
                .to_bytes()
                .map_err(|_| refused(Refused::Malformed))?;
            (HostKey::Certificate(Box::new(certificate)), plain)
        }
    };
    let signs_with = plain_algorithm.as_deref().unwrap_or(algorithm);
    signature::verify(signs_with, &plain, &outcome.signature, exchange_hash).map_err(refused)?;
    Ok(HostKeyOffer {
        algorithm,
        blob: Bytes::from(blob.clone()),
        key,
    })
}
