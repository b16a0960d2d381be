//! `ironclaw bench`: measures how long each part of a spawn takes on this machine.

mod api;
mod bare;
mod churn;
mod clones;
mod comparison;
mod crowd;
mod faults;
mod first_command;
#[cfg(test)]
mod fixture;
mod host;
mod life;
mod load;
mod orphans;
mod own;
mod plot;
mod ratios;
mod report;
mod snapshots;
mod text;
mod tiers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ironclaw_console::output::{self, blocking, milliseconds};
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::{Config, Launcher, PoolOptions};

pub use api::OfApi;
pub use first_command::FirstCommand;

use clones::{Clones, FEW};
use comparison::{Committed, Compared, Comparison};
use host::{Host, Load};
use load::Concurrency;
use own::Own;
use ratios::Ratios;
use report::{Cache, Guest, Report, Warmup};
use snapshots::Snapshots;
use tiers::Tier;

/// Limit of cold boots, each of which takes seconds: more would cost time and tell nothing new.
const MAX_BOOTS: u16 = 5;
/// Limit of cold boots of a quick run.
const MAX_QUICK_BOOTS: u16 = 3;
/// Numbers of warm clones of one snapshot, and of concurrent spawns.
const COUNTS: &[usize] = &[1, 2, 5, 10, 20];

/// The measurements to make, and the use of the figures.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of measurements of each kind; of cold boots fewer.
    pub rounds: u16,
    /// Whether to measure only what the ratios need.
    pub quick: bool,
    /// Directory for the figures as SVG files.
    pub plot: Option<PathBuf>,
    /// File of ratios to compare with.
    pub compare: Option<PathBuf>,
    /// Numbers of clients that spawn, run a command and destroy again and again: only that is
    /// measured, beside Firecracker alone; empty: all the rest.
    pub churn: Vec<usize>,
    /// Numbers of warm clones: only what one costs among so many is measured, unless there are none.
    pub clones: Vec<usize>,
    /// Number of warm clones to hold until this process is killed, as a part of that.
    pub hold: Option<usize>,
    /// A command: only what its first run in a warm clone costs is measured.
    pub first: Option<FirstCommand>,
    /// What a daemon's API costs beside the library: only that is measured.
    pub api: Option<OfApi>,
}

/// Measures and prints; returns whether no ratio exceeds its committed one grossly. A signal ends
/// it early, without a report and with nothing left.
///
/// # Errors
/// If something can't be measured, read or written, or at a signal.
pub async fn run(config: &Config, options: &Options, json: bool) -> Result<bool> {
    if !options.churn.is_empty() {
        let phases = usize::from(options.rounds);
        churn::run(config, &options.churn, phases, &Own::default(), json).await?;
        return Ok(true);
    }
    if let Some(clones) = options.hold {
        orphans::hold(config, crowd::options(config, clones), clones).await?;
        return Ok(true);
    }
    if let Some(first) = &options.first {
        let rounds = usize::from(options.rounds);
        first_command::run(config, first, rounds, &Own::default(), json).await?;
        return Ok(true);
    }
    if let Some(api) = &options.api {
        let rounds = usize::from(options.rounds);
        api::run(config, api, rounds, &Own::default(), json).await?;
        return Ok(true);
    }
    // What can fail before minutes of measuring does.
    let committed = options
        .compare
        .as_deref()
        .map(Committed::read)
        .transpose()?;
    if let Some(directory) = &options.plot {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("can't make the directory {}", directory.display()))?;
    }
    if !options.clones.is_empty() {
        let rounds = usize::from(options.rounds);
        let draw = |report: &crowd::Report| match &options.plot {
            Some(directory) => plot::draw_crowds(report, directory),
            None => Ok(()),
        };
        crowd::run(
            config,
            (&options.clones, rounds),
            draw,
            &Own::default(),
            json,
        )
        .await?;
        return Ok(true);
    }
    let own = Own::default();
    let report = own.measured(measure(config, options, &own)).await?;
    if let Some(directory) = &options.plot {
        plot::draw(&report, directory)?;
    }
    let comparison = committed.map(|committed| Comparison::new(&committed, &report));
    let broken = comparison.as_ref().is_some_and(Comparison::is_broken);
    if json {
        output::json(&Compared { report, comparison })?;
    } else {
        print(&report, comparison.as_ref(), options.plot.as_deref())?;
    }
    Ok(!broken)
}

fn print(report: &Report, comparison: Option<&Comparison>, plots: Option<&Path>) -> Result<()> {
    text::print(report)?;
    match comparison {
        Some(comparison) => text::comparison(comparison, &report.ratios)?,
        None => text::ratios(&report.ratios)?,
    }
    if let Some(directory) = plots {
        output::line(&format!("plots: {}", directory.display()))?;
    }
    Ok(())
}

