//! The first command in a warm clone that nobody touched before, beside its second run there: what an
//! image's programs cost until they are in memory.
//!
//! A warm spawn of the template takes turns with one of the minimal template, so that other load on the
//! machine affects both alike.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ironclaw_console::output;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::template::TemplateName;
use ironclaw_orchestrator::vm::vmm::VmmIdentity;
use ironclaw_orchestrator::vm::{Command, Config, Launcher, Origin, Pool, PoolOptions, VmHandle};
use serde::Serialize;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::clones::Clones;
use super::host::{Host, Load};
use super::own::Own;
use super::report::Guest;
use super::text;
use crate::statistics::Spread;

/// Limit of a command's run: an interpreter under a translator on a busy machine takes seconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// What is measured.
#[derive(Debug, Clone)]
pub struct FirstCommand {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Number of clones that run it at the same time.
    pub at_once: usize,
}

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    host: Host,
    vmm: VmmIdentity,
    guest: Guest,
    template: String,
    command: Vec<String>,
    /// A warm spawn, in turns with one of the minimal template.
    spawn_ms: Spread<f64>,
    minimal_spawn_ms: Spread<f64>,
    /// The median of one, of the other's.
    spawn_of_minimal: f64,
    /// In one clone at a time.
    alone: Runs,
    /// In so many at once.
    at_once: AtOnce,
    /// Memory of an idle warm clone among these.
    pss_bytes: Spread<u64>,
    uss_bytes: Spread<u64>,
}

/// The command's runs, from the request to its end.
#[derive(Debug, Serialize)]
struct Runs {
    /// In a clone that ran nothing for anybody before.
    first_ms: Spread<f64>,
    /// Once more in the same clone.
    second_ms: Spread<f64>,
    first_of_second_p50: f64,
    first_of_second_p95: f64,
}

#[derive(Debug, Serialize)]
struct AtOnce {
    clones: usize,
    #[serde(flatten)]
    runs: Runs,
}

impl Runs {
    fn of(times: &[[Duration; 2]]) -> Result<Self> {
        let spread = |run: usize| {
            let times = times.iter().map(|times| times[run]);
            Spread::of_times(times).context("nothing was measured")
        };
        let (first_ms, second_ms) = (spread(0)?, spread(1)?);
        Ok(Self {
            first_ms,
            second_ms,
            first_of_second_p50: first_ms.p50 / second_ms.p50,
            first_of_second_p95: first_ms.p95 / second_ms.p95,
        })
    }
}

/// Measures, and prints.
pub(super) async fn run(
    config: &Config,
    first: &FirstCommand,
    rounds: usize,
    own: &Own,
    json: bool,
) -> Result<()> {
    let measure = async |reporter: &Reporter| measure(config, first, rounds, own, reporter).await;
    own.reported(measure, json, print).await
}

