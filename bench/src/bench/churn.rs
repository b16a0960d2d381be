//! Measures clients that spawn, run a command, destroy, and repeat, beside a minimal client of
//! Firecracker: start, load, kill.
//!
//! The compared sides take turns, phase by phase, so that other load on the machine affects all
//! alike. Beside the rates is the processor time of a cycle: where processors bound the rate it says
//! what of the cycle to make cheaper, and other load on the machine hardly affects it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ironclaw_console::output;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::backend::JailChoice;
use ironclaw_orchestrator::vm::firecracker::{self, FirecrackerBinary};
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::{Config, Launcher, Origin, Pool, PoolOptions};
use procfs::process::Process;
use serde::Serialize;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::bare;
use super::host::Load;
use super::load::ByTier;
use super::own::Own;

/// Time that clients run before counting: until the pool's stock is used up, and the rate of starts
/// is steady.
const LEAD_IN: Duration = Duration::from_secs(1);
/// Time for which they are counted.
const PHASE: Duration = Duration::from_secs(2);

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    vmm: String,
    load_before: Load,
    load_after: Load,
    levels: Vec<Level>,
}

/// Rates with so many concurrent clients, and the processor time of a cycle; medians of all phases,
/// rates per second.
#[derive(Debug, Serialize)]
struct Level {
    clients: usize,
    phases: usize,
    /// Starts, loads and kills of the same Firecracker, without a jail.
    bare: f64,
    bare_cpu_ms: f64,
    /// Spawns with a command, without a jail.
    unjailed: f64,
    unjailed_cpu_ms: f64,
    unjailed_served: ByTier,
    unjailed_of_bare: f64,
    /// Jailed spawns with a command; `None` if the settings or the user's rights allow no jail.
    jailed: Option<f64>,
    jailed_cpu_ms: Option<f64>,
    jailed_served: Option<ByTier>,
    jailed_of_unjailed: Option<f64>,
}

/// A pool, or the minimal client.
enum Subject {
    Bare(PathBuf, Snapshot),
    Pool(Pool),
}

/// Measures and prints.
pub(super) async fn run(
    config: &Config,
    clients: &[usize],
    phases: usize,
    own: &Own,
    json: bool,
) -> Result<()> {
    let measure = async |reporter: &Reporter| measure(config, clients, phases, own, reporter).await;
    own.reported(measure, json, print).await
}

async fn measure(
    config: &Config,
    clients: &[usize],
    phases: usize,
    own: &Own,
    reporter: &Reporter,
) -> Result<Report> {
    let load_before = Load::now()?;
    let with = |jail| {
        let mut config = config.clone();
        config.jail = jail;
        config
    };
    let unjailed = Launcher::open(&with(JailChoice::Off), reporter.progress()).await?;
    ensure!(
        unjailed.vmm().kind == firecracker::KIND,
        "this compares with Firecracker's own figures, and {} is what runs the guest here: see \
         `ironclaw doctor`",
        unjailed.vmm().kind
    );
    let binary = FirecrackerBinary::find(config.backends.firecracker.binary.as_deref()).await?;
    let jailed = match config.jail {
        JailChoice::Off => None,
        _ if !rustix::process::geteuid().is_root() => None,
        _ => Some(Launcher::open(&with(JailChoice::On), reporter.progress()).await?),
    };
    // Of each kind of VM: neither pool makes one while it is measured.
    let created = own.create_snapshot(&unjailed).await?;
    let mut levels = Vec::new();
    for &clients in clients {
        let options = PoolOptions::from(config)
            .with_size(1)
            .with_refresh(Duration::MAX)
            .with_warm(clients);
        reporter.stage(&format!("{clients} clients"), true);
        let level = own.with_pool(&unjailed, options.clone(), async |pool| {
            let bare = Subject::Bare(binary.path.clone(), created.snapshot.clone());
            let mut subjects = vec![bare, Subject::Pool(pool.clone())];
            let mut second = None;
            if let Some(jailed) = &jailed {
                let pool = Pool::open(jailed.clone(), options.clone()).await?;
                subjects.push(Subject::Pool(pool.clone()));
                second = Some(pool);
            }
            let level = in_turns(&subjects, clients, phases).await;
            drop(subjects);
            if let Some(second) = second {
                second.close().await;
            }
            level
        });
        levels.push(level.await?);
    }
    drop(created);
    Ok(Report {
        vmm: unjailed.vmm().to_string(),
        load_before,
        load_after: Load::now()?,
        levels,
    })
}

