//! What a pool takes of the host.

use std::fs;

use serde::Serialize;

use crate::vm::snapshot::{Snapshot, SnapshotError};

/// The most that a snapshot should take, in memory of the host as on disk, in bytes.
pub const SNAPSHOT_BUDGET: u64 = 100 << 20;

/// Memory and disk at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Memory of each warm clone: its proportional set size, in which pages that it shares count
    /// in parts (proc_pid_smaps(5)).
    pub warm_pss_bytes: Vec<u64>,
    /// Blocks on disk of each snapshot, holes not counted.
    pub snapshot_disk_bytes: Vec<u64>,
}

impl Footprint {
    pub(super) fn of(warm: &[u32], snapshots: &[Snapshot]) -> Result<Self, SnapshotError> {
        Ok(Self {
            // One that ended since takes nothing.
            warm_pss_bytes: warm.iter().copied().filter_map(pss).collect(),
            snapshot_disk_bytes: snapshots
                .iter()
                .map(Snapshot::disk_bytes)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Proportional set size of a process in bytes, if it lives.
fn pss(pid: u32) -> Option<u64> {
    parse_pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_pss(smaps: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pss_is_read_from_its_own_line() {
        let text = "55e0-7ffc ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:      123 kB\n\
                    Pss_Dirty:   7 kB\n";
        assert_eq!(parse_pss(text), Some(123 * 1024));
        assert_eq!(parse_pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn a_living_process_has_memory_and_one_that_is_gone_has_none() {
        assert!(pss(std::process::id()).unwrap() > 0);
        assert_eq!(pss(u32::MAX), None);
    }
}
