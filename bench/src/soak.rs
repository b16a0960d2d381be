//! `ironclaw soak`: uses a pool or a daemon for long, injects faults, and checks for leaks.

mod api;
mod children;
mod fault;
mod guest;
mod home;
mod leaks;
mod options;
mod report;
mod stop;
mod tally;
mod work;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use ironclaw_console::causes;
use ironclaw_console::output::blocking;
use ironclaw_console::progress::{self, Reporter};
use ironclaw_console::signals;
use ironclaw_orchestrator::vm::vmm::VmmIdentity;
use ironclaw_orchestrator::vm::{Budget, Config, Launcher, Origin, Pool, PoolOptions, PoolStats};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use fault::{CONSEQUENCES, Fault};
use guest::Dialect;
use home::Home;
use leaks::{Comparison, Taken};
use options::PROGRESS_INTERVAL;
use report::Report;
use stop::Stop;
use tally::{Blame, Tally};
use work::{Shift, Until};

pub use options::Options;

/// Pause between two faults, in milliseconds.
const FAULT_PAUSE_MILLIS: std::ops::Range<u64> = 200..1500;
/// Time for which the disk is full, in milliseconds.
const DISK_FULL_MILLIS: std::ops::Range<u64> = 100..2000;
/// Timeout of a pool's recovery after the last fault: it boots every snapshot anew.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(300);
/// Longer than the longest backoff of a pool.
const BEYOND_BACKOFF: Duration = Duration::from_secs(60);

/// Soaks and prints; returns whether nothing leaked, and nothing failed unexpectedly.
///
/// The first signal ends it early, with its report if the soak has begun; the second ends it at
/// once.
///
/// # Errors
/// If it can't begin or continue, or at a signal.
pub async fn run(config: &Config, options: &Options, json: bool) -> Result<bool> {
    let (ask, stop) = Stop::new();
    let reporter = Reporter::new();
    let first = signals::first()?;
    let report = {
        let mut soaked = pin!(soaked(config, options, &stop, &reporter));
        tokio::select! {
            report = &mut soaked => report?,
            signal = first => {
                ask.stop(signal);
                reporter.clear();
                progress::note("ending; another signal ends it at once");
                tokio::select! {
                    report = soaked => report?,
                    signal = signals::first()? => return Err(signal.into()),
                }
            }
        }
    };
    reporter.clear();
    match report {
        Soaked::Pool(report) => {
            report.print(json)?;
            Ok(report.ok)
        }
        Soaked::Daemon(report) => {
            report.print(json)?;
            Ok(report.is_ok())
        }
    }
}

/// The report of what was soaked.
enum Soaked {
    Pool(Report),
    Daemon(api::Report),
}

async fn soaked(
    config: &Config,
    options: &Options,
    stop: &Stop,
    reporter: &Reporter,
) -> Result<Soaked> {
    Ok(match &options.daemon {
        None => Soaked::Pool(perform(config, options, stop, reporter).await?),
        Some(settings) => {
            Soaked::Daemon(api::perform(config, options, settings, stop, reporter).await?)
        }
    })
}

async fn perform(
    config: &Config,
    options: &Options,
    stop: &Stop,
    reporter: &Reporter,
) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut skipped = Vec::new();
    let template = stop
        .or(async { Ok(Launcher::open(config, reporter.progress()).await?) })
        .await?
        .template()
        .clone();
    let mut home = {
        let config = config.clone();
        blocking(move || Home::create(&config)).await?
    };
    let image = template.manifest().root_disk.as_ref();
    let image = image.map_or(0, |image| image.size);
    if options.faults
        && let Err(error) = home.own_disk(room(config) + image)
    {
        skipped.push(format!(
            "{}: no file system of its own can be mounted, which takes root: {error}",
            Fault::Disk.name()
        ));
    }
    let (home, config) = {
        let config = config.clone();
        blocking(move || {
            let settings = home.settings(&config, &template)?;
            Ok::<_, anyhow::Error>((home, settings))
        })
        .await?
    };

    // What the first use of anything allocates in this process is no leak.
    reporter.stage("warming up", true);
    warm_up(&config, options, seed, stop).await?;
    let before = Taken::now(&config)?;

    let launcher = Launcher::open(&config, reporter.progress()).await?;
    let vmm = launcher.vmm().clone();
    let template = launcher.template().clone();
    let (pool, budget) = pool(launcher, &config).await?;
    let dialect = match stop.or(filled(&pool)).await {
        Ok(dialect) => dialect,
        Err(error) => {
            pool.close().await;
            return Err(error);
        }
    };
    let until = options.until();
    let shift = Shift::new(pool.clone(), dialect, options.faults, until, stop.clone());
    let shift = Arc::new(shift);
    let load = Load::put(&shift, options.concurrency, seed, &home, reporter).await?;
    let stats = pool.stats();
    if options.faults {
        reporter.stage("healing", true);
        match stop.or(async { Ok(heal(&pool).await) }).await {
            Ok(Ok(())) => {}
            Ok(Err(text)) => shift.tally().failed(Blame::Unexpected, "healing", text),
            Err(signal) => skipped.push(format!("healing: {signal}")),
        }
    }
    let seconds = shift.elapsed().as_secs_f64();
    let tally = std::mem::take(&mut *shift.tally());
    drop(shift);
    pool.close().await;
    let after = Taken::settled(&before, &config).await?;
    let mut leaks = Taken::compare(&before, &after);
    leaks.extend(leaks::budget(budget.used()));
    leaks.extend(load.memory);
    reporter.stage("comparing the template with what was built", true);
    leaks.push(blocking(move || leaks::changes(&template)).await?);
    drop(home);
    Ok(Tallied {
        tally,
        stats,
        leaks,
        skipped,
    }
    .report(vmm, seed, seconds, options.faults, stop))
}

