//! A bounded set of waiting connections in which a new one evicts the oldest. Refusing the new one instead would let
//! clients that connect and do nothing block all others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Admits a limited number of connections at a time. Clones share the same limit.
#[derive(Debug, Clone)]
pub(super) struct AdmissionQueue {
    // A std mutex: no await happens while it is locked.
    tickets: Arc<Mutex<Tickets>>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Tickets {
    next_number: u64,
    /// The admitted tickets, oldest first.
    admitted: VecDeque<(u64, CancellationToken)>,
}

/// The right to wait, given back on drop.
#[derive(Debug)]
pub(super) struct Ticket {
    queue: AdmissionQueue,
    number: u64,
    evicted: CancellationToken,
}

impl AdmissionQueue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            tickets: Arc::default(),
            capacity,
        }
    }

    pub(super) fn enter(&self) -> Ticket {
        let evicted = CancellationToken::new();
        let mut tickets = self.tickets();
        if tickets.admitted.len() >= self.capacity
            && let Some((_, oldest)) = tickets.admitted.pop_front()
        {
            oldest.cancel();
        }
        let number = tickets.next_number;
        tickets.next_number += 1;
        tickets.admitted.push_back((number, evicted.clone()));
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
    /// Returns what is cancelled when a newer connection evicts this one. Never after the ticket was dropped.
    pub(super) fn eviction(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// Waits until a newer connection has evicted this one. Cancel-safe.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut tickets = self.queue.tickets();
        // Numbers increase from front to back. An evicted ticket is no longer in the queue.
        if let Ok(index) = tickets
            .admitted
            .binary_search_by_key(&self.number, |(number, _)| *number)
        {
            tickets.admitted.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_evicted_when_the_queue_is_full() {
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
        assert!(queue.tickets().admitted.is_empty());
    }
}
