//! Counts what happened.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use ironclaw_orchestrator::vm::{Origin, VmHandle};
use serde::Serialize;

use crate::statistics::Spread;

/// The upper end of the histograms, in microseconds.
const MAX_MICROS: u64 = 3_600_000_000;
/// Limit of the characters kept of a failure's text.
const MAX_TEXT: usize = 500;

/// Whether a fault explains a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Blame {
    Injected,
    Unexpected,
}

/// All counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    served: BTreeMap<Origin, Histogram<u64>>,
    pub(super) cancelled: u64,
    pub(super) commands: u64,
    pub(super) endings: BTreeMap<&'static str, u64>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    failures: BTreeMap<(Blame, &'static str), (u64, String)>,
}

/// The times of spawns from a tier.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct TierTimes {
    pub(super) origin: Origin,
    pub(super) spawn_ms: Spread<f64>,
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failures {
    pub(super) blame: Blame,
    /// The failed operation.
    pub(super) what: &'static str,
    pub(super) count: u64,
    /// The text of the first.
    pub(super) first: String,
}

impl Tally {
    pub(super) fn served(&mut self, vm: &VmHandle) {
        self.took(vm.origin(), vm.timings().total);
    }

    fn took(&mut self, origin: Origin, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(MAX_MICROS);
        let times = match self.served.entry(origin) {
            std::collections::btree_map::Entry::Occupied(times) => times.into_mut(),
            std::collections::btree_map::Entry::Vacant(none) => {
                // Constant arguments that are valid.
                let Ok(times) = Histogram::new_with_max(MAX_MICROS, 3) else {
                    return;
                };
                none.insert(times)
            }
        };
        times.saturating_record(micros);
    }

    pub(super) fn failed(&mut self, blame: Blame, what: &'static str, text: impl Into<String>) {
        let (count, _) = self.failures.entry((blame, what)).or_insert_with(|| {
            let text: String = text.into();
            (0, text.chars().take(MAX_TEXT).collect())
        });
        *count += 1;
    }

    pub(super) fn ended(&mut self, how: &'static str) {
        *self.endings.entry(how).or_default() += 1;
    }

    pub(super) fn fault(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }

    /// Returns the number of served spawns.
    pub(super) fn spawns(&self) -> u64 {
        self.served.values().map(Histogram::len).sum()
    }

    pub(super) fn by_tier(&self) -> Vec<TierTimes> {
        let served = self.served.iter();
        served
            .map(|(origin, times)| TierTimes {
                origin: *origin,
                spawn_ms: Spread::of_micros(times),
            })
            .collect()
    }

    /// Returns failures, those of injected faults first.
    pub(super) fn failures(&self) -> Vec<Failures> {
        let failures = self.failures.iter();
        failures
            .map(|((blame, what), (count, first))| Failures {
                blame: *blame,
                what,
                count: *count,
                first: first.clone(),
            })
            .collect()
    }

    pub(super) fn unexpected(&self) -> u64 {
        let unexpected = self.failures.iter();
        unexpected
            .filter(|((blame, _), _)| *blame == Blame::Unexpected)
            .map(|(_, (count, _))| count)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_the_first_of_each_is_kept_in_part() {
        let mut tally = Tally::default();
        tally.failed(Blame::Injected, "spawn", "first");
        tally.failed(Blame::Injected, "spawn", "second");
        assert_eq!(tally.unexpected(), 0);
        tally.failed(Blame::Unexpected, "spawn", "ä".repeat(MAX_TEXT + 1));
        assert_eq!(tally.unexpected(), 1);
        let failures = tally.failures();
        assert_eq!((failures[0].count, &*failures[0].first), (2, "first"));
        assert_eq!(failures[1].first.chars().count(), MAX_TEXT);
    }

    #[test]
    fn times_are_told_by_tier() {
        let mut tally = Tally::default();
        for millis in 1..=100 {
            tally.took(Origin::Warm, Duration::from_millis(millis));
        }
        tally.took(Origin::ColdBooted, Duration::MAX);
        let [warm, cold] = &tally.by_tier()[..] else {
            panic!("{tally:?}");
        };
        assert_eq!((warm.spawn_ms.samples, warm.origin), (100, Origin::Warm));
        assert!((49.9..=50.1).contains(&warm.spawn_ms.p50), "{warm:?}");
        assert_eq!(cold.origin, Origin::ColdBooted);
        assert!(cold.spawn_ms.max >= MAX_MICROS as f64 / 1e3);
        assert_eq!(tally.spawns(), 101);
    }
}
