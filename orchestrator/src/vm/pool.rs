//! The snapshot pool: spawns from the best tier there is, and fills itself up again.
//!
//! ```text
//!   spawn ──▶ state (policy, no I/O) ──▶ warm clone ─▶ restore ─▶ cold boot
//!                  ▲        │ actions
//!          results │        ▼
//!                  └── driver task ──▶ builds, restores, deletions
//! ```

mod active_spawns;
mod backoff;
mod breaker;
mod budget;
mod clock;
mod contained;
mod core;
mod counters;
mod demand;
mod driver;
mod error;
mod failures;
mod footprint;
mod fork;
mod host;
mod host_memory;
mod lease;
mod memory;
mod number;
mod processor_time;

mod spawn;
mod standby;
mod standby_set;
mod starts;
pub(crate) mod state;
mod stats;
mod waiter;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::vm::config::{Config, DEFAULT_REFRESH, DEFAULT_STANDBY};
use crate::vm::exit_reason::ExitReason;
use crate::vm::host_limits;
use crate::vm::instance::Instance;
use crate::vm::launcher::{LaunchError, Launcher, PausedClone, blocking};
use crate::vm::limits::Limits;
use crate::vm::snapshot::{Kind, Snapshot, SnapshotId};
use crate::vm::vm_client::VmClient;
use crate::vm::vm_id::VmId;
use crate::vm::vmm::process;
use crate::vm::vms::PoolVms;
use clock::Now;
use core::{Bounds, Core, State};
use state::{PoolState, Rules};

pub(crate) use budget::WeakBudget;
pub use budget::{Budget, Limit, VMM_MIB};
pub use error::{PoolError, SpawnError, Tiers};
pub use footprint::{Footprint, SNAPSHOT_BUDGET};
pub use memory::ProcessMemory;
pub(crate) use number::{Number, Numbers};
pub use stats::{PoolStats, Quantiles, SpawnStage, TierOff};

/// Open files of this process that a VM takes, about.
const FILES_PER_VM: u64 = 8;

/// How many VMs a pool keeps ready, and its limits.
///
/// ```
/// # use ironclaw_orchestrator::vm::{Budget, Limit, PoolOptions};
/// let options = PoolOptions::new(2)
///     .with_min_warm(4)
///     .with_max_warm(16)
///     .with_budget(Budget::shared(Limit::of_vms(32)));
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolOptions {
    /// Snapshots, at least 1.
    pub size: usize,
    /// Minimum of warm clones, spread over the snapshots.
    pub min_warm: usize,
    /// Maximum of warm clones. If it exceeds `min_warm`, the pool keeps as many as the largest
    /// burst of the last three hours needed.
    pub max_warm: usize,
    /// Number of started VMM processes on standby, for spawns that find no warm clone, if the
    /// hypervisor supports them ([`Vmm::stand_by`](crate::vm::vmm::Vmm::stand_by)). The budget does
    /// not count them.
    pub standby: usize,
    /// Age at which a snapshot gets a successor; up to a fifth of it less, by jitter, so that not
    /// all are replaced at a time. [`Duration::MAX`]: never by this pool, for a process that ends
    /// before a successor would serve anybody.
    pub refresh: Duration,
    /// Limits this pool's VMs together with those of other pools that share the budget: all of this
    /// process share the host's, except those with a [`Budget::new`].
    pub budget: Budget,
}

impl PoolOptions {
    /// Returns options for `size` snapshots with a warm clone of each and one process on standby,
    /// within [`Budget::of_host`], which all pools of this process share.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self {
            size,
            min_warm: size,
            max_warm: size,
            standby: DEFAULT_STANDBY,
            refresh: DEFAULT_REFRESH,
            budget: Budget::of_host(),
        }
    }

    /// Returns these options with a fixed number of warm clones.
    #[must_use]
    pub fn with_warm(self, warm: usize) -> Self {
        self.with_min_warm(warm).with_max_warm(warm)
    }

    /// Returns these options with another number of [snapshots](Self::size).
    #[must_use]
    pub fn with_size(self, size: usize) -> Self {
        Self { size, ..self }
    }

    /// Returns these options with another [minimum](Self::min_warm) of warm clones.
    #[must_use]
    pub fn with_min_warm(self, min_warm: usize) -> Self {
        Self { min_warm, ..self }
    }

    /// Returns these options with another [maximum](Self::max_warm) of warm clones.
    #[must_use]
    pub fn with_max_warm(self, max_warm: usize) -> Self {
        Self { max_warm, ..self }
    }

    /// Returns these options with another number of processes on [standby](Self::standby).
    #[must_use]
    pub fn with_standby(self, standby: usize) -> Self {
        Self { standby, ..self }
    }

    /// Returns these options with another age at which snapshots are [replaced](Self::refresh).
    #[must_use]
    pub fn with_refresh(self, refresh: Duration) -> Self {
        Self { refresh, ..self }
    }

    /// Returns these options with another [budget](Self::budget).
    #[must_use]
    pub fn with_budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }
}

