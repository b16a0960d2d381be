//! Executes the actions of the pool's state, and reports their results.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::DropGuard;

use super::contained::contained;
use super::core::{Channel, Core, Effects, State, Steps};
use super::processor_time::ProcessorTime;
use super::standby_set::{StandbySteps, Starting};
use super::starts::Start;
use super::state::{Action, Generation, Restored, SlotId};
use super::waiter;
use crate::metrics;
use crate::vm::causes::with_causes;
use crate::vm::launcher::{Fault, LaunchError, PausedClone, blocking};
use crate::vm::snapshot::{FindOrBuild, Snapshot, SnapshotError, StoreError};
use crate::vm::vm_handle::Origin;
use crate::vm::vmm::Exit;

/// Interval of reports to a recorder of metrics. Summing up takes longer than the rest of a turn,
/// and nobody reads them that often.
const METRICS_INTERVAL: Duration = Duration::from_millis(250);

/// Runs until the pool is closed, or it is aborted, which ends its unfinished work. Holds `_closed`
/// until its end, even if it never ran: nobody may wait for it in vain.
pub(super) async fn run(core: Arc<Core>, _closed: DropGuard) {
    let mut work = Work::default();
    let mut tell = Instant::now();
    loop {
        // Subscribed before the state is read, so that no change is missed.
        let room = core.bounds.budget.changed();
        let standby_changed = core.standby.changed();
        let Steps {
            actions,
            restores,
            deadline,
        } = core.steps();
        for action in actions {
            perform(&core, &mut work, action);
        }
        let standby = restores.then(|| fill_standby(&core, &mut work)).flatten();
        // There may be no room left, without which the pool is as full as it can be.
        if core.progress.receiver_count() > 0 {
            core.progress.send_modify(|_| ());
        }
        let untold = Instant::now() < tell;
        if !untold {
            metrics::pool(&core.stats());
            tell = Instant::now() + METRICS_INTERVAL;
        }
        // A refresh in the far future is no deadline.
        let deadline = deadline.and_then(|deadline| core.clock.reaches(deadline));
        let deadlines = [deadline.map(Instant::from), standby, untold.then_some(tell)];
        let next = deadlines.into_iter().flatten().min();
        let timer = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = core.closing.cancelled() => return work.end().await,
            () = core.woken() => {}
            () = room => {}
            () = standby_changed => {}
            () = timer => {}
            Some(_) = work.fills.join_next() => {}
            Some(_) = work.deletions.join_next() => {}
        }
    }
}

/// The operations under way.
#[derive(Default)]
struct Work {
    fills: JoinSet<()>,
    deletions: JoinSet<()>,
}

impl Work {
    /// Aborts builds at once; completes deletions.
    async fn end(mut self) {
        self.fills.shutdown().await;
        while self.deletions.join_next().await.is_some() {}
    }
}

/// Starts missing standby processes; returns when to call it again.
fn fill_standby(core: &Arc<Core>, work: &mut Work) -> Option<Instant> {
    let most = core.host.starts.limit(Start::Refill);
    let StandbySteps {
        starts,
        surplus,
        deadline,
    } = core.standby.steps(most);
    drop(surplus);
    for starting in starts {
        work.fills.spawn(stand_by(Arc::clone(core), starting));
    }
    deadline.map(Instant::from)
}

async fn stand_by(core: Arc<Core>, starting: Starting) {
    let started = async {
        core.host.active_spawns.yield_to_spawns().await;
        let _permit = core.host.starts.acquire(Start::Refill).await;
        core.launcher.stand_by().await
    };
    match contained(started).await {
        Ok(Some(standby)) => {
            let weak = Arc::downgrade(&core);
            starting.started(standby, move |exit| {
                tracing::warn!(%exit, "a process that stood by ended");
                if let Some(core) = weak.upgrade() {
                    core.counters.failed();
                }
            });
        }
        Ok(None) => starting.unsupported(),
        Err(error) => {
            let error = with_causes(&error);
            tracing::warn!(
                error,
                "no process stands by for spawns that find no warm clone"
            );
            core.counters.failed();
            starting.failed();
        }
    }
    report(&core, None);
}

