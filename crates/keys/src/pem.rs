//! Private keys in PEM (RFC 7468) except OpenSSH's own format: PKCS#1 and SEC 1, encrypted by OpenSSL's legacy headers
//! (RFC 1421), and PKCS#8 (RFC 5958). Libraries decode the structures and decrypt; this module connects them.

use aws_lc_rs::digest;
use base64ct::{Base64, Encoding as _};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::{self, pbes1, pbes2};
use ssh_key::{Cipher, PrivateKey};
use tunneld_proto::text;
use zeroize::Zeroizing;

use crate::der::{self, DerError};
use crate::error::{DecryptError, NO_DSA, corrupt};
use crate::hex;

/// Most PBKDF2 iterations that a key file may demand. The file is not trusted: it could demand hours.
const ROUNDS_LIMIT: u32 = 20_000_000;
/// Most memory that scrypt may demand, in bytes.
const MEMORY_LIMIT: u64 = 256 << 20;
/// Most memory times parallelisation that scrypt may demand, in bytes.
const WORK_LIMIT: u64 = 16 * MEMORY_LIMIT;

/// A parsed PEM file, not yet decrypted.
pub(crate) struct Pem {
    kind: PemKind,
    lock: Option<PemEncryption>,
    /// DER, encrypted if `lock` is set.
    content: Zeroizing<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PemKind {
    /// PKCS#1 (`RSA PRIVATE KEY`).
    Rsa,
    /// SEC 1 (`EC PRIVATE KEY`) or PKCS#8.
    Other,
}

enum PemEncryption {
    /// `DEK-Info` header: cipher and initialisation vector. Its first 8 bytes are the salt of the key derivation.
    Dek(Dek, Vec<u8>),
    /// EncryptedPrivateKeyInfo of PKCS#8.
    Pkcs8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dek {
    Ssh(Cipher),
    /// Single DES, computed as 3DES with the same key three times.
    Des,
}

impl Pem {
    /// Parses a file, and checks that its encryption is supported and within the limits.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(str::trim);
        let label = lines
            .find_map(|line| {
                line.strip_prefix("-----BEGIN ")?
                    .strip_suffix("PRIVATE KEY-----")
            })
            .ok_or("it is not a private key in a supported format")?;
        let (kind, locked) = match label.trim_end() {
            "RSA" => (PemKind::Rsa, false),
            "EC" | "" => (PemKind::Other, false),
            "ENCRYPTED" => (PemKind::Other, true),
            "DSA" => return Err(NO_DSA.into()),
            other => {
                let other = text::escape(other);
                return Err(format!("it is in a format that is not supported: {other}"));
            }
        };
        let mut lock = locked.then_some(PemEncryption::Pkcs8);
        let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
        let mut ended = false;
        for line in lines {
            if line.starts_with("-----END ") {
                ended = true;
                break;
            }
            match line.split_once(':') {
                Some(("DEK-Info", value)) => lock = Some(dek(value.trim())?),
                Some(_) => {}
                None => base64.extend(line.split_ascii_whitespace()),
            }
        }
        if !ended {
            return Err(corrupt("its last line is missing"));
        }
        let content = Base64::decode_vec(&base64).map(Zeroizing::new);
        let content = content.map_err(|_| corrupt("it is not base64"))?;
        if matches!(lock, Some(PemEncryption::Pkcs8)) {
            check_scheme(&sealed(&content)?.encryption_algorithm)?;
        }
        Ok(Self {
            kind,
            lock,
            content,
        })
    }

