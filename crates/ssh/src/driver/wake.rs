//! Wakers gathered under the lock and called after it.

use std::task::Waker;

/// Wakers to call.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    first: Option<Waker>,
    rest: Vec<Waker>,
}

impl Wakes {
    /// Adds one, if there is one.
    pub(crate) fn push(&mut self, waker: Option<Waker>) {
        match (waker, &mut self.first) {
            (None, _) => {}
            (Some(waker), first @ None) => *first = Some(waker),
            (Some(waker), _) => self.rest.push(waker),
        }
    }

    /// Adds all of these, and leaves none behind.
    pub(crate) fn extend(&mut self, wakers: &mut Vec<Waker>) {
        for waker in wakers.drain(..) {
            self.push(Some(waker));
        }
    }

    /// Calls them.
    pub(crate) fn wake(self) {
        for waker in self.first.into_iter().chain(self.rest) {
            waker.wake();
        }
    }
}

/// Remembers who is to be woken.
pub(crate) fn remember(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(known) if known.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}
