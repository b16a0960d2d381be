//! `ironclaw pool`

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use ironclaw_orchestrator::vm::snapshot::{Entry, Requirements, SnapshotId, SnapshotStore};
use ironclaw_orchestrator::vm::{Config, Launcher, Pool, PoolError, PoolOptions};
use serde::Serialize;

use crate::args::PoolTask;
use crate::output::{self, blocking, mebibytes, milliseconds};
use crate::progress::Reporter;
use crate::snapshot;
use crate::template::{self, Current};

#[derive(Debug, Serialize)]
struct Warm {
    snapshots: usize,
    took_ms: f64,
}

#[derive(Debug, Serialize)]
struct Refreshed {
    snapshots: usize,
    took_ms: f64,
    /// Directories of other snapshots that were too old and unused, and are deleted.
    deleted: Vec<PathBuf>,
    freed_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Stats {
    /// Snapshots that the pool wants to have.
    size: usize,
    /// Snapshots that a pool would use now.
    fit: usize,
    disk_bytes: u64,
    snapshots: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    id: SnapshotId,
    age_seconds: Option<u64>,
    disk_bytes: u64,
    in_use: bool,
    fits: bool,
    /// Why it does not fit.
    reason: Option<String>,
    #[serde(skip)]
    age: String,
}

/// Fills the pool or shows it.
pub(crate) async fn perform(config: &Config, task: PoolTask, json: bool) -> Result<u8> {
    match task {
        PoolTask::Warmup => warm_up(config, json).await?,
        PoolTask::Refresh => refresh(config, json).await?,
        PoolTask::Stats => stats(config, json).await?,
    }
    Ok(0)
}

async fn warm_up(config: &Config, json: bool) -> Result<()> {
    let warm = fill(config, async |pool| pool.warmup().await).await?;
    if json {
        return output::json(&warm);
    }
    output::line(&ready(&warm))
}

async fn refresh(config: &Config, json: bool) -> Result<()> {
    let warm = fill(config, async |pool| pool.refresh().await).await?;
    let (path, age) = (config.snapshot_path.clone(), config.snapshot_refresh);
    // What fits other settings only, and what is more than the pool has places for.
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
    output::line(&ready(&warm))?;
    match refreshed.deleted.len() {
        0 => Ok(()),
        count => output::line(&format!(
            "{count} old ones that nobody used are deleted ({})",
            mebibytes(refreshed.freed_bytes)
        )),
    }
}

fn ready(warm: &Warm) -> String {
    let Warm { snapshots, took_ms } = warm;
    format!("{snapshots} snapshots are ready ({took_ms:.0} ms)")
}

async fn fill(
    config: &Config,
    how: impl AsyncFnOnce(&Pool) -> Result<(), PoolError>,
) -> Result<Warm> {
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
    Ok(warm)
}

async fn stats(config: &Config, json: bool) -> Result<()> {
    let entries = snapshot::entries(config).await?;
    let required = requirements(config).await?;
    let rows: Vec<_> = entries
        .into_iter()
        .map(|entry| row(entry, required.as_ref()))
        .collect();
    let stats = Stats {
        size: config.pool_size,
        fit: rows.iter().filter(|row| row.fits).count(),
        disk_bytes: rows.iter().map(|row| row.disk_bytes).sum(),
        snapshots: rows,
    };
    if json {
        return output::json(&stats);
    }
    output::line(&format!(
        "{} of {} snapshots ready, {} on disk",
        stats.fit.min(stats.size),
        stats.size,
        mebibytes(stats.disk_bytes)
    ))?;
    let rows = stats.snapshots.into_iter().map(|row| {
        let in_use = if row.in_use { "yes" } else { "no" }.to_owned();
        let fits = row
            .reason
            .map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}"));
        [
            row.id.to_string(),
            row.age,
            mebibytes(row.disk_bytes),
            in_use,
            fits,
        ]
    });
    output::table(
        ["SNAPSHOT", "AGE", "ON DISK", "IN USE", "FITS"],
        rows.collect(),
    )
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

fn row(entry: Entry, required: Option<&Requirements>) -> Row {
    let reason = match (&entry.state, required) {
        (Err(defect), _) => Some(defect.to_string()),
        (Ok(_), None) => Some("there is no usable template".to_owned()),
        (Ok(manifest), Some(required)) => required
            .check(manifest)
            .err()
            .map(|mismatch| mismatch.to_string()),
    };
    let created = entry.state.ok().map(|manifest| manifest.created);
    Row {
        id: entry.id,
        age_seconds: created.map(output::seconds_since),
        disk_bytes: entry.disk_bytes,
        in_use: entry.in_use,
        fits: reason.is_none(),
        reason,
        age: created.map(output::age).unwrap_or_default(),
    }
}