    /// Returns whether the file needs a passphrase.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Decrypts and decodes the key. The passphrase of an unencrypted key is ignored.
    pub(crate) fn open(&self, passphrase: &str) -> Result<PrivateKey, DecryptError> {
        let passphrase = passphrase.as_bytes();
        let opened;
        let der: &[u8] = match &self.lock {
            None => &self.content,
            Some(PemEncryption::Dek(cipher, iv)) => {
                opened = self.open_dek(*cipher, iv, passphrase)?;
                &opened
            }
            Some(PemEncryption::Pkcs8) => {
                opened = open_pkcs8(&self.content, passphrase)?;
                &opened
            }
        };
        // One wrong passphrase in 256 yields valid padding, so garbage after decryption means a wrong passphrase too.
        let key = match self.kind {
            PemKind::Rsa => der::pkcs1(der),
            PemKind::Other => der::sec1_or_pkcs8(der),
        };
        key.map_err(|error| match (&self.lock, error) {
            (Some(_), DerError::Malformed) => DecryptError::WrongPassphrase,
            (None, DerError::Malformed) => {
                DecryptError::Unusable(corrupt("it does not hold what its first line says"))
            }
            (_, DerError::Unsupported(why)) => DecryptError::Unusable(why),
        })
    }

    fn open_dek(
        &self,
        dek: Dek,
        iv: &[u8],
        passphrase: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        let salt = iv.get(..8).unwrap_or_default();
        match dek {
            Dek::Ssh(cipher) => {
                let (size, _) = cipher.key_and_iv_size().unwrap_or_default();
                let key = bytes_to_key(passphrase, salt, size);
                decrypt(cipher, &key, iv, &self.content)
            }
            Dek::Des => {
                let key = bytes_to_key(passphrase, salt, 8);
                decrypt_des(&key, iv, &self.content)
            }
        }
    }
}

fn dek(value: &str) -> Result<PemEncryption, String> {
    let (name, iv) = value.split_once(',').unwrap_or((value, ""));
    let cipher = match name.trim() {
        "AES-128-CBC" => Dek::Ssh(Cipher::Aes128Cbc),
        "AES-192-CBC" => Dek::Ssh(Cipher::Aes192Cbc),
        "AES-256-CBC" => Dek::Ssh(Cipher::Aes256Cbc),
        "DES-EDE3-CBC" => Dek::Ssh(Cipher::TdesCbc),
        "DES-CBC" => Dek::Des,
        other => return Err(unsupported(&text::escape(other))),
    };
    let size = match cipher {
        Dek::Ssh(cipher) => cipher.block_size(),
        Dek::Des => 8,
    };
    let iv = hex::decode(iv.trim()).filter(|iv| iv.len() == size);
    let iv = iv.ok_or_else(|| corrupt("the line `DEK-Info` is not whole"))?;
    Ok(PemEncryption::Dek(cipher, iv))
}

fn unsupported(what: &str) -> String {
    format!(
        "its encryption, {what}, is not supported (`openssl pkey -aes256 -in FILE -out NEW` converts it)"
    )
}

fn sealed(content: &[u8]) -> Result<EncryptedPrivateKeyInfoRef<'_>, String> {
    EncryptedPrivateKeyInfoRef::try_from(content)
        .map_err(|_| unsupported("neither PBES2 nor PBES1 with DES"))
}

fn check_scheme(scheme: &pkcs5::EncryptionScheme) -> Result<(), String> {
    let within = match scheme {
        pkcs5::EncryptionScheme::Pbes1(old) => {
            return match (old.encryption.cipher(), old.encryption.digest()) {
                (
                    pbes1::SymmetricCipher::DesCbc,
                    pbes1::DigestAlgorithm::Md5 | pbes1::DigestAlgorithm::Sha1,
                ) => Ok(()),
                _ => Err(unsupported("PBES1 with RC2 or MD2")),
            };
        }
        pkcs5::EncryptionScheme::Pbes2(new) => match &new.kdf {
            pbes2::Kdf::Pbkdf2(params) => params.iteration_count <= ROUNDS_LIMIT,
            pbes2::Kdf::Scrypt(params) => {
                let memory = 128_u64
                    .saturating_mul(params.cost_parameter)
                    .saturating_mul(params.block_size.into());
                let work = memory.saturating_mul(params.parallelization.into());
                memory <= MEMORY_LIMIT && work <= WORK_LIMIT
            }
            _ => return Err(unsupported("an unknown derivation of its key")),
        },
        _ => return Err(unsupported("an unknown scheme")),
    };
    match within {
        true => Ok(()),
        false => Err(
            "unlocking it would take more work or memory than tunneld spends on a key \
                      (`ssh-keygen -p -f FILE` rewrites it)"
                .into(),
        ),
    }
}

