//! `ironclaw pool`

mod prometheus;
mod stats;

use std::time::Instant;

use anyhow::Result;
use ironclaw_orchestrator::vm::snapshot::Requirements;
use ironclaw_orchestrator::vm::{Config, Launcher, Pool, PoolError, PoolOptions};
use serde::Serialize;

use crate::args::{PoolTask, StatsFormat};
use crate::output::{self, milliseconds};
use crate::progress::Reporter;
use crate::template::{self, Current};

#[derive(Debug, Serialize)]
struct Warm {
    snapshots: usize,
    took_ms: f64,
}

/// Fills the pool or shows it.
pub(crate) async fn perform(config: &Config, task: PoolTask, json: bool) -> Result<u8> {
    match task {
        PoolTask::Warmup => warm_up(config, json).await?,
        PoolTask::Refresh => refresh(config, json).await?,
        PoolTask::Stats { format } => {
            let format = format.unwrap_or(if json {
                StatsFormat::Json
            } else {
                StatsFormat::Table
            });
            stats::show(config, format).await?;
        }
    }
    Ok(0)
}

async fn warm_up(config: &Config, json: bool) -> Result<()> {
    fill(config, json, async |pool| pool.warmup().await).await
}

async fn refresh(config: &Config, json: bool) -> Result<()> {
    fill(config, json, async |pool| pool.refresh().await).await
}

async fn fill(
    config: &Config,
    json: bool,
    how: impl AsyncFnOnce(&Pool) -> Result<(), PoolError>,
) -> Result<()> {
    let reporter = Reporter::new();
    let start = Instant::now();
    let launcher = Launcher::open(config, reporter.progress()).await?;
    // Warm clones would end with this process; snapshots stay.
    let options = PoolOptions {
        size: config.pool_size,
        ..PoolOptions::from(config)
    };
    let pool = Pool::open(launcher, options.with_warm(0)).await?;
    how(&pool).await?;
    let warm = Warm {
        snapshots: pool.stats().snapshots,
        took_ms: milliseconds(start.elapsed()),
    };
    pool.close().await;
    reporter.over();
    if json {
        return output::json(&warm);
    }
    output::line(&format!(
        "{} snapshots are ready ({:.0} ms)",
        warm.snapshots, warm.took_ms
    ))
}

/// What a snapshot must be to be restored here; `None` while there is no template, which showing
/// statistics must not build.
pub(crate) async fn requirements(config: &Config) -> Result<Option<Requirements>> {
    let Current::Ready(_) = template::current(config).await? else {
        return Ok(None);
    };
    let launcher = Launcher::open(config, Reporter::new().progress()).await?;
    Ok(Some(launcher.requirements().clone()))
}
