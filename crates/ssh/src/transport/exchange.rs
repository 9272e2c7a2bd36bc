//! One key exchange, from our KEXINIT to the new keys (RFC 4253 §7 to §9).

use std::time::Instant;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::cipher::{CipherSpec, Direction};
use super::kex_deadline::KexDeadline;
use super::mac::MacSpec;
use super::negotiate::Agreement;
use super::sealing::{Opener, Sealer};
use super::types::{HostKey, HostKeyOffer, Negotiated};
use crate::error::Error;
use crate::kex::{self, FillRandom, KexMethod, KexOutcome, KexStep, KeyMaterial};
use crate::signature::{self, Certificate, SignatureError};
use crate::wire::Writer;

/// The identification lines of both sides, with which the exchange hash begins.
pub(super) struct Idents<'a> {
    pub(super) client: &'a str,
    pub(super) server: &'a str,
}

/// A key exchange in progress.
pub(super) struct KeyExchange {
    /// Payload of our KEXINIT, kept because the exchange hash covers it byte by byte (RFC 4253 §8).
    client_kexinit: Vec<u8>,
    /// Sequence number of our KEXINIT, the first packet that belongs to this exchange.
    first_sequence: u32,
    /// Payload of the server's KEXINIT; empty until it is received.
    pub(super) server_kexinit: Bytes,
    pub(super) stage: KexStage,
    /// When the server has taken too long for this exchange.
    pub(super) deadline: KexDeadline,
}

/// How far a key exchange has come.
pub(super) enum KexStage {
    /// Our KEXINIT was sent; the server's has not arrived. It may still send what it had queued.
    KexInit,
    /// Both KEXINITs were sent, and the method exchanges its messages.
    Method(Box<(Agreement, KexMethod)>),
    /// The caller checks the host key.
    HostKey(Box<DerivedKeys>),
    /// Our NEWKEYS was sent; the server's has to follow.
    NewKeys(Box<(Negotiated, Opener)>),
}

/// The material of new keys, and the algorithms to use them with.
pub(super) struct DerivedKeys {
    pub(super) negotiated: Negotiated,
    pub(super) material: KeyMaterial,
}

impl KeyExchange {
    pub(super) fn new(client_kexinit: Vec<u8>, first_sequence: u32, deadline: KexDeadline) -> Self {
        Self {
            client_kexinit,
            first_sequence,
            server_kexinit: Bytes::new(),
            stage: KexStage::KexInit,
            deadline,
        }
    }

