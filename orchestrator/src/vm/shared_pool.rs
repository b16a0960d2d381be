//! The pools behind the free functions: one per process and template, opened when it is first
//! needed, all within one budget.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, OnceLock, PoisonError};

use tokio::sync::Mutex;

use crate::metrics;
use crate::template::{Template, TemplateHash};
use crate::vm::config::Config;
use crate::vm::launcher::{Launcher, Progress};
use crate::vm::pool::{Budget, Pool, PoolError, PoolOptions, PoolStats, SpawnError, SpawnOptions};
use crate::vm::vm_handle::{DestroyError, VmHandle};

/// By template; that of the default one is found out when its pool is opened.
static ENTRIES: LazyLock<std::sync::Mutex<HashMap<Option<TemplateHash>, Entry>>> =
    LazyLock::new(std::sync::Mutex::default);
static BUDGET: OnceLock<Budget> = OnceLock::new();

/// A pool, once it is open. Who opens it, which may take long, holds up nobody who wants another
/// one.
type Entry = Arc<Mutex<Option<Pool>>>;

fn entry(template: Option<&TemplateHash>) -> Entry {
    let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(entries.entry(template.cloned()).or_default())
}

/// A pool lives in the async runtime that opened it: when that has ended, as between two tests, the
/// next call opens another.
fn living(pool: Option<&Pool>) -> Option<Pool> {
    pool.filter(|pool| pool.is_alive()).cloned()
}

/// The pools that are open.
fn open_ones() -> BTreeMap<TemplateHash, Pool> {
    let entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
    let open = entries.values().filter_map(|entry| {
        // One that is locked is being opened.
        let pool = living(entry.try_lock().ok()?.as_ref())?;
        Some((pool.launcher().template().hash().clone(), pool))
    });
    open.collect()
}

/// The process's pool for `template`, or for the default one.
async fn pool(template: Option<&Template>) -> Result<Pool, PoolError> {
    let entry = entry(template.map(Template::hash));
    let mut entry = entry.lock().await;
    if let Some(pool) = living(entry.as_ref()) {
        return Ok(pool);
    }
    let config = Config::from_env()?;
    let progress: Progress = Arc::new(|stage| tracing::info!("{stage}"));
    let launcher = match template {
        None => Launcher::open(&config, progress).await?,
        Some(template) => Launcher::of(template.clone(), &config, progress).await?,
    };
    // The default template may have been asked for by its name before, or be now.
    let same = open_ones().remove(launcher.template().hash());
    let pool = match same {
        Some(pool) => pool,
        None => {
            let options = PoolOptions::from(&config);
            let budget = BUDGET.get_or_init(|| options.budget.clone()).clone();
            Pool::open(launcher, PoolOptions { budget, ..options }).await?
        }
    };
    *entry = Some(pool.clone());
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

/// The default template's pool at this moment, and what it takes of the host.
///
/// # Errors
/// [`PoolError`]: a bad setting or something missing kept the pool from being opened, or the files
/// of a snapshot can't be inspected.
pub async fn pool_stats() -> Result<PoolStats, PoolError> {
    stats(&pool(None).await?).await
}

async fn stats(pool: &Pool) -> Result<PoolStats, PoolError> {
    Ok(PoolStats {
        footprint: Some(pool.footprint().await?),
        ..pool.stats()
    })
}

/// The process's pools and what they take of the host, in the text format of Prometheus; the names
/// are those in [`metrics`]. The default template's pool is among them.
///
/// # Errors
/// As for [`pool_stats`].
pub async fn prometheus_text() -> Result<String, PoolError> {
    pool(None).await?;
    let mut all = Vec::new();
    for pool in open_ones().values() {
        all.push(stats(pool).await?);
    }
    Ok(metrics::prometheus_text(&all))
}
