//! The VMs handed out by a pool, by id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::vm::vm_id::VmId;

/// VMs by id, from when they are handed out until they are gone.
#[derive(Debug)]
pub(crate) struct Vms<V>(Mutex<State<V>>);

#[derive(Debug)]
struct State<V> {
    vms: BTreeMap<VmId, Arc<V>>,
    is_closed: bool,
}

impl<V> Default for Vms<V> {
    fn default() -> Self {
        Self(Mutex::new(State {
            vms: BTreeMap::new(),
            is_closed: false,
        }))
    }
}

impl<V> Vms<V> {
    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a VM; returns `false` if this is closed.
    #[must_use]
    pub(crate) fn insert(&self, id: VmId, vm: &Arc<V>) -> bool {
        let mut state = self.state();
        if !state.is_closed {
            state.vms.insert(id, Arc::clone(vm));
        }
        !state.is_closed
    }

    /// Refuses further VMs; returns those in the list, to be ended.
    pub(crate) fn close(&self) -> Vec<Arc<V>> {
        self.state().is_closed = true;
        self.all()
    }

    pub(crate) fn remove(&self, id: VmId) {
        let removed = self.state().vms.remove(&id);
        drop(removed);
    }

    pub(crate) fn get(&self, id: VmId) -> Option<Arc<V>> {
        self.state().vms.get(&id).cloned()
    }

    /// Returns all of them, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<V>> {
        self.state().vms.values().cloned().collect()
    }
}
