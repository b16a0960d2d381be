//! Uses a daemon for long by its API, while it is restarted and killed, and checks for leaks.
//!
//! ```text
//!  clients ──▶ ledger (what each may expect)
//!     │           ▲
//!     ▼           │ compares after each restart
//!    up ◀────── fault
//! ```

mod clients;
mod fault;
mod ledger;
mod report;
mod up;
mod usage;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use ironclaw_client::{Client, Method};
use ironclaw_console::output::blocking;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::template::{TemplateName, TemplateStore};
use ironclaw_orchestrator::vm::config::{RUN_PATH, SNAPSHOT_PATH, TEMPLATE_PATH};
use ironclaw_orchestrator::vm::snapshot::SnapshotStore;
use ironclaw_orchestrator::vm::{Config, Launcher};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use super::home::Home;
use super::leaks::{self, Comparison, Taken};
use super::options::{Options, PROGRESS_INTERVAL};
use super::stop::Stop;
use super::tally::Blame;
use super::work::Until;
use crate::daemon::{Daemon, Start};
use clients::Shift;
use fault::{Fault, Target};
pub(super) use report::Report;
use up::{Up, sandboxes};
use usage::Usage;

/// The name of the template there.
const TEMPLATE: &str = "soak";
/// Pause between two faults, in milliseconds.
const FAULT_PAUSE_MILLIS: std::ops::Range<u64> = 1000..6000;
/// Snapshots for each client on the soak's own disk: its sandboxes when they are paused, and their copies.
const SNAPSHOTS: u64 = 8;

/// Soaks a daemon of these settings, `KEY=VALUE`, over those of the environment.
pub(super) async fn perform(
    config: &Config,
    options: &Options,
    settings: &[OsString],
    stop: &Stop,
    reporter: &Reporter,
) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut skipped = Vec::new();
    let launcher = stop
        .or(async { Ok(Launcher::open(config, reporter.progress()).await?) })
        .await?;
    let (template, vmm) = (launcher.template().clone(), launcher.vmm().clone());
    drop(launcher);
    let mut home = {
        let config = config.clone();
        blocking(move || Home::create(&config)).await?
    };
    let image = template.manifest().root_disk.as_ref();
    let image = image.map_or(0, |image| image.size);
    let snapshots = config.pool_size as u64 * 2 + u64::from(options.concurrency) * SNAPSHOTS;
    if options.faults
        && let Err(error) = home.own_disk(config.machine.memory_bytes() * snapshots + image)
    {
        skipped.push(format!(
            "{}: no file system of its own can be mounted, which takes root: {error}",
            Fault::Full.name()
        ));
    }
    let (home, config, start, state) = {
        let (config, settings) = (config.clone(), settings.to_vec());
        blocking(move || {
            let config = home.settings(&config, &template)?;
            let name = TEMPLATE.parse::<TemplateName>()?;
            TemplateStore::open(&config.template_path)?.set_name(&name, template.hash())?;
            let state = home.state().join("daemon");
            let start = Start::new(&settings, state.clone())
                .set(TEMPLATE_PATH.key, &config.template_path)
                .set(SNAPSHOT_PATH.key, &config.snapshot_path)
                .set(RUN_PATH.key, &config.run_path)
                .with("--warm", TEMPLATE);
            Ok::<_, anyhow::Error>((home, config, start, state))
        })
        .await?
    };
    fault::adopt()?;
    let before = Taken::now(&config)?;
    let key = start.create_key("soak").await?;
    reporter.stage("starting a daemon", true);
    let daemon = start.start(&key).await?;
    stop.or(warmed_up(daemon.client())).await?;

    // What the first use of anything allocates in the daemon is no leak.
    reporter.stage("warming up", true);
    let few = Until {
        deadline: None,
        spawns: Some(u64::from(options.concurrency)),
    };
    let shift = shift(&daemon, options, few, stop);
    workers(&shift, options.concurrency, seed).join_all().await;
    if let Some(failure) = shift
        .tally()
        .failures()
        .iter()
        .find(|failure| failure.blame == Blame::Unexpected)
    {
        bail!("the warm-up failed: {}: {}", failure.what, failure.first);
    }
    let fresh = emptied(&daemon).await?;
    let files = names(&state)?;

    let shift = self::shift(&daemon, options, options.until(), stop);
    let target = Target {
        start: &start,
        key: &key,
        database: &state.join("daemon.db"),
        disk: home.disk(),
    };
    let mut rng = Rng::with_seed(seed.wrapping_add(u64::from(options.concurrency)));
    let daemon = {
        let mut workers = workers(&shift, options.concurrency, seed);
        let done = async {
            while let Some(worker) = workers.join_next().await {
                worker.context("a client failed")?;
            }
            Ok(())
        };
        let faults = options.faults;
        let sabotaged = async {
            match faults {
                true => sabotage(&target, daemon, &shift, &mut rng).await,
                false => Ok(daemon),
            }
        };
        let both = async { tokio::try_join!(done, sabotaged) };
        tokio::select! {
            done = both => done?.1,
            never = watch(&shift, reporter) => never,
        }
    };
    let seconds = shift.elapsed().as_secs_f64();
    reporter.stage("comparing", true);
    let mut leaks = fresh.compare(&emptied(&daemon).await?);
    leaks.push(sandboxes_left(daemon.client()).await?);
    daemon.end().await?;
    fault::reap(0)?;
    let after = Taken::settled(&before, &config).await?;
    leaks.extend(Taken::compare(&before, &after));
    leaks.push(left_in(&files, names(&state)?));
    let snapshots = config.snapshot_path.clone();
    leaks.push(blocking(move || checkpoints(snapshots)).await?);
    let template = TemplateStore::open(&config.template_path)?.default_template()?;
    let template = template.context("the template is gone")?;
    leaks.push(blocking(move || leaks::changes(&template)).await?);
    drop(home);
    let tally = std::mem::take(&mut *shift.tally());
    let unexpected_failures = tally.unexpected();
    Ok(Report {
        vmm,
        seed,
        seconds,
        interrupted: stop.is_asked(),
        ok: unexpected_failures == 0 && !leaks.iter().any(|line| line.leaked),
        requests: std::mem::take(&mut *shift.done()),
        failures: tally.failures(),
        unexpected_failures,
        faults: tally.faults,
        skipped,
        leaks,
    })
}

