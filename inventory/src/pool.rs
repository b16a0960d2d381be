//! The command `ironclaw pool`.

mod prometheus;
mod stats;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use ironclaw_console::output::{self, blocking, mebibytes, milliseconds};
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::snapshot::SnapshotStore;
use ironclaw_orchestrator::vm::{Config, Launcher, Pool, PoolError, PoolOptions};
use serde::Serialize;

use crate::outcome::Outcome;
use crate::pool_args::{PoolTask, StatsFormat};
use stats::Stats;

#[derive(Debug, Serialize)]
struct Warm {
    snapshots: usize,
    /// Number of those that existed before.
    found: usize,
    took_ms: f64,
}

#[derive(Debug, Serialize)]
struct Refreshed {
    snapshots: usize,
    took_ms: f64,
    /// Deleted directories of other snapshots that were old and unused.
    deleted: Vec<PathBuf>,
    freed_bytes: u64,
}

/// Fills the pool or shows its state.
pub async fn perform(config: Config, task: PoolTask, json: bool) -> Result<Outcome> {
    match task {
        PoolTask::Warmup { template } => warm_up(&template.over(config), json).await?,
        PoolTask::Refresh { template } => refresh(&template.over(config), json).await?,
        PoolTask::Stats { template, format } => {
            let format = format.unwrap_or(if json {
                StatsFormat::Json
            } else {
                StatsFormat::Table
            });
            let stats = Stats::gather(&template.over(config)).await?;
            match format {
                StatsFormat::Json => output::json(&stats)?,
                StatsFormat::Prometheus => output::line(prometheus::text(&stats).trim_end())?,
                StatsFormat::Table => stats.print()?,
            }
        }
    }
    Ok(Outcome::Done)
}

async fn warm_up(config: &Config, json: bool) -> Result<()> {
    // Old snapshots are replaced in the background, which would be cut off if not waited for.
    let all = async |pool: &Pool| {
        pool.warmup().await?;
        pool.renew().await
    };
    let warm = fill(config, all).await?;
    if json {
        return output::json(&warm);
    }
    let Warm {
        snapshots,
        found,
        took_ms,
    } = warm;
    output::line(&format!(
        "{}, {found} of them from before ({took_ms:.0} ms)",
        ready(snapshots)
    ))
}

fn ready(snapshots: usize) -> String {
    match snapshots {
        1 => "1 snapshot is ready".to_owned(),
        many => format!("{many} snapshots are ready"),
    }
}

async fn refresh(config: &Config, json: bool) -> Result<()> {
    let warm = fill(config, async |pool| pool.refresh().await).await?;
    let (path, age) = (config.snapshot_path.clone(), config.snapshot_refresh);
    // Also deletes snapshots for other settings, and more than the pool wants.
    let deleted = blocking(move || SnapshotStore::open(path)?.delete_unused(age)).await?;
    let refreshed = Refreshed {
        snapshots: warm.snapshots,
        took_ms: warm.took_ms,
        deleted: deleted.removed,
        freed_bytes: deleted.bytes,
    };
    if json {
        return output::json(&refreshed);
    }
    let Refreshed {
        snapshots, took_ms, ..
    } = refreshed;
    output::line(&format!("{} ({took_ms:.0} ms)", ready(snapshots)))?;
    match refreshed.deleted.len() {
        0 => Ok(()),
        count => output::line(&format!(
            "{count} old ones that nobody used are deleted ({})",
            mebibytes(refreshed.freed_bytes)
        )),
    }
}

async fn fill(
    config: &Config,
    how: impl AsyncFnOnce(&Pool) -> Result<(), PoolError>,
) -> Result<Warm> {
    let reporter = Reporter::new();
    let start = Instant::now();
    let launcher = Launcher::open(config, reporter.progress()).await?;
    // Warm clones and standby processes would end with this process; snapshots stay.
    let options = PoolOptions::from(config).with_standby(0);
    let pool = Pool::open(launcher, options.with_warm(0)).await?;
    let before = pool.snapshots();
    how(&pool).await?;
    let now = pool.snapshots();
    let warm = Warm {
        snapshots: now.len(),
        found: now.iter().filter(|id| before.contains(id)).count(),
        took_ms: milliseconds(start.elapsed()),
    };
    pool.close().await;
    reporter.clear();
    Ok(warm)
}
