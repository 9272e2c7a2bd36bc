//! OpenSSH certificates of hosts (PROTOCOL.certkeys): read, the authority's signature verified,
//! and the claims checked. Whether the authority is trusted is the caller's to say.

use russh::keys::ssh_key;

use super::{CERT_SUFFIX, PublicKey, Refused, key_type, plain_type};
use crate::error::bounded;
use crate::wire::{Malformed, Reader, Writer};

/// SSH_CERT_TYPE_HOST.
const HOST: u32 = 2;
const MAX_PRINCIPALS: usize = 256;

/// A certificate whose authority's signature is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The key that is certified, plain.
    pub key: ssh_key::PublicKey,
    /// The authority's key.
    pub authority: ssh_key::PublicKey,
    /// The serial number.
    pub serial: u64,
    /// The authority's name for it, cut to 1 KiB.
    pub key_id: String,
    /// The host names it is for; empty for all.
    pub principals: Vec<String>,
    /// The first second of its validity, since 1970.
    pub valid_after: u64,
    /// The second in which it is not valid any more.
    pub valid_before: u64,
    kind: u32,
    critical_options: Vec<String>,
}

/// Why a certificate does not stand for a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// It certifies a user.
    #[error("the certificate is not a host's")]
    NotHost,
    /// It is for other hosts.
    #[error("the certificate is for {}, not for {host}", principals.join(", "))]
    Principal {
        /// The host that was asked for.
        host: String,
        /// The hosts it is for.
        principals: Vec<String>,
    },
    /// It is not valid yet.
    #[error("the certificate is not valid yet")]
    NotYet,
    /// It is not valid any more.
    #[error("the certificate has expired")]
    Expired,
    /// It demands what we do not know.
    #[error("the certificate has the unknown critical option {0:?}")]
    CriticalOption(String),
}

impl Certificate {
    /// Reads a certificate and verifies the authority's signature over it. SHA-1 signatures are
    /// taken only when `sha1` says so.
    pub fn read(blob: &[u8], sha1: bool) -> Result<Self, Refused> {
        let mut reader = Reader::new(blob);
        let name = reader.utf8()?;
        let plain =
            plain_type(name).ok_or_else(|| Refused::Type(name.chars().take(64).collect()))?;
        let _nonce = reader.string()?;
        let key_start = reader.rest();
        PublicKey::read(&plain, &mut reader)?;
        let key_fields = before(key_start, reader.rest())?;
        let serial = reader.u64()?;
        let kind = reader.u32()?;
        let key_id = bounded(reader.string()?, 1024);
        let principals = names(reader.string()?)?;
        let (valid_after, valid_before) = (reader.u64()?, reader.u64()?);
        let critical_options = option_names(reader.string()?)?;
        let _extensions = reader.string()?;
        let _reserved = reader.string()?;
        let authority = reader.string()?;
        let signed = before(blob, reader.rest())?;
        let signature = reader.string()?;
        reader.end()?;
        verify_authority(authority, signature, signed, sha1)?;
        let mut key = Vec::new();
        key.string(&plain);
        key.raw(key_fields);
        Ok(Self {
            key: parse(&key)?,
            authority: parse(authority)?,
            serial,
            key_id,
            principals,
            valid_after,
            valid_before,
            kind,
            critical_options,
        })
    }

    /// Checks the claims: a host's, for this name, at this time (seconds since 1970), without
    /// critical options. As OpenSSH has it, a principal is the name itself and no pattern, and none are all.
    pub fn check_host(&self, host: &str, now: u64) -> Result<(), CertificateFault> {
        if self.kind != HOST {
            return Err(CertificateFault::NotHost);
        }
        if now < self.valid_after {
            return Err(CertificateFault::NotYet);
        }
        if now >= self.valid_before {
            return Err(CertificateFault::Expired);
        }
        if let Some(option) = self.critical_options.first() {
            return Err(CertificateFault::CriticalOption(option.clone()));
        }
        let host = host.to_ascii_lowercase();
        if !self.principals.is_empty() && !self.principals.contains(&host) {
            return Err(CertificateFault::Principal {
                host,
                principals: self.principals.clone(),
            });
        }
        Ok(())
    }
}

/// The part of `whole` that lies before its tail `rest`.
fn before<'a>(whole: &'a [u8], rest: &[u8]) -> Result<&'a [u8], Malformed> {
    let length = whole.len().checked_sub(rest.len()).ok_or(Malformed)?;
    whole.get(..length).ok_or(Malformed)
}

fn parse(blob: &[u8]) -> Result<ssh_key::PublicKey, Refused> {
    ssh_key::PublicKey::from_bytes(blob).map_err(|_| Refused::Malformed)
}

fn verify_authority(
    authority: &[u8],
    signature: &[u8],
    signed: &[u8],
    sha1: bool,
) -> Result<(), Refused> {
    let mut reader = Reader::new(authority);
    let name = reader.utf8()?;
    let algorithm = Reader::new(signature).utf8()?;
    // A certificate does not sign certificates.
    if name.ends_with(CERT_SUFFIX) || name != key_type(algorithm) {
        return Err(Refused::Type(name.chars().take(64).collect()));
    }
    if algorithm == "ssh-rsa" && !sha1 {
        return Err(Refused::Algorithm(algorithm.to_owned()));
    }
    let key = PublicKey::read(name, &mut reader)?;
    reader.end()?;
    key.verify(algorithm, signature, signed)
}

fn names(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut names = Vec::new();
    while !reader.is_empty() {
        if names.len() == MAX_PRINCIPALS {
            return Err(Malformed);
        }
        names.push(reader.utf8()?.to_owned());
    }
    Ok(names)
}

fn option_names(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut names = Vec::new();
    while !reader.is_empty() {
        names.push(bounded(reader.string()?, 64));
        let _data = reader.string()?;
        if names.len() > MAX_PRINCIPALS {
            return Err(Malformed);
        }
    }
    Ok(names)
}
