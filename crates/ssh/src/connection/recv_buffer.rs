//! Received bytes of one channel that its reader has not taken yet.
//!
//! The channel's window bounds the bytes. Small packets are copied together, so that their number costs nothing.
//! A payload that is not copied is a slice of the session's read buffer and keeps all of that buffer alive, other
//! channels' bytes included: small payloads are therefore always copied, and all of them once the reader has stalled.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Payloads below this many bytes are always copied.
const ALWAYS_COPY_BELOW: usize = 2 * 1024;
/// Payloads below this many bytes are copied once the reader lags.
const COPY_IF_LAGGING_BELOW: usize = 16 * 1024;
/// Unread bytes from which the reader counts as lagging.
const LAGGING_AT: usize = 32 * 1024;
/// Unread bytes from which the reader counts as stalled, until half of them are read: then everything is copied.
const STALLED_AT: usize = 256 * 1024;
/// Size limit of the blocks that small payloads are copied into, in bytes.
const MAX_COPY_BLOCK: usize = 16 * 1024;

/// A queue of byte chunks.
#[derive(Debug, Default)]
pub(super) struct RecvBuffer {
    chunks: VecDeque<Bytes>,
    /// The block that small payloads are being copied into.
    tail: BytesMut,
    /// Bytes in `chunks` and `tail`.
    len: usize,
    /// Whether the reader has stalled: no chunk here shares a read buffer.
    stalled: bool,
}

impl RecvBuffer {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, data: Bytes) {
        self.len += data.len();
        // Once per stall: copying is paid for by the reader that causes it, not by every transfer.
        if self.len > STALLED_AT && !std::mem::replace(&mut self.stalled, true) {
            // Releases the read buffers that the chunks share.
            for chunk in &mut self.chunks {
                *chunk = Bytes::copy_from_slice(chunk);
            }
        }
        // Keeping a slice would hold a read block of up to 128 KiB for a few bytes.
        if data.len() < ALWAYS_COPY_BELOW
            || (self.len > LAGGING_AT && data.len() < COPY_IF_LAGGING_BELOW)
        {
            self.copy_into_tail(&data);
            return;
        }
        self.finish_tail();
        self.chunks.push_back(match self.stalled {
            true => Bytes::copy_from_slice(&data),
            false => data,
        });
    }

    fn copy_into_tail(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self.tail.capacity() - self.tail.len();
            if room == 0 {
                let next =
                    // Doubles, so that a channel with one small message does not hold a large block.
                    (self.tail.len() * 2).clamp(data.len().min(MAX_COPY_BLOCK), MAX_COPY_BLOCK);
                self.finish_tail();
                self.tail = BytesMut::with_capacity(next);
                continue;
            }
            let (now, later) = data.split_at(room.min(data.len()));
            self.tail.extend_from_slice(now);
            data = later;
        }
    }

    /// Moves the tail behind the chunks.
    fn finish_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            let unused = tail.capacity() - tail.len();
            // A block with much unused room would cost more memory than its bytes: the window bounds only the bytes.
            self.chunks.push_back(match unused > tail.len() / 8 {
                true => Bytes::copy_from_slice(&tail),
                false => tail.freeze(),
            });
        }
    }

    /// Takes the oldest chunk. `None` if there are no bytes.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        // The tail comes last: it holds the newest bytes.
        let chunk = match self.chunks.pop_front() {
            Some(chunk) => chunk,
            None if self.tail.is_empty() => return None,
            None => std::mem::take(&mut self.tail).freeze(),
        };
        self.len -= chunk.len();
        // Hysteresis: a reader at the limit would otherwise switch with each packet.
        self.stalled &= self.len > STALLED_AT / 2;
        if self.len == 0 {
            // Frees the queue: most channels are idle most of the time.
            self.chunks = VecDeque::new();
        }
        Some(chunk)
    }

    /// Discards all bytes and returns their number.
    pub(super) fn clear(&mut self) -> usize {
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
        let mut unread = RecvBuffer::default();
        for n in 0..1_000_000u32 {
            unread.push(Bytes::copy_from_slice(&[n as u8]));
        }
        assert_eq!(unread.len(), 1_000_000);
        assert!(unread.chunks.len() < 100, "{} chunks", unread.chunks.len());
    }

    #[test]
    fn a_small_packet_does_not_hold_the_buffer_it_came_in() {
        let mut unread = RecvBuffer::default();
        let buffer = Bytes::from(vec![7u8; 64 * 1024]);
        unread.push(buffer.slice(0..100));
        assert!(buffer.is_unique());
    }

    #[test]
    fn a_stalled_reader_holds_no_read_buffer() {
        let mut unread = RecvBuffer::default();
        let mut buffers = Vec::new();
        for _ in 0..STALLED_AT / COPY_IF_LAGGING_BELOW + 1 {
            let buffer = Bytes::from(vec![7u8; 128 * 1024]);
            unread.push(buffer.slice(0..COPY_IF_LAGGING_BELOW));
            buffers.push(buffer);
        }
        assert!(buffers.iter().all(Bytes::is_unique));
        while unread.len() > STALLED_AT / 2 {
            let _ = unread.pop();
        }
        let buffer = Bytes::from(vec![7u8; 128 * 1024]);
        unread.push(buffer.slice(0..COPY_IF_LAGGING_BELOW));
        assert!(
            !buffer.is_unique(),
            "a reader that reads again gets its payloads without a copy"
        );
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(sizes in proptest::collection::vec(0usize..40_000, 1..40), take in 0usize..3) {
            let mut unread = RecvBuffer::default();
            let mut model = VecDeque::new();
            let mut n = 0u8;
            for size in sizes {
                let data: Vec<u8> = (0..size).map(|_| { n = n.wrapping_add(1); n }).collect();
                model.extend(data.iter().copied());
                unread.push(Bytes::from(data));
                prop_assert_eq!(unread.len(), model.len());
                for _ in 0..take {
                    if let Some(chunk) = unread.pop() {
                        prop_assert!(!chunk.is_empty());
                        let expect: Vec<u8> = model.drain(..chunk.len()).collect();
                        prop_assert_eq!(&chunk[..], &expect[..]);
                    }
                }
            }
            while let Some(chunk) = unread.pop() {
                let expect: Vec<u8> = model.drain(..chunk.len()).collect();
                prop_assert_eq!(&chunk[..], &expect[..]);
            }
            prop_assert!(model.is_empty());
            prop_assert!(unread.is_empty());
        }
    }
}
