//! The task that does what the slots decide, and reports back.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::Core;
use super::slots::{Action, Place};
use crate::vm::launcher::{LaunchError, PausedClone, blocking};
use crate::vm::snapshot::Snapshot;

/// Runs until the pool is closed, or it is aborted; its unfinished work ends with it.
pub(super) async fn run(core: Arc<Core>) {
    // However it ends: nobody may wait for it in vain.
    let _closed = core.closed.clone().drop_guard();
    let mut work = JoinSet::new();
    loop {
        let (actions, deadline) = {
            let mut slots = core.slots();
            let now = core.now();
            (slots.actions(now), slots.next_deadline(now))
        };
        for action in actions {
            perform(&core, &mut work, action);
        }
        let timer = async {
            // A refresh in the far future is no deadline at all.
            match deadline.and_then(|deadline| core.opened.checked_add(deadline)) {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = core.closing.cancelled() => return work.shutdown().await,
            () = core.wake.notified() => {}
            () = timer => {}
            Some(_) = work.join_next() => {}
        }
    }
}

fn perform(core: &Arc<Core>, work: &mut JoinSet<()>, action: Action<Snapshot>) {
    let core = Arc::clone(core);
    match action {
        Action::Build(place) => work.spawn(build(core, place)),
        Action::Restore(place, snapshot) => work.spawn(restore(core, place, snapshot)),
        Action::Retire(snapshot) => work.spawn(retire(core, snapshot)),
    };
}

async fn build(core: Arc<Core>, place: Place) {
    let created = async {
        let _permit = core
            .starts
            .acquire()
            .await
            .map_err(|_| LaunchError::ShuttingDown)?;
        core.launcher.create_snapshot().await
    };
    let (snapshot, failure) = split(created.await.map(|created| created.snapshot));
    let action = core.slots().built(place, snapshot, core.now());
    report(&core, failure);
    if let Some(Action::Retire(old)) = action {
        retire(core, old).await;
    }
}

async fn restore(core: Arc<Core>, place: Place, snapshot: Snapshot) {
    let primed = async {
        let _permit = core
            .starts
            .acquire()
            .await
            .map_err(|_| LaunchError::ShuttingDown)?;
        core.launcher.clone_of(&snapshot).await?.prime().await
    };
    let (clone, failure) = split(primed.await);
    let exited = clone.as_ref().map(PausedClone::exited);
    let number = core.slots().restored(place, clone, core.now());
    let at_fault = failure
        .as_ref()
        .is_some_and(LaunchError::may_be_the_snapshots);
    report(&core, failure);
    if at_fault {
        give_up(&core, snapshot);
    } else {
        // The task below outlives the clone's lease, and must not keep its files.
        drop(snapshot);
    }
    let (Some(exited), Some(number)) = (exited, number) else {
        return;
    };
    let weak = Arc::downgrade(&core);
    drop(core);
    // Outlives the restore: a clone that dies while it is warm has to be replaced at once.
    tokio::spawn(async move {
        let exit = exited.await;
        let Some(core) = weak.upgrade() else { return };
        if core.slots().died(place, number, core.now()) {
            tracing::warn!(%exit, "a warm clone ended");
            core.counters.failed();
            core.wake.notify_one();
        }
    });
}

/// Drops a snapshot that failed to restore; the next one takes its place. Of several spawns that
/// failed by the same one, the last deletes it.
pub(super) fn give_up(core: &Arc<Core>, snapshot: Snapshot) {
    let id = snapshot.id();
    // The action is to retire the same snapshot.
    drop(core.slots().discard(|other| other.id() == id));
    core.wake.notify_one();
    tokio::spawn(retire(Arc::clone(core), snapshot));
}

/// Deletes a snapshot, unless clones of it live: then the one that finds it expired later does.
async fn retire(core: Arc<Core>, snapshot: Snapshot) {
    let id = snapshot.id();
    // Its own lock would keep it.
    drop(snapshot);
    let store = core.launcher.snapshots().clone();
    if let Err(error) = blocking(move || store.delete(id)).await {
        tracing::debug!(%id, %error, "a retired snapshot stays for now");
    }
}

fn split<T>(result: Result<T, LaunchError>) -> (Option<T>, Option<LaunchError>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

fn report(core: &Core, failure: Option<LaunchError>) {
    if let Some(error) = &failure {
        tracing::warn!(%error, "the pool could not be filled");
        core.counters.failed();
    }
    core.progress.send_modify(|progress| {
        if let Some(error) = failure {
            progress.failures += 1;
            progress.last_failure = Some(Arc::new(error));
        }
    });
    core.wake.notify_one();
}
