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
const VMM_MIB: u64 = 32;

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
    /// Their memory in MiB: each guest's own, and 32 MiB for its VMM.
    pub memory_mib: u64,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vms {
            usize::MAX => write!(f, "{} MiB of memory", self.memory_mib),
            vms => write!(f, "{vms} VMs and {} MiB of memory", self.memory_mib),
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
    fn a_host_has_some_memory() {
        assert!((64..1 << 40).contains(&host_memory_mib()));
        assert!(Budget::of_host().could_hold(16));
        assert!(!Budget::of_host().could_hold(u64::MAX));
    }
}
