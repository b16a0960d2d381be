//! Measures spawns of each tier, one at a time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::{
    Budget, Launcher, Limit, Origin, Pool, PoolOptions, SpawnStage, VmHandle,
};
use serde::Serialize;

use super::faults::Faults;
use super::life::Life;
use super::own::Own;
use crate::statistics::Spread;

/// The figures of a tier. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Tier {
    pub(super) origin: Origin,
    /// The time to the agent's confirmation of the guest's identity, as seen by the caller.
    pub(super) spawn_ms: Spread<f64>,
    /// The stages of that.
    pub(super) stages_ms: BTreeMap<SpawnStage, Spread<f64>>,
    /// One `echo` in the guest after that.
    pub(super) first_exec_ms: Spread<f64>,
    /// The time from the request until the process was gone.
    pub(super) destroy_ms: Spread<f64>,
    /// Page faults of the VMM served from memory, from the spawn to the echo's answer; all of them,
    /// for a process that the spawn started.
    pub(super) minor_faults: Spread<u64>,
    /// Page faults served from disk.
    pub(super) major_faults: Spread<u64>,
    /// The single measurements.
    #[serde(skip)]
    pub(super) lives: Vec<Life>,
}

impl Tier {
    pub(super) fn new(origin: Origin, lives: Vec<Life>) -> Result<Self> {
        let times = |of: &dyn Fn(&Life) -> Duration| {
            Spread::of_times(lives.iter().map(of)).context("nothing was measured")
        };
        let faults = |of: &dyn Fn(&Life) -> u64| {
            Spread::of(lives.iter().map(of)).context("nothing was measured")
        };
        let stages = SpawnStage::ALL.into_iter().filter(|stage| match stage {
            SpawnStage::Total => false,
            // Boots are measured without a pool: a pool boots only if everything else failed.
            SpawnStage::Queue => origin != Origin::ColdBooted,
            stage => stage.is_part_of(origin),
        });
        Ok(Self {
            origin,
            spawn_ms: times(&|life| life.timings.total)?,
            stages_ms: stages
                .map(|stage| Ok((stage, times(&|life| stage.of(&life.timings))?)))
                .collect::<Result<_>>()?,
            first_exec_ms: times(&|life| life.exec)?,
            destroy_ms: times(&|life| life.destroy)?,
            minor_faults: faults(&|life| life.faults.minor)?,
            major_faults: faults(&|life| life.faults.major)?,
            lives,
        })
    }
}

pub(super) async fn cold_boots(
    launcher: &Launcher,
    rounds: u16,
    reporter: &Reporter,
) -> Result<Tier> {
    let mut lives = Vec::new();
    for round in 1..=rounds {
        reporter.stage(&format!("cold boot {round} of {rounds}"), round == 1);
        let launcher = launcher.clone();
        let boot = async move { launcher.cold_boot("bench-cold").await };
        lives.push(Life::of(boot, |_| Faults::default()).await?);
    }
    Tier::new(Origin::ColdBooted, lives)
}

/// Measures with `standby` standby processes before each spawn.
pub(super) async fn restores(
    own: &Own,
    launcher: &Launcher,
    standby: usize,
    rounds: u16,
    reporter: &Reporter,
) -> Result<Tier> {
    let options = alone(0).with_standby(standby);
    own.with_pool(launcher, options, async |pool| {
        spawns(pool, Origin::Restored, rounds, reporter).await
    })
    .await
}

pub(super) async fn warm(
    own: &Own,
    launcher: &Launcher,
    rounds: u16,
    reporter: &Reporter,
) -> Result<Tier> {
    own.with_pool(launcher, alone(1), async |pool| {
        spawns(pool, Origin::Warm, rounds, reporter).await
    })
    .await
}

/// Opens a pool of one snapshot with room for a single VM: its successor is restored only when it
/// is gone, so nothing competes with the measurement.
fn alone(warm: usize) -> PoolOptions {
    PoolOptions::new(1)
        .with_warm(warm)
        .with_budget(Budget::new(Limit::new(
            1,
            Budget::of_host().limit().memory_mib,
        )))
}

async fn spawns(pool: &Pool, tier: Origin, rounds: u16, reporter: &Reporter) -> Result<Tier> {
    let mut lives = Vec::new();
    for round in 1..=rounds {
        reporter.stage(&format!("{tier} spawn {round} of {rounds}"), round == 1);
        pool.warmup().await?;
        let before = pool.warm_pids().into_iter();
        let before: HashMap<u32, Faults> = before
            .map(|pid| Ok((pid, Faults::of(pid)?)))
            .collect::<Result<_>>()?;
        let pool = pool.clone();
        let spawn = async move { served_by(tier, pool.spawn("bench").await?) };
        let life = Life::of(spawn, |pid| before.get(&pid).copied().unwrap_or_default());
        lives.push(life.await?);
    }
    Tier::new(tier, lives)
}

fn served_by(tier: Origin, handle: VmHandle) -> Result<VmHandle> {
    let origin = handle.origin();
    ensure!(
        origin == tier,
        "a spawn that is to be {tier} was served by another tier: {origin}; `RUST_LOG=debug` says \
         why"
    );
    Ok(handle)
}