fn shift(daemon: &Daemon, options: &Options, until: Until, stop: &Stop) -> Arc<Shift> {
    let up = Up::new(daemon.client().clone());
    let shift = Shift::new(
        up,
        TEMPLATE.to_owned(),
        options.concurrency,
        until,
        stop.clone(),
    );
    Arc::new(shift)
}

fn workers(shift: &Arc<Shift>, count: u16, seed: u64) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for worker in 0..u64::from(count) {
        workers.spawn(clients::work(Arc::clone(shift), seed.wrapping_add(worker)));
    }
    workers
}

async fn warmed_up(client: &Client) -> Result<()> {
    let path = format!("/v1/pools/{TEMPLATE}/warmup");
    Ok(client.perform(Method::POST, &path).await?)
}

/// Injects faults, one after the other, until the clients have ended; returns the daemon of the end.
async fn sabotage(
    target: &Target<'_>,
    mut daemon: Daemon,
    shift: &Shift,
    rng: &mut Rng,
) -> Result<Daemon> {
    loop {
        let mut faults = Fault::ALL;
        rng.shuffle(&mut faults);
        for fault in faults {
            sleep(Duration::from_millis(rng.u64(FAULT_PAUSE_MILLIS))).await;
            if shift.is_over() {
                return Ok(daemon);
            }
            let (next, is_done) = target.inject(fault, daemon, shift, rng).await?;
            daemon = next;
            if is_done {
                shift.tally().fault(fault.name());
            }
        }
    }
}

/// Shows progress; never ends.
async fn watch(shift: &Shift, reporter: &Reporter) -> ! {
    let mut ticks = interval(PROGRESS_INTERVAL);
    loop {
        ticks.tick().await;
        if shift.stop.is_asked() {
            continue;
        }
        let (faults, unexpected) = {
            let tally = shift.tally();
            (tally.faults.values().sum::<u64>(), tally.unexpected())
        };
        let text = format!(
            "soaking: {:.0}%, {} sandboxes, {faults} faults, {unexpected} unexpected failures",
            shift.progress() * 100.0,
            shift.made()
        );
        reporter.stage(&text, false);
    }
}

/// Deletes all sandboxes, waits for the warm clones, and returns what the daemon takes of the host.
async fn emptied(daemon: &Daemon) -> Result<Usage> {
    for id in sandboxes(daemon.client()).await?.into_keys() {
        let path = format!("/v1/sandboxes/{id}");
        match daemon.client().perform(Method::DELETE, &path).await {
            // Its time was over.
            Err(ironclaw_client::ClientError::Refused(refusal)) if refusal.kind == "not_found" => {}
            deleted => deleted?,
        }
    }
    warmed_up(daemon.client()).await?;
    Usage::of(&daemon.process()?)
}

async fn sandboxes_left(client: &Client) -> Result<Comparison> {
    let count = sandboxes(client).await?.len() as u64;
    Ok(Comparison::new("sandboxes", 0, count, 0))
}

/// Returns the names in a daemon's directory.
fn names(state: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = std::fs::read_dir(state).context("can't list a daemon's directory")?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn left_in(before: &BTreeSet<PathBuf>, after: BTreeSet<PathBuf>) -> Comparison {
    let (count, all) = (before.len() as u64, after.len() as u64);
    let left = after.into_iter().filter(|path| !before.contains(path));
    let mut compared = Comparison::new("files of the daemon", count, all, 0);
    compared.left = left.collect();
    compared
}

/// Counts the checkpoints of sandboxes that are gone.
fn checkpoints(path: PathBuf) -> Result<Comparison> {
    let left = SnapshotStore::open(path)?.checkpoints()?.len() as u64;
    Ok(Comparison::new("checkpoints", 0, left, 0))
}