async fn measure(
    config: &Config,
    first: &FirstCommand,
    rounds: usize,
    own: &Own,
    reporter: &Reporter,
) -> Result<Report> {
    let load_before = Load::now()?;
    let mut of_minimal = config.clone();
    of_minimal.template = TemplateName::minimal().into();
    let minimal = Launcher::open(&of_minimal, reporter.progress()).await?;
    let launcher = Launcher::open(config, reporter.progress()).await?;
    for launcher in [&minimal, &launcher] {
        drop(own.create_snapshot(launcher).await?);
    }
    let (mut spawns, mut minimal_spawns, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    own.with_pool(&minimal, options(config, 1), async |minimal| {
        own.with_pool(&launcher, options(config, 1), async |pool| {
            for round in 1..=rounds {
                reporter.stage(&format!("first command {round} of {rounds}"), round == 1);
                let (vm, took) = spawn(minimal).await?;
                minimal_spawns.push(took);
                vm.destroy().await?;
                let (vm, took) = spawn(pool).await?;
                spawns.push(took);
                // Both pools have their next clones before anything is timed.
                minimal.warmup().await?;
                pool.warmup().await?;
                alone.push([
                    execute(&vm, &first.argv).await?,
                    execute(&vm, &first.argv).await?,
                ]);
                vm.destroy().await?;
            }
            Ok(())
        })
        .await
    })
    .await?;
    let (mut crowd, mut memory) = (Vec::new(), None);
    let options = options(config, first.at_once);
    own.with_pool(&launcher, options, async |pool| {
        for round in 1..=rounds.div_ceil(first.at_once) {
            let text = format!("first command in {} clones at once", first.at_once);
            reporter.stage(&text, round == 1);
            pool.warmup().await?;
            memory = Clones::of(1, &pool.warm_pids())?;
            crowd.extend(at_once(pool, first).await?);
        }
        Ok(())
    })
    .await?;
    let memory = memory.context("there are no clones")?;
    let spread = |times: Vec<Duration>| Spread::of_times(times).context("nothing was measured");
    let (spawn_ms, minimal_spawn_ms) = (spread(spawns)?, spread(minimal_spawns)?);
    Ok(Report {
        host: Host::new(&launcher.requirements().host, load_before)?,
        vmm: launcher.vmm().clone(),
        guest: Guest::of(launcher.machine()),
        template: config.template.to_string(),
        command: first.argv.clone(),
        spawn_of_minimal: spawn_ms.p50 / minimal_spawn_ms.p50,
        spawn_ms,
        minimal_spawn_ms,
        alone: Runs::of(&alone)?,
        at_once: AtOnce {
            clones: first.at_once,
            runs: Runs::of(&crowd)?,
        },
        pss_bytes: memory.pss_bytes,
        uss_bytes: memory.uss_bytes,
    })
}

fn options(config: &Config, clones: usize) -> PoolOptions {
    PoolOptions::from(config)
        .with_size(1)
        .with_refresh(Duration::MAX)
        .with_warm(clones)
}

/// Takes a warm clone, and how long that took.
async fn spawn(pool: &Pool) -> Result<(VmHandle, Duration)> {
    pool.warmup().await?;
    spawned(pool).await
}

async fn spawned(pool: &Pool) -> Result<(VmHandle, Duration)> {
    let start = Instant::now();
    let vm = pool.spawn("bench").await?;
    let took = start.elapsed();
    let origin = vm.origin();
    ensure!(
        origin == Origin::Warm,
        "a spawn was served by another tier than a warm clone: {origin}; `RUST_LOG=debug` says why"
    );
    Ok((vm, took))
}

/// Runs the command, which has to succeed.
async fn execute(vm: &VmHandle, argv: &[String]) -> Result<Duration> {
    let command = Command::from(argv).timeout(COMMAND_TIMEOUT);
    let start = Instant::now();
    let output = vm.exec(command).await?;
    let took = start.elapsed();
    ensure!(
        output.status.success(),
        "the command failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(took)
}

/// Runs the command in as many clones at the same time, twice.
async fn at_once(pool: &Pool, first: &FirstCommand) -> Result<Vec<[Duration; 2]>> {
    let mut vms = Vec::new();
    for _ in 0..first.at_once {
        vms.push(spawned(pool).await?.0);
    }
    // The pool has its next clones before anything is timed.
    pool.warmup().await?;
    let start = Arc::new(Barrier::new(first.at_once));
    let mut running = JoinSet::new();
    for vm in vms {
        let (start, argv) = (Arc::clone(&start), first.argv.clone());
        running.spawn(async move {
            let mut times = [Duration::ZERO; 2];
            for took in &mut times {
                start.wait().await;
                *took = execute(&vm, &argv).await?;
            }
            // Only when nobody is timed any more.
            start.wait().await;
            vm.destroy().await?;
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = running.join_next().await {
        all.push(times.context("a task failed")??);
    }
    Ok(all)
}

fn print(report: &Report) -> Result<()> {
    output::line(&format!(
        "{}; {}; {}",
        report.guest.line(&report.vmm),
        report.template,
        report.host.load()
    ))?;
    output::line(&format!(
        "warm spawn: {} ms, {:.2} of the minimal template's {} ms (medians); an idle clone takes {:.1} MiB \
         (PSS)",
        text::milliseconds(report.spawn_ms.p50),
        report.spawn_of_minimal,
        text::milliseconds(report.minimal_spawn_ms.p50),
        text::in_mebibytes(report.pss_bytes.p50)
    ))?;
    output::line(
        "milliseconds of the command in clones that nobody touched before, and once more there:",
    )?;
    let row = |clones: usize, runs: &Runs| {
        let Runs {
            first_ms,
            second_ms,
            ..
        } = runs;
        [
            clones.to_string(),
            text::milliseconds(first_ms.p50),
            text::milliseconds(second_ms.p50),
            format!("{:.2}", runs.first_of_second_p50),
            text::milliseconds(first_ms.p95),
            text::milliseconds(second_ms.p95),
            format!("{:.2}", runs.first_of_second_p95),
        ]
    };
    output::table(
        [
            "AT ONCE",
            "FIRST",
            "SECOND",
            "RATIO",
            "FIRST P95",
            "SECOND P95",
            "RATIO",
        ],
        vec![
            row(1, &report.alone),
            row(report.at_once.clones, &report.at_once.runs),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_runs_are_compared_with_second_ones_by_median_and_tail() {
        let times = |first, second| [first, second].map(Duration::from_millis);
        let runs = Runs::of(&[times(20, 10), times(30, 10), times(90, 30)]).unwrap();
        assert!((runs.first_of_second_p50 - 3.0).abs() < 1e-9);
        assert!((runs.first_of_second_p95 - 3.0).abs() < 1e-9);
        assert!((runs.first_ms.p50 - 30.0).abs() < 1e-9);
        assert!(Runs::of(&[]).is_err());
    }
}
