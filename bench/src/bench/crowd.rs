//! Many warm clones: whether one costs as much among a thousand as among ten.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ironclaw_console::output;
use ironclaw_console::output::milliseconds;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::vmm::VmmIdentity;
use ironclaw_orchestrator::vm::{Budget, Config, Launcher, Limit, Origin, Pool, PoolOptions};
use serde::Serialize;

use super::clones::Clones;
use super::host::{Host, Load};
use super::own::Own;
use super::report::Guest;
use super::{orphans, text};
use crate::statistics::Spread;

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) host: Host,
    pub(super) vmm: VmmIdentity,
    pub(super) guest: Guest,
    pub(super) crowds: Vec<Crowd>,
}

/// A pool with so many warm clones of one snapshot.
#[derive(Debug, Serialize)]
pub(super) struct Crowd {
    pub(super) clones: usize,
    /// Until all were there.
    pub(super) fill_ms: f64,
    /// A warm spawn; each clone is replaced before the next.
    pub(super) spawn_ms: Spread<f64>,
    /// The same beside that of the smallest crowd.
    pub(super) spawn_ratio: f64,
    /// The statistics of the pool.
    pub(super) stats_ms: Spread<f64>,
    /// Memory of a clone.
    pub(super) pss_bytes: Spread<u64>,
    pub(super) uss_bytes: Spread<u64>,
    /// Until all were gone.
    pub(super) close_ms: f64,
    /// From the kill of a process with as many until the next start had swept all that it left.
    pub(super) sweep_ms: f64,
}

/// Measures, and prints.
pub(super) async fn run(
    config: &Config,
    (counts, rounds): (&[usize], usize),
    draw: impl Fn(&Report) -> Result<()>,
    own: &Own,
    json: bool,
) -> Result<()> {
    let measure = async |reporter: &Reporter| {
        let report = measure(config, counts, rounds, own, reporter).await?;
        draw(&report)?;
        Ok(report)
    };
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
    let mut crowds: Vec<Crowd> = Vec::new();
    for &clones in counts {
        reporter.stage(&format!("{clones} warm clones"), true);
        let crowd = crowd(config, own, &launcher, clones, rounds).await?;
        reporter.stage(&format!("{clones} orphans"), true);
        let sweep_ms = milliseconds(orphans::sweep(config, &launcher, clones).await?);
        crowds.push(Crowd { sweep_ms, ..crowd });
    }
    let fewest = crowds.iter().min_by_key(|crowd| crowd.clones);
    if let Some(fewest) = fewest.map(|crowd| crowd.spawn_ms.p50) {
        for crowd in &mut crowds {
            crowd.spawn_ratio = crowd.spawn_ms.p50 / fewest;
        }
    }
    Ok(Report {
        host: Host::new(&launcher.requirements().host, load_before)?,
        vmm: launcher.vmm().clone(),
        guest: Guest::of(launcher.machine()),
        crowds,
    })
}

/// Returns the options of a pool with so many warm clones of one snapshot.
pub(super) fn options(config: &Config, clones: usize) -> PoolOptions {
    PoolOptions::from(config)
        .with_size(1)
        .with_refresh(Duration::MAX)
        // Idle clones share nearly all of their memory, and this is to be seen.
        .with_budget(Budget::new(Limit::new(clones + 1, u64::MAX)))
        .with_warm(clones)
}

async fn crowd(
    config: &Config,
    own: &Own,
    launcher: &Launcher,
    clones: usize,
    rounds: usize,
) -> Result<Crowd> {
    let mut measured_until = None;
    let measured = own.with_pool(launcher, options(config, clones), async |pool| {
        let measured = of_pool(pool, clones, rounds).await;
        measured_until = Some(Instant::now());
        measured
    });
    let crowd = measured.await?;
    let close = measured_until.map(|until| until.elapsed());
    Ok(Crowd {
        close_ms: milliseconds(close.unwrap_or_default()),
        ..crowd
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
        spawn_ratio: 1.0,
        close_ms: 0.0,
        sweep_ms: 0.0,
    })
}

fn print(report: &Report) -> Result<()> {
    output::line(&format!(
        "{}; {}",
        report.guest.line(&report.vmm),
        report.host.load()
    ))?;
    output::line(
        "milliseconds, and MiB of a clone; medians; a spawn beside that among the fewest; the sweep \
         of what a killed process with as many left:",
    )?;
    let mebibytes = |bytes| format!("{:.2}", text::in_mebibytes(bytes));
    let rows = report.crowds.iter().map(|crowd| {
        [
            crowd.clones.to_string(),
            format!("{:.0}", crowd.fill_ms),
            text::milliseconds(crowd.spawn_ms.p50),
            format!("{:.2}", crowd.spawn_ratio),
            text::milliseconds(crowd.spawn_ms.p90),
            text::milliseconds(crowd.stats_ms.p50),
            mebibytes(crowd.pss_bytes.p50),
            mebibytes(crowd.uss_bytes.p50),
            format!("{:.0}", crowd.close_ms),
            format!("{:.0}", crowd.sweep_ms),
        ]
    });
    output::table(
        [
            "CLONES", "FILL", "SPAWN", "RATIO", "P90", "STATS", "PSS", "USS", "CLOSE", "SWEEP",
        ],
        rows.collect(),
    )
}
