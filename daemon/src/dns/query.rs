//! A client's query, and the answers that the forwarder gives to it without a server.

use super::message::{
    CD, HEADER_LEN, Header, OPCODE, Opt, QR, RA, RD, TYPE_OPT, find_opt, question_end, u16_at,
};
use super::{MAX_MESSAGE_LEN, MAX_QUERY_LEN};

/// The shortest datagram that every client takes, in bytes (RFC 1035 §4.2.1).
const MIN_DATAGRAM: usize = 512;
/// The size that answers made here announce, in bytes: it passes every common link unfragmented (RFC 9715).
const ANNOUNCED_SIZE: u16 = 1232;
/// Zone transfers, whose answer is a series of messages: IXFR and AXFR (RFC 5936).
const ZONE_TRANSFERS: [u16; 2] = [251, 252];
/// The option "Extended DNS Error" (RFC 8914).
const OPTION_EXTENDED_ERROR: u16 = 15;
/// The bytes of an explanation that are kept.
const MAX_EXPLANATION: usize = 200;

/// A query that is well formed and may be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    message: Vec<u8>,
    header: Header,
    question_end: usize,
    opt: Option<Opt>,
}

/// What happens with bytes that a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryOutcome {
    /// The query is passed on.
    Forward(Query),
    /// It is not passed on; the client gets this answer.
    Answer(Vec<u8>),
    /// It gets no answer: it has no id to answer to, or is itself a response. Two forwarders that answer each other's
    /// answers would never stop.
    Ignore,
}

/// A response code (RFC 1035 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseCode {
    /// FORMERR: the query is malformed.
    FormatError,
    /// SERVFAIL: no answer could be obtained.
    ServerFailure,
    /// REFUSED: this kind of query is not passed on.
    Refused,
}

impl ResponseCode {
    fn number(self) -> u8 {
        match self {
            Self::FormatError => 1,
            Self::ServerFailure => 2,
            Self::Refused => 5,
        }
    }
}

/// Why a query has no answer, for the person who reads `dig` (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedError<'a> {
    /// The code of RFC 8914 §4.
    pub code: u16,
    /// Text for people; its first 200 bytes are sent.
    pub text: &'a str,
}

impl<'a> ExtendedError<'a> {
    /// The server could not be reached, or did not answer: "Network Error", RFC 8914 §4.24.
    pub fn network(text: &'a str) -> Self {
        Self { code: 23, text }
    }
}

impl Query {
    /// Decides what happens with a message from a client.
    pub fn parse(message: &[u8]) -> QueryOutcome {
        let Some(header) = Header::read(message) else {
            return QueryOutcome::Ignore;
        };
        if header.is_response() {
            return QueryOutcome::Ignore;
        }
        let format_error = || QueryOutcome::Answer(bare_error(&header, ResponseCode::FormatError));
        if message.len() > MAX_QUERY_LEN {
            return format_error();
        }
        let Some(question_end) = question_end(message) else {
            return format_error();
        };
        let Ok(opt) = find_opt(message, &header, question_end) else {
            return format_error();
        };
        let query = Self {
            message: message.to_vec(),
            header,
            question_end,
            opt,
        };
        let kind = u16_at(message, question_end - 4);
        if kind.is_some_and(|kind| ZONE_TRANSFERS.contains(&kind)) {
            return QueryOutcome::Answer(query.error(ResponseCode::Refused, None));
        }
        QueryOutcome::Forward(query)
    }

    /// The client's id.
    pub fn id(&self) -> u16 {
        self.header.id
    }

    /// Its length in bytes.
    pub fn message_len(&self) -> usize {
        self.message.len()
    }

    /// Name, type and class, as the client wrote them.
    pub(super) fn question(&self) -> &[u8] {
        self.message
            .get(HEADER_LEN..self.question_end)
            .unwrap_or_default()
    }

    pub(super) fn opcode(&self) -> u8 {
        self.header.flags & OPCODE
    }

    /// The longest datagram that the client takes, in bytes: at least 512, whatever it says (RFC 6891 §6.2.3).
    pub fn datagram_size(&self) -> usize {
        let announced = self.opt.as_ref().map_or(0, |opt| opt.datagram_size);
        usize::from(announced).max(MIN_DATAGRAM)
    }

    /// The message for a server over TCP: with its length in front, and another id.
    pub fn framed_with_id(&self, id: u16) -> Vec<u8> {
        let len = u16::try_from(self.message.len()).unwrap_or_default();
        let mut framed = Vec::with_capacity(2 + self.message.len());
        framed.extend(len.to_be_bytes());
        framed.extend(id.to_be_bytes());
        framed.extend(self.message.get(2..).unwrap_or_default());
        framed
    }

    /// Returns an answer without records. `why` is added if the query has an OPT record, without which RFC 6891 §7 allows
    /// none in the answer.
    pub fn error(&self, code: ResponseCode, why: Option<ExtendedError<'_>>) -> Vec<u8> {
        let header = Header {
            questions: 1,
            additionals: self.opt.is_some().into(),
            ..error_header(&self.header, code)
        };
        let mut answer = Vec::with_capacity(self.question_end + 2 * MAX_EXPLANATION);
        header.write(&mut answer);
        answer.extend(self.question());
        if let Some(opt) = &self.opt {
            write_opt(&mut answer, opt.flags, why);
        }
        answer
    }
}

fn error_header(query: &Header, code: ResponseCode) -> Header {
    Header {
        id: query.id,
        flags: QR | (query.flags & (OPCODE | RD)),
        codes: RA | (query.codes & CD) | code.number(),
        questions: 0,
        answers: 0,
        authorities: 0,
        additionals: 0,
    }
}

/// An answer to a query whose question cannot be read.
fn bare_error(query: &Header, code: ResponseCode) -> Vec<u8> {
    let mut answer = Vec::with_capacity(HEADER_LEN);
    error_header(query, code).write(&mut answer);
    answer
}

/// Appends an OPT record. Of the client's flags only DO is copied (RFC 3225).
fn write_opt(message: &mut Vec<u8>, flags: u16, why: Option<ExtendedError<'_>>) {
    let mut options = Vec::new();
    if let Some(why) = why {
        let end = why.text.floor_char_boundary(MAX_EXPLANATION);
        let text = why.text.get(..end).unwrap_or_default();
        let len = u16::try_from(2 + text.len()).unwrap_or_default();
        options.extend(OPTION_EXTENDED_ERROR.to_be_bytes());
        options.extend(len.to_be_bytes());
        options.extend(why.code.to_be_bytes());
        options.extend(text.as_bytes());
    }
    message.push(0);
    message.extend(TYPE_OPT.to_be_bytes());
    message.extend(ANNOUNCED_SIZE.to_be_bytes());
    message.extend([0, 0]);
    message.extend((flags & 0x8000).to_be_bytes());
    message.extend(
        u16::try_from(options.len())
            .unwrap_or_default()
            .to_be_bytes(),
    );
    message.extend(options);
    debug_assert!(message.len() <= MAX_MESSAGE_LEN);
}

#[cfg(test)]
mod tests;
