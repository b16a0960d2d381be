//! The memory that a process uses on the host.

use procfs::process::Process;
use serde::Serialize;

/// The memory of a process at one moment, from its `smaps_rollup` (proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProcessMemory {
    /// Proportional set size in bytes: a page that `n` processes map counts as one `n`th.
    pub pss_bytes: u64,
    /// Unique set size in bytes: pages that no other process maps, which its end would free.
    pub uss_bytes: u64,
}

impl ProcessMemory {
    /// Reads that of the process `pid`; `None` if it has ended, or this user may not read it.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let maps = process.smaps_rollup().ok()?.memory_map_rollup;
        let sizes = &maps.iter().next()?.extension.map;
        let sum =
            |names: &[&str]| -> Option<u64> { names.iter().map(|name| sizes.get(*name)).sum() };
        Some(Self {
            pss_bytes: sum(&["Pss"])?,
            uss_bytes: sum(&["Private_Clean", "Private_Dirty", "Private_Hugetlb"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_has_memory_and_one_that_is_gone_has_none() {
        let memory = ProcessMemory::of(std::process::id()).unwrap();
        assert!(
            0 < memory.uss_bytes && memory.uss_bytes <= memory.pss_bytes,
            "{memory:?}"
        );
        // Checks the unit: a mebibyte more shows as that many bytes more.
        let more = vec![1_u8; 1 << 20];
        let with = ProcessMemory::of(std::process::id()).unwrap();
        assert!(with.uss_bytes >= 1 << 20, "{with:?} with {}", more.len());
        assert_eq!(ProcessMemory::of(u32::MAX), None);
    }
}
