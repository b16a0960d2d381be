//! A clone that waits, paused, for its lease.

use std::time::Duration;

use crate::vm::guest::{Command, Guest};
use crate::vm::identity::{self, VmName};
use crate::vm::launcher::{LaunchError, READY};
use crate::vm::snapshot::Snapshot;
use crate::vm::vm_handle::{Origin, VmHandle};
use crate::vm::vmm::{Exit, MicroVm, VmmError};

/// How often the path of a lease is run through while a clone is primed. Under a translator the
/// second round is fast already; the others are for what a kernel does only now and then.
const ROUNDS: usize = 3;
/// The longest a priming may take.
const PRIMED: Duration = Duration::from_secs(30);

/// A paused clone of a snapshot.
#[derive(Debug)]
pub(crate) struct Clone {
    vm: Box<dyn MicroVm>,
    guest: Guest,
    snapshot: Snapshot,
}

impl Clone {
    pub(super) fn new(vm: Box<dyn MicroVm>, guest: Guest, snapshot: Snapshot) -> Self {
        Self {
            vm,
            guest,
            snapshot,
        }
    }

    pub(crate) fn exited(&self) -> impl Future<Output = Exit> + Send + 'static {
        self.vm.exited()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.vm.pid()
    }

    /// Runs it once through what a lease does, so that its working set is in memory and its code
    /// translated, and pauses it again. Entropy, clock and names that it gets here are replaced
    /// when it is served.
    pub(crate) async fn prime(mut self) -> Result<Self, LaunchError> {
        let name = identity::anonymous();
        let guest = &self.guest;
        let warm_up = async {
            for _ in 0..ROUNDS {
                guest.restored(identity::fresh(&name)?, PRIMED).await?;
                guest
                    .exec(Command::new("/bin/true").timeout(PRIMED))
                    .await?;
                guest.ping(PRIMED).await?;
            }
            Ok::<(), LaunchError>(())
        };
        let resume = async { self.vm.resume().await.map_err(LaunchError::from) };
        tokio::try_join!(resume, warm_up)?;
        self.vm.pause().await?;
        Ok(self)
    }

    /// Resumes it and gives it an identity of its own. The two go out together: the request is on
    /// the line when the guest's processors start.
    pub(crate) async fn serve(
        mut self,
        name: &VmName,
        origin: Origin,
    ) -> Result<VmHandle, LaunchError> {
        let new = identity::fresh(name)?;
        let exited = self.vm.exited();
        let resume = async { self.vm.resume().await.map_err(LaunchError::from) };
        let restored = async {
            self.guest
                .restored(new, READY)
                .await
                .map_err(LaunchError::from)
        };
        tokio::select! {
            served = async { tokio::try_join!(resume, restored) } => { served?; }
            exit = exited => {
                return Err(VmmError::Died { operation: "serve a clone", exit }.into());
            }
        }
        let Self {
            vm,
            guest,
            snapshot,
        } = self;
        Ok(VmHandle::new(
            name.as_str(),
            origin,
            guest,
            vm,
            Some(snapshot),
        ))
    }
}
