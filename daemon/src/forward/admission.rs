//! Rooms with a bounded number of tickets, where the newest comer takes the ticket of the longest sitter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// A queue.
#[derive(Debug, Clone)]
pub(super) struct AdmissionQueue {
    // A std mutex: nothing is awaited while it is held.
    tickets: Arc<Mutex<Tickets>>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Tickets {
    next: u64,
    taken: VecDeque<(u64, CancellationToken)>,
}

/// A ticket, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    queue: AdmissionQueue,
    number: u64,
    evicted: CancellationToken,
}

impl AdmissionQueue {
    /// A queue with that many tickets.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            tickets: Arc::default(),
            capacity,
        }
    }

    /// Takes a ticket; where all are taken, the one who sat longest goes.
    pub(super) fn enter(&self) -> Ticket {
        let evicted = CancellationToken::new();
        let mut tickets = self.tickets();
        if tickets.taken.len() >= self.capacity
            && let Some((_, oldest)) = tickets.taken.pop_front()
        {
            oldest.cancel();
        }
        let number = tickets.next;
        tickets.next += 1;
        tickets.taken.push_back((number, evicted.clone()));
        drop(tickets);
        Ticket {
            queue: self.clone(),
            number,
            evicted,
        }
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits until somebody newer took it.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut tickets = self.queue.tickets();
        // Numbers grow from front to back.
        if let Ok(index) = tickets
            .taken
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            tickets.taken.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_the_room_is_full() {
        let queue = AdmissionQueue::new(2);
        let first = queue.enter();
        let second = queue.enter();
        drop(second);
        let third = queue.enter();
        assert!(!first.evicted.is_cancelled());
        let fourth = queue.enter();
        assert!(first.evicted.is_cancelled());
        assert!(!third.evicted.is_cancelled() && !fourth.evicted.is_cancelled());
        drop((first, third, fourth));
        assert!(queue.tickets().taken.is_empty());
    }
}
