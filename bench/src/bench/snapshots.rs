//! The time and size of snapshots.

use ironclaw_console::output::milliseconds;
use ironclaw_orchestrator::vm::Created;
use serde::Serialize;

/// The times of making a snapshot, and the sizes on disk.
#[derive(Debug, Serialize)]
pub(super) struct Snapshots {
    pub(super) boot_ms: f64,
    pub(super) write_ms: f64,
    pub(super) publish_ms: f64,
    /// Blocks of the one that most measurements use.
    pub(super) disk_bytes: u64,
    /// Blocks of each snapshot of the pool; empty in a quick run.
    pub(super) pool_disk_bytes: Vec<u64>,
}

impl Snapshots {
    pub(super) fn of(created: Created) -> Self {
        Self {
            boot_ms: milliseconds(created.boot),
            write_ms: milliseconds(created.write),
            publish_ms: milliseconds(created.publish),
            disk_bytes: created.disk_bytes,
            pool_disk_bytes: Vec::new(),
        }
    }
}
