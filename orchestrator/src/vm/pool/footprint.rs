//! Resources that a pool uses on the host.

use serde::Serialize;

use super::memory::ProcessMemory;
use crate::vm::snapshot::{Snapshot, SnapshotError};

/// The intended maximum of a snapshot's size, in memory and on disk, in bytes.
pub const SNAPSHOT_BUDGET: u64 = 100 << 20;

/// Memory and disk in use at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Footprint {
    /// Memory of each warm clone: its proportional set size, which includes shared pages in part
    /// (proc_pid_smaps(5)).
    pub warm_pss_bytes: Vec<u64>,
    /// Memory of each standby process, in the same way.
    pub standby_pss_bytes: Vec<u64>,
    /// Size on disk of each snapshot, without holes.
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

/// Returns the sizes of those that still live.
fn pss(pids: &[u32]) -> Vec<u64> {
    let memory = pids.iter().filter_map(|pid| ProcessMemory::of(*pid));
    memory.map(|memory| memory.pss_bytes).collect()
}
