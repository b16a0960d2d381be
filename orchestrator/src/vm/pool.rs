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
mod open;
mod options;
mod processor_time;
mod resize;

mod spawn;
mod standby;
mod standby_set;
mod starts;
pub(crate) mod state;
mod stats;
mod waiter;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::vm::exit_reason::ExitReason;
use crate::vm::launcher::{Launcher, PausedClone, blocking};
use crate::vm::snapshot::{Snapshot, SnapshotId};
use crate::vm::vm_client::VmClient;
use crate::vm::vm_id::VmId;
use crate::vm::vmm::process;
use clock::Now;
use core::{Core, State};
use state::PoolState;

pub(crate) use budget::WeakBudget;
pub use budget::{Budget, Limit, VMM_MIB};
pub use error::{PoolError, SpawnError, Tiers};
pub use footprint::{Footprint, SNAPSHOT_BUDGET};
pub use memory::ProcessMemory;
pub(crate) use number::Numbers;
pub use options::{PoolOptions, SpawnOptions};
pub use stats::{PoolStats, Quantiles, SpawnStage, TierOff};

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
