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
    /// Blocks on disk of each snapshot, holes not counted.
    pub snapshot_disk_bytes: Vec<u64>,
}

impl Footprint {
    pub(super) fn of(warm: &[u32], snapshots: &[Snapshot]) -> Result<Self, SnapshotError> {
        Ok(Self {
            // One that ended since takes nothing.
            warm_pss_bytes: warm
                .iter()
                .filter_map(|pid| Some(ProcessMemory::of(*pid)?.pss_bytes))
                .collect(),
            snapshot_disk_bytes: snapshots
                .iter()
                .map(Snapshot::disk_bytes)
                .collect::<Result<_, _>>()?,
        })
    }
}
