//! Statistics of a pool.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::breaker::Off;
use super::budget::{Budget, Limit};
use super::clock::Now;
use super::footprint::Footprint;
use super::starts::Start;
use super::state::Counts;
use crate::metrics;
use crate::template::TemplateHash;
use crate::vm::causes::with_causes;
use crate::vm::launcher::LaunchError;
use crate::vm::vm_handle::{Origin, Timings};

/// The upper end of the histograms, in microseconds.
const MAX_MICROS: u64 = 3_600_000_000;

/// A pool at one moment. Counters only grow, from the pool's opening; all other figures move both
/// ways.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolStats {
    /// The pool's number: the smallest, from 1, that no other of this process has. Constant.
    pub number: u64,
    /// The template of its guests. Constant.
    pub template: TemplateHash,
    /// Snapshots that the pool keeps. Constant.
    pub size: usize,
    /// Ready snapshots. Grows with a build, shrinks with a faulty snapshot.
    pub snapshots: usize,
    /// Snapshots being built, successors included.
    pub building: usize,
    /// Snapshots with a successor, kept for living clones; shrinks with the last clone's end.
    pub retired: usize,
    /// Held clones that wait for a spawn. Grows with a restore; shrinks with a spawn, a death, or
    /// an eviction.
    pub warm: usize,
    /// Clones being restored for the warm tier.
    pub restoring: usize,
    /// Standby processes, for spawns without a warm clone. Grows with a start; shrinks with such a
    /// spawn, or a death. Pools with the same hypervisor and machine share them.
    pub standby: usize,
    /// VMs that were handed out, or are about to be; shrinks when a handle is dropped.
    pub leased: usize,
    /// Spawns that wait for room.
    pub waiting: usize,
    /// Clones that the host starts at a time, for all pools of the budget. Grows while a start waits
    /// for other things than a processor, shrinks while it works.
    pub starts_at_a_time: usize,
    /// Usage of the budget, by VMs of other pools, too.
    pub used: Limit,
    /// The limit of the budget.
    pub limit: Limit,
    /// Counter: spawns served by a warm clone.
    pub served_warm: u64,
    /// Counter: spawns served by restoring a snapshot.
    pub served_restored: u64,
    /// Counter: spawns served by a boot.
    pub served_cold: u64,
    /// Counter: failed builds, restores, warm clones and attempts to serve.
    pub failures: u64,
    /// Counter: failed attempts of a tier to serve, by reason. The next tier tried then.
    pub fallbacks: BTreeMap<&'static str, u64>,
    /// Tiers that are off after repeated failures for one reason. Grows with the last of these
    /// failures; shrinks when the tier works again.
    pub off: BTreeMap<Origin, TierOff>,
    /// Ages of the ready snapshots, in seconds.
    pub snapshot_ages_seconds: Vec<u64>,
    /// Times of spawns by stage, over the pool's life.
    pub stages: BTreeMap<SpawnStage, Quantiles>,
    /// Resources of the host, against [`SNAPSHOT_BUDGET`](super::SNAPSHOT_BUDGET) for each
    /// snapshot. `None` from [`Pool::stats`](super::Pool::stats) and
    /// [`pool_stats`](super::super::pool_stats), which ask nobody; see
    /// [`Pool::footprint`](super::Pool::footprint).
    pub footprint: Option<Footprint>,
}

/// A tier that is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TierOff {
    /// The reason of the failures, as in [`PoolStats::fallbacks`].
    pub reason: &'static str,
    /// Seconds until it is tried again; 0 during the trial.
    pub retry_seconds: u64,
}

impl TierOff {
    pub(super) fn at(now: Now, off: Off) -> Self {
        Self {
            reason: off.reason,
            retry_seconds: off.until.saturating_sub(now).as_secs(),
        }
    }
}

/// A stage of a spawn; see [`Timings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpawnStage {
    /// Waiting for room, and choosing a tier: in every spawn.
    Queue,
    /// Starting a VMM's process: in restored or booted spawns; zero with a standby process.
    Start,
    /// Loading a snapshot: in restored spawns.
    Load,
    /// Resuming a clone: in warm spawns.
    Resume,
    /// Waiting for the guest to confirm its identity: in every spawn.
    Hello,
    /// The whole spawn.
    Total,
}

impl SpawnStage {
    /// All stages, in the order of a spawn; the total is last.
    pub const ALL: [Self; 6] = [
        Self::Queue,
        Self::Start,
        Self::Load,
        Self::Resume,
        Self::Hello,
        Self::Total,
    ];

    /// Returns the time of this stage in a spawn.
    #[must_use]
    pub fn of(self, timings: &Timings) -> Duration {
        match self {
            Self::Queue => timings.queue,
            Self::Start => timings.start,
            Self::Load => timings.load,
            Self::Resume => timings.resume,
            Self::Hello => timings.hello,
            Self::Total => timings.total,
        }
    }

    /// Returns whether spawns of that tier have this stage.
    #[must_use]
    pub fn is_part_of(self, origin: Origin) -> bool {
        match self {
            Self::Queue | Self::Hello | Self::Total => true,
            Self::Start => origin != Origin::Warm,
            Self::Load => origin == Origin::Restored,
            Self::Resume => origin == Origin::Warm,
        }
    }

    /// Returns its name, as in JSON and in labels of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Start => "start",
            Self::Load => "load",
            Self::Resume => "resume",
            Self::Hello => "hello",
            Self::Total => "total",
        }
    }
}

impl fmt::Display for SpawnStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The distribution of a time: count, median, percentiles and maximum in microseconds, exact to one
/// percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Quantiles {
    /// The number of measurements.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// The 90th percentile.
    pub p90_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The maximum.
    pub max_us: u64,
}