/// Returns the bytes of a pool's snapshots, half of them about to be replaced.
fn room(config: &Config) -> u64 {
    let snapshots = config.pool_size as u64 * 2 + 2;
    config.machine.memory_bytes() * snapshots
}

async fn pool(launcher: Launcher, config: &Config) -> Result<(Pool, Budget)> {
    let options = PoolOptions::from(config);
    let budget = options.budget.clone();
    Ok((Pool::open(launcher, options).await?, budget))
}

/// Runs a round without faults, in which everything is used and closed again.
async fn warm_up(config: &Config, options: &Options, seed: u64, stop: &Stop) -> Result<()> {
    let launcher = Launcher::open(config, Reporter::new().progress()).await?;
    let (pool, _) = pool(launcher, config).await?;
    let round = async {
        let until = Until {
            deadline: None,
            spawns: Some(u64::from(options.concurrency)),
        };
        let dialect = filled(&pool).await?;
        let shift = Shift::new(pool.clone(), dialect, false, until, stop.clone());
        let shift = Arc::new(shift);
        workers(&shift, options.concurrency, seed).join_all().await;
        if let Some(failure) = shift.tally().failures().first() {
            bail!("the warm-up failed: {}: {}", failure.what, failure.first);
        }
        Ok(())
    };
    let done = stop.or(round).await;
    pool.close().await;
    done
}

/// Fills the pool, and finds out which commands its guests understand.
async fn filled(pool: &Pool) -> Result<Dialect> {
    pool.warmup().await?;
    let vm = pool.spawn("soak-dialect").await?;
    let dialect = Dialect::detect(&vm).await;
    vm.destroy().await?;
    dialect
}

fn workers(shift: &Arc<Shift>, count: u16, seed: u64) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for worker in 0..u64::from(count) {
        workers.spawn(work::work(Arc::clone(shift), seed.wrapping_add(worker)));
    }
    workers
}

/// The work between warm-up and report.
struct Load {
    memory: Option<Comparison>,
}

impl Load {
    async fn put(
        shift: &Arc<Shift>,
        concurrency: u16,
        seed: u64,
        home: &Home,
        reporter: &Reporter,
    ) -> Result<Self> {
        let mut first_quarter = None;
        {
            let mut workers = workers(shift, concurrency, seed);
            let done = async {
                while let Some(worker) = workers.join_next().await {
                    worker.context("a worker failed")?;
                }
                Ok(())
            };
            let mut rng = Rng::with_seed(seed.wrapping_add(u64::from(concurrency)));
            tokio::select! {
                done = done => done,
                watched = watch(shift, reporter, &mut first_quarter) => watched,
                sabotaged = sabotage(shift, home, &mut rng) => sabotaged,
            }?;
        }
        if let Some(disk) = home.disk() {
            disk.free().context("can't make room on the soak's disk")?;
            shift.strikes.disk_is_full(false);
        }
        let end = leaks::resident()?;
        Ok(Self {
            memory: first_quarter.map(|quarter| leaks::memory(quarter, end)),
        })
    }
}

/// Shows progress, and records the memory in use after a quarter; never ends by itself.
async fn watch(shift: &Shift, reporter: &Reporter, first_quarter: &mut Option<u64>) -> Result<()> {
    let mut ticks = interval(PROGRESS_INTERVAL);
    loop {
        ticks.tick().await;
        let progress = shift.progress();
        if progress >= 0.25 && first_quarter.is_none() {
            *first_quarter = Some(leaks::resident()?);
        }
        let (spawns, faults, unexpected) = {
            let tally = shift.tally();
            let faults: u64 = tally.faults.values().sum();
            (tally.spawns(), faults, tally.unexpected())
        };
        if shift.stopped() {
            continue;
        }
        let text = format!(
            "soaking: {:.0}%, {spawns} spawns, {faults} faults, {unexpected} unexpected failures",
            progress * 100.0
        );
        reporter.stage(&text, false);
    }
}

