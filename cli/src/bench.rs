//! `ironclaw bench`

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::{Config, Created, Launcher, Origin, Pool, PoolOptions, VmHandle};
use serde::Serialize;

use crate::output::{self, blocking, mebibytes, milliseconds};
use crate::progress::Reporter;
use crate::statistics::Spread;

/// A cold boot takes seconds: more of them than this would be waiting, not knowledge.
const MAX_BOOTS: u16 = 5;
/// Warm clones of one snapshot whose memory is read.
const SIBLINGS: usize = 5;

#[derive(Debug, Serialize)]
struct Report {
    vmm: String,
    memory_mib: u32,
    vcpus: u8,
    /// Each to the agent's confirmation of the guest's identity.
    tiers: Vec<Tier>,
    /// Making the snapshot that the restores used.
    snapshot: Snapshots,
    /// Warm clones that share a snapshot.
    siblings: IdleClones,
    /// Warm clones as the settings have them.
    warm_clones: IdleClones,
}

#[derive(Debug, Serialize)]
struct Tier {
    origin: Origin,
    spawn: Spread,
    /// How many of these take as long as a cold boot, by the medians.
    cold_boot_ratio: f64,
    /// One `echo` in the guest after that.
    exec_echo: Spread,
}

#[derive(Debug, Serialize)]
struct Snapshots {
    boot_ms: f64,
    write_ms: f64,
    publish_ms: f64,
    /// Blocks that memory and state take on disk.
    disk_bytes: u64,
}

#[derive(Debug, Serialize)]
struct IdleClones {
    /// How many lived when their memory was read.
    clones: usize,
    /// Each one's proportional share of memory; shared pages count in parts.
    pss_bytes: Vec<u64>,
}

/// Measures one tier.
#[derive(Debug, Default)]
struct Samples {
    spawn: Vec<Duration>,
    exec_echo: Vec<Duration>,
}

impl Samples {
    async fn take(&mut self, start: Instant, handle: VmHandle) -> Result<()> {
        self.spawn.push(start.elapsed());
        let start = Instant::now();
        let output = handle.exec(["echo", "bench"]).await?;
        self.exec_echo.push(start.elapsed());
        ensure!(
            output.status.success(),
            "echo in the guest: {}",
            output.status
        );
        Ok(handle.destroy().await?)
    }

    fn tier(&self, origin: Origin, cold_median_ms: Option<f64>) -> Result<Tier> {
        let nothing = "nothing was measured";
        let spawn = Spread::of(&self.spawn).context(nothing)?;
        let exec_echo = Spread::of(&self.exec_echo).context(nothing)?;
        let cold_boot_ratio = cold_median_ms.unwrap_or(spawn.median_ms) / spawn.median_ms;
        Ok(Tier {
            origin,
            spawn,
            cold_boot_ratio,
            exec_echo,
        })
    }
}

/// Measures all tiers and prints them.
pub(crate) async fn run(config: &Config, rounds: u16, json: bool) -> Result<u8> {
    let reporter = Reporter::new();
    let launcher = Launcher::open(config, reporter.progress()).await?;

    let mut cold = Samples::default();
    let boots = rounds.min(MAX_BOOTS);
    for round in 1..=boots {
        reporter.stage(&format!("cold boot {round} of {boots}"), round == 1);
        let start = Instant::now();
        let handle = launcher.cold_boot("bench-cold").await?;
        cold.take(start, handle).await?;
    }

    let created = launcher.create_snapshot().await?;
    let id = created.snapshot.id();
    let restored = restores(&launcher, &created.snapshot, rounds, &reporter).await;
    let siblings = siblings(&launcher).await;
    let snapshot = Snapshots::of(created);
    let store = launcher.snapshots().clone();
    blocking(move || store.delete(id)).await?;
    let (restored, siblings) = (restored?, siblings?);

    let pool = Pool::open(launcher.clone(), PoolOptions::from(config)).await?;
    let warmed = warm(&pool, rounds, &reporter).await;
    pool.close().await;
    let (warm, warm_clones) = warmed?;
    reporter.over();

    let cold = cold.tier(Origin::ColdBooted, None)?;
    let median = Some(cold.spawn.median_ms);
    let restored = restored.tier(Origin::Restored, median)?;
    let warm = warm.tier(Origin::Warm, median)?;
    let vmm = launcher.vmm();
    let machine = launcher.machine();
    let report = Report {
        vmm: format!("{} {} ({})", vmm.kind, vmm.version, vmm.accelerator),
        memory_mib: machine.memory_mib,
        vcpus: machine.vcpus,
        tiers: vec![warm, restored, cold],
        snapshot,
        siblings,
        warm_clones,
    };
    if json {
        output::json(&report)
    } else {
        print(&report)
    }?;
    Ok(0)
}

