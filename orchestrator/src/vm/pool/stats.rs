//! Statistics of a pool.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::breaker::Off;
use super::budget::Limit;
use super::clock::Now;
use super::footprint::Footprint;
use crate::template::TemplateHash;
use crate::vm::vm_handle::{Origin, Timings};

/// A pool at one moment. Counters only grow, from the pool's opening; all other figures move both
/// ways.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
