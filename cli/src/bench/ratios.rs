//! Figures of one run as parts of each other: unlike times, they are much the same on a slow or a
//! busy machine.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ironclaw_orchestrator::vm::{Origin, Timings};
use serde::{Deserialize, Serialize};

use super::FEW;
use super::clones::Clones;
use super::life::Life;
use super::report::Snapshots;
use super::tiers::Tier;

/// The less, the better. Times are medians.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ratios {
    /// A restored spawn, of a cold boot.
    pub(super) restored_of_cold_boot: f64,
    /// A warm spawn, of a restored one.
    pub(super) warm_of_restored: f64,
    /// A warm spawn, of a cold boot.
    pub(super) warm_of_cold_boot: f64,
    /// What a warm spawn takes besides resuming and the guest's answer, of all it takes.
    pub(super) warm_overhead: f64,
    /// Waiting for room and choosing a clone, of all that a warm spawn takes.
    pub(super) warm_queue: f64,
    /// What a restored spawn takes besides starting, loading and the guest's answer, of all it
    /// takes.
    pub(super) restored_overhead: f64,
    /// PSS of one of two warm clones of a snapshot, of the guest's memory.
    pub(super) clone_of_guest_memory: f64,
    /// Blocks of a snapshot on disk, of the guest's memory.
    pub(super) disk_of_guest_memory: f64,
}

impl Ratios {
    pub(super) fn of(
        tiers: &[Tier],
        clones: &[Clones],
        snapshots: &Snapshots,
        guest_memory_bytes: u64,
    ) -> Result<Self> {
        let lives = |origin| {
            let tier = tiers.iter().find(|tier| tier.origin == origin);
            let tier = tier.with_context(|| format!("no {origin} was measured"))?;
            Ok::<_, anyhow::Error>(tier.lives.as_slice())
        };
        let warm = lives(Origin::Warm)?;
        let restored = lives(Origin::Restored)?;
        let cold = lives(Origin::ColdBooted)?;
        let total = |lives: &[Life]| {
            let totals = lives.iter().map(|life| life.timings.total.as_secs_f64());
            median(totals)
        };
        let pair = clones
            .iter()
            .find(|clones| clones.clones == FEW && clones.snapshots == 1)
            .context(
                "there was no room for two warm clones: IRONCLAW_MAX_VMS or \
                 IRONCLAW_MEMORY_BUDGET_MIB is too small",
            )?;
        let of_guest = |bytes: u64| bytes as f64 / guest_memory_bytes as f64;
        Ok(Self {
            restored_of_cold_boot: total(restored)? / total(cold)?,
            warm_of_restored: total(warm)? / total(restored)?,
            warm_of_cold_boot: total(warm)? / total(cold)?,
            warm_overhead: share(warm, besides_the_vm)?,
            warm_queue: share(warm, |timings| timings.queue)?,
            restored_overhead: share(restored, besides_the_vm)?,
            clone_of_guest_memory: of_guest(pair.pss_bytes.p50),
            disk_of_guest_memory: of_guest(snapshots.disk_bytes),
        })
    }

    /// Each with its name.
    pub(super) fn named(&self) -> [(&'static str, f64); 8] {
        let Self {
            restored_of_cold_boot,
            warm_of_restored,
            warm_of_cold_boot,
            warm_overhead,
            warm_queue,
            restored_overhead,
            clone_of_guest_memory,
            disk_of_guest_memory,
        } = *self;
        [
            ("restored_of_cold_boot", restored_of_cold_boot),
            ("warm_of_restored", warm_of_restored),
            ("warm_of_cold_boot", warm_of_cold_boot),
            ("warm_overhead", warm_overhead),
            ("warm_queue", warm_queue),
            ("restored_overhead", restored_overhead),
            ("clone_of_guest_memory", clone_of_guest_memory),
            ("disk_of_guest_memory", disk_of_guest_memory),
        ]
    }
}

/// What neither the VMM nor the guest took.
fn besides_the_vm(timings: &Timings) -> Duration {
    let Timings {
        start,
        load,
        resume,
        hello,
        total,
        ..
    } = *timings;
    total.saturating_sub(start + load + resume + hello)
}

/// The median share that a part of a spawn has in it.
fn share(lives: &[Life], part: impl Fn(&Timings) -> Duration) -> Result<f64> {
    median(lives.iter().map(|life| {
        let total = life.timings.total.as_secs_f64();
        part(&life.timings).as_secs_f64() / total
    }))
}

fn median(values: impl Iterator<Item = f64>) -> Result<f64> {
    let mut sorted: Vec<_> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len().saturating_sub(1) / 2;
    sorted.get(middle).copied().context("nothing was measured")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fixture::{GUEST, clones, snapshots, tiers};

    #[test]
    fn each_ratio_is_of_what_its_name_says() {
        let clones = [clones(1, 1, 90), clones(2, 2, 80), clones(2, 1, 50)];
        let ratios = Ratios::of(&tiers(), &clones, &snapshots(), GUEST).unwrap();
        let expected = [0.1, 0.1, 0.01, 0.2, 0.1, 0.22, 0.5, 0.25];
        for ((name, ratio), expected) in ratios.named().into_iter().zip(expected) {
            assert!((ratio - expected).abs() < 1e-9, "{name}: {ratio}");
        }
    }

    #[test]
    fn without_two_clones_of_a_snapshot_the_settings_in_the_way_are_named() {
        let error = Ratios::of(&tiers(), &[clones(1, 1, 1)], &snapshots(), GUEST).unwrap_err();
        assert!(error.to_string().contains("IRONCLAW_MAX_VMS"), "{error}");
    }
}
