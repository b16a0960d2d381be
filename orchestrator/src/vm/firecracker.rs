//! The Firecracker backend: the one for production.
//!
//! Each VM is a Firecracker process, driven through its API socket; its seccomp filters are always
//! on. A clone maps the snapshot's memory file privately, so that all clones share the pages that
//! they do not write (Firecracker's docs/snapshotting/snapshot-support.md).
//!
//! Each process has a directory of its own, so that all clones of a snapshot can use the same
//! socket names, which the snapshot contains.

pub mod api;
mod binary;
mod boot;
mod cells;
mod chroot;
mod confined;
mod devices;
mod jail;
mod pid_namespace;
mod quirks;
mod restore;
pub mod setting_names;
pub mod settings;
mod start;
mod trampoline;
mod vm;
mod vm_dir;
mod vsock;

use std::path::Path;
use std::pin::Pin;

use async_trait::async_trait;
use ironclaw_host::tsc;

use crate::vm::vmm::file_stamps::FileStamps;
pub use crate::vm::vmm::jail::user::DEFAULT_USERS;
use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{
    Exit, Machine, MicroVm, Ram, RestoreSpec, Standby, VmSpec, Vmm, VmmError, VmmIdentity, VmmKind,
};
pub use binary::FirecrackerBinary;
use binary::PROGRAM;
pub use confined::Confined;
pub use devices::{Devices, Tap};
use jail::PROGRAM as JAILER;
pub use jail::{Jailer, find_jailer};
pub use quirks::{MINIMUM_VERSION, Quirks, Unsupported};
use start::{START, Snapshot, Starter};
pub use vm::FirecrackerVm;

/// The kind of this backend's VMMs.
pub const KIND: VmmKind = VmmKind::new("Firecracker");

/// The accelerator.
const KVM: &str = "kvm";

/// The backend's entry point: starts Firecracker processes.
#[derive(Debug, Clone)]
pub struct Firecracker {
    starter: Starter,
    identity: VmmIdentity,
    found: FileStamps,
}

impl Firecracker {
    /// Creates a backend that runs `binary`, with VM directories below `run_path`. Jails each VM if
    /// there is a `jailer`. Gives all VMs the `devices`.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] if `run_path` can't be used.
    pub fn new(
        binary: FirecrackerBinary,
        run_path: &Path,
        jailer: Option<Jailer>,
        devices: Devices,
    ) -> Result<Self, VmmError> {
        let identity = VmmIdentity {
            kind: KIND,
            version: binary.version.to_string(),
            accelerator: KVM.to_owned(),
            devices: devices.digest(),
        };
        let jail = jailer.as_ref().map(Jailer::path);
        let programs = [&*binary.path].into_iter().chain(jail);
        let found = FileStamps::of(programs);
        let starter = Starter::new(binary.path, run_path, jailer, devices)?;
        Ok(Self {
            starter,
            identity,
            found,
        })
    }

    /// Adds its processes to this rundown when they are dropped.
    pub(super) fn ending_in(self, rundown: &Rundown) -> Self {
        let starter = self.starter.ending_in(rundown);
        Self { starter, ..self }
    }

    /// Confines its processes, if no jailer does.
    #[must_use]
    pub fn confined(self, confined: Confined) -> Self {
        let starter = self.starter.confined(confined);
        Self { starter, ..self }
    }
}

#[async_trait]
impl Vmm for Firecracker {
    fn identity(&self) -> &VmmIdentity {
        &self.identity
    }

    fn tsc_khz(&self) -> Option<u32> {
        tsc::khz()
    }

    fn precedes_kvm(&self, operation: &str) -> bool {
        operation == START
    }

    fn prepare(&self) -> Result<(), VmmError> {
        self.starter.prepare()
    }

    fn is_current(&self) -> bool {
        self.found.hold()
    }

    fn dropped_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let rundown = self.starter.rundown().clone();
        Box::pin(async move { rundown.ended().await })
    }

    async fn boot(&self, spec: &VmSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let (interface, tap) = self.starter.interface()?;
        let writes = match spec.ram {
            Ram::File(_) => Snapshot::Written,
            Ram::Private => Snapshot::where_possible(spec.machine),
        };
        let mut vm = self.starter.start(spec.machine, interface, writes).await?;
        let booted = vm.boot(spec, self.starter.devices(), tap.as_ref()).await;
        vm.kill_on_error(booted).await
    }

    async fn restore(&self, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let (interface, tap) = self.starter.interface()?;
        let writes = Snapshot::where_possible(spec.machine);
        let mut vm = self.starter.start(spec.machine, interface, writes).await?;
        let restored = vm.restore(spec, tap.as_ref()).await;
        vm.kill_on_error(restored).await
    }

    async fn try_out(&self, machine: Machine) -> Result<(), VmmError> {
        let (interface, _tap) = self.starter.interface()?;
        let vm = self
            .starter
            .start(machine, interface, Snapshot::None)
            .await?;
        vm.end().await;
        Ok(())
    }

    async fn stand_by(&self, machine: Machine) -> Result<Option<Box<dyn Standby>>, VmmError> {
        // A standby process would keep a tap device from a VM.
        if self.starter.devices().has_network() {
            return Ok(None);
        }
        let writes = Snapshot::where_possible(machine);
        let vm = self.starter.start(machine, None, writes).await?;
        Ok(Some(Box::new(FirecrackerStandby { vm })))
    }

    fn standby_kind(&self) -> Option<String> {
        let Self {
            starter,
            identity,
            found,
        } = self;
        // Its devices are part of its identity; the files, since one that was replaced by another of
        // the same version is another program.
        Some(format!("{identity:?} {found:?} {}", starter.process_kind()))
    }
}

/// A Firecracker process whose API answers, without a VM.
#[derive(Debug)]
struct FirecrackerStandby {
    vm: FirecrackerVm,
}

#[async_trait]
impl Standby for FirecrackerStandby {
    async fn restore(self: Box<Self>, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let Self { vm } = *self;
        let mut vm = vm.started_before();
        let restored = vm.restore(spec, None).await;
        vm.kill_on_error(restored).await
    }

    fn pid(&self) -> u32 {
        self.vm.pid()
    }

    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        self.vm.exited()
    }
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
pub(crate) mod fuzz {
    pub(crate) use super::binary::fuzz as version;
    pub(crate) use crate::vm::vmm::jail::cgroup::fuzz as mounts;
}