fn perform(core: &Arc<Core>, work: &mut Work, action: Action<Snapshot, PausedClone, Channel>) {
    let core = Arc::clone(core);
    match action {
        Action::Grant(channel, grant) => waiter::grant(&core, channel, grant),
        Action::Build(slot) => {
            work.fills.spawn(build(core, slot));
        }
        Action::Restore(slot, generation, snapshot) => {
            work.fills.spawn(restore(core, slot, generation, snapshot));
        }
        // Its process is killed, and reaped elsewhere.
        Action::End(clone) => drop(clone),
        Action::Delete(snapshot) => {
            work.deletions.spawn(delete(core, snapshot));
        }
    }
}

/// Fills the slot by another process's snapshot, if there is one, or by a build.
async fn build(core: Arc<Core>, slot: SlotId) {
    let failure = match contained(build_or_find(&core, slot)).await {
        Ok(()) => None,
        Err(error) => {
            core.apply(|state, now| state.built(slot, None, now));
            vmm_fails(&core);
            Some(error)
        }
    };
    report(&core, failure);
}

async fn build_or_find(core: &Core, slot: SlotId) -> Result<(), LaunchError> {
    // One search at a time, so that two slots do not find the same.
    let mut seen = core.seen.lock().await;
    let now = core.clock.now();
    let oldest = core.read(|state| state.oldest_successor(slot, now));
    let staging = match core.launcher.find_or_build(&mut seen, oldest).await? {
        FindOrBuild::Found(snapshot) => {
            seen.insert(snapshot.id());
            let age = snapshot.manifest().created.age_or_overdue();
            core.apply(|state, now| state.found(slot, snapshot, age, now));
            return Ok(());
        }
        FindOrBuild::Build(staging) => staging,
    };
    seen.insert(staging.id());
    drop(seen);
    core.host.active_spawns.yield_to_spawns().await;
    let _permit = core.host.starts.acquire(Start::Build).await;
    let id = staging.id();
    let created = core.launcher.create_in(staging).await;
    if created.is_err() {
        core.seen.lock().await.remove(&id);
    }
    let created = created?;
    let snapshot = Some(created.snapshot);
    core.apply(|state, now| state.built(slot, snapshot, now));
    core.wake(vmm_works(core));
    // Others need not wait for deletions.
    report(core, None);
    clear(core).await;
    Ok(())
}

/// Deletes snapshots that fit no more, or that exceed what pools keep: nobody would ever come to
/// delete them otherwise.
async fn clear(core: &Core) {
    let store = core.launcher.snapshots().clone();
    let age = core.bounds.gc_after;
    match blocking(move || store.delete_unused(age)).await {
        Ok(swept) if swept.removed.is_empty() => {}
        Ok(swept) => {
            let (count, bytes) = (swept.removed.len(), swept.bytes);
            tracing::info!(count, bytes, "old snapshots that nobody used are deleted");
        }
        Err(error) => {
            tracing::warn!(error = with_causes(&error), "an old snapshot stays for now");
        }
    }
}

async fn restore(core: Arc<Core>, slot: SlotId, generation: Generation, snapshot: Snapshot) {
    let primed = async {
        core.host.active_spawns.yield_refill_to_spawns().await;
        let _permit = core.host.starts.acquire(Start::Refill).await;
        let begun = Instant::now();
        let clone = core.launcher.clone_of(&snapshot, None).await?;
        core.host
            .starts
            .measured(begun.elapsed(), ProcessorTime::of(clone.pid()));
        core.launcher.prime(clone).await
    };
    let (clone, failure) = split(contained(primed).await);
    // All other failures of a restore have backoffs of their own.
    if let Some(error @ LaunchError::NotReleased { .. }) = &failure {
        core.tier_failed(Origin::Warm, error);
    }
    let exited = clone.as_ref().map(PausedClone::exited);
    // The task below outlives the clone's lease, and must not keep its files.
    drop(snapshot);
    let (restored, effects) =
        core.update(|state, now| state.restored(slot, generation, clone, now));
    // A surplus one ends before the driver is woken, which may delete its snapshot.
    let warm = match restored {
        Restored::Warm(id) => Some(id),
        Restored::Unwanted(clone) => {
            drop(clone);
            None
        }
        Restored::Failed => None,
    };
    core.wake(effects);
    let fault = failure.as_ref().map(LaunchError::fault);
    match failure {
        // Callers that wait for the pool get another one, or the reason why there is none.
        Some(error @ LaunchError::Snapshot(_)) if core.read(|state| state.heals(generation)) => {
            healing(&core, &error);
        }
        failure => report(&core, failure),
    }
    match fault {
        None => core.wake(vmm_works(&core)),
        Some(fault) => blame(&core, generation, fault),
    }
    let (Some(exited), Some(id)) = (exited, warm) else {
        return;
    };
    let died = move |core: &Core| {
        // Dropped first of all: the driver may delete its snapshot.
        let (remains, effects) = core.update(|state, now| state.died(id, now));
        remains.map(|_| effects)
    };
    replaced(&core, "a warm clone ended", exited, died);
}

