//! Wakers are collected while the session's lock is held and called after its release, so that a woken task does
//! not run into the lock.

use std::task::Waker;

/// Wakers to call after the lock is released. The first one needs no allocation: most updates wake one task.
#[derive(Debug, Default)]
pub(super) struct WakeList {
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl WakeList {
    /// Adds `waker`, if there is one.
    pub(super) fn push(&mut self, waker: Option<Waker>) {
        match (waker, &mut self.first) {
            (None, _) => {}
            (Some(waker), first @ None) => *first = Some(waker),
            (Some(waker), _) => self.others.push(waker),
        }
    }

    /// Moves all of `wakers` into the list.
    pub(super) fn append(&mut self, wakers: &mut Vec<Waker>) {
        for waker in wakers.drain(..) {
            self.push(Some(waker));
        }
    }

    pub(super) fn wake_all(self) {
        for waker in self.first.into_iter().chain(self.others) {
            waker.wake();
        }
    }
}

/// Stores `waker` in `slot`; clones it only if the slot does not already wake the same task.
pub(super) fn store_waker(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        // Cloning a waker counts references atomically; the same task polls most of the time.
        Some(stored) if stored.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}
