//! Finite-field Diffie-Hellman: RFC 4253 §8, RFC 8268, and group exchange, RFC 4419.

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd, Resize};
use zeroize::Zeroizing;

use super::{Fill, Outcome, Step, failed, groups};
use crate::error::Error;
use crate::wire::{Reader, Writer};

const KEXDH_INIT: u8 = 30;
const KEXDH_REPLY: u8 = 31;
const GEX_GROUP: u8 = 31;
const GEX_INIT: u8 = 32;
const GEX_REPLY: u8 = 33;
const GEX_REQUEST: u8 = 34;

/// The bounds of a group that the server may pick, and what is asked for.
const GEX_MIN: u32 = 2048;
const GEX_PREFERRED: u32 = 3072;
const GEX_MAX: u32 = 8192;

/// Twice the strength of the largest group, as a private exponent should be at least.
const EXPONENT_BITS: u32 = 512;

/// An exchange under way.
pub(crate) struct Dh {
    stage: Stage,
    /// Of a group exchange: the fields of the hash that come before e and f.
    gex_fields: Option<Vec<u8>>,
}

enum Stage {
    /// The group was asked for.
    Group,
    /// e was sent.
    Public(Pair),
    Done,
}

/// A group and our pair of keys in it.
struct Pair {
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
    /// Starts: sends e, or asks for a group.
    pub(super) fn start(name: &str, fill: Fill<'_>) -> Result<(Self, Vec<u8>), Error> {
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
            bounds.u32(GEX_MIN);
            bounds.u32(GEX_PREFERRED);
            bounds.u32(GEX_MAX);
            let mut payload = vec![GEX_REQUEST];
            payload.raw(&bounds);
            let dh = Self {
                stage: Stage::Group,
                gex_fields: Some(bounds),
            };
            return Ok((dh, payload));
        };
        let pair = Group::known(hex, bits)?.pair(fill)?;
        let mut payload = vec![KEXDH_INIT];
        payload.mpint(&pair.public);
        let dh = Self {
            stage: Stage::Public(pair),
            gex_fields: None,
        };
        Ok((dh, payload))
    }

    /// Takes the group or the reply.
    pub(super) fn on_message(&mut self, payload: &[u8], fill: Fill<'_>) -> Result<Step, Error> {
        let mut reader = Reader::new(payload);
        let number = reader.u8()?;
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Group if number == GEX_GROUP => {
                let (prime, generator) = (reader.mpint()?, reader.mpint()?);
                reader.end()?;
                let pair = Group::offered(prime, generator)?.pair(fill)?;
                if let Some(fields) = &mut self.gex_fields {
                    fields.mpint(prime);
                    fields.mpint(generator);
                }
                let mut payload = vec![GEX_INIT];
                payload.mpint(&pair.public);
                self.stage = Stage::Public(pair);
                Ok(Step::Send(payload))
            }
            Stage::Public(pair) if number == self.reply_number() => {
                let host_key = reader.string()?.to_vec();
                let theirs = reader.mpint()?;
                let signature = reader.string()?.to_vec();
                reader.end()?;
                let secret = pair.agree(theirs)?;
                let mut fields = self.gex_fields.take().unwrap_or_default();
                fields.mpint(&pair.public);
                fields.mpint(theirs);
                Ok(Step::Done(Outcome {
                    host_key,
                    signature,
                    fields,
                    secret,
                }))
            }
            _ => Err(failed("an unexpected message")),
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
            prime: prime.ok_or_else(|| failed("a group is damaged"))?,
            generator: BoxedUint::from(2u8).resize(bits),
        })
    }

    /// A group that the server picked: of an allowed size, odd, with 1 < g < p - 1.
    fn offered(prime: &[u8], generator: &[u8]) -> Result<Self, Error> {
        let bits = significant_bits(prime);
        if !(GEX_MIN..=GEX_MAX).contains(&bits) {
            return Err(failed(&format!(
                "the server offers a group of {bits} bits; {GEX_MIN} to {GEX_MAX} are taken"
            )));
        }
        let bad = || failed("the server's group is not a valid one");
        let prime = BoxedUint::from_be_slice(prime, bits)
            .ok()
            .and_then(|prime| prime.into_odd().into_option())
            .ok_or_else(bad)?;
        let generator = within(generator, &prime).ok_or_else(bad)?;
        Ok(Self { prime, generator })
    }

    fn pair(self, fill: Fill<'_>) -> Result<Pair, Error> {
        let mut private = Zeroizing::new(vec![0; EXPONENT_BITS as usize / 8]);
        fill(&mut private);
        let public = self.power(&self.generator, &private)?;
        Ok(Pair {
            public: public.to_be_bytes().into_vec(),
            private,
            group: self,
        })
    }

    fn power(&self, base: &BoxedUint, exponent: &[u8]) -> Result<BoxedUint, Error> {
        let exponent = BoxedUint::from_be_slice(exponent, EXPONENT_BITS)
            .map(Zeroizing::new)
            .map_err(|_| failed("an exponent is too long"))?;
        let params = BoxedMontyParams::new_vartime(self.prime.clone());
        Ok(BoxedMontyForm::new(base.clone(), &params)
            .pow_bounded_exp(&exponent, EXPONENT_BITS)
            .retrieve())
    }
}

impl Pair {
    /// The secret, as an mpint; 1 < f < p - 1 or it is refused (RFC 4253 §8).
    fn agree(&self, theirs: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let theirs = within(theirs, &self.group.prime)
            .ok_or_else(|| failed("the server's public key is not a valid one"))?;
        let shared = Zeroizing::new(self.group.power(&theirs, &self.private)?);
        let shared = Zeroizing::new(shared.to_be_bytes().into_vec());
        let mut secret = Zeroizing::new(Vec::with_capacity(shared.len() + 5));
        secret.mpint(&shared);
        Ok(secret)
    }
}

/// The number, if it lies between 1 and p - 1, both left out.
fn within(magnitude: &[u8], prime: &Odd<BoxedUint>) -> Option<BoxedUint> {
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
    fn both_sides_reach_the_same_secret() {
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
                Step::Done(outcome) => outcome.secret,
                Step::Send(_) => unreachable!(),
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
    fn offered_groups_have_bounds() {
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
