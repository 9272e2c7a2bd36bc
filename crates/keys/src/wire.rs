//! Wire format of keys, certificates and agent messages: the types of RFC 4251 §5 and certificates of OpenSSH.

use tunneld_proto::text;
use zeroize::Zeroizing;

/// Reads RFC 4251 §5 types from the start of a slice. Every method returns `None` at a truncated value and then leaves
/// the rest as it was.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Reads a byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Reads a uint32.
    pub fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*first))
    }

    /// Reads a uint64.
    pub fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*first))
    }

    /// Reads a string: a length and that many bytes.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (string, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(string)
    }
}

/// The fields of an OpenSSH certificate (PROTOCOL.certkeys) that a client needs. The signature is not checked here:
/// the server checks a user certificate, the SSH core a host certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certified plain key, in wire format.
    pub key: Vec<u8>,
    /// Serial number; 0 means that the certificate has none.
    pub serial: u64,
    /// Key ID, chosen by the certificate authority.
    pub key_id: Vec<u8>,
    /// First second of validity, in seconds since 1970.
    pub valid_after: u64,
    /// First second after the validity, in seconds since 1970; `u64::MAX` for no end.
    pub valid_before: u64,
}

impl Certificate {
    /// Parses a certificate in wire format. `None` if `blob` is a plain key or damaged.
    pub fn read(blob: &[u8]) -> Option<Self> {
        let mut reader = Reader(blob);
        let name = std::str::from_utf8(reader.string()?).ok()?;
        let (plain, certified) = plain_type(name);
        if !certified {
            return None;
        }
        let numbers = match plain.as_str() {
            "ssh-ed25519" => 1,
            "ssh-dss" => 4,
            "sk-ecdsa-sha2-nistp256@openssh.com" => 3,
            _ => 2,
        };
        let _nonce = reader.string()?;
        let mut key = Vec::with_capacity(blob.len());
        put_string(&mut key, plain.as_bytes());
        for _ in 0..numbers {
            put_string(&mut key, reader.string()?);
        }
        let serial = reader.u64()?;
        let _kind = reader.u32()?;
        let (key_id, _principals) = (reader.string()?.to_vec(), reader.string()?);
        Some(Self {
            key,
            serial,
            key_id,
            valid_after: reader.u64()?,
            valid_before: reader.u64()?,
        })
    }
}

/// Appends a string: its length and its bytes.
pub fn put_string(into: &mut Vec<u8>, string: &[u8]) {
    let len = u32::try_from(string.len()).unwrap_or(u32::MAX);
    into.extend(len.to_be_bytes());
    into.extend(string);
}

/// Returns the bits of the modulus, in whole bytes; `None` if the blob is not a plain RSA key.
pub fn rsa_bits(blob: &[u8]) -> Option<usize> {
    let mut reader = Reader(blob);
    if reader.string()? != b"ssh-rsa" {
        return None;
    }
    let _exponent = reader.string()?;
    let modulus = reader.string()?;
    // An mpint has a zero byte in front if its first bit is set (RFC 4251 §5).
    Some(modulus.strip_prefix(&[0]).unwrap_or(modulus).len() * 8)
}

/// Returns the algorithm name at the start of a key, certificate or signature. `None` if it is missing.
pub fn name(blob: &[u8]) -> Option<&str> {
    std::str::from_utf8(Reader(blob).string()?).ok()
}

/// Splits a key type into the plain type and whether it is a certificate type.
///
/// ```
/// use tunneld_keys::wire::plain_type;
/// let (plain, certificate) = plain_type("ssh-ed25519-cert-v01@openssh.com");
/// assert_eq!((&plain[..], certificate), ("ssh-ed25519", true));
/// ```
pub fn plain_type(name: &str) -> (String, bool) {
    match name.split_once("-cert-v01@") {
        // Security keys keep their domain: `sk-ssh-ed25519-cert-v01@openssh.com` certifies `sk-ssh-ed25519@openssh.com`.
        Some((plain, domain)) if plain.starts_with("sk-") => (format!("{plain}@{domain}"), true),
        Some((plain, _)) => (plain.to_owned(), true),
        None => (name.to_owned(), false),
    }
}

