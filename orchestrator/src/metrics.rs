//! A pool's figures as metrics, through the `metrics` facade: the embedding program installs a
//! recorder of its choice; without one, this costs next to nothing.
//!
//! All but the budget's have a label `template`, the first digits of its hash: each template has a
//! pool of its own. With the feature `prometheus` there is also a text, which needs no recorder.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{
    SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::template::TemplateHash;
use crate::vm::{Footprint, Origin, PoolStats, SNAPSHOT_BUDGET, SpawnStage};

/// Number of digits of a template's hash in a label.
const DIGITS: usize = 12;

/// Gauge: snapshots by `state`: `ready`, `building`, `retired`.
pub const SNAPSHOTS: &str = "ironclaw_pool_snapshots";
/// Gauge: snapshots that the pool keeps.
pub const SIZE: &str = "ironclaw_pool_size";
/// Gauge: VMs by `state`: `warm`, `restoring`, `leased`.
pub const VMS: &str = "ironclaw_pool_vms";
/// Gauge: processes of the VMM that stand by for a spawn that finds no warm clone.
pub const STANDBY: &str = "ironclaw_pool_standby";
/// Gauge: spawns that wait for room.
pub const WAITING: &str = "ironclaw_pool_waiting";
/// Counter: spawns that were served, by `tier`: `warm`, `restored`, `cold_boot`.
pub const SPAWNS: &str = "ironclaw_pool_spawns_total";
/// Counter: attempts of a tier to serve that failed, by `reason`.
pub const FALLBACKS: &str = "ironclaw_pool_fallbacks_total";
/// Gauge: whether a `tier`, `warm` or `restored`, failed repeatedly and is off for a while.
pub const TIER_OFF: &str = "ironclaw_pool_tier_off";
/// Counter: builds, restores, warm clones and attempts to serve that failed.
pub const FAILURES: &str = "ironclaw_pool_failures_total";
/// Gauge: when the oldest ready snapshot was made, in seconds since 1970; 0 if there is none. Not
/// an age, which would stand still while nothing else happens.
pub const OLDEST_SNAPSHOT: &str = "ironclaw_pool_oldest_snapshot_created_seconds";
/// Gauge: time of spawns by `stage` and `percentile` (`50`, `90`, `99`; `100` is the longest), over
/// the pool's life.
pub const STAGE_SECONDS: &str = "ironclaw_pool_spawn_stage_seconds";
/// Histogram: time of each spawn by `stage` and `tier`, for recorders.
pub const SPAWN_SECONDS: &str = "ironclaw_pool_spawn_seconds";
/// Gauge: memory of the budget used by VMs.
pub const BUDGET_USED: &str = "ironclaw_pool_budget_used_bytes";
/// Gauge: memory of the budget.
pub const BUDGET: &str = "ironclaw_pool_budget_bytes";
/// Gauge: proportional set size of all warm clones.
pub const WARM_MEMORY: &str = "ironclaw_pool_warm_memory_bytes";
/// Gauge: proportional set size of all standby processes.
pub const STANDBY_MEMORY: &str = "ironclaw_pool_standby_memory_bytes";
/// Gauge: blocks of all snapshots on disk.
pub const SNAPSHOT_DISK: &str = "ironclaw_pool_snapshot_disk_bytes";
/// Gauge: intended maximum of the pool's snapshots on disk, and of as many warm clones in memory:
/// [`SNAPSHOT_BUDGET`] for each.
pub const SNAPSHOT_BUDGETS: &str = "ironclaw_pool_snapshot_budget_bytes";

/// Describes the metrics to the installed recorder. Call it once, after installing one.
pub fn describe() {
    describe_gauge!(SNAPSHOTS, "Snapshots of the pool by state.");
    describe_gauge!(
        TIER_OFF,
        "Whether a tier failed again and again and is not used for a while."
    );
    describe_gauge!(SIZE, "Snapshots that the pool wants to have.");
    describe_gauge!(VMS, "VMs of the pool by state.");
    describe_gauge!(
        STANDBY,
        "Processes of the VMM that stand by for a spawn that finds no warm clone."
    );
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
        "When the oldest snapshot that is ready was made, since 1970."
    );
    describe_gauge!(
        STAGE_SECONDS,
        Unit::Seconds,
        "Time of spawns by stage and percentile, over the life of the pool."
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
        STANDBY_MEMORY,
        Unit::Bytes,
        "Proportional set size of all processes that stand by."
    );
    describe_gauge!(
        SNAPSHOT_DISK,
        Unit::Bytes,
        "Blocks of all snapshots on disk."
    );
    describe_gauge!(
        SNAPSHOT_BUDGETS,
        Unit::Bytes,
        "Blocks that all snapshots should take on disk at most."
    );
}

/// The labels of a pool.
#[derive(Debug, Clone)]
pub(crate) struct Label {
    template: SharedString,
    pool: SharedString,
}

impl Label {
    pub(crate) fn of(hash: &TemplateHash, number: u64) -> Self {
        let digits = hash.to_string();
        let digits = digits.get(..DIGITS).unwrap_or_default();
        let shared = |text: &str| SharedString::from_shared(Arc::from(text));
        Self {
            template: shared(digits),
            pool: shared(&number.to_string()),
        }
    }

