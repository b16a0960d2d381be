//! Memory that a process takes of the host.

use std::fs;

use serde::Serialize;

/// Memory of a process at one moment, as its `smaps_rollup` has it (proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// Proportional set size in bytes: a page that `n` processes map counts as one `n`th.
    pub pss_bytes: u64,
    /// Unique set size in bytes: pages that no other process maps, which is what its end frees.
    pub uss_bytes: u64,
}

impl ProcessMemory {
    /// Of the process `pid`; `None` if it has ended, or may not be looked into by this user.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
    }

    fn parse(smaps: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = smaps
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
            kibibytes.checked_mul(1024)
        };
        Some(Self {
            pss_bytes: bytes("Pss")?,
            uss_bytes: bytes("Private_Clean")?
                .checked_add(bytes("Private_Dirty")?)?
                .checked_add(bytes("Private_Hugetlb")?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_is_read_from_its_own_lines() {
        let text = "55e0-7ffc ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:      123 kB\n\
                    Pss_Dirty:   7 kB\nPrivate_Clean:   10 kB\nPrivate_Dirty:   20 kB\n\
                    Shared_Hugetlb:   1 kB\nPrivate_Hugetlb:   4 kB\n";
        let memory = ProcessMemory {
            pss_bytes: 123 * 1024,
            uss_bytes: 34 * 1024,
        };
        assert_eq!(ProcessMemory::parse(text), Some(memory));
        assert_eq!(ProcessMemory::parse("Rss: 1 kB\nPss: 1 kB\n"), None);
    }

    #[test]
    fn a_living_process_has_memory_and_one_that_is_gone_has_none() {
        let memory = ProcessMemory::of(std::process::id()).unwrap();
        assert!(
            0 < memory.uss_bytes && memory.uss_bytes <= memory.pss_bytes,
            "{memory:?}"
        );
        assert_eq!(ProcessMemory::of(u32::MAX), None);
    }
}
