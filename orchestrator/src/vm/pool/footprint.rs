//! What a pool takes of the host.

use serde::Serialize;

use super::memory::ProcessMemory;
use crate::vm::snapshot::{Snapshot, SnapshotError};

/// The most that a snapshot should take, in memory of the host as on disk, in bytes.
pub const SNAPSHOT_BUDGET: u64 = 100 << 20;

/// Memory and disk at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Memory of each warm clone: its proportional set size, in which pages that it shares count
    /// in parts (proc_pid_smaps(5)).
    pub warm_pss_bytes: Vec<u64>,
    /// Memory of each process that stands by, in the same way.
    pub standby_pss_bytes: Vec<u64>,
    /// Blocks on disk of each snapshot, holes not counted.
    pub snapshot_disk_bytes: Vec<u64>,
}

impl Footprint {
    pub(super) fn of(
        warm: &[u32],
        standby: &[u32],
        snapshots: &[Snapshot],
    ) -> Result<Self, SnapshotError> {
        Ok(Self {
            warm_pss_bytes: pss(warm),
            standby_pss_bytes: pss(standby),
            snapshot_disk_bytes: snapshots
                .iter()
                .map(Snapshot::disk_bytes)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Of a process that ended since, nothing.
fn pss(pids: &[u32]) -> Vec<u64> {
    let memory = pids.iter().filter_map(|pid| ProcessMemory::of(*pid));
    memory.map(|memory| memory.pss_bytes).collect()
}
