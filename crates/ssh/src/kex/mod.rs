//! The key exchange methods: RFC 4253 §8, RFC 4419, RFC 5656, RFC 8268, RFC 8731 and the ML-KEM
//! hybrid. A method speaks its own messages and ends with a shared secret and what the exchange
//! hash is over.

mod derive;
mod dh;
mod ecdh;
mod groups;

pub(crate) use derive::{Hash, KeyMaterial};

use zeroize::Zeroizing;

use crate::error::Error;

/// A lent source of random bytes: fills what it is given.
pub(crate) type Fill<'a> = &'a mut (dyn FnMut(&mut [u8]) + Send);

/// What a method does next.
pub(crate) enum Step {
    /// Send this payload and wait for the answer.
    Send(Vec<u8>),
    /// It is over.
    Done(Outcome),
}

/// What an exchange yields.
pub(crate) struct Outcome {
    /// The server's host key.
    pub(crate) host_key: Vec<u8>,
    /// Its signature over the exchange hash.
    pub(crate) signature: Vec<u8>,
    /// The fields of the exchange hash between the host key and the secret.
    pub(crate) fields: Vec<u8>,
    /// The shared secret K as the hash takes it.
    pub(crate) secret: Zeroizing<Vec<u8>>,
}

/// A method under way.
pub(crate) enum Method {
    Ecdh(ecdh::Ecdh),
    Dh(dh::Dh),
}

impl Method {
    /// Starts the method of this name: the method, and the payload that opens it.
    pub(crate) fn start(name: &str, fill: Fill<'_>) -> Result<(Self, Vec<u8>), Error> {
        if name.starts_with("diffie-hellman-") {
            let (dh, payload) = dh::Dh::start(name, fill)?;
            Ok((Self::Dh(dh), payload))
        } else {
            let (ecdh, payload) = ecdh::Ecdh::start(name)?;
            Ok((Self::Ecdh(ecdh), payload))
        }
    }

    /// Takes one of the server's messages (numbers 30 to 49).
    pub(crate) fn on_message(&mut self, payload: &[u8], fill: Fill<'_>) -> Result<Step, Error> {
        match self {
            Self::Ecdh(ecdh) => ecdh.on_message(payload).map(Step::Done),
            Self::Dh(dh) => dh.on_message(payload, fill),
        }
    }
}

/// The hash of a method.
pub(crate) fn hash_of(name: &str) -> Hash {
    match name {
        "ecdh-sha2-nistp384" => Hash::Sha384,
        name if name.ends_with("-sha512") || name == "ecdh-sha2-nistp521" => Hash::Sha512,
        name if name.ends_with("-sha1") => Hash::Sha1,
        _ => Hash::Sha256,
    }
}

fn failed(what: &str) -> Error {
    Error::KexFailed(what.to_owned())
}