    /// When the server has taken too long. `None` while the caller checks the host key: a user may take any time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            KexStage::HostKey(_) => None,
            _ => self.deadline.deadline(),
        }
    }

    /// Whether the server's KEXINIT was received.
    pub(super) fn server_started(&self) -> bool {
        !matches!(self.stage, KexStage::KexInit)
    }

    /// Whether our NEWKEYS is not sent yet, so that only messages of the key exchange may be sent (RFC 4253 §7.1).
    pub(super) fn holds_output(&self) -> bool {
        !matches!(self.stage, KexStage::NewKeys(_))
    }

    /// Whether our packet with this sequence number belongs to the key exchange. Up to our NEWKEYS nothing else is
    /// sent, so it is every packet from our KEXINIT on; sequence numbers wrap around.
    pub(super) fn has_sent(&self, sequence: u32) -> bool {
        self.holds_output() && sequence.wrapping_sub(self.first_sequence) < 1 << 31
    }

    /// Passes one of the server's messages to the method.
    pub(super) fn on_message(
        &mut self,
        payload: &[u8],
        fill: FillRandom<'_>,
    ) -> Result<KexReply, Error> {
        let KexStage::Method(method) = &mut self.stage else {
            return Err(Error::Protocol(
                "a key exchange message outside a key exchange".to_owned(),
            ));
        };
        let (agreement, method) = &mut **method;
        // Taken and not read: only one message is skipped, whatever number it has.
        if std::mem::take(&mut agreement.skip_guess) {
            // RFC 4253 §7: the server's first message after a wrong guess is ignored.
            return Ok(KexReply::Nothing);
        }
        Ok(match method.on_message(payload, fill)? {
            KexStep::Send(payload) => KexReply::Send(payload),
            KexStep::Done(outcome) => {
                KexReply::Done(Box::new((agreement.negotiated.clone(), outcome)))
            }
        })
    }

    /// Computes the exchange hash (RFC 4253 §8) and verifies the host key's signature over it. `session_id` is empty
    /// in the first key exchange, whose hash becomes the session identifier.
    pub(super) fn finish(
        &self,
        idents: &Idents<'_>,
        negotiated: Negotiated,
        outcome: KexOutcome,
        session_id: &[u8],
        min_rsa_bits: Option<usize>,
    ) -> Result<(DerivedKeys, HostKeyOffer), Error> {
        let hash = kex::hash_of(negotiated.kex);
        let mut prefix = Vec::new();
        // RFC 4253 §8 prescribes the order. The hash covers both offers as they were sent, so that a changed one is
        // noticed.
        prefix.string(idents.client);
        prefix.string(idents.server);
        prefix.string(&self.client_kexinit);
        prefix.string(&self.server_kexinit);
        prefix.string(&outcome.host_key);
        let exchange_hash = hash.digest(&[&prefix, &outcome.hash_fields, &outcome.secret]);
        // Before the keys exist: an exchange that the host key did not sign yields nothing.
        let offer = verify_host_key(negotiated.host_key, &outcome, &exchange_hash, min_rsa_bits)?;
        // RFC 4253 §7.2: the first exchange hash identifies the session for good; user signatures are bound to it.
        let session_id = if session_id.is_empty() {
            exchange_hash.to_vec()
        } else {
            session_id.to_vec()
        };
        let keys = DerivedKeys {
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
pub(super) enum KexReply {
    Nothing,
    Send(Vec<u8>),
    /// The method is finished: verify the host key, then derive the keys.
    Done(Box<(Negotiated, KexOutcome)>),
}

impl DerivedKeys {
    pub(super) fn sealer(&self) -> Result<Sealer, Error> {
        let negotiated = &self.negotiated;
        cipher_spec(negotiated.cipher_out)?.sealer(
            negotiated.mac_out.and_then(MacSpec::find),
            &self.material,
            Direction::ClientToServer,
        )
    }

    pub(super) fn opener(&self) -> Result<Opener, Error> {
        let negotiated = &self.negotiated;
        cipher_spec(negotiated.cipher_in)?.opener(
            negotiated.mac_in.and_then(MacSpec::find),
            &self.material,
            Direction::ServerToClient,
        )
    }
}

pub(super) fn cipher_spec(cipher: &str) -> Result<CipherSpec, Error> {
    CipherSpec::find(cipher).ok_or_else(|| Error::KexFailed(format!("no cipher {cipher}")))
}

/// Verifies the host key's signature over the exchange hash, and the authority's signature of a certificate.
fn verify_host_key(
    algorithm: &'static str,
    outcome: &KexOutcome,
    exchange_hash: &Zeroizing<Vec<u8>>,
    min_rsa_bits: Option<usize>,
) -> Result<HostKeyOffer, Error> {
    let failed = |error: SignatureError| match error {
        SignatureError::RsaTooShort { bits, required } => Error::ShortHostKey { bits, required },
        error => Error::KexFailed(format!("the host key: {error}")),
    };
    let blob = Bytes::from(outcome.host_key.clone());
    let plain_algorithm = signature::plain_type(algorithm);
    let key = match &plain_algorithm {
        None => HostKey::Plain(blob.clone()),
        Some(_) => {
            // An authority may sign with SHA-1 only where the configuration has allowed SHA-1 for the host key itself.
            let allow_sha1 = algorithm.starts_with("ssh-rsa");
            let certificate = Certificate::parse(&blob, allow_sha1).map_err(failed)?;
            HostKey::Certificate(Box::new(certificate))
        }
    };
    let offer = HostKeyOffer {
        algorithm,
        blob,
        key,
    };
    // A certificate is signed with the plain algorithm of the certified key.
    let signature_algorithm = plain_algorithm.as_deref().unwrap_or(algorithm);
    signature::verify(
        signature_algorithm,
        offer.plain_key(),
        &outcome.signature,
        exchange_hash,
        min_rsa_bits,
    )
    .map_err(failed)?;
    Ok(offer)
}
