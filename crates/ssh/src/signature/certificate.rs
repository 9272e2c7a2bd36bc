//! OpenSSH host certificates (PROTOCOL.certkeys): parsed, the authority's signature verified, the claims checked.
//! Whether the authority is trusted is up to the caller.

use bytes::Bytes;

use super::key::{CERT_SUFFIX, KeyFields, SignatureError, key_type, plain_type};
use crate::error::bounded;
use crate::pattern::match_pattern;
use crate::wire::{Malformed, Reader, Writer};

/// SSH_CERT_TYPE_HOST (PROTOCOL.certkeys): the certificate identifies a host and not a user.
const CERT_TYPE_HOST: u32 = 2;
/// Principals, and options, that a certificate may have.
const MAX_NAMES: usize = 256;

/// A certificate with a valid signature of its authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Blob of the certified key, as a plain key.
    pub key: Bytes,
    /// Blob of the authority's key.
    pub authority: Bytes,
    /// Serial number that the authority has given it; 0 if it counts none.
    pub serial: u64,
    /// Identifier that the authority has given it, for logs; cut to 1 KiB.
    pub key_id: String,
    /// Host names that it is valid for; empty for all.
    pub principals: Vec<String>,
    /// First second of its validity, in seconds since 1970.
    pub valid_after: u64,
    /// First second after its validity, in seconds since 1970.
    pub valid_before: u64,
    /// SSH_CERT_TYPE_USER or SSH_CERT_TYPE_HOST.
    cert_type: u32,
    /// Names of its critical options, each cut to 64 bytes. A host certificate with any is refused: none is
    /// implemented.
    critical_options: Vec<String>,
}

/// Why a certificate is not valid for a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It certifies a user and not a host.
    #[error("the certificate is not a host certificate")]
    NotHost,
    /// It is valid for other hosts only.
    #[error("{}", wrong_host(host, principals))]
    Principal {
        /// The host that was connected to.
        host: String,
        /// The hosts that it is valid for.
        principals: Vec<String>,
    },
    /// Its validity has not begun.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// Its validity ended before the given time.
    #[error("the certificate has expired")]
    Expired,
    /// It has a critical option that is not implemented, which is every one.
    #[error("the certificate has the unknown critical option {0:?}")]
    CriticalOption(String),
}

impl Certificate {
    /// Parses a certificate and verifies its authority's signature, with SHA-1 (`ssh-rsa`) only if `allow_sha1`.
    ///
    /// # Errors
    /// The certificate is malformed, or its signature is wrong or not allowed.
    pub fn parse(blob: &[u8], allow_sha1: bool) -> Result<Self, SignatureError> {
        let mut reader = Reader::new(blob);
        let name = reader.utf8()?;
        let plain = plain_type(name)
            .ok_or_else(|| SignatureError::KeyType(name.chars().take(64).collect()))?;
        let _nonce = reader.string()?;
        // The plain key's blob is built from these fields: known_hosts and agents compare plain blobs.
        let at_key = reader.rest();
        KeyFields::read(&plain, &mut reader)?;
        let key_fields = consumed(at_key, reader.rest())?;
        let serial = reader.u64()?;
        let cert_type = reader.u32()?;
        let key_id = bounded(reader.string()?, 1024);
        let principals = read_names(reader.string()?)?;
        let (valid_after, valid_before) = (reader.u64()?, reader.u64()?);
        let critical_options = read_option_names(reader.string()?)?;
        let _extensions = reader.string()?;
        let _reserved = reader.string()?;
        let authority = reader.string()?;
        // Everything before the signature, as it was on the wire.
        let signed = consumed(blob, reader.rest())?;
        let signature = reader.string()?;
        reader.end()?;
        verify_authority(authority, signature, signed, allow_sha1)?;
        let mut key = Vec::new();
        key.string(&plain);
        key.raw(key_fields);
        Ok(Self {
            key: key.into(),
            authority: Bytes::copy_from_slice(authority),
            serial,
            key_id,
            principals,
            valid_after,
            valid_before,
            cert_type,
            critical_options,
        })
    }

    /// Checks that the certificate is valid for `host` at `now`, in seconds since 1970. As in OpenSSH 10.3, a principal is
    /// a pattern with `*` and `?`, and a certificate without principals is valid for no host. Older versions take it for
    /// every host, and a principal for a name.
    ///
    /// # Errors
    /// The claim that does not hold.
    pub fn check_host(&self, host: &str, now: u64) -> Result<(), CertificateError> {
        // A user certificate of the same authority would otherwise let any user play the server.
        if self.cert_type != CERT_TYPE_HOST {
            return Err(CertificateError::NotHost);
        }
        if now < self.valid_after {
            return Err(CertificateError::NotYetValid);
        }
        if now >= self.valid_before {
            return Err(CertificateError::Expired);
        }
        // PROTOCOL.certkeys: an unknown critical option must lead to refusal, and it defines none for hosts.
        if let Some(option) = self.critical_options.first() {
            return Err(CertificateError::CriticalOption(option.clone()));
        }
        // Host names do not depend on case; principals are compared as they are.
        let host = host.to_ascii_lowercase();
        let matches = |principal: &String| match_pattern(&host, principal);
        if !self.principals.iter().any(matches) {
            return Err(CertificateError::Principal {
                host,
                principals: self.principals.clone(),
            });
        }
        Ok(())
    }
}

fn wrong_host(host: &str, principals: &[String]) -> String {
    if principals.is_empty() {
        return "the certificate names no host, so it is valid for none".to_owned();
    }
    format!(
        "the certificate is for {}, not for {host}",
        principals.join(", ")
    )
}

/// The part of `whole` before its tail `rest`.
fn consumed<'a>(whole: &'a [u8], rest: &[u8]) -> Result<&'a [u8], Malformed> {
    let length = whole.len().checked_sub(rest.len()).ok_or(Malformed)?;
    whole.get(..length).ok_or(Malformed)
}

fn verify_authority(
    authority: &[u8],
    signature: &[u8],
    signed: &[u8],
    allow_sha1: bool,
) -> Result<(), SignatureError> {
    let mut reader = Reader::new(authority);
    let name = reader.utf8()?;
    let algorithm = Reader::new(signature).utf8()?;
    // An authority must be a plain key: certificates do not sign certificates.
    if name.ends_with(CERT_SUFFIX) || name != key_type(algorithm) {
        return Err(SignatureError::KeyType(name.chars().take(64).collect()));
    }
    if algorithm == "ssh-rsa" && !allow_sha1 {
        return Err(SignatureError::Algorithm(algorithm.to_owned()));
    }
    let key = KeyFields::read(name, &mut reader)?;
    reader.end()?;
    // An authority signs for many hosts: an exception for one old host does not extend to it.
    key.verify(algorithm, signature, signed, None)
}

fn read_names(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut names = Vec::new();
    while !reader.is_empty() {
        if names.len() == MAX_NAMES {
            return Err(Malformed);
        }
        names.push(reader.utf8()?.to_owned());
    }
    Ok(names)
}

fn read_option_names(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut names = Vec::new();
    while !reader.is_empty() {
        names.push(bounded(reader.string()?, 64));
        let _data = reader.string()?;
        if names.len() > MAX_NAMES {
            return Err(Malformed);
        }
    }
    Ok(names)
}
