//! Memory that nobody uses any more, given back to the system.
//!
//! The one module with `unsafe` code: glibc keeps what was freed below something that is still in use, such as a
//! burst's buffers below a connection that outlives it, until it is told to let go, and there is no safe way to
//! tell it. Other systems' allocators let go by themselves.

use std::time::Duration;

/// How often is looked.
pub const LOOK: Duration = Duration::from_secs(5);
/// So much may lie idle.
const SLACK: usize = 12 << 20;

/// What the process keeps beside what is in use.
#[derive(Debug, Default)]
pub struct MemoryTrimmer {
    /// The least that was kept: the program, its stacks, and the allocator's own.
    least: Option<usize>,
}

impl MemoryTrimmer {
    /// Gives back what is free, where that is much.
    pub fn trim(&mut self) {
        let Some(idle) = imp::idle() else { return };
        let least = self.least.map_or(idle, |least| least.min(idle));
        if idle > least + SLACK {
            imp::release();
        }
        self.least = Some(least);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod imp {
    /// What is resident and not in use, in bytes.
    #[expect(unsafe_code, reason = "mallinfo(3) has no safe form")]
    pub(super) fn idle() -> Option<usize> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kilobytes: usize = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        let resident = kilobytes.checked_mul(1024)?;
        // SAFETY: it takes no argument and returns plain numbers.
        let heap = unsafe { libc::mallinfo() };
        // The numbers wrap at 4 GiB; then too little counts as in use, and a trim finds nothing.
        let in_use = heap
            .uordblks
            .cast_unsigned()
            .checked_add(heap.hblkhd.cast_unsigned())?;
        Some(resident.saturating_sub(usize::try_from(in_use).ok()?))
    }

    #[expect(unsafe_code, reason = "malloc_trim(3) has no safe form")]
    pub(super) fn release() {
        // SAFETY: it may be called at any time from any thread, and touches free memory alone.
        let _whether_any = unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod imp {
    pub(super) fn idle() -> Option<usize> {
        None
    }

    pub(super) fn release() {}
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_below_something_in_use_is_given_back() {
        let mut heap = MemoryTrimmer::default();
        heap.trim();
        let mut burst: Vec<Vec<u8>> = (0..8192).map(|n| vec![n as u8; 16 * 1024]).collect();
        let last = burst.pop();
        drop(burst);
        let before = imp::idle().unwrap();
        heap.trim();
        let after = imp::idle().unwrap();
        assert!(before > after + (64 << 20), "{before} {after}");
        drop(last);
    }
}
