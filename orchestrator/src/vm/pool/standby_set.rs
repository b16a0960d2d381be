//! Sets of standby processes, shared by pools.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::clock::{Clock, Now};
use super::standby::{StandbyId, StandbyPool};
use crate::vm::vmm::{Machine, Standby, Vmm};

/// The properties that pools of a set share: the runtime that watches the processes, the VMM that
/// is started, and the size of a guest.
type Key = (runtime::Id, Processes, Machine);

/// The VMM that is started.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Processes {
    /// Identical to all others of this name.
    Named(String),
    /// Specific to this VMM, identified by its address: it lives as long as the set.
    Own(usize),
}

/// All sets of a host.
#[derive(Debug, Default)]
pub(super) struct StandbySets(Mutex<HashMap<Key, Weak<StandbySet>>>);

/// The standby processes of some pools.
#[derive(Debug)]
struct StandbySet {
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
}

type State = StandbyPool<Box<dyn Standby>>;

/// A pool's membership in a set.
#[derive(Debug)]
pub(super) struct Member {
    set: Arc<StandbySet>,
    asked: usize,
    left: AtomicBool,
}

/// A process about to be started. Dropping it gives it up, and another pool may start one.
#[derive(Debug)]
pub(super) struct Starting {
    set: Arc<StandbySet>,
    is_over: bool,
}

/// The actions to execute.
pub(super) struct StandbySteps {
    pub(super) starts: Vec<Starting>,
    /// Processes to end.
    pub(super) surplus: Vec<Box<dyn Standby>>,
    /// When there may be more actions.
    pub(super) deadline: Option<Instant>,
}

impl StandbySets {
    /// Returns the set for a pool that asks for so many processes of `vmm`, for guests of the size
    /// `machine`. Call it in the runtime that watches them.
    pub(super) fn join(
        &self,
        vmm: &Arc<dyn Vmm>,
        machine: Machine,
        asked: usize,
        seed: u64,
    ) -> Member {
        let processes = match vmm.standby_kind() {
            Some(kind) => Processes::Named(kind),
            None => Processes::Own(Arc::as_ptr(vmm).cast::<()>().addr()),
        };
        let key = (runtime::Handle::current().id(), processes, machine);
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|_, set| set.strong_count() > 0);
        let there = sets.get(&key).and_then(Weak::upgrade);
        let set = there.unwrap_or_else(|| {
            let set = Arc::new(StandbySet {
                clock: Clock::start(),
                state: Mutex::new(StandbyPool::new(seed)),
                changed: Notify::new(),
            });
            sets.insert(key, Arc::downgrade(&set));
            set
        });
        set.state().join(asked);
        Member {
            set,
            asked,
            left: AtomicBool::new(false),
        }
    }
}

impl StandbySet {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State, Now) -> T) -> T {
        let result = change(&mut self.state(), self.clock.now());
        self.changed.notify_waiters();
        result
    }
}

impl Member {
    /// Returns the actions for now, no more than `most` on account of spawns.
    pub(super) fn steps(&self, most: usize) -> StandbySteps {
        let mut state = self.set.state();
        let now = self.set.clock.now();
        let starting = || Starting {
            set: Arc::clone(&self.set),
            is_over: false,
        };
        let starts = std::iter::from_fn(|| state.start(now, most).then(starting)).collect();
        let surplus = std::iter::from_fn(|| state.surplus(now, most)).collect();
        let deadline = state.next_deadline(now, most);
        StandbySteps {
            starts,
            surplus,
            deadline: deadline.and_then(|deadline| self.set.clock.reaches(deadline)),
        }
    }

    /// Resolves at a change after this call.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.set.changed.notified()
    }

    /// Takes one for a spawn. The pool's driver has to check for actions then.
    pub(super) fn take(&self) -> Option<Box<dyn Standby>> {
        let now = self.set.clock.now();
        self.set.state().take(now)
    }

    /// Records that a spawn which took one was served.
    pub(super) fn served(&self) {
        self.set.state().served();
    }

    pub(super) fn is_settled(&self) -> bool {
        let now = self.set.clock.now();
        self.set.state().is_settled(now)
    }

    /// Returns the PIDs of those that are there.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.set.state().ready().map(|ready| ready.pid()).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.set.state().ready().len()
    }

    /// See [`Clock::advance`].
    pub(super) fn advance_clock(&self, by: Duration) {
        self.set.clock.advance(by);
    }

    /// Ends the membership; returns surplus processes, to be ended.
    pub(super) fn leave(&self) -> Vec<Box<dyn Standby>> {
        if self.left.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        self.set.change(|state, _| state.leave(self.asked))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

impl Starting {
    /// Records that it was started. Calls `ended` if it ends while standing by.
    pub(super) fn started(
        mut self,
        standby: Box<dyn Standby>,
        ended: impl FnOnce(crate::vm::vmm::Exit) + Send + 'static,
    ) {
        self.is_over = true;
        let exited = standby.exited();
        let Ok(id) = self.set.change(|state, now| state.started(standby, now)) else {
            return;
        };
        let set = Arc::downgrade(&self.set);
        tokio::spawn(async move {
            let exit = exited.await;
            let died = set.upgrade().and_then(|set| set.died(id));
            if died.is_some() {
                ended(exit);
            }
        });
    }

    pub(super) fn failed(mut self) {
        self.is_over = true;
        self.set.change(StandbyPool::failed);
    }

    /// Records that the VMM does not support them.
    pub(super) fn unsupported(mut self) {
        self.is_over = true;
        self.set.change(|state, _| state.unsupported());
    }
}

impl StandbySet {
    fn died(&self, id: StandbyId) -> Option<Box<dyn Standby>> {
        self.change(|state, now| state.died(id, now))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.is_over {
            self.set.change(|state, _| state.given_up());
        }
    }
}
