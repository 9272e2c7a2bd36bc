//! The wire format of a DNS message: header, question, and where the records are (RFC 1035 §4.1), with the OPT record of
//! EDNS (RFC 6891 §6.1).

use std::ops::Range;

/// Length of the header in bytes.
pub(super) const HEADER_LEN: usize = 12;
/// Length of an OPT record without options, in bytes.
pub(super) const BARE_OPT_LEN: usize = 11;
/// Length of a name in bytes, at most (RFC 1035 §2.3.4).
const MAX_NAME_LEN: usize = 255;
/// The record type of OPT.
pub(super) const TYPE_OPT: u16 = 41;

/// The flags of the header's third byte: this message is a response.
pub(super) const QR: u8 = 0x80;
/// The operation code, in the header's third byte.
pub(super) const OPCODE: u8 = 0x78;
/// The answer does not fit and is left out.
pub(super) const TC: u8 = 0x02;
/// The client wants recursion.
pub(super) const RD: u8 = 0x01;
/// The server offers recursion; in the header's fourth byte.
pub(super) const RA: u8 = 0x80;
/// The client does not want the server to check DNSSEC; in the header's fourth byte.
pub(super) const CD: u8 = 0x10;

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u16,
    /// QR, opcode, AA, TC and RD.
    pub(super) flags: u8,
    /// RA, Z, AD, CD and the response code.
    pub(super) codes: u8,
    pub(super) questions: u16,
    pub(super) answers: u16,
    pub(super) authorities: u16,
    pub(super) additionals: u16,
}

impl Header {
    /// Reads the header; `None` if the message is shorter.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let &[flags, codes] = message.get(2..4)?.first_chunk()?;
        Some(Self {
            id: u16_at(message, 0)?,
            flags,
            codes,
            questions: u16_at(message, 4)?,
            answers: u16_at(message, 6)?,
            authorities: u16_at(message, 8)?,
            additionals: u16_at(message, 10)?,
        })
    }

    /// Appends the header to `message`.
    pub(super) fn write(&self, message: &mut Vec<u8>) {
        message.extend(self.id.to_be_bytes());
        message.extend([self.flags, self.codes]);
        for count in [
            self.questions,
            self.answers,
            self.authorities,
            self.additionals,
        ] {
            message.extend(count.to_be_bytes());
        }
    }

    pub(super) fn is_response(&self) -> bool {
        self.flags & QR != 0
    }
}

/// What an OPT record says, as far as a forwarder needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opt {
    /// Where the record is in the message.
    pub(super) range: Range<usize>,
    /// The longest datagram that the sender takes, in bytes.
    pub(super) datagram_size: u16,
    /// The flags; the first bit is DO (RFC 3225).
    pub(super) flags: u16,
}

/// Returns where the only question of a message ends; `None` if it has another number of questions or the question is
/// malformed. Nothing precedes the question that a compressed name could point to.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    if u16_at(message, 4)? != 1 {
        return None;
    }
    let name_end = skip_name(message, HEADER_LEN, Compression::Refused)?;
    let end = name_end.checked_add(4)?;
    (end <= message.len()).then_some(end)
}

/// The records of a message are malformed: a name or a record reaches beyond the end, or there are two OPT records.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Finds the OPT record behind the question, which ends at `at`. `None` if the message has none.
pub(super) fn find_opt(
    message: &[u8],
    header: &Header,
    at: usize,
) -> Result<Option<Opt>, Malformed> {
    let before = u32::from(header.answers) + u32::from(header.authorities);
    let mut at = at;
    let mut found = None;
    // The counts may claim more than the message has: the loop ends at the end of the message.
    for index in 0..before + u32::from(header.additionals) {
        let (start, name_end) = (
            at,
            skip_name(message, at, Compression::Allowed).ok_or(Malformed)?,
        );
        let record = Record::read(message, name_end).ok_or(Malformed)?;
        at = record.end;
        // The OPT record's name is the root, one byte; it may only be among the additional records.
        if record.kind == TYPE_OPT && index >= before && name_end == start + 1 {
            let opt = Opt {
                range: start..record.end,
                datagram_size: record.class,
                flags: record.ttl_low,
            };
            if found.replace(opt).is_some() {
                return Err(Malformed);
            }
        }
    }
    Ok(found)
}

struct Record {
    kind: u16,
    class: u16,
    /// The lower half of the time to live; in an OPT record the flags.
    ttl_low: u16,
    end: usize,
}

impl Record {
    /// Reads what follows the record's name.
    fn read(message: &[u8], at: usize) -> Option<Self> {
        let data_len = usize::from(u16_at(message, at + 8)?);
        let end = at + 10 + data_len;
        (end <= message.len()).then_some(Self {
            kind: u16_at(message, at)?,
            class: u16_at(message, at + 2)?,
            ttl_low: u16_at(message, at + 6)?,
            end,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    Allowed,
    Refused,
}

/// Returns the end of the name at `at`. A pointer ends it; what it points to is not looked at.
fn skip_name(message: &[u8], mut at: usize, compression: Compression) -> Option<usize> {
    let start = at;
    loop {
        let len = *message.get(at)?;
        match len {
            0 => return (at + 1 - start <= MAX_NAME_LEN).then_some(at + 1),
            1..=63 => at += 1 + usize::from(len),
            192.. if compression == Compression::Allowed => {
                return message.get(at + 1).map(|_| at + 2);
            }
            _ => return None,
        }
        if at - start >= MAX_NAME_LEN {
            return None;
        }
    }
}

pub(super) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?))
}
