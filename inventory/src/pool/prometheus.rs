//! Formats the pool on disk as Prometheus text, for a text file collector.

use ironclaw_orchestrator::metrics::{BUDGET, SIZE};
use metrics::{Unit, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::stats::Stats;

const FIT: &str = "ironclaw_pool_snapshots_fit";
const REFRESH: &str = "ironclaw_pool_refresh_seconds";
const MAX_VMS: &str = "ironclaw_pool_vms_limit";
const DISK_BUDGET: &str = "ironclaw_snapshot_disk_budget_bytes";
// Per snapshot, with the label `snapshot`.
const AGE: &str = "ironclaw_snapshot_age_seconds";
const DISK: &str = "ironclaw_snapshot_disk_bytes";
const IN_USE: &str = "ironclaw_snapshot_in_use";
const FITS: &str = "ironclaw_snapshot_fits";

fn describe() {
    describe_gauge!(SIZE, "Snapshots that the pool wants to have.");
    describe_gauge!(FIT, "Snapshots on disk that a pool would use now.");
    describe_gauge!(
        REFRESH,
        Unit::Seconds,
        "Age at which a snapshot is replaced."
    );
    describe_gauge!(
        MAX_VMS,
        "VMs that may live at a time, warm clones included."
    );
    describe_gauge!(BUDGET, Unit::Bytes, "Memory of the budget.");
    describe_gauge!(
        DISK_BUDGET,
        Unit::Bytes,
        "Blocks that a snapshot should take on disk at most."
    );
    describe_gauge!(AGE, Unit::Seconds, "Age of a snapshot.");
    describe_gauge!(DISK, Unit::Bytes, "Blocks of a snapshot on disk.");
    describe_gauge!(IN_USE, "Whether a VM, a pool or a build uses a snapshot.");
    describe_gauge!(FITS, "Whether a pool would use a snapshot now.");
}

/// Formats all figures of `stats`, each with a line of help.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, exact up to 2^53"
)]
pub(super) fn text(stats: &Stats) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        describe();
        gauge!(SIZE).set(stats.size as f64);
        gauge!(FIT).set(stats.fit as f64);
        gauge!(REFRESH).set(stats.refresh_seconds as f64);
        gauge!(MAX_VMS).set(stats.max_vms as f64);
        gauge!(BUDGET).set(stats.memory_budget_bytes as f64);
        gauge!(DISK_BUDGET).set(stats.disk_budget_bytes as f64);
        for row in &stats.snapshots {
            let label = [("snapshot", row.id.to_string())];
            if let Some(age) = row.age_seconds {
                gauge!(AGE, &label).set(age as f64);
            }
            gauge!(DISK, &label).set(row.disk_bytes as f64);
            gauge!(IN_USE, &label).set(f64::from(u8::from(row.in_use)));
            gauge!(FITS, &label).set(f64::from(u8::from(row.fits)));
        }
    });
    recorder.handle().render()
}