    fn with<const N: usize>(
        &self,
        others: [(&'static str, SharedString); N],
    ) -> Vec<metrics::Label> {
        let of_pool = [
            ("template", self.template.clone()),
            ("pool", self.pool.clone()),
        ];
        let all = of_pool.into_iter().chain(others);
        all.map(|(name, value)| metrics::Label::new(name, value))
            .collect()
    }

    pub(crate) fn served(&self, tier: Origin) {
        counter!(SPAWNS, self.with([("tier", label(tier).into())])).increment(1);
    }

    pub(crate) fn failed(&self) {
        counter!(FAILURES, self.with([])).increment(1);
    }

    pub(crate) fn fell_back(&self, reason: &'static str) {
        counter!(FALLBACKS, self.with([("reason", reason.into())])).increment(1);
    }

    pub(crate) fn spawn_stage(&self, stage: SpawnStage, tier: Origin, took: Duration) {
        let labels = [("stage", stage.name().into()), ("tier", label(tier).into())];
        histogram!(SPAWN_SECONDS, self.with(labels)).record(took);
    }
}

fn label(tier: Origin) -> &'static str {
    match tier {
        Origin::Warm => "warm",
        Origin::Restored => "restored",
        Origin::ColdBooted => "cold_boot",
    }
}

/// Records the state of a pool.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float, exact up to 2^53"
)]
pub(crate) fn pool(stats: &PoolStats) {
    let pool = Label::of(&stats.template, stats.number);
    let of = |name: &'static str| gauge!(name, pool.with([]));
    let by = |name: &'static str, state: &'static str| {
        gauge!(name, pool.with([("state", state.into())]))
    };
    by(SNAPSHOTS, "ready").set(stats.snapshots as f64);
    by(SNAPSHOTS, "building").set(stats.building as f64);
    by(SNAPSHOTS, "retired").set(stats.retired as f64);
    of(SIZE).set(stats.size as f64);
    by(VMS, "warm").set(stats.warm as f64);
    by(VMS, "restoring").set(stats.restoring as f64);
    by(VMS, "leased").set(stats.leased as f64);
    for tier in [Origin::Warm, Origin::Restored] {
        let off = stats.off.contains_key(&tier);
        gauge!(TIER_OFF, pool.with([("tier", label(tier).into())])).set(f64::from(u8::from(off)));
    }
    of(STANDBY).set(stats.standby as f64);
    of(WAITING).set(stats.waiting as f64);
    let made = stats.snapshot_ages_seconds.iter().max().map(|age| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap_or_default().as_secs().saturating_sub(*age)
    });
    of(OLDEST_SNAPSHOT).set(made.unwrap_or(0) as f64);
    for (stage, times) in &stats.stages {
        // Not `quantile`: that label is for summaries, which a gauge is not.
        let percentiles = [
            ("50", times.p50_us),
            ("90", times.p90_us),
            ("99", times.p99_us),
            ("100", times.max_us),
        ];
        for (percentile, micros) in percentiles {
            let labels = [
                ("stage", stage.name().into()),
                ("percentile", percentile.into()),
            ];
            gauge!(STAGE_SECONDS, pool.with(labels)).set(micros as f64 / 1e6);
        }
    }
    let bytes = |mebibytes: u64| mebibytes as f64 * f64::from(1 << 20);
    of(BUDGET_USED).set(bytes(stats.used.memory_mib));
    of(BUDGET).set(bytes(stats.limit.memory_mib));
    of(SNAPSHOT_BUDGETS).set(stats.size as f64 * SNAPSHOT_BUDGET as f64);
    if let Some(Footprint {
        warm_pss_bytes,
        standby_pss_bytes,
        snapshot_disk_bytes,
    }) = &stats.footprint
    {
        of(WARM_MEMORY).set(warm_pss_bytes.iter().sum::<u64>() as f64);
        of(STANDBY_MEMORY).set(standby_pss_bytes.iter().sum::<u64>() as f64);
        of(SNAPSHOT_DISK).set(snapshot_disk_bytes.iter().sum::<u64>() as f64);
    }
}

/// Records the earlier counts with a new recorder.
#[cfg(feature = "prometheus")]
fn totals(stats: &PoolStats) {
    let pool = Label::of(&stats.template, stats.number);
    let by = |name: &'static str, label: &'static str, value: &'static str| {
        counter!(name, pool.with([(label, value.into())]))
    };
    let tiers = [
        (Origin::Warm, stats.served_warm),
        (Origin::Restored, stats.served_restored),
        (Origin::ColdBooted, stats.served_cold),
    ];
    for (tier, count) in tiers {
        by(SPAWNS, "tier", label(tier)).absolute(count);
    }
    for (reason, count) in &stats.fallbacks {
        by(FALLBACKS, "reason", reason).absolute(*count);
    }
    counter!(FAILURES, pool.with([])).absolute(stats.failures);
}

/// Formats pools as Prometheus text, each metric with a line of help.
#[cfg(feature = "prometheus")]
#[must_use]
pub fn prometheus_text(pools: &[PoolStats]) -> String {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        describe();
        for stats in pools {
            pool(stats);
            totals(stats);
        }
    });
    recorder.handle().render()
}

#[cfg(test)]
#[cfg(feature = "prometheus")]
mod tests;
