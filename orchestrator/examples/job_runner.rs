//! Runs many jobs, some at a time, each in a VM of its own that goes with it, one of them cancelled:
//! `cargo run --release --example job_runner -- 200 16`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use ironclaw_orchestrator::vm::{
    self, Budget, Command, Config, ErrorKind, Launcher, Limit, Limits, Output, Pool, PoolOptions,
    SpawnOptions, VmId,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Attempts at a job whose VM failed.
const ATTEMPTS: u32 = 3;
/// The job that is cancelled.
const CANCELLED: usize = 0;
/// Most bytes of a job's output.
const MAX_OUTPUT: u64 = 64 << 10;

/// Runs a job, and tells `started` which VM it has.
async fn attempt(
    pool: &Pool,
    job: usize,
    started: &mpsc::UnboundedSender<(usize, VmId)>,
) -> anyhow::Result<Output> {
    let options = SpawnOptions::named(format!("job-{job}"))
        // All wait for one of a few VMs.
        .with_patience(Duration::from_secs(600))
        .with_timeout(None)
        .with_limits(Limits::default().with_max_lifetime(Duration::from_secs(60)));
    let vm = pool.spawn_with(options).await?;
    // Nobody listens once all are over.
    let _ = started.send((job, vm.id()));
    let script = match job {
        CANCELLED => "sleep 3600",
        _ => "read n; echo $((n * n))",
    };
    let command = Command::new("/bin/sh")
        .args(["-c", script])
        .stdin(format!("{job}\n"))
        .max_output(MAX_OUTPUT)
        .timeout(Duration::from_secs(30));
    Ok(vm.exec(command).await?)
}

async fn run(
    pool: Pool,
    job: usize,
    started: mpsc::UnboundedSender<(usize, VmId)>,
) -> anyhow::Result<Output> {
    let mut attempts = 1;
    loop {
        match attempt(&pool, job, &started).await {
            Err(error) if vm::is_retryable(error.as_ref()) && attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse());
    let jobs: usize = numbers.next().transpose()?.unwrap_or(200);
    let vms: usize = numbers.next().transpose()?.unwrap_or(16);

    let config = Config::from_env()?;
    let launcher = Launcher::open(&config, std::sync::Arc::new(|_: &_| {})).await?;
    let options = PoolOptions::new(1)
        .with_warm(vms.min(4))
        .with_budget(Budget::shared(Limit::of_vms(vms)));
    let pool = Pool::open(launcher, options).await?;
    pool.warmup().await?;

    let (starts, mut started) = mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    for job in 0..jobs {
        let (pool, starts) = (pool.clone(), starts.clone());
        running.spawn(async move { (job, run(pool, job, starts).await) });
    }
    drop(starts);
    while let Some((job, id)) = started.recv().await {
        // Who loses interest in a job needs no handle of its VM to end it.
        if job == CANCELLED
            && let Some(vm) = pool.vm(id)
        {
            vm.kill();
        }
    }
    let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
    while let Some(joined) = running.join_next().await {
        let (job, result) = joined.context("a job panicked")?;
        let outcome = match result {
            Ok(output) if output.stdout == format!("{}\n", job * job).as_bytes() => "done",
            Ok(_) => "wrong",
            Err(error) if ErrorKind::of(error.as_ref()) == Some(ErrorKind::VmOver) => "cancelled",
            Err(error) => {
                eprintln!("job {job}: {error:#}");
                "failed"
            }
        };
        *ended.entry(outcome).or_default() += 1;
    }
    println!("{ended:?}");
    pool.close_with_vms().await;
    Ok(())
}
