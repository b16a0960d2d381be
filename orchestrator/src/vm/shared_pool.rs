//! The pool behind the free functions: one per process, opened when it is first needed.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::vm::config::Config;
use crate::vm::launcher::Launcher;
use crate::vm::pool::{Pool, PoolError, PoolOptions, PoolStats, SpawnError};
use crate::vm::vm_handle::{DestroyError, VmHandle};

static POOL: Mutex<Option<Pool>> = Mutex::const_new(None);

/// The process's pool. A pool lives in the async runtime that opened it: when that has ended, as
/// between two tests, the next call opens another.
async fn pool() -> Result<Pool, PoolError> {
    let mut shared = POOL.lock().await;
    if let Some(pool) = shared.as_ref().filter(|pool| pool.is_alive()) {
        return Ok(pool.clone());
    }
    let config = Config::from_env()?;
    let progress = Arc::new(|stage: &_| tracing::info!("{stage}"));
    let launcher = Launcher::open(&config, progress).await?;
    let pool = Pool::open(launcher, PoolOptions::from(&config)).await?;
    Ok(shared.insert(pool).clone())
}

/// A fresh VM of one's own, named `name` (1 to 64 bytes; also its host name), from the best tier
/// that can serve.
///
/// The first call opens the pool, and builds the template if there is none.
///
/// # Errors
/// [`SpawnError`]: a bad name, a bad setting, or why each tier failed.
pub async fn spawn_vm(name: &str) -> Result<VmHandle, SpawnError> {
    pool().await?.spawn(name).await
}

/// Kills the VM and waits until its process is gone. Dropping the handle does the first only.
///
/// # Errors
/// [`DestroyError`] if the process is killed, but has not ended after 10 s.
pub async fn destroy_vm(handle: VmHandle) -> Result<(), DestroyError> {
    handle.destroy().await
}

/// Fills the pool: snapshots that are missing are built, and each gets a warm clone. Optional; a
/// pool also fills itself after the first spawn.
///
/// # Errors
/// [`PoolError`]: a bad setting, something missing, or the first failure while filling.
pub async fn warmup_pool() -> Result<(), PoolError> {
    pool().await?.warmup().await
}

/// The pool at this moment.
///
/// # Errors
/// [`PoolError`]: a bad setting or something missing kept the pool from being opened.
pub async fn pool_stats() -> Result<PoolStats, PoolError> {
    Ok(pool().await?.stats())
}
