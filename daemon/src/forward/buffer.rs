//! Buffers for bytes on their way to the SSH side. A connection has one only while it has something to send,
//! so that an idle one costs no memory.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A TCP read this long keeps the number of system calls and SSH packets small.
const BUFFER_LEN: usize = 64 * 1024;
/// How many are kept for the next; 2 MiB in all.
const MAX_POOLED: usize = 32;

// A std mutex: nothing is awaited while it is held.
static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

fn pool() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer; back in the pool when it is dropped.
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    /// One whose content is of no meaning.
    pub(super) fn take() -> Self {
        let kept = pool().pop();
        Self(kept.unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let mut pool = pool();
        if pool.len() < MAX_POOLED {
            pool.push(bytes);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