/// Has a clone that ends while it waits for a spawn replaced at once. `died` returns the effects if
/// it still waited.
fn replaced(
    core: &Arc<Core>,
    what: &'static str,
    exited: impl Future<Output = Exit> + Send + 'static,
    died: impl FnOnce(&Core) -> Option<Effects> + Send + 'static,
) {
    let weak = Arc::downgrade(core);
    tokio::spawn(async move {
        let exit = exited.await;
        let Some(core) = weak.upgrade() else { return };
        if let Some(effects) = died(&core) {
            tracing::warn!(%exit, "{what}");
            core.counters.failed();
            core.wake(effects);
        }
    });
}

fn healing(core: &Core, error: &LaunchError) {
    tracing::warn!(
        error = with_causes(error),
        "a snapshot is given up, and built anew"
    );
    core.counters.failed();
}

/// Gives up the snapshots whose files were removed or damaged since they were taken into use.
pub(super) async fn inspect(core: &Core) {
    let present: Vec<_> = {
        let copies = |state: &State| state.present().map(|(of, it)| (of, it.clone())).collect();
        core.read(copies)
    };
    for (generation, snapshot) in present {
        let checked = blocking(move || snapshot.check()).await;
        if let Err(error @ LaunchError::Snapshot(SnapshotError::Defective { .. })) = checked {
            healing(core, &error);
            blame(core, generation, Fault::Snapshot);
        }
    }
}

/// Draws the conclusion from a failed restore: the successor replaces a snapshot that is at fault.
pub(super) fn blame(core: &Core, generation: Generation, fault: Fault) {
    let (ended, effects) = core.update(|state, now| match fault {
        Fault::Snapshot => state.discard(generation, now),
        Fault::SnapshotOrVmm => {
            state.suspect(generation, now);
            Vec::new()
        }
        Fault::Other => Vec::new(),
    });
    drop(ended);
    core.wake(effects);
}

/// A VM was booted or restored, so snapshots whose restore failed before are at fault.
pub(super) fn vmm_works(core: &Core) -> Effects {
    let (ended, effects) = core.update(|state, _| state.vmm_works());
    drop(ended);
    effects
}

/// A boot failed, so no snapshot is to blame for failed restores.
pub(super) fn vmm_fails(core: &Core) {
    core.apply(|state, _| state.vmm_fails());
}

/// Deletes a snapshot, unless another process uses it: then that one does when it finds it expired.
async fn delete(core: Arc<Core>, snapshot: Snapshot) {
    let id = snapshot.id();
    // Its own lock would count as a use.
    drop(snapshot);
    let store = core.launcher.snapshots().clone();
    if let Err(error) = blocking(move || store.delete(id)).await {
        tracing::debug!(%id, %error, "a retired snapshot stays for now");
    }
    report(&core, None);
}

fn split<T>(result: Result<T, LaunchError>) -> (Option<T>, Option<LaunchError>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

fn report(core: &Core, failure: Option<LaunchError>) {
    if let Some(error) = &failure {
        // The opening of the pool reported already that nothing can be built.
        let is_known = matches!(
            error,
            LaunchError::Snapshot(SnapshotError::Store(StoreError::ReadOnly { .. }))
        );
        let error = with_causes(error);
        // Reported to those who wait for it.
        if is_known || core.progress.receiver_count() > 0 {
            tracing::debug!(error, "the pool could not be filled");
        } else {
            tracing::warn!(error, "the pool could not be filled");
        }
        core.counters.failed();
    }
    core.progress.send_modify(|failures| {
        if let Some(error) = failure {
            failures.number += 1;
            failures.last = Some(Arc::new(error));
        }
    });
}
