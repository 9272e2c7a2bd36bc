//! PuTTY's private key files, versions 2 and 3 (PuTTY manual, appendix "PPK file format"). Not ssh-key's reader, because
//! it decodes the private number of an Ed25519 key as an mpint, although it is little-endian and may start with zeros.

use argon2::Argon2;
use aws_lc_rs::{digest, hmac};
use base64ct::{Base64, Encoding as _};
use ssh_key::Cipher;
use ssh_key::PrivateKey;
use ssh_key::encoding::Decode as _;
use ssh_key::private::KeypairData;
use tunneld_proto::text;
use zeroize::Zeroizing;

use crate::error::{DecryptError, corrupt};
use crate::hex;
use crate::wire::{self, KeyKind, Reader, put_ecdsa, put_string};

const MAGIC: &str = "PuTTY-User-Key-File-";
const AES: &str = "aes256-cbc";
const BLOCK: usize = 16;
/// Most memory that Argon2 may demand, in KiB.
const MEMORY_LIMIT: u32 = 256 << 10;
/// Most work that Argon2 may demand, in KiB × passes. PuTTY uses little memory and as many passes as fit into its time
/// limit, so the number of passes alone says nothing.
const WORK_LIMIT: u64 = 64 * (256 << 10);
const LANES_LIMIT: u32 = 8;

/// A parsed PPK file, not yet decrypted.
pub(crate) struct Ppk {
    version: Version,
    kind: KeyKind,
    comment: String,
    public: Vec<u8>,
    lock: Option<PuttyEncryption>,
    /// Private section, encrypted if `lock` is set.
    private: Zeroizing<Vec<u8>>,
    mac: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Two,
    Three,
}

enum PuttyEncryption {
    Sha1,
    Argon2(Argon2<'static>, Vec<u8>),
}

/// Keys derived from the passphrase; empty where the file needs none.
#[derive(Default)]
struct Keys {
    cipher: Zeroizing<Vec<u8>>,
    iv: Zeroizing<Vec<u8>>,
    mac: Zeroizing<Vec<u8>>,
}

/// Returns whether the text is a PuTTY private key file.
pub(crate) fn is_ppk(text: &str) -> bool {
    text.trim_start().starts_with(MAGIC)
}

impl Ppk {
    /// Parses a file, and checks that the key derivation stays within the limits.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut lines = Lines(text.trim_start().lines());
        let (version, algorithm) = lines.first()?;
        let kind = KeyKind::of(algorithm)?;
        let encryption = lines.value("Encryption")?;
        let comment = lines.value("Comment")?.to_owned();
        let public = lines.blob("Public-Lines")?.to_vec();
        if wire::name(&public) != Some(algorithm) {
            return Err(corrupt(
                "the public key is not of the type in the first line",
            ));
        }
        let lock = match (encryption.trim_end(), version) {
            ("none", _) => None,
            (AES, Version::Two) => Some(PuttyEncryption::Sha1),
            (AES, Version::Three) => Some(lines.argon2()?),
            (other, _) => {
                let other = text::escape(other);
                return Err(format!("the encryption {other} is not supported"));
            }
        };
        let private = lines.blob("Private-Lines")?;
        if lock.is_some() && !private.len().is_multiple_of(BLOCK) {
            return Err(corrupt("the encrypted part is not of whole blocks"));
        }
        let length = match version {
            Version::Two => 20,
            Version::Three => 32,
        };
        let mac = hex::decode(lines.value("Private-MAC")?)
            .filter(|mac| mac.len() == length)
            .ok_or_else(|| corrupt("`Private-MAC` is not hexadecimal, or not whole"))?;
        Ok(Self {
            version,
            kind,
            comment,
            public,
            lock,
            private,
            mac,
        })
    }

