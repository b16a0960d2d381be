//! Many warm clones: whether one costs as much among a thousand as among ten.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ironclaw_console::output;
use ironclaw_console::output::milliseconds;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::{Budget, Config, Launcher, Limit, Origin, Pool, PoolOptions};
use serde::Serialize;

use super::clones::Clones;
use super::host::Load;
use super::own::Own;
use super::text;
use crate::statistics::Spread;

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    vmm: String,
    load_before: Load,
    load_after: Load,
    crowds: Vec<Crowd>,
}

/// A pool with so many warm clones of one snapshot.
#[derive(Debug, Serialize)]
struct Crowd {
    clones: usize,
    /// Until all were there.
    fill_ms: f64,
    /// A warm spawn; each clone is replaced before the next.
    spawn_ms: Spread<f64>,
    /// The statistics of the pool.
    stats_ms: Spread<f64>,
    /// Memory of a clone.
    pss_bytes: Spread<u64>,
    uss_bytes: Spread<u64>,
    /// Until all were gone.
    close_ms: f64,
}

/// Measures, and prints.
pub(super) async fn run(
    config: &Config,
    counts: &[usize],
    rounds: usize,
    own: &Own,
    json: bool,
) -> Result<()> {
    let measure = async |reporter: &Reporter| measure(config, counts, rounds, own, reporter).await;
    own.reported(measure, json, print).await
}

async fn measure(
    config: &Config,
    counts: &[usize],
    rounds: usize,
    own: &Own,
    reporter: &Reporter,
) -> Result<Report> {
    let load_before = Load::now()?;
    let launcher = Launcher::open(config, reporter.progress()).await?;
    drop(own.create_snapshot(&launcher).await?);
    let mut crowds = Vec::new();
    for &clones in counts {
        reporter.stage(&format!("{clones} warm clones"), true);
        crowds.push(crowd(config, &launcher, clones, rounds).await?);
    }
    Ok(Report {
        vmm: launcher.vmm().to_string(),
        load_before,
        load_after: Load::now()?,
        crowds,
    })
}

async fn crowd(
    config: &Config,
    launcher: &Launcher,
    clones: usize,
    rounds: usize,
) -> Result<Crowd> {
    let options = PoolOptions {
        size: 1,
        refresh: Duration::MAX,
        // Idle clones share nearly all of their memory, and this is to be seen.
        budget: Budget::new(Limit {
            vms: clones + 1,
            memory_mib: u64::MAX,
        }),
        ..PoolOptions::from(config)
    };
    let pool = Pool::open(launcher.clone(), options.with_warm(clones)).await?;
    let measured = of_pool(&pool, clones, rounds).await;
    let start = Instant::now();
    pool.close().await;
    let close_ms = milliseconds(start.elapsed());
    Ok(Crowd {
        close_ms,
        ..measured?
    })
}

async fn of_pool(pool: &Pool, clones: usize, rounds: usize) -> Result<Crowd> {
    let start = Instant::now();
    pool.warmup().await?;
    let fill_ms = milliseconds(start.elapsed());
    let memory = Clones::of(1, &pool.warm_pids())?.context("there are no clones")?;
    let (mut spawns, mut stats) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let there = pool.stats();
        stats.push(start.elapsed());
        ensure!(there.warm == clones, "{} of {clones} clones", there.warm);
        let start = Instant::now();
        let vm = pool.spawn("bench").await?;
        spawns.push(start.elapsed());
        ensure!(vm.origin() == Origin::Warm, "served by {}", vm.origin());
        vm.destroy().await?;
        pool.warmup().await?;
    }
    let spread = |times: Vec<Duration>| Spread::of_times(times).context("nothing was measured");
    Ok(Crowd {
        clones,
        fill_ms,
        spawn_ms: spread(spawns)?,
        stats_ms: spread(stats)?,
        pss_bytes: memory.pss_bytes,
        uss_bytes: memory.uss_bytes,
        close_ms: 0.0,
    })
}

fn print(report: &Report) -> Result<()> {
    output::line(&format!(
        "{}; load average {:.2} before, {:.2} after",
        report.vmm, report.load_before.one, report.load_after.one
    ))?;
    output::line("milliseconds, and MiB of a clone; medians:")?;
    let mebibytes = |bytes| format!("{:.2}", text::in_mebibytes(bytes));
    let rows = report.crowds.iter().map(|crowd| {
        [
            crowd.clones.to_string(),
            format!("{:.0}", crowd.fill_ms),
            text::milliseconds(crowd.spawn_ms.p50),
            text::milliseconds(crowd.spawn_ms.p90),
            text::milliseconds(crowd.stats_ms.p50),
            mebibytes(crowd.pss_bytes.p50),
            mebibytes(crowd.uss_bytes.p50),
            format!("{:.0}", crowd.close_ms),
        ]
    });
    output::table(
        [
            "CLONES", "FILL", "SPAWN", "P90", "STATS", "PSS", "USS", "CLOSE",
        ],
        rows.collect(),
    )
}
