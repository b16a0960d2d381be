//! Making VMs, one way for each tier, and the snapshots for two of them. Which way is taken, and
//! when, is the pool's business.

mod agent;
mod boot;
mod clone;
mod error;
#[cfg(test)]
mod fake;
mod prepare;
mod probe;
mod seek;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::template::{Step, Template};
use crate::vm::identity::{self, VmName};
use crate::vm::instance::Lineage;
use crate::vm::snapshot::{
    Description, Owners, Requirements, Snapshot, SnapshotId, SnapshotStore, Staging,
};
use crate::vm::vm_handle::{Origin, Timings, Vm, VmHandle};
use crate::vm::vmm::process::PROCESS_END_TIMEOUT;
use crate::vm::vmm::{Machine, Ram, Standby, VmSpec, Vmm, VmmError, VmmIdentity};

pub use agent::find_guest_agent;
use boot::Booted;
pub(crate) use clone::{PausedClone, RunningClone};
pub(crate) use error::Fault;
pub use error::LaunchError;
pub use probe::probe_file;
pub(crate) use seek::Sought;

/// How long a clone may take to confirm its identity; it takes milliseconds on an idle machine.
const READY: Duration = Duration::from_secs(15);

/// Called with what is under way, for people to see.
pub type Progress = Arc<dyn Fn(&Stage) + Send + Sync>;

/// What is under way when something takes long.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stage {
    /// The template is built.
    Template(Step),
    /// A boot is tried under KVM.
    ProbingKvm,
    /// Another process makes the snapshot that is needed here: it is waited for.
    WaitingForSnapshot(Owners),
    /// The template boots.
    BootingTemplate,
    /// The template boots still.
    StillBooting {
        /// How long this attempt has taken.
        after: Duration,
        /// Which attempt it is, from 1.
        attempt: u32,
    },
    /// The booted template's state is written.
    WritingSnapshot,
    /// The snapshot is hashed, made sparse and published.
    PublishingSnapshot,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(step) => write!(f, "template: {step}"),
            Self::ProbingKvm => f.write_str("trying whether KVM runs the guest"),
            Self::WaitingForSnapshot(owners) => {
                write!(f, "waiting for {owners}, which builds a snapshot")
            }
            Self::BootingTemplate => f.write_str("booting the template"),
            Self::StillBooting { after, attempt } => {
                let seconds = after.as_secs();
                write!(f, "booting the template still, after {seconds} s")?;
                match attempt {
                    1 => Ok(()),
                    _ => write!(f, " of attempt {attempt}"),
                }
            }
            Self::WritingSnapshot => f.write_str("writing the snapshot"),
            Self::PublishingSnapshot => f.write_str("publishing the snapshot"),
        }
    }
}

/// Everything that VMs are made from: a hypervisor, a template, and a place for snapshots.
#[derive(Clone)]
pub struct Launcher(Arc<Inner>);

struct Inner {
    vmm: Arc<dyn Vmm>,
    passed_over: Vec<PassedOver>,
    template: Template,
    machine: Machine,
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

/// A hypervisor that is there and preferred, and is not used all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Which.
    pub vmm: VmmIdentity,
    /// Why it does not boot the template, or why that could not be found out.
    pub reason: String,
}

/// A snapshot that was made, and where the time went.
#[derive(Debug, Clone)]
pub struct Created {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Booting the template until its agent answered.
    pub boot: Duration,
    /// Pausing the VM and writing its state.
    pub write: Duration,
    /// Hashing, making sparse and publishing the files.
    pub publish: Duration,
    /// Bytes that its files take on disk.
    pub disk_bytes: u64,
}

impl Launcher {
    /// The hypervisor's name and version.
    #[must_use]
    pub fn vmm(&self) -> &VmmIdentity {
        self.0.vmm.identity()
    }

    /// The hypervisor itself.
    #[must_use]
    pub fn hypervisor(&self) -> Arc<dyn Vmm> {
        Arc::clone(&self.0.vmm)
    }

