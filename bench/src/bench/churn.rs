//! Measures clients that spawn, run a command, destroy, and repeat, beside a minimal client of
//! Firecracker: start, load, kill.
//!
//! The compared sides take turns, phase by phase, so that other load on the machine affects all
//! alike.

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
use serde::Serialize;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::bare;
use super::host::Load;
use super::load::Served;
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

/// Rates with so many concurrent clients; medians of all phases, per second.
#[derive(Debug, Serialize)]
struct Level {
    clients: usize,
    phases: usize,
    /// Starts, loads and kills of the same Firecracker, without a jail.
    bare: f64,
    /// Spawns with a command, without a jail.
    unjailed: f64,
    unjailed_served: Served,
    unjailed_of_bare: f64,
    /// Jailed spawns with a command; `None` if the settings or the user's rights allow no jail.
    jailed: Option<f64>,
    jailed_served: Option<Served>,
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
    let with = |jail| Config {
        jail,
        ..config.clone()
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
        let options = PoolOptions {
            size: 1,
            refresh: Duration::MAX,
            ..PoolOptions::from(config)
        }
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
    let mut served = vec![Served::default(); subjects.len()];
    for _ in 0..phases {
        for (at, subject) in subjects.iter().enumerate() {
            let (rate, by) = phase(subject, clients).await?;
            rates[at].push(rate);
            served[at].add(by);
        }
    }
    let medians: Vec<_> = rates.iter_mut().map(|rates| median(rates)).collect();
    let (bare, unjailed) = (medians[0], medians[1]);
    let jailed = medians.get(2).copied();
    Ok(Level {
        clients,
        phases,
        bare,
        unjailed,
        unjailed_served: served[1],
        unjailed_of_bare: unjailed / bare,
        jailed,
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

/// Returns the cycles per second of so many clients, and the tiers that served them.
async fn phase(subject: &Subject, clients: usize) -> Result<(f64, Served)> {
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
        tally.counts.store(true, Ordering::Relaxed);
        let start = Instant::now();
        sleep(PHASE).await;
        tally.over.store(true, Ordering::Relaxed);
        start.elapsed()
    };
    let elapsed = counted.await;
    while let Some(client) = running.join_next().await {
        client.context("a task failed")??;
    }
    if let Subject::Pool(pool) = subject {
        // Refills now, not during the next measurement.
        pool.warmup().await?;
    }
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let served = Served {
        warm: count(&tally.warm),
        restored: count(&tally.restored),
        cold_boot: count(&tally.cold_boot),
    };
    Ok((count(&tally.cycles) as f64 / elapsed.as_secs_f64(), served))
}

fn print(report: &Report) -> Result<()> {
    output::line(&format!(
        "{}; load average {:.2} before, {:.2} after",
        report.vmm, report.load_before.one, report.load_after.one
    ))?;
    output::line(
        "per second: start, load and kill of Firecracker alone (bare), and spawn, exec and destroy \
         of the pool",
    )?;
    let served =
        |served: Served| format!("{}/{}/{}", served.warm, served.restored, served.cold_boot);
    let rows = report.levels.iter().map(|level| {
        [
            level.clients.to_string(),
            format!("{:.1}", level.bare),
            format!("{:.1}", level.unjailed),
            format!("{:.2}", level.unjailed_of_bare),
            served(level.unjailed_served),
            level
                .jailed
                .map_or("-".to_owned(), |rate| format!("{rate:.1}")),
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
            "UNJAILED",
            "OF BARE",
            "WARM/RESTORED/COLD",
            "JAILED",
            "OF UNJAILED",
            "WARM/RESTORED/COLD",
        ],
        rows.collect(),
    )
}
