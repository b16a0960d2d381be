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
    /// Changed only while the family's line is locked.
    used: Mutex<Limit>,
    family: Arc<Family>,
}

/// The state that a budget shares with those that lie within it.
#[derive(Debug, Default)]
struct Family {
    line: Mutex<Line>,
    changed: Notify,
    host: Arc<Host>,
}

#[derive(Debug, Default)]
struct Line {
    /// In the order of arrival.
    waiting: VecDeque<Waiter>,
    numbers: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    guest_mib: u64,
    budget: Budget,
}

/// A number of VMs and an amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
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

/// A place in the line for a share. Given up when it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
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
        let line = self.line();
        if line.next_for(self).is_some() {
            return None;
        }
        self.share(&line, guest_mib)
    }

    /// Takes a place in the line.
    pub(super) fn claim(&self, guest_mib: u64) -> Claim {
        let mut line = self.line();
        line.numbers += 1;
        let number = line.numbers;
        line.waiting.push_back(Waiter {
            number,
            guest_mib,
            budget: self.clone(),
        });
        drop(line);
        // Other pools may have clones that are needed less.
        self.0.family.changed.notify_waiters();
        Claim {
            budget: self.clone(),
            number,
        }
    }

    fn share(&self, _line: &Line, guest_mib: u64) -> Option<Share> {
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
        self.line().next_for(self).is_none() && self.lacking(guest_mib).is_none()
    }

    /// Returns whether the longest waiting claim lacks room, of those that room given back to this
    /// budget helps.
    pub(super) fn is_short(&self) -> bool {
        let line = self.line();
        let next = line.next_for(self);
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

    fn line(&self) -> MutexGuard<'_, Line> {
        let line = &self.0.family.line;
        line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_used(&self) -> MutexGuard<'_, Limit> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Limit {
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

impl Line {
    /// Returns the waiter whose turn is before that of a newcomer to `budget`. It passes those who
    /// lack room in a budget that is not the newcomer's as well: waiting behind them would help
    /// nobody.
    fn next_for(&self, budget: &Budget) -> Option<&Waiter> {
        let is_held_up_elsewhere = |waiter: &&Waiter| {
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

impl Claim {
    /// Takes the share, if it is this claim's turn and there is room.
    pub(super) fn take(&self) -> Option<Share> {
        let line = self.budget.line();
        let next = line.next_for(&self.budget)?;
        if next.number != self.number {
            return None;
        }
        self.budget.share(&line, next.guest_mib)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut line = self.budget.line();
        line.waiting.retain(|waiter| waiter.number != self.number);
        drop(line);
        // It is another claim's turn now.
        self.budget.0.family.changed.notify_waiters();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let _line = self.budget.line();
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neither_number_nor_memory_is_exceeded_and_all_of_it_comes_back() {
        let budget = Budget::new(Limit {
            vms: 3,
            memory_mib: 400,
        });
        let first = budget.take(100).unwrap();
        let second = budget.take(200).unwrap();
        assert!(budget.take(100).is_none(), "memory");
        let third = budget.take(0).unwrap();
        assert!(budget.take(0).is_none(), "number");
        drop((first, second, third));
        assert_eq!(budget.used(), Limit::default());
    }

    #[test]
    fn waiters_are_served_first_come_first_served() {
        let budget = Budget::new(Limit {
            vms: 2,
            memory_mib: u64::MAX,
        });
        let shares = [budget.take(1).unwrap(), budget.take(1).unwrap()];
        assert!(!budget.is_short(), "nobody waits");
        let (first, second) = (budget.claim(1), budget.claim(1));
        assert!(budget.is_short() && first.take().is_none());
        drop(shares);
        assert!(!budget.is_short() && !budget.has_room(1));
        assert!(budget.take(1).is_none(), "it overtook");
        assert!(second.take().is_none(), "it overtook");
        let share = first.take().unwrap();
        drop(first);
        drop((second.take().unwrap(), second, share));
        assert_eq!(budget.used(), Limit::default());
        assert!(budget.has_room(1));
    }

    #[test]
    fn a_cancelled_waiter_holds_up_nobody() {
        let budget = Budget::new(Limit {
            vms: 1,
            memory_mib: 1000,
        });
        let (large, small) = (budget.claim(2000), budget.claim(100));
        assert!(budget.is_short() && small.take().is_none());
        drop(large);
        assert!(small.take().is_some());
    }

    #[test]
    fn a_limit_names_only_what_is_limited() {
        let text = |vms, memory_mib| Limit { vms, memory_mib }.to_string();
        assert_eq!(text(1, 640), "1 VM and 640 MiB of memory");
        assert_eq!(text(20, u64::MAX), "20 VMs");
        assert_eq!(text(usize::MAX, 640), "640 MiB of memory");
        assert_eq!(text(usize::MAX, u64::MAX), "none");
    }

    #[test]
    fn it_says_how_many_vms_there_can_be() {
        for (vms, memory_mib) in [(3, u64::MAX), (usize::MAX, 500), (usize::MAX, 99), (2, 500)] {
            let budget = Budget::new(Limit { vms, memory_mib });
            let shares: Vec<_> = std::iter::from_fn(|| budget.take(100)).collect();
            assert_eq!(budget.holds(100), shares.len(), "{:?}", budget.limit());
        }
    }

    #[test]
    fn all_have_one_budget_of_the_host_unless_they_make_their_own() {
        assert_eq!(Budget::of_host(), Budget::of_host());
        let limit = Limit {
            vms: 3,
            memory_mib: 12_345,
        };
        let one = Budget::shared(limit);
        assert_eq!(one, Budget::shared(limit));
        assert_ne!(one, Budget::of_host());
        assert_ne!(Budget::new(limit), one);
    }

    #[test]
    fn a_sub_budget_counts_towards_the_host_s() {
        let shared = |memory_mib| Budget::shared(Limit { vms: 2, memory_mib });
        let host = Budget::of_host();
        assert_eq!(shared(111).0.parent, Some(host.clone()));
        assert_eq!(Budget::shared(host.limit()), host);
    }

    fn vms(vms: usize) -> Limit {
        let memory_mib = u64::MAX;
        Limit { vms, memory_mib }
    }

    #[test]
    fn a_budget_within_another_is_bounded_by_both_and_gives_all_back_to_both() {
        let host = Budget::new(vms(3));
        let two = Budget::within(&host, vms(2));
        let shares = [two.take(1).unwrap(), two.take(1).unwrap()];
        assert!(two.take(1).is_none(), "its own limit");
        assert_eq!(two.limit_met(1), vms(2));
        let of_host = host.take(1).unwrap();
        assert_eq!((two.used().vms, host.used().vms), (2, 3));
        assert!(host.take(1).is_none() && !host.has_room(1));
        drop(shares);
        let more = [host.take(1).unwrap(), host.take(1).unwrap()];
        assert!(two.take(1).is_none(), "the host's limit");
        assert_eq!(two.limit_met(1), vms(3));
        drop((of_host, more));
        for budget in [two, host] {
            assert_eq!(budget.used(), Limit::default());
        }
    }

    #[test]
    fn a_waiter_for_its_own_sub_budget_holds_up_nobody_else() {
        let host = Budget::new(vms(3));
        let (one, other) = (Budget::within(&host, vms(1)), Budget::within(&host, vms(1)));
        let share = one.take(1).unwrap();
        let waits = one.claim(1);
        assert!(waits.take().is_none() && one.take(1).is_none());
        // Ending other pools' clones would gain nothing.
        assert!(one.is_short() && !other.is_short() && !host.is_short());
        let theirs = [other.take(1).unwrap(), host.take(1).unwrap()];
        let in_vain = host.claim(1);
        assert!(in_vain.take().is_none() && host.is_short() && other.is_short());
        drop(theirs);
        let share_of_host = in_vain.take().unwrap();
        drop((in_vain, share));
        // With room of its own, it was there first.
        assert!(host.take(1).is_none(), "it overtook");
        drop((waits.take().unwrap(), waits, share_of_host));
        assert_eq!(host.used(), Limit::default());
    }

    #[test]
    fn one_that_allows_more_than_the_one_around_it_has_what_the_others_leave() {
        let host = Budget::new(vms(2));
        let large = Budget::within(&host, vms(3));
        let shares: Vec<_> = std::iter::from_fn(|| large.take(1)).collect();
        assert_eq!((shares.len(), large.holds(1)), (3, 3));
        assert!(host.take(1).is_none());
        drop(shares);
        let shares = [host.take(1).unwrap(), host.take(1).unwrap()];
        let third = large.take(1).unwrap();
        assert!(large.take(1).is_none());
        drop((shares, third));
        assert_eq!(host.used(), Limit::default());
    }

    proptest! {
        #[test]
        fn no_limit_is_exceeded_and_whoever_can_be_served_is_in_the_end(
            (limits, is_larger) in (1_usize..6, 1_usize..6, 1_usize..6).prop_map(|limits| {
                (limits, limits.1.max(limits.2) > limits.0)
            }),
            steps in proptest::collection::vec((0_usize..3, any::<bool>()), 1..60),
        ) {
            let host = Budget::new(vms(limits.0));
            let within = |limit: usize| Budget::within(&host, vms(limit));
            let budgets = [host.clone(), within(limits.1), within(limits.2)];
            let mut claims = VecDeque::new();
            let mut shares = VecDeque::new();
            for (at, gives) in steps {
                if gives {
                    shares.pop_front();
                } else {
                    claims.push_back(budgets[at].claim(1));
                }
                while let Some(at) = (0..claims.len()).find_map(|at| {
                    shares.push_back(claims.get(at).and_then(Claim::take)?);
                    Some(at)
                }) {
                    claims.remove(at);
                }
                let most = limits.0.max(limits.1).max(limits.2);
                prop_assert!(host.used().vms <= most && host.used().vms == shares.len());
                for budget in &budgets[1..] {
                    prop_assert!(budget.used().vms <= budget.limit().vms);
                }
                for claim in &claims {
                    // Or it does not overtake one with a smaller limit.
                    prop_assert!(is_larger || claim.budget.lacking(1).is_some());
                }
            }
            while let Some(share) = shares.pop_front() {
                drop(share);
                while let Some(at) = (0..claims.len()).find_map(|at| {
                    shares.push_back(claims.get(at).and_then(Claim::take)?);
                    Some(at)
                }) {
                    claims.remove(at);
                }
            }
            prop_assert!(claims.is_empty(), "somebody waits for ever");
            prop_assert_eq!(host.used(), Limit::default());
        }
    }

    #[test]
    fn a_host_holds_some_vms_and_not_any() {
        assert!(Budget::of_host().could_hold(16));
        assert!(!Budget::of_host().could_hold(u64::MAX));
    }
}
