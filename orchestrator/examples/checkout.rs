//! Measures warm spawns by stage: `cargo run --release --example checkout -- 100`.

use anyhow::Context as _;
use ironclaw_orchestrator::vm::{self, Origin};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let spawns = std::env::args().nth(1).unwrap_or("10".to_owned());
    let spawns: u32 = spawns.parse().context("it takes a number of spawns")?;
    for n in 0..spawns {
        vm::warmup_pool().await?;
        let handle = vm::spawn_vm(&format!("checkout-{n}")).await?;
        anyhow::ensure!(handle.origin() == Origin::Warm, "no warm clone served");
        vm::destroy_vm(handle).await?;
    }
    let stats = vm::pool_stats().await?;
    println!("{} of {spawns} served warm", stats.served_warm);
    for (stage, times) in stats.stages {
        let (median, most) = (times.p50_us, times.p99_us);
        println!("{stage}: median {median} µs, 99 of 100 within {most} µs");
    }
    Ok(())
}
