//! Memory that a process takes of the host.

use procfs::process::Process;
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
        // It is in bytes: one that holds a mebibyte more has as much more.
        let more = vec![1_u8; 1 << 20];
        let with = ProcessMemory::of(std::process::id()).unwrap();
        assert!(with.uss_bytes >= 1 << 20, "{with:?} with {}", more.len());
        assert_eq!(ProcessMemory::of(u32::MAX), None);
    }
}