    /// The public key in wire format. It is not encrypted.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    /// Returns whether the file needs a passphrase.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Decrypts the key and verifies `Private-MAC`. The passphrase of an unencrypted key is ignored.
    pub(crate) fn open(mut self, passphrase: &str) -> Result<PrivateKey, DecryptError> {
        let keys = self
            .keys(passphrase.as_bytes())
            .map_err(DecryptError::Unusable)?;
        if self.is_locked() {
            Cipher::Aes256Cbc
                .decrypt(&keys.cipher, &keys.iv, &mut self.private, None)
                .map_err(|error| DecryptError::Unusable(format!("decrypting failed: {error}")))?;
        }
        if !self.is_whole(&keys.mac) {
            return Err(match self.lock {
                Some(_) => DecryptError::WrongPassphrase,
                None => DecryptError::Unusable(corrupt("its content does not match `Private-MAC`")),
            });
        }
        let wire = self.wire().map_err(DecryptError::Unusable)?;
        let wire: &mut &[u8] = &mut wire.as_slice();
        let foreign =
            || DecryptError::Unusable(corrupt("its private part does not fit its public part"));
        let data = KeypairData::decode(wire).map_err(|_| foreign())?;
        PrivateKey::new(data, self.comment).map_err(|_| foreign())
    }

    fn keys(&self, passphrase: &[u8]) -> Result<Keys, String> {
        let mut keys = Keys::default();
        match &self.lock {
            None if self.version == Version::Three => {}
            None => keys.mac = sha1(b"putty-private-key-file-mac-key", b""),
            Some(PuttyEncryption::Sha1) => {
                keys.mac = sha1(b"putty-private-key-file-mac-key", passphrase);
                let (first, second) = (sha1(&[0; 4], passphrase), sha1(&[0, 0, 0, 1], passphrase));
                let bytes = first.iter().chain(second.iter()).take(32).copied();
                // Reserved at once: a reallocation would leave a copy of the key that is not zeroed.
                keys.cipher.reserve_exact(32);
                keys.cipher.extend(bytes);
                keys.iv = Zeroizing::new(vec![0; BLOCK]);
            }
            Some(PuttyEncryption::Argon2(argon2, salt)) => {
                let mut derived = Zeroizing::new([0; 32 + BLOCK + 32]);
                argon2
                    .hash_password_into(passphrase, salt, &mut *derived)
                    .map_err(|error| format!("Argon2 failed: {error}"))?;
                let (cipher, rest) = derived.split_at(32);
                let (iv, mac) = rest.split_at(BLOCK);
                keys.cipher = Zeroizing::new(cipher.to_vec());
                keys.iv = Zeroizing::new(iv.to_vec());
                keys.mac = Zeroizing::new(mac.to_vec());
            }
        }
        Ok(keys)
    }

    fn is_whole(&self, key: &[u8]) -> bool {
        let encryption = if self.is_locked() { AES } else { "none" };
        let parts: [&[u8]; 5] = [
            wire::name(&self.public).unwrap_or_default().as_bytes(),
            encryption.as_bytes(),
            self.comment.as_bytes(),
            &self.public,
            &self.private,
        ];
        let len = parts.iter().map(|part| 4 + part.len()).sum();
        let mut content = Zeroizing::new(Vec::with_capacity(len));
        for part in parts {
            put_string(&mut content, part);
        }
        let algorithm = match self.version {
            Version::Two => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Version::Three => hmac::HMAC_SHA256,
        };
        hmac::verify(&hmac::Key::new(algorithm, key), &content, &self.mac).is_ok()
    }

    /// Returns the key pair in the order in which OpenSSH stores it, for ssh-key to decode.
    fn wire(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        let len = 2 * (self.public.len() + self.private.len()) + 256;
        let mut wire = Zeroizing::new(Vec::with_capacity(len));
        let mut public = Reader(&self.public);
        let mut private = Reader(&self.private);
        put_string(&mut wire, public.string().unwrap_or_default());
        let done = match self.kind {
            KeyKind::Ed25519 => put_ed25519(&mut wire, &mut public, &mut private),
            KeyKind::Rsa => put_rsa(&mut wire, &mut public, &mut private),
            KeyKind::Ecdsa(size) => put_ecdsa(&mut wire, &mut public, &mut private, size),
        };
        done.ok_or_else(|| corrupt("a number is missing or too long"))?;
        Ok(wire)
    }
}

/// Appends an Ed25519 key pair. The private number is little-endian, so a short one lacks zeros at its end.
fn put_ed25519(
    into: &mut Vec<u8>,
    public: &mut Reader<'_>,
    private: &mut Reader<'_>,
) -> Option<()> {
    let (public, number) = (public.string()?, private.string()?);
    let mut pair = Zeroizing::new([0; 64]);
    let (seed, after) = pair.split_at_mut(32);
    seed.get_mut(..number.len())?.copy_from_slice(number);
    after.get_mut(..public.len())?.copy_from_slice(public);
    put_string(into, public);
    put_string(into, &*pair);
    Some(())
}

