//! Message authentication codes: RFC 6668 and OpenSSH's encrypt-then-MAC.

use aws_lc_rs::{constant_time, hmac};

use crate::error::Error;

/// The longest tag there is.
pub(super) const MAX_TAG: usize = 64;

/// What a MAC's name stands for.
#[derive(Clone, Copy)]
pub(super) struct MacSpec {
    algorithm: hmac::Algorithm,
    pub(super) key_len: usize,
    etm: bool,
}

impl MacSpec {
    pub(super) fn of(name: &str) -> Option<Self> {
        let (plain, etm) = match name.strip_suffix("-etm@openssh.com") {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        let (algorithm, key_len) = match plain {
            "hmac-sha2-256" => (hmac::HMAC_SHA256, 32),
            "hmac-sha2-512" => (hmac::HMAC_SHA512, 64),
            "hmac-sha1" => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 20),
            _ => return None,
        };
        Some(Self {
            algorithm,
            key_len,
            etm,
        })
    }

    pub(super) fn key(self, key: &[u8]) -> Mac {
        Mac {
            key: hmac::Key::new(self.algorithm, key),
            etm: self.etm,
        }
    }
}

/// A MAC with its key.
pub(super) struct Mac {
    key: hmac::Key,
    /// Whether the tag is over the ciphertext.
    pub(super) etm: bool,
}

impl Mac {
    pub(super) fn tag_len(&self) -> usize {
        self.key.algorithm().tag_len()
    }

    pub(super) fn tag(&self, sequence: u32, data: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&sequence.to_be_bytes());
        context.update(data);
        context.sign()
    }

    pub(super) fn verify(&self, sequence: u32, data: &[u8], tag: &[u8]) -> Result<(), Error> {
        let ours = self.tag(sequence, data);
        constant_time::verify_slices_are_equal(ours.as_ref(), tag).map_err(|_| Error::Mac)
    }
}
