//! OpenSSH's binary key revocation lists (PROTOCOL.krl), as `ssh-keygen -k` writes them. Every look-up parses the
//! whole list, because a damaged or unknown section anywhere makes the list unusable and so revokes every key.

use aws_lc_rs::digest;

use tunneld_ssh::wire::{Malformed, Reader};

use super::presented::Presented;

const MAGIC: &[u8] = b"SSHKRL\n\0";
const VERSION: u32 = 1;
/// Longest serial number bitmap that OpenSSH accepts, in bytes.
const BITMAP_LIMIT: usize = 0x200_0000 / 8;

/// Why a revocation list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadKrl {
    /// The list is truncated or violates the format.
    #[error("the revocation list is damaged")]
    Damaged,
    /// The list has another format version than 1.
    #[error("the revocation list has the unsupported version {0}")]
    Version(u32),
    /// The list has a section of an unknown type, which might revoke any key.
    #[error("the revocation list has a section of the unknown type {0}")]
    Unknown(u8),
}

impl From<Malformed> for BadKrl {
    fn from(Malformed: Malformed) -> Self {
        Self::Damaged
    }
}

/// Returns whether `file` starts with the magic bytes of a binary revocation list.
pub(crate) fn is_krl(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Returns whether the list revokes the presented key, its certificate, or its certificate authority.
///
/// # Errors
/// The list is damaged or not understood: the caller must treat every key as revoked.
pub(crate) fn revokes(krl: &[u8], presented: &Presented<'_>) -> Result<bool, BadKrl> {
    let mut reader = Reader::new(krl.strip_prefix(MAGIC).ok_or(BadKrl::Damaged)?);
    match reader.u32()? {
        VERSION => {}
        other => return Err(BadKrl::Version(other)),
    }
    let (_version, _generated, _flags) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let (_reserved, _comment) = (reader.string()?, reader.string()?);
    let keys: Vec<&[u8]> = [
        Some(presented.plain),
        presented.certified.map(|by| by.authority),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut found = false;
    while !reader.is_empty() {
        let kind = reader.u8()?;
        let mut section = Reader::new(reader.string()?);
        found |= match kind {
            1 => certificates(&mut section, presented)?,
            2 => any_string(&mut section, |listed| keys.contains(&listed))?,
            3 => hashes(&mut section, &digest::SHA1_FOR_LEGACY_USE_ONLY, &keys)?,
            5 => hashes(&mut section, &digest::SHA256, &keys)?,
            255 => extension(&mut section, kind)?,
            other => return Err(BadKrl::Unknown(other)),
        };
    }
    Ok(found)
}

fn hashes(
    section: &mut Reader<'_>,
    algorithm: &'static digest::Algorithm,
    keys: &[&[u8]],
) -> Result<bool, BadKrl> {
    let hashed: Vec<_> = keys
        .iter()
        .map(|key| digest::digest(algorithm, key))
        .collect();
    let mut whole = true;
    let found = any_string(section, |listed| {
        whole &= listed.len() == algorithm.output_len();
        hashed.iter().any(|key| key.as_ref() == listed)
    })?;
    whole.then_some(found).ok_or(BadKrl::Damaged)
}

/// Evaluates a section of certificates of one authority, or of every authority if none is named.
fn certificates(section: &mut Reader<'_>, presented: &Presented<'_>) -> Result<bool, BadKrl> {
    let (authority, _reserved) = (section.string()?, section.string()?);
    let ours = presented
        .certified
        .filter(|by| authority.is_empty() || authority == by.authority);
    // In OpenSSH the serial number 0 means that the certificate has none.
    let serial = ours.map(|by| by.serial).filter(|serial| *serial != 0);
    let mut found = false;
    while !section.is_empty() {
        let kind = section.u8()?;
        let mut part = Reader::new(section.string()?);
        found |= match kind {
            0x20 => serials(&mut part, serial)?,
            0x21 => {
                let (low, high) = (part.u64()?, part.u64()?);
                if low > high || low == 0 || !part.is_empty() {
                    return Err(BadKrl::Damaged);
                }
                serial.is_some_and(|serial| (low..=high).contains(&serial))
            }
            0x22 => bitmap(&mut part, serial)?,
            0x23 => any_string(&mut part, |listed| {
                ours.is_some_and(|by| by.key_id == listed)
            })?,
            0x39 => extension(&mut part, kind)?,
            other => return Err(BadKrl::Unknown(other)),
        };
    }
    Ok(found)
}

fn serials(part: &mut Reader<'_>, serial: Option<u64>) -> Result<bool, BadKrl> {
    let mut found = false;
    while !part.is_empty() {
        match part.u64()? {
            0 => return Err(BadKrl::Damaged),
            listed => found |= serial == Some(listed),
        }
    }
    Ok(found)
}

/// Evaluates a bitmap of serial numbers: bit N of a big-endian number is serial number `offset` + N.
fn bitmap(part: &mut Reader<'_>, serial: Option<u64>) -> Result<bool, BadKrl> {
    let (offset, bits) = (part.u64()?, part.string()?);
    let bits = bits.strip_prefix(&[0]).unwrap_or(bits);
    let len = u64::try_from(bits.len()).map_err(|_| BadKrl::Damaged)?;
    let lowest = bits.last().is_some_and(|byte| byte & 1 == 1);
    if bits.len() > BITMAP_LIMIT
        || offset.checked_add(len.saturating_mul(8)).is_none()
        || (offset == 0 && lowest)
        || !part.is_empty()
    {
        return Err(BadKrl::Damaged);
    }
    let Some(bit) = serial.and_then(|serial| serial.checked_sub(offset)) else {
        return Ok(false);
    };
    let byte = usize::try_from(bit / 8).ok();
    let byte = byte.and_then(|byte| bits.iter().rev().nth(byte));
    Ok(byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1))
}

/// Skips an extension that is not critical. A critical one is unknown here and makes the list unusable.
fn extension(part: &mut Reader<'_>, kind: u8) -> Result<bool, BadKrl> {
    let (_name, critical, _contents) = (part.string()?, part.u8()?, part.string()?);
    match critical {
        0 if part.is_empty() => Ok(false),
        0 => Err(BadKrl::Damaged),
        _ => Err(BadKrl::Unknown(kind)),
    }
}

/// Returns whether `matches` holds for one of the remaining strings. Reads all of them, to find damage.
fn any_string<'a>(
    section: &mut Reader<'a>,
    mut matches: impl FnMut(&'a [u8]) -> bool,
) -> Result<bool, BadKrl> {
    let mut found = false;
    while !section.is_empty() {
        found |= matches(section.string()?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
