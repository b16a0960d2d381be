//! The state that a pool's handles, its driver and its leases share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::clock::{Clock, Now};
use super::counters::Counters;
use super::failures::Failures;
use super::host::Host;
use super::number::Number;
use super::standby_set::Member;
use super::state::{Action, Grant, PoolState};
use super::stats::{PoolStats, TierOff};
use crate::vm::causes::with_causes;
use crate::vm::instance::Instance;
use crate::vm::launcher::{LaunchError, Launcher, PausedClone};
use crate::vm::snapshot::{Snapshot, SnapshotId};
use crate::vm::vm_handle::Origin;
use crate::vm::vmm::Standby;
use crate::vm::vms::PoolVms;

/// The pool's policy, over real snapshots and clones.
pub(super) type State = PoolState<Snapshot, PausedClone, Channel>;

/// Room for a spawn, and what serves it.
pub(super) type Granted = Grant<Snapshot, PausedClone>;

/// The way to a waiting spawn.
pub(super) type Channel = oneshot::Sender<Granted>;

/// The settings that do not change while a pool lives.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) size: usize,
    pub(super) budget: Budget,
    /// Age at which an unused snapshot is deleted, whatever settings it was made for.
    pub(super) gc_after: Duration,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) launcher: Launcher,
    pub(super) bounds: Bounds,
    state: Mutex<State>,
    /// Shared with pools of the same VMM and machine.
    pub(super) standby: Member,
    pub(super) clock: Clock,
    wake: Notify,
    /// Changes whenever a build, a restore or a deletion ends.
    pub(super) progress: watch::Sender<Failures>,
    pub(super) counters: Counters,
    _number: Number,
    /// The VMs that were handed out and are not gone.
    pub(super) vms: PoolVms<Instance>,
    pub(super) host: Arc<Host>,
    /// Ids of the snapshots that this pool had or makes, which it never adopts again.
    pub(super) seen: tokio::sync::Mutex<HashSet<SnapshotId>>,
    /// Asks the driver to end; `closed` reports that it has.
    pub(super) closing: CancellationToken,
    pub(super) closed: CancellationToken,
}

/// Proof that the pool's state changed, so that the driver may have something to do. It finds out
/// what when it is woken: in parallel to a spawn, not on its critical path.
#[must_use = "the driver sleeps until `Core::wake` has this"]
#[derive(Debug)]
pub(super) struct Effects(());

/// The actions that the driver has to take.
pub(super) struct Steps {
    pub(super) actions: Vec<Action<Snapshot, PausedClone, Channel>>,
    /// Whether a standby process would be of use.
    pub(super) restores: bool,
    /// When the driver is to look again although nothing changed.
    pub(super) deadline: Option<Now>,
}

impl Core {
    pub(super) fn new(
        number: Number,
        vms: PoolVms<Instance>,
        launcher: Launcher,
        bounds: Bounds,
        state: State,
        standby: Member,
        seen: HashSet<SnapshotId>,
    ) -> Self {
        let counters = Counters::of(launcher.template().hash(), number.get());
        Self {
            launcher,
            host: Arc::clone(bounds.budget.host()),
            bounds,
            state: Mutex::new(state),
            standby,
            clock: Clock::start(),
            wake: Notify::new(),
            progress: watch::Sender::new(Failures::default()),
            counters,
            _number: number,
            vms,
            seen: tokio::sync::Mutex::new(seen),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `look` with the state.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state())
    }

    /// Changes the state, and wakes the driver for what follows.
    pub(super) fn apply<T>(&self, change: impl FnOnce(&mut State, Now) -> T) -> T {
        let (result, effects) = self.update(change);
        self.wake(effects);
        result
    }

    /// Changes the state at the pool's present time; the caller wakes the driver later.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State, Now) -> T) -> (T, Effects) {
        let result = change(&mut self.state(), self.clock.now());
        (result, Effects(()))
    }

    /// Takes a standby process for a spawn, if there is one; the driver finds out what follows.
    pub(super) fn take_standby(&self) -> (Option<Box<dyn Standby>>, Effects) {
        (self.standby.take(), Effects(()))
    }

    /// Counts a spawn that a standby process served.
    pub(super) fn standby_served(&self) -> Effects {
        self.standby.served();
        Effects(())
    }

    /// Moves the pool's clock ahead.
    pub(super) fn advance_clock(&self, by: Duration) -> Effects {
        self.clock.advance(by);
        self.standby.advance_clock(by);
        Effects(())
    }

    /// Wakes the driver for the effects of a change. The only way to wake it.
    pub(super) fn wake(&self, effects: Effects) {
        let Effects(()) = effects;
        self.wake.notify_one();
    }

    /// Resolves when the driver was woken since its last round.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// Takes the pending actions, each once, for the driver.
    pub(super) fn steps(&self) -> Steps {
        let mut state = self.state();
        let now = self.clock.now();
        Steps {
            actions: state.actions(now),
            restores: state.restores(),
            deadline: state.next_deadline(now),
        }
    }

    /// Takes out all that waits for spawns, for the caller to end; nothing is started any more.
    pub(super) fn drain(&self) -> (Vec<PausedClone>, Vec<Box<dyn Standby>>) {
        (self.state().drain(), self.standby.leave())
    }

    /// Returns whether the driver is gone although nobody closed the pool.
    pub(super) fn has_no_runtime(&self) -> bool {
        self.closed.is_cancelled() && !self.closing.is_cancelled()
    }

    /// Resolves when the driver is gone although nobody closed the pool.
    pub(super) async fn runtime_ended(&self) {
        self.closed.cancelled().await;
        if !self.has_no_runtime() {
            std::future::pending().await
        }
    }

    /// Records that a tier failed; logs once that the tier is switched off for a while.
    pub(super) fn tier_failed(&self, tier: Origin, error: &LaunchError) {
        // The failure is that of one snapshot whose files are gone or damaged: others serve at
        // once.
        if matches!(error, LaunchError::Snapshot(_)) {
            return;
        }
        let off = self.apply(|state, now| {
            let off = state.tier_failed(tier, error.reason(), now)?;
            Some(off.until.saturating_sub(now))
        });
        if let Some(retry) = off {
            let error = with_causes(error);
            tracing::warn!(
                %tier,
                ?retry,
                error,
                "a tier failed again and again, and is not used until it works: spawns are served \
                 by the next one"
            );
        }
    }

    pub(super) fn stats(&self) -> PoolStats {
        let (counts, off, ages) = {
            let state = self.state();
            let ages = state
                .snapshots()
                .filter_map(|snapshot| snapshot.manifest().created.age());
            let now = self.clock.now();
            let off = state.off().map(|(tier, off)| (tier, TierOff::at(now, off)));
            (state.counts(), off.collect(), ages.collect())
        };
        let standby = self.standby.count();
        PoolStats {
            off,
            ..self
                .counters
                .snapshot(self.bounds.size, counts, standby, ages, &self.bounds.budget)
        }
    }
}