async fn in_turns(subjects: &[Subject], clients: usize, phases: usize) -> Result<Level> {
    let mut rates = vec![Vec::new(); subjects.len()];
    let mut cpu_ms = rates.clone();
    let mut served = vec![ByTier::default(); subjects.len()];
    for _ in 0..phases {
        for (at, subject) in subjects.iter().enumerate() {
            let phase = phase(subject, clients).await?;
            rates[at].push(phase.rate);
            cpu_ms[at].push(phase.cpu_ms);
            served[at].add(phase.served);
        }
    }
    let medians = |all: &mut [Vec<f64>]| all.iter_mut().map(|each| median(each)).collect();
    let (rates, cpu_ms): (Vec<_>, Vec<_>) = (medians(&mut rates), medians(&mut cpu_ms));
    let (bare, unjailed) = (rates[0], rates[1]);
    let jailed = rates.get(2).copied();
    Ok(Level {
        clients,
        phases,
        bare,
        bare_cpu_ms: cpu_ms[0],
        unjailed,
        unjailed_cpu_ms: cpu_ms[1],
        unjailed_served: served[1],
        unjailed_of_bare: unjailed / bare,
        jailed,
        jailed_cpu_ms: cpu_ms.get(2).copied(),
        jailed_served: served.get(2).copied(),
        jailed_of_unjailed: jailed.map(|jailed| jailed / unjailed),
    })
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

/// The counts of clients, while counting.
#[derive(Default)]
struct Tally {
    counts: AtomicBool,
    over: AtomicBool,
    cycles: AtomicUsize,
    warm: AtomicUsize,
    restored: AtomicUsize,
    cold_boot: AtomicUsize,
}

impl Tally {
    fn cycle(&self, origin: Option<Origin>) {
        if !self.counts.load(Ordering::Relaxed) || self.over.load(Ordering::Relaxed) {
            return;
        }
        self.cycles.fetch_add(1, Ordering::Relaxed);
        let tier = match origin {
            Some(Origin::Warm) => &self.warm,
            Some(Origin::Restored) => &self.restored,
            Some(Origin::ColdBooted) => &self.cold_boot,
            _ => return,
        };
        tier.fetch_add(1, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// The figures of a phase.
struct Phase {
    /// Cycles per second.
    rate: f64,
    /// Processor time of a cycle.
    cpu_ms: f64,
    /// The tiers that served.
    served: ByTier,
}

/// Returns the processor time of this process and of the children that it has reaped. Kernel
/// threads that work for them are not in it.
fn processor_time() -> Result<Duration> {
    let stat = Process::myself().and_then(|process| process.stat());
    let stat = stat.context("can't read /proc/self/stat")?;
    let [users, systems] = [stat.cutime, stat.cstime].map(|ticks| ticks.max(0).unsigned_abs());
    let ticks = stat.utime + stat.stime + users + systems;
    let a_second = procfs::ticks_per_second().max(1);
    Ok(Duration::from_secs_f64(ticks as f64 / a_second as f64))
}

/// Measures so many clients.
async fn phase(subject: &Subject, clients: usize) -> Result<Phase> {
    let tally = Arc::new(Tally::default());
    let mut running = JoinSet::new();
    match subject {
        Subject::Bare(firecracker, snapshot) => {
            for _ in 0..clients {
                let (tally, firecracker) = (Arc::clone(&tally), firecracker.clone());
                let snapshot = snapshot.clone();
                running.spawn(async move {
                    let cycles = spawn_blocking(move || {
                        while !tally.is_over() {
                            bare::cycle(&firecracker, &snapshot)?;
                            tally.cycle(None);
                        }
                        anyhow::Ok(())
                    });
                    cycles.await?
                });
            }
        }
        Subject::Pool(pool) => {
            pool.warmup().await?;
            for _ in 0..clients {
                let (tally, pool) = (Arc::clone(&tally), pool.clone());
                running.spawn(async move {
                    while !tally.is_over() {
                        let vm = pool.spawn("bench").await?;
                        let output = vm.exec(["echo", "bench"]).await?;
                        ensure!(output.status.success(), "echo failed: {:?}", output.status);
                        let origin = vm.origin();
                        vm.destroy().await?;
                        tally.cycle(Some(origin));
                    }
                    anyhow::Ok(())
                });
            }
        }
    }
    let counted = async {
        sleep(LEAD_IN).await;
        let worked = processor_time()?;
        tally.counts.store(true, Ordering::Relaxed);
        let start = Instant::now();
        sleep(PHASE).await;
        tally.over.store(true, Ordering::Relaxed);
        anyhow::Ok((start.elapsed(), processor_time()?.saturating_sub(worked)))
    };
    let (elapsed, worked) = counted.await?;
    while let Some(client) = running.join_next().await {
        client.context("a task failed")??;
    }
    if let Subject::Pool(pool) = subject {
        // Refills now, not during the next measurement.
        pool.warmup().await?;
    }
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let served = ByTier {
        warm: count(&tally.warm),
        restored: count(&tally.restored),
        cold_boot: count(&tally.cold_boot),
    };
    let cycles = count(&tally.cycles) as f64;
    Ok(Phase {
        rate: cycles / elapsed.as_secs_f64(),
        cpu_ms: worked.as_secs_f64() * 1000.0 / cycles,
        served,
    })
}

fn print(report: &Report) -> Result<()> {
    output::line(&format!(
        "{}; load average {:.2} before, {:.2} after",
        report.vmm, report.load_before.one, report.load_after.one
    ))?;
    output::line(
        "per second, and milliseconds of processor time each (CPU): start, load and kill of \
         Firecracker alone (bare), and spawn, exec and destroy of the pool",
    )?;
    let served =
        |served: ByTier| format!("{}/{}/{}", served.warm, served.restored, served.cold_boot);
    let shown = |figure: Option<f64>| figure.map_or("-".to_owned(), |it| format!("{it:.1}"));
    let rows = report.levels.iter().map(|level| {
        [
            level.clients.to_string(),
            format!("{:.1}", level.bare),
            format!("{:.1}", level.bare_cpu_ms),
            format!("{:.1}", level.unjailed),
            format!("{:.1}", level.unjailed_cpu_ms),
            format!("{:.2}", level.unjailed_of_bare),
            served(level.unjailed_served),
            shown(level.jailed),
            shown(level.jailed_cpu_ms),
            level
                .jailed_of_unjailed
                .map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            level.jailed_served.map_or("-".to_owned(), served),
        ]
    });
    output::table(
        [
            "CLIENTS",
            "BARE",
            "CPU",
            "UNJAILED",
            "CPU",
            "OF BARE",
            "WARM/RESTORED/COLD",
            "JAILED",
            "CPU",
            "OF UNJAILED",
            "WARM/RESTORED/COLD",
        ],
        rows.collect(),
    )
}
