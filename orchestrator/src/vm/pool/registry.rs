//! The pools of this process, and the budgets that they share by default.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::budget::{self, Budget, Limit};
use super::{Core, Driver, Pool};
use crate::vm::instance::Instance;
use crate::vm::vms::Vms;

/// The only place that knows all pools, which share one host.
static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    pools: Vec::new(),
    vms: Vec::new(),
    numbers: BTreeSet::new(),
    host: Weak::new(),
    budgets: Vec::new(),
});

struct Registry {
    /// The opened pools, some of which may be gone.
    pools: Vec<(Weak<Core>, Weak<Driver>)>,
    /// The VMs handed out by pools, including pools that are gone.
    vms: Vec<Weak<Vms<Instance>>>,
    /// The numbers of existing pools.
    numbers: BTreeSet<u64>,
    host: Weak<budget::Inner>,
    /// The budgets within the host's.
    budgets: Vec<Weak<budget::Inner>>,
}

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pool's number, the smallest that no other has; free again on drop.
#[derive(Debug)]
pub(super) struct Number(u64);

impl Number {
    pub(super) fn take() -> Self {
        let mut registry = registry();
        let taken = |number: &u64| registry.numbers.contains(number);
        let number = (1..).find(|number| !taken(number)).unwrap_or(u64::MAX);
        registry.numbers.insert(number);
        Self(number)
    }

    pub(super) fn get(&self) -> u64 {
        self.0
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        registry().numbers.remove(&self.0);
    }
}

impl Registry {
    fn host(&mut self) -> Budget {
        Budget::upgrade(&self.host).unwrap_or_else(|| {
            let host = Budget::of_host_s_memory();
            self.host = host.downgrade();
            host
        })
    }
}

/// Returns the host's budget, shared by all of this process.
pub(super) fn host_budget() -> Budget {
    registry().host()
}

/// Returns a budget of `limit` within the host's, shared by all that ask for this limit here.
pub(super) fn shared_budget(limit: Limit) -> Budget {
    let mut registry = registry();
    let host = registry.host();
    if host.limit() == limit {
        return host;
    }
    registry.budgets.retain(|budget| budget.strong_count() > 0);
    let mut there = registry.budgets.iter().filter_map(Budget::upgrade);
    if let Some(budget) = there.find(|budget| budget.limit() == limit) {
        return budget;
    }
    drop(there);
    let budget = Budget::within(&host, limit);
    registry.budgets.push(budget.downgrade());
    budget
}

/// Registers an opened pool.
pub(super) fn opened(pool: &Pool) {
    let (core, driver) = (&pool.core, &pool.driver);
    let mut registry = registry();
    let pools = &mut registry.pools;
    pools.retain(|(core, _)| core.strong_count() > 0);
    pools.push((
        std::sync::Arc::downgrade(core),
        std::sync::Arc::downgrade(driver),
    ));
    let vms = &mut registry.vms;
    vms.retain(|vms| vms.strong_count() > 0);
    vms.push(std::sync::Arc::downgrade(&core.vms));
}

/// Returns the VMs handed out by the pools of this process, in the order of opening.
pub(crate) fn handed_out() -> Vec<std::sync::Arc<Vms<Instance>>> {
    let there = registry().vms.clone();
    there.iter().filter_map(Weak::upgrade).collect()
}

/// Returns the open pools, in the order of opening.
pub(crate) fn open_pools() -> Vec<Pool> {
    let there = registry().pools.clone();
    let upgraded = there.iter().filter_map(|(core, driver)| {
        Some(Pool {
            core: core.upgrade()?,
            driver: driver.upgrade()?,
        })
    });
    upgraded.filter(Pool::is_alive).collect()
}
