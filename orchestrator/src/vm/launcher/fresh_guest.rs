//! A guest of a template for work that no pool has a part in.

use tokio::time::timeout;

use crate::vm::guest::Guest;
use crate::vm::vmm::MicroVm;
use crate::vm::vmm::process::PROCESS_END_TIMEOUT;

/// A guest that was booted, and has an identity. Its VM ends with it.
pub(crate) struct FreshGuest {
    vm: Box<dyn MicroVm>,
    guest: Guest,
}

impl FreshGuest {
    pub(super) fn new(vm: Box<dyn MicroVm>, guest: Guest) -> Self {
        Self { vm, guest }
    }

    pub(crate) fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Ends the VM, and waits until its files are gone.
    pub(crate) async fn end(self) {
        let Self { vm, guest } = self;
        let exited = vm.process().exited();
        drop((guest, vm));
        // A stuck process is reaped whenever it ends.
        let _ = timeout(PROCESS_END_TIMEOUT, exited).await;
    }
}
