//! Ratios between figures of one run: unlike times, they are similar on a slow or a busy machine.

use anyhow::{Context as _, Result};
use ironclaw_orchestrator::vm::{Origin, Timings};
use serde::{Deserialize, Serialize};

use super::clones::{Clones, FEW};
use super::life::Life;
use super::snapshots::Snapshots;
use super::tiers::Tier;

/// Smaller is better. Times are medians.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ratios {
    /// A restored spawn in relation to a cold boot.
    pub(super) restored_of_cold_boot: f64,
    /// A warm spawn in relation to a restored one.
    pub(super) warm_of_restored: f64,
    /// A warm spawn in relation to a cold boot.
    pub(super) warm_of_cold_boot: f64,
    /// A warm spawn in relation to the part of its VMM and guest. The rest is not ours alone: that
    /// takes microseconds, and differs by as much between hosts.
    pub(super) warm_of_floor: f64,
    /// A restored spawn in relation to the part of its VMM and guest.
    pub(super) restored_of_floor: f64,
    /// PSS of one of two warm clones of a snapshot in relation to the guest's memory.
    pub(super) clone_of_guest_memory: f64,
    /// Blocks of a snapshot on disk in relation to the guest's memory.
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
            warm_of_floor: of_floor(warm)?,
            restored_of_floor: of_floor(restored)?,
            clone_of_guest_memory: of_guest(pair.pss_bytes.p50),
            disk_of_guest_memory: of_guest(snapshots.disk_bytes),
        })
    }

    /// Returns each with its name.
    pub(super) fn named(&self) -> [(&'static str, f64); 7] {
        let Self {
            restored_of_cold_boot,
            warm_of_restored,
            warm_of_cold_boot,
            warm_of_floor,
            restored_of_floor,
            clone_of_guest_memory,
            disk_of_guest_memory,
        } = *self;
        [
            ("restored_of_cold_boot", restored_of_cold_boot),
            ("warm_of_restored", warm_of_restored),
            ("warm_of_cold_boot", warm_of_cold_boot),
            ("warm_of_floor", warm_of_floor),
            ("restored_of_floor", restored_of_floor),
            ("clone_of_guest_memory", clone_of_guest_memory),
            ("disk_of_guest_memory", disk_of_guest_memory),
        ]
    }
}

/// Returns the median of each spawn's time in relation to the part of its VMM and guest.
fn of_floor(lives: &[Life]) -> Result<f64> {
    median(lives.iter().map(|life| {
        let Timings {
            start,
            load,
            resume,
            hello,
            total,
            ..
        } = life.timings;
        let floor = start + load + resume + hello;
        total.as_secs_f64() / floor.as_secs_f64()
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
        let expected = [0.1, 0.1, 0.01, 10.0 / 8.0, 100.0 / 78.0, 0.5, 0.25];
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