/// Returns the short name that ssh prints for a key type: `ED25519`, `RSA-CERT`, …; an unknown type is escaped.
pub fn short_type(name: &str) -> String {
    let (plain, certified) = plain_type(name);
    let short = match plain.as_str() {
        "ssh-ed25519" => "ED25519",
        "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512" => "RSA",
        "ssh-dss" => "DSA",
        "sk-ssh-ed25519@openssh.com" => "ED25519-SK",
        "sk-ecdsa-sha2-nistp256@openssh.com" => "ECDSA-SK",
        ecdsa if ecdsa.starts_with("ecdsa-sha2-") => "ECDSA",
        _ => return tunneld_proto::text::escape(name),
    };
    format!("{short}{}", if certified { "-CERT" } else { "" })
}

/// Key types whose private keys can be read from a file.
#[derive(Clone, Copy)]
pub enum KeyKind {
    /// `ssh-ed25519` (RFC 8709).
    Ed25519,
    /// `ssh-rsa` (RFC 4253 §6.6).
    Rsa,
    /// `ecdsa-sha2-nistp*` (RFC 5656), with the length of the private number in bytes: 32, 48 or 66.
    Ecdsa(usize),
}

impl KeyKind {
    /// Returns the type with the SSH name `algorithm`.
    ///
    /// # Errors
    /// A text for other types.
    pub fn of(algorithm: &str) -> Result<Self, String> {
        match algorithm {
            "ssh-ed25519" => Ok(Self::Ed25519),
            "ssh-rsa" => Ok(Self::Rsa),
            "ecdsa-sha2-nistp256" => Ok(Self::Ecdsa(32)),
            "ecdsa-sha2-nistp384" => Ok(Self::Ecdsa(48)),
            "ecdsa-sha2-nistp521" => Ok(Self::Ecdsa(66)),
            other => {
                let other = text::escape(other);
                Err(format!("keys of type {other} are not supported"))
            }
        }
    }
}

/// Appends the curve, point and private number of an ECDSA key, in the order in which OpenSSH stores them. `None` if a
/// part is missing or the number is longer than `size` bytes.
///
/// The number is an mpint without leading zeros. ssh-key rejects numbers shorter than the field, so it is padded.
pub fn put_ecdsa(
    into: &mut Vec<u8>,
    public: &mut Reader<'_>,
    private: &mut Reader<'_>,
    size: usize,
) -> Option<()> {
    put_string(into, public.string()?);
    put_string(into, public.string()?);
    let number = private.string()?;
    let number = number.strip_prefix(&[0]).unwrap_or(number);
    let mut padded = Zeroizing::new(vec![0; size.checked_sub(number.len())?]);
    padded.reserve_exact(number.len());
    padded.extend(number);
    put_string(into, &padded);
    Some(())
}

/// Appends an mpint (RFC 4251 §5) that is not negative, given big-endian.
pub fn put_mpint(into: &mut Vec<u8>, number: &[u8]) {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    // A leading one bit would make the number negative.
    let sign = usize::from(number.first().is_some_and(|first| *first >= 0x80));
    let len = u32::try_from(number.len() + sign).unwrap_or(u32::MAX);
    into.extend(len.to_be_bytes());
    into.extend(std::iter::repeat_n(0, sign));
    into.extend(number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate() -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, b"ssh-ed25519-cert-v01@openssh.com");
        put_string(&mut blob, b"nonce");
        put_string(&mut blob, &[7; 32]);
        blob.extend(1u64.to_be_bytes());
        blob.extend(1u32.to_be_bytes());
        put_string(&mut blob, b"id");
        put_string(&mut blob, b"");
        blob.extend(10u64.to_be_bytes());
        blob.extend(20u64.to_be_bytes());
        blob
    }

    #[test]
    fn a_certificate_yields_its_key_and_validity() {
        let read = Certificate::read(&certificate()).unwrap();
        let mut key = Vec::new();
        put_string(&mut key, b"ssh-ed25519");
        put_string(&mut key, &[7; 32]);
        assert_eq!(
            (read.key.clone(), read.valid_after, read.valid_before),
            (key, 10, 20)
        );
        assert_eq!(Certificate::read(&read.key), None, "a plain key");
    }

    proptest! {
        #[test]
        fn truncated_or_random_bytes_are_not_a_certificate(
            cut in 0..certificate().len(),
            random in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert_eq!(Certificate::read(&certificate()[..cut]), None);
            let _no_panic = (Certificate::read(&random), name(&random));
        }
    }
}
