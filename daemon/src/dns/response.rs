//! A server's response: whether it answers a query, and how it reaches a client that takes short datagrams only.

use super::Query;
use super::message::{BARE_OPT_LEN, HEADER_LEN, Header, OPCODE, TC, find_opt, question_end};

/// A response that has a header and the bit that marks it as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    message: Vec<u8>,
    header: Header,
}

impl Response {
    /// Reads the header. `None` if the message is too short or is a query.
    pub fn parse(message: Vec<u8>) -> Option<Self> {
        let header = Header::read(&message)?;
        header.is_response().then_some(Self { message, header })
    }

    /// The id, which is the one that [`Query::framed_with_id`] was given.
    pub fn id(&self) -> u16 {
        self.header.id
    }

    /// Returns whether it answers `query`: the operation and the question are the same. The name's case may differ, as
    /// names are compared without it (RFC 4343).
    pub fn answers(&self, query: &Query) -> bool {
        if self.header.flags & OPCODE != query.opcode() {
            return false;
        }
        // A server that could not read the question may leave it out of its error.
        if self.header.questions == 0 {
            return self.header.codes & 0x0f != 0 && self.header.answers == 0;
        }
        let Some(end) = question_end(&self.message) else {
            return false;
        };
        let question = self.message.get(HEADER_LEN..end).unwrap_or_default();
        let asked = query.question();
        // Type and class are numbers: among their bytes are values of letters.
        let split = asked.len().saturating_sub(4);
        question.len() == asked.len()
            && question.get(split..) == asked.get(split..)
            && question
                .iter()
                .zip(asked)
                .all(|(one, other)| one.eq_ignore_ascii_case(other))
    }

    /// Returns the message with the client's id.
    pub fn into_message(mut self, id: u16) -> Vec<u8> {
        for (byte, new) in self.message.iter_mut().zip(id.to_be_bytes()) {
            *byte = new;
        }
        self.message
    }
}

/// Shortens an answer that is longer than `limit` bytes to its header, question and OPT record, with the flag TC: the client
/// asks again over TCP. Records are never cut in part (RFC 2181 §9, RFC 6891 §7).
pub fn fit_datagram(message: Vec<u8>, limit: usize) -> Vec<u8> {
    if message.len() <= limit {
        return message;
    }
    let Some(header) = Header::read(&message) else {
        return Vec::new();
    };
    let end = question_end(&message);
    let opt = find_opt(&message, &header, end.unwrap_or(HEADER_LEN));
    let opt = opt.ok().flatten();
    let short = Header {
        flags: header.flags | TC,
        questions: end.is_some().into(),
        answers: 0,
        authorities: 0,
        additionals: opt.is_some().into(),
        ..header
    };
    let mut shortened = Vec::with_capacity(limit);
    short.write(&mut shortened);
    shortened.extend(
        message
            .get(HEADER_LEN..end.unwrap_or(HEADER_LEN))
            .unwrap_or_default(),
    );
    if let Some(opt) = opt {
        let record = message.get(opt.range).unwrap_or_default();
        if shortened.len() + record.len() <= limit {
            shortened.extend(record);
        } else {
            // Its options do not fit: all but their length, which becomes zero.
            shortened.extend(record.get(..BARE_OPT_LEN - 2).unwrap_or_default());
            shortened.extend([0, 0]);
        }
    }
    shortened
}

#[cfg(test)]
mod tests;
