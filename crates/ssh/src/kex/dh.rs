//! Finite-field Diffie-Hellman (RFC 4253 §8, RFC 8268) and group exchange (RFC 4419).

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd, Resize};
use zeroize::Zeroizing;

use super::{FillRandom, KexOutcome, KexStep, groups, kex_failed};
use crate::error::Error;
use crate::wire::{Reader, Writer};

const KEXDH_INIT: u8 = 30;
const KEXDH_REPLY: u8 = 31;
const GEX_GROUP: u8 = 31;
const GEX_INIT: u8 = 32;
const GEX_REPLY: u8 = 33;
const GEX_REQUEST: u8 = 34;

/// Bits of the group that the server may choose: smallest, preferred, largest. OpenSSH refuses groups below 2048 bits
/// as well (Logjam, CVE-2015-4000).
const GEX_MIN: u32 = 2048;
const GEX_PREFERRED: u32 = 3072;
const GEX_MAX: u32 = 8192;

/// Bits of our private exponent: at least twice the security strength of the largest group.
const EXPONENT_BITS: u32 = 512;

/// A Diffie-Hellman exchange in progress.
pub(crate) struct Dh {
    state: DhState,
    /// The fields of the exchange hash before e and f. `None` without group exchange.
    gex_fields: Option<Vec<u8>>,
}

enum DhState {
    /// GEX_REQUEST was sent; the server chooses the group (RFC 4419 §3).
    GroupRequested,
    /// Our public value e was sent.
    PublicSent(DhKeyPair),
    Done,
}

/// Our key pair and its group.
struct DhKeyPair {
    group: Group,
    private: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

#[derive(Clone)]
struct Group {
    prime: Odd<BoxedUint>,
    generator: BoxedUint,
}

impl Dh {
    /// Starts the method: sends e, or requests a group.
    pub(super) fn start(name: &str, fill: FillRandom<'_>) -> Result<(Self, Vec<u8>), Error> {
        let known = match name {
            "diffie-hellman-group1-sha1" => Some((groups::GROUP1, 1024)),
            "diffie-hellman-group14-sha1" | "diffie-hellman-group14-sha256" => {
                Some((groups::GROUP14, 2048))
            }
            "diffie-hellman-group16-sha512" => Some((groups::GROUP16, 4096)),
            "diffie-hellman-group18-sha512" => Some((groups::GROUP18, 8192)),
            _ => None,
        };
        let Some((hex, bits)) = known else {
            let mut bounds = Vec::new();
            // Kept for the exchange hash, which covers the request (RFC 4419 §3).
            bounds.u32(GEX_MIN);
            bounds.u32(GEX_PREFERRED);
            bounds.u32(GEX_MAX);
            let mut payload = vec![GEX_REQUEST];
            payload.raw(&bounds);
            let dh = Self {
                state: DhState::GroupRequested,
                gex_fields: Some(bounds),
            };
            return Ok((dh, payload));
        };
        let pair = Group::known(hex, bits)?.generate_pair(fill)?;
        let mut payload = vec![KEXDH_INIT];
        payload.mpint(&pair.public);
        let dh = Self {
            state: DhState::PublicSent(pair),
            gex_fields: None,
        };
        Ok((dh, payload))
    }

