//! Message authentication codes (RFC 6668), also in OpenSSH's encrypt-then-MAC mode.

use aws_lc_rs::{constant_time, hmac};

use crate::error::Error;

/// Size of the longest tag, in bytes.
pub(crate) const MAX_TAG: usize = 64;

/// A MAC by name, without a key.
#[derive(Clone, Copy)]
pub(crate) struct MacSpec {
    algorithm: hmac::Algorithm,
    pub(crate) key_len: usize,
    etm: bool,
}

impl MacSpec {
    pub(crate) fn find(name: &str) -> Option<Self> {
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

    pub(crate) fn with_key(self, key: &[u8]) -> Mac {
        Mac {
            key: hmac::Key::new(self.algorithm, key),
            etm: self.etm,
        }
    }
}

/// A MAC with its key.
pub(crate) struct Mac {
    key: hmac::Key,
    /// Whether the tag covers the ciphertext (encrypt-then-MAC) instead of the plaintext.
    pub(crate) etm: bool,
}

impl Mac {
    pub(crate) fn tag_len(&self) -> usize {
        self.key.algorithm().tag_len()
    }

    pub(crate) fn tag(&self, sequence: u32, data: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // RFC 4253 §6.4: the number is part of the input, so that packets cannot be dropped, repeated or reordered.
        context.update(&sequence.to_be_bytes());
        context.update(data);
        context.sign()
    }

    pub(crate) fn verify(&self, sequence: u32, data: &[u8], tag: &[u8]) -> Result<(), Error> {
        let ours = self.tag(sequence, data);
        // In constant time: a comparison that stops early reveals how much of a forged tag is right.
        constant_time::verify_slices_are_equal(ours.as_ref(), tag).map_err(|_| Error::Mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, key: &[u8], data: &[u8]) -> String {
        // The tag covers the sequence number first: here the first four bytes of the vector's data.
        let (sequence, data) = data.split_first_chunk().unwrap();
        let mac = MacSpec::find(name).unwrap().with_key(key);
        let tag = mac.tag(u32::from_be_bytes(*sequence), data);
        assert!(mac.verify(0, data, tag.as_ref()).is_err());
        tag.as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// RFC 2202 §3 and RFC 4231 §4.2 and §4.3.
    #[test]
    fn known_answers_of_every_mac() {
        let (first_data, second_data) = (&b"Hi There"[..], &b"what do ya want for nothing?"[..]);
        for (name, first, second) in [
            (
                "hmac-sha1",
                "b617318655057264e28bc0b6fb378c8ef146be00",
                "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
            ),
            (
                "hmac-sha2-256",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                "hmac-sha2-512",
                concat!(
                    "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde",
                    "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"
                ),
                concat!(
                    "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554",
                    "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
                ),
            ),
        ] {
            for name in [name.to_owned(), format!("{name}-etm@openssh.com")] {
                assert_eq!(tag(&name, &[0x0b; 20], first_data), first, "{name}");
                assert_eq!(tag(&name, b"Jefe", second_data), second, "{name}");
            }
        }
    }
}
