//! The command `ironclaw pool stats`: the state of a pool, as far as a process without it can tell.

use anyhow::Result;
use ironclaw_console::causes;
use ironclaw_console::output::{self, mebibytes};
use ironclaw_doctor::requirements;
use ironclaw_orchestrator::vm::snapshot::{
    Entry, Kind, KindName, Owners, Requirements, SnapshotId,
};
use ironclaw_orchestrator::vm::{Config, PoolOptions, SNAPSHOT_BUDGET};
use serde::Serialize;

use crate::snapshot;

#[derive(Debug, Serialize)]
pub(super) struct Stats {
    /// Snapshots that a pool would keep.
    pub(super) size: usize,
    /// Snapshots that a pool would use now.
    pub(super) fit: usize,
    /// Their total size on disk.
    pub(super) disk_bytes: u64,
    /// The intended maximum of each one's size.
    pub(super) disk_budget_bytes: u64,
    /// The age at which a snapshot is replaced.
    pub(super) refresh_seconds: u64,
    /// Limit of VMs at a time: from a setting, or by memory.
    pub(super) max_vms: usize,
    /// The memory budget of all VMs.
    pub(super) memory_budget_bytes: u64,
    pub(super) snapshots: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) id: SnapshotId,
    kind: KindName,
    /// The snapshot that its VM was restored from.
    parent: Option<SnapshotId>,
    /// `None` without a manifest, and for a time in the future.
    pub(super) age_seconds: Option<u64>,
    pub(super) disk_bytes: u64,
    pub(super) in_use: bool,
    /// The processes that use it, as far as they are visible.
    owners: Owners,
    pub(super) fits: bool,
    /// The reason why it does not fit.
    error: Option<String>,
    #[serde(skip)]
    age: String,
}

impl Stats {
    pub(super) async fn gather(config: &Config) -> Result<Self> {
        let entries = snapshot::owned(config).await?;
        let required = match requirements(config).await {
            Ok(Some(required)) => Ok(required),
            Ok(None) => Err("there is no usable template".to_owned()),
            // Snapshots on disk can be listed without a hypervisor, too.
            Err(error) => Err(causes(error.as_ref())),
        };
        let snapshots: Vec<_> = entries
            .into_iter()
            .map(|(entry, owners)| row(entry, owners, &required))
            .collect();
        let budget = PoolOptions::from(config).budget;
        Ok(Self {
            size: config.pool_size,
            fit: snapshots.iter().filter(|row| row.fits).count(),
            disk_bytes: snapshots.iter().map(|row| row.disk_bytes).sum(),
            disk_budget_bytes: SNAPSHOT_BUDGET,
            refresh_seconds: config.snapshot_refresh.as_secs(),
            max_vms: budget.holds(config.machine.memory_mib),
            memory_budget_bytes: budget.limit().memory_mib.saturating_mul(1 << 20),
            snapshots,
        })
    }

    pub(super) fn print(self) -> Result<()> {
        output::line(&format!(
            "{} of {} snapshots ready, {} on disk",
            self.fit.min(self.size),
            self.size,
            mebibytes(self.disk_bytes)
        ))?;
        output::line(&format!(
            "room for {} VMs at a time, in {} of memory",
            self.max_vms,
            mebibytes(self.memory_budget_bytes)
        ))?;
        if self.snapshots.is_empty() {
            return output::line("`ironclaw pool warmup` makes the snapshots");
        }
        let rows = self.snapshots.into_iter().map(|row| {
            let in_use = snapshot::used_by(row.in_use, &row.owners);
            let fits = row
                .error
                .map_or_else(|| "yes".to_owned(), |error| format!("no: {error}"));
            [
                row.id.to_string(),
                row.kind.to_string(),
                row.age,
                mebibytes(row.disk_bytes),
                percent(row.disk_bytes, self.disk_budget_bytes),
                in_use,
                fits,
            ]
        });
        let header = [
            "SNAPSHOT",
            "KIND",
            "AGE",
            "ON DISK",
            "OF BUDGET",
            "IN USE",
            "FITS",
        ];
        output::table(header, rows.collect())
    }
}

fn row(entry: Entry, owners: Owners, required: &Result<Requirements, String>) -> Row {
    let error = match (&entry.state, required) {
        (Err(defect), _) => Some(defect.to_string()),
        (Ok(manifest), _) if manifest.kind != Kind::Base => {
            Some("it is a checkpoint, which no pool uses".to_owned())
        }
        (Ok(_), Err(why)) => Some(why.clone()),
        (Ok(manifest), Ok(required)) => required
            .check(manifest)
            .err()
            .map(|mismatch| mismatch.to_string()),
    };
    let parent = snapshot::parent(&entry);
    let created = entry.state.ok().map(|manifest| manifest.created);
    Row {
        id: entry.id,
        kind: entry.kind,
        parent,
        age_seconds: created.and_then(output::seconds_since),
        disk_bytes: entry.disk_bytes,
        in_use: entry.in_use,
        owners,
        fits: error.is_none(),
        error,
        age: created.map(output::age).unwrap_or_default(),
    }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{}%", part.saturating_mul(100).div_ceil(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_just_over_its_budget_shows_as_more_than_all_of_it() {
        assert_eq!(percent(0, SNAPSHOT_BUDGET), "0%");
        assert_eq!(percent(SNAPSHOT_BUDGET, SNAPSHOT_BUDGET), "100%");
        assert_eq!(percent(SNAPSHOT_BUDGET + 1, SNAPSHOT_BUDGET), "101%");
    }
}
