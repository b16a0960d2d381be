//! The VMs that the pools of a host have handed out, by id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::vm::vm_id::VmId;

/// VMs by id, from when they are handed out until they are gone.
#[derive(Debug)]
pub(crate) struct Vms<V>(Mutex<State<V>>);

#[derive(Debug)]
struct State<V> {
    vms: BTreeMap<VmId, Listed<V>>,
    pools: u64,
}

#[derive(Debug)]
struct Listed<V> {
    vm: Arc<V>,
    pool: u64,
}

/// The part of them that one pool has handed out, whether it is there still or not.
#[derive(Debug)]
pub(crate) struct PoolVms<V> {
    all: Arc<Vms<V>>,
    /// No other pool ever has this number.
    pool: u64,
    is_closed: Mutex<bool>,
}

impl<V> Default for Vms<V> {
    fn default() -> Self {
        Self(Mutex::new(State {
            vms: BTreeMap::new(),
            pools: 0,
        }))
    }
}

impl<V> Vms<V> {
    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the part of one more pool.
    pub(crate) fn of_pool(self: &Arc<Self>) -> PoolVms<V> {
        let mut state = self.state();
        state.pools += 1;
        PoolVms {
            all: Arc::clone(self),
            pool: state.pools,
            is_closed: Mutex::default(),
        }
    }

    pub(crate) fn remove(&self, id: VmId) {
        let removed = self.state().vms.remove(&id);
        drop(removed);
    }

    pub(crate) fn get(&self, id: VmId) -> Option<Arc<V>> {
        self.state()
            .vms
            .get(&id)
            .map(|listed| Arc::clone(&listed.vm))
    }

    /// Returns all of them, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<V>> {
        let state = self.state();
        let vms = state.vms.values();
        vms.map(|listed| Arc::clone(&listed.vm)).collect()
    }
}

impl<V> PoolVms<V> {
    fn is_closed(&self) -> MutexGuard<'_, bool> {
        self.is_closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a VM; returns `false` if the pool was closed with its VMs.
    #[must_use]
    pub(crate) fn insert(&self, id: VmId, vm: &Arc<V>) -> bool {
        let is_closed = self.is_closed();
        if !*is_closed {
            let (vm, pool) = (Arc::clone(vm), self.pool);
            self.all.state().vms.insert(id, Listed { vm, pool });
        }
        !*is_closed
    }

    /// Refuses further VMs; returns those in the list, to be ended.
    pub(crate) fn close(&self) -> Vec<Arc<V>> {
        *self.is_closed() = true;
        self.vms()
    }

    /// Returns those of all pools.
    pub(crate) fn of_all_pools(&self) -> &Arc<Vms<V>> {
        &self.all
    }

    pub(crate) fn get(&self, id: VmId) -> Option<Arc<V>> {
        let state = self.all.state();
        let listed = state.vms.get(&id).filter(|listed| listed.pool == self.pool);
        listed.map(|listed| Arc::clone(&listed.vm))
    }

    /// Returns those of this pool, the oldest first.
    pub(crate) fn vms(&self) -> Vec<Arc<V>> {
        let state = self.all.state();
        let listed = state.vms.values().filter(|listed| listed.pool == self.pool);
        listed.map(|listed| Arc::clone(&listed.vm)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_lists_its_own_and_the_host_those_of_all_pools() {
        let host = Arc::new(Vms::default());
        let (one, other) = (host.of_pool(), host.of_pool());
        let [first, second, third] = [(); 3].map(|()| VmId::generate());
        assert!(one.insert(first, &Arc::new(1)));
        assert!(other.insert(second, &Arc::new(2)));
        assert!(one.insert(third, &Arc::new(3)));
        assert_eq!(one.vms(), [Arc::new(1), Arc::new(3)]);
        assert_eq!(host.all(), [1, 2, 3].map(Arc::new));
        assert_eq!(
            (one.get(second), host.get(second)),
            (None, Some(Arc::new(2)))
        );
        // Those of a pool that is gone stay until they are.
        drop(other);
        let another = host.of_pool();
        assert!(another.vms().is_empty());
        assert!(host.get(second).is_some());
        host.remove(second);
        assert!(host.get(second).is_none());
    }

    #[test]
    fn a_pool_that_was_closed_with_its_vms_lists_no_more() {
        let host = Arc::new(Vms::default());
        let (one, other) = (host.of_pool(), host.of_pool());
        let [first, second, third] = [(); 3].map(|()| VmId::generate());
        assert!(one.insert(first, &Arc::new(1)));
        assert_eq!(one.close(), [Arc::new(1)]);
        assert!(!one.insert(second, &Arc::new(2)));
        assert!(other.insert(third, &Arc::new(3)));
        assert_eq!(host.all(), [1, 3].map(Arc::new));
    }
}
