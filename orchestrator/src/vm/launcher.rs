//! Makes VMs, in one way for each tier, and the snapshots for two of them. The pool decides which
//! way to take, and when.

mod agent;
mod blocking;
mod boot;
mod clone;
mod error;
#[cfg(test)]
mod fake;
mod find_or_build;
#[cfg(all(feature = "debian", feature = "oci"))]
pub(in crate::vm) mod fresh_guest;
mod prepare;
mod probe;
mod root_disk;
mod stage;
#[cfg(all(feature = "debian", feature = "oci"))]
mod trial;
mod warm_up;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::template::Template;
use crate::vm::guest::Guest;
use crate::vm::identity::{self, VmName};
use crate::vm::instance::Lineage;
use crate::vm::snapshot::{Requirements, Snapshot, SnapshotId, SnapshotStore, Staging};
use crate::vm::vm_handle::{Origin, Timings, Vm, VmHandle};
use crate::vm::vmm::process::PROCESS_END_TIMEOUT;
use crate::vm::vmm::{DiskId, Machine, Ram, Standby, VmSpec, Vmm, VmmError, VmmIdentity};

pub use agent::find_guest_agent;
pub(crate) use blocking::blocking;
use boot::Booted;
use clone::IDENTITY_TIMEOUT;
pub(crate) use clone::{PausedClone, RunningClone};
pub(crate) use error::Fault;
pub use error::LaunchError;
pub use probe::probe_file;
use root_disk::RootDisk;
pub use stage::{Progress, Stage};
pub use warm_up::Warmed;

/// Everything that VMs are made from: a hypervisor, a template, and a store of snapshots.
#[derive(Clone)]
pub struct Launcher(Arc<Inner>);

struct Inner {
    vmm: Arc<dyn Vmm>,
    passed_over: Vec<PassedOver>,
    template: Template,
    machine: Machine,
    boot_timeout: Duration,
    root_disk: Option<RootDisk>,
    snapshots: SnapshotStore,
    requirements: Requirements,
    lineage: Arc<Lineage>,
    progress: Progress,
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            vmm,
            machine,
            snapshots,
            ..
        } = &*self.0;
        f.debug_struct("Launcher")
            .field("vmm", vmm)
            .field("machine", machine)
            .field("snapshots", snapshots)
            .finish_non_exhaustive()
    }
}

/// A preferred hypervisor that is installed but not used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// The hypervisor.
    pub vmm: VmmIdentity,
    /// The reason why it does not boot the template, or why that could not be found out.
    pub reason: String,
}

/// A new snapshot, and the times of its stages.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Created {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Booting the template until its agent answered, and making it warm.
    pub boot: Duration,
    /// Pausing the VM and writing its state.
    pub write: Duration,
    /// Hashing the files, punching holes, and publishing.
    pub publish: Duration,
    /// Bytes that its files occupy on disk.
    pub disk_bytes: u64,
}

impl Launcher {
    /// Returns the hypervisor's name and version.
    #[must_use]
    pub fn vmm(&self) -> &VmmIdentity {
        self.0.vmm.identity()
    }

    /// Returns the hypervisor.
    #[must_use]
    pub fn hypervisor(&self) -> Arc<dyn Vmm> {
        Arc::clone(&self.0.vmm)
    }