impl From<&Config> for PoolOptions {
    fn from(config: &Config) -> Self {
        Self {
            size: config.pool_size,
            min_warm: config.min_warm,
            max_warm: config.max_warm,
            standby: config.standby,
            refresh: config.snapshot_refresh,
            budget: Budget::shared(Limit {
                vms: config.max_vms.unwrap_or(usize::MAX),
                memory_mib: config
                    .memory_budget_mib
                    .unwrap_or_else(|| Budget::of_host().limit().memory_mib),
            }),
        }
    }
}

/// How a VM is spawned, and how long it may live.
///
/// ```
/// # use std::time::Duration;
/// # use ironclaw_orchestrator::vm::{Limits, SpawnOptions};
/// let options = SpawnOptions::named("job-7")
///     .with_patience(Duration::from_secs(600))
///     .with_timeout(None)
///     .with_limits(Limits::default().with_max_lifetime(Duration::from_secs(60)));
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpawnOptions {
    /// The VM's name, 1 to 64 bytes; also its host name.
    pub name: String,
    /// Timeout of the wait for room when the budget is used up, and for other starts. The time that
    /// the VM then takes to start does not count.
    pub patience: Duration,
    /// Timeout of the whole spawn, whatever it waits for; `None`: as long as the attempts of all
    /// tiers take, each of which has a limit of its own.
    pub timeout: Option<Duration>,
    /// Limits of the VM's life: when it is killed.
    pub limits: Limits,
}

impl SpawnOptions {
    /// Returns options that wait for room for 30 s, take five minutes at most, which is more than
    /// all tiers take one after the other, and set no limits for the VM.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            patience: Duration::from_secs(30),
            timeout: Some(Duration::from_secs(300)),
            limits: Limits::default(),
        }
    }

    /// Returns these options with another timeout of the wait for [room](Self::patience).
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Returns these options with another timeout of the [whole spawn](Self::timeout).
    #[must_use]
    pub fn with_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        Self { timeout, ..self }
    }

    /// Returns these options with other limits of the VM's [life](Self::limits).
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }
}

/// A snapshot pool; cheap to clone. It lives until its last handle is dropped, in the async runtime
/// that opened it. Once that runtime has ended, every call of the pool fails at once.
#[derive(Clone)]
pub struct Pool {
    core: Arc<Core>,
    driver: Arc<Driver>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("launcher", &self.core.launcher)
            .field("size", &self.core.bounds.size)
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

/// Minimum age of a snapshot that garbage collection deletes: it may be for other settings, whose
/// pool shares the directory and runs now and then.
const MIN_GC_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A pool that may be gone.
#[derive(Debug, Clone)]
pub(crate) struct WeakPool {
    core: Weak<Core>,
    driver: Weak<Driver>,
}

impl WeakPool {
    pub(crate) fn may_be_there(&self) -> bool {
        self.core.strong_count() > 0
    }

    pub(crate) fn upgrade(&self) -> Option<Pool> {
        Some(Pool {
            core: self.core.upgrade()?,
            driver: self.driver.upgrade()?,
        })
    }
}

/// Ends the driver with the last handle.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pool {
    /// Opens a pool with a number of its own, and lists its VMs in `vms`; see [`Pool::open`].
    pub(crate) async fn open_as(
        number: Number,
        vms: PoolVms<Instance>,
        launcher: Launcher,
        options: PoolOptions,
    ) -> Result<Self, PoolError> {
        let PoolOptions {
            size,
            min_warm,
            max_warm,
            standby,
            refresh,
            budget,
        } = options;
        if size == 0 {
            return Err(PoolError::NoPlaces);
        }
        if min_warm > max_warm {
            return Err(PoolError::WarmRange { min_warm, max_warm });
        }
        let guest_mib = u64::from(launcher.machine().memory_mib);
        if !budget.could_hold(guest_mib) {
            let limit = budget.limit();
            return Err(PoolError::NoRoom { guest_mib, limit });
        }
        tell_of_few_files(max_warm.min(budget.holds(launcher.machine().memory_mib)));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let seed = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let mut state = PoolState::new(Rules {
            size,
            min_warm,
            max_warm,
            refresh,
            builds: processors,
            guest_mib,
            budget: budget.clone(),
            seed,
        });
        let seen = adopt(&launcher, &mut state).await?;
        let (vmm, machine) = (launcher.hypervisor(), launcher.machine());
        let standby = budget.host().standby.join(&vmm, machine, standby, seed);
        let core = Arc::new(Core::new(
            number,
            vms,
            launcher,
            Bounds {
                size,
                budget,
                gc_after: match refresh {
                    // Never replaced by this pool, but still garbage when nobody uses it.
                    Duration::MAX => MIN_GC_AGE,
                    refresh => refresh.max(MIN_GC_AGE),
                },
            },
            state,
            standby,
            seen,
        ));
        let closed = core.closed.clone().drop_guard();
        let driver = Driver(tokio::spawn(driver::run(Arc::clone(&core), closed)));
        Ok(Self {
            core,
            driver: Arc::new(driver),
        })
    }

