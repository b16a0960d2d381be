//! Measures concurrent spawns.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ironclaw_orchestrator::vm::{Origin, Pool};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::statistics::Spread;

/// Minimum number of spawns of each client. The first ones use the pool's stock: later ones show
/// how fast it refills.
const LEAST: usize = 4;

/// The times of so many concurrent spawns, with as many warm clones of one snapshot at the start.
#[derive(Debug, Serialize)]
pub(super) struct Concurrency {
    pub(super) concurrency: usize,
    /// All at once from a full pool, which is refilled in between.
    pub(super) burst: Spawns,
    /// So many clients, each of which spawns, destroys, and repeats.
    pub(super) sustained: Spawns,
}

/// Spawns of several clients.
#[derive(Debug, Serialize)]
pub(super) struct Spawns {
    /// For bursts, until a whole burst was answered; for sustained load, until all were destroyed.
    pub(super) per_second: f64,
    /// The time to the agent's confirmation of the guest's identity.
    pub(super) spawn_ms: Spread<f64>,
    pub(super) served: ByTier,
}

/// The number of spawns by tier.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct ByTier {
    pub(super) warm: usize,
    pub(super) restored: usize,
    pub(super) cold_boot: usize,
}

/// A single spawn.
struct Spawned {
    took: Duration,
    origin: Origin,
}

/// Measures a pool that keeps `concurrency` warm clones.
pub(super) async fn measure(pool: &Pool, concurrency: usize, rounds: u16) -> Result<Concurrency> {
    let times = usize::from(rounds).div_ceil(concurrency);
    Ok(Concurrency {
        concurrency,
        burst: bursts(pool, concurrency, times).await?,
        sustained: sustained(pool, concurrency, times.max(LEAST)).await?,
    })
}

async fn bursts(pool: &Pool, concurrency: usize, times: usize) -> Result<Spawns> {
    let mut all = Vec::new();
    let mut elapsed = Duration::ZERO;
    for _ in 0..times {
        pool.warmup().await?;
        let start = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..concurrency {
            let pool = pool.clone();
            clients.spawn(async move {
                let start = Instant::now();
                let handle = pool.spawn("bench-burst").await?;
                Ok::<_, anyhow::Error>((start.elapsed(), handle))
            });
        }
        let mut living = Vec::new();
        while let Some(client) = clients.join_next().await {
            living.push(client.context("a task failed")??);
        }
        elapsed += start.elapsed();
        for (took, handle) in living {
            let origin = handle.origin();
            handle.destroy().await?;
            all.push(Spawned { took, origin });
        }
    }
    Spawns::of(&all, elapsed)
}

async fn sustained(pool: &Pool, concurrency: usize, times: usize) -> Result<Spawns> {
    pool.warmup().await?;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..concurrency {
        let pool = pool.clone();
        clients.spawn(async move {
            let mut spawned = Vec::new();
            for _ in 0..times {
                let start = Instant::now();
                let handle = pool.spawn("bench-load").await?;
                let took = start.elapsed();
                let origin = handle.origin();
                handle.destroy().await?;
                spawned.push(Spawned { took, origin });
            }
            Ok::<_, anyhow::Error>(spawned)
        });
    }
    let mut all = Vec::new();
    while let Some(client) = clients.join_next().await {
        all.extend(client.context("a task failed")??);
    }
    Spawns::of(&all, start.elapsed())
}

impl ByTier {
    pub(super) fn add(&mut self, more: Self) {
        self.warm += more.warm;
        self.restored += more.restored;
        self.cold_boot += more.cold_boot;
    }
}

impl Spawns {
    fn of(all: &[Spawned], elapsed: Duration) -> Result<Self> {
        let spawn_ms = Spread::of_times(all.iter().map(|spawned| spawned.took));
        let mut served = ByTier::default();
        for spawned in all {
            match spawned.origin {
                Origin::Warm => served.warm += 1,
                Origin::Restored => served.restored += 1,
                Origin::ColdBooted => served.cold_boot += 1,
                other => bail!("a benchmark counts no VMs of the tier {other}"),
            }
        }
        Ok(Self {
            per_second: all.len() as f64 / elapsed.as_secs_f64(),
            spawn_ms: spawn_ms.context("nothing was measured")?,
            served,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spawns_are_counted_by_tier_and_second() {
        let spawned = |origin, millis| Spawned {
            took: Duration::from_millis(millis),
            origin,
        };
        let all = [
            spawned(Origin::Warm, 1),
            spawned(Origin::Warm, 3),
            spawned(Origin::Restored, 200),
        ];
        let spawns = Spawns::of(&all, Duration::from_millis(500)).unwrap();
        assert!((spawns.per_second - 6.0).abs() < 1e-9);
        assert!((spawns.spawn_ms.p50 - 3.0).abs() < 1e-9);
        let served = ByTier {
            warm: 2,
            restored: 1,
            cold_boot: 0,
        };
        assert_eq!(spawns.served, served);
    }
}
