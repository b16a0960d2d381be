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
/// Gauge: time of spawns by `stage` and `percentile` (`50`, `90`, `99`; `100` is the longest), over
/// the pool's life.
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
        // Not `quantile`: that label is for summaries, which a gauge is not.
        let percentiles = [
            ("50", times.p50_us),
            ("90", times.p90_us),
            ("99", times.p99_us),
            ("100", times.max_us),
        ];
        for (percentile, micros) in percentiles {
            let labels = [("stage", stage.name()), ("percentile", percentile)];
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::vm::{Limit, Quantiles};

    #[test]
    fn a_tier_has_one_name_in_labels_and_in_json() {
        for tier in [Origin::Warm, Origin::Restored, Origin::ColdBooted] {
            assert_eq!(serde_json::to_value(tier).unwrap(), label(tier));
        }
    }

    /// A pool in which every figure is there, and is told from the others.
    fn busy() -> (PoolStats, Footprint) {
        let times = Quantiles {
            count: 10,
            p50_us: 11,
            p90_us: 12,
            p99_us: 13,
            max_us: 1_500_000,
        };
        let stats = PoolStats {
            size: 20,
            snapshots: 21,
            building: 22,
            retired: 23,
            warm: 24,
            restoring: 25,
            leased: 26,
            waiting: 27,
            used: Limit {
                vms: 28,
                memory_mib: 29,
            },
            limit: Limit {
                vms: usize::MAX,
                memory_mib: 30,
            },
            served_warm: 31,
            served_restored: 32,
            served_cold: 33,
            failures: 34,
            fallbacks: BTreeMap::from([("snapshot", 35), ("shutting_down", 36)]),
            snapshot_ages_seconds: vec![37, 38],
            stages: BTreeMap::from([(SpawnStage::Queue, times), (SpawnStage::Total, times)]),
        };
        let taken = Footprint {
            warm_pss_bytes: vec![40, 1],
            snapshot_disk_bytes: vec![50, 2],
        };
        (stats, taken)
    }

    #[test]
    fn every_figure_of_a_pool_is_in_the_text() {
        let (stats, taken) = busy();
        let text = prometheus_text(&stats, &taken);
        for line in [
            "ironclaw_pool_snapshots{state=\"ready\"} 21",
            "ironclaw_pool_snapshots{state=\"building\"} 22",
            "ironclaw_pool_snapshots{state=\"retired\"} 23",
            "ironclaw_pool_size 20",
            "ironclaw_pool_vms{state=\"warm\"} 24",
            "ironclaw_pool_vms{state=\"restoring\"} 25",
            "ironclaw_pool_vms{state=\"leased\"} 26",
            "ironclaw_pool_waiting 27",
            "ironclaw_pool_spawns_total{tier=\"warm\"} 31",
            "ironclaw_pool_spawns_total{tier=\"restored\"} 32",
            "ironclaw_pool_spawns_total{tier=\"cold_boot\"} 33",
            "ironclaw_pool_failures_total 34",
            "ironclaw_pool_fallbacks_total{reason=\"snapshot\"} 35",
            "ironclaw_pool_fallbacks_total{reason=\"shutting_down\"} 36",
            "ironclaw_pool_oldest_snapshot_seconds 38",
            "ironclaw_pool_spawn_stage_seconds{stage=\"queue\",percentile=\"50\"} 0.000011",
            "ironclaw_pool_spawn_stage_seconds{stage=\"total\",percentile=\"100\"} 1.5",
            "ironclaw_pool_budget_used_bytes 30408704",
            "ironclaw_pool_budget_bytes 31457280",
            "ironclaw_pool_warm_memory_bytes 41",
            "ironclaw_pool_snapshot_disk_bytes 52",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}\n{text}");
        }
    }

    #[test]
    fn prometheus_has_nothing_to_say_against_the_text() {
        let (stats, taken) = busy();
        let mut command = Command::new("promtool");
        command.args(["check", "metrics"]).stdin(Stdio::piped());
        let mut promtool = match command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        {
            Ok(promtool) => promtool,
            Err(error) => {
                println!("skipped: promtool (Debian package prometheus): {error}");
                return;
            }
        };
        let mut stdin = promtool.stdin.take().unwrap();
        stdin
            .write_all(prometheus_text(&stats, &taken).as_bytes())
            .unwrap();
        drop(stdin);
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success() && said.is_empty(),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
}