    pub(crate) fn downgrade(&self) -> WeakPool {
        WeakPool {
            core: Arc::downgrade(&self.core),
            driver: Arc::downgrade(&self.driver),
        }
    }

    /// Returns the launcher that makes the pool's VMs.
    #[must_use]
    pub fn launcher(&self) -> &Launcher {
        &self.core.launcher
    }

    /// Builds the snapshots that are missing or whose files are, restores warm clones and starts
    /// standby processes; returns when all are there, or there is no room for more. A standby
    /// process that does not start is no error: spawns are served without.
    ///
    /// # Errors
    /// [`PoolError::WarmUp`] with the first failure; the pool itself goes on trying.
    /// [`PoolError::RuntimeEnded`] if the async runtime that opened it is gone.
    pub async fn warmup(&self) -> Result<(), PoolError> {
        driver::inspect(&self.core).await;
        let settled = || self.core.standby.is_settled();
        let full = |state: &State, now| state.is_full(now) && settled();
        self.until(|state, _| state.activate(), full).await
    }

    /// Returns when no snapshot of the pool is older than allowed. The pool replaces old ones in
    /// any case, one after the other, while it is open.
    ///
    /// # Errors
    /// As for [`warmup`](Self::warmup).
    pub async fn renew(&self) -> Result<(), PoolError> {
        driver::inspect(&self.core).await;
        self.until(|state, _| state.activate(), PoolState::is_fresh)
            .await
    }

    /// Replaces every snapshot by one of a fresh boot, one after the other, and returns when all
    /// are replaced. Spawns are served meanwhile; an old snapshot is deleted when its last clone is
    /// gone.
    ///
    /// # Errors
    /// As for [`warmup`](Self::warmup).
    pub async fn refresh(&self) -> Result<(), PoolError> {
        driver::inspect(&self.core).await;
        self.until(PoolState::refresh, PoolState::is_fresh).await
    }

    /// Moves the pool's clock ahead, by a year at most: snapshots get that much older, backoffs
    /// that much shorter, bursts are forgotten that much sooner. No other clock moves. For tests of
    /// what time does to a pool, such as `ironclaw soak`.
    pub fn advance_clock(&self, by: Duration) {
        self.core.wake(self.core.advance_clock(by));
    }

    /// Applies a change, and returns when its effects are there.
    async fn until(
        &self,
        change: impl FnOnce(&mut State, Now),
        reached: impl Fn(&State, Now) -> bool,
    ) -> Result<(), PoolError> {
        let core = &self.core;
        let mut progress = core.progress.subscribe();
        let before = progress.borrow_and_update().number;
        core.apply(change);
        if core.has_no_runtime() {
            return Err(PoolError::RuntimeEnded);
        }
        loop {
            if core.read(|state| reached(state, core.clock.now())) {
                return Ok(());
            }
            tokio::select! {
                // The sender lives in the core.
                _ = progress.changed() => {}
                () = core.closing.cancelled() => return Err(PoolError::Closed),
                () = core.runtime_ended() => return Err(PoolError::RuntimeEnded),
            }
            let now = progress.borrow_and_update().clone();
            if let Some(error) = now.last.filter(|_| now.number > before) {
                return Err(PoolError::WarmUp(error));
            }
        }
    }