    /// The hypervisors that `auto` would have preferred, in its order.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.0.passed_over
    }

    /// Memory and processors of each guest.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.0.machine
    }

    /// What is booted.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.0.template
    }

    /// Where snapshots are.
    #[must_use]
    pub fn snapshots(&self) -> &SnapshotStore {
        &self.0.snapshots
    }

    /// What a snapshot must be to serve this launcher.
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
        guest.restored(new, READY).await?;
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

    /// Tries the tiers that `snapshot` serves, with a clone that ends with this: whether it can be
    /// restored, and whether one that is held until later goes on. For a process without a pool, which
    /// would know by its spawns.
    ///
    /// # Errors
    /// The first tier that does not work here, and why.
    pub async fn try_tiers(&self, snapshot: &Snapshot) -> Result<(), (Origin, LaunchError)> {
        let clone = self.clone_of(snapshot, None).await;
        let clone = clone.map_err(|error| (Origin::Restored, error))?;
        clone.try_tiers().await
    }

    /// A running clone of `snapshot`, in the process that stands by or in one of its own, without
    /// an identity of its own yet.
    pub(crate) async fn clone_of(
        &self,
        snapshot: &Snapshot,
        standby: Option<Box<dyn Standby>>,
    ) -> Result<RunningClone, LaunchError> {
        RunningClone::start(&*self.0.vmm, snapshot, standby, &self.0.lineage).await
    }

    /// A process for a clone; `None` if the hypervisor has no such.
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

    /// The same in a directory that is there already.
    pub(crate) async fn create_in(&self, staging: Staging) -> Result<Created, LaunchError> {
        let store = self.0.snapshots.clone();
        let bytes = self.0.machine.memory_bytes();
        let generation = blocking(move || {
            store.ensure_room(bytes)?;
            store.next_generation()
        })
        .await?;
        let start = Instant::now();
        (self.0.progress)(&Stage::BootingTemplate);
        let (mut vm, guest) = match self.boot(Ram::File(staging.memory())).await {
            Ok(booted) => booted,
            Err(error) => return Err(self.or_full_disk(error).await),
        };
        let boot = start.elapsed();

        (self.0.progress)(&Stage::WritingSnapshot);
        let start = Instant::now();
        let written = vm.snapshot(&staging.vmstate(), &staging.memory()).await;
        let write = start.elapsed();
        // Gone before its memory is read, so that nothing changes under the digest, or removed.
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
        let description = self.description(generation);
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

    /// That error, unless the disk filled up meanwhile, which a VMM can't say.
    async fn or_full_disk(&self, error: LaunchError) -> LaunchError {
        let store = self.0.snapshots.clone();
        let room = blocking(move || store.ensure_room(1 << 20)).await;
        room.err().unwrap_or(error)
    }

    /// Loads a snapshot if it fits.
    pub(crate) async fn load(&self, id: SnapshotId) -> Result<Snapshot, LaunchError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.snapshots.load(id, &inner.requirements)).await
    }

    fn description(&self, generation: u64) -> Description {
        let Requirements {
            template,
            vmm,
            machine,
            host,
        } = self.0.requirements.clone();
        Description {
            generation,
            template,
            vmm,
            machine,
            host,
        }
    }

    /// A VM of the template, for the hypervisor to boot.
    #[must_use]
    pub fn spec(&self, ram: Ram) -> VmSpec {
        boot::spec(&self.0.template, self.0.machine, ram)
    }

    /// A VM whose agent answered.
    async fn boot(&self, ram: Ram) -> Result<Booted, LaunchError> {
        boot::boot(&*self.0.vmm, &self.spec(ram), &self.0.progress).await
    }
}

/// Runs what would hold up the runtime on a thread for such work.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, LaunchError>
where
    T: Send + 'static,
    E: Into<LaunchError> + Send + 'static,
{
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(panic) => match panic.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(LaunchError::ShuttingDown),
        },
    }
}