async fn restores(
    launcher: &Launcher,
    snapshot: &Snapshot,
    rounds: u16,
    reporter: &Reporter,
) -> Result<Samples> {
    let mut samples = Samples::default();
    for round in 1..=rounds {
        reporter.stage(&format!("restore {round} of {rounds}"), round == 1);
        let start = Instant::now();
        let handle = launcher.restore_vm(snapshot, "bench-restore").await?;
        samples.take(start, handle).await?;
    }
    Ok(samples)
}

async fn siblings(launcher: &Launcher) -> Result<IdleClones> {
    let options = PoolOptions::new(1).with_warm(SIBLINGS);
    let pool = Pool::open(launcher.clone(), options).await?;
    let warmed = pool.warmup().await;
    let clones = IdleClones::of(pool.warm_pids());
    pool.close().await;
    warmed?;
    clones
}

impl IdleClones {
    fn of(pids: impl IntoIterator<Item = u32>) -> Result<Self> {
        let pss_bytes = pids.into_iter().map(pss).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            clones: pss_bytes.len(),
            pss_bytes,
        })
    }
}

async fn warm(pool: &Pool, rounds: u16, reporter: &Reporter) -> Result<(Samples, IdleClones)> {
    reporter.stage("warming up the pool", true);
    pool.warmup().await?;
    let warm_clones = IdleClones::of(pool.warm_pids())?;
    let mut samples = Samples::default();
    for round in 1..=rounds {
        reporter.stage(&format!("warm spawn {round} of {rounds}"), round == 1);
        // Nothing else may be under way: a spawn that competes with a refill is another figure.
        pool.warmup().await?;
        let start = Instant::now();
        let handle = pool.spawn("bench-warm").await?;
        let origin = handle.origin();
        ensure!(
            origin == Origin::Warm,
            "a spawn from a full pool was served by another tier: {origin}"
        );
        samples.take(start, handle).await?;
    }
    Ok((samples, warm_clones))
}

impl Snapshots {
    fn of(created: Created) -> Self {
        Self {
            boot_ms: milliseconds(created.boot),
            write_ms: milliseconds(created.write),
            publish_ms: milliseconds(created.publish),
            disk_bytes: created.disk_bytes,
        }
    }
}

/// Proportional set size of a process, in bytes.
fn pss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    parse_pss(&text).with_context(|| format!("{path} has no line Pss"))
}

fn parse_pss(smaps: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn print(report: &Report) -> Result<()> {
    output::line(&format!(
        "{}, guests of {} MiB and {} vCPU; milliseconds, to the agent's first answer",
        report.vmm, report.memory_mib, report.vcpus
    ))?;
    let rows = report.tiers.iter().map(|tier| {
        let spread = |spread: Spread| {
            format!(
                "{:.1} / {:.1} / {:.1}",
                spread.min_ms, spread.median_ms, spread.max_ms
            )
        };
        [
            tier.origin.to_string(),
            tier.spawn.samples.to_string(),
            spread(tier.spawn),
            format!("1/{:.0}", tier.cold_boot_ratio),
            spread(tier.exec_echo),
        ]
    });
    output::table(
        [
            "TIER",
            "N",
            "SPAWN min/median/max",
            "OF COLD BOOT",
            "echo min/median/max",
        ],
        rows.collect(),
    )?;
    let Snapshots {
        boot_ms,
        write_ms,
        publish_ms,
        disk_bytes,
    } = &report.snapshot;
    output::line(&format!(
        "snapshot: write {write_ms:.1} ms, publish {publish_ms:.1} ms, after a boot of \
         {boot_ms:.0} ms; {} on disk",
        mebibytes(*disk_bytes)
    ))?;
    for (clones, what) in [
        (&report.siblings, "idle warm clones of one snapshot"),
        (
            &report.warm_clones,
            "idle warm clones of as many snapshots as the pool has",
        ),
    ] {
        let (Some(min), Some(max)) = (clones.pss_bytes.iter().min(), clones.pss_bytes.iter().max())
        else {
            continue;
        };
        let (min, max) = (mebibytes(*min), mebibytes(*max));
        output::line(&format!(
            "{} {what}: PSS {min} to {max} each",
            clones.clones
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pss_is_read_from_its_own_line() {
        let text = "55e0-7ffc ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:      123 kB\n\
                    Pss_Dirty:   7 kB\n";
        assert_eq!(parse_pss(text), Some(123 * 1024));
        assert_eq!(parse_pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn pss_of_a_living_process_is_not_nothing() {
        assert!(pss(std::process::id()).unwrap() > 0);
    }
}
