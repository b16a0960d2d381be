//! Copies of a VM, restored from its checkpoint: within the pool's budget, and beside its tiers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::core::Core;
use super::error::Tiers;
use super::lease::Lease;
use super::starts::Start;
use super::{Pool, SpawnError, SpawnOptions};
use crate::vm::identity::{self, VmIdentity, VmName};
use crate::vm::launcher::LaunchError;
use crate::vm::snapshot::{Snapshot, SnapshotError};
use crate::vm::vm_handle::{Origin, Timings, VmHandle};

impl Pool {
    /// Restores a copy of the VM of `checkpoint`, with an id, a host name, entropy and a clock of
    /// its own; programs in the VM continue in it. Uses room in the pool's budget like any VM, and
    /// waits for it up to `options.patience`.
    ///
    /// # Errors
    /// [`SpawnError::PoolExhausted`] if there was no room in time; [`SpawnError::Failed`] if the
    /// checkpoint is not one of this pool's template, VMM and machine, or can't be restored;
    /// [`SpawnError::TimedOut`] beyond `options.timeout`; [`SpawnError::Closed`].
    pub async fn fork(
        &self,
        checkpoint: &Snapshot,
        options: SpawnOptions,
    ) -> Result<VmHandle, SpawnError> {
        self.restore(checkpoint, None, options).await
    }

    /// Goes on with the VM of `checkpoint`, as what it was: as [`fork`](Self::fork) does, but with the
    /// ids of its machine and boot and the host name that [`VmClient::identity`](super::VmClient::identity)
    /// told of it. Entropy and clock are new. The VM itself has to be over, and this be called once: two
    /// VMs that take themselves for the same one are what an identity is there against.
    ///
    /// # Errors
    /// As for [`fork`](Self::fork).
    pub async fn resume(
        &self,
        checkpoint: &Snapshot,
        identity: &VmIdentity,
        options: SpawnOptions,
    ) -> Result<VmHandle, SpawnError> {
        self.restore(checkpoint, Some(identity), options).await
    }

    async fn restore(
        &self,
        checkpoint: &Snapshot,
        identity: Option<&VmIdentity>,
        options: SpawnOptions,
    ) -> Result<VmHandle, SpawnError> {
        let core = &self.core;
        if core.has_no_runtime() {
            return Err(SpawnError::RuntimeEnded);
        }
        let name = VmName::parse(&options.name)?;
        fits(core, checkpoint)?;
        let limits = options.limits;
        let limit = options.timeout.unwrap_or(Duration::MAX);
        let forked = async {
            tokio::select! {
                forked = fork(core, checkpoint, &name, identity, options.patience) => forked,
                () = core.closing.cancelled() => Err(SpawnError::Closed),
                () = core.runtime_ended() => Err(SpawnError::RuntimeEnded),
            }
        };
        let handle = timeout(limit, forked).await;
        let late = |_| SpawnError::TimedOut {
            after: limit,
            tiers: Tiers(Vec::new()),
        };
        Ok(handle.map_err(late)??.listed_in(&core.vms).limited(limits))
    }
}

fn failed(error: LaunchError) -> SpawnError {
    SpawnError::Failed(Tiers(vec![(Origin::Restored, error)]))
}

/// Returns whether a copy of the checkpoint's VM would fit this pool.
fn fits(core: &Core, checkpoint: &Snapshot) -> Result<(), SpawnError> {
    let checked = core.launcher.requirements().check(checkpoint.manifest());
    checked.map_err(|mismatch| {
        let id = checkpoint.id();
        failed(SnapshotError::Incompatible { id, mismatch }.into())
    })
}

async fn fork(
    core: &Arc<Core>,
    checkpoint: &Snapshot,
    name: &VmName,
    identity: Option<&VmIdentity>,
    patience: Duration,
) -> Result<VmHandle, SpawnError> {
    let begun = Instant::now();
    let guest_mib = u64::from(core.launcher.machine().memory_mib);
    let budget = &core.bounds.budget;
    // Surplus clones make room for those in the queue.
    let reservation = budget.reserve(guest_mib);
    let share = async {
        loop {
            let changed = budget.changed();
            match reservation.take() {
                Some(share) => return share,
                None => changed.await,
            }
        }
    };
    let share = timeout(patience, share).await;
    let share = share.map_err(|_| SpawnError::PoolExhausted {
        waited: begun.elapsed(),
        limit: budget.limit_met(guest_mib),
    })?;
    drop(reservation);
    let id = core.apply(|state, _| state.lease_beside());
    let lease = Lease::new(id, share, core);
    let left = patience.saturating_sub(begun.elapsed());
    let permit = timeout(left, core.host.starts.acquire(Start::Restore)).await;
    let permit = permit.map_err(|_| SpawnError::StartsBusy {
        waited: begun.elapsed(),
        starts: core.host.starts.limit(Start::Restore),
    })?;
    let queue = begun.elapsed();
    let clone = core.launcher.clone_of(checkpoint, None).await;
    drop(permit);
    let new = match identity {
        Some(identity) => identity::again(&identity.into()),
        None => identity::fresh(name),
    };
    let new = new.map_err(|error| failed(error.into()))?;
    let clone = clone.map_err(failed)?;
    let handle = clone.serve_as(new, name, Origin::Restored).await;
    let handle = handle.map_err(failed)?;
    let timings = Timings {
        queue,
        total: begun.elapsed(),
        ..handle.timings()
    };
    Ok(handle.with_timings(timings).holding(Box::new(lease)))
}
