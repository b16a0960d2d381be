//! What belongs to this host, once for all pools of the process: the budget of its memory, and with it
//! the one queue for room, the limit of starts and the processes that stand by; and which pools there
//! are, those behind [`spawn_vm`](super::spawn_vm) by their templates and machines.
//!
//! ```text
//!   Node ──▶ host's budget ──▶ queue, starts, standby processes
//!     ├────▶ VMs that were handed out, whatever pool they are of
//!     ├────▶ pools that are open, whoever opened them
//!     └────▶ pools of the free functions, by template and machine
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::template::{Template, TemplateChoice, TemplateHash};
use crate::vm::config::Config;
use crate::vm::instance::Instance;
use crate::vm::launcher::{LaunchError, Launcher, Progress};
use crate::vm::pool::{Budget, Limit, Numbers, Pool, PoolError, PoolOptions, WeakBudget, WeakPool};
use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{Machine, Vmm};
use crate::vm::vms::Vms;

/// The one of this process, which has one host.
static OF_PROCESS: LazyLock<Node> = LazyLock::new(Node::default);

/// The host as this process uses it.
#[derive(Debug, Default)]
pub(crate) struct Node {
    numbers: Numbers,
    rundown: Rundown,
    budgets: Mutex<Budgets>,
    opened: Mutex<Vec<WeakPool>>,
    vms: Arc<Vms<Instance>>,
    shared: Mutex<HashMap<PoolKey, SharedEntry>>,
}

/// What the guests of a pool are that the free functions share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    /// Their template, as it was asked for: another one may be built under a name.
    pub(crate) template: TemplateKey,
    /// Their size; `None`: that of the settings.
    pub(crate) machine: Option<Machine>,
}

/// The template of a pool that the free functions share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TemplateKey {
    /// That of the settings.
    OfSettings,
    /// Whichever is found by this.
    Chosen(TemplateChoice),
    /// This one.
    Is(TemplateHash),
}

/// A pool, once it is open. Opening one may take long, and blocks nobody who uses another.
pub(crate) type SharedEntry = Arc<tokio::sync::Mutex<Option<Shared>>>;

/// A pool of the free functions.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    /// Where its template was found and by what, unless it was given: another may be there by now.
    pub(crate) found: Option<(PathBuf, TemplateChoice)>,
    pub(crate) looked: Instant,
}

#[derive(Debug, Default)]
struct Budgets {
    host: WeakBudget,
    /// Those within it.
    shared: Vec<WeakBudget>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn now(pool: Pool, found: Option<(PathBuf, TemplateChoice)>) -> Self {
        let looked = Instant::now();
        Self {
            pool,
            found,
            looked,
        }
    }

    /// A pool lives in the async runtime that opened it: when that has ended, as between two tests,
    /// the next call opens another.
    pub(crate) fn is_alive(&self) -> bool {
        self.pool.is_alive()
    }
}

impl Budgets {
    fn host(&mut self) -> Budget {
        self.host.upgrade().unwrap_or_else(|| {
            let host = Budget::of_memory();
            self.host = host.downgrade();
            host
        })
    }
}

