//! What a pool did and holds.

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
use super::state::Counts;
use crate::metrics;
use crate::template::TemplateHash;
use crate::vm::causes::with_causes;
use crate::vm::launcher::LaunchError;
use crate::vm::vm_handle::{Origin, Timings};

/// The longest time that is told from longer ones, in microseconds.
const LONGEST: u64 = 3_600_000_000;

/// A pool at one moment. Counters only grow, and start with the pool; everything else moves both
/// ways.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolStats {
    /// Number of the pool: the least, from 1, that no other of this process has. Never moves.
    pub number: u64,
    /// What its guests boot. Never moves.
    pub template: TemplateHash,
    /// Snapshots that the pool wants to have. Never moves.
    pub size: usize,
    /// Snapshots that are ready. One more with a build, one less with one that is found faulty.
    pub snapshots: usize,
    /// Snapshots that are being made, successors included.
    pub building: usize,
    /// Snapshots with a successor, kept for clones that live; one less with the last clone's end.
    pub retired: usize,
    /// Paused clones that wait for a spawn: one more with a restore, one less with a spawn, a
    /// death, or a clone that is not wanted any more.
    pub warm: usize,
    /// Clones that are being restored for the warm tier.
    pub restoring: usize,
    /// Processes of the VMM that stand by for a spawn that finds no warm clone: one more with a
    /// start, one less with such a spawn or a death.
    pub standby: usize,
    /// VMs that were handed out, or are about to be; one less when a handle is dropped.
    pub leased: usize,
    /// Spawns that wait for room.
    pub waiting: usize,
    /// What the VMs of the budget take, those of other pools included.
    pub used: Limit,
    /// What they may take.
    pub limit: Limit,
    /// Counter: spawns served by a warm clone.
    pub served_warm: u64,
    /// Counter: spawns served by restoring a snapshot.
    pub served_restored: u64,
    /// Counter: spawns served by a boot.
    pub served_cold: u64,
    /// Counter: builds, restores, warm clones and attempts to serve that failed.
    pub failures: u64,
    /// Counter: attempts of a tier to serve that failed, by the reason. The next tier tried then.
    pub fallbacks: BTreeMap<&'static str, u64>,
    /// Tiers that failed again and again for one reason, and are not used for a while: one more with
    /// the last of such failures, one less when it works again.
    pub off: BTreeMap<Origin, TierOff>,
    /// Ages of the snapshots that are ready, in seconds.
    pub snapshot_ages_seconds: Vec<u64>,
    /// Where the time of spawns went, over the pool's life.
    pub stages: BTreeMap<SpawnStage, Quantiles>,
    /// What it takes of the host, against [`SNAPSHOT_BUDGET`](super::SNAPSHOT_BUDGET) for each
    /// snapshot. Looked up by [`pool_stats`](super::super::pool_stats); `None` from
    /// [`Pool::stats`](super::Pool::stats), which leaves it to
    /// [`Pool::footprint`](super::Pool::footprint).
    pub footprint: Option<Footprint>,
}

/// Why a tier is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TierOff {
    /// Why it failed, in the words of [`PoolStats::fallbacks`].
    pub reason: &'static str,
    /// In how many seconds it is tried again; 0 while it is tried.
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

/// A part of a spawn; see [`Timings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpawnStage {
    /// Waiter for room, and choosing a tier: of every spawn.
    Queue,
    /// Starting a VMM's process: of spawns that were restored or booted; nothing where one stood by.
    Start,
    /// Loading a snapshot: of spawns that were restored.
    Load,
    /// Resuming a clone: of spawns that a warm one served.
    Resume,
    /// Until the guest had confirmed its identity: of every spawn.
    Hello,
    /// All of it: of every spawn.
    Total,
}

impl SpawnStage {
    /// All of them, in the order in which a spawn goes through them; the total is last.
    pub const ALL: [Self; 6] = [
        Self::Queue,
        Self::Start,
        Self::Load,
        Self::Resume,
        Self::Hello,
        Self::Total,
    ];

    /// What it took of a spawn.
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

    /// Whether spawns that are served by that tier go through it.
    #[must_use]
    pub fn is_part_of(self, origin: Origin) -> bool {
        match self {
            Self::Queue | Self::Hello | Self::Total => true,
            Self::Start => origin != Origin::Warm,
            Self::Load => origin == Origin::Restored,
            Self::Resume => origin == Origin::Warm,
        }
    }

    /// Its name, as in JSON and in labels of metrics.
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

/// How long something took: so many times, and no longer than this in half of them, in nine of
/// ten, in 99 of 100, and ever. In microseconds, exact to one percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Quantiles {
    /// How often it happened.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// The 90th percentile.
    pub p90_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The longest.
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
        // Two digits: the bounds are constants that it takes.
        let histogram = || Histogram::new_with_max(LONGEST, 2).ok();
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
            template: template.clone(),
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
                histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST));
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
            template: self.template.clone(),
            size,
            snapshots: counts.ready,
            building: counts.building,
            retired: counts.retired,
            warm: counts.warm,
            restoring: counts.restoring,
            standby,
            leased: counts.leased,
            waiting: counts.waiting,
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
    use crate::vm::snapshot::SnapshotError;

    fn counters() -> Counters {
        Counters::of(&TemplateHash::of(b"template"), 1)
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
        assert!(total.max_us >= LONGEST, "{total:?}");
    }

    #[test]
    fn fallbacks_are_counted_by_reason() {
        let counters = counters();
        let error = LaunchError::from(SnapshotError::NoSpace {
            operation: "write to",
            path: "/x".into(),
        });
        counters.fell_back(Origin::Restored, &error);
        counters.fell_back(Origin::Warm, &LaunchError::ShuttingDown);
        let stats = stats(&counters);
        assert_eq!(stats.failures, 2);
        let reasons: Vec<_> = stats.fallbacks.into_iter().collect();
        assert_eq!(reasons, [("shutting_down", 1), ("snapshot", 1)]);
    }
}
