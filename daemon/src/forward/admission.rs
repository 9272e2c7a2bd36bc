//! Rooms with a bounded number of seats, where the newest comer takes the seat of the longest sitter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// A room.
#[derive(Debug, Clone)]
pub(super) struct AdmissionQueue {
    // A std mutex: nothing is awaited while it is held.
    seats: Arc<Mutex<Seats>>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: VecDeque<(u64, CancellationToken)>,
}

/// A seat, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    room: AdmissionQueue,
    number: u64,
    ousted: CancellationToken,
}

impl AdmissionQueue {
    /// A room with that many seats.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            seats: Arc::default(),
            capacity,
        }
    }

    /// Takes a seat; where all are taken, the one who sat longest goes.
    pub(super) fn enter(&self) -> Ticket {
        let ousted = CancellationToken::new();
        let mut seats = self.seats();
        if seats.taken.len() >= self.capacity
            && let Some((_, oldest)) = seats.taken.pop_front()
        {
            oldest.cancel();
        }
        let number = seats.next;
        seats.next += 1;
        seats.taken.push_back((number, ousted.clone()));
        drop(seats);
        Ticket {
            room: self.clone(),
            number,
            ousted,
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits until somebody newer took it.
    pub(super) async fn ousted(&self) {
        self.ousted.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut seats = self.room.seats();
        // Numbers grow from front to back.
        if let Ok(index) = seats
            .taken
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            seats.taken.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_the_room_is_full() {
        let room = AdmissionQueue::new(2);
        let first = room.enter();
        let second = room.enter();
        drop(second);
        let third = room.enter();
        assert!(!first.ousted.is_cancelled());
        let fourth = room.enter();
        assert!(first.ousted.is_cancelled());
        assert!(!third.ousted.is_cancelled() && !fourth.ousted.is_cancelled());
        drop((first, third, fourth));
        assert!(room.seats().taken.is_empty());
    }
}
