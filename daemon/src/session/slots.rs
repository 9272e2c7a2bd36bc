//! Counting slots with a limit that can change and two queues: who waits in the first is served before all in the second.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Which of the waiting dials gets the next free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// A tunnel whose session was cut: its clients are held meanwhile.
    Lost,
    /// Every other tunnel.
    #[default]
    Other,
}

/// A number of slots. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<Mutex<Inner>>);

/// One slot. Dropping it gives it to the next that waits.
#[derive(Debug)]
pub(super) struct Slot(Option<Slots>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    used: usize,
    lost: VecDeque<oneshot::Sender<Slot>>,
    others: VecDeque<oneshot::Sender<Slot>>,
}

impl Slots {
    /// Creates `limit` free slots, at least 1.
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            limit: limit.max(1),
            used: 0,
            lost: VecDeque::new(),
            others: VecDeque::new(),
        })))
    }

    /// Changes the number of slots, at least 1. If more are in use, they stay so until they are given back.
    pub(super) fn set_limit(&self, limit: usize) {
        self.0.lock().limit = limit.max(1);
        self.grant();
    }

    /// The number of slots, in use or not.
    pub(super) fn limit(&self) -> usize {
        self.0.lock().limit
    }

    /// The number of slots in use.
    pub(super) fn used(&self) -> usize {
        self.0.lock().used
    }

    /// Takes a free slot. `None` if none is free.
    pub(super) fn try_acquire(&self) -> Option<Slot> {
        let mut inner = self.0.lock();
        // A free slot is given to the first that waits at once, so a free one means that nothing waits.
        (inner.used < inner.limit).then(|| {
            inner.used += 1;
            Slot(Some(self.clone()))
        })
    }

    /// Waits for a slot.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped future holds no slot, but loses its place in the queue.
    pub(super) async fn acquire(&self, priority: Priority) -> Slot {
        let granted = {
            let mut inner = self.0.lock();
            let (sender, granted) = oneshot::channel();
            match priority {
                Priority::Lost => inner.lost.push_back(sender),
                Priority::Other => inner.others.push_back(sender),
            }
            granted
        };
        self.grant();
        // The sender is only dropped with these slots, which `self` keeps.
        granted.await.unwrap_or(Slot(None))
    }

    /// Gives free slots to those that wait.
    fn grant(&self) {
        loop {
            let waiting = {
                let mut inner = self.0.lock();
                if inner.used >= inner.limit {
                    return;
                }
                let Some(next) = inner.lost.pop_front().or_else(|| inner.others.pop_front()) else {
                    return;
                };
                inner.used += 1;
                next
            };
            // Outside the lock, because the receiver may be gone: the slot then comes back.
            if let Err(mut unclaimed) = waiting.send(Slot(Some(self.clone()))) {
                // Not by `drop`, which would call this function again for each that no longer waits.
                unclaimed.0 = None;
                self.0.lock().used -= 1;
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.0.lock().used -= 1;
            slots.grant();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_lost_session_is_served_before_all_that_waited_longer() {
        let slots = Slots::new(1);
        let first = slots.try_acquire().unwrap();
        assert!(slots.try_acquire().is_none());
        let mut other = Box::pin(slots.acquire(Priority::Other));
        let mut given_up = Box::pin(slots.acquire(Priority::Lost));
        let mut lost = Box::pin(slots.acquire(Priority::Lost));
        for waiting in [&mut other, &mut given_up, &mut lost] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(given_up);
        drop(first);
        assert!(other.as_mut().now_or_never().is_none());
        let second = lost.now_or_never().unwrap();
        assert_eq!(slots.used(), 1);
        drop(second);
        drop(other.now_or_never().unwrap());
        assert_eq!(slots.used(), 0);
    }

    #[tokio::test]
    async fn a_changed_limit_applies_to_those_that_wait() {
        let slots = Slots::new(1);
        let first = slots.try_acquire();
        let mut second = Box::pin(slots.acquire(Priority::Other));
        assert!(second.as_mut().now_or_never().is_none());
        slots.set_limit(2);
        let second = second.now_or_never();
        assert!(first.is_some() && second.is_some());
        slots.set_limit(1);
        drop(first);
        assert!(slots.try_acquire().is_none(), "two were in use");
        drop(second);
        assert!(slots.try_acquire().is_some());
    }
}