/// Injects faults, one after the other; never ends by itself.
async fn sabotage(shift: &Shift, home: &Home, rng: &mut Rng) -> Result<()> {
    if !shift.faults {
        return std::future::pending().await;
    }
    loop {
        for fault in Fault::shuffled(rng) {
            sleep(Duration::from_millis(rng.u64(FAULT_PAUSE_MILLIS))).await;
            if inject(fault, shift, home, rng).await? {
                shift.tally().fault(fault.name());
            }
        }
    }
}

/// Injects a fault; returns whether there was a target.
async fn inject(fault: Fault, shift: &Shift, home: &Home, rng: &mut Rng) -> Result<bool> {
    let (pool, strikes) = (&shift.pool, &shift.strikes);
    match fault {
        Fault::WarmClone => {
            let pid = rng.choice(pool.warm_pids());
            Ok(pid.is_some_and(|pid| strikes.kill(pid)))
        }
        Fault::AnyVmm => {
            let pid = rng.choice(fault::vmms());
            Ok(pid.is_some_and(|pid| {
                // A spawn may have to boot then, if nothing else is left.
                strikes.strike();
                strikes.kill(pid)
            }))
        }
        Fault::Snapshot => {
            let store = pool.launcher().snapshots().clone();
            let (aside, mut rng) = (home.aside(), rng.fork());
            let damage = move || fault::damage(&store, &aside, &mut rng);
            let damaged = blocking(damage).await.context("can't damage a snapshot")?;
            if let Some(what) = damaged {
                tracing::info!(what, "a snapshot was damaged");
            }
            Ok(damaged.is_some())
        }
        Fault::Clock => {
            pool.advance_clock(fault::jump(rng));
            Ok(true)
        }
        Fault::Disk => {
            let Some(disk) = home.disk() else {
                return Ok(false);
            };
            strikes.disk_is_full(true);
            disk.fill().context("can't fill the soak's disk")?;
            sleep(Duration::from_millis(rng.u64(DISK_FULL_MILLIS))).await;
            disk.free().context("can't make room on the soak's disk")?;
            strikes.disk_is_full(false);
            Ok(true)
        }
    }
}

/// Checks that the pool recovers after the last fault: every snapshot intact, every warm clone
/// there, and spawns served from them.
async fn heal(pool: &Pool) -> Result<(), String> {
    let size = pool.stats().size;
    let healed = async {
        loop {
            // The pool may still be in the backoff of an earlier failure.
            pool.advance_clock(BEYOND_BACKOFF);
            // Replaces all snapshots: a damaged one that nobody has used yet is still there.
            let filled = match pool.refresh().await {
                Ok(()) => pool.warmup().await,
                failed => failed,
            };
            match filled {
                Ok(()) => return,
                Err(error) => tracing::info!(%error, "not healed yet"),
            }
        }
    };
    if timeout(RECOVERY_TIMEOUT, healed).await.is_err() {
        return Err(format!(
            "the pool is not whole {RECOVERY_TIMEOUT:?} after the last fault"
        ));
    }
    for number in 0..=size {
        let vm = pool
            .spawn(&format!("healed-{number}"))
            .await
            .map_err(|error| causes(&error))?;
        if vm.origin() == Origin::ColdBooted {
            return Err("a pool that should be whole had to boot a VM".to_owned());
        }
        vm.destroy().await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The figures for the report.
struct Tallied {
    tally: Tally,
    stats: PoolStats,
    leaks: Vec<Comparison>,
    skipped: Vec<String>,
}

impl Tallied {
    fn report(
        mut self,
        vmm: VmmIdentity,
        seed: u64,
        seconds: f64,
        faults: bool,
        stop: &Stop,
    ) -> Report {
        for (reason, count) in &self.stats.fallbacks {
            if !faults || !CONSEQUENCES.contains(reason) {
                let text = format!("{count} attempts of a tier to serve failed: {reason}");
                self.tally.failed(Blame::Unexpected, "fallback", text);
            }
        }
        if !faults && self.stats.failures > 0 {
            let text = format!("{} builds, restores or clones failed", self.stats.failures);
            self.tally
                .failed(Blame::Unexpected, "filling the pool", text);
        }
        let Self {
            tally,
            stats,
            leaks,
            skipped,
        } = self;
        let unexpected_failures = tally.unexpected();
        Report {
            vmm,
            seed,
            seconds,
            interrupted: stop.is_asked(),
            ok: unexpected_failures == 0 && !leaks.iter().any(|line| line.leaked),
            spawns: tally.spawns(),
            cancelled: tally.cancelled,
            commands: tally.commands,
            served: tally.by_tier(),
            failures: tally.failures(),
            unexpected_failures,
            endings: tally.endings,
            faults: tally.faults,
            skipped,
            fallbacks: stats.fallbacks,
            leaks,
        }
    }
}