#[derive(Debug)]
pub(super) struct Counters {
    number: u64,
    template: TemplateHash,
    label: metrics::Label,
    counted: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    warm: u64,
    restored: u64,
    cold: u64,
    failures: u64,
    fallbacks: BTreeMap<&'static str, u64>,
    stages: BTreeMap<SpawnStage, Histogram<u64>>,
}

impl Default for Counted {
    fn default() -> Self {
        // Two significant digits: constant arguments that are valid.
        let histogram = || Histogram::new_with_max(MAX_MICROS, 2).ok();
        let stages = SpawnStage::ALL
            .into_iter()
            .filter_map(|stage| Some((stage, histogram()?)));
        Self {
            warm: 0,
            restored: 0,
            cold: 0,
            failures: 0,
            fallbacks: BTreeMap::new(),
            stages: stages.collect(),
        }
    }
}

impl Counters {
    pub(super) fn of(template: &TemplateHash, number: u64) -> Self {
        Self {
            number,
            template: *template,
            label: metrics::Label::of(template, number),
            counted: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn served(&self, origin: Origin, timings: &Timings) {
        self.label.served(origin);
        let mut counted = self.lock();
        match origin {
            Origin::Warm => counted.warm += 1,
            Origin::Restored => counted.restored += 1,
            Origin::ColdBooted => counted.cold += 1,
        }
        for (stage, histogram) in &mut counted.stages {
            if stage.is_part_of(origin) {
                let took = stage.of(timings);
                self.label.spawn_stage(*stage, origin, took);
                histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(MAX_MICROS));
            }
        }
    }

    pub(super) fn failed(&self) {
        self.label.failed();
        self.lock().failures += 1;
    }

    pub(super) fn fell_back(&self, from: Origin, error: &LaunchError) {
        tracing::warn!(tier = %from, error = with_causes(error), "a tier could not serve");
        self.failed();
        self.label.fell_back(error.reason());
        let mut counted = self.lock();
        *counted.fallbacks.entry(error.reason()).or_default() += 1;
    }

    pub(super) fn snapshot(
        &self,
        size: usize,
        counts: Counts,
        standby: usize,
        ages: Vec<Duration>,
        budget: &Budget,
    ) -> PoolStats {
        let counted = self.lock();
        let stages = counted.stages.iter();
        PoolStats {
            number: self.number,
            template: self.template,
            size,
            snapshots: counts.ready,
            building: counts.building,
            retired: counts.retired,
            warm: counts.warm,
            restoring: counts.restoring,
            standby,
            leased: counts.leased,
            waiting: counts.waiting,
            starts_at_a_time: budget.host().starts.limit(Start::Restore),
            used: budget.used(),
            limit: budget.limit(),
            served_warm: counted.warm,
            served_restored: counted.restored,
            served_cold: counted.cold,
            failures: counted.failures,
            fallbacks: counted.fallbacks.clone(),
            off: BTreeMap::new(),
            snapshot_ages_seconds: ages.iter().map(Duration::as_secs).collect(),
            stages: stages
                .filter(|(_, times)| !times.is_empty())
                .map(|(stage, times)| (*stage, quantiles(times)))
                .collect(),
            footprint: None,
        }
    }
}

fn quantiles(times: &Histogram<u64>) -> Quantiles {
    Quantiles {
        count: times.len(),
        p50_us: times.value_at_quantile(0.5),
        p90_us: times.value_at_quantile(0.9),
        p99_us: times.value_at_quantile(0.99),
        max_us: times.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::snapshot::{Sha256Digest, SnapshotError, StoreError};

    fn counters() -> Counters {
        Counters::of(&Sha256Digest::of("template").into(), 1)
    }

    fn stats(counters: &Counters) -> PoolStats {
        counters.snapshot(1, Counts::default(), 0, Vec::new(), &Budget::of_host())
    }

    #[test]
    fn each_tier_has_the_stages_that_it_goes_through() {
        let counters = counters();
        assert!(stats(&counters).stages.is_empty());
        let timings = Timings {
            total: Duration::from_millis(100),
            ..Timings::default()
        };
        counters.served(Origin::Warm, &timings);
        let of = |stats: &PoolStats| stats.stages.keys().copied().collect::<Vec<_>>();
        let warm = [
            SpawnStage::Queue,
            SpawnStage::Resume,
            SpawnStage::Hello,
            SpawnStage::Total,
        ];
        assert_eq!(of(&stats(&counters)), warm);
        counters.served(Origin::Restored, &timings);
        assert_eq!(of(&stats(&counters)), SpawnStage::ALL);
        let total = stats(&counters).stages[&SpawnStage::Total];
        assert_eq!(total.count, 2);
        assert!((99_000..=101_000).contains(&total.p50_us), "{total:?}");
    }

    #[test]
    fn a_time_beyond_all_bounds_is_counted_as_the_longest() {
        let counters = counters();
        let timings = Timings {
            total: Duration::MAX,
            ..Timings::default()
        };
        counters.served(Origin::ColdBooted, &timings);
        let total = stats(&counters).stages[&SpawnStage::Total];
        assert!(total.max_us >= MAX_MICROS, "{total:?}");
    }

    #[test]
    fn fallbacks_are_counted_by_reason() {
        let counters = counters();
        let error = LaunchError::from(SnapshotError::from(StoreError::Io {
            operation: "write to",
            path: "/x".into(),
            source: std::io::ErrorKind::Other.into(),
        }));
        counters.fell_back(Origin::Restored, &error);
        counters.fell_back(Origin::Warm, &LaunchError::ShuttingDown);
        let stats = stats(&counters);
        assert_eq!(stats.failures, 2);
        let reasons: Vec<_> = stats.fallbacks.into_iter().collect();
        assert_eq!(reasons, [("shutting_down", 1), ("snapshot", 1)]);
    }
}
