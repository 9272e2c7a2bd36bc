//! Hash algorithms and the derivation of keys (RFC 4253 §7.2).

use aws_lc_rs::digest;
use zeroize::Zeroizing;

/// The hash algorithm of a key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HashAlgorithm {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl HashAlgorithm {
    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// Hashes the concatenation of `parts`.
    pub(crate) fn digest(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let mut context = digest::Context::new(self.algorithm());
        for part in parts {
            context.update(part);
        }
        Zeroizing::new(context.finish().as_ref().to_vec())
    }
}

/// The inputs of the key derivation.
pub(crate) struct KeyMaterial {
    pub(crate) hash: HashAlgorithm,
    /// The shared secret K, encoded as the exchange hash covers it.
    pub(crate) secret: Zeroizing<Vec<u8>>,
    /// The exchange hash H of this key exchange; the first one of a session is also `session_id`.
    pub(crate) exchange_hash: Zeroizing<Vec<u8>>,
    /// The exchange hash of the first key exchange, which stays an input of every later derivation.
    pub(crate) session_id: Vec<u8>,
}

impl KeyMaterial {
    /// Derives the key of `length` bytes for a letter from `A` to `F`.
    pub(crate) fn key(&self, letter: u8, length: usize) -> Zeroizing<Vec<u8>> {
        let first = self.hash.digest(&[
            &self.secret,
            &self.exchange_hash,
            &[letter],
            &self.session_id,
        ]);
        // Enough capacity from the start: a reallocation would leave a copy of the key behind.
        let mut key = Zeroizing::new(Vec::with_capacity(length + first.len()));
        key.extend_from_slice(&first);
        // RFC 4253 §7.2: a key longer than the hash is extended with hashes over everything derived so far.
        while key.len() < length {
            let next = self.hash.digest(&[&self.secret, &self.exchange_hash, &key]);
            key.extend_from_slice(&next);
        }
        key.truncate(length);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// The first is a vector of NIST's component validation; all were checked with OpenSSL's SSHKDF.
    #[test]
    fn known_answers_of_the_key_derivation() {
        for (hash, letter, expected) in [
            (HashAlgorithm::Sha1, b'A', "E2F627C0B43F1AC1"),
            (
                HashAlgorithm::Sha1,
                b'C',
                "1CA9D310F86D51F6CB8E7007CB2B220D55C5281CE680B533",
            ),
            (
                HashAlgorithm::Sha256,
                b'C',
                concat!(
                    "E9491A35EE90CCF25B9AEABA5DC1C859D0828D2DCACFDAAFF829413B6D1EB7D8",
                    "86706232D779252420C64C471C432854411E74D6E3789B27E701D9EA8D6F85E7"
                ),
            ),
            (
                HashAlgorithm::Sha384,
                b'D',
                "686E79541EE25522FC0D575900196D5B",
            ),
            (
                HashAlgorithm::Sha512,
                b'F',
                concat!(
                    "9D832E6E4E742C692619FDC5D478EFC737FF07D5C32FE837D3BC603B901DBB32",
                    "4FC5DB8A18190FDFE60AAD8E7C59451A07D605FC9738E32350879B86E8AC6F3B",
                    "A47A3C2F393CDCB9069817EC1D1EEAF50ECDFCCD34C48E8C45330D4159C193E7",
                    "783ACFC9"
                ),
            ),
        ] {
            let material = KeyMaterial {
                hash,
                secret: Zeroizing::new(hex(concat!(
                    "0000008055bae931c07fd824bf10add1902b6fbc7c665347383498a686929ff5a25f8e40",
                    "cb6645ea814fb1a5e0a11f852f86255641e5ed986e83a78bc8269480eac0b0dfd770cab9",
                    "2e7a28dd87ff452466d6ae867cead63b366b1c286e6c4811a9f14c27aea14c5171d49b78",
                    "c06e3735d36e6a3be321dd5fc82308f34ee1cb17fba94a59"
                ))),
                exchange_hash: Zeroizing::new(hex("a4ebd45934f56792b5112dcd75a1075fdc889245")),
                session_id: hex("a4ebd45934f56792b5112dcd75a1075fdc889245"),
            };
            let expected = hex(expected);
            assert_eq!(material.key(letter, expected.len())[..], expected);
        }
    }

    #[test]
    fn a_long_key_starts_with_the_short_one() {
        let material = KeyMaterial {
            hash: HashAlgorithm::Sha256,
            secret: Zeroizing::new(vec![0, 0, 0, 1, 7]),
            exchange_hash: Zeroizing::new(vec![1; 32]),
            session_id: vec![2; 32],
        };
        let long = material.key(b'C', 100);
        assert_eq!(long.len(), 100);
        assert_eq!(material.key(b'C', 32)[..], long[..32]);
        let second = HashAlgorithm::Sha256.digest(&[&[0, 0, 0, 1, 7], &[1; 32], &long[..32]]);
        assert_eq!(long[32..64], second[..]);
    }
}