    /// Handles the group or the reply.
    pub(super) fn on_message(
        &mut self,
        payload: &[u8],
        fill: FillRandom<'_>,
    ) -> Result<KexStep, Error> {
        let mut reader = Reader::new(payload);
        let number = reader.u8()?;
        // Any error leaves `Done`: a second reply finds no key pair.
        match std::mem::replace(&mut self.state, DhState::Done) {
            DhState::GroupRequested if number == GEX_GROUP => {
                let (prime, generator) = (reader.mpint()?, reader.mpint()?);
                reader.end()?;
                // The group comes from the server and is not tested for primality, as in OpenSSH: a server that wants
                // to reveal the secret needs no weak group for it. The host key signs the group.
                let pair = Group::offered(prime, generator)?.generate_pair(fill)?;
                if let Some(fields) = &mut self.gex_fields {
                    fields.mpint(prime);
                    fields.mpint(generator);
                }
                let mut payload = vec![GEX_INIT];
                payload.mpint(&pair.public);
                self.state = DhState::PublicSent(pair);
                Ok(KexStep::Send(payload))
            }
            DhState::PublicSent(pair) if number == self.reply_number() => {
                let host_key = reader.string()?.to_vec();
                let theirs = reader.mpint()?;
                let signature = reader.string()?.to_vec();
                reader.end()?;
                let secret = pair.agree(theirs)?;
                let mut hash_fields = self.gex_fields.take().unwrap_or_default();
                hash_fields.mpint(&pair.public);
                hash_fields.mpint(theirs);
                Ok(KexStep::Done(KexOutcome {
                    host_key,
                    signature,
                    hash_fields,
                    secret,
                }))
            }
            _ => Err(kex_failed("an unexpected message")),
        }
    }

    fn reply_number(&self) -> u8 {
        if self.gex_fields.is_some() {
            GEX_REPLY
        } else {
            KEXDH_REPLY
        }
    }
}

impl Group {
    fn known(hex: &str, bits: u32) -> Result<Self, Error> {
        let prime = BoxedUint::from_be_hex(hex, bits)
            .into_option()
            .and_then(|prime| prime.into_odd().into_option());
        Ok(Self {
            prime: prime.ok_or_else(|| kex_failed("a group is damaged"))?,
            generator: BoxedUint::from(2u8).resize(bits),
        })
    }

    /// Checks a group that the server chose: an allowed size, odd, with 1 < g < p - 1.
    fn offered(prime: &[u8], generator: &[u8]) -> Result<Self, Error> {
        let bits = significant_bits(prime);
        if !(GEX_MIN..=GEX_MAX).contains(&bits) {
            return Err(kex_failed(&format!(
                "the server offers a group of {bits} bits; {GEX_MIN} to {GEX_MAX} are accepted"
            )));
        }
        let invalid = || kex_failed("the server's group is not a valid one");
        let prime = BoxedUint::from_be_slice(prime, bits)
            .ok()
            .and_then(|prime| prime.into_odd().into_option())
            .ok_or_else(invalid)?;
        let generator = in_range(generator, &prime).ok_or_else(invalid)?;
        Ok(Self { prime, generator })
    }

    fn generate_pair(self, fill: FillRandom<'_>) -> Result<DhKeyPair, Error> {
        let mut private = Zeroizing::new(vec![0; EXPONENT_BITS as usize / 8]);
        // A random exponent of this size needs no upper bound: all groups are larger.
        fill(&mut private);
        let public = self.power(&self.generator, &private)?;
        Ok(DhKeyPair {
            public: public.to_be_bytes().into_vec(),
            private,
            group: self,
        })
    }