    /// Returns the hypervisors that `auto` would have preferred, in its order.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.0.passed_over
    }

    /// Returns the size of each guest.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.0.machine
    }

    /// Returns the template.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.0.template
    }

    /// Returns the store of snapshots.
    #[must_use]
    pub fn snapshots(&self) -> &SnapshotStore {
        &self.0.snapshots
    }

    /// Returns the requirements that a snapshot must meet to serve this launcher.
    #[must_use]
    pub fn requirements(&self) -> &Requirements {
        &self.0.requirements
    }

    /// Boots the template and hands the VM out.
    ///
    /// # Errors
    /// [`LaunchError`]; no process is left behind.
    pub async fn cold_boot(&self, name: &str) -> Result<VmHandle, LaunchError> {
        self.cold_boot_named(&VmName::parse(name)?).await
    }

    pub(crate) async fn cold_boot_named(&self, name: &VmName) -> Result<VmHandle, LaunchError> {
        let begun = Instant::now();
        let (vm, guest) = self.boot(Ram::Private).await?;
        let new = identity::fresh(name)?;
        let identity = new.identity.clone();
        guest.set_identity(new, IDENTITY_TIMEOUT).await?;
        let start = vm.started_in();
        let timings = Timings {
            start,
            hello: begun.elapsed().saturating_sub(start),
            ..Timings::default()
        };
        let handle =
            Vm::new(vm, guest, None, &self.0.lineage).hand_out(name, identity, Origin::ColdBooted);
        Ok(handle.with_timings(timings))
    }

    /// Restores a clone of `snapshot` and hands it out.
    ///
    /// # Errors
    /// [`LaunchError`]; no process is left behind.
    pub async fn restore_vm(
        &self,
        snapshot: &Snapshot,
        name: &str,
    ) -> Result<VmHandle, LaunchError> {
        self.clone_of(snapshot, None)
            .await?
            .serve(&VmName::parse(name)?, Origin::Restored)
            .await
    }

    /// Tests the tiers that `snapshot` serves, with a clone that ends with this: whether it can be
    /// restored, and whether it answers after a hold. For a process without a pool, which would
    /// know by its spawns.
    ///
    /// # Errors
    /// The first tier that does not work here, and the reason.
    pub async fn try_tiers(&self, snapshot: &Snapshot) -> Result<(), (Origin, LaunchError)> {
        let clone = self.clone_of(snapshot, None).await;
        let clone = clone.map_err(|error| (Origin::Restored, error))?;
        clone.try_tiers(&self.0.template).await
    }

    /// Restores a running clone of `snapshot`, in the standby process or in one of its own, without
    /// an identity of its own yet.
    pub(crate) async fn clone_of(
        &self,
        snapshot: &Snapshot,
        standby: Option<Box<dyn Standby>>,
    ) -> Result<RunningClone, LaunchError> {
        RunningClone::start(&*self.0.vmm, snapshot, standby, &self.0.lineage).await
    }

    /// Starts a standby process; `None` if the hypervisor does not support that.
    pub(crate) async fn stand_by(&self) -> Result<Option<Box<dyn Standby>>, LaunchError> {
        Ok(self.0.vmm.stand_by(self.0.machine).await?)
    }

    /// Boots the template, snapshots it and publishes the snapshot.
    ///
    /// # Errors
    /// [`LaunchError`]; neither a process nor a file is left behind.
    pub async fn create_snapshot(&self) -> Result<Created, LaunchError> {
        let inner = Arc::clone(&self.0);
        let staging = blocking(move || -> Result<_, LaunchError> {
            inner.vmm.prepare()?;
            Ok(inner.snapshots.stage(&inner.requirements)?)
        });
        self.create_in(staging.await?).await
    }

    /// Does the same in an existing staging directory.
    pub(crate) async fn create_in(&self, mut staging: Staging) -> Result<Created, LaunchError> {
        if self.0.root_disk.is_some() {
            staging.add_disk(DiskId::scratch())?;
        }
        let store = self.0.snapshots.clone();
        let bytes = self.0.machine.memory_bytes();
        let template = self.0.template.clone();
        let (staging, generation) = blocking(move || -> Result<_, LaunchError> {
            store.ensure_room(bytes)?;
            staging.keep(&template)?;
            Ok((staging, store.next_generation()?))
        })
        .await?;
        let start = Instant::now();
        (self.0.progress)(&Stage::BootingTemplate);
        let (mut vm, guest) = match self.boot(Ram::File(staging.memory())).await {
            Ok(booted) => booted,
            Err(error) => return Err(self.or_full_disk(error).await),
        };
        self.warm_up(&guest).await?;
        let boot = start.elapsed();

        (self.0.progress)(&Stage::WritingSnapshot);
        let start = Instant::now();
        let written = vm.snapshot(&staging.files()).await;
        let write = start.elapsed();
        // Ended before its memory is read, so that nothing changes under the digest, or removed.
        let exited = vm.process().exited();
        drop((guest, vm));
        let ended = timeout(PROCESS_END_TIMEOUT, exited).await;
        if let Err(error) = written {
            return Err(self.or_full_disk(error.into()).await);
        }
        ended.map_err(|_| VmmError::TimedOut {
            operation: "end after its snapshot",
            after: PROCESS_END_TIMEOUT,
        })?;

        (self.0.progress)(&Stage::PublishingSnapshot);
        let start = Instant::now();
        let description = self.0.requirements.clone().describe(generation);
        let published = blocking(move || staging.publish(description)).await?;
        let disk_bytes = published.disk_bytes;
        let snapshot = published.snapshot;
        Ok(Created {
            snapshot,
            boot,
            write,
            publish: start.elapsed(),
            disk_bytes,
        })
    }

    /// Runs the template's warm-up programs in a guest without an identity yet.
    async fn warm_up(&self, guest: &Guest) -> Result<(), LaunchError> {
        let Inner {
            template, progress, ..
        } = &*self.0;
        if template.manifest().warm.is_none() {
            return Ok(());
        }
        progress(&Stage::WarmingUp);
        // Programs may ask for the time and random numbers.
        let new = identity::fresh(&identity::anonymous())?;
        guest.set_identity(new, IDENTITY_TIMEOUT).await?;
        for warmed in warm_up::warm_up(guest, template).await? {
            progress(&Stage::WarmedUp(warmed));
        }
        Ok(())
    }

    /// Has a running clone held until it is served; see [`RunningClone::prime`].
    pub(crate) async fn prime(&self, clone: RunningClone) -> Result<PausedClone, LaunchError> {
        clone.prime(&self.0.template).await
    }

    /// Returns that error, unless the disk filled up meanwhile, which a VMM can't report.
    async fn or_full_disk(&self, error: LaunchError) -> LaunchError {
        let store = self.0.snapshots.clone();
        let look = move || {
            let failed = match &error {
                LaunchError::Vmm(vmm) => Some(vmm),
                _ => None,
            };
            Ok::<_, LaunchError>(store.full_disk(failed).map_or(error, LaunchError::from))
        };
        blocking(look).await.unwrap_or_else(|error| error)
    }

    /// Loads a snapshot if it fits.
    pub(crate) async fn load(&self, id: SnapshotId) -> Result<Snapshot, LaunchError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.snapshots.load(id, &inner.requirements)).await
    }

    /// Returns the specification of a VM of the template, for the hypervisor to boot.
    #[must_use]
    pub fn spec(&self, ram: Ram) -> VmSpec {
        let Inner {
            template,
            machine,
            root_disk,
            ..
        } = &*self.0;
        boot::spec(template, *machine, root_disk.as_ref(), ram)
    }

    /// Boots a VM, and waits until its agent answers. Commands have what its template says of them.
    async fn boot(&self, ram: Ram) -> Result<Booted, LaunchError> {
        let Inner {
            vmm,
            boot_timeout,
            progress,
            ..
        } = &*self.0;
        let (vm, guest) = boot::boot(&**vmm, &self.spec(ram), *boot_timeout, progress).await?;
        Ok((vm, guest.with_defaults(self.0.lineage.defaults.clone())))
    }
}
