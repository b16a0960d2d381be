//! The page faults of a process.

use std::ops::Sub;

use anyhow::{Context as _, Result};
use procfs::process::Process;

/// The page faults of all threads of a process, since its start or between two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Served from memory.
    pub(super) minor: u64,
    /// Served from the disk.
    pub(super) major: u64,
}

impl Faults {
    /// Reads those until now, including the kernel's on behalf of its guest.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let stat = i32::try_from(pid)
            .context("no process id")
            .and_then(|pid| Ok(Process::new(pid)?.stat()?))
            .with_context(|| format!("can't read /proc/{pid}/stat"))?;
        Ok(Self {
            minor: stat.minflt,
            major: stat.majflt,
        })
    }
}

impl Sub for Faults {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            minor: self.minor.saturating_sub(before.minor),
            major: self.major.saturating_sub(before.major),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_first_costs_a_fault() {
        let before = Faults::of(std::process::id()).unwrap();
        // More than an allocator has at hand.
        let touched = std::hint::black_box(vec![1_u8; 8 << 20]);
        let during = Faults::of(std::process::id()).unwrap() - before;
        assert!(during.minor > 0, "{during:?} for {} bytes", touched.len());
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let error = Faults::of(i32::MAX.unsigned_abs()).unwrap_err().to_string();
        assert!(error.contains("/proc/2147483647/stat"), "{error}");
    }
}