async fn measure(config: &Config, options: &Options, own: &Own) -> Result<Report> {
    let reporter = Reporter::new();
    let launcher = Launcher::open(config, reporter.progress()).await?;
    let load_before = Load::now()?;
    let rounds = options.rounds;

    let boots = if options.quick {
        MAX_QUICK_BOOTS
    } else {
        MAX_BOOTS
    };
    let cold = tiers::cold_boots(&launcher, rounds.min(boots), &reporter).await?;
    let created = own.create_snapshot(&launcher).await?;
    let cached_before_bytes = cached(&created.snapshot).await;
    let bench = Measuring {
        config,
        launcher: &launcher,
        own,
        rounds,
        reporter: &reporter,
    };
    let shared = bench.shared(options).await;
    let cached_after_bytes = cached(&created.snapshot).await;
    let memory_bytes = launcher.machine().memory_bytes();
    let mut snapshots = Snapshots::of(created);
    own.end().await;
    let Shared {
        restored,
        warm,
        mut clones,
        concurrency,
    } = shared?;
    let mut warmups = Vec::new();
    if !options.quick {
        let several = bench.several().await?;
        clones.extend(several.clones);
        snapshots.pool_disk_bytes = several.disk_bytes;
        warmups = several.warmups;
    }
    reporter.clear();

    let tiers = vec![warm, restored, cold];
    let vmm = launcher.vmm().clone();
    let guest = Guest::of(launcher.machine());
    Ok(Report {
        ratios: Ratios::of(&tiers, &clones, &snapshots, memory_bytes)?,
        host: Host::new(&launcher.requirements().host, load_before)?,
        vmm,
        guest,
        cache: Cache {
            memory_bytes,
            before_bytes: cached_before_bytes?,
            after_bytes: cached_after_bytes?,
        },
        tiers,
        snapshots,
        warmups,
        clones,
        concurrency,
    })
}

/// The figures of one snapshot.
struct Shared {
    restored: Tier,
    warm: Tier,
    clones: Vec<Clones>,
    concurrency: Vec<Concurrency>,
}

/// The figures of as many snapshots as the pool has.
struct Several {
    clones: Vec<Clones>,
    disk_bytes: Vec<u64>,
    warmups: Vec<Warmup>,
}

struct Measuring<'a> {
    config: &'a Config,
    launcher: &'a Launcher,
    own: &'a Own,
    rounds: u16,
    reporter: &'a Reporter,
}

impl Measuring<'_> {
    /// Returns options for a pool of the youngest snapshots, within the budget of the settings. Old
    /// ones are not replaced while they are measured.
    fn options(&self, snapshots: usize, warm: usize) -> PoolOptions {
        PoolOptions::from(self.config)
            .with_size(snapshots)
            .with_refresh(Duration::MAX)
            .with_warm(warm)
    }

    async fn shared(&self, options: &Options) -> Result<Shared> {
        let standby = self.config.standby;
        let restored =
            tiers::restores(self.own, self.launcher, standby, self.rounds, self.reporter).await?;
        let warm = tiers::warm(self.own, self.launcher, self.rounds, self.reporter).await?;
        let counts = if options.quick { &[FEW] } else { COUNTS };
        let mut clones = Vec::new();
        let mut concurrency = Vec::new();
        for &count in counts {
            let text = format!("{count} warm clones of one snapshot");
            self.reporter.stage(&text, true);
            let measured =
                self.own
                    .with_pool(self.launcher, self.options(1, count), async |pool| {
                        pool.warmup().await?;
                        let clones = Clones::of(1, &pool.warm_pids())?;
                        if options.quick {
                            return Ok((clones, None));
                        }
                        let text = format!("{count} spawns at a time");
                        self.reporter.stage(&text, true);
                        let load = load::measure(pool, count, self.rounds).await?;
                        Ok((clones, Some(load)))
                    });
            let (memory, load) = measured.await?;
            clones.extend(memory);
            concurrency.extend(load);
        }
        Ok(Shared {
            restored,
            warm,
            clones,
            concurrency,
        })
    }

    async fn several(&self) -> Result<Several> {
        let snapshots = self.config.pool_size;
        let mut several = Several {
            clones: Vec::new(),
            disk_bytes: Vec::new(),
            warmups: Vec::new(),
        };
        let counts = [1, 2, 4].map(|each| each * snapshots);
        for count in counts
            .into_iter()
            .filter(|count| *count <= COUNTS[COUNTS.len() - 1])
        {
            let text = format!("{count} warm clones of {snapshots} snapshots");
            self.reporter.stage(&text, true);
            let measured = self.own.with_pool(
                self.launcher,
                self.options(snapshots, count),
                async |pool| {
                    let found = pool.stats().snapshots;
                    let start = Instant::now();
                    pool.warmup().await?;
                    let took = start.elapsed();
                    let warm = pool.warm_pids();
                    let warmup = Warmup {
                        snapshots: pool.stats().snapshots,
                        found,
                        clones: warm.len(),
                        took_ms: milliseconds(took),
                    };
                    let disk_bytes = pool.footprint().await?.snapshot_disk_bytes;
                    Ok((Clones::of(snapshots, &warm)?, disk_bytes, warmup))
                },
            );
            let (clones, disk_bytes, warmup) = measured.await?;
            several.warmups.push(warmup);
            // Those of one snapshot are measured already.
            several.clones.extend(clones.filter(|_| snapshots > 1));
            several.disk_bytes = disk_bytes;
        }
        Ok(several)
    }
}

async fn cached(snapshot: &Snapshot) -> Result<u64> {
    let snapshot = snapshot.clone();
    blocking(move || snapshot.cached_bytes()).await
}