    fn power(&self, base: &BoxedUint, exponent: &[u8]) -> Result<BoxedUint, Error> {
        let exponent = BoxedUint::from_be_slice(exponent, EXPONENT_BITS)
            .map(Zeroizing::new)
            .map_err(|_| kex_failed("an exponent is too long"))?;
        // The prime is public: variable time reveals nothing.
        let params = BoxedMontyParams::new_vartime(self.prime.clone());
        Ok(BoxedMontyForm::new(base.clone(), &params)
            // Constant time in the exponent: its length is a constant and not that of its value.
            .pow_bounded_exp(&exponent, EXPONENT_BITS)
            .retrieve())
    }
}

impl DhKeyPair {
    /// Computes the shared secret, as an mpint. The server's value f must satisfy 1 < f < p - 1 (RFC 4253 §8).
    fn agree(&self, theirs: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let theirs = in_range(theirs, &self.group.prime)
            .ok_or_else(|| kex_failed("the server's public key is not a valid one"))?;
        let shared = Zeroizing::new(self.group.power(&theirs, &self.private)?);
        let shared = Zeroizing::new(shared.to_be_bytes().into_vec());
        let mut secret = Zeroizing::new(Vec::with_capacity(shared.len() + 5));
        secret.mpint(&shared);
        Ok(secret)
    }
}

/// The number, if 1 < number < p - 1.
fn in_range(magnitude: &[u8], prime: &Odd<BoxedUint>) -> Option<BoxedUint> {
    let bits = prime.bits_precision();
    let number = BoxedUint::from_be_slice(magnitude, bits).ok()?;
    let one = BoxedUint::one_with_precision(bits);
    let last = prime.as_ref().wrapping_sub(&one);
    (number.cmp_vartime(&one).is_gt() && number.cmp_vartime(&last).is_lt()).then_some(number)
}

fn significant_bits(magnitude: &[u8]) -> u32 {
    match magnitude {
        [] => 0,
        [first, rest @ ..] => u32::try_from(rest.len())
            .map_or(u32::MAX, |rest| rest.saturating_mul(8))
            .saturating_add(8 - first.leading_zeros()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).unwrap();
    }

    fn reply(number: u8, public: &[u8]) -> Vec<u8> {
        let mut payload = vec![number];
        payload.string(b"key");
        payload.mpint(public);
        payload.string(b"signature");
        payload
    }

    fn prime(hex: &str, bits: u32) -> Vec<u8> {
        Group::known(hex, bits)
            .unwrap()
            .prime
            .as_ref()
            .to_be_bytes()
            .into_vec()
    }

    #[test]
    fn both_sides_compute_the_same_secret() {
        let mut sides =
            [(); 2].map(|()| Dh::start("diffie-hellman-group14-sha256", &mut fill).unwrap());
        let publics = sides
            .each_ref()
            .map(|(_, payload)| Reader::new(&payload[1..]).mpint().unwrap().to_vec());
        let secrets = [(0, 1), (1, 0)].map(|(us, them)| {
            match sides[us]
                .0
                .on_message(&reply(KEXDH_REPLY, &publics[them]), &mut fill)
                .unwrap()
            {
                KexStep::Done(outcome) => outcome.secret,
                KexStep::Send(_) => unreachable!(),
            }
        });
        assert_eq!(secrets[0], secrets[1]);
        assert!(secrets[0].len() > 200);
    }

    #[test]
    fn weak_public_keys_are_refused() {
        let mut minus_one = prime(groups::GROUP14, 2048);
        *minus_one.last_mut().unwrap() -= 1;
        let mut too_large = minus_one.clone();
        too_large.push(0);
        for weak in [
            vec![],
            vec![1],
            minus_one,
            prime(groups::GROUP14, 2048),
            too_large,
        ] {
            let (mut dh, _) = Dh::start("diffie-hellman-group14-sha256", &mut fill).unwrap();
            assert!(
                dh.on_message(&reply(KEXDH_REPLY, &weak), &mut fill)
                    .is_err()
            );
        }
    }

    #[test]
    fn groups_outside_the_bounds_are_refused() {
        let group = |prime: &[u8], generator: &[u8]| {
            let (mut dh, _) = Dh::start("diffie-hellman-group-exchange-sha256", &mut fill).unwrap();
            let mut payload = vec![GEX_GROUP];
            payload.mpint(prime);
            payload.mpint(generator);
            dh.on_message(&payload, &mut fill).is_ok()
        };
        let good = prime(groups::GROUP14, 2048);
        assert!(group(&good, &[2]));
        assert!(!group(&good, &[1]));
        assert!(!group(&good, &good));
        assert!(!group(&good, &[]));
        assert!(!group(&good[..64], &[2]), "512 bits");
        assert!(!group(&[0xff; 2048], &[2]), "16384 bits");
        assert!(!group(&[], &[2]));
        let mut even = good.clone();
        *even.last_mut().unwrap() &= 0xfe;
        assert!(!group(&even, &[2]));
    }

    #[test]
    fn a_reply_before_the_group_is_refused() {
        let (mut dh, _) = Dh::start("diffie-hellman-group-exchange-sha256", &mut fill).unwrap();
        assert!(dh.on_message(&reply(GEX_REPLY, &[9]), &mut fill).is_err());
    }
}