impl Node {
    pub(crate) fn of_process() -> &'static Self {
        &OF_PROCESS
    }

    /// Returns the rundown of the VMs of launchers that settings led to.
    pub(crate) fn rundown(&self) -> &Rundown {
        &self.rundown
    }

    /// Opens a pool, which counts here.
    async fn open(&self, launcher: Launcher, options: PoolOptions) -> Result<Pool, PoolError> {
        let (number, vms) = (self.numbers.take(), self.vms.of_pool());
        let pool = Pool::open_as(number, vms, launcher, options).await?;
        let mut opened = lock(&self.opened);
        opened.retain(WeakPool::may_be_there);
        opened.push(pool.downgrade());
        drop(opened);
        Ok(pool)
    }

    /// The budget of the host, of which there is one as long as somebody has it.
    fn host_budget(&self) -> Budget {
        lock(&self.budgets).host()
    }

    /// The budget of so much within the host's, one for all who ask for the same.
    fn shared_budget(&self, limit: Limit) -> Budget {
        let mut budgets = lock(&self.budgets);
        let host = budgets.host();
        if host.limit() == limit {
            return host;
        }
        budgets.shared.retain(|budget| budget.upgrade().is_some());
        let mut there = budgets.shared.iter().filter_map(WeakBudget::upgrade);
        if let Some(budget) = there.find(|budget| budget.limit() == limit) {
            return budget;
        }
        drop(there);
        let budget = Budget::within(&host, limit);
        budgets.shared.push(budget.downgrade());
        budget
    }

    /// Returns the pools that are open, in the order in which they were opened.
    pub(crate) fn open_pools(&self) -> Vec<Pool> {
        let there = lock(&self.opened).clone();
        let upgraded = there.iter().filter_map(WeakPool::upgrade);
        upgraded.filter(Pool::is_alive).collect()
    }

    /// Returns the VMs that pools have handed out, whether the pools are there still or not.
    pub(crate) fn vms(&self) -> &Vms<Instance> {
        &self.vms
    }

    /// Returns the place of the shared pool of `key`.
    pub(crate) fn entry(&self, key: PoolKey) -> SharedEntry {
        Arc::clone(lock(&self.shared).entry(key).or_default())
    }

    /// Returns the shared pools that are open.
    pub(crate) fn shared_pools(&self) -> Vec<Pool> {
        let entries = lock(&self.shared);
        let open = entries.values().filter_map(|entry| {
            // A locked one is being opened.
            let entry = entry.try_lock().ok()?;
            let shared = entry.as_ref().filter(|shared| shared.is_alive())?;
            Some(shared.pool.clone())
        });
        open.collect()
    }

    /// Takes out the places of all shared pools.
    pub(crate) fn take_entries(&self) -> Vec<SharedEntry> {
        let mut entries = lock(&self.shared);
        entries.drain().map(|(_, entry)| entry).collect()
    }
}

impl Launcher {
    /// Finds the hypervisor, opens the directories, and builds the template if there is none yet,
    /// or one with another guest agent: that takes some seconds, and `progress` says so.
    ///
    /// # Errors
    /// [`LaunchError`] with what is missing and what to do.
    pub async fn open(config: &Config, progress: Progress) -> Result<Self, LaunchError> {
        let rundown = Node::of_process().rundown.clone();
        Self::open_in(rundown, config, progress).await
    }

    /// As [`open`](Self::open), for a template that is there.
    ///
    /// # Errors
    /// [`LaunchError`] with what is missing and what to do.
    pub async fn of(
        template: Template,
        config: &Config,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        let rundown = Node::of_process().rundown.clone();
        Self::of_in(rundown, template, config, progress).await
    }

    /// The hypervisors that a run would choose from, best first.
    ///
    /// # Errors
    /// [`LaunchError`] if there is none that serves.
    pub async fn hypervisors(config: &Config) -> Result<Vec<Arc<dyn Vmm>>, LaunchError> {
        Self::hypervisors_in(Node::of_process().rundown.clone(), config).await
    }
}

impl Pool {
    /// Opens a pool over the snapshots that `launcher`'s directory holds already. Nothing is
    /// built before the first spawn or warm-up.
    ///
    /// # Errors
    /// [`PoolError`] if the directory can't be read or the options make no pool.
    pub async fn open(launcher: Launcher, options: PoolOptions) -> Result<Self, PoolError> {
        Node::of_process().open(launcher, options).await
    }
}

impl Budget {
    /// As many VMs as fit into three quarters of the host's memory, or of what the control groups
    /// of this process allow. One for all of this process, as there is one host.
    #[must_use]
    pub fn of_host() -> Self {
        Node::of_process().host_budget()
    }

    /// The budget of this limit that all of this process share who ask for it here. It lies within
    /// the [host's](Self::of_host): its VMs count there, too, and wait for room there; with more
    /// memory than that, it may use that much as far as the others leave it.
    #[must_use]
    pub fn shared(limit: Limit) -> Self {
        Node::of_process().shared_budget(limit)
    }
}
