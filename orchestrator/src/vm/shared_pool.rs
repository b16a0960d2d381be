//! The pools behind the free functions: one for each template and machine, opened at the first use,
//! all within one budget.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

#[cfg(feature = "prometheus")]
use crate::metrics;
use crate::template::{Template, TemplateChoice, TemplateStore};
use crate::vm::causes::with_causes;
use crate::vm::config::Config;
use crate::vm::launcher::{Launcher, Progress};
use crate::vm::node::{Node, PoolKey, Shared, SharedEntry, TemplateKey};
use crate::vm::pool::{
    Footprint, Pool, PoolError, PoolOptions, PoolStats, SpawnError, SpawnOptions,
};
use crate::vm::vm_client::VmClient;
use crate::vm::vm_handle::{DestroyError, VmHandle};
use crate::vm::vm_id::VmId;
use crate::vm::vmm::Machine;

/// Interval of checks whether a pool is up to date: the hypervisor and the default template are the
/// same.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The pool that a caller asks for.
#[derive(Debug, Clone, Default)]
struct Asked {
    template: Wanted,
    /// `None`: the machine of the settings.
    machine: Option<Machine>,
}

/// The template that a caller asks for.
#[derive(Debug, Clone, Default)]
enum Wanted {
    /// That of the settings.
    #[default]
    OfSettings,
    /// Whichever is found by this.
    Chosen(TemplateChoice),
    /// This one.
    Is(Template),
}

impl Asked {
    fn entry(&self) -> SharedEntry {
        Node::of_process().entry(PoolKey {
            template: match &self.template {
                Wanted::OfSettings => TemplateKey::OfSettings,
                Wanted::Chosen(choice) => TemplateKey::Chosen(choice.clone()),
                Wanted::Is(template) => TemplateKey::Is(*template.hash()),
            },
            machine: self.machine,
        })
    }

    /// Returns the settings for such a pool.
    fn config(&self) -> Result<Config, PoolError> {
        let mut config = Config::from_env()?;
        if let Wanted::Chosen(choice) = &self.template {
            config.template = choice.clone();
        }
        Ok(match self.machine {
            None => config,
            Some(machine) => config.with_machine(machine)?,
        })
    }

    async fn launcher(&self, config: &Config) -> Result<Launcher, PoolError> {
        let progress: Progress = Arc::new(|stage| tracing::info!("{stage}"));
        Ok(match self.template.clone() {
            Wanted::OfSettings | Wanted::Chosen(_) => Launcher::open(config, progress).await?,
            Wanted::Is(template) => Launcher::of(template, config, progress).await?,
        })
    }

    async fn open(&self, launcher: Launcher, config: &Config) -> Result<Shared, PoolError> {
        // It may have been opened by the hash of the default template, or the machine of the
        // settings, before.
        let mut same = None;
        for pool in Node::of_process().shared_pools() {
            let fits = pool.launcher().requirements() == launcher.requirements();
            if same.is_none() && fits && hypervisor_is_current(&pool).await {
                same = Some(pool);
            }
        }
        let pool = match same {
            Some(pool) => pool,
            None => Pool::open(launcher, PoolOptions::from(config)).await?,
        };
        let is_given = matches!(self.template, Wanted::Is(_));
        let found = || (config.template_path.clone(), config.template.clone());
        Ok(Shared::now(pool, (!is_given).then(found)))
    }
}

/// Returns the process's pool of that kind.
async fn pool(asked: &Asked) -> Result<Pool, PoolError> {
    let entry = asked.entry();
    let mut shared = entry.lock().await;
    if let Some(there) = shared.as_mut().filter(|shared| shared.is_alive()) {
        if there.looked.elapsed() >= CHECK_INTERVAL {
            there.looked = Instant::now();
            let (pool, found) = (there.pool.clone(), there.found.clone());
            tokio::spawn(check(Arc::clone(&entry), asked.clone(), pool, found));
        }
        return Ok(there.pool.clone());
    }
    let config = asked.config()?;
    let opened = asked.open(asked.launcher(&config).await?, &config).await?;
    let pool = opened.pool.clone();
    *shared = Some(opened);
    Ok(pool)
}

/// Replaces a pool whose hypervisor or template was replaced.
async fn check(
    entry: SharedEntry,
    asked: Asked,
    pool: Pool,
    found: Option<(PathBuf, TemplateChoice)>,
) {
    let launcher = pool.launcher().clone();
    let looked = spawn_blocking(move || is_current(&launcher, found.as_ref())).await;
    // An error means that the runtime shuts down.
    if looked.unwrap_or(true) {
        return;
    }
    if let Err(error) = renew(&entry, &asked, &pool).await {
        tracing::warn!(error = with_causes(&error), "the pool stays as it is");
    }
}

/// Returns whether the files of the hypervisor are those that it was found with, and the template that
/// is found where that of `launcher` was is the same. Looks at a few files, and starts
/// nothing.
fn is_current(launcher: &Launcher, found: Option<&(PathBuf, TemplateChoice)>) -> bool {
    let same_template = found.is_none_or(|(root, choice)| {
        let store = TemplateStore::open(root);
        let hash = store.and_then(|store| store.chosen_hash(choice));
        hash.is_ok_and(|hash| hash.as_ref() == Some(launcher.template().hash()))
    });
    same_template && launcher.hypervisor().is_current()
}

/// Returns whether the files of a pool's hypervisor are those that it was found with.
async fn hypervisor_is_current(pool: &Pool) -> bool {
    let launcher = pool.launcher().clone();
    let looked = spawn_blocking(move || launcher.hypervisor().is_current()).await;
    // An error means that the runtime shuts down.
    looked.unwrap_or(true)
}

