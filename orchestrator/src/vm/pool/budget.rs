//! The limit of how many VMs there may be, and of the memory that they may take together.
//!
//! A guest may write to all of its memory at any moment, so each counts with all of it, although
//! clones share the pages that they do not write. Several pools can share a budget, and a budget
//! can lie within another one: a VM counts in both. Waiters get room in the order of arrival,
//! whichever pool they wait in; but a newcomer passes those that are held up by a limit that does
//! not apply to it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::host::Host;
use super::host_memory::host_memory_mib;

/// The memory that a VMM may take beside the guest's, in MiB.
pub const VMM_MIB: u64 = 32;

/// A limit of the VMs that live at a time, warm clones included; cheap to clone, and all clones are
/// one budget.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

/// A budget that may be gone.
#[derive(Debug, Default, Clone)]
pub(crate) struct WeakBudget(Weak<Inner>);

impl WeakBudget {
    pub(crate) fn upgrade(&self) -> Option<Budget> {
        self.0.upgrade().map(Budget)
    }
}

impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Budget {}

#[derive(Debug)]
struct Inner {
    limit: Limit,
    parent: Option<Budget>,
    /// Changed only while the family's queue is locked.
    used: Mutex<Limit>,
    family: Arc<Family>,
}

/// The state that a budget shares with those that lie within it.
#[derive(Debug, Default)]
struct Family {
    queue: Mutex<Queue>,
    changed: Notify,
    host: Arc<Host>,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of arrival.
    waiting: VecDeque<Queued>,
    numbers: u64,
}

#[derive(Debug)]
struct Queued {
    number: u64,
    guest_mib: u64,
    budget: Budget,
}

/// A number of VMs and an amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Limit {
    /// Number of VMs.
    pub vms: usize,
    /// Their memory in MiB: each guest's own, and [`VMM_MIB`] for its VMM.
    pub memory_mib: u64,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vms = match self.vms {
            usize::MAX => None,
            1 => Some("1 VM".to_owned()),
            vms => Some(format!("{vms} VMs")),
        };
        let memory = match self.memory_mib {
            u64::MAX => None,
            memory_mib => Some(format!("{memory_mib} MiB of memory")),
        };
        match (vms, memory) {
            (Some(vms), Some(memory)) => write!(f, "{vms} and {memory}"),
            (Some(one), None) | (None, Some(one)) => f.write_str(&one),
            (None, None) => f.write_str("none"),
        }
    }
}

/// One VM's share of a budget. Given back when it is dropped.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct Share {
    budget: Budget,
    memory_mib: u64,
}

/// a place in the queue for a share. Given up when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Budget,
    number: u64,
}

