//! A pool of one's own: two snapshots, four warm clones, at most eight VMs, and a VM with limits.

use std::sync::Arc;
use std::time::Duration;

use ironclaw_orchestrator::vm::{
    Budget, Config, Launcher, Limit, Limits, Pool, PoolOptions, SpawnOptions,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::from_env()?;
    let launcher = Launcher::open(&config, Arc::new(|stage| eprintln!("{stage}"))).await?;
    let options = PoolOptions {
        budget: Budget::new(Limit {
            vms: 8,
            memory_mib: 2048,
        }),
        ..PoolOptions::new(2).with_warm(4)
    };
    let pool = Pool::open(launcher, options).await?;
    pool.warmup().await?;

    let vm = pool
        .spawn_with(SpawnOptions {
            // How long to wait when eight VMs live already.
            patience: Duration::from_secs(5),
            limits: Limits {
                max_lifetime: Some(Duration::from_secs(600)),
                idle: Some(Duration::from_secs(60)),
            },
            ..SpawnOptions::named("my-task")
        })
        .await?;
    vm.put_file("/tmp/script", 0o700, b"#!/bin/sh\nwc -c\n")
        .await?;
    let out = vm.exec(["sh", "-c", "echo hello | /tmp/script"]).await?;
    println!(
        "{}: {}",
        vm.origin(),
        String::from_utf8_lossy(&out.stdout).trim()
    );
    vm.destroy().await?;

    let stats = pool.stats();
    println!("served by warm clones: {}", stats.served_warm);
    pool.close().await;
    Ok(())
}