/// Replaces `old` if it is not up to date. Holders of the old pool, and spawns in its queue, are
/// still served by it.
async fn renew(entry: &SharedEntry, asked: &Asked, old: &Pool) -> Result<(), PoolError> {
    let config = asked.config()?;
    let launcher = asked.launcher(&config).await?;
    let same = launcher.requirements() == old.launcher().requirements();
    // Another program of the same version is none that stands by already.
    if same && hypervisor_is_current(old).await {
        return Ok(());
    }
    tracing::info!("the hypervisor or the template was changed: a new pool takes over");
    let opened = asked.open(launcher, &config).await?;
    *entry.lock().await = Some(opened);
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
    pool(&Asked::default()).await?.spawn(name).await
}

/// Spawns a fresh VM of the template that is chosen by its name, or by the image of its root, which is
/// built where it is not there yet. It has a pool of its own, as large as the default one's and within
/// the same budget. Once another template is built under the name, a new pool takes over.
///
/// ```no_run
/// # async fn spawn() -> anyhow::Result<()> {
/// use ironclaw_orchestrator::template::TemplateName;
/// use ironclaw_orchestrator::vm::{self, SpawnOptions};
///
/// let python: TemplateName = "python".parse()?;
/// let vm = vm::spawn_vm_from(python, SpawnOptions::named("my-task")).await?;
/// # drop(vm);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As for [`spawn_vm`]; also if no template has the name, or the image can't be used.
pub async fn spawn_vm_from(
    template: impl Into<TemplateChoice>,
    options: SpawnOptions,
) -> Result<VmHandle, SpawnError> {
    let asked = Asked {
        template: Wanted::Chosen(template.into()),
        machine: None,
    };
    pool(&asked).await?.spawn_with(options).await
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
    let asked = Asked {
        template: Wanted::Is(template.clone()),
        machine: None,
    };
    pool(&asked).await?.spawn_with(options).await
}

/// Spawns a fresh VM of `template` on a `machine` of another size than that of the settings: each
/// size of a template has a pool of its own, within the same budget.
///
/// # Errors
/// As for [`spawn_vm`]; [`PoolError::Config`] if no guest can have that size.
pub async fn spawn_vm_on(
    machine: Machine,
    template: &Template,
    options: SpawnOptions,
) -> Result<VmHandle, SpawnError> {
    let asked = Asked {
        template: Wanted::Is(template.clone()),
        machine: Some(machine),
    };
    pool(&asked).await?.spawn_with(options).await
}

/// Kills the VM and waits until its process is gone. Dropping the handle does the first only.
///
/// # Errors
/// [`DestroyError`] if the process is killed, but has not ended after 10 s.
pub async fn destroy_vm(handle: VmHandle) -> Result<(), DestroyError> {
    handle.destroy().await
}

/// Lists the living VMs that pools of this process have handed out: by [`spawn_vm`], and by every
/// [`Pool`], even if that is closed by now. The oldest comes first.
#[must_use]
pub fn list() -> Vec<VmClient> {
    let vms = Node::of_process().vms().all();
    vms.into_iter().map(VmClient).collect()
}

/// Lists the open pools of this process, whoever opened them, in the order in which they were opened:
/// [`Pool::stats`] of each tells what the host does. Opens none.
#[must_use]
pub fn pools() -> Vec<Pool> {
    Node::of_process().open_pools()
}

/// Returns one of them; `None` if none has this id, or it is gone. To kill a VM by reference, use
/// [`VmClient::kill`].
#[must_use]
pub fn get(id: VmId) -> Option<VmClient> {
    Node::of_process().vms().get(id).map(VmClient)
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
    pool(&Asked::default()).await?.warmup().await
}

/// Replaces every snapshot of the default template's pool by one of a fresh boot, one after the
/// other; spawns are served meanwhile. A pool does so by itself when snapshots are old. If the
/// hypervisor, the default template or the settings have changed since the pool was opened, a new
/// pool takes over first; the first two are otherwise noticed within some seconds of a spawn.
///
/// # Errors
/// As for [`warmup_pool`].
pub async fn refresh_pool() -> Result<(), PoolError> {
    let asked = Asked::default();
    let old = pool(&asked).await?;
    renew(&asked.entry(), &asked, &old).await?;
    // Its clones must not stand in the way of the new ones.
    drop(old);
    pool(&asked).await?.refresh().await
}

/// Returns the statistics of the default template's pool: what is in this process's memory, however
/// many VMs there are.
///
/// # Errors
/// [`PoolError`]: a bad setting or something missing kept the pool from being opened.
pub async fn pool_stats() -> Result<PoolStats, PoolError> {
    Ok(pool(&Asked::default()).await?.stats())
}

/// Returns the footprint of the default template's pool on the host. Asks the kernel for the memory of
/// each of its processes, which takes it up to a millisecond each.
///
/// # Errors
/// As for [`pool_stats`], or the files of a snapshot can't be inspected.
pub async fn pool_footprint() -> Result<Footprint, PoolError> {
    pool(&Asked::default()).await?.footprint().await
}

#[cfg(feature = "prometheus")]
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
#[cfg(feature = "prometheus")]
pub async fn prometheus_text() -> Result<String, PoolError> {
    let mut all = Vec::new();
    for pool in pools() {
        all.push(stats(&pool).await?);
    }
    Ok(metrics::prometheus_text(&all))
}