    /// Returns the pool's statistics. Reads nothing but memory of this process.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.core.stats()
    }

    /// Measures what the pool takes of the host at this moment.
    ///
    /// # Errors
    /// [`PoolError::Launch`] if the files of a snapshot can't be inspected.
    pub async fn footprint(&self) -> Result<Footprint, PoolError> {
        let (warm, standby) = (self.warm_pids(), self.standby_pids());
        let snapshots: Vec<_> = self.core.read(|state| {
            let present = state.present();
            present.map(|(_, snapshot)| snapshot.clone()).collect()
        });
        Ok(blocking(move || Footprint::of(&warm, &standby, &snapshots)).await?)
    }

    /// Returns the ids of the snapshots that are ready.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotId> {
        self.core
            .read(|state| state.snapshots().map(Snapshot::id).collect())
    }

    /// Returns the process ids of the warm clones' VMMs, for statistics of the host.
    #[must_use]
    pub fn warm_pids(&self) -> Vec<u32> {
        self.core
            .read(|state| state.warm().map(PausedClone::pid).collect())
    }

    /// Returns the process ids of the standby VMMs, for statistics of the host.
    #[must_use]
    pub fn standby_pids(&self) -> Vec<u32> {
        self.core.standby.pids()
    }

    /// Ends the warm clones and all work in progress, and waits until their processes are gone, but
    /// at most ten seconds for those that are stuck in the kernel. VMs that were handed out live
    /// on; waiting spawns fail.
    pub async fn close(self) {
        self.core.closing.cancel();
        // It ends by itself: its builds and restores are dropped, and its deletions are of files,
        // for which the wait for the root's lock has a limit.
        self.core.closed.cancelled().await;
        drop(self.core.drain());
        self.core.launcher.hypervisor().dropped_ended().await;
    }

    /// Closes the pool as [`close`](Self::close) does, and kills the VMs that it has handed out,
    /// whoever has their handles: calls of them fail with [`ExitReason::PoolClosed`].
    pub async fn close_with_vms(self) {
        // Before the first wait: a spawn in progress gets a VM that is ended at once.
        self.core.closing.cancel();
        let vms: Vec<VmClient> = self.core.vms.close().into_iter().map(VmClient).collect();
        for vm in &vms {
            vm.0.end(ExitReason::PoolClosed);
        }
        self.close().await;
        // Their room is given back after their processes have ended.
        let gone = async {
            for vm in &vms {
                vm.wait().await;
            }
        };
        if timeout(process::PROCESS_END_TIMEOUT, gone).await.is_err() {
            tracing::warn!("a VM of a closed pool has not ended yet");
        }
    }

    /// Returns the VMs that were handed out and are not gone, the oldest first.
    #[must_use]
    pub fn vms(&self) -> Vec<VmClient> {
        self.core.vms.vms().into_iter().map(VmClient).collect()
    }

    /// Returns the VM with this id, if it was handed out and is not gone.
    #[must_use]
    pub fn vm(&self, id: VmId) -> Option<VmClient> {
        self.core.vms.get(id).map(VmClient)
    }

    /// Returns whether the pool is open, and the runtime that opened it still there.
    pub(crate) fn is_alive(&self) -> bool {
        !self.driver.0.is_finished() && !self.core.closing.is_cancelled()
    }
}

/// Warns if this process may not have the open files that so many warm clones take: spawns would fail
/// for that before they fail for lack of room.
fn tell_of_few_files(clones: usize) {
    let takes = FILES_PER_VM.saturating_mul(u64::try_from(clones).unwrap_or(u64::MAX));
    if let Some(limit) = host_limits::open_files().filter(|limit| *limit < takes) {
        tracing::warn!(
            "{clones} warm clones take some {takes} open files of this process, which may have \
             {limit} (ulimit -n): raise that, as `vm::raise_open_files` does, or keep fewer"
        );
    }
}

/// Adopts the existing snapshots that fit; returns their ids.
async fn adopt(launcher: &Launcher, state: &mut State) -> Result<HashSet<SnapshotId>, PoolError> {
    let (store, vmm) = (launcher.snapshots().clone(), launcher.hypervisor());
    let listed = blocking(move || -> Result<_, LaunchError> {
        vmm.prepare()?;
        if store.is_read_only() {
            tracing::warn!("{}", store.read_only());
        } else {
            store.sweep()?;
        }
        Ok(store.list()?)
    })
    .await?;
    let mut adopted = HashSet::new();
    // The youngest first: they have the longest to live.
    for entry in listed.iter().rev() {
        let Ok(manifest) = &entry.state else { continue };
        // A checkpoint is a user's, with whatever was done in its VM.
        if manifest.kind != Kind::Base || launcher.requirements().check(manifest).is_err() {
            continue;
        }
        match launcher.load(entry.id).await {
            Ok(snapshot) => {
                if !state.adopt(snapshot, manifest.created.age_or_overdue(), Duration::ZERO) {
                    break;
                }
                adopted.insert(entry.id);
            }
            // Another process is deleting it.
            Err(error) => tracing::debug!(id = %entry.id, %error, "not adopted"),
        }
    }
    Ok(adopted)
}
