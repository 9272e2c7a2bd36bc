//! Returns freed memory to the system.
//!
//! This is the one module with `unsafe` code. glibc keeps freed memory that lies below a block still in use, such as
//! the buffers of a burst below a connection that outlives it, until `malloc_trim(3)` is called, and neither that
//! call nor `mallinfo(3)` has a safe wrapper. The allocators of other systems return memory without a call.

use std::time::Duration;

/// Interval at which the daemon calls [`MemoryTrimmer::trim`].
pub const TRIM_INTERVAL: Duration = Duration::from_secs(5);
/// Freed bytes that malloc may keep before they are returned to the system with `malloc_trim`: 12 MiB.
const IDLE_LIMIT: usize = 12 << 20;

/// Decides when a trim is worth its cost.
#[derive(Debug, Default)]
pub struct MemoryTrimmer {
    /// Smallest number of idle resident bytes seen so far: program text, stacks and the allocator's own structures,
    /// which no trim can return. `None` before the first call.
    baseline: Option<usize>,
}

impl MemoryTrimmer {
    /// Returns free memory to the system if the process keeps more than 12 MiB above its baseline.
    pub fn trim(&mut self) {
        let Some(idle) = imp::idle_bytes() else {
            return;
        };
        let baseline = self.baseline.map_or(idle, |least| least.min(idle));
        if idle > baseline + IDLE_LIMIT {
            imp::release();
        }
        self.baseline = Some(baseline);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod imp {
    /// Returns the resident bytes that no allocation uses. `None` if `/proc` is not readable.
    #[expect(unsafe_code, reason = "mallinfo(3) has no safe wrapper")]
    pub(super) fn idle_bytes() -> Option<usize> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kilobytes: usize = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        let resident = kilobytes.checked_mul(1024)?;
        // SAFETY: mallinfo takes no argument and returns plain numbers.
        let heap = unsafe { libc::mallinfo() };
        // The numbers wrap at 4 GiB. Too few bytes then count as used, and a trim finds nothing to return.
        let in_use = heap
            .uordblks
            .cast_unsigned()
            .checked_add(heap.hblkhd.cast_unsigned())?;
        Some(resident.saturating_sub(usize::try_from(in_use).ok()?))
    }

    #[expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper")]
    pub(super) fn release() {
        // SAFETY: malloc_trim may be called at any time from any thread, and touches free memory only.
        let _any_returned = unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod imp {
    pub(super) fn idle_bytes() -> Option<usize> {
        None
    }

    pub(super) fn release() {}
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn memory_freed_below_a_block_in_use_is_returned_to_the_system() {
        let mut trimmer = MemoryTrimmer::default();
        trimmer.trim();
        let mut burst: Vec<Vec<u8>> = (0..8192).map(|n| vec![n as u8; 16 * 1024]).collect();
        let last = burst.pop();
        drop(burst);
        let before = imp::idle_bytes().unwrap();
        trimmer.trim();
        let after = imp::idle_bytes().unwrap();
        assert!(before > after + (64 << 20), "{before} {after}");
        drop(last);
    }
}
