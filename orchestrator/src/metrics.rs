//! A pool's figures as metrics, through the `metrics` facade: whoever embeds the library installs
//! the recorder of their choice, and without one all of this costs next to nothing.
//!
//! [`prometheus_text`] needs no recorder.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    with_local_recorder,
};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::vm::{Footprint, Origin, PoolStats, SpawnStage};

/// Gauge: snapshots by `state`: `ready`, `building`, `retired`.
pub const SNAPSHOTS: &str = "ironclaw_pool_snapshots";
/// Gauge: snapshots that the pool wants to have.
pub const SIZE: &str = "ironclaw_pool_size";
/// Gauge: VMs by `state`: `warm`, `restoring`, `leased`.
pub const VMS: &str = "ironclaw_pool_vms";
/// Gauge: spawns that wait for room.
pub const WAITING: &str = "ironclaw_pool_waiting";
/// Counter: spawns that were served, by `tier`: `warm`, `restored`, `cold_boot`.
pub const SPAWNS: &str = "ironclaw_pool_spawns_total";
/// Counter: attempts of a tier to serve that failed, by `reason`.
pub const FALLBACKS: &str = "ironclaw_pool_fallbacks_total";
/// Counter: builds, restores, warm clones and attempts to serve that failed.
pub const FAILURES: &str = "ironclaw_pool_failures_total";
/// Gauge: age of the oldest snapshot that is ready.
pub const OLDEST_SNAPSHOT: &str = "ironclaw_pool_oldest_snapshot_seconds";
/// Gauge: time of spawns by `stage` and `quantile`, over the pool's life.
pub const STAGE_SECONDS: &str = "ironclaw_pool_spawn_stage_seconds";
/// Histogram: time of each spawn by `stage` and `tier`, for recorders.
pub const SPAWN_SECONDS: &str = "ironclaw_pool_spawn_seconds";
/// Gauge: memory of the budget that VMs take.
pub const BUDGET_USED: &str = "ironclaw_pool_budget_used_bytes";
/// Gauge: memory of the budget.
pub const BUDGET: &str = "ironclaw_pool_budget_bytes";
/// Gauge: proportional set size of all warm clones.
pub const WARM_MEMORY: &str = "ironclaw_pool_warm_memory_bytes";
/// Gauge: blocks of all snapshots on disk.
pub const SNAPSHOT_DISK: &str = "ironclaw_pool_snapshot_disk_bytes";

/// Says what the metrics are, to the recorder that is installed. To be called once, after it was.
pub fn describe() {
    describe_gauge!(SNAPSHOTS, "Snapshots of the pool by state.");
    describe_gauge!(SIZE, "Snapshots that the pool wants to have.");
    describe_gauge!(VMS, "VMs of the pool by state.");
    describe_gauge!(WAITING, "Spawns that wait for room.");
    describe_counter!(SPAWNS, "Spawns that were served, by tier.");
    describe_counter!(
        FALLBACKS,
        "Attempts of a tier to serve that failed, by reason."
    );
    describe_counter!(
        FAILURES,
        "Builds, restores, warm clones and attempts to serve that failed."
    );
    describe_gauge!(
        OLDEST_SNAPSHOT,
        Unit::Seconds,
        "Age of the oldest snapshot that is ready."
    );
    describe_gauge!(
        STAGE_SECONDS,
        Unit::Seconds,
        "Time of spawns by stage and quantile, over the life of the pool."
    );
    describe_histogram!(
        SPAWN_SECONDS,
        Unit::Seconds,
        "Time of spawns by stage and tier."
    );
    describe_gauge!(
        BUDGET_USED,
        Unit::Bytes,
        "Memory of the budget that VMs take."
    );
    describe_gauge!(BUDGET, Unit::Bytes, "Memory of the budget.");
    describe_gauge!(
        WARM_MEMORY,
        Unit::Bytes,
        "Proportional set size of all warm clones."
    );
    describe_gauge!(
        SNAPSHOT_DISK,
        Unit::Bytes,
        "Blocks of all snapshots on disk."
    );
}

pub(crate) fn spawn_stage(stage: SpawnStage, tier: Origin, took: Duration) {
    histogram!(SPAWN_SECONDS, "stage" => stage.name(), "tier" => label(tier)).record(took);
}

fn label(tier: Origin) -> &'static str {
    match tier {
        Origin::Warm => "warm",
        Origin::Restored => "restored",
        Origin::ColdBooted => "cold_boot",
    }
}

/// Tells the recorder how the pool is.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, exact up to 2^53"
)]
pub(crate) fn pool(stats: &PoolStats) {
    let states = [
        ("ready", stats.snapshots),
        ("building", stats.building),
        ("retired", stats.retired),
    ];
    for (state, count) in states {
        gauge!(SNAPSHOTS, "state" => state).set(count as f64);
    }
    gauge!(SIZE).set(stats.size as f64);
    let states = [
        ("warm", stats.warm),
        ("restoring", stats.restoring),
        ("leased", stats.leased),
    ];
    for (state, count) in states {
        gauge!(VMS, "state" => state).set(count as f64);
    }
    gauge!(WAITING).set(stats.waiting as f64);
    let tiers = [
        (Origin::Warm, stats.served_warm),
        (Origin::Restored, stats.served_restored),
        (Origin::ColdBooted, stats.served_cold),
    ];
    for (tier, count) in tiers {
        counter!(SPAWNS, "tier" => label(tier)).absolute(count);
    }
    for (reason, count) in &stats.fallbacks {
        counter!(FALLBACKS, "reason" => *reason).absolute(*count);
    }
    counter!(FAILURES).absolute(stats.failures);
    let oldest = stats.snapshot_ages_seconds.iter().max();
    gauge!(OLDEST_SNAPSHOT).set(oldest.copied().unwrap_or(0) as f64);
    for (stage, times) in &stats.stages {
        let quantiles = [
            ("0.5", times.p50_us),
            ("0.9", times.p90_us),
            ("0.99", times.p99_us),
            ("1", times.max_us),
        ];
        for (quantile, micros) in quantiles {
            let labels = [("stage", stage.name()), ("quantile", quantile)];
            gauge!(STAGE_SECONDS, &labels).set(micros as f64 / 1e6);
        }
    }
    let bytes = |mebibytes: u64| mebibytes as f64 * f64::from(1 << 20);
    gauge!(BUDGET_USED).set(bytes(stats.used.memory_mib));
    gauge!(BUDGET).set(bytes(stats.limit.memory_mib));
}

/// Tells the recorder what the pool takes of the host.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, exact up to 2^53"
)]
pub(crate) fn footprint(footprint: &Footprint) {
    let Footprint {
        warm_pss_bytes,
        snapshot_disk_bytes,
    } = footprint;
    gauge!(WARM_MEMORY).set(warm_pss_bytes.iter().sum::<u64>() as f64);
    gauge!(SNAPSHOT_DISK).set(snapshot_disk_bytes.iter().sum::<u64>() as f64);
}

/// A pool in the text format of Prometheus, each metric with a line of help.
#[must_use]
pub fn prometheus_text(stats: &PoolStats, taken: &Footprint) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        describe();
        pool(stats);
        footprint(taken);
    });
    recorder.handle().render()
}