impl Budget {
    /// Returns a budget of this limit, for whoever gets a clone of it. It lies within no other:
    /// what it allows comes on top of the [host's](Self::of_host).
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        Self::with(limit, None, Arc::default())
    }

    /// A budget of so much of `parent`'s. Where it allows more than that one, it is what holds.
    pub(crate) fn within(parent: &Self, limit: Limit) -> Self {
        Self::with(limit, Some(parent.clone()), Arc::clone(&parent.0.family))
    }

    fn with(limit: Limit, parent: Option<Self>, family: Arc<Family>) -> Self {
        Self(Arc::new(Inner {
            limit,
            parent,
            used: Mutex::default(),
            family,
        }))
    }

    /// Three quarters of the memory of the host, or of what this process may have of it.
    pub(crate) fn of_memory() -> Self {
        Self::new(Limit {
            vms: usize::MAX,
            memory_mib: host_memory_mib() / 4 * 3,
        })
    }

    /// What its pools have in common beside it.
    pub(super) fn host(&self) -> &Arc<Host> {
        &self.0.family.host
    }

    pub(crate) fn downgrade(&self) -> WeakBudget {
        WeakBudget(Arc::downgrade(&self.0))
    }

    /// Returns the limit.
    #[must_use]
    pub fn limit(&self) -> Limit {
        self.0.limit
    }

    /// Returns what is taken, including by the budgets within this one.
    #[must_use]
    pub fn used(&self) -> Limit {
        *self.lock_used()
    }

    /// Returns how many VMs with this much memory each it allows, if there are no others.
    #[must_use]
    pub fn holds(&self, guest_mib: u32) -> usize {
        let Limit { vms, memory_mib } = self.0.limit;
        let each = u64::from(guest_mib) + VMM_MIB;
        usize::try_from(memory_mib / each).map_or(vms, |fit| fit.min(vms))
    }

    /// Takes a share for a VM with this much guest memory, if there is room and nobody waits for
    /// it.
    pub(super) fn take(&self, guest_mib: u64) -> Option<Share> {
        let queue = self.queue();
        if queue.next_for(self).is_some() {
            return None;
        }
        self.share(&queue, guest_mib)
    }

    /// Takes a place in the queue.
    pub(super) fn reserve(&self, guest_mib: u64) -> Reservation {
        let mut queue = self.queue();
        queue.numbers += 1;
        let number = queue.numbers;
        queue.waiting.push_back(Queued {
            number,
            guest_mib,
            budget: self.clone(),
        });
        drop(queue);
        // Other pools may have clones that are needed less.
        self.0.family.changed.notify_waiters();
        Reservation {
            budget: self.clone(),
            number,
        }
    }

    fn share(&self, _queue: &Queue, guest_mib: u64) -> Option<Share> {
        if self.lacking(guest_mib).is_some() {
            return None;
        }
        let memory_mib = guest_mib.checked_add(VMM_MIB)?;
        for budget in self.chain() {
            let mut used = budget.lock_used();
            used.vms += 1;
            used.memory_mib += memory_mib;
        }
        Some(Share {
            budget: self.clone(),
            memory_mib,
        })
    }

    /// Returns whether a share for such a VM could be taken now.
    pub(super) fn has_room(&self, guest_mib: u64) -> bool {
        self.queue().next_for(self).is_none() && self.lacking(guest_mib).is_none()
    }

    /// Returns whether the longest waiting reservation lacks room, of those that room given back to this
    /// budget helps.
    pub(super) fn is_short(&self) -> bool {
        let queue = self.queue();
        let next = queue.next_for(self);
        next.is_some_and(|it| it.budget.lacking(it.guest_mib).is_some())
    }

    /// Returns whether there can ever be room for such a VM.
    pub(super) fn could_hold(&self, guest_mib: u64) -> bool {
        let nothing = Limit::default();
        self.limits()
            .all(|(_, limit)| limit.with_another(nothing, guest_mib).is_some())
    }

    /// Returns the limit that such a VM meets: its own budget's, or else that of one around it.
    pub(super) fn limit_met(&self, guest_mib: u64) -> Limit {
        let met = self.lacking(guest_mib);
        met.map_or(self.limit(), |(_, limit)| limit)
    }

    /// Returns the first budget without room for such a VM, this one or one around it, with its
    /// limit.
    fn lacking(&self, guest_mib: u64) -> Option<(&Self, Limit)> {
        self.limits()
            .find(|(budget, limit)| limit.with_another(budget.used(), guest_mib).is_none())
    }

    /// Returns the limits that VMs of this budget are under: its own and those of the budgets
    /// around it.
    fn limits(&self) -> impl Iterator<Item = (&Self, Limit)> {
        self.chain().scan(Limit::default(), |most, budget| {
            *most = most.or_more(budget.0.limit);
            Some((budget, *most))
        })
    }

    /// Iterates over this budget, the one around it, and so on.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |budget| budget.0.parent.as_ref())
    }

    /// Resolves when a share was given back, or a waiter came or went, after this call.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.0.family.changed.notified()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        let queue = &self.0.family.queue;
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_used(&self) -> MutexGuard<'_, Limit> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limit {
    /// Returns a limit of this number of VMs, and of their memory in MiB.
    #[must_use]
    pub const fn new(vms: usize, memory_mib: u64) -> Self {
        Self { vms, memory_mib }
    }

    /// Returns a limit of this number of VMs, however large they are. In a
    /// [shared](Budget::shared) budget, the host's memory limits them all the same.
    #[must_use]
    pub const fn of_vms(vms: usize) -> Self {
        Self::new(vms, u64::MAX)
    }

    /// Adds a VM to `used`, if that stays within this limit.
    fn with_another(self, used: Self, guest_mib: u64) -> Option<Self> {
        let with = Self {
            vms: used.vms.checked_add(1)?,
            memory_mib: used
                .memory_mib
                .checked_add(guest_mib)?
                .checked_add(VMM_MIB)?,
        };
        (with.vms <= self.vms && with.memory_mib <= self.memory_mib).then_some(with)
    }

    /// Returns the larger of each number.
    fn or_more(self, other: Self) -> Self {
        Self {
            vms: self.vms.max(other.vms),
            memory_mib: self.memory_mib.max(other.memory_mib),
        }
    }
}

impl Queue {
    /// Returns the waiter whose turn is before that of a newcomer to `budget`. It passes those who
    /// lack room in a budget that is not the newcomer's as well: waiting behind them would help
    /// nobody.
    fn next_for(&self, budget: &Budget) -> Option<&Queued> {
        let is_held_up_elsewhere = |waiter: &&Queued| {
            waiter.budget.limits().any(|(theirs, limit)| {
                limit
                    .with_another(theirs.used(), waiter.guest_mib)
                    .is_none()
                    && budget.chain().all(|ours| ours != theirs)
            })
        };
        let mut waiting = self.waiting.iter();
        waiting.find(|waiter| !is_held_up_elsewhere(waiter))
    }
}

impl Reservation {
    /// Takes the share, if it is this reservation's turn and there is room.
    pub(super) fn take(&self) -> Option<Share> {
        let queue = self.budget.queue();
        let next = queue.next_for(&self.budget)?;
        if next.number != self.number {
            return None;
        }
        self.budget.share(&queue, next.guest_mib)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut queue = self.budget.queue();
        queue.waiting.retain(|waiter| waiter.number != self.number);
        drop(queue);
        // It is another reservation's turn now.
        self.budget.0.family.changed.notify_waiters();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let _queue = self.budget.queue();
            for budget in self.budget.chain() {
                let mut used = budget.lock_used();
                used.vms -= 1;
                used.memory_mib -= self.memory_mib;
            }
        }
        self.budget.0.family.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