fn put_rsa(into: &mut Vec<u8>, public: &mut Reader<'_>, private: &mut Reader<'_>) -> Option<()> {
    let (e, n) = (public.string()?, public.string()?);
    let (d, p, q) = (private.string()?, private.string()?, private.string()?);
    let iqmp = private.string()?;
    for number in [n, e, d, iqmp, p, q] {
        put_string(into, number);
    }
    Some(())
}

/// The lines of a file, which must come in a fixed order.
struct Lines<'a>(std::str::Lines<'a>);

impl<'a> Lines<'a> {
    fn first(&mut self) -> Result<(Version, &'a str), String> {
        let line = self.0.next().unwrap_or_default().trim_end();
        let (version, algorithm) = line
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_once(": "))
            .ok_or_else(|| corrupt("its first line names no type of key"))?;
        match version {
            "2" => Ok((Version::Two, algorithm)),
            "3" => Ok((Version::Three, algorithm)),
            other => Err(format!(
                "version {} of PuTTY's format is not supported (`puttygen FILE --reencrypt -o FILE` writes the newest)",
                text::escape(other)
            )),
        }
    }

    fn value(&mut self, name: &str) -> Result<&'a str, String> {
        self.0
            .next()
            .and_then(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.strip_prefix(' ').unwrap_or(value))
            .ok_or_else(|| corrupt(&format!("the line `{name}` is not where it should be")))
    }

    fn number(&mut self, name: &str) -> Result<u32, String> {
        let number = self.value(name)?.trim_end().parse();
        number.map_err(|_| corrupt(&format!("`{name}` is not a number")))
    }

    fn blob(&mut self, name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        let count = self.number(name)?;
        let lines: Vec<&str> = (0..count)
            .map_while(|_| self.0.next())
            .map(str::trim_end)
            .collect();
        let mut base64 = Zeroizing::new(String::with_capacity(
            lines.iter().map(|line| line.len()).sum(),
        ));
        base64.extend(lines);
        Base64::decode_vec(&base64)
            .map(Zeroizing::new)
            .map_err(|_| corrupt(&format!("what follows `{name}` is not base64")))
    }

    fn argon2(&mut self) -> Result<PuttyEncryption, String> {
        let kind = match self.value("Key-Derivation")?.trim_end() {
            "Argon2id" => argon2::Algorithm::Argon2id,
            "Argon2i" => argon2::Algorithm::Argon2i,
            "Argon2d" => argon2::Algorithm::Argon2d,
            other => {
                let other = text::escape(other);
                return Err(format!("the key derivation {other} is not supported"));
            }
        };
        let memory = self.number("Argon2-Memory")?;
        let passes = self.number("Argon2-Passes")?;
        let lanes = self.number("Argon2-Parallelism")?;
        let salt = hex::decode(self.value("Argon2-Salt")?)
            .filter(|salt| salt.len() >= argon2::MIN_SALT_LEN)
            .ok_or_else(|| corrupt("`Argon2-Salt` is not hexadecimal, or too short"))?;
        if memory > MEMORY_LIMIT
            || u64::from(memory) * u64::from(passes) > WORK_LIMIT
            || lanes > LANES_LIMIT
        {
            return Err(format!(
                "unlocking it would take {memory} KiB of memory, {passes} passes and {lanes} lanes, which is more \
                 than tunneld spends on a key: `puttygen FILE --reencrypt -o FILE` writes it with less"
            ));
        }
        let params = argon2::Params::new(memory, passes, lanes, None)
            .map_err(|error| corrupt(&format!("Argon2 refuses its parameters: {error}")))?;
        let argon2 = Argon2::new(kind, argon2::Version::V0x13, params);
        Ok(PuttyEncryption::Argon2(argon2, salt))
    }
}

fn sha1(first: &[u8], second: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(first);
    context.update(second);
    Zeroizing::new(context.finish().as_ref().to_vec())
}

#[cfg(test)]
mod tests;
