//! A pool with settings of its own: `cargo run --release --example own_pool`.

use std::sync::Arc;
use std::time::Duration;

use ironclaw_orchestrator::vm::{
    Budget, Config, Launcher, Limit, Limits, Pool, PoolOptions, SpawnError, SpawnOptions,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::from_env()?;
    let progress = Arc::new(|stage: &_| eprintln!("{stage}"));
    let launcher = Launcher::open(&config, progress).await?;
    let options = PoolOptions::new(1)
        .with_min_warm(1)
        .with_max_warm(2)
        .with_budget(Budget::new(Limit::new(2, 1024)));
    let pool = Pool::open(launcher, options).await?;
    pool.warmup().await?;

    let job = |name: &str| {
        SpawnOptions::named(name)
            .with_patience(Duration::from_secs(3))
            .with_limits(
                Limits::default()
                    .with_max_lifetime(Duration::from_secs(600))
                    .with_idle(Duration::from_secs(60)),
            )
    };
    let one = pool.spawn_with(job("one")).await?;
    let two = pool.spawn_with(job("two")).await?;
    for vm in [&one, &two] {
        let out = vm.exec(["hostname"]).await?;
        print!("{}", String::from_utf8_lossy(&out.stdout));
    }
    match pool.spawn_with(job("three")).await {
        Err(SpawnError::PoolExhausted { limit, .. }) => println!("no third one: {limit}"),
        other => anyhow::bail!("there was room for {other:?}"),
    }
    drop(one); // killed; its room is free as soon as it is gone
    two.destroy().await?; // killed, and gone when this returns
    let three = pool.spawn_with(job("three")).await?;
    println!("{} has room now", three.name());
    drop(three);
    pool.close().await;
    Ok(())
}
