//! One channel (RFC 4254 §5): its two directions end each alone, by EOF, then by CLOSE.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::inbox::Inbox;
use super::pace::SendWindow;
use super::window::ReceiveWindow;

/// How far an open channel has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// We asked and wait for the answer.
    Opening,
    /// The peer asked and waits for ours.
    Offered,
    /// It stands, or stood.
    Open,
}

/// How far a direction has come; later ends include the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Bytes may follow.
    None,
    /// SSH_MSG_CHANNEL_EOF was sent.
    Eof,
    /// SSH_MSG_CHANNEL_CLOSE was sent.
    Close,
}

/// What there is to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// These bytes.
    Data(Bytes),
    /// Nothing yet.
    Nothing,
    /// The peer sent EOF, and everything before it has been taken.
    Eof,
    /// The peer sent CLOSE without EOF, and everything before it has been taken.
    Reset,
}

/// What data that came in means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// It waits for the reader.
    Kept,
    /// Nobody wants it.
    Dropped,
    /// It is more than the window holds.
    PastWindow,
    /// It follows an EOF or CLOSE.
    AfterEnd,
}

/// One channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) stage: Stage,
    /// When we asked.
    pub(crate) asked: Option<Instant>,
    /// The peer's number; meaningless while [`Stage::Opening`].
    pub(crate) remote: u32,
    /// What the peer has ended.
    pub(crate) theirs: End,
    /// What we have ended.
    pub(crate) ours: End,
    /// Nobody will read.
    pub(crate) unread: bool,
    /// Nobody will write.
    pub(crate) unwritten: bool,
    pub(crate) send: SendWindow,
    pub(crate) receive: ReceiveWindow,
    inbox: Inbox,
    /// Handed out, and consumed when the reader comes back.
    lent: usize,
    /// Whether the peer had sent EOF before its CLOSE.
    had_eof: bool,
}

impl Channel {
    /// A channel before it stands.
    pub(crate) fn new(stage: Stage, remote: u32, receive: ReceiveWindow, send: SendWindow) -> Self {
        Self {
            stage,
            asked: None,
            remote,
            theirs: End::None,
            ours: End::None,
            unread: false,
            unwritten: false,
            send,
            receive,
            inbox: Inbox::default(),
            lent: 0,
            had_eof: false,
        }
    }

    /// Takes data in.
    pub(crate) fn receive(&mut self, data: Bytes) -> Received {
        if self.theirs > End::None {
            return Received::AfterEnd;
        }
        if !self.receive.receive(data.len()) {
            return Received::PastWindow;
        }
        if self.unread || self.ours == End::Close {
            self.lent += data.len();
            return Received::Dropped;
        }
        if !data.is_empty() {
            self.inbox.push(data);
        }
        Received::Kept
    }

    /// Takes in data of a kind nobody reads (RFC 4254 §5.2, extended data).
    pub(crate) fn receive_unwanted(&mut self, len: usize) -> Received {
        if self.theirs > End::None {
            return Received::AfterEnd;
        }
        if !self.receive.receive(len) {
            return Received::PastWindow;
        }
        self.lent += len;
        Received::Dropped
    }

    /// The peer will send no more.
    pub(crate) fn receive_eof(&mut self) {
        if self.theirs == End::None {
            self.theirs = End::Eof;
            self.had_eof = true;
        }
    }

    /// The peer is done with the channel.
    pub(crate) fn receive_close(&mut self) {
        self.theirs = End::Close;
    }

    /// Takes what has come in; what was taken before counts as consumed now.
    pub(crate) fn take(&mut self, now: Instant, rtt: Option<Duration>) -> Taken {
        self.settle(now, rtt);
        match self.inbox.pop() {
            Some(data) => {
                self.lent += data.len();
                Taken::Data(data)
            }
            None if self.had_eof => Taken::Eof,
            None if self.theirs == End::Close => Taken::Reset,
            None => Taken::Nothing,
        }
    }

    /// Takes one more chunk of the same turn: nothing counts as consumed yet.
    pub(crate) fn take_more(&mut self) -> Option<Bytes> {
        let data = self.inbox.pop()?;
        self.lent += data.len();
        Some(data)
    }

    /// Gives back the end of what was taken last.
    pub(crate) fn give_back(&mut self, rest: Bytes) {
        self.lent -= rest.len().min(self.lent);
        self.inbox.unpop(rest);
    }

    /// Counts as consumed what was handed out or thrown away.
    pub(crate) fn settle(&mut self, now: Instant, rtt: Option<Duration>) {
        let lent = std::mem::take(&mut self.lent);
        if lent > 0 {
            self.receive.consume(now, lent, rtt);
        }
    }

    /// Nobody reads any more.
    pub(crate) fn abandon_reading(&mut self) {
        self.unread = true;
        self.lent += self.inbox.clear();
    }

    /// The credit to send, if any is due.
    pub(crate) fn credit(&mut self) -> Option<u32> {
        if self.stage == Stage::Open && self.theirs == End::None && self.ours < End::Close {
            self.receive.credit()
        } else {
            None
        }
    }

    /// Whether bytes may go out, window aside.
    pub(crate) fn writable(&self) -> bool {
        self.stage == Stage::Open && self.ours == End::None && self.theirs < End::Close
    }

    /// Whether nothing refers to it any more, on either side.
    pub(crate) fn is_over(&self) -> bool {
        self.unread && self.unwritten && self.ours == End::Close && self.theirs == End::Close
    }

    /// The bytes that wait for the reader.
    pub(crate) fn waiting(&self) -> usize {
        self.inbox.len()
    }
}
