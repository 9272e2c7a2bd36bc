//! Read buffers for the direction from the local socket to the SSH channel. A connection has one only while it has
//! something to send, so that an idle connection costs no memory.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Length of a buffer in bytes. A read of this size keeps the number of system calls and SSH packets small.
const BUFFER_LEN: usize = 64 * 1024;
/// Unused buffers that the pool keeps: 2 MiB in total.
const MAX_POOLED: usize = 32;

// One pool for the whole process, so that the bound holds whatever the number of tunnels: a pool in each tunnel's
// `ForwardContext` would keep up to 2 MiB per tunnel. A buffer carries no state from one use to the next, so tests do not
// influence each other through it. A std mutex: no await happens while it is locked.
static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

fn pool() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer of [`BUFFER_LEN`] bytes, returned to the pool on drop.
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    /// Takes a buffer from the pool, or allocates one. Its content is unspecified: it may hold bytes of another connection,
    /// so only the part that a read has filled may be used.
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
