//! The pools behind the free functions: one per process and template, opened at the first use, all
//! within one budget.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics;
use crate::template::{Template, TemplateHash};
use crate::vm::causes::with_causes;
use crate::vm::config::Config;
use crate::vm::launcher::{Launcher, Progress};
use crate::vm::node::{Entry, Node, Shared};
use crate::vm::pool::{
    Footprint, Pool, PoolError, PoolOptions, PoolStats, SpawnError, SpawnOptions,
};
use crate::vm::vm_client::VmClient;
use crate::vm::vm_handle::{DestroyError, VmHandle};
use crate::vm::vm_id::VmId;

/// Interval of checks whether a pool is up to date: the hypervisor and the default template are the
/// same.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

fn entry(template: Option<&TemplateHash>) -> Entry {
    Node::of_process().entry(template.copied())
}

/// Returns the process's pool for `template`, or for the default one.
async fn pool(template: Option<&Template>) -> Result<Pool, PoolError> {
    let entry = entry(template.map(Template::hash));
    let mut shared = entry.lock().await;
    if let Some(Shared { pool, looked }) = shared.as_mut().filter(|shared| shared.is_alive()) {
        if looked.elapsed() >= CHECK_INTERVAL {
            *looked = Instant::now();
            let (entry, template, pool) = (Arc::clone(&entry), template.cloned(), pool.clone());
            tokio::spawn(async move {
                if let Err(error) = renew(&entry, template.as_ref(), &pool).await {
                    tracing::warn!(error = with_causes(&error), "the pool stays as it is");
                }
            });
        }
        return Ok(pool.clone());
    }
    let config = Config::from_env()?;
    let pool = open(launcher(template, &config).await?, &config).await?;
    *shared = Some(Shared::now(pool.clone()));
    Ok(pool)
}

async fn launcher(template: Option<&Template>, config: &Config) -> Result<Launcher, PoolError> {
    let progress: Progress = Arc::new(|stage| tracing::info!("{stage}"));
    Ok(match template {
        None => Launcher::open(config, progress).await?,
        Some(template) => Launcher::of(template.clone(), config, progress).await?,
    })
}

async fn open(launcher: Launcher, config: &Config) -> Result<Pool, PoolError> {
    // The default template's pool may have been opened by the template's hash before.
    let same = Node::of_process()
        .shared_pools()
        .remove(launcher.template().hash());
    let same = same.filter(|pool| pool.launcher().requirements() == launcher.requirements());
    if let Some(pool) = same {
        return Ok(pool);
    }
    Pool::open(launcher, PoolOptions::from(config)).await
}

/// Replaces `old` if it is not up to date. Holders of the old pool, and spawns in its queue, are
/// still served by it.
async fn renew(entry: &Entry, template: Option<&Template>, old: &Pool) -> Result<(), PoolError> {
    let config = Config::from_env()?;
    let launcher = launcher(template, &config).await?;
    if launcher.requirements() == old.launcher().requirements() {
        return Ok(());
    }
    tracing::info!("the hypervisor or the template was changed: a new pool takes over");
    let pool = open(launcher, &config).await?;
    *entry.lock().await = Some(Shared::now(pool));
    Ok(())
}

/// Spawns a fresh VM named `name` (1 to 64 bytes; also its host name), from the best tier that can
/// serve.
///
/// The first call opens the pool, and builds the template if there is none.
///
/// # Errors
/// [`SpawnError`]: a bad name, a bad setting, no room, or the reason why each tier failed.
pub async fn spawn_vm(name: &str) -> Result<VmHandle, SpawnError> {
    pool(None).await?.spawn(name).await
}

/// Spawns a fresh VM of `template`, which has a pool of its own, as large as the default one's and
/// within the same budget.
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

/// Lists the living VMs that pools of this process have handed out: by [`spawn_vm`], and by every
/// [`Pool`], even if that is closed by now. The oldest of a pool comes first.
#[must_use]
pub fn list() -> Vec<VmClient> {
    let all = Node::of_process().handed_out();
    let vms = all.iter().flat_map(|vms| vms.all());
    vms.map(VmClient).collect()
}

/// Returns one of them; `None` if none has this id, or it is gone. To kill a VM by reference, use
/// [`VmClient::kill`].
#[must_use]
pub fn get(id: VmId) -> Option<VmClient> {
    let all = Node::of_process().handed_out();
    let found = all.iter().find_map(|vms| vms.get(id));
    found.map(VmClient)
}

/// Closes the pools behind these functions, and kills the VMs that they have handed out, whoever
/// has their handles ([`Pool::close_with_vms`]). The next spawn opens another one.
pub async fn close_pool() {
    for entry in Node::of_process().take_entries() {
        // Waits for one that is being opened.
        let shared = entry.lock().await.take();
        if let Some(Shared { pool, .. }) = shared {
            pool.close_with_vms().await;
        }
    }
}

/// Fills the default template's pool: builds missing snapshots, and restores warm clones. Optional;
/// a pool also fills itself after the first spawn.
///
/// # Errors
/// [`PoolError`]: a bad setting, something missing, or the first failure while filling.
pub async fn warmup_pool() -> Result<(), PoolError> {
    pool(None).await?.warmup().await
}

/// Replaces every snapshot of the default template's pool by one of a fresh boot, one after the
/// other; spawns are served meanwhile. A pool does so by itself when snapshots are old. If the
/// hypervisor or the default template has changed since the pool was opened, which is otherwise
/// noticed within a minute, a new pool takes over first.
///
/// # Errors
/// As for [`warmup_pool`].
pub async fn refresh_pool() -> Result<(), PoolError> {
    let old = pool(None).await?;
    renew(&entry(None), None, &old).await?;
    // Its clones must not stand in the way of the new ones.
    drop(old);
    pool(None).await?.refresh().await
}

/// Returns the statistics of the default template's pool: what is in this process's memory, however
/// many VMs there are.
///
/// # Errors
/// [`PoolError`]: a bad setting or something missing kept the pool from being opened.
pub async fn pool_stats() -> Result<PoolStats, PoolError> {
    Ok(pool(None).await?.stats())
}

/// Returns the footprint of the default template's pool on the host. Asks the kernel for the memory of
/// each of its processes, which takes it up to a millisecond each.
///
/// # Errors
/// As for [`pool_stats`], or the files of a snapshot can't be inspected.
pub async fn pool_footprint() -> Result<Footprint, PoolError> {
    pool(None).await?.footprint().await
}

async fn stats(pool: &Pool) -> Result<PoolStats, PoolError> {
    Ok(PoolStats {
        footprint: Some(pool.footprint().await?),
        ..pool.stats()
    })
}

/// Returns the open pools of this process, whoever opened them, and their footprints, as Prometheus
/// text; the names are those in [`metrics`]. Opens none.
///
/// # Errors
/// [`PoolError`] if the files of a snapshot can't be inspected.
pub async fn prometheus_text() -> Result<String, PoolError> {
    let mut all = Vec::new();
    for pool in Node::of_process().open_pools() {
        all.push(stats(&pool).await?);
    }
    Ok(metrics::prometheus_text(&all))
}
