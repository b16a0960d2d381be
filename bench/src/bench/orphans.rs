//! What a killed process leaves: how long the next start takes to sweep it.
//!
//! The process that is killed is this program once more, with the same arguments and `--hold`.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ironclaw_console::output::{self, blocking};
use ironclaw_orchestrator::vm::{Config, Launcher, Pool, PoolOptions};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::spawn_blocking;

/// The line that precedes the process ids of what is held.
const HOLDING: &str = "holding";

/// Has another process make a pool of `clones` warm clones, kills it, and does what the next start
/// does. Returns the time from the kill to the end of the sweep, when nothing is left of it.
pub(super) async fn sweep(config: &Config, launcher: &Launcher, clones: usize) -> Result<Duration> {
    let own = std::env::current_exe().context("can't find this program")?;
    let before = owners(&config.run_path)?;
    let mut owner = Command::new(own)
        .args(std::env::args_os().skip(1))
        .arg("--hold")
        .arg(clones.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("can't start another process that makes VMs")?;
    let mut stdout = BufReader::new(owner.stdout.take().context("no output")?).lines();
    let pids: Vec<u32> = loop {
        let Some(line) = stdout.next_line().await? else {
            let status = owner.wait().await?;
            bail!("the process that makes {clones} VMs ended early: {status}");
        };
        if let Some(pids) = line.strip_prefix(HOLDING) {
            let parsed: Result<_, _> = pids.split_whitespace().map(str::parse).collect();
            break parsed.context("no process ids")?;
        }
    };
    ensure!(pids.len() == clones, "{} of {clones} clones", pids.len());
    let started = |pid| Ok((pid, started_at(pid)?));
    let vmms = pids.into_iter().map(started).collect::<Result<Vec<_>>>()?;
    let left = owners(&config.run_path)?;
    ensure!(left.len() > before.len(), "its VMs are not in the run path");
    let start = Instant::now();
    owner.kill().await.context("can't kill it")?;
    let vmm = launcher.hypervisor();
    blocking(move || vmm.prepare()).await?;
    let took = start.elapsed();
    for (pid, started) in vmms {
        let lives = started_at(pid).is_ok_and(|at| at == started);
        ensure!(!lives, "process {pid} of a VM outlived the sweep");
    }
    let stays: Vec<_> = owners(&config.run_path)?
        .into_iter()
        .filter(|owner| !before.contains(owner))
        .collect();
    ensure!(stays.is_empty(), "not swept: {stays:?}");
    Ok(took)
}

/// Makes a pool of `clones` warm clones, says so, and holds them until it is killed, or whoever
/// started it has ended.
pub(super) async fn hold(config: &Config, options: PoolOptions, clones: usize) -> Result<()> {
    let launcher = Launcher::open(config, std::sync::Arc::new(|_: &_| {})).await?;
    let pool = Pool::open(launcher, options).await?;
    pool.warmup().await?;
    let pids = pool.warm_pids();
    ensure!(pids.len() == clones, "{} of {clones} clones", pids.len());
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    output::line(&format!("{HOLDING} {}", pids.join(" ")))?;
    // Returns at its end.
    let wait = spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    pool.close().await;
    wait?.context("can't read the standard input")?;
    Ok(())
}

/// Returns when a process that lives was started, by which one is told from a later one of the same
/// number.
fn started_at(pid: u32) -> Result<u64> {
    let process = procfs::process::Process::new(pid.try_into()?)?;
    let stat = process.stat()?;
    // A dead one stays until its parent reaps it, which is the host's first process by then.
    ensure!(!matches!(stat.state, 'Z' | 'X'), "process {pid} has ended");
    Ok(stat.starttime)
}

/// Lists the directories of processes with VMs.
fn owners(run_path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = std::fs::read_dir(run_path)
        .with_context(|| format!("can't list {}", run_path.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name()));
    let names: std::io::Result<Vec<_>> = names.collect();
    Ok(names?)
}
