//! How many VMs there may be, and how much memory they may take together.
//!
//! A guest may write to all of its memory at any moment, so each counts with all of it, although
//! clones share what they do not write. A budget can be shared by several pools: who waits for room
//! gets it in the order of arrival, whichever pool they wait in.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::host_memory::host_memory_mib;
use super::registry;

/// What a VMM itself may take beside the guest's memory, in MiB.
pub const VMM_MIB: u64 = 32;

/// A bound on VMs that live at a time, warm clones included; cheap to clone, and all clones are
/// one budget.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Budget {}

#[derive(Debug)]
pub(super) struct Inner {
    limit: Limit,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: Limit,
    /// Who waits, by number, and the memory of each guest.
    line: VecDeque<(u64, u64)>,
    numbers: u64,
}

/// VMs and memory.
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

/// What one VM takes of a budget. Given back when it is dropped.
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
    guest_mib: u64,
}

impl Budget {
    /// A budget of so much, for whoever gets a clone of it.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        Self(Arc::new(Inner {
            limit,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// As many VMs as fit into three quarters of the host's memory, or of what the control groups
    /// of this process allow. One for all of this process, as there is one host.
    #[must_use]
    pub fn of_host() -> Self {
        Self::shared(Limit {
            vms: usize::MAX,
            memory_mib: host_memory_mib() / 4 * 3,
        })
    }

    /// The budget of this limit that all of this process share who ask for it here.
    #[must_use]
    pub fn shared(limit: Limit) -> Self {
        registry::shared_budget(limit)
    }

    pub(super) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(super) fn upgrade(budget: &Weak<Inner>) -> Option<Self> {
        budget.upgrade().map(Self)
    }

    /// What it allows.
    #[must_use]
    pub fn limit(&self) -> Limit {
        self.0.limit
    }

    /// What is taken.
    #[must_use]
    pub fn used(&self) -> Limit {
        self.lock().used
    }

    /// How many VMs with so much memory each it allows, if there are no others.
    #[must_use]
    pub fn holds(&self, guest_mib: u32) -> usize {
        let Limit { vms, memory_mib } = self.0.limit;
        let each = u64::from(guest_mib) + VMM_MIB;
        usize::try_from(memory_mib / each).map_or(vms, |fit| fit.min(vms))
    }

    /// A share for a VM whose guest has so much memory, if there is room and nobody waits for it.
    pub(super) fn take(&self, guest_mib: u64) -> Option<Share> {
        let mut state = self.lock();
        if !state.line.is_empty() {
            return None;
        }
        self.share(&mut state, guest_mib)
    }

    /// A place in the line.
    pub(super) fn claim(&self, guest_mib: u64) -> Claim {
        let mut state = self.lock();
        state.numbers += 1;
        let number = state.numbers;
        state.line.push_back((number, guest_mib));
        drop(state);
        // Other pools may have clones that nobody needs as much.
        self.0.changed.notify_waiters();
        Claim {
            budget: self.clone(),
            number,
            guest_mib,
        }
    }

    fn share(&self, state: &mut State, guest_mib: u64) -> Option<Share> {
        let with = self.with_another(state.used, guest_mib)?;
        let memory_mib = with.memory_mib - state.used.memory_mib;
        state.used = with;
        Some(Share {
            budget: self.clone(),
            memory_mib,
        })
    }

    /// Whether a share for such a VM could be had now.
    pub(super) fn has_room(&self, guest_mib: u64) -> bool {
        let state = self.lock();
        state.line.is_empty() && self.with_another(state.used, guest_mib).is_some()
    }

    /// Whether there is too little room for who waits, and has waited longest.
    pub(super) fn is_short(&self) -> bool {
        let state = self.lock();
        let first = state.line.front();
        first.is_some_and(|(_, guest_mib)| self.with_another(state.used, *guest_mib).is_none())
    }

    /// Whether there will ever be room for such a VM.
    pub(super) fn could_hold(&self, guest_mib: u64) -> bool {
        self.with_another(Limit::default(), guest_mib).is_some()
    }

    fn with_another(&self, used: Limit, guest_mib: u64) -> Option<Limit> {
        let with = Limit {
            vms: used.vms.checked_add(1)?,
            memory_mib: used
                .memory_mib
                .checked_add(guest_mib)?
                .checked_add(VMM_MIB)?,
        };
        let Limit { vms, memory_mib } = self.0.limit;
        (with.vms <= vms && with.memory_mib <= memory_mib).then_some(with)
    }

    /// Resolves when something was given back, or somebody came to wait or went, after this was
    /// called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// The share, if it is this one's turn and there is room.
    pub(super) fn take(&self) -> Option<Share> {
        let mut state = self.budget.lock();
        let (first, _) = state.line.front()?;
        if *first != self.number {
            return None;
        }
        self.budget.share(&mut state, self.guest_mib)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.line.retain(|(number, _)| *number != self.number);
        drop(state);
        // It is another one's turn now.
        self.budget.0.changed.notify_waiters();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let mut state = self.budget.lock();
            state.used.vms -= 1;
            state.used.memory_mib -= self.memory_mib;
        }
        self.budget.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
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
    fn who_waits_is_served_in_the_order_of_arrival_and_nobody_overtakes() {
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
    fn who_went_away_holds_up_nobody() {
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
    fn a_host_holds_some_vms_and_not_any() {
        assert!(Budget::of_host().could_hold(16));
        assert!(!Budget::of_host().could_hold(u64::MAX));
    }
}
