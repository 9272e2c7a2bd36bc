//! What came in on a channel and nobody has taken yet.
//!
//! Bounded in bytes by the channel's window; the number of packets costs nothing, because small ones
//! are copied together. Copying also keeps a packet from holding the large read buffer it came in, which
//! holds other channels' bytes too: small ones always, all of them when the reader stands still.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A payload below this is always copied.
const SMALL: usize = 2 * 1024;
/// A payload below this is copied once the reader lags.
const MEDIUM: usize = 16 * 1024;
/// From here on the reader lags.
const LAG: usize = 32 * 1024;
/// From here on the reader stands still, and down to half of it.
const STILL: usize = 256 * 1024;
/// The largest block that small payloads are gathered in.
const BLOCK: usize = 16 * 1024;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
    /// The reader stands still: nothing here holds a read buffer.
    still: bool,
}

impl Inbox {
    /// The bytes in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to take.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds what came in.
    pub(crate) fn push(&mut self, data: Bytes) {
        self.len += data.len();
        if self.len > STILL && !std::mem::replace(&mut self.still, true) {
            for chunk in &mut self.chunks {
                *chunk = Bytes::copy_from_slice(chunk);
            }
        }
        if data.len() < SMALL || (self.len > LAG && data.len() < MEDIUM) {
            self.gather(&data);
            return;
        }
        self.seal();
        self.chunks.push_back(match self.still {
            true => Bytes::copy_from_slice(&data),
            false => data,
        });
    }

    fn gather(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self.tail.capacity() - self.tail.len();
            if room == 0 {
                let next = (self.tail.len() * 2).clamp(data.len().min(BLOCK), BLOCK);
                self.seal();
                self.tail = BytesMut::with_capacity(next);
                continue;
            }
            let (now, later) = data.split_at(room.min(data.len()));
            self.tail.extend_from_slice(now);
            data = later;
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            let unused = tail.capacity() - tail.len();
            self.chunks.push_back(match unused > tail.len() / 8 {
                true => Bytes::copy_from_slice(&tail),
                false => tail.freeze(),
            });
        }
    }

    /// Takes the oldest bytes, as they lie.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let chunk = match self.chunks.pop_front() {
            Some(chunk) => chunk,
            None if self.tail.is_empty() => return None,
            None => std::mem::take(&mut self.tail).freeze(),
        };
        self.len -= chunk.len();
        self.still &= self.len > STILL / 2;
        if self.len == 0 {
            self.chunks = VecDeque::new();
        }
        Some(chunk)
    }

    /// Puts back what was not used of the chunk taken last.
    pub(crate) fn unpop(&mut self, rest: Bytes) {
        if !rest.is_empty() {
            self.len += rest.len();
            self.chunks.push_front(rest);
        }
    }

    /// Throws everything away; how much it was.
    pub(crate) fn clear(&mut self) -> usize {
        let len = self.len;
        *self = Self::default();
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_million_single_bytes_cost_little_more_than_their_bytes() {
        let mut inbox = Inbox::default();
        for n in 0..1_000_000u32 {
            inbox.push(Bytes::copy_from_slice(&[n as u8]));
        }
        assert_eq!(inbox.len(), 1_000_000);
        assert!(inbox.chunks.len() < 100, "{} chunks", inbox.chunks.len());
    }

    #[test]
    fn a_small_packet_does_not_hold_the_buffer_it_came_in() {
        let mut inbox = Inbox::default();
        let buffer = Bytes::from(vec![7u8; 64 * 1024]);
        inbox.push(buffer.slice(0..100));
        assert!(buffer.is_unique());
    }

    #[test]
    fn a_reader_that_stands_still_holds_no_read_buffer() {
        let mut inbox = Inbox::default();
        let mut buffers = Vec::new();
        for _ in 0..STILL / MEDIUM + 1 {
            let buffer = Bytes::from(vec![7u8; 128 * 1024]);
            inbox.push(buffer.slice(0..MEDIUM));
            buffers.push(buffer);
        }
        assert!(buffers.iter().all(Bytes::is_unique));
        while inbox.len() > STILL / 2 {
            let _ = inbox.pop();
        }
        let buffer = Bytes::from(vec![7u8; 128 * 1024]);
        inbox.push(buffer.slice(0..MEDIUM));
        assert!(!buffer.is_unique(), "it reads again: nothing is copied");
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(sizes in proptest::collection::vec(0usize..40_000, 1..40), take in 0usize..3) {
            let mut inbox = Inbox::default();
            let mut model = VecDeque::new();
            let mut n = 0u8;
            for size in sizes {
                let data: Vec<u8> = (0..size).map(|_| { n = n.wrapping_add(1); n }).collect();
                model.extend(data.iter().copied());
                inbox.push(Bytes::from(data));
                prop_assert_eq!(inbox.len(), model.len());
                for _ in 0..take {
                    if let Some(chunk) = inbox.pop() {
                        prop_assert!(!chunk.is_empty());
                        let expect: Vec<u8> = model.drain(..chunk.len()).collect();
                        prop_assert_eq!(&chunk[..], &expect[..]);
                    }
                }
            }
            while let Some(chunk) = inbox.pop() {
                let expect: Vec<u8> = model.drain(..chunk.len()).collect();
                prop_assert_eq!(&chunk[..], &expect[..]);
            }
            prop_assert!(model.is_empty());
            prop_assert!(inbox.is_empty());
        }
    }
}
