//! The key exchange methods: RFC 4253 §8, RFC 4419, RFC 5656, RFC 8268, RFC 8731 and the ML-KEM hybrid. A method
//! exchanges its own messages and ends with a shared secret and the method's fields of the exchange hash.

mod derive;
mod dh;
mod ecdh;
mod groups;

pub(crate) use derive::{HashAlgorithm, KeyMaterial};

use zeroize::Zeroizing;

use crate::error::Error;

/// A borrowed source of random bytes: fills the slice that it is given.
pub(crate) type FillRandom<'a> = &'a mut (dyn FnMut(&mut [u8]) + Send);

/// What follows from a message of the server.
pub(crate) enum KexStep {
    /// Send this payload and wait for the answer.
    Send(Vec<u8>),
    /// The method is finished; the host key signature has to be verified.
    Done(KexOutcome),
}

/// The result of a method.
pub(crate) struct KexOutcome {
    /// The server's host key, as a blob.
    pub(crate) host_key: Vec<u8>,
    /// The host key's signature over the exchange hash; not verified.
    pub(crate) signature: Vec<u8>,
    /// The fields of the exchange hash between the host key and the secret.
    pub(crate) hash_fields: Vec<u8>,
    /// The shared secret K, encoded as the exchange hash covers it.
    pub(crate) secret: Zeroizing<Vec<u8>>,
}

/// A key exchange method in progress, with its ephemeral secrets.
pub(crate) enum KexMethod {
    Ecdh(ecdh::Ecdh),
    Dh(dh::Dh),
}

impl KexMethod {
    /// Starts the method `name`. Returns it with its first payload.
    pub(crate) fn start(name: &str, fill: FillRandom<'_>) -> Result<(Self, Vec<u8>), Error> {
        // Names come from the negotiation, which returns only implemented ones.
        if name.starts_with("diffie-hellman-") {
            let (dh, payload) = dh::Dh::start(name, fill)?;
            Ok((Self::Dh(dh), payload))
        } else {
            let (ecdh, payload) = ecdh::Ecdh::start(name)?;
            Ok((Self::Ecdh(ecdh), payload))
        }
    }

    /// Handles one of the server's messages (numbers 30 to 49).
    pub(crate) fn on_message(
        &mut self,
        payload: &[u8],
        fill: FillRandom<'_>,
    ) -> Result<KexStep, Error> {
        match self {
            Self::Ecdh(ecdh) => ecdh.on_message(payload).map(KexStep::Done),
            Self::Dh(dh) => dh.on_message(payload, fill),
        }
    }
}

/// The hash algorithm of the method `name`.
pub(crate) fn hash_of(name: &str) -> HashAlgorithm {
    match name {
        "ecdh-sha2-nistp384" => HashAlgorithm::Sha384,
        name if name.ends_with("-sha512") || name == "ecdh-sha2-nistp521" => HashAlgorithm::Sha512,
        name if name.ends_with("-sha1") => HashAlgorithm::Sha1,
        _ => HashAlgorithm::Sha256,
    }
}

fn kex_failed(what: &str) -> Error {
    Error::KexFailed(what.to_owned())
}