fn open_pkcs8(content: &[u8], passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let sealed = sealed(content).map_err(DecryptError::Unusable)?;
    let data = sealed.encrypted_data.as_bytes();
    match &sealed.encryption_algorithm {
        pkcs5::EncryptionScheme::Pbes1(old) => {
            let salt = &old.parameters.salt;
            let rounds = old.parameters.iteration_count;
            let md5 = old.encryption.digest() == pbes1::DigestAlgorithm::Md5;
            let derived = pbkdf1(md5, passphrase, salt, rounds);
            let (key, rest) = derived.split_at_checked(8).unwrap_or_default();
            decrypt_des(key, rest.get(..8).unwrap_or_default(), data)
        }
        scheme => match scheme.decrypt(passphrase, data) {
            Ok(opened) => Ok(Zeroizing::new(opened)),
            Err(pkcs5::Error::DecryptFailed) => Err(DecryptError::WrongPassphrase),
            Err(error) => Err(DecryptError::Unusable(unsupported(&error.to_string()))),
        },
    }
}

fn decrypt_des(key: &[u8], iv: &[u8], content: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let mut thrice = Zeroizing::new(Vec::with_capacity(24));
    for _ in 0..3 {
        thrice.extend(key);
    }
    decrypt(Cipher::TdesCbc, &thrice, iv, content)
}

fn decrypt(
    cipher: Cipher,
    key: &[u8],
    iv: &[u8],
    content: &[u8],
) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let mut content = Zeroizing::new(content.to_vec());
    if content.is_empty() || !content.len().is_multiple_of(cipher.block_size()) {
        return Err(DecryptError::Unusable(corrupt("it is not of whole blocks")));
    }
    let done = cipher.decrypt(key, iv, &mut content, None);
    done.map_err(|error| DecryptError::Unusable(format!("decrypting failed: {error}")))?;
    let padding = content.last().copied().unwrap_or_default();
    let kept = content.len().checked_sub(padding.into());
    let whole = (1..=cipher.block_size()).contains(&padding.into())
        && content
            .iter()
            .rev()
            .take(padding.into())
            .all(|byte| *byte == padding);
    match kept {
        Some(kept) if whole => content.truncate(kept),
        _ => return Err(DecryptError::WrongPassphrase),
    }
    Ok(content)
}

/// EVP_BytesToKey(3) of OpenSSL with MD5 and one iteration: the key derivation of `DEK-Info` files.
fn bytes_to_key(passphrase: &[u8], salt: &[u8], size: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(size + 16));
    while key.len() < size {
        let mut context = md5::Context::new();
        let last = key.len().saturating_sub(16);
        context.consume(key.get(last..).unwrap_or_default());
        context.consume(passphrase);
        context.consume(salt);
        key.extend(context.finalize().0);
    }
    key.truncate(size);
    key
}

/// PBKDF1 (RFC 8018 §5.1), which the libraries no longer offer.
fn pbkdf1(md5: bool, passphrase: &[u8], salt: &[u8], rounds: u16) -> Zeroizing<Vec<u8>> {
    let hash = |content: &[u8]| match md5 {
        true => md5::compute(content).0.to_vec(),
        false => digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, content)
            .as_ref()
            .to_vec(),
    };
    let mut derived = Zeroizing::new(Vec::with_capacity(passphrase.len() + salt.len()));
    derived.extend(passphrase);
    derived.extend(salt);
    for _ in 0..rounds.max(1) {
        derived = Zeroizing::new(hash(&derived));
    }
    derived
}

#[cfg(test)]
mod tests;
