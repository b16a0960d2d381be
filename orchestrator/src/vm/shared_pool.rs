//! The pools behind the free functions: one per process and template, opened when it is first
//! needed, all within one budget.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::metrics;
use crate::template::{Template, TemplateHash};
use crate::vm::config::Config;
use crate::vm::launcher::{Launcher, Progress};
use crate::vm::pool::{Budget, Pool, PoolError, PoolOptions, PoolStats, SpawnError, SpawnOptions};
use crate::vm::vm_handle::{DestroyError, VmHandle};

static POOLS: Mutex<Option<Pools>> = Mutex::const_new(None);

struct Pools {
    budget: Budget,
    default: Option<Pool>,
    others: HashMap<TemplateHash, Pool>,
}

impl Pools {
    fn of(config: &Config) -> Self {
        Self {
            budget: PoolOptions::from(config).budget,
            default: None,
            others: HashMap::new(),
        }
    }

    /// A pool lives in the async runtime that opened it: when that has ended, as between two
    /// tests, the next call opens another.
    fn living(&self, template: Option<&Template>) -> Option<Pool> {
        let pool = match template {
            None => self.default.as_ref(),
            Some(template) => self.others.get(template.hash()),
        };
        pool.filter(|pool| pool.is_alive()).cloned()
    }
}

/// The process's pool for `template`, or for the default one.
async fn pool(template: Option<&Template>) -> Result<Pool, PoolError> {
    let mut shared = POOLS.lock().await;
    if let Some(pool) = shared.as_ref().and_then(|pools| pools.living(template)) {
        return Ok(pool);
    }
    let config = Config::from_env()?;
    let pools = shared.get_or_insert_with(|| Pools::of(&config));
    let progress: Progress = Arc::new(|stage| tracing::info!("{stage}"));
    let launcher = match template {
        None => Launcher::open(&config, progress).await?,
        Some(template) => Launcher::of(template.clone(), &config, progress).await?,
    };
    let options = PoolOptions {
        budget: pools.budget.clone(),
        ..PoolOptions::from(&config)
    };
    let pool = Pool::open(launcher, options).await?;
    match template {
        None => pools.default = Some(pool.clone()),
        Some(template) => {
            pools.others.insert(template.hash().clone(), pool.clone());
        }
    }
    Ok(pool)
}

/// A fresh VM of one's own, named `name` (1 to 64 bytes; also its host name), from the best tier
/// that can serve.
///
/// The first call opens the pool, and builds the template if there is none.
///
/// # Errors
/// [`SpawnError`]: a bad name, a bad setting, no room, or why each tier failed.
pub async fn spawn_vm(name: &str) -> Result<VmHandle, SpawnError> {
    pool(None).await?.spawn(name).await
}

/// A fresh VM of `template`, which has a pool of its own, as large as the default one's and within
/// the same budget.
///
/// # Errors
/// As for [`spawn_vm`].
pub async fn spawn_vm_with(
    template: &Template,
    options: SpawnOptions,
) -> Result<VmHandle, SpawnError> {
    pool(Some(template)).await?.spawn_with(options).await
}

/// Kills the VM and waits until its process is gone. Dropping the handle does the first only.
///
/// # Errors
/// [`DestroyError`] if the process is killed, but has not ended after 10 s.
pub async fn destroy_vm(handle: VmHandle) -> Result<(), DestroyError> {
    handle.destroy().await
}

/// Fills the default template's pool: snapshots that are missing are built, and warm clones
/// restored. Optional; a pool also fills itself after the first spawn.
///
/// # Errors
/// [`PoolError`]: a bad setting, something missing, or the first failure while filling.
pub async fn warmup_pool() -> Result<(), PoolError> {
    pool(None).await?.warmup().await
}

/// The default template's pool at this moment.
///
/// # Errors
/// [`PoolError`]: a bad setting or something missing kept the pool from being opened.
pub async fn pool_stats() -> Result<PoolStats, PoolError> {
    Ok(pool(None).await?.stats())
}

/// The default template's pool and what it takes of the host, in the text format of Prometheus;
/// the names are those in [`metrics`].
///
/// # Errors
/// As for [`pool_stats`], and if the files of a snapshot can't be inspected.
pub async fn prometheus_text() -> Result<String, PoolError> {
    let pool = pool(None).await?;
    let taken = pool.footprint().await?;
    Ok(metrics::prometheus_text(&pool.stats(), &taken))
}
