//! How many VMs there may be, and how much memory they may take together.
//!
//! A guest may write to all of its memory at any moment, so each counts with all of it, although
//! clones share what they do not write. A budget can be shared by several pools.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// What a VMM itself may take beside the guest's memory, in MiB.
pub const VMM_MIB: u64 = 32;

/// A bound on VMs that live at a time, warm clones included; cheap to clone, and all clones are
/// one budget.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: Limit,
    used: Mutex<Limit>,
    freed: Notify,
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
pub(super) struct Share {
    budget: Budget,
    memory_mib: u64,
}

impl Budget {
    /// A budget of so much.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        Self(Arc::new(Inner {
            limit,
            used: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// As many VMs as fit into three quarters of the host's memory.
    #[must_use]
    pub fn of_host() -> Self {
        Self::new(Limit {
            vms: usize::MAX,
            memory_mib: host_memory_mib() / 4 * 3,
        })
    }

    /// What it allows.
    #[must_use]
    pub fn limit(&self) -> Limit {
        self.0.limit
    }

    /// What is taken.
    #[must_use]
    pub fn used(&self) -> Limit {
        *self.lock()
    }

    /// How many VMs with so much memory each it allows, if there are no others.
    #[must_use]
    pub fn holds(&self, guest_mib: u32) -> usize {
        let Limit { vms, memory_mib } = self.0.limit;
        let each = u64::from(guest_mib) + VMM_MIB;
        usize::try_from(memory_mib / each).map_or(vms, |fit| fit.min(vms))
    }

    /// A share for a VM whose guest has so much memory, if there is room.
    pub(super) fn take(&self, guest_mib: u64) -> Option<Share> {
        let mut used = self.lock();
        let with = self.with_another(*used, guest_mib)?;
        let memory_mib = with.memory_mib - used.memory_mib;
        *used = with;
        Some(Share {
            budget: self.clone(),
            memory_mib,
        })
    }

    /// Whether there is room for such a VM now.
    pub(super) fn has_room(&self, guest_mib: u64) -> bool {
        self.with_another(self.used(), guest_mib).is_some()
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

    /// Resolves when something was given back after this was called.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }

    fn lock(&self) -> MutexGuard<'_, Limit> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let mut used = self.budget.lock();
            used.vms -= 1;
            used.memory_mib -= self.memory_mib;
        }
        self.budget.0.freed.notify_waiters();
    }
}

/// All memory of the host, in MiB.
pub(crate) fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    // Both are `unsigned long`, which has 64 bits here.
    (info.totalram * u64::from(info.mem_unit)) >> 20
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
    fn a_host_has_some_memory() {
        assert!((64..1 << 40).contains(&host_memory_mib()));
        assert!(Budget::of_host().could_hold(16));
        assert!(!Budget::of_host().could_hold(u64::MAX));
    }
}
