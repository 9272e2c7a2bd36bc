//! OpenSSH's binary revocation lists (PROTOCOL.krl), as `ssh-keygen -k` writes them. A list is walked whole for each key
//! that is looked up: what is damaged, or must be understood and is not, revokes everything.

use aws_lc_rs::digest;

use super::presented::Presented;

const MAGIC: &[u8] = b"SSHKRL\n\0";
const VERSION: u32 = 1;
/// OpenSSH reads no larger bitmap.
const BITMAP_LIMIT: usize = 0x200_0000 / 8;

/// Why a list cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadKrl {
    /// It ends before its time, or contradicts itself.
    #[error("the revocation list is damaged")]
    Damaged,
    /// It is of another version.
    #[error("the revocation list is of version {0}, which is not known")]
    Version(u32),
    /// It has a part that is not known and might revoke anything.
    #[error("the revocation list has a part of the unknown type {0}")]
    Unknown(u8),
}

/// Whether a file is such a list.
pub(crate) fn is_krl(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Whether the list revokes what a host has shown, or the authority behind it.
pub(crate) fn revokes(krl: &[u8], shown: &Presented<'_>) -> Result<bool, BadKrl> {
    let mut reader = Reader(krl.strip_prefix(MAGIC).ok_or(BadKrl::Damaged)?);
    match reader.u32()? {
        VERSION => {}
        other => return Err(BadKrl::Version(other)),
    }
    let (_version, _generated, _flags) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let (_reserved, _comment) = (reader.string()?, reader.string()?);
    let keys: Vec<&[u8]> = [Some(shown.plain), shown.certified.map(|by| by.authority)]
        .into_iter()
        .flatten()
        .collect();
    let mut found = false;
    while !reader.is_empty() {
        let kind = reader.byte()?;
        let mut section = Reader(reader.string()?);
        found |= match kind {
            1 => certificates(&mut section, shown)?,
            2 => section.any(|listed| keys.contains(&listed))?,
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
    let mine: Vec<_> = keys
        .iter()
        .map(|key| digest::digest(algorithm, key))
        .collect();
    let mut whole = true;
    let found = section.any(|listed| {
        whole &= listed.len() == algorithm.output_len();
        mine.iter().any(|mine| mine.as_ref() == listed)
    })?;
    whole.then_some(found).ok_or(BadKrl::Damaged)
}

/// The certificates of one authority, or of any where none is named.
fn certificates(section: &mut Reader<'_>, shown: &Presented<'_>) -> Result<bool, BadKrl> {
    let (authority, _reserved) = (section.string()?, section.string()?);
    let ours = shown
        .certified
        .filter(|by| authority.is_empty() || authority == by.authority);
    // OpenSSH takes the serial number 0 for none.
    let serial = ours.map(|by| by.serial).filter(|serial| *serial != 0);
    let mut found = false;
    while !section.is_empty() {
        let kind = section.byte()?;
        let mut part = Reader(section.string()?);
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
            0x23 => part.any(|listed| ours.is_some_and(|by| by.key_id == listed))?,
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

/// The bits of a big-endian number, counted from an offset.
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

/// An extension that may be passed over is; nothing is revoked by it.
fn extension(part: &mut Reader<'_>, kind: u8) -> Result<bool, BadKrl> {
    let (_name, critical, _contents) = (part.string()?, part.byte()?, part.string()?);
    match critical {
        0 if part.is_empty() => Ok(false),
        0 => Err(BadKrl::Damaged),
        _ => Err(BadKrl::Unknown(kind)),
    }
}

/// Reads from the front (RFC 4251 §5).
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadKrl> {
        let (first, rest) = self.0.split_first_chunk().ok_or(BadKrl::Damaged)?;
        self.0 = rest;
        Ok(*first)
    }

    fn byte(&mut self) -> Result<u8, BadKrl> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, BadKrl> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadKrl> {
        self.take().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], BadKrl> {
        let len = usize::try_from(self.u32()?).map_err(|_| BadKrl::Damaged)?;
        let (string, rest) = self.0.split_at_checked(len).ok_or(BadKrl::Damaged)?;
        self.0 = rest;
        Ok(string)
    }

    /// Whether `matches` holds for one of the strings that are left; all are read.
    fn any(&mut self, mut matches: impl FnMut(&'a [u8]) -> bool) -> Result<bool, BadKrl> {
        let mut found = false;
        while !self.is_empty() {
            found |= matches(self.string()?);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
