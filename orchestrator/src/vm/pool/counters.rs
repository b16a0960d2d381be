//! Counts what a pool does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::budget::Budget;
use super::starts::Start;
use super::state::Counts;
use super::stats::{PoolStats, Quantiles, SpawnStage};
use crate::metrics;
use crate::template::TemplateHash;
use crate::vm::causes::with_causes;
use crate::vm::launcher::LaunchError;
use crate::vm::vm_handle::{Origin, Timings};

/// The upper end of the histograms, in microseconds.
const MAX_MICROS: u64 = 3_600_000_000;

/// What a pool has done since it was opened.
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
